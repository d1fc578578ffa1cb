/* A directory of keys for a test, contexts that hold one of them, and a hostile peer that speaks
 * raw ZeroMQ with whatever keys it is given. */
#ifndef HONE_TESTS_INFRA_WIRE_WIRE_FIXTURE_H
#define HONE_TESTS_INFRA_WIRE_WIRE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <zmq.h>

#include "infra/base/clock.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/text.h"
#include "infra/wire/codec.h"
#include "infra/wire/endpoint.h"
#include "infra/wire/socket.h"

#define WAIT_MS  30000
#define QUIET_MS 250 /* what was going to arrive has arrived */

static char fixture_root[64];
static char fixture_keys[128];

static int fixture_open(void **state)
{
    (void)state;
    snprintf(fixture_root, sizeof fixture_root, "%s", "/tmp/hone-wire-XXXXXX");
    log_set_level(LOG_LEVEL_ERROR);
    if (!mkdtemp(fixture_root))
        return -1;
    snprintf(fixture_keys, sizeof fixture_keys, "%s/keys", fixture_root);
    return keys_create(fixture_keys);
}

static int fixture_close(void **state)
{
    (void)state;
    return file_remove_tree(fixture_root);
}

/* A context that holds the keys of this worker. */
static inline struct wire_context *fixture_context(const char *worker)
{
    struct wire_context *context = wire_context_create();
    struct keys keys;
    assert_int_equal(keys_load(&keys, fixture_keys, worker), 0);
    wire_context_secure(context, &keys);
    keys_clear(&keys);
    return context;
}

/* "tcp://127.0.0.1:1234#KEY" without the key. */
static inline const char *fixture_address(const char *endpoint)
{
    static char address[ENDPOINT_MAX];
    const char *tcp = strstr(endpoint, "tcp://");
    assert_non_null(tcp);
    snprintf(address, sizeof address, "%.*s", (int)strcspn(tcp, "#"), tcp);
    return address;
}

/* ---- messages ---- */

static inline void pack_hello(struct text *out, uint64_t sequence, Hone__Role role,
                              const char *worker)
{
    Hone__Hello hello = HONE__HELLO__INIT;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    hello.protocol = WIRE_PROTOCOL;
    hello.role = role;
    hello.worker = (char *)(uintptr_t)worker;
    hello.recipe_hash = (char *)(uintptr_t) "";
    envelope.sequence = sequence;
    envelope.kind = HONE__KIND__KIND_HELLO;
    envelope.hello = &hello;
    text_clear(out);
    wire_pack(&envelope.base, out);
}

static inline void pack_beat(struct text *out, uint64_t sequence, int64_t tokens_done)
{
    Hone__Heartbeat beat = HONE__HEARTBEAT__INIT;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    beat.has_tokens_done = 1;
    beat.tokens_done = tokens_done;
    envelope.sequence = sequence;
    envelope.kind = HONE__KIND__KIND_HEARTBEAT;
    envelope.heartbeat = &beat;
    text_clear(out);
    wire_pack(&envelope.base, out);
}

static inline void send_beat(struct wire_client *client, int64_t tokens_done)
{
    int64_t deadline = clock_now_ms(clock_system()) + WAIT_MS;
    Hone__Heartbeat beat = HONE__HEARTBEAT__INIT;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    beat.has_tokens_done = 1;
    beat.tokens_done = tokens_done;
    envelope.kind = HONE__KIND__KIND_HEARTBEAT;
    envelope.heartbeat = &beat;
    while (wire_client_send(client, &envelope, NULL, 0) < 0) {
        assert_true(clock_now_ms(clock_system()) < deadline);
        clock_sleep_ms(1);
    }
}

/* 1 when something came within the time. */
static inline int receive_within(struct wire_server *server, struct wire_peer *from,
                                 struct wire_message *message, int wait_ms)
{
    int64_t deadline = clock_now_ms(clock_system()) + wait_ms;
    for (;;) {
        int rc = wire_server_receive(server, from, message);
        int64_t left = deadline - clock_now_ms(clock_system());
        if (rc != 0 || left <= 0)
            return rc;
        wire_poll(&server, 1, NULL, 0, (int)left);
    }
}

static inline void expect_beat(struct wire_server *server, const char *name, int64_t tokens_done)
{
    struct wire_peer from;
    struct wire_message message;
    assert_int_equal(receive_within(server, &from, &message, WAIT_MS), 1);
    assert_string_equal(from.identity, name);
    assert_int_equal(message.envelope->kind, HONE__KIND__KIND_HEARTBEAT);
    assert_int_equal(message.envelope->heartbeat->tokens_done, tokens_done);
    wire_message_release(&message);
}

/* ---- a hostile peer ---- */

struct hostile {
    void *zmq, *socket;
    const char *name;
};

struct hostile_keys {
    const char *server, *own_public, *own_secret; /* server NULL: no CURVE */
};

static inline void hostile_dial(struct hostile *hostile, const char *address, const char *name,
                                const struct hostile_keys *keys)
{
    int linger = 0;
    hostile->name = name;
    hostile->zmq = zmq_ctx_new();
    hostile->socket = zmq_socket(hostile->zmq, ZMQ_DEALER);
    zmq_setsockopt(hostile->socket, ZMQ_LINGER, &linger, sizeof linger);
    if (keys->server) {
        zmq_setsockopt(hostile->socket, ZMQ_CURVE_SERVERKEY, keys->server, KEY_SIZE);
        zmq_setsockopt(hostile->socket, ZMQ_CURVE_PUBLICKEY, keys->own_public, KEY_SIZE);
        zmq_setsockopt(hostile->socket, ZMQ_CURVE_SECRETKEY, keys->own_secret, KEY_SIZE);
    }
    assert_int_equal(zmq_connect(hostile->socket, address), 0);
}

static inline void hostile_say(struct hostile *hostile, const void *data, size_t bytes)
{
    zmq_send(hostile->socket, hostile->name, strlen(hostile->name), ZMQ_SNDMORE | ZMQ_DONTWAIT);
    zmq_send(hostile->socket, data, bytes, ZMQ_DONTWAIT);
}

static inline void hostile_hang_up(struct hostile *hostile)
{
    zmq_close(hostile->socket);
    zmq_ctx_term(hostile->zmq);
}

#endif

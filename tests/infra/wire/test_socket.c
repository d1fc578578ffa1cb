/* Servers and clients over ipc and inproc; a hostile peer that speaks raw ZeroMQ beside them. tcp
 * is in test_gate.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <zmq.h>

#include "infra/base/clock.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/base/text.h"
#include "infra/wire/codec.h"
#include "infra/wire/envelope.h"
#include "infra/wire/socket.h"

#define WAIT_MS    30000
#define FUZZ_CASES 1500

static char directory[64];

static int make_directory(void **state)
{
    (void)state;
    snprintf(directory, sizeof directory, "%s", "/tmp/hone-wire-XXXXXX");
    log_set_level(LOG_LEVEL_ERROR);
    return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state)
{
    (void)state;
    return file_remove_tree(directory);
}

static const char *ipc(const char *name)
{
    static char endpoint[128];
    snprintf(endpoint, sizeof endpoint, "ipc://%s/%s", directory, name);
    return endpoint;
}

static Hone__Envelope heartbeat(Hone__Heartbeat *beat, int64_t tokens_done)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    hone__heartbeat__init(beat);
    beat->has_tokens_done = 1;
    beat->tokens_done = tokens_done;
    envelope.kind = HONE__KIND__KIND_HEARTBEAT;
    envelope.heartbeat = beat;
    return envelope;
}

/* Sends, and again while the connection is not there yet. */
static void send_heartbeat(struct wire_client *client, int64_t tokens_done)
{
    int64_t deadline = clock_now_ms(clock_system()) + WAIT_MS;
    Hone__Heartbeat beat;
    Hone__Envelope envelope = heartbeat(&beat, tokens_done);
    int rc;
    while ((rc = wire_client_send(client, &envelope, NULL, 0)) == HONE_EPEER) {
        assert_true(clock_now_ms(clock_system()) < deadline);
        clock_sleep_ms(1);
    }
    assert_int_equal(rc, 0);
}

static void send_hello(struct wire_client *client, char *worker)
{
    Hone__Hello hello = HONE__HELLO__INIT;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    char empty[1] = "";
    hello.worker = worker;
    hello.recipe_hash = empty;
    envelope.kind = HONE__KIND__KIND_HELLO;
    envelope.hello = &hello;
    assert_int_equal(wire_client_send(client, &envelope, NULL, 0), 0);
}

/* 1 when something came within the time. */
static int receive_from(struct wire_server *server, struct wire_peer *from,
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

static void expect_heartbeat(struct wire_server *server, const char *name, int64_t tokens_done)
{
    struct wire_peer from;
    struct wire_message message;
    assert_int_equal(receive_from(server, &from, &message, WAIT_MS), 1);
    assert_string_equal(from.identity, name);
    assert_int_equal(message.envelope->kind, HONE__KIND__KIND_HEARTBEAT);
    assert_int_equal(message.envelope->heartbeat->tokens_done, tokens_done);
    wire_message_release(&message);
    wire_message_release(&message);
}

static void expect_reply(struct wire_client *client, struct wire_message *message)
{
    int64_t deadline = clock_now_ms(clock_system()) + WAIT_MS;
    while (wire_client_receive(client, message) == 0) {
        assert_true(clock_now_ms(clock_system()) < deadline);
        wire_poll(NULL, 0, &client, 1, 100);
    }
}

static void exchange(const char *endpoint)
{
    struct wire_context *context = wire_context_create();
    struct wire_server *server;
    struct wire_client *client;
    struct wire_message message;
    struct wire_peer to = {"actor-0"};
    assert_int_equal(wire_server_create(&server, context, endpoint), 0);
    assert_int_equal(wire_client_create(&client, context, wire_server_endpoint(server), "actor-0"),
                     0);
    for (int i = 0; i < 3; i++) {
        send_heartbeat(client, i);
        expect_heartbeat(server, "actor-0", i);
    }
    size_t bytes = 1 << 20;
    unsigned char *payload = memory_alloc(bytes, 1);
    payload[0] = 1, payload[bytes - 1] = 9;
    Hone__WeightsChunk chunk = HONE__WEIGHTS_CHUNK__INIT;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    chunk.bytes = (int32_t)bytes;
    envelope.kind = HONE__KIND__KIND_WEIGHTS_CHUNK;
    envelope.weights_chunk = &chunk;
    assert_int_equal(wire_server_send(server, &to, &envelope, payload, bytes), 0);
    expect_reply(client, &message);
    assert_int_equal(message.payload_bytes, bytes);
    assert_memory_equal(message.payload, payload, bytes);
    assert_int_equal(message.envelope->sequence, 1);
    wire_message_release(&message);
    memory_free(payload);
    wire_client_destroy(client);
    wire_server_destroy(server);
    wire_context_destroy(context);
}

static void test_exchange_on_every_transport(void **state)
{
    (void)state;
    exchange(ipc("exchange"));
    exchange("inproc://exchange");
}

/* W6: tcp without keys is no endpoint, wherever it listens. */
static void test_refused_endpoints(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "tcp://0.0.0.0:5555",
        "tcp://*:5555",
        "tcp://192.168.1.4:5555",
        "tcp://example.org:80",
        "tcp://[::]:5555",
        "tcp://127.0.0.1:5555",
        "tcp://localhost:5555",
        "tcp://[::1]:5555",
        "tcp://[::1]",
        "tcp://127.0.0.1:",
        "tcp://127.0.0.1.evil:1",
        "ipc://",
        "ipc://@name",
        "inproc://",
        "udp://127.0.0.1:1",
        "127.0.0.1:5555",
        "",
    };
    struct wire_context *context = wire_context_create();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct wire_server *server;
        struct wire_client *client;
        assert_int_equal(wire_server_create(&server, context, bad[i]), HONE_EINVAL);
        assert_null(server);
        assert_int_equal(wire_client_create(&client, context, bad[i], "actor-0"), HONE_EINVAL);
        assert_null(client);
    }
    char path[300] = "ipc:///tmp/";
    memset(path + strlen(path), 'x', 120);
    struct wire_server *server;
    assert_int_equal(wire_server_create(&server, context, path), HONE_EINVAL);
    struct wire_client *client;
    assert_int_equal(wire_client_create(&client, context, ipc("x"), ""), HONE_EINVAL);
    assert_int_equal(wire_client_create(&client, context, ipc("x"), "two words"), HONE_EINVAL);
    wire_context_destroy(context);
}

/* A closed or killed owner's address can be taken at once. libzmq releases it on its own thread. */
static struct wire_server *open_again(struct wire_context *context, const char *endpoint)
{
    struct wire_server *server;
    int rc, tries = 0;
    while ((rc = wire_server_create(&server, context, endpoint)) == HONE_EBUSY && tries++ < 500)
        clock_sleep_ms(10);
    assert_int_equal(rc, 0);
    return server;
}

static void test_busy_address(void **state)
{
    (void)state;
    struct wire_context *context = wire_context_create();
    struct wire_server *first, *second;
    assert_int_equal(wire_server_create(&first, context, ipc("busy")), 0);
    assert_int_equal(wire_server_create(&second, context, wire_server_endpoint(first)), HONE_EBUSY);
    assert_non_null(strstr(error_message(), wire_server_endpoint(first)));
    assert_non_null(strstr(error_message(), "in use"));
    wire_server_destroy(first);
    wire_server_destroy(open_again(context, ipc("busy")));
    wire_context_destroy(context);
}

static void test_sends_that_cannot_arrive_fail(void **state)
{
    (void)state;
    struct wire_context *context = wire_context_create();
    struct wire_server *server;
    struct wire_client *client;
    struct wire_peer nobody = {"nobody"};
    Hone__Heartbeat beat;
    Hone__Envelope envelope = heartbeat(&beat, 1);
    assert_int_equal(wire_client_create(&client, context, ipc("absent"), "actor-0"), 0);
    assert_int_equal(wire_client_send(client, &envelope, NULL, 0), HONE_EPEER);
    assert_int_equal(wire_server_create(&server, context, ipc("mandatory")), 0);
    assert_int_equal(wire_server_send(server, &nobody, &envelope, NULL, 0), HONE_EPEER);
    envelope.heartbeat = NULL;
    assert_int_equal(wire_server_send(server, &nobody, &envelope, NULL, 0), HONE_EFORMAT);
    wire_client_destroy(client);
    wire_server_destroy(server);
    wire_context_destroy(context);
}

/* A client that could not send is woken when it can, though nothing comes in. */
static void test_poll_wakes_when_it_can_send(void **state)
{
    (void)state;
    struct wire_context *context = wire_context_create();
    struct wire_server *server;
    struct wire_client *client;
    Hone__Heartbeat beat;
    Hone__Envelope envelope = heartbeat(&beat, 1);
    assert_int_equal(wire_client_create(&client, context, ipc("late"), "actor-0"), 0);
    assert_int_equal(wire_poll(NULL, 0, &client, 1, 10), 0);
    assert_int_equal(wire_client_send(client, &envelope, NULL, 0), HONE_EPEER);
    assert_int_equal(wire_poll(NULL, 0, &client, 1, 10), 0);
    assert_int_equal(wire_server_create(&server, context, ipc("late")), 0);
    assert_int_equal(wire_poll(NULL, 0, &client, 1, WAIT_MS), 1);
    assert_int_equal(wire_client_send(client, &envelope, NULL, 0), 0);
    expect_heartbeat(server, "actor-0", 1);
    assert_int_equal(wire_poll(NULL, 0, &client, 1, 10), 0); /* once */
    wire_client_destroy(client);
    wire_server_destroy(server);
    wire_context_destroy(context);
}

static void test_queue_is_bounded(void **state)
{
    (void)state;
    struct wire_context *context = wire_context_create();
    struct wire_server *server;
    struct wire_client *client;
    struct wire_peer to = {"slow"};
    Hone__Heartbeat beat;
    int sent = 0;
    assert_int_equal(wire_server_create(&server, context, "inproc://bounded"), 0);
    assert_int_equal(wire_client_create(&client, context, "inproc://bounded", "slow"), 0);
    send_heartbeat(client, 1);
    expect_heartbeat(server, "slow", 1);
    Hone__Envelope envelope = heartbeat(&beat, 2);
    while (sent < 100000 && wire_server_send(server, &to, &envelope, NULL, 0) == 0)
        sent++;
    assert_true(sent >= 1000 && sent <= 2000);
    assert_int_equal(error_last(), HONE_EPEER);
    int received = 0;
    struct wire_message message;
    while (wire_client_receive(client, &message) == 1) {
        received++;
        wire_message_release(&message);
    }
    assert_int_equal(received, sent);
    wire_client_destroy(client);
    wire_server_destroy(server);
    wire_context_destroy(context);
}

static void test_restarted_worker_takes_its_name_over(void **state)
{
    (void)state;
    struct wire_context *context = wire_context_create();
    struct wire_server *server;
    struct wire_client *old, *new;
    struct wire_message message;
    struct wire_peer to = {"actor-1"};
    assert_int_equal(wire_server_create(&server, context, ipc("handover")), 0);
    assert_int_equal(wire_client_create(&old, context, ipc("handover"), "actor-1"), 0);
    send_heartbeat(old, 1);
    expect_heartbeat(server, "actor-1", 1);
    assert_int_equal(wire_client_create(&new, context, ipc("handover"), "actor-1"), 0);
    send_heartbeat(new, 2);
    expect_heartbeat(server, "actor-1", 2);
    Hone__Heartbeat beat;
    Hone__Envelope envelope = heartbeat(&beat, 3);
    assert_int_equal(wire_server_send(server, &to, &envelope, NULL, 0), 0);
    expect_reply(new, &message);
    assert_int_equal(message.envelope->heartbeat->tokens_done, 3);
    wire_message_release(&message);
    wire_client_destroy(old);
    wire_client_destroy(new);
    wire_server_destroy(server);
    wire_context_destroy(context);
}

static void test_client_survives_a_server_restart(void **state)
{
    (void)state;
    struct wire_context *context = wire_context_create();
    struct wire_server *server;
    struct wire_client *client;
    assert_int_equal(wire_server_create(&server, context, ipc("restart")), 0);
    assert_int_equal(wire_client_create(&client, context, ipc("restart"), "actor-0"), 0);
    send_heartbeat(client, 1);
    expect_heartbeat(server, "actor-0", 1);
    wire_server_destroy(server);
    server = open_again(context, ipc("restart"));
    struct wire_peer from;
    struct wire_message message;
    int rc = 0;
    /* A message sent into the dying connection is lost: the layer above repeats what matters. */
    for (int i = 0; i < 100 && rc == 0; i++) {
        send_heartbeat(client, 2);
        rc = receive_from(server, &from, &message, 100);
    }
    assert_int_equal(rc, 1);
    assert_int_equal(message.envelope->heartbeat->tokens_done, 2);
    wire_message_release(&message);
    wire_client_destroy(client);
    wire_server_destroy(server);
    wire_context_destroy(context);
}

/* ---- a hostile peer ---- */

struct hostile {
    void *zmq, *socket;
    const char *name;
};

static void hostile_open(struct hostile *hostile, const char *endpoint, const char *name)
{
    int linger = 0;
    hostile->name = name;
    hostile->zmq = zmq_ctx_new();
    hostile->socket = zmq_socket(hostile->zmq, ZMQ_DEALER);
    zmq_setsockopt(hostile->socket, ZMQ_LINGER, &linger, sizeof linger);
    assert_int_equal(zmq_connect(hostile->socket, endpoint), 0);
}

/* One frame of a message; the name goes before the first. */
static void hostile_send(struct hostile *hostile, const void *data, size_t bytes, bool first,
                         bool last)
{
    if (first)
        zmq_send(hostile->socket, hostile->name, strlen(hostile->name), ZMQ_SNDMORE);
    zmq_send(hostile->socket, data, bytes, last ? 0 : ZMQ_SNDMORE);
}

static void hostile_close(struct hostile *hostile)
{
    zmq_close(hostile->socket);
    zmq_ctx_term(hostile->zmq);
}

static void pack_heartbeat(struct text *out, uint64_t sequence)
{
    Hone__Heartbeat beat;
    Hone__Envelope envelope = heartbeat(&beat, 99);
    envelope.sequence = sequence;
    beat.waiting_for = (char *)(uintptr_t) "weights v12";
    text_clear(out);
    wire_pack(&envelope.base, out);
}

static void test_misbehaving_peer_is_dropped_until_hello(void **state)
{
    (void)state;
    struct wire_context *context = wire_context_create();
    struct wire_server *server;
    struct wire_client *good, *bad;
    struct wire_peer from;
    struct wire_message message;
    struct text bytes;
    text_init(&bytes);
    assert_int_equal(wire_server_create(&server, context, ipc("drop")), 0);
    assert_int_equal(wire_client_create(&good, context, ipc("drop"), "good"), 0);
    assert_int_equal(wire_client_create(&bad, context, ipc("drop"), "bad"), 0);
    send_heartbeat(bad, 1);
    expect_heartbeat(server, "bad", 1);
    wire_server_drop(server, &(struct wire_peer){"bad"}, "sent a trajectory that breaks G2");
    send_heartbeat(bad, 2);
    send_heartbeat(bad, 3);
    assert_int_equal(receive_from(server, &from, &message, 100), 0);
    send_heartbeat(good, 4);
    expect_heartbeat(server, "good", 4);
    char name[] = "bad";
    send_hello(bad, name);
    assert_int_equal(receive_from(server, &from, &message, WAIT_MS), 1);
    assert_string_equal(from.identity, "bad");
    assert_int_equal(message.envelope->kind, HONE__KIND__KIND_HELLO);
    wire_message_release(&message);
    send_heartbeat(bad, 5);
    expect_heartbeat(server, "bad", 5);
    text_release(&bytes);
    wire_client_destroy(good);
    wire_client_destroy(bad);
    wire_server_destroy(server);
    wire_context_destroy(context);
}

/* Each raw message is followed by a valid heartbeat from the same peer, which must not come through
 * when the raw message was refused. */
static void test_every_malformed_shape_drops(void **state)
{
    (void)state;
    struct wire_context *context = wire_context_create();
    struct wire_server *server;
    struct wire_client *good;
    struct text valid;
    text_init(&valid);
    pack_heartbeat(&valid, 1);
    assert_int_equal(wire_server_create(&server, context, ipc("shapes")), 0);
    assert_int_equal(wire_client_create(&good, context, ipc("shapes"), "good"), 0);
    for (int shape = 0; shape < 8; shape++) {
        struct hostile hostile;
        struct wire_peer from;
        struct wire_message message;
        char name[16];
        snprintf(name, sizeof name, "bad-%d", shape);
        hostile_open(&hostile, ipc("shapes"), shape == 4 ? "" : name);
        if (shape == 0) { /* an empty frame */
            hostile_send(&hostile, "", 0, true, true);
        } else if (shape == 1) { /* a payload where none belongs */
            hostile_send(&hostile, valid.data, valid.length, true, false);
            hostile_send(&hostile, "x", 1, false, true);
        } else if (shape == 2) { /* too many frames */
            for (int i = 0; i < 40; i++)
                hostile_send(&hostile, valid.data, valid.length, i == 0, i == 39);
        } else if (shape == 3) { /* not a message */
            hostile_send(&hostile, "GET / HTTP/1.1\r\n", 16, true, true);
        } else if (shape == 5) { /* a name and nothing more */
            zmq_send(hostile.socket, name, strlen(name), 0);
        } else if (shape == 6) { /* nothing at all */
            zmq_send(hostile.socket, "", 0, 0);
        } else if (shape == 7) { /* another kind than the bytes begin with: sequence first */
            hostile_send(&hostile, "\x10\x01\x08\x03\x32\x00", 6, true, true);
        } /* shape 4: valid, but no name */
        for (uint64_t i = 0; i < 3 && shape != 6; i++) {
            pack_heartbeat(&valid, 10 + i);
            hostile_send(&hostile, valid.data, valid.length, true, true);
        }
        assert_int_equal(receive_from(server, &from, &message, 150), 0);
        send_heartbeat(good, shape);
        expect_heartbeat(server, "good", shape);
        hostile_close(&hostile);
    }
    text_release(&valid);
    wire_client_destroy(good);
    wire_server_destroy(server);
    wire_context_destroy(context);
}

/* One hostile message of a seed: a valid one with bytes changed, cut, or random bytes. */
static void send_hostile(struct hostile *hostile, const struct text *valid, uint64_t seed)
{
    struct rng_key key = {.seed = seed, .purpose = RNG_SIM};
    unsigned char buffer[512];
    uint64_t at = 0;
    size_t length = valid->length;
    memcpy(buffer, valid->data, length);
    if (rng_below(&key, at++, 4) == 0) {
        length = (size_t)rng_below(&key, at++, sizeof buffer);
        for (size_t i = 0; i < length; i++)
            buffer[i] = (unsigned char)rng_below(&key, at++, 256);
    } else {
        for (int i = 0; i < 3; i++) {
            size_t where = (size_t)rng_below(&key, at++, length);
            buffer[where] = (unsigned char)rng_below(&key, at++, 256);
        }
    }
    int frames = 1 + (int)rng_below(&key, at++, 3);
    for (int i = 0; i < frames; i++)
        hostile_send(hostile, buffer, length, i == 0, i + 1 == frames);
}

static void test_fuzzed_peer_hurts_nobody_else(void **state)
{
    (void)state;
    struct wire_context *context = wire_context_create();
    struct wire_server *server;
    struct wire_client *good;
    struct hostile hostile;
    struct text valid, hello;
    struct wire_peer from;
    struct wire_message message;
    int from_good = 0, from_bad = 0;
    text_init(&valid);
    text_init(&hello);
    pack_heartbeat(&valid, 1);
    Hone__Hello greeting = HONE__HELLO__INIT;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    greeting.worker = greeting.recipe_hash = (char *)(uintptr_t) "bad";
    envelope.hello = &greeting;
    assert_int_equal(wire_server_create(&server, context, ipc("fuzz")), 0);
    assert_int_equal(wire_client_create(&good, context, ipc("fuzz"), "good"), 0);
    hostile_open(&hostile, ipc("fuzz"), "bad");
    for (uint64_t seed = 0; seed < FUZZ_CASES; seed++) {
        /* Numbers that mutated messages do not reach. */
        envelope.sequence = (UINT64_C(1) << 63) + seed;
        text_clear(&hello);
        wire_pack(&envelope.base, &hello);
        hostile_send(&hostile, hello.data, hello.length, true, true);
        send_hostile(&hostile, &valid, seed);
        if (seed % 50 == 0)
            send_heartbeat(good, (int64_t)seed);
        while (wire_server_receive(server, &from, &message) == 1) {
            from_good += strcmp(from.identity, "good") == 0;
            from_bad += strcmp(from.identity, "bad") == 0;
            wire_message_release(&message);
        }
    }
    /* Every hello came through, whatever went before it. */
    while ((from_bad < FUZZ_CASES || from_good < FUZZ_CASES / 50) &&
           receive_from(server, &from, &message, WAIT_MS) == 1) {
        from_good += strcmp(from.identity, "good") == 0;
        from_bad += strcmp(from.identity, "bad") == 0;
        wire_message_release(&message);
    }
    assert_int_equal(from_good, FUZZ_CASES / 50);
    assert_true(from_bad >= FUZZ_CASES);
    send_heartbeat(good, -5);
    for (;;) {
        assert_int_equal(receive_from(server, &from, &message, WAIT_MS), 1);
        bool done = strcmp(from.identity, "good") == 0;
        wire_message_release(&message);
        if (done)
            break;
    }
    hostile_close(&hostile);
    text_release(&valid);
    text_release(&hello);
    wire_client_destroy(good);
    wire_server_destroy(server);
    wire_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exchange_on_every_transport),
        cmocka_unit_test(test_refused_endpoints),
        cmocka_unit_test(test_busy_address),
        cmocka_unit_test(test_sends_that_cannot_arrive_fail),
        cmocka_unit_test(test_poll_wakes_when_it_can_send),
        cmocka_unit_test(test_queue_is_bounded),
        cmocka_unit_test(test_restarted_worker_takes_its_name_over),
        cmocka_unit_test(test_client_survives_a_server_restart),
        cmocka_unit_test(test_misbehaving_peer_is_dropped_until_hello),
        cmocka_unit_test(test_every_malformed_shape_drops),
        cmocka_unit_test(test_fuzzed_peer_hurts_nobody_else),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}

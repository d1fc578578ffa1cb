/* tcp: who is let in, and what an intruder can do. The table {no CURVE, allowed key, unknown key,
 * wrong server key, wrong role, another's name} against a hub's socket and a learner's weights
 * socket, with a good worker at work during every attack; then frames from a peer whose key is
 * allowed, revocation, and a thousand half-open connections. */
#include "tests/infra/wire/wire_fixture.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/wire/weight_channel.h"

#define GOOD "actor-good"

enum { HALF_OPEN = 1000, FUZZ_CASES = 500 };

/* What an attacker holds. */
enum attack {
    NO_CURVE,
    ALLOWED_KEY, /* the control: this one gets through */
    UNKNOWN_KEY,
    WRONG_SERVER_KEY,
    WRONG_ROLE,
    WRONG_NAME,
    ATTACK_COUNT
};

static const char *const attack_names[] = {"no CURVE",         "allowed key", "unknown key",
                                           "wrong server key", "wrong role",  "another's name"};

struct attacker {
    struct hostile_keys keys;
    struct keys held;
    char public_key[KEY_SIZE], secret_key[KEY_SIZE], server[KEY_SIZE];
    const char *name;
    Hone__Role role;
};

/* server: the public key of the socket under attack. */
static void arm(struct attacker *a, enum attack attack, const char *server)
{
    char unused[KEY_SIZE];
    memset(a, 0, sizeof *a);
    assert_int_equal(keys_load(&a->held, fixture_keys, "actor-evil"), 0);
    snprintf(a->server, sizeof a->server, "%s", server);
    a->keys = (struct hostile_keys){a->server, a->held.own.public_key, a->held.own.secret_key};
    a->name = "actor-evil";
    a->role = HONE__ROLE__ROLE_ACTOR;
    switch (attack) {
    case NO_CURVE:
        a->keys.server = NULL;
        break;
    case UNKNOWN_KEY:
        zmq_curve_keypair(a->public_key, a->secret_key);
        a->keys.own_public = a->public_key;
        a->keys.own_secret = a->secret_key;
        break;
    case WRONG_SERVER_KEY:
        zmq_curve_keypair(a->server, unused);
        break;
    case WRONG_ROLE:
        a->role = HONE__ROLE__ROLE_LEARNER;
        break;
    case WRONG_NAME:
        a->name = "learner";
        a->role = HONE__ROLE__ROLE_LEARNER;
        break;
    case ALLOWED_KEY:
    case ATTACK_COUNT:
        break;
    }
}

static const char *key_of(const char *endpoint)
{
    const char *hash = strchr(endpoint, '#');
    assert_non_null(hash);
    return hash + 1;
}

/* ---- the hub's socket ---- */

static void expect_reaches(struct wire_server *server, struct wire_client *learner)
{
    Hone__Heartbeat beat = HONE__HEARTBEAT__INIT;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    struct wire_peer to = {"learner"};
    struct wire_message message;
    envelope.kind = HONE__KIND__KIND_HEARTBEAT;
    envelope.heartbeat = &beat;
    assert_int_equal(wire_server_send(server, &to, &envelope, NULL, 0), 0);
    int got = 0;
    for (int i = 0; i < 100 && got == 0; i++) {
        wire_poll(NULL, 0, &learner, 1, WAIT_MS / 100);
        got = wire_client_receive(learner, &message);
    }
    assert_int_equal(got, 1);
    wire_message_release(&message);
}

static void attack_hub(enum attack attack, bool is_local)
{
    struct wire_context *hub = fixture_context("hub"), *worker = fixture_context(GOOD);
    struct wire_server *server;
    struct wire_client *good, *learner = NULL;
    struct attacker a;
    struct hostile hostile;
    struct text bytes;
    char endpoints[192];
    int from_evil = 0, from_good = 0;
    text_init(&bytes);
    snprintf(endpoints, sizeof endpoints, "ipc://%s/hub-%d tcp://127.0.0.1:*", fixture_root,
             attack);
    assert_int_equal(wire_server_create(&server, hub, is_local ? endpoints : "tcp://127.0.0.1:*"),
                     0);
    const char *address = fixture_address(wire_server_endpoint(server));
    assert_int_equal(wire_client_create(&good, worker, address, GOOD), 0);
    struct wire_context *local = wire_context_create();
    if (is_local) {
        assert_int_equal(
            wire_client_create(&learner, local, wire_server_endpoint(server), "learner"), 0);
        send_beat(learner, 1);
        expect_beat(server, "learner", 1);
    }
    send_beat(good, 0);
    expect_beat(server, GOOD, 0);

    arm(&a, attack, key_of(wire_server_endpoint(server)));
    hostile_dial(&hostile, address, a.name, &a.keys);
    for (uint64_t i = 1; i <= 20; i++) {
        struct wire_peer from;
        struct wire_message message;
        pack_hello(&bytes, i, a.role, a.name);
        hostile_say(&hostile, bytes.data, bytes.length);
        send_beat(good, (int64_t)i);
        while (receive_within(server, &from, &message, 10) == 1) {
            from_good += strcmp(from.identity, GOOD) == 0;
            from_evil += strcmp(from.identity, a.name) == 0;
            wire_message_release(&message);
        }
    }
    struct wire_peer from;
    struct wire_message message;
    while (receive_within(server, &from, &message, QUIET_MS) == 1) {
        from_good += strcmp(from.identity, GOOD) == 0;
        from_evil += strcmp(from.identity, a.name) == 0;
        wire_message_release(&message);
    }
    assert_int_equal(from_good, 20);
    if (attack == ALLOWED_KEY ? from_evil == 0 : from_evil > 0)
        fail_msg("hub, %s: %d messages delivered", attack_names[attack], from_evil);
    if (is_local) /* and whoever has the name in truth still has it */
        expect_reaches(server, learner);
    hostile_hang_up(&hostile);
    wire_client_destroy(learner);
    wire_client_destroy(good);
    wire_server_destroy(server);
    wire_context_destroy(local);
    wire_context_destroy(worker);
    wire_context_destroy(hub);
    keys_clear(&a.held);
    text_release(&bytes);
}

static void test_table_of_the_hub(void **state)
{
    (void)state;
    for (int attack = 0; attack < ATTACK_COUNT; attack++) {
        attack_hub((enum attack)attack, false);
        attack_hub((enum attack)attack, true);
    }
}

/* ---- the weights socket ---- */

static void publish(struct weight_publisher *publisher, int64_t version)
{
    struct snapshot snapshot = {.version = version, .tensor_count = 1, .bytes = 4096};
    snapshot.tensors = MEMORY_ARRAY(struct snapshot_tensor, 1);
    snapshot.data = memory_alloc(snapshot.bytes, 1);
    memset(snapshot.data, (int)version, snapshot.bytes);
    snapshot.tensors[0] = (struct snapshot_tensor){
        .name = "w", .dtype = DTYPE_F32, .rows = 32, .columns = 32, .bytes = snapshot.bytes};
    weight_publisher_publish(publisher, &snapshot);
}

/* The good actor gets this version; *replies counts what the attacker was sent meanwhile. */
static void fetch(struct weight_publisher *publisher, struct weight_receiver *receiver,
                  int64_t version, struct hostile *hostile, int *replies)
{
    const struct snapshot *snapshot = NULL;
    int64_t now = clock_now_ms(clock_system()), deadline = now + WAIT_MS, quiet = now + QUIET_MS;
    bool has_it = false;
    while (!has_it || (hostile && clock_now_ms(clock_system()) < quiet)) {
        char buffer[64];
        assert_true(clock_now_ms(clock_system()) < deadline);
        assert_true(weight_publisher_tick(publisher) >= 0);
        if (!has_it && weight_receiver_tick(receiver, &snapshot) == 1) {
            assert_int_equal(snapshot->version, version);
            assert_int_equal(snapshot->data[0], version);
            has_it = true;
        }
        while (hostile && zmq_recv(hostile->socket, buffer, sizeof buffer, ZMQ_DONTWAIT) >= 0)
            (*replies)++;
        clock_sleep_ms(1);
    }
}

static void attack_weights(enum attack attack)
{
    struct wire_context *learner = fixture_context("learner"), *worker = fixture_context(GOOD);
    struct weight_publisher *publisher;
    struct weight_receiver *receiver;
    struct weight_options options = {.transport = WEIGHTS_CHUNKS, .deadline_ms = WAIT_MS};
    struct attacker a;
    struct hostile hostile;
    struct text bytes;
    int replies = 0;
    char endpoints[192];
    text_init(&bytes);
    snprintf(endpoints, sizeof endpoints, "ipc://%s/weights-%d tcp://127.0.0.1:*", fixture_root,
             attack);
    assert_int_equal(
        weight_publisher_create(&publisher, learner, endpoints, clock_system(), &options), 0);
    struct wire_server *server = weight_publisher_socket(publisher);
    publish(publisher, 1);
    assert_int_equal(weight_receiver_create(&receiver, worker, GOOD, clock_system(), &options), 0);
    /* As a hub says it: both endpoints, with the learner's key. */
    weight_receiver_want(receiver, wire_server_endpoint(server), -1);
    fetch(publisher, receiver, 1, NULL, NULL);

    arm(&a, attack, key_of(wire_server_endpoint(server)));
    if (attack == WRONG_ROLE) { /* allowed, but not here; it does not lie about its role */
        assert_int_equal(keys_load(&a.held, fixture_keys, "scorer-evil"), 0);
        a.name = "scorer-evil";
        a.role = HONE__ROLE__ROLE_SCORER;
    }
    hostile_dial(&hostile, fixture_address(wire_server_endpoint(server)), a.name, &a.keys);
    Hone__WeightsRequest request = HONE__WEIGHTS_REQUEST__INIT;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    request.have_version = -1;
    envelope.kind = HONE__KIND__KIND_WEIGHTS_REQUEST;
    envelope.weights_request = &request;
    for (uint64_t i = 1; i <= 5; i++) {
        pack_hello(&bytes, 2 * i, a.role, a.name);
        hostile_say(&hostile, bytes.data, bytes.length);
        envelope.sequence = 2 * i + 1;
        text_clear(&bytes);
        wire_pack(&envelope.base, &bytes);
        hostile_say(&hostile, bytes.data, bytes.length);
    }
    publish(publisher, 2);
    weight_receiver_want(receiver, wire_server_endpoint(server), 1);
    fetch(publisher, receiver, 2, &hostile, &replies);
    if (attack == ALLOWED_KEY ? replies == 0 : replies > 0)
        fail_msg("weights, %s: %d frames sent to it", attack_names[attack], replies);
    hostile_hang_up(&hostile);
    weight_receiver_destroy(receiver);
    weight_publisher_destroy(publisher);
    wire_context_destroy(worker);
    wire_context_destroy(learner);
    keys_clear(&a.held);
    text_release(&bytes);
}

static void test_table_of_the_weights(void **state)
{
    (void)state;
    for (int attack = 0; attack < ATTACK_COUNT; attack++)
        attack_weights((enum attack)attack);
}

/* ---- a peer whose key is allowed, and that does not behave ---- */

struct siege {
    struct wire_context *hub, *worker;
    struct wire_server *server;
    struct wire_client *good;
    struct attacker attacker;
    struct hostile hostile;
    int64_t beats;
};

static void siege_begin(struct siege *s)
{
    s->hub = fixture_context("hub");
    s->worker = fixture_context(GOOD);
    s->beats = 0;
    assert_int_equal(wire_server_create(&s->server, s->hub, "tcp://127.0.0.1:*"), 0);
    const char *address = fixture_address(wire_server_endpoint(s->server));
    assert_int_equal(wire_client_create(&s->good, s->worker, address, GOOD), 0);
    arm(&s->attacker, ALLOWED_KEY, key_of(wire_server_endpoint(s->server)));
    hostile_dial(&s->hostile, address, s->attacker.name, &s->attacker.keys);
}

static void siege_end(struct siege *s)
{
    hostile_hang_up(&s->hostile);
    wire_client_destroy(s->good);
    wire_server_destroy(s->server);
    wire_context_destroy(s->worker);
    wire_context_destroy(s->hub);
    keys_clear(&s->attacker.held);
}

/* Whatever came from the attacker; the good peer's next message comes through. */
static int count_evil(struct siege *s, int wait_ms)
{
    struct wire_peer from;
    struct wire_message message;
    int evil = 0;
    bool good = false;
    int64_t begin = clock_now_ms(clock_system());
    send_beat(s->good, ++s->beats);
    for (;;) {
        int64_t passed = clock_now_ms(clock_system()) - begin;
        if (good && passed >= wait_ms)
            return evil;
        assert_true(passed < WAIT_MS);
        if (receive_within(s->server, &from, &message, 20) != 1)
            continue;
        if (strcmp(from.identity, GOOD) == 0)
            good = message.envelope->heartbeat->tokens_done == s->beats;
        else
            evil++;
        wire_message_release(&message);
    }
}

static void say_hello(struct siege *s, uint64_t sequence)
{
    struct text bytes;
    text_init(&bytes);
    pack_hello(&bytes, sequence, HONE__ROLE__ROLE_ACTOR, s->hostile.name);
    hostile_say(&s->hostile, bytes.data, bytes.length);
    text_release(&bytes);
}

static void say_beat(struct siege *s, uint64_t sequence)
{
    struct text bytes;
    text_init(&bytes);
    pack_beat(&bytes, sequence, 99);
    hostile_say(&s->hostile, bytes.data, bytes.length);
    text_release(&bytes);
}

/* W5: replayed and out-of-order envelopes are refused and their sender dropped until a Hello with a
 * number that rises. */
static void test_replays(void **state)
{
    (void)state;
    struct siege s;
    siege_begin(&s);
    say_hello(&s, 10);
    say_beat(&s, 11);
    assert_int_equal(count_evil(&s, QUIET_MS), 2);
    say_beat(&s, 11);  /* again */
    say_beat(&s, 12);  /* dropped by now */
    say_hello(&s, 10); /* the hello of before does not help */
    assert_int_equal(count_evil(&s, QUIET_MS), 0);
    say_hello(&s, 20);
    say_beat(&s, 19); /* overtaken */
    say_beat(&s, 21);
    assert_int_equal(count_evil(&s, QUIET_MS), 1);
    say_hello(&s, 30);
    say_beat(&s, 40); /* a gap is no harm: a send that failed */
    assert_int_equal(count_evil(&s, QUIET_MS), 2);
    siege_end(&s);
}

/* A Hello as somebody else, from a peer in good standing. */
static void test_hello_lies(void **state)
{
    (void)state;
    struct siege s;
    struct text bytes;
    text_init(&bytes);
    siege_begin(&s);
    say_hello(&s, 1);
    pack_hello(&bytes, 2, HONE__ROLE__ROLE_ACTOR, GOOD);
    hostile_say(&s.hostile, bytes.data, bytes.length);
    say_beat(&s, 3);
    assert_int_equal(count_evil(&s, QUIET_MS), 1);
    pack_hello(&bytes, 4, HONE__ROLE__ROLE_LEARNER, s.hostile.name);
    hostile_say(&s.hostile, bytes.data, bytes.length);
    say_beat(&s, 5);
    assert_int_equal(count_evil(&s, QUIET_MS), 0);
    say_hello(&s, 6);
    s.hostile.name = GOOD; /* the good peer's name on the attacker's connection (N2) */
    say_beat(&s, 1000);
    assert_int_equal(count_evil(&s, QUIET_MS), 1);
    siege_end(&s);
    text_release(&bytes);
}

static void test_oversize_truncated_and_garbage_frames(void **state)
{
    (void)state;
    struct siege s;
    struct text bytes;
    text_init(&bytes);
    siege_begin(&s);
    say_hello(&s, 1);
    assert_int_equal(count_evil(&s, QUIET_MS), 1);
    /* A heartbeat beyond its kind's limit, though well-formed. */
    size_t large = 1 << 20;
    char *waiting = memory_alloc(large + 1, 1);
    memset(waiting, 'x', large);
    Hone__Heartbeat beat = HONE__HEARTBEAT__INIT;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    beat.waiting_for = waiting;
    envelope.sequence = 2;
    envelope.kind = HONE__KIND__KIND_HEARTBEAT;
    envelope.heartbeat = &beat;
    wire_pack(&envelope.base, &bytes);
    hostile_say(&s.hostile, bytes.data, bytes.length);
    say_beat(&s, 3);
    assert_int_equal(count_evil(&s, QUIET_MS), 0);
    /* Every truncation of a valid message. */
    pack_beat(&bytes, 100, 5);
    for (size_t cut = 0; cut < bytes.length; cut++)
        hostile_say(&s.hostile, bytes.data, cut);
    assert_int_equal(count_evil(&s, QUIET_MS), 0);
    for (uint64_t seed = 0; seed < FUZZ_CASES; seed++) {
        struct rng_key key = {.seed = seed, .purpose = RNG_SIM};
        unsigned char noise[256];
        size_t length = (size_t)rng_below(&key, 0, sizeof noise);
        for (size_t i = 0; i < length; i++)
            noise[i] = (unsigned char)rng_below(&key, i + 1, 256);
        hostile_say(&s.hostile, noise, length);
    }
    assert_int_equal(count_evil(&s, QUIET_MS), 0);
    /* More than any kind may have: libzmq cuts the connection before the bytes are here. */
    size_t huge = (64u << 20) + 2;
    char *block = memory_alloc(huge, 1);
    hostile_say(&s.hostile, block, huge);
    assert_int_equal(count_evil(&s, QUIET_MS), 0);
    memory_free(block);
    memory_free(waiting);
    text_release(&bytes);
    siege_end(&s);
}

/* ---- half-open connections ---- */

/* The name of an address for connect. */
static struct sockaddr_in socket_address(const char *address)
{
    struct sockaddr_in in = {.sin_family = AF_INET};
    in.sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1));
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return in;
}

static void test_thousand_half_open_handshakes(void **state)
{
    (void)state;
    struct siege s;
    struct rlimit limit;
    int fds[HALF_OPEN], open_count = 0;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_cur < 2 * HALF_OPEN + 100) {
        printf("skipped: a process may open %llu files only\n", (unsigned long long)limit.rlim_cur);
        skip();
    }
    siege_begin(&s);
    struct sockaddr_in in = socket_address(fixture_address(wire_server_endpoint(s.server)));
    /* A ZMTP greeting with mechanism CURVE, whole or half, or the start of an endless frame. */
    unsigned char greeting[64] = {0xff, 0, 0, 0,   0,   0,   0,   0,  1,
                                  0x7f, 3, 0, 'C', 'U', 'R', 'V', 'E'};
    for (int i = 0; i < HALF_OPEN; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_true(fds[i] >= 0);
        if (connect(fds[i], (struct sockaddr *)&in, sizeof in) == 0)
            open_count++;
        ssize_t sent = send(fds[i], greeting, i % 3 == 0 ? 10 : sizeof greeting, MSG_NOSIGNAL);
        if (i % 3 == 1 && sent > 0)
            sent = send(fds[i], "\x06\x00\x00\x00\x00\x0f\xff\xff\xff", 9, MSG_NOSIGNAL);
        if (i % 100 == 0)
            assert_int_equal(count_evil(&s, 0), 0);
    }
    assert_int_equal(open_count, HALF_OPEN);
    /* A newcomer gets in beside them. */
    say_hello(&s, 1);
    int hellos = 0;
    for (int64_t begin = clock_now_ms(clock_system());
         hellos == 0 && clock_now_ms(clock_system()) - begin < WAIT_MS;)
        hellos = count_evil(&s, 20);
    assert_int_equal(hellos, 1);
    /* And they are cut when their time for a handshake is over. */
    int cut = 0;
    for (int i = 0; i < HALF_OPEN; i++) {
        char byte;
        struct timeval patience = {.tv_sec = 20};
        setsockopt(fds[i], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        ssize_t got;
        while ((got = recv(fds[i], &byte, 1, 0)) > 0)
            continue;
        cut += got == 0 || errno == ECONNRESET;
        close(fds[i]);
    }
    assert_int_equal(cut, HALF_OPEN);
    assert_int_equal(count_evil(&s, 0), 0);
    siege_end(&s);
}

/* ---- the list changes ---- */

static void test_added_and_revoked_while_running(void **state)
{
    (void)state;
    struct wire_context *hub = fixture_context("hub");
    struct wire_server *server;
    struct wire_client *client;
    struct wire_peer from;
    struct wire_message message;
    assert_int_equal(wire_server_create(&server, hub, "tcp://127.0.0.1:*"), 0);
    assert_int_equal(keys_add(fixture_keys, "actor-late"), 0);
    struct wire_context *late = fixture_context("actor-late");
    assert_int_equal(wire_client_create(&client, late,
                                        fixture_address(wire_server_endpoint(server)),
                                        "actor-late"),
                     0);
    send_beat(client, 1); /* waits until the gate has read the list again */
    expect_beat(server, "actor-late", 1);
    assert_int_equal(keys_revoke(fixture_keys, "actor-late"), 0);
    /* The connection stands, but what it says counts no more, and nothing is sent to it. */
    int64_t deadline = clock_now_ms(clock_system()) + WAIT_MS;
    Hone__Heartbeat beat = HONE__HEARTBEAT__INIT;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    envelope.kind = HONE__KIND__KIND_HEARTBEAT;
    envelope.heartbeat = &beat;
    while (wire_server_send(server, &(struct wire_peer){"actor-late"}, &envelope, NULL, 0) == 0) {
        assert_true(clock_now_ms(clock_system()) < deadline);
        clock_sleep_ms(50);
    }
    assert_int_equal(error_last(), HONE_EPEER);
    send_beat(client, 2);
    assert_int_equal(receive_within(server, &from, &message, QUIET_MS), 0);
    wire_client_destroy(client);
    wire_context_destroy(late);
    /* A list that breaks leaves the last one in force. */
    char path[HONE_PATH_MAX];
    path_join(path, sizeof path, fixture_keys, "allowed");
    char *list;
    size_t bytes;
    assert_int_equal(file_read(path, 1 << 20, &list, &bytes), 0);
    log_set_stderr(0);
    assert_int_equal(file_write_atomic(path, "nonsense\n", 9), 0);
    clock_sleep_ms(1500);
    struct wire_context *good = fixture_context(GOOD);
    assert_int_equal(
        wire_client_create(&client, good, fixture_address(wire_server_endpoint(server)), GOOD), 0);
    send_beat(client, 3);
    expect_beat(server, GOOD, 3);
    log_set_stderr(1);
    assert_int_equal(file_write_atomic(path, list, bytes), 0);
    memory_free(list);
    wire_client_destroy(client);
    wire_context_destroy(good);
    wire_server_destroy(server);
    wire_context_destroy(hub);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_of_the_hub),
        cmocka_unit_test(test_table_of_the_weights),
        cmocka_unit_test(test_replays),
        cmocka_unit_test(test_hello_lies),
        cmocka_unit_test(test_oversize_truncated_and_garbage_frames),
        cmocka_unit_test(test_thousand_half_open_handshakes),
        cmocka_unit_test(test_added_and_revoked_while_running),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}

/* Weights from publisher to receiver: whole, verified, newest; through losses, damage and restarts.
 * A proxy between the two changes or swallows chunks; time is a fake clock that the tests move. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/wire/snapshot.h"
#include "infra/wire/weight_channel.h"
#include "tests/infra/wire/snapshot_fixture.h"

#define TENSORS     5
#define CHUNKS      9
#define ROUNDS_MAX  20000
#define DEADLINE_MS 30000

static int64_t now_ns;
static struct clock fake;
static struct wire_context *context;
static char endpoint[64];
static struct weight_options options;

static int set_up(void **state)
{
    static int count;
    (void)state;
    log_set_level(LOG_LEVEL_ERROR);
    now_ns = 0;
    options = (struct weight_options){.delta = true, .deadline_ms = DEADLINE_MS};
    fake = clock_fake(&now_ns);
    context = wire_context_create();
    snprintf(endpoint, sizeof endpoint, "inproc://weights-%d", count++);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    wire_context_destroy(context);
    return 0;
}

/* 9.2 MB in five tensors of different types, more than one credit; the values depend on version and
 * variant. */
static struct snapshot make_snapshot(int64_t version, uint32_t variant)
{
    static const struct tensor_shape shapes[TENSORS] = {{DTYPE_BF16, 1000, 2000},
                                                        {DTYPE_F32, 1, 7},
                                                        {DTYPE_BF16, 3, 333},
                                                        {DTYPE_F32, 1000, 1300},
                                                        {DTYPE_U8, 1, 1}};
    struct rng_key key = {.seed = (uint64_t)version, .purpose = RNG_SIM, .b = variant};
    struct snapshot snapshot = snapshot_of_shapes(version, shapes, TENSORS);
    snapshot.data = memory_alloc(snapshot.bytes, 1);
    for (size_t i = 0; i + 8 <= snapshot.bytes; i += 4096) {
        uint64_t word = rng_u64(&key, i);
        memcpy(snapshot.data + i, &word, sizeof word);
    }
    return snapshot;
}

static void publish(struct weight_publisher *publisher, int64_t version, uint32_t variant)
{
    struct snapshot snapshot = make_snapshot(version, variant);
    weight_publisher_publish(publisher, &snapshot);
    assert_null(snapshot.data);
    assert_int_equal(weight_publisher_version(publisher), version);
}

static void expect_snapshot(const struct snapshot *got, int64_t version, uint32_t variant)
{
    struct snapshot expected = make_snapshot(version, variant);
    assert_non_null(got);
    assert_int_equal(got->version, version);
    assert_int_equal(got->tensor_count, TENSORS);
    assert_int_equal(got->bytes, expected.bytes);
    assert_int_equal(memcmp(got->data, expected.data, expected.bytes), 0);
    for (int i = 0; i < TENSORS; i++) {
        assert_string_equal(got->tensors[i].name, expected.tensors[i].name);
        assert_int_equal(got->tensors[i].dtype, expected.tensors[i].dtype);
        assert_int_equal(got->tensors[i].rows, expected.tensors[i].rows);
        assert_int_equal(got->tensors[i].columns, expected.tensors[i].columns);
        assert_int_equal(got->tensors[i].offset, expected.tensors[i].offset);
    }
    snapshot_release(&expected);
}

/* The hash that came with it is the one of these values. */
static void expect_hash(const struct snapshot *got, int64_t version, uint32_t variant)
{
    struct snapshot expected = make_snapshot(version, variant);
    char hash[HASH_HEX_SIZE], expected_hash[HASH_HEX_SIZE];
    snapshot_sum(&expected);
    snapshot_hash(got, hash);
    snapshot_hash(&expected, expected_hash);
    assert_string_equal(hash, expected_hash);
    snapshot_release(&expected);
}

/* ---- a proxy that speaks to both ends ---- */

struct proxy {
    struct wire_server *front;
    struct wire_client *back;
    struct wire_peer receiver;
    int chunks; /* seen so far */
    int flip_at, drop_at;
    int damage_until; /* every chunk up to this one is damaged */
};

static void proxy_open(struct proxy *proxy, const char *front, const char *back)
{
    *proxy = (struct proxy){.flip_at = -1, .drop_at = -1, .damage_until = -1};
    assert_int_equal(wire_server_create(&proxy->front, context, front), 0);
    assert_int_equal(wire_client_create(&proxy->back, context, back, "proxy"), 0);
}

static void proxy_close(struct proxy *proxy)
{
    wire_client_destroy(proxy->back);
    wire_server_destroy(proxy->front);
}

static void forward_answer(struct proxy *proxy, const struct wire_message *message)
{
    unsigned char *payload = NULL;
    int chunk = -1;
    if (message->payload) {
        payload = memory_dup(message->payload, message->payload_bytes);
        chunk = proxy->chunks++;
    }
    if (chunk >= 0 && (chunk == proxy->flip_at || chunk < proxy->damage_until))
        payload[4096] ^= 0x20;
    if (chunk < 0 || chunk != proxy->drop_at)
        assert_int_equal(wire_server_send(proxy->front, &proxy->receiver, message->envelope,
                                          payload, message->payload_bytes),
                         0);
    memory_free(payload);
}

static void proxy_tick(struct proxy *proxy)
{
    struct wire_message message;
    while (wire_server_receive(proxy->front, &proxy->receiver, &message) == 1) {
        assert_int_equal(wire_client_send(proxy->back, message.envelope, NULL, 0), 0);
        wire_message_release(&message);
    }
    while (wire_client_receive(proxy->back, &message) == 1) {
        forward_answer(proxy, &message);
        wire_message_release(&message);
    }
}

/* Ticks everybody until the receiver hands something out; NULL when it does not. Each round takes a
 * fake millisecond. */
static const struct snapshot *run(struct weight_publisher *publisher, struct proxy *proxy,
                                  struct weight_receiver *receiver, int rounds)
{
    for (int i = 0; i < rounds; i++) {
        const struct snapshot *snapshot;
        if (publisher)
            assert_true(weight_publisher_tick(publisher) >= 0);
        if (proxy)
            proxy_tick(proxy);
        int rc = weight_receiver_tick(receiver, &snapshot);
        assert_true(rc >= 0);
        assert_true((rc == 1) == (snapshot != NULL));
        if (rc == 1)
            return snapshot;
        now_ns += 1000000;
    }
    return NULL;
}

static void open_pair(struct weight_publisher **publisher, struct weight_receiver **receiver)
{
    assert_int_equal(weight_publisher_create(publisher, context, endpoint, &fake, &options), 0);
    assert_int_equal(weight_publisher_version(*publisher), -1);
    assert_int_equal(weight_receiver_create(receiver, context, "actor-0", &fake, &options), 0);
    assert_null(weight_receiver_socket(*receiver));
    assert_false(weight_receiver_busy(*receiver));
}

static void close_pair(struct weight_publisher *publisher, struct weight_receiver *receiver)
{
    weight_receiver_destroy(receiver);
    weight_publisher_destroy(publisher);
}

static void test_fetches_and_waits_for_newer(void **state)
{
    (void)state;
    struct weight_publisher *publisher;
    struct weight_receiver *receiver;
    open_pair(&publisher, &receiver);
    weight_receiver_want(receiver, endpoint, -1);
    assert_non_null(weight_receiver_socket(receiver));
    assert_null(run(publisher, NULL, receiver, 50)); /* nothing published yet */
    publish(publisher, 0, 0);
    const struct snapshot *snapshot = run(publisher, NULL, receiver, ROUNDS_MAX);
    expect_snapshot(snapshot, 0, 0);
    expect_hash(snapshot, 0, 0);
    assert_false(weight_receiver_busy(receiver));
    assert_null(run(publisher, NULL, receiver, 50)); /* not wanted */
    weight_receiver_want(receiver, endpoint, 0);
    assert_true(weight_receiver_busy(receiver));
    assert_null(run(publisher, NULL, receiver, 50)); /* nothing newer */
    int64_t before = now_ns;
    publish(publisher, 1, 0);
    expect_snapshot(run(publisher, NULL, receiver, ROUNDS_MAX), 1, 0);
    assert_true(now_ns - before < 500000000); /* the wish was remembered, not repeated */
    close_pair(publisher, receiver);
}

static void test_newest_wins(void **state)
{
    (void)state;
    struct weight_publisher *publisher;
    struct weight_receiver *receiver;
    open_pair(&publisher, &receiver);
    publish(publisher, 1, 0);
    publish(publisher, 2, 0);
    publish(publisher, 5, 0);
    weight_receiver_want(receiver, endpoint, -1);
    expect_snapshot(run(publisher, NULL, receiver, ROUNDS_MAX), 5, 0);
    /* A transfer in progress ends although a newer version is there... */
    weight_receiver_want(receiver, endpoint, 5);
    publish(publisher, 6, 0);
    assert_null(run(publisher, NULL, receiver, 2));
    publish(publisher, 7, 0);
    expect_snapshot(run(publisher, NULL, receiver, ROUNDS_MAX), 6, 0);
    /* ... and moves on when its version is gone. */
    weight_receiver_want(receiver, endpoint, 7);
    publish(publisher, 8, 0);
    assert_null(run(publisher, NULL, receiver, 2));
    publish(publisher, 9, 0);
    publish(publisher, 10, 0);
    expect_snapshot(run(publisher, NULL, receiver, ROUNDS_MAX), 10, 0);
    close_pair(publisher, receiver);
}

static void test_several_receivers(void **state)
{
    (void)state;
    struct weight_publisher *publisher;
    struct weight_receiver *receivers[4];
    int done = 0;
    assert_int_equal(weight_publisher_create(&publisher, context, endpoint, &fake, &options), 0);
    publish(publisher, 3, 0);
    for (int i = 0; i < 4; i++) {
        char name[16];
        snprintf(name, sizeof name, "actor-%d", i);
        assert_int_equal(weight_receiver_create(&receivers[i], context, name, &fake, &options), 0);
        weight_receiver_want(receivers[i], endpoint, -1);
    }
    for (int round = 0; round < ROUNDS_MAX && done < 4; round++) {
        assert_true(weight_publisher_tick(publisher) >= 0);
        for (int i = 0; i < 4; i++) {
            const struct snapshot *snapshot;
            if (weight_receiver_tick(receivers[i], &snapshot) == 1) {
                expect_snapshot(snapshot, 3, 0);
                done++;
            }
        }
        now_ns += 1000000;
    }
    assert_int_equal(done, 4);
    for (int i = 0; i < 4; i++)
        weight_receiver_destroy(receivers[i]);
    weight_publisher_destroy(publisher);
}

static void test_damaged_chunk_is_fetched_again(void **state)
{
    (void)state;
    struct weight_publisher *publisher;
    struct weight_receiver *receiver;
    struct proxy proxy;
    open_pair(&publisher, &receiver);
    publish(publisher, 4, 0);
    int chunks = 0;
    for (int flip_at = 0; flip_at < CHUNKS; flip_at += 4) {
        char front[64];
        snprintf(front, sizeof front, "%s-flip-%d", endpoint, flip_at);
        proxy_open(&proxy, front, endpoint);
        proxy.flip_at = flip_at;
        weight_receiver_want(receiver, front, -1);
        expect_snapshot(run(publisher, &proxy, receiver, ROUNDS_MAX), 4, 0);
        assert_true(proxy.chunks > CHUNKS); /* some came twice */
        chunks += proxy.chunks;
        proxy_close(&proxy);
    }
    assert_true(chunks >= 3 * CHUNKS + 3);
    close_pair(publisher, receiver);
}

static void test_damage_that_stays_is_no_flood(void **state)
{
    (void)state;
    struct weight_publisher *publisher;
    struct weight_receiver *receiver;
    struct proxy proxy;
    char front[64];
    open_pair(&publisher, &receiver);
    publish(publisher, 4, 0);
    snprintf(front, sizeof front, "%s-bad", endpoint);
    proxy_open(&proxy, front, endpoint);
    proxy.damage_until = 60;
    weight_receiver_want(receiver, front, -1);
    assert_null(run(publisher, &proxy, receiver, 3000)); /* never handed out */
    assert_true(proxy.chunks < 100);
    proxy.damage_until = -1;
    expect_snapshot(run(publisher, &proxy, receiver, ROUNDS_MAX), 4, 0);
    proxy_close(&proxy);
    close_pair(publisher, receiver);
}

static void test_lost_chunk_is_asked_for_again(void **state)
{
    (void)state;
    struct weight_publisher *publisher;
    struct weight_receiver *receiver;
    struct proxy proxy;
    open_pair(&publisher, &receiver);
    publish(publisher, 4, 0);
    for (int drop_at = 0; drop_at < CHUNKS; drop_at += 4) {
        char front[64];
        snprintf(front, sizeof front, "%s-drop-%d", endpoint, drop_at);
        proxy_open(&proxy, front, endpoint);
        proxy.drop_at = drop_at;
        weight_receiver_want(receiver, front, -1);
        expect_snapshot(run(publisher, &proxy, receiver, ROUNDS_MAX), 4, 0);
        proxy_close(&proxy);
    }
    close_pair(publisher, receiver);
}

static void restart_publisher(struct weight_publisher **publisher)
{
    weight_publisher_destroy(*publisher);
    int rc;
    while ((rc = weight_publisher_create(publisher, context, endpoint, &fake, &options)) ==
           HONE_EBUSY)
        clock_sleep_ms(1);
    assert_int_equal(rc, 0);
}

/* The publisher goes away after `rounds` rounds of a transfer and comes back with the same version
 * number, the same values or others. 1 when the transfer was interrupted. An ipc endpoint: an
 * inproc connection ends for good with its server. */
static int restart_case(int rounds, uint32_t variant_after)
{
    struct weight_publisher *publisher;
    struct weight_receiver *receiver;
    const struct snapshot *snapshot = NULL;
    char directory[] = "/tmp/hone-weights-XXXXXX";
    assert_non_null(mkdtemp(directory));
    snprintf(endpoint, sizeof endpoint, "ipc://%s/%d", directory, rounds);
    open_pair(&publisher, &receiver);
    publish(publisher, 7, 0);
    weight_receiver_want(receiver, endpoint, -1);
    struct wire_client *client = weight_receiver_socket(receiver);
    for (int i = 0; i < rounds && !snapshot; i++) {
        struct wire_server *server = weight_publisher_socket(publisher);
        wire_poll(&server, 1, &client, 1, 20);
        snapshot = run(publisher, NULL, receiver, 1);
    }
    int interrupted = snapshot == NULL;
    restart_publisher(&publisher);
    publish(publisher, 7, variant_after);
    for (int i = 0; i < 2000 && interrupted && !snapshot; i++) {
        snapshot = run(publisher, NULL, receiver, 1);
        if (!snapshot) {
            struct wire_server *server = weight_publisher_socket(publisher);
            wire_poll(&server, 1, &client, 1, 10);
            now_ns += 50000000;
        }
    }
    assert_non_null(snapshot);
    /* What was under way when the old one went may complete it; but old or new, never a mixture. */
    struct snapshot old = make_snapshot(7, 0);
    bool is_old = memcmp(old.data, snapshot->data, old.bytes) == 0;
    snapshot_release(&old);
    expect_snapshot(snapshot, 7, is_old ? 0 : variant_after);
    close_pair(publisher, receiver);
    assert_int_equal(file_remove_tree(directory), 0);
    return interrupted;
}

static void test_publisher_restarts_with_the_same_version(void **state)
{
    (void)state;
    int interrupted = 0;
    /* A round takes in four messages at most, the first one none: 2 and 3 rounds are too few. */
    for (int rounds = 2; rounds < 5; rounds++)
        interrupted += restart_case(rounds, rounds % 3 != 0);
    assert_true(interrupted >= 2);
}

static void test_deadline_starts_again(void **state)
{
    (void)state;
    struct weight_publisher *publisher;
    struct weight_receiver *receiver;
    const struct snapshot *snapshot;
    open_pair(&publisher, &receiver);
    publish(publisher, 2, 0);
    weight_receiver_want(receiver, endpoint, -1);
    assert_null(run(publisher, NULL, receiver, 2));
    assert_null(run(NULL, NULL, receiver, DEADLINE_MS + 100)); /* the publisher is stuck */
    assert_true(weight_receiver_busy(receiver));
    snapshot = run(publisher, NULL, receiver, ROUNDS_MAX);
    assert_non_null(snapshot);
    expect_snapshot(snapshot, 2, 0);
    close_pair(publisher, receiver);
}

static void test_bad_requests_drop_their_sender_only(void **state)
{
    (void)state;
    static const int64_t bad[][2] = {{-1, 10}, {1LL << 40, 10}, {0, -5}, {0, 1LL << 40}};
    struct weight_publisher *publisher;
    struct weight_receiver *receiver;
    open_pair(&publisher, &receiver);
    publish(publisher, 2, 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct wire_client *client;
        struct wire_message message;
        char name[16];
        snprintf(name, sizeof name, "bad-%zu", i);
        assert_int_equal(wire_client_create(&client, context, endpoint, name), 0);
        Hone__Envelope envelope = HONE__ENVELOPE__INIT;
        Hone__WeightsRequest request = HONE__WEIGHTS_REQUEST__INIT;
        request.has_version = request.has_offset = request.has_credit_bytes = 1;
        request.version = 2;
        request.offset = bad[i][0];
        request.credit_bytes = bad[i][1];
        envelope.kind = HONE__KIND__KIND_WEIGHTS_REQUEST;
        envelope.weights_request = &request;
        assert_int_equal(wire_client_send(client, &envelope, NULL, 0), 0);
        request.offset = 0;
        request.credit_bytes = 100; /* in range, but too late */
        assert_int_equal(wire_client_send(client, &envelope, NULL, 0), 0);
        for (int k = 0; k < 5; k++)
            assert_int_equal(weight_publisher_tick(publisher), 0);
        assert_int_equal(wire_client_receive(client, &message), 0);
        wire_client_destroy(client);
    }
    weight_receiver_want(receiver, endpoint, -1);
    expect_snapshot(run(publisher, NULL, receiver, ROUNDS_MAX), 2, 0);
    close_pair(publisher, receiver);
}

static char long_name[100];
static unsigned char short_digest[15];

static void spoil_manifest(struct manifest *manifest, int what)
{
    Hone__WeightsManifest *message = &manifest->message;
    Hone__TensorDigest *tensor = message->tensors[1];
    static char empty[1];
    switch (what) {
    case 0:
        message->version = -1;
        break;
    case 1:
        message->n_tensors = 0;
        break;
    case 2:
        tensor->rows = INT64_MAX / 2;
        break;
    case 3:
        tensor->columns = 0;
        break;
    case 4:
        tensor->dtype = 77;
        break;
    case 5:
        tensor->name = long_name;
        break;
    case 6:
        tensor->name = empty;
        break;
    case 7:
        tensor->checksum.data = short_digest;
        tensor->checksum.len = sizeof short_digest;
        break;
    case 8:
        message->total_bytes++;
        break;
    case 9:
        tensor->checksum.data[3] ^= 1; /* then it does not have its own hash */
        break;
    default:
        message->weights_hash = long_name;
        break;
    }
}

static void test_manifests_are_checked(void **state)
{
    (void)state;
    memset(long_name, 'x', sizeof long_name - 1);
    for (int what = -1; what <= 10; what++) {
        struct snapshot snapshot = make_snapshot(3, 0), read;
        struct manifest manifest;
        snapshot_sum(&snapshot);
        manifest_build(&manifest, &snapshot, 2);
        if (what >= 0)
            spoil_manifest(&manifest, what);
        int rc = manifest_read(&manifest.message, &read);
        if (rc != (what < 0 ? 0 : HONE_EFORMAT))
            fail_msg("case %d: %d", what, rc);
        assert_true(what < 0 || read.tensors == NULL);
        manifest_release(&manifest);
        snapshot_release(&snapshot);
        snapshot_release(&read);
    }
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_fetches_and_waits_for_newer),
        CASE(test_newest_wins),
        CASE(test_several_receivers),
        CASE(test_damaged_chunk_is_fetched_again),
        CASE(test_damage_that_stays_is_no_flood),
        CASE(test_lost_chunk_is_asked_for_again),
        CASE(test_publisher_restarts_with_the_same_version),
        CASE(test_deadline_starts_again),
        CASE(test_bad_requests_drop_their_sender_only),
        CASE(test_manifests_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

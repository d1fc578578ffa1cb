/* The ways by which a version reaches a receiver: shared slot, delta, chunks, relay; and from each
 * one the way back to a plainer one when it fails. Time is a fake clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/wire/snapshot.h"
#include "tests/infra/wire/snapshot_fixture.h"

#define TENSORS     3
#define ROUNDS_MAX  40000
#define DEADLINE_MS 10000
#define IMAGE_TAIL  ((size_t)3 << 20)
#define PARTIES_MAX 4

static int64_t now_ns;
static struct clock fake;
static struct wire_context *context;
static struct weight_slots *slots;
static struct weight_publisher *publisher;
static struct weight_options options;
static char endpoint[64];

static struct snapshot describe(int64_t version)
{
    static const struct tensor_shape shapes[TENSORS] = {
        {DTYPE_BF16, 1000, 8000}, {DTYPE_F32, 1, 1001}, {DTYPE_BF16, 1500, 2000}};
    struct snapshot snapshot = snapshot_of_shapes(version, shapes, TENSORS);
    return snapshot;
}

/* Noise, the same in every version, but for one value in 500. */
static void fill(unsigned char *data, size_t bytes, int64_t version)
{
    struct rng_key noise = {.seed = 1, .purpose = RNG_SIM};
    struct rng_key changes = {.seed = 2, .purpose = RNG_SIM, .a = (uint64_t)version};
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
        uint64_t word = rng_u64(&noise, i);
        memcpy(data + i, &word, sizeof word);
    }
    for (size_t i = 0; i + 1000 <= bytes; i += 1000)
        data[i + 2 * rng_below(&changes, i, 500)] += (unsigned char)(1 + version);
}

static struct snapshot plain_snapshot(int64_t version)
{
    struct snapshot snapshot = describe(version);
    snapshot.data = memory_alloc(snapshot.bytes, 1);
    fill(snapshot.data, snapshot.bytes, version);
    return snapshot;
}

/* The values, then a tail that stands for packed operands; three parts are read by the engine. */
static struct snapshot slot_snapshot(int64_t version)
{
    struct snapshot snapshot = describe(version);
    snapshot.slot = weight_slots_take(slots);
    assert_non_null(snapshot.slot);
    snapshot.data = weight_slot_memory(snapshot.slot);
    snapshot.image = snapshot.data;
    snapshot.image_bytes = snapshot.bytes + IMAGE_TAIL;
    fill(snapshot.data, snapshot.bytes, version);
    memset(snapshot.data + snapshot.bytes, (int)(version + 50), IMAGE_TAIL);
    weight_slot_publish(snapshot.slot);
    snapshot.part_count = 3;
    snapshot.parts = MEMORY_ARRAY(struct snapshot_part, 3);
    snapshot.part_sums = MEMORY_ARRAY(struct checksum, 3);
    snapshot.parts[0] = (struct snapshot_part){0, 70001};
    snapshot.parts[1] = (struct snapshot_part){200000, 64};
    snapshot.parts[2] = (struct snapshot_part){(int64_t)snapshot.bytes, (int64_t)IMAGE_TAIL};
    return snapshot;
}

static int set_up(void **state)
{
    static int count;
    (void)state;
    now_ns = 0;
    fake = clock_fake(&now_ns);
    context = wire_context_create();
    options = (struct weight_options){.delta = true, .deadline_ms = DEADLINE_MS};
    snprintf(endpoint, sizeof endpoint, "inproc://ways-%d", count++);
    struct snapshot shape = describe(0);
    assert_int_equal(weight_slots_create(&slots, shape.bytes + IMAGE_TAIL, 3, 4), 0);
    snapshot_release(&shape);
    assert_int_equal(weight_publisher_create(&publisher, context, endpoint, &fake, &options), 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    weight_publisher_destroy(publisher);
    weight_slots_destroy(slots);
    wire_context_destroy(context);
    return 0;
}

static void publish(struct snapshot snapshot)
{
    weight_publisher_publish(publisher, &snapshot);
}

static struct weight_receiver *new_receiver(const char *name)
{
    struct weight_receiver *receiver;
    assert_int_equal(weight_receiver_create(&receiver, context, name, &fake, &options), 0);
    return receiver;
}

/* ---- between the ends: answers that are changed on their way ---- */

struct proxy {
    struct wire_server *front;
    struct wire_client *back;
    struct wire_peer receiver;
    void (*spoil)(Hone__Envelope *envelope, unsigned char *payload);
    int spoils; /* how many are left */
};

static void proxy_tick(struct proxy *proxy)
{
    struct wire_message message;
    while (wire_server_receive(proxy->front, &proxy->receiver, &message) == 1) {
        wire_client_send(proxy->back, message.envelope, NULL, 0);
        wire_message_release(&message);
    }
    while (wire_client_receive(proxy->back, &message) == 1) {
        unsigned char *payload =
            message.payload ? memory_dup(message.payload, message.payload_bytes) : NULL;
        if (proxy->spoils > 0)
            proxy->spoil(message.envelope, payload);
        wire_server_send(proxy->front, &proxy->receiver, message.envelope, payload,
                         message.payload_bytes);
        memory_free(payload);
        wire_message_release(&message);
    }
}

static struct proxy proxy_state;

static const char *proxy_open(void (*spoil)(Hone__Envelope *envelope, unsigned char *payload),
                              int spoils)
{
    static char front[96];
    static int count; /* an inproc connection ends for good with its server */
    snprintf(front, sizeof front, "%s-proxy-%d", endpoint, count++);
    proxy_state = (struct proxy){.spoil = spoil, .spoils = spoils};
    assert_int_equal(wire_server_create(&proxy_state.front, context, front), 0);
    assert_int_equal(wire_client_create(&proxy_state.back, context, endpoint, "proxy"), 0);
    return front;
}

static void proxy_close(void)
{
    wire_client_destroy(proxy_state.back);
    wire_server_destroy(proxy_state.front);
    memset(&proxy_state, 0, sizeof proxy_state);
}

/* ---- running ---- */

/* Ticks everybody until the first receiver hands something out; NULL when it does not. The others
 * go on with what they have. */
static const struct snapshot *run(struct weight_receiver *const *receivers, int count, int rounds)
{
    for (int round = 0; round < rounds; round++) {
        assert_true(weight_publisher_tick(publisher) >= 0);
        if (proxy_state.front)
            proxy_tick(&proxy_state);
        for (int i = count - 1; i >= 0; i--) {
            const struct snapshot *snapshot;
            int rc = weight_receiver_tick(receivers[i], &snapshot);
            assert_true(rc >= 0);
            if (rc == 1 && i == 0)
                return snapshot;
        }
        now_ns += 1000000;
    }
    return NULL;
}

static const struct snapshot *fetch(struct weight_receiver *receiver, const char *from,
                                    int64_t have)
{
    weight_receiver_want(receiver, from, have);
    return run(&receiver, 1, ROUNDS_MAX);
}

static void expect_values(const struct snapshot *got, int64_t version)
{
    struct snapshot expected = plain_snapshot(version);
    assert_non_null(got);
    assert_int_equal(got->version, version);
    assert_null(got->image);
    assert_int_equal(got->bytes, expected.bytes);
    assert_int_equal(memcmp(got->data, expected.data, expected.bytes), 0);
    snapshot_release(&expected);
}

static void expect_image(const struct snapshot *got, int64_t version)
{
    struct snapshot expected = plain_snapshot(version);
    assert_non_null(got);
    assert_int_equal(got->version, version);
    assert_non_null(got->image);
    assert_null(got->data);
    assert_int_equal(got->image_bytes, expected.bytes + IMAGE_TAIL);
    assert_int_equal(memcmp(got->image, expected.data, expected.bytes), 0);
    for (size_t i = 0; i < IMAGE_TAIL; i++)
        assert_int_equal(got->image[expected.bytes + i], version + 50);
    snapshot_release(&expected);
}

static void expect_way(const struct weight_receiver *receiver, const char *way)
{
    assert_string_equal(weight_receiver_report(receiver)->way, way);
}

/* ---- slots ---- */

static void test_slots_are_mapped(void **state)
{
    (void)state;
    struct weight_receiver *receiver = new_receiver("actor-0");
    weight_receiver_want(receiver, endpoint, -1);
    assert_null(run(&receiver, 1, 50));
    for (int64_t version = 0; version < 12; version++) {
        publish(slot_snapshot(version));
        const struct snapshot *got = run(&receiver, 1, ROUNDS_MAX);
        expect_image(got, version);
        expect_way(receiver, "slot");
        assert_int_equal(weight_receiver_report(receiver)->wire_bytes, 0);
        weight_receiver_want(receiver, endpoint, version);
        /* In use until the next is here, however many are published meanwhile. */
        if (version == 5) {
            for (int i = 0; i < 6; i++)
                publish(slot_snapshot(++version));
            expect_image(got, 5);
        }
    }
    weight_receiver_destroy(receiver);
}

static void spoil_sums(Hone__Envelope *envelope, unsigned char *payload)
{
    (void)payload;
    if (envelope->kind != HONE__KIND__KIND_WEIGHTS_SLOT_CHECKSUMS)
        return;
    envelope->weights_slot_checksums->checksums.data[20] ^= 1;
    proxy_state.spoils--;
}

static void spoil_place(Hone__Envelope *envelope, unsigned char *payload)
{
    (void)payload;
    if (envelope->kind != HONE__KIND__KIND_WEIGHTS_SLOT)
        return;
    envelope->weights_slot->fd = 9999;
    proxy_state.spoils--;
}

/* As from a slot that was written again meanwhile. */
static void spoil_nonce(Hone__Envelope *envelope, unsigned char *payload)
{
    (void)payload;
    if (envelope->kind != HONE__KIND__KIND_WEIGHTS_SLOT)
        return;
    envelope->weights_slot->nonce.data[0] ^= 1;
    proxy_state.spoils--;
}

static void test_wrong_sums(void **state)
{
    (void)state;
    struct weight_receiver *receiver = new_receiver("actor-0");
    publish(slot_snapshot(3));
    const char *front = proxy_open(spoil_sums, 1);
    expect_image(fetch(receiver, front, -1), 3); /* once: the slot again */
    proxy_close();
    publish(slot_snapshot(4));
    front = proxy_open(spoil_sums, 1000);
    expect_values(fetch(receiver, front, 3), 4); /* always: another way */
    proxy_close();
    weight_receiver_destroy(receiver);
}

static void test_slots_that_cannot_be_had(void **state)
{
    (void)state;
    struct weight_receiver *receiver = new_receiver("actor-0");
    publish(slot_snapshot(3));
    const char *front = proxy_open(spoil_nonce, 1);
    expect_image(fetch(receiver, front, -1), 3);
    proxy_close();
    publish(slot_snapshot(4));
    front = proxy_open(spoil_place, 1);
    expect_values(fetch(receiver, front, 3), 4);
    assert_int_equal(proxy_state.spoils, 0);
    proxy_close();
    weight_receiver_destroy(receiver);
}

static void test_nothing_but_shared_memory(void **state)
{
    (void)state;
    const struct snapshot *snapshot;
    int rc = 0;
    options.transport = WEIGHTS_SHARED_MEMORY;
    struct weight_receiver *receiver = new_receiver("actor-0");
    publish(plain_snapshot(1));
    weight_receiver_want(receiver, endpoint, -1);
    for (int i = 0; i < 100 && rc == 0; i++) {
        weight_publisher_tick(publisher);
        rc = weight_receiver_tick(receiver, &snapshot);
    }
    assert_int_equal(rc, HONE_EUNSUPPORTED);
    weight_receiver_destroy(receiver);
}

/* ---- deltas ---- */

static void test_deltas(void **state)
{
    (void)state;
    options.transport = WEIGHTS_CHUNKS;
    struct weight_receiver *receiver = new_receiver("actor-0");
    publish(slot_snapshot(0));
    const struct snapshot *got = fetch(receiver, endpoint, -1);
    expect_values(got, 0);
    expect_way(receiver, "chunks");
    size_t whole = got->bytes;
    weight_receiver_want(receiver, endpoint, 0);
    assert_null(run(&receiver, 1, 20));
    publish(slot_snapshot(1));
    const struct weight_publish_report *report = weight_publisher_report(publisher);
    assert_true(report->delta_bytes > 0 && report->delta_ratio < 0.05 && report->changed < 0.01);
    expect_values(run(&receiver, 1, ROUNDS_MAX), 1);
    expect_way(receiver, "delta");
    assert_true(weight_receiver_report(receiver)->wire_bytes < whole / 20);
    /* Three versions behind: three links. */
    for (int64_t version = 2; version <= 4; version++)
        publish(plain_snapshot(version));
    expect_values(fetch(receiver, endpoint, 1), 4);
    expect_way(receiver, "delta");
    /* Too far behind. */
    for (int64_t version = 5; version <= 14; version++)
        publish(plain_snapshot(version));
    expect_values(fetch(receiver, endpoint, 4), 14);
    expect_way(receiver, "chunks");
    /* Nothing in common. */
    weight_receiver_want(receiver, endpoint, 14);
    assert_null(run(&receiver, 1, 20));
    struct snapshot other = plain_snapshot(15);
    for (size_t i = 0; i < other.bytes; i++)
        other.data[i] = (unsigned char)~other.data[i];
    publish(other);
    got = run(&receiver, 1, ROUNDS_MAX);
    assert_non_null(got);
    assert_int_equal(got->version, 15);
    expect_way(receiver, "chunks");
    weight_receiver_destroy(receiver);
}

static int delta_bit;

static void spoil_delta(Hone__Envelope *envelope, unsigned char *payload)
{
    if (envelope->kind != HONE__KIND__KIND_WEIGHTS_CHUNK ||
        !envelope->weights_chunk->has_delta_from || envelope->weights_chunk->bytes * 8 <= delta_bit)
        return;
    payload[delta_bit / 8] ^= (unsigned char)(1 << delta_bit % 8);
    proxy_state.spoils--;
}

static void spoil_base(Hone__Envelope *envelope, unsigned char *payload)
{
    (void)payload;
    if (envelope->kind != HONE__KIND__KIND_WEIGHTS_MANIFEST ||
        !envelope->weights_manifest->has_delta_from)
        return;
    envelope->weights_manifest->delta_from--;
    proxy_state.spoils--;
}

static void spoil_sizes(Hone__Envelope *envelope, unsigned char *payload)
{
    int64_t huge = INT64_C(1) << 40;
    (void)payload;
    if (envelope->kind != HONE__KIND__KIND_WEIGHTS_MANIFEST ||
        !envelope->weights_manifest->has_delta_from)
        return;
    memcpy(envelope->weights_manifest->delta_links.data + delta_bit % 2 * 8, &huge, sizeof huge);
    proxy_state.spoils--;
}

/* What is wrong with a delta: the whole comes, and it is right. */
static void check_bad_delta(void (*spoil)(Hone__Envelope *envelope, unsigned char *payload),
                            int64_t version)
{
    struct weight_receiver *receiver = new_receiver("actor-0");
    publish(plain_snapshot(version));
    expect_values(fetch(receiver, endpoint, -1), version);
    weight_receiver_want(receiver, endpoint, version);
    assert_null(run(&receiver, 1, 20));
    publish(plain_snapshot(version + 1));
    const char *front = proxy_open(spoil, 1);
    const struct snapshot *got = fetch(receiver, front, version);
    assert_int_equal(proxy_state.spoils, 0);
    expect_values(got, version + 1);
    expect_way(receiver, "chunks");
    proxy_close();
    weight_receiver_destroy(receiver);
}

static void test_bad_deltas(void **state)
{
    (void)state;
    options.transport = WEIGHTS_CHUNKS;
    static const int bits[] = {0, 333, 40000};
    for (int i = 0; i < 3; i++) {
        delta_bit = bits[i];
        check_bad_delta(spoil_delta, 10 * i);
    }
    check_bad_delta(spoil_base, 100);
    for (delta_bit = 0; delta_bit < 2; delta_bit++)
        check_bad_delta(spoil_sizes, 200 + 10 * delta_bit);
}

/* ---- latest wins, and nobody waits ---- */

static void test_a_newer_version_wins(void **state)
{
    (void)state;
    options.transport = WEIGHTS_CHUNKS;
    struct weight_receiver *receiver = new_receiver("actor-0");
    publish(plain_snapshot(1));
    weight_receiver_want(receiver, endpoint, -1);
    assert_null(run(&receiver, 1, 3)); /* the first chunks are on their way */
    publish(plain_snapshot(2));
    assert_null(run(&receiver, 1, 2));
    publish(plain_snapshot(3)); /* gave way once: this transfer ends */
    expect_values(run(&receiver, 1, ROUNDS_MAX), 2);
    expect_values(fetch(receiver, endpoint, 2), 3);
    weight_receiver_destroy(receiver);
}

static void test_receivers_that_vanish(void **state)
{
    (void)state;
    struct weight_receiver *receiver = new_receiver("actor-0");
    for (int64_t version = 0; version < 8; version++) {
        options.transport = version % 2 ? WEIGHTS_CHUNKS : WEIGHTS_AUTO;
        struct weight_receiver *lost = new_receiver("actor-1");
        publish(slot_snapshot(version));
        weight_receiver_want(lost, endpoint, -1);
        run(&lost, 1, 1 + (int)version % 4); /* asked, told, or in the middle */
        weight_receiver_destroy(lost);
        expect_image(fetch(receiver, endpoint, version - 1), version);
    }
    weight_receiver_destroy(receiver);
}

/* ---- relays ---- */

/* The publisher serves one; the second is pointed to the first, who has the version. */
static void relay_case(bool relay_dies)
{
    char relay[96];
    struct weight_receiver *receivers[3];
    const struct snapshot *snapshot;
    options = (struct weight_options){
        .transport = WEIGHTS_CHUNKS, .fanout = 1, .deadline_ms = DEADLINE_MS};
    weight_publisher_destroy(publisher);
    snprintf(endpoint + strlen(endpoint), sizeof endpoint - strlen(endpoint), "r");
    assert_int_equal(weight_publisher_create(&publisher, context, endpoint, &fake, &options), 0);
    publish(plain_snapshot(4));
    snprintf(relay, sizeof relay, "%s-relay", endpoint);
    options.relay_endpoint = relay;
    struct weight_receiver *first = receivers[1] = new_receiver("actor-0");
    options.relay_endpoint = NULL;
    expect_values(fetch(first, endpoint, -1), 4);
    weight_receiver_want(first, endpoint, 4); /* says that it has it, and where */
    assert_null(run(&first, 1, 5));
    receivers[2] = new_receiver("actor-1"); /* is being served, and slow about it */
    weight_receiver_want(receivers[2], endpoint, -1);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(weight_receiver_tick(receivers[2], &snapshot), 0);
        weight_publisher_tick(publisher);
    }
    receivers[0] = new_receiver("actor-2");
    struct wire_client *direct;
    weight_receiver_want(receivers[0], endpoint, -1);
    direct = weight_receiver_socket(receivers[0]);
    assert_null(run(receivers, 2, 4));
    assert_ptr_not_equal(weight_receiver_socket(receivers[0]), direct);
    if (relay_dies) {
        int64_t before_ns = now_ns;
        weight_receiver_destroy(first);
        expect_values(run(receivers, 1, ROUNDS_MAX), 4);
        assert_true(now_ns - before_ns >= INT64_C(5000000000));
    } else {
        expect_values(run(receivers, 2, ROUNDS_MAX), 4);
        assert_true(now_ns < INT64_C(5000000000));
        /* A newer one comes from the publisher again. */
        assert_ptr_equal(weight_receiver_socket(receivers[0]), direct);
        weight_receiver_want(receivers[0], endpoint, 4);
        publish(plain_snapshot(5));
        expect_values(run(receivers, 2, ROUNDS_MAX), 5);
        weight_receiver_destroy(first);
    }
    weight_receiver_destroy(receivers[0]);
    weight_receiver_destroy(receivers[2]);
}

static void test_relay(void **state)
{
    (void)state;
    relay_case(false);
}

static void test_a_relay_that_dies(void **state)
{
    (void)state;
    relay_case(true);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    log_set_level(LOG_LEVEL_ERROR);
    const struct CMUnitTest tests[] = {CASE(test_slots_are_mapped),
                                       CASE(test_wrong_sums),
                                       CASE(test_slots_that_cannot_be_had),
                                       CASE(test_nothing_but_shared_memory),
                                       CASE(test_deltas),
                                       CASE(test_bad_deltas),
                                       CASE(test_a_newer_version_wins),
                                       CASE(test_receivers_that_vanish),
                                       CASE(test_relay),
                                       CASE(test_a_relay_that_dies)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

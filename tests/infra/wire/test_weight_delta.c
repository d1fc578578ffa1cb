/* A delta brings back the very bits, whatever they are; damaged, cut, foreign or swollen ones are
 * refused or show in the checksums. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <zstd.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/wire/weight_delta.h"
#include "tests/infra/wire/snapshot_fixture.h"

#define TENSORS 5

static const struct tensor_shape shapes[TENSORS] = {{DTYPE_BF16, 37, 61},
                                                    {DTYPE_F32, 1, 7},
                                                    {DTYPE_BF16, 3, 333},
                                                    {DTYPE_F32, 20, 33},
                                                    {DTYPE_U8, 1, 129}};

static struct snapshot new_snapshot(int64_t version)
{
    struct snapshot snapshot = snapshot_of_shapes(version, shapes, TENSORS);
    snapshot.data = memory_alloc(snapshot.bytes, 1);
    return snapshot;
}

static struct snapshot copy_of(const struct snapshot *snapshot)
{
    struct snapshot copy = new_snapshot(snapshot->version);
    memcpy(copy.data, snapshot->data, snapshot->bytes);
    return copy;
}

static void fill(struct snapshot *snapshot, struct rng_key *key)
{
    for (size_t i = 0; i < snapshot->bytes; i++)
        snapshot->data[i] = (unsigned char)rng_below(key, i, 256);
}

/* Changes about one value in `every`, by any bits or by one unit in the last place. */
static int64_t change(struct snapshot *snapshot, struct rng_key *key, uint64_t every)
{
    int64_t changes = 0;
    uint64_t draw = 1u << 20;
    for (int i = 0; i < TENSORS; i++) {
        const struct snapshot_tensor *tensor = &snapshot->tensors[i];
        size_t width = dtype_bytes(tensor->dtype);
        for (size_t at = 0; at < tensor->bytes; at += width) {
            unsigned char *value = snapshot->data + tensor->offset + at;
            if (rng_below(key, draw++, every) != 0)
                continue;
            unsigned char old[4];
            memcpy(old, value, width);
            if (rng_below(key, draw++, 2))
                value[0]++;
            else
                value[rng_below(key, draw, width)] ^= (unsigned char)rng_below(key, draw + 1, 256);
            draw += 2;
            changes += memcmp(old, value, width) != 0;
        }
    }
    return changes;
}

static void expect_round_trip(const struct snapshot *from, const struct snapshot *to,
                              int64_t changes)
{
    struct weight_delta delta;
    assert_int_equal(weight_delta_encode(from->data, to, 4 * to->bytes, &delta), 1);
    assert_int_equal(delta.changes, changes);
    struct snapshot got = copy_of(from);
    assert_int_equal(weight_delta_apply(&got, delta.data, delta.bytes, delta.raw_bytes), 0);
    assert_memory_equal(got.data, to->data, to->bytes);
    snapshot_release(&got);
    weight_delta_release(&delta);
}

static void test_random_pairs(void **state)
{
    (void)state;
    static const uint64_t rates[] = {1000000, 1000, 100, 20, 5};
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct rng_key key = {.seed = seed, .purpose = RNG_SIM};
        struct snapshot from = new_snapshot(1);
        fill(&from, &key);
        struct snapshot to = copy_of(&from);
        int64_t changes = change(&to, &key, rates[seed % 5]);
        expect_round_trip(&from, &to, changes);
        snapshot_release(&from);
        snapshot_release(&to);
    }
}

/* -0, infinities, NaN payloads, denormals: bits and nothing else. */
static void test_special_values(void **state)
{
    (void)state;
    static const uint16_t halves[] = {0x8000, 0x0000, 0x7f80, 0xff80, 0x7fc1, 0xffff,
                                      0x7f81, 0x0001, 0x8001, 0x7f7f, 0xfffe};
    static const uint32_t words[] = {0x80000000, 0, 0x7f800001, 0xffffffff, 1, 0x7fc12345, 0x7f};
    struct snapshot from = new_snapshot(1), to = new_snapshot(2);
    int64_t changes = 0;
    for (size_t i = 0; i < 11 * 11; i++) {
        memcpy(from.data + 2 * i, &halves[i % 11], 2);
        memcpy(to.data + 2 * i, &halves[i / 11], 2);
        changes += halves[i % 11] != halves[i / 11];
    }
    for (size_t i = 0; i < 7 * 7; i++) {
        memcpy(from.data + from.tensors[3].offset + 4 * i, &words[i % 7], 4);
        memcpy(to.data + to.tensors[3].offset + 4 * i, &words[i / 7], 4);
        changes += words[i % 7] != words[i / 7];
    }
    memset(to.data + to.tensors[4].offset, 0xff, to.tensors[4].bytes); /* the very last value too */
    changes += (int64_t)to.tensors[4].bytes;
    expect_round_trip(&from, &to, changes);
    expect_round_trip(&to, &to, 0);
    snapshot_release(&from);
    snapshot_release(&to);
}

static void test_too_dense_is_not_made(void **state)
{
    (void)state;
    struct rng_key key = {.seed = 3, .purpose = RNG_SIM};
    struct snapshot from = new_snapshot(1), to = new_snapshot(2);
    struct weight_delta delta;
    fill(&from, &key);
    key.seed = 4;
    fill(&to, &key);
    assert_int_equal(weight_delta_encode(from.data, &to, to.bytes / 2, &delta), 0);
    assert_null(delta.data);
    /* Everything differs, and gaps of one byte come on top: past what a decoder takes. */
    assert_int_equal(weight_delta_encode(from.data, &to, 4 * to.bytes, &delta), 0);
    memcpy(to.data, from.data, from.bytes);
    to.data[5] ^= 1;
    assert_int_equal(weight_delta_encode(from.data, &to, to.bytes / 2, &delta), 1);
    assert_true(delta.bytes < 100);
    weight_delta_release(&delta);
    snapshot_release(&from);
    snapshot_release(&to);
}

/* True when the damage is refused or shows: the values' checksums are not those of the version. */
static bool shows(const struct snapshot *from, struct snapshot *to, const unsigned char *data,
                  size_t bytes, size_t raw_bytes)
{
    struct snapshot got = copy_of(from);
    bool different = false;
    if (weight_delta_apply(&got, data, bytes, raw_bytes) < 0) {
        different = true;
    } else {
        snapshot_sum(&got);
        for (int i = 0; i < TENSORS; i++)
            different |= memcmp(&got.tensors[i].checksum, &to->tensors[i].checksum,
                                sizeof(struct checksum)) != 0;
        /* Bits of a frame that mean nothing may change without harm. */
        different |= memcmp(got.data, to->data, to->bytes) == 0;
    }
    snapshot_release(&got);
    return different;
}

static void test_damage(void **state)
{
    (void)state;
    struct rng_key key = {.seed = 9, .purpose = RNG_SIM};
    struct snapshot from = new_snapshot(1);
    fill(&from, &key);
    struct snapshot to = copy_of(&from);
    change(&to, &key, 50);
    snapshot_sum(&to);
    struct weight_delta delta;
    assert_int_equal(weight_delta_encode(from.data, &to, to.bytes, &delta), 1);
    int refused = 0;
    for (size_t bit = 0; bit < 8 * delta.bytes; bit++) {
        delta.data[bit / 8] ^= (unsigned char)(1u << (bit % 8));
        assert_true(shows(&from, &to, delta.data, delta.bytes, delta.raw_bytes));
        struct snapshot got = copy_of(&from);
        refused += weight_delta_apply(&got, delta.data, delta.bytes, delta.raw_bytes) < 0;
        snapshot_release(&got);
        delta.data[bit / 8] ^= (unsigned char)(1u << (bit % 8));
    }
    assert_true(refused > 0);
    for (size_t bytes = 0; bytes < delta.bytes; bytes += 3) {
        struct snapshot got = copy_of(&from);
        assert_int_equal(weight_delta_apply(&got, delta.data, bytes, delta.raw_bytes),
                         HONE_EFORMAT);
        snapshot_release(&got);
    }
    /* Another base: nothing to refuse, but the values are not the version's. */
    struct snapshot foreign = copy_of(&from);
    foreign.data[100] ^= 4;
    struct snapshot got = copy_of(&foreign);
    assert_int_equal(weight_delta_apply(&got, delta.data, delta.bytes, delta.raw_bytes), 0);
    snapshot_sum(&got);
    assert_memory_not_equal(&got.tensors[0].checksum, &to.tensors[0].checksum,
                            sizeof(struct checksum));
    snapshot_release(&got);
    snapshot_release(&foreign);
    snapshot_release(&from);
    snapshot_release(&to);
    weight_delta_release(&delta);
}

/* raw is compressed and offered with the raw size that it claims. */
static int apply_forged(const void *raw, size_t bytes, size_t claimed)
{
    struct snapshot got = new_snapshot(1);
    size_t bound = ZSTD_compressBound(bytes);
    unsigned char *data = memory_alloc(bound, 1);
    size_t length = ZSTD_compress(data, bound, raw, bytes, 1);
    assert_false(ZSTD_isError(length));
    int rc = weight_delta_apply(&got, data, length, claimed);
    memory_free(data);
    snapshot_release(&got);
    return rc;
}

static void test_forged(void **state)
{
    (void)state;
    /* A bomb: 64 MiB of zeros are a few kB. What it claims is checked before anything is used. */
    size_t bomb_bytes = (size_t)64 << 20;
    unsigned char *bomb = memory_alloc(bomb_bytes, 1);
    assert_int_equal(apply_forged(bomb, bomb_bytes, bomb_bytes), HONE_EFORMAT);
    assert_int_equal(apply_forged(bomb, bomb_bytes, 1000), HONE_EFORMAT);
    memory_free(bomb);
    /* head, gaps, planes: one change of tensor 0 at value 5 by +1 is good ... */
    static const unsigned char good[] = {2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0,
                                         0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 5, 2, 0};
    assert_int_equal(apply_forged(good, sizeof good, sizeof good), 0);
    /* ... and nothing that departs from it is. */
    static const struct {
        size_t at;
        unsigned char value;
    } cases[] = {
        {0, 3},  {0, 1},  {7, 0x80}, {8, 0},  {8, 2},  {16, 3}, {16, 1},
        {23, 9}, {24, 5}, {24, 200}, {24, 1}, {25, 0}, {25, 2}, {26, 0x80},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned char bad[sizeof good];
        memcpy(bad, good, sizeof bad);
        bad[cases[i].at] = cases[i].value;
        /* Tensor 1 (fp32) has four planes: one change of it does not fit. */
        if (apply_forged(bad, sizeof bad, sizeof bad) != HONE_EFORMAT)
            fail_msg("case %zu is taken", i);
    }
    assert_int_equal(apply_forged(good, sizeof good - 1, sizeof good - 1), HONE_EFORMAT);
    assert_int_equal(apply_forged(good, 10, 10), HONE_EFORMAT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_pairs), cmocka_unit_test(test_special_values),
        cmocka_unit_test(test_too_dense_is_not_made), cmocka_unit_test(test_damage),
        cmocka_unit_test(test_forged)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

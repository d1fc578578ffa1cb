#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "infra/base/rng.h"

/* Known-answer vectors of Random123 (kat_vectors, philox4x32 10). */
static void test_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], words[4];
    } vectors[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        uint32_t words[4];
        rng_philox(vectors[i].counter, vectors[i].key, words);
        assert_memory_equal(words, vectors[i].words, sizeof words);
    }
}

/* Each bit of every field changes the draw. */
static void test_every_field_counts(void **state)
{
    (void)state;
    struct rng_key key = {.seed = 11, .purpose = RNG_SAMPLE, .a = 22, .b = 33};
    uint64_t plain = rng_u64(&key, 44);
    for (int bit = 0; bit < 64; bit++) {
        uint64_t one = (uint64_t)1 << bit;
        struct rng_key seed = key, a = key, b = key, purpose = key;
        seed.seed ^= one;
        a.a ^= one;
        assert_true(rng_u64(&seed, 44) != plain);
        assert_true(rng_u64(&a, 44) != plain);
        assert_true(rng_u64(&key, 44 ^ one) != plain);
        if (bit < 32) {
            b.b ^= (uint32_t)one;
            purpose.purpose ^= (uint32_t)one;
            assert_true(rng_u64(&b, 44) != plain);
            assert_true(rng_u64(&purpose, 44) != plain);
        }
    }
    assert_true(rng_u64(&key, 44) == plain);
}

static void test_uniform(void **state)
{
    (void)state;
    struct rng_key key = {.seed = 1, .purpose = RNG_SIM};
    double sum = 0;
    int buckets[16] = {0};
    for (uint64_t i = 0; i < 100000; i++) {
        float u = rng_uniform(&key, i);
        assert_true(u >= 0.0f && u < 1.0f);
        assert_true(u * 0x1p24f == floorf(u * 0x1p24f));
        sum += (double)u;
        buckets[(int)(u * 16.0f)]++;
    }
    assert_true(fabs(sum / 100000 - 0.5) < 0.004);
    for (int i = 0; i < 16; i++)
        assert_in_range(buckets[i], 6250 - 400, 6250 + 400);
}

/* The polynomials against the C library's functions, on the same two uniforms. */
static void test_normal_matches_libm(void **state)
{
    (void)state;
    struct rng_key key = {.seed = 5, .purpose = RNG_INIT, .a = 3};
    for (uint64_t i = 0; i < 20000; i++) {
        uint32_t w[4];
        rng_words(&key, i, w);
        double u = (double)((((uint64_t)w[1] << 32 | w[0]) >> 11) + 1) * 0x1p-53;
        double v = (double)(((uint64_t)w[3] << 32 | w[2]) >> 11) * 0x1p-53;
        double expected = sqrt(-2.0 * log(u)) * cos(2.0 * 3.14159265358979323846 * v);
        assert_true(fabs((double)rng_normal(&key, i) - expected) < 3e-7 * (1.0 + fabs(expected)));
    }
}

static void test_normal_moments(void **state)
{
    (void)state;
    struct rng_key key = {.seed = 8, .purpose = RNG_INIT};
    const int count = 100000;
    double sum = 0, square = 0, fourth = 0;
    for (int i = 0; i < count; i++) {
        double z = (double)rng_normal(&key, (uint64_t)i);
        sum += z;
        square += z * z;
        fourth += z * z * z * z;
    }
    assert_true(fabs(sum / count) < 0.015);
    assert_true(fabs(square / count - 1.0) < 0.02);
    assert_true(fabs(fourth / count - 3.0) < 0.15);
}

/* Pinned: initial weights must not change with the compiler, the C library or the machine. */
static void test_normal_bits(void **state)
{
    (void)state;
    struct rng_key key = {.seed = 1, .purpose = RNG_INIT, .a = 7};
    uint64_t digest = 0;
    for (uint64_t i = 0; i < 4096; i++) {
        float z = rng_normal(&key, i);
        uint32_t bits;
        memcpy(&bits, &z, sizeof bits);
        digest = (digest ^ bits) * 0x100000001b3u;
    }
    assert_true(digest == 0x35c714841d8a0e6u);
}

static void test_below(void **state)
{
    (void)state;
    struct rng_key key = {.seed = 2, .purpose = RNG_SIM};
    int seen[10] = {0};
    for (uint64_t i = 0; i < 20000; i++) {
        uint64_t value = rng_below(&key, i, 10);
        assert_true(value < 10);
        seen[value]++;
    }
    for (int i = 0; i < 10; i++)
        assert_in_range(seen[i], 1800, 2200);
    assert_true(rng_below(&key, 0, 1) == 0);
}

static void test_permutation(void **state)
{
    (void)state;
    struct rng_key key = {.seed = 4, .purpose = RNG_SHUFFLE, .a = 1};
    int64_t order[1000], again[1000];
    unsigned char seen[1000] = {0};
    rng_permutation(&key, 1000, order);
    rng_permutation(&key, 1000, again);
    assert_memory_equal(order, again, sizeof order);
    int fixed = 0;
    for (int i = 0; i < 1000; i++) {
        assert_in_range(order[i], 0, 999);
        assert_int_equal(seen[order[i]]++, 0);
        fixed += order[i] == i;
    }
    assert_in_range(fixed, 0, 8);
    key.a = 2;
    rng_permutation(&key, 1000, again);
    assert_memory_not_equal(order, again, sizeof order);
    rng_permutation(&key, 0, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers),  cmocka_unit_test(test_every_field_counts),
        cmocka_unit_test(test_uniform),        cmocka_unit_test(test_normal_matches_libm),
        cmocka_unit_test(test_normal_moments), cmocka_unit_test(test_normal_bits),
        cmocka_unit_test(test_below),          cmocka_unit_test(test_permutation)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

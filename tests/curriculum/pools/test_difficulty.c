/* What a measurement says of a prompt, and when it is believed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "curriculum/pools/difficulty.h"

static const struct difficulty_band band = {.low = 0.125, .high = 0.75, .certificate = 64};

/* Against the definition: the share of the C(n, k) subsets that hold a pass. */
static double pass_at_k_counted(int n, int c, int k)
{
    int hits = 0, all = 0;
    for (int subset = 0; subset < 1 << n; subset++) {
        if (__builtin_popcount((unsigned)subset) != k)
            continue;
        all++;
        hits += (subset & ((1 << c) - 1)) != 0;
    }
    return (double)hits / all;
}

static void test_pass_at_k(void **state)
{
    (void)state;
    for (int n = 1; n <= 9; n++)
        for (int c = 0; c <= n; c++)
            for (int k = 1; k <= n; k++)
                assert_true(fabs(pass_at_k(n, c, k) - pass_at_k_counted(n, c, k)) < 1e-12);
    assert_true(fabs(pass_at_k(64, 1, 64) - 1.0) < 1e-12);
}

static void test_the_estimate_is_never_certain(void **state)
{
    (void)state;
    assert_true(fabs(difficulty_estimate(8, 0) - 0.5 / 9) < 1e-12);
    assert_true(fabs(difficulty_estimate(8, 8) - 8.5 / 9) < 1e-12);
    assert_true(fabs(difficulty_estimate(0, 0) - 0.5) < 1e-12);
}

static void test_sides(void **state)
{
    (void)state;
    static const enum prompt_pool of_8[] = {POOL_HARD, POOL_BAND, POOL_BAND, POOL_BAND, POOL_BAND,
                                            POOL_BAND, POOL_BAND, POOL_EASY, POOL_EASY};
    for (int passed = 0; passed <= 8; passed++)
        assert_int_equal(difficulty_side(&band, 8, passed, passed == 0 ? 8 : 0), of_8[passed]);
    /* Both ends belong to the band, however they are written. */
    struct difficulty_band thirds = {.low = 1.0 / 3.0, .high = 0.1 + 0.2 + 0.3, .certificate = 64};
    assert_int_equal(difficulty_side(&thirds, 3, 1, 0), POOL_BAND);
    assert_int_equal(difficulty_side(&thirds, 5, 3, 0), POOL_BAND);
    assert_int_equal(difficulty_side(&band, 8, 0, 63), POOL_HARD);
    assert_int_equal(difficulty_side(&band, 8, 0, 64), POOL_PARKED);
    assert_int_equal(difficulty_side(&band, 16, 1, 64), POOL_HARD);
}

static enum prompt_pool after(struct difficulty *difficulty, int passed)
{
    difficulty_measure(difficulty, &(struct measurement){8, passed, 0}, &band);
    return difficulty->pool;
}

/* D1, D3 */
static void test_one_measurement_is_not_enough_to_leave(void **state)
{
    (void)state;
    struct difficulty d = {0};
    assert_int_equal(after(&d, 4), POOL_BAND);
    assert_int_equal(after(&d, 8), POOL_BAND);
    assert_int_equal(after(&d, 4), POOL_BAND);
    assert_int_equal(after(&d, 8), POOL_BAND); /* not in a row */
    assert_int_equal(after(&d, 7), POOL_EASY);
    assert_int_equal(after(&d, 0), POOL_EASY);
    assert_int_equal(after(&d, 8), POOL_EASY);
    assert_int_equal(after(&d, 0), POOL_EASY);
    assert_int_equal(after(&d, 0), POOL_HARD);
    assert_int_equal(after(&d, 8), POOL_HARD);
    assert_int_equal(after(&d, 1), POOL_BAND); /* one is enough to come in */
    assert_int_equal(after(&d, 0), POOL_BAND);
    assert_int_equal(after(&d, 8), POOL_BAND); /* out on different sides */
    for (int passed = 0; passed <= 8; passed++) {
        struct difficulty unseen = {0};
        assert_int_equal(after(&unseen, passed), difficulty_side(&band, 8, passed, 8));
    }
}

/* D2 */
static void test_a_prompt_is_parked_by_a_certificate(void **state)
{
    (void)state;
    struct difficulty d = {0};
    for (int i = 1; i < 8; i++)
        assert_int_equal(after(&d, 0), POOL_HARD);
    assert_int_equal(d.tries, 56);
    assert_int_equal(after(&d, 0), POOL_PARKED);
    assert_int_equal(after(&d, 0), POOL_PARKED);
    assert_int_equal(after(&d, 1), POOL_BAND);
    assert_int_equal(d.tries, 0);
    for (int i = 0; i < 7; i++)
        assert_int_equal(after(&d, 0), i == 0 ? POOL_BAND : POOL_HARD);
    assert_int_equal(after(&d, 0), POOL_PARKED);
}

/* A band that has moved applies at once, but not to a verdict that waits for a second. */
static void test_another_band(void **state)
{
    (void)state;
    struct difficulty_band narrow = {.low = 0.125, .high = 0.5, .certificate = 64};
    struct difficulty in = {0}, waiting = {0}, unseen = {0};
    after(&in, 6);
    difficulty_judge_again(&in, &narrow);
    assert_int_equal(in.pool, POOL_EASY);
    after(&waiting, 4);
    after(&waiting, 7);
    difficulty_judge_again(&waiting, &narrow);
    assert_int_equal(waiting.pool, POOL_BAND);
    assert_int_equal(waiting.leaning, POOL_EASY);
    difficulty_judge_again(&unseen, &narrow);
    assert_int_equal(unseen.pool, POOL_UNSEEN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pass_at_k),
        cmocka_unit_test(test_the_estimate_is_never_certain),
        cmocka_unit_test(test_sides),
        cmocka_unit_test(test_one_measurement_is_not_enough_to_leave),
        cmocka_unit_test(test_a_prompt_is_parked_by_a_certificate),
        cmocka_unit_test(test_another_band),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "tests/infra/train/train_fixture.h"

#include "infra/train/exponential.h"

static void agrees_with_the_c_library(void **state)
{
    (void)state;
    struct rng_key key = {.seed = 3, .purpose = RNG_DATA};
    for (uint64_t i = 0; i < 20000; i++) {
        double x = ((double)rng_uniform(&key, i) - 0.5) * (i % 2 ? 4.0 : 1400.0);
        double expected = exp(x);
        assert_true(fabs(exponential(x) - expected) <= 1e-15 * expected);
    }
    assert_true(exponential(0.0) == 1.0);
    assert_true(exponential(-0.0) == 1.0);
}

static void extremes_are_defined(void **state)
{
    (void)state;
    assert_true(isinf(exponential(710.0)));
    assert_true(isinf(exponential((double)INFINITY)));
    assert_true(exponential(-750.0) == 0.0);
    assert_true(exponential((double)-INFINITY) == 0.0);
    assert_true(isnan(exponential((double)NAN)));
}

/* Literal bits: any machine, any C library. */
static void bits_are_pinned(void **state)
{
    (void)state;
    assert_true(exponential(1.0) == 0x1.5bf0a8b14576ap+1);
    assert_true(exponential(-3.7) == 0x1.9511fc6871044p-6);
    assert_true(sigmoid(0.0) == 0.5);
    assert_true(sigmoid(800.0) == 1.0);
    assert_true(sigmoid(-800.0) == 0.0);
    assert_true(fabs(sigmoid(-2.0) - 0.11920292202211755) < 1e-16);
    assert_true(fabs(sigmoid(2.0) + sigmoid(-2.0) - 1.0) < 1e-15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_the_c_library),
        cmocka_unit_test(extremes_are_defined),
        cmocka_unit_test(bits_are_pinned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

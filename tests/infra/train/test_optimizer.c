#include "tests/infra/train/train_fixture.h"

#include "infra/train/optimizer.h"

static void assert_near(double actual, double expected)
{
    if (fabs(actual - expected) > 1e-12)
        fail_msg("%.17g is not %.17g", actual, expected);
}

static void constant_after_warm_up(void **state)
{
    (void)state;
    struct optimizer_options options = {
        .learning_rate = 0.4, .schedule = SCHEDULE_CONSTANT, .warmup_steps = 4};
    assert_near(optimizer_learning_rate(&options, 1), 0.1);
    assert_near(optimizer_learning_rate(&options, 3), 0.3);
    assert_near(optimizer_learning_rate(&options, 4), 0.4);
    assert_near(optimizer_learning_rate(&options, 1000000), 0.4);
}

static void linear_to_the_floor(void **state)
{
    (void)state;
    struct optimizer_options options = {.learning_rate = 1.0,
                                        .schedule = SCHEDULE_LINEAR,
                                        .warmup_steps = 2,
                                        .total_steps = 12,
                                        .min_lr_ratio = 0.1};
    assert_near(optimizer_learning_rate(&options, 2), 1.0);
    assert_near(optimizer_learning_rate(&options, 3), 1.0);
    assert_near(optimizer_learning_rate(&options, 8), 0.1 + 0.9 * 0.5);
    assert_near(optimizer_learning_rate(&options, 12), 0.1 + 0.9 * 0.1);
    assert_near(optimizer_learning_rate(&options, 13), 0.1);
    assert_near(optimizer_learning_rate(&options, 99), 0.1);
}

static void cosine_to_the_floor(void **state)
{
    (void)state;
    struct optimizer_options options = {
        .learning_rate = 2.0, .schedule = SCHEDULE_COSINE, .total_steps = 6};
    assert_near(optimizer_learning_rate(&options, 1), 2.0);
    assert_near(optimizer_learning_rate(&options, 3), 1.5); /* cos(pi/3) = 1/2 */
    assert_near(optimizer_learning_rate(&options, 4), 1.0);
    assert_near(optimizer_learning_rate(&options, 5), 0.5);
    assert_near(optimizer_learning_rate(&options, 7), 0.0);
    options.warmup_steps = 6; /* warm-up as long as the run: nothing to divide by */
    assert_near(optimizer_learning_rate(&options, 6), 2.0);
    assert_near(optimizer_learning_rate(&options, 7), 0.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(constant_after_warm_up),
        cmocka_unit_test(linear_to_the_floor),
        cmocka_unit_test(cosine_to_the_floor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

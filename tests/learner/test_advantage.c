#include "tests/infra/train/train_fixture.h"

#include "learner/advantage.h"

static void assert_near(float actual, double expected)
{
    if (fabs((double)actual - expected) > 1e-6)
        fail_msg("%.9g is not %.9g", (double)actual, expected);
}

/* Rewards 1 2 3 6: mean 3, unbiased variance (4 + 1 + 0 + 9) / 3. */
static void grpo_divides_by_the_unbiased_std(void **state)
{
    (void)state;
    const float rewards[] = {1, 2, 3, 6};
    const bool included[] = {true, true, true, true};
    float advantage[4];
    double std = sqrt(14.0 / 3.0);
    assert_int_equal(
        advantage_group(BASELINE_GROUP_MEAN, SCALE_GROUP_STD, 4, rewards, included, advantage), 4);
    for (int i = 0; i < 4; i++)
        assert_near(advantage[i], ((double)rewards[i] - 3.0) / (std + 1e-6));
}

static void dr_grpo_only_subtracts(void **state)
{
    (void)state;
    const float rewards[] = {1, 2, 3, 6};
    const bool included[] = {true, true, true, true};
    float advantage[4];
    advantage_group(BASELINE_GROUP_MEAN, SCALE_NONE, 4, rewards, included, advantage);
    for (int i = 0; i < 4; i++)
        assert_near(advantage[i], (double)rewards[i] - 3.0);
}

static void rloo_leaves_itself_out(void **state)
{
    (void)state;
    const float rewards[] = {1, 0, 0, 1};
    const bool included[] = {true, true, true, true};
    float advantage[4];
    advantage_group(BASELINE_LEAVE_ONE_OUT, SCALE_NONE, 4, rewards, included, advantage);
    assert_near(advantage[0], 1.0 - 1.0 / 3.0);
    assert_near(advantage[1], 0.0 - 2.0 / 3.0);
    assert_near(advantage[3], 1.0 - 1.0 / 3.0);
}

/* G8: a reward that is no number takes no part, whatever bytes stand in its place. */
static void excluded_rewards_do_not_count(void **state)
{
    (void)state;
    const float rewards[] = {1, NAN, 3, 1e30f};
    const bool included[] = {true, false, true, false};
    float advantage[4];
    assert_int_equal(
        advantage_group(BASELINE_GROUP_MEAN, SCALE_NONE, 4, rewards, included, advantage), 2);
    assert_near(advantage[0], -1.0);
    assert_near(advantage[1], 0.0);
    assert_near(advantage[2], 1.0);
    assert_near(advantage[3], 0.0);
}

static void no_spread_or_no_baseline_is_zero(void **state)
{
    (void)state;
    const float same[] = {0.1f, 0.1f, 0.1f};
    const bool all[] = {true, true, true}, one[] = {false, true, false};
    float advantage[3];
    for (int baseline = BASELINE_GROUP_MEAN; baseline <= BASELINE_LEAVE_ONE_OUT; baseline++)
        for (int scale = SCALE_GROUP_STD; scale <= SCALE_NONE; scale++) {
            assert_int_equal(advantage_group((enum advantage_baseline)baseline,
                                             (enum advantage_scale)scale, 3, same, all, advantage),
                             3);
            for (int i = 0; i < 3; i++)
                assert_true(fabsf(advantage[i]) < 1e-6f);
            memset(advantage, 0xff, sizeof advantage);
            assert_int_equal(advantage_group((enum advantage_baseline)baseline,
                                             (enum advantage_scale)scale, 3, same, one, advantage),
                             1);
            for (int i = 0; i < 3; i++)
                assert_true(advantage[i] == 0.0f);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grpo_divides_by_the_unbiased_std),
        cmocka_unit_test(dr_grpo_only_subtracts),
        cmocka_unit_test(rloo_leaves_itself_out),
        cmocka_unit_test(excluded_rewards_do_not_count),
        cmocka_unit_test(no_spread_or_no_baseline_is_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

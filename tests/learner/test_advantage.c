#include "tests/infra/train/train_fixture.h"

#include "learner/advantage.h"
#include "learner/returns.h"

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

/* Rewards 1 2 3 6 again; the others of 6 are 1 2 3: deviation 1. */
static void other_scales(void **state)
{
    (void)state;
    const float rewards[] = {1, 2, 3, 6};
    const bool included[] = {true, true, true, true};
    float advantage[4];
    advantage_group(BASELINE_GROUP_MEAN, SCALE_GROUP_MEAN, 4, rewards, included, advantage);
    for (int i = 0; i < 4; i++)
        assert_near(advantage[i], ((double)rewards[i] - 3.0) / (3.0 + 1e-6));
    advantage_group(BASELINE_LEAVE_ONE_OUT, SCALE_LEAVE_ONE_OUT_STD, 4, rewards, included,
                    advantage);
    assert_near(advantage[3], (6.0 - 2.0) / (1.0 + 1e-6));
    assert_near(advantage[0], (1.0 - 11.0 / 3.0) / (sqrt(13.0 / 3.0) + 1e-6)); /* 2 3 6 */
    /* Of a batch: nothing is done to a group, and one trajectory is enough. */
    for (int scale = SCALE_BATCH_STD; scale <= SCALE_NONE; scale++) {
        const bool one[] = {false, true, false, false};
        assert_int_equal(advantage_group(BASELINE_BATCH_MEAN, (enum advantage_scale)scale, 4,
                                         rewards, one, advantage),
                         1);
        assert_near(advantage[1], 2.0);
        assert_near(advantage[0], 0.0);
    }
}

/* Values 1 x 3, 5 x 1: mean 2, unbiased variance 12 / 3. */
static void moments_of_a_batch(void **state)
{
    (void)state;
    struct advantage_moments moments = {0};
    struct advantage_map map =
        advantage_batch(BASELINE_BATCH_MEAN, SCALE_BATCH_STD, &moments); /* of nothing */
    assert_true(map.shift == 0.0 && map.divisor > 0.0);
    advantage_moments_add(&moments, 1.0, 3);
    advantage_moments_add(&moments, 5.0, 1);
    map = advantage_batch(BASELINE_GROUP_MEAN, SCALE_BATCH_STD, &moments);
    assert_true(map.shift == 2.0 && fabs(map.divisor - 2.0) < 1e-7);
    map = advantage_batch(BASELINE_BATCH_MEAN, SCALE_NONE, &moments);
    assert_true(map.shift == 2.0 && map.divisor == 1.0);
    map = advantage_batch(BASELINE_GROUP_MEAN, SCALE_GROUP_STD, &moments);
    assert_true(map.shift == 0.0 && map.divisor == 1.0);
}

static void returns_by_hand(void **state)
{
    (void)state;
    const double rewards[] = {1, 2, 3}, values[] = {0.5, 1, 1.5};
    double out[3];
    returns_discounted(3, rewards, 0.5, out);
    assert_true(out[0] == 2.75 && out[1] == 3.5 && out[2] == 3.0);
    /* deltas 1.5, 2.5, 1.5 */
    returns_gae(3, rewards, values, 1.0, 0.5, out);
    assert_true(out[2] == 1.5 && out[1] == 3.25 && out[0] == 3.125);
    returns_gae(3, rewards, values, 1.0, 1.0, out); /* return less value */
    assert_true(out[0] == 5.5 && out[1] == 4.0 && out[2] == 1.5);
    returns_discounted(0, rewards, 1.0, out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grpo_divides_by_the_unbiased_std),
        cmocka_unit_test(dr_grpo_only_subtracts),
        cmocka_unit_test(rloo_leaves_itself_out),
        cmocka_unit_test(excluded_rewards_do_not_count),
        cmocka_unit_test(no_spread_or_no_baseline_is_zero),
        cmocka_unit_test(other_scales),
        cmocka_unit_test(moments_of_a_batch),
        cmocka_unit_test(returns_by_hand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* trajectory_validate: a well-formed trajectory passes and each broken rule is refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/data/token_support.h"
#include "infra/data/trajectory.h"

#define TOKENS 10

/* 3 prompt tokens, 3 sampled by version 4, 2 of the environment, 2 sampled by version 5. */
static void build(struct trajectory *t)
{
    trajectory_init(t, TOKENS);
    t->id = 77;
    t->prompt_tokens = 3;
    t->token_count = TOKENS;
    trajectory_add_segment(t, SEGMENT_PROMPT, 3);
    trajectory_add_segment(t, SEGMENT_POLICY, 1);
    trajectory_add_segment(t, SEGMENT_POLICY, 2);
    trajectory_add_segment(t, SEGMENT_ENVIRONMENT, 2);
    trajectory_add_segment(t, SEGMENT_POLICY, 2);
    for (int i = 0; i < TOKENS; i++) {
        bool sampled = (i >= 3 && i < 6) || i >= 8;
        t->tokens[i] = 100 + i;
        t->loss_mask[i] = sampled;
        t->behavior_logprob[i] = sampled ? -0.25f * (float)i : 0.0f;
        t->policy_version[i] = !sampled ? -1 : i < 6 ? 4 : 5;
    }
    t->finish = FINISH_STOP;
    t->sampling = (struct sampling){.temperature = 1.0f, .top_p = 1.0f, .stop_count = 1};
    t->reward = (struct reward){.status = REWARD_OK, .total = 1.0f, .part_count = 1};
    snprintf(t->reward.parts[0].name, sizeof t->reward.parts[0].name, "exact");
    t->reward.parts[0].value = t->reward.parts[0].weight = 1.0f;
}

static void test_accepts_and_queries(void **state)
{
    (void)state;
    struct trajectory t;
    build(&t);
    assert_int_equal(trajectory_validate(&t), 0);
    assert_int_equal(t.segment_count, 4);
    assert_int_equal(t.segments[1].start, 3);
    assert_int_equal(t.segments[1].count, 3);
    assert_int_equal(t.segments[3].start, 8);
    assert_int_equal(trajectory_oldest_version(&t), 4);
    assert_int_equal(trajectory_newest_version(&t), 5);
    assert_int_equal(trajectory_completion_tokens(&t), 7);
    trajectory_release(&t);
    assert_null(t.tokens);
    trajectory_release(&t);
}

static void test_empty_trajectory(void **state)
{
    (void)state;
    struct trajectory t;
    trajectory_init(&t, 0);
    assert_int_equal(trajectory_validate(&t), 0);
    assert_int_equal(trajectory_oldest_version(&t), -1);
    assert_int_equal(trajectory_newest_version(&t), -1);
    trajectory_release(&t);
}

static void negative_count(struct trajectory *t)
{
    t->token_count = -1;
}
static void prompt_too_long(struct trajectory *t)
{
    t->prompt_tokens = TOKENS + 1;
}
static void prompt_differs_from_segment(struct trajectory *t)
{
    t->prompt_tokens = 2;
}
static void negative_token(struct trajectory *t)
{
    t->tokens[4] = -3;
}
static void mask_two(struct trajectory *t)
{
    t->loss_mask[4] = 2;
}
static void trained_prompt(struct trajectory *t)
{
    t->loss_mask[1] = 1;
}
static void trained_environment(struct trajectory *t)
{
    t->loss_mask[6] = 1;
    t->policy_version[6] = 4;
}
static void logprob_under_mask(struct trajectory *t)
{
    t->behavior_logprob[6] = -1.0f;
}
static void logprob_nan(struct trajectory *t)
{
    t->behavior_logprob[4] = NAN;
}
static void logprob_infinite(struct trajectory *t)
{
    t->behavior_logprob[4] = -INFINITY;
}
static void logprob_positive(struct trajectory *t)
{
    t->behavior_logprob[4] = 0.5f;
}
static void mass_nan(struct trajectory *t)
{
    t->log_mass[4] = NAN;
}
static void version_goes_back(struct trajectory *t)
{
    t->policy_version[9] = 3;
}
static void version_missing(struct trajectory *t)
{
    t->policy_version[4] = -1;
}
static void version_on_prompt(struct trajectory *t)
{
    t->policy_version[0] = 4;
}
static void segment_gap(struct trajectory *t)
{
    t->segments[1].count = 2;
}
static void segment_short(struct trajectory *t)
{
    t->segment_count = 3;
}
static void segment_past_end(struct trajectory *t)
{
    t->segments[3].count = INT32_MAX;
}
static void segment_empty(struct trajectory *t)
{
    t->segments[3].count = 0;
}
static void segment_kind(struct trajectory *t)
{
    t->segments[2].kind = (enum segment_kind)9;
}
static void second_prompt(struct trajectory *t)
{
    t->segments[2].kind = SEGMENT_PROMPT;
}
static void finish_unknown(struct trajectory *t)
{
    t->finish = (enum finish_reason)7;
}
static void stop_count(struct trajectory *t)
{
    t->sampling.stop_count = SAMPLING_STOP_MAX + 1;
}
static void temperature_nan(struct trajectory *t)
{
    t->sampling.temperature = NAN;
}
static void top_p_two(struct trajectory *t)
{
    t->sampling.top_p = 2.0f;
}
static void reward_nan(struct trajectory *t)
{
    t->reward.total = NAN;
}
static void reward_status(struct trajectory *t)
{
    t->reward.status = (enum reward_status)4;
}
static void add_support(struct trajectory *t, int records, int32_t first)
{
    struct token_support support = {0};
    for (int i = 0; i < records; i++)
        token_support_add(&support, (const int32_t[]){first, 103, 104, 105, 108, 109}, 6);
    t->support = support.bytes;
    t->support_bytes = (int32_t)support.length;
    t->sampling.keep_support = true;
}
static void support_missing(struct trajectory *t)
{
    t->sampling.keep_support = true;
}
static void support_short(struct trajectory *t)
{
    add_support(t, 4, 1);
}
static void support_long(struct trajectory *t)
{
    add_support(t, 6, 1);
}
static void support_unasked(struct trajectory *t)
{
    add_support(t, 5, 1);
    t->sampling.keep_support = false;
}
static void support_of_another_token(struct trajectory *t)
{
    add_support(t, 5, 1);
    t->tokens[8] = 2;
}
static void reward_parts(struct trajectory *t)
{
    t->reward.part_count = REWARD_PARTS_MAX + 1;
}
static void reward_name(struct trajectory *t)
{
    memset(t->reward.parts[0].name, 'x', sizeof t->reward.parts[0].name);
}

static const struct {
    void (*spoil)(struct trajectory *t);
    const char *says;
} broken[] = {
    {negative_count, "negative count"},
    {prompt_too_long, "11 prompt tokens of 10"},
    {prompt_differs_from_segment, "2 prompt tokens"},
    {negative_token, "token 4 has id -3"},
    {mask_two, "loss mask 2"},
    {trained_prompt, "token 1 is trained"},
    {trained_environment, "token 6 is trained"},
    {logprob_under_mask, "token 6 is masked"},
    {logprob_nan, "token 4 has logprob"},
    {logprob_infinite, "token 4 has logprob"},
    {logprob_positive, "token 4 has logprob"},
    {mass_nan, "token 4 has logprob"},
    {version_goes_back, "G2"},
    {version_missing, "token 4 is trained"},
    {version_on_prompt, "token 0 has policy version 4"},
    {segment_gap, "segment 2"},
    {segment_short, "cover 8 of 10"},
    {segment_past_end, "segment 3"},
    {segment_empty, "segment 3"},
    {segment_kind, "kind 9"},
    {second_prompt, "segment 2"},
    {finish_unknown, "finish reason 7"},
    {stop_count, "9 stop ids"},
    {temperature_nan, "temperature"},
    {top_p_two, "top_p"},
    {reward_nan, "G8"},
    {reward_status, "reward status 4"},
    {reward_parts, "17 reward parts"},
    {reward_name, "proper name"},
    {support_missing, "token 3"},
    {support_short, "token 9: a token's support ends early"},
    {support_long, "belong to no token"},
    {support_unasked, "belong to no token"},
    {support_of_another_token, "token 8 (id 2) is not in what it was drawn from"},
};

static void test_refuses_each_broken_rule(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        struct trajectory t;
        build(&t);
        broken[i].spoil(&t);
        assert_int_equal(trajectory_validate(&t), HONE_EFORMAT);
        if (!strstr(error_message(), broken[i].says))
            fail_msg("case %zu: \"%s\" lacks \"%s\"", i, error_message(), broken[i].says);
        trajectory_release(&t);
    }
}

static void test_support_of_each_trained_token(void **state)
{
    (void)state;
    struct trajectory t, tail;
    build(&t);
    add_support(&t, 5, 1);
    assert_int_equal(trajectory_validate(&t), 0);
    trajectory_init(&tail, 1);
    tail.token_count = 1;
    tail.tokens[0] = 104;
    tail.loss_mask[0] = 1;
    tail.policy_version[0] = 5;
    add_support(&tail, 1, 0);
    trajectory_append(&t, &tail);
    assert_int_equal(trajectory_validate(&t), 0);
    trajectory_release(&t);
    trajectory_release(&tail);
}

static void test_unscored_statuses_need_no_number(void **state)
{
    (void)state;
    struct trajectory t;
    build(&t);
    t.reward.status = REWARD_TIMEOUT;
    t.reward.total = NAN;
    t.reward.parts[0].status = REWARD_ERROR;
    t.reward.parts[0].value = NAN;
    assert_int_equal(trajectory_validate(&t), 0);
    trajectory_release(&t);
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(finish_reason_name(FINISH_STOP), "stop");
    assert_string_equal(finish_reason_name(FINISH_ABORT), "abort");
    assert_string_equal(reward_status_name(REWARD_TIMEOUT), "timeout");
    assert_string_equal(reward_status_name((enum reward_status)9), "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepts_and_queries),
        cmocka_unit_test(test_empty_trajectory),
        cmocka_unit_test(test_refuses_each_broken_rule),
        cmocka_unit_test(test_support_of_each_trained_token),
        cmocka_unit_test(test_unscored_statuses_need_no_number),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

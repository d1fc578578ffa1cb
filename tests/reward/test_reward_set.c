#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/log.h"
#include "reward/reward_set.h"

#define SAY(answer)                                                                                \
    "while read -r line; do id=${line#*\\\"id\\\":}; id=${id%%,*};"                                \
    " echo \"{\\\"id\\\":$id," answer "}\"; done"

static const char *const half[] = {"/bin/sh", "-c", SAY("\\\"score\\\":0.5"), NULL};
static const char *const abstain[] = {"/bin/sh", "-c", SAY("\\\"score\\\":null"), NULL};
static const char *const broken[] = {"/bin/sh", "-c", SAY("\\\"status\\\":\\\"error\\\""), NULL};
static const char *const late[] = {"/bin/sh", "-c", SAY("\\\"status\\\":\\\"timeout\\\""), NULL};
static const char *const huge[] = {"/bin/sh", "-c", SAY("\\\"score\\\":3e38"), NULL};

static const struct reward_part_options number = {"number", "number", NULL, 2.0f, 0};

static struct reward score(const struct reward_part_options *parts, int32_t count)
{
    struct reward_input input = {.prompt = "1+1",
                                 .completion = "2",
                                 .ground_truth = "2",
                                 .data_source = "",
                                 .capability = "",
                                 .extra_json = "{}"};
    struct reward reward;
    struct reward_set *set;
    if (reward_set_create(&set, parts, count, clock_system()) < 0)
        fail_msg("%s", error_message());
    reward_set_score(set, &input, 1, &reward);
    reward_set_destroy(set);
    return reward;
}

static struct reward_part_options command(const char *name, const char *const *argv, float weight)
{
    struct reward_part_options part = {"", NULL, argv, weight, 5000};
    snprintf(part.name, sizeof part.name, "%s", name);
    return part;
}

static void test_weighted_sum(void **state)
{
    (void)state;
    const struct reward_part_options parts[] = {number, command("half", half, -0.5f)};
    struct reward reward = score(parts, 2);
    assert_int_equal(reward.status, REWARD_OK);
    assert_true(reward.total == 1.75f);
    assert_int_equal(reward.part_count, 2);
    assert_string_equal(reward.parts[0].name, "number");
    assert_true(reward.parts[0].value == 1.0f && reward.parts[0].weight == 2.0f);
    assert_string_equal(reward.parts[1].name, "half");
    assert_true(reward.parts[1].value == 0.5f && reward.parts[1].weight == -0.5f);
}

/* R1, each way a part can fail to be a number. */
static void test_statuses(void **state)
{
    (void)state;
    const struct reward_part_options out = command("out", abstain, 1);
    const struct reward_part_options bad = command("bad", broken, 1);
    const struct reward_part_options slow = command("slow", late, 1);
    const struct {
        struct reward_part_options parts[2];
        int32_t count;
        enum reward_status status;
    } cases[] = {
        {{number, out}, 2, REWARD_OK},    {{out}, 1, REWARD_ABSTAIN},
        {{number, bad}, 2, REWARD_ERROR}, {{number, slow}, 2, REWARD_TIMEOUT},
        {{bad, slow}, 2, REWARD_ERROR},   {{out, slow}, 2, REWARD_TIMEOUT},
        {{out, bad}, 2, REWARD_ERROR},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct reward reward = score(cases[i].parts, cases[i].count);
        assert_int_equal(reward.status, cases[i].status);
        assert_true(reward.total == (reward.status == REWARD_OK ? 2.0f : 0.0f));
    }
}

static void test_sum_out_of_range_is_an_error(void **state)
{
    (void)state;
    const struct reward_part_options parts[] = {command("a", huge, 1), command("b", huge, 1)};
    assert_int_equal(score(parts, 2).status, REWARD_ERROR);
}

static void expect_refusal(const struct reward_part_options *parts, int32_t count,
                           const char *message)
{
    struct reward_set *set;
    assert_int_equal(reward_set_create(&set, parts, count, clock_system()), HONE_EINVAL);
    assert_null(set);
    if (strstr(error_message(), message) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", error_message(), message);
}

static void test_refusals(void **state)
{
    (void)state;
    const struct reward_part_options unknown = {"a", "gms8k", NULL, 1, 0};
    const struct reward_part_options far = {"a", "helpfulness", NULL, 1, 0};
    const struct reward_part_options both = {"a", "exact", half, 1, 100};
    const struct reward_part_options neither = {"a", NULL, NULL, 1, 100};
    const struct reward_part_options unnamed = {"", "exact", NULL, 1, 0};
    const struct reward_part_options weightless = {"a", "exact", NULL, NAN, 0};
    const struct reward_part_options twice[] = {number, number};
    expect_refusal(&unknown, 1, "did you mean \"gsm8k\"?");
    expect_refusal(&far, 1, "known: exact, number, gsm8k, boxed");
    expect_refusal(&both, 1, "either a verifier or a command");
    expect_refusal(&neither, 1, "either a verifier or a command");
    expect_refusal(&unnamed, 1, "name");
    expect_refusal(&weightless, 1, "weight");
    expect_refusal(twice, 2, "two reward parts are named \"number\"");
    expect_refusal(twice, 0, "1 to 16");
    expect_refusal(twice, REWARD_PARTS_MAX + 1, "1 to 16");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weighted_sum),
        cmocka_unit_test(test_statuses),
        cmocka_unit_test(test_sum_out_of_range_is_an_error),
        cmocka_unit_test(test_refusals),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

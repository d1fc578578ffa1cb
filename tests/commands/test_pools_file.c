/* What hone filter writes is what a run reads; and what a recipe's filter becomes. */
#include "tests/commands/command_fixture.h"

#include "commands/measure/pools_file.h"
#include "infra/base/memory.h"

#define COUNT 6

static struct prompt prompts[COUNT];
static int32_t tokens[COUNT][2];

static int set_up(void **state)
{
    for (int i = 0; i < COUNT; i++) {
        tokens[i][0] = 1;
        tokens[i][1] = i == 5 ? 14 : 10 + i; /* the last is a copy of the one before */
        prompts[i] = (struct prompt){.id = (uint64_t)i,
                                     .tokens = tokens[i],
                                     .token_count = 2,
                                     .capability = (char *)(uintptr_t) "a \"b\""};
    }
    return fixture_set_up(state);
}

static const char *write_pools(const struct measurement *counts, int count)
{
    struct recipe recipe;
    struct text out;
    fixture_recipe(&recipe, NULL, 0);
    text_init(&out);
    pools_file_begin(&out, &(struct pools_file_header){"some/model", "abc", count}, &recipe);
    for (int i = 0; i < count; i++)
        pools_file_add(&out, &prompts[i], &counts[i], 0, POOL_BAND, 4);
    const char *path = fixture_write("pools.jsonl", out.data);
    text_release(&out);
    recipe_release(&recipe);
    return path;
}

static void test_what_is_written_is_read(void **state)
{
    (void)state;
    static const struct measurement counts[] = {
        {8, 3, 0}, {0, 0, 0}, {64, 0, 0}, {8, 8, 0}, {8, 1, 0}};
    struct measurement read[COUNT];
    assert_int_equal(pools_file_read(write_pools(counts, 5), prompts, COUNT, read), 5);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(read[i].judged, counts[i].judged);
        assert_int_equal(read[i].passed, counts[i].passed);
    }
    assert_int_equal(read[5].judged, 8); /* the same prompt */
    assert_int_equal(read[5].passed, 1);
    /* Another order and selection of the rows. */
    struct prompt some[2] = {prompts[3], prompts[0]};
    assert_int_equal(pools_file_read(write_pools(counts, 5), some, 2, read), 2);
    assert_int_equal(read[0].passed, 8);
    assert_int_equal(read[1].passed, 3);
}

static void expect_refused(const char *content, const char *why)
{
    struct measurement read[COUNT];
    const char *path = fixture_write("bad.jsonl", content);
    assert_int_equal(pools_file_read(path, prompts, COUNT, read), HONE_EFORMAT);
    if (strstr(error_message(), why) == NULL)
        fail_msg("'%s' does not say '%s'", error_message(), why);
}

static void test_other_files_are_refused(void **state)
{
    (void)state;
    struct measurement read[COUNT];
    expect_refused("{\"prompt\": \"a\"}\n", "bad.jsonl:1: expected {\"hone_pools\": 1");
    expect_refused("{\"hone_pools\": 2}\n", "bad.jsonl:1: ");
    expect_refused("{\"hone_pools\": 1}\n[1]\n", "bad.jsonl:2: not an object");
    expect_refused("{\"hone_pools\": 1}\n{\"prompt\": \"xyz\"}\n", "bad.jsonl:2: \"prompt\"");
    expect_refused("{\"hone_pools\": 1}\n{\"prompt\": \"00000000000000zz\"}\n", "16 hex digits");
    expect_refused("{\"hone_pools\": 1}\n"
                   "{\"prompt\": \"0000000000000001\", \"judged\": 3, \"passed\": 4}\n",
                   "bad.jsonl:2: expected 0 <=");
    expect_refused("{\"hone_pools\": 1}\n"
                   "{\"prompt\": \"0000000000000001\", \"judged\": 4, \"passed\": 4}\n",
                   "it has none of the 6 prompts");
    expect_refused("{\"hone_pools\": 1}\n{\"prompt\": ", "bad.jsonl:2: ");
    assert_true(pools_file_read("/nowhere/pools.jsonl", prompts, COUNT, read) < 0);
    assert_non_null(strstr(error_message(), "/nowhere/pools.jsonl"));
}

static void test_a_recipe_s_filter(void **state)
{
    (void)state;
    static const char *const overrides[] = {
        "rl.filter.mode=on",        "rl.filter.mix.0=a=b=2.5", "rl.filter.mix.1=compare=0.5",
        "rl.filter.probe_groups=3", "rl.staleness_max=2",      "reward.pass_threshold=0.25"};
    struct capability_factor *mix;
    struct filter_options options;
    struct recipe recipe;
    fixture_recipe(&recipe, overrides, 6);
    filter_options_from(&options, &recipe, &mix);
    assert_int_equal(options.mode, FILTER_ON);
    assert_int_equal(options.mix_count, 2);
    assert_string_equal(options.mix[0].capability, "a=b");
    assert_true(options.mix[0].factor > 2.49 && options.mix[0].factor < 2.51);
    assert_string_equal(options.mix[1].capability, "compare");
    assert_int_equal(options.probes, 3);
    assert_true(options.pass_threshold > 0.24 && options.pass_threshold < 0.26);
    memory_free(mix);
    recipe.rl.staleness_max = 0; /* G7 */
    filter_options_from(&options, &recipe, &mix);
    assert_int_equal(options.probes, 0);
    memory_free(mix);
    recipe_release(&recipe);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_written_is_read),
        cmocka_unit_test(test_other_files_are_refused),
        cmocka_unit_test(test_a_recipe_s_filter),
    };
    return cmocka_run_group_tests(tests, set_up, fixture_tear_down);
}

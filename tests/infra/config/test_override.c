#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "infra/base/error.h"
#include "infra/config/recipe.h"

static const char *const base[] = {"model.path=base", "sft.data.path=a.jsonl",
                                   "rl.data.path=b.jsonl", "reward.parts.0.verifier=exact"};

static struct problems problems;

static int set_up(void **state)
{
    (void)state;
    problems_init(&problems);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    problems_release(&problems);
    return 0;
}

static int load(struct recipe *recipe, const char *const *more, int count)
{
    const char *all[16];
    memcpy(all, base, sizeof base);
    memcpy(all + 4, more, (size_t)count * sizeof *more);
    return recipe_load(recipe, NULL, all, 4 + count, &problems);
}

static void expect_problem(const char *override, const char *line)
{
    struct recipe recipe;
    text_clear(&problems.text);
    problems.count = 0;
    assert_int_equal(load(&recipe, &override, 1), HONE_EINVAL);
    assert_string_equal(problems.text.data, line);
}

static void test_scalars_lists_and_tables(void **state)
{
    (void)state;
    static const char *const more[] = {"rl.steps=1",
                                       "rl.steps=20",
                                       "rl.sampling.stop=[\"\\n\", x]",
                                       "rl.data.prompt_template=[INST] {q}: a=b # c",
                                       "sft.data.prompt_template=\"a\\nb\"",
                                       "rl.optimizer={learning_rate: 2e-5}",
                                       "reward.parts.1.verifier=command",
                                       "reward.parts.1.command=[python3, r.py]",
                                       "reward.parts.0.weight=2",
                                       "output_dir="};
    struct recipe recipe;
    assert_int_equal(load(&recipe, more, 10), 0);
    assert_int_equal(recipe.rl.steps, 20);
    assert_int_equal(recipe.rl.sampling.stop.count, 2);
    assert_string_equal(recipe.rl.sampling.stop.items[0], "\n");
    assert_string_equal(recipe.rl.data.prompt_template, "[INST] {q}: a=b # c");
    assert_string_equal(recipe.sft.data.prompt_template, "a\nb");
    assert_true(recipe.rl.optimizer.learning_rate == 2e-5);
    assert_int_equal(recipe.reward.parts.count, 2);
    assert_true(recipe.reward.parts.items[0].weight == 2.0);
    assert_string_equal(recipe.reward.parts.items[1].command.items[1], "r.py");
    assert_string_equal(recipe.output_dir, "runs/run");
    recipe_release(&recipe);
}

static void test_bad_overrides(void **state)
{
    (void)state;
    expect_problem("rl.steps=many",
                   "--set rl.steps=many: rl.steps: expected an integer of at least "
                   "1, got 'many'\n");
    expect_problem("rl.stepz=3", "--set rl.stepz=3: unknown key 'stepz' (did you mean 'steps'?)\n");
    expect_problem("rl.steps", "--set rl.steps: an override is written key=value, e.g. "
                               "rl.steps=200\n");
    expect_problem("=3", "--set =3: an override is written key=value, e.g. rl.steps=200\n");
    expect_problem("rl..steps=3",
                   "--set rl..steps=3: an override is written key=value, e.g. rl.steps=200\n");
    expect_problem("reward.parts.5.weight=1", "--set reward.parts.5.weight=1: index 5 is past the "
                                              "end: the list has 1 entries\n");
    expect_problem("reward.parts.x.weight=1", "--set reward.parts.x.weight=1: 'x' is not an index: "
                                              "the list has 1 entries\n");
    expect_problem("model.path.x=1", "--set model.path.x=1: model.path.x: 'path' has no keys below "
                                     "it, its value is 'base'\n");
    expect_problem(
        "rl.sampling.stop=[a",
        "--set rl.sampling.stop=[a: rl.sampling.stop: while parsing a flow sequence: did "
        "not find expected ',' or ']'\n");
    expect_problem("rl.sampling.stop=[&x a]", "--set rl.sampling.stop=[&x a]: rl.sampling.stop: "
                                              "anchors (&x) are not supported\n");
    expect_problem("name=\xff", "--set name=\xff: not UTF-8 text\n");
    expect_problem("seed=\"1\"",
                   "--set seed=\"1\": seed: expected integer without quotes, got \"1\"\n");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_scalars_lists_and_tables),
                                       TEST(test_bad_overrides)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

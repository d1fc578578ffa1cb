#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/text.h"
#include "infra/config/recipe.h"

#include <jansson.h>

#define MINIMAL                                                                                    \
    "model: {path: base}\n"                                                                        \
    "sft: {data: {path: a.jsonl}}\n"                                                               \
    "rl: {data: {path: b.jsonl}}\n"                                                                \
    "reward: {parts: [{verifier: exact}]}\n"

static char path[64];
static struct problems problems;

static int set_up(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "/tmp/hone_recipe_XXXXXX");
    int fd = mkstemp(path);
    problems_init(&problems);
    return fd < 0 ? -1 : close(fd);
}

static int tear_down(void **state)
{
    (void)state;
    problems_release(&problems);
    return unlink(path);
}

static int load(struct recipe *recipe, const char *text, const char *const *overrides, int count)
{
    assert_int_equal(file_write_atomic(path, text, strlen(text)), 0);
    text_clear(&problems.text);
    problems.count = 0;
    return recipe_load(recipe, path, overrides, count, &problems);
}

/* Loads text that is bad and checks that exactly these lines are reported, after the path. */
static void expect_problems(const char *text, const char *const *lines, int count)
{
    struct recipe recipe;
    struct text expected;
    text_init(&expected);
    for (int i = 0; i < count; i++)
        text_printf(&expected, "%s:%s\n", path, lines[i]);
    assert_int_equal(load(&recipe, text, NULL, 0), HONE_EINVAL);
    assert_string_equal(problems.text.data, expected.data);
    text_release(&expected);
}

static void expect_problem(const char *text, const char *line)
{
    expect_problems(text, &line, 1);
}

static void test_minimal_recipe_gets_defaults(void **state)
{
    (void)state;
    struct recipe recipe;
    assert_int_equal(load(&recipe, MINIMAL, NULL, 0), 0);
    assert_string_equal(recipe.output_dir, "runs/run");
    assert_int_equal(recipe.stages.count, 3);
    assert_true(recipe_has_stage(&recipe, "rl"));
    assert_int_equal(recipe.model.dtype, RECIPE_BFLOAT16);
    assert_true(recipe.sft.optimizer.learning_rate == 2e-5);
    assert_true(recipe.rl.optimizer.learning_rate == 1e-6);
    assert_int_equal(recipe.rl.group_size, 8);
    assert_int_equal(recipe.rl.staleness_max, 4);
    assert_string_equal(recipe.sft.data.path.items[0], "a.jsonl");
    assert_string_equal(recipe.sft.data.chosen_column, "");
    assert_string_equal(recipe.reward.parts.items[0].name, "exact");
    assert_true(recipe.reward.parts.items[0].weight == 1.0);
    struct source_place place = recipe_place_of(&recipe, "rl.data.path");
    assert_int_equal(place.line, 3);
    assert_int_equal(recipe_place_of(&recipe, "rl.steps").line, 3);
    assert_int_equal(recipe_place_of(&recipe, "seed").line, 0);
    recipe_release(&recipe);
    recipe_release(&recipe);
}

static void test_values_are_read(void **state)
{
    (void)state;
    struct recipe recipe;
    assert_int_equal(
        load(&recipe,
             "name: 7\nseed: 42\noutput_dir: /tmp/x y\nstages: [rl]\n"
             "model:\n  path: ./base\n  dtype: float32\n"
             "pools:\n  actors: {devices: ['cpu:0-1'], workers: 2}\n"
             "rl:\n  data: {path: [b.jsonl, c.jsonl], prompt_template: \"Q: {q}\\nA:\"}\n"
             "  drop_zero_advantage: false\n"
             "  sampling: {stop: [\"\\n\"], temperature: 0.7}\n"
             "  optimizer: {learning_rate: 2e-5, max_grad_norm: 1e-6}\n"
             "  objective: {kl_estimator: k1, aggregation: constant}\n"
             "reward:\n  parts:\n"
             "  - {name: a, verifier: command, command: [python3, r.py], weight: 0.5}\n"
             "  - {name: b, verifier: boxed}\n",
             NULL, 0),
        0);
    assert_string_equal(recipe.name, "7");
    assert_int_equal(recipe.seed, 42);
    assert_string_equal(recipe.output_dir, "/tmp/x y");
    assert_int_equal(recipe.stages.count, 1);
    assert_int_equal(recipe.model.dtype, RECIPE_FLOAT32);
    assert_string_equal(recipe.pools.actors.devices.items[0], "cpu:0-1");
    assert_int_equal(recipe.rl.data.path.count, 2);
    assert_string_equal(recipe.rl.data.prompt_template, "Q: {q}\nA:");
    assert_false(recipe.rl.drop_zero_advantage);
    assert_string_equal(recipe.rl.sampling.stop.items[0], "\n");
    assert_true(recipe.rl.sampling.temperature == 0.7);
    assert_true(recipe.rl.optimizer.learning_rate == 2e-5);
    assert_true(recipe.rl.optimizer.max_grad_norm == 1e-6);
    assert_int_equal(recipe.rl.objective.kl_estimator, RECIPE_KL_K1);
    assert_int_equal(recipe.rl.objective.aggregation, RECIPE_AGGREGATE_CONSTANT);
    assert_string_equal(recipe.reward.parts.items[0].command.items[1], "r.py");
    assert_true(recipe.reward.parts.items[0].weight == 0.5);
    assert_string_equal(recipe.reward.parts.items[1].verifier, "boxed");
    recipe_release(&recipe);
}

static void test_unknown_keys_name_the_nearest(void **state)
{
    (void)state;
    expect_problem(MINIMAL "dpo:\n  optimizer:\n    lerning_rate: 1e-6\n",
                   "7:5: unknown key 'lerning_rate' (did you mean 'learning_rate'?)");
    expect_problem(
        MINIMAL "dpo: {learning_rate: 1e-6}\n",
        "5:7: unknown key 'learning_rate' (did you mean 'dpo.optimizer.learning_rate'?)");
    expect_problem(MINIMAL "group_size: 4\n",
                   "5:1: unknown key 'group_size' (did you mean 'rl.group_size'?)");
    expect_problem(MINIMAL "dpo: {quux: 1}\n", "5:7: unknown key 'quux' in dpo");
    expect_problem("model: {path: x}\nstages: [sft]\n"
                   "sft: {data: {path: a, chosen_column: b}}\n",
                   "3:23: unknown key 'chosen_column' (did you mean 'dpo.data.chosen_column'?)");
}

static void test_wrong_types(void **state)
{
    (void)state;
    expect_problem(MINIMAL "seed: many\n",
                   "5:7: seed: expected an integer of at least 0, got 'many'");
    expect_problem(MINIMAL "seed: '1'\n", "5:7: seed: expected integer without quotes, got \"1\"");
    expect_problem(MINIMAL "seed: [1]\n", "5:7: seed: expected one value (integer), got a list");
    expect_problem(MINIMAL "seed:\n", "5:6: seed: has no value");
    expect_problem(MINIMAL "name: ~\n", "5:7: name: has no value (\"\" is the empty string)");
    expect_problem(MINIMAL "dpo: 3\n", "5:6: dpo: expected a table of keys, got a single value");
    expect_problem(MINIMAL "stages: {a: b}\n",
                   "5:9: stages: expected a list of choices, got a table of keys");
    expect_problem(MINIMAL "eval: {enabled: yes}\n",
                   "5:17: eval.enabled: expected true or false, got 'yes'");
    expect_problem(MINIMAL "dpo: {beta: 1_000}\n",
                   "5:13: dpo.beta: expected a number from 0.0001 to 100, got '1_000'");
    expect_problem("- a\n- b\n", "1:1: expected a table of keys, got a list");
}

static void test_wrong_choices_and_ranges(void **state)
{
    (void)state;
    expect_problem(MINIMAL "stages: [sft, r1, dpo]\n",
                   "5:15: stages.1: expected one of sft, rl, dpo (did you mean 'rl'?), got 'r1'");
    expect_problem(MINIMAL "eval: {slots: 0}\n",
                   "5:15: eval.slots: expected an integer from 1 to 65536, got '0'");
    expect_problem("model: {path: base}\nstages: [rl]\nrl: {data: {path: b}, group_size: 0}\n"
                   "reward: {parts: [{verifier: exact}]}\n",
                   "3:35: rl.group_size: expected an integer from 1 to 1024, got '0'");
}

/* A preset fills what is not given, and is only another way to write it. */
static void test_presets(void **state)
{
    (void)state;
    struct recipe preset, written;
    char hash[HASH_HEX_SIZE], same[HASH_HEX_SIZE];
    static const char *const by_name[] = {"rl.objective.preset=gspo",
                                          "rl.objective.clip_high=0.001"};
    static const char *const by_value[] = {"rl.objective={ratio: sequence, clip_low: 3e-4, "
                                           "clip_high: 0.001, aggregation: sequence_mean}"};
    assert_int_equal(load(&preset, MINIMAL, by_name, 2), 0);
    assert_int_equal(preset.rl.objective.ratio, RECIPE_RATIO_SEQUENCE);
    assert_true(preset.rl.objective.clip_low == 3e-4);
    assert_true(preset.rl.objective.clip_high == 0.001);
    assert_int_equal(load(&written, MINIMAL, by_value, 1), 0);
    recipe_hash(&preset, hash);
    recipe_hash(&written, same);
    assert_string_equal(hash, same);
    recipe_release(&preset);
    recipe_release(&written);
    /* Only a baseline of the group leaves groups of equal rewards out by itself. */
    static const char *const others[] = {"rl.objective.preset=reinforce++",
                                         "rl.objective={baseline: none, scale: none}",
                                         "rl.objective.preset=rloo"};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(load(&preset, MINIMAL, &others[i], 1), 0);
        assert_int_equal(preset.rl.drop_zero_advantage, i == 2);
        recipe_release(&preset);
    }
}

/* Printed with its values, it loads as the same recipe. */
static void test_presets_print_and_load(void **state)
{
    (void)state;
    for (int p = 0; p <= RECIPE_PRESET_PPO; p++) {
        struct recipe recipe;
        struct text first, again;
        text_init(&first);
        text_init(&again);
        assert_int_equal(load(&recipe, MINIMAL, NULL, 0), 0);
        recipe.rl.objective.preset = (enum recipe_preset)p;
        recipe.rl.objective.clip_low = 0.125;
        recipe_print(&recipe, &first);
        recipe_release(&recipe);
        assert_int_equal(load(&recipe, first.data, NULL, 0), 0);
        assert_int_equal(recipe.rl.objective.preset, p);
        assert_true(recipe.rl.objective.clip_low == 0.125); /* given: the preset's is not used */
        recipe_print(&recipe, &again);
        assert_string_equal(first.data, again.data);
        text_release(&first);
        text_release(&again);
        recipe_release(&recipe);
    }
}

static void test_every_problem_is_reported(void **state)
{
    (void)state;
    struct recipe recipe;
    assert_int_equal(load(&recipe,
                          "name: x\nsed: 1\nmodel:\n  dtype: int8\n  path: a\n  path: b\n"
                          "stages: [sft]\nsft: {data: {path: a}, batch_tokens: 3}\n"
                          "rl: {steps: -3}\n",
                          NULL, 0),
                     HONE_EINVAL);
    assert_int_equal(problems.count, 5);
    assert_non_null(strstr(problems.text.data, ":2:1: unknown key 'sed' (did you mean 'seed'?)\n"));
    assert_non_null(strstr(problems.text.data, ":4:10: model.dtype: "));
    assert_non_null(strstr(problems.text.data, ":6:3: duplicate key 'path' (first on line 5)\n"));
    assert_non_null(strstr(problems.text.data, ":8:38: sft.batch_tokens: "));
    assert_non_null(strstr(problems.text.data, ":9:13: rl.steps: "));
    assert_non_null(strstr(error_message(), "(and 4 more)"));
}

static void test_print_loads_and_prints_again(void **state)
{
    (void)state;
    static const char *const overrides[] = {"name=x.y",
                                            "rl.data.prompt_template=Q: {q} # \"no\" comment",
                                            "rl.sampling.stop=[\"\\n\"]",
                                            "reward.parts.1.verifier=number",
                                            "reward.parts.1.weight=0.1",
                                            "eval.enabled=false"};
    struct recipe recipe, second;
    struct text first, again;
    char hash[HASH_HEX_SIZE], hash_again[HASH_HEX_SIZE];
    text_init(&first);
    text_init(&again);
    assert_int_equal(load(&recipe, MINIMAL, overrides, 6), 0);
    recipe_print(&recipe, &first);
    recipe_hash(&recipe, hash);
    assert_int_equal(load(&second, first.data, NULL, 0), 0);
    recipe_print(&second, &again);
    recipe_hash(&second, hash_again);
    assert_string_equal(again.data, first.data);
    assert_string_equal(hash, hash_again);
    assert_string_equal(second.rl.data.prompt_template, recipe.rl.data.prompt_template);
    assert_int_equal(second.reward.parts.count, 2);
    recipe_release(&recipe);
    recipe_release(&second);
    text_release(&first);
    text_release(&again);
}

static void hash_with(const char *override, char hash[HASH_HEX_SIZE])
{
    struct recipe recipe;
    assert_int_equal(load(&recipe, MINIMAL, &override, override ? 1 : 0), 0);
    recipe_hash(&recipe, hash);
    recipe_release(&recipe);
}

static void test_hash_counts_what_is_computed(void **state)
{
    (void)state;
    char plain[HASH_HEX_SIZE], other[HASH_HEX_SIZE];
    hash_with(NULL, plain);
    assert_int_equal(strlen(plain), 64);
    static const char *const same[] = {"output_dir=/elsewhere",  "log.level=debug", "log.keep=all",
                                       "pools.actors.workers=3", "seed=1",          "wire.keys=k"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        hash_with(same[i], other);
        assert_string_equal(other, plain);
    }
    static const char *const different[] = {"seed=2", "rl.steps=99", "reward.parts.0.weight=2",
                                            "stages=[sft, rl]", "dpo.beta=0.2"};
    for (size_t i = 0; i < sizeof different / sizeof *different; i++) {
        hash_with(different[i], other);
        assert_string_not_equal(other, plain);
    }
}

static void test_missing_file(void **state)
{
    (void)state;
    struct recipe recipe;
    assert_int_equal(recipe_load(&recipe, "/nonexistent.yaml", NULL, 0, &problems), HONE_ENOENT);
    assert_string_equal(error_message(),
                        "recipe: open /nonexistent.yaml: No such file or directory");
    assert_int_equal(problems.count, 0);
}

static void test_schema_and_reference(void **state)
{
    (void)state;
    struct text text;
    text_init(&text);
    recipe_schema_json(&text);
    json_error_t error;
    json_t *schema = json_loadb(text.data, text.length, JSON_REJECT_DUPLICATES, &error);
    assert_non_null(schema);
    json_t *rl = json_object_get(json_object_get(schema, "properties"), "rl");
    json_t *group = json_object_get(json_object_get(rl, "properties"), "group_size");
    assert_string_equal(json_string_value(json_object_get(group, "type")), "integer");
    assert_int_equal(json_integer_value(json_object_get(group, "minimum")), 1);
    assert_int_equal(json_integer_value(json_object_get(group, "default")), 8);
    assert_true(json_is_false(json_object_get(rl, "additionalProperties")));
    json_decref(schema);
    text_clear(&text);
    recipe_reference_markdown(&text);
    assert_non_null(
        strstr(text.data, "| `rl.group_size` | integer | `8` | 1 to 1024 trajectories |"));
    assert_non_null(strstr(text.data, "| `stages` | list of choices | `[sft, rl, dpo]` | "
                                      "`sft`, `rl`, `dpo` |"));
    assert_non_null(strstr(text.data, "\n## reward.parts.N\n"));
    assert_null(strstr(text.data, "sft.data.chosen_column"));
    text_release(&text);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_minimal_recipe_gets_defaults),
                                       TEST(test_values_are_read),
                                       TEST(test_unknown_keys_name_the_nearest),
                                       TEST(test_wrong_types),
                                       TEST(test_wrong_choices_and_ranges),
                                       TEST(test_presets),
                                       TEST(test_presets_print_and_load),
                                       TEST(test_every_problem_is_reported),
                                       TEST(test_print_loads_and_prints_again),
                                       TEST(test_hash_counts_what_is_computed),
                                       TEST(test_missing_file),
                                       TEST(test_schema_and_reference)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

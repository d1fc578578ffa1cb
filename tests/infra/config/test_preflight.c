#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/config/preflight.h"

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
    const char *all[16] = {"model.path=base", "sft.data.path=a.jsonl", "rl.data.path=b.jsonl",
                           "reward.parts.0.verifier=exact"};
    memcpy(all + 4, more, (size_t)count * sizeof *more);
    text_clear(&problems.text);
    problems.count = 0;
    return recipe_load(recipe, NULL, all, 4 + count, &problems);
}

static void test_values(void **state)
{
    (void)state;
    static const struct {
        const char *override, *problem; /* NULL: good */
    } cases[] = {
        {"seed=3", NULL},
        {"name=a/b", "name: expected 1 to 64 letters, digits, dots, dashes or underscores"},
        {"name=..", "name: expected 1 to 64 letters"},
        {"stages=[]", "stages: at least one of sft, rl, dpo"},
        {"stages=[rl, rl]", "stages: 'rl' is listed twice"},
        {"stages=[sft, dpo]", "dpo.source: rl_log needs rl among the stages, before dpo"},
        {"stages=[dpo, rl]", "dpo.source: rl_log needs rl among the stages, before dpo"},
        {"stages=[sft]", NULL},
        {"log.keep=unacknowledged", "log.keep: dpo.source: rl_log mines trajectories"},
        {"model.path=", "model.path: a checkpoint directory is needed"},
        {"model.init.method=random", "model.path: cannot be given together with model.init"},
        {"sft.data.path=[]", "sft.data.path: no data files given"},
        {"sft.optimizer={moments_dtype: bfloat16, beta2: 0.999}", "sft.optimizer.beta2: 0.999"},
        {"sft.micro_batch_tokens=100", "sft.micro_batch_tokens: 100 is less than sft.max_length"},
        {"sft.batch_tokens=100", "sft.batch_tokens: 100 is less than sft.max_length (512)"},
        {"rl.data.path=[]", "rl.data.path: no data files given"},
        {"rl.micro_batch_tokens=700", "rl.micro_batch_tokens: 700 is less than"},
        {"rl.updates_per_batch=17", "rl.updates_per_batch: 17 is more than rl.prompts_per_step"},
        {"rl.objective.dual_clip=0.5", "rl.objective.dual_clip: must be above 1, or 0 for off"},
        {"rl.objective.dual_clip=3", NULL},
        {"rl.optimizer.warmup_steps=101", "rl.optimizer.warmup_steps: 101 is more than rl.steps"},
        {"rl.sampling.stop=[a,b,c,d,e,f,g,h,i]", "rl.sampling.stop: at most 8 stops, got 9"},
        {"reward.parts=[]", "reward.parts: at least one part is needed"},
        {"reward.parts.0.verifier=command", "command: verifier: command needs a program to run"},
        {"reward.parts.0.command=[x]",
         "reward.parts.0.command: is run only with verifier: command"},
        {"reward.parts.1.verifier=exact", "'exact' is also the name of part 0"},
        {"dpo.source=file", "dpo.data.path: no data files given"},
        {"dpo.data.path=p.jsonl", "dpo.data.path: is read only with dpo.source: file"},
        {"dpo.max_length=3000", "dpo.micro_batch_tokens: 4096 does not hold a pair"},
        {"eval={data: {path: e}, k: 2}", "eval.k: 2 is more than eval.samples (1)"},
        {"eval={data: {path: e}, samples: 4, sampling: {temperature: 0}}",
         "eval.samples: greedy decoding gives the same answer 4 times"},
        {"eval={enabled: false, data: {path: e}, k: 2}", NULL},
        {"wire={hub: \"tcp://10.0.0.1:5\", weights: \"tcp://10.0.0.1:6\", keys: k}", NULL},
        {"wire={hub: \"tcp://*:5\", keys: k}", NULL},
        {"wire.keys=k", NULL},
        {"wire.hub=tcp://127.0.0.1:5", "wire.hub: tcp is not opened without wire.keys"},
        {"wire.weights=tcp://127.0.0.1:5", "wire.weights: tcp is not opened without wire.keys"},
        {"wire={hub: \"10.0.0.1:5\", keys: k}", "wire.hub: expected tcp://ADDRESS:PORT"},
        {"wire={weights: \"tcp://*:5\", keys: k}", "wire.weights: workers dial it"},
        {"pools.actors.remote=true", "wire.hub: workers that join need an endpoint"},
        {"pools.learner={remote: true}", "wire.hub: workers that join need an endpoint"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct recipe recipe;
        int rc = load(&recipe, &cases[i].override, 1);
        if (!cases[i].problem) {
            assert_string_equal(problems.text.data, "");
            assert_int_equal(rc, 0);
            recipe_release(&recipe);
            continue;
        }
        if (!strstr(problems.text.data, cases[i].problem))
            fail_msg("%s: expected '%s', got '%s'", cases[i].override, cases[i].problem,
                     problems.text.data);
        assert_int_equal(rc, HONE_EINVAL);
    }
}

static void test_new_model(void **state)
{
    (void)state;
    static const char *const good[] = {"model.path=", "model.init.method=random",
                                       "model.init.tokenizer=tok"};
    struct recipe recipe;
    assert_int_equal(load(&recipe, good, 3), 0);
    recipe_release(&recipe);
    static const char *const bad[] = {"model.path=", "model.init.method=random",
                                      "model.init.heads=8", "model.init.kv_heads=3",
                                      "model.init.head_dim=33"};
    assert_int_equal(load(&recipe, bad, 5), HONE_EINVAL);
    assert_int_equal(problems.count, 3);
    assert_non_null(strstr(problems.text.data, "model.init.tokenizer: a new model needs"));
    assert_non_null(strstr(problems.text.data,
                           "--set model.init.kv_heads=3: model.init.kv_heads: 3 "
                           "does not divide heads (8)\n"));
    assert_non_null(strstr(problems.text.data, "model.init.head_dim: must be even\n"));
}

static void test_files(void **state)
{
    (void)state;
    char root[] = "/tmp/hone_preflight_XXXXXX";
    char model[128], data[128], model_override[160], data_override[160];
    struct recipe recipe;
    assert_non_null(mkdtemp(root));
    path_join(model, sizeof model, root, "model");
    path_join(data, sizeof data, root, "d.jsonl");
    snprintf(model_override, sizeof model_override, "model.path=%s", model);
    snprintf(data_override, sizeof data_override, "sft.data.path=%s", data);
    const char *overrides[] = {model_override, data_override, "stages=[sft]"};
    assert_int_equal(load(&recipe, overrides, 3), 0);

    preflight_check(&recipe, &problems);
    assert_int_equal(problems.count, 2);
    assert_non_null(strstr(problems.text.data, "model.path: no such directory: /tmp/hone_pre"));
    assert_non_null(strstr(problems.text.data, "sft.data.path: no such file: /tmp/hone_pre"));

    assert_int_equal(file_make_directories(model), 0);
    assert_int_equal(file_make_directories(data), 0);
    preflight_check(&recipe, &problems);
    assert_int_equal(problems.count, 4);
    assert_non_null(strstr(problems.text.data, "model has no config.json\n"));
    assert_non_null(strstr(problems.text.data, "d.jsonl is a directory, not a file\n"));

    char config[160];
    assert_int_equal(file_append(path_join(config, sizeof config, model, "config.json"), "{}", 2),
                     0);
    assert_int_equal(file_remove_tree(data), 0);
    assert_int_equal(file_append(data, "{}\n", 3), 0);
    preflight_check(&recipe, &problems);
    assert_int_equal(problems.count, 4);
    recipe_release(&recipe);
    assert_int_equal(file_remove_tree(root), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_values), TEST(test_new_model), TEST(test_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

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

struct value_case {
    const char *override, *problem; /* NULL: good */
    const char *also;               /* a second override, or NULL */
};

static void check_cases(const struct value_case *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const char *const more[] = {cases[i].override, cases[i].also};
        struct recipe recipe;
        int rc = load(&recipe, more, cases[i].also ? 2 : 1);
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

static void test_objective(void **state)
{
    (void)state;
    static const struct value_case cases[] = {
        {"rl.objective.dual_clip=0.5", "dual_clip: must be above 1, or 0 for off", NULL},
        {"rl.objective.dual_clip=3", NULL, NULL},
        {"rl.objective.dual_clip=3", "dual_clip: is part of clipping: ppo",
         "rl.objective.clipping=cispo"},
        {"rl.group_size=1", "rl.group_size: a baseline or scale of the group needs at least 2",
         NULL},
        {"rl.group_size=1", NULL, "rl.objective={baseline: batch_mean, scale: batch_std}"},
        {"rl.objective.baseline=none", "rl.objective.scale: is of the group, but", NULL},
        {"rl.objective.baseline=none", NULL, "rl.objective.scale=none"},
        {"rl.drop_zero_advantage=true", "rl.drop_zero_advantage: groups with equal rewards",
         "rl.objective.preset=reinforce++"},
        {"rl.objective.gamma=0.9", "rl.objective.gamma: a baseline of the group has one", NULL},
        {"rl.objective.gamma=0.9", NULL, "rl.objective.preset=reinforce++"},
        {"rl.objective.kl_target=0.1", "rl.objective.kl_target: needs a kl_coef above 0", NULL},
        {"rl.objective.kl_target=0.1", NULL, "rl.objective.kl_coef=0.1"},
        {"rl.guards.good_after=21", "rl.guards.good_after: 21 is more than checkpoint_steps", NULL},
        {"rl.checkpoint_steps=1", NULL, "rl.keep_checkpoints=2"},
        {"rl.sampling.top_p=0.9", "rl.sampling.top_p: trains on samples of a truncated", NULL},
        {"rl.sampling.top_k=9", "rl.sampling.top_k: trains on samples of a truncated", NULL},
        {"rl.sampling.min_p=0.1", NULL, "rl.truncated_sampling=importance"},
        {"rl.sampling.top_k=40", NULL, "rl.truncated_sampling=same_support"},
        {"reward.parts.0.verifier=overlong", "reward.overlong_buffer_tokens: the verifier", NULL},
        {"reward.parts.0.verifier=overlong", NULL, "reward.overlong_buffer_tokens=9"},
    };
    check_cases(cases, sizeof cases / sizeof *cases);
}

static void test_values(void **state)
{
    (void)state;
    static const struct value_case cases[] = {
        {"seed=3", NULL, NULL},
        {"name=a/b", "name: expected 1 to 64 letters, digits, dots, dashes or underscores", NULL},
        {"name=..", "name: expected 1 to 64 letters", NULL},
        {"stages=[]", "stages: at least one of sft, rl, dpo", NULL},
        {"stages=[rl, rl]", "stages: 'rl' is listed twice", NULL},
        {"stages=[sft, dpo]", "dpo.source: rl_log needs rl among the stages, before dpo", NULL},
        {"stages=[dpo, rl]", "dpo.source: rl_log needs rl among the stages, before dpo", NULL},
        {"stages=[sft]", NULL, NULL},
        {"log.keep=unacknowledged", "log.keep: dpo.source: rl_log mines trajectories", NULL},
        {"model.path=", "model.path: a checkpoint directory is needed", NULL},
        {"model.init.method=random", "model.path: cannot be given together with model.init", NULL},
        {"sft.data.path=[]", "sft.data.path: no data files given", NULL},
        {"sft.exploration.steps=5", NULL, NULL},
        {"sft.exploration={steps: 5, k: 9}", "sft.exploration.k: 9 is more than", NULL},
        {"sft.exploration.k=9", NULL, NULL},
        {"rl.data.path=[]", "sft.exploration.steps: pass@k is measured on rl.data",
         "sft.exploration.steps=5"},
        {"sft.optimizer={moments_dtype: bfloat16, beta2: 0.999}", "sft.optimizer.beta2: 0.999",
         NULL},
        {"sft.micro_batch_tokens=100", "sft.micro_batch_tokens: 100 is less than sft.max_length",
         NULL},
        {"sft.batch_tokens=100", "sft.batch_tokens: 100 is less than sft.max_length (512)", NULL},
        {"rl.data.path=[]", "rl.data.path: no data files given", NULL},
        {"pools.learner.workers=2", "2 learners do not divide rl.gradient_shards (1)", NULL},
        {"pools.learner.workers=2", NULL, "rl.gradient_shards=4"},
        {"pools.learner={workers: 2, remote: true}", "a learner that joins from elsewhere is one",
         "rl.gradient_shards=2"},
        {"rl.micro_batch_tokens=700", "rl.micro_batch_tokens: 700 is less than", NULL},
        {"rl.updates_per_batch=17", "rl.updates_per_batch: 17 is more than rl.prompts_per_step",
         NULL},
        {"rl.optimizer.warmup_steps=101", "rl.optimizer.warmup_steps: 101 is more than rl.steps",
         NULL},
        {"rl.sampling.stop=[a,b,c,d,e,f,g,h,i]", "rl.sampling.stop: at most 8 stops, got 9", NULL},
        {"reward.parts=[]", "reward.parts: at least one part is needed", NULL},
        {"reward.parts.0.verifier=command", "command: verifier: command needs a program to run",
         NULL},
        {"reward.parts.0.command=[x]", "reward.parts.0.command: is run only with verifier: command",
         NULL},
        {"reward.parts.1.verifier=exact", "'exact' is also the name of part 0", NULL},
        {"dpo.source=file", "dpo.data.path: no data files given", NULL},
        {"dpo.data.path=p.jsonl", "dpo.data.path: is read only with dpo.source: file", NULL},
        {"dpo.part=style", "dpo.part: no part of the reward is called 'style'", NULL},
        {"dpo.part=exact", NULL, NULL},
        {"dpo.max_length=3000", "dpo.micro_batch_tokens: 4096 does not hold a pair", NULL},
        {"eval={data: {path: e}, k: 2}", "eval.k: 2 is more than eval.samples (1)", NULL},
        {"eval={data: {path: e}, samples: 4, sampling: {temperature: 0}}",
         "eval.samples: greedy decoding gives the same answer 4 times", NULL},
        {"eval={enabled: false, data: {path: e}, k: 2}", NULL, NULL},
        {"wire={hub: \"tcp://10.0.0.1:5\", weights: \"tcp://10.0.0.1:6\", keys: k}", NULL, NULL},
        {"wire={hub: \"tcp://*:5\", keys: k}", NULL, NULL},
        {"wire.keys=k", NULL, NULL},
        {"wire.hub=tcp://127.0.0.1:5", "wire.hub: tcp is not opened without wire.keys", NULL},
        {"wire.weights=tcp://127.0.0.1:5", "wire.weights: tcp is not opened without wire.keys",
         NULL},
        {"wire={hub: \"10.0.0.1:5\", keys: k}", "wire.hub: expected tcp://ADDRESS:PORT", NULL},
        {"wire={weights: \"tcp://*:5\", keys: k}", "wire.weights: workers dial it", NULL},
        {"pools.actors.remote=true", "wire.hub: workers that join need an endpoint", NULL},
        {"pools.learner={remote: true}", "wire.hub: workers that join need an endpoint", NULL},
    };
    check_cases(cases, sizeof cases / sizeof *cases);
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
    const struct CMUnitTest tests[] = {TEST(test_objective), TEST(test_values),
                                       TEST(test_new_model), TEST(test_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* From recipe to stage options: stop ids, rewards, and the model of model.init. */
#include "tests/commands/command_fixture.h"

#include "commands/stage_options.h"

static struct tokenizer *tokenizer;

static int set_up(void **state)
{
    int rc = fixture_set_up(state);
    if (rc == 0)
        tokenizer = fixture_tokenizer();
    return rc;
}

static int tear_down(void **state)
{
    tokenizer_free(tokenizer);
    return fixture_tear_down(state);
}

static int sampling_with(struct sampling *sampling, const char *const *stop, int count,
                         int32_t eos_count)
{
    const struct sampling_settings settings = {.temperature = 0.5,
                                               .top_p = 0.25,
                                               .top_k = 7,
                                               .min_p = 0.125,
                                               .max_completion_tokens = 33,
                                               .stop = {(const char **)(uintptr_t)stop, count}};
    struct model_config config = {.eos_count = eos_count};
    for (int32_t i = 0; i < eos_count; ++i)
        config.eos_ids[i] = 100 + i;
    return sampling_from(sampling, &settings, &config, tokenizer, 42, "rl.sampling");
}

static void test_sampling_settings(void **state)
{
    (void)state;
    struct sampling sampling;
    assert_int_equal(sampling_with(&sampling, NULL, 0, 2), 0);
    assert_true(sampling.temperature == 0.5f && sampling.top_p == 0.25f);
    assert_true(sampling.min_p == 0.125f);
    assert_int_equal(sampling.top_k, 7);
    assert_int_equal(sampling.max_completion_tokens, 33);
    assert_int_equal(sampling.seed, 42);
    assert_int_equal(sampling.stop_count, 2);
    assert_int_equal(sampling.stop_ids[0], 100);
    assert_int_equal(sampling.stop_ids[1], 101);
    assert_int_equal(sampling_validate(&sampling), 0);
}

static void test_stop_strings(void **state)
{
    (void)state;
    struct sampling sampling;
    const char *const stop[] = {"<|end|>", "\n", "ab", "<|end|>"}; /* special, byte, merge, again */
    assert_int_equal(sampling_with(&sampling, stop, 4, 1), 0);
    assert_int_equal(sampling.stop_count, 4);
    assert_int_equal(sampling.stop_ids[0], 100);
    assert_int_equal(sampling.stop_ids[1], tokenizer_token_id(tokenizer, "<|end|>"));
    assert_int_equal(sampling.stop_ids[3], tokenizer_token_id(tokenizer, "ab"));
    struct text text;
    text_init(&text);
    assert_int_equal(tokenizer_decode(tokenizer, &sampling.stop_ids[2], 1, false, &text), 0);
    assert_string_equal(text.data, "\n");
    text_release(&text);
}

static void test_stop_that_is_no_single_token(void **state)
{
    (void)state;
    struct sampling sampling;
    static const char *const bad[] = {"xyz", "", "<|endd|>"};
    for (int i = 0; i < 3; ++i) {
        char message[128];
        snprintf(message, sizeof message,
                 "rl.sampling.stop: \"%s\" is not one token of this model's tokenizer", bad[i]);
        assert_int_equal(sampling_with(&sampling, &bad[i], 1, 1), HONE_EINVAL);
        assert_string_equal(error_message(), message);
    }
}

static void test_too_many_stops(void **state)
{
    (void)state;
    struct sampling sampling;
    static const char *const stop[] = {"a", "b", "c", "d", "e", "f", "g"};
    assert_int_equal(sampling_with(&sampling, stop, 7, SAMPLING_STOP_MAX - 7), 0);
    assert_int_equal(sampling.stop_count, SAMPLING_STOP_MAX);
    assert_int_equal(sampling_with(&sampling, stop, 7, SAMPLING_STOP_MAX - 6), HONE_EINVAL);
    assert_non_null(strstr(error_message(), "rl.sampling.stop: at most 8"));
}

static void test_reward_parts(void **state)
{
    (void)state;
    struct recipe recipe;
    struct reward_options options;
    fixture_recipe(&recipe,
                   (const char *const[]){"reward.parts.0.weight=0.75", "reward.parts.0.timeout_s=2",
                                         "reward.parts.1.name=length",
                                         "reward.parts.1.verifier=command",
                                         "reward.parts.1.command=[python3, \"a b.py\"]"},
                   5);
    reward_options_from(&options, &recipe);
    assert_int_equal(options.count, 2);
    assert_string_equal(options.parts[0].name, "exact"); /* the verifier's, when not given */
    assert_string_equal(options.parts[0].verifier, "exact");
    assert_null(options.parts[0].command);
    assert_true(options.parts[0].weight == 0.75f);
    assert_int_equal(options.parts[0].timeout_ms, 2000);
    assert_string_equal(options.parts[1].name, "length");
    assert_null(options.parts[1].verifier);
    assert_string_equal(options.parts[1].command[0], "python3");
    assert_string_equal(options.parts[1].command[1], "a b.py");
    assert_null(options.parts[1].command[2]);
    reward_options_release(&options);
    assert_int_equal(options.count, 0);
    recipe_release(&recipe);
}

static void test_new_model_takes_the_tokenizers_vocabulary(void **state)
{
    (void)state;
    struct recipe recipe;
    struct sft_options options;
    char path[HONE_PATH_MAX + 32];
    snprintf(path, sizeof path, "model.init.tokenizer=%s", fixture_path("tokenizer"));
    fixture_recipe(&recipe,
                   (const char *const[]){
                       "model.path=", "model.init.method=random", path, "model.init.hidden_size=48",
                       "model.init.layers=3", "model.init.heads=4", "model.init.kv_heads=2",
                       "model.init.intermediate_size=80", "model.init.head_dim=12",
                       "model.init.max_positions=64", "model.dtype=bfloat16", "sft.max_length=64",
                       "stages=[sft]", "seed=9"},
                   14);
    if (sft_options_from(&options, &recipe, "ignored", "stage", "votes", "hash") < 0)
        fail_msg("%s", error_message());
    assert_true(options.random_init);
    assert_string_equal(options.model_directory, fixture_path("tokenizer"));
    assert_int_equal(options.init_config.vocab_size, tokenizer_vocab_size(tokenizer));
    assert_int_equal(options.init_config.head_dim, 12);
    assert_int_equal(options.init_config.bos_id, 0);
    assert_int_equal(options.init_config.eos_count, 1);
    assert_int_equal(options.init_config.eos_ids[0], 1);
    assert_int_equal(options.init_config.stored_dtype, DTYPE_BF16);
    assert_int_equal(options.trainer.dtype, DTYPE_BF16);
    assert_int_equal(options.trainer.max_sequence_tokens, 64);
    assert_int_equal(options.seed, 9);
    const char *given = recipe.model.init.tokenizer;
    recipe.model.init.tokenizer = fixture_root; /* no tokenizer.json here */
    assert_true(sft_options_from(&options, &recipe, "ignored", "stage", "votes", "hash") < 0);
    assert_int_equal(strncmp(error_message(), "model.init.tokenizer: ", 22), 0);
    recipe.model.init.tokenizer = given;
    recipe_release(&recipe);
}

static void test_learner_follows_the_objective(void **state)
{
    (void)state;
    struct recipe recipe;
    struct learner_options options;
    fixture_recipe(
        &recipe,
        (const char *const[]){"rl.steps=10", "rl.updates_per_batch=2", "rl.max_prompt_tokens=20",
                              "rl.sampling.max_completion_tokens=30",
                              "rl.objective.aggregation=constant", "rl.objective.scale=none",
                              "rl.objective.kl_estimator=k2", "rl.objective.clip_high=0.28",
                              "rl.objective.off_policy_correction=decoupled",
                              "rl.objective.importance_weight_max=5"},
        10);
    learner_options_from(&options, &recipe, "model", "stage", "hash");
    assert_int_equal(options.trainer.optimizer.total_steps, 20);
    assert_int_equal(options.trainer.max_sequence_tokens, 50);
    assert_int_equal(options.loss.aggregation, AGGREGATE_CONSTANT);
    assert_int_equal(options.loss.constant_tokens, 30);
    assert_int_equal(options.loss.kl_estimator, KL_K2);
    assert_int_equal(options.advantage.scale, SCALE_NONE);
    assert_true(options.loss.surrogate.clip_high == 0.28f);
    assert_int_equal(options.loss.importance.off_policy, OFF_POLICY_DECOUPLED);
    assert_true(options.loss.importance.weight_max == 5.0f);
    recipe_release(&recipe);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sampling_settings),
        cmocka_unit_test(test_stop_strings),
        cmocka_unit_test(test_stop_that_is_no_single_token),
        cmocka_unit_test(test_too_many_stops),
        cmocka_unit_test(test_reward_parts),
        cmocka_unit_test(test_new_model_takes_the_tokenizers_vocabulary),
        cmocka_unit_test(test_learner_follows_the_objective),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

/* What a stage starts from, and what is said when the stage before it has not finished. */
#include "tests/commands/command_fixture.h"

#include "commands/stages.h"
#include "infra/base/memory.h"
#include "infra/model/checkpoint.h"
#include "infra/model/model.h"

static struct run_directory run;
static struct recipe recipe;

static int set_up(void **state)
{
    int rc = fixture_set_up(state);
    if (rc < 0)
        return rc;
    tokenizer_free(fixture_tokenizer());
    snprintf(run.path, sizeof run.path, "%s", fixture_root);
    fixture_recipe(&recipe, (const char *const[]){"stages=[sft, rl, dpo]", "dpo.source=rl_log"}, 2);
    return 0;
}

static int tear_down(void **state)
{
    recipe_release(&recipe);
    return fixture_tear_down(state);
}

/* A whole checkpoint as the stage's output. */
static void finish(const char *stage)
{
    const struct model_config config = {.vocab_size = 260,
                                        .hidden_size = 8,
                                        .layers = 1,
                                        .heads = 2,
                                        .kv_heads = 1,
                                        .head_dim = 4,
                                        .intermediate_size = 8,
                                        .max_positions = 16,
                                        .rms_eps = 1e-5f,
                                        .rope_theta = 10000.0,
                                        .stored_dtype = DTYPE_F32,
                                        .bos_id = 0,
                                        .eos_ids = {1},
                                        .eos_count = 1};
    struct checkpoint_state state = {.step = 3};
    char path[HONE_PATH_MAX];
    float *flat = MEMORY_ARRAY(float, model_config_parameter_count(&config));
    model_init_flat(&config, 1, flat);
    assert_int_equal(model_config_write(&config, NULL, DTYPE_F32, fixture_path("tokenizer")), 0);
    snprintf(state.stage, sizeof state.stage, "%s", stage);
    assert_int_equal(file_make_directories(fixture_path(stage)), 0);
    int rc =
        checkpoint_write(stage_output_model(&run, stage, path, sizeof path),
                         &(struct checkpoint_content){.config = &config,
                                                      .base_directory = fixture_path("tokenizer"),
                                                      .weights_dtype = DTYPE_F32,
                                                      .weights = flat,
                                                      .state = &state});
    memory_free(flat);
    if (rc < 0)
        fail_msg("%s", error_message());
}

static void expect_input(const char *stage, const char *path)
{
    char buffer[HONE_PATH_MAX];
    if (stage_input_model(&recipe, &run, stage, buffer, sizeof buffer) < 0)
        fail_msg("%s", error_message());
    assert_string_equal(buffer, path);
}

static void test_first_stage_starts_from_the_model(void **state)
{
    (void)state;
    expect_input("sft", "base");
}

static void test_output_has_its_place(void **state)
{
    (void)state;
    char buffer[HONE_PATH_MAX];
    assert_string_equal(stage_output_model(&run, "rl", buffer, sizeof buffer),
                        fixture_path("rl/final"));
}

static void test_missing_and_damaged_outputs_are_named(void **state)
{
    (void)state;
    char buffer[HONE_PATH_MAX];
    assert_true(stage_input_model(&recipe, &run, "rl", buffer, sizeof buffer) < 0);
    assert_non_null(strstr(error_message(), "stage rl starts from "));
    assert_non_null(strstr(error_message(), "/sft/final"));
    assert_non_null(strstr(error_message(), "run stage sft first"));
    assert_false(stage_is_done(&run, "sft"));

    finish("sft");
    assert_true(stage_is_done(&run, "sft"));
    expect_input("rl", fixture_path("sft/final"));

    /* One bit of the weights. */
    char *weights;
    size_t bytes;
    const char *path = fixture_path("sft/final/model.safetensors");
    assert_int_equal(file_read(path, 1 << 20, &weights, &bytes), 0);
    weights[bytes - 1] ^= 1;
    assert_int_equal(file_write_atomic(path, weights, bytes), 0);
    memory_free(weights);
    assert_true(stage_input_model(&recipe, &run, "rl", buffer, sizeof buffer) < 0);
    assert_non_null(strstr(error_message(), "run stage sft first"));
    assert_non_null(strstr(error_message(), "model.safetensors"));
    assert_false(stage_is_done(&run, "sft"));

    assert_int_equal(file_remove_tree(fixture_path("sft")), 0);
    finish("sft");
    assert_int_equal(unlink(fixture_path("sft/final/DONE")), 0);
    assert_false(stage_is_done(&run, "sft"));
    assert_int_equal(file_remove_tree(fixture_path("sft")), 0);
}

static void test_each_stage_starts_from_the_one_before(void **state)
{
    (void)state;
    finish("sft");
    finish("rl");
    expect_input("dpo", fixture_path("rl/final"));
    expect_input("rl", fixture_path("sft/final"));
    assert_int_equal(file_remove_tree(fixture_path("rl")), 0);
    char buffer[HONE_PATH_MAX];
    assert_true(stage_input_model(&recipe, &run, "dpo", buffer, sizeof buffer) < 0);
    assert_non_null(strstr(error_message(), "run stage rl first"));
}

static void test_new_model_starts_from_its_tokenizer(void **state)
{
    (void)state;
    struct recipe fresh = recipe;
    fresh.model.init.method = RECIPE_INIT_RANDOM;
    fresh.model.init.tokenizer = "toks";
    char buffer[HONE_PATH_MAX];
    assert_int_equal(stage_input_model(&fresh, &run, "sft", buffer, sizeof buffer), 0);
    assert_string_equal(buffer, "toks");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_stage_starts_from_the_model),
        cmocka_unit_test(test_output_has_its_place),
        cmocka_unit_test(test_missing_and_damaged_outputs_are_named),
        cmocka_unit_test(test_each_stage_starts_from_the_one_before),
        cmocka_unit_test(test_new_model_starts_from_its_tokenizer),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

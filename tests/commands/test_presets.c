/* Every published objective from its name in a recipe to the gradient of a model: loss and gradient
 * norm of tests/golden/rl_objectives.json (PyTorch in float64, TRL agreeing where it has the
 * objective), the same for any number of micro-batches. */
#include "tests/commands/command_fixture.h"
#include "tests/golden/golden_llama.h"

#include <math.h>

#include "commands/stage_options.h"
#include "learner/rl_step.h"

#define ROWS  6
#define GROUP 3

static json_t *golden, *llama;

/* ---- the batch ---- */

struct golden_batch {
    struct trajectory trajectories[ROWS];
    struct wire_trajectory wires[ROWS];
    Hone__Trajectory *pointers[ROWS];
    Hone__Batch message;
};

static void fill_trajectory(struct trajectory *t, const json_t *row, int32_t index)
{
    const json_t *tokens = json_object_get(row, "tokens");
    const json_t *behavior = json_object_get(row, "behavior_logprob");
    int32_t count = (int32_t)json_array_size(tokens);
    int32_t prompt = (int32_t)golden_number(row, "prompt_tokens");
    trajectory_init(t, count);
    t->id = (uint64_t)index;
    t->group_id = (uint64_t)(index / GROUP);
    t->sample_index = index % GROUP;
    t->prompt_tokens = prompt;
    t->token_count = count;
    t->finish = FINISH_STOP;
    t->sampling = (struct sampling){.temperature = (float)golden_number(golden, "temperature"),
                                    .top_p = 1.0f};
    t->reward = (struct reward){.status = REWARD_OK, .total = (float)golden_number(row, "reward")};
    for (int32_t i = 0; i < count; i++) {
        t->tokens[i] = (int32_t)json_integer_value(json_array_get(tokens, (size_t)i));
        t->policy_version[i] = i < prompt ? -1 : 0;
        if (i < prompt)
            continue;
        const json_t *value = json_array_get(behavior, (size_t)(i - prompt));
        t->behavior_logprob[i] = (float)json_number_value(value);
        t->loss_mask[i] = 1;
    }
    trajectory_add_segment(t, SEGMENT_PROMPT, prompt);
    trajectory_add_segment(t, SEGMENT_POLICY, count - prompt);
}

static void batch_open(struct golden_batch *batch)
{
    const json_t *rows = json_object_get(golden, "rows");
    assert_int_equal(json_array_size(rows), ROWS);
    hone__batch__init(&batch->message);
    batch->message.number = 1;
    batch->message.group_count = ROWS / GROUP;
    batch->message.n_trajectories = ROWS;
    batch->message.trajectories = batch->pointers;
    for (int32_t i = 0; i < ROWS; i++) {
        fill_trajectory(&batch->trajectories[i], json_array_get(rows, (size_t)i), i);
        wire_trajectory_build(&batch->wires[i], &batch->trajectories[i]);
        batch->pointers[i] = &batch->wires[i].message;
    }
}

static void batch_close(struct golden_batch *batch)
{
    for (int32_t i = 0; i < ROWS; i++) {
        wire_trajectory_release(&batch->wires[i]);
        trajectory_release(&batch->trajectories[i]);
    }
}

/* ---- one step under a preset ---- */

struct outcome {
    double loss, gradient_norm;
};

static void options_of(struct learner_options *options, const char *preset)
{
    char name[64], temperature[64], longest[64];
    struct recipe recipe;
    snprintf(name, sizeof name, "rl.objective.preset=%s", preset);
    snprintf(temperature, sizeof temperature, "rl.sampling.temperature=%.9g",
             golden_number(golden, "temperature"));
    snprintf(longest, sizeof longest, "rl.sampling.max_completion_tokens=%.0f",
             golden_number(golden, "longest"));
    fixture_recipe(&recipe,
                   (const char *const[]){name, temperature, longest, "rl.max_prompt_tokens=8",
                                         "model.dtype=float32", "rl.group_size=3",
                                         "rl.optimizer.max_grad_norm=0"},
                   7);
    learner_options_from(options, &recipe, "model", "stage", "hash");
    recipe_release(&recipe);
}

static struct outcome run(const char *preset, int32_t micro_batch_tokens)
{
    struct learner_options options;
    struct model_config config = golden_config(llama);
    float *flat = golden_vector(&config, llama, "value");
    struct trainer *trainer, *reference;
    struct compute compute;
    static struct golden_batch batch;
    struct rl_batch rl;
    struct rl_step_result result;

    options_of(&options, preset);
    options.trainer.micro_batch_tokens = micro_batch_tokens;
    assert_int_equal(compute_open(&compute, 1), 0);
    assert_int_equal(trainer_create(&trainer, &options.trainer, &config, flat, &compute), 0);
    for (int64_t i = 0; i < model_config_parameter_count(&config); i++)
        flat[i] *= (float)golden_number(golden, "reference_scale");
    options.trainer.logprobs_only = true;
    assert_int_equal(trainer_create(&reference, &options.trainer, &config, flat, &compute), 0);
    batch_open(&batch);
    struct rl_batch_rules rules = {.vocab_size = config.vocab_size,
                                   .max_sequence_tokens = options.trainer.max_sequence_tokens,
                                   .temperature = options.temperature};
    struct rl_step step = {.trainer = trainer,
                           .reference = reference,
                           .loss = options.loss,
                           .advantage = options.advantage,
                           .temperature = options.temperature,
                           .updates = 1,
                           .micro_batch_tokens = micro_batch_tokens};
    step.advantage.kl_coef = options.loss.kl_coef;
    step.advantage.kl_estimator = options.loss.kl_estimator;
    if (step.advantage.kl_in_reward)
        step.loss.kl_coef = 0.0f;
    if (rl_batch_read(&rl, &batch.message, &rules) < 0 || rl_step_run(&step, &rl, 0, &result) < 0)
        fail_msg("%s: %s", preset, error_message());
    rl_batch_release(&rl);
    batch_close(&batch);
    trainer_free(trainer);
    trainer_free(reference);
    compute_close(&compute);
    memory_free(flat);
    return (struct outcome){.loss = result.loss, .gradient_norm = result.gradient_norm_max};
}

static void assert_close(const char *preset, const char *what, double actual, double expected,
                         double tolerance)
{
    if (!(fabs(actual - expected) <= tolerance * fabs(expected)))
        fail_msg("%s, %s: %.9g, expected %.9g", preset, what, actual, expected);
}

static void test_loss_and_gradient(void **state)
{
    (void)state;
    const json_t *cases = json_object_get(golden, "cases");
    const json_t *one;
    size_t i;
    assert_int_equal(json_array_size(cases), RECIPE_PRESET_PPO);
    json_array_foreach(cases, i, one)
    {
        const char *preset = json_string_value(json_object_get(one, "preset"));
        struct outcome outcome = run(preset, 128);
        assert_close(preset, "loss", outcome.loss, golden_number(one, "loss"), 1e-4);
        assert_close(preset, "gradient norm", outcome.gradient_norm,
                     golden_number(one, "gradient_norm"), 1e-4);
    }
}

/* All six sequences at once, then in pieces down to one each. */
static void test_any_number_of_micro_batches(void **state)
{
    (void)state;
    static const int32_t tokens[] = {40, 26, 17};
    const json_t *one;
    size_t i;
    json_array_foreach(json_object_get(golden, "cases"), i, one)
    {
        const char *preset = json_string_value(json_object_get(one, "preset"));
        struct outcome whole = run(preset, 128);
        for (int k = 0; k < 3; k++) {
            struct outcome parts = run(preset, tokens[k]);
            assert_close(preset, "loss in parts", parts.loss, whole.loss, 1e-6);
            assert_close(preset, "gradient norm in parts", parts.gradient_norm, whole.gradient_norm,
                         1e-6);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loss_and_gradient),
        cmocka_unit_test(test_any_number_of_micro_batches),
    };
    golden = golden_load("tests/golden/rl_objectives.json");
    llama = golden_load("tests/golden/llama_gradients.json");
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    json_decref(golden);
    json_decref(llama);
    return failed;
}

/* Every preference loss through a model: value and gradient norm of tests/golden/dpo_losses.json
 * (PyTorch in float64), the same for any number of micro-batches. */
#include "tests/golden/golden_llama.h"

#include <math.h>

#include "dpo/preference_loss.h"

#define PAIRS 3

static json_t *golden, *llama;

static const struct {
    const char *name;
    struct preference_options options;
} losses[] = {
    {"sigmoid", {.kind = PREFERENCE_SIGMOID}},
    {"sigmoid smoothed", {.kind = PREFERENCE_SIGMOID, .label_smoothing = 0.1f}},
    {"sigmoid with nll", {.kind = PREFERENCE_SIGMOID, .nll_coef = 0.2f}},
    {"robust", {.kind = PREFERENCE_ROBUST, .label_smoothing = 0.1f}},
    {"hinge", {.kind = PREFERENCE_HINGE}},
    {"ipo mean", {.kind = PREFERENCE_IPO}},
    {"ipo sum", {.kind = PREFERENCE_IPO, .summed = true}},
    {"simpo", {.kind = PREFERENCE_SIMPO, .margin = 0.5f}},
    {"kto", {.kind = PREFERENCE_KTO, .desirable = 1.2f, .undesirable = 0.8f}},
};

struct sides {
    struct train_batch batch;
    struct train_sequence sequences[3 * PAIRS];
    struct preference_sequence data[3 * PAIRS];
    int32_t tokens[3 * PAIRS][16];
    uint8_t mask[3 * PAIRS][16];
};

/* Sides [0, count) of each pair: chosen, rejected, mismatch. */
static void fill(struct sides *f, int count)
{
    static const char *const names[] = {"chosen", "rejected", "mismatch"};
    memset(f, 0, sizeof *f);
    for (int s = 0; s < count * PAIRS; s++) {
        const json_t *pair = json_array_get(json_object_get(golden, "pairs"), (size_t)(s / count));
        const json_t *tokens = json_object_get(pair, names[s % count]);
        int32_t length = (int32_t)json_array_size(tokens);
        assert_true(length > 4 && length <= 16);
        for (int32_t i = 0; i < length; i++) {
            f->tokens[s][i] = (int32_t)json_integer_value(json_array_get(tokens, (size_t)i));
            f->mask[s][i] = i >= (int32_t)golden_number(pair, "prompt_tokens");
        }
        f->data[s].chosen = s % count == 0;
        f->sequences[s] = (struct train_sequence){.tokens = f->tokens[s],
                                                  .count = length,
                                                  .loss_mask = f->mask[s],
                                                  .unit = count == 2 ? s / 2 : s,
                                                  .user = &f->data[s]};
    }
    f->batch = (struct train_batch){
        .sequences = f->sequences, .count = count * PAIRS, .temperature = 1.0f};
}

static void sum_logprobs(struct trainer *trainer, const struct sides *f, double *sums)
{
    static float rows[3 * PAIRS][16];
    float *pointers[3 * PAIRS];
    for (int s = 0; s < f->batch.count; s++)
        pointers[s] = rows[s];
    assert_int_equal(trainer_logprobs(trainer, &f->batch, pointers, NULL), 0);
    for (int s = 0; s < f->batch.count; s++) {
        sums[s] = 0.0;
        for (int32_t i = 1; i < f->sequences[s].count; i++)
            sums[s] += f->mask[s][i] ? (double)rows[s][i] : 0.0;
    }
}

static void check(size_t which, const json_t *expected, int32_t micro_batch_tokens)
{
    static struct sides all, pairs;
    struct model_config config = golden_config(llama);
    float *flat = golden_vector(&config, llama, "value");
    struct trainer_options options = {
        .dtype = DTYPE_F32,
        .micro_batch_tokens = micro_batch_tokens,
        .max_sequence_tokens = 16,
        .optimizer = {.learning_rate = 1e-4, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8}};
    struct preference_loss loss = {.options = losses[which].options};
    double policy[3 * PAIRS], reference[3 * PAIRS], mismatched[2][PAIRS];
    struct trainer *trainer, *frozen;
    struct compute compute;
    struct step_report report;

    loss.options.beta = (float)golden_number(golden, "beta");
    assert_int_equal(compute_open(&compute, 1), 0);
    assert_int_equal(trainer_create(&trainer, &options, &config, flat, &compute), 0);
    for (int64_t i = 0; i < model_config_parameter_count(&config); i++)
        flat[i] *= (float)golden_number(golden, "reference_scale");
    options.logprobs_only = true;
    assert_int_equal(trainer_create(&frozen, &options, &config, flat, &compute), 0);
    fill(&all, 3);
    sum_logprobs(trainer, &all, policy);
    sum_logprobs(frozen, &all, reference);
    fill(&pairs, 2);
    for (int p = 0; p < PAIRS; p++) {
        pairs.data[2 * p].reference_logprob = reference[3 * p];
        pairs.data[2 * p + 1].reference_logprob = reference[3 * p + 1];
        mismatched[0][p] = policy[3 * p + 2];
        mismatched[1][p] = reference[3 * p + 2];
    }
    loss.kl = preference_kl(PAIRS, mismatched[0], mismatched[1]);
    assert_true(fabs(loss.kl - golden_number(golden, "kl")) < 1e-4);
    preference_loss_begin(&loss, &pairs.batch);
    assert_int_equal(trainer_step(trainer, &pairs.batch, preference_loss_function, &loss, &report),
                     0);
    double value = golden_number(expected, "loss"), norm = golden_number(expected, "gradient_norm");
    if (!(fabs(report.loss - value) <= 1e-4 * fabs(value)) ||
        !(fabs(report.gradient_norm - norm) <= 1e-4 * norm))
        fail_msg("%s: %.9g and %.9g, expected %.9g and %.9g", losses[which].name, report.loss,
                 report.gradient_norm, value, norm);
    trainer_free(trainer);
    trainer_free(frozen);
    compute_close(&compute);
    memory_free(flat);
}

static void every_loss(void **state)
{
    (void)state;
    const json_t *cases = json_object_get(golden, "cases");
    const json_t *one;
    size_t i;
    assert_int_equal(json_array_size(cases), sizeof losses / sizeof losses[0]);
    json_array_foreach(cases, i, one)
    {
        assert_string_equal(json_string_value(json_object_get(one, "name")), losses[i].name);
        check(i, one, 128);
        check(i, one, 24); /* a pair each */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_loss)};
    golden = golden_load("tests/golden/dpo_losses.json");
    llama = golden_load("tests/golden/llama_gradients.json");
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    json_decref(golden);
    json_decref(llama);
    return failed;
}

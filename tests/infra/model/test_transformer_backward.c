/* The backward pass: finite differences along random directions for every tensor, independence of
 * threads, instruction set and head chunk, agreement with float64 gradients of another
 * implementation (tests/golden/llama_gradients.json) and of a real checkpoint (argument: its
 * folder). */
#include "tests/golden/golden_llama.h"
#include "tests/infra/model/model_fixture.h"

#include <math.h>
#include <stdlib.h>

#include <jansson.h>

#include "infra/base/file.h"

#define ROWS_MAX    160
#define SEQUENCES   3
#define HIDDEN_MAX  128
#define TEMPERATURE 0.8f

#define SUPPORT_MAX 6

static const char *stories; /* directory of the real checkpoint, or NULL */

/* A packed batch: which rows have a target and what the loss puts on them. */
struct batch {
    int32_t count; /* rows */
    int32_t tokens[ROWS_MAX], positions[ROWS_MAX], sequence[ROWS_MAX];
    int32_t lengths[SEQUENCES];
    int32_t sequence_count;
    int32_t target_count;
    int32_t rows[ROWS_MAX], targets[ROWS_MAX];
    float d_logprob[ROWS_MAX], d_entropy[ROWS_MAX];
    bool with_entropy;
    float temperature;
    bool with_values;                    /* a value head beside the vocabulary's */
    float value_weights[HIDDEN_MAX + 1]; /* [hidden + 1] */
    float d_values[ROWS_MAX];            /* on its values */
    float value_gradient[HIDDEN_MAX + 1];
    bool is_cut; /* some distributions are cut to a few ids */
    struct logit_support support[ROWS_MAX];
    int32_t support_ids[ROWS_MAX][SUPPORT_MAX];
};

static struct head_targets targets_of(const struct batch *batch)
{
    return (struct head_targets){.count = batch->target_count,
                                 .rows = batch->rows,
                                 .targets = batch->targets,
                                 .temperature = batch->temperature,
                                 .support = batch->is_cut ? batch->support : NULL};
}

static struct batch random_batch(int32_t vocab, bool with_entropy)
{
    const int32_t lengths[SEQUENCES] = {37, 1, 70};
    const struct rng_key key = {.seed = 9};
    struct batch batch = {
        .sequence_count = SEQUENCES, .with_entropy = with_entropy, .temperature = TEMPERATURE};
    for (int32_t s = 0; s < SEQUENCES; s++) {
        batch.lengths[s] = lengths[s];
        for (int32_t i = 0; i < lengths[s]; i++) {
            int32_t row = batch.count++;
            batch.tokens[row] = (int32_t)rng_below(&key, (uint64_t)row, (uint64_t)vocab);
            batch.positions[row] = i;
            batch.sequence[row] = s;
            if (row % 3 == 1) /* prompt or environment tokens: no loss */
                continue;
            batch.rows[batch.target_count] = row;
            batch.targets[batch.target_count] =
                (int32_t)rng_below(&key, (uint64_t)row + 1000, (uint64_t)vocab);
            batch.d_logprob[batch.target_count] = rng_normal(&key, (uint64_t)row + 2000);
            batch.d_entropy[batch.target_count++] = rng_normal(&key, (uint64_t)row + 3000);
        }
    }
    return batch;
}

static void forward_batch(struct engine *engine, const struct batch *batch,
                          struct kv_sequence *sequences)
{
    struct kv_sequence *pointers[SEQUENCES];
    for (int32_t s = 0; s < batch->sequence_count; s++) {
        pointers[s] = &sequences[s];
        kv_sequence_clear(engine->cache, &sequences[s]);
        assert_true(kv_sequence_reserve(engine->cache, &sequences[s], batch->lengths[s], 0));
    }
    transformer_forward(engine->transformer, &(struct forward_rows){.count = batch->count,
                                                                    .tokens = batch->tokens,
                                                                    .positions = batch->positions,
                                                                    .sequence = batch->sequence,
                                                                    .sequences = pointers});
}

static void open_sequences(struct kv_sequence *sequences)
{
    for (int32_t s = 0; s < SEQUENCES; s++)
        kv_sequence_init(&sequences[s], ROWS_MAX);
}

static void close_sequences(struct engine *engine, struct kv_sequence *sequences)
{
    for (int32_t s = 0; s < SEQUENCES; s++)
        kv_sequence_release(engine->cache, &sequences[s]);
}

/* sum d_logprob * logprob + d_entropy * entropy: what the gradient is of. */
static double objective(struct engine *engine, const struct batch *batch,
                        struct kv_sequence *sequences)
{
    float logprob[ROWS_MAX], entropy[ROWS_MAX];
    double sum = 0.0;
    forward_batch(engine, batch, sequences);
    const struct head_targets targets = targets_of(batch);
    transformer_logprob(engine->transformer, &targets, logprob, entropy);
    for (int32_t i = 0; i < batch->target_count; i++)
        sum += (double)batch->d_logprob[i] * (double)logprob[i] +
               (batch->with_entropy ? (double)batch->d_entropy[i] * (double)entropy[i] : 0.0);
    if (!batch->with_values)
        return sum;
    float values[ROWS_MAX];
    transformer_values(engine->transformer, batch->target_count, batch->rows, batch->value_weights,
                       values);
    for (int32_t i = 0; i < batch->target_count; i++)
        sum += (double)batch->d_values[i] * (double)values[i];
    return sum;
}

static void backward_batch(struct engine *engine, struct batch *batch,
                           struct kv_sequence *sequences, float *gradient)
{
    const struct value_gradient values = {.weights = batch->value_weights,
                                          .d_values = batch->d_values,
                                          .gradient = batch->value_gradient};
    const struct head_targets targets = targets_of(batch);
    forward_batch(engine, batch, sequences);
    transformer_backward(engine->transformer, &targets, batch->d_logprob,
                         batch->with_entropy ? batch->d_entropy : NULL,
                         batch->with_values ? &values : NULL, gradient);
}

/* ---- finite differences ---- */

struct probe {
    struct engine *engine;
    const struct batch *batch;
    struct kv_sequence *sequences;
    const float *flat;
    float *moved;
};

/* The objective with tensor `index` moved by `step` along its random direction. */
static double objective_moved(const struct probe *probe, int32_t index, double step)
{
    const struct model_tensor *tensor = model_tensor_at(probe->engine->model, index);
    const struct rng_key key = {.seed = 77, .a = (uint64_t)index};
    memcpy(probe->moved, probe->flat,
           (size_t)model_parameter_count(probe->engine->model) * sizeof(float));
    for (int64_t i = 0; i < tensor->count; i++)
        probe->moved[tensor->offset + i] += (float)(step * (double)rng_normal(&key, (uint64_t)i));
    model_set_flat(probe->engine->model, probe->moved);
    return objective(probe->engine, probe->batch, probe->sequences);
}

/* The slope along the direction: central differences at two steps, extrapolated (Richardson). */
static double measured_slope(const struct probe *probe, int32_t index, double step)
{
    double wide =
        (objective_moved(probe, index, 2 * step) - objective_moved(probe, index, -2 * step)) /
        (4 * step);
    double narrow =
        (objective_moved(probe, index, step) - objective_moved(probe, index, -step)) / (2 * step);
    return (4 * narrow - wide) / 3;
}

static double predicted_slope(const struct model_tensor *tensor, int32_t index,
                              const float *gradient)
{
    const struct rng_key key = {.seed = 77, .a = (uint64_t)index};
    double sum = 0.0;
    for (int64_t i = 0; i < tensor->count; i++)
        sum += (double)gradient[tensor->offset + i] * (double)rng_normal(&key, (uint64_t)i);
    return sum;
}

static void add_values(struct batch *batch, int32_t hidden)
{
    const struct rng_key key = {.seed = 31};
    assert_true(hidden <= HIDDEN_MAX);
    batch->with_values = true;
    for (int32_t k = 0; k <= hidden; k++)
        batch->value_weights[k] = rng_normal(&key, (uint64_t)k);
    for (int32_t i = 0; i < batch->target_count; i++)
        batch->d_values[i] = rng_normal(&key, (uint64_t)(1000 + i));
}

/* The head is linear in its weights: its gradient is what a weight moves the objective by. */
static void check_value_gradient(struct engine *engine, struct batch *batch,
                                 struct kv_sequence *sequences, int32_t hidden)
{
    double before = objective(engine, batch, sequences);
    for (int32_t k = 0; k <= hidden; k++) {
        float weight = batch->value_weights[k];
        batch->value_weights[k] = weight + 1.0f;
        double slope = objective(engine, batch, sequences) - before;
        batch->value_weights[k] = weight;
        if (fabs(slope - (double)batch->value_gradient[k]) > 1e-3 * fabs(slope) + 1e-3)
            fail_msg("value weight %d: slope %g, gradient %g", k, slope,
                     (double)batch->value_gradient[k]);
    }
}

/* Two rows of three keep the target and a few ids beside it. */
static void cut_batch(struct batch *batch, int32_t vocab)
{
    const struct rng_key key = {.seed = 53};
    batch->is_cut = true;
    for (int32_t i = 0; i < batch->target_count; i++) {
        int32_t *ids = batch->support_ids[i], count = 0;
        for (int32_t id = 0; i % 3 != 0 && id < vocab && count < SUPPORT_MAX; id++)
            if (id == batch->targets[i] ||
                (count < SUPPORT_MAX - 1 &&
                 rng_below(&key, (uint64_t)(i * vocab + id), (uint64_t)vocab) < SUPPORT_MAX))
                ids[count++] = id;
        batch->support[i] = (struct logit_support){.ids = ids, .count = count};
    }
}

static void check_finite_differences(bool tied, bool with_entropy, bool with_values, bool cut)
{
    struct model_config config = fixture_config(tied);
    struct batch batch = random_batch(config.vocab_size, with_entropy);
    if (cut)
        cut_batch(&batch, config.vocab_size);
    if (with_values)
        add_values(&batch, config.hidden_size);
    int64_t count = model_config_parameter_count(&config);
    float *flat = fixture_flat(&config, 21), *moved = MEMORY_ARRAY(float, count);
    float *gradient = MEMORY_ARRAY(float, count);
    struct kv_sequence sequences[SEQUENCES];
    struct engine engine;
    engine_open(&engine, &config, flat, DTYPE_F32, CPU_ISA_SCALAR, 2, ROWS_MAX, ACTIVATIONS_ALL);
    open_sequences(sequences);
    backward_batch(&engine, &batch, sequences, gradient);
    const struct probe probe = {&engine, &batch, sequences, flat, moved};
    for (int32_t i = 0; i < model_tensor_count(engine.model); i++) {
        const struct model_tensor *tensor = model_tensor_at(engine.model, i);
        double measured = measured_slope(&probe, i, 1e-3);
        double predicted = predicted_slope(tensor, i, gradient);
        if (fabs(measured - predicted) > 2e-3 * fabs(predicted) + 0.06)
            fail_msg("%s: slope %g, the gradient says %g", tensor->name, measured, predicted);
        assert_true(fabs(predicted) > 0.5);
    }
    if (with_values) {
        model_set_flat(engine.model, flat);
        check_value_gradient(&engine, &batch, sequences, config.hidden_size);
    }
    close_sequences(&engine, sequences);
    engine_close(&engine);
    memory_free(flat);
    memory_free(moved);
    memory_free(gradient);
}

static void test_finite_differences_untied(void **state)
{
    (void)state;
    check_finite_differences(false, false, false, false);
}

static void test_finite_differences_with_a_value_head(void **state)
{
    (void)state;
    check_finite_differences(false, true, true, false);
}

static void test_finite_differences_tied_with_entropy(void **state)
{
    (void)state;
    check_finite_differences(true, true, false, false);
}

static void test_finite_differences_of_cut_distributions(void **state)
{
    (void)state;
    check_finite_differences(true, true, false, true);
}

/* ---- one set of bits ---- */

static void gradient_of(enum dtype dtype, enum cpu_isa isa, int threads, int32_t max_rows,
                        float *gradient)
{
    struct model_config config = fixture_config(true);
    struct batch batch = random_batch(config.vocab_size, true);
    float *flat = fixture_flat(&config, 21);
    struct kv_sequence sequences[SEQUENCES];
    struct engine engine;
    memset(gradient, 0, (size_t)model_config_parameter_count(&config) * sizeof(float));
    engine_open(&engine, &config, flat, dtype, isa, threads, max_rows, ACTIVATIONS_ALL);
    open_sequences(sequences);
    backward_batch(&engine, &batch, sequences, gradient);
    close_sequences(&engine, sequences);
    engine_close(&engine);
    memory_free(flat);
}

static void check_same_gradient(enum dtype dtype)
{
    struct model_config config = fixture_config(true);
    size_t count = (size_t)model_config_parameter_count(&config);
    float *expected = MEMORY_ARRAY(float, count), *got = MEMORY_ARRAY(float, count);
    gradient_of(dtype, CPU_ISA_SCALAR, 1, ROWS_MAX, expected);
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++)
        for (int threads = 1; threads <= 3 && cpu_isa_available((enum cpu_isa)isa); threads++) {
            gradient_of(dtype, (enum cpu_isa)isa, threads, ROWS_MAX + threads, got);
            assert_memory_equal(expected, got, count * sizeof(float));
        }
    memory_free(expected);
    memory_free(got);
}

static void test_same_gradient(void **state)
{
    (void)state;
    check_same_gradient(DTYPE_F32);
    check_same_gradient(DTYPE_BF16);
}

/* ---- what is kept ---- */

/* Two backward passes over one forward, so that the shared set of activations is found in both
 * states: holding the last layer's, then the first's. */
static void gradient_keeping(enum dtype dtype, enum activation_keep keep, int threads,
                             float *gradient)
{
    struct model_config config = fixture_config(true);
    struct batch batch = random_batch(config.vocab_size, true);
    float *flat = fixture_flat(&config, 21);
    struct kv_sequence sequences[SEQUENCES];
    struct engine engine;
    memset(gradient, 0, (size_t)model_config_parameter_count(&config) * sizeof(float));
    engine_open(&engine, &config, flat, dtype, CPU_ISA_SCALAR, threads, ROWS_MAX, keep);
    open_sequences(sequences);
    backward_batch(&engine, &batch, sequences, gradient);
    const struct head_targets targets = targets_of(&batch);
    transformer_backward(engine.transformer, &targets, batch.d_logprob, batch.d_entropy, NULL,
                         gradient);
    close_sequences(&engine, sequences);
    engine_close(&engine);
    memory_free(flat);
}

static void test_recomputed_activations_give_the_same_bits(void **state)
{
    (void)state;
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};
    struct model_config config = fixture_config(true);
    size_t count = (size_t)model_config_parameter_count(&config);
    float *kept = MEMORY_ARRAY(float, count), *recomputed = MEMORY_ARRAY(float, count);
    assert_true(config.layers > 1);
    for (int d = 0; d < 2; d++)
        for (int threads = 1; threads <= 3; threads++) {
            gradient_keeping(dtypes[d], ACTIVATIONS_ALL, 1, kept);
            gradient_keeping(dtypes[d], ACTIVATIONS_LAYER_INPUTS, threads, recomputed);
            assert_memory_equal(kept, recomputed, count * sizeof(float));
        }
    memory_free(kept);
    memory_free(recomputed);
}

/* A layer more costs one residual of rows x hidden when the rest is computed again. */
static void test_kept_layer_inputs_take_less_memory(void **state)
{
    (void)state;
    struct model_config config = fixture_config(true);
    size_t bytes[2][3];
    for (int more = 0; more < 2; more++, config.layers++)
        for (int keep = ACTIVATIONS_NONE; keep <= ACTIVATIONS_LAYER_INPUTS; keep++)
            bytes[more][keep] =
                transformer_bytes(&config, DTYPE_BF16, 4096, (enum activation_keep)keep);
    size_t residual = 4096 * (size_t)config.hidden_size * sizeof(float);
    size_t all = bytes[1][ACTIVATIONS_ALL] - bytes[0][ACTIVATIONS_ALL];
    size_t inputs = bytes[1][ACTIVATIONS_LAYER_INPUTS] - bytes[0][ACTIVATIONS_LAYER_INPUTS];
    assert_true(inputs >= residual && inputs < residual + 4096);
    assert_true(all > 4 * residual);
    assert_true(bytes[1][ACTIVATIONS_NONE] - bytes[0][ACTIVATIONS_NONE] < 4096);
}

/* A row more costs the same whatever the vocabulary: logits exist for a chunk of rows only. */
static void test_no_row_of_logits_for_each_token(void **state)
{
    (void)state;
    for (int keep = ACTIVATIONS_NONE; keep <= ACTIVATIONS_LAYER_INPUTS; keep++) {
        size_t growth[2];
        for (int large = 0; large < 2; large++) {
            struct model_config config = fixture_config(true);
            config.vocab_size = large ? 128000 : 1000;
            growth[large] =
                transformer_bytes(&config, DTYPE_BF16, 8192, (enum activation_keep)keep) -
                transformer_bytes(&config, DTYPE_BF16, 4096, (enum activation_keep)keep);
        }
        assert_true(growth[1] > 0 && growth[1] <= growth[0]);
    }
}

/* bf16 rounding moves the gradient, but not far. */
static void test_bf16_gradient_is_close(void **state)
{
    (void)state;
    struct model_config config = fixture_config(true);
    int64_t count = model_config_parameter_count(&config);
    float *exact = MEMORY_ARRAY(float, count), *rounded = MEMORY_ARRAY(float, count);
    double dot = 0, exact_squares = 0, rounded_squares = 0;
    gradient_of(DTYPE_F32, CPU_ISA_SCALAR, 1, ROWS_MAX, exact);
    gradient_of(DTYPE_BF16, CPU_ISA_SCALAR, 1, ROWS_MAX, rounded);
    for (int64_t i = 0; i < count; i++) {
        dot += (double)exact[i] * (double)rounded[i];
        exact_squares += (double)exact[i] * (double)exact[i];
        rounded_squares += (double)rounded[i] * (double)rounded[i];
    }
    assert_true(dot / sqrt(exact_squares * rounded_squares) > 0.99);
    memory_free(exact);
    memory_free(rounded);
}

/* Gradients add: two backward passes over halves of the targets equal one over all, in the sum. */
static void test_gradients_add(void **state)
{
    (void)state;
    struct model_config config = fixture_config(false);
    int64_t count = model_config_parameter_count(&config);
    struct batch batch = random_batch(config.vocab_size, true);
    float *flat = fixture_flat(&config, 21), *whole = MEMORY_ARRAY(float, count);
    float *halves = MEMORY_ARRAY(float, count);
    struct kv_sequence sequences[SEQUENCES];
    struct engine engine;
    engine_open(&engine, &config, flat, DTYPE_F32, CPU_ISA_SCALAR, 1, ROWS_MAX, ACTIVATIONS_ALL);
    open_sequences(sequences);
    backward_batch(&engine, &batch, sequences, whole);
    int32_t half = batch.target_count / 2, all = batch.target_count;
    forward_batch(&engine, &batch, sequences);
    const struct head_targets lower = {
        .count = half, .rows = batch.rows, .targets = batch.targets, .temperature = TEMPERATURE};
    const struct head_targets upper = {.count = all - half,
                                       .rows = batch.rows + half,
                                       .targets = batch.targets + half,
                                       .temperature = TEMPERATURE};
    const struct head_targets none = {.temperature = TEMPERATURE};
    transformer_backward(engine.transformer, &lower, batch.d_logprob, batch.d_entropy, NULL,
                         halves);
    transformer_backward(engine.transformer, &upper, batch.d_logprob + half, batch.d_entropy + half,
                         NULL, halves);
    for (int64_t i = 0; i < count; i++)
        assert_true(fabsf(whole[i] - halves[i]) <= 1e-4f * fabsf(whole[i]) + 2e-4f);
    memcpy(halves, whole, (size_t)count * sizeof(float));
    transformer_backward(engine.transformer, &none, NULL, NULL, NULL, halves);
    assert_memory_equal(whole, halves, (size_t)count * sizeof(float));
    close_sequences(&engine, sequences);
    engine_close(&engine);
    memory_free(flat);
    memory_free(whole);
    memory_free(halves);
}

/* ---- gradients of another implementation ---- */

/* Appends a golden sequence to the batch; logprob and entropy get the expected values. */
static void add_golden_sequence(struct batch *batch, const json_t *sequence, float *logprob,
                                float *entropy)
{
    const json_t *ids = json_object_get(sequence, "ids");
    int32_t length = (int32_t)json_array_size(ids), first = batch->target_count;
    assert_true(batch->count + length <= ROWS_MAX);
    for (int32_t i = 0; i < length; i++) {
        int32_t row = batch->count + i;
        batch->tokens[row] = (int32_t)json_integer_value(json_array_get(ids, (size_t)i));
        batch->positions[row] = i;
        batch->sequence[row] = batch->sequence_count;
        if (i > 0) {
            batch->rows[batch->target_count] = row - 1;
            batch->targets[batch->target_count++] = batch->tokens[row];
        }
    }
    read_floats(json_object_get(sequence, "d_logprob"), batch->d_logprob + first);
    read_floats(json_object_get(sequence, "d_entropy"), batch->d_entropy + first);
    read_floats(json_object_get(sequence, "logprob"), logprob + first);
    read_floats(json_object_get(sequence, "entropy"), entropy + first);
    batch->lengths[batch->sequence_count++] = length;
    batch->count += length;
}

static void assert_all_close(const float *got, const float *expected, int64_t count, float scale,
                             const char *what)
{
    for (int64_t i = 0; i < count; i++)
        if (fabsf(got[i] - expected[i]) > 2e-5f * fabsf(expected[i]) + 2e-6f * scale)
            fail_msg("%s[%d]: %.9g, expected %.9g", what, (int)i, (double)got[i],
                     (double)expected[i]);
}

static void test_golden_gradients(void **state)
{
    (void)state;
    json_error_t error;
    json_t *golden = json_load_file("tests/golden/llama_gradients.json", 0, &error);
    assert_non_null(golden);
    struct model_config config = golden_config(golden);
    struct batch batch = {.with_entropy = true};
    float logprob[ROWS_MAX], entropy[ROWS_MAX], got_logprob[ROWS_MAX], got_entropy[ROWS_MAX];
    const json_t *sequence;
    size_t i;
    batch.temperature = (float)json_number_value(json_object_get(golden, "temperature"));
    json_array_foreach(json_object_get(golden, "sequences"), i, sequence)
        add_golden_sequence(&batch, sequence, logprob, entropy);
    float *flat = golden_vector(&config, golden, "value");
    float *expected = golden_vector(&config, golden, "gradient");
    float *gradient = MEMORY_ARRAY(float, model_config_parameter_count(&config));
    struct kv_sequence sequences[SEQUENCES];
    struct engine engine;
    engine_open(&engine, &config, flat, DTYPE_F32, CPU_ISA_SCALAR, 2, ROWS_MAX, ACTIVATIONS_ALL);
    open_sequences(sequences);
    backward_batch(&engine, &batch, sequences, gradient);
    const struct head_targets targets = targets_of(&batch);
    transformer_logprob(engine.transformer, &targets, got_logprob, got_entropy);
    assert_all_close(got_logprob, logprob, batch.target_count, 1.0f, "logprob");
    assert_all_close(got_entropy, entropy, batch.target_count, 1.0f, "entropy");
    for (int32_t j = 0; j < model_tensor_count(engine.model); j++) {
        const struct model_tensor *tensor = model_tensor_at(engine.model, j);
        assert_all_close(gradient + tensor->offset, expected + tensor->offset, tensor->count, 20.0f,
                         tensor->name);
    }
    close_sequences(&engine, sequences);
    engine_close(&engine);
    json_decref(golden);
    memory_free(flat);
    memory_free(expected);
    memory_free(gradient);
}

/* ---- the real checkpoint ---- */

static json_t *load_reference(void)
{
    char path[HONE_PATH_MAX];
    json_error_t error;
    path_join(path, sizeof path, stories, "reference_f64.json");
    json_t *reference = json_load_file(path, 0, &error);
    assert_non_null(reference);
    return reference;
}

static struct batch reference_batch(const json_t *check)
{
    struct batch batch = {.sequence_count = 1, .temperature = 1.0f};
    const json_t *id;
    size_t i;
    json_array_foreach(json_object_get(check, "ids"), i, id)
    {
        batch.tokens[i] = (int32_t)json_integer_value(id);
        batch.positions[i] = (int32_t)i;
        batch.rows[i] = (int32_t)i;
        if (i > 0)
            batch.targets[i - 1] = batch.tokens[i];
    }
    batch.count = batch.lengths[0] = (int32_t)i;
    batch.target_count = batch.count - 1;
    for (int32_t j = 0; j < batch.target_count; j++)
        batch.d_logprob[j] = -1.0f / (float)batch.target_count;
    return batch;
}

static int64_t offset_of(const struct model *model, const json_t *entry)
{
    const char *name = json_string_value(json_object_get(entry, "tensor"));
    const json_t *index = json_object_get(entry, "index");
    for (int32_t i = 0; i < model_tensor_count(model); i++) {
        const struct model_tensor *tensor = model_tensor_at(model, i);
        if (strcmp(tensor->name, name) != 0)
            continue;
        if (json_array_size(index) == 1)
            return tensor->offset + json_integer_value(json_array_get(index, 0));
        return tensor->offset + json_integer_value(json_array_get(index, 0)) * tensor->columns +
               json_integer_value(json_array_get(index, 1));
    }
    fail_msg("no tensor %s", name);
    return -1;
}

/* 1e-4 relative, and 4e-8 for the entry of 7.6e-7: it is a sum over tokens whose magnitudes add up
 * to 2.4e-2, so one rounding of each term alone may move it by 1.5e-9 or 0.2 %, and float32
 * arithmetic does by 1 to 2 % (tests/oracle/gradient_entries.py). */
static void check_entries(const struct model *model, const json_t *entries, const float *gradient)
{
    const json_t *entry;
    size_t i;
    assert_int_equal(json_array_size(entries), 12);
    json_array_foreach(entries, i, entry)
    {
        double expected = json_real_value(json_object_get(entry, "grad"));
        double got = (double)gradient[offset_of(model, entry)];
        if (fabs(got - expected) > 1e-4 * fabs(expected) + 4e-8)
            fail_msg("%s: %.9g, the reference has %.9g",
                     json_string_value(json_object_get(entry, "tensor")), got, expected);
    }
}

static void test_stories_gradient(void **state)
{
    (void)state;
    char path[HONE_PATH_MAX];
    struct model_config config;
    struct kv_sequence sequences[SEQUENCES];
    struct engine engine;
    json_t *reference = load_reference();
    const json_t *check = json_object_get(reference, "grad_check");
    struct batch batch = reference_batch(check);
    path_join(path, sizeof path, stories, "hf");
    assert_int_equal(model_config_read(&config, path), 0);
    int64_t count = model_config_parameter_count(&config);
    float *flat = MEMORY_ARRAY(float, count), *gradient = MEMORY_ARRAY(float, count);
    assert_int_equal(model_read_flat(&config, path, flat), 0);
    engine_open(&engine, &config, flat, DTYPE_F32, CPU_ISA_SCALAR, 2, ROWS_MAX, ACTIVATIONS_ALL);
    open_sequences(sequences);
    assert_true(fabs(objective(&engine, &batch, sequences) -
                     json_real_value(json_object_get(check, "loss_value"))) < 1e-5);
    backward_batch(&engine, &batch, sequences, gradient);
    check_entries(engine.model, json_object_get(check, "entries"), gradient);
    close_sequences(&engine, sequences);
    engine_close(&engine);
    json_decref(reference);
    memory_free(flat);
    memory_free(gradient);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finite_differences_untied),
        cmocka_unit_test(test_finite_differences_with_a_value_head),
        cmocka_unit_test(test_finite_differences_tied_with_entropy),
        cmocka_unit_test(test_finite_differences_of_cut_distributions),
        cmocka_unit_test(test_same_gradient),
        cmocka_unit_test(test_recomputed_activations_give_the_same_bits),
        cmocka_unit_test(test_kept_layer_inputs_take_less_memory),
        cmocka_unit_test(test_no_row_of_logits_for_each_token),
        cmocka_unit_test(test_bf16_gradient_is_close),
        cmocka_unit_test(test_gradients_add),
        cmocka_unit_test(test_golden_gradients),
    };
    const struct CMUnitTest real[] = {
        cmocka_unit_test(test_stories_gradient),
    };
    if (argc < 2)
        return cmocka_run_group_tests_name("backward", tests, NULL, NULL);
    if (!file_is_directory(argv[1])) {
        printf("skipped: no real checkpoint at %s\n", argv[1]);
        return EXIT_SKIPPED;
    }
    stories = argv[1];
    return cmocka_run_group_tests_name("backward on stories260k", real, NULL, NULL);
}

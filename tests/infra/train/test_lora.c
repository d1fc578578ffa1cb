/* Adapters: their gradient against finite differences through a whole model, the merged weights by
 * hand, training that moves nothing else, checkpoints that come back bit for bit, and one set of
 * bits for any number of threads. */
#include "tests/infra/train/train_fixture.h"

#include <stdlib.h>

#define RANK 3

static struct lora_options some(void)
{
    return (struct lora_options){
        .rank = RANK, .alpha = 6.0f, .targets = LORA_Q | LORA_V | LORA_O | LORA_DOWN, .seed = 4};
}

/* A model's shape and random weights, with adapters that are not 0. */
struct adapted {
    struct model_config config;
    struct compute compute;
    struct model *model;
    struct lora lora;
    float *base;
    int64_t parameters;
};

static void adapted_open(struct adapted *a, int threads)
{
    const struct lora_options options = some();
    const struct rng_key key = {.seed = 12, .purpose = RNG_DATA};
    a->config = fixture_config();
    a->base = fixture_master(&a->config, 5);
    a->parameters = model_config_parameter_count(&a->config);
    assert_ok(compute_open(&a->compute, threads));
    assert_ok(model_create(&a->model, &a->config, DTYPE_F32, true, &a->compute));
    assert_ok(lora_init(&a->lora, &options, a->model));
    for (int64_t i = 0; i < a->lora.count; i++)
        a->lora.values[i] = 0.1f * rng_normal(&key, (uint64_t)i);
}

static void adapted_close(struct adapted *a)
{
    lora_release(&a->lora);
    model_free(a->model);
    compute_close(&a->compute);
    memory_free(a->base);
}

static void merged_by_hand(void **state)
{
    (void)state;
    struct adapted a;
    adapted_open(&a, 1);
    float *merged = MEMORY_ARRAY(float, a.parameters);
    lora_merge(&a.lora, a.compute.pool, a.base, a.parameters, merged);
    assert_int_equal(a.lora.count, lora_count(&a.lora.options, &a.config));
    assert_int_equal(a.lora.matrix_count, 4 * a.config.layers);
    int64_t adapted = 0, moved = 0;
    for (int32_t m = 0; m < a.lora.matrix_count; m++) {
        const struct lora_matrix *matrix = &a.lora.matrices[m];
        const float *lowered = a.lora.values + matrix->at;
        const float *raised = lowered + RANK * matrix->columns;
        for (int64_t n = 0; n < matrix->rows; n++)
            for (int64_t k = 0; k < matrix->columns; k++) {
                int64_t at = matrix->offset + n * matrix->columns + k;
                double sum = 0.0;
                for (int r = 0; r < RANK; r++)
                    sum += (double)raised[n * RANK + r] * (double)lowered[r * matrix->columns + k];
                double expected = (double)a.base[at] + 6.0 / RANK * sum;
                assert_true(fabs((double)merged[at] - expected) < 1e-5);
                adapted++;
            }
    }
    for (int64_t i = 0; i < a.parameters; i++)
        moved += merged[i] != a.base[i];
    assert_true(moved <= adapted && moved > adapted * 9 / 10); /* and nothing else has */
    lora_reset(&a.lora);
    lora_merge(&a.lora, a.compute.pool, a.base, a.parameters, merged);
    assert_memory_equal(merged, a.base, (size_t)a.parameters * sizeof(float));
    memory_free(merged);
    adapted_close(&a);
}

/* Of sum_ij G_ij W_ij, whose gradient in W is G: moved along random directions of the adapters. */
static void gradient_matches_finite_differences(void **state)
{
    (void)state;
    struct adapted a;
    adapted_open(&a, 2);
    const struct rng_key key = {.seed = 13, .purpose = RNG_DATA};
    float *g = MEMORY_ARRAY(float, a.parameters), *merged = MEMORY_ARRAY(float, a.parameters);
    float *at = MEMORY_ARRAY(float, a.lora.count);
    for (int64_t i = 0; i < a.parameters; i++)
        g[i] = rng_normal(&key, (uint64_t)i);
    memcpy(at, a.lora.values, (size_t)a.lora.count * sizeof *at);
    lora_gradient(&a.lora, a.compute.pool, g);
    for (uint64_t direction = 0; direction < 4; direction++) {
        double value[2], predicted = 0.0;
        for (int side = 0; side < 2; side++) {
            value[side] = 0.0;
            for (int64_t i = 0; i < a.lora.count; i++) {
                double d = (double)rng_normal(&key, 1000000 + direction * 100000 + (uint64_t)i);
                a.lora.values[i] = (float)((double)at[i] + (side ? -1e-2 : 1e-2) * d);
                predicted += side ? 0.0 : d * (double)a.lora.gradient[i];
            }
            lora_merge(&a.lora, a.compute.pool, a.base, a.parameters, merged);
            for (int64_t i = 0; i < a.parameters; i++)
                value[side] += (double)g[i] * (double)merged[i];
        }
        double measured = (value[0] - value[1]) / 2e-2;
        assert_true(fabs(measured - predicted) < 2e-3 * fabs(predicted) + 1e-2);
        memcpy(a.lora.values, at, (size_t)a.lora.count * sizeof *at);
    }
    memory_free(g);
    memory_free(merged);
    memory_free(at);
    adapted_close(&a);
}

/* ---- in a trainer ---- */

static int pull_down(void *context, const struct train_batch *batch,
                     const struct loss_streams *streams, double *total)
{
    int64_t tokens = *(const int64_t *)context;
    for (int32_t s = 0; s < streams->count; s++) {
        const struct train_sequence *sequence = &batch->sequences[streams->first + s];
        for (int32_t i = 1; i < sequence->count; i++) {
            if (sequence->loss_mask[i] == 0)
                continue;
            *total -= (double)streams->logprob[s][i] / (double)tokens;
            streams->d_logprob[s][i] = -1.0f / (float)tokens;
        }
    }
    return 0;
}

static struct trainer_options adapter_options(enum dtype dtype)
{
    struct trainer_options options = fixture_options(dtype, 100);
    options.lora = some();
    return options;
}

static double steps(struct trainer *trainer, struct fixture_batch *data, int count)
{
    struct step_report report = {0};
    for (int i = 0; i < count; i++) {
        assert_ok(trainer_step(trainer, &data->batch, pull_down, &data->trained, &report));
        assert_true(report.applied && report.gradient_norm > 0.0);
    }
    return report.loss;
}

static void training_moves_the_adapters_alone(void **state)
{
    (void)state;
    static struct fixture_batch data;
    struct model_config config = fixture_config();
    float *master = fixture_master(&config, 5);
    size_t bytes = (size_t)model_config_parameter_count(&config) * sizeof(float);
    char directory[] = "/tmp/hone-lora-XXXXXX", path[64], exported[64];
    struct checkpoint_state saved = {.stage = "sft"}, restored;
    struct hash one_hash, two_hash;

    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/step-1", directory);
    snprintf(exported, sizeof exported, "%s/final", directory);
    fixture_batch_fill(&data, 8, 3);
    for (int threads = 1; threads <= 3; threads += 2) {
        struct trainer_options options = adapter_options(DTYPE_BF16);
        struct trainer *one, *two;
        struct compute compute;
        assert_ok(compute_open(&compute, threads));
        assert_ok(trainer_create(&one, &options, &config, master, &compute));
        double first = steps(one, &data, 1), last = steps(one, &data, 40);
        assert_true(last < first - 0.5);
        assert_memory_equal(trainer_master(one), master, bytes);
        assert_ok(trainer_save(one, path, NULL, &saved));
        assert_ok(trainer_create(&two, &options, &config, master, &compute));
        assert_ok(trainer_restore(two, path, &restored));
        steps(one, &data, 3);
        steps(two, &data, 3);
        model_hash(trainer_model(one), &one_hash);
        model_hash(trainer_model(two), &two_hash);
        assert_memory_equal(&one_hash, &two_hash, sizeof one_hash);
        if (threads > 1) /* A1 */
            assert_string_equal(saved.weights_hash, restored.weights_hash);
        char hex[HASH_HEX_SIZE];
        hash_hex(&one_hash, hex);
        static char before[HASH_HEX_SIZE];
        if (threads == 1)
            memcpy(before, hex, sizeof before);
        assert_string_equal(before, hex);

        /* What is exported is the model that was trained, to the bit. */
        assert_ok(trainer_export(one, exported, NULL, DTYPE_BF16, &saved));
        float *flat = MEMORY_ARRAY(float, model_config_parameter_count(&config));
        struct model *plain;
        assert_ok(model_read_flat(&config, exported, flat));
        assert_ok(model_create(&plain, &config, DTYPE_BF16, false, &compute));
        model_set_flat(plain, flat);
        model_hash(plain, &two_hash);
        assert_memory_equal(&one_hash, &two_hash, sizeof one_hash);
        model_free(plain);
        memory_free(flat);

        /* Back to the start. */
        assert_ok(trainer_reset(one, master));
        trainer_free(two);
        assert_ok(trainer_create(&two, &options, &config, master, &compute));
        steps(one, &data, 2);
        steps(two, &data, 2);
        model_hash(trainer_model(one), &one_hash);
        model_hash(trainer_model(two), &two_hash);
        assert_memory_equal(&one_hash, &two_hash, sizeof one_hash);
        trainer_free(one);
        trainer_free(two);
        compute_close(&compute);
    }
    assert_ok(file_remove_tree(directory));
    memory_free(master);
}

static void a_checkpoint_of_every_weight_is_not_one_of_adapters(void **state)
{
    (void)state;
    static struct fixture_batch data;
    struct model_config config = fixture_config();
    float *master = fixture_master(&config, 5);
    char directory[] = "/tmp/hone-lora-XXXXXX", path[64];
    struct checkpoint_state saved = {.stage = "sft"};
    struct trainer_options all = fixture_options(DTYPE_BF16, 100),
                           some_of = adapter_options(DTYPE_BF16);
    struct trainer *full, *adapters;
    struct compute compute;

    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/step-1", directory);
    fixture_batch_fill(&data, 4, 3);
    assert_ok(compute_open(&compute, 1));
    assert_ok(trainer_create(&full, &all, &config, master, &compute));
    assert_ok(trainer_create(&adapters, &some_of, &config, master, &compute));
    assert_ok(trainer_save(full, path, NULL, &saved));
    assert_int_equal(trainer_restore(adapters, path, &saved), HONE_EFORMAT);
    assert_non_null(strstr(error_message(), "\"adapters\" is missing"));
    assert_ok(trainer_save(adapters, path, NULL, &saved));
    assert_int_equal(trainer_restore(full, path, &saved), HONE_EFORMAT);
    trainer_free(full);
    trainer_free(adapters);
    some_of.lora.targets = 0;
    assert_int_equal(trainer_create(&adapters, &some_of, &config, master, &compute), HONE_EINVAL);
    compute_close(&compute);
    assert_ok(file_remove_tree(directory));
    memory_free(master);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merged_by_hand),
        cmocka_unit_test(gradient_matches_finite_differences),
        cmocka_unit_test(training_moves_the_adapters_alone),
        cmocka_unit_test(a_checkpoint_of_every_weight_is_not_one_of_adapters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

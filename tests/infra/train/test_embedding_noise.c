/* NEFTune's noise: how large, what it depends on, and that only a step has it. */
#include "tests/infra/train/train_fixture.h"

#include "infra/train/embedding_noise.h"

static int summed_logprob(void *context, const struct train_batch *batch,
                          const struct loss_streams *streams, double *total)
{
    const double *weight = context;
    for (int32_t s = 0; s < streams->count; s++) {
        const struct train_sequence *sequence = &batch->sequences[streams->first + s];
        for (int32_t i = 1; i < sequence->count; i++) {
            if (sequence->loss_mask[i] == 0)
                continue;
            *total -= *weight * (double)streams->logprob[s][i];
            streams->d_logprob[s][i] = (float)-*weight;
        }
    }
    return 0;
}

/* Loss of a step and the weights after it. */
static double step(float alpha, uint64_t seed, int32_t micro_batch_tokens, int threads,
                   float *weights)
{
    struct model_config config = fixture_config();
    struct trainer_options options = fixture_options(DTYPE_F32, micro_batch_tokens);
    static struct fixture_batch batch;
    struct compute compute;
    struct trainer *trainer;
    struct step_report report;
    float *master = fixture_master(&config, 3);
    double weight;
    fixture_batch_fill(&batch, 12, 5);
    weight = 1.0 / (double)batch.trained;
    options.noise = (struct embedding_noise_options){alpha, seed};
    assert_ok(compute_open(&compute, threads));
    assert_ok(trainer_create(&trainer, &options, &config, master, &compute));
    assert_ok(trainer_step(trainer, &batch.batch, summed_logprob, &weight, &report));
    memcpy(weights, trainer_master(trainer),
           (size_t)model_config_parameter_count(&config) * sizeof *weights);
    trainer_free(trainer);
    compute_close(&compute);
    memory_free(master);
    return report.loss;
}

static void a_step_depends_on_seed_and_alpha_alone(void **state)
{
    (void)state;
    struct model_config config = fixture_config();
    size_t count = (size_t)model_config_parameter_count(&config);
    float *a = MEMORY_ARRAY(float, count), *b = MEMORY_ARRAY(float, count);
    double plain = step(0.0f, 1, 128, 1, a), noisy = step(5.0f, 1, 128, 1, b);
    assert_true(fabs(plain - noisy) > 1e-4);
    assert_true(step(5.0f, 1, 128, 2, a) == noisy); /* threads */
    assert_memory_equal(a, b, count * sizeof *a);
    assert_true(fabs(step(5.0f, 1, 48, 1, a) - noisy) < 1e-6); /* another packing */
    assert_true(fabs(step(5.0f, 2, 128, 1, a) - noisy) > 1e-5);
    memory_free(a);
    memory_free(b);
}

static void only_a_step_has_it(void **state)
{
    (void)state;
    static struct fixture_batch batch;
    static float rows[2][12][FIXTURE_TOKENS_MAX];
    float *pointers[2][12];
    struct model_config config = fixture_config();
    struct compute compute;
    float *master = fixture_master(&config, 3);
    fixture_batch_fill(&batch, 12, 5);
    assert_ok(compute_open(&compute, 1));
    for (int k = 0; k < 2; k++) {
        struct trainer_options options = fixture_options(DTYPE_F32, 128);
        struct trainer *trainer;
        options.noise = (struct embedding_noise_options){k == 0 ? 0.0f : 5.0f, 1};
        for (int s = 0; s < 12; s++)
            pointers[k][s] = rows[k][s];
        assert_ok(trainer_create(&trainer, &options, &config, master, &compute));
        assert_ok(trainer_logprobs(trainer, &batch.batch, pointers[k], NULL));
        trainer_free(trainer);
    }
    assert_memory_equal(rows[0], rows[1], sizeof rows[0]);
    compute_close(&compute);
    memory_free(master);
}

/* Uniform in (-1, 1) times alpha / sqrt(L d): mean 0, variance a third. */
static void the_noise_is_uniform(void **state)
{
    (void)state;
    enum { ROWS = 400, HIDDEN = 62 };
    static float noise[ROWS][HIDDEN], again[ROWS][HIDDEN];
    static int32_t positions[ROWS], sequence[ROWS];
    struct train_sequence sequences[2] = {{.count = 100, .unit = 0}, {.count = 300, .unit = 1}};
    struct train_batch batch = {.sequences = sequences, .count = 2};
    struct micro_batch micro = {.row_count = ROWS, .positions = positions, .sequence = sequence};
    struct embedding_noise_options options = {5.0f, 9};
    for (int row = 0; row < ROWS; row++) {
        sequence[row] = row >= 100;
        positions[row] = row >= 100 ? row - 100 : row;
    }
    embedding_noise_fill(&options, 3, &batch, &micro, HIDDEN, NULL, noise[0]);
    for (int s = 0; s < 2; s++) {
        double bound = 5.0 / sqrt((double)sequences[s].count * HIDDEN), sum = 0.0, squares = 0.0;
        double most = 0.0;
        for (int row = s * 100; row < (s == 0 ? 100 : ROWS); row++)
            for (int i = 0; i < HIDDEN; i++) {
                double value = (double)noise[row][i] / bound;
                most = fmax(most, fabs(value));
                sum += value;
                squares += value * value;
            }
        double count = (double)sequences[s].count * HIDDEN;
        assert_true(most < 1.0 && most > 0.99);
        assert_true(fabs(sum / count) < 5.0 / sqrt(3.0 * count));
        assert_true(fabs(squares / count - 1.0 / 3.0) < 0.02);
    }
    embedding_noise_fill(&options, 4, &batch, &micro, HIDDEN, NULL, again[0]);
    int same = 0;
    for (int row = 0; row < ROWS; row++) /* another step, another draw; rows differ too */
        same += noise[row][0] == again[row][0] || (row > 0 && noise[row][0] == noise[row - 1][0]);
    assert_true(same < 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_depends_on_seed_and_alpha_alone),
        cmocka_unit_test(only_a_step_has_it),
        cmocka_unit_test(the_noise_is_uniform),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

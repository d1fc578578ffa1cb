/* A trainer's value head: it learns what it is shown, comes back with a checkpoint bit for bit, and
 * a trainer without one is not touched by it. */
#include "tests/infra/train/train_fixture.h"

#include <stdlib.h>

/* Pushes every value towards the token's position, and leaves the policy. */
static int positions_loss(void *context, const struct train_batch *batch,
                          const struct loss_streams *streams, double *total)
{
    double *worst = context;
    for (int32_t s = 0; s < streams->count; s++) {
        const struct train_sequence *sequence = &batch->sequences[streams->first + s];
        for (int32_t i = 1; i < sequence->count; i++) {
            if (sequence->loss_mask[i] == 0)
                continue;
            double error = (double)streams->value[s][i] - 0.1 * i;
            *total += 0.5 * error * error;
            *worst = fmax(*worst, fabs(error));
            streams->d_value[s][i] = (float)error;
        }
    }
    return 0;
}

static struct trainer_options head_options(void)
{
    struct trainer_options options = fixture_options(DTYPE_BF16, 64);
    options.value_head = true;
    options.value_learning_rate = 3e-2;
    return options;
}

static double train(struct trainer *trainer, struct train_batch *batch, int steps)
{
    double worst = 0.0;
    for (int i = 0; i < steps; i++) {
        struct step_report report;
        worst = 0.0;
        assert_ok(trainer_step(trainer, batch, positions_loss, &worst, &report));
        assert_true(report.applied && report.gradient_norm > 0.0);
    }
    return worst;
}

static void values_are_learned_and_restored(void **state)
{
    (void)state;
    static struct fixture_batch data;
    static float before[FIXTURE_SEQUENCES_MAX][FIXTURE_TOKENS_MAX];
    static float after[FIXTURE_SEQUENCES_MAX][FIXTURE_TOKENS_MAX];
    float *rows[FIXTURE_SEQUENCES_MAX], *rows_after[FIXTURE_SEQUENCES_MAX];
    struct model_config config = fixture_config();
    float *master = fixture_master(&config, 5);
    struct trainer_options options = head_options();
    struct trainer *one, *two;
    struct compute compute;
    struct checkpoint_state saved = {.stage = "rl"}, restored;
    char directory[] = "/tmp/hone-value-XXXXXX", path[64];

    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/step-1", directory);
    assert_ok(compute_open(&compute, 2));
    fixture_batch_fill(&data, 6, 3);
    data.batch.need_value = true;
    for (int s = 0; s < 6; s++) {
        rows[s] = before[s];
        rows_after[s] = after[s];
    }
    assert_ok(trainer_create(&one, &options, &config, master, &compute));
    assert_ok(trainer_values(one, &data.batch, rows));
    for (int s = 0; s < 6; s++)
        for (int i = 0; i < FIXTURE_TOKENS_MAX; i++)
            assert_true(before[s][i] == 0.0f); /* it starts from 0 */
    double first = train(one, &data.batch, 1);
    double last = train(one, &data.batch, 200);
    assert_true(last < 0.25 * first);
    assert_ok(trainer_save(one, path, NULL, &saved));
    assert_ok(trainer_create(&two, &options, &config, master, &compute));
    assert_ok(trainer_restore(two, path, &restored));
    train(one, &data.batch, 3);
    train(two, &data.batch, 3);
    assert_ok(trainer_values(one, &data.batch, rows));
    assert_ok(trainer_values(two, &data.batch, rows_after));
    assert_memory_equal(before, after, sizeof before);
    assert_memory_equal(trainer_master(one), trainer_master(two),
                        (size_t)model_config_parameter_count(&config) * sizeof(float));
    /* Without a head the checkpoint still loads; with one, a checkpoint that has none does not. */
    trainer_free(two);
    options.value_head = false;
    assert_ok(trainer_create(&two, &options, &config, master, &compute));
    assert_ok(trainer_restore(two, path, &restored));
    saved = (struct checkpoint_state){.stage = "rl"};
    assert_ok(trainer_save(two, path, NULL, &saved));
    assert_int_equal(trainer_restore(one, path, &restored), HONE_EFORMAT);
    assert_non_null(strstr(error_message(), "\"value_head\" is missing"));
    trainer_free(one);
    trainer_free(two);
    compute_close(&compute);
    memory_free(master);
    assert_ok(file_remove_tree(directory));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(values_are_learned_and_restored)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

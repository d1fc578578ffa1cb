#include "tests/infra/train/train_fixture.h"

#include "infra/train/training_run.h"

static int64_t three_at_a_time(void *context, const int64_t *order, int64_t rows, int64_t position)
{
    (void)context;
    (void)order;
    return position + 3 < rows ? position + 3 : rows;
}

static int zero_loss(void *context, const struct train_batch *batch,
                     const struct loss_streams *streams, double *loss)
{
    (void)batch;
    (void)streams;
    *loss = context != NULL ? (double)NAN : 0.0;
    return 0;
}

struct bench {
    char directory[HONE_PATH_MAX];
    struct training_run_options options;
    struct compute compute;
    struct trainer *trainer;
};

static void bench_open(struct bench *bench)
{
    struct model_config config = fixture_config();
    struct trainer_options options = fixture_options(DTYPE_F32, 40);
    float *master = fixture_master(&config, 1);

    fixture_directory(bench->directory, "run");
    bench->options = (struct training_run_options){.stage = "sft",
                                                   .directory = bench->directory,
                                                   .recipe_hash = "abc",
                                                   .seed = 3,
                                                   .epochs = 2,
                                                   .save_steps = 1,
                                                   .keep_checkpoints = 2};
    assert_ok(compute_open(&bench->compute, 1));
    assert_ok(trainer_create(&bench->trainer, &options, &config, master, &bench->compute));
    memory_free(master);
}

static void bench_close(struct bench *bench)
{
    trainer_free(bench->trainer);
    compute_close(&bench->compute);
    assert_ok(file_remove_tree(bench->directory));
}

static struct step_report step(struct bench *bench, bool poisoned)
{
    static int32_t tokens[2] = {0, 3};
    static uint8_t mask[2] = {0, 1};
    struct train_sequence sequence = {.tokens = tokens, .count = 2, .loss_mask = mask};
    struct train_batch batch = {.sequences = &sequence, .count = 1, .temperature = 1.0f};
    struct step_report report;
    assert_ok(trainer_step(bench->trainer, &batch, zero_loss, poisoned ? &batch : NULL, &report));
    assert_int_equal(report.applied, !poisoned);
    return report;
}

static void begin(struct training_run *run, const struct training_run_options *options)
{
    bool done = true;
    assert_ok(training_run_is_done(run, options, &done));
    assert_false(done);
    assert_ok(training_run_begin(run, 10, three_at_a_time, NULL));
}

static void steps_are_counted(void **state)
{
    (void)state;
    struct training_run_options options = {
        .stage = "sft", .directory = "/nowhere", .recipe_hash = "abc", .epochs = 3, .max_steps = 0};
    struct training_run run;
    begin(&run, &options);
    assert_int_equal(run.total_steps, 12); /* 3 epochs of 3 + 3 + 3 + 1 rows */
    training_run_release(&run);
    options.max_steps = 5;
    begin(&run, &options);
    assert_int_equal(run.total_steps, 5);
    training_run_release(&run);
    options.epochs = 0;
    options.max_steps = 100;
    begin(&run, &options);
    assert_int_equal(run.total_steps, 100);
    training_run_release(&run);
    bool done;
    options.max_steps = 0;
    assert_ok(training_run_is_done(&run, &options, &done));
    assert_int_equal(training_run_begin(&run, 10, three_at_a_time, NULL), HONE_EINVAL);
    options.epochs = 1;
    assert_ok(training_run_is_done(&run, &options, &done));
    assert_int_equal(training_run_begin(&run, 0, three_at_a_time, NULL), HONE_EINVAL);
    training_run_release(&run);
}

static void each_epoch_visits_every_row_in_its_own_order(void **state)
{
    (void)state;
    struct bench bench;
    struct training_run run;
    int64_t first[10];

    bench_open(&bench);
    bench.options.save_steps = 0;
    begin(&run, &bench.options);
    for (int64_t epoch = 0; epoch < 2; epoch++) {
        bool seen[10] = {false};
        for (int64_t position = 0; position < 10;) {
            const int64_t *order = training_run_order(&run);
            assert_int_equal(run.state.epoch, epoch);
            assert_int_equal(run.state.position, position);
            int64_t next = three_at_a_time(NULL, order, 10, position);
            for (int64_t i = position; i < next; i++) {
                assert_false(seen[order[i]]);
                seen[order[i]] = true;
            }
            if (epoch == 0)
                memcpy(first, order, sizeof first);
            else
                assert_memory_not_equal(first, order, sizeof first);
            struct step_report report = step(&bench, false);
            assert_ok(training_run_advance(&run, bench.trainer, &report, next, 4));
            position = next;
        }
    }
    assert_int_equal(run.state.step, run.total_steps);
    assert_int_equal(run.state.tokens, 4 * 8);
    assert_int_equal(run.state.epoch, 2);
    training_run_release(&run);
    bench_close(&bench);
}

static void resumes_where_it_stopped_and_refuses_another_recipe(void **state)
{
    (void)state;
    struct bench bench;
    struct training_run run, again;
    char path[HONE_PATH_MAX];
    bool resumed;

    bench_open(&bench);
    begin(&run, &bench.options);
    assert_ok(training_run_resume(&run, bench.trainer, &resumed));
    assert_false(resumed);
    for (int64_t next = 3; next <= 9; next += 3) {
        struct step_report report = step(&bench, false);
        assert_ok(training_run_advance(&run, bench.trainer, &report, next, 5));
    }
    path_join(path, sizeof path, bench.directory, "checkpoints/step-1");
    assert_false(file_exists(path)); /* the newest two are kept */
    begin(&again, &bench.options);
    assert_ok(training_run_resume(&again, bench.trainer, &resumed));
    assert_true(resumed);
    assert_int_equal(again.state.step, 3);
    assert_int_equal(again.state.position, 9);
    assert_int_equal(again.state.tokens, 15);
    training_run_release(&again);

    bench.options.recipe_hash = "another";
    begin(&again, &bench.options);
    assert_int_equal(training_run_resume(&again, bench.trainer, &resumed), HONE_EINVAL);
    assert_non_null(strstr(error_message(), "recipe abc; this is stage sft, recipe another"));
    training_run_release(&again);
    training_run_release(&run);
    bench_close(&bench);
}

static void final_marks_the_end(void **state)
{
    (void)state;
    struct bench bench;
    struct training_run run, again;
    char path[HONE_PATH_MAX];
    bool done;

    bench_open(&bench);
    begin(&run, &bench.options);
    struct step_report report = step(&bench, false);
    assert_ok(training_run_advance(&run, bench.trainer, &report, 3, 5));
    assert_ok(training_run_finish(&run, bench.trainer, DTYPE_F32));
    assert_ok(training_run_is_done(&again, &bench.options, &done));
    assert_true(done);
    assert_int_equal(again.state.step, 1);
    /* A damaged one is not the end. */
    path_join(path, sizeof path, bench.directory, "final/model.safetensors");
    assert_ok(file_append(path, "x", 1));
    assert_ok(training_run_is_done(&again, &bench.options, &done));
    assert_false(done);
    training_run_release(&run);
    bench_close(&bench);
}

static void endless_skipping_ends_the_run(void **state)
{
    (void)state;
    struct bench bench;
    struct training_run run;
    struct step_report report;

    bench_open(&bench);
    bench.options.save_steps = 0;
    begin(&run, &bench.options);
    for (int i = 0; i < 7; i++) {
        report = step(&bench, true);
        assert_ok(training_run_advance(&run, bench.trainer, &report, 3, 5));
    }
    report = step(&bench, false); /* one good step starts the count again */
    assert_ok(training_run_advance(&run, bench.trainer, &report, 3, 5));
    for (int i = 0; i < 7; i++) {
        report = step(&bench, true);
        assert_ok(training_run_advance(&run, bench.trainer, &report, 3, 5));
    }
    report = step(&bench, true);
    assert_int_equal(training_run_advance(&run, bench.trainer, &report, 3, 5), HONE_EINVAL);
    training_run_release(&run);
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_are_counted),
        cmocka_unit_test(each_epoch_visits_every_row_in_its_own_order),
        cmocka_unit_test(resumes_where_it_stopped_and_refuses_another_recipe),
        cmocka_unit_test(final_marks_the_end),
        cmocka_unit_test(endless_skipping_ends_the_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

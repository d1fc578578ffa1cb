#include "tests/infra/train/train_fixture.h"

#include "infra/model/checkpoint.h"
#include "sft/sft_stage.h"

#define ROWS 8

struct bench {
    char root[HONE_PATH_MAX], base[HONE_PATH_MAX], data[HONE_PATH_MAX], run[HONE_PATH_MAX];
    const char *paths[1];
    struct compute compute;
    struct sft_options options;
};

static void bench_open(struct bench *bench, enum dtype dtype)
{
    struct model_config config = fixture_config();
    struct text rows;

    fixture_directory(bench->root, "sft");
    path_join(bench->base, sizeof bench->base, bench->root, "base");
    path_join(bench->data, sizeof bench->data, bench->root, "rows.jsonl");
    path_join(bench->run, sizeof bench->run, bench->root, "run");
    fixture_write_model(bench->base, &config, 7);
    text_init(&rows);
    for (int i = 0; i < ROWS; i++)
        text_printf(&rows, "{\"prompt\": \"%d+%d=\", \"completion\": \"%d is %c\"}\n", i, i + 1,
                    2 * i + 1, 'a' + 3 * i);
    fixture_write(bench->root, "rows.jsonl", rows.data);
    text_release(&rows);
    bench->paths[0] = bench->data;
    assert_ok(compute_open(&bench->compute, 2));
    bench->options = (struct sft_options){.data = {.paths = bench->paths, .count = 1},
                                          .model_directory = bench->base,
                                          .stage_directory = bench->run,
                                          .recipe_hash = "recipe",
                                          .seed = 4,
                                          .epochs = 4,
                                          .batch_tokens = 30,
                                          .max_length = 32,
                                          .keep_checkpoints = 2,
                                          .trainer = fixture_options(dtype, 64)};
    bench->options.trainer.optimizer.weight_decay = 0.0;
    bench->options.trainer.optimizer.schedule = SCHEDULE_COSINE;
    bench->options.trainer.optimizer.warmup_steps = 2;
    bench->options.trainer.optimizer.max_gradient_norm = 1.0;
}

static void bench_close(struct bench *bench)
{
    compute_close(&bench->compute);
    assert_ok(file_remove_tree(bench->root));
}

static struct sft_stage *open_stage(struct bench *bench)
{
    struct sft_stage *stage = NULL;
    assert_ok(sft_stage_create(&stage, &bench->options, &bench->compute, clock_system(), NULL));
    return stage;
}

static struct sft_progress run_to_end(struct sft_stage *stage)
{
    struct sft_progress progress;
    do
        assert_ok(sft_stage_tick(stage, &progress));
    while (!progress.finished);
    return progress;
}

static float *read_final(const struct bench *bench, const char *run)
{
    struct model_config config = fixture_config();
    char path[HONE_PATH_MAX];
    float *flat = MEMORY_ARRAY(float, model_config_parameter_count(&config));
    (void)bench;
    path_join(path, sizeof path, run, "final");
    assert_ok(checkpoint_verify(path));
    assert_ok(model_read_flat(&config, path, flat));
    return flat;
}

static void learns_eight_rows_by_heart(void **state)
{
    (void)state;
    struct bench bench;
    struct sft_progress progress;

    bench_open(&bench, DTYPE_BF16);
    bench.options.epochs = 120;
    bench.options.batch_tokens = 1000; /* all rows in each step */
    struct sft_stage *stage = open_stage(&bench);
    assert_ok(sft_stage_tick(stage, &progress));
    double first = progress.loss;
    assert_int_equal(progress.total_steps, 120);
    progress = run_to_end(stage);
    assert_int_equal(progress.step, 120);
    if (!(progress.loss < 0.1 * first))
        fail_msg("loss %g after 120 steps, %g at first", progress.loss, first);
    assert_true(progress.token_probability > 0.7);
    assert_int_equal(progress.rows, ROWS);
    sft_stage_destroy(stage);
    bench_close(&bench);
}

/* Killed after any number of steps, by forgetting the stage, and started again. */
static void resumed_equals_uninterrupted(void **state)
{
    (void)state;
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};
    for (int d = 0; d < 2; d++) {
        struct bench bench;
        struct sft_progress whole, pieces;
        char other[HONE_PATH_MAX];
        struct model_config config = fixture_config();

        bench_open(&bench, dtypes[d]);
        struct sft_stage *stage = open_stage(&bench);
        whole = run_to_end(stage);
        sft_stage_destroy(stage);
        assert_true(whole.total_steps > 8);

        path_join(other, sizeof other, bench.root, "again");
        bench.options.stage_directory = other;
        bench.options.save_steps = 3;
        for (int kill_after = 2; kill_after <= 5; kill_after++) {
            stage = open_stage(&bench);
            for (int i = 0; i < kill_after; i++)
                assert_ok(sft_stage_tick(stage, &pieces));
            sft_stage_destroy(stage);
        }
        stage = open_stage(&bench);
        pieces = run_to_end(stage);
        sft_stage_destroy(stage);
        assert_int_equal(pieces.step, whole.step);
        assert_int_equal(pieces.tokens, whole.tokens);
        assert_memory_equal(&pieces.loss, &whole.loss, sizeof whole.loss);
        float *a = read_final(&bench, bench.run), *b = read_final(&bench, other);
        assert_memory_equal(a, b, (size_t)model_config_parameter_count(&config) * sizeof *a);
        memory_free(a);
        memory_free(b);
        bench_close(&bench);
    }
}

static void finished_stage_says_so(void **state)
{
    (void)state;
    struct bench bench;
    struct sft_progress progress;
    struct model_config config;
    char path[HONE_PATH_MAX];

    bench_open(&bench, DTYPE_BF16);
    bench.options.max_steps = 3;
    struct sft_stage *stage = open_stage(&bench);
    progress = run_to_end(stage);
    assert_int_equal(progress.step, 3);
    assert_ok(sft_stage_tick(stage, &progress)); /* a further tick changes nothing */
    assert_true(progress.finished && progress.step == 3);
    sft_stage_destroy(stage);
    /* final is in the base's dtype and brings its tokenizer. */
    path_join(path, sizeof path, bench.run, "final");
    assert_ok(model_config_read(&config, path));
    assert_int_equal(config.stored_dtype, DTYPE_F32);
    path_join(path, sizeof path, bench.run, "final/tokenizer.json");
    assert_true(file_exists(path));
    path_join(path, sizeof path, bench.run, "final/optimizer.safetensors");
    assert_false(file_exists(path));

    fixture_write(bench.root, "rows.jsonl", "not even JSON\n"); /* nothing is read again */
    stage = open_stage(&bench);
    assert_ok(sft_stage_tick(stage, &progress));
    assert_true(progress.finished);
    assert_int_equal(progress.step, 3);
    sft_stage_destroy(stage);
    bench_close(&bench);
}

static void starts_from_random_weights(void **state)
{
    (void)state;
    struct bench bench;
    struct sft_progress progress;
    struct sft_stage *stage;
    char path[HONE_PATH_MAX];
    float *first, *second;
    struct model_config config = fixture_config();

    bench_open(&bench, DTYPE_F32);
    path_join(path, sizeof path, bench.root, "tokenizer");
    assert_ok(file_make_directories(path));
    fixture_write_tokenizer(path);
    /* No weights, and the config of some other model. */
    config.hidden_size = 8;
    assert_ok(model_config_write(&config, NULL, DTYPE_F32, path));
    config = fixture_config();
    bench.options.model_directory = path;
    bench.options.random_init = true;
    bench.options.init_config = config;
    bench.options.epochs = 0;
    bench.options.max_steps = 2;
    stage = open_stage(&bench);
    assert_ok(sft_stage_tick(stage, &progress));
    assert_true(fabs(progress.loss - log(FIXTURE_VOCAB)) < 0.5);
    run_to_end(stage);
    sft_stage_destroy(stage);
    first = read_final(&bench, bench.run);
    bench.options.seed++;
    assert_ok(file_remove_tree(bench.run));
    stage = open_stage(&bench);
    run_to_end(stage);
    sft_stage_destroy(stage);
    second = read_final(&bench, bench.run);
    assert_memory_not_equal(first, second, 4096);
    memory_free(first);
    memory_free(second);
    bench_close(&bench);
}

static void metrics_are_written(void **state)
{
    (void)state;
    static const char *const names[] = {
        "\"loss\"",       "\"learning_rate\"",          "\"grad_norm\"",
        "\"num_tokens\"", "\"mean_token_probability\"", "\"tokens_per_second\""};
    struct bench bench;
    struct metrics *metrics = NULL;
    struct sft_stage *stage = NULL;
    char path[HONE_PATH_MAX], *content;
    size_t bytes;
    int lines = 0;

    bench_open(&bench, DTYPE_BF16);
    bench.options.max_steps = 3;
    path_join(path, sizeof path, bench.root, "metrics.jsonl");
    assert_ok(metrics_open(&metrics, path, clock_system()));
    assert_ok(sft_stage_create(&stage, &bench.options, &bench.compute, clock_system(), metrics));
    run_to_end(stage);
    sft_stage_destroy(stage);
    metrics_close(metrics);
    assert_ok(file_read(path, 1 << 20, &content, &bytes));
    for (size_t i = 0; i < bytes; i++)
        lines += content[i] == '\n';
    assert_int_equal(lines, 3);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_non_null(strstr(content, names[i]));
    memory_free(content);
    bench_close(&bench);
}

static void bad_settings_are_named(void **state)
{
    (void)state;
    struct bench bench;
    struct sft_stage *stage = NULL;

    bench_open(&bench, DTYPE_BF16);
    bench.options.max_length = 4; /* every row is longer */
    assert_int_equal(sft_stage_create(&stage, &bench.options, &bench.compute, clock_system(), NULL),
                     HONE_EINVAL);
    assert_non_null(strstr(error_message(), "no row is left"));
    bench.options.max_length = 65;
    assert_int_equal(sft_stage_create(&stage, &bench.options, &bench.compute, clock_system(), NULL),
                     HONE_EINVAL);
    assert_non_null(strstr(error_message(), "micro_batch_tokens"));
    bench.options.max_length = 32;
    bench.options.epochs = 0;
    assert_int_equal(sft_stage_create(&stage, &bench.options, &bench.compute, clock_system(), NULL),
                     HONE_EINVAL);
    assert_null(stage);
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(learns_eight_rows_by_heart),
        cmocka_unit_test(resumed_equals_uninterrupted),
        cmocka_unit_test(finished_stage_says_so),
        cmocka_unit_test(starts_from_random_weights),
        cmocka_unit_test(metrics_are_written),
        cmocka_unit_test(bad_settings_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

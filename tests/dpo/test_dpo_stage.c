#include "tests/dpo/log_fixture.h"

#include "dpo/dpo_stage.h"
#include "infra/model/checkpoint.h"

#define ROWS 6

struct bench {
    char root[HONE_PATH_MAX], base[HONE_PATH_MAX], data[HONE_PATH_MAX], run[HONE_PATH_MAX];
    char log[HONE_PATH_MAX];
    const char *paths[1];
    struct compute compute;
    struct dpo_options options;
};

static void bench_open(struct bench *bench, enum dtype dtype)
{
    struct model_config config = fixture_config();
    struct text rows;

    fixture_directory(bench->root, "dpo");
    path_join(bench->base, sizeof bench->base, bench->root, "base");
    path_join(bench->data, sizeof bench->data, bench->root, "rows.jsonl");
    path_join(bench->run, sizeof bench->run, bench->root, "run");
    path_join(bench->log, sizeof bench->log, bench->root, "log");
    fixture_write_model(bench->base, &config, 7);
    text_init(&rows);
    for (int i = 0; i < ROWS; i++)
        text_printf(&rows,
                    "{\"prompt\": \"%d?\", \"chosen\": \"%c%c ok\", \"rejected\": \"no%d\"}\n", i,
                    'a' + i, 'c' + i, i);
    fixture_write(bench->root, "rows.jsonl", rows.data);
    text_release(&rows);
    bench->paths[0] = bench->data;
    assert_ok(compute_open(&bench->compute, 2));
    bench->options = (struct dpo_options){
        .data = {.paths = bench->paths, .count = 1, .format = DATASET_PREFERENCE},
        .log_directory = bench->log,
        .model_directory = bench->base,
        .stage_directory = bench->run,
        .recipe_hash = "recipe",
        .seed = 4,
        .epochs = 4,
        .batch_pairs = 2,
        .max_length = 20,
        .keep_checkpoints = 2,
        .loss = {.beta = 0.2f, .label_smoothing = 0.05f, .nll_coef = 0.1f},
        .trainer = fixture_options(dtype, 40)};
    bench->options.trainer.optimizer.learning_rate = 2e-3;
    bench->options.trainer.optimizer.schedule = SCHEDULE_LINEAR;
}

static void bench_close(struct bench *bench)
{
    compute_close(&bench->compute);
    assert_ok(file_remove_tree(bench->root));
}

static struct dpo_stage *open_stage(struct bench *bench, struct metrics *metrics)
{
    struct dpo_stage *stage = NULL;
    assert_ok(dpo_stage_create(&stage, &bench->options, &bench->compute, clock_system(), metrics));
    return stage;
}

static struct dpo_progress run_to_end(struct dpo_stage *stage)
{
    struct dpo_progress progress;
    do
        assert_ok(dpo_stage_tick(stage, &progress));
    while (!progress.finished);
    return progress;
}

static void assert_same_final(const char *left, const char *right)
{
    struct model_config config = fixture_config();
    int64_t count = model_config_parameter_count(&config);
    float *a = MEMORY_ARRAY(float, count), *b = MEMORY_ARRAY(float, count);
    char path[HONE_PATH_MAX];
    assert_ok(model_read_flat(&config, path_join(path, sizeof path, left, "final"), a));
    assert_ok(model_read_flat(&config, path_join(path, sizeof path, right, "final"), b));
    assert_memory_equal(a, b, (size_t)count * sizeof *a);
    memory_free(a);
    memory_free(b);
}

/* The first step compares the model with itself: margin exactly 0, loss exactly ln 2. */
static void starts_at_ln_2_and_learns(void **state)
{
    (void)state;
    struct bench bench;
    struct dpo_progress progress;

    bench_open(&bench, DTYPE_BF16);
    bench.options.loss = (struct preference_options){.beta = 0.2f};
    bench.options.epochs = 20;
    struct dpo_stage *stage = open_stage(&bench, NULL);
    for (int i = 0; i < ROWS / 2; i++) {
        assert_ok(dpo_stage_tick(stage, &progress));
        assert_int_equal(progress.reference_pairs, 2 * (i + 1));
        assert_int_equal(progress.step, 0);
    }
    assert_ok(dpo_stage_tick(stage, &progress));
    assert_int_equal(progress.step, 1);
    assert_int_equal(progress.total_steps, 60);
    assert_true(progress.margin == 0.0 && progress.accuracy == 0.0);
    assert_true(progress.chosen_reward == 0.0 && progress.rejected_reward == 0.0);
    assert_true(fabs(progress.loss - log(2.0)) < 1e-12);
    progress = run_to_end(stage);
    assert_int_equal(progress.step, 60);
    assert_true(progress.accuracy == 1.0);
    assert_true(progress.loss < 0.2);
    assert_true(progress.margin > 1.0);
    dpo_stage_destroy(stage);
    bench_close(&bench);
}

/* What is on the disk of the reference's logprobs gets another byte, or another length. */
static void spoil_cache(const char *directory, bool cut)
{
    char path[HONE_PATH_MAX], *data;
    size_t bytes;
    path_join(path, sizeof path, directory, "reference.logprobs");
    assert_ok(file_read(path, 1 << 20, &data, &bytes));
    data[bytes / 2] ^= 1;
    assert_ok(file_write_atomic(path, data, cut ? bytes / 3 : bytes));
    memory_free(data);
}

static void resumed_equals_uninterrupted(void **state)
{
    (void)state;
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_BF16, DTYPE_BF16};
    static const enum preference_kind kinds[] = {PREFERENCE_SIGMOID, PREFERENCE_SIGMOID,
                                                 PREFERENCE_KTO, PREFERENCE_SIMPO};
    static const int ticks[] = {3, 4, 2}; /* until it is killed */
    for (int d = 0; d < 4; d++) {
        struct bench bench;
        struct dpo_progress whole, pieces;
        char other[HONE_PATH_MAX];

        bench_open(&bench, dtypes[d]);
        bench.options.batch_pairs = 4; /* the epoch's last batch has 2 */
        bench.options.trainer.micro_batch_tokens = 44;
        bench.options.loss = (struct preference_options){
            .kind = kinds[d], .beta = 0.2f, .desirable = 1.0f, .undesirable = 1.5f};
        struct dpo_stage *stage = open_stage(&bench, NULL);
        whole = run_to_end(stage);
        dpo_stage_destroy(stage);
        assert_int_equal(whole.total_steps, 8);

        path_join(other, sizeof other, bench.root, "again");
        bench.options.stage_directory = other;
        bench.options.save_steps = 2;
        bool reference = preference_needs_reference(kinds[d]);
        for (int life = 0; life < 3; life++) {
            stage = open_stage(&bench, NULL);
            for (int i = 0; i < ticks[life] - (life == 2 && !reference); i++) {
                assert_ok(dpo_stage_tick(stage, &pieces));
                /* The second life reads what the first wrote down: every tick of it trains. */
                if (life == 1)
                    assert_int_equal(pieces.step, (reference ? 0 : 2) + i + 1);
            }
            dpo_stage_destroy(stage);
        }
        if (reference)
            spoil_cache(other, d % 2 == 0);
        assert_true(pieces.step > 4);
        stage = open_stage(&bench, NULL);
        pieces = run_to_end(stage);
        dpo_stage_destroy(stage);
        assert_int_equal(pieces.step, whole.step);
        assert_int_equal(pieces.tokens, whole.tokens);
        assert_memory_equal(&pieces.loss, &whole.loss, sizeof whole.loss);
        assert_memory_equal(&pieces.margin, &whole.margin, sizeof whole.margin);
        assert_same_final(bench.run, other);
        bench_close(&bench);
    }
}

static void trains_on_mined_pairs(void **state)
{
    (void)state;
    static const struct log_answer answers[] = {
        {"good", 1.0f, REWARD_OK, FINISH_STOP},
        {"bad", 0.0f, REWARD_OK, FINISH_STOP},
        {"verylongbad", -1.0f, REWARD_OK, FINISH_LENGTH},
    };
    struct bench bench;
    struct run_log *log = NULL;

    bench_open(&bench, DTYPE_BF16);
    assert_ok(run_log_open(&log, bench.log, false));
    for (uint64_t group = 1; group <= 5; group++)
        log_put_group(log, group, answers, 2 + group % 2);
    assert_ok(run_log_commit(log));
    run_log_close(log);
    bench.options.from_log = true;
    bench.options.data.count = 0;
    bench.options.min_margin = 0.5f;
    bench.options.max_length_ratio = 2.0f;
    bench.options.epochs = 30;
    struct dpo_stage *stage = open_stage(&bench, NULL);
    struct dpo_progress progress = run_to_end(stage);
    assert_int_equal(progress.pairs, 2); /* odd groups have the answer that is too long */
    assert_int_equal(progress.dropped_pairs, 3);
    assert_true(progress.accuracy == 1.0);
    dpo_stage_destroy(stage);
    /* Finished: neither the log nor the model is needed to say so. */
    assert_ok(file_remove_tree(bench.log));
    assert_ok(file_remove_tree(bench.base));
    stage = open_stage(&bench, NULL);
    assert_ok(dpo_stage_tick(stage, &progress));
    assert_true(progress.finished && progress.step == 30);
    dpo_stage_destroy(stage);
    bench_close(&bench);
}

static void metrics_are_written(void **state)
{
    (void)state;
    static const char *const names[] = {"\"loss\"",
                                        "\"learning_rate\"",
                                        "\"grad_norm\"",
                                        "\"num_tokens\"",
                                        "\"rewards/chosen\"",
                                        "\"rewards/rejected\"",
                                        "\"rewards/margins\"",
                                        "\"rewards/accuracies\"",
                                        "\"tokens_per_second\""};
    struct bench bench;
    struct metrics *metrics = NULL;
    char path[HONE_PATH_MAX], *content;
    size_t bytes;
    int lines = 0;

    bench_open(&bench, DTYPE_BF16);
    bench.options.max_steps = 2;
    path_join(path, sizeof path, bench.root, "metrics.jsonl");
    assert_ok(metrics_open(&metrics, path, clock_system()));
    struct dpo_stage *stage = open_stage(&bench, metrics);
    run_to_end(stage);
    dpo_stage_destroy(stage);
    metrics_close(metrics);
    assert_ok(file_read(path, 1 << 20, &content, &bytes));
    for (size_t i = 0; i < bytes; i++)
        lines += content[i] == '\n';
    assert_int_equal(lines, 2);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_non_null(strstr(content, names[i]));
    memory_free(content);
    bench_close(&bench);
}

static void bad_settings_are_named(void **state)
{
    (void)state;
    struct bench bench;
    struct dpo_stage *stage = NULL;

    bench_open(&bench, DTYPE_BF16);
    bench.options.max_length = 4;
    assert_int_equal(dpo_stage_create(&stage, &bench.options, &bench.compute, clock_system(), NULL),
                     HONE_EINVAL);
    assert_non_null(strstr(error_message(), "no row is left"));
    bench.options.max_length = 12;
    bench.options.trainer.micro_batch_tokens = 12;
    assert_int_equal(dpo_stage_create(&stage, &bench.options, &bench.compute, clock_system(), NULL),
                     HONE_EINVAL);
    assert_non_null(strstr(error_message(), "the longest pair has 16 tokens"));
    bench.options.batch_pairs = 0;
    assert_int_equal(dpo_stage_create(&stage, &bench.options, &bench.compute, clock_system(), NULL),
                     HONE_EINVAL);
    assert_null(stage);
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(starts_at_ln_2_and_learns), cmocka_unit_test(resumed_equals_uninterrupted),
        cmocka_unit_test(trains_on_mined_pairs),     cmocka_unit_test(metrics_are_written),
        cmocka_unit_test(bad_settings_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

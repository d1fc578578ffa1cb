/* When SFT is enough: by made-up figures, and in a stage that is killed. */
#include "tests/infra/train/train_fixture.h"

#include "infra/model/checkpoint.h"
#include "sft/exploration.h"
#include "sft/sft_stage.h"

static int steps_until_enough(double floor, double (*entropy)(int step), int most)
{
    struct exploration exploration;
    exploration_init(&exploration, floor, 0.0);
    for (int step = 0; step < most; step++) {
        struct checkpoint_state state = {0};
        if (exploration_add(&exploration, entropy(step)))
            return step + 1;
        /* What is remembered is all of it. */
        exploration_store(&exploration, &state);
        memset(&exploration, 7, sizeof exploration);
        exploration.floor = floor;
        exploration_load(&exploration, &state);
    }
    return -1;
}

/* What becomes of pass@k measured as given, one a step; what is remembered is all of it. */
static void expect_passes(double drop, double error, const double *passes,
                          const enum exploration_pass *expected, int count, int64_t best)
{
    struct exploration exploration;
    exploration_init(&exploration, 0.0, drop);
    for (int step = 0; step < count; step++) {
        struct checkpoint_state state = {0};
        assert_false(exploration_is_lost(&exploration));
        assert_int_equal(exploration_measured(&exploration, step, passes[step], error),
                         expected[step]);
        exploration_store(&exploration, &state);
        memset(&exploration, 7, sizeof exploration);
        exploration.floor = 0.0;
        exploration.drop = drop;
        exploration_load(&exploration, &state);
        assert_int_equal(exploration.measured_step, step);
    }
    assert_int_equal(exploration.best_step, best);
    assert_int_equal(exploration_is_lost(&exploration), expected[count - 1] == PASS_FELL);
}

static void pass_at_k(void **state)
{
    (void)state;
    static const double passes[] = {0.5, 0.6, 0.59, 0.6, 0.57};
    static const enum exploration_pass strict[] = {PASS_BEST, PASS_BEST, PASS_HELD, PASS_HELD,
                                                   PASS_FELL};
    static const enum exploration_pass held[] = {PASS_BEST, PASS_BEST, PASS_HELD, PASS_HELD,
                                                 PASS_HELD};
    expect_passes(0.02, 0.0, passes, strict, 5, 1);
    expect_passes(0.02, 0.0105, passes, strict, 5, 1); /* 2 sqrt(2) 0.0105 = 0.0297 < 0.03 */
    expect_passes(0.02, 0.0107, passes, held, 5, 1);   /* 0.0303 */
    expect_passes(0.04, 0.0, passes, held, 5, 1);
    /* The start counts: pass@k of the policy must not fall. */
    expect_passes(0.02, 0.0, (const double[]){0.5, 0.4},
                  (const enum exploration_pass[]){PASS_BEST, PASS_FELL}, 2, 0);
}

static double steady(int step)
{
    return 1.0 + 0.3 * (step % 2);
}

static double falling(int step)
{
    return step < 50 ? 2.0 : 0.5;
}

static double dipping(int step)
{
    return step == 30 ? 0.0 : 2.0;
}

static void figures(void **state)
{
    (void)state;
    assert_int_equal(steps_until_enough(0.8, steady, 1000), -1);
    assert_int_equal(steps_until_enough(0.8, dipping, 1000), -1); /* one batch says nothing */
    /* Means of ten: 2.0 - 0.15 k after k steps of 0.5; below 1.0 at the seventh. */
    assert_int_equal(steps_until_enough(0.5, falling, 1000), 57);
    assert_int_equal(steps_until_enough(0.0, falling, 1000), -1);
    assert_int_equal(steps_until_enough(1.0, dipping, 25), -1); /* not below what it was */
}

/* pass@k by the steps that a checkpoint has done. */
static int pass_of_steps(void *context, const char *directory, struct sft_measurement *measurement)
{
    struct checkpoint_state state;
    assert_ok(checkpoint_read_state(directory, &state));
    assert_ok(checkpoint_verify(directory));
    const double *passes = context;
    measurement->pass = passes[state.step];
    measurement->error = 0.0;
    return 0;
}

/* A stage on rows that say the same thing over and over; passes NULL: they are not measured. */
static int64_t train(const char *root, const char *run, const struct compute *compute, double floor,
                     double *passes, int ticks_each, char hash[HASH_HEX_SIZE])
{
    char base[HONE_PATH_MAX], data[HONE_PATH_MAX], path[HONE_PATH_MAX];
    const char *paths[] = {path_join(data, sizeof data, root, "rows.jsonl")};
    struct sft_options options = {.data = {.paths = paths, .count = 1},
                                  .model_directory = path_join(base, sizeof base, root, "base"),
                                  .stage_directory = run,
                                  .recipe_hash = "recipe",
                                  .seed = 4,
                                  .epochs = 40,
                                  .batch_tokens = 60,
                                  .max_length = 32,
                                  .keep_checkpoints = 2,
                                  .save_steps = 1,
                                  .entropy_floor = floor,
                                  .measure_steps = passes ? 4 : 0,
                                  .pass_drop = 0.02,
                                  .measure = pass_of_steps,
                                  .measure_context = passes,
                                  .trainer = fixture_options(DTYPE_F32, 64)};
    struct sft_progress progress = {0};
    struct checkpoint_state state;
    options.trainer.optimizer.learning_rate = 5e-3;
    while (!progress.finished) {
        struct sft_stage *stage;
        assert_ok(sft_stage_create(&stage, &options, compute, clock_system(), NULL));
        for (int i = 0; i < ticks_each && !progress.finished; i++)
            assert_ok(sft_stage_tick(stage, &progress));
        sft_stage_destroy(stage);
    }
    assert_false(file_exists(path_join(path, sizeof path, run, "best")));
    assert_false(file_exists(path_join(path, sizeof path, run, "measured")));
    assert_ok(checkpoint_verify(path_join(path, sizeof path, run, "final")));
    assert_ok(checkpoint_read_state(path_join(path, sizeof path, run, "final"), &state));
    memcpy(hash, state.weights_hash, HASH_HEX_SIZE);
    return state.step;
}

static void a_stage_ends_early_and_at_the_same_step(void **state)
{
    (void)state;
    struct model_config config = fixture_config();
    struct compute compute;
    struct text rows;
    char root[HONE_PATH_MAX], base[HONE_PATH_MAX], run[HONE_PATH_MAX];
    char whole[HASH_HEX_SIZE], pieces[HASH_HEX_SIZE], full[HASH_HEX_SIZE];
    fixture_directory(root, "explore");
    fixture_write_model(path_join(base, sizeof base, root, "base"), &config, 7);
    text_init(&rows);
    for (int i = 0; i < 12; i++)
        text_append(&rows, "{\"prompt\": \"1+1=\", \"completion\": \"22222222\"}\n");
    fixture_write(root, "rows.jsonl", rows.data);
    text_release(&rows);
    assert_ok(compute_open(&compute, 1));
    int64_t all =
        train(root, path_join(run, sizeof run, root, "all"), &compute, 0.0, NULL, 1000, full);
    int64_t early =
        train(root, path_join(run, sizeof run, root, "early"), &compute, 0.7, NULL, 1000, whole);
    int64_t killed =
        train(root, path_join(run, sizeof run, root, "killed"), &compute, 0.7, NULL, 3, pieces);
    assert_in_range(early, 2 * EXPLORATION_STEPS, all - 1);
    assert_int_equal(killed, early);
    assert_string_equal(whole, pieces);

    /* pass@k rises to step 8, holds, and falls at 16: the result is that of step 8. */
    double passes[1000];
    for (int i = 0; i < 1000; i++)
        passes[i] = i < 8 ? 0.01 * i : i < 16 ? 0.10 : 0.05;
    char eight[HASH_HEX_SIZE], pieced[HASH_HEX_SIZE];
    passes[8] = 0.11;
    assert_int_equal(
        train(root, path_join(run, sizeof run, root, "fell"), &compute, 0.0, passes, 1000, eight),
        8);
    assert_int_equal(
        train(root, path_join(run, sizeof run, root, "pieces"), &compute, 0.0, passes, 2, pieced),
        8);
    assert_string_equal(eight, pieced);
    assert_string_not_equal(eight, full);
    /* Where it never falls every step is made, and nothing else is different. */
    for (int i = 0; i < 1000; i++)
        passes[i] = 0.1;
    assert_int_equal(
        train(root, path_join(run, sizeof run, root, "held"), &compute, 0.0, passes, 1000, pieced),
        all);
    assert_string_equal(full, pieced);
    compute_close(&compute);
    assert_ok(file_remove_tree(root));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(figures),
        cmocka_unit_test(pass_at_k),
        cmocka_unit_test(a_stage_ends_early_and_at_the_same_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

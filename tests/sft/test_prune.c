/* Which rows are left out: by hand, over random tables, through the manifest, and through a stage
 * that is killed at every tick. */
#include "tests/infra/train/train_fixture.h"

#include "infra/model/checkpoint.h"
#include "sft/sft_stage.h"
#include "sft/votes.h"

#define ROWS_MAX 400

static void fill(struct prune_row *rows, int count, const char *const *capabilities, int kinds,
                 uint64_t seed)
{
    const struct rng_key key = {.seed = seed, .purpose = RNG_DATA};
    for (int i = 0; i < count; i++)
        rows[i] = (struct prune_row){
            .file = "rows.jsonl",
            .line = i + 1,
            .capability = capabilities[rng_below(&key, (uint64_t)i * 2, (uint64_t)kinds)],
            .score = floor(8.0 * (double)rng_uniform(&key, (uint64_t)i * 2 + 1)) / 8.0};
}

/* Scores 5 1 4 of add, 2 3 of mul: half of each, rounded down. */
static void chosen_by_hand(void **state)
{
    (void)state;
    static const char *const kinds[] = {"add", "mul", "add", "mul", "add"};
    static const double scores[] = {5, 2, 1, 3, 4};
    static const bool kept[] = {true, false, false, true, true};
    static const enum prune_tag tags[] = {PRUNE_HARD, PRUNE_EASY, PRUNE_EASY, PRUNE_MEDIUM,
                                          PRUNE_MEDIUM};
    struct prune_row rows[5];
    struct prune_summary summary;
    struct prune_options options = {.method = PRUNE_LOSS, .drop_share = 0.5};
    for (int i = 0; i < 5; i++)
        rows[i] = (struct prune_row){.file = "", .capability = kinds[i], .score = scores[i]};
    prune_choose(&options, rows, 5, &summary);
    assert_int_equal(summary.kept, 3);
    assert_int_equal(summary.capabilities, 2);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(rows[i].kept, kept[i]);
        assert_int_equal(rows[i].tag, tags[i]);
    }
    options.min_rows = 2; /* mul keeps both */
    prune_choose(&options, rows, 5, &summary);
    assert_int_equal(summary.kept, 4);
    options.drop_share = 1.0;
    options.min_rows = 0;
    prune_choose(&options, rows, 5, &summary);
    assert_int_equal(summary.kept, 0);
}

/* P1, P2 over random tables, with many ties. */
static void every_capability_loses_its_share_of_the_easiest(void **state)
{
    (void)state;
    static const char *const kinds[] = {"a", "b", "c", "d", "rare"};
    static struct prune_row rows[ROWS_MAX], again[ROWS_MAX];
    for (uint64_t seed = 1; seed <= 60; seed++) {
        int count = 1 + (int)(seed * 37 % ROWS_MAX);
        struct prune_options options = {.method = PRUNE_LOSS,
                                        .drop_share = (double)(seed % 21) / 20.0,
                                        .min_rows = (int64_t)(seed % 5)};
        struct prune_summary summary;
        fill(rows, count, kinds, 5, seed);
        prune_choose(&options, rows, count, &summary);
        memcpy(again, rows, sizeof rows);
        prune_choose(&options, again, count, &summary);
        assert_memory_equal(rows, again, (size_t)count * sizeof *rows);
        int64_t kept_in_all = 0;
        for (int k = 0; k < 5; k++) {
            int64_t of_kind = 0, kept = 0;
            double hardest_dropped = -1.0, easiest_kept = 9.0;
            for (int i = 0; i < count; i++) {
                if (strcmp(rows[i].capability, kinds[k]) != 0)
                    continue;
                of_kind++;
                kept += rows[i].kept;
                if (rows[i].kept)
                    easiest_kept = fmin(easiest_kept, rows[i].score);
                else
                    hardest_dropped = fmax(hardest_dropped, rows[i].score);
            }
            int64_t least = of_kind < options.min_rows ? of_kind : options.min_rows;
            int64_t share = of_kind - (int64_t)floor(options.drop_share * (double)of_kind);
            assert_int_equal(kept, share > least ? share : least);
            assert_true(hardest_dropped <= easiest_kept);
            kept_in_all += kept;
        }
        assert_int_equal(summary.kept, kept_in_all);
    }
}

static void the_draw_is_even(void **state)
{
    (void)state;
    static struct prune_row rows[ROWS_MAX];
    static const char *const one[] = {"a"};
    struct prune_options options = {.method = PRUNE_RANDOM, .drop_share = 0.5};
    struct prune_summary summary;
    int kept_first = 0;
    for (uint64_t seed = 1; seed <= 50; seed++) {
        fill(rows, ROWS_MAX, one, 1, 1);
        prune_draw(seed, rows, ROWS_MAX);
        prune_choose(&options, rows, ROWS_MAX, &summary);
        for (int i = 0; i < ROWS_MAX / 2; i++)
            kept_first += rows[i].kept;
    }
    assert_true(kept_first > 50 * 100 - 350 && kept_first < 50 * 100 + 350);
}

static void a_manifest_is_of_what_it_says(void **state)
{
    (void)state;
    static const char *const kinds[] = {"a \"quoted\"", "b"};
    static struct prune_row rows[50], read[50];
    struct prune_options options = {
        .method = PRUNE_LOSS, .drop_share = 0.3, .min_rows = 2, .seed = 9};
    struct prune_identity identity = {.data.bytes = {1}, .judge.bytes = {2}};
    struct prune_summary summary;
    char directory[HONE_PATH_MAX], path[HONE_PATH_MAX], *data;
    size_t bytes;
    fixture_directory(directory, "prune");
    path_join(path, sizeof path, directory, "prune.jsonl");
    fill(rows, 50, kinds, 2, 3);
    for (int i = 0; i < 50; i++)
        rows[i].score += 1.0 / 3.0; /* no short decimal */
    prune_choose(&options, rows, 50, &summary);
    fill(read, 50, kinds, 2, 3);
    assert_int_equal(prune_manifest_read(path, &options, &identity, read, 50), 0);
    assert_ok(prune_manifest_write(path, &options, &identity, rows, 50));
    assert_int_equal(prune_manifest_read(path, &options, &identity, read, 50), 1);
    for (int i = 0; i < 50; i++)
        assert_true(read[i].score == rows[i].score && read[i].kept == rows[i].kept &&
                    read[i].tag == rows[i].tag);
    struct prune_options other = options;
    other.drop_share = 0.4;
    assert_int_equal(prune_manifest_read(path, &other, &identity, read, 50), 0);
    struct prune_identity elsewhere = identity;
    elsewhere.data.bytes[5] = 1;
    assert_int_equal(prune_manifest_read(path, &options, &elsewhere, read, 50), 0);
    assert_int_equal(prune_manifest_read(path, &options, &identity, read, 49), 0);
    assert_ok(file_read(path, 1 << 20, &data, &bytes));
    assert_ok(file_write_atomic(path, data, bytes - 20)); /* torn */
    assert_int_equal(prune_manifest_read(path, &options, &identity, read, 50), 0);
    memory_free(data);
    assert_ok(file_remove_tree(directory));
}

/* ---- through a stage ---- */

struct bench {
    char root[HONE_PATH_MAX], base[HONE_PATH_MAX], data[HONE_PATH_MAX], run[HONE_PATH_MAX];
    const char *paths[1];
    struct compute compute;
    struct sft_options options;
};

static void bench_open(struct bench *bench, enum prune_method method)
{
    struct model_config config = fixture_config();
    struct text rows;
    fixture_directory(bench->root, "sft");
    path_join(bench->base, sizeof bench->base, bench->root, "base");
    path_join(bench->data, sizeof bench->data, bench->root, "rows.jsonl");
    path_join(bench->run, sizeof bench->run, bench->root, "run");
    fixture_write_model(bench->base, &config, 7);
    text_init(&rows);
    for (int i = 0; i < 150; i++)
        text_printf(&rows, "{\"prompt\": \"%d+%d=\", \"completion\": \"%d\", \"kind\": \"%s\"}\n",
                    i % 9, i % 7, i % 9 + i % 7, i % 3 ? "low" : "high");
    fixture_write(bench->root, "rows.jsonl", rows.data);
    text_release(&rows);
    bench->paths[0] = bench->data;
    assert_ok(compute_open(&bench->compute, 2));
    bench->options = (struct sft_options){
        .data = {.paths = bench->paths, .count = 1, .capability_column = "kind"},
        .model_directory = bench->base,
        .stage_directory = bench->run,
        .recipe_hash = "recipe",
        .seed = 4,
        .epochs = 1,
        .batch_tokens = 200,
        .max_length = 32,
        .keep_checkpoints = 2,
        .save_steps = 1,
        .prune = {.method = method, .drop_share = 0.5, .min_rows = 4, .seed = 4},
        .trainer = fixture_options(DTYPE_BF16, 64)};
}

static char *read_text(const char *run, const char *name)
{
    char path[HONE_PATH_MAX], *data;
    size_t bytes;
    assert_ok(file_read(path_join(path, sizeof path, run, name), 1 << 22, &data, &bytes));
    return data;
}

static int64_t run_killed_after(struct bench *bench, int ticks)
{
    struct sft_progress progress = {0};
    int64_t scored = 0;
    while (!progress.finished) {
        struct sft_stage *stage;
        assert_ok(sft_stage_create(&stage, &bench->options, &bench->compute, clock_system(), NULL));
        for (int i = 0; i < ticks && !progress.finished; i++)
            assert_ok(sft_stage_tick(stage, &progress));
        scored = progress.scored_sequences > scored ? progress.scored_sequences : scored;
        sft_stage_destroy(stage);
    }
    return scored;
}

static void a_killed_stage_chooses_and_trains_the_same(void **state)
{
    (void)state;
    static const enum prune_method methods[] = {PRUNE_LOSS, PRUNE_RANDOM};
    for (int m = 0; m < 2; m++) {
        struct bench bench;
        struct checkpoint_state whole, pieces;
        char path[HONE_PATH_MAX], other[HONE_PATH_MAX];
        bench_open(&bench, methods[m]);
        int64_t scored = run_killed_after(&bench, 1 << 20);
        assert_int_equal(scored, methods[m] == PRUNE_LOSS ? 150 : 0);
        assert_ok(checkpoint_read_state(path_join(path, sizeof path, bench.run, "final"), &whole));
        char *manifest = read_text(bench.run, "prune.jsonl");
        assert_non_null(strstr(manifest, "\"capability\":\"low\""));
        int lines = 0, kept = 0;
        for (const char *at = manifest; (at = strchr(at, '\n')) != NULL; at++)
            lines++;
        for (const char *at = manifest; (at = strstr(at, "\"kept\":true")) != NULL; at++)
            kept++;
        assert_int_equal(lines, 151);
        assert_int_equal(kept, 75);
        /* Four ticks are enough to score all, and then one for each step. */
        path_join(other, sizeof other, bench.root, "again");
        bench.options.stage_directory = other;
        run_killed_after(&bench, 4);
        assert_ok(checkpoint_read_state(path_join(path, sizeof path, other, "final"), &pieces));
        assert_string_equal(whole.weights_hash, pieces.weights_hash);
        char *manifest_again = read_text(other, "prune.jsonl");
        assert_string_equal(manifest, manifest_again);
        memory_free(manifest);
        memory_free(manifest_again);
        compute_close(&bench.compute);
        assert_ok(file_remove_tree(bench.root));
    }
}

/* The scores of a manifest, by row. */
static void read_scores(const char *run, double *scores, int count)
{
    char *manifest = read_text(run, "prune.jsonl");
    const char *at = manifest;
    for (int i = 0; i < count; i++) {
        at = strstr(at, "\"score\":");
        assert_non_null(at);
        scores[i] = strtod(at + strlen("\"score\":"), NULL);
        at++;
    }
    memory_free(manifest);
}

/* What the judge finds less likely than the checkpoint that has learned is what stays. */
static void progress_is_the_difference_of_two_judges(void **state)
{
    (void)state;
    static double scores[3][150];
    struct model_config config = fixture_config();
    struct bench bench;
    char learned[HONE_PATH_MAX], run[3][HONE_PATH_MAX];
    bench_open(&bench, PRUNE_LOSS);
    path_join(learned, sizeof learned, bench.root, "learned");
    fixture_write_model(learned, &config, 8);
    for (int k = 0; k < 3; k++) {
        char name[8] = {'r', (char)('0' + k)};
        bench.options.stage_directory = path_join(run[k], sizeof run[k], bench.root, name);
        bench.options.prune.judge = k == 1 ? learned : NULL;
        bench.options.prune.method = k == 2 ? PRUNE_PROGRESS : PRUNE_LOSS;
        bench.options.prune.learned = learned;
        run_killed_after(&bench, 1 << 20);
        read_scores(run[k], scores[k], 150);
    }
    for (int i = 0; i < 150; i++)
        assert_true(fabs(scores[2][i] - (scores[0][i] - scores[1][i])) < 1e-9);
    compute_close(&bench.compute);
    assert_ok(file_remove_tree(bench.root));
}

/* Of each capability the rows that the judge called easy go; between equals the draw decides. */
static void votes_decide(void **state)
{
    (void)state;
    static struct row_votes votes[150];
    struct bench bench;
    struct sft_stage *stage;
    char file[HONE_PATH_MAX];
    bench_open(&bench, PRUNE_VOTES);
    path_join(file, sizeof file, bench.root, "votes.jsonl");
    for (int i = 0; i < 150; i++)
        votes[i].counts[i % 5 < 3 ? VOTE_EASY : VOTE_HARD] = 5;
    votes[7] = (struct row_votes){.unread = 5}; /* medium: stays before the easy ones */
    assert_ok(votes_write(file, "{}", votes, 150));
    bench.options.prune.votes = file;
    run_killed_after(&bench, 1 << 20);
    char *manifest = read_text(bench.run, "prune.jsonl");
    int kept_easy = 0, row = -1;
    for (char *rest, *line = strtok_r(manifest, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest), row++) {
        bool stays = strstr(line, "\"kept\":true") != NULL;
        if (row < 0)
            continue;
        assert_true(stays || (row % 5 < 3 && row != 7));
        kept_easy += stays && row % 5 < 3;
    }
    assert_int_equal(row, 150);
    assert_int_equal(kept_easy, 15); /* 75 stay, 60 are hard */
    memory_free(manifest);
    /* Votes on other rows are none on these. */
    assert_ok(votes_write(file, "{}", votes, 149));
    assert_ok(file_remove_tree(bench.run));
    assert_int_equal(sft_stage_create(&stage, &bench.options, &bench.compute, clock_system(), NULL),
                     HONE_EFORMAT);
    assert_non_null(strstr(error_message(), "149 of 150 rows"));
    compute_close(&bench.compute);
    assert_ok(file_remove_tree(bench.root));
}

static void pruning_that_leaves_nothing_is_refused(void **state)
{
    (void)state;
    struct bench bench;
    struct sft_stage *stage;
    bench_open(&bench, PRUNE_RANDOM);
    bench.options.prune.drop_share = 1.0;
    bench.options.prune.min_rows = 0;
    assert_int_equal(sft_stage_create(&stage, &bench.options, &bench.compute, clock_system(), NULL),
                     HONE_EINVAL);
    assert_non_null(strstr(error_message(), "leaves no row"));
    compute_close(&bench.compute);
    assert_ok(file_remove_tree(bench.root));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chosen_by_hand),
        cmocka_unit_test(every_capability_loses_its_share_of_the_easiest),
        cmocka_unit_test(the_draw_is_even),
        cmocka_unit_test(a_manifest_is_of_what_it_says),
        cmocka_unit_test(a_killed_stage_chooses_and_trains_the_same),
        cmocka_unit_test(progress_is_the_difference_of_two_judges),
        cmocka_unit_test(votes_decide),
        cmocka_unit_test(pruning_that_leaves_nothing_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

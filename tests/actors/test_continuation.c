/* Sequences that go on: from a prefix sampled elsewhere, and across a change of weights. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "actors/rollout_engine.h"
#include "infra/base/error.h"
#include "infra/base/rng.h"
#include "tests/actors/tiny_model.h"

#define PROMPT     37 /* past a block's edge */
#define COMPLETION 40
#define SLOTS      4

struct bench {
    struct model_config config;
    float *flat;
    struct compute compute;
    struct model *model;
    struct rollout_engine *engine;
};

static void bench_open(struct bench *bench, int32_t chunk, bool recompute, int32_t kv_blocks)
{
    memset(bench, 0, sizeof *bench);
    bench->config = tiny_model_config();
    bench->flat = tiny_model_flat(&bench->config, 7);
    assert_int_equal(compute_open(&bench->compute, 1), 0);
    assert_int_equal(
        model_create(&bench->model, &bench->config, DTYPE_BF16, false, &bench->compute), 0);
    model_set_flat(bench->model, bench->flat);
    struct rollout_engine_options options = {.slots = SLOTS,
                                             .prefill_chunk_tokens = chunk,
                                             .max_sequence_tokens = 120,
                                             .recompute_kv = recompute,
                                             .kv_blocks = kv_blocks,
                                             .rng_purpose = RNG_SAMPLE};
    assert_int_equal(rollout_engine_create(&bench->engine, bench->model, &options, &bench->compute),
                     0);
}

static void bench_close(struct bench *bench)
{
    rollout_engine_destroy(bench->engine);
    model_free(bench->model);
    compute_close(&bench->compute);
    memory_free(bench->flat);
}

static void new_weights(struct bench *bench, int64_t version)
{
    float *newer = tiny_model_flat(&bench->config, 7 + (uint64_t)version);
    model_set_flat(bench->model, newer);
    rollout_engine_set_version(bench->engine, version);
    memory_free(newer);
}

static int submit(struct bench *bench, int32_t sample, const struct trajectory *prefix)
{
    int32_t prompt[PROMPT];
    for (int32_t i = 0; i < PROMPT; i++)
        prompt[i] = 3 + i * 7 % 90;
    struct rollout_request request = {
        .user = 100 + (uint64_t)sample,
        .prompt_id = 5,
        .group_id = 9,
        .sample_index = sample,
        .prompt_tokens = prompt,
        .prompt_token_count = PROMPT,
        .prefix = prefix,
        .sampling = {
            .temperature = 1, .top_p = 0.95f, .max_completion_tokens = COMPLETION, .seed = 3}};
    return rollout_engine_submit(bench->engine, &request);
}

static void steps(struct bench *bench, int count)
{
    for (int i = 0; i < count; i++)
        assert_true(rollout_engine_step(bench->engine) > 0);
}

/* Runs until all is finished; results by sample index. */
static void finish(struct bench *bench, struct trajectory results[SLOTS])
{
    struct trajectory trajectory;
    uint64_t user;
    memset(results, 0, SLOTS * sizeof *results);
    while (rollout_engine_step(bench->engine) > 0)
        continue;
    while (rollout_engine_finished(bench->engine, &trajectory, &user) > 0) {
        assert_int_equal(trajectory_validate(&trajectory), 0);
        assert_int_equal(user, 100 + trajectory.sample_index);
        results[trajectory.sample_index] = trajectory;
    }
}

static void release(struct trajectory results[SLOTS])
{
    for (int i = 0; i < SLOTS; i++)
        trajectory_release(&results[i]);
}

static void assert_same(const struct trajectory *a, const struct trajectory *b)
{
    size_t count = (size_t)a->token_count;
    assert_int_equal(a->token_count, b->token_count);
    assert_int_equal(a->finish, b->finish);
    assert_memory_equal(a->tokens, b->tokens, count * sizeof *a->tokens);
    assert_memory_equal(a->behavior_logprob, b->behavior_logprob, count * sizeof(float));
    assert_memory_equal(a->log_mass, b->log_mass, count * sizeof(float));
    assert_memory_equal(a->policy_version, b->policy_version, count * sizeof(int64_t));
    assert_memory_equal(a->loss_mask, b->loss_mask, count);
    assert_memory_equal(a->kv_mixed, b->kv_mixed, count);
    assert_int_equal(a->segment_count, b->segment_count);
}

/* The piece of a sample in flight from `first` on. */
static void piece_of(struct bench *bench, int32_t sample, int32_t first, struct trajectory *piece)
{
    struct rollout_partial partial;
    for (int32_t i = 0; rollout_engine_partial(bench->engine, i, &partial); i++) {
        if (partial.sample_index != sample)
            continue;
        assert_int_equal(partial.user, 100 + sample);
        rollout_engine_piece(bench->engine, i, first, piece);
        assert_int_equal(piece->token_count, partial.completion_tokens - first);
        assert_int_equal(trajectory_validate(piece), 0);
        return;
    }
    fail_msg("sample %d is not in flight", sample);
}

/* Whoever goes on, from whatever point, in whatever company, makes the bits of the one who began.
 */
static void test_goes_on_with_the_same_bits(void **state)
{
    (void)state;
    static const int begun[] = {3, 8, 30, 39};
    static const int32_t chunks[] = {5, 64, 200};
    struct trajectory whole[SLOTS], continued[SLOTS], prefix, tail;
    struct bench first, second;
    bench_open(&first, 64, false, 0);
    for (int32_t i = 0; i < 3; i++)
        assert_int_equal(submit(&first, i, NULL), 0);
    finish(&first, whole);
    for (size_t b = 0; b < sizeof begun / sizeof *begun; b++) {
        /* In two pieces, put together as the hub does it. */
        assert_int_equal(submit(&first, 1, NULL), 0);
        steps(&first, begun[b] - 2);
        piece_of(&first, 1, 0, &prefix);
        steps(&first, 2);
        piece_of(&first, 1, prefix.token_count, &tail);
        trajectory_append(&prefix, &tail);
        rollout_engine_cancel(first.engine, 101);
        for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
            bench_open(&second, chunks[c], false, 0);
            assert_int_equal(submit(&second, 0, NULL), 0); /* prefills the same prompt */
            assert_int_equal(submit(&second, 1, &prefix), 0);
            assert_int_equal(submit(&second, 2, NULL), 0);
            finish(&second, continued);
            for (int i = 0; i < 3; i++)
                assert_same(&continued[i], &whole[i]);
            release(continued);
            bench_close(&second);
        }
        trajectory_release(&prefix);
        trajectory_release(&tail);
    }
    release(whole);
    bench_close(&first);
}

/* A prefix that arrives while its prompt is in the cache, or being prefilled, by continued ones. */
static void test_continued_ones_lead_nobody(void **state)
{
    (void)state;
    struct trajectory whole[SLOTS], mixed[SLOTS], prefix;
    struct bench bench;
    bench_open(&bench, 64, false, 0);
    for (int32_t i = 0; i < SLOTS; i++)
        assert_int_equal(submit(&bench, i, NULL), 0);
    steps(&bench, 12);
    piece_of(&bench, 0, 0, &prefix);
    finish(&bench, whole);
    bench_close(&bench);
    bench_open(&bench, 7, false, 0);
    assert_int_equal(submit(&bench, 0, &prefix), 0);
    for (int32_t i = 1; i < SLOTS; i++)
        assert_int_equal(submit(&bench, i, NULL), 0);
    finish(&bench, mixed);
    for (int i = 0; i < SLOTS; i++)
        assert_same(&mixed[i], &whole[i]);
    release(whole);
    release(mixed);
    trajectory_release(&prefix);
    bench_close(&bench);
}

/* Weights change after `before` steps (chunks of prefill among them); keep marks what follows. */
static void test_kept_cache_is_marked(void **state)
{
    (void)state;
    struct trajectory results[SLOTS];
    struct bench bench;
    bench_open(&bench, 16, false, 0);
    assert_int_equal(submit(&bench, 0, NULL), 0); /* in the middle of its prompt */
    steps(&bench, 2);
    new_weights(&bench, 1);
    assert_int_equal(submit(&bench, 1, NULL), 0); /* wholly of version 1, until version 2 */
    steps(&bench, 10);
    new_weights(&bench, 2);
    finish(&bench, results);
    for (int32_t i = PROMPT; i < results[0].token_count; i++)
        assert_int_equal(results[0].kv_mixed[i], 1);
    assert_int_equal(trajectory_oldest_version(&results[1]), 1);
    assert_int_equal(trajectory_newest_version(&results[1]), 2);
    for (int32_t i = 0; i < results[1].token_count; i++)
        assert_int_equal(results[1].kv_mixed[i], results[1].policy_version[i] == 2);
    release(results);
    bench_close(&bench);
}

/* Recomputed, every token is what its own version makes of the text before it: the same as if
 * another engine with these weights had gone on from there. */
static void test_recomputed_cache_is_of_one_version(void **state)
{
    (void)state;
    struct trajectory results[SLOTS], expected[SLOTS], kept[SLOTS], prefixes[3];
    struct bench bench, fresh;
    for (int recompute = 1; recompute >= 0; recompute--) {
        bench_open(&bench, 16, recompute != 0, 0);
        for (int32_t i = 0; i < 3; i++)
            assert_int_equal(submit(&bench, i, NULL), 0);
        steps(&bench, 15);
        for (int32_t i = 0; recompute && i < 3; i++)
            piece_of(&bench, i, 0, &prefixes[i]);
        new_weights(&bench, 1);
        assert_int_equal(submit(&bench, 3, NULL), 0); /* one that starts in the middle of it */
        finish(&bench, recompute ? results : kept);
        bench_close(&bench);
    }
    bench_open(&fresh, 64, false, 0);
    new_weights(&fresh, 1);
    for (int32_t i = 0; i < 3; i++)
        assert_int_equal(submit(&fresh, i, &prefixes[i]), 0);
    assert_int_equal(submit(&fresh, 3, NULL), 0);
    finish(&fresh, expected);
    for (int i = 0; i < SLOTS; i++) {
        assert_same(&results[i], &expected[i]);
        assert_null(memchr(results[i].kv_mixed, 1, (size_t)results[i].token_count));
    }
    /* Kept keys and values do give other logprobs: the mark says something. */
    int32_t at = PROMPT + prefixes[0].token_count;
    assert_int_equal(kept[0].kv_mixed[at], 1);
    assert_true(kept[0].behavior_logprob[at] != results[0].behavior_logprob[at]);
    for (int i = 0; i < 3; i++)
        trajectory_release(&prefixes[i]);
    release(results);
    release(expected);
    release(kept);
    bench_close(&fresh);
}

/* Two sequences of three blocks each share a whole one. Recomputed, they would not: with five
 * blocks there is no room for that, and what they have is kept; with six there is. */
static void test_a_short_cache_keeps(void **state)
{
    (void)state;
    for (int32_t blocks = 5; blocks <= 6; blocks++) {
        struct trajectory results[SLOTS];
        struct rollout_partial partial;
        struct bench bench;
        bench_open(&bench, 64, true, blocks);
        for (int32_t i = 0; i < SLOTS; i++)
            assert_int_equal(submit(&bench, i, NULL), 0);
        steps(&bench, 10);
        assert_true(rollout_engine_partial(bench.engine, 1, &partial));
        assert_false(rollout_engine_partial(bench.engine, 2, &partial)); /* the others wait */
        new_weights(&bench, 1);
        finish(&bench, results);
        for (int i = 0; i < SLOTS; i++) {
            bool mixed = memchr(results[i].kv_mixed, 1, (size_t)results[i].token_count) != NULL;
            assert_int_equal(mixed, blocks == 5 && i < 2);
        }
        release(results);
        bench_close(&bench);
    }
}

static void test_bad_prefixes_are_refused(void **state)
{
    (void)state;
    struct trajectory piece, whole[SLOTS];
    struct bench bench;
    bench_open(&bench, 64, false, 0);
    assert_int_equal(submit(&bench, 0, NULL), 0);
    steps(&bench, 30);
    piece_of(&bench, 0, 0, &piece);
    finish(&bench, whole);
    assert_int_equal(submit(&bench, 0, &whole[0]), HONE_EINVAL); /* with its prompt */
    struct trajectory view = piece;
    view.token_count = COMPLETION; /* nothing left to sample; the count alone is looked at */
    assert_int_equal(submit(&bench, 0, &view), HONE_EINVAL);
    int32_t id = piece.tokens[3];
    piece.tokens[3] = bench.config.vocab_size;
    assert_int_equal(submit(&bench, 0, &piece), HONE_EINVAL);
    piece.tokens[3] = -1;
    assert_int_equal(submit(&bench, 0, &piece), HONE_EINVAL);
    piece.tokens[3] = id;
    assert_int_equal(submit(&bench, 0, &piece), 0);
    assert_int_equal(rollout_engine_cancel(bench.engine, 100), 1);
    trajectory_release(&piece);
    release(whole);
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goes_on_with_the_same_bits),
        cmocka_unit_test(test_continued_ones_lead_nobody),
        cmocka_unit_test(test_kept_cache_is_marked),
        cmocka_unit_test(test_recomputed_cache_is_of_one_version),
        cmocka_unit_test(test_a_short_cache_keeps),
        cmocka_unit_test(test_bad_prefixes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

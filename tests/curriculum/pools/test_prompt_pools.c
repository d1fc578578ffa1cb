/* Which prompt is trained next: a policy of known strength is measured again and again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "curriculum/pools/prompt_pools.h"
#include "infra/base/rng.h"

#define PROMPTS 600
#define SLOTS   32
#define SAMPLES 8

static struct prompt prompts[PROMPTS];
static double chances[PROMPTS]; /* of a pass */
static struct prompt_pools pools;
static uint64_t draws;

static struct filter_options defaults(void)
{
    return (struct filter_options){.mode = FILTER_ON,
                                   .pass_threshold = 1,
                                   .low = 0.125,
                                   .high = 0.75,
                                   .high_min = 0.5,
                                   .certificate = 64,
                                   .hard_share = 0.1,
                                   .easy_share = 0.05,
                                   .round_steps = 50,
                                   .expire_steps = 1000,
                                   .k = 4};
}

static void start(const struct filter_options *options, int64_t count, const char *const *kinds,
                  int kind_count)
{
    draws = 0;
    for (int64_t i = 0; i < count; i++)
        prompts[i] = (struct prompt){.id = (uint64_t)i,
                                     .capability = (char *)(uintptr_t)kinds[i % kind_count]};
    prompt_pools_init(&pools, options, prompts, count, 11, SLOTS);
}

static struct measurement sample(int64_t id)
{
    struct rng_key key = {3, RNG_SIM, 0, 0};
    struct measurement measurement = {.judged = SAMPLES};
    for (int i = 0; i < SAMPLES; i++)
        measurement.passed += (double)rng_uniform(&key, draws++) < chances[id];
    return measurement;
}

static void train(int64_t batch, int64_t ids[SLOTS])
{
    for (int i = 0; i < SLOTS; i++) {
        ids[i] = prompt_pools_select(&pools);
        assert_true(ids[i] >= 0);
    }
    for (int i = 0; i < SLOTS; i++) {
        struct measurement measurement = sample(ids[i]);
        prompt_pools_measured(&pools, ids[i], &measurement, 0, true);
    }
    prompt_pools_fold(&pools, batch);
}

static const char *const one_kind[] = {"math"};

/* Q2, Q4: as long as nothing tells prompts apart each comes once before any comes twice. */
static void test_every_prompt_is_seen_before_one_returns(void **state)
{
    (void)state;
    struct filter_options options = defaults();
    int seen[PROMPTS] = {0};
    int64_t ids[SLOTS], out_of_order = 0;
    start(&options, PROMPTS, one_kind, 1);
    for (int i = 0; i < PROMPTS; i++)
        chances[i] = 0.5;
    for (int64_t batch = 1; batch <= PROMPTS / SLOTS; batch++) {
        train(batch, ids);
        for (int i = 0; i < SLOTS; i++) {
            seen[ids[i]]++;
            out_of_order += i > 0 && ids[i] < ids[i - 1];
        }
    }
    int once = 0;
    for (int i = 0; i < PROMPTS; i++)
        once += seen[i] == 1;
    assert_true(once > PROMPTS * 8 / 10); /* but for what was easy or hard by chance */
    assert_true(out_of_order > PROMPTS / 4);
    prompt_pools_release(&pools);
}

static void test_when_all_are_in_flight_there_is_none(void **state)
{
    (void)state;
    struct filter_options options = defaults();
    int seen[5] = {0};
    start(&options, 5, one_kind, 1);
    for (int i = 0; i < 5; i++)
        seen[prompt_pools_select(&pools)]++;
    for (int i = 0; i < 5; i++)
        assert_int_equal(seen[i], 1);
    assert_int_equal(prompt_pools_select(&pools), -1);
    prompt_pools_take(&pools, 3); /* by another rule */
    prompt_pools_measured(&pools, 3, &(struct measurement){8, 4, 0}, 0, true);
    prompt_pools_fold(&pools, 1);
    assert_int_equal(prompt_pools_select(&pools), -1); /* a second group of it is out */
    prompt_pools_returned(&pools, 3);
    prompt_pools_fold(&pools, 2);
    assert_int_equal(prompt_pools_select(&pools), 3);
    prompt_pools_release(&pools);
}

/* Q3: most slots go to what is in the band, some to the rest. */
static void test_slots_go_where_there_is_something_to_learn(void **state)
{
    (void)state;
    struct filter_options options = defaults();
    int64_t ids[SLOTS], mixed = 0, never = 0, always = 0, slots = 0;
    start(&options, PROMPTS, one_kind, 1);
    for (int i = 0; i < PROMPTS; i++)
        chances[i] = i % 3 == 0 ? 0.0 : i % 3 == 1 ? 0.4 : 1.0;
    for (int64_t batch = 1; batch <= 120; batch++) {
        train(batch, ids);
        for (int i = 0; batch > 60 && i < SLOTS; i++) {
            slots++;
            never += chances[ids[i]] <= 0.0;
            always += chances[ids[i]] >= 1.0;
            mixed += chances[ids[i]] > 0.0 && chances[ids[i]] < 1.0;
        }
    }
    assert_true(fabs((double)never / (double)slots - 0.1) < 0.02);
    assert_true(fabs((double)always / (double)slots - 0.05) < 0.02);
    assert_true((double)mixed / (double)slots > 0.8);
    int64_t sum = 0;
    for (int pool = 0; pool < POOL_COUNT; pool++)
        sum += pools.pool_count[pool];
    assert_int_equal(sum, PROMPTS);
    assert_in_range(pools.pool_count[POOL_EASY], PROMPTS / 4, PROMPTS / 2);
    prompt_pools_release(&pools);
}

/* Q3: a capability that is all easy does not vanish, and takes no slot of the band. */
static void test_an_easy_capability_keeps_a_share(void **state)
{
    (void)state;
    static const char *const kinds[] = {"easy", "mixed"};
    struct filter_options options = defaults();
    int64_t ids[SLOTS], easy = 0, slots = 0;
    start(&options, PROMPTS, kinds, 2);
    for (int i = 0; i < PROMPTS; i++)
        chances[i] = i % 2 == 0 ? 1.0 : 0.5;
    for (int64_t batch = 1; batch <= 120; batch++) {
        train(batch, ids);
        for (int i = 0; batch > 60 && i < SLOTS; i++) {
            slots++;
            easy += ids[i] % 2 == 0;
        }
    }
    assert_true((double)easy / (double)slots > 0.04);
    assert_true((double)easy / (double)slots < 0.08);
    prompt_pools_release(&pools);
}

/* Q3: capabilities have their share of the dataset times a factor. */
static void test_the_mix(void **state)
{
    (void)state;
    static const char *const kinds[] = {"a", "a", "b", "c"};
    static const struct capability_factor mix[] = {{"c", 3.0}, {"unknown", 5.0}};
    struct filter_options options = defaults();
    int64_t ids[SLOTS], count[3] = {0}, slots = 0;
    options.mix = mix;
    options.mix_count = 2;
    start(&options, PROMPTS, kinds, 4);
    for (int i = 0; i < PROMPTS; i++)
        chances[i] = 0.5;
    for (int64_t batch = 1; batch <= 40; batch++) {
        train(batch, ids);
        for (int i = 0; i < SLOTS; i++, slots++)
            count[prompts[ids[i]].capability[0] - 'a']++;
    }
    assert_true(fabs((double)count[0] / (double)slots - 2.0 / 6.0) < 0.03);
    assert_true(fabs((double)count[1] / (double)slots - 1.0 / 6.0) < 0.03);
    assert_true(fabs((double)count[2] / (double)slots - 3.0 / 6.0) < 0.03);
    prompt_pools_release(&pools);
}

/* Nothing is left to learn: slots are filled all the same. */
static void test_a_batch_is_never_short(void **state)
{
    (void)state;
    struct filter_options options = defaults();
    int64_t ids[SLOTS];
    start(&options, PROMPTS, one_kind, 1);
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < PROMPTS; i++)
            chances[i] = pass == 0 ? 1.0 : 0.0;
        for (int64_t batch = 1; batch <= 300; batch++)
            train(pass * 300 + batch, ids);
    }
    assert_true(pools.pool_count[POOL_PARKED] > PROMPTS / 2);
    for (int64_t batch = 601; batch <= 900; batch++)
        train(batch, ids);
    assert_int_equal(pools.pool_count[POOL_PARKED], PROMPTS);
    train(901, ids);
    prompt_pools_release(&pools);
}

/* Q1: whatever the order in which groups come back. */
static void test_the_order_of_arrival_does_not_matter(void **state)
{
    (void)state;
    static int64_t chosen[2][40][SLOTS];
    static const char *const kinds[] = {"a", "b"};
    struct filter_options options = defaults();
    options.round_steps = 7;
    options.high_step = 0.05;
    options.expire_steps = 10;
    options.accept_min = 0.5;
    for (int order = 0; order < 2; order++) {
        start(&options, PROMPTS, kinds, 2);
        for (int64_t batch = 0; batch < 40; batch++) {
            int64_t *ids = chosen[order][batch];
            for (int i = 0; i < SLOTS; i++)
                ids[i] = prompt_pools_select(&pools);
            for (int i = 0; i < SLOTS; i++) {
                int64_t id = ids[order == 0 ? i : SLOTS - 1 - i];
                struct measurement m = {SAMPLES, (int32_t)((id * 7 + batch) % 9), batch};
                prompt_pools_measured(&pools, id, &m, 0, true);
            }
            prompt_pools_fold(&pools, batch + 1);
        }
        prompt_pools_release(&pools);
    }
    assert_memory_equal(chosen[0], chosen[1], sizeof chosen[0]);
}

/* Q5 and the band: the policy becomes better, and prompts move on. */
static void test_prompts_move_as_the_policy_improves(void **state)
{
    (void)state;
    struct filter_options options = defaults();
    int64_t ids[SLOTS], into_band = 0, out_of_band = 0;
    options.round_steps = 20;
    options.high_step = 0.05;
    start(&options, PROMPTS, one_kind, 1);
    for (int64_t batch = 1; batch <= 200; batch++) {
        for (int i = 0; i < PROMPTS; i++) { /* each has its time */
            double x = (double)batch / 20.0 - (double)i / 60.0;
            chances[i] = 1.0 / (1.0 + exp(-x));
        }
        train(batch, ids);
        into_band += pools.fold.moves[POOL_HARD][POOL_BAND];
        out_of_band += pools.fold.moves[POOL_BAND][POOL_EASY];
    }
    assert_true(into_band > 50 && out_of_band > 100);
    assert_int_equal(pools.round, 10);
    assert_true(fabs(prompt_pools_band(&pools).high - 0.5) < 1e-9);
    prompt_pools_release(&pools);
}

/* Q6: what was measured long ago is probed; without probes it is trained. */
static void test_estimates_expire(void **state)
{
    (void)state;
    struct filter_options options = defaults();
    options.round_steps = 5;
    options.expire_steps = 10;
    for (int32_t probes = 0; probes < 2; probes++) {
        int64_t ids[SLOTS], due = 0;
        options.probes = probes;
        start(&options, PROMPTS, one_kind, 1);
        for (int i = 0; i < PROMPTS; i++)
            chances[i] = i % 2 == 0 ? 1.0 : 0.5;
        for (int64_t batch = 1; batch <= 19; batch++)
            train(batch, ids);
        for (int i = 0; i < PROMPTS; i++)
            chances[i] = 0.5; /* what was easy is no longer */
        for (int64_t batch = 20; batch <= 45; batch++) {
            for (int64_t id; probes > 0 && (id = prompt_pools_probe(&pools)) >= 0;) {
                struct measurement measurement = sample(id);
                due += pools.prompts[id].due;
                assert_true(pools.prompts[id].due ||
                            pools.prompts[id].difficulty.pool == POOL_UNSEEN);
                prompt_pools_measured(&pools, id, &measurement, 0, false);
            }
            train(batch, ids);
        }
        assert_true(pools.pool_count[POOL_EASY] < PROMPTS / 8);
        assert_true((due > 100) == (probes > 0));
        prompt_pools_release(&pools);
    }
}

/* A checkpoint's measurements come before anything is sampled. */
static void test_initial_measurements(void **state)
{
    (void)state;
    static struct measurement initial[PROMPTS];
    struct filter_options options = defaults();
    for (int i = 0; i < PROMPTS; i++)
        initial[i] = (struct measurement){i % 4 == 3 ? 0 : 8,
                                          i % 4 == 0   ? 8
                                          : i % 4 == 1 ? 4
                                                       : 0,
                                          0};
    options.initial = initial;
    options.easy_share = options.hard_share = 0;
    start(&options, PROMPTS, one_kind, 1);
    prompt_pools_take_initial(&pools);
    assert_int_equal(pools.pool_count[POOL_EASY], PROMPTS / 4);
    assert_int_equal(pools.pool_count[POOL_BAND], PROMPTS / 4);
    assert_int_equal(pools.pool_count[POOL_HARD], PROMPTS / 4);
    assert_int_equal(pools.pool_count[POOL_UNSEEN], PROMPTS / 4);
    for (int i = 0; i < PROMPTS / 4; i++) /* what is known to be of use first */
        assert_int_equal(prompt_pools_select(&pools) % 4, 1);
    assert_int_equal(prompt_pools_select(&pools) % 4, 3);
    prompt_pools_release(&pools);
}

/* A heap against sorting, with removals from anywhere. */
static void test_queue(void **state)
{
    (void)state;
    int64_t places[200];
    struct prompt_rank ranks[200];
    struct prompt_queue queue;
    struct rng_key key = {5, RNG_SIM, 0, 0};
    for (int i = 0; i < 200; i++)
        places[i] = -1;
    prompt_queue_init(&queue, places);
    assert_int_equal(prompt_queue_first(&queue), -1);
    for (uint64_t step = 0; step < 20000; step++) {
        int64_t id = (int64_t)rng_below(&key, step * 2, 200), first = -1;
        if (places[id] >= 0) {
            prompt_queue_remove(&queue, id);
        } else {
            ranks[id] = (struct prompt_rank){rng_below(&key, step * 2 + 1, 7), step % 3, id};
            prompt_queue_put(&queue, &ranks[id]);
        }
        for (int64_t i = 0; i < 200; i++) {
            if (places[i] < 0)
                continue;
            const struct prompt_rank *a = &ranks[i], *b = first >= 0 ? &ranks[first] : NULL;
            if (b == NULL || a->major < b->major || (a->major == b->major && a->minor < b->minor))
                first = i;
        }
        assert_int_equal(prompt_queue_first(&queue), first);
    }
    prompt_queue_release(&queue);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_prompt_is_seen_before_one_returns),
        cmocka_unit_test(test_when_all_are_in_flight_there_is_none),
        cmocka_unit_test(test_slots_go_where_there_is_something_to_learn),
        cmocka_unit_test(test_an_easy_capability_keeps_a_share),
        cmocka_unit_test(test_the_mix),
        cmocka_unit_test(test_a_batch_is_never_short),
        cmocka_unit_test(test_the_order_of_arrival_does_not_matter),
        cmocka_unit_test(test_prompts_move_as_the_policy_improves),
        cmocka_unit_test(test_estimates_expire),
        cmocka_unit_test(test_initial_measurements),
        cmocka_unit_test(test_queue),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

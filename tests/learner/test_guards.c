/* The guards against made-up figures: what trips when, what is done, and that healthy runs pass. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "infra/base/rng.h"
#include "learner/guards.h"

static struct guard_options all_options(void)
{
    return (struct guard_options){.mismatch = true,
                                  .gradient_spike = 10.0,
                                  .entropy_floor = 0.2,
                                  .reward_drop = 0.5,
                                  .behavior_drift = 8.0,
                                  .kl_limit = 0.5,
                                  .good_after = 5,
                                  .rollbacks_max = 3,
                                  .checkpoint_steps = 10};
}

/* Figures of a healthy batch: noise of a fifth on everything. */
static struct guard_figures healthy(int64_t batch)
{
    struct rng_key key = {.seed = 7, .purpose = RNG_DATA};
    uint64_t draw = (uint64_t)batch * 8;
    return (struct guard_figures){.batch = batch,
                                  .loss = 0.1 * (double)rng_normal(&key, draw),
                                  .gradient_norm = exp(0.4 * (double)rng_normal(&key, draw + 2)),
                                  .entropy = 1.0 + 0.2 * (double)rng_normal(&key, draw + 4),
                                  .reward = 0.5 + 0.05 * (double)rng_normal(&key, draw + 6),
                                  .kl = 0.1,
                                  .behavior_kl =
                                      0.003 * exp(0.7 * (double)rng_normal(&key, draw + 80000)),
                                  .sample_size = 0.9,
                                  .truncated_share = 0.05};
}

static struct guard_verdict feed(struct guards *guards, const struct guard_figures *figures)
{
    struct guard_verdict skipped, verdict;
    guards_accept(guards, figures, &skipped);
    guards_observe(guards, figures, &skipped, &verdict);
    return verdict;
}

static void feed_healthy(struct guards *guards, int64_t first, int64_t last)
{
    for (int64_t batch = first; batch <= last; batch++) {
        struct guard_figures figures = healthy(batch);
        struct guard_verdict verdict = feed(guards, &figures);
        if (verdict.signal != SIGNAL_NONE)
            fail_msg("batch %lld: %s", (long long)batch, guard_signal_name(verdict.signal));
    }
}

static void open(struct guards *guards, int64_t healthy_batches)
{
    struct guard_options options = all_options();
    guards_init(guards, &options);
    feed_healthy(guards, 1, healthy_batches);
}

/* Learning changes every figure, slowly; nothing trips. */
static void no_false_alarm_in_healthy_runs(void **state)
{
    (void)state;
    struct guards guards;
    struct guard_options options = all_options();
    guards_init(&guards, &options);
    for (int64_t batch = 1; batch <= 10000; batch++) {
        struct guard_figures figures = healthy(batch);
        double done = (double)batch / 10000.0;
        figures.entropy *= exp(-3.0 * done);
        figures.reward += 0.4 * done;
        figures.kl *= 1.0 + 3.0 * done;
        struct guard_verdict verdict = feed(&guards, &figures);
        if (verdict.signal != SIGNAL_NONE)
            fail_msg("batch %lld: %s, %g against %g", (long long)batch,
                     guard_signal_name(verdict.signal), verdict.figure, verdict.limit);
    }
    assert_int_equal(guards_last_good(&guards), 9990);
}

static void skips_and_goes_back(enum guard_signal signal, const struct guard_figures *bad, int most,
                                enum guard_action in_the_end)
{
    struct guards guards;
    open(&guards, 42);
    for (int i = 1; i <= most; i++) {
        struct guard_figures figures = *bad;
        figures.batch = 42 + i;
        struct guard_verdict verdict = feed(&guards, &figures);
        assert_int_equal(verdict.signal, signal);
        assert_int_equal(verdict.action, i < most ? GUARD_SKIP : in_the_end);
        if (verdict.action == GUARD_GO_BACK)
            assert_int_equal(verdict.back_to, 30); /* 40 had two batches after it */
    }
    /* Far apart they are forgiven. */
    open(&guards, 42);
    for (int64_t batch = 43; batch < 400; batch++) {
        struct guard_figures figures = batch % 30 == 0 ? *bad : healthy(batch);
        figures.batch = batch;
        assert_true(feed(&guards, &figures).action <= GUARD_SKIP);
    }
}

static void bad_steps_are_skipped(void **state)
{
    (void)state;
    struct guard_figures bad = healthy(1);
    bad.loss = (double)NAN;
    skips_and_goes_back(SIGNAL_NON_FINITE, &bad, 3, GUARD_GO_BACK);
    bad = healthy(1);
    bad.gradient_norm = (double)INFINITY;
    skips_and_goes_back(SIGNAL_NON_FINITE, &bad, 3, GUARD_GO_BACK);
    bad.gradient_norm = 12.0;
    skips_and_goes_back(SIGNAL_GRADIENT_SPIKE, &bad, 5, GUARD_GO_BACK);
    bad = healthy(1);
    bad.unequal_tokens = 1;
    skips_and_goes_back(SIGNAL_MISMATCH, &bad, 3, GUARD_STOP);
}

/* Batches until a lasting fault is noticed; -1 when it never is. */
static int noticed_after(enum guard_signal signal, void (*spoil)(struct guard_figures *))
{
    struct guards guards;
    open(&guards, 72);
    for (int i = 1; i <= 20; i++) {
        struct guard_figures figures = healthy(72 + i);
        spoil(&figures);
        struct guard_verdict verdict = feed(&guards, &figures);
        if (verdict.signal == SIGNAL_NONE)
            continue;
        assert_int_equal(verdict.signal, signal);
        assert_int_equal(verdict.action, GUARD_GO_BACK);
        assert_true(verdict.back_to == 60 || verdict.back_to == 70); /* both from before */
        return i;
    }
    return -1;
}

static void entropy_gone(struct guard_figures *figures)
{
    figures->entropy *= 0.05;
}

static void reward_gone(struct guard_figures *figures)
{
    figures->reward = 0.02;
}

static void stale(struct guard_figures *figures)
{
    figures->behavior_kl *= 15.0;
}

static void far_away(struct guard_figures *figures)
{
    figures->kl = 0.6;
}

static void collapses_are_noticed_within_five_batches(void **state)
{
    (void)state;
    int after = noticed_after(SIGNAL_ENTROPY_COLLAPSE, entropy_gone);
    assert_true(after > 0 && after <= 5);
    after = noticed_after(SIGNAL_REWARD_COLLAPSE, reward_gone);
    assert_true(after > 0 && after <= 3);
    assert_int_equal(noticed_after(SIGNAL_KL_DRIFT, far_away), 3);
    after = noticed_after(SIGNAL_BEHAVIOR_DRIFT, stale);
    assert_true(after > 0 && after <= 3);
}

/* Small steps on few trajectories: the KL of the behavior policy is tiny and its tail is long. */
static void a_tiny_kl_is_no_drift(void **state)
{
    (void)state;
    struct guards guards;
    open(&guards, 72);
    for (int64_t batch = 73; batch <= 400; batch++) {
        struct guard_figures figures = healthy(batch);
        figures.behavior_kl *= 0.05; /* about 0.00015 */
        if (batch % 40 < 3)
            figures.behavior_kl = 0.006;
        struct guard_verdict verdict = feed(&guards, &figures);
        assert_int_equal(verdict.signal, SIGNAL_NONE);
    }
}

static void what_is_only_told(void **state)
{
    (void)state;
    struct guards guards;
    int told = 0;
    open(&guards, 72);
    for (int64_t batch = 73; batch < 93; batch++) {
        struct guard_figures figures = healthy(batch);
        figures.sample_size = 0.1;
        struct guard_verdict verdict = feed(&guards, &figures);
        told += verdict.action == GUARD_TELL && verdict.signal == SIGNAL_SAMPLE_SIZE;
        assert_true(verdict.action <= GUARD_TELL);
    }
    assert_int_equal(told, 1);
    for (int64_t batch = 93; batch < 113; batch++) {
        struct guard_figures figures = healthy(batch);
        figures.truncated_share = 0.9;
        struct guard_verdict verdict = feed(&guards, &figures);
        told += verdict.signal == SIGNAL_TRUNCATION;
        assert_true(verdict.action <= GUARD_TELL);
    }
    assert_int_equal(told, 2);
}

/* W2, W3: the versions between are left behind; the fourth time in 1,000 batches stops. */
static void going_back_and_giving_up(void **state)
{
    (void)state;
    struct guards guards;
    open(&guards, 34);
    int64_t batch = 35;
    for (int round = 0; round < 4; round++) {
        struct guard_verdict verdict = {0};
        int64_t good = guards_last_good(&guards);
        int64_t spoilt = batch + 2;
        for (; batch <= spoilt; batch++) {
            struct guard_figures figures = healthy(batch);
            far_away(&figures);
            verdict = feed(&guards, &figures);
        }
        if (round == 3) {
            assert_int_equal(verdict.action, GUARD_STOP);
            break;
        }
        assert_int_equal(verdict.action, GUARD_GO_BACK);
        assert_int_equal(verdict.back_to, good);
        assert_false(guards_left_behind(&guards, good));
        for (int64_t version = good + 1; version < spoilt; version++)
            assert_true(guards_left_behind(&guards, version));
        assert_false(guards_left_behind(&guards, spoilt)); /* it has the good weights */
        assert_int_equal(guards_last_good(&guards), spoilt);
        /* A batch of the versions left behind says nothing of the weights. */
        struct guard_figures figures = healthy(batch);
        struct guard_verdict left = {.action = GUARD_SKIP, .signal = SIGNAL_ROLLED_BACK};
        guards_observe(&guards, &figures, &left, &verdict);
        assert_int_equal(verdict.action, GUARD_SKIP);
        batch += 4;
    }
    /* Long after, they may be gone back from again. */
    open(&guards, 34);
    for (int round = 0; round < 6; round++)
        for (int64_t at = 0; at < 400; at++) {
            struct guard_figures figures = healthy(35 + round * 400 + at);
            if (at >= 300 && at < 303)
                far_away(&figures);
            assert_true(feed(&guards, &figures).action != GUARD_STOP);
        }
}

static void the_first_signal_stops_when_there_is_no_way_back(void **state)
{
    (void)state;
    struct guards guards;
    struct guard_options options = {.kl_limit = 0.5};
    guards_init(&guards, &options);
    for (int64_t batch = 1; batch <= 3; batch++) {
        struct guard_figures figures = healthy(batch);
        far_away(&figures);
        assert_int_equal(feed(&guards, &figures).action, batch < 3 ? GUARD_GO_ON : GUARD_STOP);
    }
}

/* A checkpoint's numbers are everything: a copy decides as the original does. */
static void memory_survives_as_numbers(void **state)
{
    (void)state;
    struct guards one, two;
    struct guard_options options = all_options();
    double numbers[GUARD_NUMBERS];
    open(&one, 65);
    memcpy(numbers, guards_numbers(&one), sizeof numbers);
    for (int32_t i = 0; i < GUARD_NUMBERS; i++)
        assert_true(isfinite(numbers[i]));
    guards_init(&two, &options);
    guards_restore(&two, numbers, GUARD_NUMBERS);
    for (int64_t batch = 66; batch < 400; batch++) {
        struct guard_figures figures = healthy(batch);
        if (batch / 20 % 4 == 0)
            entropy_gone(&figures);
        if (batch % 37 == 0)
            figures.gradient_norm = 100.0;
        struct guard_verdict a = feed(&one, &figures);
        struct guard_verdict b = feed(&two, &figures);
        assert_int_equal(a.action, b.action);
        assert_int_equal(a.signal, b.signal);
        assert_int_equal(a.back_to, b.back_to);
        assert_memory_equal(guards_numbers(&one), guards_numbers(&two), sizeof numbers);
    }
    guards_restore(&two, numbers, 3); /* of another version of hone: starts anew */
    guards_init(&one, &options);
    guards_init(&two, &options);
    assert_memory_equal(guards_numbers(&one), guards_numbers(&two), sizeof numbers);
}

static void one_line_says_it(void **state)
{
    (void)state;
    char text[GUARD_TEXT_MAX];
    struct guard_verdict verdict = {.action = GUARD_GO_BACK,
                                    .signal = SIGNAL_KL_DRIFT,
                                    .figure = 0.75,
                                    .limit = 0.5,
                                    .back_to = 20};
    guard_verdict_text(&verdict, 31, text, sizeof text);
    assert_string_equal(text, "batch 31: kl_drift: KL to the reference, 3 batches running is 0.75, "
                              "the limit is 0.5: back to version 20");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_false_alarm_in_healthy_runs),
        cmocka_unit_test(bad_steps_are_skipped),
        cmocka_unit_test(collapses_are_noticed_within_five_batches),
        cmocka_unit_test(a_tiny_kl_is_no_drift),
        cmocka_unit_test(what_is_only_told),
        cmocka_unit_test(going_back_and_giving_up),
        cmocka_unit_test(the_first_signal_stops_when_there_is_no_way_back),
        cmocka_unit_test(memory_survives_as_numbers),
        cmocka_unit_test(one_line_says_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Ratios, clips and corrections of the policy loss where the batch is stale: every form against
 * finite differences and values by hand. */
#include "tests/learner/policy_fixture.h"

/* Proximal logprobs between policy and behavior: a later pass over a stale batch. */
static void fill_stale(struct streams_fixture *f, float proximal[][STREAM_TOKENS], uint64_t seed)
{
    struct rng_key key = {.seed = seed, .purpose = RNG_DATA};
    fill_random(f, seed);
    for (int32_t s = 0; s < f->batch.count; s++) {
        f->data[s].proximal_logprob = proximal[s];
        for (int32_t i = 1; i < STREAM_TOKENS; i++)
            proximal[s][i] =
                f->logprob[s][i] + 0.9f * (rng_uniform(&key, 900 + (uint64_t)(s * 16 + i)) - 0.5f);
    }
}

static struct policy_loss make_stale_loss(int ratio, int clipping, int off_policy)
{
    struct policy_loss loss = make_loss();
    loss.options.ratio = (enum ratio_level)ratio;
    loss.options.surrogate.clipping = (enum clipping)clipping;
    loss.options.surrogate.ratio_max = 1.1f;
    loss.options.importance = (struct importance_options){.off_policy = (enum off_policy)off_policy,
                                                          .weight_min = 0.6f,
                                                          .weight_max = 1.7f,
                                                          .rejection_low = 0.6f,
                                                          .rejection_high = 1.6f};
    return loss;
}

/* Where the ratio itself carries the gradient: every level and correction against differences. A
 * sequence's ratio moves the loss of all of its tokens, which is what its token form adds up to. */
static void ratios_match_finite_differences(void **state)
{
    (void)state;
    static struct streams_fixture f;
    static float proximal[STREAM_SEQUENCES][STREAM_TOKENS];
    const float step = 0x1p-9f;
    for (int form = 0; form < 2 * 2 * 6; form++) {
        struct policy_loss loss =
            make_stale_loss(form % 2, form / 2 % 2 ? CLIP_NONE : CLIP_PPO, form / 4);
        int moved = 0;
        fill_stale(&f, proximal, 17);
        streams_run(&f, &loss);
        struct streams_fixture first = f;
        for (int32_t s = 0; s < f.batch.count; s++) {
            double sum = 0.0, measured_sum = 0.0;
            for (int32_t i = 1; i < f.sequences[s].count; i++) {
                float middle = f.logprob[s][i];
                f.logprob[s][i] = middle + step;
                double up = streams_run(&f, &loss);
                f.logprob[s][i] = middle - step;
                double down = streams_run(&f, &loss);
                f.logprob[s][i] = middle;
                double measured = (up - down) / (2.0 * (double)step);
                if (loss.options.ratio == RATIO_TOKEN)
                    assert_near((double)first.d_logprob[s][i], measured, 2e-5);
                sum += (double)first.d_logprob[s][i];
                measured_sum += measured;
                moved += measured != 0.0;
            }
            assert_near(sum, measured_sum, 1e-4);
        }
        assert_true(moved >= 3);
    }
}

/* cispo and aipo: moving all policies together leaves every ratio and weight as it is, and the loss
 * moves by the gradient that they are constants of. */
static void bounded_weights_are_constants(void **state)
{
    (void)state;
    static struct streams_fixture f;
    static float proximal[STREAM_SEQUENCES][STREAM_TOKENS];
    const float step = 0x1p-6f;
    for (int form = 0; form < 2 * 2 * 6; form++) {
        struct policy_loss loss =
            make_stale_loss(form % 2, form / 2 % 2 ? CLIP_AIPO : CLIP_CISPO, form / 4);
        fill_stale(&f, proximal, 19);
        streams_run(&f, &loss);
        struct streams_fixture first = f;
        int moved = 0;
        for (int32_t s = 0; s < f.batch.count; s++)
            for (int32_t i = 1; i < f.sequences[s].count; i++) {
                float *const streams[] = {&f.logprob[s][i], &f.behavior[s][i], &proximal[s][i]};
                double total[2];
                for (int side = 0; side < 2; side++) {
                    for (int stream = 0; stream < 3; stream++)
                        *streams[stream] += side ? -2.0f * step : step;
                    total[side] = streams_run(&f, &loss);
                }
                for (int stream = 0; stream < 3; stream++)
                    *streams[stream] += step;
                double measured = (total[0] - total[1]) / (2.0 * (double)step);
                assert_near((double)first.d_logprob[s][i], measured, 2e-5);
                moved += measured != 0.0;
            }
        assert_true(moved >= 4);
    }
}

/* Two tokens with ratios 0.25 and 4 of a good answer, the same of a bad one. */
static void surrogates_by_hand(void **state)
{
    (void)state;
    static const struct {
        enum clipping clipping;
        double loss[4], slope[4]; /* of (good, bad) x (0.25, 4) */
        int64_t low, high;
    } cases[] = {
        /* -min(r A, clip(r) A) */
        {CLIP_PPO, {-0.25, -1.28, 0.8, 4.0}, {-0.25, 0.0, 0.0, 4.0}, 1, 1},
        {CLIP_NONE, {-0.25, -4.0, 0.25, 4.0}, {-0.25, -4.0, 0.25, 4.0}, 0, 0},
        /* weights 0.8 and 1.28; logprob is -1 */
        {CLIP_CISPO, {0.8, 1.28, -0.8, -1.28}, {-0.8, -1.28, 0.8, 1.28}, 2, 2},
        /* weights 0.25 and 2 */
        {CLIP_AIPO, {0.25, 2.0, -0.25, -2.0}, {-0.25, -2.0, 0.25, 2.0}, 0, 2},
    };
    static const int32_t lengths[] = {2, 2};
    static struct streams_fixture f;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct policy_loss loss = make_loss();
        double sum = 0.0;
        loss.options.surrogate.clipping = cases[c].clipping;
        loss.options.surrogate.ratio_max = 2.0f;
        streams_open(&f, 2, lengths);
        for (int k = 0; k < 4; k++) {
            f.logprob[k / 2][1 + k % 2] = -1.0f;
            f.behavior[k / 2][1 + k % 2] = -1.0f - (float)log(k % 2 ? 4.0 : 0.25);
            f.data[k / 2].advantage = k / 2 ? -1.0f : 1.0f;
            sum += cases[c].loss[k];
        }
        assert_near(streams_run(&f, &loss), sum / 4.0, 1e-6);
        for (int k = 0; k < 4; k++)
            assert_near((double)f.d_logprob[k / 2][1 + k % 2], cases[c].slope[k] / 4.0, 1e-6);
        assert_int_equal(loss.stats.clipped_low, cases[c].low);
        assert_int_equal(loss.stats.clipped_high, cases[c].high);
    }
}

/* Weights of tokens whose policy before the batch is 2, 0.5 and 1.5 times the behavior policy. */
static void corrections_by_hand(void **state)
{
    (void)state;
    static const struct {
        enum off_policy off_policy;
        double weights[3];
        int64_t rejected;
    } cases[] = {
        {OFF_POLICY_NONE, {1.0, 1.0, 1.0}, 0},
        {OFF_POLICY_DECOUPLED, {1.8, 0.6, 1.5}, 0},
        {OFF_POLICY_TRUNCATED_SEQUENCE, {1.5, 1.5, 1.5}, 0},
        {OFF_POLICY_ICEPOP, {0.0, 0.0, 1.5}, 2},
        {OFF_POLICY_SEQUENCE_REJECTION, {1.8, 0.6, 1.5}, 0}, /* geometric mean 1.1447 */
    };
    static const double ratios[] = {2.0, 0.5, 1.5};
    static const int32_t lengths[] = {3};
    static struct streams_fixture f;
    for (size_t c = 0; c <= sizeof cases / sizeof cases[0]; c++) {
        bool outside =
            c == sizeof cases / sizeof cases[0]; /* the last again, with a closer bound */
        size_t at = outside ? c - 1 : c;
        struct policy_loss loss = make_loss();
        loss.first_pass = true;
        loss.options.importance =
            (struct importance_options){.off_policy = cases[at].off_policy,
                                        .weight_min = 0.6f,
                                        .weight_max = 1.8f,
                                        .rejection_low = 0.9f,
                                        .rejection_high = outside ? 1.14f : 1.15f};
        streams_open(&f, 1, lengths);
        f.data[0].advantage = 1.0f;
        double sum = 0.0;
        for (int i = 0; i < 3; i++) {
            f.logprob[0][i + 1] = -1.0f;
            f.behavior[0][i + 1] = -1.0f - (float)log(ratios[i]);
            sum += outside ? 0.0 : cases[at].weights[i];
        }
        assert_near(streams_run(&f, &loss), -sum / 3.0, 1e-6);
        assert_near(loss.stats.weight_sum, sum, 1e-6);
        assert_int_equal(loss.stats.rejected, outside ? 3 : cases[at].rejected);
        for (int i = 0; i < 3; i++)
            assert_near((double)f.d_logprob[0][i + 1], outside ? 0.0 : -cases[at].weights[i] / 3.0,
                        1e-6);
    }
}

/* exp of the mean difference, one for the trajectory, clipped as one. */
static void sequence_ratio_by_hand(void **state)
{
    (void)state;
    static const int32_t lengths[] = {2, 2};
    static struct streams_fixture f;
    struct policy_loss loss = make_loss();
    loss.options.ratio = RATIO_SEQUENCE;
    loss.options.aggregation = AGGREGATE_SEQUENCE_MEAN;
    streams_open(&f, 2, lengths);
    f.data[0].advantage = 2.0f;
    f.data[1].advantage = 2.0f;
    f.logprob[0][1] = -1.0f;
    f.behavior[0][1] = -1.3f; /* +0.3, -0.1: mean 0.1 */
    f.logprob[0][2] = -2.0f;
    f.behavior[0][2] = -1.9f;
    f.logprob[1][1] = f.logprob[1][2] = -1.0f;
    f.behavior[1][1] = f.behavior[1][2] = -1.5f; /* mean 0.5: clipped at 1.28 */
    assert_near(streams_run(&f, &loss), (-2.0 * exp(0.1) - 2.0 * 1.28) / 2.0, 1e-6);
    for (int i = 1; i <= 2; i++) {
        assert_near((double)f.d_logprob[0][i], -2.0 * exp(0.1) / 4.0, 1e-6);
        assert_true(f.d_logprob[1][i] == 0.0f);
    }
    assert_int_equal(loss.stats.clipped_high, 2);
}

/* What was cut away before sampling belongs to the behavior policy when it is told. */
static void truncated_behavior_by_hand(void **state)
{
    (void)state;
    static const int32_t lengths[] = {1};
    static const float log_mass[] = {0.0f, -0.5f};
    static struct streams_fixture f;
    struct policy_loss loss = make_loss();
    loss.options.surrogate.clipping = CLIP_NONE;
    streams_open(&f, 1, lengths);
    f.data[0].advantage = 1.0f;
    f.logprob[0][1] = f.behavior[0][1] = -1.0f;
    assert_near(streams_run(&f, &loss), -1.0, 1e-7);
    f.data[0].log_mass = log_mass;
    loss.current_version = 0;
    assert_near(streams_run(&f, &loss), -exp(-0.5), 1e-7);
    assert_int_equal(loss.stats.unequal_tokens, 0); /* G6 is of the model's own logprobs */
    assert_int_equal(loss.stats.current_version_tokens, 1);
}

/* The first pass makes the proximal policy: its ratio is 1, the weight its truncated ratio to the
 * behavior policy. A later pass is clipped around it. */
static void off_policy_correction_by_hand(void **state)
{
    (void)state;
    static const int32_t lengths[] = {1, 1, 1, 1};
    static const double before[] = {1.5, 0.5, 3.0, 1.0}; /* proximal / behavior */
    static const double after[] = {1.1, 1.5, 0.5, 0.5};  /* policy / proximal */
    static const float advantages[] = {2.0f, 2.0f, -2.0f, -2.0f};
    static const double weights[] = {1.5, 0.5, 2.0, 1.0};    /* truncated at 2 */
    static const double clipped[] = {-2.2, -2.56, 1.6, 1.6}; /* min(u A, clip(u) A) */
    static const double slopes[] = {-2.2, 0.0, 0.0, 0.0};
    static struct streams_fixture f;
    static float proximal[4][STREAM_TOKENS];

    for (int decoupled = 0; decoupled < 2; decoupled++) {
        struct policy_loss loss = make_loss();
        loss.options.importance.off_policy = decoupled ? OFF_POLICY_DECOUPLED : OFF_POLICY_NONE;
        loss.options.importance.weight_max = 2.0f;
        loss.first_pass = true;
        streams_open(&f, 4, lengths);
        double first = 0.0, second = 0.0;
        for (int s = 0; s < 4; s++) {
            double weight = decoupled ? weights[s] : 1.0;
            f.data[s].advantage = advantages[s];
            f.data[s].proximal_logprob = proximal[s];
            f.behavior[s][1] = -2.0f;
            f.logprob[s][1] = (float)log(before[s]) - 2.0f;
            first -= weight * (double)advantages[s];
            second += weight * clipped[s];
        }
        assert_near(streams_run(&f, &loss), first / 4.0, 1e-6);
        assert_near(loss.stats.ratio_max, 3.0, 1e-6); /* to the behavior policy, always */
        for (int s = 0; s < 4; s++) {
            double weight = decoupled ? weights[s] : 1.0;
            assert_near((double)f.d_logprob[s][1], -weight * (double)advantages[s] / 4.0, 1e-6);
            assert_true(proximal[s][1] == f.logprob[s][1]);
            f.logprob[s][1] += (float)log(after[s]);
        }
        loss.first_pass = false;
        assert_near(streams_run(&f, &loss), second / 4.0, 1e-6);
        assert_int_equal(loss.stats.clipped_high, 1);
        assert_int_equal(loss.stats.clipped_low, 2);
        for (int s = 0; s < 4; s++) {
            double weight = decoupled ? weights[s] : 1.0;
            assert_near((double)f.d_logprob[s][1], weight * slopes[s] / 4.0, 1e-6);
        }
    }
}

/* Where nothing is stale, every correction is the same gradient, bit for bit. */
static void corrections_agree_on_policy(void **state)
{
    (void)state;
    static struct streams_fixture f;
    static float d_logprob[STREAM_SEQUENCES][STREAM_TOKENS];
    double totals[OFF_POLICY_NONE + 1];
    for (int kind = OFF_POLICY_BEHAVIOR_RATIO; kind <= OFF_POLICY_NONE; kind++) {
        struct policy_loss loss = make_loss();
        loss.options.importance.rejection_low = loss.options.importance.rejection_high = 1.0f;
        loss.options.importance.off_policy = (enum off_policy)kind;
        loss.options.importance.weight_max = 2.0f;
        loss.first_pass = true;
        fill_random(&f, 12);
        memcpy(f.behavior, f.logprob, sizeof f.behavior);
        totals[kind] = streams_run(&f, &loss);
        if (kind == 0)
            memcpy(d_logprob, f.d_logprob, sizeof d_logprob);
        assert_true(totals[kind] == totals[0] && totals[kind] != 0.0);
        assert_memory_equal(d_logprob, f.d_logprob, sizeof d_logprob);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ratios_match_finite_differences),
        cmocka_unit_test(bounded_weights_are_constants),
        cmocka_unit_test(surrogates_by_hand),
        cmocka_unit_test(corrections_by_hand),
        cmocka_unit_test(sequence_ratio_by_hand),
        cmocka_unit_test(truncated_behavior_by_hand),
        cmocka_unit_test(off_policy_correction_by_hand),
        cmocka_unit_test(corrections_agree_on_policy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "tests/infra/train/train_fixture.h"

#include "dpo/preference_loss.h"

static void assert_near(double actual, double expected, double tolerance)
{
    if (!(fabs(actual - expected) <= tolerance))
        fail_msg("%.12g is not %.12g", actual, expected);
}

static double log_sigmoid(double x)
{
    return -log(1.0 + exp(-x));
}

/* Answers of 4 and 2 tokens; the slope is that of h. */
static double pair_loss(const struct preference_options *options, double chosen, double rejected,
                        double reference_chosen, double reference_rejected, double *slope)
{
    const struct preference_terms terms = {.chosen = chosen,
                                           .rejected = rejected,
                                           .reference_chosen = reference_chosen,
                                           .reference_rejected = reference_rejected,
                                           .chosen_tokens = 4,
                                           .rejected_tokens = 2,
                                           .kl = 0.7};
    struct preference_result result;
    preference_pair_loss(options, &terms, &result);
    *slope = result.d_chosen / (double)options->beta;
    return result.loss;
}

static void pair_by_hand(void **state)
{
    (void)state;
    struct preference_options options = {.beta = 0.5f};
    double slope;
    /* h = 0.5 ((-2 + 3) - (-4 + 1)) = 2 */
    assert_near(pair_loss(&options, -2, -4, -3, -1, &slope), -log_sigmoid(2.0), 1e-12);
    assert_near(slope, 1.0 / (1.0 + exp(-2.0)) - 1.0, 1e-12);
    /* The reference itself: ln 2, slope -1/2. */
    assert_near(pair_loss(&options, -7, -9, -7, -9, &slope), log(2.0), 1e-15);
    assert_near(slope, -0.5, 1e-15);
    options.label_smoothing = 0.1f;
    double eps = (double)options.label_smoothing;
    assert_near(pair_loss(&options, -2, -4, -3, -1, &slope),
                -(1.0 - eps) * log_sigmoid(2.0) - eps * log_sigmoid(-2.0), 1e-12);
    /* Smoothed, the loss is least where sigmoid(h) = 1 - eps. */
    double best = log((1.0 - eps) / eps) / 0.5;
    pair_loss(&options, best, 0, 0, 0, &slope);
    assert_near(slope, 0.0, 1e-12);
}

/* x of the chosen answer 1, of the rejected one -3; beta 0.5, so h is 2. */
static void other_losses_by_hand(void **state)
{
    (void)state;
    struct preference_options options = {.beta = 0.5f, .kind = PREFERENCE_HINGE};
    double slope;
    assert_near(pair_loss(&options, -2, -4, -3, -1, &slope), 0.0, 0.0);
    assert_near(slope, 0.0, 0.0);
    assert_near(pair_loss(&options, -4, -1, -3, -1, &slope), 1.5, 1e-12); /* h -0.5 */
    assert_near(slope, -1.0, 1e-12);
    options.kind = PREFERENCE_ROBUST;
    options.label_smoothing = 0.25f;
    assert_near(pair_loss(&options, -2, -4, -3, -1, &slope),
                (-0.75 * log_sigmoid(2.0) + 0.25 * log_sigmoid(-2.0)) / 0.5, 1e-12);
    options.kind = PREFERENCE_IPO; /* 1/4 + 3/2 - 1 */
    assert_near(pair_loss(&options, -2, -4, -3, -1, &slope), 0.75 * 0.75, 1e-12);
    options.summed = true; /* 4 - 1 */
    assert_near(pair_loss(&options, -2, -4, -3, -1, &slope), 9.0, 1e-12);
    options.kind = PREFERENCE_SIMPO; /* 0.5 (-0.5 + 2) - 0.25 */
    options.margin = 0.25f;
    assert_near(pair_loss(&options, -2, -4, -30, 10, &slope), -log_sigmoid(0.5), 1e-12);
    options.kind = PREFERENCE_KTO;
    options.desirable = 3.0f;
    options.undesirable = 5.0f;
    double good = 1.0 / (1.0 + exp(-0.5 * 0.3)), bad = 1.0 / (1.0 + exp(-0.5 * 3.7));
    assert_near(pair_loss(&options, -2, -4, -3, -1, &slope), 1.5 * (1.0 - good) + 2.5 * (1.0 - bad),
                1e-12);
    const double policy[] = {-1.0, -3.0}, reference[] = {-2.0, -2.5};
    assert_near(preference_kl(2, policy, reference), 0.25, 1e-15);
    assert_near(preference_kl(2, reference, policy), 0.0, 0.0); /* never negative */
    assert_false(preference_needs_reference(PREFERENCE_SIMPO));
}

/* Both derivatives of every loss. */
static void every_slope_matches_finite_differences(void **state)
{
    (void)state;
    for (int i = 0; i < 12 * 8; i++) {
        struct preference_options options = {.kind = (enum preference_kind)(i % 6),
                                             .beta = 0.3f,
                                             .label_smoothing = 0.2f,
                                             .summed = i / 6 % 2 != 0,
                                             .margin = 0.4f,
                                             .desirable = 1.5f,
                                             .undesirable = 0.5f};
        struct preference_terms terms = {.chosen = -10.0 + 0.37 * i,
                                         .rejected = -6.0 - 0.11 * i,
                                         .reference_chosen = -8.0,
                                         .reference_rejected = -7.0,
                                         .chosen_tokens = 5,
                                         .rejected_tokens = 3,
                                         .kl = 0.6};
        struct preference_result at, up, down;
        const double step = 1e-5;
        preference_pair_loss(&options, &terms, &at);
        for (int side = 0; side < 2; side++) {
            double *moved = side ? &terms.rejected : &terms.chosen, middle = *moved;
            *moved = middle + step;
            preference_pair_loss(&options, &terms, &up);
            *moved = middle - step;
            preference_pair_loss(&options, &terms, &down);
            *moved = middle;
            assert_near(side ? at.d_rejected : at.d_chosen, (up.loss - down.loss) / (2.0 * step),
                        1e-6);
        }
    }
}

static void extreme_margins_stay_finite(void **state)
{
    (void)state;
    struct preference_options options = {.beta = 1.0f};
    double slope;
    assert_near(pair_loss(&options, -1e4, 0, 0, 0, &slope), 1e4, 1e-6);
    assert_near(slope, -1.0, 1e-12);
    assert_near(pair_loss(&options, 0, -1e4, 0, 0, &slope), 0.0, 1e-12);
    assert_near(slope, 0.0, 1e-12);
}

static void slope_matches_finite_differences(void **state)
{
    (void)state;
    for (int i = 0; i < 30; i++) {
        struct preference_options options = {.beta = 0.3f, .label_smoothing = i % 3 ? 0.0f : 0.2f};
        double beta = (double)options.beta, step = 1e-5, slope, unused;
        double chosen = -10.0 + i, rejected = -6.0;
        pair_loss(&options, chosen, rejected, -8, -7, &slope);
        double up = pair_loss(&options, chosen + step, rejected, -8, -7, &unused);
        double down = pair_loss(&options, chosen - step, rejected, -8, -7, &unused);
        assert_near(slope * beta, (up - down) / (2.0 * step), 1e-8);
    }
}

/* ---- on streams: 2 pairs ---- */

struct streams {
    struct train_batch batch;
    struct train_sequence sequences[4];
    struct preference_sequence data[4];
    int32_t tokens[5];
    uint8_t mask[5];
    float logprob[4][5], d_logprob[4][5];
};

static void streams_open(struct streams *f)
{
    static const int32_t counts[] = {5, 3, 4, 5};
    memset(f, 0, sizeof *f);
    f->mask[0] = f->mask[2] = f->mask[3] = f->mask[4] = 1; /* entry 0 never counts */
    for (int s = 0; s < 4; s++) {
        f->data[s] =
            (struct preference_sequence){.reference_logprob = -3.0 + s, .chosen = s % 2 == 0};
        f->sequences[s] = (struct train_sequence){.tokens = f->tokens,
                                                  .count = counts[s],
                                                  .loss_mask = f->mask,
                                                  .unit = s / 2,
                                                  .user = &f->data[s]};
        for (int i = 0; i < 5; i++)
            f->logprob[s][i] = -0.3f * (float)(s + i) - 0.1f;
    }
    f->batch = (struct train_batch){.sequences = f->sequences, .count = 4, .temperature = 1.0f};
}

static int run_part(struct streams *f, struct preference_loss *loss, int32_t first, int32_t count,
                    double *total)
{
    const float *logprob[4];
    float *d_logprob[4];
    for (int32_t s = 0; s < count; s++) {
        logprob[s] = f->logprob[first + s];
        d_logprob[s] = f->d_logprob[first + s];
    }
    struct loss_streams streams = {
        .first = first, .count = count, .logprob = logprob, .d_logprob = d_logprob};
    return preference_loss_function(loss, &f->batch, &streams, total);
}

static double run(struct streams *f, struct preference_loss *loss)
{
    double total = 0.0;
    preference_loss_begin(loss, &f->batch);
    assert_ok(run_part(f, loss, 0, 4, &total));
    return total;
}

static void stream_derivatives_match_finite_differences(void **state)
{
    (void)state;
    struct streams f;
    const float step = 0x1p-8f;
    int moved = 0;

    for (int variant = 0; variant < 4; variant++) {
        struct preference_loss loss = {.options = {.beta = 0.4f,
                                                   .label_smoothing = variant & 1 ? 0.1f : 0.0f,
                                                   .nll_coef = variant & 2 ? 0.7f : 0.0f}};
        streams_open(&f);
        for (int s = 0; s < 4; s++)
            for (int i = 0; i < f.sequences[s].count; i++) {
                float middle = f.logprob[s][i];
                f.logprob[s][i] = middle + step;
                double up = run(&f, &loss);
                f.logprob[s][i] = middle - step;
                double down = run(&f, &loss);
                f.logprob[s][i] = middle;
                run(&f, &loss);
                double measured = (up - down) / (2.0 * (double)step);
                assert_near((double)f.d_logprob[s][i], measured, 1e-5);
                moved += measured != 0.0;
            }
    }
    assert_int_equal(moved, 4 * (3 + 1 + 2 + 3));
}

static void statistics_by_hand(void **state)
{
    (void)state;
    struct streams f;
    struct preference_loss loss = {.options = {.beta = 0.5f}};

    streams_open(&f);
    memset(f.logprob, 0, sizeof f.logprob);
    f.logprob[0][2] = -1.0f; /* chosen: -1 against -3, rejected: 0 against -2: margin 0 */
    f.logprob[2][2] = -2.0f; /* chosen: -2 against -1, rejected: -4 against 0: margin 3 */
    f.logprob[3][4] = -4.0f;
    double total = run(&f, &loss);
    assert_int_equal(loss.total_pairs, 2);
    assert_int_equal(loss.stats.pairs, 2);
    assert_int_equal(loss.stats.correct, 1);
    assert_near(loss.stats.chosen_reward, 0.5 * (2.0 - 1.0), 1e-12);
    assert_near(loss.stats.rejected_reward, 0.5 * (2.0 - 4.0), 1e-12);
    assert_near(loss.stats.margin, 0.5 * 3.0, 1e-12);
    assert_near(total, (log(2.0) - log_sigmoid(1.5)) / 2.0, 1e-12);
    /* One pair a micro-batch: the same sum (T2). */
    double parts = 0.0;
    preference_loss_begin(&loss, &f.batch);
    assert_ok(run_part(&f, &loss, 0, 2, &parts));
    assert_ok(run_part(&f, &loss, 2, 2, &parts));
    assert_near(parts, total, 1e-12);
}

static void half_pairs_are_refused(void **state)
{
    (void)state;
    struct streams f;
    struct preference_loss loss = {.options = {.beta = 0.5f}};
    double total = 0.0;

    streams_open(&f);
    preference_loss_begin(&loss, &f.batch);
    assert_int_equal(run_part(&f, &loss, 0, 3, &total), HONE_EINVAL);
    assert_int_equal(run_part(&f, &loss, 1, 2, &total), HONE_EINVAL);
    f.sequences[1].unit = 9;
    assert_int_equal(run_part(&f, &loss, 0, 2, &total), HONE_EINVAL);
}

/* ---- through a model ---- */

static void begin(void *context, const struct train_batch *batch)
{
    preference_loss_begin(context, batch);
}

static void gradient_through_a_model(void **state)
{
    (void)state;
    static struct fixture_batch data;
    static struct preference_sequence answers[6];
    struct model_config config = fixture_config();
    float *master = fixture_master(&config, 5);
    struct preference_loss preference = {
        .options = {.beta = 0.05f, .label_smoothing = 0.1f, .nll_coef = 0.2f}};
    struct compute compute;

    assert_ok(compute_open(&compute, 1));
    fixture_batch_fill(&data, 6, 33);
    for (int32_t s = 0; s < 6; s++) {
        answers[s] =
            (struct preference_sequence){.reference_logprob = -5.0 * s, .chosen = s % 2 == 0};
        data.sequences[s].unit = s / 2;
        data.sequences[s].user = &answers[s];
    }
    struct fixture_loss loss = {
        .function = preference_loss_function, .context = &preference, .reset = begin};
    fixture_check_gradient(&config, &compute, master, &data.batch, &loss, 3, 1e-3, 1e-3);
    assert_int_equal(preference.stats.pairs, 3);
    compute_close(&compute);
    memory_free(master);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pair_by_hand),
        cmocka_unit_test(other_losses_by_hand),
        cmocka_unit_test(every_slope_matches_finite_differences),
        cmocka_unit_test(extreme_margins_stay_finite),
        cmocka_unit_test(slope_matches_finite_differences),
        cmocka_unit_test(stream_derivatives_match_finite_differences),
        cmocka_unit_test(statistics_by_hand),
        cmocka_unit_test(half_pairs_are_refused),
        cmocka_unit_test(gradient_through_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

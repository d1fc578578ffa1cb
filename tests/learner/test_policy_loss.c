#include "tests/learner/policy_fixture.h"

#include "learner/advantage.h"

/* d_logprob against central differences of the loss, for every option. */
static void check_derivatives(struct policy_loss *loss)
{
    static struct streams_fixture f;
    static float d_logprob[STREAM_SEQUENCES][STREAM_TOKENS];
    const float step = 0x1p-9f;
    int moved = 0;

    fill_random(&f, 11);
    f.batch.need_entropy = true;
    streams_run(&f, loss);
    memcpy(d_logprob, f.d_logprob, sizeof d_logprob);
    for (int32_t s = 0; s < f.batch.count; s++)
        for (int32_t i = 1; i < f.sequences[s].count; i++) {
            float middle = f.logprob[s][i];
            f.logprob[s][i] = middle + step;
            double up = streams_run(&f, loss);
            f.logprob[s][i] = middle - step;
            double down = streams_run(&f, loss);
            f.logprob[s][i] = middle;
            double measured = (up - down) / (2.0 * (double)step);
            assert_near((double)d_logprob[s][i], measured, 2e-5);
            moved += measured != 0.0;

            float entropy = f.entropy[s][i];
            f.entropy[s][i] = entropy + step;
            up = streams_run(&f, loss);
            f.entropy[s][i] = entropy - step;
            down = streams_run(&f, loss);
            f.entropy[s][i] = entropy;
            measured = (up - down) / (2.0 * (double)step);
            assert_near((double)f.d_entropy[s][i], measured, 2e-5);
        }
    assert_true(moved >= 5);
}

/* old 1, target 3, clip 0.5: 1.2 is inside (0.5 x 1.8^2), 2 counts as 1.5 where that is worse, and
 * 0 as 0.5 is no excuse for the larger error of 0. */
static void critic_by_hand(void **state)
{
    (void)state;
    static const int32_t lengths[] = {3};
    static const float old[] = {0, 1, 1, 1}, target[] = {0, 3, 3, 3};
    static const double expected[] = {0.5 * 1.8 * 1.8, 0.5 * 1.5 * 1.5, 0.5 * 3.0 * 3.0};
    static const double slopes[] = {-1.8, 0.0, -3.0};
    static struct streams_fixture f;
    struct policy_loss loss = make_loss();
    loss.options.value_coef = 0.25f;
    loss.options.value_clip = 0.5f;
    streams_open(&f, 1, lengths);
    f.batch.need_value = true;
    f.data[0].old_value = old;
    f.data[0].value_target = target;
    f.value[0][1] = 1.2f;
    f.value[0][2] = 2.0f;
    f.value[0][3] = 0.0f;
    double sum = expected[0] + expected[1] + expected[2];
    assert_near(streams_run(&f, &loss), 0.25 * sum / 3.0, 1e-6);
    assert_near(loss.stats.value_loss, sum, 1e-6);
    for (int i = 0; i < 3; i++)
        assert_near((double)f.d_value[0][i + 1], 0.25 * slopes[i] / 3.0, 1e-6);
    loss.options.value_clip = 0.0f;
    streams_run(&f, &loss);
    assert_near((double)f.d_value[0][2], -0.25 / 3.0, 1e-6);
}

static void advantages_of_tokens(void **state)
{
    (void)state;
    static const int32_t lengths[] = {2};
    static const float advantages[] = {0.0f, 1.0f, -3.0f};
    static struct streams_fixture f;
    struct policy_loss loss = make_loss();
    streams_open(&f, 1, lengths);
    f.data[0].advantage = 7.0f;
    f.data[0].token_advantage = advantages;
    assert_near(streams_run(&f, &loss), 1.0, 1e-7);
    assert_near((double)f.d_logprob[0][1], -0.5, 1e-7);
    assert_near((double)f.d_logprob[0][2], 1.5, 1e-7);
}

static void derivatives_match_finite_differences(void **state)
{
    (void)state;
    for (int aggregation = AGGREGATE_TOKEN_MEAN; aggregation <= AGGREGATE_CONSTANT; aggregation++)
        for (int estimator = KL_K1; estimator <= KL_K3; estimator++)
            for (int dual = 0; dual < 2; dual++) {
                struct policy_loss loss = make_loss();
                loss.options.aggregation = (enum loss_aggregation)aggregation;
                loss.options.kl_estimator = (enum kl_estimator)estimator;
                loss.options.kl_coef = 0.3f;
                loss.options.entropy_coef = 0.05f;
                loss.options.surrogate.dual_clip = dual ? 1.3f : 0.0f;
                check_derivatives(&loss);
            }
}

/* One token each, ratio r = exp(logprob - behavior). */
static void clipping_by_hand(void **state)
{
    (void)state;
    static const int32_t lengths[] = {1, 1, 1, 1};
    static const double ratios[] = {1.5, 0.5, 1.5, 0.5};
    static const float advantages[] = {2.0f, 2.0f, -2.0f, -2.0f};
    /* min(r A, clip(r, 0.8, 1.28) A): 2.56, 1.0, -3.0, -1.6 */
    static const double expected[] = {-2.56, -1.0, 3.0, 1.6};
    static const double slope[] = {0.0, -1.0, 3.0, 0.0};
    static struct streams_fixture f;
    struct policy_loss loss = make_loss();

    streams_open(&f, 4, lengths);
    double sum = 0.0;
    for (int s = 0; s < 4; s++) {
        f.data[s].advantage = advantages[s];
        f.logprob[s][1] = (float)log(ratios[s]) - 1.0f;
        f.behavior[s][1] = -1.0f;
        sum += expected[s];
    }
    assert_near(streams_run(&f, &loss), sum / 4.0, 1e-6);
    assert_near(loss.stats.policy_loss, sum, 1e-6);
    for (int s = 0; s < 4; s++)
        assert_near((double)f.d_logprob[s][1], slope[s] / 4.0, 1e-6);
    assert_int_equal(loss.stats.clipped_high, 1);
    assert_int_equal(loss.stats.clipped_low, 1);
    assert_int_equal(loss.stats.dual_clipped, 0);
    assert_near(loss.stats.ratio_max, 1.5, 1e-6);
    assert_near(loss.stats.ratio_sum, 4.0, 1e-6);
    assert_near(loss.stats.ratio_squared_sum, 5.0, 1e-5);

    loss.options.surrogate.dual_clip = 1.25f; /* caps 3.0 at 2.5; a negative advantage alone */
    assert_near(streams_run(&f, &loss), (sum - 0.5) / 4.0, 1e-6);
    assert_int_equal(loss.stats.dual_clipped, 1);
    assert_true(f.d_logprob[2][1] == 0.0f);
}

static void aggregation_by_hand(void **state)
{
    (void)state;
    static const int32_t lengths[] = {4, 2, 0};
    static struct streams_fixture f;
    struct policy_loss loss = make_loss();

    streams_open(&f, 3, lengths);
    f.data[0].advantage = -1.0f; /* on policy: L_t = 1 for each of 4 tokens */
    f.data[1].advantage = -3.0f; /* L_t = 3 for each of 2 tokens */
    loss.options.aggregation = AGGREGATE_TOKEN_MEAN;
    assert_near(streams_run(&f, &loss), 10.0 / 6.0, 1e-12);
    assert_int_equal(loss.total_tokens, 6);
    assert_int_equal(loss.total_sequences, 2); /* one without a trained token is none */
    loss.options.aggregation = AGGREGATE_SEQUENCE_MEAN;
    assert_near(streams_run(&f, &loss), (1.0 + 3.0) / 2.0, 1e-12);
    loss.options.aggregation = AGGREGATE_CONSTANT;
    assert_near(streams_run(&f, &loss), (4.0 + 6.0) / (2.0 * 10.0), 1e-12);
}

static void kl_by_hand(void **state)
{
    (void)state;
    float value, slope;
    kl_estimate(KL_K1, -1.0f, -1.5f, &value, &slope);
    assert_near((double)value, 0.5, 0.0);
    assert_near((double)slope, 1.0, 0.0);
    kl_estimate(KL_K2, -1.0f, -1.5f, &value, &slope);
    assert_near((double)value, 0.125, 0.0);
    assert_near((double)slope, 0.5, 0.0);
    kl_estimate(KL_K3, -1.0f, -1.5f, &value, &slope);
    assert_near((double)value, exp(-0.5) - 0.5, 1e-7);
    assert_near((double)slope, 1.0 - exp(-0.5), 1e-7);
    kl_estimate(KL_K3, -1.0f, -1.0f, &value, &slope);
    assert_true(value == 0.0f && slope == 0.0f);
    /* Past either bound: flat. */
    kl_estimate(KL_K3, -9.0f, -1.0f, &value, &slope);
    assert_true(value == 10.0f && slope == 0.0f);
    kl_estimate(KL_K3, -1.0f, -99.0f, &value, &slope);
    assert_true(value == 10.0f && slope == 0.0f);
    kl_estimate(KL_K3, NAN, -1.0f, &value, &slope);
    assert_true(isnan(value) && isnan(slope));
    /* The value of k3, the gradient of k2, also where k3 is flat. */
    kl_estimate(KL_K3_STRAIGHT_THROUGH, -1.0f, -1.5f, &value, &slope);
    assert_near((double)value, exp(-0.5) - 0.5, 1e-7);
    assert_true(slope == 0.5f);
    kl_estimate(KL_K3_STRAIGHT_THROUGH, -9.0f, -1.0f, &value, &slope);
    assert_true(value == 10.0f && slope == -8.0f);
}

static void coefficient_follows_its_target(void **state)
{
    (void)state;
    assert_near(kl_next_coef(0.1, 0.02, 0.02, 100, 1000.0), 0.1, 1e-15);
    assert_near(kl_next_coef(0.1, 0.022, 0.02, 100, 1000.0), 0.1 * 1.01, 1e-15);
    assert_near(kl_next_coef(0.1, 9.0, 0.02, 100, 1000.0), 0.1 * 1.02, 1e-15); /* a fifth at most */
    assert_near(kl_next_coef(0.1, 0.0, 0.02, 100, 1000.0), 0.1 * 0.98, 1e-15);
    assert_near(kl_next_coef(0.1, (double)NAN, 0.02, 100, 1000.0), 0.1, 0.0);
}

static void statistics_by_hand(void **state)
{
    (void)state;
    static const int32_t lengths[] = {2};
    static struct streams_fixture f;
    struct policy_loss loss = make_loss();

    streams_open(&f, 1, lengths);
    f.logprob[0][1] = -1.0f;
    f.behavior[0][1] = -1.0f;
    f.reference[0][1] = -1.5f;
    f.logprob[0][2] = -2.0f;
    f.behavior[0][2] = -2.5f;
    f.reference[0][2] = -2.0f;
    streams_run(&f, &loss);
    assert_near(loss.stats.kl_reference, exp(-0.5) - 0.5, 1e-7);
    assert_near(loss.stats.kl_behavior, exp(0.5) - 1.5, 1e-7);
    assert_int_equal(loss.stats.tokens, 2);
    f.data[0].reference_logprob = NULL;
    streams_run(&f, &loss);
    assert_near(loss.stats.kl_reference, 0.0, 0.0);
}

/* G6 is counted in bits, for the tokens of the current version alone. */
static void engines_are_compared_bit_for_bit(void **state)
{
    (void)state;
    static const int32_t lengths[] = {4};
    static struct streams_fixture f;
    struct policy_loss loss = make_loss();

    streams_open(&f, 1, lengths);
    for (int i = 1; i <= 4; i++) {
        f.logprob[0][i] = f.behavior[0][i] = -0.7f;
        f.version[0][i] = i <= 3 ? 5 : 4;
    }
    f.behavior[0][4] = -0.9f; /* an older version may differ */
    loss.current_version = 5;
    streams_run(&f, &loss);
    assert_int_equal(loss.stats.current_version_tokens, 3);
    assert_int_equal(loss.stats.unequal_tokens, 0);
    assert_true(loss.stats.abs_logprob_difference_max == 0.0);
    f.behavior[0][2] = nextafterf(-0.7f, 0.0f);
    streams_run(&f, &loss);
    assert_int_equal(loss.stats.unequal_tokens, 1);
    assert_true(loss.stats.abs_logprob_difference_max > 0.0);
    assert_int_equal(loss.stats.mixed_kv_tokens, 0);
    /* Sampled with keys and values of other weights: counted apart, whatever its version. */
    static const uint8_t mixed[] = {0, 0, 1, 0, 1};
    f.data[0].kv_mixed = mixed;
    streams_run(&f, &loss);
    assert_int_equal(loss.stats.mixed_kv_tokens, 2);
    assert_int_equal(loss.stats.current_version_tokens, 2);
    assert_int_equal(loss.stats.unequal_tokens, 0);
    f.data[0].kv_mixed = NULL;
    loss.current_version = -1;
    streams_run(&f, &loss);
    assert_int_equal(loss.stats.current_version_tokens, 0);
    assert_int_equal(loss.stats.unequal_tokens, 0);
}

/* T2: sums of doubles in another grouping, nothing else changes. */
static void parts_add_up_to_the_whole(void **state)
{
    (void)state;
    static struct streams_fixture f;
    static float whole_d[STREAM_SEQUENCES][STREAM_TOKENS];

    for (int aggregation = AGGREGATE_TOKEN_MEAN; aggregation <= AGGREGATE_CONSTANT; aggregation++) {
        struct policy_loss loss = make_loss();
        loss.options.aggregation = (enum loss_aggregation)aggregation;
        fill_random(&f, 3);
        double whole = streams_run(&f, &loss), parts = 0.0;
        memcpy(whole_d, f.d_logprob, sizeof whole_d);
        policy_loss_begin(&loss, &f.batch);
        for (int32_t s = 0; s < 4; s++)
            assert_ok(streams_run_part(&f, &loss, s, 1, &parts));
        assert_near(parts, whole, 1e-12);
        assert_memory_equal(whole_d, f.d_logprob, sizeof whole_d);
        assert_int_equal(loss.stats.tokens, 18);
    }
}

static void missing_streams_are_errors(void **state)
{
    (void)state;
    static const int32_t lengths[] = {1};
    static struct streams_fixture f;
    struct policy_loss loss = make_loss();
    double total = 0.0;

    streams_open(&f, 1, lengths);
    policy_loss_begin(&loss, &f.batch);
    loss.options.entropy_coef = 0.1f;
    assert_int_equal(streams_run_part(&f, &loss, 0, 1, &total), HONE_EINVAL);
    loss.options.entropy_coef = 0.0f;
    loss.options.kl_coef = 0.1f;
    f.data[0].reference_logprob = NULL;
    assert_int_equal(streams_run_part(&f, &loss, 0, 1, &total), HONE_EINVAL);
    loss.options.kl_coef = 0.0f;
    loss.options.aggregation = AGGREGATE_CONSTANT;
    loss.options.constant_tokens = 0;
    assert_int_equal(streams_run_part(&f, &loss, 0, 1, &total), HONE_EINVAL);
}

/* Extreme ratios stay finite; a NaN is passed on for the trainer to refuse (T3). */
static void extremes(void **state)
{
    (void)state;
    static const int32_t lengths[] = {1, 1};
    static struct streams_fixture f;
    struct policy_loss loss = make_loss();

    streams_open(&f, 2, lengths);
    f.logprob[0][1] = -1.0f;
    f.behavior[0][1] = -900.0f;
    f.data[0].advantage = -1.0f;
    f.logprob[1][1] = -900.0f;
    f.behavior[1][1] = -1.0f;
    f.data[1].advantage = 1.0f;
    assert_true(isfinite(streams_run(&f, &loss)));
    assert_true(f.d_logprob[0][1] == 0.0f && f.d_logprob[1][1] == 0.0f);
    f.logprob[0][1] = NAN;
    assert_true(isnan(streams_run(&f, &loss)));
    assert_true(isnan(f.d_logprob[0][1]));
}

/* ---- through a model ---- */

struct group_fixture {
    struct fixture_batch data;
    struct policy_sequence policy[FIXTURE_SEQUENCES_MAX];
    float behavior[FIXTURE_SEQUENCES_MAX][FIXTURE_TOKENS_MAX];
    float reference[FIXTURE_SEQUENCES_MAX][FIXTURE_TOKENS_MAX];
    int64_t version[FIXTURE_SEQUENCES_MAX][FIXTURE_TOKENS_MAX];
};

/* Two groups of four with random rewards; behavior and reference logprobs near the model's own. */
static void group_open(struct group_fixture *g, const struct model_config *config,
                       const struct compute *compute, const float *master)
{
    struct trainer_options options = fixture_options(DTYPE_F32, 128);
    struct trainer *trainer = NULL;
    struct rng_key key = {.seed = 8, .purpose = RNG_DATA};
    float *rows[FIXTURE_SEQUENCES_MAX], rewards[4], advantage[4];
    const bool included[4] = {true, true, true, true};

    options.logprobs_only = true;
    memset(g, 0, sizeof *g);
    fixture_batch_fill(&g->data, 8, 21);
    for (int32_t s = 0; s < 8; s++)
        rows[s] = g->behavior[s];
    assert_ok(trainer_create(&trainer, &options, config, master, compute));
    assert_ok(trainer_logprobs(trainer, &g->data.batch, rows, NULL));
    trainer_free(trainer);
    for (int32_t s = 0; s < 8; s++) {
        if (s % 4 == 0) {
            for (int32_t i = 0; i < 4; i++)
                rewards[i] = rng_uniform(&key, (uint64_t)(s + i));
            advantage_group(BASELINE_GROUP_MEAN, SCALE_GROUP_STD, 4, rewards, included, advantage);
        }
        for (int32_t i = 0; i < FIXTURE_TOKENS_MAX; i++) {
            uint64_t draw = (uint64_t)(100 + s * FIXTURE_TOKENS_MAX + i) * 2;
            g->reference[s][i] = g->behavior[s][i] + 0.6f * (rng_uniform(&key, draw) - 0.5f);
            g->behavior[s][i] += 0.1f * (rng_uniform(&key, draw + 1) - 0.5f);
        }
        g->policy[s] = (struct policy_sequence){.behavior_logprob = g->behavior[s],
                                                .reference_logprob = g->reference[s],
                                                .policy_version = g->version[s],
                                                .advantage = advantage[s % 4]};
        g->data.sequences[s].user = &g->policy[s];
    }
}

static void begin(void *context, const struct train_batch *batch)
{
    policy_loss_begin(context, batch);
}

static void grpo_gradient_through_a_model(void **state)
{
    (void)state;
    static struct group_fixture g;
    struct model_config config = fixture_config();
    float *master = fixture_master(&config, 5);
    struct policy_loss policy = make_loss();
    struct compute compute;

    policy.options.kl_coef = 0.2f;
    policy.options.kl_estimator = KL_K3;
    policy.options.entropy_coef = 0.01f;
    assert_ok(compute_open(&compute, 1));
    group_open(&g, &config, &compute, master);
    g.data.batch.need_entropy = true;
    struct fixture_loss loss = {
        .function = policy_loss_function, .context = &policy, .reset = begin};
    fixture_check_gradient(&config, &compute, master, &g.data.batch, &loss, 3, 1e-3, 3e-3);
    assert_int_equal(policy.stats.clipped_high + policy.stats.clipped_low, 0);
    compute_close(&compute);
    memory_free(master);
}

/* What the learner relies on: the same step whatever the micro-batch, and the actor's logprobs. */
static void step_does_not_depend_on_the_split(void **state)
{
    (void)state;
    static struct group_fixture g;
    struct model_config config = fixture_config();
    float *master = fixture_master(&config, 5);
    struct trainer_options options = fixture_options(DTYPE_BF16, 40);
    struct trainer *narrow = NULL, *wide = NULL;
    struct step_report a, b;
    struct compute compute;

    assert_ok(compute_open(&compute, 1));
    assert_ok(trainer_create(&narrow, &options, &config, master, &compute));
    options.micro_batch_tokens = 320;
    assert_ok(trainer_create(&wide, &options, &config, master, &compute));
    group_open(&g, &config, &compute, master);
    float *rows[8];
    for (int32_t s = 0; s < 8; s++)
        rows[s] = g.behavior[s];
    assert_ok(trainer_logprobs(wide, &g.data.batch, rows, NULL));

    struct policy_loss loss = make_loss();
    loss.current_version = 0;
    policy_loss_begin(&loss, &g.data.batch);
    assert_ok(trainer_step(narrow, &g.data.batch, policy_loss_function, &loss, &a));
    assert_int_equal(loss.stats.current_version_tokens, g.data.trained);
    assert_int_equal(loss.stats.unequal_tokens, 0);
    policy_loss_begin(&loss, &g.data.batch);
    assert_ok(trainer_step(wide, &g.data.batch, policy_loss_function, &loss, &b));
    assert_int_equal(loss.stats.unequal_tokens, 0);
    assert_near(a.loss, b.loss, 1e-9);
    assert_near(a.gradient_norm, b.gradient_norm, 1e-2 * a.gradient_norm);
    trainer_free(narrow);
    trainer_free(wide);
    compute_close(&compute);
    memory_free(master);
}

/* ---- a step's gradient in fp32, in any number of micro-batches and any packing ---- */

struct counted_loss {
    struct policy_loss policy;
    int calls; /* one a micro-batch */
};

static int counted(void *context, const struct train_batch *batch,
                   const struct loss_streams *streams, double *loss)
{
    struct counted_loss *counting = context;
    counting->calls++;
    return policy_loss_function(&counting->policy, batch, streams, loss);
}

static int micro_batches_of(struct counted_loss *loss, const struct group_fixture *g,
                            const struct model_config *config, const struct compute *compute,
                            const float *master, int32_t tokens, double *value, float *gradient)
{
    struct trainer_options options = fixture_options(DTYPE_F32, tokens);
    const struct fixture_loss whole = {.function = counted, .context = loss};

    loss->calls = 0;
    policy_loss_begin(&loss->policy, &g->data.batch);
    *value = fixture_loss_at(&options, config, compute, master, NULL, 0.0, &g->data.batch, &whole,
                             gradient);
    return loss->calls;
}

static void any_split_and_order_is_the_same_gradient(void **state)
{
    (void)state;
    static struct group_fixture g;
    struct model_config config = fixture_config();
    const int64_t count = model_config_parameter_count(&config);
    float *master = fixture_master(&config, 5);
    float *whole = MEMORY_ARRAY(float, count), *split = MEMORY_ARRAY(float, count);
    struct counted_loss loss = {.policy = make_loss()};
    bool seen[9] = {false};
    double expected, value, norm = 0.0;
    struct compute compute;

    loss.policy.options.kl_coef = 0.2f;
    loss.policy.options.entropy_coef = 0.01f;
    assert_ok(compute_open(&compute, 1));
    group_open(&g, &config, &compute, master);
    g.data.batch.need_entropy = true;
    for (int32_t s = 0; s < 8; s++) /* all longer than half of the least budget */
        if (g.data.sequences[s].count < 24) {
            g.data.sequences[s].count = 24;
            g.data.mask[s][23] = 1;
            g.behavior[s][23] = g.reference[s][23] = -4.0f;
        }
    assert_int_equal(micro_batches_of(&loss, &g, &config, &compute, master, 320, &expected, whole),
                     1);
    for (int64_t i = 0; i < count; i++)
        norm += (double)whole[i] * (double)whole[i];
    norm = sqrt(norm);
    assert_true(norm > 1e-3);

    for (int32_t order = 0; order < 8; order++) {
        for (int32_t tokens = FIXTURE_TOKENS_MAX; tokens <= 320; tokens += 8) {
            int made =
                micro_batches_of(&loss, &g, &config, &compute, master, tokens, &value, split);
            assert_in_range(made, 1, 8);
            seen[made] = true;
            assert_near(value, expected, 1e-6 * fabs(expected));
            for (int64_t i = 0; i < count; i++)
                if (fabs((double)split[i] - (double)whole[i]) > 1e-6 * norm)
                    fail_msg("order %d, %d micro-batches: gradient %lld is %.9g, in one %.9g",
                             order, made, (long long)i, (double)split[i], (double)whole[i]);
        }
        /* The first goes to the end; every second time to the fourth place, and that one to the
         * end. */
        struct train_sequence *rows = g.data.sequences, first = rows[0];
        memmove(rows, rows + 1, 7 * sizeof *rows);
        rows[7] = first;
        if (order % 2 == 1) {
            rows[7] = rows[3];
            rows[3] = first;
        }
    }
    print_message("micro-batches seen:");
    for (int made = 1; made <= 8; made++)
        print_message(seen[made] ? " %d" : "", made);
    print_message("\n");
    assert_true(seen[1] && seen[2] && seen[4] && seen[8]);
    compute_close(&compute);
    memory_free(split);
    memory_free(whole);
    memory_free(master);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(derivatives_match_finite_differences),
        cmocka_unit_test(critic_by_hand),
        cmocka_unit_test(advantages_of_tokens),
        cmocka_unit_test(coefficient_follows_its_target),
        cmocka_unit_test(clipping_by_hand),
        cmocka_unit_test(aggregation_by_hand),
        cmocka_unit_test(kl_by_hand),
        cmocka_unit_test(statistics_by_hand),
        cmocka_unit_test(engines_are_compared_bit_for_bit),
        cmocka_unit_test(parts_add_up_to_the_whole),
        cmocka_unit_test(missing_streams_are_errors),
        cmocka_unit_test(extremes),
        cmocka_unit_test(grpo_gradient_through_a_model),
        cmocka_unit_test(step_does_not_depend_on_the_split),
        cmocka_unit_test(any_split_and_order_is_the_same_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Published values of other projects' tests, from a file given as the argument: every vector whose
 * definition hone shares. Exits with 77 (skipped) when the file is absent. */
#include "tests/learner/policy_fixture.h"

#include <jansson.h>

#include "learner/advantage.h"
#include "learner/returns.h"

#define EXIT_SKIPPED 77

static json_t *vectors;

static const json_t *vector_of(const char *name)
{
    size_t index;
    json_t *vector;
    json_array_foreach(vectors, index,
                       vector) if (strcmp(json_string_value(json_object_get(vector, "name")),
                                          name) == 0) return vector;
    fail_msg("the file has no vector \"%s\"", name);
    return NULL;
}

static int read_inputs(const json_t *vector, const char *key, float *values)
{
    const json_t *list = json_object_get(json_object_get(vector, "inputs"), key);
    int count = (int)json_array_size(list);
    assert_true(count > 0 && count <= STREAM_TOKENS);
    for (int i = 0; i < count; i++)
        values[i] = (float)json_number_value(json_array_get(list, (size_t)i));
    return count;
}

static double number(const json_t *vector, const char *key)
{
    const json_t *value = json_object_get(json_object_get(vector, "inputs"), key);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

/* Entry `index` of "published", or "published" itself when index is -1. */
static void assert_published(const json_t *vector, int index, double actual)
{
    const json_t *published = json_object_get(vector, "published");
    if (index >= 0)
        published = json_array_get(published, (size_t)index);
    assert_true(json_is_number(published));
    double expected = json_number_value(published);
    double tolerance = json_number_value(json_object_get(vector, "tol"));
    if (!(fabs(actual - expected) <= tolerance + 1e-6 * fabs(expected)))
        fail_msg("%s[%d]: %.9g, published %.9g", json_string_value(json_object_get(vector, "name")),
                 index, actual, expected);
}

/* ---- advantages ---- */

static void check_advantages(const char *name, const char *rewards_key,
                             enum advantage_baseline baseline, enum advantage_scale scale,
                             bool published_is_baseline)
{
    const json_t *vector = vector_of(name);
    float rewards[STREAM_TOKENS], groups[STREAM_TOKENS], advantage[STREAM_TOKENS];
    const bool included[STREAM_TOKENS] = {true, true, true, true, true, true, true, true};
    int count = read_inputs(vector, rewards_key, rewards);
    assert_int_equal(read_inputs(vector, "group", groups), count);
    for (int first = 0, end; first < count; first = end) {
        for (end = first; end < count && groups[end] == groups[first];)
            end++;
        advantage_group(baseline, scale, end - first, rewards + first, included, advantage + first);
    }
    for (int i = 0; i < count; i++)
        assert_published(vector, i,
                         published_is_baseline ? (double)rewards[i] - (double)advantage[i]
                                               : (double)advantage[i]);
}

static void advantages(void **state)
{
    (void)state;
    check_advantages("grpo_no_std", "scores", BASELINE_GROUP_MEAN, SCALE_NONE, false);
    check_advantages("maxrl", "scores", BASELINE_GROUP_MEAN, SCALE_GROUP_MEAN, false);
    check_advantages("leave_one_out_baseline", "rewards", BASELINE_LEAVE_ONE_OUT, SCALE_NONE, true);
    /* The deviation of the others: with no baseline an advantage is reward / deviation. */
    const json_t *vector = vector_of("leave_one_out_std_unbiased");
    const bool included[] = {true, true, true};
    float rewards[STREAM_TOKENS], advantage[STREAM_TOKENS];
    assert_int_equal(read_inputs(vector, "rewards", rewards), 3);
    advantage_group(BASELINE_NONE, SCALE_LEAVE_ONE_OUT_STD, 3, rewards, included, advantage);
    for (int i = 0; i < 3; i++)
        assert_published(vector, i, (double)rewards[i] / (double)advantage[i]);
}

static void returns(void **state)
{
    (void)state;
    static const char *const gae[] = {"gae_returns_g1_l1", "gae_returns_g1_l0.5",
                                      "gae_returns_torchtune"};
    float values[STREAM_TOKENS], rewards[STREAM_TOKENS];
    double r[STREAM_TOKENS], v[STREAM_TOKENS], out[STREAM_TOKENS];
    for (int k = 0; k < 3; k++) {
        const json_t *vector = vector_of(gae[k]);
        int count = read_inputs(vector, "rewards", rewards);
        assert_int_equal(read_inputs(vector, "values", values), count);
        for (int i = 0; i < count; i++) {
            r[i] = (double)rewards[i];
            v[i] = (double)values[i];
        }
        returns_gae(count, r, v, number(vector, "gamma"), number(vector, "lambda"), out);
        for (int i = 0; i < count; i++)
            assert_published(vector, i, out[i] + v[i]);
    }
    const json_t *vector = vector_of("reinforcepp_returns_gamma0.5");
    int count = read_inputs(vector, "rewards", rewards);
    for (int i = 0; i < count; i++)
        r[i] = (double)rewards[i];
    returns_discounted(count, r, number(vector, "gamma"), out);
    for (int i = 0; i < count; i++)
        assert_published(vector, i, out[i]);
}

/* ---- clipping: each token is a sequence, since advantages differ ---- */

static struct streams_fixture f;

static void open_tokens(const float *advantage, const float *logprob, const float *behavior,
                        int count)
{
    static const int32_t ones[STREAM_SEQUENCES] = {1, 1, 1, 1};
    assert_true(count <= STREAM_SEQUENCES);
    streams_open(&f, count, ones);
    for (int s = 0; s < count; s++) {
        f.data[s].advantage = advantage[s];
        f.logprob[s][1] = logprob[s];
        f.behavior[s][1] = behavior[s];
    }
}

static struct policy_loss clip_loss(double clip, double dual)
{
    return (struct policy_loss){.options = {.surrogate = {.clip_low = (float)clip,
                                                          .clip_high = (float)clip,
                                                          .dual_clip = (float)dual}},
                                .current_version = -1};
}

/* The loss of one of the open tokens alone. */
static double token_alone(const struct policy_loss *loss, int32_t s)
{
    struct policy_loss one = *loss;
    double total = 0.0;
    policy_loss_begin(&one, &f.batch);
    assert_ok(streams_run_part(&f, &one, s, 1, &total));
    return one.stats.policy_loss;
}

static void ppo_clip(void **state)
{
    (void)state;
    float advantage[STREAM_TOKENS], behavior[STREAM_TOKENS], logprob[STREAM_TOKENS];
    const json_t *vector = vector_of("ppo_clip_token");
    int count = read_inputs(vector, "adv", advantage);
    read_inputs(vector, "old_logp", behavior);
    read_inputs(vector, "new_logp", logprob);
    struct policy_loss loss = clip_loss(0.2, 0.0);
    open_tokens(advantage, logprob, behavior, count);
    for (int s = 0; s < count; s++)
        assert_published(vector, s, token_alone(&loss, s));
    assert_published(vector_of("ppo_clip_mean"), -1, streams_run(&f, &loss));
    open_tokens(advantage, behavior, behavior, count);
    assert_published(vector_of("force_on_policy_ratio"), -1, streams_run(&f, &loss));
}

static void dual_clip(void **state)
{
    (void)state;
    float advantage[STREAM_TOKENS], behavior[STREAM_TOKENS] = {0}, logprob[STREAM_TOKENS];
    const json_t *vector = vector_of("dual_clip_c3_sum");
    int count = read_inputs(vector, "adv", advantage);
    read_inputs(vector, "old", behavior);
    read_inputs(vector, "new", logprob);
    struct policy_loss loss = clip_loss(0.2, 3.0);
    open_tokens(advantage, logprob, behavior, count);
    streams_run(&f, &loss);
    assert_published(vector, -1, loss.stats.policy_loss);

    vector = vector_of("dual_clip_c1.5");
    count = read_inputs(vector, "adv", advantage);
    read_inputs(vector, "ratio", logprob);
    for (int i = 0; i < count; i++) {
        logprob[i] = logf(logprob[i]);
        behavior[i] = 0.0f;
    }
    loss = clip_loss(number(vector, "clip"), number(vector, "c"));
    open_tokens(advantage, logprob, behavior, count);
    for (int s = 0; s < count; s++)
        assert_published(vector, s, token_alone(&loss, s));
}

/* ---- off-policy weights: old is the policy before the batch, gen the behavior policy ---- */

static struct importance_options weights_within(enum off_policy off_policy, double low, double high)
{
    return (struct importance_options){
        .off_policy = off_policy, .weight_min = (float)low, .weight_max = (float)high};
}

static void check_weights(const char *name)
{
    const json_t *vector = vector_of(name);
    const struct importance_options options = weights_within(OFF_POLICY_DECOUPLED, 0.0, 1000.0);
    const struct importance_sums none = {0};
    float before[STREAM_TOKENS], behavior[STREAM_TOKENS];
    int count = read_inputs(vector, "old", before);
    assert_int_equal(read_inputs(vector, "gen", behavior), count);
    for (int i = 0; i < count; i++)
        assert_published(
            vector, i, importance_weight(&options, &none, (double)before[i] - (double)behavior[i]));
}

/* The mean loss of a later pass: the policy has moved from the one before the batch. */
static double stale_mean(const json_t *vector, const struct importance_options *importance)
{
    static float before[STREAM_SEQUENCES][STREAM_TOKENS];
    float advantage[STREAM_TOKENS], behavior[STREAM_TOKENS], logprob[STREAM_TOKENS];
    float proximal[STREAM_TOKENS];
    int count = read_inputs(vector, "adv", advantage);
    read_inputs(vector, "old_logp", proximal);
    read_inputs(vector, "new_logp", logprob);
    read_inputs(vector, "gen_logp", behavior);
    struct policy_loss loss = clip_loss(0.2, 0.0);
    loss.options.importance = *importance;
    open_tokens(advantage, logprob, behavior, count);
    for (int s = 0; s < count; s++) {
        before[s][1] = proximal[s];
        f.data[s].proximal_logprob = before[s];
    }
    return streams_run(&f, &loss);
}

static void off_policy_weights(void **state)
{
    (void)state;
    check_weights("is_weights");
    check_weights("icepop_is_weights");
    struct importance_options options = weights_within(OFF_POLICY_DECOUPLED, 0.0, 1000.0);
    const json_t *vector = vector_of("ppo_clip_is_corrected_mean");
    assert_published(vector, -1, stale_mean(vector, &options));
    vector = vector_of("ppo_clip_tis0.8_token_mean");
    options.weight_max = (float)number(vector, "tis_max");
    assert_published(vector, -1, stale_mean(vector, &options));

    /* On policy the loss is -weight x advantage. */
    float ratios[STREAM_TOKENS], advantage[STREAM_TOKENS], behavior[STREAM_TOKENS] = {0};
    vector = vector_of("tis_min0.5_max2");
    int count = read_inputs(vector, "ratio", ratios);
    for (int i = 0; i < count; i++) {
        ratios[i] = logf(ratios[i]);
        advantage[i] = (float)number(vector, "adv");
    }
    struct policy_loss loss = clip_loss(0.2, 0.0);
    loss.first_pass = true;
    loss.options.importance = weights_within(OFF_POLICY_DECOUPLED, 0.5, 2.0);
    open_tokens(advantage, ratios, behavior, count);
    assert_published(vector, -1, streams_run(&f, &loss));

    vector = vector_of("icepop_0.5_5_onpolicy_mean");
    float before[STREAM_TOKENS];
    count = read_inputs(vector, "adv", advantage);
    read_inputs(vector, "old=new", before);
    read_inputs(vector, "gen", behavior);
    loss.options.importance = weights_within(OFF_POLICY_ICEPOP, 0.5, 5.0);
    open_tokens(advantage, before, behavior, count);
    double expected = json_number_value(json_object_get(vector, "recomputed_f64"));
    assert_true(fabs(streams_run(&f, &loss) - expected) < 1e-6);
}

/* Rows of tokens whose advantages differ, under the ratio of their sequence. */
static void open_rows(const json_t *vector)
{
    static float advantages[STREAM_SEQUENCES][STREAM_TOKENS + 1];
    const json_t *inputs = json_object_get(vector, "inputs");
    const json_t *rows = json_object_get(inputs, "adv"), *logprob = json_object_get(inputs, "new");
    int32_t lengths[STREAM_SEQUENCES] = {0};
    int32_t count = (int32_t)json_array_size(rows);
    assert_true(count > 0 && count <= STREAM_SEQUENCES);
    for (int32_t s = 0; s < count; s++) {
        const json_t *length = json_array_get(json_object_get(inputs, "lens"), (size_t)s);
        lengths[s] = (int32_t)json_integer_value(length);
        assert_true(lengths[s] < STREAM_TOKENS);
    }
    streams_open(&f, count, lengths);
    for (int32_t s = 0; s < count; s++) {
        f.data[s].token_advantage = advantages[s];
        for (int32_t i = 0; i < lengths[s]; i++) {
            const json_t *a = json_array_get(json_array_get(rows, (size_t)s), (size_t)i);
            const json_t *l = json_array_get(json_array_get(logprob, (size_t)s), (size_t)i);
            advantages[s][i + 1] = (float)json_number_value(a);
            f.logprob[s][i + 1] = (float)json_number_value(l);
            f.behavior[s][i + 1] = (float)number(vector, "old");
        }
    }
}

static void sequence_ratio(void **state)
{
    (void)state;
    const json_t *vector = vector_of("gspo_vs_ppo_sum");
    struct policy_loss loss = clip_loss(number(vector, "clip"), 0.0);
    loss.options.ratio = RATIO_SEQUENCE;
    open_rows(vector);
    streams_run(&f, &loss);
    double expected =
        json_number_value(json_object_get(json_object_get(vector, "recomputed_f64"), "gspo_sum"));
    assert_true(fabs(loss.stats.policy_loss - expected) < 1e-4);

    /* One sequence of three tokens. */
    static float each[STREAM_TOKENS + 1];
    static const int32_t three[] = {3};
    float advantage[STREAM_TOKENS], behavior[STREAM_TOKENS], logprob[STREAM_TOKENS];
    vector = vector_of("gspo_seq_ratio_token");
    assert_int_equal(read_inputs(vector, "adv", advantage), 3);
    read_inputs(vector, "old_logp", behavior);
    read_inputs(vector, "new_logp", logprob);
    for (int token = 0; token < 3; token++) {
        streams_open(&f, 1, three);
        f.data[0].token_advantage = each;
        for (int i = 0; i < 3; i++) {
            each[i + 1] = i == token ? advantage[i] : 0.0f;
            f.logprob[0][i + 1] = logprob[i];
            f.behavior[0][i + 1] = behavior[i];
        }
        streams_run(&f, &loss);
        assert_published(vector, token, loss.stats.policy_loss);
    }
}

static void ppo_token_sum(void **state)
{
    (void)state;
    const json_t *vector = vector_of("gspo_vs_ppo_sum");
    const json_t *inputs = json_object_get(vector, "inputs");
    const json_t *advantage = json_object_get(inputs, "adv"),
                 *logprob = json_object_get(inputs, "new");
    float behavior[] = {(float)number(vector, "old")};
    struct policy_loss loss = clip_loss(number(vector, "clip"), 0.0);
    double sum = 0.0;
    for (size_t s = 0; s < json_array_size(advantage); s++) {
        size_t length =
            (size_t)json_integer_value(json_array_get(json_object_get(inputs, "lens"), s));
        for (size_t i = 0; i < length; i++) {
            const json_t *a = json_array_get(json_array_get(advantage, s), i);
            const json_t *l = json_array_get(json_array_get(logprob, s), i);
            float one_advantage = (float)json_number_value(a);
            float one_logprob = (float)json_number_value(l);
            open_tokens(&one_advantage, &one_logprob, behavior, 1);
            sum += streams_run(&f, &loss);
        }
    }
    double expected = json_number_value(
        json_object_get(json_object_get(vector, "recomputed_f64"), "ppo_token_sum"));
    assert_true(fabs(sum - expected) < 1e-5);
}

/* ---- KL ---- */

static void check_kl(const char *name, enum kl_estimator estimator)
{
    const json_t *vector = vector_of(name);
    float logprob[STREAM_TOKENS], reference[STREAM_TOKENS], value, slope;
    int count = read_inputs(vector, "logp", logprob);
    read_inputs(vector, "ref", reference);
    for (int i = 0; i < count; i++) {
        kl_estimate(estimator, logprob[i], reference[i], &value, &slope);
        assert_published(vector, i, (double)value);
    }
}

static void kl(void **state)
{
    (void)state;
    check_kl("kl_k1", KL_K1);
    check_kl("kl_k3_in_clamp20_out_clamp10", KL_K3);
    /* Without the clamps hone always has, only the first entry is inside them. */
    float value, slope;
    kl_estimate(KL_K3, -1.0f, 0.0f, &value, &slope);
    assert_published(vector_of("kl_k3"), 0, (double)value);
}

/* ---- aggregation: with advantage 0 and k1 the token losses are logprob - reference ---- */

static void check_aggregation(const char *name, enum loss_aggregation aggregation, int constant)
{
    const json_t *vector = vector_of(name);
    const json_t *x = json_object_get(json_object_get(vector, "inputs"), "x");
    const json_t *mask = json_object_get(json_object_get(vector, "inputs"), "mask");
    int32_t lengths[STREAM_SEQUENCES] = {0};
    int32_t count = (int32_t)json_array_size(x);
    assert_true(count > 0 && count <= STREAM_SEQUENCES);
    for (int32_t s = 0; s < count; s++)
        lengths[s] = (int32_t)json_array_size(json_array_get(x, (size_t)s));
    streams_open(&f, count, lengths);
    for (int32_t s = 0; s < count; s++)
        for (int32_t i = 0; i < lengths[s]; i++) {
            const json_t *value = json_array_get(json_array_get(x, (size_t)s), (size_t)i);
            const json_t *bit = json_array_get(json_array_get(mask, (size_t)s), (size_t)i);
            f.logprob[s][i + 1] = f.behavior[s][i + 1] = (float)json_number_value(value);
            f.mask[s][i + 1] = (uint8_t)json_integer_value(bit);
        }
    struct policy_loss loss = clip_loss(0.2, 0.0);
    loss.options.kl_coef = 1.0f;
    loss.options.kl_estimator = KL_K1;
    loss.options.aggregation = aggregation;
    loss.options.constant_tokens = constant;
    assert_published(vector, -1, streams_run(&f, &loss));
}

static void aggregation(void **state)
{
    (void)state;
    check_aggregation("reduce_sequence_mean", AGGREGATE_SEQUENCE_MEAN, 1);
    int max_length = (int)number(vector_of("reduce_seq_mean_token_sum_norm_max10"), "max_len");
    check_aggregation("reduce_seq_mean_token_sum_norm_max10", AGGREGATE_CONSTANT, max_length);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(advantages),
        cmocka_unit_test(ppo_clip),
        cmocka_unit_test(dual_clip),
        cmocka_unit_test(ppo_token_sum),
        cmocka_unit_test(kl),
        cmocka_unit_test(aggregation),
        cmocka_unit_test(returns),
        cmocka_unit_test(off_policy_weights),
        cmocka_unit_test(sequence_ratio),
    };
    json_error_t error;
    if (argc < 2 || !file_exists(argv[1])) {
        printf("skipped: no published vectors at %s\n", argc < 2 ? "(no argument)" : argv[1]);
        return EXIT_SKIPPED;
    }
    vectors = json_load_file(argv[1], 0, &error);
    if (vectors == NULL) {
        fprintf(stderr, "%s: %s\n", argv[1], error.text);
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    json_decref(vectors);
    return failed;
}

/* Published values of other projects' tests, from a file given as the argument: every vector whose
 * definition hone shares. Exits with 77 (skipped) when the file is absent. */
#include "tests/learner/policy_fixture.h"

#include <jansson.h>

#include "learner/advantage.h"

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
                             enum advantage_baseline baseline, bool published_is_baseline)
{
    const json_t *vector = vector_of(name);
    float rewards[STREAM_TOKENS], groups[STREAM_TOKENS], advantage[STREAM_TOKENS];
    const bool included[STREAM_TOKENS] = {true, true, true, true, true, true, true, true};
    int count = read_inputs(vector, rewards_key, rewards);
    assert_int_equal(read_inputs(vector, "group", groups), count);
    for (int first = 0, end; first < count; first = end) {
        for (end = first; end < count && groups[end] == groups[first];)
            end++;
        advantage_group(baseline, SCALE_NONE, end - first, rewards + first, included,
                        advantage + first);
    }
    for (int i = 0; i < count; i++)
        assert_published(vector, i,
                         published_is_baseline ? (double)rewards[i] - (double)advantage[i]
                                               : (double)advantage[i]);
}

static void advantages(void **state)
{
    (void)state;
    check_advantages("grpo_no_std", "scores", BASELINE_GROUP_MEAN, false);
    check_advantages("leave_one_out_baseline", "rewards", BASELINE_LEAVE_ONE_OUT, true);
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
    return (struct policy_loss){
        .options = {.clip_low = (float)clip, .clip_high = (float)clip, .dual_clip = (float)dual},
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
        policy_kl(estimator, logprob[i], reference[i], &value, &slope);
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
    policy_kl(KL_K3, -1.0f, 0.0f, &value, &slope);
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
        cmocka_unit_test(advantages),    cmocka_unit_test(ppo_clip), cmocka_unit_test(dual_clip),
        cmocka_unit_test(ppo_token_sum), cmocka_unit_test(kl),       cmocka_unit_test(aggregation),
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

#include "tests/infra/compute/fixture.h"

#define ROWS  5
#define VOCAB 83
#define LD    90

static const int32_t tokens[ROWS] = {0, 82, 40, 16, 7};

struct row_reference {
    double logprob, entropy, lse;
};

static struct row_reference reference(const float *logits, double temperature, int32_t token)
{
    double max = -INFINITY, sum = 0.0, weighted = 0.0;
    for (int i = 0; i < VOCAB; i++)
        max = fmax(max, (double)logits[i] / temperature);
    for (int i = 0; i < VOCAB; i++) {
        double shifted = (double)logits[i] / temperature - max;
        sum += exp(shifted);
        weighted += isinf(shifted) ? 0.0 : exp(shifted) * shifted;
    }
    struct row_reference r = {.lse = max + log(sum)};
    r.logprob = (double)logits[token] / temperature - r.lse;
    r.entropy = log(sum) - weighted / sum;
    return r;
}

static void run_logprob(const struct backend_ops *ops)
{
    struct parallel *pool = parallel_create(3);
    float *logits = floats(ROWS * LD, 1, 8.0f), probs[VOCAB];
    logits[3] = -INFINITY; /* an excluded token */
    logits[LD + 5] = 80.0f;
    for (int t = 0; t < 2; t++) {
        float temperature = t == 0 ? 1.0f : 0.6f;
        float logprob[ROWS], entropy[ROWS], lse[ROWS], alone;
        ops->token_logprob(pool, ROWS, VOCAB, logits, LD, temperature, tokens, logprob, entropy,
                           lse);
        for (int r = 0; r < ROWS; r++) {
            const float *row = logits + r * LD;
            struct row_reference want = reference(row, (double)temperature, tokens[r]);
            assert_near((double)logprob[r], want.logprob, 2e-6);
            assert_near((double)entropy[r], want.entropy, 2e-6);
            assert_near((double)lse[r], want.lse, 1e-6);
            ops->token_logprob(NULL, 1, VOCAB, row, LD, temperature, tokens + r, &alone, NULL,
                               NULL);
            assert_same_bits(&alone, &logprob[r], 1, sizeof alone);
            struct softmax_parts parts;
            ops->softmax_row(VOCAB, row, temperature, probs, &parts);
            float from_parts = softmax_token_logprob(&parts, row[tokens[r]]);
            assert_same_bits(&from_parts, &logprob[r], 1, sizeof from_parts);
            double total = 0.0;
            for (int i = 0; i < VOCAB; i++) {
                assert_near((double)probs[i], exp((double)row[i] / (double)temperature - want.lse),
                            1e-6);
                total += (double)probs[i];
            }
            assert_near(total, 1.0, 1e-6);
        }
    }
    memory_free(logits);
    parallel_destroy(pool);
}

static void test_token_logprob(void **state)
{
    (void)state;
    for_each_table(run_logprob);
}

/* A logit of a certain token: its logprob is 0 and the entropy 0, exactly. */
static void run_certain(const struct backend_ops *ops)
{
    float logits[VOCAB], logprob, entropy, lse;
    for (int i = 0; i < VOCAB; i++)
        logits[i] = i == 40 ? 1000.0f : -1000.0f;
    ops->token_logprob(NULL, 1, VOCAB, logits, VOCAB, 1.0f, &tokens[2], &logprob, &entropy, &lse);
    assert_true(logprob == 0.0f && entropy == 0.0f && lse == 1000.0f);
}

static void test_a_certain_token(void **state)
{
    (void)state;
    for_each_table(run_certain);
}

static double loss(const float *logits, double temperature, const float *d_logprob,
                   const float *d_entropy)
{
    double sum = 0.0;
    for (int r = 0; r < ROWS; r++) {
        struct row_reference row = reference(logits + r * LD, temperature, tokens[r]);
        sum += (double)d_logprob[r] * row.logprob;
        sum += d_entropy != NULL ? (double)d_entropy[r] * row.entropy : 0.0;
    }
    return sum;
}

static void check_backward(const struct backend_ops *ops, float temperature, bool with_entropy)
{
    struct parallel *pool = parallel_create(2);
    float *logits = floats(ROWS * LD, 2, 3.0f);
    const float d_logprob[ROWS] = {1.0f, -0.5f, 0.0f, 2.0f, 0.0f};
    const float entropies[ROWS] = {0.3f, -1.0f, 0.7f, 0.0f, 0.0f};
    const float *d_entropy = with_entropy ? entropies : NULL;
    float *gradient = memory_dup(logits, ROWS * LD * sizeof *logits);
    float logprob[ROWS], entropy[ROWS], lse[ROWS];
    ops->token_logprob(pool, ROWS, VOCAB, logits, LD, temperature, tokens, logprob, entropy, lse);
    ops->token_logprob_backward(pool, ROWS, VOCAB, gradient, LD, temperature, tokens, lse, entropy,
                                d_logprob, d_entropy);
    for (int r = 0; r < ROWS; r++) {
        for (int i = 0; i < VOCAB; i++) {
            float *at = &logits[r * LD + i], saved = *at, step = 1.0f / 4096.0f;
            *at = saved + step;
            double high = loss(logits, (double)temperature, d_logprob, d_entropy);
            double top = (double)*at;
            *at = saved - step;
            double low = loss(logits, (double)temperature, d_logprob, d_entropy);
            double want = (high - low) / (top - (double)*at);
            *at = saved;
            assert_near((double)gradient[r * LD + i], want, 2e-6);
        }
        for (int i = VOCAB; i < LD; i++)
            assert_true(gradient[r * LD + i] == logits[r * LD + i]);
    }
    memory_free(logits);
    memory_free(gradient);
    parallel_destroy(pool);
}

static void run_backward(const struct backend_ops *ops)
{
    check_backward(ops, 1.0f, false);
    check_backward(ops, 0.7f, false);
    check_backward(ops, 0.7f, true);
}

static void test_token_logprob_backward(void **state)
{
    (void)state;
    for_each_table(run_backward);
}

/* An excluded token (-inf) gets no gradient, and no NaN. */
static void run_excluded(const struct backend_ops *ops)
{
    float logits[VOCAB], logprob, entropy, lse;
    const float one = 1.0f;
    fill(logits, VOCAB, 5, 2.0f);
    logits[11] = -INFINITY;
    ops->token_logprob(NULL, 1, VOCAB, logits, VOCAB, 1.0f, tokens, &logprob, &entropy, &lse);
    ops->token_logprob_backward(NULL, 1, VOCAB, logits, VOCAB, 1.0f, tokens, &lse, &entropy, &one,
                                &one);
    double total = 0.0;
    for (int i = 0; i < VOCAB; i++) {
        assert_true(isfinite(logits[i]));
        total += (double)logits[i];
    }
    assert_true(logits[11] == 0.0f);
    assert_near(total, 0.0, 1e-5);
}

static void test_excluded_tokens(void **state)
{
    (void)state;
    for_each_table(run_excluded);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_token_logprob),
        cmocka_unit_test(test_a_certain_token),
        cmocka_unit_test(test_token_logprob_backward),
        cmocka_unit_test(test_excluded_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

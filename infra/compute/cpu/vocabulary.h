/* Softmax over the vocabulary: a token's logprob, its gradient, and the sampler's probabilities.
 * With z = logits / temperature and m = max z, per row: lse = m + ln(sum e^(z - m)); the sum runs
 * in 16 lanes (N5). */
#ifndef HONE_COMPUTE_CPU_VOCABULARY_H
#define HONE_COMPUTE_CPU_VOCABULARY_H

#include <math.h>

#include "infra/base/assert.h"
#include "infra/compute/vec/vec.h"
#include "infra/compute/vec/vec_math.h"
#include "infra/compute/ops.h"

/* e^x is +0 from here down; -inf is raised to it wherever e^x multiplies x, so that 0 * -inf does
 * not make a NaN of an excluded token. */
#define EXP_ZERO_BELOW -200.0f

struct vocab_job {
    int64_t vocab;
    const float *logits;
    float *d_logits;
    int64_t ld;
    float inverse_temperature;
    const int32_t *tokens;
    float *logprob, *entropy, *lse;
    const float *saved_lse, *saved_entropy, *d_logprob, *d_entropy;
};

struct vocab_sums {
    float max, sum, weighted; /* weighted = sum of e^(z - m) * (z - m) */
};

static inline struct vec scaled_logits(const float *logits, int64_t i, int64_t vocab,
                                       struct vec inverse_temperature)
{
    struct vec z = vec_mul(vec_load_up_to(logits + i, vocab - i), inverse_temperature);
    return vocab - i >= VEC_LANES ? z : vec_keep(z, vocab - i, vec_set1(-INFINITY));
}

static inline float vocab_max(const float *logits, int64_t vocab, struct vec inverse_temperature)
{
    struct vec max = vec_set1(-INFINITY);
    for (int64_t i = 0; i < vocab; i += VEC_LANES)
        max = vec_max(max, scaled_logits(logits, i, vocab, inverse_temperature));
    return vec_max_lanes(max);
}

static inline struct vocab_sums vocab_reduce(const float *logits, int64_t vocab,
                                             float inverse_temperature, bool weighted)
{
    struct vec factor = vec_set1(inverse_temperature);
    struct vocab_sums sums = {.max = vocab_max(logits, vocab, factor)};
    struct vec max = vec_set1(sums.max), floor = vec_set1(EXP_ZERO_BELOW);
    struct vec sum = vec_zero(), weights = vec_zero();
    for (int64_t i = 0; i < vocab; i += VEC_LANES) {
        struct vec shifted = vec_sub(scaled_logits(logits, i, vocab, factor), max);
        struct vec e = vec_exp(shifted);
        sum = vec_add(sum, e);
        if (weighted)
            weights = vec_fma(e, vec_max(floor, shifted), weights);
    }
    sums.sum = vec_sum(sum);
    sums.weighted = vec_sum(weights);
    return sums;
}

static inline void token_logprob_rows(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct vocab_job *job = context;
    for (int64_t row = begin; row < end; row++) {
        const float *logits = job->logits + row * job->ld;
        struct vocab_sums sums =
            vocab_reduce(logits, job->vocab, job->inverse_temperature, job->entropy != NULL);
        float log_sum = log_one(sums.sum);
        struct softmax_parts parts = {job->inverse_temperature, sums.max, log_sum};
        job->logprob[row] = softmax_token_logprob(&parts, logits[job->tokens[row]]);
        if (job->entropy != NULL)
            job->entropy[row] = log_sum - sums.weighted / sums.sum;
        if (job->lse != NULL)
            job->lse[row] = sums.max + log_sum;
    }
}

static inline void token_logprob(struct parallel *pool, int64_t rows, int64_t vocab,
                                 const float *logits, int64_t ld, float temperature,
                                 const int32_t *tokens, float *logprob, float *entropy, float *lse)
{
    HONE_ASSERT(vocab >= 1 && ld >= vocab && temperature > 0.0f);
    struct vocab_job job = {.vocab = vocab, .logits = logits, .ld = ld, .tokens = tokens};
    job.inverse_temperature = 1.0f / temperature;
    job.logprob = logprob;
    job.entropy = entropy;
    job.lse = lse;
    parallel_for(pool, rows, 1, token_logprob_rows, &job);
}

/* One row of d_logits in place: -(d_logprob p + d_entropy p (log p + H)) / temperature, then the
 * chosen token's share. A row without gradient (a masked token) is cleared. */
static inline void token_logprob_backward_row(const struct vocab_job *job, int64_t row)
{
    float *logits = job->d_logits + row * job->ld;
    float d_logprob = job->d_logprob[row];
    float d_entropy = job->d_entropy != NULL ? job->d_entropy[row] : 0.0f;
    if (d_logprob == 0.0f && d_entropy == 0.0f) {
        memset(logits, 0, (size_t)job->vocab * sizeof *logits);
        return;
    }
    struct vec factor = vec_set1(job->inverse_temperature), lse = vec_set1(job->saved_lse[row]);
    struct vec minus_factor = vec_set1(-job->inverse_temperature);
    struct vec chosen = vec_set1(d_logprob), spread = vec_set1(d_entropy);
    struct vec entropy = vec_set1(job->d_entropy != NULL ? job->saved_entropy[row] : 0.0f);
    struct vec floor = vec_set1(EXP_ZERO_BELOW);
    for (int64_t i = 0; i < job->vocab; i += VEC_LANES) {
        int64_t left = job->vocab - i;
        struct vec log_p = vec_sub(vec_mul(vec_load_up_to(logits + i, left), factor), lse);
        log_p = vec_max(floor, log_p);
        struct vec slope = vec_fma(spread, vec_add(log_p, entropy), chosen);
        struct vec d = vec_mul(vec_mul(vec_exp(log_p), slope), minus_factor);
        vec_store_up_to(logits + i, d, left);
    }
    float *own = &logits[job->tokens[row]];
    *own = fmaf(d_logprob, job->inverse_temperature, *own);
}

static inline void token_logprob_backward_rows(void *context, int64_t begin, int64_t end,
                                               int thread)
{
    (void)thread;
    for (int64_t row = begin; row < end; row++)
        token_logprob_backward_row(context, row);
}

static inline void token_logprob_backward(struct parallel *pool, int64_t rows, int64_t vocab,
                                          float *logits, int64_t ld, float temperature,
                                          const int32_t *tokens, const float *lse,
                                          const float *entropy, const float *d_logprob,
                                          const float *d_entropy)
{
    HONE_ASSERT(vocab >= 1 && ld >= vocab && temperature > 0.0f);
    HONE_ASSERT(d_entropy == NULL || entropy != NULL);
    struct vocab_job job = {.vocab = vocab, .d_logits = logits, .ld = ld, .tokens = tokens};
    job.inverse_temperature = 1.0f / temperature;
    job.saved_lse = lse;
    job.saved_entropy = entropy;
    job.d_logprob = d_logprob;
    job.d_entropy = d_entropy;
    parallel_for(pool, rows, 1, token_logprob_backward_rows, &job);
}

struct cut_job {
    int64_t vocab, ld;
    float *logits;
    const struct logit_support *support;
};

static inline void cut_logits_rows(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct cut_job *job = context;
    for (int64_t row = begin; row < end; row++) {
        const struct logit_support *support = &job->support[row];
        float *logits = job->logits + row * job->ld;
        int64_t next = 0; /* id that is not decided yet */
        for (int64_t i = 0; i < support->count; i++) {
            HONE_ASSERT(support->ids[i] >= next && support->ids[i] < job->vocab);
            for (; next < support->ids[i]; next++)
                logits[next] = -INFINITY;
            next++;
        }
        for (; support->count > 0 && next < job->vocab; next++)
            logits[next] = -INFINITY;
    }
}

static inline void cut_logits(struct parallel *pool, int64_t rows, int64_t vocab, float *logits,
                              int64_t ld, const struct logit_support *support)
{
    HONE_ASSERT(vocab >= 1 && ld >= vocab);
    struct cut_job job = {.vocab = vocab, .ld = ld, .logits = logits, .support = support};
    parallel_for(pool, rows, 1, cut_logits_rows, &job);
}

/* The maximum and the sum are vocab_reduce's, in its order. */
static inline void softmax_row(int64_t vocab, const float *logits, float temperature, float *probs,
                               struct softmax_parts *parts)
{
    HONE_ASSERT(vocab >= 1 && temperature > 0.0f);
    parts->inverse_temperature = 1.0f / temperature;
    struct vec factor = vec_set1(parts->inverse_temperature), sum = vec_zero();
    parts->max = vocab_max(logits, vocab, factor);
    struct vec max = vec_set1(parts->max);
    for (int64_t i = 0; i < vocab; i += VEC_LANES) {
        struct vec e = vec_exp(vec_sub(scaled_logits(logits, i, vocab, factor), max));
        sum = vec_add(sum, e);
        vec_store_up_to(probs + i, e, vocab - i);
    }
    float total = vec_sum(sum);
    struct vec divisor = vec_set1(total);
    parts->log_sum = log_one(total);
    for (int64_t i = 0; i < vocab; i += VEC_LANES)
        vec_store_up_to(probs + i, vec_div(vec_load_up_to(probs + i, vocab - i), divisor),
                        vocab - i);
}

#endif

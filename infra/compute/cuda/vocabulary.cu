/* Softmax over the vocabulary, a block of threads a row. Thread t takes every 256th id from t on,
 * and the threads' parts add up in a tree: one function for the learner's logprobs and the
 * sampler's, so that they are the same bits. */
#include "infra/compute/cuda/gpu.h"
#include "infra/compute/cuda/table.h"

/* e^x is 0 from here down; -inf (a token that was cut) is raised to it where e^x multiplies x. */
#define EXP_ZERO_BELOW -200.0f

struct vocabulary_args {
    int64_t vocab, ld;
    const float *logits;
    float *out; /* d_logits, or probabilities */
    float inverse_temperature;
    const int32_t *tokens;
    float *logprob, *entropy, *lse;
    const float *saved_lse, *saved_entropy, *d_logprob, *d_entropy;
    struct softmax_parts *parts;
};

struct row_sums {
    float max, sum, weighted; /* of e^(z - max), and of it times (z - max) */
};

GPU_DEVICE struct row_sums reduce_row(const float *logits, int64_t vocab, float factor)
{
    float max = -INFINITY, sum = 0.0f, weighted = 0.0f;
    for (int64_t i = GPU_THREAD; i < vocab; i += GPU_THREADS)
        max = fmaxf(max, logits[i] * factor);
    max = gpu_reduce(GPU_MAX, max);
    for (int64_t i = GPU_THREAD; i < vocab; i += GPU_THREADS) {
        float shifted = logits[i] * factor - max, e = expf(shifted);
        sum += e;
        weighted = fmaf(e, fmaxf(EXP_ZERO_BELOW, shifted), weighted);
    }
    struct row_sums sums = {max, 0.0f, 0.0f};
    sums.sum = gpu_reduce(GPU_SUM, sum);
    sums.weighted = gpu_reduce(GPU_SUM, weighted);
    return sums;
}

GPU_KERNEL(logprob_kernel, struct vocabulary_args)
{
    int64_t row = GPU_BLOCK;
    const float *logits = a->logits + row * a->ld;
    struct row_sums sums = reduce_row(logits, a->vocab, a->inverse_temperature);
    float log_sum = logf(sums.sum);
    if (GPU_THREAD != 0)
        return;
    a->logprob[row] = (logits[a->tokens[row]] * a->inverse_temperature - sums.max) - log_sum;
    if (a->entropy)
        a->entropy[row] = log_sum - sums.weighted / sums.sum;
    if (a->lse)
        a->lse[row] = sums.max + log_sum;
}

void cuda_token_logprob(struct parallel *pool, int64_t rows, int64_t vocab, const float *logits,
                        int64_t ld, float temperature, const int32_t *tokens, float *logprob,
                        float *entropy, float *lse)
{
    struct vocabulary_args args = {.vocab = vocab,
                                   .ld = ld,
                                   .logits = logits,
                                   .inverse_temperature = 1.0f / temperature,
                                   .tokens = tokens,
                                   .logprob = logprob,
                                   .entropy = entropy,
                                   .lse = lse};
    (void)pool;
    GPU_LAUNCH(logprob_kernel, rows, 1, GPU_ROW_THREADS, args);
}

GPU_KERNEL(logprob_backward_kernel, struct vocabulary_args)
{
    int64_t row = GPU_BLOCK;
    float *logits = a->out + row * a->ld;
    float d_logprob = a->d_logprob[row], d_entropy = a->d_entropy ? a->d_entropy[row] : 0.0f;
    float entropy = a->d_entropy ? a->saved_entropy[row] : 0.0f, lse = a->saved_lse[row];
    bool none = d_logprob == 0.0f && d_entropy == 0.0f;
    for (int64_t i = GPU_THREAD; i < a->vocab; i += GPU_THREADS) {
        float log_p = fmaxf(EXP_ZERO_BELOW, logits[i] * a->inverse_temperature - lse);
        float slope = fmaf(d_entropy, log_p + entropy, d_logprob);
        float d = expf(log_p) * slope * -a->inverse_temperature;
        if (i == a->tokens[row])
            d = fmaf(d_logprob, a->inverse_temperature, d);
        logits[i] = none ? 0.0f : d;
    }
}

void cuda_token_logprob_backward(struct parallel *pool, int64_t rows, int64_t vocab, float *logits,
                                 int64_t ld, float temperature, const int32_t *tokens,
                                 const float *lse, const float *entropy, const float *d_logprob,
                                 const float *d_entropy)
{
    struct vocabulary_args args = {.vocab = vocab,
                                   .ld = ld,
                                   .out = logits,
                                   .inverse_temperature = 1.0f / temperature,
                                   .tokens = tokens,
                                   .saved_lse = lse,
                                   .saved_entropy = entropy,
                                   .d_logprob = d_logprob,
                                   .d_entropy = d_entropy};
    (void)pool;
    GPU_LAUNCH(logprob_backward_kernel, rows, 1, GPU_ROW_THREADS, args);
}

struct cut_args {
    int64_t vocab, ld;
    float *logits;
    const struct logit_support *support;
};

/* Thread t decides about the gaps before the ids t, t + 256, ... of the support. */
GPU_KERNEL(cut_kernel, struct cut_args)
{
    const struct logit_support *support = &a->support[GPU_BLOCK];
    float *logits = a->logits + GPU_BLOCK * a->ld;
    for (int64_t k = GPU_THREAD; support->count > 0 && k <= support->count; k += GPU_THREADS) {
        int64_t begin = k > 0 ? support->ids[k - 1] + 1 : 0;
        int64_t end = k < support->count ? support->ids[k] : a->vocab;
        for (int64_t i = begin; i < end; i++)
            logits[i] = -INFINITY;
    }
}

void cuda_cut_logits(struct parallel *pool, int64_t rows, int64_t vocab, float *logits, int64_t ld,
                     const struct logit_support *support)
{
    struct cut_args args = {vocab, ld, logits, support};
    (void)pool;
    GPU_LAUNCH(cut_kernel, rows, 1, GPU_ROW_THREADS, args);
}

GPU_KERNEL(softmax_kernel, struct vocabulary_args)
{
    struct row_sums sums = reduce_row(a->logits, a->vocab, a->inverse_temperature);
    for (int64_t i = GPU_THREAD; i < a->vocab; i += GPU_THREADS)
        a->out[i] = expf(a->logits[i] * a->inverse_temperature - sums.max) / sums.sum;
    if (GPU_THREAD == 0) {
        a->parts->inverse_temperature = a->inverse_temperature;
        a->parts->max = sums.max;
        a->parts->log_sum = logf(sums.sum);
    }
}

void cuda_softmax_row(int64_t vocab, const float *logits, float temperature, float *probs,
                      struct softmax_parts *parts)
{
    struct vocabulary_args args = {.vocab = vocab,
                                   .ld = vocab,
                                   .logits = logits,
                                   .out = probs,
                                   .inverse_temperature = 1.0f / temperature,
                                   .parts = parts};
    GPU_LAUNCH(softmax_kernel, 1, 1, GPU_ROW_THREADS, args);
}

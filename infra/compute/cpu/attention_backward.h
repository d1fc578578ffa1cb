/* The attention backward pass for the rows of one sequence.
 *
 * With p = e^(score - lse), D = sum over d of d_out * out, dp[j] = d_out . v[j]:
 *   ds[j] = p[j] (dp[j] - D) / sqrt(head_dim);   dq += ds[j] k[j];   dk[j] += ds[j] q;
 *   dv[j] += p[j] d_out.
 * Threads own KV heads. A head walks blocks ascending, in a block queries ascending, for a query
 * the heads of its group ascending: so dk and dv add up over queries in order, dq over keys in
 * order. */
#ifndef HONE_COMPUTE_CPU_ATTENTION_BACKWARD_H
#define HONE_COMPUTE_CPU_ATTENTION_BACKWARD_H

#include "infra/compute/cpu/attention.h"

#define HEAD_DIM_BACKWARD_MAX 256 /* two expanded blocks live on the stack */

struct attention_backward_job {
    const struct attention_kv *kv;
    int64_t rows;
    int32_t heads;
    const float *q;
    int64_t ldq;
    const struct attention_row *table;
    const void *out;
    const float *lse, *d_out;
    float *dq;
    int64_t lddq;
    float *dk, *dv;
    int64_t lddk;
};

/* One block of one KV head, expanded: keys [32][head_dim], values transposed [head_dim][32]. */
struct expanded_block {
    int32_t first_key;
    int32_t kv_head;
    const void *keys; /* as stored: [head_dim][32] */
    float keys_by_token[ATTENTION_BLOCK_TOKENS * HEAD_DIM_BACKWARD_MAX];
    float values_by_dim[ATTENTION_BLOCK_TOKENS * HEAD_DIM_BACKWARD_MAX];
};

static inline float act_value(enum dtype dtype, const void *base, int64_t index)
{
    return dtype == DTYPE_BF16 ? bf16_to_f32(((const bf16 *)base)[index])
                               : ((const float *)base)[index];
}

/* Tokens at and past `valid` are left out: their memory may hold anything. */
static inline void expand_block(const struct attention_kv *kv, int32_t block, int64_t valid,
                                struct expanded_block *expanded)
{
    int64_t head_dim = kv->head_dim;
    const void *values = kv_block(kv, kv->values, block, expanded->kv_head);
    expanded->keys = kv_block(kv, kv->keys, block, expanded->kv_head);
    memset(expanded->values_by_dim, 0, (size_t)(head_dim * ATTENTION_BLOCK_TOKENS) * sizeof(float));
    for (int64_t j = 0; j < valid; j++)
        for (int64_t d = 0; d < head_dim; d++) {
            expanded->keys_by_token[j * head_dim + d] =
                act_value(kv->dtype, expanded->keys, d * ATTENTION_BLOCK_TOKENS + j);
            expanded->values_by_dim[d * ATTENTION_BLOCK_TOKENS + j] =
                act_value(kv->dtype, values, j * head_dim + d);
        }
}

/* D = sum of d_out * out over the head, 16 lanes. */
static inline float head_dot(enum dtype dtype, const float *d_out, const void *out, int64_t at,
                             int64_t head_dim)
{
    struct vec dot = vec_zero();
    for (int64_t d = 0; d < head_dim; d += VEC_LANES) {
        int64_t left = head_dim - d;
        dot = vec_fma(vec_load_up_to(d_out + d, left), act_load(dtype, out, at + d, left), dot);
    }
    return vec_sum(dot);
}

/* target[d] += sum over valid keys j of weights[j] * by_token[j][d], one chain per d. */
static inline void gather_keys(const float *weights, int64_t valid, const float *by_token,
                               int64_t head_dim, float *target)
{
    int64_t d = 0;
    for (; d + 2 * VEC_LANES <= head_dim; d += 2 * VEC_LANES) {
        struct vec first = vec_load(target + d), second = vec_load(target + d + VEC_LANES);
        for (int64_t j = 0; j < valid; j++) {
            struct vec weight = vec_set1(weights[j]);
            first = vec_fma(weight, vec_load(by_token + j * head_dim + d), first);
            second = vec_fma(weight, vec_load(by_token + j * head_dim + d + VEC_LANES), second);
        }
        vec_store(target + d, first);
        vec_store(target + d + VEC_LANES, second);
    }
    for (; d < head_dim; d += VEC_LANES) {
        int64_t left = head_dim - d;
        struct vec sum = vec_load_up_to(target + d, left);
        for (int64_t j = 0; j < valid; j++)
            sum = vec_fma(vec_set1(weights[j]), vec_load_up_to(by_token + j * head_dim + d, left),
                          sum);
        vec_store_up_to(target + d, sum, left);
    }
}

/* rows[j][d] += weights[j] * x[d] for the valid keys. */
static inline void scatter_keys(const float *weights, int64_t valid, const float *x,
                                int64_t head_dim, float *rows, int64_t ld)
{
    for (int64_t d = 0; d < head_dim; d += VEC_LANES) {
        int64_t left = head_dim - d;
        struct vec value = vec_load_up_to(x + d, left);
        for (int64_t j = 0; j < valid; j++) {
            float *target = rows + j * ld + d;
            struct vec sum = vec_fma(vec_set1(weights[j]), value, vec_load_up_to(target, left));
            vec_store_up_to(target, sum, left);
        }
    }
}

static inline __attribute__((always_inline)) void
backward_query_head(const struct attention_backward_job *job, enum dtype dtype,
                    const struct expanded_block *block, int64_t row, int32_t head)
{
    const struct attention_kv *kv = job->kv;
    int64_t head_dim = kv->head_dim, left = job->table[row].key_count - block->first_key;
    int64_t valid = left < ATTENTION_BLOCK_TOKENS ? left : ATTENTION_BLOCK_TOKENS;
    int64_t at = (row * job->heads + head) * head_dim;
    const float *d_out = job->d_out + at;
    float q[HEAD_DIM_BACKWARD_MAX], p[ATTENTION_BLOCK_TOKENS], ds[ATTENTION_BLOCK_TOKENS];
    round_query(dtype, job->q + row * job->ldq + head * head_dim, head_dim, q);
    struct vec scale = vec_set1(1.0f / sqrtf((float)head_dim));
    struct vec lse = vec_set1(job->lse[row * job->heads + head]);
    struct key_lanes s = block_scores(dtype, block->keys, head_dim, q, scale, valid);
    struct vec p_low = vec_exp(vec_sub(s.low, lse)), p_high = vec_exp(vec_sub(s.high, lse));
    struct vec dp_low = vec_zero(), dp_high = vec_zero();
    for (int64_t d = 0; d < head_dim; d++) {
        const float *values = block->values_by_dim + d * ATTENTION_BLOCK_TOKENS;
        struct vec gradient = vec_set1(d_out[d]);
        dp_low = vec_fma(gradient, vec_load(values), dp_low);
        dp_high = vec_fma(gradient, vec_load(values + VEC_LANES), dp_high);
    }
    struct vec mean = vec_set1(head_dot(dtype, d_out, job->out, at, head_dim));
    vec_store(p, p_low);
    vec_store(p + VEC_LANES, p_high);
    vec_store(ds, vec_mul(vec_mul(p_low, vec_sub(dp_low, mean)), scale));
    vec_store(ds + VEC_LANES, vec_mul(vec_mul(p_high, vec_sub(dp_high, mean)), scale));
    int64_t column = block->kv_head * head_dim;
    gather_keys(ds, valid, block->keys_by_token, head_dim,
                job->dq + row * job->lddq + head * head_dim);
    scatter_keys(ds, valid, q, head_dim, job->dk + block->first_key * job->lddk + column,
                 job->lddk);
    scatter_keys(p, valid, d_out, head_dim, job->dv + block->first_key * job->lddk + column,
                 job->lddk);
}

static inline void attention_backward_block(const struct attention_backward_job *job,
                                            const struct expanded_block *block, int32_t group)
{
    for (int64_t row = 0; row < job->rows; row++) {
        if (job->table[row].key_count <= block->first_key)
            continue;
        for (int32_t g = 0; g < group; g++) {
            int32_t head = block->kv_head * group + g;
            if (job->kv->dtype == DTYPE_BF16)
                backward_query_head(job, DTYPE_BF16, block, row, head);
            else
                backward_query_head(job, DTYPE_F32, block, row, head);
        }
    }
}

static inline void attention_backward_heads(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct attention_backward_job *job = context;
    const struct attention_row *last = &job->table[job->rows - 1];
    int32_t group = job->heads / job->kv->kv_heads;
    int64_t head_dim = job->kv->head_dim;
    struct expanded_block block;
    for (int64_t kv_head = begin; kv_head < end; kv_head++) {
        block.kv_head = (int32_t)kv_head;
        for (int64_t row = 0; row < job->rows; row++)
            memset(job->dq + row * job->lddq + kv_head * group * head_dim, 0,
                   (size_t)(group * head_dim) * sizeof *job->dq);
        for (int32_t key = 0; key < last->key_count; key += ATTENTION_BLOCK_TOKENS) {
            int64_t left = last->key_count - key;
            block.first_key = key;
            expand_block(job->kv, last->blocks[key / ATTENTION_BLOCK_TOKENS],
                         left < ATTENTION_BLOCK_TOKENS ? left : ATTENTION_BLOCK_TOKENS, &block);
            attention_backward_block(job, &block, group);
        }
    }
}

static inline void attention_backward(struct parallel *pool, const struct attention_kv *kv,
                                      int64_t rows, int32_t heads, const float *q, int64_t ldq,
                                      const struct attention_row *table, const void *out,
                                      const float *lse, const float *d_out, float *dq, int64_t lddq,
                                      float *dk, float *dv, int64_t lddk)
{
    HONE_ASSERT(kv->dtype == DTYPE_BF16 || kv->dtype == DTYPE_F32);
    HONE_ASSERT(kv->head_dim <= HEAD_DIM_BACKWARD_MAX && heads % kv->kv_heads == 0);
    if (rows == 0)
        return;
    struct attention_backward_job job = {kv,  rows,  heads, q,    ldq, table, out,
                                         lse, d_out, dq,    lddq, dk,  dv,    lddk};
    parallel_for(pool, kv->kv_heads, 1, attention_backward_heads, &job);
}

#endif

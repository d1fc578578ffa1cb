/* kv_store and the attention forward pass: one (row, head) at a time, blocks of 32 keys ascending,
 * online softmax. A row's bits depend on its query, its keys and key_count alone (N2).
 *
 * Per block: 32 scores, each one FMA chain over ascending d, then scaled; keys at or past key_count
 * become -inf (whatever the memory holds); m' = max(m, scores); p = e^(score - m');
 * c = e^(m - m'); l = l c + sum(p), the sum being p[0..15] + p[16..31] and then the tree of N5;
 * o = o c, then one FMA chain per d over the block's valid keys, ascending. */
#ifndef HONE_COMPUTE_CPU_ATTENTION_H
#define HONE_COMPUTE_CPU_ATTENTION_H

#include <math.h>

#include "infra/base/assert.h"
#include "infra/compute/vec/vec.h"
#include "infra/compute/vec/vec_math.h"
#include "infra/compute/ops.h"

#define HEAD_DIM_MAX         512
#define ATTENTION_GRAIN_KEYS 256 /* keys x heads that are worth waking a thread for */

/* The scores or probabilities of one block: keys 0-15 and 16-31. */
struct key_lanes {
    struct vec low, high;
};

static inline const void *kv_block(const struct attention_kv *kv, const void *base, int32_t block,
                                   int32_t kv_head)
{
    size_t values = (size_t)kv->head_dim * ATTENTION_BLOCK_TOKENS;
    size_t at = ((size_t)block * (size_t)kv->kv_heads + (size_t)kv_head) * values;
    return (const char *)base + at * (kv->dtype == DTYPE_BF16 ? 2 : 4);
}

struct kv_store_job {
    const struct attention_kv *kv;
    const float *k, *v;
    int64_t ldk, ldv;
    const int32_t *block_ids, *offsets;
};

static inline void kv_store_head(const struct kv_store_job *job, int64_t row, int32_t head)
{
    const struct attention_kv *kv = job->kv;
    int64_t dim = kv->head_dim, offset = job->offsets[row];
    size_t block = ((size_t)job->block_ids[row] * (size_t)kv->kv_heads + (size_t)head) *
                   (size_t)dim * ATTENTION_BLOCK_TOKENS;
    const float *k = job->k + row * job->ldk + head * dim;
    const float *v = job->v + row * job->ldv + head * dim;
    for (int64_t d = 0; d < dim; d++) {
        size_t at = block + (size_t)(d * ATTENTION_BLOCK_TOKENS + offset);
        if (kv->dtype == DTYPE_BF16)
            ((bf16 *)kv->keys)[at] = bf16_from_f32(k[d]);
        else
            ((float *)kv->keys)[at] = k[d];
    }
    for (int64_t d = 0; d < dim; d += VEC_LANES)
        act_store(kv->dtype, kv->values, (int64_t)block + offset * dim + d,
                  vec_load_up_to(v + d, dim - d), dim - d);
}

static inline void kv_store_rows(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct kv_store_job *job = context;
    for (int64_t row = begin; row < end; row++)
        for (int32_t head = 0; head < job->kv->kv_heads; head++)
            kv_store_head(job, row, head);
}

static inline void kv_store(struct parallel *pool, const struct attention_kv *kv, int64_t rows,
                            const float *k, int64_t ldk, const float *v, int64_t ldv,
                            const int32_t *block_ids, const int32_t *offsets)
{
    HONE_ASSERT(kv->dtype == DTYPE_BF16 || kv->dtype == DTYPE_F32);
    struct kv_store_job job = {kv, k, v, ldk, ldv, block_ids, offsets};
    int64_t grain = 4096 / ((int64_t)kv->kv_heads * kv->head_dim);
    parallel_for(pool, rows, grain > 1 ? grain : 1, kv_store_rows, &job);
}

/* Scaled scores of the block's 32 keys against q, -inf at and past `valid`. */
static inline struct key_lanes block_scores(enum dtype dtype, const void *keys, int64_t head_dim,
                                            const float *q, struct vec scale, int64_t valid)
{
    struct key_lanes s = {vec_zero(), vec_zero()};
    for (int64_t d = 0; d < head_dim; d++) {
        struct vec query = vec_set1(q[d]);
        int64_t at = d * ATTENTION_BLOCK_TOKENS;
        s.low = vec_fma(query, act_load(dtype, keys, at, VEC_LANES), s.low);
        s.high = vec_fma(query, act_load(dtype, keys, at + VEC_LANES, VEC_LANES), s.high);
    }
    s.low = vec_mul(s.low, scale);
    s.high = vec_mul(s.high, scale);
    if (valid < ATTENTION_BLOCK_TOKENS) {
        struct vec excluded = vec_set1(-INFINITY);
        s.low = vec_keep(s.low, valid, excluded);
        s.high = vec_keep(s.high, valid > VEC_LANES ? valid - VEC_LANES : 0, excluded);
    }
    return s;
}

/* o[d] = o[d] * correction, then += p[j] * values[j][d] over the valid keys. */
static inline void block_values(enum dtype dtype, const void *values, int64_t head_dim,
                                const float *p, int64_t valid, float correction, float *o)
{
    struct vec factor = vec_set1(correction);
    int64_t d = 0;
    for (; d + 2 * VEC_LANES <= head_dim; d += 2 * VEC_LANES) {
        struct vec first = vec_mul(vec_load(o + d), factor);
        struct vec second = vec_mul(vec_load(o + d + VEC_LANES), factor);
        for (int64_t j = 0; j < valid; j++) {
            struct vec weight = vec_set1(p[j]);
            int64_t at = j * head_dim + d;
            first = vec_fma(weight, act_load(dtype, values, at, VEC_LANES), first);
            second = vec_fma(weight, act_load(dtype, values, at + VEC_LANES, VEC_LANES), second);
        }
        vec_store(o + d, first);
        vec_store(o + d + VEC_LANES, second);
    }
    for (; d < head_dim; d += VEC_LANES) {
        int64_t left = head_dim - d;
        struct vec sum = vec_mul(vec_load_up_to(o + d, left), factor);
        for (int64_t j = 0; j < valid; j++)
            sum = vec_fma(vec_set1(p[j]), act_load(dtype, values, j * head_dim + d, left), sum);
        vec_store_up_to(o + d, sum, left);
    }
}

struct attention_job {
    const struct attention_kv *kv;
    int64_t rows;
    int32_t heads;
    const float *q;
    int64_t ldq;
    const struct attention_row *table;
    void *out;
    float *lse;
};

/* The query rounded to act; `rounded` has room for HEAD_DIM_MAX. */
static inline void round_query(enum dtype dtype, const float *q, int64_t head_dim, float *rounded)
{
    for (int64_t d = 0; d < head_dim; d += VEC_LANES) {
        int64_t left = head_dim - d;
        vec_store_up_to(rounded + d, act_round(dtype, vec_load_up_to(q + d, left)), left);
    }
}

static inline __attribute__((always_inline)) void
attention_row_head(const struct attention_job *job, enum dtype dtype, int64_t row, int32_t head)
{
    const struct attention_kv *kv = job->kv;
    const struct attention_row *table = &job->table[row];
    int64_t head_dim = kv->head_dim;
    int32_t kv_head = head / (job->heads / kv->kv_heads);
    float q[HEAD_DIM_MAX], o[HEAD_DIM_MAX], p[ATTENTION_BLOCK_TOKENS];
    round_query(dtype, job->q + row * job->ldq + head * head_dim, head_dim, q);
    memset(o, 0, (size_t)head_dim * sizeof *o);
    struct vec scale = vec_set1(1.0f / sqrtf((float)head_dim));
    float max = -INFINITY, sum = 0.0f;
    for (int32_t first = 0; first < table->key_count; first += ATTENTION_BLOCK_TOKENS) {
        int32_t block = table->blocks[first / ATTENTION_BLOCK_TOKENS];
        int64_t left = table->key_count - first;
        int64_t valid = left < ATTENTION_BLOCK_TOKENS ? left : ATTENTION_BLOCK_TOKENS;
        const void *keys = kv_block(kv, kv->keys, block, kv_head);
        struct key_lanes s = block_scores(dtype, keys, head_dim, q, scale, valid);
        float block_max = vec_max_lanes(vec_max(s.low, s.high));
        float new_max = max > block_max ? max : block_max;
        struct vec shift = vec_set1(new_max);
        struct vec low = vec_exp(vec_sub(s.low, shift)), high = vec_exp(vec_sub(s.high, shift));
        float correction = exp_one(max - new_max);
        sum = fmaf(sum, correction, vec_sum(vec_add(low, high)));
        max = new_max;
        vec_store(p, low);
        vec_store(p + VEC_LANES, high);
        block_values(dtype, kv_block(kv, kv->values, block, kv_head), head_dim, p, valid,
                     correction, o);
    }
    struct vec divisor = vec_set1(sum);
    for (int64_t d = 0; d < head_dim; d += VEC_LANES)
        act_store(dtype, job->out, (row * job->heads + head) * head_dim + d,
                  vec_div(vec_load_up_to(o + d, head_dim - d), divisor), head_dim - d);
    if (job->lse != NULL)
        job->lse[row * job->heads + head] = max + log_one(sum);
}

/* Items are (row, head) pairs, rows taken from both ends in turn: later rows of a sequence see more
 * keys, and this way every thread's range costs about the same. */
static inline void attention_items(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct attention_job *job = context;
    for (int64_t item = begin; item < end; item++) {
        int64_t turn = item / job->heads;
        int64_t row = turn % 2 == 0 ? turn / 2 : job->rows - 1 - turn / 2;
        int32_t head = (int32_t)(item % job->heads);
        if (job->kv->dtype == DTYPE_BF16)
            attention_row_head(job, DTYPE_BF16, row, head);
        else
            attention_row_head(job, DTYPE_F32, row, head);
    }
}

static inline void attention(struct parallel *pool, const struct attention_kv *kv, int64_t rows,
                             int32_t heads, const float *q, int64_t ldq,
                             const struct attention_row *table, void *out, float *lse)
{
    HONE_ASSERT(kv->dtype == DTYPE_BF16 || kv->dtype == DTYPE_F32);
    HONE_ASSERT(kv->head_dim <= HEAD_DIM_MAX && heads % kv->kv_heads == 0);
    struct attention_job job = {kv, rows, heads, q, ldq, table, out, lse};
    int64_t keys = rows > 0 ? table[rows - 1].key_count : 1;
    int64_t grain = ATTENTION_GRAIN_KEYS / keys;
    parallel_for(pool, rows * heads, grain > 1 ? grain : 1, attention_items, &job);
}

#endif

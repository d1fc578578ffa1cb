/* Where a KV head's block of keys and values is, and kv_store. */
#ifndef HONE_COMPUTE_CPU_ATTENTION_KV_BLOCK_H
#define HONE_COMPUTE_CPU_ATTENTION_KV_BLOCK_H

#include "infra/base/assert.h"
#include "infra/compute/ops.h"
#include "infra/compute/vec/vec.h"

#define CACHE_LINE_BYTES 64
#define HEAD_DIM_MAX     512

/* A block's keys and values of one KV head. */
struct block_place {
    const char *keys, *values;
};

static inline struct block_place block_place(const struct attention_kv *kv, int32_t block,
                                             int32_t kv_head)
{
    int64_t bytes = kv->dtype == DTYPE_BF16 ? 2 : 4;
    return (struct block_place){
        (const char *)kv->keys + attention_key_at(kv, block, kv_head, 0, 0) * bytes,
        (const char *)kv->values + attention_value_at(kv, block, kv_head, 0, 0) * bytes};
}

/* Bytes of a block's keys, or values, of one KV head. */
static inline int64_t head_block_bytes(const struct attention_kv *kv)
{
    return attention_block_values(kv->dtype, 1, kv->head_dim) * (kv->dtype == DTYPE_BF16 ? 2 : 4);
}

static inline void prefetch_bytes(const char *from, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += CACHE_LINE_BYTES)
        __builtin_prefetch(from + i);
}

/* The same, to the second-level cache only. */
static inline void prefetch_far(const char *from, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += CACHE_LINE_BYTES)
        __builtin_prefetch(from + i, 0, 2);
}

struct kv_store_job {
    const struct attention_kv *kv;
    const float *k, *v;
    int64_t ldk, ldv;
    const int32_t *block_ids, *offsets;
};

static inline void kv_store_head_f32(const struct kv_store_job *job, int64_t row, int32_t head)
{
    const struct attention_kv *kv = job->kv;
    int64_t dim = kv->head_dim, offset = job->offsets[row];
    float *keys = (float *)kv->keys + attention_key_at(kv, job->block_ids[row], head, offset, 0);
    float *values =
        (float *)kv->values + attention_value_at(kv, job->block_ids[row], head, offset, 0);
    const float *k = job->k + row * job->ldk + head * dim;
    for (int64_t d = 0; d < dim; d++)
        keys[d * ATTENTION_BLOCK_TOKENS] = k[d];
    memcpy(values, job->v + row * job->ldv + head * dim, (size_t)dim * sizeof *values);
}

/* 16 values of a row, rounded, `left` of them there and the rest zeros. */
static inline void round_lanes(const float *from, int64_t left, bf16 *rounded)
{
    vec_store_bf16(rounded, left > 0 ? vec_load_up_to(from, left) : vec_zero());
}

static inline void kv_store_head_bf16(const struct kv_store_job *job, int64_t row, int32_t head)
{
    const struct attention_kv *kv = job->kv;
    int64_t dim = kv->head_dim, width = attention_width(DTYPE_BF16, kv->head_dim);
    int64_t offset = job->offsets[row];
    bf16 *keys = (bf16 *)kv->keys + attention_key_at(kv, job->block_ids[row], head, offset, 0);
    bf16 *values =
        (bf16 *)kv->values + attention_value_at(kv, job->block_ids[row], head, offset, 0);
    const float *k = job->k + row * job->ldk + head * dim,
                *v = job->v + row * job->ldv + head * dim;
    for (int64_t d = 0; d < width; d += VEC_LANES) {
        bf16 rounded[VEC_LANES];
        round_lanes(k + d, dim - d, rounded);
        for (int64_t i = 0; i < VEC_LANES; i += 2)
            memcpy(keys + (d + i) * VEC_LANES, rounded + i, 2 * sizeof *keys);
        round_lanes(v + d, dim - d, rounded);
        for (int64_t i = 0; i < VEC_LANES; i++)
            values[d * ATTENTION_BLOCK_TOKENS + 2 * i] = rounded[i];
    }
}

/* A row's key or value lies in many cache lines: asks for them. */
static inline void kv_store_prefetch(const struct kv_store_job *job, int64_t row, int32_t head)
{
    const struct attention_kv *kv = job->kv;
    struct block_place place = block_place(kv, job->block_ids[row], head);
    int64_t offset = job->offsets[row];
    if (kv->dtype == DTYPE_F32) {
        for (int64_t d = 0; d < kv->head_dim; d++)
            __builtin_prefetch(place.keys + (d * ATTENTION_BLOCK_TOKENS + offset) * 4, 1);
        return;
    }
    int64_t width = attention_width(DTYPE_BF16, kv->head_dim);
    const char *keys = place.keys + offset / 16 * width * CACHE_LINE_BYTES / 2;
    for (int64_t pair = 0; pair < width / 2; pair++)
        __builtin_prefetch(keys + pair * CACHE_LINE_BYTES, 1);
    for (int64_t panel = 0; panel < width / 16; panel++)
        __builtin_prefetch(place.values + (panel * 16 + offset / 2) * CACHE_LINE_BYTES, 1);
}

static inline void kv_store_rows(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct kv_store_job *job = context;
    int32_t heads = job->kv->kv_heads;
    for (int64_t row = begin; row < end; row++)
        for (int32_t head = 0; head < heads; head++) {
            if (head + 1 < heads)
                kv_store_prefetch(job, row, head + 1);
            else if (row + 1 < end)
                kv_store_prefetch(job, row + 1, 0);
            if (job->kv->dtype == DTYPE_BF16)
                kv_store_head_bf16(job, row, head);
            else
                kv_store_head_f32(job, row, head);
        }
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

#endif

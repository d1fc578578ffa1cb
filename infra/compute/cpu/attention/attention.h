/* attention and attention_backward of the table. */
#ifndef HONE_COMPUTE_CPU_ATTENTION_ATTENTION_H
#define HONE_COMPUTE_CPU_ATTENTION_ATTENTION_H

#include "infra/compute/cpu/attention/backward_bf16.h"
#include "infra/compute/cpu/attention/backward_f32.h"
#include "infra/compute/cpu/attention/forward_bf16.h"
#include "infra/compute/cpu/attention/forward_f32.h"

static inline void attention(struct parallel *pool, const struct attention_kv *kv, int64_t rows,
                             int32_t heads, const float *q, int64_t ldq,
                             const struct attention_row *table, void *out, float *lse)
{
    HONE_ASSERT(kv->dtype == DTYPE_BF16 || kv->dtype == DTYPE_F32);
    bool wide = kv->dtype == DTYPE_F32;
    struct attention_job job = {wide ? attention_tile_f32 : attention_tile_bf16,
                                kv,
                                rows,
                                heads,
                                q,
                                ldq,
                                table,
                                out,
                                lse,
                                0,
                                0};
    attention_run(pool, &job);
}

static inline void attention_backward(struct parallel *pool, const struct attention_kv *kv,
                                      int64_t rows, int32_t heads, const float *q, int64_t ldq,
                                      const struct attention_row *table, const void *out,
                                      const float *lse, const float *d_out, float *dq, int64_t lddq,
                                      float *dk, float *dv, int64_t lddk)
{
    HONE_ASSERT(kv->dtype == DTYPE_BF16 || kv->dtype == DTYPE_F32);
    bool wide = kv->dtype == DTYPE_F32;
    struct attention_backward_job job = {wide ? backward_head_f32 : backward_head_bf16,
                                         kv,
                                         rows,
                                         heads,
                                         q,
                                         ldq,
                                         table,
                                         out,
                                         lse,
                                         d_out,
                                         dq,
                                         lddq,
                                         dk,
                                         dv,
                                         lddk};
    attention_backward_run(pool, &job);
}

#endif

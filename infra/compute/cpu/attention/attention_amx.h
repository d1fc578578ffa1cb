/* Attention of the AMX table: in bf16 mode its products run on tiles, with the same bits as the
 * other tables'. Only callable where cpu_isa_available(CPU_ISA_AMX). */
#ifndef HONE_COMPUTE_CPU_ATTENTION_ATTENTION_AMX_H
#define HONE_COMPUTE_CPU_ATTENTION_ATTENTION_AMX_H

#include "infra/compute/ops.h"

/* attention and attention_backward of ops.h. */
void attention_amx(struct parallel *pool, const struct attention_kv *kv, int64_t rows,
                   int32_t heads, const float *q, int64_t ldq, const struct attention_row *table,
                   void *out, float *lse);
void attention_backward_amx(struct parallel *pool, const struct attention_kv *kv, int64_t rows,
                            int32_t heads, const float *q, int64_t ldq,
                            const struct attention_row *table, const void *out, const float *lse,
                            const float *d_out, float *dq, int64_t lddq, float *dk, float *dv,
                            int64_t lddk);

#endif

/* All kernels of one instruction set, and the initialiser of its table. A table_*.c file includes
 * this once, compiled with that instruction set's flags (infra/compute/CMakeLists.txt). */
#ifndef HONE_COMPUTE_CPU_TABLE_H
#define HONE_COMPUTE_CPU_TABLE_H

#include "infra/compute/cpu/attention.h"
#include "infra/compute/cpu/attention_backward.h"
#include "infra/compute/cpu/elementwise.h"
#include "infra/compute/cpu/gemm.h"
#include "infra/compute/cpu/pack.h"
#include "infra/compute/cpu/rows.h"
#include "infra/compute/cpu/vocabulary.h"
#include "infra/compute/ops.h"

#define BACKEND_TABLE(table_name)                                                                  \
    {                                                                                              \
        .name = (table_name), .gemm_pack = gemm_pack, .gemm = gemm, .transpose = transpose,        \
        .cast = cast, .add = add, .scale = scale, .embed = embed,                                  \
        .embed_backward = embed_backward, .rmsnorm = rmsnorm,                                      \
        .rmsnorm_backward = rmsnorm_backward, .rope = rope, .swiglu = swiglu,                      \
        .swiglu_backward = swiglu_backward, .kv_store = kv_store, .attention = attention,          \
        .attention_backward = attention_backward, .token_logprob = token_logprob,                  \
        .token_logprob_backward = token_logprob_backward, .softmax_row = softmax_row,              \
        .adamw = adamw, .sum_squares = sum_squares,                                                \
    }

/* As many independent chains as registers hold beside the two operands. */
#define PEAK_CHAINS (VEC_REGISTERS >= 32 ? 12 : 6)

/* `steps` rounds over independent FMA chains; returns the FLOPs done. The result goes to *sink so
 * that the work is not removed. */
static inline double fma_chains(int64_t steps, float *sink)
{
    struct vec acc[PEAK_CHAINS], factor = vec_set1(0.999f), term = vec_set1(0.001f);
    float start[PEAK_CHAINS][VEC_LANES]; /* all different, or the compiler merges chains */
    for (int i = 0; i < PEAK_CHAINS * VEC_LANES; i++)
        start[i / VEC_LANES][i % VEC_LANES] = (float)i;
    UNROLL for (int i = 0; i < PEAK_CHAINS; i++)
    {
        acc[i] = vec_load(start[i]);
    }
    for (int64_t step = 0; step < steps; step++) {
        UNROLL for (int i = 0; i < PEAK_CHAINS; i++)
        {
            acc[i] = vec_fma(acc[i], factor, term);
        }
    }
    for (int i = 1; i < PEAK_CHAINS; i++)
        acc[0] = vec_add(acc[0], acc[i]);
    *sink = vec_sum(acc[0]);
    return (double)steps * PEAK_CHAINS * VEC_LANES * 2;
}

#endif

/* All kernels of one instruction set, and the initialiser of its table. A table_*.c file includes
 * this once, compiled with that instruction set's flags (infra/compute/CMakeLists.txt). */
#ifndef HONE_COMPUTE_CPU_TABLE_H
#define HONE_COMPUTE_CPU_TABLE_H

#include "infra/compute/cpu/attention/attention.h"
#include "infra/compute/cpu/elementwise.h"
#include "infra/compute/cpu/gemm.h"
#include "infra/compute/cpu/linear.h"
#include "infra/compute/cpu/pack.h"
#include "infra/compute/cpu/rows.h"
#include "infra/compute/cpu/vocabulary.h"
#include "infra/compute/ops.h"

#define BACKEND_TABLE(table_name)                                                                  \
    {                                                                                              \
        .name = (table_name), .gemm_pack = gemm_pack, .gemm = gemm,                                \
        .linear_backward = linear_backward, .cast = cast, .add = add, .scale = scale,              \
        .embed = embed, .embed_backward = embed_backward, .rmsnorm = rmsnorm,                      \
        .rmsnorm_backward = rmsnorm_backward, .rope = rope, .swiglu = swiglu,                      \
        .swiglu_backward = swiglu_backward, .kv_store = kv_store, .attention = attention,          \
        .attention_backward = attention_backward, .token_logprob = token_logprob,                  \
        .token_logprob_backward = token_logprob_backward, .cut_logits = cut_logits,                \
        .softmax_row = softmax_row, .adamw = adamw, .sum_squares = sum_squares,                    \
    }

#endif

/* linear_backward from the operations that it is defined by. */
#ifndef HONE_COMPUTE_CPU_LINEAR_H
#define HONE_COMPUTE_CPU_LINEAR_H

#include "infra/compute/cpu/elementwise.h"
#include "infra/compute/cpu/gemm.h"
#include "infra/compute/cpu/pack.h"
#include "infra/compute/ops.h"

static inline void linear_backward(struct parallel *pool, enum dtype dtype, int64_t rows,
                                   int64_t in, int64_t out, const float *dy, const void *x,
                                   const void *transposed_weight, float *dx, float *dweight,
                                   const struct linear_workspace *workspace)
{
    const void *dy_act = dy;
    int64_t padded = round_up(rows, BF16_BLOCK_K);
    if (dtype != DTYPE_F32) {
        cast(pool, rows * out, DTYPE_F32, dy, dtype, workspace->cast);
        dy_act = workspace->cast;
    }
    if (dx != NULL)
        gemm(pool, dtype, rows, in, out, dy_act, out, transposed_weight, dx, in, false);
    transpose(pool, dtype, rows, out, dy_act, out, workspace->transposed, padded);
    gemm_pack(pool, dtype, in, rows, x, in, false, workspace->packed);
    gemm(pool, dtype, out, in, rows, workspace->transposed, padded, workspace->packed, dweight, in,
         true);
}

#endif

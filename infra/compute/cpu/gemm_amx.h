/* bf16 matmul on AMX tiles: the same packed operand and the same bits as the other tables (N3).
 * Only callable where cpu_isa_available(CPU_ISA_AMX). */
#ifndef HONE_COMPUTE_CPU_GEMM_AMX_H
#define HONE_COMPUTE_CPU_GEMM_AMX_H

#include <stdbool.h>
#include <stdint.h>

#include "infra/compute/dtype.h"
#include "infra/compute/parallel.h"

/* What A is. fp32 is rounded to bf16. */
enum amx_a_kind {
    AMX_A_BF16,        /* bf16 [m][lda] */
    AMX_A_F32,         /* fp32 [m][lda] */
    AMX_A_F32_COLUMNS, /* fp32 [k][lda]: the transpose of what is multiplied */
};

struct amx_a {
    enum amx_a_kind kind;
    const void *values;
    int64_t lda;
};

void gemm_amx_bf16(struct parallel *pool, int64_t m, int64_t n, int64_t k, const struct amx_a *a,
                   const bf16 *packed, float *c, int64_t ldc, bool accumulate);

/* linear_backward of ops.h; `packed` is its workspace's. The matmuls pack dy themselves, as it is
 * and transposed. */
void linear_backward_amx_bf16(struct parallel *pool, int64_t rows, int64_t in, int64_t out,
                              const float *dy, const bf16 *x, const bf16 *transposed_weight,
                              float *dx, float *dweight, bf16 *packed);

/* `steps` rounds of four independent tile products; returns the FLOPs done. */
double peak_amx(int64_t steps, float *sink);
/* The same with two tiles of A and two of B loaded for every four products. */
double peak_amx_loads(int64_t steps, float *sink);

#endif

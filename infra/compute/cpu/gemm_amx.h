/* bf16 matmul on AMX tiles: the same packed operand and the same bits as the other tables (N3).
 * Only callable where cpu_isa_available(CPU_ISA_AMX). */
#ifndef HONE_COMPUTE_CPU_GEMM_AMX_H
#define HONE_COMPUTE_CPU_GEMM_AMX_H

#include <stdbool.h>
#include <stdint.h>

#include "infra/compute/dtype.h"
#include "infra/compute/parallel.h"

void gemm_amx_bf16(struct parallel *pool, int64_t m, int64_t n, int64_t k, const bf16 *a,
                   int64_t lda, const bf16 *packed, float *c, int64_t ldc, bool accumulate);

/* `steps` rounds of four independent tile products; returns the FLOPs done. */
double peak_amx(int64_t steps, float *sink);
/* The same with two tiles of A and two of B loaded for every four products. */
double peak_amx_loads(int64_t steps, float *sink);

#endif

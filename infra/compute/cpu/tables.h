/* The tables of the CPU instruction sets and their peak-rate probes. Each symbol exists on every
 * machine; only run what cpu_isa_available allows. */
#ifndef HONE_COMPUTE_CPU_TABLES_H
#define HONE_COMPUTE_CPU_TABLES_H

#include "infra/compute/ops.h"

extern const struct backend_ops table_scalar;
extern const struct backend_ops table_avx2;
extern const struct backend_ops table_avx512;

/* `steps` rounds of independent fused multiply-adds in registers; returns the FLOPs done. */
double peak_scalar(int64_t steps, float *sink);
double peak_avx2(int64_t steps, float *sink);
double peak_avx512(int64_t steps, float *sink);

#endif

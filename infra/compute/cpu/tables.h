/* The tables of the CPU instruction sets and the probes that measure their limits. Each symbol
 * exists on every machine; only run what cpu_isa_available allows. */
#ifndef HONE_COMPUTE_CPU_TABLES_H
#define HONE_COMPUTE_CPU_TABLES_H

#include "infra/compute/ops.h"

extern const struct backend_ops table_scalar;
extern const struct backend_ops table_avx2;
extern const struct backend_ops table_avx512;

/* What `hone bench` holds the kernels against. */
struct cpu_probes {
    /* `steps` rounds of independent fused multiply-adds in registers; returns the FLOPs done. */
    double (*fma)(int64_t steps, float *sink);
    /* Loads `bytes` (a multiple of 512, 64-byte aligned) from memory, `rounds` times. */
    void (*read)(const void *from, int64_t bytes, int64_t rounds, float *sink);
    /* C = A B as backend_ops.gemm does for bf16, with additions in whatever order is fastest: what
     * the canonical order costs is the ratio of the two. */
    void (*gemm_free)(struct parallel *pool, int64_t m, int64_t n, int64_t k, const bf16 *a,
                      int64_t lda, const bf16 *packed, float *c, int64_t ldc);
};

extern const struct cpu_probes probes_scalar;
extern const struct cpu_probes probes_avx2;
extern const struct cpu_probes probes_avx512;

#endif

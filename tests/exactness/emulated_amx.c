/* The AMX matmul with emulated tile instructions, under names of its own beside the real one. */
#include "tests/exactness/exact_tables.h"

#define HONE_TILE_EMULATION
#define gemm_amx_bf16  emulated_gemm_amx_bf16
#define peak_amx       emulated_peak_amx
#define peak_amx_loads emulated_peak_amx_loads
#include "infra/compute/cpu/gemm_amx.c" /* compiled for emulation */

static void (*base_gemm)(struct parallel *pool, enum dtype dtype, int64_t m, int64_t n, int64_t k,
                         const void *a, int64_t lda, const void *packed, float *c, int64_t ldc,
                         bool accumulate);

static void gemm(struct parallel *pool, enum dtype dtype, int64_t m, int64_t n, int64_t k,
                 const void *a, int64_t lda, const void *packed, float *c, int64_t ldc,
                 bool accumulate)
{
    if (dtype == DTYPE_BF16)
        gemm_amx_bf16(NULL, m, n, k, a, lda, packed, c, ldc, accumulate);
    else
        base_gemm(pool, dtype, m, n, k, a, lda, packed, c, ldc, accumulate);
}

struct backend_ops exact_table_amx(const struct backend_ops *base)
{
    struct backend_ops table = *base;
    base_gemm = base->gemm;
    table.name = "amx (emulated)";
    table.gemm = gemm;
    return table;
}

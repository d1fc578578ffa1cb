/* The AMX products with emulated tile instructions, under names of its own beside the real one. */
#include "tests/exactness/exact_tables.h"

#define HONE_TILE_EMULATION
#define gemm_amx_bf16            emulated_gemm_amx_bf16
#define linear_backward_amx_bf16 emulated_linear_backward
#define peak_amx                 emulated_peak_amx
#define peak_amx_loads           emulated_peak_amx_loads
#define attention_amx            emulated_attention
#define attention_backward_amx   emulated_attention_backward
#include "infra/compute/cpu/attention/attention_amx.c" /* compiled for emulation */
#include "infra/compute/cpu/gemm_amx.c"

static void (*base_gemm)(struct parallel *pool, enum dtype dtype, int64_t m, int64_t n, int64_t k,
                         const void *a, int64_t lda, const void *packed, float *c, int64_t ldc,
                         bool accumulate);

static void gemm(struct parallel *pool, enum dtype dtype, int64_t m, int64_t n, int64_t k,
                 const void *a, int64_t lda, const void *packed, float *c, int64_t ldc,
                 bool accumulate)
{
    const struct amx_a operand = {AMX_A_BF16, a, lda};
    if (dtype == DTYPE_BF16)
        gemm_amx_bf16(NULL, m, n, k, &operand, packed, c, ldc, accumulate);
    else
        base_gemm(pool, dtype, m, n, k, a, lda, packed, c, ldc, accumulate);
}

static void (*base_linear_backward)(struct parallel *pool, enum dtype dtype, int64_t rows,
                                    int64_t in, int64_t out, const float *dy, const void *x,
                                    const void *transposed_weight, float *dx, float *dweight,
                                    const struct linear_workspace *workspace);

static void linear_backward(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t in,
                            int64_t out, const float *dy, const void *x,
                            const void *transposed_weight, float *dx, float *dweight,
                            const struct linear_workspace *workspace)
{
    if (dtype == DTYPE_BF16)
        linear_backward_amx_bf16(NULL, rows, in, out, dy, x, transposed_weight, dx, dweight,
                                 workspace->packed);
    else
        base_linear_backward(pool, dtype, rows, in, out, dy, x, transposed_weight, dx, dweight,
                             workspace);
}

static void attention_inline(struct parallel *pool, const struct attention_kv *kv, int64_t rows,
                             int32_t heads, const float *q, int64_t ldq,
                             const struct attention_row *table, void *out, float *lse)
{
    (void)pool;
    attention_amx(NULL, kv, rows, heads, q, ldq, table, out, lse);
}

static void attention_backward_inline(struct parallel *pool, const struct attention_kv *kv,
                                      int64_t rows, int32_t heads, const float *q, int64_t ldq,
                                      const struct attention_row *table, const void *out,
                                      const float *lse, const float *d_out, float *dq, int64_t lddq,
                                      float *dk, float *dv, int64_t lddk)
{
    (void)pool;
    attention_backward_amx(NULL, kv, rows, heads, q, ldq, table, out, lse, d_out, dq, lddq, dk, dv,
                           lddk);
}

struct backend_ops exact_table_amx(const struct backend_ops *base)
{
    struct backend_ops table = *base;
    base_gemm = base->gemm;
    base_linear_backward = base->linear_backward;
    table.name = "amx (emulated)";
    table.gemm = gemm;
    table.linear_backward = linear_backward;
    table.linear_packs_dy = true;
    table.attention = attention_inline;
    table.attention_backward = attention_backward_inline;
    return table;
}

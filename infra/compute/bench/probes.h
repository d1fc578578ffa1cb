/* The probes of one instruction set (cpu/tables.h), written with its `struct vec`. Included by the
 * table_*.c files alone. */
#ifndef HONE_COMPUTE_BENCH_PROBES_H
#define HONE_COMPUTE_BENCH_PROBES_H

#include "infra/compute/cpu/gemm.h"
#include "infra/compute/cpu/tables.h"

#define CPU_PROBES                                                                                 \
    {                                                                                              \
        fma_chains, read_sweeps, gemm_free                                                         \
    }

/* As many independent chains as registers hold beside the two operands. */
#define PEAK_CHAINS  (VEC_REGISTERS >= 32 ? 12 : 6)
#define READ_STREAMS 8 /* vectors per step: 512 bytes */

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

static inline void read_sweeps(const void *from, int64_t bytes, int64_t rounds, float *sink)
{
    struct vec acc[READ_STREAMS / 2];
    UNROLL for (int i = 0; i < READ_STREAMS / 2; i++)
    {
        acc[i] = vec_zero();
    }
    for (int64_t round = 0; round < rounds; round++) {
        const float *p = from, *end = p + bytes / (int64_t)sizeof *p;
        __asm__ volatile("" : : : "memory"); /* every round reads again */
        for (; p < end; p += READ_STREAMS * VEC_LANES) {
            UNROLL for (int i = 0; i < READ_STREAMS; i++)
            {
                acc[i % (READ_STREAMS / 2)] =
                    vec_add(acc[i % (READ_STREAMS / 2)], vec_load(p + i * VEC_LANES));
            }
        }
    }
    for (int i = 1; i < READ_STREAMS / 2; i++)
        acc[0] = vec_add(acc[0], acc[i]);
    *sink = vec_sum(acc[0]);
}

/* One chain per element through all of a chunk: no even and odd halves, C only at its ends. */
TILE_INLINE void gemm_tile_free(const int rows, const int panels, const struct gemm_tile *arguments)
{
    const struct gemm_tile tile = *arguments;
    struct vec acc[GEMM_TILE_ROWS_MAX][GEMM_TILE_PANELS_MAX];
    UNROLL for (int r = 0; r < rows; r++)
    {
        UNROLL for (int p = 0; p < panels; p++)
        {
            acc[r][p] = tile.from_zero ? vec_zero() : vec_load(tile.c + r * tile.ldc + 16 * p);
        }
    }
    for (int64_t pair = 0; pair < tile.k; pair += 2) {
        gemm_step(rows, panels, false, 0, &tile, pair, acc);
        gemm_step(rows, panels, false, 1, &tile, pair, acc);
    }
    UNROLL for (int r = 0; r < rows; r++)
    {
        UNROLL for (int p = 0; p < panels; p++)
        {
            vec_store(tile.c + r * tile.ldc + 16 * p, acc[r][p]);
        }
    }
}

#define DEFINE_TILE_FREE(R, P)                                                                     \
    static inline void gemm_free_##R##x##P(const struct gemm_tile *tile)                           \
    {                                                                                              \
        gemm_tile_free(R, P, tile);                                                                \
    }                                                                                              \
    static inline void gemm_free_##R##x1_(const struct gemm_tile *tile)                            \
    {                                                                                              \
        gemm_tile_free(R, 1, tile);                                                                \
    }
GEMM_TILES_F32(DEFINE_TILE_FREE)
#undef DEFINE_TILE_FREE

#define TILE_ENTRY_FREE(R, P) {R, P, gemm_free_##R##x##P, gemm_free_##R##x1_},
static const struct gemm_shape shapes_free[] = {GEMM_TILES_F32(TILE_ENTRY_FREE)};
#undef TILE_ENTRY_FREE
static const struct gemm_form form_free = {shapes_free, 2};

static inline void gemm_panels_free(const struct gemm_tile *chunk, int64_t rows, int64_t panels)
{
    if (rows < GEMM_WIDE_ROWS || VEC_REGISTERS == 0)
        gemm_run_rows(&form_free, chunk, rows, panels);
    else
        gemm_run_wide(&form_f32, chunk, rows, panels);
}

static inline void gemm_free(struct parallel *pool, int64_t m, int64_t n, int64_t k, const bf16 *a,
                             int64_t lda, const bf16 *packed, float *c, int64_t ldc)
{
    struct gemm_job job = {DTYPE_BF16, m, n, k, a, lda, packed, c, ldc, false, NULL, 0, 0, 0, 0};
    job.run_panels = gemm_panels_free;
    gemm_run(pool, &job);
}

#endif

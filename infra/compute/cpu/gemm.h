/* C = A B from packed panels (N2, N3, N4). A rows are expanded to fp32 into a stack buffer of
 * GEMM_ROWS x GEMM_CHUNK_K, then register tiles of ROWS x PANELS run over it.
 *
 * A tile's bits do not depend on its shape: each element has its own chain, in ascending k, and the
 * chain passes through C in memory between chunks of k, which is exact. */
#ifndef HONE_COMPUTE_CPU_GEMM_H
#define HONE_COMPUTE_CPU_GEMM_H

#include "infra/compute/cpu/pack.h"

#define GEMM_ROWS             48
#define GEMM_CHUNK_K          256
#define GEMM_GRAIN_FMAS       32768
#define GEMM_ITEMS_PER_THREAD 4

/* Register tiles, widest rows first: accumulators must fit beside a B vector and a broadcast. */
#if VEC_REGISTERS >= 32
#define GEMM_TILES(X) X(12, 2) X(8, 3) X(4, 4) X(2, 4) X(1, 4)
#elif VEC_REGISTERS >= 16
#define GEMM_TILES(X) X(6, 1) X(4, 1) X(2, 3) X(1, 4)
#else
#define GEMM_TILES(X) X(1, 2)
#endif

struct gemm_job {
    enum dtype dtype;
    int64_t m, n, k;
    const void *a;
    int64_t lda;
    const void *packed;
    float *c;
    int64_t ldc;
    bool accumulate;
    int64_t row_tiles, panels_per_item, items_per_row_tile;
};

/* The tile kernels' arguments: `a` is expanded fp32 [rows][GEMM_CHUNK_K]; panel p of B starts at
 * b + p * b_stride elements; panel p of C at c + 16 p. */
struct gemm_tile {
    const float *a;
    const void *b;
    int64_t b_stride;
    int64_t k;
    float *c;
    int64_t ldc;
    bool from_zero;
};

#define TILE_INLINE static inline __attribute__((always_inline))

/* Unrolling puts accumulators into registers. Without registers to fill, or with a sanitizer's
 * check beside every access, it would only cost compile time. */
#if VEC_REGISTERS > 0 && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define UNROLL _Pragma("GCC unroll 16")
#else
#define UNROLL
#endif

TILE_INLINE void gemm_tile_f32(const int rows, const int panels, const struct gemm_tile *tile)
{
    struct vec acc[12][4];
    UNROLL for (int r = 0; r < rows; r++)
    {
        UNROLL for (int p = 0; p < panels; p++)
        {
            acc[r][p] = tile->from_zero ? vec_zero() : vec_load(tile->c + r * tile->ldc + 16 * p);
        }
    }
    const float *a = tile->a;
    const float *b = tile->b;
    for (int64_t k = 0; k < tile->k; k++) {
        struct vec column[4];
        UNROLL for (int p = 0; p < panels; p++)
        {
            column[p] = vec_load(b + p * tile->b_stride + k * PANEL_COLUMNS);
        }
        UNROLL for (int r = 0; r < rows; r++)
        {
            struct vec value = vec_set1(a[r * GEMM_CHUNK_K + k]);
            UNROLL for (int p = 0; p < panels; p++)
            {
                acc[r][p] = vec_fma(value, column[p], acc[r][p]);
            }
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
    {
        UNROLL for (int p = 0; p < panels; p++)
        {
            vec_store(tile->c + r * tile->ldc + 16 * p, acc[r][p]);
        }
    }
}

/* One chain of 16 FMAs per element over the even or the odd k of a block of 32. */
TILE_INLINE void gemm_half_block(const int rows, const int panels, const int odd, const float *a,
                                 const bf16 *b, int64_t b_stride, struct vec acc[12][4])
{
    UNROLL for (int r = 0; r < rows; r++)
    {
        UNROLL for (int p = 0; p < panels; p++)
        {
            acc[r][p] = vec_zero();
        }
    }
    for (int pair = 0; pair < BF16_BLOCK_K / 2; pair++) {
        struct vec column[4];
        UNROLL for (int p = 0; p < panels; p++)
        {
            const bf16 *pairs = b + p * b_stride + pair * 2 * PANEL_COLUMNS;
            column[p] = odd ? vec_load_odd(pairs) : vec_load_even(pairs);
        }
        UNROLL for (int r = 0; r < rows; r++)
        {
            struct vec value = vec_set1(a[r * GEMM_CHUNK_K + 2 * pair + odd]);
            UNROLL for (int p = 0; p < panels; p++)
            {
                acc[r][p] = vec_fma(value, column[p], acc[r][p]);
            }
        }
    }
}

TILE_INLINE void gemm_tile_bf16(const int rows, const int panels, const struct gemm_tile *tile)
{
    float even[12][4 * PANEL_COLUMNS];
    for (int64_t k = 0; k < tile->k; k += BF16_BLOCK_K) {
        const bf16 *b = (const bf16 *)tile->b + k * PANEL_COLUMNS;
        struct vec acc[12][4];
        gemm_half_block(rows, panels, 0, tile->a + k, b, tile->b_stride, acc);
        UNROLL for (int r = 0; r < rows; r++)
        {
            UNROLL for (int p = 0; p < panels; p++)
            {
                vec_store(even[r] + 16 * p, acc[r][p]);
            }
        }
        gemm_half_block(rows, panels, 1, tile->a + k, b, tile->b_stride, acc);
        bool from_zero = tile->from_zero && k == 0;
        UNROLL for (int r = 0; r < rows; r++)
        {
            UNROLL for (int p = 0; p < panels; p++)
            {
                float *c = tile->c + r * tile->ldc + 16 * p;
                struct vec start = from_zero ? vec_zero() : vec_load(c);
                struct vec block = vec_add(vec_load(even[r] + 16 * p), acc[r][p]);
                vec_store(c, vec_add(start, block));
            }
        }
    }
}

/* Instantiates every tile shape as gemm_f32_RxP and gemm_bf16_RxP. */
#define DEFINE_TILE(R, P)                                                                          \
    static inline void gemm_f32_##R##x##P(const struct gemm_tile *tile)                            \
    {                                                                                              \
        gemm_tile_f32(R, P, tile);                                                                 \
    }                                                                                              \
    static inline void gemm_f32_##R##x1_(const struct gemm_tile *tile)                             \
    {                                                                                              \
        gemm_tile_f32(R, 1, tile);                                                                 \
    }                                                                                              \
    static inline void gemm_bf16_##R##x##P(const struct gemm_tile *tile)                           \
    {                                                                                              \
        gemm_tile_bf16(R, P, tile);                                                                \
    }                                                                                              \
    static inline void gemm_bf16_##R##x1_(const struct gemm_tile *tile)                            \
    {                                                                                              \
        gemm_tile_bf16(R, 1, tile);                                                                \
    }
GEMM_TILES(DEFINE_TILE)
#undef DEFINE_TILE

struct gemm_shape {
    int rows, panels;
    void (*f32)(const struct gemm_tile *tile);
    void (*f32_one_panel)(const struct gemm_tile *tile);
    void (*bf16)(const struct gemm_tile *tile);
    void (*bf16_one_panel)(const struct gemm_tile *tile);
};

#define TILE_ENTRY(R, P)                                                                           \
    {R, P, gemm_f32_##R##x##P, gemm_f32_##R##x1_, gemm_bf16_##R##x##P, gemm_bf16_##R##x1_},

static const struct gemm_shape gemm_shapes[] = {GEMM_TILES(TILE_ENTRY)};
#undef TILE_ENTRY

/* `rows` rows against `panels` panels with one shape: panels outside, so that B's chunk stays in
 * the first-level cache while the rows pass over it. rows is a multiple of shape->rows. */
static inline void gemm_run_shape(const struct gemm_shape *shape, enum dtype dtype,
                                  const struct gemm_tile *chunk, int64_t row, int64_t rows,
                                  int64_t panels)
{
    int64_t value_bytes = dtype == DTYPE_BF16 ? 2 : 4;
    for (int64_t panel = 0; panel < panels;) {
        bool wide = panels - panel >= shape->panels;
        void (*run)(const struct gemm_tile *tile) =
            dtype == DTYPE_BF16 ? (wide ? shape->bf16 : shape->bf16_one_panel)
                                : (wide ? shape->f32 : shape->f32_one_panel);
        struct gemm_tile tile = *chunk;
        tile.b = (const char *)chunk->b + panel * chunk->b_stride * value_bytes;
        for (int64_t r = row; r < row + rows; r += shape->rows) {
            tile.a = chunk->a + r * GEMM_CHUNK_K;
            tile.c = chunk->c + r * chunk->ldc + panel * PANEL_COLUMNS;
            run(&tile);
        }
        panel += wide ? shape->panels : 1;
    }
}

static inline void gemm_run_rows(enum dtype dtype, const struct gemm_tile *chunk, int64_t rows,
                                 int64_t panels)
{
    int64_t row = 0;
    for (size_t s = 0; s < sizeof gemm_shapes / sizeof gemm_shapes[0] && row < rows; s++) {
        int64_t covered = (rows - row) / gemm_shapes[s].rows * gemm_shapes[s].rows;
        if (covered > 0)
            gemm_run_shape(&gemm_shapes[s], dtype, chunk, row, covered, panels);
        row += covered;
    }
}

/* The last panel when n is not a multiple of 16: through a buffer with all 16 columns. */
static inline void gemm_run_partial(enum dtype dtype, const struct gemm_tile *chunk, int64_t rows,
                                    int64_t columns)
{
    _Alignas(64) float buffer[GEMM_ROWS][PANEL_COLUMNS];
    for (int64_t r = 0; r < rows && !chunk->from_zero; r++)
        vec_store(buffer[r], vec_load_part(chunk->c + r * chunk->ldc, columns));
    struct gemm_tile tile = *chunk;
    tile.c = buffer[0];
    tile.ldc = PANEL_COLUMNS;
    gemm_run_rows(dtype, &tile, rows, 1);
    for (int64_t r = 0; r < rows; r++)
        memcpy(chunk->c + r * chunk->ldc, buffer[r], (size_t)columns * sizeof(float));
}

/* Rows of A from column k on as fp32, bf16 padded with zeros to a multiple of 32 columns. */
static inline void gemm_expand(const struct gemm_job *job, int64_t row, int64_t rows, int64_t k,
                               int64_t k_count, float *expanded)
{
    for (int64_t r = 0; r < rows; r++) {
        int64_t from = (row + r) * job->lda + k;
        float *out = expanded + r * GEMM_CHUNK_K;
        if (job->dtype == DTYPE_F32) {
            memcpy(out, (const float *)job->a + from, (size_t)k_count * sizeof *out);
            continue;
        }
        for (int64_t i = 0; i < round_up(k_count, BF16_BLOCK_K); i += VEC_LANES)
            vec_store(out + i, i < k_count ? act_load(DTYPE_BF16, job->a, from + i, k_count - i)
                                           : vec_zero());
    }
}

/* One item: a tile of GEMM_ROWS rows and a range of panels. */
static inline void gemm_item(const struct gemm_job *job, int64_t row, int64_t panel,
                             int64_t panel_end)
{
    _Alignas(64) float expanded[GEMM_ROWS * GEMM_CHUNK_K];
    int64_t rows = at_most(job->m - row, GEMM_ROWS);
    int64_t whole = at_most(panel_end, job->n / PANEL_COLUMNS);
    int64_t k_packed = job->dtype == DTYPE_BF16 ? round_up(job->k, BF16_BLOCK_K) : job->k;
    int64_t value_bytes = job->dtype == DTYPE_BF16 ? 2 : 4;
    for (int64_t k = 0; k < job->k; k += GEMM_CHUNK_K) {
        gemm_expand(job, row, rows, k, at_most(job->k - k, GEMM_CHUNK_K), expanded);
        struct gemm_tile chunk = {
            .a = expanded,
            .b_stride = k_packed * PANEL_COLUMNS,
            .k = at_most(k_packed - k, GEMM_CHUNK_K),
            .c = job->c + row * job->ldc + panel * PANEL_COLUMNS,
            .ldc = job->ldc,
            .from_zero = k == 0 && !job->accumulate,
        };
        const char *b = (const char *)job->packed + k * PANEL_COLUMNS * value_bytes;
        chunk.b = b + panel * chunk.b_stride * value_bytes;
        if (whole > panel)
            gemm_run_rows(job->dtype, &chunk, rows, whole - panel);
        if (whole < panel_end) {
            chunk.b = b + whole * chunk.b_stride * value_bytes;
            chunk.c = job->c + row * job->ldc + whole * PANEL_COLUMNS;
            gemm_run_partial(job->dtype, &chunk, rows, job->n - whole * PANEL_COLUMNS);
        }
    }
}

static inline void gemm_items(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct gemm_job *job = context;
    int64_t panels = (job->n + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
    for (int64_t item = begin; item < end; item++) {
        int64_t row = item / job->items_per_row_tile * GEMM_ROWS;
        int64_t panel = item % job->items_per_row_tile * job->panels_per_item;
        gemm_item(job, row, panel, at_most(panel + job->panels_per_item, panels));
    }
}

/* Splits rows first; panels too when there are too few row tiles for the threads. */
static inline void gemm_plan(struct gemm_job *job, int threads)
{
    int64_t panels = (job->n + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
    int64_t row_tiles = (job->m + GEMM_ROWS - 1) / GEMM_ROWS;
    int64_t wanted = threads > 1 ? (int64_t)threads * GEMM_ITEMS_PER_THREAD : 1;
    int64_t splits = at_most((wanted + row_tiles - 1) / row_tiles, panels);
    job->panels_per_item = (panels + splits - 1) / splits;
    job->items_per_row_tile = (panels + job->panels_per_item - 1) / job->panels_per_item;
    job->row_tiles = row_tiles;
}

static inline void gemm(struct parallel *pool, enum dtype dtype, int64_t m, int64_t n, int64_t k,
                        const void *a, int64_t lda, const void *packed, float *c, int64_t ldc,
                        bool accumulate)
{
    HONE_ASSERT(dtype == DTYPE_BF16 || dtype == DTYPE_F32);
    HONE_ASSERT(n >= 1 && k >= 1 && lda >= k && ldc >= n);
    struct gemm_job job = {dtype, m, n, k, a, lda, packed, c, ldc, accumulate, 0, 0, 0};
    gemm_plan(&job, parallel_threads(pool));
    int64_t item_fmas = at_most(m, GEMM_ROWS) * job.panels_per_item * PANEL_COLUMNS * k;
    int64_t grain = GEMM_GRAIN_FMAS / item_fmas;
    parallel_for(pool, job.row_tiles * job.items_per_row_tile, grain > 1 ? grain : 1, gemm_items,
                 &job);
}

#endif

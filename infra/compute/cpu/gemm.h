/* C = A B from packed panels (N2, N3, N4).
 *
 * A block of rows of A is expanded to fp32 for a chunk of k, then register tiles of ROWS x PANELS
 * run over it, panels outermost, so that a panel's chunk is read from memory once for all of the
 * rows. With many rows a bf16 panel is expanded to fp32 too, once for all of them: widening is
 * exact.
 *
 * A tile's bits do not depend on its shape: each element has its own chain, in ascending k, and the
 * chain passes through C in memory between chunks of k, which is exact. */
#ifndef HONE_COMPUTE_CPU_GEMM_H
#define HONE_COMPUTE_CPU_GEMM_H

#include "infra/compute/cpu/pack.h"

#define GEMM_ROWS              96   /* of one item */
#define GEMM_CHUNK_K           256  /* so that a panel's chunk stays in the first-level cache */
#define GEMM_FEW_ROWS          16   /* bound by reading B: */
#define GEMM_CHUNK_K_FEW       4096 /* long pieces of a panel suit the hardware's prefetcher */
#define GEMM_PREFETCH_BYTES    384
#define GEMM_A_PAD             16 /* rows whose distance is a power of two share cache sets */
#define GEMM_EXPANDED          (GEMM_ROWS * (GEMM_CHUNK_K + GEMM_A_PAD)) /* values */
#define GEMM_WIDE_ROWS         48 /* from here on expanding B to fp32 pays */
#define GEMM_GROUP_PANELS      12 /* of GEMM_CHUNK_K, or */
#define GEMM_GROUP_PANELS_FEW  4  /* of longer chunks stay in the second-level cache */
#define GEMM_GRAIN_FMAS        32768
#define GEMM_ITEMS_PER_THREAD  4
#define GEMM_PANELS_PER_THREAD 8
#define GEMM_ROWS_MULTIPLE     12

/* Register tiles, widest rows first: accumulators must fit beside B vectors and a broadcast. A bf16
 * tile has an even and an odd accumulator per element. */
#if VEC_REGISTERS >= 32
#define GEMM_TILES_F32(X)  X(12, 2) X(8, 3) X(4, 4) X(2, 4) X(1, 4)
#define GEMM_TILES_BF16(X) X(6, 2) X(4, 3) X(2, 4) X(1, 6)
#define GEMM_WIDE_PANELS   2
#elif VEC_REGISTERS >= 16
#define GEMM_TILES_F32(X)  X(6, 1) X(4, 1) X(2, 3) X(1, 4)
#define GEMM_TILES_BF16(X) X(3, 1) X(2, 1) X(1, 3)
#define GEMM_WIDE_PANELS   1
#else
#define GEMM_TILES_F32(X)  X(1, 2)
#define GEMM_TILES_BF16(X) X(1, 2)
#define GEMM_WIDE_PANELS   1
#endif
#define GEMM_TILE_ROWS_MAX   12
#define GEMM_TILE_PANELS_MAX 6

/* The tile kernels' arguments: `a` is expanded fp32 with row stride lda; panel p of B starts at
 * b + p * b_stride elements; panel p of C at c + 16 p. */
struct gemm_tile {
    const float *a;
    int64_t lda;
    const void *b;
    int64_t b_stride;
    int64_t k;
    float *c;
    int64_t ldc;
    bool from_zero;
};

struct gemm_job {
    enum dtype dtype;
    int64_t m, n, k;
    const void *a;
    int64_t lda;
    const void *packed;
    float *c;
    int64_t ldc;
    bool accumulate;
    /* A chunk of k: `rows` rows against `panels` whole panels. */
    void (*run_panels)(const struct gemm_tile *chunk, int64_t rows, int64_t panels);
    int64_t rows_per_item, row_items, panels_per_item, panel_items;
};

#define TILE_INLINE static inline __attribute__((always_inline))

/* Unrolling puts accumulators into registers. Without registers to fill, or with a sanitizer's
 * check beside every access, it would only cost compile time. */
#if VEC_REGISTERS > 0 && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define UNROLL _Pragma("GCC unroll 16")
#else
#define UNROLL
#endif

/* The line of every panel that is needed GEMM_PREFETCH_BYTES from now. */
TILE_INLINE void gemm_prefetch(const void *b, int64_t value_bytes, int64_t b_stride,
                               const int panels)
{
    UNROLL for (int p = 0; p < panels; p++)
    {
        __builtin_prefetch((const char *)b + p * b_stride * value_bytes + GEMM_PREFETCH_BYTES);
    }
}

TILE_INLINE void gemm_tile_f32(const int rows, const int panels, const struct gemm_tile *tile)
{
    struct vec acc[GEMM_TILE_ROWS_MAX][GEMM_TILE_PANELS_MAX];
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
        if (rows <= 2)
            gemm_prefetch(b + k * PANEL_COLUMNS, sizeof *b, tile->b_stride, panels);
        struct vec column[GEMM_TILE_PANELS_MAX];
        UNROLL for (int p = 0; p < panels; p++)
        {
            column[p] = vec_load(b + p * tile->b_stride + k * PANEL_COLUMNS);
        }
        UNROLL for (int r = 0; r < rows; r++)
        {
            struct vec value = vec_set1(a[r * tile->lda + k]);
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

/* Where the k pair of panel p is, and its even or odd half as a vector. */
TILE_INLINE struct vec gemm_half(const bool wide, const int odd, const struct gemm_tile *tile,
                                 int64_t p, int64_t k)
{
    int64_t at = p * tile->b_stride + k * PANEL_COLUMNS;
    if (wide)
        return vec_load((const float *)tile->b + at + odd * PANEL_COLUMNS);
    const bf16 *pairs = (const bf16 *)tile->b + at;
    return odd ? vec_load_odd(pairs) : vec_load_even(pairs);
}

/* One step of both chains, for more panels than rows: B vectors come one pair at a time. Reading B
 * is the limit then, unless a prefetch hides it and each of its lines is read once. */
TILE_INLINE void gemm_step_few(const int rows, const int panels, const struct gemm_tile *tile,
                               int64_t k, struct vec even[GEMM_TILE_ROWS_MAX][GEMM_TILE_PANELS_MAX],
                               struct vec odd[GEMM_TILE_ROWS_MAX][GEMM_TILE_PANELS_MAX])
{
    const bf16 *b = (const bf16 *)tile->b + k * PANEL_COLUMNS;
    gemm_prefetch(b, sizeof *b, tile->b_stride, panels);
    UNROLL for (int p = 0; p < panels; p++)
    {
        struct vec_pair column = vec_load_pair(b + p * tile->b_stride);
        UNROLL for (int r = 0; r < rows; r++)
        {
            const float *a = tile->a + r * tile->lda + k;
            even[r][p] = vec_fma(vec_set1(a[0]), column.even, even[r][p]);
            odd[r][p] = vec_fma(vec_set1(a[1]), column.odd, odd[r][p]);
        }
    }
}

/* One step of the even or the odd chains, for no more panels than rows: B vectors stay while the
 * rows pass. */
TILE_INLINE void gemm_step(const int rows, const int panels, const bool wide, const int odd,
                           const struct gemm_tile *tile, int64_t k,
                           struct vec acc[GEMM_TILE_ROWS_MAX][GEMM_TILE_PANELS_MAX])
{
    const float *a = tile->a + k + odd;
    if (odd != 0 && !wide)
        gemm_prefetch((const bf16 *)tile->b + k * PANEL_COLUMNS, 2, tile->b_stride, panels);
    struct vec columns[GEMM_TILE_PANELS_MAX];
    UNROLL for (int p = 0; p < panels; p++)
    {
        columns[p] = gemm_half(wide, odd, tile, p, k);
    }
    UNROLL for (int r = 0; r < rows; r++)
    {
        struct vec value = vec_set1(a[r * tile->lda]);
        UNROLL for (int p = 0; p < panels; p++)
        {
            acc[r][p] = vec_fma(value, columns[p], acc[r][p]);
        }
    }
}

/* 32 values of each row: two lines. */
TILE_INLINE void gemm_prefetch_rows(const float *a, int64_t lda, const int rows)
{
    UNROLL for (int r = 0; r < rows; r++)
    {
        __builtin_prefetch(a + r * lda);
        __builtin_prefetch(a + r * lda + BF16_BLOCK_K / 2);
    }
}

/* Both chains of a block of 32 side by side, so that B is read once; then even + odd, then C. */
TILE_INLINE void gemm_tile_bf16(const int rows, const int panels, const bool wide,
                                const struct gemm_tile *arguments)
{
    const struct gemm_tile tile = *arguments;
    for (int64_t k = 0; k < tile.k; k += BF16_BLOCK_K) {
        struct vec even[GEMM_TILE_ROWS_MAX][GEMM_TILE_PANELS_MAX];
        struct vec odd[GEMM_TILE_ROWS_MAX][GEMM_TILE_PANELS_MAX];
        UNROLL for (int r = 0; r < rows; r++)
        {
            UNROLL for (int p = 0; p < panels; p++)
            {
                even[r][p] = odd[r][p] = vec_zero();
            }
        }
        for (int64_t pair = k; pair < k + BF16_BLOCK_K; pair += 2) {
            if (panels > rows && !wide) {
                gemm_step_few(rows, panels, &tile, pair, even, odd);
            } else {
                gemm_step(rows, panels, wide, 0, &tile, pair, even);
                gemm_step(rows, panels, wide, 1, &tile, pair, odd);
            }
        }
        bool from_zero = tile.from_zero && k == 0;
        if (wide) /* one row block after another: the next one's part of A */
            gemm_prefetch_rows(tile.a + rows * tile.lda + k, tile.lda, rows);
        UNROLL for (int r = 0; r < rows; r++)
        {
            UNROLL for (int p = 0; p < panels; p++)
            {
                float *c = tile.c + r * tile.ldc + 16 * p;
                struct vec start = from_zero ? vec_zero() : vec_load(c);
                vec_store(c, vec_add(start, vec_add(even[r][p], odd[r][p])));
            }
        }
    }
}

/* Instantiates every tile shape, as wide as the table says (WIDTH P) and one panel wide (1). */
#define DEFINE_TILE_F32(R, P)                                                                      \
    static inline void gemm_f32_##R##x##P(const struct gemm_tile *tile)                            \
    {                                                                                              \
        gemm_tile_f32(R, P, tile);                                                                 \
    }                                                                                              \
    static inline void gemm_f32_##R##x1_(const struct gemm_tile *tile)                             \
    {                                                                                              \
        gemm_tile_f32(R, 1, tile);                                                                 \
    }
#define DEFINE_TILE_BF16(R, P)                                                                     \
    static inline void gemm_bf16_##R##x##P(const struct gemm_tile *tile)                           \
    {                                                                                              \
        gemm_tile_bf16(R, P, false, tile);                                                         \
    }                                                                                              \
    static inline void gemm_bf16_##R##x1_(const struct gemm_tile *tile)                            \
    {                                                                                              \
        gemm_tile_bf16(R, 1, false, tile);                                                         \
    }                                                                                              \
    static inline void gemm_wide_##R##x##P(const struct gemm_tile *tile)                           \
    {                                                                                              \
        gemm_tile_bf16(R, P, true, tile);                                                          \
    }                                                                                              \
    static inline void gemm_wide_##R##x1_(const struct gemm_tile *tile)                            \
    {                                                                                              \
        gemm_tile_bf16(R, 1, true, tile);                                                          \
    }
GEMM_TILES_F32(DEFINE_TILE_F32)
GEMM_TILES_BF16(DEFINE_TILE_BF16)
#undef DEFINE_TILE_F32
#undef DEFINE_TILE_BF16

struct gemm_shape {
    int rows, panels;
    void (*run)(const struct gemm_tile *tile);
    void (*run_one_panel)(const struct gemm_tile *tile);
};

#define TILE_ENTRY_F32(R, P)  {R, P, gemm_f32_##R##x##P, gemm_f32_##R##x1_},
#define TILE_ENTRY_BF16(R, P) {R, P, gemm_bf16_##R##x##P, gemm_bf16_##R##x1_},
#define TILE_ENTRY_WIDE(R, P) {R, P, gemm_wide_##R##x##P, gemm_wide_##R##x1_},

static const struct gemm_shape shapes_f32[] = {GEMM_TILES_F32(TILE_ENTRY_F32)};
static const struct gemm_shape shapes_bf16[] = {GEMM_TILES_BF16(TILE_ENTRY_BF16)};
static const struct gemm_shape shapes_wide[] = {GEMM_TILES_BF16(TILE_ENTRY_WIDE)};
#undef TILE_ENTRY_F32
#undef TILE_ENTRY_BF16
#undef TILE_ENTRY_WIDE

/* What the panels of a chunk are: fp32, bf16, or bf16 expanded to fp32. */
struct gemm_form {
    const struct gemm_shape *shapes; /* the last has one row */
    int64_t value_bytes;
};

static const struct gemm_form form_f32 = {shapes_f32, 4};
static const struct gemm_form form_bf16 = {shapes_bf16, 2};
static const struct gemm_form form_wide = {shapes_wide, 4};

/* `rows` rows against `panels` panels with one shape: panels outside, so that B's chunk stays in
 * the first-level cache while the rows pass over it. rows is a multiple of shape->rows. */
static inline void gemm_run_shape(const struct gemm_shape *shape, int64_t value_bytes,
                                  const struct gemm_tile *chunk, int64_t row, int64_t rows,
                                  int64_t panels)
{
    for (int64_t panel = 0; panel < panels;) {
        bool whole = panels - panel >= shape->panels;
        void (*run)(const struct gemm_tile *tile) = whole ? shape->run : shape->run_one_panel;
        struct gemm_tile tile = *chunk;
        tile.b = (const char *)chunk->b + panel * chunk->b_stride * value_bytes;
        for (int64_t r = row; r < row + rows; r += shape->rows) {
            tile.a = chunk->a + r * chunk->lda;
            tile.c = chunk->c + r * chunk->ldc + panel * PANEL_COLUMNS;
            run(&tile);
        }
        panel += whole ? shape->panels : 1;
    }
}

/* Of 3 + 1 rows the single one would be slow: 2 + 2. */
static inline int64_t gemm_rows_of_shape(const struct gemm_shape *shape, int64_t rows)
{
    int64_t covered = rows / shape->rows * shape->rows;
    return shape->rows == 3 && covered == rows - 1 && covered > 0 ? covered - 3 : covered;
}

/* All rows against all panels. When it takes several shapes they share a group of panels at a time,
 * so that B is read once. */
static inline void gemm_run_rows(const struct gemm_form *form, const struct gemm_tile *chunk,
                                 int64_t rows, int64_t panels)
{
    const struct gemm_shape *first = form->shapes;
    while (first->rows > rows)
        first++;
    int64_t group = chunk->k <= GEMM_CHUNK_K ? GEMM_GROUP_PANELS : GEMM_GROUP_PANELS_FEW;
    if (gemm_rows_of_shape(first, rows) == rows)
        group = panels;
    for (int64_t panel = 0; panel < panels; panel += group) {
        struct gemm_tile tile = *chunk;
        tile.b = (const char *)chunk->b + panel * chunk->b_stride * form->value_bytes;
        tile.c = chunk->c + panel * PANEL_COLUMNS;
        const struct gemm_shape *shape = first;
        for (int64_t row = 0; row < rows; shape++) {
            int64_t covered = gemm_rows_of_shape(shape, rows - row);
            if (covered > 0)
                gemm_run_shape(shape, form->value_bytes, &tile, row, covered,
                               at_most(panels - panel, group));
            row += covered;
        }
    }
}

/* Many rows: a few panels at a time are expanded; the next ones are on their way meanwhile. */
static inline void gemm_run_wide(const struct gemm_form *form, const struct gemm_tile *chunk,
                                 int64_t rows, int64_t panels)
{
    _Alignas(64) float wide[GEMM_WIDE_PANELS * GEMM_CHUNK_K * PANEL_COLUMNS];
    const int64_t values = chunk->k * PANEL_COLUMNS;
    struct gemm_tile tile = *chunk;
    tile.b = wide;
    tile.b_stride = values;
    for (int64_t panel = 0; panel < panels; panel += GEMM_WIDE_PANELS) {
        int64_t count = at_most(panels - panel, GEMM_WIDE_PANELS);
        for (int64_t p = 0; p < count; p++) {
            const bf16 *b = (const bf16 *)chunk->b + (panel + p) * chunk->b_stride;
            for (int64_t i = 0; i < values; i += 2 * PANEL_COLUMNS) {
                __builtin_prefetch(b + GEMM_WIDE_PANELS * chunk->b_stride + i, 0, 2);
                vec_store(wide + p * values + i, vec_load_even(b + i));
                vec_store(wide + p * values + i + PANEL_COLUMNS, vec_load_odd(b + i));
            }
        }
        tile.c = chunk->c + panel * PANEL_COLUMNS;
        gemm_run_rows(form, &tile, rows, count);
    }
}

static inline void gemm_panels_f32(const struct gemm_tile *chunk, int64_t rows, int64_t panels)
{
    gemm_run_rows(&form_f32, chunk, rows, panels);
}

static inline void gemm_panels_bf16(const struct gemm_tile *chunk, int64_t rows, int64_t panels)
{
    if (rows < GEMM_WIDE_ROWS || VEC_REGISTERS == 0)
        gemm_run_rows(&form_bf16, chunk, rows, panels);
    else
        gemm_run_wide(&form_wide, chunk, rows, panels);
}

/* The last panel when n is not a multiple of 16: through a buffer with all 16 columns. */
static inline void gemm_run_partial(const struct gemm_job *job, const struct gemm_tile *chunk,
                                    int64_t rows, int64_t columns)
{
    _Alignas(64) float buffer[GEMM_ROWS][PANEL_COLUMNS];
    for (int64_t r = 0; r < rows && !chunk->from_zero; r++)
        vec_store(buffer[r], vec_load_part(chunk->c + r * chunk->ldc, columns));
    struct gemm_tile tile = *chunk;
    tile.c = buffer[0];
    tile.ldc = PANEL_COLUMNS;
    job->run_panels(&tile, rows, 1);
    for (int64_t r = 0; r < rows; r++)
        memcpy(chunk->c + r * chunk->ldc, buffer[r], (size_t)columns * sizeof(float));
}

/* Rows of A from column k on as fp32, bf16 padded with zeros to a multiple of 32 columns. */
static inline void gemm_expand(const struct gemm_job *job, int64_t row, int64_t rows, int64_t k,
                               int64_t k_count, float *expanded, int64_t ld)
{
    for (int64_t r = 0; r < rows; r++) {
        int64_t from = (row + r) * job->lda + k;
        float *out = expanded + r * ld;
        if (job->dtype == DTYPE_F32) {
            memcpy(out, (const float *)job->a + from, (size_t)k_count * sizeof *out);
            continue;
        }
        for (int64_t i = 0; i < round_up(k_count, BF16_BLOCK_K); i += VEC_LANES)
            vec_store(out + i, i < k_count ? act_load(DTYPE_BF16, job->a, from + i, k_count - i)
                                           : vec_zero());
    }
}

/* The longest chunk whose rows fit the buffer, if they are few. */
static inline int64_t gemm_chunk_k(int64_t rows)
{
    if (rows > GEMM_FEW_ROWS)
        return GEMM_CHUNK_K;
    int64_t fits = (GEMM_EXPANDED / rows - GEMM_A_PAD) / GEMM_CHUNK_K * GEMM_CHUNK_K;
    return at_most(fits, GEMM_CHUNK_K_FEW);
}

/* One item: rows_per_item rows from `row` on and a range of panels. */
static inline void gemm_item(const struct gemm_job *job, int64_t row, int64_t panel,
                             int64_t panel_end)
{
    _Alignas(64) float expanded[GEMM_EXPANDED];
    int64_t rows = at_most(job->m - row, job->rows_per_item);
    int64_t chunk_k = gemm_chunk_k(rows);
    int64_t whole = at_most(panel_end, job->n / PANEL_COLUMNS);
    int64_t k_packed = job->dtype == DTYPE_BF16 ? round_up(job->k, BF16_BLOCK_K) : job->k;
    int64_t value_bytes = job->dtype == DTYPE_BF16 ? 2 : 4;
    for (int64_t k = 0; k < job->k; k += chunk_k) {
        gemm_expand(job, row, rows, k, at_most(job->k - k, chunk_k), expanded,
                    chunk_k + GEMM_A_PAD);
        struct gemm_tile chunk = {
            .a = expanded,
            .lda = chunk_k + GEMM_A_PAD,
            .b_stride = k_packed * PANEL_COLUMNS,
            .k = at_most(k_packed - k, chunk_k),
            .c = job->c + row * job->ldc + panel * PANEL_COLUMNS,
            .ldc = job->ldc,
            .from_zero = k == 0 && !job->accumulate,
        };
        const char *b = (const char *)job->packed + k * PANEL_COLUMNS * value_bytes;
        chunk.b = b + panel * chunk.b_stride * value_bytes;
        if (whole > panel)
            job->run_panels(&chunk, rows, whole - panel);
        if (whole < panel_end) {
            chunk.b = b + whole * chunk.b_stride * value_bytes;
            chunk.c = job->c + row * job->ldc + whole * PANEL_COLUMNS;
            gemm_run_partial(job, &chunk, rows, job->n - whole * PANEL_COLUMNS);
        }
    }
}

static inline void gemm_items(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct gemm_job *job = context;
    int64_t panels = (job->n + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
    for (int64_t item = begin; item < end; item++) {
        int64_t row = item % job->row_items * job->rows_per_item;
        int64_t panel = item / job->row_items * job->panels_per_item;
        gemm_item(job, row, panel, at_most(panel + job->panels_per_item, panels));
    }
}

/* Items of equal size, panels outermost. Where it leaves each thread enough panels, a thread gets
 * its panels for all rows and nobody else reads them; else items are made small enough to share. */
static inline void gemm_plan(struct gemm_job *job, int threads)
{
    int64_t panels = (job->n + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
    int64_t row_items = (job->m + GEMM_ROWS - 1) / GEMM_ROWS;
    int64_t splits = threads;
    if (panels < (int64_t)threads * GEMM_PANELS_PER_THREAD)
        splits =
            at_most(((int64_t)threads * GEMM_ITEMS_PER_THREAD + row_items - 1) / row_items, panels);
    job->rows_per_item = round_up((job->m + row_items - 1) / row_items, GEMM_ROWS_MULTIPLE);
    job->row_items = (job->m + job->rows_per_item - 1) / job->rows_per_item;
    job->panels_per_item = (panels + splits - 1) / splits;
    job->panel_items = (panels + job->panels_per_item - 1) / job->panels_per_item;
}

static inline void gemm_run(struct parallel *pool, struct gemm_job *job)
{
    HONE_ASSERT(job->n >= 1 && job->k >= 1 && job->lda >= job->k && job->ldc >= job->n);
    if (job->m == 0)
        return;
    gemm_plan(job, parallel_threads(pool));
    int64_t item_fmas =
        at_most(job->m, job->rows_per_item) * job->panels_per_item * PANEL_COLUMNS * job->k;
    int64_t grain = GEMM_GRAIN_FMAS / item_fmas;
    parallel_for(pool, job->row_items * job->panel_items, grain > 1 ? grain : 1, gemm_items, job);
}

static inline void gemm(struct parallel *pool, enum dtype dtype, int64_t m, int64_t n, int64_t k,
                        const void *a, int64_t lda, const void *packed, float *c, int64_t ldc,
                        bool accumulate)
{
    HONE_ASSERT(dtype == DTYPE_BF16 || dtype == DTYPE_F32);
    struct gemm_job job = {dtype, m, n, k, a, lda, packed, c, ldc, accumulate, NULL, 0, 0, 0, 0};
    job.run_panels = dtype == DTYPE_F32 ? gemm_panels_f32 : gemm_panels_bf16;
    gemm_run(pool, &job);
}

#endif

#include "infra/compute/cpu/gemm_amx.h"

#include <string.h>

#include "infra/base/assert.h"
#include "infra/compute/cpu/tile.h"

/* Tiles of the wide kernels: 0, 1 = A (two row groups), 2, 3 = B (two panels), 4..7 = C:
 *
 *            B2  B3
 *       A0   C4  C5
 *       A1   C6  C7
 *
 * Up to 16 rows use one row group and four panels, C4..C7, so that four products are always in
 * flight. Row groups have as many tile rows as there are rows of A: a short group costs less time.
 *
 * An item is a group of rows and a range of panels. For each chunk of k its rows of A are packed
 * into tiles (a row-major A whose rows are a power of two apart would share cache sets); panels are
 * outermost, so that B's chunk is read from memory once and stays in the first-level cache while
 * the row blocks pass over it. Between chunks C is in memory as fp32, which changes no bit. */

#define BLOCK_K           32
#define PANEL             16
#define BLOCK_ROWS        (2 * TILE_ROWS)
#define TILE_VALUES       (TILE_ROWS * BLOCK_K)
#define ITEM_ROWS         256
#define CHUNK_BLOCKS      8  /* k blocks per chunk: a 32-row block of A and two panels are 32 KiB */
#define CHUNK_BLOCKS_FEW  32 /* up to 32 rows */
#define PACKED_A_VALUES   (ITEM_ROWS * CHUNK_BLOCKS * BLOCK_K)
#define PREFETCH_BYTES    2048 /* two tiles ahead */
#define PANELS_PER_THREAD 8
#define AMX_GRAIN_FMAS    262144
#define ITEMS_PER_THREAD  4

struct amx_job {
    int64_t m, n, k, k_blocks;
    const bf16 *a;
    int64_t lda;
    const bf16 *packed;
    float *c;
    int64_t ldc;
    bool accumulate;
    int64_t rows_per_item, row_items, panels_per_item, panel_items;
};

/* A block of C and its operands; a[0], a[1] are row groups as [k block][rows][32]. */
struct amx_block {
    const bf16 *a[2];
    const bf16 *b; /* panel p at b + p * b_stride */
    int64_t b_stride;
    const bf16 *next; /* this block's part of the panels that come next */
    float *c;
    int64_t ldc;
    int rows[2];
    int64_t k_blocks;
    bool from_zero;
};

/* Tile rows of the two row groups; `wide` when C6 and C7 belong to the second group. */
static void configure(int rows0, int rows1)
{
    struct tile_config config = {.palette = 1};
    int rows2 = rows1 > 0 ? rows1 : rows0;
    const int rows[8] = {rows0, rows2, TILE_ROWS, TILE_ROWS, rows0, rows0, rows2, rows2};
    for (int tile = 0; tile < 8; tile++) {
        config.rows[tile] = (uint8_t)rows[tile];
        config.row_bytes[tile] = TILE_ROW_BYTES;
    }
    TILE_CONFIGURE(&config);
}

/* What the kernels read soon, a line for each row of the tile. */
static inline void prefetch_tile(const bf16 *tile)
{
    for (int row = 0; row < TILE_ROWS; row++)
        __builtin_prefetch((const char *)tile + PREFETCH_BYTES + row * TILE_ROW_BYTES);
}

/* A quarter tile of the panels that come next: on its way to the second-level cache, from memory.
 */
static inline void prefetch_next(const bf16 *next)
{
    for (int line = 0; line < TILE_ROWS / 4; line++)
        __builtin_prefetch((const char *)next + line * TILE_ROW_BYTES, 0, 2);
}

/* The order of loads and products keeps both units busy: A0 B0 dp B1 dp A1 dp dp. A is streamed
 * from the second-level cache and is prefetched; B stays in the first for the other row blocks. */
static void run_2x2(const struct amx_block *block)
{
    float *c0 = block->c, *c1 = block->c + TILE_ROWS * block->ldc;
    const bf16 *a0 = block->a[0], *a1 = block->a[1], *b0 = block->b, *b1 = b0 + block->b_stride;
    int64_t ldc = block->ldc * 4, a1_values = (int64_t)block->rows[1] * BLOCK_K;
    if (block->from_zero) {
        TILE_ZERO(4);
        TILE_ZERO(5);
        TILE_ZERO(6);
        TILE_ZERO(7);
    } else {
        TILE_LOAD(4, c0, ldc);
        TILE_LOAD(5, c0 + PANEL, ldc);
        TILE_LOAD(6, c1, ldc);
        TILE_LOAD(7, c1 + PANEL, ldc);
    }
    for (int64_t kb = 0; kb < block->k_blocks; kb++) {
        TILE_LOAD(0, a0, TILE_ROW_BYTES);
        TILE_LOAD(2, b0, TILE_ROW_BYTES);
        TILE_DP_BF16(4, 0, 2);
        prefetch_tile(a0);
        TILE_LOAD(3, b1, TILE_ROW_BYTES);
        TILE_DP_BF16(5, 0, 3);
        TILE_LOAD(1, a1, TILE_ROW_BYTES);
        TILE_DP_BF16(6, 1, 2);
        prefetch_tile(a1);
        TILE_DP_BF16(7, 1, 3);
        prefetch_next(block->next + kb * TILE_VALUES / 4);
        a0 += TILE_VALUES;
        a1 += a1_values;
        b0 += TILE_VALUES;
        b1 += TILE_VALUES;
    }
    TILE_STORE(4, c0, ldc);
    TILE_STORE(5, c0 + PANEL, ldc);
    TILE_STORE(6, c1, ldc);
    TILE_STORE(7, c1 + PANEL, ldc);
}

/* Two row groups, one panel. */
static void run_2x1(const struct amx_block *block)
{
    float *c0 = block->c, *c1 = block->c + TILE_ROWS * block->ldc;
    const bf16 *a0 = block->a[0], *a1 = block->a[1], *b0 = block->b;
    int64_t ldc = block->ldc * 4, a1_values = (int64_t)block->rows[1] * BLOCK_K;
    if (block->from_zero) {
        TILE_ZERO(4);
        TILE_ZERO(6);
    } else {
        TILE_LOAD(4, c0, ldc);
        TILE_LOAD(6, c1, ldc);
    }
    for (int64_t kb = 0; kb < block->k_blocks; kb++) {
        TILE_LOAD(2, b0, TILE_ROW_BYTES);
        TILE_LOAD(0, a0, TILE_ROW_BYTES);
        TILE_DP_BF16(4, 0, 2);
        TILE_LOAD(1, a1, TILE_ROW_BYTES);
        TILE_DP_BF16(6, 1, 2);
        a0 += TILE_VALUES;
        a1 += a1_values;
        b0 += TILE_VALUES;
    }
    TILE_STORE(4, c0, ldc);
    TILE_STORE(6, c1, ldc);
}

/* One row group, four panels; B is what is streamed. */
static void run_1x4(const struct amx_block *block)
{
    const bf16 *a = block->a[0], *b0 = block->b, *b1 = b0 + block->b_stride;
    const bf16 *b2 = b1 + block->b_stride, *b3 = b2 + block->b_stride;
    int64_t ldc = block->ldc * 4, a_values = (int64_t)block->rows[0] * BLOCK_K;
    if (block->from_zero) {
        TILE_ZERO(4);
        TILE_ZERO(5);
        TILE_ZERO(6);
        TILE_ZERO(7);
    } else {
        TILE_LOAD(4, block->c, ldc);
        TILE_LOAD(5, block->c + PANEL, ldc);
        TILE_LOAD(6, block->c + 2 * PANEL, ldc);
        TILE_LOAD(7, block->c + 3 * PANEL, ldc);
    }
    for (int64_t kb = 0; kb < block->k_blocks; kb++, a += a_values) {
        int64_t at = kb * TILE_VALUES;
        TILE_LOAD(0, a, TILE_ROW_BYTES);
        TILE_LOAD(2, b0 + at, TILE_ROW_BYTES);
        TILE_DP_BF16(4, 0, 2);
        prefetch_tile(b0 + at);
        TILE_LOAD(3, b1 + at, TILE_ROW_BYTES);
        TILE_DP_BF16(5, 0, 3);
        prefetch_tile(b1 + at);
        TILE_LOAD(2, b2 + at, TILE_ROW_BYTES);
        TILE_DP_BF16(6, 0, 2);
        prefetch_tile(b2 + at);
        TILE_LOAD(3, b3 + at, TILE_ROW_BYTES);
        TILE_DP_BF16(7, 0, 3);
        prefetch_tile(b3 + at);
    }
    TILE_STORE(4, block->c, ldc);
    TILE_STORE(5, block->c + PANEL, ldc);
    TILE_STORE(6, block->c + 2 * PANEL, ldc);
    TILE_STORE(7, block->c + 3 * PANEL, ldc);
}

static void run_1x1(const struct amx_block *block)
{
    const bf16 *a = block->a[0], *b = block->b;
    int64_t ldc = block->ldc * 4, a_values = (int64_t)block->rows[0] * BLOCK_K;
    if (block->from_zero)
        TILE_ZERO(4);
    else
        TILE_LOAD(4, block->c, ldc);
    for (int64_t kb = 0; kb < block->k_blocks; kb++, a += a_values, b += TILE_VALUES) {
        TILE_LOAD(0, a, TILE_ROW_BYTES);
        TILE_LOAD(2, b, TILE_ROW_BYTES);
        TILE_DP_BF16(4, 0, 2);
        prefetch_tile(b);
    }
    TILE_STORE(4, block->c, ldc);
}

/* `panels` is what panels_at_once said. */
static void run_block(const struct amx_block *block, int panels)
{
    if (block->rows[1] > 0)
        (panels == 2 ? run_2x2 : run_2x1)(block);
    else
        (panels == 4 ? run_1x4 : run_1x1)(block);
}

static int panels_at_once(const struct amx_block *block, int64_t left)
{
    int most = block->rows[1] > 0 ? 2 : 4;
    return left >= most ? most : 1;
}

/* A panel with fewer than 16 real columns goes through a buffer. */
static void run_partial(const struct amx_block *block, int64_t columns)
{
    _Alignas(64) float buffer[BLOCK_ROWS * PANEL] = {0};
    int64_t rows = block->rows[0] + block->rows[1];
    struct amx_block copy = *block;
    for (int64_t r = 0; r < rows && !block->from_zero; r++)
        memcpy(buffer + r * PANEL, block->c + r * block->ldc, (size_t)columns * sizeof *buffer);
    copy.c = buffer;
    copy.ldc = PANEL;
    run_block(&copy, 1);
    for (int64_t r = 0; r < rows; r++)
        memcpy(block->c + r * block->ldc, buffer + r * PANEL, (size_t)columns * sizeof *buffer);
}

/* `rows` rows of A from column k on as row groups [k block][rows of the group][32]. */
static void pack_a(const struct amx_job *job, int64_t row, int64_t rows, int64_t k_block,
                   int64_t k_blocks, bf16 *out)
{
    for (int64_t first = 0; first < rows; first += TILE_ROWS) {
        int64_t count = rows - first < TILE_ROWS ? rows - first : TILE_ROWS;
        for (int64_t r = 0; r < count; r++) {
            const bf16 *from = job->a + (row + first + r) * job->lda + k_block * BLOCK_K;
            bf16 *to = out + r * BLOCK_K;
            for (int64_t kb = 0; kb < k_blocks; kb++, to += count * BLOCK_K) {
                int64_t left = job->k - (k_block + kb) * BLOCK_K;
                if (left >= BLOCK_K) {
                    memcpy(to, from + kb * BLOCK_K, BLOCK_K * sizeof *to);
                    continue;
                }
                memset(to, 0, BLOCK_K * sizeof *to);
                memcpy(to, from + kb * BLOCK_K, (size_t)left * sizeof *to);
            }
        }
        out += count * k_blocks * BLOCK_K;
    }
}

/* Eight row blocks, four k steps a tile: together they touch the chunk of the next two panels. */
static const bf16 *next_part(const struct amx_block *block, int64_t row_block)
{
    int64_t panel = 2 + row_block / 4, quarter = row_block % 4;
    return block->b + panel * block->b_stride + quarter * block->k_blocks * TILE_VALUES / 4;
}

/* All row blocks of an item against up to four panels; returns how many panels it did. */
static int run_row_blocks(const struct amx_job *job, struct amx_block *block, const bf16 *packed_a,
                          int64_t row, int64_t rows, int64_t panel, int64_t panel_end)
{
    int64_t whole = job->n / PANEL;
    int panels = 1;
    for (int64_t r = 0; r < rows; r += BLOCK_ROWS) {
        int count = (int)(rows - r < BLOCK_ROWS ? rows - r : BLOCK_ROWS);
        int before = block->rows[0] + block->rows[1];
        block->rows[0] = count < TILE_ROWS ? count : TILE_ROWS;
        block->rows[1] = count - block->rows[0];
        if (before != count)
            configure(block->rows[0], block->rows[1]);
        block->a[0] = packed_a + r * block->k_blocks * BLOCK_K;
        block->a[1] = block->a[0] + block->rows[0] * block->k_blocks * BLOCK_K;
        block->c = job->c + (row + r) * job->ldc + panel * PANEL;
        block->next = next_part(block, r / BLOCK_ROWS);
        if (panel >= whole) {
            run_partial(block, job->n - panel * PANEL);
            continue;
        }
        /* The first row block decides how many panels, since a row block that is alone in its
         * item is the only one that may take four. */
        if (r == 0)
            panels = panels_at_once(block, (panel_end < whole ? panel_end : whole) - panel);
        for (int p = 0; p < panels;) {
            struct amx_block part = *block;
            int step = panels_at_once(block, panels - p);
            part.b = block->b + p * block->b_stride;
            part.c = block->c + p * PANEL;
            run_block(&part, step);
            p += step;
        }
    }
    return panels;
}

static void run_item(const struct amx_job *job, int64_t row, int64_t panel, int64_t panel_end)
{
    _Alignas(64) bf16 packed_a[PACKED_A_VALUES];
    int64_t rows = job->m - row < job->rows_per_item ? job->m - row : job->rows_per_item;
    int64_t chunk = rows <= BLOCK_ROWS ? CHUNK_BLOCKS_FEW : CHUNK_BLOCKS;
    for (int64_t kb = 0; kb < job->k_blocks; kb += chunk) {
        struct amx_block block = {.ldc = job->ldc, .from_zero = kb == 0 && !job->accumulate};
        block.k_blocks = job->k_blocks - kb < chunk ? job->k_blocks - kb : chunk;
        block.b_stride = job->k_blocks * TILE_VALUES;
        pack_a(job, row, rows, kb, block.k_blocks, packed_a);
        for (int64_t p = panel; p < panel_end;) {
            block.b = job->packed + p * block.b_stride + kb * TILE_VALUES;
            p += run_row_blocks(job, &block, packed_a, row, rows, p, panel_end);
        }
    }
}

/* Items are (range of panels, group of rows), panels outermost. */
static void run_items(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct amx_job *job = context;
    int64_t panels = (job->n + PANEL - 1) / PANEL;
    for (int64_t item = begin; item < end; item++) {
        int64_t row = item % job->row_items * job->rows_per_item;
        int64_t panel = item / job->row_items * job->panels_per_item;
        int64_t panel_end = panel + job->panels_per_item;
        run_item(job, row, panel, panel_end < panels ? panel_end : panels);
    }
    TILE_RELEASE();
}

/* As gemm_plan in gemm.h: a thread gets its panels for all rows where there are enough of them. */
static void plan_items(struct amx_job *job, int threads)
{
    int64_t panels = (job->n + PANEL - 1) / PANEL;
    int64_t row_items = (job->m + ITEM_ROWS - 1) / ITEM_ROWS, splits = threads;
    if (panels < (int64_t)threads * PANELS_PER_THREAD) {
        splits = ((int64_t)threads * ITEMS_PER_THREAD + row_items - 1) / row_items;
        splits = splits < panels ? splits : panels;
    }
    job->rows_per_item = (job->m + row_items - 1) / row_items;
    job->rows_per_item = (job->rows_per_item + BLOCK_ROWS - 1) / BLOCK_ROWS * BLOCK_ROWS;
    job->row_items = (job->m + job->rows_per_item - 1) / job->rows_per_item;
    job->panels_per_item = (panels + splits - 1) / splits;
    job->panels_per_item += job->panels_per_item % 2;
    job->panel_items = (panels + job->panels_per_item - 1) / job->panels_per_item;
}

void gemm_amx_bf16(struct parallel *pool, int64_t m, int64_t n, int64_t k, const bf16 *a,
                   int64_t lda, const bf16 *packed, float *c, int64_t ldc, bool accumulate)
{
    HONE_ASSERT(n >= 1 && k >= 1 && lda >= k && ldc >= n);
    struct amx_job job = {.m = m, .n = n, .k = k, .a = a, .lda = lda, .packed = packed, .c = c};
    if (m == 0)
        return;
    job.ldc = ldc;
    job.accumulate = accumulate;
    job.k_blocks = (k + BLOCK_K - 1) / BLOCK_K;
    plan_items(&job, parallel_threads(pool));
    int64_t item_rows = m < job.rows_per_item ? m : job.rows_per_item;
    int64_t grain = AMX_GRAIN_FMAS / (item_rows * job.panels_per_item * PANEL * k);
    parallel_for(pool, job.row_items * job.panel_items, grain > 1 ? grain : 1, run_items, &job);
}

double peak_amx(int64_t steps, float *sink)
{
    _Alignas(64) float result[TILE_ROWS * PANEL] = {0};
    configure(TILE_ROWS, TILE_ROWS);
    TILE_ZERO(0);
    TILE_ZERO(2);
    TILE_ZERO(4);
    TILE_ZERO(5);
    TILE_ZERO(6);
    TILE_ZERO(7);
    for (int64_t step = 0; step < steps; step++) {
        TILE_DP_BF16(4, 0, 2);
        TILE_DP_BF16(5, 0, 2);
        TILE_DP_BF16(6, 0, 2);
        TILE_DP_BF16(7, 0, 2);
    }
    TILE_STORE(4, result, PANEL * 4);
    TILE_RELEASE();
    *sink = result[0];
    return (double)steps * 4 * TILE_ROWS * PANEL * BLOCK_K * 2;
}

/* As run_2x2 does it, over operands that stay in the first-level cache. */
double peak_amx_loads(int64_t steps, float *sink)
{
    _Alignas(64) static const bf16 zeros[CHUNK_BLOCKS][TILE_VALUES];
    _Alignas(64) float result[TILE_ROWS * PANEL] = {0};
    configure(TILE_ROWS, TILE_ROWS);
    TILE_ZERO(4);
    TILE_ZERO(5);
    TILE_ZERO(6);
    TILE_ZERO(7);
    for (int64_t step = 0; step < steps; step++) {
        const bf16 *at = zeros[step % (CHUNK_BLOCKS / 4) * 4];
        TILE_LOAD(0, at, TILE_ROW_BYTES);
        TILE_LOAD(2, at + TILE_VALUES, TILE_ROW_BYTES);
        TILE_DP_BF16(4, 0, 2);
        TILE_LOAD(3, at + 2 * TILE_VALUES, TILE_ROW_BYTES);
        TILE_DP_BF16(5, 0, 3);
        TILE_LOAD(1, at + 3 * TILE_VALUES, TILE_ROW_BYTES);
        TILE_DP_BF16(6, 1, 2);
        TILE_DP_BF16(7, 1, 3);
    }
    TILE_STORE(4, result, PANEL * 4);
    TILE_RELEASE();
    *sink = result[0];
    return (double)steps * 4 * TILE_ROWS * PANEL * BLOCK_K * 2;
}

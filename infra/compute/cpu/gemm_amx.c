#include "infra/compute/cpu/gemm_amx.h"

#include <string.h>

#include "infra/base/assert.h"
#include "infra/compute/cpu/tile.h"

/* Tiles: 0, 1 = A (two row groups), 2, 3 = B (two panels), 4..7 = C [row group][panel]:
 *
 *            B2  B3
 *       A0   C4  C5
 *       A1   C6  C7
 *
 * A block is up to 32 rows x 2 panels; k runs innermost over all of k, so C stays in tiles. Row
 * groups have as many tile rows as there are rows of A: a short group costs less time and reads
 * nothing past the matrix. */

#define BLOCK_K          32
#define PANEL            16
#define BLOCK_ROWS       (2 * TILE_ROWS)
#define AMX_GRAIN_FMAS   262144
#define ITEMS_PER_THREAD 4

struct amx_job {
    int64_t m, n, k, k_blocks;
    const bf16 *a;
    int64_t lda;
    const bf16 *packed;
    float *c;
    int64_t ldc;
    bool accumulate;
    int64_t row_blocks, panels_per_item, items_per_row_block;
};

/* A block of C and its operands; c points at 32 readable columns (16 when panels is 1). */
struct amx_block {
    const bf16 *a;
    int64_t lda;
    const bf16 *tail; /* [rows][32], the last k block padded with zeros; NULL when k % 32 == 0 */
    const bf16 *b[2];
    float *c;
    int64_t ldc;
    int rows[2];
    int64_t k_blocks;
    bool from_zero;
};

static void configure(int rows0, int rows1)
{
    struct tile_config config = {.palette = 1};
    const int rows[8] = {rows0, rows1, TILE_ROWS, TILE_ROWS, rows0, rows0, rows1, rows1};
    for (int tile = 0; tile < 8; tile++) {
        config.rows[tile] = (uint8_t)(rows[tile] > 0 ? rows[tile] : 1);
        config.row_bytes[tile] = TILE_ROW_BYTES;
    }
    TILE_CONFIGURE(&config);
}

static const bf16 *k_block_of(const struct amx_block *block, int64_t kb, int64_t row,
                              int64_t *stride)
{
    bool in_tail = block->tail != NULL && kb == block->k_blocks - 1;
    *stride = in_tail ? BLOCK_K * 2 : block->lda * 2;
    return in_tail ? block->tail + row * BLOCK_K : block->a + row * block->lda + kb * BLOCK_K;
}

static void run_2x2(const struct amx_block *block)
{
    float *c0 = block->c, *c1 = block->c + TILE_ROWS * block->ldc;
    int64_t ldc = block->ldc * 4;
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
        int64_t stride;
        const bf16 *a0 = k_block_of(block, kb, 0, &stride);
        const bf16 *a1 = k_block_of(block, kb, TILE_ROWS, &stride);
        TILE_LOAD(0, a0, stride);
        TILE_LOAD(2, block->b[0] + kb * BLOCK_K * PANEL, TILE_ROW_BYTES);
        TILE_DP_BF16(4, 0, 2);
        TILE_LOAD(3, block->b[1] + kb * BLOCK_K * PANEL, TILE_ROW_BYTES);
        TILE_DP_BF16(5, 0, 3);
        TILE_LOAD(1, a1, stride);
        TILE_DP_BF16(6, 1, 2);
        TILE_DP_BF16(7, 1, 3);
    }
    TILE_STORE(4, c0, ldc);
    TILE_STORE(5, c0 + PANEL, ldc);
    TILE_STORE(6, c1, ldc);
    TILE_STORE(7, c1 + PANEL, ldc);
}

static void run_1x2(const struct amx_block *block)
{
    int64_t ldc = block->ldc * 4;
    if (block->from_zero) {
        TILE_ZERO(4);
        TILE_ZERO(5);
    } else {
        TILE_LOAD(4, block->c, ldc);
        TILE_LOAD(5, block->c + PANEL, ldc);
    }
    for (int64_t kb = 0; kb < block->k_blocks; kb++) {
        int64_t stride;
        const bf16 *a0 = k_block_of(block, kb, 0, &stride);
        TILE_LOAD(0, a0, stride);
        TILE_LOAD(2, block->b[0] + kb * BLOCK_K * PANEL, TILE_ROW_BYTES);
        TILE_DP_BF16(4, 0, 2);
        TILE_LOAD(3, block->b[1] + kb * BLOCK_K * PANEL, TILE_ROW_BYTES);
        TILE_DP_BF16(5, 0, 3);
    }
    TILE_STORE(4, block->c, ldc);
    TILE_STORE(5, block->c + PANEL, ldc);
}

static void run_2x1(const struct amx_block *block)
{
    float *c0 = block->c, *c1 = block->c + TILE_ROWS * block->ldc;
    int64_t ldc = block->ldc * 4;
    if (block->from_zero) {
        TILE_ZERO(4);
        TILE_ZERO(6);
    } else {
        TILE_LOAD(4, c0, ldc);
        TILE_LOAD(6, c1, ldc);
    }
    for (int64_t kb = 0; kb < block->k_blocks; kb++) {
        int64_t stride;
        const bf16 *a0 = k_block_of(block, kb, 0, &stride);
        const bf16 *a1 = k_block_of(block, kb, TILE_ROWS, &stride);
        TILE_LOAD(2, block->b[0] + kb * BLOCK_K * PANEL, TILE_ROW_BYTES);
        TILE_LOAD(0, a0, stride);
        TILE_DP_BF16(4, 0, 2);
        TILE_LOAD(1, a1, stride);
        TILE_DP_BF16(6, 1, 2);
    }
    TILE_STORE(4, c0, ldc);
    TILE_STORE(6, c1, ldc);
}

static void run_1x1(const struct amx_block *block)
{
    int64_t ldc = block->ldc * 4;
    if (block->from_zero)
        TILE_ZERO(4);
    else
        TILE_LOAD(4, block->c, ldc);
    for (int64_t kb = 0; kb < block->k_blocks; kb++) {
        int64_t stride;
        const bf16 *a0 = k_block_of(block, kb, 0, &stride);
        TILE_LOAD(0, a0, stride);
        TILE_LOAD(2, block->b[0] + kb * BLOCK_K * PANEL, TILE_ROW_BYTES);
        TILE_DP_BF16(4, 0, 2);
    }
    TILE_STORE(4, block->c, ldc);
}

static void run_block(const struct amx_block *block, int panels)
{
    if (block->rows[1] > 0)
        (panels == 2 ? run_2x2 : run_2x1)(block);
    else
        (panels == 2 ? run_1x2 : run_1x1)(block);
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

static void run_panels(const struct amx_job *job, struct amx_block *block, int64_t row,
                       int64_t panel, int64_t panel_end)
{
    int64_t panel_values = job->k_blocks * BLOCK_K * PANEL, whole = job->n / PANEL;
    while (panel < panel_end) {
        block->b[0] = job->packed + panel * panel_values;
        block->b[1] = block->b[0] + panel_values;
        block->c = job->c + row * job->ldc + panel * PANEL;
        if (panel >= whole) {
            run_partial(block, job->n - panel * PANEL);
            return;
        }
        int panels = panel + 2 <= panel_end && panel + 2 <= whole ? 2 : 1;
        run_block(block, panels);
        panel += panels;
    }
}

/* Items are (32-row block, range of panels), row blocks outermost. */
static void run_items(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct amx_job *job = context;
    _Alignas(64) bf16 tail[BLOCK_ROWS * BLOCK_K];
    int64_t panels = (job->n + PANEL - 1) / PANEL, tail_k = job->k % BLOCK_K;
    int configured = -1;
    for (int64_t item = begin; item < end; item++) {
        int64_t row = item / job->items_per_row_block * BLOCK_ROWS;
        int64_t panel = item % job->items_per_row_block * job->panels_per_item;
        int rows = (int)(job->m - row < BLOCK_ROWS ? job->m - row : BLOCK_ROWS);
        struct amx_block block = {.a = job->a + row * job->lda, .lda = job->lda};
        block.rows[0] = rows < TILE_ROWS ? rows : TILE_ROWS;
        block.rows[1] = rows - block.rows[0];
        block.ldc = job->ldc;
        block.k_blocks = job->k_blocks;
        block.from_zero = !job->accumulate;
        if (tail_k != 0) {
            memset(tail, 0, sizeof tail);
            for (int r = 0; r < rows; r++)
                memcpy(tail + r * BLOCK_K, block.a + r * job->lda + job->k - tail_k,
                       (size_t)tail_k * sizeof *tail);
            block.tail = tail;
        }
        if (configured != rows)
            configure(block.rows[0], block.rows[1]);
        configured = rows;
        int64_t panel_end = panel + job->panels_per_item;
        run_panels(job, &block, row, panel, panel_end < panels ? panel_end : panels);
    }
    TILE_RELEASE();
}

void gemm_amx_bf16(struct parallel *pool, int64_t m, int64_t n, int64_t k, const bf16 *a,
                   int64_t lda, const bf16 *packed, float *c, int64_t ldc, bool accumulate)
{
    HONE_ASSERT(n >= 1 && k >= 1 && lda >= k && ldc >= n);
    struct amx_job job = {.m = m, .n = n, .k = k, .a = a, .lda = lda, .packed = packed, .c = c};
    int64_t panels = (n + PANEL - 1) / PANEL;
    int threads = parallel_threads(pool);
    job.ldc = ldc;
    job.accumulate = accumulate;
    job.k_blocks = (k + BLOCK_K - 1) / BLOCK_K;
    job.row_blocks = (m + BLOCK_ROWS - 1) / BLOCK_ROWS;
    if (job.row_blocks == 0)
        return;
    int64_t wanted = threads > 1 ? (int64_t)threads * ITEMS_PER_THREAD : 1;
    int64_t splits = (wanted + job.row_blocks - 1) / job.row_blocks;
    splits = splits < panels ? splits : panels;
    job.panels_per_item = (panels + splits - 1) / splits;
    job.panels_per_item += job.panels_per_item % 2;
    job.items_per_row_block = (panels + job.panels_per_item - 1) / job.panels_per_item;
    int64_t item_fmas = (m < BLOCK_ROWS ? m : BLOCK_ROWS) * job.panels_per_item * PANEL * k;
    int64_t grain = AMX_GRAIN_FMAS / item_fmas;
    parallel_for(pool, job.row_blocks * job.items_per_row_block, grain > 1 ? grain : 1, run_items,
                 &job);
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

/* Products of a few rows with packed blocks: canonical dot products of bf16 (N3), in the layout of
 * gemm_pack: panels of 16 columns, [k / 2][16][2].
 *
 * HONE_ATTENTION_TILES chooses AMX tiles, else the table's vectors; the bits are the same. */
#ifndef HONE_COMPUTE_CPU_ATTENTION_BLOCK_PRODUCT_H
#define HONE_COMPUTE_CPU_ATTENTION_BLOCK_PRODUCT_H

#include <stdbool.h>
#include <stdint.h>

#if defined(HONE_ATTENTION_TILES)
#include "infra/compute/cpu/pack.h"
#include "infra/compute/cpu/tile.h"
#else
#include "infra/compute/cpu/gemm.h"
#endif

#define PRODUCT_ROWS 32 /* at a time */

struct block_product {
    const bf16 *a; /* [rows][lda] */
    int64_t lda;
    const bf16 *b; /* panel p at b + p * b_panel */
    int64_t b_panel;
    int64_t k; /* a multiple of 32 */
    float *c;  /* [rows][ldc] */
    int64_t ldc;
    bool from_zero;   /* else C += */
    const bf16 *next; /* packed as b is: fetched into the cache meanwhile; NULL: nothing is */
};

#if defined(HONE_ATTENTION_TILES)

#define PANEL_BLOCK (BF16_BLOCK_K * PANEL_COLUMNS) /* values of a panel for a block of k */
#define PAIR_LINE   (2 * PANEL_COLUMNS)            /* and of a cache line */

/* Tiles: 0, 1 = A (rows 0-15 and 16-31), 2, 3 = B (two panels), 4 .. 7 = C (A0 B2, A0 B3, A1 B2,
 * A1 B3). `rows` are those of the products to come, up to 32, or a multiple of 32. */
static inline void product_begin(int64_t rows)
{
    struct tile_config config = {.palette = 1};
    int64_t first = at_most(rows, TILE_ROWS), second = at_most(rows - first, TILE_ROWS);
    second = second > 0 ? second : first;
    const int64_t tile_rows[8] = {first, second, TILE_ROWS, TILE_ROWS,
                                  first, first,  second,    second};
    for (int tile = 0; tile < 8; tile++) {
        config.rows[tile] = (uint8_t)tile_rows[tile];
        config.row_bytes[tile] = TILE_ROW_BYTES;
    }
    TILE_CONFIGURE(&config);
}

static inline void product_end(void)
{
    TILE_RELEASE();
}

/* The first row of a product that only needs those from `from` on: tiles come whole. */
static inline int64_t product_first(int64_t from)
{
    (void)from;
    return 0;
}

#define PRODUCT_START(tile, at)                                                                    \
    do {                                                                                           \
        if (zero)                                                                                  \
            TILE_ZERO(tile);                                                                       \
        else                                                                                       \
            TILE_LOAD(tile, at, ldc);                                                              \
    } while (0)

#define PRODUCT_INLINE static inline __attribute__((always_inline))

/* The next block's lines in the place of a tile. */
PRODUCT_INLINE void prefetch_tile(const struct block_product *p, const bf16 *tile)
{
    if (p->next == NULL)
        return;
    for (int line = 0; line < TILE_ROWS; line++)
        __builtin_prefetch(p->next + (tile - p->b) + line * PAIR_LINE);
}

/* Two panels (or one) and two groups of rows (or one). */
PRODUCT_INLINE void product_tiles(const struct block_product *p, const bf16 *a, const bf16 *b,
                                  float *c, const bool two_groups, const bool two_panels)
{
    int64_t lda = p->lda * 2, ldc = p->ldc * 4;
    float *lower = c + TILE_ROWS * p->ldc;
    bool zero = p->from_zero;
    PRODUCT_START(4, c);
    if (two_panels)
        PRODUCT_START(5, c + PANEL_COLUMNS);
    if (two_groups)
        PRODUCT_START(6, lower);
    if (two_groups && two_panels)
        PRODUCT_START(7, lower + PANEL_COLUMNS);
    for (int64_t k = 0; k < p->k; k += BF16_BLOCK_K, b += PANEL_BLOCK) {
        TILE_LOAD(0, a + k, lda);
        TILE_LOAD(2, b, TILE_ROW_BYTES);
        prefetch_tile(p, b);
        TILE_DP_BF16(4, 0, 2);
        if (two_panels) {
            TILE_LOAD(3, b + p->b_panel, TILE_ROW_BYTES);
            prefetch_tile(p, b + p->b_panel);
            TILE_DP_BF16(5, 0, 3);
        }
        if (two_groups) {
            TILE_LOAD(1, a + TILE_ROWS * p->lda + k, lda);
            TILE_DP_BF16(6, 1, 2);
            if (two_panels)
                TILE_DP_BF16(7, 1, 3);
        }
    }
    TILE_STORE(4, c, ldc);
    if (two_panels)
        TILE_STORE(5, c + PANEL_COLUMNS, ldc);
    if (two_groups)
        TILE_STORE(6, lower, ldc);
    if (two_groups && two_panels)
        TILE_STORE(7, lower + PANEL_COLUMNS, ldc);
}

static inline void product_run(const struct block_product *p, int64_t rows, int64_t panels)
{
    for (int64_t row = 0; row < rows; row += PRODUCT_ROWS) {
        const bf16 *a = p->a + row * p->lda, *b = p->b;
        float *c = p->c + row * p->ldc;
        bool two_groups = rows - row > TILE_ROWS;
        int64_t panel = 0;
        for (; panel + 2 <= panels; panel += 2, b += 2 * p->b_panel, c += 2 * PANEL_COLUMNS)
            if (two_groups)
                product_tiles(p, a, b, c, true, true);
            else
                product_tiles(p, a, b, c, false, true);
        if (panel < panels && two_groups)
            product_tiles(p, a, b, c, true, false);
        else if (panel < panels)
            product_tiles(p, a, b, c, false, false);
    }
}

#else

#define PRODUCT_CHUNK_K 256

static inline void product_begin(int64_t rows)
{
    (void)rows;
}

static inline void product_end(void)
{
}

static inline int64_t product_first(int64_t from)
{
    return from;
}

static inline void product_rows(const struct block_product *p, int64_t row, int64_t rows,
                                int64_t panels)
{
    float wide[PRODUCT_ROWS * (PRODUCT_CHUNK_K + GEMM_A_PAD)];
    for (int64_t k = 0; k < p->k; k += PRODUCT_CHUNK_K) {
        int64_t depth = at_most(p->k - k, PRODUCT_CHUNK_K), lda = depth + GEMM_A_PAD;
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < depth; i += VEC_LANES)
                vec_store(wide + r * lda + i, vec_load_bf16(p->a + (row + r) * p->lda + k + i));
        const struct gemm_tile tile = {.a = wide,
                                       .lda = lda,
                                       .b = p->b + k * PANEL_COLUMNS,
                                       .b_stride = p->b_panel,
                                       .k = depth,
                                       .c = p->c + row * p->ldc,
                                       .ldc = p->ldc,
                                       .from_zero = p->from_zero && k == 0};
        gemm_panels_bf16(&tile, rows, panels);
    }
}

static inline void product_run(const struct block_product *p, int64_t rows, int64_t panels)
{
    for (int64_t panel = 0; panel < panels && p->next != NULL; panel++)
        for (int64_t i = 0; i < p->k * PANEL_COLUMNS; i += 2 * PANEL_COLUMNS)
            __builtin_prefetch(p->next + panel * p->b_panel + i);
    for (int64_t row = 0; row < rows; row += PRODUCT_ROWS)
        product_rows(p, row, at_most(rows - row, PRODUCT_ROWS), panels);
}

#endif

#endif

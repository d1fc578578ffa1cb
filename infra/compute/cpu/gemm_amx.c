#include "infra/compute/cpu/gemm_amx.h"

#include <string.h>

#include "infra/base/assert.h"
#include "infra/compute/cpu/pack.h"
#include "infra/compute/cpu/tile.h"

/* Tiles of the wide kernel: 0, 1 = A (two groups of 16 rows), 2, 3 = B (two panels), 4..7 = C:
 *
 *            B2  B3
 *       A0   C4  C5
 *       A1   C6  C7
 *
 * Up to 16 rows use one group and four panels, C4..C7, so that four products are always in flight.
 * A group has as many tile rows as there are rows of A: a short group costs less time.
 *
 * Four products take 64 cycles and need 4 KiB of operands; the second-level cache gives about 2.6
 * KiB in that time, the third a tenth of it. Hence, for more than 32 rows: two panels of B over a
 * chunk of k stay in the first-level cache while a strip of row blocks passes over them, and A
 * comes from the second-level cache. A and C are loaded with the hint that keeps them out of the
 * first (TILE_LOAD_STREAM): without it they evict B. An item's rows of A are packed for as much of
 * k as the second-level cache has room for, in tiles: rows of A a power of two apart would share
 * its sets. Between chunks C is in a buffer as fp32, which changes no bit; between two packings of
 * A it is where the caller wants it.
 *
 * Up to 32 rows read all of B once: it is streamed, and the processor's own prefetching keeps up
 * with the memory. Prefetch instructions would cost loads, which are what bounds it. */

#define BLOCK_ROWS          (2 * TILE_ROWS)
#define TILE_VALUES         (TILE_ROWS * BF16_BLOCK_K)
#define TILE_BYTES          (TILE_VALUES * 2)
#define LINE_BYTES          64
#define PACKED_A_VALUES     (256 * 1024) /* half of the second-level cache that is surely ours */
#define ITEM_ROWS_MAX       512
#define DEPTH_BLOCKS        32 /* of k that are packed at once, at least */
#define CHUNK_BLOCKS        16 /* 32 KiB of B in the first-level cache */
#define CHUNK_BLOCKS_FEW    8  /* up to FEW_BLOCKS row blocks: less time to fetch the next */
#define FEW_BLOCKS          4
#define ROWS_PER_THREAD_MIN 128
#define AMX_GRAIN_FMAS      262144

#define C_TILE   (TILE_ROWS * PANEL_COLUMNS)
#define C_BLOCK  (4 * C_TILE)
#define C_BUFFER (ITEM_ROWS_MAX / BLOCK_ROWS * C_BLOCK)

struct amx_job {
    int64_t m, n, k, k_blocks;
    struct amx_a a;
    const bf16 *packed;
    float *c;
    int64_t ldc;
    bool accumulate;
    int64_t rows_per_item, row_items, panels_per_item, panel_items;
};

/* Where C tiles lie; distances in floats: of rows, of the second panel, of the second row group, of
 * the next row block. */
struct amx_c {
    float *at;
    int64_t row, panel, group, block;
};

/* Row blocks of equal shape against the same panels. Distances of A in bytes. */
struct amx_strip {
    const char *a;
    int64_t a_row, a_step, a_group, a_block;
    const bf16 *b; /* panel p at b + p * b_panel */
    int64_t b_panel;
    const bf16 *next; /* as b, of the strip that comes next; NULL: nothing is fetched */
    int64_t k_blocks, blocks;
    struct amx_c from, to;
    bool from_zero;
};

/* Tile rows of the two row groups; tiles 6, 7 belong to the first where there is no second. */
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

#define STRIP_INLINE static inline __attribute__((always_inline))

#define C_LOAD(tile, offset)  TILE_LOAD_STREAM(tile, from + (offset), from_row)
#define C_STORE(tile, offset) TILE_STORE(tile, to + (offset), to_row)

/* `lines` cache lines of what the next strip reads: on their way to the second-level cache. */
STRIP_INLINE const char *prefetch_lines(const char *next, int lines)
{
    for (int line = 0; line < lines; line++)
        __builtin_prefetch(next + line * LINE_BYTES, 0, 2);
    return next + lines * LINE_BYTES;
}

/* The loads and products of one step of k, in an order that keeps both units busy. */
#define STEP_2X2(LOAD_B)                                                                           \
    do {                                                                                           \
        TILE_LOAD_STREAM(0, a, strip->a_row);                                                      \
        LOAD_B(2, b, TILE_ROW_BYTES);                                                              \
        TILE_DP_BF16(4, 0, 2);                                                                     \
        LOAD_B(3, b + strip->b_panel, TILE_ROW_BYTES);                                             \
        TILE_DP_BF16(5, 0, 3);                                                                     \
        TILE_LOAD_STREAM(1, a + strip->a_group, strip->a_row);                                     \
        TILE_DP_BF16(6, 1, 2);                                                                     \
        TILE_DP_BF16(7, 1, 3);                                                                     \
    } while (0)

/* A finished tile is stored and the next block's loaded in turns: products start again before all
 * are stored. */
STRIP_INLINE void run_2x2_fetching(const struct amx_strip *strip, int lines, bool once)
{
    float *from = strip->from.at, *to = strip->to.at;
    int64_t from_row = strip->from.row * 4, to_row = strip->to.row * 4;
    int64_t from_panel = strip->from.panel, from_group = strip->from.group;
    int64_t to_panel = strip->to.panel, to_group = strip->to.group;
    bool zero = strip->from_zero;
    /* The first half of the row blocks fetches the next strip's first panel, the second half its
     * second. */
    int64_t half = (strip->blocks + 1) / 2;
    const char *next = (const char *)strip->next;
    if (zero) {
        TILE_ZERO(4);
        TILE_ZERO(5);
        TILE_ZERO(6);
        TILE_ZERO(7);
    } else {
        C_LOAD(4, 0);
        C_LOAD(5, from_panel);
        C_LOAD(6, from_group);
        C_LOAD(7, from_group + from_panel);
    }
    for (int64_t block = 0; block < strip->blocks; block++) {
        const char *a = strip->a + block * strip->a_block;
        const bf16 *b = strip->b;
        if (block == half && lines > 0)
            next = (const char *)(strip->next + strip->b_panel);
        for (int64_t kb = 0; kb < strip->k_blocks; kb++, a += strip->a_step, b += TILE_VALUES) {
            if (once)
                STEP_2X2(TILE_LOAD_STREAM);
            else
                STEP_2X2(TILE_LOAD);
            next = prefetch_lines(next, lines);
        }
        if (block + 1 == strip->blocks)
            break;
        from += strip->from.block;
        if (zero) {
            C_STORE(4, 0);
            TILE_ZERO(4);
            C_STORE(5, to_panel);
            TILE_ZERO(5);
            C_STORE(6, to_group);
            TILE_ZERO(6);
            C_STORE(7, to_group + to_panel);
            TILE_ZERO(7);
        } else {
            C_STORE(4, 0);
            C_LOAD(4, 0);
            C_STORE(5, to_panel);
            C_LOAD(5, from_panel);
            C_STORE(6, to_group);
            C_LOAD(6, from_group);
            C_STORE(7, to_group + to_panel);
            C_LOAD(7, from_group + from_panel);
        }
        to += strip->to.block;
    }
    C_STORE(4, 0);
    C_STORE(5, to_panel);
    C_STORE(6, to_group);
    C_STORE(7, to_group + to_panel);
}

/* The number of lines is a constant in each, so that fetching them is not a loop. */
static void run_2x2(const struct amx_strip *strip)
{
    int64_t half = (strip->blocks + 1) / 2, lines = (TILE_ROWS + half - 1) / half;
    if (strip->next == NULL)
        run_2x2_fetching(strip, 0, false);
    else if (lines > 8)
        run_2x2_fetching(strip, 16, false);
    else if (lines > 4)
        run_2x2_fetching(strip, 8, false);
    else if (lines > 2)
        run_2x2_fetching(strip, 4, false);
    else
        run_2x2_fetching(strip, 2, false);
}

/* A row block alone, which reads B once. */
static void run_2x2_once(const struct amx_strip *strip)
{
    run_2x2_fetching(strip, 0, true);
}

/* One row group, two panels, for what is left over. */
static void run_1x2(const struct amx_strip *strip)
{
    float *from = strip->from.at, *to = strip->to.at;
    int64_t from_row = strip->from.row * 4, to_row = strip->to.row * 4;
    const char *a = strip->a;
    const bf16 *b = strip->b;
    if (strip->from_zero) {
        TILE_ZERO(4);
        TILE_ZERO(5);
    } else {
        C_LOAD(4, 0);
        C_LOAD(5, strip->from.panel);
    }
    for (int64_t kb = 0; kb < strip->k_blocks; kb++, a += strip->a_step, b += TILE_VALUES) {
        TILE_LOAD_STREAM(0, a, strip->a_row);
        TILE_LOAD_STREAM(2, b, TILE_ROW_BYTES);
        TILE_DP_BF16(4, 0, 2);
        TILE_LOAD_STREAM(3, b + strip->b_panel, TILE_ROW_BYTES);
        TILE_DP_BF16(5, 0, 3);
    }
    C_STORE(4, 0);
    C_STORE(5, strip->to.panel);
}

/* One row group, four panels. */
static void run_1x4(const struct amx_strip *strip)
{
    float *from = strip->from.at, *to = strip->to.at;
    int64_t from_row = strip->from.row * 4, to_row = strip->to.row * 4, panel = strip->b_panel;
    const char *a = strip->a;
    const bf16 *b = strip->b;
    if (strip->from_zero) {
        TILE_ZERO(4);
        TILE_ZERO(5);
        TILE_ZERO(6);
        TILE_ZERO(7);
    } else {
        C_LOAD(4, 0);
        C_LOAD(5, PANEL_COLUMNS);
        C_LOAD(6, 2 * PANEL_COLUMNS);
        C_LOAD(7, 3 * PANEL_COLUMNS);
    }
    for (int64_t kb = 0; kb < strip->k_blocks; kb++, a += strip->a_step, b += TILE_VALUES) {
        TILE_LOAD(0, a, strip->a_row);
        TILE_LOAD_STREAM(2, b, TILE_ROW_BYTES);
        TILE_DP_BF16(4, 0, 2);
        TILE_LOAD_STREAM(3, b + panel, TILE_ROW_BYTES);
        TILE_DP_BF16(5, 0, 3);
        TILE_LOAD_STREAM(2, b + 2 * panel, TILE_ROW_BYTES);
        TILE_DP_BF16(6, 0, 2);
        TILE_LOAD_STREAM(3, b + 3 * panel, TILE_ROW_BYTES);
        TILE_DP_BF16(7, 0, 3);
    }
    C_STORE(4, 0);
    C_STORE(5, PANEL_COLUMNS);
    C_STORE(6, 2 * PANEL_COLUMNS);
    C_STORE(7, 3 * PANEL_COLUMNS);
}

/* A row group's tile in the packed A, [row block][k block][two groups][16 rows][32]. */
static bf16 *packed_tile(bf16 *packed, int64_t k_blocks, int64_t row, int64_t kb)
{
    return packed + row / BLOCK_ROWS * k_blocks * 2 * TILE_VALUES + kb * 2 * TILE_VALUES +
           row % BLOCK_ROWS / TILE_ROWS * TILE_VALUES;
}

/* `left` values, less than a row of a tile, and zeros. */
static void pack_part(const struct amx_a *a, int64_t at, int64_t left, bf16 *to)
{
    memset(to, 0, TILE_ROW_BYTES);
    for (int64_t i = 0; i < left; i++)
        to[i] = a->kind == AMX_A_BF16 ? ((const bf16 *)a->values)[at + i]
                                      : bf16_from_f32(((const float *)a->values)[at + i]);
}

static void pack_whole(const struct amx_a *a, int64_t at, bf16 *to)
{
    if (a->kind == AMX_A_BF16) {
        memcpy(to, (const bf16 *)a->values + at, TILE_ROW_BYTES);
        return;
    }
    const float *from = (const float *)a->values + at;
    vec_store_bf16(to, vec_load(from));
    vec_store_bf16(to + VEC_LANES, vec_load(from + VEC_LANES));
}

/* `count` rows of A, at most a group's, from k block `k_block` on. */
static void pack_group(const struct amx_job *job, int64_t row, int64_t count, int64_t k_block,
                       int64_t k_blocks, bf16 *out)
{
    int64_t first = row * job->a.lda + k_block * BF16_BLOCK_K;
    for (int64_t kb = 0; kb < k_blocks; kb++) {
        int64_t left = job->k - (k_block + kb) * BF16_BLOCK_K;
        for (int64_t r = 0; r < count; r++) {
            int64_t at = first + r * job->a.lda + kb * BF16_BLOCK_K;
            bf16 *to = out + kb * 2 * TILE_VALUES + r * BF16_BLOCK_K;
            if (left >= BF16_BLOCK_K)
                pack_whole(&job->a, at, to);
            else
                pack_part(&job->a, at, left, to);
        }
    }
}

/* A tile of a transposed A: `count` columns and up to 32 rows of it. */
static void pack_tile_columns(const float *from, int64_t lda, int64_t count, int64_t depth,
                              bf16 *to)
{
    bf16 pairs[BF16_BLOCK_K / 2][TILE_ROWS][2], rows[2][TILE_ROWS];
    for (int64_t k = 0; k < BF16_BLOCK_K; k += 2) {
        for (int64_t i = 0; i < 2; i++)
            vec_store_bf16(rows[i], k + i < depth ? vec_load_up_to(from + (k + i) * lda, count)
                                                  : vec_zero());
        pack_pair(rows[0], rows[1], TILE_ROWS, pairs[k / 2][0]);
    }
    for (int64_t pair = 0; pair < BF16_BLOCK_K / 2; pair += 4)
        for (int64_t row = 0; row < TILE_ROWS; row += 4)
            transpose_4x4(pairs[pair][row], (int64_t)sizeof pairs[0],
                          to + row * BF16_BLOCK_K + pair * 2, TILE_ROW_BYTES);
}

/* Lines of A are read in the order in which they lie in memory. */
static void pack_columns(const struct amx_job *job, int64_t row, int64_t rows, int64_t k_block,
                         int64_t k_blocks, bf16 *out)
{
    for (int64_t kb = 0; kb < k_blocks; kb++) {
        int64_t k = (k_block + kb) * BF16_BLOCK_K, depth = job->k - k;
        const float *from = (const float *)job->a.values + k * job->a.lda + row;
        for (int64_t first = 0; first < rows; first += TILE_ROWS)
            pack_tile_columns(from + first, job->a.lda, at_most(rows - first, TILE_ROWS),
                              at_most(depth, BF16_BLOCK_K), packed_tile(out, k_blocks, first, kb));
    }
}

static void pack_a(const struct amx_job *job, int64_t row, int64_t rows, int64_t k_block,
                   int64_t k_blocks, bf16 *out)
{
    if (job->a.kind == AMX_A_F32_COLUMNS) {
        pack_columns(job, row, rows, k_block, k_blocks, out);
        return;
    }
    for (int64_t first = 0; first < rows; first += TILE_ROWS)
        pack_group(job, row + first, at_most(rows - first, TILE_ROWS), k_block, k_blocks,
                   packed_tile(out, k_blocks, first, 0));
}

/* What the strips of an item share. */
struct amx_item {
    const struct amx_job *job;
    int64_t row, rows, panel, panel_end;
    bf16 *packed_a;
    float *buffer;           /* C of a strip: [row block][two groups][two panels][16][16] */
    int64_t depth, k_blocks; /* the part of k that `a` is packed for: begin and length */
    int tile_rows[2];        /* as configured */
};

static void configure_item(struct amx_item *item, int rows0, int rows1)
{
    if (item->tile_rows[0] == rows0 && item->tile_rows[1] == rows1)
        return;
    configure(rows0, rows1);
    item->tile_rows[0] = rows0;
    item->tile_rows[1] = rows1;
}

/* Columns of C to the buffer or back, for panels that C has not whole. */
static void copy_columns(const struct amx_item *item, int64_t panel, bool to_buffer)
{
    const struct amx_job *job = item->job;
    int64_t columns = at_most(job->n - panel * PANEL_COLUMNS, 2 * PANEL_COLUMNS);
    for (int64_t r = 0; r < item->rows; r++) {
        float *c = job->c + (item->row + r) * job->ldc + panel * PANEL_COLUMNS;
        float *at = item->buffer + r / BLOCK_ROWS * C_BLOCK +
                    r % BLOCK_ROWS / TILE_ROWS * (2 * C_TILE) + r % TILE_ROWS * PANEL_COLUMNS;
        for (int64_t first = 0; first < columns; first += PANEL_COLUMNS, at += C_TILE) {
            int64_t count = at_most(columns - first, PANEL_COLUMNS);
            if (to_buffer)
                memcpy(at, c + first, (size_t)count * sizeof *c);
            else
                memcpy(c + first, at, (size_t)count * sizeof *c);
        }
    }
}

/* Where A is: packed, or with the caller when one chunk covers k and its rows are whole lines. */
static void place_a(const struct amx_item *item, struct amx_strip *strip)
{
    const struct amx_job *job = item->job;
    bool lines = job->a.kind == AMX_A_BF16 && job->k % BF16_BLOCK_K == 0 &&
                 job->a.lda % BF16_BLOCK_K == 0 && (uintptr_t)job->a.values % LINE_BYTES == 0;
    if (lines && job->k_blocks <= CHUNK_BLOCKS) {
        strip->a = (const char *)((const bf16 *)job->a.values + item->row * job->a.lda);
        strip->a_row = job->a.lda * 2;
        strip->a_step = LINE_BYTES;
        strip->a_group = TILE_ROWS * strip->a_row;
        strip->a_block = BLOCK_ROWS * strip->a_row;
        return;
    }
    pack_a(job, item->row, item->rows, item->depth, item->k_blocks, item->packed_a);
    strip->a = (const char *)item->packed_a;
    strip->a_row = TILE_ROW_BYTES;
    strip->a_step = 2 * TILE_BYTES;
    strip->a_group = TILE_BYTES;
    strip->a_block = item->k_blocks * 2 * TILE_BYTES;
}

/* A chunk of k for all rows of the item: whole row blocks, then what is left of one. */
static void run_chunk(struct amx_item *item, struct amx_strip *strip)
{
    int64_t whole = item->rows / BLOCK_ROWS, left = item->rows % BLOCK_ROWS;
    struct amx_strip rest = *strip;
    if (whole > 0) {
        configure_item(item, TILE_ROWS, TILE_ROWS);
        strip->blocks = whole;
        (item->rows <= BLOCK_ROWS ? run_2x2_once : run_2x2)(strip);
    }
    if (left == 0)
        return;
    rest.blocks = 1;
    rest.a += whole * rest.a_block;
    rest.from.at += whole * rest.from.block;
    rest.to.at += whole * rest.to.block;
    int rows0 = (int)at_most(left, TILE_ROWS);
    configure_item(item, rows0, (int)left - rows0);
    if (left > TILE_ROWS)
        run_2x2_once(&rest);
    else
        run_1x2(&rest);
}

/* Two panels, or the last one alone, over the part of k that A is packed for. */
static void run_pair(struct amx_item *item, const struct amx_strip *base, int64_t panel)
{
    const struct amx_job *job = item->job;
    const struct amx_c buffer = {item->buffer, PANEL_COLUMNS, C_TILE, 2 * C_TILE, C_BLOCK};
    const struct amx_c user = {job->c + item->row * job->ldc + panel * PANEL_COLUMNS, job->ldc,
                               PANEL_COLUMNS, TILE_ROWS * job->ldc, BLOCK_ROWS * job->ldc};
    bool single = panel + 1 == item->panel_end;
    bool partial = single || (panel + 2) * PANEL_COLUMNS > job->n;
    bool zero = item->depth == 0 && !job->accumulate;
    int64_t most = CHUNK_BLOCKS;
    if (item->rows <= BLOCK_ROWS)
        most = item->k_blocks;
    else if (item->rows / BLOCK_ROWS <= FEW_BLOCKS && item->k_blocks > CHUNK_BLOCKS)
        most = CHUNK_BLOCKS_FEW;
    int64_t chunks = (item->k_blocks + most - 1) / most;
    int64_t chunk = (item->k_blocks + chunks - 1) / chunks;
    const bf16 *b = job->packed + panel * job->k_blocks * TILE_VALUES + item->depth * TILE_VALUES;
    if (partial && !zero)
        copy_columns(item, panel, true);
    for (int64_t kb = 0; kb < item->k_blocks; kb += chunk) {
        struct amx_strip strip = *base;
        bool last = kb + chunk >= item->k_blocks;
        strip.k_blocks = at_most(item->k_blocks - kb, chunk);
        strip.a += kb * strip.a_step;
        strip.b = b + kb * TILE_VALUES;
        /* A panel that is alone stands for both; its second product is not used. */
        strip.b_panel = single ? 0 : job->k_blocks * TILE_VALUES;
        strip.next = last ? b + 2 * strip.b_panel : strip.b + chunk * TILE_VALUES;
        if (last && panel + 2 >= item->panel_end)
            strip.next = NULL;
        strip.from = kb > 0 || partial ? buffer : user;
        strip.to = !last || partial ? buffer : user;
        strip.from_zero = kb == 0 && zero;
        run_chunk(item, &strip);
    }
    if (partial)
        copy_columns(item, panel, false);
}

/* Four panels for up to 16 rows. */
static void run_four(struct amx_item *item, const struct amx_strip *base, int64_t panel)
{
    const struct amx_job *job = item->job;
    struct amx_strip strip = *base;
    strip.k_blocks = item->k_blocks;
    strip.b_panel = job->k_blocks * TILE_VALUES;
    strip.b = job->packed + panel * strip.b_panel + item->depth * TILE_VALUES;
    strip.from.at = job->c + item->row * job->ldc + panel * PANEL_COLUMNS;
    strip.from.row = job->ldc;
    strip.to = strip.from;
    strip.from_zero = item->depth == 0 && !job->accumulate;
    configure_item(item, (int)item->rows, 0);
    run_1x4(&strip);
}

static void run_item(const struct amx_job *job, int64_t row, int64_t panel, int64_t panel_end)
{
    _Alignas(64) bf16 packed_a[PACKED_A_VALUES];
    _Alignas(64) float buffer[C_BUFFER];
    struct amx_item item = {.job = job, .row = row, .panel = panel, .panel_end = panel_end};
    item.packed_a = packed_a;
    item.buffer = buffer;
    item.rows = at_most(job->m - row, job->rows_per_item);
    int64_t row_blocks = (item.rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    int64_t depth = PACKED_A_VALUES / (row_blocks * 2 * TILE_VALUES),
            whole = job->n / PANEL_COLUMNS;
    for (item.depth = 0; item.depth < job->k_blocks; item.depth += depth) {
        struct amx_strip base = {0};
        item.k_blocks = at_most(job->k_blocks - item.depth, depth);
        place_a(&item, &base);
        for (int64_t p = panel; p < panel_end;) {
            if (item.rows <= TILE_ROWS && p + 4 <= panel_end && p + 4 <= whole) {
                run_four(&item, &base, p);
                p += 4;
            } else {
                run_pair(&item, &base, p);
                p += 2;
            }
        }
    }
}

/* Items are (range of panels, group of rows), panels outermost. */
static void run_items(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct amx_job *job = context;
    int64_t panels = (job->n + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
    for (int64_t item = begin; item < end; item++) {
        int64_t row = item % job->row_items * job->rows_per_item;
        int64_t panel = item / job->row_items * job->panels_per_item;
        int64_t panel_end = panel + job->panels_per_item;
        run_item(job, row, panel, at_most(panel_end, panels));
    }
    TILE_RELEASE();
}

/* Rows are shared out where there are enough, since every item packs its rows of A; else panels,
 * in fours. An item's rows fit the packed buffer at the depth of DEPTH_BLOCKS. */
static void plan_items(struct amx_job *job, int threads)
{
    int64_t panels = (job->n + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
    int64_t depth = at_most(job->k_blocks, DEPTH_BLOCKS);
    int64_t most = PACKED_A_VALUES / (depth * BF16_BLOCK_K);
    most = at_most(most, ITEM_ROWS_MAX) / BLOCK_ROWS * BLOCK_ROWS;
    int64_t row_items = (job->m + most - 1) / most;
    if (job->m >= threads * ROWS_PER_THREAD_MIN)
        row_items = round_up(row_items, threads);
    job->rows_per_item = (job->m + row_items - 1) / row_items;
    if (row_items > 1)
        job->rows_per_item = round_up(job->rows_per_item, BLOCK_ROWS);
    job->row_items = (job->m + job->rows_per_item - 1) / job->rows_per_item;
    int64_t splits = job->row_items >= threads ? 1 : threads;
    job->panels_per_item = round_up((panels + splits - 1) / splits, 4);
    job->panel_items = (panels + job->panels_per_item - 1) / job->panels_per_item;
}

void gemm_amx_bf16(struct parallel *pool, int64_t m, int64_t n, int64_t k, const struct amx_a *a,
                   const bf16 *packed, float *c, int64_t ldc, bool accumulate)
{
    HONE_ASSERT(n >= 1 && k >= 1 && ldc >= n);
    HONE_ASSERT(a->lda >= (a->kind == AMX_A_F32_COLUMNS ? m : k));
    struct amx_job job = {.m = m, .n = n, .k = k, .a = *a, .packed = packed, .c = c};
    if (m == 0)
        return;
    job.ldc = ldc;
    job.accumulate = accumulate;
    job.k_blocks = (k + BF16_BLOCK_K - 1) / BF16_BLOCK_K;
    plan_items(&job, parallel_threads(pool));
    int64_t item_rows = at_most(m, job.rows_per_item);
    int64_t grain = AMX_GRAIN_FMAS / (item_rows * job.panels_per_item * PANEL_COLUMNS * k);
    parallel_for(pool, job.row_items * job.panel_items, grain > 1 ? grain : 1, run_items, &job);
}

void linear_backward_amx_bf16(struct parallel *pool, int64_t rows, int64_t in, int64_t out,
                              const float *dy, const bf16 *x, const bf16 *transposed_weight,
                              float *dx, float *dweight, bf16 *packed)
{
    const struct amx_a as_it_is = {AMX_A_F32, dy, out}, transposed = {AMX_A_F32_COLUMNS, dy, out};
    if (dx != NULL)
        gemm_amx_bf16(pool, rows, in, out, &as_it_is, transposed_weight, dx, in, false);
    gemm_pack(pool, DTYPE_BF16, in, rows, x, in, false, packed);
    gemm_amx_bf16(pool, out, in, rows, &transposed, packed, dweight, in, true);
}

/* Operands of the probes. Zeros would be faster than a model's values: they switch no bits. */
#define PROBE_TILES 16

static void fill_probe(bf16 *values)
{
    uint32_t state = 1;
    for (int i = 0; i < PROBE_TILES * TILE_VALUES; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = bf16_from_f32((float)(int32_t)state * 0x1p-31f);
    }
}

double peak_amx(int64_t steps, float *sink)
{
    _Alignas(64) bf16 values[PROBE_TILES * TILE_VALUES];
    _Alignas(64) float result[C_TILE] = {0};
    fill_probe(values);
    configure(TILE_ROWS, TILE_ROWS);
    TILE_LOAD(0, values, TILE_ROW_BYTES);
    TILE_LOAD(2, values + TILE_VALUES, TILE_ROW_BYTES);
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
    TILE_STORE(4, result, PANEL_COLUMNS * 4);
    TILE_RELEASE();
    *sink = result[0];
    return (double)steps * 4 * TILE_ROWS * PANEL_COLUMNS * BF16_BLOCK_K * 2;
}

/* As run_2x2 does it, over operands that stay in the first-level cache. */
double peak_amx_loads(int64_t steps, float *sink)
{
    _Alignas(64) bf16 values[PROBE_TILES * TILE_VALUES];
    _Alignas(64) float result[C_TILE] = {0};
    fill_probe(values);
    configure(TILE_ROWS, TILE_ROWS);
    TILE_ZERO(4);
    TILE_ZERO(5);
    TILE_ZERO(6);
    TILE_ZERO(7);
    for (int64_t step = 0; step < steps; step++) {
        const bf16 *at = values + step % (PROBE_TILES / 4) * 4 * TILE_VALUES;
        TILE_LOAD(0, at, TILE_ROW_BYTES);
        TILE_LOAD(2, at + TILE_VALUES, TILE_ROW_BYTES);
        TILE_DP_BF16(4, 0, 2);
        TILE_LOAD(3, at + 2 * TILE_VALUES, TILE_ROW_BYTES);
        TILE_DP_BF16(5, 0, 3);
        TILE_LOAD(1, at + 3 * TILE_VALUES, TILE_ROW_BYTES);
        TILE_DP_BF16(6, 1, 2);
        TILE_DP_BF16(7, 1, 3);
    }
    TILE_STORE(4, result, PANEL_COLUMNS * 4);
    TILE_RELEASE();
    *sink = result[0];
    return (double)steps * 4 * TILE_ROWS * PANEL_COLUMNS * BF16_BLOCK_K * 2;
}

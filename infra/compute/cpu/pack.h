/* gemm_pack and transpose: the packed layout of infra/compute/ops.h. Only moves bits. */
#ifndef HONE_COMPUTE_CPU_PACK_H
#define HONE_COMPUTE_CPU_PACK_H

#include <emmintrin.h>
#include <stdbool.h>

#include "infra/base/assert.h"
#include "infra/compute/vec/vec.h"
#include "infra/compute/parallel.h"

#define PANEL_COLUMNS     16
#define BF16_BLOCK_K      32
#define TRANSPOSE_ROWS    32 /* of the input: whole cache lines of 2-byte output */
#define TRANSPOSE_COLUMNS 16
#define PACK_GRAIN_VALUES 16384
#define PACK_PANELS       8 /* 256 bytes of a row */

struct pack_job {
    enum dtype dtype;
    int64_t n, k, ldb;
    const void *source;
    bool b_is_nk;
    void *packed;
};

static inline int64_t grain_of(int64_t values_per_item)
{
    int64_t grain = PACK_GRAIN_VALUES / (values_per_item > 0 ? values_per_item : 1);
    return grain > 1 ? grain : 1;
}

static inline int64_t round_up(int64_t value, int64_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

static inline int64_t at_most(int64_t value, int64_t limit)
{
    return value < limit ? value : limit;
}

/* Four rows of four 32-bit values and eight of eight 16-bit values, transposed; strides in bytes.
 * Every x86-64 has these instructions, so all tables do. */
static inline void transpose_4x4(const void *in, int64_t ld_in, void *out, int64_t ld_out)
{
    __m128i row[4], half[4];
    for (int i = 0; i < 4; i++)
        row[i] = _mm_loadu_si128((const __m128i *)((const char *)in + i * ld_in));
    for (int i = 0; i < 2; i++) {
        half[2 * i] = _mm_unpacklo_epi32(row[2 * i], row[2 * i + 1]);
        half[2 * i + 1] = _mm_unpackhi_epi32(row[2 * i], row[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        char *to = (char *)out + 2 * i * ld_out;
        _mm_storeu_si128((__m128i *)to, _mm_unpacklo_epi64(half[i], half[i + 2]));
        _mm_storeu_si128((__m128i *)(to + ld_out), _mm_unpackhi_epi64(half[i], half[i + 2]));
    }
}

static inline void transpose_8x8(const void *in, int64_t ld_in, void *out, int64_t ld_out)
{
    __m128i row[8], two[8], four[8];
    for (int i = 0; i < 8; i++)
        row[i] = _mm_loadu_si128((const __m128i *)((const char *)in + i * ld_in));
    for (int i = 0; i < 4; i++) { /* columns 0-3 and 4-7 of two rows */
        two[2 * i] = _mm_unpacklo_epi16(row[2 * i], row[2 * i + 1]);
        two[2 * i + 1] = _mm_unpackhi_epi16(row[2 * i], row[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) /* two columns of four rows */
        for (int j = 0; j < 2; j++) {
            four[4 * i + 2 * j] = _mm_unpacklo_epi32(two[4 * i + j], two[4 * i + 2 + j]);
            four[4 * i + 2 * j + 1] = _mm_unpackhi_epi32(two[4 * i + j], two[4 * i + 2 + j]);
        }
    for (int j = 0; j < 4; j++) {
        char *to = (char *)out + 2 * j * ld_out;
        _mm_storeu_si128((__m128i *)to, _mm_unpacklo_epi64(four[j], four[4 + j]));
        _mm_storeu_si128((__m128i *)(to + ld_out), _mm_unpackhi_epi64(four[j], four[4 + j]));
    }
}

/* 16 rows of `units` 4-byte units (a multiple of 4) become [units][16]. */
static inline void transpose_panel(const void *in, int64_t ld_in, int64_t units, void *out)
{
    for (int64_t unit = 0; unit < units; unit += 4)
        for (int64_t row = 0; row < PANEL_COLUMNS; row += 4)
            transpose_4x4((const char *)in + row * ld_in + unit * 4, ld_in,
                          (char *)out + (unit * PANEL_COLUMNS + row) * 4, PANEL_COLUMNS * 4);
}

/* One panel of fp32: [k][16]. */
static inline void pack_panel_f32(const struct pack_job *job, int64_t panel)
{
    int64_t column = panel * PANEL_COLUMNS;
    int64_t columns = at_most(job->n - column, PANEL_COLUMNS);
    float *out = (float *)job->packed + column * job->k;
    const float *source = job->source;
    if (!job->b_is_nk) {
        for (int64_t k = 0; k < job->k; k++)
            vec_store(out + k * PANEL_COLUMNS,
                      vec_load_up_to(source + k * job->ldb + column, columns));
        return;
    }
    int64_t whole = columns == PANEL_COLUMNS ? job->k / 4 * 4 : 0;
    transpose_panel(source + column * job->ldb, job->ldb * 4, whole, out);
    for (int64_t k = whole; k < job->k; k++)
        for (int64_t c = 0; c < PANEL_COLUMNS; c++)
            out[k * PANEL_COLUMNS + c] = c < columns ? source[(column + c) * job->ldb + k] : 0.0f;
}

/* Two rows of up to 16 bf16 columns become 16 (even, odd) pairs; a NULL row is zeros. */
static inline void pack_pair(const bf16 *even, const bf16 *odd, int64_t columns, bf16 *out)
{
    if (columns == PANEL_COLUMNS && odd != NULL) {
        for (int64_t c = 0; c < PANEL_COLUMNS; c += 8) {
            __m128i first = _mm_loadu_si128((const __m128i *)(even + c));
            __m128i second = _mm_loadu_si128((const __m128i *)(odd + c));
            _mm_storeu_si128((__m128i *)(out + 2 * c), _mm_unpacklo_epi16(first, second));
            _mm_storeu_si128((__m128i *)(out + 2 * c + 8), _mm_unpackhi_epi16(first, second));
        }
        return;
    }
    bf16 rows[2][PANEL_COLUMNS] = {{0}};
    memcpy(rows[0], even, (size_t)columns * sizeof *even);
    if (odd != NULL)
        memcpy(rows[1], odd, (size_t)columns * sizeof *odd);
    for (int64_t c = 0; c < PANEL_COLUMNS; c++) {
        out[2 * c] = rows[0][c];
        out[2 * c + 1] = rows[1][c];
    }
}

/* `count` panels of a bf16 [k][n] side by side: a row's columns are read once, since rows a power
 * of two apart share cache sets and would not be there the next time. */
static inline void pack_rows_bf16(const struct pack_job *job, int64_t panel, int64_t count)
{
    int64_t k_padded = round_up(job->k, BF16_BLOCK_K), panel_values = PANEL_COLUMNS * k_padded;
    bf16 *out = (bf16 *)job->packed + panel * panel_values;
    for (int64_t k = 0; k < job->k; k += 2)
        for (int64_t p = 0; p < count; p++) {
            int64_t column = (panel + p) * PANEL_COLUMNS;
            const bf16 *even = (const bf16 *)job->source + k * job->ldb + column;
            pack_pair(even, k + 1 < job->k ? even + job->ldb : NULL,
                      at_most(job->n - column, PANEL_COLUMNS),
                      out + p * panel_values + k * PANEL_COLUMNS);
        }
    int64_t done = round_up(job->k, 2);
    for (int64_t p = 0; p < count; p++)
        memset(out + p * panel_values + done * PANEL_COLUMNS, 0,
               (size_t)(k_padded - done) * PANEL_COLUMNS * sizeof *out);
}

/* One panel of a bf16 [n][k]: [k / 2][16][2], k padded with zeros to 32. */
static inline void pack_panel_bf16(const struct pack_job *job, int64_t panel)
{
    int64_t column = panel * PANEL_COLUMNS, k_padded = round_up(job->k, BF16_BLOCK_K);
    int64_t columns = at_most(job->n - column, PANEL_COLUMNS);
    bf16 *out = (bf16 *)job->packed + column * k_padded;
    const bf16 *source = job->source;
    memset(out + job->k / 2 * 2 * PANEL_COLUMNS, 0,
           (size_t)(k_padded - job->k / 2 * 2) * PANEL_COLUMNS * sizeof *out);
    int64_t whole = columns == PANEL_COLUMNS ? job->k / 8 * 8 : 0; /* pairs are 4 bytes */
    transpose_panel(source + column * job->ldb, job->ldb * 2, whole / 2, out);
    for (int64_t c = 0; c < PANEL_COLUMNS; c++) {
        const bf16 *row = source + (column + c) * job->ldb;
        for (int64_t k = whole; k < job->k; k++)
            out[k / 2 * 2 * PANEL_COLUMNS + 2 * c + k % 2] = c < columns ? row[k] : 0;
    }
}

static inline void pack_panels(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct pack_job *job = context;
    for (int64_t panel = begin; panel < end; panel++) {
        if (job->dtype == DTYPE_F32) {
            pack_panel_f32(job, panel);
        } else if (job->b_is_nk) {
            pack_panel_bf16(job, panel);
        } else {
            int64_t count = at_most(end - panel, PACK_PANELS);
            pack_rows_bf16(job, panel, count);
            panel += count - 1;
        }
    }
}

static inline void gemm_pack(struct parallel *pool, enum dtype dtype, int64_t n, int64_t k,
                             const void *source, int64_t ldb, bool b_is_nk, void *packed)
{
    HONE_ASSERT(dtype == DTYPE_BF16 || dtype == DTYPE_F32);
    HONE_ASSERT(n >= 1 && k >= 1);
    struct pack_job job = {dtype, n, k, ldb, source, b_is_nk, packed};
    int64_t panels = (n + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
    parallel_for(pool, panels, grain_of(k * PANEL_COLUMNS), pack_panels, &job);
}

struct transpose_job {
    size_t bytes;
    int64_t rows, columns, ld_in, ld_out;
    const void *in;
    void *out;
};

static inline void transpose_tile_4(const uint32_t *in, int64_t ld_in, uint32_t *out,
                                    int64_t ld_out, int64_t rows, int64_t columns)
{
    if (rows == TRANSPOSE_ROWS && columns == TRANSPOSE_COLUMNS) {
        for (int64_t c = 0; c < columns; c += 4)
            for (int64_t r = 0; r < rows; r += 4)
                transpose_4x4(in + r * ld_in + c, ld_in * 4, out + c * ld_out + r, ld_out * 4);
        return;
    }
    for (int64_t c = 0; c < columns; c++)
        for (int64_t r = 0; r < rows; r++)
            out[c * ld_out + r] = in[r * ld_in + c];
}

static inline void transpose_tile_2(const uint16_t *in, int64_t ld_in, uint16_t *out,
                                    int64_t ld_out, int64_t rows, int64_t columns)
{
    if (rows == TRANSPOSE_ROWS && columns == TRANSPOSE_COLUMNS) {
        for (int64_t c = 0; c < columns; c += 8)
            for (int64_t r = 0; r < rows; r += 8)
                transpose_8x8(in + r * ld_in + c, ld_in * 2, out + c * ld_out + r, ld_out * 2);
        return;
    }
    for (int64_t c = 0; c < columns; c++)
        for (int64_t r = 0; r < rows; r++)
            out[c * ld_out + r] = in[r * ld_in + c];
}

/* Items are bands of TRANSPOSE_COLUMNS input columns (output rows). An output line is finished
 * before the next is begun: lines of rows a power of two apart share cache sets and would not wait.
 */
static inline void transpose_bands(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct transpose_job *job = context;
    for (int64_t column = begin * TRANSPOSE_COLUMNS;
         column < at_most(end * TRANSPOSE_COLUMNS, job->columns); column += TRANSPOSE_COLUMNS) {
        int64_t columns = at_most(job->columns - column, TRANSPOSE_COLUMNS);
        for (int64_t row = 0; row < job->rows; row += TRANSPOSE_ROWS) {
            int64_t rows = at_most(job->rows - row, TRANSPOSE_ROWS);
            if (job->bytes == 4)
                transpose_tile_4((const uint32_t *)job->in + row * job->ld_in + column, job->ld_in,
                                 (uint32_t *)job->out + column * job->ld_out + row, job->ld_out,
                                 rows, columns);
            else
                transpose_tile_2((const uint16_t *)job->in + row * job->ld_in + column, job->ld_in,
                                 (uint16_t *)job->out + column * job->ld_out + row, job->ld_out,
                                 rows, columns);
        }
    }
}

static inline void transpose(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t columns,
                             const void *in, int64_t ld_in, void *out, int64_t ld_out)
{
    HONE_ASSERT(dtype == DTYPE_BF16 || dtype == DTYPE_F32);
    struct transpose_job job = {dtype_bytes(dtype), rows, columns, ld_in, ld_out, in, out};
    int64_t bands = (columns + TRANSPOSE_COLUMNS - 1) / TRANSPOSE_COLUMNS;
    parallel_for(pool, bands, grain_of(rows * TRANSPOSE_COLUMNS), transpose_bands, &job);
}

#endif

/* Small products as chains of multiply-adds, for kernels that work on a few rows at a time:
 *
 *   out[r][c] = start + sum over k in [begin, end) ascending of a[r][k] * b[k][c]
 *
 * Every element is one FMA chain, whatever the number of rows and columns and however its k are
 * split over calls (a later call continues from out in memory, which is exact). Rows and columns
 * only decide how many chains are in flight: enough of them to hide the latency of an FMA. */
#ifndef HONE_COMPUTE_VEC_VEC_CHAIN_H
#define HONE_COMPUTE_VEC_VEC_CHAIN_H

#include "infra/compute/vec/vec.h"

#if VEC_REGISTERS > 0
#define CHAIN_UNROLL _Pragma("GCC unroll 8")
#else
#define CHAIN_UNROLL
#endif
/* A tile of so many rows and vectors: with two, a factor read from memory serves both. */
#define CHAIN_ROWS    (VEC_REGISTERS >= 32 ? 8 : 4)
#define CHAIN_COLUMNS (VEC_REGISTERS >= 32 ? 2 : 1)
#define CHAIN_INLINE  static inline __attribute__((always_inline))
/* Hides where a pointer comes from, so that the compiler does not derive others from it. */
#define CHAIN_KEEP(pointer) __asm__("" : "+r"(pointer))

enum chain_start {
    CHAIN_FROM_ZERO,  /* +0 */
    CHAIN_FROM_OUT,   /* out as it is */
    CHAIN_FROM_SCALED /* out[r] * factor[r] */
};

struct chains {
    const float *a;
    int64_t a_row, a_step; /* a[r][k] is at r * a_row + k * a_step */
    const float *b;        /* [k][ldb] */
    int64_t ldb;
    int64_t begin, end;
    float *out; /* [rows][ldo] */
    int64_t ldo;
    const float *factor;
};

/* `rows` x `columns` vectors of the result, at row `row` and element `column`. */
CHAIN_INLINE void chain_tile(const struct chains *c, enum chain_start start, int rows, int columns,
                             int64_t row, int64_t column)
{
    struct vec acc[CHAIN_ROWS * CHAIN_COLUMNS], b[4];
    float *out = c->out + row * c->ldo + column;
    CHAIN_UNROLL for (int r = 0; r < rows; r++)
    {
        CHAIN_UNROLL for (int i = 0; i < columns; i++)
        {
            struct vec *to = &acc[r * columns + i];
            *to =
                start == CHAIN_FROM_ZERO ? vec_zero() : vec_load(out + r * c->ldo + i * VEC_LANES);
            if (start == CHAIN_FROM_SCALED)
                *to = vec_mul(*to, vec_set1(c->factor[row + r]));
        }
    }
    /* Rows 3 i, 3 i + 1, 3 i + 2 are a[i] plus none, one and two of a_row: addresses an instruction
     * can have. A pointer or an offset for every row would not fit the integer registers. */
    const float *a[(CHAIN_ROWS + 2) / 3];
    int64_t a_row = c->a_row, a_step = c->a_step, ldb = c->ldb, end = c->end;
    CHAIN_UNROLL for (int r = 0; r < rows; r += 3)
    {
        a[r / 3] = c->a + (row + r) * a_row + c->begin * a_step;
    }
    for (int64_t k = c->begin; k < end; k++) {
        CHAIN_UNROLL for (int i = 0; i < columns; i++)
        {
            b[i] = vec_load(c->b + k * ldb + column + i * VEC_LANES);
        }
        CHAIN_UNROLL for (int r = 0; r < rows; r++)
        {
            struct vec factor = vec_set1(a[r / 3][r % 3 * a_row]);
            CHAIN_UNROLL for (int i = 0; i < columns; i++)
            {
                acc[r * columns + i] = vec_fma(factor, b[i], acc[r * columns + i]);
            }
        }
        CHAIN_UNROLL for (int r = 0; r < rows; r += 3)
        {
            a[r / 3] += a_step;
            CHAIN_KEEP(a[r / 3]);
        }
    }
    CHAIN_UNROLL for (int r = 0; r < rows; r++)
    {
        CHAIN_UNROLL for (int i = 0; i < columns; i++)
        {
            vec_store(out + r * c->ldo + i * VEC_LANES, acc[r * columns + i]);
        }
    }
}

/* `rows` rows of `width` elements, a multiple of 16. */
CHAIN_INLINE void chains_run(const struct chains *c, enum chain_start start, int64_t rows,
                             int64_t width)
{
    int64_t row = 0;
    for (; row + CHAIN_ROWS <= rows; row += CHAIN_ROWS) {
        int64_t column = 0;
        for (; column + CHAIN_COLUMNS * VEC_LANES <= width; column += CHAIN_COLUMNS * VEC_LANES)
            chain_tile(c, start, CHAIN_ROWS, CHAIN_COLUMNS, row, column);
        if (column < width)
            chain_tile(c, start, CHAIN_ROWS, 1, row, column);
    }
    for (; row + 2 <= rows; row += 2) {
        int64_t column = 0;
        for (; column + 2 * VEC_LANES <= width; column += 2 * VEC_LANES)
            chain_tile(c, start, 2, 2, row, column);
        if (column < width)
            chain_tile(c, start, 2, 1, row, column);
    }
    for (; row < rows; row++) {
        int64_t column = 0;
        for (; column + 4 * VEC_LANES <= width; column += 4 * VEC_LANES)
            chain_tile(c, start, 1, 4, row, column);
        for (; column + 2 * VEC_LANES <= width; column += 2 * VEC_LANES)
            chain_tile(c, start, 1, 2, row, column);
        if (column < width)
            chain_tile(c, start, 1, 1, row, column);
    }
}

#endif

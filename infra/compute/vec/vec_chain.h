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
#define CHAIN_ROWS   (VEC_REGISTERS >= 32 ? 8 : 4)
#define CHAIN_INLINE static inline __attribute__((always_inline))

enum chain_start {
    CHAIN_FROM_ZERO,  /* +0 */
    CHAIN_FROM_OUT,   /* out as it is */
    CHAIN_FROM_SCALED /* out[r] * factor[r] */
};

struct chains {
    const float *a;
    int64_t a_row, a_step; /* a[r][k] is at r * a_row + k * a_step */
    const void *b;         /* fp32 or bf16 [k][ldb] */
    int64_t ldb;
    int64_t begin, end;
    float *out; /* [rows][ldo] */
    int64_t ldo;
    const float *factor;
};

/* `rows` x `columns` vectors of the result, at row `row` and element `column`. */
CHAIN_INLINE void chain_tile(const struct chains *c, enum dtype dtype, enum chain_start start,
                             int rows, int columns, int64_t row, int64_t column)
{
    struct vec acc[CHAIN_ROWS], b[4];
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
    const float *a = c->a + row * c->a_row;
    int64_t a_row = c->a_row, a_step = c->a_step, ldb = c->ldb, end = c->end;
    for (int64_t k = c->begin; k < end; k++) {
        CHAIN_UNROLL for (int i = 0; i < columns; i++)
        {
            b[i] = act_load(dtype, c->b, k * ldb + column + i * VEC_LANES, VEC_LANES);
        }
        CHAIN_UNROLL for (int r = 0; r < rows; r++)
        {
            struct vec factor = vec_set1(a[r * a_row + k * a_step]);
            CHAIN_UNROLL for (int i = 0; i < columns; i++)
            {
                acc[r * columns + i] = vec_fma(factor, b[i], acc[r * columns + i]);
            }
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
CHAIN_INLINE void chains_run(const struct chains *c, enum dtype dtype, enum chain_start start,
                             int64_t rows, int64_t width)
{
    int64_t row = 0;
    for (; row + CHAIN_ROWS <= rows; row += CHAIN_ROWS)
        for (int64_t column = 0; column < width; column += VEC_LANES)
            chain_tile(c, dtype, start, CHAIN_ROWS, 1, row, column);
    for (; row + 2 <= rows; row += 2) {
        int64_t column = 0;
        for (; column + 2 * VEC_LANES <= width; column += 2 * VEC_LANES)
            chain_tile(c, dtype, start, 2, 2, row, column);
        if (column < width)
            chain_tile(c, dtype, start, 2, 1, row, column);
    }
    for (; row < rows; row++) {
        int64_t column = 0;
        for (; column + 4 * VEC_LANES <= width; column += 4 * VEC_LANES)
            chain_tile(c, dtype, start, 1, 4, row, column);
        for (; column + 2 * VEC_LANES <= width; column += 2 * VEC_LANES)
            chain_tile(c, dtype, start, 1, 2, row, column);
        if (column < width)
            chain_tile(c, dtype, start, 1, 1, row, column);
    }
}

#endif

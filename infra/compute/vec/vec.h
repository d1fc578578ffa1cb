/* The 16-lane fp32 vector that every CPU kernel is written in: `struct vec`. The instruction set is
 * the one this translation unit is compiled for, so one kernel source gives every table.
 *
 * Invariants:
 *  V1  Every operation is one IEEE operation per lane (round to nearest even), with DAZ and FTZ
 * from MXCSR; only vec_fma and vec_fnma fuse. So all instruction sets give the same bits. V2
 * vec_max(a, b) is a > b ? a : b and vec_min(a, b) is a < b ? a : b, per lane, as MAXPS does. V3
 * vec_sum and vec_max_lanes reduce lane j with lane j + width/2 for widths 16, 8, 4, 2 (N5). */
#ifndef HONE_COMPUTE_VEC_VEC_H
#define HONE_COMPUTE_VEC_VEC_H

#include <stdint.h>
#include <string.h>

#include "infra/compute/dtype.h"

#define VEC_LANES 16

/* Up to 62 bytes, an even number, in pieces of known size: no call. */
static inline void copy_pieces(void *to, const void *from, int64_t bytes)
{
    char *out = (char *)to;
    const char *in = (const char *)from;
    int64_t done = 0;
    if ((bytes & 32) != 0) {
        memcpy(out, in, 32);
        done = 32;
    }
    if ((bytes & 16) != 0) {
        memcpy(out + done, in + done, 16);
        done += 16;
    }
    if ((bytes & 8) != 0) {
        memcpy(out + done, in + done, 8);
        done += 8;
    }
    if ((bytes & 4) != 0) {
        memcpy(out + done, in + done, 4);
        done += 4;
    }
    if ((bytes & 2) != 0)
        memcpy(out + done, in + done, 2);
}

#if defined(HONE_VEC_SIMDE) || (defined(__AVX512F__) && defined(__AVX512BW__))
#include "infra/compute/vec/vec_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__)
#include "infra/compute/vec/vec_avx2.h"
#else
#include "infra/compute/vec/vec_scalar.h"
#endif

#if !defined(VEC_HAS_REDUCE_ROWS)
/* Reductions of 16 vectors at once: lane i is that of rows[16 i ..]. */
static inline struct vec vec_sum_rows(const float *rows)
{
    float sums[VEC_LANES];
    for (int i = 0; i < VEC_LANES; i++)
        sums[i] = vec_sum(vec_load(rows + i * VEC_LANES));
    return vec_load(sums);
}

static inline struct vec vec_max_rows(const float *rows)
{
    float most[VEC_LANES];
    for (int i = 0; i < VEC_LANES; i++)
        most[i] = vec_max_lanes(vec_load(rows + i * VEC_LANES));
    return vec_load(most);
}
#endif

#if !defined(VEC_HAS_LOAD_PART)
/* The first `count` lanes from memory (1 .. 15), the rest +0. */
static inline struct vec vec_load_part(const float *p, int64_t count)
{
    float lanes[VEC_LANES] = {0};
    copy_pieces(lanes, p, count * (int64_t)sizeof *p);
    return vec_load(lanes);
}

static inline struct vec vec_load_part_bf16(const bf16 *p, int64_t count)
{
    bf16 lanes[VEC_LANES] = {0};
    copy_pieces(lanes, p, count * (int64_t)sizeof *p);
    return vec_load_bf16(lanes);
}
#endif

static inline void vec_store_part(float *p, struct vec v, int64_t count)
{
    float lanes[VEC_LANES];
    vec_store(lanes, v);
    copy_pieces(p, lanes, count * (int64_t)sizeof *p);
}

static inline struct vec vec_load_up_to(const float *p, int64_t count)
{
    return count >= VEC_LANES ? vec_load(p) : vec_load_part(p, count);
}

static inline void vec_store_up_to(float *p, struct vec v, int64_t count)
{
    if (count >= VEC_LANES)
        vec_store(p, v);
    else
        vec_store_part(p, v, count);
}

/* Up to 16 elements of an activation array (bf16 or fp32) as fp32; lanes past count are +0. */
static inline struct vec act_load(enum dtype dtype, const void *base, int64_t index, int64_t count)
{
    if (dtype == DTYPE_F32)
        return vec_load_up_to((const float *)base + index, count);
    const bf16 *p = (const bf16 *)base + index;
    return count >= VEC_LANES ? vec_load_bf16(p) : vec_load_part_bf16(p, count);
}

static inline void act_store(enum dtype dtype, void *base, int64_t index, struct vec v,
                             int64_t count)
{
    if (dtype == DTYPE_F32) {
        vec_store_up_to((float *)base + index, v, count);
        return;
    }
    bf16 *p = (bf16 *)base + index;
    if (count >= VEC_LANES) {
        vec_store_bf16(p, v);
        return;
    }
    bf16 lanes[VEC_LANES];
    vec_store_bf16(lanes, v);
    copy_pieces(p, lanes, count * (int64_t)sizeof *p);
}

/* Rounded to the activation dtype and back. */
static inline struct vec act_round(enum dtype dtype, struct vec v)
{
    return dtype == DTYPE_F32 ? v : vec_round_bf16(v);
}

#endif

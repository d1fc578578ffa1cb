/* struct vec in plain C: the reference that the other instruction sets must equal. Include
 * infra/compute/vec/vec.h instead. */
#ifndef HONE_COMPUTE_VEC_VEC_SCALAR_H
#define HONE_COMPUTE_VEC_VEC_SCALAR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "infra/compute/dtype.h"

#define VEC_ISA       "scalar"
#define VEC_REGISTERS 0 /* a vector does not fit in any */

struct vec {
    float lane[16];
};

/* Of 16 pairs, the first and the second elements. */
struct vec_pair {
    struct vec even, odd;
};

#define VEC_EACH(expression)                                                                       \
    struct vec r;                                                                                  \
    for (int i = 0; i < 16; i++)                                                                   \
        r.lane[i] = (expression);                                                                  \
    return r

static inline uint32_t float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float float_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline struct vec vec_set1(float value)
{
    VEC_EACH(value);
}

static inline struct vec vec_zero(void)
{
    return vec_set1(0.0f);
}

static inline struct vec vec_load(const float *p)
{
    struct vec r;
    memcpy(r.lane, p, sizeof r.lane);
    return r;
}

static inline void vec_store(float *p, struct vec v)
{
    memcpy(p, v.lane, sizeof v.lane);
}

static inline struct vec vec_fma(struct vec a, struct vec b, struct vec c)
{
    VEC_EACH(fmaf(a.lane[i], b.lane[i], c.lane[i]));
}

/* c - a * b */
static inline struct vec vec_fnma(struct vec a, struct vec b, struct vec c)
{
    VEC_EACH(fmaf(-a.lane[i], b.lane[i], c.lane[i]));
}

static inline struct vec vec_add(struct vec a, struct vec b)
{
    VEC_EACH(a.lane[i] + b.lane[i]);
}

static inline struct vec vec_sub(struct vec a, struct vec b)
{
    VEC_EACH(a.lane[i] - b.lane[i]);
}

static inline struct vec vec_mul(struct vec a, struct vec b)
{
    VEC_EACH(a.lane[i] * b.lane[i]);
}

static inline struct vec vec_div(struct vec a, struct vec b)
{
    VEC_EACH(a.lane[i] / b.lane[i]);
}

static inline struct vec vec_sqrt(struct vec a)
{
    VEC_EACH(sqrtf(a.lane[i]));
}

static inline struct vec vec_max(struct vec a, struct vec b)
{
    VEC_EACH(a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]);
}

static inline struct vec vec_min(struct vec a, struct vec b)
{
    VEC_EACH(a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]);
}

static inline struct vec vec_negate(struct vec a)
{
    VEC_EACH(float_from_bits(float_bits(a.lane[i]) ^ 0x80000000u));
}

/* Lanes below count from v, the others from fill. */
static inline struct vec vec_keep(struct vec v, int64_t count, struct vec fill)
{
    VEC_EACH(i < count ? v.lane[i] : fill.lane[i]);
}

/* v * 2^n in two exact factors; `magic` holds the integer n (-254 .. 254) as 1.5 * 2^23 + n. With
 * t = n + 256 and h = t / 2 rounded down, the factors' exponents are h - 128 and t - h - 128. */
static inline struct vec vec_scale_exponent(struct vec v, struct vec magic)
{
    struct vec r;
    for (int i = 0; i < 16; i++) {
        uint32_t t = float_bits(magic.lane[i]) - 0x4b3fff00u;
        uint32_t h = t >> 1;
        float low = float_from_bits((h - 1) << 23);
        float high = float_from_bits((t - h - 1) << 23);
        r.lane[i] = v.lane[i] * low * high;
    }
    return r;
}

/* v * 2^n where both are normal numbers; magic as above. */
static inline struct vec vec_shift_exponent(struct vec v, struct vec magic)
{
    VEC_EACH(float_from_bits(float_bits(v.lane[i]) + (float_bits(magic.lane[i]) << 23)));
}

/* v, but +0 where x < limit. */
static inline struct vec vec_zero_below(struct vec v, struct vec x, struct vec limit)
{
    VEC_EACH(x.lane[i] < limit.lane[i] ? 0.0f : v.lane[i]);
}

static inline struct vec vec_load_bf16(const bf16 *p)
{
    VEC_EACH(bf16_to_f32(p[i]));
}

static inline void vec_store_bf16(bf16 *p, struct vec v)
{
    for (int i = 0; i < 16; i++)
        p[i] = bf16_from_f32(v.lane[i]);
}

static inline struct vec vec_round_bf16(struct vec v)
{
    VEC_EACH(bf16_to_f32(bf16_from_f32(v.lane[i])));
}

/* 32 results of arithmetic (no denormals), rounded: 16 of `low`, then 16 of `high`. */
static inline void vec_store_results_bf16(bf16 *p, struct vec low, struct vec high)
{
    vec_store_bf16(p, low);
    vec_store_bf16(p + 16, high);
}

/* The same as pairs of a lane of `even` and a lane of `odd`. */
static inline void vec_store_pairs_bf16(bf16 *pairs, struct vec even, struct vec odd)
{
    for (int i = 0; i < 16; i++) {
        pairs[2 * i] = bf16_from_f32(even.lane[i]);
        pairs[2 * i + 1] = bf16_from_f32(odd.lane[i]);
    }
}

/* 16 pairs of bf16: the even (first) and odd (second) elements. */
static inline struct vec vec_load_even(const bf16 *pairs)
{
    VEC_EACH(bf16_to_f32(pairs[2 * i]));
}

static inline struct vec vec_load_odd(const bf16 *pairs)
{
    VEC_EACH(bf16_to_f32(pairs[2 * i + 1]));
}

static inline struct vec_pair vec_load_pair(const bf16 *pairs)
{
    return (struct vec_pair){vec_load_even(pairs), vec_load_odd(pairs)};
}

static inline float vec_sum(struct vec v)
{
    for (int width = 8; width >= 1; width /= 2)
        for (int i = 0; i < width; i++)
            v.lane[i] = v.lane[i] + v.lane[i + width];
    return v.lane[0];
}

static inline float vec_max_lanes(struct vec v)
{
    for (int width = 8; width >= 1; width /= 2)
        for (int i = 0; i < width; i++)
            v.lane[i] = v.lane[i] > v.lane[i + width] ? v.lane[i] : v.lane[i + width];
    return v.lane[0];
}

#undef VEC_EACH

#endif

/* exp, log and sigmoid as fixed sequences of IEEE operations (N6): the same bits on every
 * instruction set. Errors against the exact value (measured by tests/infra/compute/test_vec_math):
 * exp below 1.1 ulp on [-87, 88], log below 1 ulp, sigmoid below 2.5 ulp. */
#ifndef HONE_COMPUTE_VEC_VEC_MATH_H
#define HONE_COMPUTE_VEC_VEC_MATH_H

#include <math.h>

#include "infra/compute/vec/vec.h"

#define ROUND_MAGIC 12582912.0f  /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
#define LN2_HIGH    0x1.62e4p-1f /* 15 bits, so that n * LN2_HIGH is exact */
#define LN2_LOW     0x1.7f7d1cp-20f

/* e^x. Results below 2^-126 are +0, -inf gives 0, +inf gives inf, NaN stays NaN.
 * x = n ln 2 + r with |r| <= ln(2)/2; e^r = 1 + r + r^2 Q(r), Q from a Chebyshev fit. */
static inline struct vec vec_exp(struct vec x)
{
    x = vec_min(vec_set1(89.0f), vec_max(vec_set1(-104.0f), x));
    struct vec magic = vec_fma(x, vec_set1(0x1.715476p+0f), vec_set1(ROUND_MAGIC));
    struct vec n = vec_sub(magic, vec_set1(ROUND_MAGIC));
    struct vec r = vec_fnma(n, vec_set1(LN2_HIGH), x);
    r = vec_fnma(n, vec_set1(LN2_LOW), r);
    struct vec q = vec_set1(0x1.a12a42p-13f);
    q = vec_fma(q, r, vec_set1(0x1.6d4920p-10f));
    q = vec_fma(q, r, vec_set1(0x1.1110e0p-7f));
    q = vec_fma(q, r, vec_set1(0x1.5554e4p-5f));
    q = vec_fma(q, r, vec_set1(0x1.555556p-3f));
    q = vec_fma(q, r, vec_set1(0.5f));
    struct vec tail = vec_fma(vec_mul(r, r), q, r);
    return vec_scale_exponent(vec_add(tail, vec_set1(1.0f)), magic);
}

/* 2^x for x <= 64: attention's probabilities, in units of log2. Below 2^-125 it is +0, -inf gives
 * 0, NaN stays NaN. x = n + r with |r| <= 1/2; 2^r = 1 + r Q(r), Q a minimax fit. */
static inline struct vec vec_exp2(struct vec x)
{
    struct vec magic = vec_add(x, vec_set1(ROUND_MAGIC));
    struct vec r = vec_sub(x, vec_sub(magic, vec_set1(ROUND_MAGIC)));
    struct vec q = vec_set1(0x1.5bba14p-10f);
    q = vec_fma(q, r, vec_set1(0x1.3cea88p-7f));
    q = vec_fma(q, r, vec_set1(0x1.c6b752p-5f));
    q = vec_fma(q, r, vec_set1(0x1.ebf9bcp-3f));
    q = vec_fma(q, r, vec_set1(0x1.62e42ap-1f));
    q = vec_fma(q, r, vec_set1(1.0f));
    return vec_zero_below(vec_shift_exponent(q, magic), x, vec_set1(-125.0f));
}

/* 1 / (1 + e^-x). */
static inline struct vec vec_sigmoid(struct vec x)
{
    struct vec one = vec_set1(1.0f);
    return vec_div(one, vec_add(one, vec_exp(vec_negate(x))));
}

/* e^x of one number, the same bits as a lane of vec_exp. */
static inline float exp_one(float x)
{
    float lanes[VEC_LANES];
    vec_store(lanes, vec_exp(vec_set1(x)));
    return lanes[0];
}

/* ln x of one number. Denormals count as 0, which gives -inf; negative and NaN give NaN.
 * x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); ln(1 + f) = f - f^2/2 + f^3 P(f). */
static inline float log_one(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7f800000u) == 0)
        return -INFINITY;
    if (bits >= 0x7f800000u)
        return bits == 0x7f800000u ? x : NAN;
    uint32_t shifted = bits - 0x3f3504f3u; /* sqrt(1/2) becomes the start of a binade */
    int32_t exponent = (int32_t)shifted >> 23;
    uint32_t mantissa = (shifted & 0x007fffffu) + 0x3f3504f3u;
    float m;
    memcpy(&m, &mantissa, sizeof m);
    float f = m - 1.0f;
    float p = 0x1.1d8ea6p-4f;
    p = fmaf(p, f, -0x1.d635bcp-4f);
    p = fmaf(p, f, 0x1.dea282p-4f);
    p = fmaf(p, f, -0x1.fcf4c6p-4f);
    p = fmaf(p, f, 0x1.23d21ap-3f);
    p = fmaf(p, f, -0x1.555b4ap-3f);
    p = fmaf(p, f, 0x1.999d5ap-3f);
    p = fmaf(p, f, -0x1.fffffcp-3f);
    p = fmaf(p, f, 0x1.555554p-2f);
    float square = f * f;
    float e = (float)exponent;
    float low = fmaf(e, LN2_LOW, square * f * p);
    low = fmaf(-0.5f, square, low);
    return fmaf(e, LN2_HIGH, f + low);
}

#endif

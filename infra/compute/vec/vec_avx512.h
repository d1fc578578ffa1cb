/* struct vec as one 512-bit register. Include infra/compute/vec/vec.h instead; empty unless the
 * translation unit is compiled for AVX-512 F, BW, VL and DQ. With HONE_VEC_SIMDE (tests) the
 * includer provides the intrinsics, so that the same code runs on machines without AVX-512. */
#ifndef HONE_COMPUTE_VEC_VEC_AVX512_H
#define HONE_COMPUTE_VEC_VEC_AVX512_H

#if defined(HONE_VEC_SIMDE) || (defined(__AVX512F__) && defined(__AVX512BW__))

#if !defined(HONE_VEC_SIMDE)
#include <immintrin.h>
#endif
#include <stdint.h>

#include "infra/compute/dtype.h"

#define VEC_ISA       "avx512"
#define VEC_REGISTERS 32

struct vec {
    __m512 all;
};

/* Of 16 pairs, the first and the second elements. */
struct vec_pair {
    struct vec even, odd;
};

static inline struct vec vec_set1(float value)
{
    return (struct vec){_mm512_set1_ps(value)};
}

static inline struct vec vec_zero(void)
{
    return (struct vec){_mm512_setzero_ps()};
}

static inline struct vec vec_load(const float *p)
{
    return (struct vec){_mm512_loadu_ps(p)};
}

static inline void vec_store(float *p, struct vec v)
{
    _mm512_storeu_ps(p, v.all);
}

static inline struct vec vec_fma(struct vec a, struct vec b, struct vec c)
{
    return (struct vec){_mm512_fmadd_ps(a.all, b.all, c.all)};
}

/* c - a * b */
static inline struct vec vec_fnma(struct vec a, struct vec b, struct vec c)
{
    return (struct vec){_mm512_fnmadd_ps(a.all, b.all, c.all)};
}

static inline struct vec vec_add(struct vec a, struct vec b)
{
    return (struct vec){_mm512_add_ps(a.all, b.all)};
}

static inline struct vec vec_sub(struct vec a, struct vec b)
{
    return (struct vec){_mm512_sub_ps(a.all, b.all)};
}

static inline struct vec vec_mul(struct vec a, struct vec b)
{
    return (struct vec){_mm512_mul_ps(a.all, b.all)};
}

static inline struct vec vec_div(struct vec a, struct vec b)
{
    return (struct vec){_mm512_div_ps(a.all, b.all)};
}

static inline struct vec vec_sqrt(struct vec a)
{
    return (struct vec){_mm512_sqrt_ps(a.all)};
}

static inline struct vec vec_max(struct vec a, struct vec b)
{
    return (struct vec){_mm512_max_ps(a.all, b.all)};
}

static inline struct vec vec_min(struct vec a, struct vec b)
{
    return (struct vec){_mm512_min_ps(a.all, b.all)};
}

static inline struct vec vec_negate(struct vec a)
{
    __m512i sign = _mm512_set1_epi32((int32_t)0x80000000u);
    return (struct vec){_mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a.all), sign))};
}

/* Lanes below count from v, the others from fill. */
static inline struct vec vec_keep(struct vec v, int64_t count, struct vec fill)
{
    __mmask16 keep = (__mmask16)(count >= 16 ? 0xffffu : (1u << count) - 1u);
    return (struct vec){_mm512_mask_blend_ps(keep, fill.all, v.all)};
}

/* v * 2^n in two exact factors; `magic` holds the integer n (-254 .. 254) as 1.5 * 2^23 + n. With
 * t = n + 256 and h = t / 2 rounded down, the factors' exponents are h - 128 and t - h - 128. */
static inline struct vec vec_scale_exponent(struct vec v, struct vec magic)
{
    __m512i one = _mm512_set1_epi32(1);
    __m512i t = _mm512_sub_epi32(_mm512_castps_si512(magic.all), _mm512_set1_epi32(0x4b3fff00));
    __m512i h = _mm512_srli_epi32(t, 1);
    __m512i low = _mm512_slli_epi32(_mm512_sub_epi32(h, one), 23);
    __m512i high = _mm512_slli_epi32(_mm512_sub_epi32(_mm512_sub_epi32(t, h), one), 23);
    __m512 scaled = _mm512_mul_ps(v.all, _mm512_castsi512_ps(low));
    return (struct vec){_mm512_mul_ps(scaled, _mm512_castsi512_ps(high))};
}

/* v * 2^n where both are normal numbers; magic as above. */
static inline struct vec vec_shift_exponent(struct vec v, struct vec magic)
{
    __m512i n = _mm512_slli_epi32(_mm512_castps_si512(magic.all), 23);
    return (struct vec){_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(v.all), n))};
}

/* v, but +0 where x < limit. */
static inline struct vec vec_zero_below(struct vec v, struct vec x, struct vec limit)
{
    return (struct vec){
        _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.all, limit.all, _CMP_NLT_UQ), v.all)};
}

static inline struct vec vec_load_bf16(const bf16 *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return (struct vec){_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}

/* Bits of v rounded to nearest even at bit 16, the lower half not cleared; NaN becomes quiet. */
static inline __m512i round_bits16(__m512 v)
{
    __m512i bits = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i bumped = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x00400000));
    __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
    __mmask16 nan = _mm512_cmpgt_epi32_mask(magnitude, _mm512_set1_epi32(0x7f800000));
    return _mm512_mask_blend_epi32(nan, bumped, quiet);
}

static inline void vec_store_bf16(bf16 *p, struct vec v)
{
    __m512i upper = _mm512_srli_epi32(round_bits16(v.all), 16);
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(upper));
}

static inline struct vec vec_round_bf16(struct vec v)
{
    __m512i mask = _mm512_set1_epi32((int32_t)0xffff0000u);
    return (struct vec){_mm512_castsi512_ps(_mm512_and_si512(round_bits16(v.all), mask))};
}

#if defined(__AVX512BF16__) && !defined(HONE_VEC_SIMDE)
/* The processor's own conversion takes denormals for zero: for results, which are none. */
static inline __m512i round_results(__m512 high, __m512 low)
{
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}
#else
static inline __m512i round_results(__m512 high, __m512 low)
{
    __m256i upper = _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_bits16(high), 16));
    __m256i lower = _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_bits16(low), 16));
    return _mm512_inserti64x4(_mm512_castsi256_si512(lower), upper, 1);
}
#endif

/* 32 results of arithmetic (no denormals), rounded: 16 of `low`, then 16 of `high`. */
static inline void vec_store_results_bf16(bf16 *p, struct vec low, struct vec high)
{
    _mm512_storeu_si512(p, round_results(high.all, low.all));
}

/* The same as pairs of a lane of `even` and a lane of `odd`. */
static inline void vec_store_pairs_bf16(bf16 *pairs, struct vec even, struct vec odd)
{
    static const int16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    __m512i both = round_results(odd.all, even.all);
    _mm512_storeu_si512(pairs, _mm512_permutexvar_epi16(_mm512_loadu_si512(order), both));
}

/* 16 pairs of bf16: the even (first) and odd (second) elements. */
static inline struct vec vec_load_even(const bf16 *pairs)
{
    return (struct vec){_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(pairs), 16))};
}

static inline struct vec vec_load_odd(const bf16 *pairs)
{
    __m512i mask = _mm512_set1_epi32((int32_t)0xffff0000u);
    return (struct vec){_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(pairs), mask))};
}

/* Both halves from one read: the empty statement keeps the compiler from reading again for the
 * second, and two reads of a line for two multiply-adds are more than the load ports bear. */
static inline struct vec_pair vec_load_pair(const bf16 *pairs)
{
    __m512i mask = _mm512_set1_epi32((int32_t)0xffff0000u);
    __m512i both = _mm512_loadu_si512(pairs);
#if !defined(HONE_VEC_SIMDE)
    __asm__("" : "+v"(both));
#endif
    return (struct vec_pair){{_mm512_castsi512_ps(_mm512_slli_epi32(both, 16))},
                             {_mm512_castsi512_ps(_mm512_and_si512(both, mask))}};
}

static inline __m256 upper_half(__m512 v)
{
    return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1));
}

static inline float vec_sum(struct vec v)
{
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v.all), upper_half(v.all));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

/* Reductions of 16 vectors at once, lane i that of rows[16 i]: 8 + 8 of two rows in one vector, 4 +
 * 4 of four, 2 + 2 of eight, 1 + 1 of all. The rows come in the order that the shuffles undo. */
#define VEC_HAS_REDUCE_ROWS
#define REDUCE_ROW(i) _mm512_loadu_ps(rows + 16 * (i))
#define REDUCE_ROWS(OP)                                                                            \
    __m512 eight[8], four[4], two[2];                                                              \
    for (int i = 0; i < 8; i++) {                                                                  \
        __m512 a = REDUCE_ROW(8 * (i % 2) + i / 2), b = REDUCE_ROW(8 * (i % 2) + i / 2 + 4);       \
        eight[i] = OP(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));         \
    }                                                                                              \
    for (int i = 0; i < 4; i++)                                                                    \
        four[i] = OP(_mm512_shuffle_f32x4(eight[2 * i], eight[2 * i + 1], 0x88),                   \
                     _mm512_shuffle_f32x4(eight[2 * i], eight[2 * i + 1], 0xdd));                  \
    for (int i = 0; i < 2; i++) {                                                                  \
        __m512d a = _mm512_castps_pd(four[2 * i]), b = _mm512_castps_pd(four[2 * i + 1]);          \
        two[i] = OP(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),                                    \
                    _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));                                   \
    }                                                                                              \
    return (struct vec)                                                                            \
    {                                                                                              \
        OP(_mm512_shuffle_ps(two[0], two[1], 0x88), _mm512_shuffle_ps(two[0], two[1], 0xdd))       \
    }

static inline struct vec vec_sum_rows(const float *rows)
{
    REDUCE_ROWS(_mm512_add_ps);
}

static inline struct vec vec_max_rows(const float *rows)
{
    REDUCE_ROWS(_mm512_max_ps);
}
#undef REDUCE_ROW
#undef REDUCE_ROWS

static inline float vec_max_lanes(struct vec v)
{
    __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(v.all), upper_half(v.all));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

#endif

#endif

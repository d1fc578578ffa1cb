/* struct vec as two 256-bit registers (lanes 0-7 and 8-15). Include infra/compute/vec/vec.h
 * instead; empty unless the translation unit is compiled for AVX2 and FMA. */
#ifndef HONE_COMPUTE_VEC_VEC_AVX2_H
#define HONE_COMPUTE_VEC_VEC_AVX2_H

#if defined(__AVX2__) && defined(__FMA__)

#include <immintrin.h>
#include <stdint.h>

#include "infra/compute/dtype.h"

#define VEC_ISA       "avx2"
#define VEC_REGISTERS 16

struct vec {
    __m256 lo, hi;
};

/* Of 16 pairs, the first and the second elements. */
struct vec_pair {
    struct vec even, odd;
};

static inline struct vec vec_set1(float value)
{
    return (struct vec){_mm256_set1_ps(value), _mm256_set1_ps(value)};
}

static inline struct vec vec_zero(void)
{
    return (struct vec){_mm256_setzero_ps(), _mm256_setzero_ps()};
}

static inline struct vec vec_load(const float *p)
{
    return (struct vec){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

static inline void vec_store(float *p, struct vec v)
{
    _mm256_storeu_ps(p, v.lo);
    _mm256_storeu_ps(p + 8, v.hi);
}

static inline struct vec vec_fma(struct vec a, struct vec b, struct vec c)
{
    return (struct vec){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}

/* c - a * b */
static inline struct vec vec_fnma(struct vec a, struct vec b, struct vec c)
{
    return (struct vec){_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}

static inline struct vec vec_add(struct vec a, struct vec b)
{
    return (struct vec){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}

static inline struct vec vec_sub(struct vec a, struct vec b)
{
    return (struct vec){_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}

static inline struct vec vec_mul(struct vec a, struct vec b)
{
    return (struct vec){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}

static inline struct vec vec_div(struct vec a, struct vec b)
{
    return (struct vec){_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}

static inline struct vec vec_sqrt(struct vec a)
{
    return (struct vec){_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)};
}

static inline struct vec vec_max(struct vec a, struct vec b)
{
    return (struct vec){_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}

static inline struct vec vec_min(struct vec a, struct vec b)
{
    return (struct vec){_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}

static inline struct vec vec_negate(struct vec a)
{
    __m256 sign = _mm256_set1_ps(-0.0f);
    return (struct vec){_mm256_xor_ps(a.lo, sign), _mm256_xor_ps(a.hi, sign)};
}

/* Lanes below count from v, the others from fill. */
static inline struct vec vec_keep(struct vec v, int64_t count, struct vec fill)
{
    __m256i limit = _mm256_set1_epi32(count < 16 ? (int32_t)count : 16);
    __m256i low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i high = _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15);
    __m256 keep_low = _mm256_castsi256_ps(_mm256_cmpgt_epi32(limit, low));
    __m256 keep_high = _mm256_castsi256_ps(_mm256_cmpgt_epi32(limit, high));
    return (struct vec){_mm256_blendv_ps(fill.lo, v.lo, keep_low),
                        _mm256_blendv_ps(fill.hi, v.hi, keep_high)};
}

static inline __m256 scale_exponent8(__m256 v, __m256 magic)
{
    __m256i one = _mm256_set1_epi32(1);
    __m256i t = _mm256_sub_epi32(_mm256_castps_si256(magic), _mm256_set1_epi32(0x4b3fff00));
    __m256i h = _mm256_srli_epi32(t, 1);
    __m256i low = _mm256_slli_epi32(_mm256_sub_epi32(h, one), 23);
    __m256i high = _mm256_slli_epi32(_mm256_sub_epi32(_mm256_sub_epi32(t, h), one), 23);
    v = _mm256_mul_ps(v, _mm256_castsi256_ps(low));
    return _mm256_mul_ps(v, _mm256_castsi256_ps(high));
}

/* v * 2^n in two exact factors; `magic` holds the integer n (-254 .. 254) as 1.5 * 2^23 + n. With
 * t = n + 256 and h = t / 2 rounded down, the factors' exponents are h - 128 and t - h - 128. */
static inline struct vec vec_scale_exponent(struct vec v, struct vec magic)
{
    return (struct vec){scale_exponent8(v.lo, magic.lo), scale_exponent8(v.hi, magic.hi)};
}

static inline __m256 shift_exponent8(__m256 v, __m256 magic)
{
    __m256i n = _mm256_slli_epi32(_mm256_castps_si256(magic), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), n));
}

/* v * 2^n where both are normal numbers; magic as above. */
static inline struct vec vec_shift_exponent(struct vec v, struct vec magic)
{
    return (struct vec){shift_exponent8(v.lo, magic.lo), shift_exponent8(v.hi, magic.hi)};
}

/* v, but +0 where x < limit. */
static inline struct vec vec_zero_below(struct vec v, struct vec x, struct vec limit)
{
    return (struct vec){_mm256_and_ps(v.lo, _mm256_cmp_ps(x.lo, limit.lo, _CMP_NLT_UQ)),
                        _mm256_and_ps(v.hi, _mm256_cmp_ps(x.hi, limit.hi, _CMP_NLT_UQ))};
}

static inline __m256 load_bf16x8(const bf16 *p)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

static inline struct vec vec_load_bf16(const bf16 *p)
{
    return (struct vec){load_bf16x8(p), load_bf16x8(p + 8)};
}

/* Bits of v rounded to nearest even at bit 16, the lower half not cleared; NaN becomes quiet. */
static inline __m256i round_bits8(__m256 v)
{
    __m256i bits = _mm256_castps_si256(v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i bumped = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
    __m256i nan = _mm256_cmpgt_epi32(_mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff)),
                                     _mm256_set1_epi32(0x7f800000));
    return _mm256_blendv_epi8(bumped, quiet, nan);
}

static inline void vec_store_bf16(bf16 *p, struct vec v)
{
    __m256i lo = _mm256_srli_epi32(round_bits8(v.lo), 16);
    __m256i hi = _mm256_srli_epi32(round_bits8(v.hi), 16);
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(lo, hi), 0xd8);
    _mm256_storeu_si256((__m256i *)p, packed);
}

static inline struct vec vec_round_bf16(struct vec v)
{
    __m256i mask = _mm256_set1_epi32((int32_t)0xffff0000u);
    return (struct vec){_mm256_castsi256_ps(_mm256_and_si256(round_bits8(v.lo), mask)),
                        _mm256_castsi256_ps(_mm256_and_si256(round_bits8(v.hi), mask))};
}

/* The first `count` lanes from memory (1 .. 15), the rest +0; nothing past them is read. */
#define VEC_HAS_LOAD_PART
static inline struct vec vec_load_part(const float *p, int64_t count)
{
    static const int32_t keep[32] = {-1, -1, -1, -1, -1, -1, -1, -1,
                                     -1, -1, -1, -1, -1, -1, -1, -1};
    __m256i low = _mm256_loadu_si256((const __m256i *)(keep + 16 - count));
    __m256i high = _mm256_loadu_si256((const __m256i *)(keep + 24 - count));
    struct vec v = {_mm256_maskload_ps(p, low), _mm256_setzero_ps()};
    if (count > 8)
        v.hi = _mm256_maskload_ps(p + 8, high);
    return v;
}

static inline struct vec vec_load_part_bf16(const bf16 *p, int64_t count)
{
    struct vec v = vec_zero();
    bf16 rest[8] = {0};
    if (count >= 8)
        v.lo = load_bf16x8(p);
    if (count > 8) {
        copy_pieces(rest, p + 8, (count & 7) * (int64_t)sizeof *p);
        v.hi = load_bf16x8(rest);
    } else if (count < 8) {
        copy_pieces(rest, p, (count & 7) * (int64_t)sizeof *p);
        v.lo = load_bf16x8(rest);
    }
    return v;
}

static inline __m256i round_pairs8(__m256 even, __m256 odd)
{
    __m256i mask = _mm256_set1_epi32((int32_t)0xffff0000u);
    return _mm256_or_si256(_mm256_srli_epi32(round_bits8(even), 16),
                           _mm256_and_si256(round_bits8(odd), mask));
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
    _mm256_storeu_si256((__m256i *)pairs, round_pairs8(even.lo, odd.lo));
    _mm256_storeu_si256((__m256i *)(pairs + 16), round_pairs8(even.hi, odd.hi));
}

/* 16 pairs of bf16: the even (first) and odd (second) elements. */
static inline struct vec vec_load_even(const bf16 *pairs)
{
    __m256i lo = _mm256_loadu_si256((const __m256i *)pairs);
    __m256i hi = _mm256_loadu_si256((const __m256i *)(pairs + 16));
    return (struct vec){_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)),
                        _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
}

static inline struct vec vec_load_odd(const bf16 *pairs)
{
    __m256i mask = _mm256_set1_epi32((int32_t)0xffff0000u);
    __m256i lo = _mm256_loadu_si256((const __m256i *)pairs);
    __m256i hi = _mm256_loadu_si256((const __m256i *)(pairs + 16));
    return (struct vec){_mm256_castsi256_ps(_mm256_and_si256(lo, mask)),
                        _mm256_castsi256_ps(_mm256_and_si256(hi, mask))};
}

/* Both halves from one read: the empty statement keeps the compiler from reading again for the
 * second, and two reads of a line for two multiply-adds are more than the load ports bear. */
static inline struct vec_pair vec_load_pair(const bf16 *pairs)
{
    __m256i mask = _mm256_set1_epi32((int32_t)0xffff0000u);
    __m256i lo = _mm256_loadu_si256((const __m256i *)pairs);
    __m256i hi = _mm256_loadu_si256((const __m256i *)(pairs + 16));
    __asm__("" : "+x"(lo), "+x"(hi));
    return (struct vec_pair){{_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)),
                              _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))},
                             {_mm256_castsi256_ps(_mm256_and_si256(lo, mask)),
                              _mm256_castsi256_ps(_mm256_and_si256(hi, mask))}};
}

static inline float vec_sum(struct vec v)
{
    __m256 eight = _mm256_add_ps(v.lo, v.hi);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

static inline float vec_max_lanes(struct vec v)
{
    __m256 eight = _mm256_max_ps(v.lo, v.hi);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

#endif

#endif

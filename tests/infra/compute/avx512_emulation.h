/* Makes struct vec the 512-bit one on any machine with AVX2 and FMA, through SIMDe. Include before
 * infra/compute/cpu/ headers. HONE_AVX512_EMULATED is 0 where SIMDe is not installed. */
#ifndef HONE_TESTS_COMPUTE_AVX512_EMULATION_H
#define HONE_TESTS_COMPUTE_AVX512_EMULATION_H

#if __has_include(<simde/x86/avx512.h>)

#define HONE_AVX512_EMULATED 1
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <string.h>

#include <simde/x86/avx2.h>
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>

/* Intrinsics that older SIMDe releases lack. */
static inline simde__m512i widen_u16(simde__m256i v)
{
    uint16_t in[16];
    int32_t out[16];
    memcpy(in, &v, sizeof in);
    for (int i = 0; i < 16; i++)
        out[i] = in[i];
    return simde_mm512_loadu_si512(out);
}

static inline simde__m256i narrow_i32(simde__m512i v)
{
    int32_t in[16];
    int16_t out[16];
    simde__m256i result;
    memcpy(in, &v, sizeof in);
    for (int i = 0; i < 16; i++)
        out[i] = (int16_t)in[i];
    memcpy(&result, out, sizeof result);
    return result;
}

/* Two quarters of a, then two of b, as the bits of `order` say. */
static inline simde__m512 shuffle_quarters(simde__m512 a, simde__m512 b, int order)
{
    float from[2][16], to[16];
    simde_mm512_storeu_ps(from[0], a);
    simde_mm512_storeu_ps(from[1], b);
    for (int i = 0; i < 4; i++)
        memcpy(to + 4 * i, from[i / 2] + 4 * (order >> 2 * i & 3), 4 * sizeof *to);
    return simde_mm512_loadu_ps(to);
}

#undef _mm512_shuffle_f32x4
#define _mm512_shuffle_f32x4(a, b, order) shuffle_quarters(a, b, order)
#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtepi32_epi16
#define _mm512_cvtepu16_epi32(v) widen_u16(v)
#define _mm512_cvtepi32_epi16(v) narrow_i32(v)

#define HONE_VEC_SIMDE

#else

#define HONE_AVX512_EMULATED 0

#endif

#endif

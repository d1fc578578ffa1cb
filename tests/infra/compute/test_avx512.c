/* The AVX-512 kernels, run through SIMDe on machines without AVX-512: their logic is then executed
 * everywhere. Skips where SIMDe is not installed or the machine has no FMA. */
#include "tests/infra/compute/fixture.h"

#if __has_include(<simde/x86/avx512.h>)

#define SIMDE_ENABLE_NATIVE_ALIASES
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

#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtepi32_epi16
#define _mm512_cvtepu16_epi32(v) widen_u16(v)
#define _mm512_cvtepi32_epi16(v) narrow_i32(v)

#define HONE_VEC_SIMDE
#include "infra/base/error.h"
#include "infra/compute/cpu/table.h"
#include "infra/compute/self_test.h"

static const struct backend_ops emulated = BACKEND_TABLE("avx512 (emulated)");

static void test_equals_scalar(void **state)
{
    (void)state;
    assert_string_equal(VEC_ISA, "avx512");
    for (uint64_t seed = 2000; seed < 2020; seed++)
        if (backend_compare(backend_cpu(CPU_ISA_SCALAR), &emulated, seed) != 0)
            fail_msg("seed %llu: %s", (unsigned long long)seed, error_message());
}

int main(void)
{
    if (!cpu_isa_available(CPU_ISA_AVX2)) {
        print_message("skipped: no AVX2 and FMA on this machine\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_equals_scalar)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void)
{
    print_message("skipped: SIMDe (libsimde-dev) is not installed\n");
    return 77;
}

#endif

/* The AVX-512 kernels, run through SIMDe on machines without AVX-512: their logic is then executed
 * everywhere. Skips where SIMDe is not installed or the machine has no FMA. */
#include "tests/infra/compute/fixture.h"

#include "tests/infra/compute/avx512_emulation.h"

#if HONE_AVX512_EMULATED

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

#include "tests/infra/compute/fixture.h"

#include <stdlib.h>

#include "infra/base/error.h"
#include "infra/compute/self_test.h"

static void test_every_table_equals_scalar(void **state)
{
    (void)state;
    for (int isa = 1; isa < CPU_ISA_COUNT; isa++) {
        if (!cpu_isa_available((enum cpu_isa)isa)) {
            print_message("%s: not on this machine\n", cpu_isa_name((enum cpu_isa)isa));
            continue;
        }
        for (uint64_t seed = 1000; seed < 1030; seed++)
            if (backend_compare(backend_cpu(CPU_ISA_SCALAR), backend_cpu((enum cpu_isa)isa), seed))
                fail_msg("seed %llu: %s", (unsigned long long)seed, error_message());
    }
    assert_int_equal(backend_self_test(), 0);
}

static float last_factor;

static void wrong_scale(struct parallel *pool, int64_t count, float *y, float factor)
{
    (void)pool;
    last_factor = factor;
    for (int64_t i = 0; i < count; i++)
        y[i] = y[i] * factor;
    y[count - 1] = nextafterf(y[count - 1], INFINITY);
}

static void wrong_gemm(struct parallel *pool, enum dtype dtype, int64_t m, int64_t n, int64_t k,
                       const void *a, int64_t lda, const void *packed, float *c, int64_t ldc,
                       bool accumulate)
{
    backend_cpu(CPU_ISA_SCALAR)->gemm(pool, dtype, m, n, k, a, lda, packed, c, ldc, !accumulate);
}

/* One bit in one element is enough. */
static void test_a_table_that_differs_is_named(void **state)
{
    (void)state;
    struct backend_ops broken = *backend_cpu(CPU_ISA_SCALAR);
    broken.name = "broken";
    assert_int_equal(backend_compare(backend_cpu(CPU_ISA_SCALAR), &broken, 5), 0);
    broken.scale = wrong_scale;
    assert_int_equal(backend_compare(backend_cpu(CPU_ISA_SCALAR), &broken, 5), HONE_EUNSUPPORTED);
    assert_non_null(strstr(error_message(), "elementwise"));
    assert_non_null(strstr(error_message(), "broken"));
    assert_true(last_factor == 0.7f);
    broken = *backend_cpu(CPU_ISA_SCALAR);
    broken.gemm = wrong_gemm;
    assert_int_equal(backend_compare(backend_cpu(CPU_ISA_SCALAR), &broken, 5), HONE_EUNSUPPORTED);
    assert_non_null(strstr(error_message(), "gemm"));
}

static void test_selection(void **state)
{
    (void)state;
    const struct backend_ops *ops = NULL;
    unsetenv("HONE_ISA");
    assert_int_equal(backend_select(&ops), 0);
    enum cpu_isa best = CPU_ISA_SCALAR;
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++) {
        if (cpu_isa_available((enum cpu_isa)isa))
            best = (enum cpu_isa)isa;
        setenv("HONE_ISA", cpu_isa_name((enum cpu_isa)isa), 1);
        const struct backend_ops *named = NULL;
        int rc = backend_select(&named);
        assert_int_equal(rc, cpu_isa_available((enum cpu_isa)isa) ? 0 : HONE_EUNSUPPORTED);
        if (rc == 0)
            assert_string_equal(named->name, cpu_isa_name((enum cpu_isa)isa));
        else
            assert_non_null(strstr(error_message(), cpu_isa_name((enum cpu_isa)isa)));
        assert_true((backend_cpu((enum cpu_isa)isa) != NULL) == (rc == 0));
    }
    assert_ptr_equal(ops, backend_cpu(best));
    setenv("HONE_ISA", "neon", 1);
    assert_int_equal(backend_select(&ops), HONE_EINVAL);
    assert_non_null(strstr(error_message(), "neon"));
    unsetenv("HONE_ISA");
}

static void test_packed_bytes(void **state)
{
    (void)state;
    assert_int_equal(gemm_packed_bytes(DTYPE_BF16, 17, 33), 32 * 64 * 2);
    assert_int_equal(gemm_packed_bytes(DTYPE_F32, 17, 33), 32 * 33 * 4);
    assert_int_equal(gemm_packed_bytes(DTYPE_BF16, 16, 32), 16 * 32 * 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_table_equals_scalar),
        cmocka_unit_test(test_a_table_that_differs_is_named),
        cmocka_unit_test(test_selection),
        cmocka_unit_test(test_packed_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

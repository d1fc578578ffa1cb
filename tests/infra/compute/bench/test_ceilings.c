/* The ceilings are counted in the right units and the roofline takes the longer of its two times.
 * How high they are is up to the machine and what else it does. */
#include "tests/infra/compute/fixture.h"

#include <time.h>

#include "infra/compute/bench/ceilings.h"
#include "infra/compute/cpu/gemm_amx.h"
#include "infra/compute/cpu/tables.h"

static const struct ceilings made_up = {
    .isa = CPU_ISA_AMX,
    .threads = 2,
    .fma = {100.0, 200.0},
    .tile = {1500.0, 3000.0},
    .tile_loads = {1000.0, 2000.0},
    .read = {{80.0, 160.0}, {40.0, 80.0}, {20.0, 30.0}, {10.0, 15.0}},
    .level_bytes = {1000, 10000, 100000, 1000000},
};

static void test_roofline(void **state)
{
    (void)state;
    struct ceilings fma_only = made_up;
    fma_only.tile_loads = (struct ceiling){0.0, 0.0};
    assert_true(ceilings_flops(&made_up, DTYPE_BF16, false) == 1000.0);
    assert_true(ceilings_flops(&made_up, DTYPE_BF16, true) == 2000.0);
    assert_true(ceilings_flops(&made_up, DTYPE_F32, false) == 100.0);
    assert_true(ceilings_flops(&fma_only, DTYPE_BF16, true) == 200.0);
    assert_true(ceilings_seconds(&made_up, DTYPE_F32, 500.0, 40.0, LEVEL_L3, false) == 5.0);
    assert_true(ceilings_seconds(&made_up, DTYPE_F32, 500.0, 400.0, LEVEL_L3, false) == 20.0);
    assert_true(ceilings_seconds(&made_up, DTYPE_F32, 500.0, 450.0, LEVEL_L3, true) == 15.0);
}

static void test_levels(void **state)
{
    (void)state;
    assert_int_equal(ceilings_level(&made_up, 750, false), LEVEL_L1);
    assert_int_equal(ceilings_level(&made_up, 751, false), LEVEL_L2);
    assert_int_equal(ceilings_level(&made_up, 1500, true), LEVEL_L1);
    assert_int_equal(ceilings_level(&made_up, 7501, false), LEVEL_L3);
    assert_int_equal(ceilings_level(&made_up, 75001, true), LEVEL_MEMORY);
    assert_string_equal(memory_level_name(LEVEL_L3), "L3");
}

/* Work of which a round takes at least a millisecond is not said to take less. */
static void wait_a_millisecond(void *context, int64_t rounds)
{
    struct timespec pause = {.tv_nsec = 1000000};
    for (int64_t i = 0; i < rounds; i++, ++*(int64_t *)context)
        nanosleep(&pause, NULL);
}

static void test_best_seconds_counts_rounds(void **state)
{
    (void)state;
    int64_t rounds = 0;
    double seconds = bench_best_seconds(wait_a_millisecond, &rounds, 0.004, 2);
    assert_true(seconds >= 0.001 && seconds < 1.0);
    assert_true(rounds >= 3 * 2);
}

static void test_measured(void **state)
{
    (void)state;
    struct parallel *pool = parallel_create(2);
    enum cpu_isa isa = CPU_ISA_AMX;
    while (!cpu_isa_available(isa))
        isa--;
    struct ceilings c;
    ceilings_measure(&c, isa, pool);
    assert_int_equal(c.threads, 2);
    assert_true(c.fma.one > 1e6 && c.fma.all > 1e6 && c.fma.one < 1e13);
    assert_true((c.tile.one > 0.0) == (isa == CPU_ISA_AMX));
    for (int level = 0; level < LEVEL_COUNT; level++)
        if (c.level_bytes[level] > 0)
            assert_true(c.read[level].one > 1e6 && c.read[level].all > 1e6 &&
                        c.read[level].one < 1e13);
    parallel_destroy(pool);
}

/* The free-order kernel computes the same product, rounded elsewhere. */
static void check_free(const struct cpu_probes *probes, int64_t m, int64_t n, int64_t k)
{
    float *a_values = floats(m * k, 1, 1.0f), *b_values = floats(n * k, 2, 1.0f);
    bf16 *a = as_act(DTYPE_BF16, a_values, m * k), *b = as_act(DTYPE_BF16, b_values, n * k);
    void *packed = memory_alloc(gemm_packed_bytes(DTYPE_BF16, n, k), 1);
    float *want = MEMORY_ARRAY(float, m *n), *got = MEMORY_ARRAY(float, m *n);
    const struct backend_ops *ops = backend_cpu(CPU_ISA_SCALAR);
    ops->gemm_pack(NULL, DTYPE_BF16, n, k, b, k, true, packed);
    ops->gemm(NULL, DTYPE_BF16, m, n, k, a, k, packed, want, n, false);
    probes->gemm_free(NULL, m, n, k, a, k, packed, got, n);
    for (int64_t i = 0; i < m * n; i++)
        assert_near((double)got[i], (double)want[i], 2e-5);
    memory_free(a_values);
    memory_free(b_values);
    memory_free(a);
    memory_free(b);
    memory_free(packed);
    memory_free(want);
    memory_free(got);
}

static void test_free_order_product(void **state)
{
    (void)state;
    static const struct cpu_probes *const probes[] = {&probes_scalar, &probes_avx2, &probes_avx512};
    compute_thread_init();
    for (int isa = 0; isa <= CPU_ISA_AVX512; isa++)
        if (cpu_isa_available((enum cpu_isa)isa)) {
            check_free(probes[isa], 1, 100, 300);
            check_free(probes[isa], 7, 40, 64);
            check_free(probes[isa], 60, 50, 290);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_roofline),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_best_seconds_counts_rounds),
        cmocka_unit_test(test_measured),
        cmocka_unit_test(test_free_order_product),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

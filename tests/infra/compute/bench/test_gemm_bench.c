/* The benchmarks report every case once, with figures that agree with each other; the means are the
 * geometric means of what they say they are. */
#include "tests/infra/compute/fixture.h"

#include "infra/compute/bench/attention_bench.h"
#include "infra/compute/bench/gemm_bench.h"

static const struct gemm_figures made_up[] = {
    {GEMM_Y, 256, 512, 8.0, 16.0, 1.0, 10.0},
    {GEMM_Y, 1024, 512, 2.0, 16.0, 1.0, 2.5},
    {GEMM_Y, 8, 512, 5.0, 10.0, 1.0, 5.0},
    {GEMM_DX, 256, 512, 100.0, 100.0, 1.0, 0.0},
};

static void test_means(void **state)
{
    (void)state;
    struct gemm_means many = gemm_figures_means(made_up, 4, GEMM_Y, 256, INT64_MAX);
    assert_near(many.flops, 4.0, 1e-12);
    assert_near(many.roofline_share, 0.25, 1e-12);
    assert_near(many.free_share, 0.8, 1e-12);
    struct gemm_means few = gemm_figures_means(made_up, 4, GEMM_Y, 1, 16);
    assert_near(few.roofline_share, 0.5, 1e-12);
    struct gemm_means dx = gemm_figures_means(made_up, 4, GEMM_DX, 256, INT64_MAX);
    assert_true(dx.flops > 99.0 && dx.free_share == 0.0);
    struct gemm_means none = gemm_figures_means(made_up, 4, GEMM_DW, 1, 16);
    assert_true(none.flops == 0.0);
}

static void count_calls(void *context, const char *what, int done, int total)
{
    assert_true(strlen(what) > 0 && done < total);
    ++*(int *)context;
}

/* Ceilings so high that a share above one would be a wrong formula. */
static const struct ceilings unreachable = {
    .threads = 1,
    .fma = {1e15, 1e15},
    .read = {{1e15, 1e15}, {1e15, 1e15}, {1e15, 1e15}, {1e15, 1e15}},
    .level_bytes = {32 << 10, 1 << 20, 32 << 20, 256 << 20},
};

static enum cpu_isa fastest(void)
{
    enum cpu_isa isa = CPU_ISA_AMX;
    while (!cpu_isa_available(isa))
        isa--;
    return isa;
}

static void test_gemm_reports_every_case(void **state)
{
    (void)state;
    struct gemm_figures figures[GEMM_FIGURES_MAX];
    int calls = 0;
    enum cpu_isa isa = fastest();
    if (isa == CPU_ISA_SCALAR)
        skip(); /* minutes */
    struct gemm_bench_options options = {
        .isa = isa, .dtype = DTYPE_BF16, .quick = true, .progress = count_calls, .context = &calls};
    int count = gemm_bench(&options, &unreachable, NULL, figures);
    assert_int_equal(count, 2 * 3 * GEMM_FORM_COUNT);
    assert_int_equal(calls, count);
    for (int i = 0; i < count; i++) {
        assert_true(figures[i].flops > 1e6 && figures[i].roofline_flops > 1e6 &&
                    figures[i].read > 1e6);
        assert_true((figures[i].free_flops > 0.0) ==
                    (figures[i].form == GEMM_Y && isa != CPU_ISA_AMX));
        for (int j = 0; j < i; j++)
            assert_true(figures[i].form != figures[j].form || figures[i].m != figures[j].m ||
                        figures[i].size != figures[j].size);
    }
}

static void test_attention_reports_every_case(void **state)
{
    (void)state;
    struct attention_figures figures[ATTENTION_FIGURES_MAX];
    struct attention_bench_options options = {.isa = fastest(),
                                              .dtype = DTYPE_BF16,
                                              .heads = 4,
                                              .kv_heads = 2,
                                              .head_dim = 32,
                                              .sequences = 3,
                                              .quick = true};
    int count = attention_bench(&options, &unreachable, NULL, figures);
    assert_int_equal(count, 2 * ATTENTION_KINDS);
    for (int i = 0; i < count; i++) {
        const struct attention_figures *f = &figures[i];
        assert_int_equal(f->rows, f->kind == ATTENTION_DECODE ? 3 : f->context);
        assert_true(f->flops > 1e6 && f->flops < f->roofline_flops);
        double keys = f->kind == ATTENTION_DECODE ? f->context : (f->context + 1) / 2.0;
        double row_flops = (f->kind == ATTENTION_BACKWARD ? 10.0 : 4.0) * keys * 4 * 32;
        assert_near(f->tokens * row_flops / f->flops, 1.0, 1e-9);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_means),
        cmocka_unit_test(test_gemm_reports_every_case),
        cmocka_unit_test(test_attention_reports_every_case),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

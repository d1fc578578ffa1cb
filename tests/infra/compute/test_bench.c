#include "tests/infra/compute/fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "infra/compute/bench.h"
#include "infra/compute/cuda/device.h"

/* Every available instruction set appears in both outputs, and its figures agree with each other to
 * the digits printed. How high they are is up to the machine and what else it does. */
static void test_bench_reports_every_table(void **state)
{
    (void)state;
    char *text = NULL, *lines = NULL;
    size_t text_bytes = 0, lines_bytes = 0;
    FILE *out = open_memstream(&text, &text_bytes), *json = open_memstream(&lines, &lines_bytes);
    assert_int_equal(bench_gemm_to(out, json, 1), 0);
    fclose(out);
    fclose(json);
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++) {
        bool expected = cpu_isa_available((enum cpu_isa)isa);
        assert_true((strstr(text, cpu_isa_name((enum cpu_isa)isa)) != NULL) == expected);
    }
    int count = 0;
    for (const char *line = lines; *line != '\0'; line = strchr(line, '\n') + 1, count++) {
        double ratio = strtod(strstr(line, "\"ratio\":") + 8, NULL);
        double rate = strtod(strstr(line, "\"gflops\":") + 9, NULL);
        double peak = strtod(strstr(line, "\"peak_gflops\":") + 14, NULL);
        double rounding = 0.006 + 0.006 * ratio + 0.00006 * peak;
        assert_true(rate >= 0.0 && rate < 1e5 && peak >= 0.0 && peak < 1e5);
        assert_true(ratio >= 0.0 && fabs(ratio * peak - rate) <= rounding);
    }
    assert_true(count >= 16 && count % 16 == 0);
    free(text);
    free(lines);
}

static void test_devices_describe_themselves(void **state)
{
    (void)state;
    char line[256];
    int count = cuda_device_count();
    assert_true(count >= 0);
    cuda_device_describe(count, line, sizeof line);
    assert_non_null(strstr(line, "no CUDA device"));
    cuda_device_describe(count, line, 5);
    assert_string_equal(line, "no C");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bench_reports_every_table),
        cmocka_unit_test(test_devices_describe_themselves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

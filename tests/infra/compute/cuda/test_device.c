/* Devices are counted and described on every machine, with a CUDA build or without. */
#include "tests/infra/compute/fixture.h"

#include "infra/compute/cuda/device.h"

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
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_devices_describe_themselves)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

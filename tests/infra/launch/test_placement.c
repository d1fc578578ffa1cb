/* Device strings, and pinning for real (in a child, so that the test itself stays free). */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "infra/base/error.h"
#include "infra/launch/placement.h"

static void expect_parse(const char *device, const char *formatted)
{
    struct cpu_set_list list;
    char buffer[256];
    if (placement_parse(&list, &device, 1) < 0)
        fail_msg("%s: %s", device, error_message());
    placement_format(&list, buffer, sizeof buffer);
    assert_string_equal(buffer, formatted);
}

static void test_parse(void **state)
{
    (void)state;
    expect_parse("cpu:0", "0");
    expect_parse("cpu:0-3", "0-3");
    expect_parse("cpu:7,0-2,2,1", "0-2,7");
    expect_parse("cpu:5,4,3", "3-5");
    expect_parse("cpu:1023", "1023");
    const char *several[] = {"cpu:4-5", "cpu:0", "cpu:1"};
    struct cpu_set_list list;
    char buffer[256];
    assert_int_equal(placement_parse(&list, several, 3), 0);
    assert_int_equal(list.count, 4);
    placement_format(&list, buffer, sizeof buffer);
    assert_string_equal(buffer, "0-1,4-5");
    assert_int_equal(placement_parse(&list, several, 0), 0);
    assert_int_equal(list.count, 0);
    placement_format(&list, buffer, sizeof buffer);
    assert_string_equal(buffer, "");
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "cpu",     "cpu:",      "cpu:x",    "cpu:-1",
        "cpu:3-1", "cpu:0-",    "cpu:1024", "cpu:0-5000",
        "cpu:1;2", "cpu:0,,1",  "gpu:0",    "",
        "0-3",     "cpu:1-2-3", "cpu:0x1",  "cpu:99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct cpu_set_list list;
        if (placement_parse(&list, &bad[i], 1) != HONE_EINVAL)
            fail_msg("\"%s\" was not refused", bad[i]);
        assert_non_null(strstr(error_message(), bad[i]));
    }
    const char *cuda = "cuda:0";
    struct cpu_set_list list;
    assert_int_equal(placement_parse(&list, &cuda, 1), HONE_EUNSUPPORTED);
    assert_non_null(strstr(error_message(), "CUDA"));
}

static void test_format_never_overruns(void **state)
{
    (void)state;
    struct cpu_set_list list = {0};
    for (int cpu = 0; cpu < PLACEMENT_CPUS_MAX; cpu += 2)
        list.cpus[list.count++] = cpu;
    for (int capacity = 1; capacity < 64; capacity++) {
        char buffer[65];
        memset(buffer, '#', sizeof buffer);
        placement_format(&list, buffer, capacity);
        assert_true(strlen(buffer) < (size_t)capacity);
        assert_int_equal(buffer[capacity], '#');
    }
}

static int pin_in_child(void)
{
    struct cpu_set_list available, one = {.count = 1}, now;
    placement_available(&available);
    if (available.count < 1)
        return 1;
    one.cpus[0] = available.cpus[available.count - 1];
    if (placement_pin(&one) < 0)
        return 2;
    placement_available(&now);
    if (now.count != 1 || now.cpus[0] != one.cpus[0] || sched_getcpu() != one.cpus[0])
        return 3;
    struct cpu_set_list none = {0}, absent = {.count = 1, .cpus = {PLACEMENT_CPUS_MAX - 1}};
    if (placement_pin(&none) != HONE_EINVAL)
        return 4;
    if (placement_pin(&absent) != HONE_EINVAL || !strstr(error_message(), "1023"))
        return 5;
    /* Partly there is refused as well. */
    struct cpu_set_list partly = {.count = 2, .cpus = {one.cpus[0], PLACEMENT_CPUS_MAX - 1}};
    if (placement_pin(&partly) != HONE_EINVAL)
        return 6;
    return 0;
}

static void test_pin(void **state)
{
    (void)state;
    int status;
    fflush(stdout);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(pin_in_child());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_format_never_overruns),
        cmocka_unit_test(test_pin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

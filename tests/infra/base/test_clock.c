#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "infra/base/clock.h"

static void test_system_clock(void **state)
{
    (void)state;
    struct clock *clock = clock_system();
    int64_t before_ns = clock_now_ns(clock);
    clock_sleep_ms(20);
    clock_sleep_ms(-1);
    int64_t after_ns = clock_now_ns(clock);
    assert_true(after_ns - before_ns >= 20000000);
    assert_true(clock_unix_ms(clock) > INT64_C(1600000000000));
}

static void test_fake_clock(void **state)
{
    (void)state;
    int64_t now_ns = 5000000;
    struct clock clock = clock_fake(&now_ns);
    assert_int_equal(clock_now_ns(&clock), 5000000);
    assert_int_equal(clock_now_ms(&clock), 5);
    now_ns += 7000000;
    assert_int_equal(clock_now_ms(&clock), 12);
    assert_int_equal(clock_unix_ms(&clock), 12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_system_clock),
                                       cmocka_unit_test(test_fake_clock)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

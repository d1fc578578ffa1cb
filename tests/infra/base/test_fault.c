/* Faults that tests ask for through the environment; each is read once, in a process of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "infra/base/fault.h"

static void test_injected_between_two_numbers(void **state)
{
    (void)state;
    for (int64_t number = 0; number < 20; number++) {
        assert_int_equal(fault_injected("nan_loss", number), number >= 3 && number <= 5);
        assert_int_equal(fault_injected("spike", number), number == 9);
        assert_false(fault_injected("nan", number));
        assert_false(fault_injected("broken", number));
    }
}

static void test_broken_promises(void **state)
{
    (void)state;
    assert_true(fault_breaks("sync"));
    assert_true(fault_breaks("ack"));
    assert_false(fault_breaks("syn"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_injected_between_two_numbers),
                                       cmocka_unit_test(test_broken_promises)};
    setenv("HONE_INJECT", "nan_loss:3-5,broken,spike:9-9", 1);
    setenv("HONE_BREAK", "ack,sync", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

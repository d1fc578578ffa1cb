/* The activities of an account add up to the time that passed, whatever it was in between. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "infra/base/rng.h"
#include "infra/telemetry/time_account.h"

enum { WAIT, WORK, SAVE };
static const char *const names[] = {"wait_batch", "work", "save", NULL};

static void test_by_hand(void **state)
{
    (void)state;
    struct time_account account;
    time_account_start(&account, names, 100);
    assert_int_equal(account.count, 3);
    assert_int_equal(account.activity, WAIT);
    time_account_enter(&account, WORK, 130);
    assert_int_equal(account.activity, WORK);
    time_account_enter(&account, WORK, 135); /* brought up to date */
    assert_int_equal(account.spent_ns[WORK], 5);
    time_account_enter(&account, SAVE, 200);
    assert_int_equal(account.activity, SAVE);
    time_account_enter(&account, WAIT, 201);
    assert_int_equal(account.activity, WAIT);
    assert_int_equal(account.spent_ns[WAIT], 30); /* what goes on is not yet in it */
    assert_int_equal(account.spent_ns[WORK], 70);
    assert_int_equal(account.spent_ns[SAVE], 1);
}

static void test_adds_up(void **state)
{
    (void)state;
    struct rng_key key = {.seed = 3, .purpose = RNG_DATA};
    struct time_account account;
    int64_t start_ns = 12345, now_ns = start_ns;
    time_account_start(&account, names, start_ns);
    for (uint64_t i = 0; i < 10000; i++) {
        now_ns += (int64_t)rng_below(&key, 2 * i, 1000);
        time_account_enter(&account, (int32_t)rng_below(&key, 2 * i + 1, 3), now_ns);
        assert_int_equal(account.spent_ns[WAIT] + account.spent_ns[WORK] + account.spent_ns[SAVE],
                         now_ns - start_ns);
    }
    for (int i = 0; i < 3; i++)
        assert_in_range(account.spent_ns[i], 1000000, 2500000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_adds_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "curriculum/reward_window.h"

static void add(struct reward_window *window, int count, enum reward_status status)
{
    struct reward reward = {.status = status, .part_count = 2};
    snprintf(reward.parts[0].name, sizeof reward.parts[0].name, "answer");
    snprintf(reward.parts[1].name, sizeof reward.parts[1].name, "length");
    reward.parts[1].status = status;
    for (int i = 0; i < count; i++)
        reward_window_add(window, &reward);
}

static void test_limit(void **state)
{
    (void)state;
    static struct reward_window window;
    struct text text;
    memset(&window, 0, sizeof window);
    assert_false(reward_window_exceeds(&window, 0));
    add(&window, 20, REWARD_ERROR);
    assert_false(reward_window_exceeds(&window, 0.1));
    add(&window, 1, REWARD_TIMEOUT);
    assert_true(reward_window_exceeds(&window, 0.1));
    assert_false(reward_window_exceeds(&window, 1));
    text_init(&text);
    reward_window_describe(&window, &text);
    assert_string_equal(text.data, "21 of the last 21 rewards failed: part length 21 times");
    text_release(&text);

    /* No limit lets a run go on that gets nothing but failures. */
    add(&window, WINDOW_REWARDS - 22, REWARD_ERROR);
    assert_false(reward_window_exceeds(&window, 1));
    add(&window, 1, REWARD_ERROR);
    assert_true(reward_window_exceeds(&window, 1));
    add(&window, 1, REWARD_ABSTAIN);
    assert_false(reward_window_exceeds(&window, 1));
}

static void test_old_rewards_leave(void **state)
{
    (void)state;
    static struct reward_window window;
    memset(&window, 0, sizeof window);
    add(&window, 50, REWARD_ERROR);
    add(&window, 100, REWARD_OK);
    add(&window, 50, REWARD_ABSTAIN);
    assert_true(reward_window_exceeds(&window, 0.2));
    add(&window, 10, REWARD_OK);
    assert_false(reward_window_exceeds(&window, 0.2)); /* 40 of 200 */
    assert_true(reward_window_exceeds(&window, 0.19));
}

static void test_failures_without_parts(void **state)
{
    (void)state;
    static struct reward_window window;
    struct reward aborted = {.status = REWARD_ERROR};
    struct text text;
    memset(&window, 0, sizeof window);
    add(&window, 1, REWARD_ERROR);
    reward_window_add(&window, &aborted);
    text_init(&text);
    reward_window_describe(&window, &text);
    assert_non_null(strstr(text.data, "part length 1 times, 1 before any part saw them"));
    text_release(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_old_rewards_leave),
        cmocka_unit_test(test_failures_without_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <string.h>

#include "curriculum/prompt_order.h"

#define COUNT 37

/* O2 */
static void test_every_epoch_is_a_permutation(void **state)
{
    (void)state;
    struct prompt_order prompts;
    int64_t first[COUNT];
    int same = 0;
    prompt_order_init(&prompts, 5, COUNT);
    for (uint64_t epoch = 0; epoch < 4; epoch++) {
        bool seen[COUNT] = {false};
        for (uint64_t i = 0; i < COUNT; i++) {
            int64_t prompt = prompt_order_at(&prompts, epoch * COUNT + i);
            assert_in_range(prompt, 0, COUNT - 1);
            assert_false(seen[prompt]);
            seen[prompt] = true;
            if (epoch == 0)
                first[i] = prompt;
            else
                same += first[i] == prompt;
        }
    }
    assert_true(same < COUNT); /* three other epochs, each in an order of its own */
    prompt_order_release(&prompts);
}

/* O1 */
static void test_order_depends_on_seed_and_order_only(void **state)
{
    (void)state;
    struct prompt_order walked, jumped, other;
    int differs = 0;
    prompt_order_init(&walked, 5, COUNT);
    prompt_order_init(&jumped, 5, COUNT);
    prompt_order_init(&other, 6, COUNT);
    for (uint64_t order = 0; order < 3 * COUNT; order++) {
        int64_t prompt = prompt_order_at(&walked, order);
        prompt_order_at(&jumped, (order * 7919) % (9 * COUNT));
        assert_int_equal(prompt_order_at(&jumped, order), prompt);
        differs += prompt_order_at(&other, order) != prompt;
    }
    assert_true(differs > COUNT);
    prompt_order_release(&walked);
    prompt_order_release(&jumped);
    prompt_order_release(&other);
}

/* O3 */
static void test_sampling_seeds_differ(void **state)
{
    (void)state;
    struct prompt_order prompts, other;
    prompt_order_init(&prompts, 5, COUNT);
    prompt_order_init(&other, 6, COUNT);
    for (uint64_t order = 0; order < 500; order++) {
        uint64_t seed = prompt_order_sampling_seed(&prompts, order);
        assert_int_equal(seed, prompt_order_sampling_seed(&prompts, order));
        assert_int_not_equal(seed, prompt_order_sampling_seed(&other, order));
        for (uint64_t earlier = 0; earlier < order; earlier++)
            assert_int_not_equal(seed, prompt_order_sampling_seed(&prompts, earlier));
    }
    prompt_order_release(&prompts);
    prompt_order_release(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_epoch_is_a_permutation),
        cmocka_unit_test(test_order_depends_on_seed_and_order_only),
        cmocka_unit_test(test_sampling_seeds_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "curriculum/group_table.h"

static void score(struct group *group, int32_t index, enum reward_status status, float total)
{
    sample_restore(group, &group->samples[index], SAMPLE_SCORED);
    group->samples[index].status = status;
    group->samples[index].total = total;
}

static void test_life_of_a_group(void **state)
{
    (void)state;
    struct group_table table;
    struct group *found;
    group_table_init(&table);
    for (uint64_t order = 0; order < 200; order++) /* past the first allocation */
        group_table_add(&table, order, order % 7, 2);
    assert_int_equal(table.state_count[GROUP_LEASED], 200);
    struct group *group = group_table_find(&table, 77);
    assert_non_null(group);
    assert_int_equal(group->order, 76);
    assert_null(group_table_find(&table, 0));
    assert_null(group_table_find(&table, 201));
    assert_false(group_all_scored(group));
    score(group, 0, REWARD_OK, 1);
    score(group, 1, REWARD_OK, 0);
    assert_true(group_all_scored(group));
    group_table_hold(&table, group, 0, 7700);
    group_table_hold(&table, group, 1, 7701);
    assert_ptr_equal(group_table_sample(&table, 7701, &found), &group->samples[1]);
    assert_ptr_equal(found, group);
    assert_null(group_table_sample(&table, 0, &found));
    group_table_move(&table, group, GROUP_SCORED);
    group_table_move(&table, group, GROUP_BATCHED);
    group_table_move(&table, group, GROUP_TRAINED);
    assert_int_equal(table.state_count[GROUP_LEASED], 199);
    assert_int_equal(table.state_count[GROUP_TRAINED], 1);
    group_table_remove(&table, group);
    assert_int_equal(table.state_count[GROUP_TRAINED], 0);
    assert_null(group_table_find(&table, 77));
    assert_non_null(group_table_find(&table, 78));
    group_table_release(&table);
}

static void test_what_a_group_is_worth(void **state)
{
    (void)state;
    struct group_table table;
    group_table_init(&table);
    struct group *group = group_table_add(&table, 0, 0, 3);
    assert_int_equal(group_ok_count(group), 0);
    assert_true(group_oldest_version(group) == INT64_MAX);
    score(group, 0, REWARD_OK, 0.5f);
    score(group, 1, REWARD_ERROR, 0);
    score(group, 2, REWARD_OK, 0.5f);
    assert_int_equal(group_ok_count(group), 2);
    assert_true(group_zero_advantage(group)); /* the error is no third value */
    group->samples[2].total = nextafterf(0.5f, 1.0f);
    assert_false(group_zero_advantage(group));
    group->samples[0].oldest_version = 4;
    group->samples[2].oldest_version = 3;
    assert_int_equal(group_oldest_version(group), 3);
    group_table_release(&table);
}

static void test_reasons(void **state)
{
    (void)state;
    for (int i = 0; i < DROP_REASON_COUNT; i++)
        assert_int_equal(drop_reason_find(drop_reason_name((enum drop_reason)i)), i);
    assert_int_equal(drop_reason_find("tired"), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_life_of_a_group),
        cmocka_unit_test(test_what_a_group_is_worth),
        cmocka_unit_test(test_reasons),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Old batches leave the log when the recipe says so, whatever dies meanwhile; the rest stays whole.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "curriculum/audit.h"
#include "curriculum/hub_store.h"
#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/wire/envelope.h"
#include "tests/curriculum/world.h"

static struct world world;

static struct world_options trimming(int64_t keep_batches)
{
    struct world_options options = world_defaults();
    options.hub.staleness_max = 1;
    options.hub.steps = 12;
    options.hub.trim = true;
    options.hub.keep_batches = keep_batches;
    return options;
}

static int count_one(void *context, const void *key, size_t key_bytes, const void *value,
                     size_t value_bytes)
{
    int64_t *count = context;
    (void)key, (void)key_bytes, (void)value, (void)value_bytes;
    (*count)++;
    return 0;
}

static int64_t trajectories(void)
{
    int64_t count = 0;
    assert_int_equal(run_log_scan(world.log, LOG_TRAJECTORIES, count_one, &count), 0);
    return count;
}

static int64_t newest_trimmed(void)
{
    Hone__HubState *state;
    assert_int_equal(hub_read_state(world.log, &state), 1);
    int64_t number = state->trimmed_batch;
    wire_free(&state->base);
    return number;
}

static void expect_batches(int64_t first_kept, int64_t last)
{
    for (int64_t n = 1; n <= last; n++) {
        struct logged_batch batch;
        int rc = hub_read_batch(world.log, n, &batch);
        if (n < first_kept) {
            assert_int_equal(rc, HONE_ENOENT);
            assert_non_null(strstr(error_message(), "was trimmed"));
        } else {
            assert_int_equal(rc, 1);
            assert_int_equal(batch.message.n_trajectories, 16);
            hub_release_batch(&batch);
        }
    }
}

static void test_old_batches_leave(void **state)
{
    (void)state;
    struct world_options options = trimming(3);
    world_start(&world, &options);
    world_run(&world, 100000);
    world_check_books(&world, true);
    assert_int_equal(newest_trimmed(), 9);
    expect_batches(10, 12);
    /* What is left belongs to the last three batches: theirs, and of groups dropped for them. */
    assert_in_range(trajectories(), 3 * 16, 3 * 16 + 3 * 2 * 16 + 16);
    world_end(&world);
}

static void test_without_the_option_all_stay(void **state)
{
    (void)state;
    struct world_options options = trimming(0);
    options.hub.trim = false;
    world_start(&world, &options);
    world_run(&world, 100000);
    assert_int_equal(newest_trimmed(), 0);
    expect_batches(1, 12);
    assert_true(trajectories() >= 12 * 16);
    world_end(&world);
}

/* The list of dropped groups comes back from the log too. */
static void test_whatever_dies(void **state)
{
    (void)state;
    struct world_options options = trimming(0);
    options.actors = 2;
    options.rates.hub_death = 15;
    options.rates.learner_death = 3;
    options.rates.actor_death = 3;
    world_start(&world, &options);
    world_run(&world, 200000);
    assert_true(world.hub_restarts > 3);
    world_check_books(&world, true);
    assert_int_equal(newest_trimmed(), 12);
    assert_int_equal(trajectories(), 0);
    world_end(&world);
}

/* A run that kept everything is trimmed by the first batch that is durable under the option. */
static void test_switched_on_later(void **state)
{
    (void)state;
    struct world_options options = trimming(2);
    options.hub.trim = false;
    world_start(&world, &options);
    while (world.learner.durable < 6)
        world_tick(&world);
    assert_int_equal(newest_trimmed(), 0);
    world.options.hub.trim = true;
    world_kill_hub(&world);
    world_run(&world, 100000);
    world_check_books(&world, true);
    expect_batches(11, 12);
    world_end(&world);
}

/* A trajectory that only part of a trimmed batch lost, or that it kept, is not what trimming does.
 */
static void test_the_audit_knows_the_difference(void **state)
{
    (void)state;
    struct world_options options = trimming(3);
    struct logged_batch batch;
    unsigned char key[8];
    struct text report;
    world_start(&world, &options);
    world_run(&world, 100000);
    assert_int_equal(hub_read_batch(world.log, 11, &batch), 1);
    run_log_key_u64(batch.message.trajectories[3]->id, key);
    hub_release_batch(&batch);
    run_log_delete(world.log, LOG_TRAJECTORIES, key, sizeof key);
    assert_int_equal(run_log_commit(world.log), 0);
    assert_int_equal(hub_read_batch(world.log, 11, &batch), HONE_ECORRUPT);
    text_init(&report);
    assert_int_equal(curriculum_audit(world.log, &report), HONE_ECORRUPT);
    assert_non_null(strstr(error_message(), "not in the log"));
    text_release(&report);
    world_end(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_old_batches_leave),
        cmocka_unit_test(test_without_the_option_all_stay),
        cmocka_unit_test(test_whatever_dies),
        cmocka_unit_test(test_switched_on_later),
        cmocka_unit_test(test_the_audit_knows_the_difference),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

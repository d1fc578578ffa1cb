/* What the simulator has found, each as the shortest run that shows it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "curriculum/hub.h"
#include "infra/base/error.h"
#include "infra/base/log.h"
#include "tests/curriculum/world.h"
#include "tests/sim/sim_disk.h"
#include "tests/sim/sim_net.h"
#include "tests/sim/sim_trace.h"

#define LIMIT 20000

static struct world world;
static struct sim_disk *disk;

static struct log_store *make_store(void *context)
{
    return sim_disk_store(context);
}

static void start(uint64_t seed)
{
    struct world_options options = world_defaults();
    disk = sim_disk_create(1);
    options.store = make_store;
    options.store_context = disk;
    sim_net_start(&(struct sim_net_options){
        .seed = seed, .now_ns = &world.now_ns, .delay_max_ms = 0, .queue_max = 1000});
    sim_trace_start(false, &world.now_ns);
    world_start(&world, &options);
}

static void end(void)
{
    world_end(&world);
    sim_net_stop();
    sim_disk_free(disk);
}

static int set_up(void **state)
{
    (void)state;
    start(1);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    end();
    return 0;
}

static void until_trained(int64_t batches)
{
    for (int i = 0; world.learner.trained < batches; i++) {
        assert_true(i < LIMIT);
        world_tick(&world);
    }
}

static bool anyone_stopped(void)
{
    return world.learner.worker.stopped || world.actors[0].stopped || world.scorers[0].stopped;
}

static void expect_a_whole_run(void)
{
    world_run(&world, LIMIT);
    world_check_books(&world, true);
}

/* One failed write ended the hub, which told everyone to stop: they did, the hub came back, and the
 * run stood still for ever. */
static void test_a_failed_commit_does_not_end_the_run(void **state)
{
    (void)state;
    for (int64_t batch = 0; batch < 5; batch++) {
        until_trained(batch);
        sim_disk_fail_next(disk);
    }
    expect_a_whole_run();
    assert_int_equal(sim_disk_failures(disk), 5);
}

static void test_a_full_disk_is_waited_for(void **state)
{
    (void)state;
    until_trained(2);
    sim_disk_set_full(disk, true);
    for (int i = 0; i < 120 * WORLD_PER_SECOND; i++)
        world_tick(&world);
    assert_in_range(world.learner.trained, 2, 4);
    assert_false(anyone_stopped());
    sim_disk_set_full(disk, false);
    int64_t tick = world.tick, trained = world.learner.trained;
    until_trained(trained + 1);
    assert_in_range(world.tick - tick, 1, 20 * WORLD_PER_SECOND);
    expect_a_whole_run();
}

/* It ends with the disk's error, so that its supervisor reports it; the workers are not told to
 * stop: another process of the hub may find the disk mended. */
static void test_a_disk_that_stays_broken_ends_the_hub_alone(void **state)
{
    (void)state;
    until_trained(2);
    world.hub_may_stop = true;
    for (int i = 0; i < LIMIT && world.hub_error == 0; i++) {
        sim_disk_fail_next(disk);
        world_tick(&world);
    }
    assert_int_equal(world.hub_error, HONE_EIO);
    sim_net_linger(); /* what it has said arrives */
    world_kill_hub(&world);
    for (int i = 0; i < WORLD_PER_SECOND; i++)
        world_tick(&world);
    assert_false(anyone_stopped());
    expect_a_whole_run();
}

/* Whoever said Hello just then was told that the run is finished before that was committed. The
 * seeds order the two messages in all ways. */
static void test_the_end_is_committed_before_it_is_told(void **state)
{
    (void)state;
    for (uint64_t seed = 2; seed < 60; seed++) {
        until_trained(world.options.hub.steps - 1);
        while (world.learner.queue_count == 0) /* the last batch is not with the learner yet */
            world_tick(&world);
        while (world.learner.durable < world.options.hub.steps) {
            world_kill(&world, &world.actors[0]); /* so that a Hello comes with the last answer */
            world_tick(&world);
        }
        sim_disk_set_full(disk, true); /* before the hub hears that answer */
        for (int i = 0; i < 20 * WORLD_PER_SECOND; i++)
            world_tick(&world);
        assert_false(anyone_stopped());
        sim_disk_set_full(disk, false);
        expect_a_whole_run();
        end();
        start(seed);
    }
}

/* What was under way is lost, nobody notices, and everyone waited for the other. */
static void test_a_credit_lost_with_its_connection_is_given_again(void **state)
{
    (void)state;
    struct fake_worker *workers[] = {&world.actors[0], &world.scorers[0], &world.learner.worker};
    for (int64_t batch = 1; batch < 5; batch++) {
        until_trained(batch);
        for (int i = 0; i < 3; i++)
            sim_net_cut(workers[i]->client, 0);
    }
    expect_a_whole_run();
}

/* A learner that was silent too long says Hello again; the hub sends it the next batch before it
 * knows where that learner is. */
static void test_a_batch_before_the_learner_is_ready(void **state)
{
    (void)state;
    for (int64_t batch = 1; batch < 5; batch++) {
        until_trained(batch);
        world.learner.worker.stalled_until = world.tick + 11 * WORLD_PER_SECOND;
    }
    expect_a_whole_run();
}

/* A learner died after a checkpoint, before the log had the hash of a version that was not the
 * checkpoint's own: nobody knew it any more. And the checkpoint after the next had to bring it,
 * too, where the message itself was lost. */
static void test_hashes_of_versions_outlive_their_messages(void **state)
{
    (void)state;
    world.options.late_hashes = 100;
    for (int64_t batch = 2; batch <= 4; batch += 2) { /* the checkpoints */
        until_trained(batch);
        assert_int_equal(world.learner.durable, batch);
        sim_net_cut(world.learner.worker.client, 0);
        if (batch == 4)
            world_kill_learner(&world);
    }
    expect_a_whole_run();
    for (int64_t n = 0; n < world.options.hub.steps; n++)
        assert_true(world.hub->batches[n].weights_hash[0] != '\0');
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_a_failed_commit_does_not_end_the_run),
        TEST(test_a_full_disk_is_waited_for),
        TEST(test_a_disk_that_stays_broken_ends_the_hub_alone),
        TEST(test_the_end_is_committed_before_it_is_told),
        TEST(test_a_credit_lost_with_its_connection_is_given_again),
        TEST(test_a_batch_before_the_learner_is_ready),
        TEST(test_hashes_of_versions_outlive_their_messages),
    };
    log_set_level((enum log_level)(LOG_LEVEL_ERROR + 1)); /* the disk fails on purpose */
    return cmocka_run_group_tests(tests, NULL, NULL);
}

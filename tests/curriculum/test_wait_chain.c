/* Who stands still is named, whoever it is; announced silence is no death. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "curriculum/hub.h"
#include "curriculum/hub_report.h"
#include "curriculum/wait_chain.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "tests/curriculum/world.h"

#define PER_SECOND 50 /* ticks */

static struct world world;

static void seconds(int count)
{
    for (int i = 0; i < count * PER_SECOND; i++)
        world_tick(&world);
}

static void expect_root(const char *root, const char *chain_says)
{
    struct wait_chain chain;
    struct text text;
    text_init(&text);
    wait_chain_find(world.hub, &chain);
    assert_true(chain.count > 0 && chain.count <= WAIT_LINKS_MAX);
    wait_chain_print(&chain, &text);
    if (strcmp(chain.links[chain.count - 1].who, root) != 0 ||
        strstr(text.data, chain_says) == NULL)
        fail_msg("the root of \"%s\" is not %s, or it does not say \"%s\"", text.data, root,
                 chain_says);
    text_release(&text);
}

static void start(int actors, int scorers)
{
    struct world_options options = world_defaults();
    options.actors = actors;
    options.scorers = scorers;
    options.hub.steps = 60;
    world_start(&world, &options);
}

static void test_nobody_has_joined(void **state)
{
    (void)state;
    start(1, 1);
    expect_root("learner", "curriculum waits for a learner; learner is not there");
    world_end(&world);
}

static void test_a_silent_actor(void **state)
{
    (void)state;
    start(1, 1);
    seconds(3);
    world.actors[0].alive = false;
    seconds(5);
    expect_root("actor-0", "actor-0 is silent for");
    seconds(10); /* now it is gone */
    expect_root("actor", "actor is not there");
    world_end(&world);
}

static void test_a_busy_and_a_silent_scorer(void **state)
{
    (void)state;
    start(1, 1);
    world.hold_scorers = true; /* it answers, and does not score */
    seconds(5);
    expect_root("scorer-0", "curriculum waits for a reward of group 1 from scorer-0 for");
    world.scorers[0].alive = false;
    seconds(4);
    expect_root("scorer-0", "scorer-0 is silent for");
    world_end(&world);
}

static void test_the_learner(void **state)
{
    (void)state;
    start(1, 1);
    while (world.learner.trained < 2)
        world_tick(&world);
    world.learner.worker.alive = false;
    seconds(5);
    expect_root("learner-0", "learner-0 is silent for");
    world_end(&world);
}

static void say(struct fake_worker *worker, Hone__Heartbeat *beat)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    envelope.kind = HONE__KIND__KIND_HEARTBEAT;
    envelope.heartbeat = beat;
    assert_int_equal(wire_client_send(worker->client, &envelope, NULL, 0), 0);
}

/* What a worker says that it waits for is followed to whom it names. */
static void test_through_an_actor_to_the_learner(void **state)
{
    (void)state;
    Hone__Heartbeat beat = HONE__HEARTBEAT__INIT;
    char what[] = "weights v9 from learner";
    start(1, 1);
    while (world.learner.trained < 2 || world.hub->done_batch < world.hub->batch_count)
        world_tick(&world);
    for (int k = 0; k < WORLD_HELD_MAX; k++)
        world.actors[0].samples[k].wait_ticks = 100000;
    seconds(1);
    beat.waiting_for = what;
    beat.has_waiting_since_ms = 1;
    beat.waiting_since_ms = clock_unix_ms(&world.clock) - 7000;
    say(&world.actors[0], &beat);
    world_tick(&world);
    expect_root("learner-0",
                "actor-0 waits for weights v9 from learner for 7 s; learner-0 is busy");
    world_end(&world);
}

/* A learner that says that it will be silent is not taken for dead, but for no longer than it said.
 */
static void test_announced_silence(void **state)
{
    (void)state;
    Hone__Heartbeat beat = HONE__HEARTBEAT__INIT;
    char doing[] = "saving the checkpoint of batch 2";
    for (int announced = 0; announced < 2; announced++) {
        start(1, 1);
        while (world.learner.trained < 2)
            world_tick(&world);
        beat.doing = doing;
        beat.has_absent_ms = announced;
        beat.absent_ms = 60000;
        say(&world.learner.worker, &beat);
        world.learner.worker.alive = false;
        seconds(30);
        assert_int_equal(peer_table_find(&world.hub->peers, "learner-0") != NULL, announced);
        if (announced)
            expect_root("learner-0", "is silent (saving the checkpoint of batch 2) for");
        seconds(35);
        assert_null(peer_table_find(&world.hub->peers, "learner-0"));
        world_end(&world);
    }
}

/* The file is there, whole and renewed, and its strings cannot break it. */
static void test_the_file(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    Hone__Heartbeat beat = HONE__HEARTBEAT__INIT;
    char evil[] = "a \"quote\", a \\ and a \n line", path[64] = "/tmp/hone_waiting_XXXXXX", *data;
    size_t bytes;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    options.hub.waiting_path = path;
    options.hub.stall_ms = 3000;
    world_start(&world, &options);
    seconds(2);
    beat.waiting_for = evil;
    say(&world.actors[0], &beat);
    world.actors[0].alive = false;
    seconds(6);
    assert_int_equal(file_read(path, 1 << 20, &data, &bytes), 0);
    assert_non_null(strstr(data, "\"stalled\": true"));
    assert_non_null(strstr(data, "\"root\": \"actor-0\""));
    assert_non_null(strstr(data, "a ?quote?, a ? and a ? line"));
    assert_non_null(strstr(data, "\"samples_leased\": "));
    memory_free(data);
    assert_true(world.hub->stalls >= 1 && world.hub->stalled_ms >= 3000);
    world.actors[0].alive = true;
    int64_t batches = world.learner.trained;
    while (world.learner.trained == batches)
        world_tick(&world);
    seconds(2);
    assert_int_equal(file_read(path, 1 << 20, &data, &bytes), 0);
    assert_non_null(strstr(data, "\"stalled\": false"));
    memory_free(data);
    world_end(&world);
    unlink(path);
}

/* A heartbeat's account of a worker's time is a record of the workers' metrics. */
static void test_where_the_time_goes(void **state)
{
    (void)state;
    Hone__Heartbeat beat = HONE__HEARTBEAT__INIT;
    Hone__TimeSpent items[2] = {HONE__TIME_SPENT__INIT, HONE__TIME_SPENT__INIT};
    Hone__TimeSpent *pointers[2] = {&items[0], &items[1]};
    Hone__SlotUse use = HONE__SLOT_USE__INIT;
    struct metrics *metrics;
    char wait[] = "wait_prompts", generate[] = "generate", path[] = "/tmp/hone_workers_XXXXXX";
    char *data;
    size_t bytes;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    start(1, 1);
    seconds(2);
    assert_int_equal(metrics_open(&metrics, path, &world.clock), 0);
    world.hub->options.workers = metrics;
    items[0].activity = wait;
    items[0].us = 1500000;
    items[1].activity = generate;
    items[1].us = 4500000;
    beat.n_time_spent = 2;
    beat.time_spent = pointers;
    beat.has_swap_ms = beat.has_fetch_ms = beat.has_fetch_bytes = 1;
    beat.swap_ms = 0.25;
    beat.fetch_ms = 8;
    beat.fetch_bytes = 1024;
    use.has_full_us = 1;
    use.full_us = 2000000;
    beat.slot_use = &use;
    for (int i = 0; i < 3; i++) { /* of which the hub keeps one: there are few records a second */
        say(&world.actors[0], &beat);
        world_tick(&world);
    }
    metrics_close(metrics);
    world.hub->options.workers = NULL;
    world_end(&world);
    assert_int_equal(file_read(path, 1 << 20, &data, &bytes), 0);
    static const char *const expected[] = {
        "\"worker\": \"actor-0\"",   "\"role\": \"actor\"",     "\"time/wait_prompts_s\": 1.5",
        "\"time/generate_s\": 4.5",  "\"time/busy_s\": 4.5",    "\"time/total_s\": 6",
        "\"weights/swap_ms\": 0.25", "\"weights/fetch_ms\": 8", "\"weights/fetch_bytes\": 1024",
        "\"slots/full_s\": 2"};
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++)
        if (strstr(data, expected[i]) == NULL)
            fail_msg("%s is not in %s", expected[i], data);
    assert_ptr_equal(strchr(data, '\n'), data + bytes - 1);
    memory_free(data);
    unlink(path);
}

/* Senseless accounts are not written, and a file that cannot be written does not stop the hub. */
static void test_where_no_time_goes(void **state)
{
    (void)state;
    Hone__Heartbeat beat = HONE__HEARTBEAT__INIT;
    Hone__TimeSpent item = HONE__TIME_SPENT__INIT, *pointer = &item;
    char *names[] = {"a\"b\n", "", "\xff\xfe", "generate", "generate", "generate"};
    int64_t us[] = {1, 1, 1, -1, INT64_MAX, 1}; /* the last makes sense: to a full disk */
    struct metrics *metrics;
    start(1, 1);
    seconds(2);
    assert_int_equal(metrics_open(&metrics, "/dev/full", &world.clock), 0);
    world.hub->options.workers = metrics;
    beat.n_time_spent = 1;
    beat.time_spent = &pointer;
    for (int i = 0; i < 6; i++) {
        struct peer *peer = &world.hub->peers.items[0];
        item.activity = names[i];
        item.us = us[i];
        int64_t before = peer->reported_ms;
        hub_report_worker(world.hub, peer, &beat);
        assert_int_equal(peer->reported_ms != before, i == 5);
    }
    world.hub->options.workers = NULL;
    metrics_close(metrics);
    int64_t batches = world.learner.trained;
    while (world.learner.trained == batches)
        world_tick(&world);
    world_end(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_where_no_time_goes),
        cmocka_unit_test(test_nobody_has_joined),
        cmocka_unit_test(test_a_silent_actor),
        cmocka_unit_test(test_a_busy_and_a_silent_scorer),
        cmocka_unit_test(test_the_learner),
        cmocka_unit_test(test_through_an_actor_to_the_learner),
        cmocka_unit_test(test_announced_silence),
        cmocka_unit_test(test_the_file),
        cmocka_unit_test(test_where_the_time_goes),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The hub in scripted situations. tests/curriculum/world.c holds the workers and checks G3 and G4
 * on every batch that arrives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "curriculum/audit.h"
#include "curriculum/hub.h"
#include "curriculum/hub_report.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/wire/codec.h"
#include "tests/curriculum/world.h"

static struct world world;

/* Runs to the end and returns what was trained. */
static uint64_t complete(const struct world_options *options)
{
    world_start(&world, options);
    world_run(&world, 20000);
    world_check_books(&world, true);
    uint64_t result = world_result(&world);
    world_end(&world);
    return result;
}

static void test_synchronous_run(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    world_start(&world, &options);
    world_run(&world, 5000);
    assert_int_equal(world.staleness_seen, 0);
    assert_true(world.learner.worker.stopped && world.actors[0].stopped &&
                world.scorers[0].stopped);
    world_check_books(&world, true);
    world_end(&world);
}

static void test_asynchronous_run(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    options.hub.staleness_max = 2;
    options.actors = 3;
    options.hub.steps = 15;
    world_start(&world, &options);
    world_run(&world, 10000);
    assert_in_range(world.staleness_seen, 1, 2);
    world_check_books(&world, true);
    world_end(&world);
}

/* G7: number of actors and scorers, slots, timing and deaths change nothing. */
static void test_synchronous_runs_are_the_same(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    /* Half of the groups are worth nothing and only two may be replaced: which two must not be
     * luck. */
    options.zero_groups = 50;
    options.hub.refill_max = 0.5f;
    uint64_t reference = complete(&options);
    for (uint64_t seed = 2; seed < 14; seed++) {
        options.seed = seed;
        options.actors = 1 + (int)(seed % 4);
        options.scorers = 1 + (int)(seed % 3);
        options.slots = 3 + (int)seed;
        options.hub.lease_timeout_ms = 3000;
        if (seed > 5)
            options.rates = (struct world_rates){.actor_death = 5,
                                                 .scorer_death = 5,
                                                 .learner_death = 5,
                                                 .hub_death = 10,
                                                 .duplicate = 20};
        assert_int_equal(complete(&options), reference);
    }
    options.hub.seed++;
    assert_int_not_equal(complete(&options), reference);
}

/* A hub that dies after any of its ticks goes on as if nothing had been: in run k it dies after
 * each tick that is k modulo STRIDE. */
static void test_hub_restart_at_every_tick(void **state)
{
    (void)state;
    enum { STRIDE = 30 };
    struct world_options options = world_defaults();
    int64_t restarts = 0, ticks = 0;
    options.hub.steps = 2;
    options.hub.prompts_per_step = 2;
    options.hub.group_size = 2;
    options.hub.refill_max = 0.5f;
    options.zero_groups = 50;
    options.slots = 4;
    uint64_t reference = complete(&options);
    for (int64_t at = 0; at < STRIDE; at++) {
        world_start(&world, &options);
        while (!world.finished) {
            if (world.tick % STRIDE == at && !world.learner.worker.stopped) {
                world_kill_hub(&world);
                world_check_books(&world, false);
            }
            world_tick(&world);
            assert_true(world.tick < 5000);
        }
        world_check_books(&world, true);
        assert_int_equal(world_result(&world), reference);
        restarts += world.hub_restarts;
        ticks = world.tick > ticks ? world.tick : ticks;
        world_end(&world);
    }
    print_message("%lld restarts in runs of up to %lld ticks\n", (long long)restarts,
                  (long long)ticks);
    assert_true(restarts >= 100);
}

static void test_duplicates_are_acknowledged_again(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    options.rates.duplicate = 500;
    world_start(&world, &options);
    world_run(&world, 5000);
    assert_true(world.duplicates_sent > 50);
    assert_int_equal(world.refusals, 0);
    world_check_books(&world, true);
    world_end(&world);
}

/* The first sample that this actor is working on. */
static struct held_sample *working_sample(struct fake_worker *actor)
{
    for (int i = 0; i < WORLD_HELD_MAX; i++)
        if (actor->samples[i].used && !actor->samples[i].finished)
            return &actor->samples[i];
    return NULL;
}

static void tick_until_working(struct fake_worker *actor)
{
    for (int i = 0; i < 200 && working_sample(actor) == NULL; i++)
        world_tick(&world);
    assert_non_null(working_sample(actor));
}

/* What an actor that died had been given is given to others; its own result comes too late. */
static void test_late_lease_is_refused(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    options.actors = 2;
    world_start(&world, &options);
    tick_until_working(&world.actors[0]);
    struct held_sample old = *working_sample(&world.actors[0]);
    world_kill(&world, &world.actors[0]);
    for (int i = 0; i < 100 && !world.actors[0].welcomed; i++)
        world_tick(&world);
    old.finished = true;
    old.first_version = old.last_version = 0;
    world.actors[0].samples[WORLD_HELD_MAX - 1] = old;
    world_send_sample(&world, &world.actors[0], &world.actors[0].samples[WORLD_HELD_MAX - 1]);
    world_run(&world, 5000);
    assert_int_equal(world.refusals, 1);
    world_check_books(&world, true);
    world_end(&world);
}

/* An actor that is only silent loses its leases after ten seconds, and what it brings then is
 * refused. */
static void test_silent_actor(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    options.actors = 2;
    world_start(&world, &options);
    tick_until_working(&world.actors[0]);
    world.actors[0].alive = false;
    for (int i = 0; i < 16 * 50; i++)
        world_tick(&world);
    assert_true(world.learner.trained >= 1); /* the other one did its work */
    world.actors[0].alive = true;
    world_run(&world, 5000);
    assert_true(world.refusals > 0);
    world_check_books(&world, true);
    world_end(&world);
}

/* A scorer that hangs on to its work, and one that dies. */
static void test_silent_scorer(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    options.scorers = 2;
    world_start(&world, &options);
    for (int i = 0; i < 60; i++)
        world_tick(&world);
    world.scorers[0].alive = false;
    world_run(&world, 5000);
    world.scorers[0].stopped = true;
    world_check_books(&world, true);
    world_end(&world);
}

/* A lease past its deadline is given to another even when its actor is alive. */
static void test_lease_deadline(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    options.actors = 2;
    options.hub.lease_timeout_ms = 1000;
    world_start(&world, &options);
    tick_until_working(&world.actors[0]);
    for (int i = 0; i < WORLD_HELD_MAX; i++)
        world.actors[0].samples[i].wait_ticks += 10000;
    world_run(&world, 5000);
    world_check_books(&world, true);
    world_end(&world);
}

/* A learner that dies gets the batches after its checkpoint again, unchanged (world.c compares
 * them), and must make the same weights of them. */
static void test_learner_restart(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    uint64_t reference = complete(&options);
    options.checkpoint_every = 3;
    for (int64_t at = 0; at < 6; at++) {
        world_start(&world, &options);
        while (world.learner.trained < at)
            world_tick(&world);
        world_kill_learner(&world);
        world_run(&world, 5000);
        world_check_books(&world, true);
        assert_int_equal(world_result(&world), reference);
        world_end(&world);
    }
}

/* Ticks until the hub ends with an error; returns its code. */
static int run_to_error(int64_t limit)
{
    world.hub_may_stop = true;
    for (int64_t i = 0; i < limit && world.hub_error == 0; i++)
        world_tick(&world);
    return world.hub_error;
}

static void test_diverging_replay_stops_the_run(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    options.checkpoint_every = 4;
    world_start(&world, &options);
    while (world.learner.trained < 2)
        world_tick(&world);
    world_tick(&world); /* the report arrives */
    world_kill_learner(&world);
    world.learner.weights ^= 1; /* a broken machine */
    assert_int_equal(run_to_error(5000), HONE_ECORRUPT);
    assert_non_null(strstr(error_message(), "replay diverged: batch 1"));
    world_end(&world);
}

static void test_foreign_learner_is_an_error(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    world_start(&world, &options);
    world.learner.durable = world.learner.trained = 5;
    assert_int_equal(run_to_error(100), HONE_ECORRUPT);
    assert_non_null(strstr(error_message(), "belongs to another run"));
    world_end(&world);
}

/* G3: a group that one slow sample holds up is dropped when its tokens are too old, and replaced.
 */
static void test_stale_group_is_dropped(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    struct text report;
    options.hub.staleness_max = 1;
    options.hub.steps = 10;
    options.zero_groups = 0;
    options.actors = 2;
    world_start(&world, &options);
    tick_until_working(&world.actors[0]);
    struct held_sample *slow = working_sample(&world.actors[0]);
    slow->wait_ticks = 1000000;
    slow->first_version = 0;
    while (world.learner.trained < 4)
        world_tick(&world);
    slow->wait_ticks = 0;
    world_run(&world, 5000);
    world_check_books(&world, true);
    text_init(&report);
    assert_int_equal(curriculum_audit(world.log, &report), 0);
    assert_non_null(strstr(report.data, "stale 1 "));
    text_release(&report);
    world_end(&world);
}

/* Every reward equal: dropped and replaced within the budget, then taken as they are. */
static void test_refill_budget(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    struct text report;
    options.zero_groups = 100;
    options.hub.steps = 2;
    options.hub.refill_max = 1.5f; /* 6 for a batch of 4 */
    world_start(&world, &options);
    world_run(&world, 5000);
    world_check_books(&world, true);
    text_init(&report);
    assert_int_equal(curriculum_audit(world.log, &report), 0);
    assert_non_null(strstr(report.data, "20 dispatched: 8 trained"));
    assert_non_null(strstr(report.data, "zero_advantage 12 "));
    text_release(&report);
    world_end(&world);
}

/* A batch that is half of failures: the groups that are left with one reward are dropped. */
static void test_failed_rewards(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    struct text report;
    options.hub.group_size = 2;
    options.hub.score_retries = 0;
    options.rates.score_error = 300;
    options.rates.score_timeout = 200;
    world_start(&world, &options);
    world_run(&world, 20000);
    world_check_books(&world, true);
    text_init(&report);
    assert_int_equal(curriculum_audit(world.log, &report), 0);
    const char *failed = strstr(report.data, "reward_failed ");
    assert_non_null(failed);
    assert_true(strtol(failed + strlen("reward_failed "), NULL, 10) > 5);
    text_release(&report);
    world_end(&world);
}

/* With retries the same faults heal. */
static void test_retries_heal(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    uint64_t reference = complete(&options);
    options.hub.score_retries = 50;
    options.rates.score_error = 200;
    options.rates.score_timeout = 200;
    assert_int_equal(complete(&options), reference);
}

/* G8 */
static void test_error_rate_stops_the_run(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    options.hub.max_error_rate = 0.1;
    options.hub.score_retries = 0;
    options.rates.score_error = 1000;
    world_start(&world, &options);
    assert_int_equal(run_to_error(5000), HONE_EGUARD);
    assert_int_equal(world.hub->rewards.count, 21); /* the first that is too many */
    assert_non_null(strstr(error_message(), "too many rewards fail"));
    assert_non_null(strstr(error_message(), "part sum"));
    for (int i = 0; i < 3; i++) { /* the workers are told why */
        struct wire_message message;
        while (wire_client_receive(world.actors[0].client, &message) > 0) {
            if (message.envelope->kind == HONE__KIND__KIND_STOP) {
                assert_non_null(strstr(message.envelope->stop->reason, "part sum"));
                world.actors[0].stopped = true;
            }
            wire_message_release(&message);
        }
    }
    assert_true(world.actors[0].stopped);
    world_end(&world);
}

static struct fake_worker *stranger(const char *name, const char *recipe, uint32_t protocol)
{
    static struct fake_worker worker;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Hello hello = HONE__HELLO__INIT;
    memset(&worker, 0, sizeof worker);
    snprintf(worker.name, sizeof worker.name, "%s", name);
    assert_int_equal(wire_client_create(&worker.client, world.context, "inproc://hub", worker.name),
                     0);
    hello.protocol = protocol;
    hello.role = HONE__ROLE__ROLE_ACTOR;
    hello.worker = worker.name;
    hello.recipe_hash = (char *)(uintptr_t)recipe;
    hello.incarnation = 1;
    envelope.kind = HONE__KIND__KIND_HELLO;
    envelope.hello = &hello;
    assert_int_equal(wire_client_send(worker.client, &envelope, NULL, 0), 0);
    return &worker;
}

static bool hears(struct fake_worker *worker, Hone__Kind kind, char *reason, size_t reason_bytes)
{
    struct wire_message message;
    bool heard = false;
    for (int i = 0; i < 5; i++) {
        world_tick(&world);
        while (wire_client_receive(worker->client, &message) > 0) {
            if (message.envelope->kind == kind) {
                heard = true;
                if (kind == HONE__KIND__KIND_REFUSED)
                    snprintf(reason, reason_bytes, "%s", message.envelope->refused->reason);
            }
            wire_message_release(&message);
        }
    }
    return heard;
}

static void test_strangers_are_refused(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    char reason[200] = "";
    world_start(&world, &options);
    struct fake_worker *worker = stranger("actor-9", "other", WIRE_PROTOCOL);
    assert_true(hears(worker, HONE__KIND__KIND_REFUSED, reason, sizeof reason));
    assert_non_null(strstr(reason, "recipe"));
    wire_client_destroy(worker->client);
    worker = stranger("actor-8", "recipe", WIRE_PROTOCOL + 1);
    assert_true(hears(worker, HONE__KIND__KIND_REFUSED, reason, sizeof reason));
    assert_non_null(strstr(reason, "protocol"));
    wire_client_destroy(worker->client);
    world_run(&world, 5000);
    world_check_books(&world, true);
    world_end(&world);
}

/* An actor that sends nonsense, or what is not its to send, is dropped; the run goes on with the
 * others. */
static void test_rule_breakers_are_dropped(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    struct wire_message message;
    options.actors = 2;
    world_start(&world, &options);
    tick_until_working(&world.actors[0]);
    struct held_sample *sample = working_sample(&world.actors[0]);
    uint64_t prompt = sample->prompt_id;
    sample->finished = true;
    sample->first_version = sample->last_version = 0;
    sample->prompt_id = (prompt + 1) % 13; /* another prompt's tokens */
    world_send_sample(&world, &world.actors[0], sample);
    bool refused = false;
    for (int i = 0; i < 3; i++) {
        world.actors[0].alive = false; /* we read its mail */
        world_tick(&world);
        while (wire_client_receive(world.actors[0].client, &message) > 0) {
            if (message.envelope->kind == HONE__KIND__KIND_TRAJECTORY_ACK &&
                message.envelope->trajectory_ack->id == sample->id) {
                refused = message.envelope->trajectory_ack->refused;
                assert_non_null(strstr(message.envelope->trajectory_ack->reason, "prompt"));
            }
            wire_message_release(&message);
        }
    }
    assert_true(refused);
    assert_null(peer_table_find(&world.hub->peers, "actor-0"));
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__LearnerReady ready = HONE__LEARNER_READY__INIT;
    char nowhere[] = "inproc://nowhere";
    ready.weights_endpoint = nowhere;
    envelope.kind = HONE__KIND__KIND_LEARNER_READY;
    envelope.learner_ready = &ready;
    assert_int_equal(wire_client_send(world.actors[1].client, &envelope, NULL, 0), 0);
    struct stage_wait wait;
    assert_int_equal(curriculum_stage_tick(world.hub, &wait), 0);
    assert_null(peer_table_find(&world.hub->peers, "actor-1"));
    assert_string_equal(world.hub->learner.endpoint, "inproc://weights");
    world.actors[0].alive = true;
    world_run(&world, 5000); /* both say Hello again */
    world_check_books(&world, true);
    world_end(&world);
}

/* H1: when the commit fails nobody is told anything, and the next hub knows nothing of it. */
static void test_nothing_is_acknowledged_without_commit(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    struct wire_message message;
    struct stage_wait wait;
    world_start(&world, &options);
    tick_until_working(&world.actors[0]);
    struct held_sample *sample = working_sample(&world.actors[0]);
    uint64_t id = sample->id;
    sample->finished = true;
    sample->first_version = sample->last_version = 0;
    world_send_sample(&world, &world.actors[0], sample);
    world.hub->write_error = error_set(HONE_ENOSPC, "the disk is full");
    assert_int_equal(curriculum_stage_tick(world.hub, &wait), HONE_ENOSPC);
    assert_non_null(strstr(error_message(), "the disk is full"));
    while (wire_client_receive(world.actors[0].client, &message) > 0) {
        assert_int_not_equal(message.envelope->kind, HONE__KIND__KIND_TRAJECTORY_ACK);
        wire_message_release(&message);
    }
    world_kill_hub(&world);
    struct group *group;
    assert_null(group_table_sample(&world.hub->groups, id, &group));
    world_run(&world, 5000); /* the actor sends it again */
    assert_int_equal(world.refusals, 0);
    world_check_books(&world, true);
    world_end(&world);
}

/* D2: tokens of a version before the one that the lease demands. */
static void test_too_old_a_version_is_refused(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    struct held_sample *sample = NULL;
    world_start(&world, &options);
    while (sample == NULL || sample->min_version < 2) {
        world_tick(&world);
        sample = working_sample(&world.actors[0]);
        assert_true(world.tick < 5000);
    }
    sample->first_version = 1;
    world_run(&world, 5000);
    assert_true(world.refusals >= 1);
    assert_int_equal(world.staleness_seen, 0);
    world_check_books(&world, true);
    world_end(&world);
}

/* Whoever gets group 1 never finishes it. It is leased again after a back-off, twice, and then it
 * is dropped and counted; what its holders bring in the end is refused, and the others were not
 * held up. */
static void test_a_group_that_nobody_finishes(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    struct text report;
    int32_t failures = 0;
    int64_t failed_ms[3] = {0};
    options.actors = 2;
    options.hub.lease_timeout_ms = 1000;
    options.hub.lease_retries = 2;
    options.hub.staleness_max = 1;
    world_start(&world, &options);
    int64_t start_ms = world.now_ns / 1000000;
    for (int i = 0; i < 2000 && world.hub->drops[DROP_ABANDONED] == 0; i++) {
        for (int k = 0; k < 2 * WORLD_HELD_MAX; k++) {
            struct held_sample *sample = &world.actors[k % 2].samples[k / 2];
            if (sample->used && sample->group_id == 1)
                sample->wait_ticks = 50;
        }
        world_tick(&world);
        const struct group *group = group_table_find(&world.hub->groups, 1);
        bool dropped = world.hub->drops[DROP_ABANDONED] > 0;
        if (dropped || (group != NULL && group->failures > failures)) {
            assert_in_range(failures, 0, 2);
            failed_ms[failures++] = world.now_ns / 1000000;
        }
    }
    assert_int_equal(failures, 3);
    assert_true(failed_ms[0] - start_ms >= 3000);            /* timeout and grace */
    assert_true(failed_ms[1] - failed_ms[0] >= 3000 + 500);  /* and back-off */
    assert_true(failed_ms[2] - failed_ms[1] >= 3000 + 1000); /* and a longer one */
    world_run(&world, 5000);
    assert_true(world.refusals > 0);
    world_check_books(&world, true);
    text_init(&report);
    assert_int_equal(curriculum_audit(world.log, &report), 0);
    assert_non_null(strstr(report.data, "abandoned 1"));
    assert_non_null(strstr(report.data, "= 24 trained + "));
    text_release(&report);
    world_end(&world);
}

static void test_lease_given_back_too_often(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    struct stage_wait wait;
    int rc = 0;
    char reason[] = "prompt of 9000 tokens, the model takes 512";
    world_start(&world, &options);
    world.hold_actors = true;
    for (int i = 0; i < 500 && rc == 0; i++) {
        if (i < 20) {
            world.hold_actors = i > 10; /* credit was given */
            world_tick(&world);
            continue;
        }
        struct lease *lease = world.hub->leases.items;
        world.now_ns += 8 * INT64_C(1000000000); /* past any back-off; not silent for long */
        Hone__Envelope envelope = HONE__ENVELOPE__INIT;
        Hone__LeaseReturn give_back = HONE__LEASE_RETURN__INIT;
        assert_true(world.hub->leases.count > 0);
        for (int k = 1; k < world.hub->leases.count; k++)
            if (world.hub->leases.items[k].group_id < lease->group_id)
                lease = &world.hub->leases.items[k];
        give_back.lease_id = lease->id;
        give_back.fence = lease->fence;
        give_back.reason = reason;
        envelope.kind = HONE__KIND__KIND_LEASE_RETURN;
        envelope.lease_return = &give_back;
        wire_client_send(world.actors[0].client, &envelope, NULL, 0);
        peer_table_find(&world.hub->peers, "actor-0")->credit += 4;
        rc = curriculum_stage_tick(world.hub, &wait);
    }
    assert_int_equal(rc, HONE_EGUARD);
    assert_int_equal(world.hub->drops[DROP_ABANDONED], 4);
    assert_non_null(strstr(error_message(), "4 groups running were dropped"));
    assert_non_null(strstr(error_message(), "4 times, the last because actor-0 gave it back"));
    assert_non_null(strstr(error_message(), reason));
    world_end(&world);
}

static void expect_wait(const char *what)
{
    struct text line;
    text_init(&line);
    hub_describe_wait(world.hub, &line);
    if (strstr(line.data, what) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", line.data, what);
    text_release(&line);
}

static void test_who_waits_for_whom(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    options.slots = 16;
    world_start(&world, &options);
    expect_wait("nothing is dispatched before the learner is ready (there is none)");
    world.hold_scorers = true;
    for (int i = 0; i < 200; i++)
        world_tick(&world);
    expect_wait("batch 1 has 0 of 4 groups; 0 samples are with actors and 0 wait for one (actor-0");
    expect_wait("16 rewards are with scorers and 0 wait for one (scorer-0");
    expect_wait("the learner has no batch (learner-0");
    world.hold_scorers = false;
    world.hold_learner = true;
    for (int i = 0; i < 400; i++)
        world_tick(&world);
    expect_wait("batch 1 is with the learner");
    world.hold_learner = false;
    world_run(&world, 5000);
    world_end(&world);
}

static void test_metrics(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    struct metrics *metrics;
    char path[128], *data;
    size_t bytes;
    world_start(&world, &options);
    snprintf(path, sizeof path, "%s.jsonl", world.directory);
    assert_int_equal(metrics_open(&metrics, path, &world.clock), 0);
    world.hub->metrics = metrics;
    world_run(&world, 5000);
    metrics_close(metrics);
    world_end(&world);
    assert_int_equal(file_read(path, 1 << 20, &data, &bytes), 0);
    remove(path);
    int lines = 0;
    for (const char *c = data; *c != '\0'; c++)
        lines += *c == '\n';
    assert_int_equal(lines, options.hub.steps);
    static const char *const names[] = {"\"step\": 1",
                                        "reward/mean",
                                        "reward/std",
                                        "group/zero_std_frac",
                                        "length/mean",
                                        "staleness/mean",
                                        "staleness/max",
                                        "dropped/stale",
                                        "dropped/reward_failed",
                                        "dropped/zero_advantage",
                                        "reward_status/ok",
                                        "reward_status/timeout",
                                        "time/batch_wait_s",
                                        "queue/groups_leased",
                                        "queue/unscored"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strstr(data, names[i]) == NULL)
            fail_msg("no %s in %s", names[i], data);
    memory_free(data);
}

static void test_a_finished_run_says_stop(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    options.hub.steps = 2;
    world_start(&world, &options);
    world_run(&world, 5000);
    world_kill_hub(&world);
    world_kill(&world, &world.actors[0]); /* one that has not heard */
    world.finished = false;
    world_run(&world, 300);
    assert_true(world.actors[0].stopped);
    world_check_books(&world, true);
    world_end(&world);
}

static void refuse(struct world_options options, const char *what)
{
    struct curriculum_stage *hub;
    struct curriculum_options bad = options.hub;
    bad.prompts = world.prompts;
    assert_int_equal(
        curriculum_stage_create(&hub, &bad, world.log, world.context, &world.clock, NULL),
        HONE_EINVAL);
    assert_null(hub);
    if (strstr(error_message(), what) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", error_message(), what);
}

static void test_bad_options(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    world_start(&world, &options);
    options.hub.group_size = 1;
    refuse(options, "group_size");
    options = world_defaults();
    options.hub.steps = 0;
    refuse(options, "steps");
    options = world_defaults();
    options.hub.prompt_count = 0;
    refuse(options, "no prompts");
    options = world_defaults();
    options.hub.lease_timeout_ms = 0;
    refuse(options, "lease_timeout");
    world_end(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_synchronous_run),
        cmocka_unit_test(test_asynchronous_run),
        cmocka_unit_test(test_synchronous_runs_are_the_same),
        cmocka_unit_test(test_hub_restart_at_every_tick),
        cmocka_unit_test(test_duplicates_are_acknowledged_again),
        cmocka_unit_test(test_late_lease_is_refused),
        cmocka_unit_test(test_silent_actor),
        cmocka_unit_test(test_silent_scorer),
        cmocka_unit_test(test_lease_deadline),
        cmocka_unit_test(test_learner_restart),
        cmocka_unit_test(test_diverging_replay_stops_the_run),
        cmocka_unit_test(test_foreign_learner_is_an_error),
        cmocka_unit_test(test_stale_group_is_dropped),
        cmocka_unit_test(test_refill_budget),
        cmocka_unit_test(test_failed_rewards),
        cmocka_unit_test(test_retries_heal),
        cmocka_unit_test(test_error_rate_stops_the_run),
        cmocka_unit_test(test_strangers_are_refused),
        cmocka_unit_test(test_rule_breakers_are_dropped),
        cmocka_unit_test(test_nothing_is_acknowledged_without_commit),
        cmocka_unit_test(test_too_old_a_version_is_refused),
        cmocka_unit_test(test_a_group_that_nobody_finishes),
        cmocka_unit_test(test_lease_given_back_too_often),
        cmocka_unit_test(test_who_waits_for_whom),
        cmocka_unit_test(test_metrics),
        cmocka_unit_test(test_a_finished_run_says_stop),
        cmocka_unit_test(test_bad_options),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

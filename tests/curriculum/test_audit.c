/* Books that balance, and books that somebody has changed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "curriculum/audit.h"
#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/store/trajectory_log.h"
#include "infra/wire/codec.h"
#include "infra/wire/envelope.h"
#include "tests/curriculum/world.h"

static struct world world;
static struct text report;

/* A run that is over its middle: groups in every state but scored. */
static int set_up(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    options.hub.staleness_max = 1;
    options.hub.steps = 20;
    options.checkpoint_every = 3;
    world_start(&world, &options);
    while (world.learner.trained < 7)
        world_tick(&world);
    text_init(&report);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    text_release(&report);
    world_end(&world);
    return 0;
}

static ProtobufCMessage *get(enum log_keyspace keyspace, uint64_t id,
                             const ProtobufCMessageDescriptor *descriptor)
{
    unsigned char key[8];
    struct text bytes;
    ProtobufCMessage *message = NULL;
    text_init(&bytes);
    run_log_key_u64(id, key);
    assert_int_equal(run_log_get(world.log, keyspace, key, 8, &bytes), 1);
    assert_int_equal(wire_unpack(&message, descriptor, bytes.data, bytes.length), 0);
    text_release(&bytes);
    return message;
}

static void put(enum log_keyspace keyspace, uint64_t id, ProtobufCMessage *message)
{
    unsigned char key[8];
    struct text bytes;
    text_init(&bytes);
    run_log_key_u64(id, key);
    wire_pack(message, &bytes);
    run_log_put(world.log, keyspace, key, 8, bytes.data, bytes.length);
    text_release(&bytes);
    wire_free(message);
}

static void expect_violation(const char *what)
{
    assert_int_equal(run_log_commit(world.log), 0);
    assert_int_equal(curriculum_audit(world.log, &report), HONE_ECORRUPT);
    if (strstr(error_message(), what) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", error_message(), what);
    assert_int_equal(report.length, 0);
}

static Hone__GroupRecord *group(uint64_t id)
{
    return (Hone__GroupRecord *)(void *)get(LOG_GROUPS, id, &hone__group_record__descriptor);
}

static Hone__BatchRecord *batch(uint64_t number)
{
    return (Hone__BatchRecord *)(void *)get(LOG_BATCHES, number, &hone__batch_record__descriptor);
}

static void test_balanced(void **state)
{
    (void)state;
    assert_int_equal(curriculum_audit(world.log, &report), 0);
    assert_non_null(strstr(report.data, "24 trained"));
    assert_non_null(strstr(report.data, "6 durable"));
}

static void test_empty_log(void **state)
{
    (void)state;
    struct run_log *log;
    char path[96];
    memcpy(path, world.directory, sizeof world.directory);
    memcpy(path + strlen(path), "/new", 5);
    assert_int_equal(run_log_open(&log, path, false), 0);
    assert_int_equal(curriculum_audit(log, &report), 0);
    assert_non_null(strstr(report.data, "groups       0 dispatched"));
    run_log_close(log);
}

static void test_a_group_vanishes(void **state)
{
    (void)state;
    unsigned char key[8];
    run_log_key_u64(5, key);
    run_log_delete(world.log, LOG_GROUPS, key, 8);
    expect_violation("group 6: G1");
}

static void test_a_group_in_two_batches(void **state)
{
    (void)state;
    Hone__BatchRecord *first = batch(1), *second = batch(2);
    second->group_ids[0] = first->group_ids[0];
    wire_free(&first->base);
    put(LOG_BATCHES, 2, &second->base);
    expect_violation("G4: it is in two batches");
}

static void test_a_group_twice_in_a_batch(void **state)
{
    (void)state;
    Hone__BatchRecord *record = batch(1);
    record->group_ids[1] = record->group_ids[0];
    put(LOG_BATCHES, 1, &record->base);
    expect_violation("G4: it is in two batches");
}

static void test_a_trained_group_goes_back(void **state)
{
    (void)state;
    Hone__BatchRecord *record = batch(1);
    Hone__GroupRecord *member = group(record->group_ids[0]);
    wire_free(&record->base);
    member->state = HONE__GROUP_STATE__GROUP_BATCHED;
    put(LOG_GROUPS, member->group_id, &member->base);
    expect_violation("G4: trained is not what its batch says");
}

static void test_dropped_without_a_reason(void **state)
{
    (void)state;
    Hone__BatchRecord *record = batch(1);
    Hone__GroupRecord *member = group(record->group_ids[0]);
    wire_free(&record->base);
    member->state = HONE__GROUP_STATE__GROUP_DROPPED;
    put(LOG_GROUPS, member->group_id, &member->base);
    expect_violation("G1: dropped without a reason");
}

static void test_a_batch_vanishes(void **state)
{
    (void)state;
    unsigned char key[8];
    run_log_key_u64(3, key);
    run_log_delete(world.log, LOG_BATCHES, key, 8);
    expect_violation("batch 4: G4: it is not the next one");
}

static void test_a_batch_forgets_that_it_is_durable(void **state)
{
    (void)state;
    Hone__BatchRecord *record = batch(2);
    record->durable = 0;
    put(LOG_BATCHES, 2, &record->base);
    expect_violation("batch 2: G4: its durability");
}

static void test_a_trajectory_vanishes(void **state)
{
    (void)state;
    Hone__BatchRecord *record = batch(1);
    Hone__GroupRecord *member = group(record->group_ids[0]);
    unsigned char key[8];
    run_log_key_u64(member->trajectory_ids[1], key);
    run_log_delete(world.log, LOG_TRAJECTORIES, key, 8);
    wire_free(&record->base);
    wire_free(&member->base);
    expect_violation("G4: a trajectory of it is not in the log");
}

/* The same content under another id: a sample counted twice. */
static void test_a_trajectory_appears(void **state)
{
    (void)state;
    Hone__GroupRecord *member = group(1);
    Hone__Trajectory *copy = (Hone__Trajectory *)(void *)get(
        LOG_TRAJECTORIES, member->trajectory_ids[0], &hone__trajectory__descriptor);
    copy->id = 12345;
    wire_free(&member->base);
    put(LOG_TRAJECTORIES, 12345, &copy->base);
    expect_violation("trajectory 12345: G4");
}

static void test_a_reward_vanishes(void **state)
{
    (void)state;
    Hone__GroupRecord *member = group(1);
    uint64_t id = member->trajectory_ids[0];
    unsigned char key[8];
    run_log_key_u64(id, key);
    run_log_delete(world.log, LOG_REWARDS, key, sizeof key);
    wire_free(&member->base);
    expect_violation("group 1: G8");
}

/* Of a trajectory that is not there. */
static void test_a_reward_appears(void **state)
{
    (void)state;
    struct reward reward = {.status = REWARD_OK, .total = 1};
    trajectory_log_put_reward(world.log, 12345, &reward, 1);
    expect_violation("G8: the log has");
}

static void test_garbage(void **state)
{
    (void)state;
    unsigned char key[8];
    run_log_key_u64(2, key);
    run_log_put(world.log, LOG_GROUPS, key, 8, "\xFF\xFF\xFF", 3);
    expect_violation("group 2");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_balanced),
        TEST(test_empty_log),
        TEST(test_a_group_vanishes),
        TEST(test_a_group_in_two_batches),
        TEST(test_a_group_twice_in_a_batch),
        TEST(test_a_trained_group_goes_back),
        TEST(test_dropped_without_a_reason),
        TEST(test_a_batch_vanishes),
        TEST(test_a_batch_forgets_that_it_is_durable),
        TEST(test_a_trajectory_vanishes),
        TEST(test_a_trajectory_appears),
        TEST(test_a_reward_vanishes),
        TEST(test_a_reward_appears),
        TEST(test_garbage),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Trajectories and their rewards as records of their own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <rocksdb/c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/store/trajectory_log.h"
#include "infra/wire/codec.h"
#include "infra/wire/envelope.h"

static char directory[128];
static struct run_log *run_log;

static int set_up(void **state)
{
    (void)state;
    log_set_level(LOG_LEVEL_ERROR);
    snprintf(directory, sizeof directory, "/tmp/hone-trajectory-log-XXXXXX");
    return mkdtemp(directory) == NULL || run_log_open(&run_log, directory, false) < 0;
}

static int tear_down(void **state)
{
    (void)state;
    run_log_close(run_log);
    return file_remove_tree(directory);
}

/* Prompt of one token, completion of two; scored_ms 0: as it arrived. */
static void put(uint64_t id, int64_t scored_ms)
{
    struct trajectory t;
    struct wire_trajectory wire;
    trajectory_init(&t, 3);
    t.id = id;
    t.group_id = 1;
    t.prompt_tokens = 1;
    t.token_count = 3;
    t.finish = FINISH_STOP;
    t.sampling = (struct sampling){.temperature = 1, .top_p = 1, .max_completion_tokens = 2};
    t.reward = (struct reward){.status = REWARD_TIMEOUT};
    t.scored_ms = scored_ms;
    trajectory_add_segment(&t, SEGMENT_PROMPT, 1);
    trajectory_add_segment(&t, SEGMENT_POLICY, 2);
    for (int32_t i = 0; i < 3; i++) {
        t.tokens[i] = (int32_t)id + i;
        t.loss_mask[i] = i > 0;
        t.policy_version[i] = i > 0 ? 0 : -1;
    }
    wire_trajectory_build(&wire, &t);
    if (scored_ms == 0)
        wire.message.reward = NULL;
    trajectory_log_put(run_log, &wire.message);
    wire_trajectory_release(&wire);
    trajectory_release(&t);
}

static void put_reward(uint64_t id, float total)
{
    struct reward reward = {.status = REWARD_OK, .total = total, .part_count = 1};
    snprintf(reward.parts[0].name, sizeof reward.parts[0].name, "exact");
    reward.parts[0].value = total;
    reward.parts[0].weight = 1;
    trajectory_log_put_reward(run_log, id, &reward, 77);
}

static void commit(void)
{
    assert_int_equal(run_log_commit(run_log), 0);
}

static struct trajectory read_one(uint64_t id)
{
    Hone__Trajectory *message;
    struct trajectory t;
    assert_int_equal(trajectory_log_get(run_log, id, &message), 1);
    assert_int_equal(wire_trajectory_read(message, &t), 0);
    wire_free(&message->base);
    return t;
}

static void expect(uint64_t id, int64_t scored_ms, enum reward_status status, float total)
{
    struct trajectory t = read_one(id);
    assert_int_equal(t.tokens[2], id + 2);
    assert_int_equal(t.scored_ms, scored_ms);
    assert_int_equal(t.reward.status, status);
    assert_true(t.reward.total == total);
    trajectory_release(&t);
}

static void test_a_reward_comes_later(void **state)
{
    (void)state;
    Hone__Trajectory *message;
    put(5, 0);
    commit();
    expect(5, 0, REWARD_ABSTAIN, 0);
    put_reward(5, 0.5f);
    expect(5, 0, REWARD_ABSTAIN, 0); /* not committed */
    commit();
    expect(5, 77, REWARD_OK, 0.5f);
    struct trajectory t = read_one(5);
    assert_int_equal(t.reward.part_count, 1);
    assert_string_equal(t.reward.parts[0].name, "exact");
    trajectory_release(&t);
    assert_int_equal(trajectory_log_get_arrival(run_log, 5, &message), 1);
    assert_null(message->reward);
    assert_false(message->has_scored_ms && message->scored_ms != 0);
    wire_free(&message->base);
}

static void test_a_status_that_came_along_stands(void **state)
{
    (void)state;
    put(6, 99);
    put_reward(6, 1);
    commit();
    expect(6, 99, REWARD_TIMEOUT, 0);
}

static void test_both_records_are_deleted(void **state)
{
    (void)state;
    Hone__Trajectory *message;
    put(7, 0);
    put_reward(7, 1);
    commit();
    assert_int_equal(trajectory_log_has(run_log, 7), 1);
    trajectory_log_delete(run_log, 7);
    commit();
    assert_int_equal(trajectory_log_has(run_log, 7), 0);
    assert_int_equal(trajectory_log_get(run_log, 7, &message), 0);
    assert_null(message);
    put(7, 0);
    commit();
    expect(7, 0, REWARD_ABSTAIN, 0); /* the old reward is gone too */
}

static int note(void *context, uint64_t id, const Hone__Trajectory *message, bool own_reward)
{
    char *seen = context;
    size_t length = strlen(seen);
    snprintf(seen + length, 128 - length, "%d:%d:%d ", (int)id, own_reward,
             message->has_scored_ms ? (int)message->scored_ms : 0);
    return 0;
}

static void test_a_scan_sees_both(void **state)
{
    (void)state;
    char seen[128] = "";
    put(1, 0);
    put(2, 0);
    put(3, 99);
    put_reward(2, 1);
    commit();
    assert_int_equal(trajectory_log_scan(run_log, note, seen), 0);
    assert_string_equal(seen, "1:0:0 2:1:77 3:0:99 ");
}

static void test_a_broken_reward_is_named(void **state)
{
    (void)state;
    Hone__Trajectory *message;
    unsigned char key[8];
    put(8, 0);
    run_log_key_u64(8, key);
    run_log_put(run_log, LOG_REWARDS, key, sizeof key, "\xff\xff", 2);
    commit();
    assert_int_equal(trajectory_log_get(run_log, 8, &message), HONE_ECORRUPT);
    assert_null(message);
    assert_non_null(strstr(error_message(), "RewardRecord 8"));
}

/* As a log was written that knew of no rewards. */
static void drop_rewards(void)
{
    char *message = NULL;
    rocksdb_options_t *options = rocksdb_options_create();
    rocksdb_column_family_handle_t *handles[16];
    const rocksdb_options_t *each[16];
    size_t count;
    char **names = rocksdb_list_column_families(options, directory, &count, &message);
    assert_null(message);
    assert_in_range(count, 2, 16);
    for (size_t i = 0; i < count; i++)
        each[i] = options;
    rocksdb_t *db = rocksdb_open_column_families(
        options, directory, (int)count, (const char *const *)names, each, handles, &message);
    assert_null(message);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(names[i], "rewards") == 0)
            rocksdb_drop_column_family(db, handles[i], &message);
        rocksdb_column_family_handle_destroy(handles[i]);
    }
    assert_null(message);
    rocksdb_list_column_families_destroy(names, count);
    rocksdb_close(db);
    rocksdb_options_destroy(options);
}

static void test_a_log_from_before_reads_and_goes_on(void **state)
{
    (void)state;
    char seen[128] = "";
    put(9, 99);
    commit();
    run_log_close(run_log);
    drop_rewards();
    assert_int_equal(run_log_open(&run_log, directory, true), 0);
    expect(9, 99, REWARD_TIMEOUT, 0);
    assert_int_equal(trajectory_log_scan(run_log, note, seen), 0);
    assert_string_equal(seen, "9:0:99 ");
    run_log_close(run_log);
    assert_int_equal(run_log_open(&run_log, directory, false), 0);
    put(10, 0);
    put_reward(10, 2);
    commit();
    expect(10, 77, REWARD_OK, 2);
    expect(9, 99, REWARD_TIMEOUT, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_reward_comes_later),     TEST(test_a_status_that_came_along_stands),
        TEST(test_both_records_are_deleted), TEST(test_a_scan_sees_both),
        TEST(test_a_broken_reward_is_named), TEST(test_a_log_from_before_reads_and_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Rollouts in progress: what an actor reported is there for the next one, whatever dies; what does
 * not fit is not taken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "curriculum/audit.h"
#include "curriculum/hub.h"
#include "curriculum/partial.h"
#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/wire/codec.h"
#include "tests/curriculum/world.h"

static struct world world;

static struct world_options reporting(void)
{
    struct world_options options = world_defaults();
    options.actors = 2;
    options.rates.progress = 300;
    return options;
}

static void run_to_end(uint64_t expected)
{
    world_run(&world, 20000);
    world_check_books(&world, true);
    assert_int_equal(world_result(&world), expected);
    world_end(&world);
}

static uint64_t undisturbed(void)
{
    struct world_options options = world_defaults();
    world_start(&world, &options);
    world_run(&world, 20000);
    uint64_t result = world_result(&world);
    world_end(&world);
    return result;
}

static int64_t stored_tokens(void)
{
    int64_t tokens = 0;
    for (int32_t i = 0; i < world.hub->groups.count; i++)
        for (int32_t k = 0; k < world.hub->groups.items[i]->size; k++)
            tokens += world.hub->groups.items[i]->samples[k].partial.tokens;
    return tokens;
}

static void tick_until_stored(int64_t tokens)
{
    for (int i = 0; i < 2000 && stored_tokens() < tokens; i++)
        world_tick(&world);
    assert_true(stored_tokens() >= tokens);
}

static void test_another_actor_goes_on(void **state)
{
    (void)state;
    struct world_options options = reporting();
    uint64_t expected = undisturbed();
    world_start(&world, &options);
    for (int i = 0; i < 20; i++) {
        tick_until_stored(3);
        world_kill(&world, &world.actors[i % 2]);
        for (int t = 0; t < 10 && !world.finished; t++)
            world_tick(&world);
        if (world.learner.trained >= 4)
            break;
    }
    assert_true(world.reports > 0 && world.resumed > 5);
    run_to_end(expected);
}

/* The pieces come back from the log with the hub. */
static void test_hub_and_actors_die_together(void **state)
{
    (void)state;
    struct world_options options = reporting();
    uint64_t expected = undisturbed();
    world_start(&world, &options);
    for (int i = 0; i < 6; i++) {
        tick_until_stored(3);
        int64_t stored = stored_tokens();
        world_kill_hub(&world);
        assert_int_equal(stored_tokens(), stored);
        world_check_books(&world, false);
        world_kill(&world, &world.actors[0]);
        world_kill(&world, &world.actors[1]);
        for (int t = 0; t < 60 && !world.finished; t++)
            world_tick(&world);
    }
    assert_true(world.resumed > 5);
    run_to_end(expected);
}

/* Tokens that are too old for any batch to come are sampled again, not continued. */
static void test_stale_pieces_are_dropped(void **state)
{
    (void)state;
    struct world_options options = reporting();
    options.hub.staleness_max = 1;
    options.hub.steps = 8;
    world_start(&world, &options);
    tick_until_stored(1);
    struct fake_worker *slow = NULL;
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < WORLD_HELD_MAX; k++)
            if (world.actors[i].samples[k].used && world.actors[i].samples[k].durable > 0)
                slow = &world.actors[i];
    assert_non_null(slow);
    world.options.rates.progress = 0;
    for (int k = 0; k < WORLD_HELD_MAX; k++)
        slow->samples[k].wait_ticks = 100000;
    while (world.learner.trained < 3)
        world_tick(&world);
    int64_t resumed = world.resumed;
    assert_true(stored_tokens() > 0);
    world_kill(&world, slow);
    for (int i = 0; i < 50; i++)
        world_tick(&world);
    assert_int_equal(world.resumed, resumed);
    assert_int_equal(stored_tokens(), 0);
    world_run(&world, 20000);
    world_check_books(&world, true);
    world_end(&world);
}

/* ---- single reports ---- */

static struct held_sample *working(void)
{
    for (int i = 0; i < 2000; i++) {
        for (int k = 0; k < WORLD_HELD_MAX; k++)
            if (world.actors[0].samples[k].used && world.actors[0].samples[k].first_version >= 0)
                return &world.actors[0].samples[k];
        world_tick(&world);
    }
    fail();
    return NULL;
}

struct report {
    int32_t offset, count;
    uint64_t fence_error;
    int64_t version;
    enum finish_reason finish;
    int32_t token;
};

/* Sends it as actor-0 and gives the acknowledged tokens; -2: none came. */
static int32_t send(const struct held_sample *sample, struct report report)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Progress progress = HONE__PROGRESS__INIT;
    struct wire_trajectory wire;
    struct wire_message message;
    struct stage_wait wait;
    struct trajectory piece;
    int32_t tokens = -2;
    trajectory_init(&piece, report.count);
    piece.prompt_id = sample->prompt_id;
    piece.group_id = sample->group_id;
    piece.sample_index = sample->index;
    piece.lease_id = sample->lease_id;
    piece.fence = sample->fence + report.fence_error;
    piece.token_count = report.count;
    piece.finish = report.finish;
    piece.sampling = world.options.hub.sampling;
    piece.reward.status = REWARD_ABSTAIN;
    for (int32_t i = 0; i < report.count; i++) {
        piece.tokens[i] = report.token + i;
        piece.loss_mask[i] = 1;
        piece.policy_version[i] = report.version;
    }
    trajectory_add_segment(&piece, SEGMENT_POLICY, report.count);
    wire_trajectory_build(&wire, &piece);
    progress.offset = report.offset;
    progress.chunk = &wire.message;
    envelope.kind = HONE__KIND__KIND_PROGRESS;
    envelope.progress = &progress;
    assert_int_equal(wire_client_send(world.actors[0].client, &envelope, NULL, 0), 0);
    wire_trajectory_release(&wire);
    trajectory_release(&piece);
    assert_int_equal(curriculum_stage_tick(world.hub, &wait), 0);
    while (wire_client_receive(world.actors[0].client, &message) > 0) {
        if (message.envelope->kind == HONE__KIND__KIND_PROGRESS_ACK)
            tokens = message.envelope->progress_ack->tokens;
        wire_message_release(&message);
    }
    return tokens;
}

static bool is_peer(void)
{
    return peer_table_find(&world.hub->peers, "actor-0") != NULL;
}

static void test_what_is_taken(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    struct trajectory prefix;
    world_start(&world, &options);
    const struct held_sample *sample = working();
    assert_int_equal(send(sample, (struct report){.offset = 0, .count = 2, .token = 10}), 2);
    /* A hole, a stranger's offset, an old fence: answered, not taken. */
    assert_int_equal(send(sample, (struct report){.offset = 3, .count = 1}), 2);
    assert_int_equal(send(sample, (struct report){.offset = 1, .count = 3}), 2);
    assert_int_equal(send(sample, (struct report){.offset = 2, .count = 1, .fence_error = 1}), -1);
    assert_int_equal(send(sample, (struct report){.offset = 2, .count = 1, .token = 20}), 3);
    /* The same again, and more from where the last acknowledgement was lost. */
    assert_int_equal(send(sample, (struct report){.offset = 2, .count = 1, .token = 20}), 3);
    assert_int_equal(send(sample, (struct report){.offset = 2, .count = 3, .token = 30}), 5);
    const struct group *group = group_table_find(&world.hub->groups, sample->group_id);
    assert_int_equal(partial_load(world.hub, group, sample->index, &prefix), 0);
    static const int32_t expected[] = {10, 11, 30, 31, 32};
    assert_int_equal(prefix.token_count, 5);
    assert_memory_equal(prefix.tokens, expected, sizeof expected);
    trajectory_release(&prefix);
    assert_true(is_peer());
    world_check_books(&world, false);
    world_run(&world, 20000);
    world_check_books(&world, true);
    world_end(&world);
}

static void refuse(struct report report, const char *why)
{
    struct world_options options = world_defaults();
    world_start(&world, &options);
    const struct held_sample *sample = working();
    assert_true(is_peer());
    assert_int_equal(send(sample, report), -2);
    if (is_peer())
        fail_msg("not dropped: %s", why);
    assert_int_equal(stored_tokens(), 0);
    world_end(&world);
}

static void test_what_breaks_the_rules(void **state)
{
    (void)state;
    refuse((struct report){.offset = -1, .count = 1}, "a negative offset");
    refuse((struct report){.offset = 0, .count = 0}, "nothing");
    refuse((struct report){.offset = 0, .count = 2, .version = 7}, "a version that cannot be");
    refuse((struct report){.offset = 0, .count = 8}, "as long as a rollout may be");
    refuse((struct report){.offset = 0, .count = 2, .finish = FINISH_STOP}, "a finished one");
    refuse((struct report){.offset = INT32_MAX, .count = 2}, "an offset past everything");
}

/* Each report is news: the lease lives on. Without, its time is over. */
static void test_reports_extend_the_lease(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    options.hub.lease_timeout_ms = 1000;
    for (int reports = 0; reports < 2; reports++) {
        world_start(&world, &options);
        struct held_sample *sample = working();
        struct held_sample mine = *sample;
        for (int k = 0; k < WORLD_HELD_MAX; k++)
            world.actors[0].samples[k].wait_ticks = 100000;
        for (int32_t i = 0; i < 7; i++) { /* 0.8 s between reports */
            for (int t = 0; t < 40; t++)
                world_tick(&world);
            if (reports)
                assert_int_equal(send(&mine, (struct report){.offset = i, .count = 1, .token = i}),
                                 i + 1);
        }
        assert_int_equal(lease_table_find(&world.hub->leases, mine.lease_id) != NULL, reports);
        world_end(&world);
    }
}

/* The audit sees pieces that are missing or should not be there. */
static void test_the_audit_counts_pieces(void **state)
{
    (void)state;
    struct world_options options = world_defaults();
    struct text report;
    unsigned char key[16];
    world_start(&world, &options);
    const struct held_sample *sample = working();
    for (int32_t i = 0; i < 3; i++)
        assert_int_equal(send(sample, (struct report){.offset = i, .count = 1}), i + 1);
    text_init(&report);
    assert_int_equal(curriculum_audit(world.log, &report), 0);
    assert_non_null(strstr(report.data, "in progress  1 rollouts, of which the log has 3 tokens"));
    run_log_key_u64(sample->group_id, key);
    run_log_key_u64((uint64_t)sample->index << 32 | 1, key + 8);
    run_log_delete(world.log, LOG_PARTIALS, key, sizeof key);
    assert_int_equal(run_log_commit(world.log), 0);
    assert_int_equal(curriculum_audit(world.log, &report), HONE_ECORRUPT);
    assert_non_null(strstr(error_message(), "a piece of a rollout is missing"));
    text_release(&report);
    world_end(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_another_actor_goes_on),
        cmocka_unit_test(test_hub_and_actors_die_together),
        cmocka_unit_test(test_stale_pieces_are_dropped),
        cmocka_unit_test(test_what_is_taken),
        cmocka_unit_test(test_what_breaks_the_rules),
        cmocka_unit_test(test_reports_extend_the_lease),
        cmocka_unit_test(test_the_audit_counts_pieces),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

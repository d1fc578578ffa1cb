/* The scorer stage against a scripted hub over ipc, with a fake clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/wire/codec.h"
#include "reward/scorer_stage.h"

#define CREDITS 3

/* Ids 0..9 are the digits, 10 is a special token. */
static const char tokenizer_json[] =
    "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":10,\"content\":\"<eos>\",\"single_word\":false,"
    "\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true}],\"normalizer\":null,"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"
    "\"use_regex\":true},\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\","
    "\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},\"model\":{\"type\":"
    "\"BPE\","
    "\"vocab\":{\"0\":0,\"1\":1,\"2\":2,\"3\":3,\"4\":4,\"5\":5,\"6\":6,\"7\":7,\"8\":8,\"9\":9,"
    "\"<eos>\":10},\"merges\":[]}}";

static struct prompt prompts[] = {
    {.id = 0,
     .text = "3+4",
     .ground_truth = "7",
     .capability = "",
     .data_source = "",
     .extra_json = "{}"},
    {.id = 1,
     .text = "5+5",
     .ground_truth = "10",
     .capability = "",
     .data_source = "",
     .extra_json = "{}"},
};

static char directory[] = "/tmp/hone_test_scorer_XXXXXX", endpoint[64];
static struct wire_context *context;
static struct tokenizer *tokenizer;
static struct reward_set *rewards;
static struct wire_server *hub;
static struct scorer_stage *stage;
static int64_t now_ns;
static struct clock fake;
static struct wire_peer peer;

static int load_tokenizer(void **state)
{
    (void)state;
    char file[64];
    assert_non_null(mkdtemp(directory));
    snprintf(file, sizeof file, "%s/tokenizer.json", directory);
    assert_int_equal(file_write_atomic(file, tokenizer_json, sizeof tokenizer_json - 1), 0);
    int rc = tokenizer_load(&tokenizer, file);
    if (rc < 0)
        fail_msg("%s", error_message());
    return 0;
}

static int free_tokenizer(void **state)
{
    (void)state;
    tokenizer_free(tokenizer);
    file_remove_tree(directory);
    return 0;
}

/* Within one process the socket of the life before is closed a little later. */
static void start_hub(void)
{
    int rc = HONE_EBUSY;
    for (int i = 0; i < 1000 && rc == HONE_EBUSY; i++) {
        rc = wire_server_create(&hub, context, endpoint);
        if (rc == HONE_EBUSY)
            clock_sleep_ms(5);
    }
    if (rc < 0)
        fail_msg("%s", error_message());
}

/* Between inproc sockets a message is there once it is sent, so that simulated time and it keep
 * step; but such a connection ends for good with its server. */
static void set_up_on(const char *transport)
{
    static const struct reward_part_options part = {"answer", "number", NULL, 1.0f, 0};
    const struct scorer_options options = {.worker = "scorer-0",
                                           .hub_endpoint = endpoint,
                                           .recipe_hash = "recipe",
                                           .prompts = prompts,
                                           .prompt_count = 2,
                                           .tokenizer = tokenizer,
                                           .credits = CREDITS};
    static int tests;
    snprintf(endpoint, sizeof endpoint, "%s://%s/hub%d", transport, directory, tests++);
    now_ns = 5000000000;
    fake = clock_fake(&now_ns);
    context = wire_context_create();
    start_hub();
    assert_int_equal(reward_set_create(&rewards, &part, 1, clock_system()), 0);
    assert_int_equal(scorer_stage_create(&stage, &options, rewards, context, &fake), 0);
}

static int set_up(void **state)
{
    (void)state;
    set_up_on("inproc");
    return 0;
}

static int set_up_ipc(void **state)
{
    (void)state;
    set_up_on("ipc");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    scorer_stage_destroy(stage);
    reward_set_destroy(rewards);
    wire_server_destroy(hub);
    wire_context_destroy(context);
    return 0;
}

static struct stage_wait tick(void)
{
    struct stage_wait wait;
    now_ns += 10000000;
    if (scorer_stage_tick(stage, &wait) < 0)
        fail_msg("%s", error_message());
    return wait;
}

/* Ticks until the hub receives a message of this kind; heartbeats in between are left out. */
static void receive(Hone__Kind kind, struct wire_message *message)
{
    for (int i = 0; i < 8000; i++) {
        int got = wire_server_receive(hub, &peer, message);
        assert_true(got >= 0);
        if (got > 0) {
            if (message->envelope->kind == kind)
                return;
            if (message->envelope->kind != HONE__KIND__KIND_HEARTBEAT)
                fail_msg("%s came instead of %s", wire_kind_name(message->envelope->kind),
                         wire_kind_name(kind));
            wire_message_release(message);
            continue;
        }
        if (i % 2 == 0)
            tick();
        else
            wire_poll(&hub, 1, NULL, 0, 1);
    }
    fail_msg("no %s", wire_kind_name(kind));
}

static void expect(Hone__Kind kind)
{
    struct wire_message message;
    receive(kind, &message);
    wire_message_release(&message);
}

static void expect_credit(int32_t count)
{
    struct wire_message message;
    receive(HONE__KIND__KIND_SCORE_CREDIT, &message);
    assert_int_equal(message.envelope->score_credit->count, count);
    wire_message_release(&message);
}

static void say(Hone__Envelope *envelope)
{
    assert_int_equal(wire_server_send(hub, &peer, envelope, NULL, 0), 0);
}

static void welcome(void)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Welcome message = HONE__WELCOME__INIT;
    char run[] = "run";
    message.run_id = run;
    envelope.kind = HONE__KIND__KIND_WELCOME;
    envelope.welcome = &message;
    say(&envelope);
}

static void answer_heartbeat(void)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Heartbeat message = HONE__HEARTBEAT__INIT;
    envelope.kind = HONE__KIND__KIND_HEARTBEAT;
    envelope.heartbeat = &message;
    say(&envelope);
}

static void request(uint64_t id, uint64_t attempt, uint64_t prompt, int32_t *tokens, int32_t count)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__ScoreRequest message = HONE__SCORE_REQUEST__INIT;
    message.trajectory_id = id;
    message.attempt = attempt;
    message.prompt_id = prompt;
    message.tokens.data = (uint8_t *)tokens;
    message.tokens.len = (size_t)count * sizeof *tokens;
    message.prompt_token_count = 1;
    message.finish = FINISH_STOP;
    message.group_id = 4;
    envelope.kind = HONE__KIND__KIND_SCORE_REQUEST;
    envelope.score_request = &message;
    say(&envelope);
}

static void ack(uint64_t id)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__ScoreAck message = HONE__SCORE_ACK__INIT;
    message.trajectory_id = id;
    envelope.kind = HONE__KIND__KIND_SCORE_ACK;
    envelope.score_ack = &message;
    say(&envelope);
}

static void expect_result(uint64_t id, uint64_t attempt, enum reward_status status, float total)
{
    struct wire_message message;
    struct reward reward;
    receive(HONE__KIND__KIND_SCORE_RESULT, &message);
    const Hone__ScoreResult *result = message.envelope->score_result;
    assert_int_equal(result->trajectory_id, id);
    assert_int_equal(result->attempt, attempt);
    assert_int_equal(wire_reward_read(result->reward, &reward), 0);
    assert_int_equal(reward.status, status);
    assert_true(reward.total == total);
    wire_message_release(&message);
}

static int32_t right[] = {1, 7, 10}, wrong[] = {1, 8, 10}, ten[] = {5, 1, 0, 10};

static void join(void)
{
    struct wire_message message;
    receive(HONE__KIND__KIND_HELLO, &message);
    assert_int_equal(message.envelope->hello->role, HONE__ROLE__ROLE_SCORER);
    assert_int_equal(message.envelope->hello->protocol, WIRE_PROTOCOL);
    assert_string_equal(message.envelope->hello->recipe_hash, "recipe");
    assert_string_equal(message.envelope->hello->worker, "scorer-0");
    wire_message_release(&message);
    welcome();
}

static void test_scores(void **state)
{
    (void)state;
    join();
    expect_credit(CREDITS);
    request(1, 1, 0, right, 3);
    expect_result(1, 1, REWARD_OK, 1);
    request(2, 1, 0, wrong, 3);
    expect_result(2, 1, REWARD_OK, 0);
    ack(1);
    expect_credit(1);
    request(3, 1, 1, ten, 4); /* "10" from two tokens; the special token behind it is not text */
    expect_result(3, 1, REWARD_OK, 1);
}

static void test_kept_until_acknowledged(void **state)
{
    (void)state;
    join();
    expect_credit(CREDITS);
    request(1, 1, 0, right, 3);
    expect_result(1, 1, REWARD_OK, 1);
    request(1, 1, 0, right, 3); /* asked again: answered from what is kept */
    expect_result(1, 1, REWARD_OK, 1);
    now_ns += 6000000000; /* the hub is silent: hello, and after the welcome everything again */
    join();
    expect_result(1, 1, REWARD_OK, 1);
    expect_credit(CREDITS - 1);
    ack(1);
    expect_credit(1);
    ack(1); /* twice: no credit twice */
    request(1, 2, 0, wrong, 3);
    expect_result(1, 2, REWARD_OK, 0);
}

static void test_a_newer_attempt_is_scored_anew(void **state)
{
    (void)state;
    join();
    expect_credit(CREDITS);
    request(1, 1, 0, wrong, 3);
    expect_result(1, 1, REWARD_OK, 0);
    request(1, 2, 0, right, 3);
    expect_result(1, 2, REWARD_OK, 1);
}

/* Found by the simulator: a credit lost with a connection was waited for for ever. */
static void test_a_lost_credit_is_not_waited_for_for_ever(void **state)
{
    struct wire_message message;
    int64_t start_ns = now_ns;
    (void)state;
    join();
    expect_credit(CREDITS);
    do { /* heartbeats are answered, so the hub is there; it asks for nothing */
        tick();
        if (wire_server_receive(hub, &peer, &message) == 0)
            continue;
        Hone__Kind kind = message.envelope->kind;
        wire_message_release(&message);
        if (kind == HONE__KIND__KIND_HELLO)
            break;
        assert_int_equal(kind, HONE__KIND__KIND_HEARTBEAT);
        answer_heartbeat();
    } while (now_ns - start_ns < INT64_C(20000000000));
    assert_in_range((now_ns - start_ns) / 1000000, 9000, 12000);
    welcome();
    expect_credit(CREDITS);
}

static void test_hub_restart(void **state)
{
    (void)state;
    join();
    expect_credit(CREDITS);
    request(1, 1, 0, right, 3);
    expect_result(1, 1, REWARD_OK, 1);
    wire_server_destroy(hub);
    start_hub();
    for (int i = 0; i < 400; i++) /* heartbeats go unanswered for more than three seconds */
        tick();
    join();
    expect_result(1, 1, REWARD_OK, 1);
    expect_credit(CREDITS - 1);
}

static void test_bad_requests_are_statuses(void **state)
{
    (void)state;
    int32_t alien[] = {1, 7, 99999};
    join();
    expect_credit(CREDITS);
    request(1, 1, 2, right, 3); /* no such prompt */
    expect_result(1, 1, REWARD_ERROR, 0);
    request(2, 1, 0, alien, 3); /* ids past the vocabulary have no text */
    expect_result(2, 1, REWARD_OK, 1);
    request(3, 1, 0, right, 0); /* shorter than its prompt: left out */
    request(4, 1, 0, right, 3);
    expect_result(4, 1, REWARD_OK, 1);
}

/* A hub that asks for more than it may: what does not fit is left out, the rest is answered. */
static void test_overcommit_is_bounded(void **state)
{
    (void)state;
    join();
    expect_credit(CREDITS);
    for (uint64_t id = 1; id <= 20; id++)
        request(id, 1, 0, right, 3);
    for (uint64_t id = 1; id <= 4 * CREDITS; id++)
        expect_result(id, 1, REWARD_OK, 1);
    ack(1);
    expect_credit(1);
}

static void test_stop_and_refusal(void **state)
{
    (void)state;
    struct stage_wait wait = {0};
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Stop stop = HONE__STOP__INIT;
    Hone__Refused refused = HONE__REFUSED__INIT;
    char reason[] = "another recipe";
    join();
    expect_credit(CREDITS);
    envelope.kind = HONE__KIND__KIND_STOP;
    envelope.stop = &stop;
    say(&envelope);
    for (int i = 0; i < 10000 && !wait.finished; i++) {
        clock_sleep_ms(1);
        wait = tick();
    }
    assert_true(wait.finished);
    refused.reason = reason;
    envelope = (Hone__Envelope)HONE__ENVELOPE__INIT;
    envelope.kind = HONE__KIND__KIND_REFUSED;
    envelope.refused = &refused;
    tear_down(NULL);
    set_up(NULL);
    expect(HONE__KIND__KIND_HELLO);
    say(&envelope);
    int rc = 0;
    for (int i = 0; i < 10000 && rc == 0; i++) {
        clock_sleep_ms(1);
        rc = scorer_stage_tick(stage, &wait);
    }
    assert_int_equal(rc, HONE_EPEER);
    assert_non_null(strstr(error_message(), reason));
}

static void test_heartbeats(void **state)
{
    (void)state;
    struct wire_message message;
    int beats = 0;
    join();
    expect_credit(CREDITS);
    for (int i = 0; i < 300; i++) { /* three seconds */
        tick();
        wire_poll(&hub, 1, NULL, 0, 1);
        while (wire_server_receive(hub, &peer, &message) > 0) {
            if (message.envelope->kind == HONE__KIND__KIND_HEARTBEAT) {
                beats++;
                assert_string_equal(message.envelope->heartbeat->waiting_for,
                                    "score requests from the hub");
                say(message.envelope); /* the hub answers them */
            }
            wire_message_release(&message);
        }
    }
    assert_in_range(beats, 2, 4);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_scores),
        TEST(test_kept_until_acknowledged),
        TEST(test_a_newer_attempt_is_scored_anew),
        TEST(test_a_lost_credit_is_not_waited_for_for_ever),
        cmocka_unit_test_setup_teardown(test_hub_restart, set_up_ipc, tear_down),
        TEST(test_bad_requests_are_statuses),
        TEST(test_overcommit_is_bounded),
        TEST(test_stop_and_refusal),
        TEST(test_heartbeats),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, load_tokenizer, free_tokenizer);
}

/* The hub itself over tcp: strangers get no answer, and a worker that says what its role may not
 * say is dropped, while a good worker beside it is answered throughout. */
#include "tests/curriculum/world.h"
#include "tests/infra/wire/wire_fixture.h"

#include "infra/base/error.h"

#define GOOD "scorer-good"

struct hub {
    struct wire_context *context, *near;
    struct run_log *log;
    struct curriculum_stage *stage;
    struct prompt prompt;
    int32_t token;
    struct wire_client *good;
    char address[ENDPOINT_MAX], key[KEY_SIZE];
    char path[128];
};

static void tick(struct hub *h, struct stage_wait *wait)
{
    if (curriculum_stage_tick(h->stage, wait) < 0)
        fail_msg("the hub ends: %s", error_message());
    assert_false(wait->finished);
}

static void hub_open(struct hub *h)
{
    struct world_options defaults = world_defaults();
    struct curriculum_options options = defaults.hub;
    struct stage_wait wait;
    memset(h, 0, sizeof *h);
    h->prompt = (struct prompt){.tokens = &h->token, .token_count = 1};
    options.prompts = &h->prompt;
    options.prompt_count = 1;
    options.hub_endpoint = "tcp://127.0.0.1:*";
    snprintf(h->path, sizeof h->path, "%s/log", fixture_root);
    assert_int_equal(file_remove_tree(h->path), 0);
    assert_int_equal(run_log_open(&h->log, h->path, false), 0);
    h->context = fixture_context("hub");
    h->near = fixture_context(GOOD);
    assert_int_equal(
        curriculum_stage_create(&h->stage, &options, h->log, h->context, clock_system(), NULL), 0);
    tick(h, &wait);
    const char *endpoint = wire_server_endpoint(wait.servers[0]);
    snprintf(h->address, sizeof h->address, "%s", fixture_address(endpoint));
    snprintf(h->key, sizeof h->key, "%s", strchr(endpoint, '#') + 1);
    assert_int_equal(wire_client_create(&h->good, h->near, h->address, GOOD), 0);
}

static void hub_close(struct hub *h)
{
    wire_client_destroy(h->good);
    curriculum_stage_destroy(h->stage);
    run_log_close(h->log);
    wire_context_destroy(h->near);
    wire_context_destroy(h->context);
}

static void greet(struct hub *h)
{
    Hone__Hello hello = HONE__HELLO__INIT;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    hello.protocol = WIRE_PROTOCOL;
    hello.role = HONE__ROLE__ROLE_SCORER;
    hello.worker = (char *)(uintptr_t)GOOD;
    hello.recipe_hash = (char *)(uintptr_t) "recipe";
    envelope.kind = HONE__KIND__KIND_HELLO;
    envelope.hello = &hello;
    while (wire_client_send(h->good, &envelope, NULL, 0) < 0)
        clock_sleep_ms(1);
}

/* The hub works for this long and until the good worker has an answer to its next message. The
 * number of messages that the attacker was sent. */
static int serve(struct hub *h, struct hostile *hostile, int wait_ms)
{
    int64_t begin = clock_now_ms(clock_system());
    int answers = 0;
    bool good = false;
    send_beat(h->good, 1);
    for (;;) {
        struct stage_wait wait;
        struct wire_message message;
        char buffer[1024];
        int64_t passed = clock_now_ms(clock_system()) - begin;
        if (good && passed >= wait_ms)
            return answers;
        assert_true(passed < WAIT_MS);
        tick(h, &wait);
        while (wire_client_receive(h->good, &message) == 1) {
            good = good || message.envelope->kind == HONE__KIND__KIND_HEARTBEAT;
            wire_message_release(&message);
        }
        while (hostile && zmq_recv(hostile->socket, buffer, sizeof buffer, ZMQ_DONTWAIT) >= 0)
            answers++;
        clock_sleep_ms(2);
    }
}

static void say_hello(struct hostile *hostile, uint64_t sequence, Hone__Role role)
{
    Hone__Hello hello = HONE__HELLO__INIT;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    struct text bytes;
    text_init(&bytes);
    hello.protocol = WIRE_PROTOCOL;
    hello.role = role;
    hello.worker = (char *)(uintptr_t)hostile->name;
    hello.recipe_hash = (char *)(uintptr_t) "recipe";
    envelope.sequence = sequence;
    envelope.kind = HONE__KIND__KIND_HELLO;
    envelope.hello = &hello;
    wire_pack(&envelope.base, &bytes);
    hostile_say(hostile, bytes.data, bytes.length);
    text_release(&bytes);
}

static void say(struct hostile *hostile, Hone__Envelope *envelope, uint64_t sequence)
{
    struct text bytes;
    text_init(&bytes);
    envelope->sequence = sequence;
    wire_pack(&envelope->base, &bytes);
    hostile_say(hostile, bytes.data, bytes.length);
    text_release(&bytes);
}

/* One case of the table; true when the hub answered. */
static bool answers_to(struct hub *h, const struct hostile_keys *keys, const char *name,
                       Hone__Role role)
{
    struct hostile hostile;
    int answers = 0;
    hostile_dial(&hostile, h->address, name, keys);
    for (uint64_t i = 1; i <= 3; i++) {
        say_hello(&hostile, i, role);
        answers += serve(h, &hostile, QUIET_MS);
    }
    hostile_hang_up(&hostile);
    return answers > 0;
}

static void test_table(void **state)
{
    (void)state;
    struct hub h;
    struct keys actor;
    char other[2][KEY_SIZE];
    assert_int_equal(keys_load(&actor, fixture_keys, "actor-evil"), 0);
    zmq_curve_keypair(other[0], other[1]);
    hub_open(&h);
    greet(&h);
    const char *public = actor.own.public_key, *secret = actor.own.secret_key;
    const struct hostile_keys none = {0}, allowed = {h.key, public, secret},
                              unknown = {h.key, other[0], other[1]},
                              wrong_server = {other[0], public, secret};
    const Hone__Role role = HONE__ROLE__ROLE_ACTOR;
    assert_true(answers_to(&h, &allowed, "actor-evil", role)); /* the control */
    assert_false(answers_to(&h, &none, "actor-none", role));
    assert_false(answers_to(&h, &unknown, "actor-unknown", role));
    assert_false(answers_to(&h, &wrong_server, "actor-lost", role));
    assert_false(answers_to(&h, &allowed, "actor-liar", HONE__ROLE__ROLE_LEARNER));
    assert_false(answers_to(&h, &allowed, "learner", HONE__ROLE__ROLE_LEARNER));
    assert_false(answers_to(&h, &allowed, GOOD, HONE__ROLE__ROLE_SCORER));
    hub_close(&h);
    keys_clear(&actor);
}

static void test_frames_of_another_role(void **state)
{
    (void)state;
    struct hub h;
    struct keys actor;
    struct hostile hostile;
    Hone__Envelope envelopes[6], beat = HONE__ENVELOPE__INIT;
    Hone__LearnerReady ready = HONE__LEARNER_READY__INIT;
    Hone__BatchDone done = HONE__BATCH_DONE__INIT;
    Hone__ScoreCredit credit = HONE__SCORE_CREDIT__INIT;
    Hone__Stop stop = HONE__STOP__INIT;
    Hone__Welcome welcome = HONE__WELCOME__INIT;
    Hone__TrajectoryAck ack = HONE__TRAJECTORY_ACK__INIT;
    Hone__Heartbeat heartbeat = HONE__HEARTBEAT__INIT;
    const Hone__Kind kinds[] = {HONE__KIND__KIND_LEARNER_READY, HONE__KIND__KIND_BATCH_DONE,
                                HONE__KIND__KIND_SCORE_CREDIT,  HONE__KIND__KIND_STOP,
                                HONE__KIND__KIND_WELCOME,       HONE__KIND__KIND_TRAJECTORY_ACK};
    ready.weights_endpoint = (char *)(uintptr_t) "tcp://127.0.0.1:1";
    welcome.run_id = (char *)(uintptr_t) "x";
    for (int i = 0; i < 6; i++) {
        hone__envelope__init(&envelopes[i]);
        envelopes[i].kind = kinds[i];
    }
    envelopes[0].learner_ready = &ready;
    envelopes[1].batch_done = &done;
    envelopes[2].score_credit = &credit;
    envelopes[3].stop = &stop;
    envelopes[4].welcome = &welcome;
    envelopes[5].trajectory_ack = &ack;
    beat.kind = HONE__KIND__KIND_HEARTBEAT;
    beat.heartbeat = &heartbeat;

    assert_int_equal(keys_load(&actor, fixture_keys, "actor-evil"), 0);
    hub_open(&h);
    greet(&h);
    const struct hostile_keys keys = {h.key, actor.own.public_key, actor.own.secret_key};
    hostile_dial(&hostile, h.address, "actor-evil", &keys);
    for (uint64_t i = 0; i < 6; i++) {
        say_hello(&hostile, 10 * i + 1, HONE__ROLE__ROLE_ACTOR);
        say(&hostile, &beat, 10 * i + 2);
        int answers = 0;
        for (int tries = 0; tries < 20 && answers < 2; tries++) /* Welcome, heartbeat */
            answers += serve(&h, &hostile, 50);
        assert_true(answers >= 2);
        say(&hostile, &envelopes[i], 10 * i + 3);
        say(&hostile, &beat, 10 * i + 4); /* dropped: no answer */
        assert_int_equal(serve(&h, &hostile, QUIET_MS), 0);
    }
    hostile_hang_up(&hostile);
    hub_close(&h);
    keys_clear(&actor);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_frames_of_another_role),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}

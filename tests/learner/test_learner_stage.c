/* A learner stage against a scripted hub; the batches are sampled by a real engine from the
 * versions that the learner publishes, under a fake clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "actors/rollout_engine.h"
#include "actors/weight_swap.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/rng.h"
#include "infra/wire/codec.h"
#include "infra/wire/weight_channel.h"
#include "learner/learner_stage.h"
#include "tests/actors/tiny_model.h"

#define STEPS      6
#define GROUPS     3
#define GROUP_SIZE 4
#define SAMPLES    (GROUPS * GROUP_SIZE)
#define MAX_TOKENS 24
#define TICK_NS    INT64_C(10000000)

/* ---- the scripted world ---- */

struct stored_batch {
    bool made;
    struct trajectory trajectories[SAMPLES];
};

#define START_NS INT64_C(1000000000000)

struct world {
    int64_t now_ns;
    struct clock clock;
    struct wire_context *context;
    struct compute compute;
    char directory[64], model_directory[96], stage_directory[96], metrics_path[128];
    char hub_endpoint[128], weights_endpoint[128];
    struct metrics *metrics;
    struct learner_options options;
    struct learner_stage *learner;

    /* the hub */
    struct wire_server *server;
    struct wire_peer peer;
    bool generates;   /* the next batch is sampled and sent when the last one is done */
    int64_t poisoned; /* from this batch on rewards give advantages that are not numbers; 0: none */
    int hellos, readies, dones, heartbeats, absences;
    int64_t spent_us; /* all that the last heartbeat accounts for */
    bool answers;     /* the hub answers heartbeats */
    int64_t ready_durable, ready_version;
    int32_t ready_hash_count;
    char ready_hashes[STEPS + 1][HASH_HEX_SIZE]; /* by version */
    int64_t trained, durable, sent;
    char hashes[STEPS + 1][HASH_HEX_SIZE];
    struct stored_batch batches[STEPS + 1];

    /* the actor */
    struct model *model;
    struct rollout_engine *engine;
    struct weight_receiver *receiver;
    int64_t held; /* version */
};

static void send_to_learner(struct world *w, Hone__Kind kind, Hone__Envelope *envelope)
{
    envelope->kind = kind;
    assert_int_equal(wire_server_send(w->server, &w->peer, envelope, NULL, 0), 0);
}

static void send_welcome(struct world *w)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Welcome welcome = HONE__WELCOME__INIT;
    char run_id[] = "run-1";
    welcome.run_id = run_id;
    envelope.welcome = &welcome;
    send_to_learner(w, HONE__KIND__KIND_WELCOME, &envelope);
}

/* Batch `number` with the trajectories of stored batch `source`. */
static void send_heartbeat(struct world *w)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Heartbeat beat = HONE__HEARTBEAT__INIT;
    envelope.heartbeat = &beat;
    send_to_learner(w, HONE__KIND__KIND_HEARTBEAT, &envelope);
}

static void send_batch(struct world *w, int64_t number, int64_t source)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Batch batch = HONE__BATCH__INIT;
    struct wire_trajectory wires[SAMPLES];
    Hone__Trajectory *pointers[SAMPLES];
    assert_true(w->batches[source].made);
    for (int i = 0; i < SAMPLES; i++) {
        wire_trajectory_build(&wires[i], &w->batches[source].trajectories[i]);
        pointers[i] = &wires[i].message;
    }
    batch.number = number;
    batch.group_count = GROUPS;
    batch.n_trajectories = SAMPLES;
    batch.trajectories = pointers;
    envelope.batch = &batch;
    send_to_learner(w, HONE__KIND__KIND_BATCH, &envelope);
    for (int i = 0; i < SAMPLES; i++)
        wire_trajectory_release(&wires[i]);
    w->sent = number;
}

/* What an announcement of absence does not tell. */
static void keep_time(struct world *w, const Hone__Heartbeat *beat)
{
    if (beat->n_time_spent == 0)
        return;
    w->spent_us = 0;
    for (size_t i = 0; i < beat->n_time_spent; i++)
        w->spent_us += beat->time_spent[i]->us;
}

static void keep_ready_hashes(struct world *w, const Hone__LearnerReady *ready)
{
    int64_t first = ready->durable_batch - (int64_t)ready->n_durable_hashes + 1;
    assert_true(ready->n_durable_hashes == 0 || first >= 1);
    w->ready_hash_count = (int32_t)ready->n_durable_hashes;
    for (size_t i = 0; i < ready->n_durable_hashes; i++)
        snprintf(w->ready_hashes[first + (int64_t)i], HASH_HEX_SIZE, "%s",
                 ready->durable_hashes[i]);
}

static void handle_done(struct world *w, const Hone__BatchDone *done)
{
    w->dones++;
    assert_true(done->number >= 1 && done->number <= STEPS);
    if (done->durable && done->number > w->durable)
        w->durable = done->number;
    if (done->number > w->trained)
        w->trained = done->number;
    if (done->weights_hash) {
        char *kept = w->hashes[done->number];
        assert_int_equal(strlen(done->weights_hash), HASH_HEX_SIZE - 1);
        if (kept[0] != '\0') /* the same version has the same bits, in every life of the learner */
            assert_string_equal(kept, done->weights_hash);
        memcpy(kept, done->weights_hash, HASH_HEX_SIZE);
    }
}

static void hub_tick(struct world *w)
{
    struct wire_message message;
    while (w->server && wire_server_receive(w->server, &w->peer, &message) > 0) {
        const Hone__Envelope *envelope = message.envelope;
        switch ((int)envelope->kind) {
        case HONE__KIND__KIND_HELLO:
            assert_int_equal(envelope->hello->role, HONE__ROLE__ROLE_LEARNER);
            w->hellos++;
            send_welcome(w);
            break;
        case HONE__KIND__KIND_LEARNER_READY:
            w->readies++;
            w->ready_durable = envelope->learner_ready->durable_batch;
            w->ready_version = envelope->learner_ready->policy_version;
            keep_ready_hashes(w, envelope->learner_ready);
            assert_string_equal(envelope->learner_ready->weights_endpoint, w->weights_endpoint);
            w->sent = w->ready_version;
            break;
        case HONE__KIND__KIND_BATCH_DONE:
            handle_done(w, envelope->batch_done);
            break;
        case HONE__KIND__KIND_HEARTBEAT:
            w->heartbeats++;
            keep_time(w, envelope->heartbeat);
            if (envelope->heartbeat->has_absent_ms && envelope->heartbeat->absent_ms > 0) {
                assert_non_null(strstr(envelope->heartbeat->doing, "saving the "));
                w->absences++;
            }
            if (w->answers)
                send_heartbeat(w);
            break;
        default:
            fail_msg("a learner does not send %s", wire_kind_name(envelope->kind));
        }
        wire_message_release(&message);
    }
}

/* ---- the actor: batch n is sampled from version n - 1 ---- */

static void submit_sample(struct world *w, int64_t number, int32_t index)
{
    int32_t prompt[3] = {1, 10 + index / GROUP_SIZE, 9};
    struct rollout_request request = {.user = (uint64_t)index,
                                      .prompt_id = (uint64_t)(index / GROUP_SIZE),
                                      .group_id = (uint64_t)(number * GROUPS + index / GROUP_SIZE),
                                      .sample_index = index % GROUP_SIZE,
                                      .prompt_tokens = prompt,
                                      .prompt_token_count = 3,
                                      .sampling = {.temperature = 1.0f,
                                                   .top_p = 1.0f,
                                                   .max_completion_tokens = 12,
                                                   .seed = 40 + (uint64_t)number,
                                                   .stop_count = 3,
                                                   .stop_ids = {2, 30, 60}}};
    assert_int_equal(rollout_engine_submit(w->engine, &request), 0);
}

/* The reward: the share of even ids. */
static void sample_batch(struct world *w, int64_t number)
{
    struct stored_batch *batch = &w->batches[number];
    struct trajectory trajectory;
    uint64_t user;
    for (int32_t i = 0; i < SAMPLES && batch->made;
         i++) /* again, for another life of the learner */
        trajectory_release(&batch->trajectories[i]);
    for (int32_t i = 0; i < SAMPLES; i++)
        submit_sample(w, number, i);
    while (rollout_engine_step(w->engine) > 0)
        continue;
    while (rollout_engine_finished(w->engine, &trajectory, &user)) {
        int32_t even = 0;
        for (int32_t i = trajectory.prompt_tokens; i < trajectory.token_count; i++)
            even += trajectory.tokens[i] % 2 == 0;
        trajectory.id = (uint64_t)number * 1000 + user + 1;
        trajectory.reward.status = REWARD_OK;
        trajectory.reward.total = (float)even / (float)trajectory_completion_tokens(&trajectory);
        if (w->poisoned > 0 && number >= w->poisoned)
            trajectory.reward.total = user % 3 == 0 ? 3e38f : -3e38f;
        batch->trajectories[user] = trajectory;
    }
    batch->made = true;
}

static void actor_tick(struct world *w)
{
    const struct snapshot *snapshot;
    weight_receiver_want(w->receiver, w->weights_endpoint, w->held);
    if (weight_receiver_tick(w->receiver, &snapshot) > 0) {
        assert_int_equal(weight_swap(w->model, snapshot), 0);
        w->held = snapshot->version;
        rollout_engine_set_version(w->engine, w->held);
    }
    bool idle = w->readies > 0 && w->sent == w->trained && w->sent < STEPS;
    if (!w->generates || !idle || w->held != w->sent)
        return;
    sample_batch(w, w->sent + 1);
    send_batch(w, w->sent + 1, w->sent + 1);
}

/* ---- opening and closing ---- */

static void write_base(struct world *w)
{
    struct model_config config = tiny_model_config();
    float *flat = tiny_model_flat(&config, 7);
    config.stored_dtype = DTYPE_BF16;
    assert_int_equal(file_make_directories(w->model_directory), 0);
    assert_int_equal(model_config_write(&config, NULL, DTYPE_BF16, w->model_directory), 0);
    assert_int_equal(model_write_flat(&config, flat, DTYPE_F32, w->model_directory), 0);
    assert_int_equal(model_create(&w->model, &config, DTYPE_BF16, false, &w->compute), 0);
    struct rollout_engine_options options = {.slots = SAMPLES,
                                             .prefill_chunk_tokens = 8,
                                             .max_sequence_tokens = MAX_TOKENS,
                                             .rng_purpose = RNG_SAMPLE};
    assert_int_equal(rollout_engine_create(&w->engine, w->model, &options, &w->compute), 0);
    memory_free(flat);
}

static struct learner_options default_options(const struct world *w)
{
    return (struct learner_options){.worker = "learner-0",
                                    .hub_endpoint = w->hub_endpoint,
                                    .weights_endpoint = w->weights_endpoint,
                                    .weights = {.delta = true, .deadline_ms = 10000},
                                    .recipe_hash = "aaaa",
                                    .model_directory = w->model_directory,
                                    .reference_directory = w->model_directory,
                                    .stage_directory = w->stage_directory,
                                    .steps = STEPS,
                                    .checkpoint_steps = 2,
                                    .keep_checkpoints = 2,
                                    .temperature = 1.0f,
                                    .updates_per_batch = 2,
                                    .advantage = {.gamma = 1.0},
                                    .loss = {.surrogate = {.clip_low = 0.2f, .clip_high = 0.2f},
                                             .kl_coef = 0.01f,
                                             .kl_estimator = KL_K3},
                                    .trainer = {.dtype = DTYPE_BF16,
                                                .micro_batch_tokens = 64,
                                                .max_sequence_tokens = MAX_TOKENS,
                                                .optimizer = {.learning_rate = 1e-3,
                                                              .beta1 = 0.9,
                                                              .beta2 = 0.95,
                                                              .epsilon = 1e-8,
                                                              .weight_decay = 0.01,
                                                              .max_gradient_norm = 1.0}}};
}

/* Within one process the sockets of the life before are closed a little later. */
static void open_hub(struct world *w)
{
    int rc = HONE_EBUSY;
    for (int i = 0; i < 1000 && rc == HONE_EBUSY; i++) {
        rc = wire_server_create(&w->server, w->context, w->hub_endpoint);
        if (rc == HONE_EBUSY)
            clock_sleep_ms(5);
    }
    assert_int_equal(rc, 0);
}

static void start_learner(struct world *w)
{
    int rc = HONE_EBUSY;
    for (int i = 0; i < 1000 && rc == HONE_EBUSY; i++) {
        rc = learner_stage_create(&w->learner, &w->options, &w->compute, w->context, &w->clock,
                                  w->metrics);
        if (rc == HONE_EBUSY)
            clock_sleep_ms(5);
    }
    assert_int_equal(rc, 0);
}

/* As a kill would: nothing is said to anybody. */
static void stop_learner(struct world *w)
{
    learner_stage_destroy(w->learner);
    w->learner = NULL;
}

static void world_open(struct world *w)
{
    memset(w, 0, sizeof *w);
    w->now_ns = START_NS;
    w->clock = clock_fake(&w->now_ns);
    w->held = -1;
    snprintf(w->directory, sizeof w->directory, "/tmp/hone-learner-XXXXXX");
    assert_non_null(mkdtemp(w->directory));
    snprintf(w->model_directory, sizeof w->model_directory, "%s/base", w->directory);
    snprintf(w->stage_directory, sizeof w->stage_directory, "%s/rl", w->directory);
    snprintf(w->metrics_path, sizeof w->metrics_path, "%s/metrics.jsonl", w->directory);
    snprintf(w->hub_endpoint, sizeof w->hub_endpoint, "ipc://%s/hub", w->directory);
    snprintf(w->weights_endpoint, sizeof w->weights_endpoint, "ipc://%s/weights", w->directory);
    w->context = wire_context_create();
    assert_int_equal(compute_open(&w->compute, 1), 0);
    write_base(w);
    assert_int_equal(metrics_open(&w->metrics, w->metrics_path, &w->clock), 0);
    w->options = default_options(w);
    assert_int_equal(
        weight_receiver_create(&w->receiver, w->context, "actor-0", &w->clock, &w->options.weights),
        0);
    open_hub(w);
}

static void world_close(struct world *w)
{
    learner_stage_destroy(w->learner);
    weight_receiver_destroy(w->receiver);
    wire_server_destroy(w->server);
    wire_context_destroy(w->context);
    rollout_engine_destroy(w->engine);
    model_free(w->model);
    metrics_close(w->metrics);
    for (int n = 0; n <= STEPS; n++) {
        for (int i = 0; i < SAMPLES && w->batches[n].made; i++)
            trajectory_release(&w->batches[n].trajectories[i]);
    }
    compute_close(&w->compute);
    assert_int_equal(file_remove_tree(w->directory), 0);
}

static int world_tick(struct world *w, bool *finished)
{
    struct stage_wait wait = {0};
    int rc = w->learner ? learner_stage_tick(w->learner, &wait) : 0;
    if (rc < 0)
        return rc; /* with its message, which the others' sends would replace */
    if (!wait.busy)
        wire_poll(wait.servers, wait.server_count, wait.clients, wait.client_count, 1);
    if (finished)
        *finished = wait.finished;
    hub_tick(w);
    actor_tick(w);
    w->now_ns += TICK_NS;
    return 0;
}

static void world_run(struct world *w, int64_t simulated_ms)
{
    int64_t end_ns = w->now_ns + simulated_ms * INT64_C(1000000);
    while (w->now_ns < end_ns)
        assert_int_equal(world_tick(w, NULL), 0);
}

static void until_durable(struct world *w, int64_t batch)
{
    for (int i = 0; w->durable < batch; i++) {
        assert_true(i < 20000);
        assert_int_equal(world_tick(w, NULL), 0);
    }
}

static void until_trained(struct world *w, int64_t batch)
{
    for (int i = 0; w->trained < batch; i++) {
        assert_true(i < 20000);
        assert_int_equal(world_tick(w, NULL), 0);
    }
}

static void until_ready(struct world *w, int readies)
{
    for (int i = 0; w->readies < readies; i++) {
        assert_true(i < 20000);
        assert_int_equal(world_tick(w, NULL), 0);
    }
}

/* ---- tests ---- */

static double number_of(const json_t *record, const char *name)
{
    const json_t *value = json_object_get(record, name);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

static void check_metrics(const char *path)
{
    char line[8192];
    int records = 0;
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        json_t *record = json_loads(line, 0, NULL);
        records++;
        assert_true(number_of(record, "step") == records);
        assert_true(number_of(record, "mismatch/unequal_tokens") == 0.0);
        assert_true(number_of(record, "mismatch/logp_absdiff_max") == 0.0);
        assert_true(number_of(record, "mismatch/current_version_tokens") > SAMPLES);
        assert_true(number_of(record, "mismatch/ess") == 1.0);
        assert_true(number_of(record, "staleness/max") == 0.0);
        assert_true((number_of(record, "policy/kl_ref") == 0.0) == (records == 1));
        assert_true(number_of(record, "policy/entropy") > 0.0);
        assert_true(number_of(record, "grad_norm") > 0.0);
        assert_true(number_of(record, "batch/trained") == SAMPLES);
        assert_true(number_of(record, "total_steps") == STEPS);
        json_decref(record);
    }
    fclose(file);
    assert_int_equal(records, STEPS);
}

static void check_final(const struct world *w)
{
    char path[HONE_PATH_MAX];
    struct checkpoint_state state;
    struct model_config config;
    path_join(path, sizeof path, w->stage_directory, "final");
    assert_int_equal(checkpoint_verify(path), 0);
    assert_int_equal(checkpoint_read_state(path, &state), 0);
    assert_string_equal(state.stage, "rl");
    assert_int_equal(state.batch, STEPS);
    assert_string_equal(state.weights_hash, w->hashes[STEPS]);
    assert_int_equal(model_config_read(&config, path), 0);
    assert_int_equal(config.stored_dtype, DTYPE_BF16);
    /* Only the newest two checkpoints are kept. */
    path_join(path, sizeof path, w->stage_directory, "checkpoints/step-2");
    assert_false(file_exists(path));
    path_join(path, sizeof path, w->stage_directory, "checkpoints/step-4");
    assert_int_equal(checkpoint_verify(path), 0);
}

static void stop_and_finish(struct world *w)
{
    bool finished = false;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Stop stop = HONE__STOP__INIT;
    envelope.stop = &stop;
    send_to_learner(w, HONE__KIND__KIND_STOP, &envelope);
    for (int i = 0; i < 20000 && !finished; i++)
        assert_int_equal(world_tick(w, &finished), 0);
    assert_true(finished);
}

/* Six batches on policy; then the same ones with a learner that dies twice. */
static void test_a_restart_equals_the_uninterrupted_run(void **state)
{
    (void)state;
    struct world w;
    world_open(&w);
    start_learner(&w);
    w.generates = true;
    until_durable(&w, STEPS);
    assert_int_equal(w.readies, 1);
    assert_int_equal(w.ready_version, 0);
    assert_true(w.heartbeats > 0);
    world_run(&w, 2500);
    int64_t passed_us = (w.now_ns - START_NS) / 1000;
    assert_in_range(w.spent_us, passed_us - 1100000, passed_us); /* T1: all of its time */
    for (int n = 2; n <= STEPS; n++)
        assert_string_not_equal(w.hashes[n - 1], w.hashes[n]);
    for (int i = 0; w.held < STEPS; i++) {
        assert_true(i < 20000);
        assert_int_equal(world_tick(&w, NULL), 0);
    }
    check_metrics(w.metrics_path);
    check_final(&w);
    assert_true(w.absences >= 3); /* before every checkpoint and the result */
    stop_and_finish(&w);
    stop_learner(&w);

    /* handle_done compares every hash with the one of the first life. */
    snprintf(w.stage_directory, sizeof w.stage_directory, "%s/again", w.directory);
    w.generates = false;
    w.trained = w.durable = 0;
    w.readies = 0;
    start_learner(&w);
    until_ready(&w, 1);
    for (int64_t n = 1; n <= 3; n++) {
        send_batch(&w, n, n);
        until_trained(&w, n);
    }
    until_durable(&w, 2);
    stop_learner(&w); /* batch 3 is trained, published, and in no checkpoint */
    start_learner(&w);
    until_ready(&w, 2);
    assert_int_equal(w.ready_durable, 2);
    assert_int_equal(w.ready_version, 2);
    assert_int_equal(w.ready_hash_count, 2); /* of the two versions in that checkpoint */
    assert_string_equal(w.ready_hashes[1], w.hashes[1]);
    assert_string_equal(w.ready_hashes[2], w.hashes[2]);
    w.trained = 2;
    for (int64_t n = 3; n <= STEPS; n++) {
        send_batch(&w, n, n);
        until_trained(&w, n);
    }
    until_durable(&w, STEPS);
    check_final(&w);

    /* Once more, when all is done: it says so and waits for the end. */
    stop_learner(&w);
    start_learner(&w);
    until_ready(&w, 3);
    assert_int_equal(w.ready_durable, STEPS);
    stop_and_finish(&w);
    world_close(&w);
}

static void test_batches_out_of_order(void **state)
{
    (void)state;
    struct world w;
    world_open(&w);
    start_learner(&w);
    w.generates = true;
    until_trained(&w, 2);
    w.generates = false;
    until_durable(&w, 2);
    until_trained(&w, w.sent); /* a third batch may be on its way */
    world_run(&w, 500);
    int64_t trained = w.trained;
    int readies = w.readies;
    send_batch(&w, trained + 2, 1);
    until_ready(&w, readies + 1);
    assert_int_equal(w.ready_version, trained);
    assert_int_equal(w.trained, trained);

    /* One that is trained is answered again, as trained and as durable. */
    int dones = w.dones;
    w.durable = 0;
    send_batch(&w, 1, 1);
    until_durable(&w, 2);
    assert_true(w.dones >= dones + 3);
    world_run(&w, 300);
    assert_int_equal(w.trained, trained);
    world_close(&w);
}

static void test_a_new_hub_is_told_everything(void **state)
{
    (void)state;
    struct world w;
    world_open(&w);
    start_learner(&w);
    w.generates = true;
    until_durable(&w, 2);
    w.generates = false;
    until_trained(&w, w.sent);
    world_run(&w, 500);
    int64_t trained = w.trained;
    wire_server_destroy(w.server);
    w.server = NULL;
    world_run(&w, 4000);
    int readies = w.readies;
    memset(w.hashes, 0, sizeof w.hashes);
    open_hub(&w);
    until_ready(&w, readies + 1);
    assert_int_equal(w.ready_durable, 2);
    assert_int_equal(w.ready_version, trained);
    /* The hashes too, of every version that this process has made: a hub that was away when one was
     * trained could not check a replay of it. */
    world_run(&w, 500);
    for (int64_t n = 1; n <= trained; n++)
        assert_int_equal(strlen(w.hashes[n]), HASH_HEX_SIZE - 1);
    w.generates = true;
    until_durable(&w, STEPS);
    world_close(&w);
}

/* A learner of another machine that died before it heard that all is over does not wait for ever.
 */
static void test_a_hub_that_has_ended_is_not_waited_for(void **state)
{
    (void)state;
    struct world w;
    bool finished = false;
    world_open(&w);
    start_learner(&w);
    w.generates = true;
    until_durable(&w, STEPS);
    stop_learner(&w);
    wire_server_destroy(w.server);
    w.server = NULL;
    w.options.hub_elsewhere = true;
    start_learner(&w);
    for (int second = 0; second < 70; second++, w.now_ns += INT64_C(1000000000)) {
        assert_int_equal(world_tick(&w, &finished), 0);
        assert_int_equal(finished, second > 59);
    }
    world_close(&w);
}

/* Found by the simulator: a batch lost with a connection that came back was waited for for ever. */
static void test_a_lost_batch_is_asked_for_again(void **state)
{
    (void)state;
    struct world w;
    world_open(&w);
    w.answers = true; /* so the hub is there; it sends nothing */
    start_learner(&w);
    until_ready(&w, 1);
    world_run(&w, 8000);
    assert_int_equal(w.readies, 1);
    world_run(&w, 5000);
    assert_int_equal(w.readies, 2);
    world_close(&w);
}

static void test_a_policy_that_runs_away_is_stopped(void **state)
{
    (void)state;
    struct world w;
    int rc = 0;
    world_open(&w);
    w.options.guards.kl_limit = 1e-9; /* the first batch has KL 0 exactly; 2, 3 and 4 do not */
    start_learner(&w);
    w.generates = true;
    for (int i = 0; i < 20000 && rc == 0; i++)
        rc = world_tick(&w, NULL);
    assert_int_equal(rc, HONE_EGUARD);
    assert_non_null(strstr(error_message(), "batch 4: kl_drift: KL to the reference"));
    for (int i = 0; w.trained < 3; i++) { /* what it said before is still on its way */
        assert_true(i < 20000);
        wire_poll(&w.server, 1, NULL, 0, 1);
        hub_tick(&w);
    }
    assert_int_equal(w.trained, 3);
    world_close(&w);
}

static bool has_checkpoint(const struct world *w, int64_t batch)
{
    char path[HONE_PATH_MAX];
    snprintf(path, sizeof path, "%s/checkpoints/step-%lld", w->stage_directory, (long long)batch);
    return file_exists(path);
}

/* KL is above the limit from batch 2 on, in three running at 4: back to the start, and batch 5
 * starts from there again. */
static void test_a_policy_that_runs_away_goes_back(void **state)
{
    (void)state;
    struct world w;
    char start[HASH_HEX_SIZE];
    struct hash hash;
    world_open(&w);
    w.options.guards = (struct guard_options){
        .kl_limit = 1e-9, .good_after = 1, .rollbacks_max = 1, .checkpoint_steps = 2};
    start_learner(&w);
    while (w.held < 0)
        assert_int_equal(world_tick(&w, NULL), 0);
    model_hash(w.model, &hash);
    hash_hex(&hash, start);
    w.generates = true;
    until_durable(&w, 4);
    assert_false(has_checkpoint(&w, 2));
    assert_true(has_checkpoint(&w, 4));
    stop_learner(&w); /* and what the guards know comes back with the checkpoint */
    int readies = w.readies;
    start_learner(&w);
    until_ready(&w, readies + 1);
    assert_true(w.ready_durable >= 4);
    until_durable(&w, STEPS);
    world_run(&w, 500);
    assert_string_not_equal(w.hashes[3], start);
    assert_string_equal(w.hashes[4], start);
    assert_string_not_equal(w.hashes[5], start);
    world_close(&w);
}

/* Batches 4 to 6 have gradients that are not numbers: the first two are skipped, the third goes
 * back to the checkpoint that a good batch has followed. */
static void test_what_is_no_number_is_skipped_then_gone_back_from(void **state)
{
    (void)state;
    struct world w;
    world_open(&w);
    w.options.advantage.scale = SCALE_NONE;
    w.options.guards = (struct guard_options){
        .mismatch = true, .good_after = 1, .rollbacks_max = 1, .checkpoint_steps = 2};
    w.poisoned = 4;
    start_learner(&w);
    w.generates = true;
    until_durable(&w, STEPS);
    world_run(&w, 500);
    assert_string_not_equal(w.hashes[3], w.hashes[2]);
    assert_string_equal(w.hashes[4], w.hashes[3]);
    assert_string_equal(w.hashes[5], w.hashes[3]);
    assert_string_equal(w.hashes[6], w.hashes[2]);
    assert_true(has_checkpoint(&w, 2) && has_checkpoint(&w, 6));
    assert_false(has_checkpoint(&w, 4));
    world_close(&w);
}

static void test_what_cannot_be_started_or_trained(void **state)
{
    (void)state;
    struct world w;
    struct learner_stage *none;
    int rc = 0;
    world_open(&w);
    start_learner(&w);
    w.generates = true;
    until_durable(&w, 2);
    stop_learner(&w);

    w.options.recipe_hash = "bbbb";
    assert_int_equal(learner_stage_create(&none, &w.options, &w.compute, w.context, &w.clock, NULL),
                     HONE_EINVAL);
    assert_non_null(strstr(error_message(), "recipe aaaa"));
    w.options.recipe_hash = "aaaa";
    w.options.reference_directory = NULL;
    assert_int_equal(learner_stage_create(&none, &w.options, &w.compute, w.context, &w.clock, NULL),
                     HONE_EINVAL); /* kl_coef without a reference */
    w.options.reference_directory = w.model_directory;
    w.options.model_directory = w.directory;
    assert_true(learner_stage_create(&none, &w.options, &w.compute, w.context, &w.clock, NULL) < 0);
    assert_null(none);

    w.options.model_directory = w.model_directory;
    w.generates = false;
    int readies = w.readies;
    start_learner(&w);
    until_ready(&w, readies + 1);
    w.batches[1].trajectories[0].tokens[1] = 5000;
    send_batch(&w, w.ready_version + 1, 1);
    for (int i = 0; i < 20000 && rc == 0; i++)
        rc = world_tick(&w, NULL);
    assert_int_equal(rc, HONE_EFORMAT);
    assert_non_null(strstr(error_message(), "has id 5000 of 101"));
    world_close(&w);
}

int main(void)
{
    log_set_level(LOG_LEVEL_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_restart_equals_the_uninterrupted_run),
        cmocka_unit_test(test_batches_out_of_order),
        cmocka_unit_test(test_a_new_hub_is_told_everything),
        cmocka_unit_test(test_a_hub_that_has_ended_is_not_waited_for),
        cmocka_unit_test(test_a_lost_batch_is_asked_for_again),
        cmocka_unit_test(test_a_policy_that_runs_away_is_stopped),
        cmocka_unit_test(test_a_policy_that_runs_away_goes_back),
        cmocka_unit_test(test_what_is_no_number_is_skipped_then_gone_back_from),
        cmocka_unit_test(test_what_cannot_be_started_or_trained),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

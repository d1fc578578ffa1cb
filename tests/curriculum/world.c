#include "tests/curriculum/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/hash.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/wire/codec.h"

#define ENDPOINT     "inproc://hub"
#define TICK_NS      20000000
#define PER_SECOND   50 /* ticks */
#define PROMPT_COUNT 13

uint64_t world_draw(struct world *world, uint64_t bound)
{
    struct rng_key key = {world->options.seed, RNG_SIM, 0, 0};
    return rng_below(&key, world->draws++, bound);
}

static bool strikes(struct world *world, int rate)
{
    return rate > 0 && world_draw(world, 1000) < (uint64_t)rate;
}

static uint64_t mix(uint64_t a, uint64_t b)
{
    uint64_t words[2] = {a, b};
    return hash_u64(words, sizeof words);
}

struct world_options world_defaults(void)
{
    struct world_options options = {0};
    options.hub = (struct curriculum_options){.hub_endpoint = ENDPOINT,
                                              .recipe_hash = "recipe",
                                              .run_id = "run",
                                              .prompt_count = PROMPT_COUNT,
                                              .seed = 7,
                                              .steps = 6,
                                              .prompts_per_step = 4,
                                              .group_size = 4,
                                              .staleness_max = 0,
                                              .drop_zero_advantage = true,
                                              .refill_max = 2,
                                              .lease_timeout_ms = 60000,
                                              .lease_retries = 3,
                                              .score_retries = 2,
                                              .max_error_rate = 1,
                                              .stall_ms = 60000};
    options.hub.sampling =
        (struct sampling){.temperature = 1, .top_p = 1, .max_completion_tokens = 8};
    options.seed = 1;
    options.actors = 1;
    options.scorers = 1;
    options.slots = 8;
    options.checkpoint_every = 2;
    options.zero_groups = 25;
    return options;
}

/* ---- processes ---- */

static void connect_worker(struct world *world, struct fake_worker *worker)
{
    assert_int_equal(wire_client_create(&worker->client, world->context, ENDPOINT, worker->name),
                     0);
    worker->welcomed = false;
    worker->hello_tick = -1;
}

static void start_worker(struct world *world, struct fake_worker *worker, Hone__Role role,
                         const char *name)
{
    memset(worker, 0, sizeof *worker);
    snprintf(worker->name, sizeof worker->name, "%s", name);
    worker->role = role;
    worker->alive = true;
    worker->incarnation = mix(world->options.seed, ++world->incarnations);
    worker->version = -1;
    connect_worker(world, worker);
}

static void start_hub(struct world *world)
{
    struct curriculum_options options = world->options.hub;
    options.prompts = world->prompts;
    world->context = wire_context_create();
    if (run_log_open(&world->log, world->directory, false) < 0 ||
        curriculum_stage_create(&world->hub, &options, world->log, world->context, &world->clock,
                                NULL) < 0)
        fail_msg("%s", error_message());
}

static void each_worker(struct world *world,
                        void (*act)(struct world *world, struct fake_worker *worker))
{
    for (int i = 0; i < world->options.actors; i++)
        act(world, &world->actors[i]);
    for (int i = 0; i < world->options.scorers; i++)
        act(world, &world->scorers[i]);
    act(world, &world->learner.worker);
}

static void disconnect_worker(struct world *world, struct fake_worker *worker)
{
    (void)world;
    wire_client_destroy(worker->client);
    worker->client = NULL;
}

static void stop_hub(struct world *world)
{
    each_worker(world, disconnect_worker);
    curriculum_stage_destroy(world->hub);
    world->hub = NULL;
    run_log_close(world->log);
    wire_context_destroy(world->context);
}

void world_start(struct world *world, const struct world_options *options)
{
    char name[16];
    memset(world, 0, sizeof *world);
    world->options = *options;
    world->now_ns = 1000000000000;
    world->clock = clock_fake(&world->now_ns);
    /* In memory where there is such a place: thousands of synced commits are not the subject. */
    snprintf(world->directory, sizeof world->directory, "%s/hone_test_world_XXXXXX",
             file_is_directory("/dev/shm") ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(world->directory));
    world->prompts = MEMORY_ARRAY(struct prompt, PROMPT_COUNT);
    for (int i = 0; i < PROMPT_COUNT; i++) {
        world->prompts[i].id = (uint64_t)i;
        world->prompts[i].token_count = 1 + i % 3;
        world->prompts[i].tokens = MEMORY_ARRAY(int32_t, world->prompts[i].token_count);
        for (int k = 0; k < world->prompts[i].token_count; k++)
            world->prompts[i].tokens[k] = i * 10 + k;
    }
    start_hub(world);
    for (int i = 0; i < options->actors; i++) {
        snprintf(name, sizeof name, "actor-%d", i);
        start_worker(world, &world->actors[i], HONE__ROLE__ROLE_ACTOR, name);
    }
    for (int i = 0; i < options->scorers; i++) {
        snprintf(name, sizeof name, "scorer-%d", i);
        start_worker(world, &world->scorers[i], HONE__ROLE__ROLE_SCORER, name);
    }
    start_worker(world, &world->learner.worker, HONE__ROLE__ROLE_LEARNER, "learner-0");
    world->learner.weights = world->learner.durable_weights = world->learner.weights_at[0] = 99;
}

void world_end(struct world *world)
{
    stop_hub(world);
    file_remove_tree(world->directory);
    for (int i = 0; i < PROMPT_COUNT; i++)
        memory_free(world->prompts[i].tokens);
    memory_free(world->prompts);
}

void world_kill_hub(struct world *world)
{
    world->hub_restarts++;
    stop_hub(world);
    start_hub(world);
    each_worker(world, connect_worker);
}

void world_kill(struct world *world, struct fake_worker *worker)
{
    char name[16];
    world->deaths++;
    memcpy(name, worker->name, sizeof name);
    disconnect_worker(world, worker);
    start_worker(world, worker, worker->role, name);
}

void world_kill_learner(struct world *world)
{
    struct fake_learner *learner = &world->learner;
    world_kill(world, &learner->worker);
    learner->trained = learner->durable;
    learner->weights = learner->durable_weights;
    learner->queue_count = 0;
}

/* ---- what all workers do ---- */

static bool say(struct fake_worker *worker, Hone__Envelope *envelope, Hone__Kind kind)
{
    envelope->kind = kind;
    return wire_client_send(worker->client, envelope, NULL, 0) == 0;
}

static void say_hello(struct world *world, struct fake_worker *worker)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Hello hello = HONE__HELLO__INIT;
    char hash[] = "recipe";
    hello.protocol = WIRE_PROTOCOL;
    hello.role = worker->role;
    hello.worker = worker->name;
    hello.recipe_hash = hash;
    hello.pid = 1;
    hello.incarnation = worker->incarnation;
    envelope.hello = &hello;
    if (say(worker, &envelope, HONE__KIND__KIND_HELLO))
        worker->hello_tick = worker->heard_tick = world->tick;
}

static void say_heartbeat(struct world *world, struct fake_worker *worker)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Heartbeat beat = HONE__HEARTBEAT__INIT;
    envelope.heartbeat = &beat;
    say(worker, &envelope, HONE__KIND__KIND_HEARTBEAT);
    worker->beat_tick = world->tick;
}

static void keep_contact(struct world *world, struct fake_worker *worker)
{
    if (worker->hello_tick < 0 || world->tick - worker->heard_tick > 3 * PER_SECOND)
        say_hello(world, worker);
    else if (worker->welcomed && world->tick - worker->beat_tick >= PER_SECOND)
        say_heartbeat(world, worker);
}

/* ---- actors ---- */

static int held(const struct fake_worker *actor)
{
    int count = 0;
    for (int i = 0; i < WORLD_HELD_MAX; i++)
        count += actor->samples[i].used && !actor->samples[i].finished;
    return count;
}

static void actor_credit(struct world *world, struct fake_worker *actor)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__LeaseCredit credit = HONE__LEASE_CREDIT__INIT;
    credit.samples = world->options.slots - actor->credit - held(actor);
    if (credit.samples <= 0)
        return;
    envelope.lease_credit = &credit;
    if (say(actor, &envelope, HONE__KIND__KIND_LEASE_CREDIT))
        actor->credit += credit.samples;
}

/* The tokens depend on what the lease says and on the version, on nothing else. */
static void fill_trajectory(struct world *world, const struct held_sample *sample,
                            struct trajectory *trajectory)
{
    const struct prompt *prompt = &world->prompts[sample->prompt_id];
    uint64_t state = mix(mix(sample->seed, sample->prompt_id),
                         mix((uint64_t)sample->index, (uint64_t)sample->first_version));
    int32_t length = 2 + (int32_t)(state % 4), at = prompt->token_count;
    trajectory_init(trajectory, at + length);
    trajectory->id = sample->id;
    trajectory->prompt_id = sample->prompt_id;
    trajectory->group_id = sample->group_id;
    trajectory->sample_index = sample->index;
    trajectory->lease_id = sample->lease_id;
    trajectory->fence = sample->fence;
    trajectory->prompt_tokens = at;
    trajectory->token_count = at + length;
    trajectory->finish = FINISH_STOP;
    trajectory->sampling = world->options.hub.sampling;
    trajectory->sampling.seed = sample->seed;
    memcpy(trajectory->tokens, prompt->tokens, (size_t)at * sizeof(int32_t));
    trajectory_add_segment(trajectory, SEGMENT_PROMPT, at);
    trajectory_add_segment(trajectory, SEGMENT_POLICY, length);
    for (int32_t i = 0; i < at; i++)
        trajectory->policy_version[i] = -1;
    for (int32_t i = 0; i < length; i++) {
        trajectory->tokens[at + i] = (int32_t)(mix(state, (uint64_t)i) % 500);
        trajectory->loss_mask[at + i] = 1;
        trajectory->behavior_logprob[at + i] = -1.0f;
        trajectory->policy_version[at + i] =
            2 * i < length ? sample->first_version : sample->last_version;
    }
}

/* A sample of the lease goes on from what was reported of it: by whom does not matter, what it says
 * does. */
static void resume_sample(struct world *world, struct fake_worker *actor, const Hone__Lease *lease,
                          const Hone__Trajectory *message)
{
    struct trajectory prefix, whole;
    assert_int_equal(wire_trajectory_read(message, &prefix), 0);
    for (int i = 0; i < WORLD_HELD_MAX; i++) {
        struct held_sample *sample = &actor->samples[i];
        if (!sample->used || sample->lease_id != lease->lease_id ||
            sample->index != prefix.sample_index)
            continue;
        sample->resumed = true;
        sample->first_version = prefix.policy_version[0];
        sample->reported = sample->durable = prefix.token_count;
        assert_true(sample->first_version >= 0 && prefix.prompt_tokens == 0);
        assert_true(lease->min_policy_version >= trajectory_newest_version(&prefix)); /* G2 */
        sample->last_version = sample->first_version;
        fill_trajectory(world, sample, &whole);
        assert_true(prefix.token_count < whole.token_count - whole.prompt_tokens);
        assert_memory_equal(prefix.tokens, whole.tokens + whole.prompt_tokens,
                            (size_t)prefix.token_count * sizeof(int32_t));
        trajectory_release(&whole);
        world->resumed++;
    }
    trajectory_release(&prefix);
}

static void actor_lease(struct world *world, struct fake_worker *actor, const Hone__Lease *lease)
{
    actor->credit -= lease->sample_count < actor->credit ? lease->sample_count : actor->credit;
    assert_int_equal(lease->prompt_tokens.len, world->prompts[lease->prompt_id].token_count * 4);
    for (int i = 0; i < WORLD_HELD_MAX; i++)
        if (actor->samples[i].used && actor->samples[i].lease_id == lease->lease_id)
            return; /* sent again */
    for (int32_t k = 0; k < lease->sample_count; k++) {
        int free_slot = 0;
        while (free_slot < WORLD_HELD_MAX && actor->samples[free_slot].used)
            free_slot++;
        assert_in_range(free_slot, 0, WORLD_HELD_MAX - 1);
        struct held_sample *sample = &actor->samples[free_slot];
        memset(sample, 0, sizeof *sample);
        sample->used = true;
        sample->lease_id = lease->lease_id;
        sample->fence = lease->fence;
        sample->group_id = lease->group_id;
        sample->prompt_id = lease->prompt_id;
        sample->index = lease->sample_first + k;
        sample->seed = lease->sampling->seed;
        sample->id = mix(mix(lease->group_id, (uint64_t)sample->index), lease->fence);
        sample->min_version = lease->min_policy_version;
        sample->first_version = -1;
        sample->wait_ticks = 1 + (int)world_draw(world, 40);
        sample->sent_tick = -1;
    }
    for (size_t i = 0; i < lease->n_prefixes; i++)
        resume_sample(world, actor, lease, lease->prefixes[i]);
}

/* Reports tokens of the first version, a few at a time, from what the hub has acknowledged on. */
static void report_sample(struct world *world, struct fake_worker *actor,
                          struct held_sample *sample)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Progress progress = HONE__PROGRESS__INIT;
    struct trajectory whole;
    struct wire_trajectory wire;
    sample->last_version = sample->first_version;
    fill_trajectory(world, sample, &whole);
    struct trajectory piece = whole; /* a view */
    int32_t at = whole.prompt_tokens + sample->durable;
    int32_t most = (whole.token_count - whole.prompt_tokens + 1) / 2 - sample->durable;
    struct segment segment = {.kind = SEGMENT_POLICY};
    segment.count = most > 0 ? 1 + (int32_t)world_draw(world, (uint64_t)most) : 0;
    piece.prompt_tokens = 0;
    piece.token_count = segment.count;
    piece.segment_count = 1;
    piece.segments = &segment;
    piece.finish = FINISH_NONE;
    piece.tokens += at;
    piece.loss_mask += at;
    piece.behavior_logprob += at;
    piece.log_mass += at;
    piece.policy_version += at;
    piece.kv_mixed += at;
    wire_trajectory_build(&wire, &piece);
    progress.offset = sample->durable;
    progress.chunk = &wire.message;
    envelope.progress = &progress;
    if (segment.count > 0 && say(actor, &envelope, HONE__KIND__KIND_PROGRESS)) {
        world->reports++;
        sample->reported = sample->durable + segment.count;
    }
    wire_trajectory_release(&wire);
    trajectory_release(&whole);
}

static void actor_progress_ack(struct world *world, struct fake_worker *actor,
                               const Hone__ProgressAck *ack)
{
    for (int i = 0; i < WORLD_HELD_MAX; i++) {
        struct held_sample *sample = &actor->samples[i];
        if (!sample->used || sample->lease_id != ack->lease_id ||
            sample->index != ack->sample_index)
            continue;
        assert_true(ack->tokens <= sample->reported);
        if (ack->tokens >= 0)
            sample->durable = ack->tokens;
        else if (!sample->finished) { /* nobody waits for it any more */
            sample->used = false;
            world->over++;
        }
    }
}

void world_send_sample(struct world *world, struct fake_worker *actor, struct held_sample *sample)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    struct trajectory trajectory;
    struct wire_trajectory wire;
    fill_trajectory(world, sample, &trajectory);
    wire_trajectory_build(&wire, &trajectory);
    envelope.trajectory = &wire.message;
    if (say(actor, &envelope, HONE__KIND__KIND_TRAJECTORY)) {
        sample->sent_tick = world->tick;
        world->trajectories_sent++;
    }
    wire_trajectory_release(&wire);
    trajectory_release(&trajectory);
}

static void actor_ack(struct world *world, struct fake_worker *actor,
                      const Hone__TrajectoryAck *ack)
{
    world->refusals += ack->has_refused && ack->refused;
    for (int i = 0; i < WORLD_HELD_MAX; i++) {
        struct held_sample *sample = &actor->samples[i];
        if (!sample->used || sample->id != ack->id)
            continue;
        assert_true(sample->finished);
        sample->used = false;
        return;
    }
}

static void actor_work(struct world *world, struct fake_worker *actor)
{
    for (int i = 0; i < WORLD_HELD_MAX; i++) {
        struct held_sample *sample = &actor->samples[i];
        if (!sample->used)
            continue;
        if (!sample->finished) {
            if (sample->first_version < 0 && actor->version >= sample->min_version)
                sample->first_version = actor->version;
            if (sample->first_version >= 0 && strikes(world, world->options.rates.progress))
                report_sample(world, actor, sample);
            if (sample->first_version < 0 || actor->version < sample->min_version ||
                sample->wait_ticks-- > 0)
                continue;
            sample->last_version = actor->version;
            sample->finished = true;
        }
        if (sample->sent_tick < 0 || world->tick - sample->sent_tick > 5 * PER_SECOND)
            world_send_sample(world, actor, sample);
        if (world->options.rates.duplicate > 0 && !world->faults_off &&
            world_draw(world, 1000) < (uint64_t)world->options.rates.duplicate) {
            world_send_sample(world, actor, sample);
            world->duplicates_sent++;
        }
    }
    actor_credit(world, actor);
}

/* ---- scorers ---- */

static void scorer_credit(struct world *world, struct fake_worker *scorer, int32_t count)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__ScoreCredit credit = HONE__SCORE_CREDIT__INIT;
    (void)world;
    credit.count = count;
    envelope.score_credit = &credit;
    say(scorer, &envelope, HONE__KIND__KIND_SCORE_CREDIT);
}

static void scorer_request(struct world *world, struct fake_worker *scorer,
                           const Hone__ScoreRequest *request)
{
    struct held_score *score = NULL;
    for (int i = 0; i < WORLD_HELD_MAX; i++) {
        if (scorer->scores[i].used && scorer->scores[i].id == request->trajectory_id) {
            score = &scorer->scores[i];
            if (score->attempt >= request->attempt) {
                score->sent_tick = -1;
                return;
            }
            break;
        }
        if (!scorer->scores[i].used && score == NULL)
            score = &scorer->scores[i];
    }
    assert_non_null(score);
    *score = (struct held_score){.used = true,
                                 .id = request->trajectory_id,
                                 .attempt = request->attempt,
                                 .tokens_hash = hash_u64(request->tokens.data, request->tokens.len),
                                 .wait_ticks = 1 + (int)world_draw(world, 10),
                                 .sent_tick = -1};
    /* Groups whose rewards are all equal: decided by the group, not by the text. */
    if (mix(request->group_id, 5) % 100 < (uint64_t)world->options.zero_groups)
        score->tokens_hash = 0;
}

static void scorer_send(struct world *world, struct fake_worker *scorer, struct held_score *score)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__ScoreResult result = HONE__SCORE_RESULT__INIT;
    struct reward reward = {.status = REWARD_OK, .part_count = 1};
    struct wire_reward wire;
    uint64_t fault = world_draw(world, 1000);
    snprintf(reward.parts[0].name, sizeof reward.parts[0].name, "sum");
    reward.parts[0].weight = 1;
    if (world->faults_off)
        fault = 1000;
    if (fault < (uint64_t)world->options.rates.score_error)
        reward.status = REWARD_ERROR;
    else if (fault <
             (uint64_t)(world->options.rates.score_error + world->options.rates.score_timeout))
        reward.status = REWARD_TIMEOUT;
    reward.parts[0].status = reward.status;
    if (reward.status == REWARD_OK)
        reward.parts[0].value = reward.total = (float)(score->tokens_hash % 5);
    wire_reward_build(&wire, &reward);
    result.trajectory_id = score->id;
    result.attempt = score->attempt;
    result.reward = &wire.message;
    envelope.score_result = &result;
    if (say(scorer, &envelope, HONE__KIND__KIND_SCORE_RESULT))
        score->sent_tick = world->tick;
}

static void scorer_work(struct world *world, struct fake_worker *scorer)
{
    for (int i = 0; i < WORLD_HELD_MAX; i++) {
        struct held_score *score = &scorer->scores[i];
        if (!score->used || score->wait_ticks-- > 0)
            continue;
        if (score->sent_tick < 0 || world->tick - score->sent_tick > 5 * PER_SECOND)
            scorer_send(world, scorer, score);
    }
}

static void scorer_welcome(struct world *world, struct fake_worker *scorer)
{
    int32_t used = 0;
    for (int i = 0; i < WORLD_HELD_MAX; i++) {
        used += scorer->scores[i].used;
        scorer->scores[i].sent_tick = -1;
    }
    if (used < world->options.slots)
        scorer_credit(world, scorer, world->options.slots - used);
}

static void scorer_ack(struct world *world, struct fake_worker *scorer, uint64_t id)
{
    for (int i = 0; i < WORLD_HELD_MAX; i++) {
        if (!scorer->scores[i].used || scorer->scores[i].id != id)
            continue;
        scorer->scores[i].used = false;
        scorer_credit(world, scorer, 1);
    }
}

/* ---- the learner ---- */

static void learner_ready(struct world *world)
{
    struct fake_learner *learner = &world->learner;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__LearnerReady ready = HONE__LEARNER_READY__INIT;
    char endpoint[] = "inproc://weights";
    ready.durable_batch = learner->durable;
    ready.policy_version = learner->trained;
    ready.weights_endpoint = endpoint;
    envelope.learner_ready = &ready;
    learner->queue_count = 0;
    say(&learner->worker, &envelope, HONE__KIND__KIND_LEARNER_READY);
}

static void learner_done(struct world *world, int64_t number, bool durable)
{
    struct fake_learner *learner = &world->learner;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__BatchDone done = HONE__BATCH_DONE__INIT;
    char hash[32];
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)learner->weights_at[number]);
    done.number = number;
    done.has_durable = 1;
    done.durable = durable;
    done.has_policy_version = 1;
    done.policy_version = learner->trained;
    done.weights_hash = hash;
    envelope.batch_done = &done;
    say(&learner->worker, &envelope, HONE__KIND__KIND_BATCH_DONE);
}

/* Order, staleness, completeness; and the same bytes as when it was sent before. */
static void learner_batch(struct world *world, const Hone__Batch *batch)
{
    struct fake_learner *learner = &world->learner;
    const struct curriculum_options *options = &world->options.hub;
    uint64_t hash = (uint64_t)batch->number, last_group = 0;
    int32_t size = options->group_size;
    assert_in_range(batch->number, 1, options->steps);
    assert_int_equal(batch->group_count, options->prompts_per_step);
    assert_int_equal(batch->n_trajectories, options->prompts_per_step * size);
    for (size_t i = 0; i < batch->n_trajectories; i++) {
        struct trajectory trajectory;
        assert_int_equal(wire_trajectory_read(batch->trajectories[i], &trajectory), 0);
        assert_int_equal(trajectory.sample_index, i % (size_t)size);
        if (i % (size_t)size == 0)
            assert_true(trajectory.group_id > last_group);
        else
            assert_int_equal(trajectory.group_id, last_group);
        last_group = trajectory.group_id;
        int64_t staleness = batch->number - 1 - trajectory_oldest_version(&trajectory);
        assert_in_range(staleness, 0, options->staleness_max); /* G3 */
        if (staleness > world->staleness_seen)
            world->staleness_seen = staleness;
        assert_true(trajectory.scored_ms != 0);
        hash = mix(hash, hash_u64(trajectory.tokens, (size_t)trajectory.token_count * 4));
        hash = mix(hash, (uint64_t)(trajectory.reward.total * 8) + trajectory.group_id);
        trajectory_release(&trajectory);
    }
    if (world->batch_hash[batch->number] == 0)
        world->batch_hash[batch->number] = hash;
    assert_int_equal(world->batch_hash[batch->number], hash); /* G4: unchanged */
    assert_int_equal(batch->number, learner->trained + learner->queue_count + 1);
    assert_in_range(learner->queue_count, 0, 1);
    if (learner->queue_count == 0)
        learner->train_ticks = 2 + (int)world_draw(world, 30);
    learner->queue[learner->queue_count++] = batch->number;
}

static void learner_work(struct world *world)
{
    struct fake_learner *learner = &world->learner;
    if (learner->queue_count == 0 || !learner->worker.welcomed || learner->train_ticks-- > 0)
        return;
    int64_t number = learner->queue[0];
    learner->queue[0] = learner->queue[1];
    learner->queue_count--;
    learner->train_ticks = 2 + (int)world_draw(world, 30);
    learner->weights = mix(learner->weights, world->batch_hash[number]);
    learner->weights_at[number] = learner->weights;
    learner->trained = number;
    learner_done(world, number, false);
    if (number % world->options.checkpoint_every == 0 || number == world->options.hub.steps) {
        learner->durable = number;
        learner->durable_weights = learner->weights;
        learner_done(world, number, true);
    }
}

/* ---- a tick ---- */

static void on_message(struct world *world, struct fake_worker *worker,
                       const Hone__Envelope *envelope)
{
    worker->heard_tick = world->tick;
    /* Sent to the process that had this name before: not for us. */
    if (!worker->welcomed && envelope->kind == HONE__KIND__KIND_BATCH)
        return;
    switch ((int)envelope->kind) {
    case HONE__KIND__KIND_WELCOME:
        worker->welcomed = true;
        worker->credit = 0;
        if (worker->role == HONE__ROLE__ROLE_ACTOR &&
            envelope->welcome->policy_version > worker->version)
            worker->version = envelope->welcome->policy_version;
        for (int i = 0; i < WORLD_HELD_MAX; i++)
            worker->samples[i].sent_tick = -1;
        if (worker->role == HONE__ROLE__ROLE_SCORER)
            scorer_welcome(world, worker);
        if (worker->role == HONE__ROLE__ROLE_LEARNER)
            learner_ready(world);
        break;
    case HONE__KIND__KIND_LEASE:
        actor_lease(world, worker, envelope->lease);
        break;
    case HONE__KIND__KIND_TRAJECTORY_ACK:
        actor_ack(world, worker, envelope->trajectory_ack);
        break;
    case HONE__KIND__KIND_PROGRESS_ACK:
        actor_progress_ack(world, worker, envelope->progress_ack);
        break;
    case HONE__KIND__KIND_WEIGHTS_NOTICE:
        if (envelope->weights_notice->version > worker->version)
            worker->version = envelope->weights_notice->version;
        break;
    case HONE__KIND__KIND_SCORE_REQUEST:
        scorer_request(world, worker, envelope->score_request);
        break;
    case HONE__KIND__KIND_SCORE_ACK:
        scorer_ack(world, worker, envelope->score_ack->trajectory_id);
        break;
    case HONE__KIND__KIND_BATCH:
        learner_batch(world, envelope->batch);
        break;
    case HONE__KIND__KIND_STOP:
        worker->stopped = true;
        break;
    case HONE__KIND__KIND_REFUSED:
        worker->refused = true;
        break;
    default:
        break;
    }
}

static void tick_worker(struct world *world, struct fake_worker *worker)
{
    struct wire_message message;
    bool held_back = (worker->role == HONE__ROLE__ROLE_ACTOR && world->hold_actors) ||
                     (worker->role == HONE__ROLE__ROLE_SCORER && world->hold_scorers) ||
                     (worker->role == HONE__ROLE__ROLE_LEARNER && world->hold_learner);
    if (!worker->alive || worker->stopped)
        return;
    while (wire_client_receive(worker->client, &message) > 0) {
        on_message(world, worker, message.envelope);
        wire_message_release(&message);
    }
    keep_contact(world, worker);
    if (!worker->welcomed || held_back)
        return;
    if (worker->role == HONE__ROLE__ROLE_ACTOR)
        actor_work(world, worker);
    else if (worker->role == HONE__ROLE__ROLE_SCORER)
        scorer_work(world, worker);
    else
        learner_work(world);
}

static void apply_faults(struct world *world)
{
    const struct world_rates *rates = &world->options.rates;
    for (int i = 0; i < world->options.actors; i++)
        if (strikes(world, rates->actor_death))
            world_kill(world, &world->actors[i]);
    for (int i = 0; i < world->options.scorers; i++)
        if (strikes(world, rates->scorer_death))
            world_kill(world, &world->scorers[i]);
    if (strikes(world, rates->learner_death))
        world_kill_learner(world);
    if (strikes(world, rates->hub_death))
        world_kill_hub(world);
}

void world_tick(struct world *world)
{
    struct stage_wait wait = {0};
    struct fake_worker *order[WORLD_ACTORS_MAX + WORLD_SCORERS_MAX + 1];
    int count = 0;
    world->now_ns += TICK_NS;
    world->tick++;
    if (!world->faults_off)
        apply_faults(world);
    int rc = curriculum_stage_tick(world->hub, &wait);
    if (rc < 0 && !world->hub_may_stop)
        fail_msg("the hub stopped: %s", error_message());
    world->hub_error = rc;
    if (rc < 0)
        return;
    world->finished = wait.finished;
    for (int i = 0; i < world->options.actors; i++)
        order[count++] = &world->actors[i];
    for (int i = 0; i < world->options.scorers; i++)
        order[count++] = &world->scorers[i];
    order[count++] = &world->learner.worker;
    while (count > 0) { /* in another order each time */
        int pick = (int)world_draw(world, (uint64_t)count);
        tick_worker(world, order[pick]);
        order[pick] = order[--count];
    }
}

void world_run(struct world *world, int64_t limit)
{
    int64_t end = world->tick + limit;
    while (!world->finished) {
        if (world->tick == end)
            fail_msg("not finished after %lld ticks (seed %llu): batch %lld trained",
                     (long long)limit, (unsigned long long)world->options.seed,
                     (long long)world->learner.trained);
        world_tick(world);
    }
}

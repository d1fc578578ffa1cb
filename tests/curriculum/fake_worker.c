#include "tests/curriculum/fake_worker.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "infra/base/hash.h"
#include "infra/wire/codec.h"
#include "infra/wire/envelope.h"

uint64_t fake_mix(uint64_t a, uint64_t b)
{
    uint64_t words[2] = {a, b};
    return hash_u64(words, sizeof words);
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

/* What a worker is owed (credit it gave, a batch) may have been lost with a connection that came
 * back: when it has had nothing to do for ten seconds it says Hello again. */
static void keep_contact(struct world *world, struct fake_worker *worker)
{
    int64_t since =
        worker->worked_tick > worker->hello_tick ? worker->worked_tick : worker->hello_tick;
    bool idle = worker->welcomed && world->tick - since > 10 * WORLD_PER_SECOND;
    if (worker->hello_tick < 0 || world->tick - worker->heard_tick > 3 * WORLD_PER_SECOND || idle)
        say_hello(world, worker);
    else if (worker->welcomed && world->tick - worker->beat_tick >= WORLD_PER_SECOND)
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
    uint64_t state = fake_mix(fake_mix(sample->seed, sample->prompt_id),
                              fake_mix((uint64_t)sample->index, (uint64_t)sample->first_version));
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
        trajectory->tokens[at + i] = (int32_t)(fake_mix(state, (uint64_t)i) % 500);
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
        sample->id = fake_mix(fake_mix(lease->group_id, (uint64_t)sample->index), lease->fence);
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
        if (sample->durable + segment.count > sample->reported)
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
        if (!ack->has_refused || !ack->refused) {
            assert_in_range(world->acked_count, 0, WORLD_ACKED_MAX - 1);
            world->acked[world->acked_count++] = sample->id;
        }
        return;
    }
}

static void actor_work(struct world *world, struct fake_worker *actor)
{
    const struct world_rates *rates = &world->options.rates;
    for (int i = 0; i < WORLD_HELD_MAX; i++) {
        struct held_sample *sample = &actor->samples[i];
        if (!sample->used)
            continue;
        if (!sample->finished) {
            if (sample->first_version < 0 && actor->version >= sample->min_version)
                sample->first_version = actor->version;
            if (sample->first_version >= 0 && rates->progress > 0 &&
                world_draw(world, 1000) < (uint64_t)rates->progress)
                report_sample(world, actor, sample);
            if (sample->first_version < 0 || actor->version < sample->min_version ||
                sample->wait_ticks-- > 0)
                continue;
            sample->last_version = actor->version;
            sample->finished = true;
        }
        if (sample->sent_tick < 0 || world->tick - sample->sent_tick > 5 * WORLD_PER_SECOND)
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
                                 .group_id = request->group_id,
                                 .text_hash = hash_u64(request->tokens.data, request->tokens.len),
                                 .wait_ticks = 1 + (int)world_draw(world, 10),
                                 .sent_tick = -1};
}

/* Decided by the text, the group and the attempt alone, so that it can be foretold. */
static void score(const struct world *world, uint64_t group_id, uint64_t text_hash,
                  uint64_t attempt, struct reward *reward)
{
    const struct world_rates *rates = &world->options.rates;
    uint64_t fault = fake_mix(text_hash, attempt) % 1000;
    *reward = (struct reward){.status = REWARD_OK, .part_count = 1};
    snprintf(reward->parts[0].name, sizeof reward->parts[0].name, "sum");
    reward->parts[0].weight = 1;
    if (fault < (uint64_t)rates->score_error)
        reward->status = REWARD_ERROR;
    else if (fault < (uint64_t)(rates->score_error + rates->score_timeout))
        reward->status = REWARD_TIMEOUT;
    reward->parts[0].status = reward->status;
    /* Groups whose rewards are all equal: decided by the group, not by the text. */
    bool uniform = fake_mix(group_id, 5) % 100 < (uint64_t)world->options.zero_groups;
    if (reward->status == REWARD_OK)
        reward->parts[0].value = reward->total = uniform ? 0.0f : (float)(text_hash % 5);
}

void world_expected_reward(const struct world *world, uint64_t group_id, uint64_t text_hash,
                           struct reward *reward)
{
    uint64_t attempt = 1, last = (uint64_t)world->options.hub.score_retries + 1;
    do
        score(world, group_id, text_hash, attempt, reward);
    while (reward->status != REWARD_OK && attempt++ < last);
}

static void scorer_send(struct world *world, struct fake_worker *scorer, struct held_score *held)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__ScoreResult result = HONE__SCORE_RESULT__INIT;
    struct reward reward;
    struct wire_reward wire;
    score(world, held->group_id, held->text_hash, held->attempt, &reward);
    wire_reward_build(&wire, &reward);
    result.trajectory_id = held->id;
    result.attempt = held->attempt;
    result.reward = &wire.message;
    envelope.score_result = &result;
    if (say(scorer, &envelope, HONE__KIND__KIND_SCORE_RESULT))
        held->sent_tick = world->tick;
}

static void scorer_work(struct world *world, struct fake_worker *scorer)
{
    for (int i = 0; i < WORLD_HELD_MAX; i++) {
        struct held_score *score = &scorer->scores[i];
        if (!score->used || score->wait_ticks-- > 0)
            continue;
        if (score->sent_tick < 0 || world->tick - score->sent_tick > 5 * WORLD_PER_SECOND)
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

struct durable_hashes {
    size_t count;
    char text[WORLD_BATCHES_MAX][WORLD_HASH_SIZE], *items[WORLD_BATCHES_MAX];
};

static void write_hash(const struct fake_learner *learner, int64_t version,
                       char text[WORLD_HASH_SIZE])
{
    snprintf(text, WORLD_HASH_SIZE, "%016llx", (unsigned long long)learner->weights_at[version]);
}

/* What a checkpoint of version `durable` holds. */
static void list_hashes(const struct fake_learner *learner, int64_t durable,
                        struct durable_hashes *hashes)
{
    hashes->count = 0;
    for (int64_t n = 1; n <= durable; n++) {
        hashes->items[hashes->count] = hashes->text[hashes->count];
        write_hash(learner, n, hashes->text[hashes->count++]);
    }
}

static void learner_ready(struct world *world)
{
    struct fake_learner *learner = &world->learner;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__LearnerReady ready = HONE__LEARNER_READY__INIT;
    char endpoint[] = "inproc://weights";
    ready.durable_batch = learner->durable;
    ready.policy_version = learner->trained;
    ready.weights_endpoint = endpoint;
    struct durable_hashes hashes;
    list_hashes(learner, learner->durable, &hashes);
    ready.durable_hashes = hashes.items;
    ready.n_durable_hashes = hashes.count;
    envelope.learner_ready = &ready;
    learner->queue_count = 0;
    say(&learner->worker, &envelope, HONE__KIND__KIND_LEARNER_READY);
}

/* A version may be trained before its hash is known; what makes it durable has the hashes. */
static void learner_done(struct world *world, int64_t number, bool durable)
{
    struct fake_learner *learner = &world->learner;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__BatchDone done = HONE__BATCH_DONE__INIT;
    char hash[WORLD_HASH_SIZE];
    write_hash(learner, number, hash);
    done.number = number;
    done.has_durable = 1;
    done.durable = durable;
    done.has_policy_version = 1;
    done.policy_version = learner->trained;
    struct durable_hashes hashes = {0};
    if (durable)
        list_hashes(learner, number, &hashes);
    done.durable_hashes = hashes.items;
    done.n_durable_hashes = hashes.count;
    int late = world->options.late_hashes;
    if (late == 0 || (int)world_draw(world, 100) >= late)
        done.weights_hash = hash;
    envelope.batch_done = &done;
    say(&learner->worker, &envelope, HONE__KIND__KIND_BATCH_DONE);
}

/* As the learner does it (L1): one that is trained is answered again, one that comes too early
 * means that the hub does not know where this process is. */
static void learner_not_next(struct world *world, int64_t number)
{
    struct fake_learner *learner = &world->learner;
    world->batches_out_of_turn++;
    if (number > learner->trained + learner->queue_count)
        learner_ready(world);
    else if (number <= learner->trained)
        learner_done(world, number, number <= learner->durable);
}

/* G8: the reward that the scorers gave, and no other. */
static void check_reward(const struct world *world, const struct trajectory *trajectory,
                         uint64_t text_hash)
{
    struct reward expected;
    world_expected_reward(world, trajectory->group_id, text_hash, &expected);
    assert_int_equal(trajectory->reward.status, expected.status);
    if (expected.status == REWARD_OK)
        assert_true(trajectory->reward.total == expected.total);
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
        uint64_t text = hash_u64(trajectory.tokens, (size_t)trajectory.token_count * 4);
        check_reward(world, &trajectory, text);
        hash = fake_mix(hash, text);
        hash = fake_mix(hash, (uint64_t)(trajectory.reward.total * 8) + trajectory.group_id);
        trajectory_release(&trajectory);
    }
    if (world->batch_hash[batch->number] == 0)
        world->batch_hash[batch->number] = hash;
    assert_int_equal(world->batch_hash[batch->number], hash); /* G4: unchanged */
    if (batch->number != learner->trained + learner->queue_count + 1) {
        learner_not_next(world, batch->number);
        return;
    }
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
    learner->weights = fake_mix(learner->weights, world->batch_hash[number]);
    learner->weights_at[number] = learner->weights;
    learner->trained = number;
    learner_done(world, number, false);
    if (number % world->options.checkpoint_every == 0 || number == world->options.hub.steps) {
        learner->durable = number;
        learner->durable_weights = learner->weights;
        learner_done(world, number, true);
    }
}

/* ---- any of them ---- */

static void on_message(struct world *world, struct fake_worker *worker,
                       const Hone__Envelope *envelope)
{
    worker->heard_tick = world->tick;
    if (envelope_asks_for_hello(envelope))
        worker->hello_tick = -1;
    if (envelope->kind != HONE__KIND__KIND_HEARTBEAT)
        worker->worked_tick = world->tick;
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

void fake_worker_tick(struct world *world, struct fake_worker *worker)
{
    struct wire_message message;
    bool held_back = (worker->role == HONE__ROLE__ROLE_ACTOR && world->hold_actors) ||
                     (worker->role == HONE__ROLE__ROLE_SCORER && world->hold_scorers) ||
                     (worker->role == HONE__ROLE__ROLE_LEARNER && world->hold_learner);
    if (!worker->alive || worker->stopped || world->tick < worker->stalled_until)
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

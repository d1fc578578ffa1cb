#include "actors/actor_stage.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "actors/lease_list.h"
#include "actors/adapter_swap.h"
#include "actors/weight_swap.h"
#include "infra/base/error.h"
#include "infra/base/fault.h"
#include "infra/base/hash.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/wire/codec.h"
#include "infra/wire/envelope.h"
#include "infra/wire/weight_channel.h"

#define MESSAGES_PER_TICK 64
#define HEARTBEAT_MS      1000
#define HUB_SILENT_MS     3000
#define RESEND_MS         5000
#define OWED_MS           10000 /* see owed_too_long */
#define CREDITS_PER_SLOT  2
#define SAMPLES_MAX       65536 /* of one lease */
#define ENDPOINT_MAX      256
#define NAME_MAX_BYTES    128

/* Where an actor's time goes. `exchange` is everything between two steps: messages, leases,
 * trajectories. */
enum actor_activity { WAIT_HUB, WAIT_WEIGHTS, WAIT_PROMPTS, GENERATE, SWAP, EXCHANGE };
static const char *const activity_names[] = {
    "wait_hub", "wait_weights", "wait_prompts", "generate", "swap", "exchange", NULL};

/* How full the engine was, since the start. */
struct slot_use {
    int64_t used_ns; /* each step's time x the share of the slots in use */
    int64_t full_ns; /* steps with every slot in use */
    int64_t full_tokens;
};

struct actor_stage {
    struct actor_options options;
    struct model *model;
    struct clock *clock;
    struct rollout_engine *engine;
    struct wire_client *hub;
    struct weight_receiver *receiver;
    bool finished;

    /* the hub, times monotonic */
    uint64_t incarnation;
    bool welcomed, asked_for_hello;
    char run_id[NAME_MAX_BYTES];
    int64_t heard_ms, hello_ms, heartbeat_ms;
    int64_t leased_ms; /* when a lease came last */
    int32_t credits;   /* samples ordered and not leased yet */

    /* weights */
    char weights_endpoint[ENDPOINT_MAX];
    const struct compute *compute;
    struct adapter_swap *adapters; /* NULL until needed */
    int64_t version;               /* held by the model; -1 none */
    int64_t swaps;
    double swap_ms; /* the last one: how long the engine stood still for it */

    /* work */
    struct lease_list leases;
    struct parcel_list parcels;
    uint64_t next_user;

    /* what the heartbeat tells */
    char waiting_for[NAME_MAX_BYTES];
    int64_t waiting_since_ms;            /* unix */
    int64_t window_start_ns, working_ns; /* of the current heartbeat */
    struct time_account time;
    struct slot_use slot_use;
};

/* Differs for every process start, and for two stages of one process. */
static uint64_t new_incarnation(const struct actor_options *options, struct clock *clock)
{
    char seed[NAME_MAX_BYTES];
    int length =
        snprintf(seed, sizeof seed, "%s %lld %lld %lld", options->worker, (long long)getpid(),
                 (long long)clock_unix_ms(clock), (long long)clock_now_ns(clock_system()));
    return hash_u64(seed, (size_t)length < sizeof seed ? (size_t)length : sizeof seed - 1);
}

int actor_stage_create(struct actor_stage **stage, const struct actor_options *options,
                       struct model *model, const struct compute *compute,
                       struct wire_context *context, struct clock *clock)
{
    struct actor_stage *s = MEMORY_NEW(struct actor_stage);
    *stage = NULL;
    s->options = *options;
    s->model = model;
    s->compute = compute;
    s->clock = clock;
    s->version = -1;
    s->incarnation = new_incarnation(options, clock);
    s->hello_ms = s->heartbeat_ms = INT64_MIN / 2;
    s->window_start_ns = clock_now_ns(clock);
    time_account_start(&s->time, activity_names, s->window_start_ns);
    lease_list_init(&s->leases);
    parcel_list_init(&s->parcels);
    int rc = rollout_engine_create(&s->engine, model, &options->engine, compute);
    if (rc == 0)
        rc = wire_client_create(&s->hub, context, options->hub_endpoint, options->worker);
    if (rc == 0)
        rc = weight_receiver_create(&s->receiver, context, options->worker, clock,
                                    &options->weights);
    if (rc < 0) {
        actor_stage_destroy(s);
        return rc;
    }
    *stage = s;
    return 0;
}

void actor_stage_destroy(struct actor_stage *stage)
{
    if (!stage)
        return;
    weight_swap_leave(stage->model);
    adapter_swap_destroy(stage->adapters);
    weight_receiver_destroy(stage->receiver);
    wire_client_destroy(stage->hub);
    rollout_engine_destroy(stage->engine);
    lease_list_release(&stage->leases);
    parcel_list_release(&stage->parcels);
    memory_free(stage);
}

/* ---- sending ---- */

/* A message that cannot go now is sent later by whoever noticed that it is due. */
static bool send_kind(struct actor_stage *s, Hone__Kind kind, Hone__Envelope *envelope)
{
    envelope->kind = kind;
    return wire_client_send(s->hub, envelope, NULL, 0) == 0;
}

static void send_hello(struct actor_stage *s, int64_t now_ms)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Hello hello = HONE__HELLO__INIT;
    hello.protocol = WIRE_PROTOCOL;
    hello.role = HONE__ROLE__ROLE_ACTOR;
    hello.worker = (char *)(uintptr_t)s->options.worker;
    hello.recipe_hash = (char *)(uintptr_t)s->options.recipe_hash;
    hello.pid = getpid();
    hello.incarnation = s->incarnation;
    hello.has_policy_version = 1;
    hello.policy_version = s->version;
    envelope.hello = &hello;
    if (!send_kind(s, HONE__KIND__KIND_HELLO, &envelope))
        return;
    s->hello_ms = now_ms;
    s->asked_for_hello = false;
}

static void send_lease_return(struct actor_stage *s, uint64_t lease_id, uint64_t fence,
                              const char *reason)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__LeaseReturn message = HONE__LEASE_RETURN__INIT;
    message.lease_id = lease_id;
    message.fence = fence;
    message.reason = (char *)(uintptr_t)reason;
    envelope.lease_return = &message;
    send_kind(s, HONE__KIND__KIND_LEASE_RETURN, &envelope);
    log_warn("lease %llu goes back: %s", (unsigned long long)lease_id, reason);
}

/* Orders samples when a quarter of the slots' worth is missing, so that orders are not single
 * samples. */
static void send_credit(struct actor_stage *s)
{
    int32_t slots = s->options.engine.slots;
    int32_t missing = CREDITS_PER_SLOT * slots - s->credits - s->leases.samples;
    int32_t least = slots / 4 > 0 ? slots / 4 : 1;
    if (!s->welcomed || missing < least)
        return;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__LeaseCredit credit = HONE__LEASE_CREDIT__INIT;
    credit.samples = missing;
    envelope.lease_credit = &credit;
    if (send_kind(s, HONE__KIND__KIND_LEASE_CREDIT, &envelope))
        s->credits += missing;
}

static bool send_trajectory(struct actor_stage *s, const struct trajectory *trajectory)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    struct wire_trajectory wire;
    wire_trajectory_build(&wire, trajectory);
    wire.message.reward = NULL; /* there is none yet */
    envelope.trajectory = &wire.message;
    bool sent = send_kind(s, HONE__KIND__KIND_TRAJECTORY, &envelope);
    wire_trajectory_release(&wire);
    return sent;
}

/* The i-th sequence in flight, from the last token that the hub has on. */
static bool send_progress(struct actor_stage *s, const struct lease *lease, int32_t i,
                          int32_t offset)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Progress message = HONE__PROGRESS__INIT;
    struct wire_trajectory wire;
    struct trajectory piece;
    rollout_engine_piece(s->engine, i, offset, &piece);
    piece.lease_id = lease->lease_id;
    piece.fence = lease->fence;
    wire_trajectory_build(&wire, &piece);
    wire.message.reward = NULL;
    message.offset = offset;
    message.chunk = &wire.message;
    envelope.progress = &message;
    bool sent = send_kind(s, HONE__KIND__KIND_PROGRESS, &envelope);
    wire_trajectory_release(&wire);
    trajectory_release(&piece);
    return sent;
}

/* B5 */
static void report_progress(struct actor_stage *s, int64_t now_ms)
{
    struct rollout_partial partial;
    int32_t step = s->options.progress_tokens;
    if (step == 0 || !s->welcomed)
        return;
    for (int32_t i = 0; rollout_engine_partial(s->engine, i, &partial); i++) {
        const struct lease *lease = lease_list_find(&s->leases, partial.user);
        if (!lease)
            continue;
        struct sample_progress *progress =
            &lease->progress[partial.sample_index - lease->sample_first];
        bool again = progress->sent > progress->durable && now_ms - progress->sent_ms > RESEND_MS;
        if (partial.completion_tokens - progress->sent < step && !again)
            continue;
        if (!send_progress(s, lease, i, progress->durable))
            return;
        progress->sent = partial.completion_tokens;
        progress->sent_ms = now_ms;
    }
}

static void send_parcels(struct actor_stage *s, int64_t now_ms)
{
    if (!s->welcomed)
        return;
    for (struct parcel *parcel = s->parcels.first; parcel; parcel = parcel->next) {
        if (parcel->sent_ms >= 0 && now_ms - parcel->sent_ms < RESEND_MS)
            continue;
        if (!send_trajectory(s, &parcel->trajectory))
            return;
        parcel->sent_ms = now_ms;
        fault_point("trajectory.sent");
    }
}

static void fill_slot_use(const struct actor_stage *s, Hone__SlotUse *message)
{
    message->has_slots = message->has_used_us = 1;
    message->has_full_us = message->has_full_tokens = 1;
    message->slots = s->options.engine.slots;
    message->used_us = s->slot_use.used_ns / 1000;
    message->full_us = s->slot_use.full_ns / 1000;
    message->full_tokens = s->slot_use.full_tokens;
}

static void send_heartbeat(struct actor_stage *s, int64_t now_ms)
{
    if (!s->welcomed || now_ms - s->heartbeat_ms < HEARTBEAT_MS)
        return;
    int64_t now_ns = clock_now_ns(s->clock);
    int64_t window_ns = now_ns - s->window_start_ns;
    struct wire_time time;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Heartbeat beat = HONE__HEARTBEAT__INIT;
    Hone__SlotUse slot_use = HONE__SLOT_USE__INIT;
    time_account_enter(&s->time, s->time.activity, now_ns);
    wire_time_build(&time, &s->time, &beat);
    fill_slot_use(s, &slot_use);
    beat.slot_use = &slot_use;
    beat.waiting_for = s->waiting_for;
    beat.has_waiting_since_ms = s->waiting_for[0] != '\0';
    beat.waiting_since_ms = s->waiting_since_ms;
    beat.has_busy_fraction = 1;
    beat.busy_fraction = window_ns > 0 ? (double)s->working_ns / (double)window_ns : 0.0;
    beat.has_tokens_done = 1;
    beat.tokens_done = rollout_engine_tokens(s->engine);
    beat.has_policy_version = 1;
    beat.policy_version = s->version;
    beat.has_swaps = 1;
    beat.swaps = s->swaps;
    const struct weight_fetch_report *fetch = weight_receiver_report(s->receiver);
    beat.has_swap_ms = beat.has_fetch_ms = beat.has_fetch_bytes = s->swaps > 0;
    beat.swap_ms = s->swap_ms;
    beat.fetch_ms = fetch->fetch_ms;
    beat.fetch_bytes = (int64_t)fetch->wire_bytes;
    envelope.heartbeat = &beat;
    if (!send_kind(s, HONE__KIND__KIND_HEARTBEAT, &envelope))
        return;
    s->heartbeat_ms = now_ms;
    s->window_start_ns = now_ns;
    s->working_ns = 0;
}

/* ---- receiving ---- */

/* One request is always out for whatever is newer: the learner answers it the moment there is one.
 */
static void want_weights(struct actor_stage *s, const char *endpoint)
{
    if (endpoint[0] == '\0' || strlen(endpoint) >= sizeof s->weights_endpoint)
        return;
    if (endpoint != s->weights_endpoint)
        snprintf(s->weights_endpoint, sizeof s->weights_endpoint, "%s", endpoint);
    weight_receiver_want(s->receiver, s->weights_endpoint, s->version);
}

/* A Welcome answers every Hello: the hub may be a new process that knows of no credits, and nothing
 * says whether what was sent before arrived. */
static void handle_welcome(struct actor_stage *s, const Hone__Welcome *welcome)
{
    if (!s->welcomed)
        log_info("joined run %s", welcome->run_id);
    s->welcomed = true;
    snprintf(s->run_id, sizeof s->run_id, "%s", welcome->run_id);
    s->credits = 0;
    parcel_list_resend(&s->parcels);
    if (welcome->weights_endpoint)
        want_weights(s, welcome->weights_endpoint);
}

/* The hub has it already, so it is durable. */
static int read_prefix(const Hone__Trajectory *message, struct lease *lease)
{
    int32_t index = message->sample_index - lease->sample_first;
    struct trajectory prefix;
    if (index < 0 || index >= lease->sample_count || lease->progress[index].sent > 0)
        return error_set(HONE_EFORMAT, "what is to be continued is sample %d, not of %d from %d on",
                         message->sample_index, lease->sample_count, lease->sample_first);
    int rc = wire_trajectory_read(message, &prefix);
    if (rc < 0)
        return rc;
    lease->progress[index] = (struct sample_progress){
        .durable = prefix.token_count, .sent = prefix.token_count, .prefix = prefix};
    return 0;
}

static int read_lease(const Hone__Lease *message, struct lease *lease)
{
    size_t bytes = message->prompt_tokens.len;
    if (bytes == 0 || bytes % sizeof(int32_t) != 0)
        return error_set(HONE_EFORMAT, "a prompt of %zu bytes", bytes);
    if (message->sample_count < 1 || message->sample_count > SAMPLES_MAX ||
        message->sample_first < 0 || message->sample_first > INT32_MAX - SAMPLES_MAX)
        return error_set(HONE_EFORMAT, "%d samples from %d on", message->sample_count,
                         message->sample_first);
    *lease = (struct lease){.lease_id = message->lease_id,
                            .fence = message->fence,
                            .group_id = message->group_id,
                            .prompt_id = message->prompt_id,
                            .sample_first = message->sample_first,
                            .sample_count = message->sample_count,
                            .prompt_token_count = (int32_t)(bytes / sizeof(int32_t)),
                            .min_policy_version =
                                message->has_min_policy_version ? message->min_policy_version : 0,
                            .deadline_ms = message->has_deadline_ms ? message->deadline_ms : 0,
                            .leased_ms = message->has_leased_ms ? message->leased_ms : 0};
    int rc = wire_sampling_read(message->sampling, &lease->sampling);
    if (rc < 0)
        return rc;
    lease->prompt_tokens = memory_dup(message->prompt_tokens.data, bytes);
    lease->progress = MEMORY_ARRAY(struct sample_progress, lease->sample_count);
    for (size_t i = 0; rc == 0 && i < message->n_prefixes; i++)
        rc = read_prefix(message->prefixes[i], lease);
    return rc;
}

static void handle_lease(struct actor_stage *s, const Hone__Lease *message)
{
    if (lease_list_holds(&s->leases, message->lease_id, message->fence) ||
        parcel_list_holds(&s->parcels, message->lease_id, message->fence))
        return; /* sent again after a Hello, on no new credit */
    s->credits -= message->sample_count < s->credits ? message->sample_count : s->credits;
    s->leased_ms = clock_now_ms(s->clock);
    struct lease *lease = MEMORY_NEW(struct lease);
    if (read_lease(message, lease) < 0) {
        send_lease_return(s, message->lease_id, message->fence, error_message());
        lease_free(lease);
        return;
    }
    lease->user = ++s->next_user;
    lease_list_append(&s->leases, lease);
}

static void handle_progress_ack(struct actor_stage *s, const Hone__ProgressAck *ack)
{
    struct lease *lease = lease_list_find_id(&s->leases, ack->lease_id, ack->fence);
    int32_t index = lease ? ack->sample_index - lease->sample_first : -1;
    if (!lease || index < 0 || index >= lease->sample_count)
        return;
    if (ack->tokens < 0) {
        log_info("lease %llu is over: its work is dropped", (unsigned long long)ack->lease_id);
        rollout_engine_cancel(s->engine, lease->user);
        lease_list_remove(&s->leases, lease);
        return;
    }
    struct sample_progress *progress = &lease->progress[index];
    /* Never more than was sent: a hub that says so speaks of something else. */
    progress->durable = ack->tokens < progress->sent ? ack->tokens : progress->sent;
    fault_point("progress.durable");
    if (ack->has_deadline_ms && lease->deadline_ms != 0)
        lease->deadline_ms = ack->deadline_ms;
}

static void handle_ack(struct actor_stage *s, const Hone__TrajectoryAck *ack)
{
    bool refused = ack->has_refused && ack->refused;
    if (!refused)
        fault_note("acknowledged", ack->id);
    if (parcel_list_remove(&s->parcels, ack->id) && refused)
        log_debug("trajectory %llu refused: %s", (unsigned long long)ack->id,
                  ack->reason ? ack->reason : "no reason given");
}

static int handle_message(struct actor_stage *s, const Hone__Envelope *envelope)
{
    switch ((int)envelope->kind) {
    case HONE__KIND__KIND_WELCOME:
        handle_welcome(s, envelope->welcome);
        break;
    case HONE__KIND__KIND_REFUSED:
        return error_set(HONE_EPEER, "the hub refused %s: %s", s->options.worker,
                         envelope->refused->reason);
    case HONE__KIND__KIND_LEASE:
        handle_lease(s, envelope->lease);
        break;
    case HONE__KIND__KIND_TRAJECTORY_ACK:
        handle_ack(s, envelope->trajectory_ack);
        break;
    case HONE__KIND__KIND_PROGRESS_ACK:
        handle_progress_ack(s, envelope->progress_ack);
        break;
    case HONE__KIND__KIND_WEIGHTS_NOTICE:
        want_weights(s, envelope->weights_notice->endpoint);
        break;
    case HONE__KIND__KIND_HEARTBEAT:
        s->asked_for_hello = s->asked_for_hello || envelope_asks_for_hello(envelope);
        break;
    case HONE__KIND__KIND_STOP:
        log_info("stop: %s", envelope->stop->reason ? envelope->stop->reason : "the run is done");
        s->finished = true;
        s->heartbeat_ms = INT64_MIN / 2; /* the last of its time */
        break;
    default:
        break; /* a hub may say more than an actor needs to know */
    }
    return 0;
}

static int receive_messages(struct actor_stage *s, int64_t now_ms)
{
    for (int i = 0; i < MESSAGES_PER_TICK && !s->finished; i++) {
        struct wire_message message;
        int rc = wire_client_receive(s->hub, &message);
        if (rc <= 0)
            return rc;
        s->heard_ms = now_ms;
        rc = handle_message(s, message.envelope);
        wire_message_release(&message);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* ---- weights ---- */

/* The base is read when adapters first come as such: where images are mapped they never do. */
static int swap_adapters(struct actor_stage *s, const struct snapshot *snapshot)
{
    int rc = 0;
    if (!s->adapters)
        rc = adapter_swap_create(&s->adapters, &s->options.adapters, s->options.model_directory,
                                 s->model, s->compute);
    return rc < 0 ? rc : adapter_swap_apply(s->adapters, snapshot);
}

static int receive_weights(struct actor_stage *s)
{
    const struct snapshot *snapshot;
    int rc = weight_receiver_tick(s->receiver, &snapshot);
    if (rc <= 0 || snapshot->version <= s->version)
        return rc < 0 ? rc : 0;
    int64_t start_ns = clock_now_ns(s->clock);
    time_account_enter(&s->time, SWAP, start_ns);
    bool stale = s->version >= 0 && fault_injected("stale_weights", snapshot->version);
    if (!stale)
        rc = snapshot->image || s->options.adapters.rank == 0 ? weight_swap(s->model, snapshot)
                                                              : swap_adapters(s, snapshot);
    if (rc < 0)
        return rc;
    s->version = snapshot->version;
    s->swaps++;
    s->swap_ms = (double)(clock_now_ns(s->clock) - start_ns) * 1e-6;
    rollout_engine_set_version(s->engine, s->version);
    time_account_enter(&s->time, EXCHANGE, clock_now_ns(s->clock));
    const struct weight_fetch_report *fetch = weight_receiver_report(s->receiver);
    log_debug("weights v%lld by %s: %zu bytes in %.1f ms, swapped in %.2f ms",
              (long long)s->version, fetch->way, fetch->wire_bytes, fetch->fetch_ms, s->swap_ms);
    want_weights(s, s->weights_endpoint);
    fault_point("weights.swapped");
    return 0;
}

/* ---- leases through the engine ---- */

static void expire_leases(struct actor_stage *s)
{
    int64_t now = clock_unix_ms(s->clock);
    struct lease *next;
    for (struct lease *lease = s->leases.first; lease; lease = next) {
        next = lease->next;
        if (lease->deadline_ms == 0 || now <= lease->deadline_ms)
            continue;
        rollout_engine_cancel(s->engine, lease->user);
        log_warn("lease %llu is past its deadline, %d of %d samples done",
                 (unsigned long long)lease->lease_id, lease->finished, lease->sample_count);
        lease_list_remove(&s->leases, lease);
    }
}

/* Submits what the queue has room for; a lease that the engine refuses goes back whole. */
static bool submit_lease(struct actor_stage *s, struct lease *lease)
{
    struct rollout_request request = {.user = lease->user,
                                      .prompt_id = lease->prompt_id,
                                      .group_id = lease->group_id,
                                      .prompt_tokens = lease->prompt_tokens,
                                      .prompt_token_count = lease->prompt_token_count,
                                      .sampling = lease->sampling};
    while (lease->submitted < lease->sample_count && rollout_engine_room(s->engine) > 0) {
        struct trajectory *prefix = &lease->progress[lease->submitted].prefix;
        request.sample_index = lease->sample_first + lease->submitted;
        request.prefix = prefix->token_count > 0 ? prefix : NULL;
        if (rollout_engine_submit(s->engine, &request) < 0)
            return false;
        trajectory_release(prefix);
        if (lease->submitted == 0)
            lease->started_ms = clock_unix_ms(s->clock);
        lease->submitted++;
    }
    return true;
}

static void feed_engine(struct actor_stage *s)
{
    struct lease *next;
    for (struct lease *lease = s->leases.first; lease && s->version >= 0; lease = next) {
        next = lease->next;
        if (rollout_engine_room(s->engine) == 0)
            return;
        if (lease->min_policy_version > s->version || submit_lease(s, lease))
            continue;
        send_lease_return(s, lease->lease_id, lease->fence, error_message());
        rollout_engine_cancel(s->engine, lease->user);
        lease_list_remove(&s->leases, lease);
    }
}

/* The same for every attempt under one fence: a trajectory sent twice is one trajectory. */
static uint64_t trajectory_id(const struct actor_stage *s, const struct trajectory *trajectory)
{
    uint64_t parts[4] = {hash_u64(s->run_id, strlen(s->run_id)), trajectory->group_id,
                         (uint64_t)trajectory->sample_index, trajectory->fence};
    return hash_u64(parts, sizeof parts);
}

static void collect_finished(struct actor_stage *s)
{
    struct trajectory trajectory;
    uint64_t user;
    while (rollout_engine_finished(s->engine, &trajectory, &user) > 0) {
        struct lease *lease = lease_list_find(&s->leases, user);
        if (!lease) {
            trajectory_release(&trajectory);
            continue;
        }
        trajectory.lease_id = lease->lease_id;
        trajectory.fence = lease->fence;
        trajectory.leased_ms = lease->leased_ms;
        trajectory.started_ms = lease->started_ms;
        trajectory.finished_ms = clock_unix_ms(s->clock);
        trajectory.id = trajectory_id(s, &trajectory);
        parcel_list_append(&s->parcels, &trajectory);
        lease->finished++;
        s->leases.samples--;
        if (lease->finished == lease->sample_count)
            lease_list_remove(&s->leases, lease);
    }
}

static void note_slots(struct actor_stage *s, int64_t step_ns, int64_t tokens)
{
    int32_t used = rollout_engine_used(s->engine), slots = s->options.engine.slots;
    s->slot_use.used_ns += step_ns * used / slots;
    if (used < slots)
        return;
    s->slot_use.full_ns += step_ns;
    s->slot_use.full_tokens += tokens;
}

static bool step_engine(struct actor_stage *s)
{
    if (s->version < 0 || rollout_engine_active(s->engine) == 0)
        return false;
    int64_t start_ns = clock_now_ns(s->clock), tokens = rollout_engine_tokens(s->engine);
    time_account_enter(&s->time, GENERATE, start_ns);
    rollout_engine_step(s->engine);
    int64_t end_ns = clock_now_ns(s->clock);
    time_account_enter(&s->time, EXCHANGE, end_ns);
    s->working_ns += end_ns - start_ns;
    note_slots(s, end_ns - start_ns, rollout_engine_tokens(s->engine) - tokens);
    collect_finished(s);
    return true;
}

/* ---- the tick ---- */

static void note_waiting(struct actor_stage *s, bool working)
{
    char what[NAME_MAX_BYTES] = "";
    enum actor_activity activity = EXCHANGE;
    int64_t wanted = -1;
    for (const struct lease *lease = s->leases.first; lease; lease = lease->next) {
        if (wanted < 0 || lease->min_policy_version < wanted)
            wanted = lease->min_policy_version;
    }
    if (!s->welcomed) {
        activity = WAIT_HUB;
        snprintf(what, sizeof what, "hub at %.100s", s->options.hub_endpoint);
    } else if (s->version < 0) {
        activity = WAIT_WEIGHTS;
        snprintf(what, sizeof what, "first weights from learner");
    } else if (!working && wanted > s->version) {
        activity = WAIT_WEIGHTS;
        snprintf(what, sizeof what, "weights v%lld from learner", (long long)wanted);
    } else if (!working) {
        activity = WAIT_PROMPTS;
        snprintf(what, sizeof what, "leases from curriculum");
    }
    time_account_enter(&s->time, activity, clock_now_ns(s->clock));
    if (strcmp(what, s->waiting_for) == 0)
        return;
    memcpy(s->waiting_for, what, sizeof what);
    s->waiting_since_ms = clock_unix_ms(s->clock);
}

/* A credit or a lease may have been lost with a connection that came back by itself; nothing would
 * ever say so. A Hello has credits counted anew and leases sent again. */
static bool owed_too_long(const struct actor_stage *s, int64_t now_ms)
{
    return s->welcomed && s->credits > 0 && now_ms - s->leased_ms > OWED_MS &&
           now_ms - s->hello_ms > OWED_MS;
}

static void fill_wait(struct actor_stage *s, bool working, int64_t now_ms, struct stage_wait *wait)
{
    int64_t sleep_ms = s->welcomed ? s->heartbeat_ms + HEARTBEAT_MS - now_ms : 20;
    if (sleep_ms > HEARTBEAT_MS)
        sleep_ms = HEARTBEAT_MS;
    *wait = (struct stage_wait){.busy = working || weight_receiver_working(s->receiver),
                                .finished = s->finished,
                                .timeout_ms = sleep_ms < 1 ? 1 : (int)sleep_ms,
                                .clients = {s->hub},
                                .client_count = 1};
    struct wire_client *weights = weight_receiver_socket(s->receiver);
    if (weights)
        wait->clients[wait->client_count++] = weights;
    struct wire_server *relay = weight_receiver_relay(s->receiver);
    if (relay)
        wait->servers[wait->server_count++] = relay;
}

int actor_stage_tick(void *stage, struct stage_wait *wait)
{
    struct actor_stage *s = stage;
    int64_t now_ms = clock_now_ms(s->clock);
    time_account_enter(&s->time, EXCHANGE, clock_now_ns(s->clock));
    int rc = receive_messages(s, now_ms);
    if (rc == 0 && !s->finished)
        rc = receive_weights(s);
    if (rc < 0)
        return rc;
    bool silent = !s->welcomed || now_ms - s->heard_ms > HUB_SILENT_MS;
    if (!s->finished && (s->asked_for_hello || (silent && now_ms - s->hello_ms > HUB_SILENT_MS) ||
                         owed_too_long(s, now_ms)))
        send_hello(s, now_ms);
    expire_leases(s);
    feed_engine(s);
    bool working = !s->finished && step_engine(s);
    report_progress(s, now_ms);
    send_parcels(s, now_ms);
    send_credit(s);
    note_waiting(s, working);
    send_heartbeat(s, now_ms);
    fill_wait(s, working, now_ms, wait);
    return 0;
}

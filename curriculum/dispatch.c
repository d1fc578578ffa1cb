#include "curriculum/dispatch.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "curriculum/batch_former.h"
#include "curriculum/hub_store.h"
#include "curriculum/partial.h"
#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/fault.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/wire/codec.h"
#include "infra/wire/envelope.h"

#define LEASE_GRACE_MS  2000 /* a trajectory sent at the deadline may still be under way */
#define CREDIT_MAX      (1 << 20)
#define EXPIRE_EVERY_MS 100 /* looks through all leases */
#define BACKOFF_FIRST_MS                                                                           \
    500 /* before a group is leased again after a failure; doubles each time                       \
         */
#define BACKOFF_MAX_MS 30000
#define ABANDONED_MAX  4 /* groups dropped one after another without a trajectory between */

void dispatch_on_credit(struct curriculum_stage *hub, struct peer *peer, int32_t samples)
{
    (void)hub;
    if (samples > 0 && peer->credit < CREDIT_MAX)
        peer->credit += samples < CREDIT_MAX ? samples : CREDIT_MAX;
}

/* L1: the samples that have not arrived are free again. */
static void take_back(struct curriculum_stage *hub, struct lease *lease, const char *why)
{
    struct group *group = group_table_find(&hub->groups, lease->group_id);
    log_info("lease %" PRIu64 " (group %" PRIu64 ", %d samples left) of %s comes back: %s",
             lease->id, lease->group_id, lease->missing, lease->worker.identity, why);
    for (int32_t i = lease->first; group != NULL && i < lease->first + lease->count; i++) {
        struct sample *sample = &group->samples[i];
        if (sample->state == SAMPLE_LEASED && sample->lease_id == lease->id &&
            !PLANTED(PLANTED_LOST_LEASE))
            sample_move(group, sample, SAMPLE_FREE);
    }
    lease_move(lease, LEASE_TAKEN);
    hub_delete_lease(hub, lease);
    lease_table_remove(&hub->leases, lease);
}

/* With its leases: whoever still works on it is refused by its fence. */
static void drop_leased(struct curriculum_stage *hub, struct group *group, enum drop_reason reason,
                        const char *why)
{
    uint64_t id = group->id;
    for (int32_t i = hub->leases.count - 1; i >= 0; i--)
        if (hub->leases.items[i].group_id == id)
            take_back(hub, &hub->leases.items[i], why);
    for (int32_t i = 0; i < group->size; i++)
        partial_forget(hub, group, i);
    batch_former_drop(hub, group, reason);
}

/* A group whose leases fail again and again leaves. Negative: this happens to group after group, so
 * it is not the prompts. */
static int abandon(struct curriculum_stage *hub, struct group *group, const char *why)
{
    log_warn("group %" PRIu64 " (prompt %" PRIu64 ") is dropped: %d leases of it came to nothing, "
             "the last because %s",
             group->id, group->prompt_id, group->failures, why);
    uint64_t prompt = group->prompt_id;
    int32_t failures = group->failures;
    drop_leased(hub, group, DROP_ABANDONED, "its group is dropped");
    if (++hub->abandoned_running < ABANDONED_MAX)
        return 0;
    return error_set(HONE_EGUARD,
                     "%d groups running were dropped because their leases came to nothing; prompt "
                     "%" PRIu64 " %d times, the last because %s",
                     hub->abandoned_running, prompt, failures, why);
}

/* A lease that ended without its samples through its holder's doing, not its death: the group waits
 * a while before it is leased again, and has only so many tries. timing: of the machine's, not the
 * prompt's; a synchronous run, whose result depends on no timing, tries for ever then. */
static int count_failure(struct curriculum_stage *hub, struct group *group, bool timing,
                         const char *why)
{
    int64_t wait_ms = BACKOFF_FIRST_MS, now = clock_now_ms(hub->clock);
    bool may_drop = !timing || hub->options.staleness_max > 0; /* G7 */
    if (now < group->not_before_ms)
        return 0; /* another lease of the same try */
    if (++group->failures > hub->options.lease_retries && may_drop)
        return abandon(hub, group, why);
    for (int32_t i = 1; i < group->failures && wait_ms < BACKOFF_MAX_MS; i++)
        wait_ms *= 2;
    group->not_before_ms = now + (wait_ms < BACKOFF_MAX_MS ? wait_ms : BACKOFF_MAX_MS);
    return 0;
}

int dispatch_on_return(struct curriculum_stage *hub, const struct peer *peer,
                       const Hone__LeaseReturn *message)
{
    char why[192];
    struct lease *lease = lease_table_find(&hub->leases, message->lease_id);
    if (lease == NULL || lease->fence != message->fence ||
        strcmp(lease->worker.identity, peer->wire.identity) != 0)
        return 0;
    struct group *group = group_table_find(&hub->groups, lease->group_id);
    HONE_ASSERT(group != NULL);
    snprintf(why, sizeof why, "%s gave it back: %s", peer->wire.identity,
             message->reason != NULL ? message->reason : "no reason given");
    take_back(hub, lease, why);
    return count_failure(hub, group, false, why);
}

void dispatch_peer_back(struct curriculum_stage *hub, const struct wire_peer *wire,
                        uint64_t incarnation)
{
    for (int32_t i = hub->leases.count - 1; i >= 0; i--) {
        struct lease *lease = &hub->leases.items[i];
        if (strcmp(lease->worker.identity, wire->identity) != 0)
            continue;
        if (lease->incarnation != incarnation)
            take_back(hub, lease, "its process was replaced");
        else if (lease->state == LEASE_OUT)
            lease_move(lease, LEASE_QUEUED);
    }
}

void dispatch_peer_lost(struct curriculum_stage *hub, const struct wire_peer *wire)
{
    for (int32_t i = hub->leases.count - 1; i >= 0; i--)
        if (strcmp(hub->leases.items[i].worker.identity, wire->identity) == 0)
            take_back(hub, &hub->leases.items[i], "the worker is gone");
}

int dispatch_expire(struct curriculum_stage *hub, int64_t silent_ms)
{
    int64_t now = clock_unix_ms(hub->clock);
    bool settled = clock_now_ms(hub->clock) - hub->start_ms > silent_ms;
    if (clock_now_ms(hub->clock) - hub->leases_expired_ms < EXPIRE_EVERY_MS)
        return 0;
    hub->leases_expired_ms = clock_now_ms(hub->clock);
    for (int32_t i = hub->leases.count - 1; i >= 0; i--) {
        if (i >= hub->leases.count)
            continue; /* an abandoned group took more than one of its leases with it */
        struct lease *lease = &hub->leases.items[i];
        if (now > lease->deadline_ms + LEASE_GRACE_MS) {
            char why[128];
            struct group *group = group_table_find(&hub->groups, lease->group_id);
            snprintf(why, sizeof why, "%s had no news of it for %" PRId64 " s",
                     lease->worker.identity, hub->options.lease_timeout_ms / 1000);
            take_back(hub, lease, "its deadline is over");
            int rc = count_failure(hub, group, true, why);
            if (rc < 0)
                return rc;
        } else if (settled && peer_table_find(&hub->peers, lease->worker.identity) == NULL) {
            take_back(hub, lease, "the worker did not come back");
        }
    }
    return 0;
}

/* ---- trajectories ---- */

/* Whether the log or a group has it already. */
static bool is_known(struct curriculum_stage *hub, const struct trajectory *trajectory)
{
    struct group *group;
    if (group_table_sample(&hub->groups, trajectory->id, &group) != NULL)
        return true;
    int rc = trajectory_log_has(hub->log, trajectory->id);
    if (rc < 0)
        hub->write_error = rc;
    return rc > 0;
}

/* A trajectory of a live lease must be of its group's prompt and of versions that may be. */
static int check_content(struct curriculum_stage *hub, const struct lease *lease,
                         const struct group *group, const struct trajectory *trajectory)
{
    const struct prompt *prompt = &hub->options.prompts[group->prompt_id];
    int64_t oldest = trajectory_oldest_version(trajectory);
    int64_t newest = trajectory_newest_version(trajectory);
    if (trajectory->prompt_id != group->prompt_id ||
        trajectory->prompt_tokens != prompt->token_count ||
        memcmp(trajectory->tokens, prompt->tokens, (size_t)prompt->token_count * sizeof(int32_t)) !=
            0)
        return error_set(HONE_EFORMAT, "its prompt is not that of group %" PRIu64, group->id);
    if (trajectory->finish == FINISH_ABORT)
        return 0;
    if (trajectory->finish == FINISH_NONE || oldest < 0)
        return error_set(HONE_EFORMAT, "it is not finished, or has no sampled token");
    if (oldest < lease->min_version)
        return error_set(HONE_EFORMAT, "it was sampled with version %" PRId64 ", before %" PRId64,
                         oldest, lease->min_version);
    if (newest > hub->batch_count)
        return error_set(HONE_EFORMAT, "it was sampled with version %" PRId64 ", which cannot be",
                         newest);
    return 0;
}

/* A rollout that was given up is not judged: no reward, and it counts as failed. */
static void settle_abort(struct curriculum_stage *hub, struct group *group, struct sample *sample)
{
    static const struct reward failed = {.status = REWARD_ERROR};
    sample_move(group, sample, SAMPLE_SCORED);
    sample->status = failed.status;
    hub->statuses[failed.status]++;
    reward_window_add(&hub->rewards, &failed);
}

/* As it came, but for what only the hub knows. */
static void store_arrival(struct curriculum_stage *hub, const struct lease *lease,
                          struct sample *sample, Hone__Trajectory **arrived)
{
    Hone__Trajectory *message = *arrived, record = *message;
    Hone__Reward failed = HONE__REWARD__INIT;
    bool aborted = message->finish == FINISH_ABORT;
    failed.status = REWARD_ERROR;
    record.base.n_unknown_fields = 0;
    record.has_leased_ms = 1;
    record.leased_ms = lease->leased_ms;
    record.reward = aborted ? &failed : NULL;
    record.has_scored_ms = aborted;
    record.scored_ms = aborted ? clock_unix_ms(hub->clock) : 0;
    trajectory_log_put(hub->log, &record);
    if (aborted || message->reward != NULL || message->base.n_unknown_fields > 0)
        return; /* the log has another one */
    message->has_leased_ms = 1;
    message->leased_ms = record.leased_ms;
    message->has_scored_ms = message->scored_ms = 0;
    group_table_keep(&hub->groups, sample, arrived);
}

static void accept(struct curriculum_stage *hub, struct lease *lease, struct group *group,
                   const struct trajectory *trajectory, Hone__Trajectory **message)
{
    struct sample *sample = &group->samples[trajectory->sample_index];
    group->failures = 0;
    hub->abandoned_running = 0;
    partial_forget(hub, group, trajectory->sample_index);
    if (PLANTED(PLANTED_DOUBLE_COUNT)) /* past the table of moves too */
        sample_restore(group, sample, SAMPLE_LEASED);
    if (trajectory->finish != FINISH_ABORT)
        sample_move(group, sample, SAMPLE_ARRIVED);
    group_table_hold(&hub->groups, group, trajectory->sample_index, trajectory->id);
    sample->attempt = 0;
    sample->oldest_version = trajectory_oldest_version(trajectory);
    sample->completion_tokens = trajectory_completion_tokens(trajectory);
    if (trajectory->finish == FINISH_ABORT)
        settle_abort(hub, group, sample);
    store_arrival(hub, lease, sample, message);
    hub_store_group(hub, group);
    if (--lease->missing == 0) {
        lease_move(lease, LEASE_FILLED);
        hub_delete_lease(hub, lease);
        lease_table_remove(&hub->leases, lease);
    }
    hub_progress(hub);
}

bool dispatch_on_trajectory(struct curriculum_stage *hub, struct peer *peer,
                            Hone__Trajectory **message)
{
    struct trajectory trajectory;
    const char *refusal = NULL;
    if (wire_trajectory_read(*message, &trajectory) < 0 || (*message)->id == 0) {
        outbox_trajectory(&hub->outbox, &peer->wire, (*message)->id, "malformed");
        return false;
    }
    bool fits = true;
    struct lease *lease = lease_table_find(&hub->leases, trajectory.lease_id);
    struct group *group = lease != NULL ? group_table_find(&hub->groups, lease->group_id) : NULL;
    int32_t index = trajectory.sample_index;
    if (!PLANTED(PLANTED_DOUBLE_COUNT) && is_known(hub, &trajectory)) {
        refusal = NULL; /* sent twice: acknowledged twice */
    } else if (group == NULL || lease->fence != trajectory.fence ||
               trajectory.group_id != lease->group_id || index < lease->first ||
               index >= lease->first + lease->count) {
        refusal = "its lease is over";
    } else if (!PLANTED(PLANTED_DOUBLE_COUNT) && (group->samples[index].state != SAMPLE_LEASED ||
                                                  group->samples[index].lease_id != lease->id)) {
        refusal = "its sample has arrived already";
    } else if (check_content(hub, lease, group, &trajectory) < 0) {
        refusal = error_message();
        fits = false;
    } else {
        accept(hub, lease, group, &trajectory, message);
    }
    outbox_trajectory(&hub->outbox, &peer->wire, trajectory.id, refusal);
    trajectory_release(&trajectory);
    return fits;
}

/* ---- planning ---- */

/* D2. rank: how many undecided or waiting groups stand before it. A probe is to tell how hard its
 * prompt is now. */
static int64_t min_version(const struct curriculum_stage *hub, const struct group *group,
                           int32_t rank)
{
    if (group->probe)
        return hub->done_batch;
    int64_t batch = hub_next_batch(hub) + rank / hub->options.prompts_per_step;
    int64_t version = batch - 1 - hub->options.staleness_max;
    if (version < 0)
        version = 0;
    return version < hub->done_batch ? version : hub->done_batch;
}

/* What was reported of a sample is of use only while its oldest version is. */
static void resume_or_restart(struct curriculum_stage *hub, const struct group *group,
                              int32_t index, int64_t oldest_allowed)
{
    const struct sample_partial *partial = &group->samples[index].partial;
    if (partial->tokens > 0 && partial->oldest_version < oldest_allowed) {
        hub->partial_stale++;
        partial_forget(hub, group, index);
    }
    hub->resumed_tokens += partial->tokens;
}

static void lease_out(struct curriculum_stage *hub, struct peer *peer, struct group *group,
                      int32_t first, int32_t count, int32_t rank)
{
    int64_t now = clock_unix_ms(hub->clock);
    struct lease lease = {.id = hub->next_lease++,
                          .fence = ++hub->fence,
                          .group_id = group->id,
                          .first = first,
                          .count = count,
                          .missing = count,
                          .min_version = min_version(hub, group, rank),
                          .leased_ms = now,
                          .deadline_ms = now + hub->options.lease_timeout_ms,
                          .worker = peer->wire,
                          .incarnation = peer->incarnation,
                          .state = LEASE_QUEUED};
    for (int32_t i = first; i < first + count; i++) {
        HONE_ASSERT(group->samples[i].state == SAMPLE_FREE);
        resume_or_restart(hub, group, i, lease.min_version);
        sample_move(group, &group->samples[i], SAMPLE_LEASED);
        group->samples[i].lease_id = lease.id;
    }
    peer->credit -= count;
    hub->state_changed = true;
    hub_store_lease(hub, &lease);
    lease_table_add(&hub->leases, &lease);
}

/* Leases the free samples of a group as far as credit goes; false: there is none left. */
static bool lease_free(struct curriculum_stage *hub, struct group *group, int32_t rank)
{
    for (int32_t first = 0; first < group->size; first++) {
        int32_t count = 0;
        while (first + count < group->size && group->samples[first + count].state == SAMPLE_FREE)
            count++;
        if (count == 0)
            continue;
        struct peer *peer = peer_table_richest(&hub->peers, HONE__ROLE__ROLE_ACTOR);
        if (peer == NULL)
            return false;
        if (count > peer->credit)
            count = (int32_t)peer->credit;
        lease_out(hub, peer, group, first, count, rank);
    }
    return true;
}

/* D1: how many groups are dispatched and neither trained nor dropped. */
static int64_t in_flight(const struct curriculum_stage *hub)
{
    int64_t untrained = hub->batch_count - hub->done_batch;
    return group_table_waiting(&hub->groups) + untrained * hub->options.prompts_per_step;
}

static bool may_dispatch(const struct curriculum_stage *hub)
{
    int64_t waiting = group_table_waiting(&hub->groups);
    int64_t per_step = hub->options.prompts_per_step;
    int64_t wanted = (hub->options.steps - hub->batch_count) * per_step;
    return hub->learner.ready && hub->stop_ms == 0 && waiting < wanted &&
           in_flight(hub) < (hub->options.staleness_max + 1) * per_step;
}

static struct group *add_group(struct curriculum_stage *hub, int64_t prompt, bool probe)
{
    struct group *group =
        group_table_add(&hub->groups, hub->next_order, (uint64_t)prompt, hub->options.group_size);
    if (probe)
        group_table_make_probe(&hub->groups, group);
    hub->next_order++;
    hub->state_changed = true;
    hub_store_group(hub, group);
    return group;
}

/* Without pools, or when all prompts are in flight: the next one of the epoch. */
static struct group *new_group(struct curriculum_stage *hub)
{
    enum filter_mode mode = hub->options.filter.mode;
    int64_t prompt = mode == FILTER_ON ? prompt_pools_select(&hub->pools) : -1;
    if (prompt < 0) {
        prompt = prompt_order_at(&hub->prompts, hub->next_order);
        if (mode != FILTER_OFF)
            prompt_pools_take(&hub->pools, prompt);
    }
    return add_group(hub, prompt, false);
}

/* Leases the free samples of groups that were dispatched before; false: no credit is left. */
static bool lease_again(struct curriculum_stage *hub, bool probes)
{
    int32_t rank = 0, free = hub->groups.sample_count[SAMPLE_FREE];
    int64_t now = clock_now_ms(hub->clock);
    for (int32_t i = 0; i < hub->groups.count && free > 0; i++) {
        struct group *group = hub->groups.items[i];
        if (group->state != GROUP_LEASED && group->state != GROUP_SCORED)
            continue;
        free -= group->sample_count[SAMPLE_FREE];
        if (group->probe != probes)
            continue;
        if (group->state == GROUP_LEASED && group->sample_count[SAMPLE_FREE] > 0 &&
            now >= group->not_before_ms && !lease_free(hub, group, rank))
            return false;
        rank++;
    }
    return true;
}

/* Prompts are measured with what training leaves of the actors' credit. */
static void plan_probes(struct curriculum_stage *hub)
{
    if (!lease_again(hub, true))
        return;
    while (hub->groups.probe_count < hub->options.filter.probes &&
           peer_table_richest(&hub->peers, HONE__ROLE__ROLE_ACTOR) != NULL) {
        int64_t prompt = prompt_pools_probe(&hub->pools);
        if (prompt < 0 || !lease_free(hub, add_group(hub, prompt, true), 0))
            return;
    }
}

/* What is measured after the last batch serves nobody. */
static void end_probes(struct curriculum_stage *hub)
{
    for (int32_t i = hub->groups.count - 1; i >= 0 && hub->groups.probe_count > 0; i--) {
        struct group *group = hub->groups.items[i];
        if (group->probe)
            drop_leased(hub, group, DROP_PROBE, "the last batch is formed");
    }
}

void dispatch_plan(struct curriculum_stage *hub)
{
    if (hub->batch_count >= hub->options.steps)
        end_probes(hub);
    if (!hub->learner.ready || hub->stop_ms != 0 || !lease_again(hub, false))
        return;
    int32_t rank = group_table_waiting(&hub->groups);
    while (may_dispatch(hub) && peer_table_richest(&hub->peers, HONE__ROLE__ROLE_ACTOR) != NULL) {
        if (!lease_free(hub, new_group(hub), rank++))
            return;
    }
    if (hub->options.filter.probes > 0 && hub->batch_count < hub->options.steps)
        plan_probes(hub);
}

/* ---- sending ---- */

/* The prefixes of a lease's samples, as a message has them. */
struct lease_prefixes {
    struct wire_trajectory *wires;
    Hone__Trajectory **pointers;
    size_t count;
    int64_t newest_version; /* -1: none */
};

static int load_prefixes(struct curriculum_stage *hub, const struct lease *lease,
                         const struct group *group, struct lease_prefixes *prefixes)
{
    int rc = 0;
    *prefixes = (struct lease_prefixes){.wires = MEMORY_ARRAY(struct wire_trajectory, lease->count),
                                        .pointers = MEMORY_ARRAY(Hone__Trajectory *, lease->count),
                                        .newest_version = -1};
    for (int32_t i = lease->first; rc == 0 && i < lease->first + lease->count; i++) {
        const struct sample *sample = &group->samples[i];
        struct trajectory prefix;
        if (sample->state != SAMPLE_LEASED || sample->partial.tokens == 0)
            continue;
        if ((rc = partial_load(hub, group, i, &prefix)) < 0)
            break;
        wire_trajectory_build(&prefixes->wires[prefixes->count], &prefix);
        prefixes->pointers[prefixes->count] = &prefixes->wires[prefixes->count].message;
        prefixes->count++;
        trajectory_release(&prefix);
        if (sample->partial.newest_version > prefixes->newest_version)
            prefixes->newest_version = sample->partial.newest_version;
    }
    return rc;
}

static void release_prefixes(struct lease_prefixes *prefixes)
{
    for (size_t i = 0; i < prefixes->count; i++)
        wire_trajectory_release(&prefixes->wires[i]);
    memory_free(prefixes->wires);
    memory_free(prefixes->pointers);
}

/* 1 sent, 0 the worker's queue is full, negative: the log is broken. */
static int send_lease(struct curriculum_stage *hub, const struct lease *lease)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Lease message = HONE__LEASE__INIT;
    Hone__Sampling sampling_message;
    struct lease_prefixes prefixes;
    struct sampling sampling = hub->options.sampling;
    const struct group *group = group_table_find(&hub->groups, lease->group_id);
    HONE_ASSERT(group != NULL);
    const struct prompt *prompt = &hub->options.prompts[group->prompt_id];
    int rc = load_prefixes(hub, lease, group, &prefixes);
    sampling.seed = prompt_order_sampling_seed(&hub->prompts, group->order);
    wire_sampling_build(&sampling_message, &sampling);
    message.lease_id = lease->id;
    message.fence = lease->fence;
    message.group_id = group->id;
    message.prompt_id = group->prompt_id;
    message.sample_first = lease->first;
    message.sample_count = lease->count;
    message.prompt_tokens.data = (uint8_t *)prompt->tokens;
    message.prompt_tokens.len = (size_t)prompt->token_count * sizeof(int32_t);
    message.sampling = &sampling_message;
    message.has_min_policy_version = message.has_deadline_ms = message.has_leased_ms = 1;
    /* G2: who goes on does so with weights no older than the last token's. */
    message.min_policy_version =
        prefixes.newest_version > lease->min_version ? prefixes.newest_version : lease->min_version;
    message.deadline_ms = lease->deadline_ms;
    message.leased_ms = lease->leased_ms;
    message.n_prefixes = prefixes.count;
    message.prefixes = prefixes.pointers;
    envelope.kind = HONE__KIND__KIND_LEASE;
    envelope.lease = &message;
    if (rc == 0)
        rc = wire_server_send(hub->server, &lease->worker, &envelope, NULL, 0) == 0;
    release_prefixes(&prefixes);
    return rc;
}

int dispatch_send(struct curriculum_stage *hub)
{
    for (int32_t i = 0; i < hub->leases.count; i++) {
        struct lease *lease = &hub->leases.items[i];
        if (lease->state != LEASE_QUEUED ||
            peer_table_find(&hub->peers, lease->worker.identity) == NULL)
            continue;
        int rc = send_lease(hub, lease);
        if (rc < 0)
            return rc;
        if (rc > 0)
            lease_move(lease, LEASE_OUT);
        fault_point("lease.sent");
    }
    return 0;
}

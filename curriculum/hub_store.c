#include "curriculum/hub_store.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "curriculum/pools/pools_store.h"
#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/store/log_record.h"
#include "infra/wire/codec.h"
#include "infra/wire/envelope.h"

static const char state_key[] = "hub";

void hub_store_group(struct curriculum_stage *hub, const struct group *group)
{
    Hone__GroupRecord record = HONE__GROUP_RECORD__INIT;
    Hone__MeasurementRecord measured = HONE__MEASUREMENT_RECORD__INIT;
    uint64_t *ids = MEMORY_ARRAY(uint64_t, group->size);
    for (int32_t i = 0; i < group->size; i++)
        ids[i] = group->samples[i].trajectory_id;
    record.group_id = group->id;
    record.prompt_id = group->prompt_id;
    record.order = group->order;
    record.state = (Hone__GroupState)group->state;
    record.size = group->size;
    record.has_batch = group->batch > 0;
    record.batch = group->batch;
    if (group->state == GROUP_DROPPED)
        record.reason = (char *)(uintptr_t)drop_reason_name(group->reason);
    record.n_trajectory_ids = (size_t)group->size;
    record.trajectory_ids = ids;
    record.has_probe = record.probe = group->probe;
    if (hub->options.filter.mode != FILTER_OFF && group->state != GROUP_LEASED &&
        group_all_scored(group)) {
        struct measurement counts = group_measurement(group, hub->options.filter.pass_threshold);
        pools_build_measurement(&measured, &counts);
        record.measured = &measured;
    }
    log_record_put(hub->log, LOG_GROUPS, group->id, &record.base);
    memory_free(ids);
}

/* The process that holds a lease is part of its name: "actor-0/0123456789abcdef". */
#define HOLDER_MAX (WIRE_IDENTITY_MAX + 17)

void hub_store_lease(struct curriculum_stage *hub, const struct lease *lease)
{
    Hone__LeaseRecord record = HONE__LEASE_RECORD__INIT;
    char holder[HOLDER_MAX];
    snprintf(holder, sizeof holder, "%s/%016" PRIx64, lease->worker.identity, lease->incarnation);
    record.lease_id = lease->id;
    record.fence = lease->fence;
    record.group_id = lease->group_id;
    record.sample_first = lease->first;
    record.sample_count = lease->count;
    record.worker = holder;
    record.deadline_ms = lease->deadline_ms;
    record.has_leased_ms = 1;
    record.leased_ms = lease->leased_ms;
    log_record_put(hub->log, LOG_LEASES, lease->id, &record.base);
}

void hub_delete_lease(struct curriculum_stage *hub, const struct lease *lease)
{
    unsigned char key[8];
    run_log_key_u64(lease->id, key);
    run_log_delete(hub->log, LOG_LEASES, key, sizeof key);
}

void hub_store_batch(struct curriculum_stage *hub, int64_t number)
{
    const struct batch_entry *batch = &hub->batches[number - 1];
    Hone__BatchRecord record = HONE__BATCH_RECORD__INIT;
    record.number = number;
    record.n_group_ids = (size_t)hub->options.prompts_per_step;
    record.group_ids = batch->group_ids;
    record.has_done = record.has_durable = record.has_formed_at_version = 1;
    record.done = batch->state >= BATCH_TRAINED;
    record.durable = batch->state == BATCH_DURABLE;
    record.formed_at_version = number - 1;
    if (batch->weights_hash[0] != '\0')
        record.weights_hash = (char *)(uintptr_t)batch->weights_hash;
    if (batch->guard[0] != '\0')
        record.guard = (char *)(uintptr_t)batch->guard;
    record.has_rolled_back_to = batch->rolled_back_to >= 0;
    record.rolled_back_to = batch->rolled_back_to;
    log_record_put(hub->log, LOG_BATCHES, (uint64_t)number, &record.base);
}

void hub_store_state(struct curriculum_stage *hub)
{
    Hone__HubState record = HONE__HUB_STATE__INIT;
    struct filter_message filter;
    struct text bytes;
    record.next_order = hub->next_order;
    record.next_lease = hub->next_lease;
    record.fence = hub->fence;
    record.next_batch = hub_next_batch(hub);
    record.durable_batch = hub->durable_batch;
    record.has_epoch = record.has_cursor = record.has_learner_version = 1;
    record.epoch = (int64_t)(hub->next_order / (uint64_t)hub->options.prompt_count);
    record.cursor = (int64_t)(hub->next_order % (uint64_t)hub->options.prompt_count);
    record.learner_version = hub->done_batch;
    record.has_trimmed_batch = hub->trimmed_batch > 0;
    record.trimmed_batch = hub->trimmed_batch;
    if (hub->options.filter.mode != FILTER_OFF) {
        pools_build_state(&filter, &hub->pools);
        record.filter = &filter.message;
    }
    text_init(&bytes);
    wire_pack(&record.base, &bytes);
    run_log_put(hub->log, LOG_META, state_key, strlen(state_key), bytes.data, bytes.length);
    text_release(&bytes);
    hub->state_changed = false;
}

int hub_read_group(struct run_log *log, uint64_t id, Hone__GroupRecord **message)
{
    ProtobufCMessage *base;
    int rc = log_record_get(log, LOG_GROUPS, id, &hone__group_record__descriptor, &base);
    *message = (Hone__GroupRecord *)(void *)base;
    return rc;
}

int hub_read_state(struct run_log *log, Hone__HubState **message)
{
    struct text bytes;
    ProtobufCMessage *base = NULL;
    text_init(&bytes);
    int rc = run_log_get(log, LOG_META, state_key, strlen(state_key), &bytes);
    if (rc > 0 && wire_unpack(&base, &hone__hub_state__descriptor, bytes.data, bytes.length) < 0)
        rc = error_set(HONE_ECORRUPT, "the hub's state in the log: %s", error_message());
    *message = (Hone__HubState *)(void *)base;
    text_release(&bytes);
    return rc;
}

/* groups: where it may be in memory; NULL: nowhere. */
static int read_member(struct run_log *log, struct group_table *groups, uint64_t id,
                       Hone__Trajectory **message)
{
    struct group *group;
    struct sample *sample = groups != NULL ? group_table_sample(groups, id, &group) : NULL;
    *message = sample != NULL ? group_table_take(groups, sample) : NULL;
    if (*message == NULL)
        return trajectory_log_get(log, id, message);
    int rc = trajectory_log_add_reward(log, id, *message);
    if (rc >= 0)
        return 1;
    wire_free(&(*message)->base);
    *message = NULL;
    return rc;
}

/* Appends a group's trajectories to the batch. */
static int read_members(struct run_log *log, struct group_table *groups, uint64_t group_id,
                        Hone__Batch *batch)
{
    Hone__GroupRecord *group;
    int rc = hub_read_group(log, group_id, &group);
    if (rc > 0)
        batch->trajectories =
            memory_resize(batch->trajectories, batch->n_trajectories,
                          batch->n_trajectories + (size_t)group->size, sizeof(Hone__Trajectory *));
    for (size_t k = 0; rc > 0 && k < group->n_trajectory_ids; k++) {
        rc = read_member(log, groups, group->trajectory_ids[k],
                         &batch->trajectories[batch->n_trajectories]);
        batch->n_trajectories += rc > 0;
    }
    if (group != NULL)
        wire_free(&group->base);
    return rc;
}

/* Why a trajectory of a batch is not there. */
static int missing(struct run_log *log, int64_t number, uint64_t group_id)
{
    Hone__HubState *state;
    int rc = hub_read_state(log, &state);
    if (rc < 0)
        return rc;
    bool trimmed = rc > 0 && state->has_trimmed_batch && number <= state->trimmed_batch;
    int64_t first = trimmed ? state->trimmed_batch + 1 : 0;
    if (rc > 0)
        wire_free(&state->base);
    if (trimmed)
        return error_set(HONE_ENOENT,
                         "batch %" PRId64 " was trimmed: the log keeps trajectories from batch "
                         "%" PRId64 " on (log.keep, log.keep_batches)",
                         number, first);
    return error_set(HONE_ECORRUPT,
                     "batch %" PRId64 ": group %" PRIu64 " or a trajectory of it is not in the log",
                     number, group_id);
}

/* Everything but the trajectories; the record is the caller's when 1 is returned. */
static int read_record(struct run_log *log, int64_t number, struct logged_batch *batch,
                       ProtobufCMessage **base)
{
    memset(batch, 0, sizeof *batch);
    hone__batch__init(&batch->message);
    int rc =
        log_record_get(log, LOG_BATCHES, (uint64_t)number, &hone__batch_record__descriptor, base);
    if (rc <= 0)
        return rc;
    const Hone__BatchRecord *record = (const Hone__BatchRecord *)(void *)*base;
    batch->message.number = number;
    batch->message.group_count = record->n_group_ids;
    batch->done = record->has_done && record->done;
    batch->durable = record->has_durable && record->durable;
    if (record->weights_hash != NULL)
        snprintf(batch->weights_hash, sizeof batch->weights_hash, "%s", record->weights_hash);
    batch->rolled_back_to = record->has_rolled_back_to ? record->rolled_back_to : -1;
    return rc;
}

static int read_batch(struct run_log *log, struct group_table *groups, int64_t number,
                      struct logged_batch *batch)
{
    ProtobufCMessage *base;
    int rc = read_record(log, number, batch, &base);
    if (rc <= 0)
        return rc;
    const Hone__BatchRecord *record = (const Hone__BatchRecord *)(void *)base;
    for (size_t i = 0; rc > 0 && i < record->n_group_ids; i++) {
        rc = read_members(log, groups, record->group_ids[i], &batch->message);
        if (rc == 0)
            rc = missing(log, number, record->group_ids[i]);
    }
    wire_free(base);
    if (rc < 0)
        hub_release_batch(batch);
    return rc;
}

int hub_read_batch_record(struct run_log *log, int64_t number, struct logged_batch *batch)
{
    ProtobufCMessage *base;
    int rc = read_record(log, number, batch, &base);
    if (rc > 0)
        wire_free(base);
    return rc;
}

int hub_read_batch(struct run_log *log, int64_t number, struct logged_batch *batch)
{
    return read_batch(log, NULL, number, batch);
}

int hub_read_recent_batch(struct curriculum_stage *hub, int64_t number, struct logged_batch *batch)
{
    return read_batch(hub->log, &hub->groups, number, batch);
}

void hub_release_batch(struct logged_batch *batch)
{
    for (size_t i = 0; i < batch->message.n_trajectories; i++)
        wire_free(&batch->message.trajectories[i]->base);
    memory_free(batch->message.trajectories);
    hone__batch__init(&batch->message);
}

struct batch_entry *hub_add_batch(struct curriculum_stage *hub)
{
    if (hub->batch_count == hub->batch_capacity) {
        int64_t capacity = hub->batch_capacity > 0 ? hub->batch_capacity * 2 : 64;
        hub->batches = memory_resize(hub->batches, (size_t)hub->batch_capacity, (size_t)capacity,
                                     sizeof *hub->batches);
        hub->batch_capacity = capacity;
    }
    struct batch_entry *batch = &hub->batches[hub->batch_count++];
    memset(batch, 0, sizeof *batch);
    batch->rolled_back_to = -1;
    batch->group_ids = MEMORY_ARRAY(uint64_t, hub->options.prompts_per_step);
    return batch;
}

/* ---- trimming ---- */

void hub_note_dropped(struct curriculum_stage *hub, uint64_t group_id, int64_t batch)
{
    if (!hub->options.trim)
        return;
    if (hub->dropped_count == hub->dropped_capacity) {
        int32_t capacity = hub->dropped_capacity > 0 ? hub->dropped_capacity * 2 : 64;
        hub->dropped = memory_resize(hub->dropped, (size_t)hub->dropped_capacity, (size_t)capacity,
                                     sizeof *hub->dropped);
        hub->dropped_capacity = capacity;
    }
    hub->dropped[hub->dropped_count++] = (struct dropped_group){group_id, batch};
}

static int delete_members(struct curriculum_stage *hub, uint64_t group_id)
{
    Hone__GroupRecord *group;
    int rc = hub_read_group(hub->log, group_id, &group);
    for (size_t i = 0; rc > 0 && i < group->n_trajectory_ids; i++) {
        if (group->trajectory_ids[i] != 0) /* an abandoned group has holes */
            trajectory_log_delete(hub->log, group->trajectory_ids[i]);
    }
    if (rc > 0)
        wire_free(&group->base);
    return rc;
}

static int trim_batch(struct curriculum_stage *hub, int64_t number)
{
    int rc = 0;
    int32_t kept = 0;
    for (int32_t i = 0; rc >= 0 && i < hub->options.prompts_per_step; i++)
        rc = delete_members(hub, hub->batches[number - 1].group_ids[i]);
    for (int32_t i = 0; i < hub->dropped_count; i++) {
        struct dropped_group dropped = hub->dropped[i];
        if (dropped.batch > number)
            hub->dropped[kept++] = dropped;
        else if (rc >= 0)
            rc = delete_members(hub, dropped.id);
    }
    hub->dropped_count = kept;
    return rc;
}

void hub_trim(struct curriculum_stage *hub)
{
    while (hub->options.trim &&
           hub->trimmed_batch < hub->durable_batch - hub->options.keep_batches) {
        int rc = trim_batch(hub, hub->trimmed_batch + 1);
        if (rc < 0) {
            hub->write_error = rc;
            return;
        }
        hub->trimmed_batch++;
        hub->state_changed = true;
    }
}

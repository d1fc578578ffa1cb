#include "curriculum/hub_store.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "curriculum/partial.h"
#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/wire/codec.h"
#include "infra/wire/envelope.h"

static const char state_key[] = "hub";

static void put(struct curriculum_stage *hub, enum log_keyspace keyspace, uint64_t id,
                const ProtobufCMessage *message)
{
    unsigned char key[8];
    struct text bytes;
    text_init(&bytes);
    run_log_key_u64(id, key);
    wire_pack(message, &bytes);
    run_log_put(hub->log, keyspace, key, sizeof key, bytes.data, bytes.length);
    text_release(&bytes);
}

void hub_store_group(struct curriculum_stage *hub, const struct group *group)
{
    Hone__GroupRecord record = HONE__GROUP_RECORD__INIT;
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
    put(hub, LOG_GROUPS, group->id, &record.base);
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
    put(hub, LOG_LEASES, lease->id, &record.base);
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
    put(hub, LOG_BATCHES, (uint64_t)number, &record.base);
}

void hub_store_state(struct curriculum_stage *hub)
{
    Hone__HubState record = HONE__HUB_STATE__INIT;
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
    text_init(&bytes);
    wire_pack(&record.base, &bytes);
    run_log_put(hub->log, LOG_META, state_key, strlen(state_key), bytes.data, bytes.length);
    text_release(&bytes);
    hub->state_changed = false;
}

void hub_store_trajectory(struct curriculum_stage *hub, const struct trajectory *trajectory)
{
    struct wire_trajectory wire;
    wire_trajectory_build(&wire, trajectory);
    put(hub, LOG_TRAJECTORIES, trajectory->id, &wire.message.base);
    wire_trajectory_release(&wire);
}

static int read_record(struct run_log *log, enum log_keyspace keyspace, uint64_t id,
                       const ProtobufCMessageDescriptor *descriptor, ProtobufCMessage **message)
{
    unsigned char key[8];
    struct text bytes;
    text_init(&bytes);
    run_log_key_u64(id, key);
    *message = NULL;
    int rc = run_log_get(log, keyspace, key, sizeof key, &bytes);
    if (rc > 0 && wire_unpack(message, descriptor, bytes.data, bytes.length) < 0)
        rc = error_set(HONE_ECORRUPT, "%s %" PRIu64 " in the log: %s", descriptor->short_name, id,
                       error_message());
    text_release(&bytes);
    return rc;
}

int hub_read_trajectory(struct run_log *log, uint64_t id, Hone__Trajectory **message)
{
    ProtobufCMessage *base;
    int rc = read_record(log, LOG_TRAJECTORIES, id, &hone__trajectory__descriptor, &base);
    *message = (Hone__Trajectory *)(void *)base;
    return rc;
}

int hub_read_group(struct run_log *log, uint64_t id, Hone__GroupRecord **message)
{
    ProtobufCMessage *base;
    int rc = read_record(log, LOG_GROUPS, id, &hone__group_record__descriptor, &base);
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

/* Appends a group's trajectories to the batch. */
static int read_members(struct run_log *log, uint64_t group_id, Hone__Batch *batch)
{
    Hone__GroupRecord *group;
    int rc = hub_read_group(log, group_id, &group);
    if (rc > 0)
        batch->trajectories =
            memory_resize(batch->trajectories, batch->n_trajectories,
                          batch->n_trajectories + (size_t)group->size, sizeof(Hone__Trajectory *));
    for (size_t k = 0; rc > 0 && k < group->n_trajectory_ids; k++) {
        rc = hub_read_trajectory(log, group->trajectory_ids[k],
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

int hub_read_batch(struct run_log *log, int64_t number, struct logged_batch *batch)
{
    ProtobufCMessage *base;
    memset(batch, 0, sizeof *batch);
    hone__batch__init(&batch->message);
    int rc =
        read_record(log, LOG_BATCHES, (uint64_t)number, &hone__batch_record__descriptor, &base);
    if (rc <= 0)
        return rc;
    const Hone__BatchRecord *record = (const Hone__BatchRecord *)(void *)base;
    batch->message.number = number;
    batch->message.group_count = record->n_group_ids;
    batch->done = record->has_done && record->done;
    batch->durable = record->has_durable && record->durable;
    if (record->weights_hash != NULL)
        snprintf(batch->weights_hash, sizeof batch->weights_hash, "%s", record->weights_hash);
    for (size_t i = 0; rc > 0 && i < record->n_group_ids; i++) {
        rc = read_members(log, record->group_ids[i], &batch->message);
        if (rc == 0)
            rc = missing(log, number, record->group_ids[i]);
    }
    wire_free(base);
    if (rc < 0)
        hub_release_batch(batch);
    return rc;
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
        unsigned char key[8];
        if (group->trajectory_ids[i] == 0)
            continue; /* an abandoned group's */
        run_log_key_u64(group->trajectory_ids[i], key);
        run_log_delete(hub->log, LOG_TRAJECTORIES, key, sizeof key);
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

/* ---- recovery ---- */

static int corrupt(const char *what, uint64_t id, const char *why)
{
    return error_set(HONE_ECORRUPT, "%s %" PRIu64 " in the log: %s", what, id, why);
}

/* 1: there is a state; 0: the log is new. */
static int recover_state(struct curriculum_stage *hub, int64_t *next_batch)
{
    Hone__HubState *record;
    int rc = hub_read_state(hub->log, &record);
    if (rc <= 0)
        return rc;
    hub->next_order = record->next_order;
    hub->next_lease = record->next_lease;
    hub->fence = record->fence;
    hub->durable_batch = record->durable_batch;
    hub->trimmed_batch = record->has_trimmed_batch ? record->trimmed_batch : 0;
    *next_batch = record->next_batch;
    wire_free(&record->base);
    return rc;
}

static int recover_batch(void *context, const void *key, size_t key_bytes, const void *value,
                         size_t value_bytes)
{
    struct curriculum_stage *hub = context;
    ProtobufCMessage *base;
    uint64_t number = key_bytes == 8 ? run_log_u64(key) : 0;
    int rc = 0;
    if (wire_unpack(&base, &hone__batch_record__descriptor, value, value_bytes) < 0)
        return corrupt("batch", number, error_message());
    const Hone__BatchRecord *record = (const Hone__BatchRecord *)(void *)base;
    if (number != (uint64_t)hub_next_batch(hub) || record->number != (int64_t)number)
        rc = corrupt("batch", number, "it is not the next one");
    else if (record->n_group_ids != (size_t)hub->options.prompts_per_step)
        rc = corrupt("batch", number, "it has another number of groups than the recipe");
    if (rc == 0) {
        struct batch_entry *batch = hub_add_batch(hub);
        memcpy(batch->group_ids, record->group_ids, record->n_group_ids * sizeof(uint64_t));
        if (record->has_done && record->done)
            batch_move(batch, BATCH_TRAINED);
        if (batch->state == BATCH_TRAINED && record->number <= hub->durable_batch)
            batch_move(batch, BATCH_DURABLE);
        if (record->weights_hash != NULL)
            snprintf(batch->weights_hash, sizeof batch->weights_hash, "%s", record->weights_hash);
        if (batch->state >= BATCH_TRAINED && hub->done_batch == record->number - 1)
            hub->done_batch = record->number;
    }
    wire_free(base);
    return rc;
}

static int recover_one_group(struct curriculum_stage *hub, const Hone__GroupRecord *record)
{
    if (record->group_id != record->order + 1 || record->order >= hub->next_order)
        return corrupt("group", record->group_id, "it was never dispatched");
    if (record->size != hub->options.group_size || record->n_trajectory_ids != (size_t)record->size)
        return corrupt("group", record->group_id, "it has another size than the recipe");
    if (record->prompt_id >= (uint64_t)hub->options.prompt_count)
        return corrupt("group", record->group_id, "its prompt is not in the dataset");
    if (record->state == HONE__GROUP_STATE__GROUP_DROPPED) {
        int reason = record->reason != NULL ? drop_reason_find(record->reason) : -1;
        if (reason < 0)
            return corrupt("group", record->group_id, "it was dropped for no known reason");
        hub->drops[reason]++;
        hub->zero_drops += reason == DROP_ZERO_ADVANTAGE && record->batch == hub_next_batch(hub);
        if (record->batch > hub->trimmed_batch)
            hub_note_dropped(hub, record->group_id, record->batch);
    }
    if (record->state == HONE__GROUP_STATE__GROUP_DROPPED ||
        record->state == HONE__GROUP_STATE__GROUP_TRAINED)
        return 0;
    struct group *group =
        group_table_add(&hub->groups, record->order, record->prompt_id, record->size);
    for (int32_t i = 0; i < group->size; i++)
        if (record->trajectory_ids[i] != 0)
            group_table_hold(&hub->groups, group, i, record->trajectory_ids[i]);
    group->batch = record->has_batch ? record->batch : 0;
    /* Out of the usual order: the moves up to this state were made before the restart. */
    hub->groups.state_count[GROUP_LEASED]--;
    group->state = (enum group_state)record->state;
    hub->groups.state_count[group->state]++;
    return 0;
}

static int recover_group(void *context, const void *key, size_t key_bytes, const void *value,
                         size_t value_bytes)
{
    ProtobufCMessage *base;
    uint64_t id = key_bytes == 8 ? run_log_u64(key) : 0;
    if (wire_unpack(&base, &hone__group_record__descriptor, value, value_bytes) < 0)
        return corrupt("group", id, error_message());
    const Hone__GroupRecord *record = (const Hone__GroupRecord *)(void *)base;
    int rc = record->group_id == id ? recover_one_group(context, record)
                                    : corrupt("group", id, "it names another id");
    wire_free(base);
    return rc;
}

/* What the table keeps of a trajectory. */
static int recover_sample(struct curriculum_stage *hub, const struct group *group,
                          struct sample *sample)
{
    Hone__Trajectory *message;
    struct trajectory trajectory;
    int rc = hub_read_trajectory(hub->log, sample->trajectory_id, &message);
    if (rc == 0)
        rc = corrupt("trajectory", sample->trajectory_id, "its group has it, the log does not");
    if (rc < 0)
        return rc;
    rc = wire_trajectory_read(message, &trajectory);
    if (rc < 0) {
        rc = corrupt("trajectory", sample->trajectory_id, error_message());
    } else {
        bool scored = trajectory.scored_ms != 0;
        if (trajectory.group_id != group->id || (!scored && group->state != GROUP_LEASED))
            rc = corrupt("trajectory", sample->trajectory_id, "it does not fit its group");
        sample->state = scored ? SAMPLE_SCORED : SAMPLE_ARRIVED;
        sample->status = trajectory.reward.status;
        sample->total = trajectory.reward.total;
        sample->oldest_version = trajectory_oldest_version(&trajectory);
        sample->completion_tokens = trajectory_completion_tokens(&trajectory);
        trajectory_release(&trajectory);
    }
    wire_free(&message->base);
    return rc;
}

static int recover_samples(struct curriculum_stage *hub)
{
    for (int32_t i = 0; i < hub->groups.count; i++) {
        struct group *group = hub->groups.items[i];
        for (int32_t k = 0; k < group->size; k++) {
            struct sample *sample = &group->samples[k];
            int rc = 0;
            if (sample->trajectory_id != 0)
                rc = recover_sample(hub, group, sample);
            else if (group->state != GROUP_LEASED)
                rc = corrupt("group", group->id, "it is complete and lacks a trajectory");
            if (rc < 0)
                return rc;
        }
    }
    return 0;
}

static int recover_lease(void *context, const void *key, size_t key_bytes, const void *value,
                         size_t value_bytes)
{
    struct curriculum_stage *hub = context;
    ProtobufCMessage *base;
    uint64_t id = key_bytes == 8 ? run_log_u64(key) : 0;
    if (wire_unpack(&base, &hone__lease_record__descriptor, value, value_bytes) < 0)
        return corrupt("lease", id, error_message());
    const Hone__LeaseRecord *record = (const Hone__LeaseRecord *)(void *)base;
    struct group *group = group_table_find(&hub->groups, record->group_id);
    const char *slash = strrchr(record->worker, '/');
    int rc = 0;
    if (record->lease_id != id || id >= hub->next_lease || group == NULL || slash == NULL ||
        slash - record->worker >= WIRE_IDENTITY_MAX || record->sample_first < 0 ||
        record->sample_count < 1 || record->sample_first > group->size - record->sample_count) {
        rc = corrupt("lease", id, "it does not fit its group");
        goto out;
    }
    struct lease lease = {.id = id,
                          .fence = record->fence,
                          .group_id = record->group_id,
                          .first = record->sample_first,
                          .count = record->sample_count,
                          .min_version = 0,
                          .deadline_ms = record->deadline_ms,
                          .leased_ms = record->has_leased_ms
                                           ? record->leased_ms
                                           : record->deadline_ms - hub->options.lease_timeout_ms,
                          .incarnation = strtoull(slash + 1, NULL, 16),
                          .state = LEASE_OUT};
    if (hub->options.staleness_max == 0)
        lease.min_version = hub->batch_count;
    memcpy(lease.worker.identity, record->worker, (size_t)(slash - record->worker));
    for (int32_t i = lease.first; i < lease.first + lease.count; i++) {
        if (group->samples[i].state != SAMPLE_FREE)
            continue;
        sample_move(&group->samples[i], SAMPLE_LEASED);
        group->samples[i].lease_id = id;
        lease.missing++;
    }
    if (lease.missing > 0)
        lease_table_add(&hub->leases, &lease);
    else
        rc = corrupt("lease", id, "all of it has arrived");
out:
    wire_free(base);
    return rc;
}

int hub_recover(struct curriculum_stage *hub)
{
    int64_t next_batch = 1;
    int rc = recover_state(hub, &next_batch);
    if (rc < 0)
        return rc;
    if ((rc = run_log_scan(hub->log, LOG_BATCHES, recover_batch, hub)) < 0)
        return rc;
    if (next_batch != hub_next_batch(hub) || hub->durable_batch > hub->done_batch)
        return corrupt("the hub's batch", (uint64_t)next_batch, "the batches do not match it");
    if ((rc = run_log_scan(hub->log, LOG_GROUPS, recover_group, hub)) < 0)
        return rc;
    if ((rc = recover_samples(hub)) < 0)
        return rc;
    if ((rc = partial_recover(hub)) < 0)
        return rc;
    if ((rc = run_log_scan(hub->log, LOG_LEASES, recover_lease, hub)) < 0)
        return rc;
    if (hub->next_order > 0)
        log_info("continuing: %" PRId64 " batches formed, %" PRId64 " trained, %" PRId64
                 " durable; %d groups in flight, %d leases out",
                 hub->batch_count, hub->done_batch, hub->durable_batch, hub->groups.count,
                 hub->leases.count);
    return 0;
}

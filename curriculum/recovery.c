#include "curriculum/recovery.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "curriculum/hub_store.h"
#include "curriculum/partial.h"
#include "curriculum/pools/pools_store.h"
#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/wire/codec.h"
#include "infra/wire/envelope.h"

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
    if (hub->options.filter.mode != FILTER_OFF && record->filter != NULL &&
        pools_read_state(record->filter, &hub->pools) < 0)
        rc = error_last();
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
        if (record->guard != NULL)
            snprintf(batch->guard, sizeof batch->guard, "%s", record->guard);
        if (record->has_rolled_back_to)
            batch->rolled_back_to = record->rolled_back_to;
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
    if (record->has_probe && record->probe)
        group_table_make_probe(&hub->groups, group);
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
static int recover_sample(struct curriculum_stage *hub, struct group *group, struct sample *sample)
{
    Hone__Trajectory *message;
    struct trajectory trajectory;
    int rc = trajectory_log_get(hub->log, sample->trajectory_id, &message);
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
        sample_restore(group, sample, scored ? SAMPLE_SCORED : SAMPLE_ARRIVED);
        if (scored) {
            sample->status = trajectory.reward.status;
            sample->total = trajectory.reward.total;
        }
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
        sample_move(group, &group->samples[i], SAMPLE_LEASED);
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

/* A run that has no log yet starts from what a checkpoint's measurements say. */
static int recover_pools(struct curriculum_stage *hub, bool is_new)
{
    if (hub->options.filter.mode == FILTER_OFF)
        return 0;
    if (is_new) {
        prompt_pools_take_initial(&hub->pools);
        return 0;
    }
    int64_t rc = pools_load(hub->log, &hub->pools);
    return rc < 0 ? (int)rc : 0;
}

int hub_recover(struct curriculum_stage *hub)
{
    int64_t next_batch = 1;
    int rc = recover_state(hub, &next_batch);
    if (rc < 0 || (rc = recover_pools(hub, rc == 0)) < 0)
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

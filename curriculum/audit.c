#include "curriculum/audit.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "curriculum/group_table.h"
#include "curriculum/partial.h"
#include "curriculum/pools/pools_audit.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/store/trajectory_log.h"
#include "infra/wire/codec.h"
#include "infra/wire/envelope.h"

/* What the audit keeps of a group; index == id - 1. */
struct audit_group {
    enum group_state state;
    int64_t batch;      /* BATCHED, TRAINED; else 0 */
    int64_t left_batch; /* TRAINED, DROPPED: the batch it left with; else 0 */
    int32_t size, seen, scored;
    uint64_t *trajectory_ids; /* [size] */
    bool *arrived;            /* [size] the group has a trajectory of it */
    bool may_lack;            /* DROPPED before all samples were there, maybe */
    bool listed;              /* by its batch */
};

struct audit {
    Hone__HubState *state;
    struct pools_audit pools;
    struct audit_group *groups; /* [group_count] */
    uint64_t group_count, group_capacity;
    int64_t batches, skipped, rollbacks;
    int64_t states[GROUP_DROPPED + 1], drops[DROP_REASON_COUNT];
    int64_t trajectories, leases, staleness_max;
    int64_t rewards; /* trajectories with a reward record */
    int64_t partials, partial_tokens;
    uint64_t piece_group; /* the piece visited last */
    int32_t piece_sample, piece_end;
};

static int wrong(const char *what, uint64_t id, const char *why)
{
    return error_set(HONE_ECORRUPT, "%s %" PRIu64 ": %s", what, id, why);
}

static int unpack(ProtobufCMessage **message, const ProtobufCMessageDescriptor *descriptor,
                  const char *what, uint64_t id, const void *value, size_t bytes)
{
    if (wire_unpack(message, descriptor, value, bytes) < 0)
        return error_set(HONE_ECORRUPT, "%s %" PRIu64 ": %s", what, id, error_message());
    return 0;
}

static int read_state(struct run_log *log, struct audit *audit)
{
    struct text bytes;
    ProtobufCMessage *base = NULL;
    text_init(&bytes);
    int rc = run_log_get(log, LOG_META, "hub", 3, &bytes);
    if (rc > 0)
        rc = unpack(&base, &hone__hub_state__descriptor, "hub state", 0, bytes.data, bytes.length);
    audit->state = (Hone__HubState *)(void *)base;
    text_release(&bytes);
    return rc;
}

static int check_group(struct audit *audit, const Hone__GroupRecord *record)
{
    uint64_t id = record->group_id;
    if (id != audit->group_count + 1 || record->order + 1 != id)
        return wrong("group", id, "G1: it is not the next one in dispatch order");
    if (record->size < 1 || record->n_trajectory_ids != (size_t)record->size ||
        (int)record->state < GROUP_LEASED || (int)record->state > GROUP_DROPPED)
        return wrong("group", id, "its size or state is impossible");
    enum group_state state = (enum group_state)record->state;
    int reason = record->reason != NULL ? drop_reason_find(record->reason) : -1;
    if ((state == GROUP_DROPPED) != (reason >= 0))
        return wrong("group", id, "G1: dropped without a reason, or a reason and not dropped");
    bool in_batch = state == GROUP_BATCHED || state == GROUP_TRAINED;
    if (in_batch && (!record->has_batch || record->batch < 1))
        return wrong("group", id, "G4: it is in a batch without a number");
    if (audit->group_count == audit->group_capacity) {
        uint64_t capacity = audit->group_capacity > 0 ? audit->group_capacity * 2 : 256;
        audit->groups =
            memory_resize(audit->groups, audit->group_capacity, capacity, sizeof *audit->groups);
        audit->group_capacity = capacity;
    }
    struct audit_group *group = &audit->groups[audit->group_count++];
    group->state = state;
    group->batch = in_batch ? record->batch : 0;
    group->left_batch =
        (state == GROUP_TRAINED || state == GROUP_DROPPED) && record->has_batch ? record->batch : 0;
    group->may_lack = reason >= 0 && group_may_lack_samples((enum drop_reason)reason);
    group->size = record->size;
    group->trajectory_ids = memory_dup(record->trajectory_ids, (size_t)record->size * 8);
    pools_audit_group(&audit->pools, record);
    audit->states[state]++;
    if (reason >= 0)
        audit->drops[reason]++;
    group->arrived = MEMORY_ARRAY(bool, record->size);
    for (int32_t i = 0; i < record->size; i++)
        group->arrived[i] = record->trajectory_ids[i] != 0;
    for (int32_t i = 0; i < record->size; i++)
        if (state != GROUP_LEASED && !group->may_lack && record->trajectory_ids[i] == 0)
            return wrong("group", id, "it is complete and lacks a trajectory");
    return 0;
}

static int visit_group(void *context, const void *key, size_t key_bytes, const void *value,
                       size_t value_bytes)
{
    ProtobufCMessage *base;
    uint64_t id = key_bytes == 8 ? run_log_u64(key) : 0;
    int rc = unpack(&base, &hone__group_record__descriptor, "group", id, value, value_bytes);
    if (rc < 0)
        return rc;
    const Hone__GroupRecord *record = (const Hone__GroupRecord *)(void *)base;
    rc = record->group_id == id ? check_group(context, record)
                                : wrong("group", id, "it names another id");
    wire_free(base);
    return rc;
}

static int check_batch(struct audit *audit, const Hone__BatchRecord *record)
{
    uint64_t number = (uint64_t)record->number;
    bool durable = record->has_durable && record->durable;
    if (record->number != audit->batches + 1)
        return wrong("batch", number, "G4: it is not the next one");
    if (durable != (record->number <= audit->state->durable_batch))
        return wrong("batch", number, "G4: its durability is not what the hub's state says");
    if (durable && !(record->has_done && record->done))
        return wrong("batch", number, "G4: it is durable and was never trained");
    audit->batches++;
    if (record->has_rolled_back_to &&
        (record->rolled_back_to < 0 || record->rolled_back_to >= record->number))
        return wrong("batch", number, "it goes back to a version that was not made before it");
    audit->rollbacks += record->has_rolled_back_to;
    audit->skipped += record->guard != NULL && !record->has_rolled_back_to;
    for (size_t i = 0; i < record->n_group_ids; i++) {
        uint64_t id = record->group_ids[i];
        if (id < 1 || id > audit->group_count)
            return wrong("batch", number, "G4: it has a group that was never dispatched");
        struct audit_group *group = &audit->groups[id - 1];
        if (group->batch != record->number || group->listed)
            return wrong("group", id, "G4: it is in two batches, or in one that it does not name");
        if ((group->state == GROUP_TRAINED) != durable)
            return wrong("group", id, "G4: trained is not what its batch says");
        group->listed = true;
    }
    return 0;
}

static int visit_batch(void *context, const void *key, size_t key_bytes, const void *value,
                       size_t value_bytes)
{
    ProtobufCMessage *base;
    uint64_t number = key_bytes == 8 ? run_log_u64(key) : 0;
    int rc = unpack(&base, &hone__batch_record__descriptor, "batch", number, value, value_bytes);
    if (rc < 0)
        return rc;
    const Hone__BatchRecord *record = (const Hone__BatchRecord *)(void *)base;
    rc = (uint64_t)record->number == number ? check_batch(context, record)
                                            : wrong("batch", number, "it names another number");
    wire_free(base);
    return rc;
}

static int check_trajectory(struct audit *audit, const struct trajectory *trajectory)
{
    uint64_t id = trajectory->id;
    if (trajectory->group_id < 1 || trajectory->group_id > audit->group_count)
        return wrong("trajectory", id, "G1: its group was never dispatched");
    struct audit_group *group = &audit->groups[trajectory->group_id - 1];
    int32_t index = trajectory->sample_index;
    if (index < 0 || index >= group->size || group->trajectory_ids[index] != id)
        return wrong("trajectory", id, "G4: its group does not have it");
    group->trajectory_ids[index] = 0; /* G4: a second one for this sample is found out */
    group->seen++;
    group->scored += trajectory->scored_ms != 0;
    audit->trajectories++;
    int64_t oldest = trajectory_oldest_version(trajectory);
    if (group->batch > 0 && oldest >= 0 && group->batch - 1 - oldest > audit->staleness_max)
        audit->staleness_max = group->batch - 1 - oldest;
    return 0;
}

static int visit_trajectory(void *context, uint64_t id, const Hone__Trajectory *message,
                            bool own_reward)
{
    struct audit *audit = context;
    struct trajectory trajectory;
    audit->rewards += own_reward;
    if (wire_trajectory_read(message, &trajectory) < 0)
        return wrong("trajectory", id, "its record breaks the rules of a trajectory");
    int rc = trajectory.id == id ? check_trajectory(audit, &trajectory)
                                 : wrong("trajectory", id, "it names another id");
    trajectory_release(&trajectory);
    return rc;
}

static int count_reward(void *context, const void *key, size_t key_bytes, const void *value,
                        size_t value_bytes)
{
    int64_t *count = context;
    (void)key, (void)key_bytes, (void)value, (void)value_bytes;
    (*count)++;
    return 0;
}

/* Each reward belongs to a trajectory that has no other. */
static int check_rewards(struct run_log *log, const struct audit *audit)
{
    int64_t count = 0;
    int rc = run_log_scan(log, LOG_REWARDS, count_reward, &count);
    if (rc == 0 && count != audit->rewards)
        rc = error_set(HONE_ECORRUPT,
                       "G8: the log has %" PRId64 " rewards, and %" PRId64
                       " trajectories that they belong to",
                       count, audit->rewards);
    return rc;
}

/* Pieces of a rollout in progress: of a sample that has not arrived, without a hole between them.
 */
static int visit_partial(void *context, const void *key_bytes, size_t key_count, const void *value,
                         size_t value_bytes)
{
    struct audit *audit = context;
    struct partial_key key;
    struct trajectory piece;
    ProtobufCMessage *base;
    if (!partial_key_read(&key, key_bytes, key_count) || key.group_id < 1 ||
        key.group_id > audit->group_count)
        return error_set(HONE_ECORRUPT, "G1: a piece of a rollout is of no group");
    const struct audit_group *group = &audit->groups[key.group_id - 1];
    if (group->state != GROUP_LEASED || key.sample_index >= group->size ||
        group->arrived[key.sample_index])
        return wrong("group", key.group_id, "a piece is left of a rollout that is over");
    int rc = unpack(&base, &hone__trajectory__descriptor, "piece of group", key.group_id, value,
                    value_bytes);
    if (rc < 0)
        return rc;
    rc = wire_trajectory_read((const Hone__Trajectory *)(void *)base, &piece);
    wire_free(base);
    if (rc < 0)
        return wrong("group", key.group_id, "a piece breaks the rules of a trajectory");
    bool starts = key.group_id != audit->piece_group || key.sample_index != audit->piece_sample;
    if (key.offset != (starts ? 0 : audit->piece_end))
        rc = wrong("group", key.group_id, "a piece of a rollout is missing");
    audit->partials += starts;
    audit->partial_tokens += piece.token_count;
    audit->piece_group = key.group_id;
    audit->piece_sample = key.sample_index;
    audit->piece_end = key.offset + piece.token_count;
    trajectory_release(&piece);
    return rc;
}

static int visit_lease(void *context, const void *key, size_t key_bytes, const void *value,
                       size_t value_bytes)
{
    struct audit *audit = context;
    ProtobufCMessage *base;
    uint64_t id = key_bytes == 8 ? run_log_u64(key) : 0;
    int rc = unpack(&base, &hone__lease_record__descriptor, "lease", id, value, value_bytes);
    if (rc < 0)
        return rc;
    const Hone__LeaseRecord *record = (const Hone__LeaseRecord *)(void *)base;
    audit->leases++;
    if (record->group_id < 1 || record->group_id > audit->group_count ||
        audit->groups[record->group_id - 1].state != GROUP_LEASED)
        rc = wrong("lease", id, "G1: its group is not being sampled");
    wire_free(base);
    return rc;
}

/* Its trajectories were deleted on purpose (log.keep). */
static bool is_trimmed(const struct audit *audit, const struct audit_group *group)
{
    return group->left_batch > 0 && group->left_batch <= audit->state->trimmed_batch;
}

static int check_members(const struct audit *audit, uint64_t id)
{
    const struct audit_group *group = &audit->groups[id - 1];
    if ((group->batch > 0) != group->listed)
        return wrong("group", id, "G4: the batch that it names does not have it");
    if (is_trimmed(audit, group))
        return group->seen == 0 ? 0 : wrong("group", id, "it is trimmed and a trajectory is left");
    for (int32_t k = 0; k < group->size; k++)
        if (group->trajectory_ids[k] != 0)
            return wrong("group", id, "G4: a trajectory of it is not in the log");
    if (group->state != GROUP_LEASED && !group->may_lack && group->scored != group->size)
        return wrong("group", id, "G8: a trajectory of it has no reward");
    return 0;
}

/* What can be said only when everything was read. */
static int check_totals(const struct audit *audit)
{
    if (audit->state == NULL)
        return audit->group_count == 0 && audit->batches == 0
                   ? 0
                   : error_set(HONE_ECORRUPT, "the log has records and no hub state");
    if (audit->group_count != audit->state->next_order)
        return error_set(HONE_ECORRUPT,
                         "G1: %" PRIu64 " groups were dispatched, the log has %" PRIu64,
                         audit->state->next_order, audit->group_count);
    int64_t left = audit->states[GROUP_TRAINED], dropped = 0;
    for (int i = 0; i < DROP_REASON_COUNT; i++)
        dropped += audit->drops[i];
    int64_t in_flight =
        audit->states[GROUP_LEASED] + audit->states[GROUP_SCORED] + audit->states[GROUP_BATCHED];
    if (audit->state->next_order != (uint64_t)(left + dropped + in_flight))
        return error_set(HONE_ECORRUPT,
                         "G1: %" PRIu64 " groups were leased, %" PRId64 " trained + %" PRId64
                         " dropped + %" PRId64 " in flight do not make that",
                         audit->state->next_order, left, dropped, in_flight);
    if (audit->batches + 1 != audit->state->next_batch)
        return error_set(HONE_ECORRUPT, "G4: batch %" PRId64 " is next, the log has %" PRId64,
                         audit->state->next_batch, audit->batches);
    for (uint64_t i = 0; i < audit->group_count; i++) {
        int rc = check_members(audit, i + 1);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static void describe(const struct audit *audit, struct text *report)
{
    text_printf(report,
                "groups       %" PRIu64 " dispatched: %" PRId64 " trained, %" PRId64
                " batched, %" PRId64 " scored, %" PRId64 " leased, %" PRId64 " dropped\n",
                audit->group_count, audit->states[GROUP_TRAINED], audit->states[GROUP_BATCHED],
                audit->states[GROUP_SCORED], audit->states[GROUP_LEASED],
                audit->states[GROUP_DROPPED]);
    int64_t in_flight =
        audit->states[GROUP_LEASED] + audit->states[GROUP_SCORED] + audit->states[GROUP_BATCHED];
    text_printf(report,
                "ledger       %" PRIu64 " leased = %" PRId64 " trained + %" PRId64
                " dropped + %" PRId64 " in flight: balanced\n",
                audit->state != NULL ? audit->state->next_order : 0, audit->states[GROUP_TRAINED],
                audit->states[GROUP_DROPPED], in_flight);
    text_append(report, "dropped     ");
    for (int i = 0; i < DROP_REASON_COUNT; i++)
        text_printf(report, " %s %" PRId64, drop_reason_name((enum drop_reason)i), audit->drops[i]);
    text_printf(report, "\nbatches      %" PRId64 " formed, %" PRId64 " durable\n", audit->batches,
                audit->state != NULL ? audit->state->durable_batch : 0);
    if (audit->skipped > 0 || audit->rollbacks > 0)
        text_printf(report,
                    "guards       %" PRId64 " batches not trained or told of, %" PRId64
                    " times back to an earlier version\n",
                    audit->skipped, audit->rollbacks);
    text_printf(report,
                "trajectories %" PRId64 ", each in one group; oldest %" PRId64
                " versions stale when batched\n",
                audit->trajectories, audit->staleness_max);
    if (audit->state != NULL && audit->state->trimmed_batch > 0)
        text_printf(report,
                    "trimmed      the trajectories of batches 1 to %" PRId64 " (log.keep)\n",
                    audit->state->trimmed_batch);
    if (audit->partials > 0)
        text_printf(report,
                    "in progress  %" PRId64 " rollouts, of which the log has %" PRId64 " tokens\n",
                    audit->partials, audit->partial_tokens);
    text_printf(report, "leases       %" PRId64 " out\n", audit->leases);
}

int curriculum_audit(struct run_log *log, struct text *report)
{
    struct audit audit = {0};
    pools_audit_init(&audit.pools);
    int rc = read_state(log, &audit);
    if (rc == 0)
        rc = run_log_scan(log, LOG_GROUPS, visit_group, &audit);
    if (rc == 0 && audit.state != NULL)
        rc = run_log_scan(log, LOG_BATCHES, visit_batch, &audit);
    if (rc == 0)
        rc = trajectory_log_scan(log, visit_trajectory, &audit);
    if (rc == 0)
        rc = run_log_scan(log, LOG_PARTIALS, visit_partial, &audit);
    if (rc == 0)
        rc = run_log_scan(log, LOG_LEASES, visit_lease, &audit);
    if (rc == 0)
        rc = check_totals(&audit);
    if (rc == 0)
        rc = check_rewards(log, &audit);
    if (rc == 0)
        describe(&audit, report);
    if (rc == 0)
        rc = pools_audit_finish(&audit.pools, log, report);
    pools_audit_release(&audit.pools);
    for (uint64_t i = 0; i < audit.group_count; i++) {
        memory_free(audit.groups[i].trajectory_ids);
        memory_free(audit.groups[i].arrived);
    }
    memory_free(audit.groups);
    if (audit.state != NULL)
        wire_free(&audit.state->base);
    return rc;
}

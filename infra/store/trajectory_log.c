#include "infra/store/trajectory_log.h"

#include <inttypes.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/store/log_record.h"
#include "infra/wire/codec.h"
#include "infra/wire/envelope.h"

void trajectory_log_put(struct run_log *log, const Hone__Trajectory *message)
{
    log_record_put(log, LOG_TRAJECTORIES, message->id, &message->base);
}

void trajectory_log_put_reward(struct run_log *log, uint64_t id, const struct reward *reward,
                               int64_t scored_ms)
{
    Hone__RewardRecord record = HONE__REWARD_RECORD__INIT;
    struct wire_reward wire;
    HONE_ASSERT(scored_ms != 0);
    wire_reward_build(&wire, reward);
    record.reward = &wire.message;
    record.scored_ms = scored_ms;
    log_record_put(log, LOG_REWARDS, id, &record.base);
}

void trajectory_log_delete(struct run_log *log, uint64_t id)
{
    unsigned char key[8];
    run_log_key_u64(id, key);
    run_log_delete(log, LOG_TRAJECTORIES, key, sizeof key);
    run_log_delete(log, LOG_REWARDS, key, sizeof key);
}

int trajectory_log_has(struct run_log *log, uint64_t id)
{
    unsigned char key[8];
    run_log_key_u64(id, key);
    return run_log_get(log, LOG_TRAJECTORIES, key, sizeof key, NULL);
}

int trajectory_log_get_arrival(struct run_log *log, uint64_t id, Hone__Trajectory **message)
{
    ProtobufCMessage *base;
    int rc = log_record_get(log, LOG_TRAJECTORIES, id, &hone__trajectory__descriptor, &base);
    *message = (Hone__Trajectory *)(void *)base;
    return rc;
}

int trajectory_log_add_reward(struct run_log *log, uint64_t id, Hone__Trajectory *message)
{
    ProtobufCMessage *base;
    if (message->has_scored_ms && message->scored_ms != 0)
        return 0;
    int rc = log_record_get(log, LOG_REWARDS, id, &hone__reward_record__descriptor, &base);
    if (rc <= 0)
        return rc;
    /* The message takes the reward over; what it had says nothing. */
    Hone__RewardRecord *record = (Hone__RewardRecord *)(void *)base;
    Hone__Reward *unscored = message->reward;
    message->reward = record->reward;
    message->has_scored_ms = 1;
    message->scored_ms = record->scored_ms;
    record->reward = NULL;
    wire_free(base);
    if (unscored != NULL)
        wire_free(&unscored->base);
    return rc;
}

int trajectory_log_get(struct run_log *log, uint64_t id, Hone__Trajectory **message)
{
    int rc = trajectory_log_get_arrival(log, id, message);
    if (rc <= 0)
        return rc;
    int added = trajectory_log_add_reward(log, id, *message);
    if (added >= 0)
        return rc;
    wire_free(&(*message)->base);
    *message = NULL;
    return added;
}

struct scan {
    struct run_log *log;
    trajectory_log_visit visit;
    void *context;
};

static int visit_record(void *context, const void *key, size_t key_bytes, const void *value,
                        size_t value_bytes)
{
    const struct scan *scan = context;
    ProtobufCMessage *base;
    uint64_t id = key_bytes == 8 ? run_log_u64(key) : 0;
    if (wire_unpack(&base, &hone__trajectory__descriptor, value, value_bytes) < 0)
        return error_set(HONE_ECORRUPT, "Trajectory %" PRIu64 " in the log: %s", id,
                         error_message());
    Hone__Trajectory *message = (Hone__Trajectory *)(void *)base;
    int rc = trajectory_log_add_reward(scan->log, id, message);
    if (rc >= 0)
        rc = scan->visit(scan->context, id, message, rc > 0);
    wire_free(base);
    return rc;
}

int trajectory_log_scan(struct run_log *log, trajectory_log_visit visit, void *context)
{
    struct scan scan = {.log = log, .visit = visit, .context = context};
    return run_log_scan(log, LOG_TRAJECTORIES, visit_record, &scan);
}

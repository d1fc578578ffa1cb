/* Trajectories in a log, and the rewards that they get later.
 *
 *  J1  A trajectory's record is written once, when it arrives: tokens are most of the log. Its
 *      reward is a record of its own (LOG_REWARDS) under the same id. A trajectory that is not
 *      judged, because its rollout was given up, brings its status along and gets no such record.
 *  J2  Readers get both as one message. One without a reward has no scored_ms, and its reward
 *      counts for nothing (G8). Logs whose trajectories were written again when they were scored
 *      read the same.
 *
 * Writes are staged, reads see committed records only (infra/store/run_log.h). Messages that are
 * found are the caller's: wire_free. */
#ifndef HONE_STORE_TRAJECTORY_LOG_H
#define HONE_STORE_TRAJECTORY_LOG_H

#include "infra/data/trajectory.h"
#include "infra/store/run_log.h"
#include "infra/wire/hone.pb-c.h"

void trajectory_log_put(struct run_log *log, const Hone__Trajectory *message);
/* J1. scored_ms: unix, not 0. */
void trajectory_log_put_reward(struct run_log *log, uint64_t id, const struct reward *reward,
                               int64_t scored_ms);
/* Both records. */
void trajectory_log_delete(struct run_log *log, uint64_t id);

/* 1 there, 0 not, negative: the log is broken. */
int trajectory_log_has(struct run_log *log, uint64_t id);
/* J2. 1 found, 0 not there, HONE_ECORRUPT for a record that does not parse. */
int trajectory_log_get(struct run_log *log, uint64_t id, Hone__Trajectory **message);
/* The same without its reward: as it arrived. */
int trajectory_log_get_arrival(struct run_log *log, uint64_t id, Hone__Trajectory **message);
/* Gives a message that was read without it its reward: 1 from a record of its own, 0 it has none or
 * brought one along. */
int trajectory_log_add_reward(struct run_log *log, uint64_t id, Hone__Trajectory *message);

/* own_reward: it comes from a record of its own. */
typedef int (*trajectory_log_visit)(void *context, uint64_t id, const Hone__Trajectory *message,
                                    bool own_reward);
/* J2 for each trajectory, by id; a non-zero return stops the scan and is returned. */
int trajectory_log_scan(struct run_log *log, trajectory_log_visit visit, void *context);

#endif

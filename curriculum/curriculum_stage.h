/* The hub: owns prompts, leases, groups, batches and the log. Single writer. Ticked.
 *
 *  G1  Every leased group leaves exactly once: trained, dropped with a counted reason, or it is in
 *      flight.
 *  G3  At batch formation: learner version - oldest token's version <= staleness_max. Dispatch
 *      stops early enough: the number of groups dispatched and not yet trained or dropped never
 *      exceeds (staleness_max + 1) * prompts_per_step. (Batch n trains version n-1 into n.)
 *  G4  Batches are numbered 1, 2, 3 ...; a group is in at most one; a batch is stored before it is
 *      sent and re-sent, unchanged, until the learner says it is durable.
 *  G7  With staleness_max 0 a batch is made of groups in dispatch order, dispatched only after the
 *      learner's version for it is published, each lease demanding exactly that version: batches
 *      do not depend on timing.
 *
 * Everything acknowledged is committed first (group commit: one synced write per tick covers what
 * arrived). Every Hello is answered with a Welcome (or Refused, or Stop), every Heartbeat with a
 * Heartbeat; a worker that is not heard for ten seconds counts as gone. Credit counts from the last
 * Hello on. */
#ifndef HONE_CURRICULUM_CURRICULUM_STAGE_H
#define HONE_CURRICULUM_CURRICULUM_STAGE_H

#include "infra/data/trajectory.h"
#include "infra/launch/stage_loop.h"
#include "infra/store/run_log.h"
#include "infra/telemetry/metrics.h"

struct curriculum_options {
    const char *hub_endpoint; /* bound here */
    const char *recipe_hash;
    const char *run_id;
    const struct prompt *prompts; /* owned by the caller; id == index */
    int64_t prompt_count;
    uint64_t seed;
    struct sampling sampling;
    int64_t steps;            /* batches to train in all */
    int32_t prompts_per_step; /* groups of one batch */
    int32_t group_size;
    int32_t staleness_max;
    bool drop_zero_advantage; /* groups whose rewards are all equal are dropped and replaced, at
                                 most refill_max times the batch's groups; then the batch is formed
                                 with them */
    float refill_max;
    int64_t lease_timeout_ms;
    int32_t lease_retries; /* leases of a group that may fail in a row; then it is dropped */
    int32_t score_retries; /* attempts after a timeout or error before the status stands */
    double max_error_rate; /* of the rewards of the last 200 trajectories; above it the run stops
                              (G8) */
    bool trim;             /* trajectories of durable batches are deleted from the log, but for */
    int64_t keep_batches;  /* the newest keep_batches of them */
    int64_t stall_ms;      /* a stall this long prints who waits for whom; 0 never */
    const char *waiting_path; /* file that says who waits for whom; NULL: none */
    struct metrics *workers;  /* where each worker's time goes; NULL: not written */
};

struct curriculum_stage;
/* Continues from what the log holds. */
int curriculum_stage_create(struct curriculum_stage **stage,
                            const struct curriculum_options *options, struct run_log *log,
                            struct wire_context *context, struct clock *clock,
                            struct metrics *metrics);
int curriculum_stage_tick(void *stage,
                          struct stage_wait *wait); /* finished when batch `steps` is durable */
void curriculum_stage_destroy(struct curriculum_stage *stage);

#endif

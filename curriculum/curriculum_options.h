/* What a hub is told when it starts. */
#ifndef HONE_CURRICULUM_CURRICULUM_OPTIONS_H
#define HONE_CURRICULUM_CURRICULUM_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "curriculum/pools/prompt_pools.h"
#include "infra/data/trajectory.h"
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
    struct filter_options filter; /* probes 0 when staleness_max is 0 (G7) */
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

#endif

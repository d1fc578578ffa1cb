/* The pools in the log: a record for each prompt that was ever selected or measured, and the rest
 * in the hub's state. */
#ifndef HONE_CURRICULUM_POOLS_POOLS_STORE_H
#define HONE_CURRICULUM_POOLS_POOLS_STORE_H

#include "curriculum/pools/prompt_pools.h"
#include "infra/store/run_log.h"
#include "infra/wire/hone.pb-c.h"

void pools_build_measurement(Hone__MeasurementRecord *record,
                             const struct measurement *measurement);
/* Stages the records that have changed since the last call. */
void pools_store_changed(struct run_log *log, struct prompt_pools *pools);
/* A record's content; HONE_ECORRUPT for one that cannot be. */
int pools_read_record(const Hone__PromptRecord *record, struct pool_prompt *prompt);
/* All records of the log, into pools that were just initialised; the number read, or negative. */
int64_t pools_load(struct run_log *log, struct prompt_pools *pools);

/* The message points into the pools: valid until they change. */
struct filter_message {
    Hone__FilterState message;
    double capability_deficits[POOL_CAPABILITIES_MAX];
};
void pools_build_state(struct filter_message *state, struct prompt_pools *pools);
int pools_read_state(const Hone__FilterState *message, struct prompt_pools *pools);

#endif

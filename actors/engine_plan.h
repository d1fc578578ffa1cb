/* The memory plan of a process that generates: weights and a rollout engine. */
#ifndef HONE_ACTORS_ENGINE_PLAN_H
#define HONE_ACTORS_ENGINE_PLAN_H

#include "actors/rollout_engine.h"

/* Bytes of everything below; each is touched once all slots are as long as they may be. */
size_t engine_plan_bytes(const struct model_config *config, enum dtype dtype,
                         const struct rollout_engine_options *options, int threads);
/* Logs a table of megabytes by use, before anything is allocated. HONE_ENOMEM when the machine has
 * less memory than that. */
int engine_plan_announce(const struct model_config *config, enum dtype dtype,
                         const struct rollout_engine_options *options, int threads);

#endif

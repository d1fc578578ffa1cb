/* The actor process: leases from the hub against credits, generates, sends trajectories and keeps
 * each until it is acknowledged, fetches weights and swaps them at a token boundary (G5). Ticked:
 * one engine step a tick. */
#ifndef HONE_ACTORS_ACTOR_STAGE_H
#define HONE_ACTORS_ACTOR_STAGE_H

#include "actors/rollout_engine.h"
#include "infra/launch/stage_loop.h"

struct actor_options {
    const char *worker; /* "actor-0" */
    const char *hub_endpoint;
    const char *recipe_hash;
    struct rollout_engine_options engine;
    int64_t weights_deadline_ms; /* per fetch */
};

struct actor_stage;
/* model: weights loaded or not; the actor samples nothing before it holds a published version. */
int actor_stage_create(struct actor_stage **stage, const struct actor_options *options,
                       struct model *model, const struct compute *compute,
                       struct wire_context *context, struct clock *clock);
int actor_stage_tick(void *stage, struct stage_wait *wait); /* a stage_tick */
void actor_stage_destroy(struct actor_stage *stage);

#endif

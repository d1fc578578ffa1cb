/* The actor process: leases from the hub against credits, generates, sends trajectories and keeps
 * each until it is acknowledged, fetches weights and swaps them at a token boundary (G5). Ticked:
 * one engine step a tick.
 *
 *  B1  Nothing is sampled before a published version is held, nor for a lease that demands a newer
 * one. B2  A finished trajectory is sent again every 5 s, and after every Welcome, until it is
 * acknowledged. B3  A hub that says nothing for 3 s is greeted again; leases in hand stay valid
 * until refused or past their deadline. B4  A snapshot is installed only when its tensors are
 * exactly the model's; the hash of what the engine then holds is compared with the snapshot's
 * bytes. B5  A rollout in flight is reported from its last acknowledged token on, once it has
 * progress_tokens new ones; a sample that came with a prefix goes on from it. */
#ifndef HONE_ACTORS_ACTOR_STAGE_H
#define HONE_ACTORS_ACTOR_STAGE_H

#include "actors/rollout_engine.h"
#include "infra/launch/stage_loop.h"
#include "infra/train/lora.h"
#include "infra/wire/weight_channel.h"

struct actor_options {
    const char *worker; /* "actor-0" */
    const char *hub_endpoint;
    const char *recipe_hash;
    struct rollout_engine_options engine;
    struct weight_options weights;
    struct lora_options adapters; /* what the learner trains; rank 0: every weight */
    const char *model_directory;  /* with adapters: what they are added to */
    int32_t progress_tokens; /* new tokens after which a rollout in flight is reported; 0 never */
};

struct actor_stage;
/* model: weights loaded or not; the actor samples nothing before it holds a published version. The
 * options' strings, the model and the clock outlive the stage. */
int actor_stage_create(struct actor_stage **stage, const struct actor_options *options,
                       struct model *model, const struct compute *compute,
                       struct wire_context *context, struct clock *clock);
int actor_stage_tick(void *stage, struct stage_wait *wait); /* a stage_tick; finished after Stop */
void actor_stage_destroy(struct actor_stage *stage);

#endif

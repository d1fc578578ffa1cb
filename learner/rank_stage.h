/* The ranks of a learner beyond the first. They have the same options, hold the same policy, and
 * take the same steps: rank 0, the learner process (learner_stage.h), tells them of each batch as
 * it came from the hub, and every decision is a function of the batches. They publish nothing,
 * write nothing and talk to nobody else.
 *
 * A rank that is gone ends all (rank_group.h K2); each is started again, and they go on from the
 * checkpoint that rank 0 names. */
#ifndef HONE_LEARNER_RANK_STAGE_H
#define HONE_LEARNER_RANK_STAGE_H

#include "infra/launch/stage_loop.h"
#include "infra/wire/codec.h"
#include "learner/learner_stage.h"

/* ---- rank 0; nothing happens with a group of NULL ---- */

/* First of all: the checkpoint to go on from, or NULL. */
int ranks_begin(struct rank_group *group, const char *checkpoint);
/* Before it trains the batch itself. */
int ranks_train(struct rank_group *group, const Hone__Batch *message);
/* The run is over. */
int ranks_stop(struct rank_group *group);

/* ---- the others ---- */

struct rank_stage;
/* options->trainer.group has this rank; all options outlive the stage. */
int rank_stage_create(struct rank_stage **stage, const struct learner_options *options,
                      const struct compute *compute);
/* A stage_tick: waits for rank 0 and does what it says. */
int rank_stage_tick(void *stage, struct stage_wait *wait);
void rank_stage_destroy(struct rank_stage *stage);

#endif

/* What becomes of a group whose samples are all scored, and when a batch is complete.
 *
 *   F1  A group with fewer than two OK rewards is dropped (reward_failed). One whose rewards are
 *       all equal is dropped (zero_advantage) when the recipe says so, while fewer than refill_max
 *       * prompts_per_step were dropped for this batch; after that it is kept. A dropped group is
 *       replaced by the next dispatch. A probe is dropped as soon as it has measured its prompt.
 *   F2 (G7)  With staleness_max 0 fates are decided in dispatch order, each after all earlier
 *       ones: what is dropped and what replaces it depends on rewards alone, not on who was
 *       faster.
 *   F3 (G3)  Batch n trains version n-1: a group with a token older than n-1 - staleness_max is
 *       dropped (stale) when batch n is formed.
 *   F4  At most one batch is formed beyond the one in training. */
#ifndef HONE_CURRICULUM_BATCH_FORMER_H
#define HONE_CURRICULUM_BATCH_FORMER_H

#include "curriculum/hub.h"

/* F1, F2: moves complete groups to SCORED, drops or keeps them. */
void batch_former_decide(struct curriculum_stage *hub);
/* Counts, logs and removes a group that leaves without being trained. */
void batch_former_drop(struct curriculum_stage *hub, struct group *group, enum drop_reason reason);
/* Forms the next batch when its groups are there; true: one was formed (there may be another). */
bool batch_former_form(struct curriculum_stage *hub);

#endif

/* Rewards: which scorer judges which trajectory, and the results that come back.
 *
 *   R1  A request leaves only for a trajectory that is committed; its result is acknowledged after
 *       commit.
 *   R2 (G8)  A timeout or an error is tried again up to score_retries times; then the status
 *       stands.
 *   R3  The first result that stands counts; later ones are acknowledged and forgotten. */
#ifndef HONE_CURRICULUM_SCORING_H
#define HONE_CURRICULUM_SCORING_H

#include "curriculum/hub.h"

void scoring_on_credit(struct curriculum_stage *hub, struct peer *peer, int32_t count);
/* false: malformed; the caller drops the peer. */
bool scoring_on_result(struct curriculum_stage *hub, struct peer *peer,
                       const Hone__ScoreResult *message);
/* Its open requests go to others (a scorer that said Hello again may have lost them). */
void scoring_peer_lost(struct curriculum_stage *hub, const struct peer *peer);
/* Requests that were never answered are open again. */
void scoring_expire(struct curriculum_stage *hub);
int scoring_send(struct curriculum_stage *hub);
#endif

/* Batches on their way to the learner, and what it says about them.
 *
 *   N1 (G4)  Batches are sent in order, at most two beyond what the learner has trained; whatever
 *       it has not trained is sent again, unchanged, to a learner that reports anew.
 *   N2  A batch trained twice must give the same weights, bit for bit: another hash stops the run.
 *   N3  Groups are TRAINED when their batch is durable.
 *   N4  What the learner's guards did with a batch is noted in its record. */
#ifndef HONE_CURRICULUM_TRAINING_H
#define HONE_CURRICULUM_TRAINING_H

#include "curriculum/hub.h"

/* Each returns 0, or a negative code that ends the run: a learner of another history
 * (HONE_ECORRUPT), a replay that diverged. */
int training_on_ready(struct curriculum_stage *hub, struct peer *peer,
                      const Hone__LearnerReady *message);
int training_on_done(struct curriculum_stage *hub, struct peer *peer,
                     const Hone__BatchDone *message);
/* Sends what may be sent: batches to the learner, notices of its version to the actors. */
int training_send(struct curriculum_stage *hub);
bool training_finished(const struct curriculum_stage *hub); /* batch `steps` is durable */

#endif

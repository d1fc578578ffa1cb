/* What must hold of the hub after every tick, whatever has happened: its tables against each other,
 * against the log, and against what was true before.
 *
 *  G1  Every group dispatched is in flight, trained, or dropped and counted.
 *  G3  Dispatch never runs further ahead than it may; a batch that is formed has no group older
 *      than it may have.
 *  G4  What was formed, trained and made durable stays so; a group is in one batch at most.
 *  H2  The tables are those that recovery reads from the log.
 *  P1  A trajectory that was acknowledged is in the log. */
#ifndef HONE_TESTS_SIM_CHECK_H
#define HONE_TESTS_SIM_CHECK_H

#include "tests/curriculum/world.h"

void sim_check_start(void); /* of a new run */
/* Fails the test on the spot. The hub is up and has just ticked. */
void sim_check(struct world *world);
void sim_check_acked(struct world *world);            /* P1; the hub is up */
uint64_t sim_check_digest(const struct world *world); /* of everything the run has come to */

#endif

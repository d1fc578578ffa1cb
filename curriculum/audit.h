/* The books of a run, checked from the disk alone.
 *
 *  G1  Every group that was ever dispatched is there once, and is in flight, trained or dropped for
 *      a reason.
 *  G4  Batches 1, 2, ... are there once each; every group of a batch says so and no other does;
 *      every trajectory belongs to one sample of one group, so it is in one batch at most; a batch
 *      is durable exactly when the hub's state says so, and its groups are trained exactly then.
 *  G8  What is in a batch has a reward, a number or a status, for every trajectory. */
#ifndef HONE_CURRICULUM_AUDIT_H
#define HONE_CURRICULUM_AUDIT_H

#include "infra/base/text.h"
#include "infra/store/run_log.h"

/* Appends the figures to report. 0: the books balance; HONE_ECORRUPT: the first contradiction is
 * the error message; other codes: the log cannot be read. */
int curriculum_audit(struct run_log *log, struct text *report);

#endif

/* Faults on request, for the tests that kill processes and cut the power. Every build has them, and
 * nothing happens unless the environment asks:
 *
 *   HONE_CRASH_AT=POINT[:N],...   the process kills itself when it passes the named point for the
 *                                 Nth time (N = 1 without)
 *   HONE_CRASH_WITNESS=DIR        makes DIR/POINT first; where that file is, the point is passed:
 *                                 one death for all the processes of a run, and proof of it
 *   HONE_BREAK=PROMISE,...        a promise is not kept, so that a test can be seen to notice
 *   HONE_INJECT=NAME:FIRST-LAST,...  from one number (a batch, a version) to another, something
 * goes wrong: nan_loss, gradient_spike, entropy_collapse, wrong_way (of batches, in the learner),
 * stale_weights (of versions, in an actor) HONE_JOURNAL=FILE             what was promised to this
 * process is noted in FILE, a line each
 *
 * Any thread; read once, when first asked. */
#ifndef HONE_BASE_FAULT_H
#define HONE_BASE_FAULT_H

#include <stdbool.h>
#include <stdint.h>

void fault_point(const char *point);
bool fault_breaks(const char *promise);
bool fault_injected(const char *name, int64_t number);
void fault_note(const char *what, uint64_t id);

#endif

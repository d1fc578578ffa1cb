/* The events of a simulated run, and the death of its hub in the middle of a tick. One per process.
 */
#ifndef HONE_TESTS_SIM_TRACE_H
#define HONE_TESTS_SIM_TRACE_H

#include <stdbool.h>
#include <stdint.h>

/* keep: events are kept, to be printed when the run fails; else they cost nothing. */
void sim_trace_start(bool keep, const int64_t *now_ns);
void sim_trace(const char *format, ...) __attribute__((format(printf, 1, 2)));
void sim_trace_print(void); /* the last events, oldest first, to stderr */

/* The hub dies at its effects-th outward effect (a message sent, a write to disk) from now on. From
 * then on nothing it does has an effect. 0: it lives. */
void sim_die_after(int effects);
bool sim_is_dead(void);
/* Counts an effect; true: the process is dead, so there is none. */
bool sim_dying(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif

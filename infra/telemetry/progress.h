/* Progress of long work: a bar on a terminal (stderr; NO_COLOR and TERM=dumb respected; at most 10 redraws a second),
 * plain lines otherwise (one every few seconds and one at the end). Owned by one thread. */
#ifndef HONE_TELEMETRY_PROGRESS_H
#define HONE_TELEMETRY_PROGRESS_H

#include <stdint.h>

struct progress;

/* total 0: unknown; then only counts and rates are shown. label and unit are copied. */
struct progress *progress_create(const char *label, const char *unit, int64_t total);
void progress_set_total(struct progress *progress, int64_t total);
/* detail: short text such as "loss 1.23", or NULL. */
void progress_update(struct progress *progress, int64_t done, const char *detail);
/* Ends the bar with a last line; releases. detail or NULL. */
void progress_finish(struct progress *progress, const char *detail);

#endif

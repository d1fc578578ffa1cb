/* Progress of long work: a bar on a terminal (stderr; NO_COLOR and TERM=dumb respected; at most 10
 * redraws a second), plain lines otherwise (one every few seconds and one at the end). Owned by one
 * thread. */
#ifndef HONE_TELEMETRY_PROGRESS_H
#define HONE_TELEMETRY_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "infra/base/clock.h"

struct progress;

/* Where progress goes. progress_create finds out; tests and commands that draw elsewhere say. */
struct progress_sink {
    FILE *out;
    bool is_terminal; /* redraw one line; otherwise print lines */
    bool has_color;
    int columns; /* of the terminal */
    struct clock *clock;
};

/* total 0: unknown; then only counts and rates are shown. label and unit are copied. */
struct progress *progress_create(const char *label, const char *unit, int64_t total);
/* The same on a given sink, which is copied; out and clock must outlive the progress. */
struct progress *progress_create_on(const struct progress_sink *sink, const char *label,
                                    const char *unit, int64_t total);
void progress_set_total(struct progress *progress, int64_t total);
/* The rate counts from the first update, so that resumed work does not look fast. detail: short
 * text such as "loss 1.23", or NULL. */
void progress_update(struct progress *progress, int64_t done, const char *detail);
/* Ends the bar with a last line; releases. detail or NULL. */
void progress_finish(struct progress *progress, const char *detail);

#endif

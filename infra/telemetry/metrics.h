/* The metrics file of one writer: one JSON object a line, {"step": n, "time": unix_ms, "name":
 * value, ...}. A record is written whole and flushed; numbers that are not finite are null. Owned
 * by one thread. */
#ifndef HONE_TELEMETRY_METRICS_H
#define HONE_TELEMETRY_METRICS_H

#include <stdint.h>

#include "infra/base/clock.h"

struct metrics;

/* Appends to path (created; a torn last line of an earlier process is ended first). */
int metrics_open(struct metrics **metrics, const char *path, struct clock *clock);
void metrics_close(struct metrics *metrics); /* NULL is fine */

/* A NULL writer is allowed everywhere: nothing is written. */
void metrics_begin(struct metrics *metrics, int64_t step);
void metrics_add(struct metrics *metrics, const char *name, double value);
void metrics_add_text(struct metrics *metrics, const char *name, const char *value);
/* Writes the record; a full disk is a negative code. */
int metrics_end(struct metrics *metrics);

#endif

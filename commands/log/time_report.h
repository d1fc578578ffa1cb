/* Where the time of a run's workers went, from what the hub wrote of their heartbeats. */
#ifndef HONE_COMMANDS_TIME_REPORT_H
#define HONE_COMMANDS_TIME_REPORT_H

#include <stdio.h>

#include "infra/launch/run_directory.h"

/* A table to out: a row for each worker and activity, all processes of a worker's name together.
 * HONE_ENOENT: the run has no such records. */
int time_report_print(const struct run_directory *run, FILE *out);

#endif

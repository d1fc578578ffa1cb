/* Starts, watches and restarts the worker processes of one stage of a run.
 *
 * States of a worker: starting -> running -> (exited 0: done) | (died: waiting with back-off ->
 * starting) | (restart budget used up: failed -> the run ends with a report). A worker is this same
 * binary with the arguments given; it is started in its own process group, dies with the
 * supervisor, logs to RUN/logs/NAME.log. Owned by one thread. */
#ifndef HONE_LAUNCH_SUPERVISOR_H
#define HONE_LAUNCH_SUPERVISOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "infra/base/clock.h"

#define SUPERVISOR_WORKERS_MAX 256
#define SUPERVISOR_ARGS_MAX    32

struct worker_spec {
    char name[64];                   /* "actor-0" */
    char *argv[SUPERVISOR_ARGS_MAX]; /* NULL-terminated; argv[0] is the hone binary */
    char log_path[1024];
    bool essential;  /* the stage is over when this one exits 0 */
    int restart_max; /* deaths tolerated within restart_window_ms */
    int64_t restart_window_ms;
};

enum worker_status { WORKER_STARTING, WORKER_RUNNING, WORKER_DONE, WORKER_BACKOFF, WORKER_FAILED };

struct supervisor;
int supervisor_create(struct supervisor **supervisor, struct clock *clock);
void supervisor_destroy(struct supervisor *supervisor); /* stops everything still running */
int supervisor_add(struct supervisor *supervisor, const struct worker_spec *spec);
/* Starts what is due, reaps what died. 0 going on, 1 every essential worker is done, negative: a
 * worker failed for good (the message names it, its exit and the last line of its log). */
int supervisor_tick(struct supervisor *supervisor);
/* SIGTERM, a grace period, then SIGKILL, and waits. */
void supervisor_stop(struct supervisor *supervisor, int64_t grace_ms);

int supervisor_count(const struct supervisor *supervisor);
const char *supervisor_name(const struct supervisor *supervisor, int index);
pid_t supervisor_pid(const struct supervisor *supervisor, int index);
enum worker_status supervisor_status(const struct supervisor *supervisor, int index);
int supervisor_restarts(const struct supervisor *supervisor, int index);
/* Index of a running worker; -1: there is none of that name. */
int supervisor_find(const struct supervisor *supervisor, const char *name);
/* Asks a running worker to write its stack into its log (infra/launch/stack_dump.h). */
void supervisor_ask_stack(const struct supervisor *supervisor, int index);

#endif

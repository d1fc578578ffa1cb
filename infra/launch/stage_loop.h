/* The loop around a ticked stage, shared by every worker process: signals, heart of the poll,
 * errors. A stage has no thread and no clock of its own; the loop supplies both. */
#ifndef HONE_LAUNCH_STAGE_LOOP_H
#define HONE_LAUNCH_STAGE_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "infra/base/clock.h"
#include "infra/wire/socket.h"

#define STAGE_SOCKETS_MAX 4

/* What a tick reports: did it do something, and if not, which sockets to sleep on for how long. */
struct stage_wait {
    bool busy;     /* work remains: tick again at once */
    bool finished; /* the stage is done: leave the loop with exit 0 */
    int timeout_ms;
    struct wire_server *servers[STAGE_SOCKETS_MAX];
    int server_count;
    struct wire_client *clients[STAGE_SOCKETS_MAX];
    int client_count;
};

typedef int (*stage_tick)(void *stage, struct stage_wait *wait);

/* Ticks until finished, SIGTERM/SIGINT (returns HONE_EINTERRUPTED) or a negative return of tick.
 * Dies with its parent when HONE_PARENT_PID is set (PR_SET_PDEATHSIG). */
int stage_loop_run(void *stage, stage_tick tick);
bool stage_loop_interrupted(void);

#endif

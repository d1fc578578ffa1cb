#include "infra/launch/stage_loop.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "infra/base/error.h"
#include "infra/launch/stack_dump.h"

/* Also the longest that a signal can go unnoticed which arrives between the check and the poll. */
enum { POLL_MAX_MS = 250 };

static volatile sig_atomic_t stop_asked;
static pthread_t loop_thread; /* set before the handlers are */

/* The kernel may give the signal to any thread (the log's store has some): only on the loop's own
 * does it also end the poll. */
static void on_stop(int number)
{
    stop_asked = 1;
    if (!pthread_equal(pthread_self(), loop_thread))
        pthread_kill(loop_thread, number);
}

bool stage_loop_interrupted(void)
{
    return stop_asked != 0;
}

/* A worker started by a supervisor must not outlive it, however that one dies. */
static int die_with_parent(void)
{
    const char *parent = getenv("HONE_PARENT_PID");
    if (parent == NULL)
        return 0;
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        return error_errno("prctl(PR_SET_PDEATHSIG)");
    if (getppid() != (pid_t)strtol(parent, NULL, 10))
        return error_set(HONE_EINTERRUPTED, "the supervisor (pid %s) is gone", parent);
    return 0;
}

int stage_loop_run(void *stage, stage_tick tick)
{
    struct sigaction action = {.sa_handler = on_stop};
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    loop_thread = pthread_self();
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
    stack_dump_install();
    int rc = die_with_parent();
    while (rc == 0) {
        if (stage_loop_interrupted())
            return error_set(HONE_EINTERRUPTED, "asked to stop");
        struct stage_wait wait = {0};
        rc = tick(stage, &wait);
        if (rc < 0 || wait.finished)
            break;
        if (wait.busy)
            continue;
        int timeout_ms =
            wait.timeout_ms > 0 && wait.timeout_ms < POLL_MAX_MS ? wait.timeout_ms : POLL_MAX_MS;
        if (wait.server_count == 0 && wait.client_count == 0)
            clock_sleep_ms(timeout_ms);
        else
            rc = wire_poll(wait.servers, wait.server_count, wait.clients, wait.client_count,
                           timeout_ms);
        rc = rc > 0 ? 0 : rc;
    }
    return rc;
}

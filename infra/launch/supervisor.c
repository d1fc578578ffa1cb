/* Worker states:
 *
 *   BACKOFF --due--> STARTING/RUNNING --exit 0--> DONE
 *      ^                  |
 *      |   budget left    | any other end
 *      +------------------+--budget used up--> FAILED
 */
#include "infra/launch/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"

enum { REPORT_LINES = 8 };
enum { BACKOFF_FIRST_MS = 100, BACKOFF_MAX_MS = 5000, STOP_POLL_MS = 10 };

/* Endings that a restart cannot mend: bad usage or recipe, bad input, a guard's decision. */
static bool is_final(int status)
{
    if (!WIFEXITED(status))
        return false;
    int code = WEXITSTATUS(status);
    return code == error_exit_status(HONE_EINVAL) || code == error_exit_status(HONE_EFORMAT) ||
           code == error_exit_status(HONE_EGUARD);
}

struct worker_process {
    struct worker_spec spec;
    enum worker_status status;
    pid_t pid;
    int64_t started_ms, due_ms;
    int restarts;      /* in all */
    int window_deaths; /* since window_start_ms */
    int64_t window_start_ms;
    int exit_status; /* of waitpid */
};

struct supervisor {
    struct clock *clock;
    struct worker_process *workers[SUPERVISOR_WORKERS_MAX];
    int count;
};

int supervisor_create(struct supervisor **supervisor, struct clock *clock)
{
    *supervisor = MEMORY_NEW(struct supervisor);
    (*supervisor)->clock = clock;
    return 0;
}

void supervisor_destroy(struct supervisor *supervisor)
{
    if (supervisor == NULL)
        return;
    supervisor_stop(supervisor, 0);
    for (int i = 0; i < supervisor->count; ++i) {
        struct worker_process *worker = supervisor->workers[i];
        for (int j = 0; worker->spec.argv[j] != NULL; ++j)
            memory_free(worker->spec.argv[j]);
        memory_free(worker);
    }
    memory_free(supervisor);
}

int supervisor_add(struct supervisor *supervisor, const struct worker_spec *spec)
{
    if (supervisor->count == SUPERVISOR_WORKERS_MAX)
        return error_set(HONE_EINVAL, "at most %d workers", SUPERVISOR_WORKERS_MAX);
    struct worker_process *worker = MEMORY_NEW(struct worker_process);
    worker->spec = *spec;
    for (int i = 0; spec->argv[i] != NULL; ++i) {
        HONE_ASSERT(i + 1 < SUPERVISOR_ARGS_MAX);
        worker->spec.argv[i] = memory_strdup(spec->argv[i]);
    }
    worker->status = WORKER_STARTING;
    worker->due_ms = clock_now_ms(supervisor->clock);
    worker->window_start_ms = worker->due_ms;
    supervisor->workers[supervisor->count++] = worker;
    return 0;
}

/* In the child: nothing here may allocate or log. */
static _Noreturn void become_worker(const struct worker_spec *spec, int log_fd, pid_t parent,
                                    char *const *environment)
{
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(127);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGUSR1, SIG_IGN); /* until the worker can answer it */
    int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    dup2(null_fd, STDIN_FILENO);
    dup2(log_fd, STDOUT_FILENO);
    dup2(log_fd, STDERR_FILENO);
    execve(spec->argv[0], spec->argv, environment);
    static const char message[] = "the program of this worker cannot be started\n";
    ssize_t written = write(STDERR_FILENO, message, sizeof message - 1);
    _exit(written < 0 ? 126 : 127);
}

static int start(struct supervisor *supervisor, struct worker_process *worker)
{
    char parent[32];
    snprintf(parent, sizeof parent, "%d", (int)getpid());
    setenv("HONE_PARENT_PID", parent, 1);
    int log_fd = open(worker->spec.log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (log_fd < 0)
        return error_errno("log of %s: %s", worker->spec.name, worker->spec.log_path);
    pid_t self = getpid();
    pid_t pid = fork();
    if (pid == 0)
        become_worker(&worker->spec, log_fd, self, environ);
    int saved = errno;
    close(log_fd);
    unsetenv("HONE_PARENT_PID");
    if (pid < 0) {
        errno = saved;
        return error_errno("start %s", worker->spec.name);
    }
    setpgid(pid, pid);
    worker->pid = pid;
    worker->status = WORKER_RUNNING;
    worker->started_ms = clock_now_ms(supervisor->clock);
    return 0;
}

/* The last lines of a worker's log, each after a line break. */
static void last_lines(const char *path, char *lines, size_t capacity)
{
    char tail[4096];
    lines[0] = '\0';
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    off_t end = lseek(fd, 0, SEEK_END);
    off_t from = end > (off_t)sizeof tail - 1 ? end - ((off_t)sizeof tail - 1) : 0;
    ssize_t bytes = pread(fd, tail, sizeof tail - 1, from);
    close(fd);
    while (bytes > 0 && tail[bytes - 1] == '\n')
        bytes--;
    if (bytes <= 0)
        return;
    tail[bytes] = '\0';
    const char *start_of_lines = tail + bytes;
    for (int count = 0; start_of_lines > tail; start_of_lines--)
        if (start_of_lines[-1] == '\n' && ++count == REPORT_LINES)
            break;
    snprintf(lines, capacity, "\n%s", start_of_lines);
}

static void describe_end(const struct worker_process *worker, char *buffer, size_t capacity)
{
    if (WIFSIGNALED(worker->exit_status))
        snprintf(buffer, capacity, "was killed by signal %d (%s)", WTERMSIG(worker->exit_status),
                 strsignal(WTERMSIG(worker->exit_status)));
    else
        snprintf(buffer, capacity, "ended with exit status %d (%s)",
                 WEXITSTATUS(worker->exit_status),
                 error_exit_subject(WEXITSTATUS(worker->exit_status)));
}

/* A dead worker: waits for its next start, or has failed for good. */
static int on_death(struct supervisor *supervisor, struct worker_process *worker)
{
    char how[128], lines[2048];
    int64_t now = clock_now_ms(supervisor->clock);
    worker->pid = 0;
    describe_end(worker, how, sizeof how);
    if (now - worker->window_start_ms > worker->spec.restart_window_ms) {
        worker->window_start_ms = now;
        worker->window_deaths = 0;
    }
    worker->window_deaths++;
    bool hopeless = is_final(worker->exit_status);
    if (hopeless || worker->window_deaths > worker->spec.restart_max) {
        worker->status = WORKER_FAILED;
        last_lines(worker->spec.log_path, lines, sizeof lines);
        if (hopeless)
            return error_set(HONE_EPEER, "%s %s; its log %s ends with:%s", worker->spec.name, how,
                             worker->spec.log_path, lines);
        return error_set(HONE_EPEER,
                         "%s %s once too often: %d times in %lld s (%d starts in all), and %d are "
                         "allowed in %lld s; its log %s ends with:%s",
                         worker->spec.name, how, worker->window_deaths,
                         (long long)((now - worker->window_start_ms) / 1000), worker->restarts + 1,
                         worker->spec.restart_max,
                         (long long)(worker->spec.restart_window_ms / 1000), worker->spec.log_path,
                         lines);
    }
    int64_t delay = BACKOFF_FIRST_MS;
    for (int i = 1; i < worker->window_deaths && delay < BACKOFF_MAX_MS; ++i)
        delay *= 2;
    delay = delay < BACKOFF_MAX_MS ? delay : BACKOFF_MAX_MS;
    worker->status = WORKER_BACKOFF;
    worker->due_ms = now + delay;
    worker->restarts++;
    log_warn("%s %s; starting it again in %lld ms (%d of %d)", worker->spec.name, how,
             (long long)delay, worker->window_deaths, worker->spec.restart_max);
    return 0;
}

/* Reaps a worker that has ended: its pid, 0 while it runs, or -1. What it leaves behind in its
 * process group (a reward command, say) goes with it: while it is not reaped its group is still its
 * own. */
static pid_t reap(struct worker_process *worker)
{
    siginfo_t info = {0};
    if (waitid(P_PID, (id_t)worker->pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0)
        return errno == EINTR ? 0 : -1;
    if (info.si_pid == 0)
        return 0;
    kill(-worker->pid, SIGKILL);
    return waitpid(worker->pid, &worker->exit_status, 0);
}

static int tick_worker(struct supervisor *supervisor, struct worker_process *worker)
{
    switch (worker->status) {
    case WORKER_STARTING:
    case WORKER_BACKOFF:
        return clock_now_ms(supervisor->clock) >= worker->due_ms ? start(supervisor, worker) : 0;
    case WORKER_RUNNING: {
        pid_t pid = reap(worker);
        if (pid == 0)
            return 0;
        if (pid < 0)
            return error_errno("wait for %s", worker->spec.name);
        if (!WIFEXITED(worker->exit_status) || WEXITSTATUS(worker->exit_status) != 0)
            return on_death(supervisor, worker);
        worker->pid = 0;
        worker->status = WORKER_DONE;
        return 0;
    }
    case WORKER_DONE:
        return 0;
    case WORKER_FAILED:
        break;
    }
    return error_set(HONE_EPEER, "%s has failed", worker->spec.name);
}

int supervisor_tick(struct supervisor *supervisor)
{
    bool essential = false, all_done = true;
    for (int i = 0; i < supervisor->count; ++i) {
        struct worker_process *worker = supervisor->workers[i];
        int rc = tick_worker(supervisor, worker);
        if (rc < 0)
            return rc;
        if (worker->spec.essential) {
            essential = true;
            all_done = all_done && worker->status == WORKER_DONE;
        }
    }
    return essential && all_done;
}

static bool any_running(struct supervisor *supervisor)
{
    bool running = false;
    for (int i = 0; i < supervisor->count; ++i) {
        struct worker_process *worker = supervisor->workers[i];
        if (worker->status != WORKER_RUNNING)
            continue;
        if (reap(worker) != 0) {
            worker->status = WORKER_DONE;
            worker->pid = 0;
        } else {
            running = true;
        }
    }
    return running;
}

static void signal_all(struct supervisor *supervisor, int number)
{
    for (int i = 0; i < supervisor->count; ++i)
        if (supervisor->workers[i]->status == WORKER_RUNNING)
            kill(-supervisor->workers[i]->pid, number);
}

void supervisor_stop(struct supervisor *supervisor, int64_t grace_ms)
{
    if (any_running(supervisor) && grace_ms > 0)
        signal_all(supervisor, SIGTERM);
    int64_t deadline = clock_now_ms(supervisor->clock) + grace_ms;
    while (any_running(supervisor) && clock_now_ms(supervisor->clock) < deadline)
        clock_sleep_ms(STOP_POLL_MS);
    signal_all(supervisor, SIGKILL);
    while (any_running(supervisor))
        clock_sleep_ms(1);
}

int supervisor_count(const struct supervisor *supervisor)
{
    return supervisor->count;
}

static const struct worker_process *worker_at(const struct supervisor *supervisor, int index)
{
    HONE_ASSERT(index >= 0 && index < supervisor->count);
    return supervisor->workers[index];
}

const char *supervisor_name(const struct supervisor *supervisor, int index)
{
    return worker_at(supervisor, index)->spec.name;
}

pid_t supervisor_pid(const struct supervisor *supervisor, int index)
{
    return worker_at(supervisor, index)->pid;
}

enum worker_status supervisor_status(const struct supervisor *supervisor, int index)
{
    return worker_at(supervisor, index)->status;
}

int supervisor_restarts(const struct supervisor *supervisor, int index)
{
    return worker_at(supervisor, index)->restarts;
}

int supervisor_find(const struct supervisor *supervisor, const char *name)
{
    for (int i = 0; i < supervisor->count; ++i)
        if (supervisor->workers[i]->status == WORKER_RUNNING &&
            strcmp(supervisor->workers[i]->spec.name, name) == 0)
            return i;
    return -1;
}

void supervisor_ask_stack(const struct supervisor *supervisor, int index)
{
    const struct worker_process *worker = worker_at(supervisor, index);
    if (worker->status == WORKER_RUNNING)
        kill(worker->pid, SIGUSR1); /* the worker alone, not what it has started */
}

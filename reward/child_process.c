#include "reward/child_process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "infra/base/clock.h"
#include "infra/base/error.h"

enum { READ_END, WRITE_END };

static void close_end(int *end)
{
    if (*end >= 0)
        close(*end);
    *end = -1;
}

static void close_pipes(int pipes[4][2])
{
    for (int i = 0; i < 4; i++) {
        close_end(&pipes[i][READ_END]);
        close_end(&pipes[i][WRITE_END]);
    }
}

/* Only async-signal-safe calls from here to exec: the process may have other threads. */
static _Noreturn void become(const char *const *argv, int pipes[4][2], pid_t parent)
{
    sigset_t none;
    int report = pipes[3][WRITE_END];
    sigemptyset(&none);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) /* it died before the line above */
        _exit(127);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (dup2(pipes[0][READ_END], STDIN_FILENO) >= 0 &&
        dup2(pipes[1][WRITE_END], STDOUT_FILENO) >= 0 &&
        dup2(pipes[2][WRITE_END], STDERR_FILENO) >= 0) {
        (void)close_range(3, ~0u,
                          CLOSE_RANGE_CLOEXEC); /* descriptors of others; ours are already */
        union {
            const char *const *given;
            char *const *taken;
        } words = {argv};
        execvp(argv[0], words.taken);
    }
    int reason = errno;
    ssize_t written = write(report, &reason, sizeof reason);
    _exit(written == (ssize_t)sizeof reason ? 127 : 126);
}

int child_process_start(struct child_process *child, const char *const *argv)
{
    int pipes[4][2] = {{-1, -1}, {-1, -1}, {-1, -1}, {-1, -1}}; /* in, out, err, exec's report */
    int rc = 0, reason = 0;
    *child = (struct child_process){0, -1, -1, -1};
    for (int i = 0; i < 4; i++) {
        if (pipe2(pipes[i], O_CLOEXEC) < 0) {
            rc = error_errno("pipe for %s", argv[0]);
            goto out;
        }
    }
    pid_t parent = getpid(), pid = fork();
    if (pid < 0) {
        rc = error_errno("fork for %s", argv[0]);
        goto out;
    }
    if (pid == 0)
        become(argv, pipes, parent);
    setpgid(pid, pid); /* both sides do it: whoever comes first */
    close_end(&pipes[3][WRITE_END]);
    ssize_t got;
    do {
        got = read(pipes[3][READ_END], &reason, sizeof reason);
    } while (got < 0 && errno == EINTR);
    if (got == (ssize_t)sizeof reason) { /* exec failed; success closes the pipe */
        waitpid(pid, NULL, 0);
        errno = reason;
        rc = error_errno("cannot run %s", argv[0]);
        goto out;
    }
    *child =
        (struct child_process){pid, pipes[0][WRITE_END], pipes[1][READ_END], pipes[2][READ_END]};
    pipes[0][WRITE_END] = pipes[1][READ_END] = pipes[2][READ_END] = -1;
    fcntl(child->input, F_SETFL, O_NONBLOCK);
    fcntl(child->output, F_SETFL, O_NONBLOCK);
    fcntl(child->error, F_SETFL, O_NONBLOCK);
out:
    close_pipes(pipes);
    return rc;
}

void child_process_stop(struct child_process *child, char *ending, int ending_bytes)
{
    int status = 0;
    if (ending != NULL)
        snprintf(ending, (size_t)ending_bytes, "was not running");
    if (child->pid > 0) {
        /* What it did by itself is known only before we kill it. */
        pid_t over = waitpid(child->pid, &status, WNOHANG);
        kill(-child->pid, SIGKILL);
        while (over == 0 && waitpid(child->pid, &status, 0) < 0 && errno == EINTR)
            continue;
        if (ending != NULL && WIFEXITED(status))
            snprintf(ending, (size_t)ending_bytes, "exited with status %d", WEXITSTATUS(status));
        else if (ending != NULL)
            snprintf(ending, (size_t)ending_bytes, "killed by signal %d", WTERMSIG(status));
    }
    child->pid = 0;
    close_end(&child->input);
    close_end(&child->output);
    close_end(&child->error);
}

void child_process_finish(struct child_process *child, int64_t grace_ms)
{
    close_end(&child->input);
    for (int64_t waited = 0; child->pid > 0 && waited < grace_ms; waited += 5) {
        siginfo_t info = {0};
        /* WNOWAIT: the child stays for child_process_stop to reap with its group. */
        if (waitid(P_PID, (id_t)child->pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 ||
            info.si_pid == child->pid)
            break;
        clock_sleep_ms(5);
    }
    child_process_stop(child, NULL, 0);
}

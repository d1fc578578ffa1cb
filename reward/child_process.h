/* A child process with pipes on its stdin, stdout and stderr, in a process group of its own.
 *
 *   P1  Our ends of the pipes are non-blocking and close-on-exec; the child gets nothing else of
 *       ours.
 *   P2  Stopping kills the whole group and reaps the child: no zombie, no orphan of the same
 *       group.
 *   P3  The child is killed by the kernel when the thread that started it ends.
 *
 * Owned by one thread. */
#ifndef HONE_REWARD_CHILD_PROCESS_H
#define HONE_REWARD_CHILD_PROCESS_H

#include <stdint.h>
#include <sys/types.h>

struct child_process {
    pid_t pid;  /* 0: not running */
    int input;  /* we write; -1 closed */
    int output; /* we read */
    int error;  /* we read */
};

/* argv[0] is looked up in PATH. A program that cannot be executed is an error here, not a dead
 * child. */
int child_process_start(struct child_process *child, const char *const *argv);
/* Kills the group at once; how it ended ("exited with status 3", "killed by signal 9") goes to
 * ending when that is not NULL. Idempotent. */
void child_process_stop(struct child_process *child, char *ending, int ending_bytes);
/* Closes stdin and waits up to grace_ms for the child to end by itself before stopping it. */
void child_process_finish(struct child_process *child, int64_t grace_ms);

#endif

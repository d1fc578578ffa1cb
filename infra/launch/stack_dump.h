/* The stack of a worker that is asked for it, in its own log: SIGUSR1 writes the frames of the
 * thread that ticks the stage, wherever it is. A process that is stopped, or waits in the kernel,
 * answers when it goes on; stack_dump_state says that from outside. */
#ifndef HONE_LAUNCH_STACK_DUMP_H
#define HONE_LAUNCH_STACK_DUMP_H

#include <stddef.h>
#include <sys/types.h>

/* The calling thread is the one that is shown. */
void stack_dump_install(void);
/* What the kernel says of a process: "stopped", "sleeps in wait_woken", "runs"; "" when it is gone.
 */
void stack_dump_state(pid_t pid, char *buffer, size_t capacity);

#endif

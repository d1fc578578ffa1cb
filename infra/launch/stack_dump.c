#include "infra/launch/stack_dump.h"

#include <errno.h>
#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FRAMES_MAX 64

static pthread_t shown_thread;

static void say(const char *text)
{
    ssize_t written = write(STDERR_FILENO, text, strlen(text));
    (void)written;
}

/* Nothing here allocates: backtrace's library is loaded before the first signal. */
static void on_request(int number)
{
    int saved = errno;
    if (pthread_equal(pthread_self(), shown_thread)) {
        void *frames[FRAMES_MAX];
        int count = backtrace(frames, FRAMES_MAX);
        say("stack of the stage's thread, innermost frame first:\n");
        backtrace_symbols_fd(frames, count, STDERR_FILENO);
        say("end of the stack\n");
    } else {
        pthread_kill(shown_thread, number);
    }
    errno = saved;
}

void stack_dump_install(void)
{
    struct sigaction action = {.sa_handler = on_request, .sa_flags = SA_RESTART};
    void *frame;
    backtrace(&frame, 1);
    shown_thread = pthread_self();
    sigaction(SIGUSR1, &action, NULL);
}

/* The letter after the program's name in /proc/PID/stat. */
static char state_letter(pid_t pid)
{
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "r");
    const char *end = NULL;
    if (file != NULL && fgets(line, sizeof line, file) != NULL)
        end = strrchr(line, ')');
    if (file != NULL)
        fclose(file);
    return end != NULL && end[1] == ' ' ? end[2] : '\0';
}

void stack_dump_state(pid_t pid, char *buffer, size_t capacity)
{
    char path[64], where[64] = "";
    char letter = state_letter(pid);
    snprintf(path, sizeof path, "/proc/%d/wchan", (int)pid);
    FILE *file = fopen(path, "r");
    if (file != NULL && fgets(where, sizeof where, file) == NULL)
        where[0] = '\0';
    if (file != NULL)
        fclose(file);
    if (letter == 'T' || letter == 't')
        snprintf(buffer, capacity, "stopped");
    else if (letter == 'R')
        snprintf(buffer, capacity, "runs");
    else if (letter == 'D' || letter == 'S')
        snprintf(buffer, capacity, "%s%s%s", letter == 'D' ? "waits for the disk" : "sleeps",
                 where[0] != '\0' && where[0] != '0' ? " in " : "", where[0] != '0' ? where : "");
    else
        snprintf(buffer, capacity, "%s", letter != '\0' ? "has ended" : "");
}

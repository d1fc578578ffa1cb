#include "infra/base/fault.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POINTS_MAX     32
#define NAME_MAX_BYTES 48

static struct {
    struct {
        char name[NAME_MAX_BYTES];
        long passes_left;
    } points[POINTS_MAX];
    int point_count;
    const char *witness, *broken, *injected;
    int journal_fd; /* -1: none */
} faults;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* POINT[:N],... */
static void read_points(const char *list)
{
    while (*list != '\0' && faults.point_count < POINTS_MAX) {
        size_t length = strcspn(list, ",:");
        if (length > 0 && length < NAME_MAX_BYTES) {
            memcpy(faults.points[faults.point_count].name, list, length);
            bool counted = list[length] == ':';
            long passes = counted ? strtol(list + length + 1, NULL, 10) : 1;
            faults.points[faults.point_count++].passes_left = passes;
        }
        list += strcspn(list, ",");
        list += *list == ',';
    }
}

static void read_environment(void)
{
    const char *points = getenv("HONE_CRASH_AT"), *journal = getenv("HONE_JOURNAL");
    faults.witness = getenv("HONE_CRASH_WITNESS");
    faults.broken = getenv("HONE_BREAK");
    faults.injected = getenv("HONE_INJECT");
    faults.journal_fd = -1;
    if (journal != NULL)
        faults.journal_fd = open(journal, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (points != NULL)
        read_points(points);
}

/* false: somebody has died there before. */
static bool leave_witness(const char *point)
{
    char path[4096];
    if (faults.witness == NULL)
        return true;
    snprintf(path, sizeof path, "%s/%s", faults.witness, point);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0)
        return false;
    close(fd);
    return true;
}

void fault_point(const char *point)
{
    pthread_once(&once, read_environment);
    if (faults.point_count == 0)
        return;
    bool dies = false;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < faults.point_count; i++)
        if (strcmp(faults.points[i].name, point) == 0 && --faults.points[i].passes_left == 0)
            dies = true;
    pthread_mutex_unlock(&lock);
    if (!dies || !leave_witness(point))
        return;
    fprintf(stderr, "crash point %s: killing this process as HONE_CRASH_AT asks\n", point);
    fflush(stderr);
    kill(getpid(), SIGKILL);
    pause();
}

bool fault_breaks(const char *promise)
{
    pthread_once(&once, read_environment);
    const char *list = faults.broken;
    size_t length = strlen(promise);
    while (list != NULL && *list != '\0') {
        if (strncmp(list, promise, length) == 0 && (list[length] == ',' || list[length] == '\0'))
            return true;
        list += strcspn(list, ",");
        list += *list == ',';
    }
    return false;
}

bool fault_injected(const char *name, int64_t number)
{
    pthread_once(&once, read_environment);
    const char *list = faults.injected;
    size_t length = strlen(name);
    while (list != NULL && *list != '\0') {
        long long first, last;
        if (strncmp(list, name, length) == 0 && list[length] == ':' &&
            sscanf(list + length, ":%lld-%lld", &first, &last) == 2 && number >= first &&
            number <= last)
            return true;
        list += strcspn(list, ",");
        list += *list == ',';
    }
    return false;
}

void fault_note(const char *what, uint64_t id)
{
    char line[96];
    pthread_once(&once, read_environment);
    if (faults.journal_fd < 0)
        return;
    int length = snprintf(line, sizeof line, "%s %llu\n", what, (unsigned long long)id);
    ssize_t written = write(faults.journal_fd, line, (size_t)length); /* one write: one line */
    (void)written;
}

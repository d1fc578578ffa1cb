#include "infra/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "infra/base/error.h"

#define LINE_BYTES 4096
#define ROLE_BYTES 32

/* Everything here is guarded by `lock`. */
static struct {
    pthread_mutex_t lock;
    int started; /* HONE_LOG has been read */
    enum log_level level;
    int to_stderr;
    int file; /* -1 when closed */
    char role[ROLE_BYTES];
} state = {.lock = PTHREAD_MUTEX_INITIALIZER,
           .level = LOG_LEVEL_INFO,
           .to_stderr = 1,
           .file = -1,
           .role = "hone"};

static const char *const level_names[] = {"DEBUG", "INFO", "WARN", "ERROR"};
static const char *const level_settings[] = {"debug", "info", "warn", "error"};

static void start_locked(void)
{
    if (state.started)
        return;
    state.started = 1;
    const char *setting = getenv("HONE_LOG");
    for (int i = 0; setting && i < 4; i++) {
        if (strcmp(setting, level_settings[i]) == 0)
            state.level = (enum log_level)i;
    }
}

/* One write call per line, so that lines of several processes in one file stay whole. */
static void write_line(int fd, const char *line, size_t length)
{
    while (length > 0) {
        ssize_t written = write(fd, line, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return; /* a log that cannot be written must not stop the run */
        line += written;
        length -= (size_t)written;
    }
}

/* Control characters come from paths, peers and reward commands; none may forge a line or steer a
 * terminal. */
static void neutralise(char *text)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < 0x20 || c == 0x7f)
            *text = ' ';
    }
}

static size_t format_line(char line[LINE_BYTES], enum log_level level, const char *format,
                          va_list args)
{
    struct timespec now;
    struct tm local;
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &local);
    int head =
        snprintf(line, LINE_BYTES, "%02d:%02d:%02d.%03ld %-5s %s: ", local.tm_hour, local.tm_min,
                 local.tm_sec, now.tv_nsec / 1000000, level_names[level], state.role);
    size_t space = LINE_BYTES - 1 - (size_t)head; /* leaves room for the newline */
    int body = vsnprintf(line + head, space, format, args);
    size_t length = strlen(line);
    if (body > 0 && (size_t)body >= space)
        memcpy(line + length - 3, "...", 3);
    neutralise(line);
    line[length] = '\n';
    line[length + 1] = '\0';
    return length + 1;
}

__attribute__((format(printf, 2, 0))) static void emit(enum log_level level, const char *format,
                                                       va_list args)
{
    char line[LINE_BYTES];
    int saved_errno = errno;
    pthread_mutex_lock(&state.lock);
    start_locked();
    if (level >= state.level && (state.to_stderr || state.file >= 0)) {
        size_t length = format_line(line, level, format, args);
        if (state.to_stderr)
            write_line(STDERR_FILENO, line, length);
        if (state.file >= 0)
            write_line(state.file, line, length);
    }
    pthread_mutex_unlock(&state.lock);
    errno = saved_errno;
}

void log_set_role(const char *role)
{
    pthread_mutex_lock(&state.lock);
    snprintf(state.role, sizeof state.role, "%s", role);
    neutralise(state.role);
    pthread_mutex_unlock(&state.lock);
}

void log_set_level(enum log_level level)
{
    pthread_mutex_lock(&state.lock);
    state.started = 1;
    state.level = level;
    pthread_mutex_unlock(&state.lock);
}

void log_set_stderr(int enabled)
{
    pthread_mutex_lock(&state.lock);
    state.to_stderr = enabled;
    pthread_mutex_unlock(&state.lock);
}

int log_open_file(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0)
        return error_errno("open log %s", path);
    pthread_mutex_lock(&state.lock);
    int previous = state.file;
    state.file = fd;
    pthread_mutex_unlock(&state.lock);
    if (previous >= 0)
        close(previous);
    return 0;
}

void log_close_file(void)
{
    pthread_mutex_lock(&state.lock);
    int previous = state.file;
    state.file = -1;
    pthread_mutex_unlock(&state.lock);
    if (previous >= 0)
        close(previous);
}

#define EMIT(level)                                                                                \
    va_list args;                                                                                  \
    va_start(args, format);                                                                        \
    emit(level, format, args);                                                                     \
    va_end(args)

void log_debug(const char *format, ...)
{
    EMIT(LOG_LEVEL_DEBUG);
}

void log_info(const char *format, ...)
{
    EMIT(LOG_LEVEL_INFO);
}

void log_warn(const char *format, ...)
{
    EMIT(LOG_LEVEL_WARN);
}

void log_error(const char *format, ...)
{
    EMIT(LOG_LEVEL_ERROR);
}

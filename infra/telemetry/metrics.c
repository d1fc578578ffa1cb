#include "infra/telemetry/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/base/text.h"

struct metrics {
    int fd;
    char *path;
    struct clock *clock;
    struct text record;
    bool is_open; /* between begin and end */
    bool is_torn; /* the file ends inside a record: a newline goes first */
};

/* Whether the file ends without a newline, as after a crash or a full disk. */
static int find_torn_end(struct metrics *metrics)
{
    char last;
    off_t end = lseek(metrics->fd, 0, SEEK_END);
    if (end < 0 && errno == ESPIPE)
        return 0;
    if (end < 0)
        return error_errno("seek %s", metrics->path);
    if (end == 0)
        return 0;
    ssize_t got = pread(metrics->fd, &last, 1, end - 1);
    if (got < 0)
        return error_errno("read %s", metrics->path);
    metrics->is_torn = got == 1 && last != '\n';
    return 0;
}

int metrics_open(struct metrics **metrics, const char *path, struct clock *clock)
{
    *metrics = NULL;
    int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0)
        return error_errno("open metrics %s", path);
    struct metrics *opened = MEMORY_NEW(struct metrics);
    opened->fd = fd;
    opened->path = memory_strdup(path);
    opened->clock = clock;
    text_init(&opened->record);
    int rc = find_torn_end(opened);
    if (rc < 0) {
        metrics_close(opened);
        return rc;
    }
    *metrics = opened;
    return 0;
}

void metrics_close(struct metrics *metrics)
{
    if (!metrics)
        return;
    close(metrics->fd);
    memory_free(metrics->path);
    text_release(&metrics->record);
    memory_free(metrics);
}

void metrics_begin(struct metrics *metrics, int64_t step)
{
    if (!metrics)
        return;
    HONE_ASSERT(!metrics->is_open);
    metrics->is_open = true;
    text_clear(&metrics->record);
    if (metrics->is_torn)
        text_append_char(&metrics->record, '\n');
    text_printf(&metrics->record, "{\"step\": %lld, \"time\": %lld", (long long)step,
                (long long)clock_unix_ms(metrics->clock));
}

static void add_name(struct metrics *metrics, const char *name)
{
    HONE_ASSERT(metrics->is_open);
    text_append(&metrics->record, ", ");
    text_append_json_string(&metrics->record, name, strlen(name));
    text_append(&metrics->record, ": ");
}

void metrics_add(struct metrics *metrics, const char *name, double value)
{
    if (!metrics)
        return;
    add_name(metrics, name);
    text_append_number(&metrics->record, value);
}

void metrics_add_text(struct metrics *metrics, const char *name, const char *value)
{
    if (!metrics)
        return;
    add_name(metrics, name);
    text_append_json_string(&metrics->record, value, strlen(value));
}

int metrics_end(struct metrics *metrics)
{
    if (!metrics)
        return 0;
    HONE_ASSERT(metrics->is_open);
    metrics->is_open = false;
    text_append(&metrics->record, "}\n");
    const char *rest = metrics->record.data;
    size_t left = metrics->record.length;
    while (left > 0) {
        ssize_t written = write(metrics->fd, rest, left);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0) {
            /* A record cut short is ended by the next one's newline. */
            metrics->is_torn = metrics->is_torn || left < metrics->record.length;
            return error_errno("write metrics %s", metrics->path);
        }
        rest += written;
        left -= (size_t)written;
    }
    metrics->is_torn = false;
    return 0;
}

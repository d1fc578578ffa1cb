#include "commands/follow.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "infra/base/clock.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"
#include "infra/base/text.h"
#include "infra/telemetry/progress.h"

enum { READ_INTERVAL_MS = 200 };

struct follow {
    char path[HONE_PATH_MAX];
    struct progress *progress;
    int64_t next_read_ms;
    long offset;      /* bytes of the file already read */
    struct text line; /* an unfinished line */
    struct text detail;
    int64_t step;
};

/* What is worth showing, by metric name, in this order. */
static const struct {
    const char *name, *label;
} shown[] = {{"loss", "loss"},
             {"reward/mean", "reward"},
             {"policy/kl_ref", "kl"},
             {"policy/entropy", "entropy"},
             {"staleness/mean", "staleness"},
             {"mismatch/unequal_tokens", "unequal"},
             {"rewards/accuracies", "accuracy"},
             {"tokens_per_second", "tok/s"}};

struct follow *follow_create(const char *label, const char *metrics_path, int64_t total)
{
    struct follow *follow = MEMORY_NEW(struct follow);
    text_init(&follow->line);
    text_init(&follow->detail);
    if (metrics_path != NULL) {
        snprintf(follow->path, sizeof follow->path, "%s", metrics_path);
        follow->progress = progress_create(label, "steps", total);
    }
    return follow;
}

static void take_record(struct follow *follow, const char *line, size_t length)
{
    json_error_t error;
    json_t *record = json_loadb(line, length, 0, &error);
    if (record == NULL)
        return; /* a torn line of a killed process */
    const json_t *total = json_object_get(record, "total_steps");
    if (json_is_number(total))
        progress_set_total(follow->progress, (int64_t)json_number_value(total));
    follow->step = (int64_t)json_number_value(json_object_get(record, "step"));
    bool first = true; /* a record with nothing to show leaves what is shown */
    for (size_t i = 0; i < sizeof shown / sizeof shown[0]; ++i) {
        const json_t *value = json_object_get(record, shown[i].name);
        if (!json_is_number(value))
            continue;
        if (first)
            text_clear(&follow->detail);
        text_printf(&follow->detail, "%s%s %.4g", first ? "" : "  ", shown[i].label,
                    json_number_value(value));
        first = false;
    }
    json_decref(record);
}

void follow_tick(struct follow *follow)
{
    int64_t now = clock_now_ms(clock_system());
    if (follow->progress == NULL || now < follow->next_read_ms)
        return;
    follow->next_read_ms = now + READ_INTERVAL_MS;
    FILE *file = fopen(follow->path, "r");
    if (file == NULL)
        return;
    fseek(file, follow->offset, SEEK_SET);
    char buffer[8192];
    size_t bytes;
    while ((bytes = fread(buffer, 1, sizeof buffer, file)) > 0) {
        follow->offset += (long)bytes;
        for (size_t i = 0; i < bytes; ++i) {
            if (buffer[i] != '\n') {
                text_append_char(&follow->line, buffer[i]);
                continue;
            }
            take_record(follow, follow->line.data, follow->line.length);
            text_clear(&follow->line);
        }
    }
    fclose(file);
    progress_update(follow->progress, follow->step, follow->detail.data);
}

void follow_destroy(struct follow *follow)
{
    if (follow == NULL)
        return;
    if (follow->progress != NULL) {
        follow->next_read_ms = 0;
        follow_tick(follow);
        progress_finish(follow->progress, follow->detail.data);
    }
    text_release(&follow->line);
    text_release(&follow->detail);
    memory_free(follow);
}

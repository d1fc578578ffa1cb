#include "commands/log/time_report.h"

#include <jansson.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"
#include "infra/telemetry/table.h"

#define RECORDS_BYTES_MAX ((size_t)1 << 30)

/* The newest record of each process: {worker: {incarnation: record}}, in order of appearance. */
static json_t *newest_records(char *data, size_t bytes)
{
    json_t *workers = json_object();
    for (char *line = data, *end; line < data + bytes; line = end + 1) {
        end = memchr(line, '\n', (size_t)(data + bytes - line));
        if (end == NULL)
            break; /* torn: its process was killed */
        json_t *record = json_loadb(line, (size_t)(end - line), 0, NULL);
        const char *worker = json_string_value(json_object_get(record, "worker"));
        const char *incarnation = json_string_value(json_object_get(record, "incarnation"));
        if (worker != NULL && incarnation != NULL) {
            if (json_object_get(workers, worker) == NULL)
                json_object_set_new(workers, worker, json_object());
            json_object_set(json_object_get(workers, worker), incarnation, record);
        }
        json_decref(record);
    }
    return workers;
}

/* "time/NAME_s" summed over a worker's processes, in order of appearance. */
static json_t *sum_times(const json_t *processes)
{
    json_t *sums = json_object(), *record, *value;
    const char *incarnation, *name;
    json_object_foreach((json_t *)(uintptr_t)processes, incarnation, record)
    {
        json_object_foreach(record, name, value)
        {
            if (strncmp(name, "time/", strlen("time/")) != 0)
                continue;
            double before = json_number_value(json_object_get(sums, name));
            json_object_set_new(sums, name, json_real(before + json_number_value(value)));
        }
    }
    return sums;
}

static void add_rows(struct table *table, const char *worker, json_t *sums)
{
    const char *name;
    json_t *value;
    double total = json_number_value(json_object_get(sums, "time/total_s"));
    json_object_foreach(sums, name, value)
    {
        char cell[64];
        int length = (int)(strlen(name) - strlen("time/") - strlen("_s"));
        double seconds = json_number_value(value);
        table_cell(table, worker);
        snprintf(cell, sizeof cell, "%.*s", length, name + strlen("time/"));
        table_cell(table, cell);
        snprintf(cell, sizeof cell, "%.2f", seconds);
        table_cell(table, cell);
        snprintf(cell, sizeof cell, "%.1f %%", total > 0 ? 100.0 * seconds / total : 0.0);
        table_cell(table, cell);
        table_end_row(table);
    }
}

int time_report_print(const struct run_directory *run, FILE *out)
{
    static const char *const titles[] = {"worker", "activity", "seconds", "share"};
    char path[HONE_PATH_MAX], *data;
    size_t bytes;
    const char *worker;
    json_t *processes;
    int rc = file_read(run_directory_file(run, path, sizeof path, "metrics/workers.jsonl"),
                       RECORDS_BYTES_MAX, &data, &bytes);
    if (rc < 0)
        return error_prefix("%s: no account of the workers' time", run->path);
    json_t *workers = newest_records(data, bytes);
    struct table *table = table_create(titles, 4);
    json_object_foreach(workers, worker, processes)
    {
        json_t *sums = sum_times(processes);
        add_rows(table, worker, sums);
        json_decref(sums);
    }
    table_print(table, out);
    table_destroy(table);
    json_decref(workers);
    memory_free(data);
    return 0;
}

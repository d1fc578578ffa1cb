#include "infra/train/memory_plan.h"

#include <stdio.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/log.h"

void memory_plan_add(struct memory_plan *plan, const char *owner, const char *what, size_t bytes)
{
    HONE_ASSERT(plan->count < MEMORY_PLAN_LINES_MAX);
    if (bytes == 0)
        return;
    plan->lines[plan->count++] =
        (struct memory_plan_line){.owner = owner, .what = what, .bytes = bytes};
    plan->total += bytes;
}

static double megabytes(size_t bytes)
{
    return (double)bytes / 1e6;
}

void memory_plan_print(const struct memory_plan *plan, struct text *table)
{
    for (int i = 0; i < plan->count; i++)
        text_printf(table, "  %-10s %-30s %10.1f MB\n", plan->lines[i].owner, plan->lines[i].what,
                    megabytes(plan->lines[i].bytes));
    text_printf(table, "  %-10s %-30s %10.1f MB\n", "total", "", megabytes(plan->total));
}

int memory_plan_check(const struct memory_plan *plan, const char *who, int64_t free_bytes)
{
    const struct memory_plan_line *largest = NULL;
    for (int i = 0; i < plan->count; i++) {
        log_info("memory: %-10s %-30s %10.1f MB", plan->lines[i].owner, plan->lines[i].what,
                 megabytes(plan->lines[i].bytes));
        if (largest == NULL || plan->lines[i].bytes > largest->bytes)
            largest = &plan->lines[i];
    }
    log_info("memory: %-10s %-30s %10.1f MB of %.1f MB free", "total", "", megabytes(plan->total),
             (double)free_bytes / 1e6);
    if (free_bytes >= 0 && plan->total <= (uint64_t)free_bytes)
        return 0;
    return error_set(HONE_ENOMEM,
                     "%s needs %.1f MB, %.1f MB are free; the most goes into %s (%.1f MB): lower "
                     "micro_batch_tokens, set activation_checkpointing: layer or "
                     "optimizer.moments_dtype: bfloat16, or train a smaller model",
                     who, megabytes(plan->total), (double)free_bytes / 1e6,
                     largest != NULL ? largest->what : "nothing",
                     largest != NULL ? megabytes(largest->bytes) : 0.0);
}

/* The number on the line that begins with `name` ("" for a file that is one number); -1 without. */
static int64_t read_number(const char *path, const char *name)
{
    char line[256];
    long long value = -1;
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return -1;
    while (value < 0 && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, name, strlen(name)) != 0 ||
            sscanf(line + strlen(name), "%lld", &value) != 1)
            value = -1;
    fclose(file);
    return value;
}

int64_t memory_plan_free_bytes(void)
{
    int64_t available = read_number("/proc/meminfo", "MemAvailable:");
    int64_t limit = read_number("/sys/fs/cgroup/memory.max", "");
    int64_t used = read_number("/sys/fs/cgroup/memory.current", "");
    int64_t cached = read_number("/sys/fs/cgroup/memory.stat", "inactive_file ");
    int64_t bytes = available >= 0 ? available * 1024 : INT64_MAX;
    if (limit < 0 || used < 0)
        return bytes;
    int64_t left = limit - used + (cached > 0 ? cached : 0);
    return left < bytes ? left : bytes;
}

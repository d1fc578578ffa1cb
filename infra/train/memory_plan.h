/* What a process is about to allocate, by class: summed and shown before anything is, and refused
 * there when the machine has not as much. Plain data, owned by the caller; names are kept by
 * pointer. */
#ifndef HONE_TRAIN_MEMORY_PLAN_H
#define HONE_TRAIN_MEMORY_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "infra/base/text.h"

#define MEMORY_PLAN_LINES_MAX 24

struct memory_plan {
    struct memory_plan_line {
        const char *owner; /* "learner", "reference" */
        const char *what;
        size_t bytes;
    } lines[MEMORY_PLAN_LINES_MAX];
    int count;
    size_t total;
};

/* A line of 0 bytes is left out. */
void memory_plan_add(struct memory_plan *plan, const char *owner, const char *what, size_t bytes);
/* The table, a line each and the total, in MB (10^6 bytes). */
void memory_plan_print(const struct memory_plan *plan, struct text *table);
/* Logs the table. HONE_ENOMEM when the total is more than `free_bytes`, with what to change. */
int memory_plan_check(const struct memory_plan *plan, const char *who, int64_t free_bytes);

/* Bytes this process can still get without swapping: what the kernel calls available, or what the
 * cgroup's limit leaves when that is less. INT64_MAX when neither can be read. */
int64_t memory_plan_free_bytes(void);

#endif

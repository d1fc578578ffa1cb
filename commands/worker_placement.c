#include <stdio.h>
#include <string.h>

#include "commands/workers.h"
#include "infra/base/assert.h"
#include "infra/base/error.h"

static const struct pool_settings *pool_of(const struct recipe *recipe, enum worker_role role,
                                           const char **name)
{
    switch (role) {
    case WORKER_ACTOR:
        *name = "pools.actors";
        return &recipe->pools.actors;
    case WORKER_CURRICULUM:
    case WORKER_SCORER:
        *name = "pools.scorers";
        return &recipe->pools.scorers;
    case WORKER_LEARNER:
    case WORKER_OFFLINE:
        break;
    }
    *name = "pools.learner";
    return &recipe->pools.learner;
}

int worker_count(const struct recipe *recipe, enum worker_role role)
{
    const char *name;
    const struct pool_settings *pool = pool_of(recipe, role, &name);
    if (role == WORKER_ACTOR || role == WORKER_SCORER || role == WORKER_LEARNER)
        return pool->workers > 0 ? (int)pool->workers : 1;
    return 1;
}

bool worker_is_remote(const struct recipe *recipe, enum worker_role role)
{
    const char *name;
    return role != WORKER_CURRICULUM && role != WORKER_OFFLINE &&
           pool_of(recipe, role, &name)->remote;
}

static void slice(struct cpu_set_list *cpus, int begin, int end)
{
    memmove(cpus->cpus, cpus->cpus + begin, (size_t)(end - begin) * sizeof cpus->cpus[0]);
    cpus->count = end - begin;
}

/* The pool's cpus: as given, or derived from what this process may use. */
static int pool_cpus(const struct recipe *recipe, enum worker_role role, struct cpu_set_list *cpus)
{
    const char *name;
    const struct pool_settings *pool = pool_of(recipe, role, &name);
    if (pool->devices.count > 0) {
        int rc = placement_parse(cpus, pool->devices.items, pool->devices.count);
        return rc < 0 ? error_prefix("%s.devices", name) : 0;
    }
    placement_available(cpus);
    if (cpus->count >= 2) {
        int half = (cpus->count + 1) / 2;
        if (role == WORKER_LEARNER)
            slice(cpus, 0, half);
        else
            slice(cpus, half, cpus->count);
    }
    return 0;
}

static void merge(struct cpu_set_list *into, const struct cpu_set_list *from)
{
    struct cpu_set_list merged = {0};
    int32_t i = 0, j = 0;
    while (i < into->count || j < from->count) {
        int32_t next;
        if (j == from->count || (i < into->count && into->cpus[i] <= from->cpus[j]))
            next = into->cpus[i++];
        else
            next = from->cpus[j++];
        if (merged.count == 0 || merged.cpus[merged.count - 1] != next)
            merged.cpus[merged.count++] = next;
    }
    *into = merged;
}

int worker_placement(const struct recipe *recipe, enum worker_role role, int index,
                     struct cpu_set_list *cpus, int *threads)
{
    const char *name;
    const struct pool_settings *pool = pool_of(recipe, role, &name);
    int rc;
    if (role == WORKER_OFFLINE) {
        struct cpu_set_list actors;
        if ((rc = pool_cpus(recipe, WORKER_LEARNER, cpus)) < 0 ||
            (rc = pool_cpus(recipe, WORKER_ACTOR, &actors)) < 0)
            return rc;
        merge(cpus, &actors);
        *threads = cpus->count;
        return 0;
    }
    if ((rc = pool_cpus(recipe, role, cpus)) < 0)
        return rc;
    int workers = worker_count(recipe, role);
    HONE_ASSERT(index >= 0 && index < workers);
    if (cpus->count >= workers)
        slice(cpus, index * cpus->count / workers, (index + 1) * cpus->count / workers);
    *threads = pool->threads > 0 ? (int)pool->threads : cpus->count;
    return 0;
}

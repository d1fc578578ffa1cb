/* The leases that are out: which worker may deliver which samples of which group.
 *
 *   L1  A lease is over when every sample of it has arrived, or when it is taken back (worker gone,
 *       worker restarted, deadline, returned). Over means removed: what arrives for it later is
 *       refused.
 *   L2  Ids and fences are never used twice in a run.
 *
 * Owned by one thread. */
#ifndef HONE_CURRICULUM_LEASE_TABLE_H
#define HONE_CURRICULUM_LEASE_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "infra/wire/socket.h"

struct lease {
    uint64_t id, fence, group_id;
    int32_t first, count; /* samples [first, first + count) */
    int32_t missing;      /* of them, not yet arrived */
    int64_t min_version;
    int64_t leased_ms, deadline_ms; /* unix */
    struct wire_peer worker;
    uint64_t incarnation; /* of the worker's process */
    bool sent;            /* false: waits for the commit, or for room in the worker's queue */
};

struct lease_table {
    struct lease *items;
    int32_t count, capacity;
};

void lease_table_init(struct lease_table *table);
void lease_table_release(struct lease_table *table);
struct lease *lease_table_add(struct lease_table *table, const struct lease *lease); /* copied */
struct lease *lease_table_find(const struct lease_table *table, uint64_t id); /* NULL: it is over */
/* The last lease takes the removed one's place: walk backwards while removing. */
void lease_table_remove(struct lease_table *table, struct lease *lease);

#endif

/* The leases that are out: which worker may deliver which samples of which group.
 *
 *             committed and sent        every sample of it arrived
 *   0 QUEUED -----------------> 1 OUT -------------------------------> 2 FILLED
 *        ^                       |  |
 *        +-- its holder said ----+  +--> 3 TAKEN (deadline, worker gone, worker restarted,
 * returned) Hello again
 *
 *   from \ to   QUEUED  OUT  FILLED  TAKEN
 *   0 QUEUED      -      yes  yes     yes     FILLED: the holder had it from before its Hello
 *   1 OUT         yes    -    yes     yes
 *   2 FILLED      -      -    -       -       over: removed from the table and the log
 *   3 TAKEN       -      -    -       -       over: removed; its samples are FREE again
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

#include "infra/base/id_map.h"
#include "infra/wire/socket.h"

enum lease_state { LEASE_QUEUED, LEASE_OUT, LEASE_FILLED, LEASE_TAKEN };

struct lease {
    enum lease_state state;
    uint64_t id, fence, group_id;
    int32_t first, count; /* samples [first, first + count) */
    int32_t missing;      /* of them, not yet arrived */
    int64_t min_version;
    int64_t leased_ms, deadline_ms; /* unix */
    struct wire_peer worker;
    uint64_t incarnation; /* of the worker's process */
};

struct lease_table {
    struct lease *items;
    int32_t count, capacity;
    struct id_map by_id; /* -> index */
};

void lease_table_init(struct lease_table *table);
void lease_table_release(struct lease_table *table);
struct lease *lease_table_add(struct lease_table *table, const struct lease *lease); /* copied */
struct lease *lease_table_find(const struct lease_table *table, uint64_t id); /* NULL: it is over */
/* Only the moves of the table above exist; any other is a bug. */
void lease_move(struct lease *lease, enum lease_state state);
/* It must be over. The last lease takes the removed one's place: walk backwards while removing. */
void lease_table_remove(struct lease_table *table, struct lease *lease);

#endif

/* The workers that have said Hello and are being heard.
 *
 *   P1  A peer is one process: the same name with another incarnation is another peer, with a new
 *       serial.
 *   P2  Credit counts from the last Hello on.
 *
 * Pointers are valid until the next add or remove. Owned by one thread. */
#ifndef HONE_CURRICULUM_PEER_TABLE_H
#define HONE_CURRICULUM_PEER_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "infra/base/id_map.h"
#include "infra/wire/socket.h"

#define PEERS_MAX 1024

struct peer {
    struct wire_peer wire;
    Hone__Role role;
    uint64_t serial;          /* unique in this hub's life */
    uint64_t incarnation;     /* the worker's own */
    int64_t heard_ms;         /* monotonic */
    int64_t credit;           /* samples (actor) or requests (scorer) it can take */
    bool blocked;             /* its queue was full in this tick */
    int64_t told_version;     /* newest WeightsNotice it was sent; -1 none */
    char waiting_for[96];     /* from its heartbeat; "" busy */
    int64_t waiting_since_ms; /* unix */
    char doing[64];           /* what keeps it from answering, announced; "" nothing */
    int64_t absent_until_ms;  /* monotonic: until then its silence is announced */
    int64_t reported_ms;      /* monotonic: its time was written to the metrics */
};

struct peer_table {
    struct peer items[PEERS_MAX];
    int32_t count;
    uint64_t next_serial;
    struct id_map by_name; /* hash of the identity -> index */
};

void peer_table_release(struct peer_table *table);
struct peer *peer_table_find(struct peer_table *table, const char *identity); /* NULL: unknown */
struct peer *peer_table_serial(struct peer_table *table, uint64_t serial);
/* NULL when PEERS_MAX are there. */
struct peer *peer_table_add(struct peer_table *table, const struct wire_peer *wire, Hone__Role role,
                            uint64_t incarnation);
/* The last peer takes the removed one's place: walk backwards while removing. */
void peer_table_remove(struct peer_table *table, struct peer *peer);
int32_t peer_table_count_role(const struct peer_table *table, Hone__Role role);
/* The peer of this role with the most credit (the first of equals) that is not blocked; NULL: none.
 */
struct peer *peer_table_richest(struct peer_table *table, Hone__Role role);

#endif

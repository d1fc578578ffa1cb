#include "infra/wire/peers.h"

#include <stdio.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/hash.h"
#include "infra/base/memory.h"

#define BUCKETS 4096 /* a power of two */

struct peers {
    struct peer_slot slots[PEER_SLOTS];
    int32_t by_name[BUCKETS], by_connection[BUCKETS]; /* first of the chain; -1 none */
    int32_t used;
    uint64_t heard;
};

static int32_t *name_bucket(struct peers *peers, const char *name)
{
    return &peers->by_name[hash_u64(name, strlen(name)) & (BUCKETS - 1)];
}

/* They rise one by one: no hash needed. */
static int32_t *connection_bucket(struct peers *peers, uint32_t connection)
{
    return &peers->by_connection[connection & (BUCKETS - 1)];
}

struct peers *peers_create(void)
{
    struct peers *peers = MEMORY_NEW(struct peers);
    for (int i = 0; i < BUCKETS; i++)
        peers->by_name[i] = peers->by_connection[i] = -1;
    return peers;
}

void peers_destroy(struct peers *peers)
{
    memory_free(peers);
}

struct peer_slot *peers_find(struct peers *peers, const char *name)
{
    for (int32_t i = *name_bucket(peers, name); i >= 0; i = peers->slots[i].next_name) {
        if (strcmp(peers->slots[i].name, name) == 0)
            return &peers->slots[i];
    }
    return NULL;
}

struct peer_slot *peers_connection(struct peers *peers, uint32_t connection)
{
    int32_t i = *connection_bucket(peers, connection);
    while (i >= 0 && peers->slots[i].connection != connection)
        i = peers->slots[i].next_connection;
    return i >= 0 ? &peers->slots[i] : NULL;
}

static void unlink_name(struct peers *peers, struct peer_slot *slot)
{
    int32_t index = (int32_t)(slot - peers->slots), *at = name_bucket(peers, slot->name);
    while (*at != index)
        at = &peers->slots[*at].next_name;
    *at = slot->next_name;
}

static void unlink_connection(struct peers *peers, struct peer_slot *slot)
{
    int32_t index = (int32_t)(slot - peers->slots);
    int32_t *at = connection_bucket(peers, slot->connection);
    while (*at != index)
        at = &peers->slots[*at].next_connection;
    *at = slot->next_connection;
}

/* A free slot, or that of the peer not heard for longest (N3). */
static struct peer_slot *take_slot(struct peers *peers)
{
    if (peers->used < PEER_SLOTS)
        return &peers->slots[peers->used++];
    struct peer_slot *oldest = &peers->slots[0];
    for (int32_t i = 1; i < PEER_SLOTS; i++) {
        if (peers->slots[i].heard < oldest->heard)
            oldest = &peers->slots[i];
    }
    unlink_name(peers, oldest);
    unlink_connection(peers, oldest);
    return oldest;
}

struct peer_slot *peers_claim(struct peers *peers, const char *name, uint32_t connection)
{
    struct peer_slot *slot = peers_find(peers, name);
    struct peer_slot *mine = peers_connection(peers, connection);
    bool was_dropped = slot && slot->is_dropped;
    HONE_ASSERT(name[0] != '\0' && strlen(name) < PEER_NAME_SIZE);
    if (slot && slot == mine)
        return slot;
    if (mine || (slot && (int32_t)(connection - slot->connection) < 0))
        return NULL;
    if (slot) {
        unlink_name(peers, slot);
        unlink_connection(peers, slot);
    } else {
        slot = take_slot(peers);
    }
    memset(slot, 0, sizeof *slot);
    snprintf(slot->name, sizeof slot->name, "%s", name);
    slot->connection = connection;
    slot->is_dropped = was_dropped;
    int32_t index = (int32_t)(slot - peers->slots);
    int32_t *names = name_bucket(peers, name);
    int32_t *connections = connection_bucket(peers, connection);
    slot->next_name = *names;
    slot->next_connection = *connections;
    *names = *connections = index;
    peers_heard(peers, slot);
    return slot;
}

void peers_heard(struct peers *peers, struct peer_slot *slot)
{
    slot->heard = ++peers->heard;
}

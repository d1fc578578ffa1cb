#include "curriculum/peer_table.h"

#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/hash.h"

/* Never 0. */
static uint64_t name_key(const char *identity)
{
    return hash_u64(identity, strlen(identity)) | 1;
}

void peer_table_release(struct peer_table *table)
{
    id_map_release(&table->by_name);
}

struct peer *peer_table_find(struct peer_table *table, const char *identity)
{
    uint64_t index;
    bool mapped = id_map_get(&table->by_name, name_key(identity), &index);
    if (mapped && strcmp(table->items[index].wire.identity, identity) == 0)
        return &table->items[index];
    if (!mapped && table->by_name.count == (size_t)table->count)
        return NULL;
    /* Two names with one key. */
    for (int32_t i = 0; i < table->count; i++)
        if (strcmp(table->items[i].wire.identity, identity) == 0)
            return &table->items[i];
    return NULL;
}

struct peer *peer_table_serial(struct peer_table *table, uint64_t serial)
{
    for (int32_t i = 0; i < table->count; i++)
        if (table->items[i].serial == serial)
            return &table->items[i];
    return NULL;
}

struct peer *peer_table_add(struct peer_table *table, const struct wire_peer *wire, Hone__Role role,
                            uint64_t incarnation)
{
    HONE_ASSERT(peer_table_find(table, wire->identity) == NULL);
    if (table->count == PEERS_MAX)
        return NULL;
    uint64_t index;
    if (!id_map_get(&table->by_name, name_key(wire->identity), &index))
        id_map_set(&table->by_name, name_key(wire->identity), (uint64_t)table->count);
    struct peer *peer = &table->items[table->count++];
    memset(peer, 0, sizeof *peer);
    peer->wire = *wire;
    peer->role = role;
    peer->incarnation = incarnation;
    peer->serial = ++table->next_serial;
    peer->told_version = -1;
    return peer;
}

void peer_table_remove(struct peer_table *table, struct peer *peer)
{
    HONE_ASSERT(peer >= table->items && peer < table->items + table->count);
    uint64_t index = (uint64_t)(peer - table->items), mapped;
    uint64_t key = name_key(peer->wire.identity);
    if (id_map_get(&table->by_name, key, &mapped) && mapped == index)
        id_map_remove(&table->by_name, key);
    table->count--;
    if (peer == &table->items[table->count])
        return;
    *peer = table->items[table->count];
    key = name_key(peer->wire.identity);
    if (id_map_get(&table->by_name, key, &mapped) && mapped == (uint64_t)table->count)
        id_map_set(&table->by_name, key, index);
}

int32_t peer_table_count_role(const struct peer_table *table, Hone__Role role)
{
    int32_t count = 0;
    for (int32_t i = 0; i < table->count; i++)
        count += table->items[i].role == role;
    return count;
}

struct peer *peer_table_richest(struct peer_table *table, Hone__Role role)
{
    struct peer *richest = NULL;
    for (int32_t i = 0; i < table->count; i++) {
        struct peer *peer = &table->items[i];
        if (peer->role == role && peer->credit > 0 && !peer->blocked &&
            (richest == NULL || peer->credit > richest->credit))
            richest = peer;
    }
    return richest;
}

#include "infra/base/id_map.h"

#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/memory.h"

#define CAPACITY_FIRST 64

void id_map_init(struct id_map *map)
{
    memset(map, 0, sizeof *map);
}

void id_map_release(struct id_map *map)
{
    memory_free(map->slots);
    id_map_init(map);
}

static size_t home_of(const struct id_map *map, uint64_t key)
{
    key ^= key >> 32;
    key *= 0x9E3779B97F4A7C15u;
    return (size_t)(key >> 32) & (map->capacity - 1);
}

/* Where the key is, or the free slot where it would go. */
static size_t find(const struct id_map *map, uint64_t key)
{
    size_t at = home_of(map, key);
    while (map->slots[at].key != 0 && map->slots[at].key != key)
        at = (at + 1) & (map->capacity - 1);
    return at;
}

static void grow(struct id_map *map)
{
    struct id_map old = *map;
    map->capacity = old.capacity > 0 ? 2 * old.capacity : CAPACITY_FIRST;
    map->slots = MEMORY_ARRAY(struct id_map_slot, map->capacity);
    for (size_t i = 0; i < old.capacity; i++)
        if (old.slots[i].key != 0)
            map->slots[find(map, old.slots[i].key)] = old.slots[i];
    memory_free(old.slots);
}

void id_map_set(struct id_map *map, uint64_t key, uint64_t value)
{
    HONE_ASSERT(key != 0);
    if (2 * (map->count + 1) > map->capacity)
        grow(map);
    struct id_map_slot *slot = &map->slots[find(map, key)];
    map->count += slot->key == 0;
    *slot = (struct id_map_slot){key, value};
}

bool id_map_get(const struct id_map *map, uint64_t key, uint64_t *value)
{
    if (map->count == 0 || key == 0)
        return false;
    const struct id_map_slot *slot = &map->slots[find(map, key)];
    if (slot->key == 0)
        return false;
    *value = slot->value;
    return true;
}

void id_map_remove(struct id_map *map, uint64_t key)
{
    if (map->count == 0 || key == 0)
        return;
    size_t mask = map->capacity - 1, hole = find(map, key);
    if (map->slots[hole].key == 0)
        return;
    map->count--;
    /* What was pushed past the hole moves back into it. */
    for (size_t at = (hole + 1) & mask; map->slots[at].key != 0; at = (at + 1) & mask) {
        size_t home = home_of(map, map->slots[at].key);
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            map->slots[hole] = map->slots[at];
            hole = at;
        }
    }
    map->slots[hole].key = 0;
}

/* A map from ids to ids, for tables that are searched by key on every message: open addressing, one
 * block, no allocation but when it grows. 0 is no key. Owned by one thread. */
#ifndef HONE_BASE_ID_MAP_H
#define HONE_BASE_ID_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct id_map {
    struct id_map_slot {
        uint64_t key, value;
    } * slots; /* [capacity], a power of two; key 0: free */
    size_t count, capacity;
};

void id_map_init(struct id_map *map);
void id_map_release(struct id_map *map);
void id_map_set(struct id_map *map, uint64_t key, uint64_t value);
bool id_map_get(const struct id_map *map, uint64_t key, uint64_t *value);
void id_map_remove(struct id_map *map, uint64_t key); /* one that is not there is fine */

#endif

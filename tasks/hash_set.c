#include "tasks/hash_set.h"

#include <string.h>

#include "infra/base/memory.h"

static size_t slot_of(const struct hash_set *set, uint64_t hash)
{
    size_t i = hash & (set->capacity - 1);
    while (set->slots[i] != 0 && set->slots[i] != hash)
        i = (i + 1) & (set->capacity - 1);
    return i;
}

void hash_set_release(struct hash_set *set)
{
    memory_free(set->slots);
    memset(set, 0, sizeof *set);
}

bool hash_set_has(const struct hash_set *set, uint64_t hash)
{
    hash |= 1;
    return set->capacity > 0 && set->slots[slot_of(set, hash)] == hash;
}

bool hash_set_add(struct hash_set *set, uint64_t hash)
{
    hash |= 1;
    if (hash_set_has(set, hash))
        return false;
    if (set->count * 2 >= set->capacity) {
        struct hash_set grown = {.capacity = set->capacity > 0 ? set->capacity * 2 : 1024,
                                 .count = set->count};
        grown.slots = MEMORY_ARRAY(uint64_t, grown.capacity);
        for (size_t i = 0; i < set->capacity; ++i)
            if (set->slots[i] != 0)
                grown.slots[slot_of(&grown, set->slots[i])] = set->slots[i];
        memory_free(set->slots);
        *set = grown;
    }
    set->slots[slot_of(set, hash)] = hash;
    set->count++;
    return true;
}

/* A set of 64-bit hashes: open addressing, grown at half full. Zero-initialised is empty; owned by
 * one thread. */
#ifndef HONE_TASKS_HASH_SET_H
#define HONE_TASKS_HASH_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hash_set {
    uint64_t *slots; /* 0: empty; hashes are stored with bit 0 set */
    size_t capacity, count;
};

void hash_set_release(struct hash_set *set);
bool hash_set_has(const struct hash_set *set, uint64_t hash);
/* False when it was there already. */
bool hash_set_add(struct hash_set *set, uint64_t hash);

#endif

/* A block of memory handed out front to back and released as a whole.
 * Owned by one thread. Pointers stay valid until arena_clear or arena_release. */
#ifndef HONE_BASE_ARENA_H
#define HONE_BASE_ARENA_H

#include <stddef.h>

struct arena {
    char *base;
    size_t capacity_bytes;
    size_t used_bytes;
    size_t peak_bytes;
};

void arena_init(struct arena *arena, size_t capacity_bytes);
void arena_release(struct arena *arena);
/* 64-byte aligned, not zeroed. Running past the capacity is a bug (the plan was wrong): asserts. */
void *arena_alloc(struct arena *arena, size_t bytes);
void arena_clear(struct arena *arena);

#endif

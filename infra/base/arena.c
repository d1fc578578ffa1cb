#include "infra/base/arena.h"

#include <stdint.h>

#include "infra/base/assert.h"
#include "infra/base/memory.h"

#define ALIGNMENT 64

void arena_init(struct arena *arena, size_t capacity_bytes)
{
    *arena = (struct arena){.base = memory_map(capacity_bytes), .capacity_bytes = capacity_bytes};
}

void arena_release(struct arena *arena)
{
    memory_unmap(arena->base, arena->capacity_bytes);
    *arena = (struct arena){0};
}

void *arena_alloc(struct arena *arena, size_t bytes)
{
    /* used_bytes is a multiple of the alignment at every entry, and base is page-aligned. */
    HONE_ASSERT(arena->used_bytes <= arena->capacity_bytes);
    HONE_ASSERT(bytes <= arena->capacity_bytes - arena->used_bytes);
    char *block = arena->base + arena->used_bytes;
    size_t end = arena->used_bytes + bytes;
    size_t aligned = (end + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    arena->used_bytes = aligned < arena->capacity_bytes ? aligned : arena->capacity_bytes;
    if (arena->used_bytes > arena->peak_bytes)
        arena->peak_bytes = arena->used_bytes;
    return block;
}

void arena_clear(struct arena *arena)
{
    arena->used_bytes = 0;
}

#include "curriculum/pools/prompt_queue.h"

#include <stdbool.h>

#include "infra/base/assert.h"
#include "infra/base/memory.h"

void prompt_queue_init(struct prompt_queue *queue, int64_t *places)
{
    *queue = (struct prompt_queue){.places = places};
}

void prompt_queue_release(struct prompt_queue *queue)
{
    memory_free(queue->items);
    *queue = (struct prompt_queue){0};
}

static bool is_before(const struct prompt_rank *a, const struct prompt_rank *b)
{
    if (a->major != b->major)
        return a->major < b->major;
    return a->minor != b->minor ? a->minor < b->minor : a->id < b->id;
}

static void place(struct prompt_queue *queue, int64_t i, const struct prompt_rank *rank)
{
    queue->items[i] = *rank;
    queue->places[rank->id] = i;
}

/* Both move the hole at i to where the rank belongs. */
static int64_t rise(struct prompt_queue *queue, int64_t i, const struct prompt_rank *rank)
{
    for (; i > 0 && is_before(rank, &queue->items[(i - 1) / 2]); i = (i - 1) / 2)
        place(queue, i, &queue->items[(i - 1) / 2]);
    return i;
}

static int64_t sink(struct prompt_queue *queue, int64_t i, const struct prompt_rank *rank)
{
    for (int64_t child = 2 * i + 1; child < queue->count; child = 2 * i + 1) {
        const struct prompt_rank *items = queue->items;
        child += child + 1 < queue->count && is_before(&items[child + 1], &items[child]);
        if (!is_before(&items[child], rank))
            break;
        place(queue, i, &items[child]);
        i = child;
    }
    return i;
}

void prompt_queue_put(struct prompt_queue *queue, const struct prompt_rank *rank)
{
    HONE_ASSERT(queue->places[rank->id] < 0);
    if (queue->count == queue->capacity) {
        int64_t capacity = queue->capacity > 0 ? queue->capacity * 2 : 64;
        queue->items = memory_resize(queue->items, (size_t)queue->capacity, (size_t)capacity,
                                     sizeof *queue->items);
        queue->capacity = capacity;
    }
    struct prompt_rank put = *rank;
    place(queue, rise(queue, queue->count++, &put), &put);
}

int64_t prompt_queue_first(const struct prompt_queue *queue)
{
    return queue->count > 0 ? queue->items[0].id : -1;
}

void prompt_queue_remove(struct prompt_queue *queue, int64_t id)
{
    int64_t i = queue->places[id];
    HONE_ASSERT(i >= 0 && i < queue->count && queue->items[i].id == id);
    struct prompt_rank last = queue->items[--queue->count];
    queue->places[id] = -1;
    if (i == queue->count)
        return;
    int64_t up = rise(queue, i, &last);
    place(queue, up == i ? sink(queue, i, &last) : up, &last);
}

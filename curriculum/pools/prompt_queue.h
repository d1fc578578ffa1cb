/* A queue of prompts by rank: a binary heap of ids. The smallest (major, minor, id) comes first,
 * whatever order they were put in. A prompt is in one queue at most: queues that share `places`
 * tell there where it is. Owned by one thread. */
#ifndef HONE_CURRICULUM_POOLS_PROMPT_QUEUE_H
#define HONE_CURRICULUM_POOLS_PROMPT_QUEUE_H

#include <stdint.h>

struct prompt_rank {
    uint64_t major, minor;
    int64_t id;
};

struct prompt_queue {
    struct prompt_rank *items; /* [count] */
    int64_t count, capacity;
    int64_t *places; /* [prompts] index in items; -1: in none. The caller's */
};

void prompt_queue_init(struct prompt_queue *queue, int64_t *places);
void prompt_queue_release(struct prompt_queue *queue);
void prompt_queue_put(struct prompt_queue *queue, const struct prompt_rank *rank);
/* The first, which stays; -1: the queue is empty. */
int64_t prompt_queue_first(const struct prompt_queue *queue);
void prompt_queue_remove(struct prompt_queue *queue, int64_t id); /* it must be in */

#endif

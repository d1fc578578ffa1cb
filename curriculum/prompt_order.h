/* The order in which prompts are dispatched: epoch after epoch, each a permutation of all prompts.
 *
 *  O1  The prompt of dispatch number `order` is a function of (seed, count, order) alone.
 *  O2  Every prompt comes exactly once in orders [e * count, (e + 1) * count), for every epoch e.
 *  O3  A prompt is sampled under another seed each time it comes: the seed follows from the order.
 *
 * Caches the permutation of one epoch. Owned by one thread. */
#ifndef HONE_CURRICULUM_PROMPT_ORDER_H
#define HONE_CURRICULUM_PROMPT_ORDER_H

#include <stdint.h>

struct prompt_order {
    uint64_t seed;
    int64_t count;
    int64_t epoch;        /* of the cached permutation; -1 none */
    int64_t *permutation; /* [count] */
};

void prompt_order_init(struct prompt_order *prompts, uint64_t seed, int64_t count);
void prompt_order_release(struct prompt_order *prompts);
int64_t prompt_order_at(struct prompt_order *prompts, uint64_t order);
uint64_t prompt_order_sampling_seed(const struct prompt_order *prompts, uint64_t order);

#endif

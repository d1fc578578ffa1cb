#include "curriculum/prompt_order.h"

#include "infra/base/assert.h"
#include "infra/base/hash.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"

void prompt_order_init(struct prompt_order *prompts, uint64_t seed, int64_t count)
{
    HONE_ASSERT(count > 0);
    *prompts = (struct prompt_order){seed, count, -1, MEMORY_ARRAY(int64_t, count)};
}

void prompt_order_release(struct prompt_order *prompts)
{
    memory_free(prompts->permutation);
    prompts->permutation = NULL;
}

int64_t prompt_order_at(struct prompt_order *prompts, uint64_t order)
{
    int64_t epoch = (int64_t)(order / (uint64_t)prompts->count);
    if (epoch != prompts->epoch) {
        struct rng_key key = {prompts->seed, RNG_SHUFFLE, (uint64_t)epoch, 0};
        rng_permutation(&key, prompts->count, prompts->permutation);
        prompts->epoch = epoch;
    }
    return prompts->permutation[order % (uint64_t)prompts->count];
}

uint64_t prompt_order_sampling_seed(const struct prompt_order *prompts, uint64_t order)
{
    uint64_t words[2] = {prompts->seed, order};
    return hash_u64(words, sizeof words);
}

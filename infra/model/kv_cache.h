/* Paged key/value cache: blocks of ATTENTION_BLOCK_TOKENS positions, for all layers, handed out to
 * sequences. Training uses the same structure, so attention is the same code (G6).
 * Blocks carry a reference count (prefix sharing) and the policy version that filled them.
 * Owned by one thread. */
#ifndef HONE_MODEL_KV_CACHE_H
#define HONE_MODEL_KV_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "infra/compute/ops.h"
#include "infra/model/model_config.h"

struct kv_cache;

/* The blocks of one sequence. Created with room for max_positions; owns no memory outside itself
 * and the cache's blocks. */
struct kv_sequence {
    int32_t *blocks; /* [block_capacity] block ids, valid up to block_count */
    int32_t block_count, block_capacity;
    int32_t length; /* positions filled */
};

int kv_cache_create(struct kv_cache **cache, const struct model_config *config, enum dtype dtype,
                    int32_t block_count);
void kv_cache_free(struct kv_cache *cache);
size_t kv_cache_bytes(const struct model_config *config, enum dtype dtype, int32_t block_count);
int32_t kv_cache_free_blocks(const struct kv_cache *cache);
int32_t kv_cache_total_blocks(const struct kv_cache *cache);
/* The version that filled the first position of a block in use. */
int64_t kv_cache_block_version(const struct kv_cache *cache, int32_t block);
struct attention_kv kv_cache_layer(const struct kv_cache *cache, int32_t layer);

void kv_sequence_init(struct kv_sequence *sequence, int32_t max_positions);
void kv_sequence_release(struct kv_cache *cache,
                         struct kv_sequence *sequence); /* frees array too */
/* Makes sure positions [0, length) have blocks of their own (a shared last block is copied first).
 * False when the cache is full; nothing changes then. */
bool kv_sequence_reserve(struct kv_cache *cache, struct kv_sequence *sequence, int32_t length,
                         int64_t policy_version);
/* Gives the blocks back; the sequence is empty and reusable. */
void kv_sequence_clear(struct kv_cache *cache, struct kv_sequence *sequence);
/* `to` (empty) shares the first `length` positions of `from`; full blocks by reference, a partial
 * last block by copy. False when the cache is full. */
bool kv_sequence_share(struct kv_cache *cache, const struct kv_sequence *from, int32_t length,
                       struct kv_sequence *to);

#endif

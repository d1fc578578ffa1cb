#include "infra/model/kv_cache.h"

#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"

struct kv_cache {
    int32_t layers, kv_heads, head_dim, block_count;
    enum dtype dtype;
    size_t block_bytes; /* of keys, or of values, of one block of one layer */
    char *keys;         /* [layers][block_count][block_bytes] */
    char *values;
    int32_t *references;      /* [block_count] sequences that hold the block; 0: free */
    int64_t *policy_versions; /* [block_count] version that filled its first position */
    int32_t *free_blocks;     /* stack of free ids */
    int32_t free_count;
};

static size_t block_bytes_of(const struct model_config *config, enum dtype dtype)
{
    return (size_t)attention_block_values(dtype, config->kv_heads, config->head_dim) *
           dtype_bytes(dtype);
}

static size_t half_bytes(const struct kv_cache *cache)
{
    return cache->block_bytes * (size_t)cache->block_count * (size_t)cache->layers;
}

int kv_cache_create(struct kv_cache **result, const struct model_config *config, enum dtype dtype,
                    int32_t block_count)
{
    HONE_ASSERT(block_count > 0);
    HONE_ASSERT(dtype == DTYPE_F32 || dtype == DTYPE_BF16);
    struct kv_cache *cache = MEMORY_NEW(struct kv_cache);
    cache->layers = config->layers;
    cache->kv_heads = config->kv_heads;
    cache->head_dim = config->head_dim;
    cache->block_count = block_count;
    cache->dtype = dtype;
    cache->block_bytes = block_bytes_of(config, dtype);
    cache->keys = memory_map(half_bytes(cache));
    cache->values = memory_map(half_bytes(cache));
    /* Decoding would meet a page of its sequences at a time. */
    memory_populate(cache->keys, half_bytes(cache));
    memory_populate(cache->values, half_bytes(cache));
    cache->references = MEMORY_ARRAY(int32_t, block_count);
    cache->policy_versions = MEMORY_ARRAY(int64_t, block_count);
    cache->free_blocks = MEMORY_ARRAY(int32_t, block_count);
    while (cache->free_count < block_count) {
        cache->free_blocks[cache->free_count] = block_count - 1 - cache->free_count;
        cache->free_count++;
    }
    *result = cache;
    return 0;
}

void kv_cache_free(struct kv_cache *cache)
{
    if (!cache)
        return;
    memory_unmap(cache->keys, half_bytes(cache));
    memory_unmap(cache->values, half_bytes(cache));
    memory_free(cache->references);
    memory_free(cache->policy_versions);
    memory_free(cache->free_blocks);
    memory_free(cache);
}

size_t kv_cache_bytes(const struct model_config *config, enum dtype dtype, int32_t block_count)
{
    size_t blocks = (size_t)block_count;
    return sizeof(struct kv_cache) +
           2 * block_bytes_of(config, dtype) * blocks * (size_t)config->layers +
           blocks * (2 * sizeof(int32_t) + sizeof(int64_t));
}

int32_t kv_cache_free_blocks(const struct kv_cache *cache)
{
    return cache->free_count;
}

int32_t kv_cache_total_blocks(const struct kv_cache *cache)
{
    return cache->block_count;
}

int64_t kv_cache_block_version(const struct kv_cache *cache, int32_t block)
{
    HONE_ASSERT(block >= 0 && block < cache->block_count && cache->references[block] > 0);
    return cache->policy_versions[block];
}

struct attention_kv kv_cache_layer(const struct kv_cache *cache, int32_t layer)
{
    HONE_ASSERT(layer >= 0 && layer < cache->layers);
    size_t offset = cache->block_bytes * (size_t)cache->block_count * (size_t)layer;
    return (struct attention_kv){.keys = cache->keys + offset,
                                 .values = cache->values + offset,
                                 .kv_heads = cache->kv_heads,
                                 .head_dim = cache->head_dim,
                                 .dtype = cache->dtype};
}

/* ---- blocks ---- */

static int32_t take_block(struct kv_cache *cache, int64_t policy_version)
{
    HONE_ASSERT(cache->free_count > 0);
    int32_t block = cache->free_blocks[--cache->free_count];
    HONE_ASSERT(cache->references[block] == 0);
    cache->references[block] = 1;
    cache->policy_versions[block] = policy_version;
    return block;
}

static void drop_block(struct kv_cache *cache, int32_t block)
{
    HONE_ASSERT(cache->references[block] > 0);
    if (--cache->references[block] == 0)
        cache->free_blocks[cache->free_count++] = block;
}

static void copy_block(struct kv_cache *cache, int32_t from, int32_t to)
{
    size_t bytes = cache->block_bytes;
    for (int32_t layer = 0; layer < cache->layers; layer++) {
        size_t base = bytes * (size_t)cache->block_count * (size_t)layer;
        memcpy(cache->keys + base + bytes * (size_t)to, cache->keys + base + bytes * (size_t)from,
               bytes);
        memcpy(cache->values + base + bytes * (size_t)to,
               cache->values + base + bytes * (size_t)from, bytes);
    }
}

static int32_t blocks_for(int32_t length)
{
    return (int32_t)(((int64_t)length + ATTENTION_BLOCK_TOKENS - 1) / ATTENTION_BLOCK_TOKENS);
}

/* ---- sequences ---- */

void kv_sequence_init(struct kv_sequence *sequence, int32_t max_positions)
{
    HONE_ASSERT(max_positions > 0);
    int32_t capacity = blocks_for(max_positions);
    *sequence =
        (struct kv_sequence){.blocks = MEMORY_ARRAY(int32_t, capacity), .block_capacity = capacity};
}

void kv_sequence_release(struct kv_cache *cache, struct kv_sequence *sequence)
{
    kv_sequence_clear(cache, sequence);
    memory_free(sequence->blocks);
    *sequence = (struct kv_sequence){0};
}

bool kv_sequence_reserve(struct kv_cache *cache, struct kv_sequence *sequence, int32_t length,
                         int64_t policy_version)
{
    int32_t wanted = blocks_for(length);
    HONE_ASSERT(length >= 0 && wanted <= sequence->block_capacity);
    if (length <= sequence->length)
        return true;
    /* Blocks from the first unfilled position on will be written: shared ones need a copy. */
    int32_t first = sequence->length / ATTENTION_BLOCK_TOKENS;
    int32_t copies = 0;
    for (int32_t i = first; i < sequence->block_count; i++)
        copies += cache->references[sequence->blocks[i]] > 1;
    int32_t fresh = wanted > sequence->block_count ? wanted - sequence->block_count : 0;
    if (copies + fresh > cache->free_count)
        return false;
    for (int32_t i = first; i < sequence->block_count; i++) {
        int32_t shared = sequence->blocks[i];
        if (cache->references[shared] == 1)
            continue;
        sequence->blocks[i] = take_block(cache, cache->policy_versions[shared]);
        copy_block(cache, shared, sequence->blocks[i]);
        drop_block(cache, shared);
    }
    while (sequence->block_count < wanted)
        sequence->blocks[sequence->block_count++] = take_block(cache, policy_version);
    return true;
}

void kv_sequence_clear(struct kv_cache *cache, struct kv_sequence *sequence)
{
    while (sequence->block_count > 0)
        drop_block(cache, sequence->blocks[--sequence->block_count]);
    sequence->length = 0;
}

bool kv_sequence_share(struct kv_cache *cache, const struct kv_sequence *from, int32_t length,
                       struct kv_sequence *to)
{
    int32_t whole = length / ATTENTION_BLOCK_TOKENS;
    bool partial = length % ATTENTION_BLOCK_TOKENS != 0;
    HONE_ASSERT(length >= 0 && length <= from->length && to->block_count == 0);
    HONE_ASSERT(blocks_for(length) <= to->block_capacity);
    if (partial && cache->free_count == 0)
        return false;
    for (int32_t i = 0; i < whole; i++) {
        to->blocks[i] = from->blocks[i];
        cache->references[to->blocks[i]]++;
    }
    to->block_count = whole;
    if (partial) {
        int32_t block = take_block(cache, cache->policy_versions[from->blocks[whole]]);
        copy_block(cache, from->blocks[whole], block);
        to->blocks[to->block_count++] = block;
    }
    to->length = length;
    return true;
}

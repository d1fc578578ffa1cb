#include "infra/train/micro_batch.h"

#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/memory.h"
#include "infra/train/packing.h"

#define ROW_ARRAYS      17 /* int32 or float arrays of max_tokens entries */
#define SEQUENCE_ARRAYS 7  /* pointer arrays of max_sequences entries */
#define ARENA_ALIGN     64

static size_t aligned(size_t bytes)
{
    return (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
}

int32_t micro_batch_kv_blocks(int32_t max_tokens)
{
    /* Every sequence may leave its last block partly empty. */
    return max_tokens / ATTENTION_BLOCK_TOKENS + packing_max_sequences(max_tokens) + 1;
}

size_t micro_batch_bytes(int32_t max_tokens)
{
    size_t sequences = (size_t)packing_max_sequences(max_tokens);
    size_t blocks = (size_t)micro_batch_kv_blocks(max_tokens);
    return aligned(sequences * sizeof(struct kv_sequence)) + aligned(blocks * sizeof(int32_t)) +
           ROW_ARRAYS * aligned((size_t)max_tokens * sizeof(float)) +
           aligned((size_t)max_tokens * sizeof(struct logit_support)) +
           SEQUENCE_ARRAYS * aligned(sequences * sizeof(void *));
}

void micro_batch_init(struct micro_batch *micro, int32_t max_tokens, struct kv_cache *cache)
{
    size_t row_bytes = (size_t)max_tokens * sizeof(float);

    memset(micro, 0, sizeof *micro);
    micro->max_tokens = max_tokens;
    micro->max_sequences = packing_max_sequences(max_tokens);
    micro->cache = cache;
    arena_init(&micro->arena, micro_batch_bytes(max_tokens));
    int32_t **integers[] = {&micro->tokens, &micro->positions, &micro->sequence, &micro->head_rows,
                            &micro->targets};
    float **floats[] = {&micro->head_logprob,   &micro->head_entropy, &micro->head_d_logprob,
                        &micro->head_d_entropy, &micro->logprob,      &micro->entropy,
                        &micro->d_logprob,      &micro->d_entropy,    &micro->head_value,
                        &micro->head_d_value,   &micro->value,        &micro->d_value};
    float ***tables[] = {&micro->logprob_of,   &micro->entropy_of, &micro->d_logprob_of,
                         &micro->d_entropy_of, &micro->value_of,   &micro->d_value_of};
    _Static_assert(sizeof integers / sizeof *integers + sizeof floats / sizeof *floats ==
                       ROW_ARRAYS,
                   "the plan counts every row array");
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++)
        *integers[i] = arena_alloc(&micro->arena, row_bytes);
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++)
        *floats[i] = arena_alloc(&micro->arena, row_bytes);
    micro->head_support =
        arena_alloc(&micro->arena, (size_t)max_tokens * sizeof *micro->head_support);
    size_t table_bytes = (size_t)micro->max_sequences * sizeof(void *);
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        *tables[i] = arena_alloc(&micro->arena, table_bytes);
    micro->kv_of = arena_alloc(&micro->arena, table_bytes);
    size_t kv_bytes = (size_t)micro->max_sequences * sizeof *micro->kv;
    micro->kv = memset(arena_alloc(&micro->arena, kv_bytes), 0, kv_bytes);
    for (int32_t s = 0; s < micro->max_sequences; s++)
        micro->kv_of[s] = &micro->kv[s];
    micro->block_ids = arena_alloc(&micro->arena, (size_t)micro_batch_kv_blocks(max_tokens) *
                                                      sizeof *micro->block_ids);
}

void micro_batch_release(struct micro_batch *micro)
{
    if (micro->kv == NULL)
        return;
    micro_batch_unload(micro);
    arena_release(&micro->arena);
    memset(micro, 0, sizeof *micro);
}

static int32_t last_trained(const struct train_sequence *sequence)
{
    int32_t last = sequence->count - 1;
    while (last > 0 && sequence->loss_mask[last] == 0)
        last--;
    return last > 0 ? last : 0;
}

static void append_sequence(struct micro_batch *micro, const struct train_sequence *sequence,
                            int32_t slot)
{
    int32_t rows = last_trained(sequence);

    micro->is_cut = micro->is_cut || sequence->support != NULL;
    for (int32_t i = 0; i < rows; i++) {
        int32_t row = micro->row_count++;
        micro->tokens[row] = sequence->tokens[i];
        micro->positions[row] = i;
        micro->sequence[row] = slot;
        if (sequence->loss_mask[i + 1] == 0)
            continue;
        int32_t head = micro->head_count++;
        micro->head_rows[head] = row;
        micro->targets[head] = sequence->tokens[i + 1];
        micro->head_support[head] =
            sequence->support ? sequence->support[i + 1] : (struct logit_support){0};
    }
    struct kv_sequence *kv = &micro->kv[slot];
    kv->blocks = micro->block_ids + micro->block_count;
    kv->block_capacity = (rows + ATTENTION_BLOCK_TOKENS - 1) / ATTENTION_BLOCK_TOKENS;
    micro->block_count += kv->block_capacity;
    bool reserved = kv_sequence_reserve(micro->cache, kv, rows, 0);
    HONE_ASSERT(reserved);
}

void micro_batch_load(struct micro_batch *micro, const struct train_batch *batch, int32_t first,
                      int32_t count)
{
    int64_t offset = 0;

    HONE_ASSERT(count >= 1 && count <= micro->max_sequences);
    micro->first = first;
    micro->count = count;
    micro->row_count = 0;
    micro->head_count = 0;
    micro->is_cut = false;
    micro->block_count = 0;
    for (int32_t s = 0; s < count; s++) {
        const struct train_sequence *sequence = &batch->sequences[first + s];
        HONE_ASSERT(offset + sequence->count <= micro->max_tokens);
        micro->logprob_of[s] = micro->logprob + offset;
        micro->entropy_of[s] = micro->entropy + offset;
        micro->d_logprob_of[s] = micro->d_logprob + offset;
        micro->d_entropy_of[s] = micro->d_entropy + offset;
        micro->value_of[s] = micro->value + offset;
        micro->d_value_of[s] = micro->d_value + offset;
        offset += sequence->count;
        append_sequence(micro, sequence, s);
    }
    size_t bytes = (size_t)offset * sizeof(float);
    memset(micro->logprob, 0, bytes);
    memset(micro->entropy, 0, bytes);
    memset(micro->d_logprob, 0, bytes);
    memset(micro->d_entropy, 0, bytes);
    memset(micro->value, 0, bytes);
    memset(micro->d_value, 0, bytes);
}

void micro_batch_unload(struct micro_batch *micro)
{
    for (int32_t s = 0; s < micro->count; s++)
        kv_sequence_clear(micro->cache, &micro->kv[s]);
    micro->count = 0;
}

struct forward_rows micro_batch_rows(const struct micro_batch *micro)
{
    return (struct forward_rows){.count = micro->row_count,
                                 .tokens = micro->tokens,
                                 .positions = micro->positions,
                                 .sequence = micro->sequence,
                                 .sequences = micro->kv_of};
}

struct head_targets micro_batch_targets(const struct micro_batch *micro, float temperature)
{
    return (struct head_targets){.count = micro->head_count,
                                 .rows = micro->head_rows,
                                 .targets = micro->targets,
                                 .temperature = temperature,
                                 .support = micro->is_cut ? micro->head_support : NULL};
}

void micro_batch_scatter(struct micro_batch *micro, const struct train_batch *batch)
{
    int32_t head = 0;

    for (int32_t s = 0; s < micro->count; s++) {
        const struct train_sequence *sequence = &batch->sequences[micro->first + s];
        for (int32_t i = 1; i < sequence->count; i++) {
            if (sequence->loss_mask[i] == 0)
                continue;
            micro->logprob_of[s][i] = micro->head_logprob[head];
            if (batch->need_entropy)
                micro->entropy_of[s][i] = micro->head_entropy[head];
            if (batch->need_value)
                micro->value_of[s][i] = micro->head_value[head];
            head++;
        }
    }
    HONE_ASSERT(head == micro->head_count);
}

void micro_batch_gather(struct micro_batch *micro, const struct train_batch *batch)
{
    int32_t head = 0;

    for (int32_t s = 0; s < micro->count; s++) {
        const struct train_sequence *sequence = &batch->sequences[micro->first + s];
        for (int32_t i = 1; i < sequence->count; i++) {
            if (sequence->loss_mask[i] == 0)
                continue;
            micro->head_d_logprob[head] = micro->d_logprob_of[s][i];
            if (batch->need_entropy)
                micro->head_d_entropy[head] = micro->d_entropy_of[s][i];
            if (batch->need_value)
                micro->head_d_value[head] = micro->d_value_of[s][i];
            head++;
        }
    }
    HONE_ASSERT(head == micro->head_count);
}

struct loss_streams micro_batch_streams(const struct micro_batch *micro,
                                        const struct train_batch *batch)
{
    return (struct loss_streams){
        .first = micro->first,
        .count = micro->count,
        .logprob = (const float *const *)micro->logprob_of,
        .entropy = batch->need_entropy ? (const float *const *)micro->entropy_of : NULL,
        .d_logprob = micro->d_logprob_of,
        .d_entropy = batch->need_entropy ? micro->d_entropy_of : NULL,
        .value = batch->need_value ? (const float *const *)micro->value_of : NULL,
        .d_value = batch->need_value ? micro->d_value_of : NULL};
}

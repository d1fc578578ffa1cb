/* One micro-batch laid out for the engine: the rows of several sequences back to back, the rows
 * whose next token is trained (head rows), and the per-token streams that a loss sees.
 *
 * All arrays are planned at create for max_tokens and reused. Owned by one trainer.
 *
 *  M1  A sequence contributes rows 0 .. last - 1, where last is its last trained token: later rows
 *      influence nothing that is trained. A sequence without a trained token contributes none.
 *  M2  Head rows ascend; the row of token i - 1 predicts token i.
 *  M3  Stream entries of tokens that are not trained are 0. */
#ifndef HONE_TRAIN_MICRO_BATCH_H
#define HONE_TRAIN_MICRO_BATCH_H

#include "infra/base/arena.h"
#include "infra/model/kv_cache.h"
#include "infra/model/transformer.h"
#include "infra/train/trainer.h"

struct micro_batch {
    int32_t max_tokens, max_sequences;
    struct arena arena;
    struct kv_cache *cache;

    int32_t first, count; /* sequences of the train batch */
    int32_t row_count;
    int32_t *tokens, *positions, *sequence; /* [row_count] */
    struct kv_sequence *kv;                 /* [max_sequences] */
    struct kv_sequence **kv_of;             /* [max_sequences] */
    int32_t *block_ids;                     /* the sequences' block tables, back to back */
    int32_t block_count;

    int32_t head_count;
    int32_t *head_rows, *targets;           /* [head_count] */
    struct logit_support *head_support;     /* [head_count] */
    bool is_cut;                            /* some head row's distribution is */
    float *head_logprob, *head_entropy;     /* [head_count] */
    float *head_d_logprob, *head_d_entropy; /* [head_count] */
    float *head_value, *head_d_value;       /* [head_count] */

    float *logprob, *entropy, *d_logprob, *d_entropy; /* [max_tokens] streams, back to back */
    float *value, *d_value;
    float **logprob_of, **entropy_of, **d_logprob_of, **d_entropy_of; /* [count] into them */
    float **value_of, **d_value_of;
};

/* cache must have micro_batch_kv_blocks blocks, and outlives the micro-batch. */
void micro_batch_init(struct micro_batch *micro, int32_t max_tokens, struct kv_cache *cache);
void micro_batch_release(struct micro_batch *micro);
int32_t micro_batch_kv_blocks(int32_t max_tokens);
size_t micro_batch_bytes(int32_t max_tokens);

/* Lays out sequences [first, first + count) and reserves their KV blocks. */
void micro_batch_load(struct micro_batch *micro, const struct train_batch *batch, int32_t first,
                      int32_t count);
/* Gives the KV blocks back. */
void micro_batch_unload(struct micro_batch *micro);
struct forward_rows micro_batch_rows(const struct micro_batch *micro);
struct head_targets micro_batch_targets(const struct micro_batch *micro, float temperature);
/* head_logprob and head_entropy -> streams; d streams -> head_d_logprob and head_d_entropy. */
void micro_batch_scatter(struct micro_batch *micro, const struct train_batch *batch);
void micro_batch_gather(struct micro_batch *micro, const struct train_batch *batch);
struct loss_streams micro_batch_streams(const struct micro_batch *micro,
                                        const struct train_batch *batch);

#endif

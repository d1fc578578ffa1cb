/* How a batch is cut into micro-batches: best-fit decreasing within a budget of tokens, or the
 * batch's own order where that needs no more of them.
 *
 * A unit (neighbours with the same `unit`) stays together. Units are placed by length, longest
 * first and equal ones in the batch's order, each in the fullest micro-batch that has room for it,
 * the earliest of equally full ones; a new one when none has. Within a micro-batch sequences keep
 * the batch's order.
 *
 * With more than one shard, units are dealt first: longest first, each to the shard with the fewest
 * tokens so far, the first of equal ones. Each shard is then packed by itself; micro-batches of
 * shard 0 come first.
 *
 * P1. The result is a function of the sequences' lengths and units, of max_tokens and the number of
 * shards, nothing else: a resumed or replayed step packs alike (G7).
 *
 * P2. A micro-batch holds at most max_tokens tokens and packing_max_sequences sequences. The second
 * bound keeps the KV blocks of many very short sequences (each takes a whole block) within a small
 * multiple of max_tokens.
 *
 * Arrays grow to the largest batch seen and stay. Owned by one thread. */
#ifndef HONE_TRAIN_PACKING_H
#define HONE_TRAIN_PACKING_H

#include <stdint.h>

#define PACKING_SHARDS_MAX 64

struct train_sequence;

struct packing {
    int32_t max_tokens;
    int32_t count;                    /* sequences of the latest plan */
    struct train_sequence *sequences; /* [count] in packed order */
    int32_t *order;                   /* [count] where each stood in the batch */
    int32_t micro_batch_count;
    int32_t *ends; /* [micro_batch_count] end of each in packed order */
    int32_t shards;
    int32_t shard_ends[PACKING_SHARDS_MAX]; /* micro-batches up to and with those of each shard */

    int32_t capacity;           /* of every array here */
    struct packing_unit *units; /* scratch */
    int32_t *by_length;         /* scratch: units, longest first */
    struct packing_bin *bins;   /* scratch */
};

/* Most sequences of one micro-batch of max_tokens rows. */
int32_t packing_max_sequences(int32_t max_tokens);

void packing_init(struct packing *packing, int32_t max_tokens, int32_t shards);
void packing_release(struct packing *packing);
/* HONE_EINVAL when a unit alone does not fit (the message names its length). */
int packing_plan(struct packing *packing, const struct train_sequence *sequences, int32_t count);

#endif

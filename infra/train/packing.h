/* Which sequences share a micro-batch: in the order given, units kept together, at most max_tokens
 * rows and packing_max_sequences sequences. The second bound keeps the KV blocks of many very short
 * sequences (each takes a whole block) within a small multiple of max_tokens. */
#ifndef HONE_TRAIN_PACKING_H
#define HONE_TRAIN_PACKING_H

#include <stdint.h>

struct train_sequence;

/* Most sequences of one micro-batch of max_tokens rows. */
int32_t packing_max_sequences(int32_t max_tokens);

/* Returns how many sequences from `first` fit in one micro-batch (at least one whole unit), or
 * HONE_EINVAL when the unit alone does not fit (the message names its length). */
int packing_next(const struct train_sequence *sequences, int32_t count, int32_t first,
                 int32_t max_tokens);

#endif

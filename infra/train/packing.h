/* Which sequences share a micro-batch: in the order given, units kept together, at most max_tokens rows. */
#ifndef HONE_TRAIN_PACKING_H
#define HONE_TRAIN_PACKING_H

#include <stdint.h>

struct train_sequence;

/* Returns how many sequences from `first` fit in one micro-batch (at least one whole unit), or
 * HONE_EINVAL when the unit alone has more than max_tokens tokens (the message names its length). */
int packing_next(const struct train_sequence *sequences, int32_t count, int32_t first,
                 int32_t max_tokens);

#endif

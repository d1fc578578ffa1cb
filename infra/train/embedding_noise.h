/* NEFTune (Jain et al. 2023, arXiv 2310.05914): while SFT learns, each row's embedding gets uniform
 * noise of (-1, 1) * alpha / sqrt(L d), L the tokens of its sequence, d the hidden size. The
 * gradient does not see it.
 *
 * A draw is a function of (seed, step, the sequence's unit, position, element), so the same step
 * has the same noise however it is packed and on any number of threads. */
#ifndef HONE_TRAIN_EMBEDDING_NOISE_H
#define HONE_TRAIN_EMBEDDING_NOISE_H

#include "infra/compute/parallel.h"
#include "infra/train/micro_batch.h"

/* noise [rows of the micro-batch, hidden] */
void embedding_noise_fill(const struct embedding_noise_options *options, int64_t step,
                          const struct train_batch *batch, const struct micro_batch *micro,
                          int32_t hidden, struct parallel *pool, float *noise);

#endif

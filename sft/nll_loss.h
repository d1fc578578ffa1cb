/* Negative log-likelihood: L = -(1/N) sum_t logprob_t over the N trained tokens of the whole batch
 * (T2). */
#ifndef HONE_SFT_NLL_LOSS_H
#define HONE_SFT_NLL_LOSS_H

#include "infra/train/trainer.h"

struct nll_loss {
    int64_t total_tokens;
    double probability_sum; /* of the trained tokens */
    double entropy_sum;     /* the same, when the batch asks for it */
};

/* Counts the batch's trained tokens, clears the sum. */
void nll_loss_begin(struct nll_loss *loss, const struct train_batch *batch);
/* A loss_function; context is a struct nll_loss. */
int nll_loss_function(void *context, const struct train_batch *batch,
                      const struct loss_streams *streams, double *total);

#endif

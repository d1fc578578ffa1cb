#include "sft/nll_loss.h"

#include "infra/train/exponential.h"

void nll_loss_begin(struct nll_loss *loss, const struct train_batch *batch)
{
    loss->total_tokens = 0;
    loss->probability_sum = loss->entropy_sum = 0.0;
    for (int32_t s = 0; s < batch->count; s++)
        loss->total_tokens += train_sequence_trained(&batch->sequences[s]);
}

int nll_loss_function(void *context, const struct train_batch *batch,
                      const struct loss_streams *streams, double *total)
{
    struct nll_loss *loss = context;
    double weight = loss->total_tokens > 0 ? 1.0 / (double)loss->total_tokens : 0.0;

    for (int32_t s = 0; s < streams->count; s++) {
        const struct train_sequence *sequence = &batch->sequences[streams->first + s];
        for (int32_t i = 1; i < sequence->count; i++) {
            if (sequence->loss_mask[i] == 0)
                continue;
            double logprob = (double)streams->logprob[s][i];
            *total -= weight * logprob;
            loss->probability_sum += exponential(logprob);
            if (streams->entropy != NULL)
                loss->entropy_sum += (double)streams->entropy[s][i];
            streams->d_logprob[s][i] = (float)-weight;
        }
    }
    return 0;
}

/* DPO (Rafailov et al. 2023, arXiv 2305.18290), sigmoid form with optional label smoothing (cDPO):
 *   h = beta [(log pi(y_w) - log ref(y_w)) - (log pi(y_l) - log ref(y_l))]
 *   L = -(1 - eps) log sigmoid(h) - eps log sigmoid(-h), mean over pairs of the whole batch.
 * Sequences come in pairs: chosen then rejected, same unit. */
#ifndef HONE_DPO_PREFERENCE_LOSS_H
#define HONE_DPO_PREFERENCE_LOSS_H

#include "infra/train/trainer.h"

struct preference_options {
    float beta;
    float label_smoothing;
    float nll_coef; /* adds nll_coef * mean NLL per token of the pair's chosen answer; 0 = off */
};

struct preference_stats {
    double chosen_reward, rejected_reward, margin; /* sums of beta * (policy - reference) */
    int64_t correct, pairs;                        /* pairs with margin > 0 */
};

/* train_sequence.user of the dpo stage. */
struct preference_sequence {
    double reference_logprob; /* summed over masked-in tokens */
    bool chosen;
};

struct preference_loss {
    struct preference_options options;
    int64_t total_pairs;
    struct preference_stats stats;
};

/* Counts the batch's pairs, clears stats. */
void preference_loss_begin(struct preference_loss *loss, const struct train_batch *batch);
/* A loss_function; context is a struct preference_loss. */
int preference_loss_function(void *context, const struct train_batch *batch,
                             const struct loss_streams *streams, double *total);
/* Loss of one pair and its derivative with respect to h. */
double preference_pair_loss(const struct preference_options *options, double policy_chosen,
                            double policy_rejected, double reference_chosen,
                            double reference_rejected, double *derivative_h);

#endif

/* Losses of preference pairs. With x = log pi(y) - log ref(y) summed over an answer's trained
 * tokens, w the chosen answer, l the rejected one, m = x_w - x_l and h = beta m:
 *
 *   sigmoid  -(1 - eps) log sigmoid(h) - eps log sigmoid(-h)
 *            DPO (arXiv 2305.18290); eps: cDPO
 *   robust   (the same with + for the second term) / (1 - 2 eps)
 *            (arXiv 2403.00409)
 *   hinge    max(0, 1 - h)
 *            SLiC (arXiv 2305.10425)
 *   ipo      (m - 1 / (2 beta))^2, x divided by the answer's tokens as TRL does, or summed as the
 *            paper and OpenRLHF do (arXiv 2310.12036)
 *   simpo    -log sigmoid(beta (log pi(w)/|w| - log pi(l)/|l|) - margin)
 *            no reference (arXiv 2405.14734)
 *   kto      half of desirable (1 - sigmoid(beta (x_w - z))) and of undesirable
 *            (1 - sigmoid(beta (z - x_l))); z >= 0 the batch's KL estimate, a constant of the
 *            gradient (arXiv 2402.01306)
 *
 * and to each nll_coef times the mean NLL per token of the chosen answer. Means over the pairs of
 * the whole batch (T2). Sequences come in pairs: chosen then rejected, same unit. */
#ifndef HONE_DPO_PREFERENCE_LOSS_H
#define HONE_DPO_PREFERENCE_LOSS_H

#include "infra/train/trainer.h"

enum preference_kind {
    PREFERENCE_SIGMOID,
    PREFERENCE_ROBUST,
    PREFERENCE_HINGE,
    PREFERENCE_IPO,
    PREFERENCE_SIMPO,
    PREFERENCE_KTO
};

struct preference_options {
    enum preference_kind kind;
    float beta;
    float label_smoothing;        /* eps of sigmoid and robust */
    float nll_coef;               /* 0 = off */
    float margin;                 /* simpo */
    bool summed;                  /* ipo: x is not divided by the answer's tokens */
    float desirable, undesirable; /* kto */
};

/* Whether the loss compares with a reference at all. */
bool preference_needs_reference(enum preference_kind kind);

/* One pair. Logprobs are sums over trained tokens. */
struct preference_terms {
    double chosen, rejected, reference_chosen, reference_rejected;
    int32_t chosen_tokens, rejected_tokens;
    double kl; /* z of kto */
};
struct preference_result {
    double loss;
    double d_chosen, d_rejected;    /* with respect to the policy's sums */
    double reward, rejected_reward; /* beta x; of simpo beta log pi / tokens */
};
void preference_pair_loss(const struct preference_options *options,
                          const struct preference_terms *terms, struct preference_result *result);

struct preference_stats {
    double chosen_reward, rejected_reward, margin; /* sums over pairs */
    double chosen_logprob, rejected_logprob;       /* sums over pairs, of the policy */
    int64_t correct, pairs;                        /* pairs with margin > 0 */
};

/* train_sequence.user of the dpo stage. */
struct preference_sequence {
    double reference_logprob; /* summed over masked-in tokens */
    bool chosen;
};

struct preference_loss {
    struct preference_options options;
    double kl; /* of kto: preference_kl of the batch's mismatched answers */
    int64_t total_pairs;
    struct preference_stats stats;
};

/* z of a batch: max(0, mean of the log ratios of answers to prompts that are not theirs). */
double preference_kl(int64_t count, const double *policy, const double *reference);

/* Counts the batch's pairs, clears stats. */
void preference_loss_begin(struct preference_loss *loss, const struct train_batch *batch);
/* A loss_function; context is a struct preference_loss. */
int preference_loss_function(void *context, const struct train_batch *batch,
                             const struct loss_streams *streams, double *total);

#endif

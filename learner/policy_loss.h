/* The RL objective on per-token streams: clipped policy gradient plus KL and entropy terms.
 * Minimised.
 *
 *   ratio_t = exp(logprob_t - behavior_logprob_t), the exponent clamped to +-20
 *   L_t = -min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A)       PPO / GRPO
 *   off-policy correction: that, or with the policy before the batch (its logprobs are the first
 *     pass's own) in the denominator of ratio, and L_t times w_t: decoupled (AReaL, arXiv
 *     2505.24298), w_t = min(exp(proximal - behavior), importance_weight_max), a constant of the
 *     gradient; or none, w_t = 1: the batch counts as on-policy
 *   dual clip (A < 0, c > 0): L_t = min(L_t, -c A)
 *   KL to the reference, x = logprob - reference_logprob: k1 = x, k2 = x^2/2, k3 = exp(-x) - 1 + x
 *     (Schulman 2020; in k3 alone x is clamped to +-20 and the value to at most 10)
 *   L = sum_t w_t (L_t + kl_coef KL_t - entropy_coef H_t)
 *   aggregation weights w_t: token_mean 1/N_tokens (global), sequence_mean 1/(N_sequences |o_i|),
 *     constant 1/(N_sequences max_tokens).
 * All counts are of the whole batch (T2). reference/algorithms: GRPO arXiv 2402.03300, dual clip
 * arXiv 1912.09729. */
#ifndef HONE_LEARNER_POLICY_LOSS_H
#define HONE_LEARNER_POLICY_LOSS_H

#include "infra/train/trainer.h"

enum loss_aggregation { AGGREGATE_TOKEN_MEAN, AGGREGATE_SEQUENCE_MEAN, AGGREGATE_CONSTANT };
enum off_policy { OFF_POLICY_BEHAVIOR_RATIO, OFF_POLICY_DECOUPLED, OFF_POLICY_NONE };
enum kl_estimator { KL_K1, KL_K2, KL_K3 };

struct policy_loss_options {
    float clip_low, clip_high;
    float dual_clip; /* 0 = off */
    enum off_policy off_policy;
    float importance_weight_max; /* of OFF_POLICY_DECOUPLED */
    enum loss_aggregation aggregation;
    int32_t constant_tokens; /* divisor of `constant` */
    float kl_coef;
    enum kl_estimator kl_estimator;
    float entropy_coef;
};

/* train_sequence.user of the RL stage. */
struct policy_sequence {
    const float *behavior_logprob;  /* [count] */
    const float *reference_logprob; /* [count] or NULL when no reference is kept */
    float *proximal_logprob;        /* [count] written in the first pass, read in later ones; NULL
                                       when there are none */
    const int64_t *policy_version;  /* [count] */
    const uint8_t *kv_mixed;        /* [count] or NULL: none (struct trajectory) */
    float advantage;
};

/* Unweighted sums over the batch's trained tokens, for metrics; means are taken by the caller
 * through `tokens`. */
struct policy_loss_stats {
    double policy_loss;  /* sum of L_t */
    double kl_reference; /* k3 of KL(policy || reference); 0 when no reference is kept */
    double kl_behavior;  /* k3 of KL(behavior || policy) */
    double entropy;      /* 0 unless the batch needs entropy */
    double ratio_sum, ratio_squared_sum, ratio_max; /* of policy to behavior */
    /* Over tokens sampled wholly from the current version, their keys and values included (G6): */
    double abs_logprob_difference_max; /* 0 exactly */
    int64_t unequal_tokens;            /* logprob differs in any bit */
    int64_t current_version_tokens;
    int64_t
        mixed_kv_tokens; /* trained tokens whose KV was in part of other weights: not compared */
    int64_t clipped_low, clipped_high; /* tokens whose gradient a clip bound stops */
    int64_t dual_clipped;              /* tokens whose gradient the dual clip stops */
    int64_t tokens;
};

struct policy_loss {
    struct policy_loss_options options;
    int64_t total_tokens, total_sequences; /* global counts of the batch */
    int64_t current_version;               /* for the mismatch counters; -1 to skip */
    bool first_pass; /* over the batch: the weights are the proximal policy's */
    struct policy_loss_stats stats;
};

/* Counts tokens and sequences of the batch, clears stats. */
void policy_loss_begin(struct policy_loss *loss, const struct train_batch *batch);
/* A loss_function; context is a struct policy_loss. */
int policy_loss_function(void *context, const struct train_batch *batch,
                         const struct loss_streams *streams, double *total);

/* KL estimate of one token and its derivative with respect to logprob. */
void policy_kl(enum kl_estimator estimator, float logprob, float reference, float *value,
               float *derivative);

#endif

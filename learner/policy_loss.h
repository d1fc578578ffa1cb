/* The RL objective on per-token streams: policy gradient, KL and entropy terms. Minimised.
 *
 *   ratio, token level     r_t = exp(logprob_t - center_t)
 *   ratio, sequence level  r = exp(mean_t(logprob_t - center_t)), one for the trajectory, its
 *                          derivative with respect to each logprob being r (GSPO's token form,
 *                          arXiv 2507.18071)
 *   center                 the behavior policy, or with other corrections (importance.h) the policy
 *                          before the batch, whose logprobs are the first pass's own
 *   L_t = weight_t surrogate(r_t, A_t)                           (importance.h, surrogate.h)
 *   V_t, with a critic     1/2 max((v - R)^2, (clip(v, v_old +- value_clip) - R)^2), v of the value
 *                          head, v_old before the batch, R the return (PPO's value loss)
 *   L = sum_t w_t (L_t + kl_coef KL_t - entropy_coef H_t + value_coef V_t)           (kl.h)
 *   aggregation weights w_t: token_mean 1/N_tokens (global), sequence_mean 1/(N_sequences |o_i|),
 *     constant 1/(N_sequences max_tokens).
 * All counts are of the whole batch (T2). What samples are truncated to (top-p, top-k, min-p) is
 * part of the behavior policy when log_mass is given: its logprob of a token is then
 * behavior_logprob - log_mass. */
#ifndef HONE_LEARNER_POLICY_LOSS_H
#define HONE_LEARNER_POLICY_LOSS_H

#include "infra/train/trainer.h"
#include "learner/importance.h"
#include "learner/kl.h"
#include "learner/surrogate.h"

enum loss_aggregation { AGGREGATE_TOKEN_MEAN, AGGREGATE_SEQUENCE_MEAN, AGGREGATE_CONSTANT };
enum ratio_level { RATIO_TOKEN, RATIO_SEQUENCE };

struct policy_loss_options {
    enum ratio_level ratio;
    struct surrogate_options surrogate;
    struct importance_options importance;
    enum loss_aggregation aggregation;
    int32_t constant_tokens; /* divisor of `constant` */
    float kl_coef;           /* of the term in the loss */
    enum kl_estimator kl_estimator;
    float entropy_coef;
    float value_coef, value_clip; /* used when the batch has values; clip 0 = off */
};

/* train_sequence.user of the RL stage. */
struct policy_sequence {
    const float *behavior_logprob;  /* [count] */
    const float *log_mass;          /* [count] or NULL: nothing was cut, or it does not count */
    const float *reference_logprob; /* [count] or NULL when no reference is kept */
    float *proximal_logprob;        /* [count] written in the first pass, read in later ones; NULL
                                       when there are none */
    const int64_t *policy_version;  /* [count] */
    const uint8_t *kv_mixed;        /* [count] or NULL: none (struct trajectory) */
    float advantage;                /* of every token, unless there are */
    const float *token_advantage;   /* [count] or NULL */
    const float *old_value, *value_target; /* [count] when the batch has values */
};

/* All doubles, sums first, then maxima: what struct loss_sums takes it for. Unweighted sums over
 * the batch's trained tokens, for metrics; means are taken by the caller through `tokens`. */
struct policy_loss_stats {
    double policy_loss;  /* sum of L_t */
    double kl_reference; /* k3 of KL(policy || reference); 0 when no reference is kept */
    double kl_behavior;  /* k3 of KL(behavior || policy) */
    double entropy;      /* 0 unless the batch needs entropy */
    double value_loss;   /* sum of V_t; 0 without a critic */
    /* Of the returns R, and of R - v: what of them the critic explains. */
    double return_sum, return_squares, residual_sum, residual_squares;
    double ratio_sum, ratio_squared_sum; /* of policy to behavior */
    double weight_sum;                   /* of the off-policy correction */
    double rejected;                     /* tokens that it gave the weight 0 */
    /* Over tokens sampled wholly from the current version, their keys and values included (G6): */
    double unequal_tokens; /* logprob differs in any bit */
    double current_version_tokens;
    double mixed_kv_tokens; /* trained tokens whose KV was in part of other weights: not compared */
    double clipped_low, clipped_high; /* tokens whose ratio is at a clip bound */
    double dual_clipped;              /* tokens whose gradient the dual clip stops */
    double tokens;

    double ratio_max;
    double abs_logprob_difference_max; /* of the current version's tokens: 0 exactly */
};

struct policy_loss {
    struct policy_loss_options options;
    int64_t total_tokens, total_sequences; /* global counts of the batch */
    int64_t current_version;               /* for the mismatch counters; -1 to skip */
    bool first_pass; /* over the batch: the weights are the proximal policy's */
    struct policy_loss_stats stats;
};

#define POLICY_LOSS_MAXIMA 2
#define POLICY_LOSS_SUMS                                                                           \
    ((int32_t)(sizeof(struct policy_loss_stats) / sizeof(double)) - POLICY_LOSS_MAXIMA)

/* Counts tokens and sequences of the batch, clears stats. */
void policy_loss_begin(struct policy_loss *loss, const struct train_batch *batch);
/* A loss_function; context is a struct policy_loss. */
int policy_loss_function(void *context, const struct train_batch *batch,
                         const struct loss_streams *streams, double *total);

#endif

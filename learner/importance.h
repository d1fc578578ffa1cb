/* Off-policy correction: the weight of a token that an older policy sampled.
 *
 *   d_t = proximal logprob - behavior logprob; the proximal policy is the one before the batch
 *   behavior_ratio      1: the clipped ratio itself is taken against the behavior policy
 *   none                1: the batch counts as on-policy
 *   decoupled           clip(exp(d_t), weight_min, weight_max)     (AReaL, arXiv 2505.24298; the
 *                       token form of truncated importance sampling)
 *   truncated_sequence  clip(exp(sum_t d_t), weight_min, weight_max), one for the trajectory
 *   icepop              exp(d_t) inside [weight_min, weight_max], else 0: the token is left out
 *   sequence_rejection  decoupled where exp(mean_t d_t) is inside [rejection_low, rejection_high],
 *                       else 0: the trajectory is left out
 *
 * A weight is a constant of the gradient. Tokens with weight 0 stay in the counts that the loss is
 * normalised by. */
#ifndef HONE_LEARNER_IMPORTANCE_H
#define HONE_LEARNER_IMPORTANCE_H

#include <stdbool.h>
#include <stdint.h>

enum off_policy {
    OFF_POLICY_BEHAVIOR_RATIO,
    OFF_POLICY_DECOUPLED,
    OFF_POLICY_TRUNCATED_SEQUENCE,
    OFF_POLICY_ICEPOP,
    OFF_POLICY_SEQUENCE_REJECTION,
    OFF_POLICY_NONE
};

struct importance_options {
    enum off_policy off_policy;
    float weight_min, weight_max;
    float rejection_low, rejection_high;
};

/* Of a trajectory's trained tokens. */
struct importance_sums {
    double difference; /* sum of d_t */
    int32_t tokens;
};

/* exp of a difference of logprobs, the difference clamped to +-20. */
double importance_ratio(double difference);
bool importance_saturated(double difference); /* outside that clamp */

/* difference: d_t of the token. */
double importance_weight(const struct importance_options *options,
                         const struct importance_sums *sums, double difference);

#endif

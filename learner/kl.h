/* Estimators of the KL divergence from a reference, one token at a time, and the coefficient that
 * follows a target.
 *
 *   x = logprob - reference_logprob, of a token that the policy sampled (Schulman 2020)
 *   k1 = x      k2 = x^2 / 2      k3 = exp(-x) - 1 + x
 * k1 and k3 are unbiased in value, k2 alone has the gradient of the reverse KL in expectation (that
 * of k1 is 0). k3_straight_through has the value of k3 and the gradient of k2. In k3 x is clamped
 * to +-20 and the value to at most 10. */
#ifndef HONE_LEARNER_KL_H
#define HONE_LEARNER_KL_H

#include <stdint.h>

enum kl_estimator { KL_K1, KL_K2, KL_K3, KL_K3_STRAIGHT_THROUGH };

/* The estimate and its derivative with respect to logprob. NaN gives NaN. */
void kl_estimate(enum kl_estimator estimator, float logprob, float reference, float *value,
                 float *derivative);

/* The coefficient of the next batch (Ziegler et al. 2019, arXiv 1909.08593, section 2.2):
 *   coef (1 + clip(kl / target - 1, -0.2, 0.2) trajectories / horizon)
 * kl: the batch's mean per token. A kl that is not a number leaves the coefficient. */
double kl_next_coef(double coef, double kl, double target, int64_t trajectories, double horizon);

#endif

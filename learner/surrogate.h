/* The clipped surrogate of one token: what an importance ratio and an advantage give as a loss.
 *
 *   ppo    L = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)     (Schulman et al. 2017, arXiv
 *          1707.06347); dual clip (A < 0, c > 0): L = min(L, -c A)   (arXiv 1912.09729)
 *   cispo  L = -sg[clip(r, 1 - clip_low, 1 + clip_high)] A log pi    (MiniMax-M1, arXiv 2506.13585)
 *   aipo   L = -sg[min(r, ratio_max)] A log pi                       (LlamaRL, arXiv 2505.24034)
 *   none   L = -r A
 *
 * sg: a constant of the gradient, so that under cispo and aipo every token keeps one. ratio_max is
 * the bound itself, clip_low and clip_high are distances from 1. */
#ifndef HONE_LEARNER_SURROGATE_H
#define HONE_LEARNER_SURROGATE_H

#include <stdbool.h>

enum clipping { CLIP_PPO, CLIP_CISPO, CLIP_AIPO, CLIP_NONE };

struct surrogate_options {
    enum clipping clipping;
    float clip_low, clip_high; /* ppo, cispo */
    float dual_clip;           /* ppo; 0 = off */
    float ratio_max;           /* aipo */
};

struct surrogate_input {
    double logprob;
    double ratio;   /* r; its derivative with respect to logprob is itself */
    bool saturated; /* r is at the limit of its exponent: it has no derivative */
    double advantage;
};

enum surrogate_clip { SURROGATE_INSIDE, SURROGATE_LOW, SURROGATE_HIGH, SURROGATE_DUAL };

struct surrogate_result {
    double loss, derivative;  /* with respect to logprob */
    enum surrogate_clip clip; /* the bound that the ratio is at */
};

void surrogate(const struct surrogate_options *options, const struct surrogate_input *input,
               struct surrogate_result *result);

#endif

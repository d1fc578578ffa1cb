/* Returns and advantages of one trajectory's tokens from rewards given at tokens. Everything is in
 * double, over `count` consecutive tokens. */
#ifndef HONE_LEARNER_RETURNS_H
#define HONE_LEARNER_RETURNS_H

#include <stdint.h>

/* G_t = r_t + gamma G_{t+1} (REINFORCE++, arXiv 2501.03262). returns may be rewards. */
void returns_discounted(int32_t count, const double *rewards, double gamma, double *returns);

/* Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438): delta_t = r_t + gamma
 * V_{t+1} - V_t, A_t = delta_t + gamma lambda A_{t+1}; after the last token V is 0. The return of a
 * token is A_t + V_t. advantages may be rewards. */
void returns_gae(int32_t count, const double *rewards, const double *values, double gamma,
                 double lambda, double *advantages);

#endif

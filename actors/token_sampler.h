/* Chooses a token from one row of logits.
 *
 *  S1  The choice depends on (logits, sampling, key, position) alone: ties are broken by id and the
 * draw walks ids in ascending order, so it is the same on every backend and thread. S2  A token
 * whose probability rounds to zero, or that was cut, is never drawn. */
#ifndef HONE_ACTORS_TOKEN_SAMPLER_H
#define HONE_ACTORS_TOKEN_SAMPLER_H

#include "infra/base/rng.h"
#include "infra/compute/ops.h"
#include "infra/data/trajectory.h"

/* scratch: fp32 [vocab] and int32 [vocab]. allowed_vocab: ids at or past it are never sampled
 * (padding rows). Sampling: probabilities of softmax(logits / temperature); top-k, then top-p, then
 * min-p restrict the support (ties by lower id); a uniform draw walks the cumulative sum in
 * ascending id. *log_mass: log of the kept mass (0 when nothing was cut). Greedy (temperature 0):
 * the largest logit, lowest id on ties; *log_mass is 0. top-p keeps the smallest set of most likely
 * tokens whose share of what top-k left reaches it; min-p keeps tokens at least min_p times as
 * likely as the most likely one. The most likely token is always kept. */
int32_t token_sample(const struct backend_ops *ops, int64_t vocab, int64_t allowed_vocab,
                     const float *logits, const struct sampling *sampling,
                     const struct rng_key *key, uint64_t position, float *probs_scratch,
                     int32_t *order_scratch, float *log_mass);

#endif

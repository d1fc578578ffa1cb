/* Chooses a token from one row of logits. */
#ifndef HONE_ACTORS_TOKEN_SAMPLER_H
#define HONE_ACTORS_TOKEN_SAMPLER_H

#include "infra/base/rng.h"
#include "infra/compute/ops.h"
#include "infra/data/trajectory.h"

/* scratch: fp32 [vocab] and int32 [vocab]. allowed_vocab: ids at or past it are never sampled (padding rows).
 * Sampling: probabilities of softmax(logits / temperature); top-k, then top-p, then min-p restrict the support
 * (ties by lower id); a uniform draw walks the cumulative sum in ascending id. *log_mass: log of the kept mass
 * (0 when nothing was cut). Greedy (temperature 0): the largest logit, lowest id on ties. */
int32_t token_sample(const struct backend_ops *ops, int64_t vocab, int64_t allowed_vocab,
                     const float *logits, const struct sampling *sampling,
                     const struct rng_key *key, uint64_t position, float *probs_scratch,
                     int32_t *order_scratch, float *log_mass);

#endif

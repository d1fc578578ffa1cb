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

/* What a thread samples with; the caller owns the arrays. */
struct token_sampler {
    const struct backend_ops *ops;
    int64_t vocab;
    int64_t allowed_vocab; /* ids at or past it are never sampled (padding rows) */
    float *probs;          /* [vocab] scratch */
    int32_t *ids;          /* [vocab] scratch */
};

struct token_choice {
    int32_t token;
    float logprob;  /* token_logprob's bits; at temperature 1 when greedy; with keep_support of
                       the distribution cut to its support, as after cut_logits */
    float log_mass; /* log of the kept mass, 0 when nothing was cut */
    int64_t kept;   /* the support: so many ids, in the sampler's ids; 0: nothing was cut */
};

/* Sampling: probabilities of softmax(logits / temperature); top-k, then top-p, then min-p restrict
 * the support (ties by lower id); a uniform draw walks the cumulative sum in ascending id. Greedy
 * (temperature 0): the largest logit, lowest id on ties; nothing is cut. top-p keeps the smallest
 * set of most likely tokens whose share of what top-k left reaches it; min-p keeps tokens at least
 * min_p times as likely as the most likely one. The most likely token is always kept.
 *
 * Logits that have no softmax (NaN, +inf, all -inf) give a logprob that is not a number.
 *
 * Cost: a few passes over the vocabulary; a cut adds a selection, nowhere a sort, among the tokens
 * near the most likely one. */
void token_sample(const struct token_sampler *sampler, const float *logits,
                  const struct sampling *sampling, const struct rng_key *key, uint64_t position,
                  struct token_choice *choice);

#endif

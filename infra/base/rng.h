/* Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011). A draw is a pure function
 * of its key, so a rollout's tokens do not depend on batch composition, thread timing or the actor.
 */
#ifndef HONE_BASE_RNG_H
#define HONE_BASE_RNG_H

#include <stdint.h>

enum rng_purpose {
    RNG_SAMPLE = 1, /* token sampling: (prompt, sample, position) */
    RNG_SHUFFLE,    /* dataset order: (epoch, 0, index) */
    RNG_INIT,       /* weight initialisation: (tensor, 0, element) */
    RNG_DATA,       /* procedural data */
    RNG_EVAL,       /* evaluation sampling */
    RNG_SIM,        /* simulator and fault injection */
    RNG_BACKOFF,    /* retry jitter */
    RNG_NOISE       /* of embeddings in SFT: (step and sequence, position, element) */
};

struct rng_key {
    uint64_t seed;
    uint32_t purpose; /* enum rng_purpose */
    uint64_t a;       /* e.g. prompt id */
    uint32_t b;       /* e.g. sample index */
};

/* One Philox4x32-10 block: ten rounds of the counter under the key. */
void rng_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t words[4]);
/* Four independent 32-bit words for (key, position). Key and position together exceed Philox's
 * 128-bit counter and 64-bit key, so it runs twice: the first pass turns (a, b, purpose) under the
 * seed into the second pass's key and upper counter. */
void rng_words(const struct rng_key *key, uint64_t position, uint32_t words[4]);
uint64_t rng_u64(const struct rng_key *key, uint64_t position);
/* Uniform in [0, 1) with 24 bits, exact in fp32. */
float rng_uniform(const struct rng_key *key, uint64_t position);
/* Standard normal: Box-Muller on two 53-bit uniforms, in double. Its log, sine and cosine are fixed
 * polynomials of IEEE +, -, *, / and sqrt, so every x86 machine and C library gives the same bits.
 * |result| < 8.6. */
float rng_normal(const struct rng_key *key, uint64_t position);
/* Uniform in [0, bound) without modulo bias beyond 2^-64. */
uint64_t rng_below(const struct rng_key *key, uint64_t position, uint64_t bound);
/* Fisher-Yates over 0..count-1. */
void rng_permutation(const struct rng_key *key, int64_t count, int64_t *order);

#endif

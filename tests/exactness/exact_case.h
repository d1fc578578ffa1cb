/* One random case of the exactness tests: a model, its weights, sequences and settings, all drawn
 * from (seed, index). Weights contain denormals, zeros of both signs and large values; some cases
 * have an embedding row with NaN, infinity or numbers near the largest one. */
#ifndef HONE_TESTS_EXACTNESS_EXACT_CASE_H
#define HONE_TESTS_EXACTNESS_EXACT_CASE_H

#include <stdbool.h>
#include <stdint.h>

#include "infra/base/rng.h"
#include "infra/data/trajectory.h"
#include "infra/model/model_config.h"

#define EXACT_SEQUENCES_MAX 4
#define EXACT_TOKENS_MAX    96
#define EXACT_GROUPS_MAX    2
#define EXACT_SAMPLES_MAX   3 /* of a group */

/* A stream of draws. */
struct draws {
    struct rng_key key;
    uint64_t position;
};

static inline int32_t draw_between(struct draws *draws, int32_t low, int32_t high)
{
    return low + (int32_t)rng_below(&draws->key, draws->position++, (uint64_t)(high - low + 1));
}

static inline float draw_unit(struct draws *draws)
{
    return rng_uniform(&draws->key, draws->position++);
}

struct exact_case {
    uint64_t seed, index;
    bool wide; /* enough work for the operations to be shared among threads */
    struct model_config config;
    enum dtype dtype;
    float *flat; /* [parameters]; owned */
    int64_t parameters;
    int32_t poison_id; /* token whose embedding is not all finite or is huge; -1: none */

    int32_t sequences;
    int32_t counts[EXACT_SEQUENCES_MAX];
    int32_t tokens[EXACT_SEQUENCES_MAX][EXACT_TOKENS_MAX];
    uint8_t mask[EXACT_SEQUENCES_MAX][EXACT_TOKENS_MAX]; /* trained tokens */
    float weight[EXACT_SEQUENCES_MAX][EXACT_TOKENS_MAX]; /* their share of the loss */
    int32_t shared; /* leading tokens that sequences 0 and 1 have in common */
    float temperature;
    bool entropy;
    int32_t micro_batch_tokens;

    int32_t groups, group_size; /* group g continues a prefix of sequence g */
    int32_t prompt_counts[EXACT_GROUPS_MAX];
    int32_t allowed_vocab;
    struct sampling sampling[EXACT_GROUPS_MAX];
};

void exact_case_init(struct exact_case *c, uint64_t seed, uint64_t index);
void exact_case_release(struct exact_case *c);

#endif

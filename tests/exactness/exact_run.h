/* Runs one case on one backend table in one arrangement, and leaves everything that the numerics
 * contract covers as 32-bit words in a fixed order. Two runs of a case must leave the same words,
 * whatever the table and the arrangement. */
#ifndef HONE_TESTS_EXACTNESS_EXACT_RUN_H
#define HONE_TESTS_EXACTNESS_EXACT_RUN_H

#include "infra/compute/ops.h"
#include "tests/exactness/exact_case.h"

/* How a case is run. The plain arrangement: one thread, each sequence in one pass of its own, each
 * sample in an engine that holds nothing else. */
struct exact_setup {
    const struct backend_ops *ops;
    struct parallel *pool;
    bool plain;
    uint64_t arrangement; /* otherwise: draws packing, chunks, padding rows, slots, order */
};

enum exact_part {
    EXACT_LOGITS,   /* of every row */
    EXACT_LOGPROBS, /* learner's logprobs and entropies of the given tokens */
    EXACT_SAMPLES,  /* generated tokens, logprobs, masses, how they ended */
    EXACT_LEARNER,  /* the trainer's logprobs of the generated tokens */
    EXACT_STEP,     /* loss, gradient norm, gradient, weights after AdamW */
    EXACT_PART_COUNT
};

struct exact_result {
    uint32_t *words;
    int64_t count, capacity;
    int64_t part_end[EXACT_PART_COUNT];
    int64_t sampled_tokens;
    int64_t unequal_logprobs; /* G6: sampled tokens whose learner logprob is not the actor's */
};

void exact_result_release(struct exact_result *result);
/* Overwrites *result. */
void exact_run(const struct exact_case *c, const struct exact_setup *setup,
               struct exact_result *result);
/* First differing word, -1 when none; two NaNs are equal. *part: where it lies. */
int64_t exact_difference(const struct exact_result *a, const struct exact_result *b,
                         enum exact_part *part);
bool exact_part_differs(const struct exact_result *a, const struct exact_result *b,
                        enum exact_part part);
const char *exact_part_name(enum exact_part part);

#endif

/* Preference pairs: a chosen and a rejected answer to one prompt, tokenised. What is not used is
 * counted by reason, never hidden. The owner releases. */
#ifndef HONE_DPO_PREFERENCE_PAIRS_H
#define HONE_DPO_PREFERENCE_PAIRS_H

#include "dpo/preference_loss.h"
#include "infra/train/example.h"

struct preference_pair {
    struct example chosen, rejected;
    struct preference_sequence chosen_data, rejected_data;
    /* The prompt with the next pair's chosen answer, after preference_pairs_mismatch. */
    struct example mismatch;
    struct preference_sequence mismatch_data;
};

enum pair_verdict {
    PAIR_KEPT,
    PAIR_TOO_LONG,     /* an answer with its prompt is longer than max_length */
    PAIR_EMPTY,        /* an answer without a trained token */
    PAIR_SAME,         /* both answers have the same tokens */
    PAIR_LENGTH_RATIO, /* one answer is much longer than the other */
    PAIR_SMALL_MARGIN, /* mined: best and worst reward are too close */
    PAIR_INCOMPLETE,   /* mined: fewer than two trajectories with a reward */
    PAIR_OVER_MAX,     /* pairs_max was reached */
    PAIR_VERDICT_COUNT
};

struct pair_limits {
    int32_t max_length;
    int64_t pairs_max;      /* 0: all */
    float max_length_ratio; /* 0: off */
};

struct preference_pairs {
    struct preference_pair *items;
    int64_t count, capacity;
    int64_t verdicts[PAIR_VERDICT_COUNT];
};

void preference_pairs_init(struct preference_pairs *pairs);
void preference_pairs_release(struct preference_pairs *pairs);
/* Takes over both examples, kept or not. */
enum pair_verdict preference_pairs_add(struct preference_pairs *pairs,
                                       const struct pair_limits *limits, struct example *chosen,
                                       struct example *rejected);
/* Counts a pair that never came to be. */
void preference_pairs_drop(struct preference_pairs *pairs, enum pair_verdict verdict);
int64_t preference_pairs_dropped(const struct preference_pairs *pairs);
/* Tokens of the largest pair, both answers. */
int64_t preference_pairs_longest(const struct preference_pairs *pairs);
/* Gives every pair an answer that is not to its prompt, cut at max_length: what the KL estimate of
 * KTO is taken from. The order of the pairs alone decides which. */
void preference_pairs_mismatch(struct preference_pairs *pairs, int32_t max_length);
const char *pair_verdict_name(enum pair_verdict verdict);

#endif

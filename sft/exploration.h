/* Light SFT leaves the policy something to explore: when its entropy on the rows it learns falls
 * below a share of what it was at first, the stage has done enough and ends.
 *
 * The entropy is that of the distribution over the next token, mean over a batch's trained tokens,
 * nats. A pure function of the batches' figures; what it remembers is in every checkpoint, so a
 * resumed stage ends at the same step. */
#ifndef HONE_SFT_EXPLORATION_H
#define HONE_SFT_EXPLORATION_H

#include <stdbool.h>

#include "infra/model/checkpoint.h"

#define EXPLORATION_STEPS 10 /* of a mean, at first and now */

struct exploration {
    double floor; /* share of the first entropy; 0: not watched */
    double first_sum;
    double recent[EXPLORATION_STEPS]; /* of step s at s % EXPLORATION_STEPS */
    int64_t steps;
};

/* After a step; true: enough. */
bool exploration_add(struct exploration *exploration, double entropy);
double exploration_first(const struct exploration *exploration); /* mean of the first steps */
double exploration_now(const struct exploration *exploration);   /* mean of the last ones */
bool exploration_is_lost(const struct exploration *exploration);

void exploration_store(const struct exploration *exploration, struct checkpoint_state *state);
/* floor stays. A state without figures is a start. */
void exploration_load(struct exploration *exploration, const struct checkpoint_state *state);

#endif

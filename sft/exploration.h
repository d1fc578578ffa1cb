/* Light SFT leaves the policy something to explore. The stage has done enough and ends when
 *  - its entropy on the rows it learns falls below a share of what it was at first: of the
 *    distribution over the next token, mean over a batch's trained tokens, nats;
 *  - or its pass@k on the prompts that it will explore, measured now and then from its start on,
 *    falls below the best so far by more than `drop` and by more than two standard errors of the
 *    difference. What was best is then the result.
 *
 * A pure function of these figures; what it remembers is in every checkpoint, so a resumed stage
 * ends at the same step. */
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

    double drop; /* of pass@k */
    double best, best_error;
    int64_t best_step, measured_step; /* -1: never measured */
    bool fell;
};

void exploration_init(struct exploration *exploration, double floor, double drop);

/* After a step; true: enough. */
bool exploration_add(struct exploration *exploration, double entropy);
double exploration_first(const struct exploration *exploration); /* mean of the first steps */
double exploration_now(const struct exploration *exploration);   /* mean of the last ones */
enum exploration_pass { PASS_BEST, PASS_HELD, PASS_FELL };
/* pass@k and its standard error after `step` steps, each step once and ascending. */
enum exploration_pass exploration_measured(struct exploration *exploration, int64_t step,
                                           double pass, double error);
/* By either: the stage ends. */
bool exploration_is_lost(const struct exploration *exploration);

void exploration_store(const struct exploration *exploration, struct checkpoint_state *state);
/* floor and drop stay. A state without figures is a start. */
void exploration_load(struct exploration *exploration, const struct checkpoint_state *state);

#endif

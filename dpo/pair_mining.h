/* Pairs mined from a run's log: in every group the answer with the best reward against the one with
 * the worst. The trajectories' own tokens are trained, never text that is tokenised again. The log
 * is opened read-only.
 *
 *  P1  Groups are visited by descending group id: the newest answers are nearest to the policy that
 *      is trained, and pairs_max keeps those. Ties between rewards go to the lower sample index:
 * the same log gives the same pairs in the same order. P2  Only rewards that are numbers count
 * (G8), and trajectories that were not given up; with a part, those for which it has a number.
 *
 * A slice is the corner to be rounded: pairs whose answers differ in what one verifier says (a
 * part), e.g. the format, or of chosen prompts, e.g. of one capability. */
#ifndef HONE_DPO_PAIR_MINING_H
#define HONE_DPO_PAIR_MINING_H

#include "dpo/preference_pairs.h"

struct pair_mining_options {
    float min_margin;   /* reward(best) - reward(worst) at least this, and more than 0 */
    const char *part;   /* compare this part's values instead of rewards; NULL: rewards */
    const bool *wanted; /* [prompt_count] by prompt id; NULL: all. Ids beyond are not wanted */
    int64_t prompt_count;
    float anchor_share; /* of the pairs, that are of other prompts: what holds the rest in place */
    struct pair_limits limits;
};

int pair_mining_read(struct preference_pairs *pairs, const char *log_directory,
                     const struct pair_mining_options *options);

#endif

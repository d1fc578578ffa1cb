/* How hard a prompt is for the policy, told from rewards, and the pool that this puts it in.
 *
 * A measurement is `judged` samples of one prompt that have a reward, `passed` of them at or above
 * the threshold. A reward that failed is in neither (G8).
 *
 *   pool      its newest measurement said
 *   unseen    nothing yet
 *   easy      passed / judged above the band
 *   band      low <= passed / judged <= high: what is trained
 *   hard      below the band, and not given up
 *   parked    no sample of the last `certificate` has passed: given up until it is measured again
 *
 *   D1  A prompt comes into the band by one measurement. It leaves it, or goes from easy to hard or
 *       back, by two in a row on the same side: one group of 8 at p = 0.5 is off by 0.18 (one
 *       standard deviation), and what was lucky once is seldom so twice.
 *   D2  A prompt is parked when `certificate` samples in a row have not passed, and by nothing
 * else; one that passes brings it back. D3  The first measurement of a prompt decides alone.
 *
 * Pure functions of their arguments. */
#ifndef HONE_CURRICULUM_POOLS_DIFFICULTY_H
#define HONE_CURRICULUM_POOLS_DIFFICULTY_H

#include <stdbool.h>
#include <stdint.h>

enum prompt_pool { POOL_UNSEEN, POOL_EASY, POOL_BAND, POOL_HARD, POOL_PARKED, POOL_COUNT };

struct difficulty_band {
    double low, high;    /* shares of passed samples, inclusive */
    int32_t certificate; /* samples */
};

struct measurement {
    int32_t judged, passed;
    int64_t version; /* oldest that sampled it */
};

struct difficulty {
    enum prompt_pool pool;
    enum prompt_pool leaning;  /* where the newest measurement pointed; the pool itself: nowhere */
    struct measurement newest; /* judged 0: none */
    int32_t tries;             /* judged since one passed */
};

const char *prompt_pool_name(enum prompt_pool pool);
int prompt_pool_find(const char *name); /* -1: none */

/* Mean of the Beta(passed + 1/2, judged - passed + 1/2) that Jeffreys' prior makes of a
 * measurement: in (0, 1) even when all or none passed. */
double difficulty_estimate(int64_t judged, int64_t passed);
/* The unbiased estimate of pass@k from c passes in n samples, 1 <= k <= n: 1 - C(n-c, k) / C(n, k)
 * (Chen et al., 2021, arXiv 2107.03374). */
double pass_at_k(int64_t n, int64_t c, int64_t k);
/* The pool that the counts alone stand for; judged >= 1. */
enum prompt_pool difficulty_side(const struct difficulty_band *band, int64_t judged, int64_t passed,
                                 int64_t tries);
/* D1-D3. judged >= 1. */
void difficulty_measure(struct difficulty *difficulty, const struct measurement *measurement,
                        const struct difficulty_band *band);
/* The band has changed: what was measured under the old one is judged by the new one at once. */
void difficulty_judge_again(struct difficulty *difficulty, const struct difficulty_band *band);

#endif

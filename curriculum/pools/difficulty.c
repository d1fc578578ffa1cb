#include "curriculum/pools/difficulty.h"

#include <string.h>

#include "infra/base/assert.h"

#define TOUCHES 1e-9 /* 0.125 is 1/8, whatever the recipe's decimals become */

static const char *const names[POOL_COUNT] = {"unseen", "easy", "band", "hard", "parked"};

const char *prompt_pool_name(enum prompt_pool pool)
{
    HONE_ASSERT((unsigned)pool < POOL_COUNT);
    return names[pool];
}

int prompt_pool_find(const char *name)
{
    for (int i = 0; i < POOL_COUNT; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return -1;
}

double difficulty_estimate(int64_t judged, int64_t passed)
{
    return ((double)passed + 0.5) / ((double)judged + 1.0);
}

double pass_at_k(int64_t n, int64_t c, int64_t k)
{
    double miss = 1.0;
    if (n - c < k)
        return 1.0;
    for (int64_t i = 0; i < k; ++i)
        miss *= (double)(n - c - i) / (double)(n - i);
    return 1.0 - miss;
}

enum prompt_pool difficulty_side(const struct difficulty_band *band, int64_t judged, int64_t passed,
                                 int64_t tries)
{
    double share = (double)passed / (double)judged;
    HONE_ASSERT(judged > 0);
    if (share > band->high + TOUCHES)
        return POOL_EASY;
    if (share >= band->low - TOUCHES)
        return POOL_BAND;
    return passed == 0 && tries >= band->certificate ? POOL_PARKED : POOL_HARD;
}

/* D1-D3: whether one measurement is enough. */
static bool moves_at_once(enum prompt_pool from, enum prompt_pool to)
{
    return to == POOL_BAND || from == POOL_UNSEEN || from == POOL_PARKED || to == POOL_PARKED;
}

void difficulty_measure(struct difficulty *difficulty, const struct measurement *measurement,
                        const struct difficulty_band *band)
{
    difficulty->newest = *measurement;
    difficulty->tries = measurement->passed > 0 ? 0 : difficulty->tries + measurement->judged;
    enum prompt_pool side =
        difficulty_side(band, measurement->judged, measurement->passed, difficulty->tries);
    if (moves_at_once(difficulty->pool, side) || difficulty->leaning == side)
        difficulty->pool = side;
    difficulty->leaning = side;
}

void difficulty_judge_again(struct difficulty *difficulty, const struct difficulty_band *band)
{
    const struct measurement *newest = &difficulty->newest;
    if (newest->judged == 0)
        return;
    enum prompt_pool side =
        difficulty_side(band, newest->judged, newest->passed, difficulty->tries);
    if (difficulty->leaning == difficulty->pool) /* else a second measurement is awaited (D1) */
        difficulty->pool = side;
    difficulty->leaning = side;
}

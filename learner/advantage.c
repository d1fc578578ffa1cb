#include "learner/advantage.h"

#include <math.h>

#define STD_EPSILON   1e-6
#define BATCH_EPSILON 1e-8

struct group_sums {
    int32_t count;
    double sum, mean;
    double squares; /* of differences from the mean */
};

bool advantage_is_of_group(enum advantage_baseline baseline)
{
    return baseline == BASELINE_GROUP_MEAN || baseline == BASELINE_LEAVE_ONE_OUT;
}

static struct group_sums group_sums(int32_t count, const float *rewards, const bool *included)
{
    struct group_sums sums = {0};

    for (int32_t i = 0; i < count; i++) {
        if (!included[i])
            continue;
        sums.count++;
        sums.sum += (double)rewards[i];
    }
    if (sums.count == 0)
        return sums;
    sums.mean = sums.sum / sums.count;
    for (int32_t i = 0; i < count; i++) {
        if (!included[i])
            continue;
        double difference = (double)rewards[i] - sums.mean;
        sums.squares += difference * difference;
    }
    return sums;
}

/* Unbiased deviation of the group without one of its rewards. */
static double std_of_others(const struct group_sums *sums, double reward)
{
    double others = sums->count - 1.0;
    double difference = reward - sums->mean;
    /* Taking one value out of n moves the sum of squares by d^2 n / (n - 1). */
    double squares = sums->squares - difference * difference * sums->count / others;
    return others < 2.0 || squares <= 0.0 ? 0.0 : sqrt(squares / (others - 1.0));
}

static double scaled(enum advantage_scale scale, const struct group_sums *sums, double reward,
                     double value)
{
    switch (scale) {
    case SCALE_GROUP_STD:
        return value / (sqrt(sums->squares / (sums->count - 1)) + STD_EPSILON);
    case SCALE_LEAVE_ONE_OUT_STD:
        return value / (std_of_others(sums, reward) + STD_EPSILON);
    case SCALE_GROUP_MEAN:
        return value / (sums->mean + STD_EPSILON);
    case SCALE_BATCH_STD:
    case SCALE_NONE:
        break;
    }
    return value;
}

int32_t advantage_group(enum advantage_baseline baseline, enum advantage_scale scale, int32_t count,
                        const float *rewards, const bool *included, float *advantage)
{
    struct group_sums sums = group_sums(count, rewards, included);
    bool of_group =
        advantage_is_of_group(baseline) || (scale != SCALE_BATCH_STD && scale != SCALE_NONE);

    for (int32_t i = 0; i < count; i++) {
        advantage[i] = 0.0f;
        if (!included[i] || (of_group && sums.count < 2))
            continue;
        double reward = (double)rewards[i], value = reward;
        if (baseline == BASELINE_GROUP_MEAN)
            value = reward - sums.mean;
        else if (baseline == BASELINE_LEAVE_ONE_OUT)
            value = reward - (sums.sum - reward) / (sums.count - 1);
        advantage[i] = (float)scaled(scale, &sums, reward, value);
    }
    return sums.count;
}

void advantage_moments_add(struct advantage_moments *moments, double value, int64_t tokens)
{
    moments->count += (double)tokens;
    moments->sum += value * (double)tokens;
    moments->squares += value * value * (double)tokens;
}

double advantage_mean(const struct advantage_moments *moments)
{
    return moments->count > 0.0 ? moments->sum / moments->count : 0.0;
}

double advantage_std(const struct advantage_moments *moments)
{
    if (moments->count < 2.0)
        return 0.0;
    double variance =
        (moments->squares - moments->sum * moments->sum / moments->count) / (moments->count - 1.0);
    return variance > 0.0 ? sqrt(variance) : 0.0;
}

struct advantage_map advantage_batch(enum advantage_baseline baseline, enum advantage_scale scale,
                                     const struct advantage_moments *moments)
{
    struct advantage_map map = {.shift = 0.0, .divisor = 1.0};
    if (baseline == BASELINE_BATCH_MEAN || scale == SCALE_BATCH_STD)
        map.shift = advantage_mean(moments);
    if (scale == SCALE_BATCH_STD)
        map.divisor = advantage_std(moments) + BATCH_EPSILON;
    return map;
}

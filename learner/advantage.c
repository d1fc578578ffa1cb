#include "learner/advantage.h"

#include <math.h>

#define STD_EPSILON 1e-6

struct group_sums {
    int32_t count;
    double sum, mean;
    double std; /* unbiased */
};

static struct group_sums group_sums(int32_t count, const float *rewards, const bool *included)
{
    struct group_sums sums = {0};
    double squares = 0.0;

    for (int32_t i = 0; i < count; i++) {
        if (!included[i])
            continue;
        sums.count++;
        sums.sum += (double)rewards[i];
    }
    if (sums.count < 2)
        return sums;
    sums.mean = sums.sum / sums.count;
    for (int32_t i = 0; i < count; i++) {
        if (!included[i])
            continue;
        double difference = (double)rewards[i] - sums.mean;
        squares += difference * difference;
    }
    sums.std = sqrt(squares / (sums.count - 1));
    return sums;
}

int32_t advantage_group(enum advantage_baseline baseline, enum advantage_scale scale, int32_t count,
                        const float *rewards, const bool *included, float *advantage)
{
    struct group_sums sums = group_sums(count, rewards, included);

    for (int32_t i = 0; i < count; i++) {
        advantage[i] = 0.0f;
        if (!included[i] || sums.count < 2)
            continue;
        double reward = (double)rewards[i], value = reward;
        if (baseline == BASELINE_GROUP_MEAN)
            value = reward - sums.mean;
        else if (baseline == BASELINE_LEAVE_ONE_OUT)
            value = reward - (sums.sum - reward) / (sums.count - 1);
        if (scale == SCALE_GROUP_STD)
            value /= sums.std + STD_EPSILON;
        advantage[i] = (float)value;
    }
    return sums.count;
}

#include "learner/importance.h"

#include <math.h>

#include "infra/train/exponential.h"

#define EXPONENT_MAX 20.0

bool importance_saturated(double difference)
{
    return difference > EXPONENT_MAX || difference < -EXPONENT_MAX;
}

double importance_ratio(double difference)
{
    if (importance_saturated(difference))
        difference = difference > 0.0 ? EXPONENT_MAX : -EXPONENT_MAX;
    return exponential(difference);
}

static double truncated(const struct importance_options *options, double difference)
{
    double weight = importance_ratio(difference);
    return fmin(fmax(weight, (double)options->weight_min), (double)options->weight_max);
}

double importance_weight(const struct importance_options *options,
                         const struct importance_sums *sums, double difference)
{
    double ratio;

    switch (options->off_policy) {
    case OFF_POLICY_DECOUPLED:
        return truncated(options, difference);
    case OFF_POLICY_TRUNCATED_SEQUENCE:
        return truncated(options, sums->difference);
    case OFF_POLICY_ICEPOP:
        ratio = importance_ratio(difference);
        return ratio < (double)options->weight_min || ratio > (double)options->weight_max ? 0.0
                                                                                          : ratio;
    case OFF_POLICY_SEQUENCE_REJECTION:
        ratio = importance_ratio(sums->difference / (sums->tokens > 0 ? sums->tokens : 1));
        if (ratio < (double)options->rejection_low || ratio > (double)options->rejection_high)
            return 0.0;
        return truncated(options, difference);
    case OFF_POLICY_BEHAVIOR_RATIO:
    case OFF_POLICY_NONE:
        break;
    }
    return 1.0;
}

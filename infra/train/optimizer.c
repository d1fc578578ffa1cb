#include "infra/train/optimizer.h"

#include <math.h>

#include "infra/base/assert.h"

double optimizer_learning_rate(const struct optimizer_options *options, int64_t step)
{
    const double pi = 3.14159265358979323846;

    HONE_ASSERT(step >= 1);
    if (step <= options->warmup_steps)
        return options->learning_rate * (double)step / (double)options->warmup_steps;
    int64_t span = options->total_steps - options->warmup_steps;
    if (options->schedule == SCHEDULE_CONSTANT || options->total_steps <= 0)
        return options->learning_rate;
    /* The first step after warm-up has progress 0, the step after the last one would have 1. */
    double progress = span > 0 ? (double)(step - 1 - options->warmup_steps) / (double)span : 1.0;
    progress = fmin(progress, 1.0);
    double share = 1.0 - progress;
    if (options->schedule == SCHEDULE_COSINE)
        share = 0.5 * (1.0 + cos(pi * progress));
    return options->learning_rate * (options->min_lr_ratio + (1.0 - options->min_lr_ratio) * share);
}

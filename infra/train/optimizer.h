/* Optimiser settings and the learning-rate schedule. AdamW (Loshchilov & Hutter 2019) itself is a
 * backend operation (infra/compute/ops.h). Weight decay applies to matrices, not to norms. */
#ifndef HONE_TRAIN_OPTIMIZER_H
#define HONE_TRAIN_OPTIMIZER_H

#include <stdint.h>

#include "infra/compute/dtype.h"

/* bf16 moments need a second moment that moves by more than a bf16 rounds away in a step. */
#define OPTIMIZER_BF16_BETA2_MAX 0.99

enum schedule { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE };

struct optimizer_options {
    double learning_rate;
    enum schedule schedule;
    int64_t warmup_steps; /* linear from 0 */
    int64_t total_steps;  /* where linear and cosine end; 0 with constant */
    double min_lr_ratio;  /* floor as a share of learning_rate */
    double beta1, beta2, epsilon, weight_decay;
    double max_gradient_norm; /* 0 = no clipping */
    enum dtype moments_dtype; /* fp32, or bf16: half the memory, beta2 <= 0.99 */
};

/* Learning rate of step 1, 2, ... */
double optimizer_learning_rate(const struct optimizer_options *options, int64_t step);

#endif

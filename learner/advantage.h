/* Advantages of a group's trajectories from their rewards, and of a batch's tokens together.
 *
 * Only trajectories that are included take part (G8: their reward is a number); the others get 0.
 *   baseline     group_mean r - mean(r)          GRPO (arXiv 2402.03300), Dr. GRPO (2503.20783)
 *                leave_one_out r - mean of the others' r                   RLOO (arXiv 2402.14740)
 *                batch_mean, none r; of batch_mean the batch's mean is taken off afterwards
 *                critic the value head's, token by token (returns.h)       PPO (arXiv 1707.06347)
 *   scale        group_std / (std + 1e-6), std unbiased (n - 1)            GRPO
 *                leave_one_out_std / (std of the others' r + 1e-6), unbiased
 *                group_mean / (mean(r) + 1e-6)                            MaxRL, of rewards >= 0
 *                batch_std whitened with the batch afterwards             REINFORCE++ (2501.03262)
 *                none */
#ifndef HONE_LEARNER_ADVANTAGE_H
#define HONE_LEARNER_ADVANTAGE_H

#include <stdbool.h>
#include <stdint.h>

enum advantage_baseline {
    BASELINE_GROUP_MEAN,
    BASELINE_LEAVE_ONE_OUT,
    BASELINE_BATCH_MEAN,
    BASELINE_CRITIC,
    BASELINE_NONE
};
enum advantage_scale {
    SCALE_GROUP_STD,
    SCALE_LEAVE_ONE_OUT_STD,
    SCALE_GROUP_MEAN,
    SCALE_BATCH_STD,
    SCALE_NONE
};

/* Whether a trajectory's advantage is told from its group: equal rewards then teach nothing. */
bool advantage_is_of_group(enum advantage_baseline baseline);

/* rewards[count], included[count] in; advantage[count] out. Returns how many were included. With a
 * group's baseline or scale, a group with fewer than two included trajectories has all 0. */
int32_t advantage_group(enum advantage_baseline baseline, enum advantage_scale scale, int32_t count,
                        const float *rewards, const bool *included, float *advantage);

/* Moments of a batch's trained tokens. */
struct advantage_moments {
    double count, sum, squares;
};
/* `tokens` tokens of that value. */
void advantage_moments_add(struct advantage_moments *moments, double value, int64_t tokens);
double advantage_mean(const struct advantage_moments *moments); /* 0 of nothing */
double advantage_std(const struct advantage_moments *moments);  /* 0 of fewer than two tokens */

/* What of a batch's moments is applied to every token: (value - shift) / divisor. */
struct advantage_map {
    double shift, divisor;
};
/* batch_mean shifts, batch_std shifts and divides by std + 1e-8, everything else does nothing. */
struct advantage_map advantage_batch(enum advantage_baseline baseline, enum advantage_scale scale,
                                     const struct advantage_moments *moments);

#endif

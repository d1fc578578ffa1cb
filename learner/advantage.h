/* Advantages of a group's trajectories from their rewards. Only trajectories whose reward status is
 * OK take part (G8); others get advantage 0 and included = false. group_mean / std: GRPO, A_i =
 * (r_i - mean(r)) / (std(r) + 1e-6), std unbiased (n - 1) (Shao et al. 2024, arXiv 2402.03300).
 *  group_mean / none: Dr. GRPO (arXiv 2503.20783). leave_one_out / none: RLOO (arXiv 2402.14740).
 *  none / none: REINFORCE, A_i = r_i.
 */
#ifndef HONE_LEARNER_ADVANTAGE_H
#define HONE_LEARNER_ADVANTAGE_H

#include <stdbool.h>
#include <stdint.h>

enum advantage_baseline { BASELINE_GROUP_MEAN, BASELINE_LEAVE_ONE_OUT, BASELINE_NONE };
enum advantage_scale { SCALE_GROUP_STD, SCALE_NONE };

/* rewards[count], included[count] in; advantage[count] out. Returns how many were included. A group
 * with fewer than two included trajectories has no baseline: all advantages 0. */
int32_t advantage_group(enum advantage_baseline baseline, enum advantage_scale scale, int32_t count,
                        const float *rewards, const bool *included, float *advantage);

#endif

/* Weights and moments of a trainer's value head, fp32, in one block. A zeroed one is none. Owned by
 * its trainer, which also keeps the gradient. */
#ifndef HONE_TRAIN_VALUE_HEAD_H
#define HONE_TRAIN_VALUE_HEAD_H

#include <stdint.h>

#include "infra/compute/ops.h"

struct value_head {
    int64_t count;   /* hidden + 1, the bias last; 0: there is none */
    float *weights;  /* [count], and after them the moments: what a checkpoint stores */
    float *m, *v;    /* [count] */
    float *gradient; /* [count], behind that of the model's parameters */
};

void value_head_init(struct value_head *head, int32_t hidden);
void value_head_release(struct value_head *head);
/* Values that a checkpoint stores from `weights` on; 0 when there is no head. */
int64_t value_head_stored(const struct value_head *head);
/* Everything 0. */
void value_head_reset(struct value_head *head);
double value_head_sum_squares(const struct value_head *head);
void value_head_step(struct value_head *head, const struct backend_ops *ops,
                     const struct adamw_options *options);

#endif

#include "infra/train/value_head.h"

#include <string.h>

#include "infra/base/memory.h"

void value_head_init(struct value_head *head, int32_t hidden)
{
    head->count = (int64_t)hidden + 1;
    head->weights = MEMORY_ARRAY(float, 3 * head->count);
    head->m = head->weights + head->count;
    head->v = head->m + head->count;
    value_head_reset(head);
}

void value_head_release(struct value_head *head)
{
    memory_free(head->weights);
    memset(head, 0, sizeof *head);
}

int64_t value_head_stored(const struct value_head *head)
{
    return 3 * head->count;
}

void value_head_reset(struct value_head *head)
{
    if (head->count > 0)
        memset(head->weights, 0, (size_t)value_head_stored(head) * sizeof(float));
}

double value_head_sum_squares(const struct value_head *head)
{
    double sum = 0.0;
    for (int64_t i = 0; i < head->count; i++)
        sum += (double)head->gradient[i] * (double)head->gradient[i];
    return sum;
}

void value_head_step(struct value_head *head, const struct backend_ops *ops,
                     const struct adamw_options *options)
{
    struct adamw_vectors vectors = {.parameters = head->weights,
                                    .m = head->m,
                                    .v = head->v,
                                    .moments_dtype = DTYPE_F32,
                                    .gradient = head->gradient};
    ops->adamw(NULL, head->count, options, &vectors);
}

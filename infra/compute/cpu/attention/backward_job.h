/* What both modes of the attention backward pass are given, and D. Threads own KV heads. */
#ifndef HONE_COMPUTE_CPU_ATTENTION_BACKWARD_JOB_H
#define HONE_COMPUTE_CPU_ATTENTION_BACKWARD_JOB_H

#include "infra/compute/cpu/attention/query_tile.h"

#define HEAD_DIM_BACKWARD_MAX 256 /* a span of keys lives on the stack */

struct attention_backward_job;

typedef void (*backward_head_function)(const struct attention_backward_job *job, int32_t kv_head);

struct attention_backward_job {
    backward_head_function run;
    const struct attention_kv *kv;
    int64_t rows;
    int32_t heads;
    const float *q;
    int64_t ldq;
    const struct attention_row *table;
    const void *out;
    const float *lse, *d_out;
    float *dq;
    int64_t lddq;
    float *dk, *dv;
    int64_t lddk;
};

/* D = sum of d_out * out over the head, 16 lanes; d_out rounded to act. */
static inline float head_dot(enum dtype dtype, const float *d_out, const void *out, int64_t at,
                             int64_t head_dim)
{
    struct vec dot = vec_zero();
    for (int64_t d = 0; d < head_dim; d += VEC_LANES) {
        int64_t left = head_dim - d;
        struct vec slope = act_round(dtype, vec_load_up_to(d_out + d, left));
        dot = vec_fma(slope, act_load(dtype, out, at + d, left), dot);
    }
    return vec_sum(dot);
}

static inline void backward_heads(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct attention_backward_job *job = context;
    for (int64_t kv_head = begin; kv_head < end; kv_head++)
        job->run(job, (int32_t)kv_head);
}

static inline void attention_backward_run(struct parallel *pool, struct attention_backward_job *job)
{
    const struct attention_kv *kv = job->kv;
    HONE_ASSERT(kv->head_dim <= HEAD_DIM_BACKWARD_MAX && job->heads % kv->kv_heads == 0);
    HONE_ASSERT(job->heads / kv->kv_heads <= TILE_QUERIES);
    if (job->rows > 0)
        parallel_for(pool, kv->kv_heads, 1, backward_heads, job);
}

#endif

/* Operations on rows of activations: embedding, RMSNorm, RoPE, SwiGLU and their gradients. */
#ifndef HONE_COMPUTE_CPU_ROWS_H
#define HONE_COMPUTE_CPU_ROWS_H

#include <math.h>

#include "infra/base/assert.h"
#include "infra/compute/vec/vec.h"
#include "infra/compute/vec/vec_math.h"
#include "infra/compute/ops.h"

#define ROW_GRAIN_VALUES 8192

static inline int64_t row_grain(int64_t values_per_row)
{
    int64_t grain = ROW_GRAIN_VALUES / (values_per_row > 0 ? values_per_row : 1);
    return grain > 1 ? grain : 1;
}

struct embed_job {
    enum dtype dtype;
    int64_t rows, dim;
    const void *table;
    const int32_t *ids;
    float *out;
    const float *dy;
};

static inline void embed_rows(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct embed_job *job = context;
    for (int64_t row = begin; row < end; row++) {
        int64_t from = job->ids[row] * job->dim;
        float *out = job->out + row * job->dim;
        for (int64_t d = 0; d < job->dim; d += VEC_LANES) {
            int64_t left = job->dim - d;
            vec_store_up_to(out + d, act_load(job->dtype, job->table, from + d, left), left);
        }
    }
}

static inline void embed(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t dim,
                         const void *table, const int32_t *ids, float *out)
{
    struct embed_job job = {dtype, rows, dim, table, ids, out, NULL};
    parallel_for(pool, rows, row_grain(dim), embed_rows, &job);
}

/* Items are blocks of 16 columns: every thread walks the rows in order for its own columns. */
static inline void embed_backward_columns(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct embed_job *job = context;
    int64_t last = end * VEC_LANES < job->dim ? end * VEC_LANES : job->dim;
    for (int64_t row = 0; row < job->rows; row++) {
        float *out = job->out + job->ids[row] * job->dim;
        const float *dy = job->dy + row * job->dim;
        for (int64_t d = begin * VEC_LANES; d < last; d += VEC_LANES) {
            struct vec sum =
                vec_add(vec_load_up_to(out + d, last - d), vec_load_up_to(dy + d, last - d));
            vec_store_up_to(out + d, sum, last - d);
        }
    }
}

static inline void embed_backward(struct parallel *pool, int64_t rows, int64_t dim,
                                  const int32_t *ids, const float *dy, float *gradient)
{
    struct embed_job job = {DTYPE_F32, rows, dim, NULL, ids, gradient, dy};
    parallel_for(pool, (dim + VEC_LANES - 1) / VEC_LANES, row_grain(rows * VEC_LANES),
                 embed_backward_columns, &job);
}

struct norm_job {
    enum dtype dtype;
    int64_t rows, dim;
    float eps;
    const float *x;
    const void *weight;
    void *y;
    float *inverse_rms;     /* written forward, may be NULL */
    const float *saved_rms; /* read backward */
    const float *dy;
    float *dx, *dweight;
};

static inline void rmsnorm_rows(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct norm_job *job = context;
    for (int64_t row = begin; row < end; row++) {
        const float *x = job->x + row * job->dim;
        struct vec squares = vec_zero();
        for (int64_t d = 0; d < job->dim; d += VEC_LANES) {
            struct vec value = vec_load_up_to(x + d, job->dim - d);
            squares = vec_fma(value, value, squares);
        }
        float inverse = 1.0f / sqrtf(vec_sum(squares) / (float)job->dim + job->eps);
        struct vec factor = vec_set1(inverse);
        for (int64_t d = 0; d < job->dim; d += VEC_LANES) {
            int64_t left = job->dim - d;
            struct vec normal = vec_mul(vec_load_up_to(x + d, left), factor);
            struct vec weight = act_load(job->dtype, job->weight, d, left);
            act_store(job->dtype, job->y, row * job->dim + d,
                      vec_mul(act_round(job->dtype, normal), weight), left);
        }
        if (job->inverse_rms != NULL)
            job->inverse_rms[row] = inverse;
    }
}

static inline void rmsnorm(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t dim,
                           float eps, const float *x, const void *weight, void *y,
                           float *inverse_rms)
{
    struct norm_job job = {.dtype = dtype, .rows = rows, .dim = dim, .eps = eps, .x = x};
    job.weight = weight;
    job.y = y;
    job.inverse_rms = inverse_rms;
    parallel_for(pool, rows, row_grain(dim), rmsnorm_rows, &job);
}

/* With n = x * inverse_rms and g = dy * weight: dx += inverse_rms * (g - n * mean(g * n)). */
static inline void rmsnorm_backward_rows(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct norm_job *job = context;
    for (int64_t row = begin; row < end; row++) {
        int64_t at = row * job->dim;
        struct vec inverse = vec_set1(job->saved_rms[row]), dots = vec_zero();
        for (int64_t d = 0; d < job->dim; d += VEC_LANES) {
            int64_t left = job->dim - d;
            struct vec normal = vec_mul(vec_load_up_to(job->x + at + d, left), inverse);
            struct vec g = vec_mul(vec_load_up_to(job->dy + at + d, left),
                                   act_load(job->dtype, job->weight, d, left));
            dots = vec_fma(g, normal, dots);
        }
        struct vec mean = vec_set1(vec_sum(dots) / (float)job->dim);
        for (int64_t d = 0; d < job->dim; d += VEC_LANES) {
            int64_t left = job->dim - d;
            struct vec normal = vec_mul(vec_load_up_to(job->x + at + d, left), inverse);
            struct vec g = vec_mul(vec_load_up_to(job->dy + at + d, left),
                                   act_load(job->dtype, job->weight, d, left));
            struct vec dx = vec_load_up_to(job->dx + at + d, left);
            dx = vec_fma(inverse, vec_fnma(normal, mean, g), dx);
            vec_store_up_to(job->dx + at + d, dx, left);
        }
    }
}

/* Items are blocks of 16 columns; rows ascending for each. The forward pass multiplied the weight
 * by the normalised value rounded to act, so the gradient does too. */
static inline void rmsnorm_backward_columns(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct norm_job *job = context;
    for (int64_t d = begin * VEC_LANES; d < end * VEC_LANES && d < job->dim; d += VEC_LANES) {
        int64_t left = job->dim - d;
        struct vec sum = vec_load_up_to(job->dweight + d, left);
        for (int64_t row = 0; row < job->rows; row++) {
            struct vec inverse = vec_set1(job->saved_rms[row]);
            struct vec normal = vec_mul(vec_load_up_to(job->x + row * job->dim + d, left), inverse);
            struct vec dy = vec_load_up_to(job->dy + row * job->dim + d, left);
            sum = vec_fma(dy, act_round(job->dtype, normal), sum);
        }
        vec_store_up_to(job->dweight + d, sum, left);
    }
}

static inline void rmsnorm_backward(struct parallel *pool, enum dtype dtype, int64_t rows,
                                    int64_t dim, const float *x, const void *weight,
                                    const float *inverse_rms, const float *dy, float *dx,
                                    float *dweight)
{
    struct norm_job job = {.dtype = dtype, .rows = rows, .dim = dim, .x = x, .weight = weight};
    job.saved_rms = inverse_rms;
    job.dy = dy;
    job.dx = dx;
    job.dweight = dweight;
    parallel_for(pool, rows, row_grain(dim), rmsnorm_backward_rows, &job);
    parallel_for(pool, (dim + VEC_LANES - 1) / VEC_LANES, row_grain(rows * VEC_LANES),
                 rmsnorm_backward_columns, &job);
}

struct rope_job {
    int32_t heads, head_dim;
    const int32_t *positions;
    const float *cos_sin;
    float *x;
    int64_t ldx;
    bool backward;
};

static inline void rope_head(float *x, const float *cos_sin, int64_t half, bool backward)
{
    for (int64_t d = 0; d < half; d += VEC_LANES) {
        int64_t left = half - d;
        struct vec cosine = vec_load_up_to(cos_sin + d, left);
        struct vec sine = vec_load_up_to(cos_sin + half + d, left);
        struct vec first = vec_load_up_to(x + d, left);
        struct vec second = vec_load_up_to(x + half + d, left);
        if (backward)
            sine = vec_negate(sine);
        vec_store_up_to(x + d, vec_fnma(second, sine, vec_mul(first, cosine)), left);
        vec_store_up_to(x + half + d, vec_fma(first, sine, vec_mul(second, cosine)), left);
    }
}

static inline void rope_rows(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct rope_job *job = context;
    for (int64_t row = begin; row < end; row++) {
        const float *cos_sin = job->cos_sin + (int64_t)job->positions[row] * job->head_dim;
        for (int32_t head = 0; head < job->heads; head++)
            rope_head(job->x + row * job->ldx + (int64_t)head * job->head_dim, cos_sin,
                      job->head_dim / 2, job->backward);
    }
}

static inline void rope(struct parallel *pool, int64_t rows, int32_t heads, int32_t head_dim,
                        const int32_t *positions, const float *cos_sin, float *x, int64_t ldx,
                        bool backward)
{
    HONE_ASSERT(head_dim % 2 == 0);
    struct rope_job job = {heads, head_dim, positions, cos_sin, x, ldx, backward};
    parallel_for(pool, rows, row_grain((int64_t)heads * head_dim), rope_rows, &job);
}

struct swiglu_job {
    enum dtype dtype;
    int64_t dim;
    const float *gate_up;
    void *out;
    const float *d_out;
    float *d_gate_up;
};

static inline void swiglu_rows(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct swiglu_job *job = context;
    for (int64_t row = begin; row < end; row++) {
        const float *gates = job->gate_up + row * 2 * job->dim;
        const float *ups = gates + job->dim;
        for (int64_t d = 0; d < job->dim; d += VEC_LANES) {
            int64_t left = job->dim - d;
            struct vec gate = vec_load_up_to(gates + d, left);
            struct vec silu = vec_mul(gate, vec_sigmoid(gate));
            struct vec value = vec_mul(silu, vec_load_up_to(ups + d, left));
            act_store(job->dtype, job->out, row * job->dim + d, value, left);
        }
    }
}

static inline void swiglu(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t dim,
                          const float *gate_up, void *out)
{
    struct swiglu_job job = {.dtype = dtype, .dim = dim, .gate_up = gate_up, .out = out};
    parallel_for(pool, rows, row_grain(dim * 4), swiglu_rows, &job);
}

/* With s = sigmoid(gate): silu' = s * (1 + gate * (1 - s)). */
static inline void swiglu_backward_rows(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct swiglu_job *job = context;
    struct vec one = vec_set1(1.0f);
    for (int64_t row = begin; row < end; row++) {
        int64_t at = row * 2 * job->dim;
        for (int64_t d = 0; d < job->dim; d += VEC_LANES) {
            int64_t left = job->dim - d;
            struct vec gate = vec_load_up_to(job->gate_up + at + d, left);
            struct vec up = vec_load_up_to(job->gate_up + at + job->dim + d, left);
            struct vec d_out = vec_load_up_to(job->d_out + row * job->dim + d, left);
            struct vec s = vec_sigmoid(gate);
            struct vec slope = vec_mul(s, vec_fma(gate, vec_sub(one, s), one));
            vec_store_up_to(job->d_gate_up + at + d, vec_mul(vec_mul(d_out, up), slope), left);
            vec_store_up_to(job->d_gate_up + at + job->dim + d, vec_mul(d_out, vec_mul(gate, s)),
                            left);
        }
    }
}

static inline void swiglu_backward(struct parallel *pool, int64_t rows, int64_t dim,
                                   const float *gate_up, const float *d_out, float *d_gate_up)
{
    struct swiglu_job job = {
        .dim = dim, .gate_up = gate_up, .d_out = d_out, .d_gate_up = d_gate_up};
    parallel_for(pool, rows, row_grain(dim * 4), swiglu_backward_rows, &job);
}

#endif

/* cast, add, scale, AdamW and the sum of squares. */
#ifndef HONE_COMPUTE_CPU_ELEMENTWISE_H
#define HONE_COMPUTE_CPU_ELEMENTWISE_H

#include "infra/base/assert.h"
#include "infra/compute/vec/vec.h"
#include "infra/compute/ops.h"

#define ELEMENT_GRAIN        16384 /* a multiple of 16: vectors never straddle two threads' parts */
#define SUM_CHUNK_VALUES     4096
#define SUM_CHUNKS_PER_ROUND 1024

/* Blocks of 16 elements are the items, so the split never moves an element to another lane. */
static inline int64_t vec_blocks(int64_t count)
{
    return (count + VEC_LANES - 1) / VEC_LANES;
}

struct cast_job {
    int64_t count;
    enum dtype from, to;
    const void *in;
    void *out;
};

/* IEEE binary16, including its denormals, which are normal in fp32. */
static inline float f16_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = (half >> 10) & 31u, mantissa = half & 0x3ffu;
    float value;
    uint32_t bits = sign | ((exponent + 112u) << 23) | (mantissa << 13);
    if (exponent == 0) {
        value = (float)mantissa * 0x1p-24f;
        return sign != 0 ? -value : value;
    }
    if (exponent == 31)
        bits = sign | 0x7f800000u | (mantissa << 13);
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline void cast_part(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct cast_job *job = context;
    int64_t last = end * VEC_LANES < job->count ? end * VEC_LANES : job->count;
    if (job->from == DTYPE_F16) {
        for (int64_t i = begin * VEC_LANES; i < last; i++)
            ((float *)job->out)[i] = f16_to_f32(((const uint16_t *)job->in)[i]);
        return;
    }
    for (int64_t i = begin * VEC_LANES; i < last; i += VEC_LANES)
        act_store(job->to, job->out, i, act_load(job->from, job->in, i, last - i), last - i);
}

static inline void cast(struct parallel *pool, int64_t count, enum dtype from, const void *in,
                        enum dtype to, void *out)
{
    bool known = (from == DTYPE_F32 || from == DTYPE_BF16) && (to == DTYPE_F32 || to == DTYPE_BF16);
    HONE_ASSERT(known || (from == DTYPE_F16 && to == DTYPE_F32));
    struct cast_job job = {count, from, to, in, out};
    parallel_for(pool, vec_blocks(count), ELEMENT_GRAIN / VEC_LANES, cast_part, &job);
}

struct add_job {
    int64_t count;
    float *y;
    const float *x;
    float factor;
};

static inline void add_part(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct add_job *job = context;
    int64_t last = end * VEC_LANES < job->count ? end * VEC_LANES : job->count;
    for (int64_t i = begin * VEC_LANES; i < last; i += VEC_LANES) {
        struct vec y = vec_load_up_to(job->y + i, last - i);
        struct vec x = vec_load_up_to(job->x + i, last - i);
        vec_store_up_to(job->y + i, vec_add(y, x), last - i);
    }
}

static inline void add(struct parallel *pool, int64_t count, float *y, const float *x)
{
    struct add_job job = {count, y, x, 0.0f};
    parallel_for(pool, vec_blocks(count), ELEMENT_GRAIN / VEC_LANES, add_part, &job);
}

static inline void scale_part(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct add_job *job = context;
    int64_t last = end * VEC_LANES < job->count ? end * VEC_LANES : job->count;
    struct vec factor = vec_set1(job->factor);
    for (int64_t i = begin * VEC_LANES; i < last; i += VEC_LANES) {
        struct vec y = vec_load_up_to(job->y + i, last - i);
        vec_store_up_to(job->y + i, vec_mul(y, factor), last - i);
    }
}

static inline void scale(struct parallel *pool, int64_t count, float *y, float factor)
{
    struct add_job job = {count, y, NULL, factor};
    parallel_for(pool, vec_blocks(count), ELEMENT_GRAIN / VEC_LANES, scale_part, &job);
}

struct adamw_job {
    int64_t count;
    const struct adamw_options *options;
    const struct adamw_vectors *vectors;
};

static inline __attribute__((always_inline)) void
adamw_range(const struct adamw_job *job, enum dtype moments, int64_t begin, int64_t end)
{
    const struct adamw_options *o = job->options;
    const struct adamw_vectors *at = job->vectors;
    struct vec beta1 = vec_set1(o->beta1), rest1 = vec_set1(1.0f - o->beta1);
    struct vec beta2 = vec_set1(o->beta2), rest2 = vec_set1(1.0f - o->beta2);
    struct vec correction1 = vec_set1(o->bias_correction1);
    struct vec correction2 = vec_set1(o->bias_correction2);
    struct vec epsilon = vec_set1(o->epsilon), decay = vec_set1(o->weight_decay);
    struct vec rate = vec_set1(o->learning_rate), factor = vec_set1(o->gradient_scale);
    for (int64_t i = begin; i < end; i += VEC_LANES) {
        int64_t left = end - i;
        struct vec g = vec_mul(vec_load_up_to(at->gradient + i, left), factor);
        struct vec m = act_load(moments, at->m, i, left);
        struct vec v = act_load(moments, at->v, i, left);
        struct vec p = vec_load_up_to(at->parameters + i, left);
        m = vec_fma(beta1, m, vec_mul(rest1, g));
        v = vec_fma(beta2, v, vec_mul(rest2, vec_mul(g, g)));
        struct vec denominator = vec_add(vec_sqrt(vec_div(v, correction2)), epsilon);
        struct vec step = vec_div(vec_div(m, correction1), denominator);
        p = vec_fnma(rate, vec_fma(decay, p, step), p);
        act_store(moments, at->m, i, m, left);
        act_store(moments, at->v, i, v, left);
        vec_store_up_to(at->parameters + i, p, left);
        if (at->values != NULL)
            act_store(at->values_dtype, at->values, i, p, left);
    }
}

static inline void adamw_part(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct adamw_job *job = context;
    int64_t last = end * VEC_LANES < job->count ? end * VEC_LANES : job->count;
    if (job->vectors->moments_dtype == DTYPE_F32)
        adamw_range(job, DTYPE_F32, begin * VEC_LANES, last);
    else
        adamw_range(job, DTYPE_BF16, begin * VEC_LANES, last);
}

static inline void adamw(struct parallel *pool, int64_t count, const struct adamw_options *options,
                         const struct adamw_vectors *vectors)
{
    struct adamw_job job = {count, options, vectors};
    HONE_ASSERT(vectors->moments_dtype == DTYPE_F32 || vectors->moments_dtype == DTYPE_BF16);
    parallel_for(pool, vec_blocks(count), ELEMENT_GRAIN / VEC_LANES / 4, adamw_part, &job);
}

struct sum_job {
    int64_t count;
    const float *x;
    double *chunk_sums; /* [SUM_CHUNKS_PER_ROUND] */
};

/* The product of two floats is exact in double, so no fused operation is involved. */
static inline double sum_squares_chunk(const float *x, int64_t count)
{
    double lanes[VEC_LANES] = {0};
    int64_t whole = count / VEC_LANES * VEC_LANES;
    for (int64_t i = 0; i < whole; i += VEC_LANES)
        for (int lane = 0; lane < VEC_LANES; lane++)
            lanes[lane] += (double)x[i + lane] * (double)x[i + lane];
    for (int64_t i = whole; i < count; i++)
        lanes[i % VEC_LANES] += (double)x[i] * (double)x[i];
    for (int width = VEC_LANES / 2; width >= 1; width /= 2)
        for (int lane = 0; lane < width; lane++)
            lanes[lane] += lanes[lane + width];
    return lanes[0];
}

static inline void sum_squares_part(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct sum_job *job = context;
    for (int64_t chunk = begin; chunk < end; chunk++) {
        int64_t from = chunk * SUM_CHUNK_VALUES, left = job->count - from;
        job->chunk_sums[chunk] =
            sum_squares_chunk(job->x + from, left < SUM_CHUNK_VALUES ? left : SUM_CHUNK_VALUES);
    }
}

static inline double sum_squares(struct parallel *pool, int64_t count, const float *x)
{
    double chunk_sums[SUM_CHUNKS_PER_ROUND], total = 0.0;
    const int64_t round_values = (int64_t)SUM_CHUNKS_PER_ROUND * SUM_CHUNK_VALUES;
    for (int64_t from = 0; from < count; from += round_values) {
        int64_t values = count - from < round_values ? count - from : round_values;
        int64_t chunks = (values + SUM_CHUNK_VALUES - 1) / SUM_CHUNK_VALUES;
        struct sum_job job = {values, x + from, chunk_sums};
        parallel_for(pool, chunks, ELEMENT_GRAIN / SUM_CHUNK_VALUES, sum_squares_part, &job);
        for (int64_t chunk = 0; chunk < chunks; chunk++)
            total += chunk_sums[chunk];
    }
    return total;
}

#endif

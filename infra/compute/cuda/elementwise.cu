/* One value a thread; the arithmetic is that of the CPU tables to the bit (C3), but for sigmoid. */
#include "infra/compute/cuda/gpu.h"
#include "infra/compute/cuda/memory.h"
#include "infra/compute/cuda/table.h"

#define THREADS    256
#define SUM_VALUES 4096 /* a block's, of sum_squares */
#define SUM_BLOCKS 1024 /* at once */

/* The value of this thread, if there is one. */
GPU_DEVICE int64_t own_index(void)
{
    return GPU_BLOCK * GPU_THREADS + GPU_THREAD;
}

struct cast_args {
    int64_t count;
    enum dtype from, to;
    const void *in;
    void *out;
};

GPU_DEVICE float half_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = (half >> 10) & 31u;
    uint32_t fraction = half & 0x3ffu;
    if (exponent == 31)
        return gpu_bits_to_float(sign | 0x7f800000u | fraction << 13);
    if (exponent > 0)
        return gpu_bits_to_float(sign | (exponent + 112) << 23 | fraction << 13);
    float value = (float)fraction * 0x1p-24f; /* exact */
    return sign ? -value : value;
}

GPU_KERNEL(cast_kernel, struct cast_args)
{
    int64_t i = own_index();
    if (i >= a->count)
        return;
    if (a->from == a->to && a->to == DTYPE_BF16)
        ((bf16 *)a->out)[i] = ((const bf16 *)a->in)[i];
    else if (a->from == DTYPE_F16)
        ((float *)a->out)[i] = half_to_float(((const uint16_t *)a->in)[i]);
    else
        gpu_store(a->to, a->out, i, gpu_load(a->from, a->in, i));
}

void cuda_cast(struct parallel *pool, int64_t count, enum dtype from, const void *in, enum dtype to,
               void *out)
{
    struct cast_args args = {count, from, to, in, out};
    (void)pool;
    GPU_LAUNCH(cast_kernel, gpu_blocks(count, THREADS), 1, THREADS, args);
}

struct add_args {
    int64_t count;
    float *y;
    const float *x; /* NULL: y is scaled */
    float factor;
};

GPU_KERNEL(add_kernel, struct add_args)
{
    int64_t i = own_index();
    if (i < a->count)
        a->y[i] = a->x ? a->y[i] + a->x[i] : a->y[i] * a->factor;
}

void cuda_add(struct parallel *pool, int64_t count, float *y, const float *x)
{
    struct add_args args = {count, y, x, 0.0f};
    (void)pool;
    GPU_LAUNCH(add_kernel, gpu_blocks(count, THREADS), 1, THREADS, args);
}

void cuda_scale(struct parallel *pool, int64_t count, float *y, float factor)
{
    struct add_args args = {count, y, NULL, factor};
    (void)pool;
    GPU_LAUNCH(add_kernel, gpu_blocks(count, THREADS), 1, THREADS, args);
}

struct swiglu_args {
    enum dtype dtype;
    int64_t rows, dim;
    const float *gate_up;
    void *out;
    const float *d_out;
    float *d_gate_up;
};

GPU_KERNEL(swiglu_kernel, struct swiglu_args)
{
    int64_t i = own_index();
    if (i >= a->rows * a->dim)
        return;
    int64_t at = i / a->dim * 2 * a->dim + i % a->dim;
    float gate = a->gate_up[at], up = a->gate_up[at + a->dim];
    gpu_store(a->dtype, a->out, i, gate * gpu_sigmoid(gate) * up);
}

void cuda_swiglu(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t dim,
                 const float *gate_up, void *out)
{
    struct swiglu_args args = {dtype, rows, dim, gate_up, out, NULL, NULL};
    (void)pool;
    GPU_LAUNCH(swiglu_kernel, gpu_blocks(rows * dim, THREADS), 1, THREADS, args);
}

GPU_KERNEL(swiglu_backward_kernel, struct swiglu_args)
{
    int64_t i = own_index();
    if (i >= a->rows * a->dim)
        return;
    int64_t at = i / a->dim * 2 * a->dim + i % a->dim;
    float gate = a->gate_up[at], up = a->gate_up[at + a->dim], d_out = a->d_out[i];
    float s = gpu_sigmoid(gate);
    float slope = s * fmaf(gate, 1.0f - s, 1.0f);
    a->d_gate_up[at] = d_out * up * slope;
    a->d_gate_up[at + a->dim] = d_out * (gate * s);
}

void cuda_swiglu_backward(struct parallel *pool, int64_t rows, int64_t dim, const float *gate_up,
                          const float *d_out, float *d_gate_up)
{
    struct swiglu_args args = {DTYPE_F32, rows, dim, gate_up, NULL, d_out, d_gate_up};
    (void)pool;
    GPU_LAUNCH(swiglu_backward_kernel, gpu_blocks(rows * dim, THREADS), 1, THREADS, args);
}

struct adamw_args {
    int64_t count;
    struct adamw_options options;
    struct adamw_vectors vectors;
};

GPU_KERNEL(adamw_kernel, struct adamw_args)
{
    int64_t i = own_index();
    const struct adamw_options *o = &a->options;
    const struct adamw_vectors *v = &a->vectors;
    if (i >= a->count)
        return;
    float g = v->gradient[i] * o->gradient_scale, p = v->parameters[i];
    float first = fmaf(o->beta1, gpu_load(v->moments_dtype, v->m, i), (1.0f - o->beta1) * g);
    float second = fmaf(o->beta2, gpu_load(v->moments_dtype, v->v, i), (1.0f - o->beta2) * (g * g));
    float step = first / o->bias_correction1 / (sqrtf(second / o->bias_correction2) + o->epsilon);
    p = fmaf(-o->learning_rate, fmaf(o->weight_decay, p, step), p);
    gpu_store(v->moments_dtype, v->m, i, first);
    gpu_store(v->moments_dtype, v->v, i, second);
    v->parameters[i] = p;
    if (v->values)
        gpu_store(v->values_dtype, v->values, i, p);
}

void cuda_adamw(struct parallel *pool, int64_t count, const struct adamw_options *options,
                const struct adamw_vectors *vectors)
{
    struct adamw_args args = {count, *options, *vectors};
    (void)pool;
    GPU_LAUNCH(adamw_kernel, gpu_blocks(count, THREADS), 1, THREADS, args);
}

/* ---- sum of squares ---- */

struct squares_args {
    int64_t count;
    const float *x;
    double *sums; /* [blocks] */
};

/* Thread t takes every 256th value from t on; then a tree. */
GPU_KERNEL(squares_kernel, struct squares_args)
{
    GPU_SHARED double sums[THREADS];
    int64_t begin = GPU_BLOCK * SUM_VALUES, end = begin + SUM_VALUES;
    double sum = 0.0;
    if (end > a->count)
        end = a->count;
    for (int64_t i = begin + GPU_THREAD; i < end; i += THREADS)
        sum += (double)a->x[i] * (double)a->x[i];
    sums[GPU_THREAD] = sum;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        gpu_sync();
        if (GPU_THREAD < half)
            sums[GPU_THREAD] += sums[GPU_THREAD + half];
    }
    if (GPU_THREAD == 0)
        a->sums[GPU_BLOCK] = sums[0];
}

/* Blocks of 4,096 values, added up ascending. */
double cuda_sum_squares(struct parallel *pool, int64_t count, const float *x)
{
    static double *device; /* [SUM_BLOCKS] */
    double sums[SUM_BLOCKS], total = 0.0;
    void *memory = NULL;
    (void)pool;
    if (!device && gpu_allocate(sizeof sums, &memory) < 0)
        return (double)NAN;
    if (!device)
        device = (double *)memory;
    for (int64_t from = 0; from < count; from += (int64_t)SUM_BLOCKS * SUM_VALUES) {
        struct squares_args args = {count - from, x + from, device};
        int64_t blocks = gpu_blocks(count - from, SUM_VALUES);
        if (blocks > SUM_BLOCKS)
            blocks = SUM_BLOCKS;
        GPU_LAUNCH(squares_kernel, blocks, 1, THREADS, args);
        gpu_to_host(sums, device, (size_t)blocks * sizeof *sums);
        for (int64_t i = 0; i < blocks; i++)
            total += sums[i];
    }
    return total;
}

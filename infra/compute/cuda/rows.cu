/* Operations on rows of hidden states: a block of threads a row, or a row a thread's turn. */
#include "infra/compute/cuda/gpu.h"
#include "infra/compute/cuda/table.h"

#define THREADS   256
#define COLUMNS   32 /* of a block that adds up rows */
#define ROW_LANES 32 /* and how many of its threads share a column */

struct embed_args {
    enum dtype dtype;
    int64_t rows, dim;
    const void *table;
    const int32_t *ids;
    float *out;
    const float *dy;
};

GPU_KERNEL(embed_kernel, struct embed_args)
{
    int64_t row = GPU_BLOCK, id = a->ids[row];
    for (int64_t d = GPU_THREAD; d < a->dim; d += GPU_THREADS)
        a->out[row * a->dim + d] = gpu_load(a->dtype, a->table, id * a->dim + d);
}

void cuda_embed(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t dim,
                const void *table, const int32_t *ids, float *out)
{
    struct embed_args args = {dtype, rows, dim, table, ids, out, NULL};
    (void)pool;
    GPU_LAUNCH(embed_kernel, rows, 1, THREADS, args);
}

/* The block of an id's first row adds up all its rows, ascending; the others have nothing to do. */
GPU_KERNEL(embed_backward_kernel, struct embed_args)
{
    GPU_SHARED unsigned char same[THREADS];
    int64_t row = GPU_BLOCK;
    int32_t id = a->ids[row];
    float earlier = 0.0f;
    for (int64_t r = GPU_THREAD; r < row; r += GPU_THREADS)
        earlier = a->ids[r] == id ? 1.0f : earlier;
    if (gpu_reduce(GPU_MAX, earlier) > 0.0f)
        return;
    for (int64_t first = row; first < a->rows; first += GPU_THREADS) {
        int64_t mine = first + GPU_THREAD;
        gpu_sync();
        same[GPU_THREAD] = mine < a->rows && a->ids[mine] == id;
        gpu_sync();
        for (int64_t d = GPU_THREAD; d < a->dim; d += GPU_THREADS) {
            float *to = &a->out[(int64_t)id * a->dim + d], sum = *to;
            for (int r = 0; r < GPU_THREADS; r++)
                if (same[r])
                    sum += a->dy[(first + r) * a->dim + d];
            *to = sum;
        }
    }
}

void cuda_embed_backward(struct parallel *pool, int64_t rows, int64_t dim, const int32_t *ids,
                         const float *dy, float *gradient)
{
    struct embed_args args = {DTYPE_F32, rows, dim, NULL, ids, gradient, dy};
    (void)pool;
    GPU_LAUNCH(embed_backward_kernel, rows, 1, THREADS, args);
}

/* ---- RMSNorm ---- */

struct norm_args {
    enum dtype dtype;
    int64_t rows, dim;
    float eps;
    const float *x;
    const void *weight;
    void *y;
    float *inverse_rms; /* written forward, may be NULL */
    const float *saved_rms, *dy;
    float *dx, *dweight;
};

GPU_KERNEL(norm_kernel, struct norm_args)
{
    int64_t row = GPU_BLOCK, at = row * a->dim;
    float squares = 0.0f;
    for (int64_t d = GPU_THREAD; d < a->dim; d += GPU_THREADS)
        squares = fmaf(a->x[at + d], a->x[at + d], squares);
    float inverse = 1.0f / sqrtf(gpu_reduce(GPU_SUM, squares) / (float)a->dim + a->eps);
    for (int64_t d = GPU_THREAD; d < a->dim; d += GPU_THREADS)
        gpu_store(a->dtype, a->y, at + d,
                  gpu_round_to(a->dtype, a->x[at + d] * inverse) *
                      gpu_load(a->dtype, a->weight, d));
    if (GPU_THREAD == 0 && a->inverse_rms)
        a->inverse_rms[row] = inverse;
}

void cuda_rmsnorm(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t dim, float eps,
                  const float *x, const void *weight, void *y, float *inverse_rms)
{
    struct norm_args args = {.dtype = dtype,
                             .rows = rows,
                             .dim = dim,
                             .eps = eps,
                             .x = x,
                             .weight = weight,
                             .y = y,
                             .inverse_rms = inverse_rms};
    (void)pool;
    GPU_LAUNCH(norm_kernel, rows, 1, THREADS, args);
}

GPU_KERNEL(norm_backward_kernel, struct norm_args)
{
    int64_t row = GPU_BLOCK, at = row * a->dim;
    float inverse = a->saved_rms[row], dots = 0.0f;
    for (int64_t d = GPU_THREAD; d < a->dim; d += GPU_THREADS)
        dots = fmaf(a->dy[at + d] * gpu_load(a->dtype, a->weight, d), a->x[at + d] * inverse, dots);
    float mean = gpu_reduce(GPU_SUM, dots) / (float)a->dim;
    for (int64_t d = GPU_THREAD; d < a->dim; d += GPU_THREADS) {
        float g = a->dy[at + d] * gpu_load(a->dtype, a->weight, d);
        float normal = a->x[at + d] * inverse;
        a->dx[at + d] = fmaf(inverse, fmaf(-normal, mean, g), a->dx[at + d]);
    }
}

/* Of a column, thread lane l adds up rows l, l + 32, ...; the lanes add up in a tree. */
GPU_KERNEL(norm_weight_kernel, struct norm_args)
{
    GPU_SHARED float sums[ROW_LANES][COLUMNS];
    int column = GPU_THREAD % COLUMNS, lane = GPU_THREAD / COLUMNS;
    int64_t d = GPU_BLOCK * COLUMNS + column;
    float sum = 0.0f;
    for (int64_t row = lane; d < a->dim && row < a->rows; row += ROW_LANES)
        sum = fmaf(a->dy[row * a->dim + d],
                   gpu_round_to(a->dtype, a->x[row * a->dim + d] * a->saved_rms[row]), sum);
    sums[lane][column] = sum;
    for (int half = ROW_LANES / 2; half > 0; half /= 2) {
        gpu_sync();
        if (lane < half)
            sums[lane][column] += sums[lane + half][column];
    }
    if (lane == 0 && d < a->dim)
        a->dweight[d] += sums[0][column];
}

void cuda_rmsnorm_backward(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t dim,
                           const float *x, const void *weight, const float *inverse_rms,
                           const float *dy, float *dx, float *dweight)
{
    struct norm_args args = {.dtype = dtype,
                             .rows = rows,
                             .dim = dim,
                             .x = x,
                             .weight = weight,
                             .saved_rms = inverse_rms,
                             .dy = dy,
                             .dx = dx,
                             .dweight = dweight};
    (void)pool;
    GPU_LAUNCH(norm_backward_kernel, rows, 1, THREADS, args);
    GPU_LAUNCH(norm_weight_kernel, gpu_blocks(dim, COLUMNS), 1, COLUMNS * ROW_LANES, args);
}

/* ---- RoPE ---- */

struct rope_args {
    int64_t rows;
    int32_t heads, head_dim;
    const int32_t *positions;
    const float *cos_sin;
    float *x;
    int64_t ldx;
    bool backward;
};

GPU_KERNEL(rope_kernel, struct rope_args)
{
    int64_t row = GPU_BLOCK, half = a->head_dim / 2;
    const float *angles = a->cos_sin + (int64_t)a->positions[row] * a->head_dim;
    for (int64_t i = GPU_THREAD; i < a->heads * half; i += GPU_THREADS) {
        float *x = a->x + row * a->ldx + i / half * a->head_dim + i % half;
        float cosine = angles[i % half], sine = angles[half + i % half];
        float first = x[0], second = x[half];
        sine = a->backward ? -sine : sine;
        x[0] = fmaf(-second, sine, first * cosine);
        x[half] = fmaf(first, sine, second * cosine);
    }
}

void cuda_rope(struct parallel *pool, int64_t rows, int32_t heads, int32_t head_dim,
               const int32_t *positions, const float *cos_sin, float *x, int64_t ldx, bool backward)
{
    struct rope_args args = {rows, heads, head_dim, positions, cos_sin, x, ldx, backward};
    (void)pool;
    GPU_LAUNCH(rope_kernel, rows, 1, THREADS, args);
}

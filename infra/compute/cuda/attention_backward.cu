/* Gradients of attention for the rows of one sequence. Scores are computed again; with
 * D = sum_d dO O of a row and head, P = e^(score - lse) and dP = dO V^T:
 *   dS = P (dP - D) scale     dQ = dS K      dK = dS^T Q      dV = P^T dO
 * bf16: tensor core products, P and dS rounded to bf16. One kernel gives dQ, a warp 16 rows of a
 * head, keys ascending; another adds into dK and dV, a warp 16 keys of a kv head, over its query
 * heads and for each over rows ascending. Nothing is added by two warps (C2). */
#include "infra/compute/cuda/attention_tile.h"
#include "infra/compute/cuda/memory.h"
#include "infra/compute/cuda/table.h"

struct backward_args {
    struct attention_kv kv;
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
    float scale;
};

/* 16 rows of one head in shared memory. */
struct row_tile {
    bf16 *q, *d_out;
    float *dots, *lse; /* [16] */
    int32_t *key_count;
};

GPU_DEVICE void load_row_tile(const struct backward_args *a, struct row_tile *tile, int64_t first,
                              int32_t head)
{
    const float *q[TILE_ROWS], *d_out[TILE_ROWS];
    int32_t dim = a->kv.head_dim;
    for (int i = 0; i < TILE_ROWS; i++) {
        int64_t row = first + i;
        bool there = row < a->rows;
        q[i] = there ? a->q + row * a->ldq + (int64_t)head * dim : NULL;
        d_out[i] = there ? a->d_out + (row * a->heads + head) * dim : NULL;
    }
    gpu_sync(); /* nobody reads the last one */
    tile_load_rows(tile->q, q, dim);
    tile_load_rows(tile->d_out, d_out, dim);
    int row = GPU_THREAD / 2, half = GPU_THREAD % 2; /* two lanes a row */
    float dot = 0.0f;
    int64_t at = (first + row) * a->heads + head;
    for (int64_t d = half; d_out[row] && d < dim; d += 2)
        dot = fmaf(d_out[row][d], gpu_load(a->kv.dtype, a->out, at * dim + d), dot);
    dot = dot + gpu_shuffle_xor(dot, 1);
    if (half == 0) {
        tile->dots[row] = dot;
        tile->lse[row] = d_out[row] ? a->lse[at] : 0.0f;
        tile->key_count[row] = d_out[row] ? a->table[first + row].key_count : 0;
    }
    gpu_sync();
}

/* c[2][4]... of n tiles of 8: rows of `shared` times columns that are strided in memory:
 * b(k, n) = from[k * k_step + n * n_step], k < dim. */
GPU_DEVICE void multiply_strided(float c[4][4], const bf16 *shared, const bf16 *from,
                                 int64_t k_step, int64_t n_step, int32_t dim)
{
    int g = GPU_THREAD % GPU_WARP / 4, t = GPU_THREAD % 4;
    for (int j = 0; j < 4; j++)
        for (int e = 0; e < 4; e++)
            c[j][e] = 0.0f;
    for (int k = 0; k < dim; k += 16) {
        uint32_t left[4];
        int d = k + 2 * t;
        tile_rows_fragment(left, shared, k);
        for (int j = 0; j < 4; j++) {
            const bf16 *at = from + d * k_step + (8 * j + g) * n_step;
            uint32_t right[2] = {tile_pair(at, k_step, d < dim, d + 1 < dim),
                                 tile_pair(at + 8 * k_step, k_step, d + 8 < dim, d + 9 < dim)};
            gpu_mma(c[j], left, right);
        }
    }
}

/* ---- dQ ---- */

GPU_DEVICE void query_gradient(const struct backward_args *a, struct row_tile *tile,
                               const int tiles)
{
    int g = GPU_THREAD % GPU_WARP / 4, t = GPU_THREAD % 4;
    int32_t head = (int32_t)GPU_BLOCK_Y, dim = a->kv.head_dim;
    int64_t first = GPU_BLOCK * TILE_ROWS;
    float dq[HEAD_DIM_MAX / 8][4], p[4][4], dp[4][4];
    struct tile_kv kv = {(const bf16 *)a->kv.keys,
                         (const bf16 *)a->kv.values,
                         a->table[0].blocks,
                         a->kv.kv_heads,
                         dim,
                         head / (a->heads / a->kv.kv_heads)};
    load_row_tile(a, tile, first, head);
    for (int n = 0; n < tiles; n++)
        for (int e = 0; e < 4; e++)
            dq[n][e] = 0.0f;
    int64_t last = first + TILE_ROWS < a->rows ? first + TILE_ROWS - 1 : a->rows - 1;
    for (int64_t block = 0; block * KEYS < a->table[last].key_count; block++) {
        const bf16 *keys = tile_keys(&kv, block);
        int64_t left = a->table[last].key_count - block * KEYS;
        tile_scores(p, tile->q, keys, dim);
        multiply_strided(dp, tile->d_out, tile_values(&kv, block), KEYS, 1, dim);
        for (int j = 0; j < 4; j++)
            for (int e = 0; e < 4; e++) {
                int row = g + 8 * (e / 2);
                int64_t key = block * KEYS + 8 * j + 2 * t + e % 2;
                bool seen = key < tile->key_count[row];
                float weight = seen ? expf(p[j][e] * a->scale - tile->lse[row]) : 0.0f;
                p[j][e] = seen ? weight * (dp[j][e] - tile->dots[row]) * a->scale : 0.0f;
            }
        for (int half = 0; half < 2; half++) {
            uint32_t ds[4];
            int key = 16 * half + 2 * t;
            tile_product_fragment(ds, p[2 * half], p[2 * half + 1]);
            for (int n = 0; n < tiles; n++) {
                int d = 8 * n + g;
                const bf16 *at = keys + (int64_t)key * dim + d;
                bool inside = d < dim;
                uint32_t b[2] = {tile_pair(at, dim, inside && key < left, inside && key + 1 < left),
                                 tile_pair(at + 8 * dim, dim, inside && key + 8 < left,
                                           inside && key + 9 < left)};
                if (8 * n < dim)
                    gpu_mma(dq[n], ds, b);
            }
        }
    }
    for (int n = 0; n < tiles; n++)
        for (int e = 0; e < 4; e++) {
            int64_t row = first + g + 8 * (e / 2), d = 8 * n + 2 * t + e % 2;
            if (row < a->rows && d < dim)
                a->dq[row * a->lddq + (int64_t)head * dim + d] = dq[n][e];
        }
}

/* ---- dK and dV ---- */

/* 16 keys' rows of K or V as a fragment: rows are keys, k is head_dim. */
GPU_DEVICE void key_fragment(uint32_t f[4], const bf16 *from, int64_t key_step, int64_t d_step,
                             int k, int32_t dim, int64_t left)
{
    int g = GPU_THREAD % GPU_WARP / 4, t = GPU_THREAD % 4, d = k + 2 * t;
    const bf16 *at = from + g * key_step + d * d_step;
    for (int part = 0; part < 4; part++) {
        int row = g + 8 * (part % 2), column = d + 8 * (part / 2);
        const bf16 *here = at + 8 * (part % 2) * key_step + 8 * (part / 2) * d_step;
        f[part] =
            tile_pair(here, d_step, row < left && column < dim, row < left && column + 1 < dim);
    }
}

/* c[2][4]: 16 keys x the tile's 16 rows. */
GPU_DEVICE void multiply_keys(float c[2][4], const bf16 *from, int64_t key_step, int64_t d_step,
                              const bf16 *shared, int32_t dim, int64_t left)
{
    int g = GPU_THREAD % GPU_WARP / 4, t = GPU_THREAD % 4;
    for (int j = 0; j < 2; j++)
        for (int e = 0; e < 4; e++)
            c[j][e] = 0.0f;
    for (int k = 0; k < dim; k += 16) {
        uint32_t f[4];
        key_fragment(f, from, key_step, d_step, k, dim, left);
        for (int j = 0; j < 2; j++) {
            const bf16 *at = shared + (8 * j + g) * TILE_STRIDE + k + 2 * t;
            uint32_t b[2] = {tile_pair(at, 1, true, true), tile_pair(at + 8, 1, true, true)};
            gpu_mma(c[j], f, b);
        }
    }
}

/* sum[tiles of 8 of head_dim] += weights (16 keys x 16 rows) x rows in shared memory. */
GPU_DEVICE void add_rows(float sum[][4], float c[2][4], const bf16 *shared, int32_t dim,
                         const int tiles)
{
    int g = GPU_THREAD % GPU_WARP / 4, t = GPU_THREAD % 4;
    uint32_t f[4];
    tile_product_fragment(f, c[0], c[1]);
    for (int n = 0; n < tiles; n++) {
        int d = 8 * n + g;
        const bf16 *at = shared + 2 * t * TILE_STRIDE + d;
        uint32_t b[2] = {tile_pair(at, TILE_STRIDE, d < dim, d < dim),
                         tile_pair(at + 8 * TILE_STRIDE, TILE_STRIDE, d < dim, d < dim)};
        if (8 * n < dim)
            gpu_mma(sum[n], f, b);
    }
}

GPU_DEVICE void key_gradient(const struct backward_args *a, struct row_tile *tile, const int tiles)
{
    int g = GPU_THREAD % GPU_WARP / 4, t = GPU_THREAD % 4;
    int32_t dim = a->kv.head_dim, kv_head = (int32_t)GPU_BLOCK_Y;
    int32_t group = a->heads / a->kv.kv_heads;
    int64_t first_key = GPU_BLOCK * TILE_ROWS, offset = first_key % KEYS;
    int64_t total = a->table[a->rows - 1].key_count, left = total - first_key;
    float dk[HEAD_DIM_MAX / 8][4], dv[HEAD_DIM_MAX / 8][4], p[2][4], ds[2][4];
    struct tile_kv kv = {(const bf16 *)a->kv.keys,
                         (const bf16 *)a->kv.values,
                         a->table[0].blocks,
                         a->kv.kv_heads,
                         dim,
                         kv_head};
    const bf16 *keys = tile_keys(&kv, first_key / KEYS) + offset * dim;
    const bf16 *values = tile_values(&kv, first_key / KEYS) + offset;
    for (int n = 0; n < tiles; n++)
        for (int e = 0; e < 4; e++)
            dk[n][e] = dv[n][e] = 0.0f;
    for (int32_t head = kv_head * group; head < (kv_head + 1) * group; head++)
        for (int64_t first = 0; first < a->rows; first += TILE_ROWS) {
            int64_t last = first + TILE_ROWS < a->rows ? first + TILE_ROWS - 1 : a->rows - 1;
            if (a->table[last].key_count <= first_key)
                continue; /* none of these rows sees the keys */
            load_row_tile(a, tile, first, head);
            multiply_keys(p, keys, dim, 1, tile->q, dim, left);
            multiply_keys(ds, values, 1, KEYS, tile->d_out, dim, left);
            for (int j = 0; j < 2; j++)
                for (int e = 0; e < 4; e++) {
                    int row = 8 * j + 2 * t + e % 2;
                    bool seen = first_key + g + 8 * (e / 2) < tile->key_count[row];
                    float weight = seen ? expf(p[j][e] * a->scale - tile->lse[row]) : 0.0f;
                    p[j][e] = weight;
                    ds[j][e] = seen ? weight * (ds[j][e] - tile->dots[row]) * a->scale : 0.0f;
                }
            add_rows(dv, p, tile->d_out, dim, tiles);
            add_rows(dk, ds, tile->q, dim, tiles);
        }
    for (int n = 0; n < tiles; n++)
        for (int e = 0; e < 4; e++) {
            int64_t key = first_key + g + 8 * (e / 2), d = 8 * n + 2 * t + e % 2;
            int64_t at = key * a->lddk + (int64_t)kv_head * dim + d;
            if (key < total && d < dim) {
                a->dk[at] += dk[n][e];
                a->dv[at] += dv[n][e];
            }
        }
}

#define TILE_MEMORY                                                                                \
    GPU_SHARED bf16 q[TILE_ROWS * TILE_STRIDE], d_out[TILE_ROWS * TILE_STRIDE];                    \
    GPU_SHARED float dots[TILE_ROWS], lse[TILE_ROWS];                                              \
    GPU_SHARED int32_t key_count[TILE_ROWS];                                                       \
    struct row_tile tile = {q, d_out, dots, lse, key_count}

#define BACKWARD_KERNELS(name, tiles)                                                              \
    GPU_KERNEL(query_gradient_##name, struct backward_args)                                        \
    {                                                                                              \
        TILE_MEMORY;                                                                               \
        query_gradient(a, &tile, tiles);                                                           \
    }                                                                                              \
    GPU_KERNEL(key_gradient_##name, struct backward_args)                                          \
    {                                                                                              \
        TILE_MEMORY;                                                                               \
        key_gradient(a, &tile, tiles);                                                             \
    }

BACKWARD_KERNELS(64, 8)
BACKWARD_KERNELS(128, 16)
BACKWARD_KERNELS(256, 32)

/* ---- fp32: a warp a row and head, or a key and kv head ---- */

/* A lane's part of sum_d x[d] y[d * step], all lanes' in a tree. */
GPU_DEVICE float warp_dot(const float *x, const float *y, int64_t step, int64_t dim)
{
    float sum = 0.0f;
    for (int64_t d = GPU_THREAD; d < dim; d += GPU_WARP)
        sum = fmaf(x[d], y[d * step], sum);
    for (int mask = 16; mask > 0; mask /= 2)
        sum = sum + gpu_shuffle_xor(sum, mask);
    return sum;
}

struct pair_gradient {
    float weight, score; /* P and dS of a row and a key */
};

/* The base of key `key` of the sequence: K at [d], V at [d * 32]. */
GPU_DEVICE int64_t key_base(const struct backward_args *a, int64_t key, int64_t kv_head)
{
    int64_t block = a->table[0].blocks[key / KEYS];
    return (block * a->kv.kv_heads + kv_head) * KEYS * a->kv.head_dim;
}

GPU_DEVICE struct pair_gradient pair_gradient(const struct backward_args *a, int64_t row,
                                              int64_t head, int64_t key, float dots)
{
    int64_t dim = a->kv.head_dim, base = key_base(a, key, head / (a->heads / a->kv.kv_heads));
    int64_t at = row * a->heads + head;
    const float *k = (const float *)a->kv.keys + base + key % KEYS * dim;
    const float *v = (const float *)a->kv.values + base + key % KEYS;
    float score = warp_dot(a->q + row * a->ldq + head * dim, k, 1, dim);
    float d_weight = warp_dot(a->d_out + at * dim, v, KEYS, dim);
    struct pair_gradient g = {expf(score * a->scale - a->lse[at]), 0.0f};
    g.score = g.weight * (d_weight - dots) * a->scale;
    return g;
}

GPU_DEVICE float row_dots(const struct backward_args *a, int64_t row, int64_t head)
{
    int64_t at = (row * a->heads + head) * a->kv.head_dim;
    return warp_dot(a->d_out + at, (const float *)a->out + at, 1, a->kv.head_dim);
}

GPU_KERNEL(query_gradient_f32, struct backward_args)
{
    int64_t row = GPU_BLOCK, head = GPU_BLOCK_Y, dim = a->kv.head_dim, lane = GPU_THREAD;
    float dq[HEAD_DIM_MAX / GPU_WARP] = {0}, dots = row_dots(a, row, head);
    for (int64_t key = 0; key < a->table[row].key_count; key++) {
        struct pair_gradient g = pair_gradient(a, row, head, key, dots);
        const float *k = (const float *)a->kv.keys +
                         key_base(a, key, head / (a->heads / a->kv.kv_heads)) + key % KEYS * dim;
        for (int64_t d = lane; d < dim; d += GPU_WARP)
            dq[d / GPU_WARP] = fmaf(g.score, k[d], dq[d / GPU_WARP]);
    }
    for (int64_t d = lane; d < dim; d += GPU_WARP)
        a->dq[row * a->lddq + head * dim + d] = dq[d / GPU_WARP];
}

GPU_KERNEL(key_gradient_f32, struct backward_args)
{
    int64_t key = GPU_BLOCK, kv_head = GPU_BLOCK_Y, dim = a->kv.head_dim, lane = GPU_THREAD;
    int64_t group = a->heads / a->kv.kv_heads;
    float dk[HEAD_DIM_MAX / GPU_WARP] = {0}, dv[HEAD_DIM_MAX / GPU_WARP] = {0};
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
        for (int64_t row = 0; row < a->rows; row++) {
            if (key >= a->table[row].key_count)
                continue;
            struct pair_gradient g = pair_gradient(a, row, head, key, row_dots(a, row, head));
            for (int64_t d = lane; d < dim; d += GPU_WARP) {
                float q = a->q[row * a->ldq + head * dim + d];
                float d_out = a->d_out[(row * a->heads + head) * dim + d];
                dk[d / GPU_WARP] = fmaf(g.score, q, dk[d / GPU_WARP]);
                dv[d / GPU_WARP] = fmaf(g.weight, d_out, dv[d / GPU_WARP]);
            }
        }
    for (int64_t d = lane; d < dim; d += GPU_WARP) {
        a->dk[key * a->lddk + kv_head * dim + d] += dk[d / GPU_WARP];
        a->dv[key * a->lddk + kv_head * dim + d] += dv[d / GPU_WARP];
    }
}

void cuda_attention_backward(struct parallel *pool, const struct attention_kv *kv, int64_t rows,
                             int32_t heads, const float *q, int64_t ldq,
                             const struct attention_row *table, const void *out, const float *lse,
                             const float *d_out, float *dq, int64_t lddq, float *dk, float *dv,
                             int64_t lddk)
{
    struct backward_args args = {*kv,   rows, heads, q,     ldq,
                                 table, out,  lse,   d_out, dq,
                                 lddq,  dk,   dv,    lddk,  1.0f / sqrtf((float)kv->head_dim)};
    struct attention_row last;
    (void)pool;
    gpu_to_host(&last, table + rows - 1, sizeof last); /* how many keys there are */
    int64_t tiles = gpu_blocks(rows, TILE_ROWS), key_tiles = gpu_blocks(last.key_count, TILE_ROWS);
    if (kv->dtype == DTYPE_F32) {
        HONE_ASSERT(kv->head_dim <= HEAD_DIM_MAX);
        GPU_LAUNCH(query_gradient_f32, rows, heads, GPU_WARP, args);
        GPU_LAUNCH(key_gradient_f32, last.key_count, kv->kv_heads, GPU_WARP, args);
    } else {
        TILE_LAUNCH(query_gradient, kv->head_dim, tiles, heads, args);
        TILE_LAUNCH(key_gradient, kv->head_dim, key_tiles, kv->kv_heads, args);
    }
}

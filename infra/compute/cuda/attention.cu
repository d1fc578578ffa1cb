/* Keys and values into their blocks; attention of query rows over them.
 *
 * Online softmax over blocks of 32 keys, ascending; scores and weighted sums are tensor core
 * products in bf16 (weights are rounded to bf16), fp32 elsewhere. A warp takes 16 rows. They are
 * consecutive rows of one sequence and head (prefill, training), or, where rows of several
 * sequences stand together (decoding), one row's query heads of one kv head. A row's bits are the
 * same in both: its own products, in the order of its own keys. */
#include "infra/compute/cuda/attention_tile.h"
#include "infra/compute/cuda/table.h"

#define STORE_THREADS 256

struct store_args {
    struct attention_kv kv;
    int64_t rows;
    const float *k, *v;
    int64_t ldk, ldv;
    const int32_t *block_ids, *offsets;
};

GPU_KERNEL(store_kernel, struct store_args)
{
    int64_t row = GPU_BLOCK, dim = a->kv.head_dim, width = a->kv.kv_heads * dim;
    int64_t block = (int64_t)a->block_ids[row] * width * KEYS, offset = a->offsets[row];
    for (int64_t i = GPU_THREAD; i < width; i += GPU_THREADS) {
        int64_t head = i / dim, d = i % dim;
        gpu_store(a->kv.dtype, a->kv.keys, block + (head * KEYS + offset) * dim + d,
                  a->k[row * a->ldk + i]);
        gpu_store(a->kv.dtype, a->kv.values, block + i * KEYS + offset, a->v[row * a->ldv + i]);
    }
}

void cuda_kv_store(struct parallel *pool, const struct attention_kv *kv, int64_t rows,
                   const float *k, int64_t ldk, const float *v, int64_t ldv,
                   const int32_t *block_ids, const int32_t *offsets)
{
    struct store_args args = {*kv, rows, k, v, ldk, ldv, block_ids, offsets};
    (void)pool;
    GPU_LAUNCH(store_kernel, rows, 1, STORE_THREADS, args);
}

struct attention_args {
    struct attention_kv kv;
    int64_t rows;
    int32_t heads;
    const float *q;
    int64_t ldq;
    const struct attention_row *table;
    void *out;
    float *lse; /* may be NULL */
    float scale;
};

/* Which query each of a warp's 16 rows is: row and head, keys that it sees (0: there is none). */
struct queries {
    int64_t row[TILE_ROWS];
    int32_t head[TILE_ROWS], key_count[TILE_ROWS];
    int32_t most; /* keys */
};

GPU_DEVICE bool tile_is_uniform(const struct attention_args *a, int64_t first)
{
    for (int64_t row = first + 1; row < first + TILE_ROWS && row < a->rows; row++)
        if (a->table[row].blocks != a->table[first].blocks)
            return false;
    return true;
}

/* Rows from `first` on for `rows` > 1, or one row's heads from `head` on. */
GPU_DEVICE void choose_queries(const struct attention_args *a, struct queries *queries,
                               int64_t first, int32_t head, int32_t heads)
{
    queries->most = 0;
    for (int i = 0; i < TILE_ROWS; i++) {
        int64_t row = heads > 0 ? first : first + i;
        bool there = heads > 0 ? i < heads : row < a->rows;
        queries->row[i] = there ? row : first;
        queries->head[i] = heads > 0 && there ? head + i : head;
        queries->key_count[i] = there ? a->table[row].key_count : 0;
        if (queries->key_count[i] > queries->most)
            queries->most = queries->key_count[i];
    }
}

/* What a lane keeps of its rows g and g + 8. */
struct online {
    float max[2], sum[2];
};

/* Scores of a block become weights e^(score - max); returns by what the sums so far shrink. */
GPU_DEVICE void weigh(float c[4][4], struct online *online, float factor[2], float scale,
                      const int32_t key_count[2], int64_t first_key)
{
    int t = GPU_THREAD % 4;
    for (int r = 0; r < 2; r++) {
        float largest = -INFINITY, sum = 0.0f;
        for (int j = 0; j < 4; j++)
            for (int e = 2 * r; e < 2 * r + 2; e++) {
                bool seen = first_key + 8 * j + 2 * t + e % 2 < key_count[r];
                c[j][e] = seen ? c[j][e] * scale : -INFINITY;
                largest = fmaxf(largest, c[j][e]);
            }
        float max = fmaxf(online->max[r], tile_row_max(largest));
        float shift = max == -INFINITY ? 0.0f : max; /* no row */
        factor[r] = expf(online->max[r] - shift);
        for (int j = 0; j < 4; j++)
            for (int e = 2 * r; e < 2 * r + 2; e++) {
                c[j][e] = expf(c[j][e] - shift);
                sum += c[j][e];
            }
        online->sum[r] = fmaf(online->sum[r], factor[r], tile_row_sum(sum));
        online->max[r] = max;
    }
}

/* out[tiles of 8 of head_dim] += weights x values; keys from `limit` on hold nothing. */
GPU_DEVICE void add_values(float out[][4], float c[4][4], const bf16 *values, int32_t head_dim,
                           const int tiles, int64_t limit)
{
    int g = GPU_THREAD % GPU_WARP / 4, t = GPU_THREAD % 4;
    for (int half = 0; half < 2; half++) {
        uint32_t a[4];
        int key = 16 * half + 2 * t;
        tile_product_fragment(a, c[2 * half], c[2 * half + 1]);
        for (int n = 0; n < tiles; n++) {
            int d = 8 * n + g;
            const bf16 *value = values + (int64_t)d * KEYS + key;
            bool inside = d < head_dim;
            uint32_t b[2] = {
                tile_pair(value, 1, inside && key < limit, inside && key + 1 < limit),
                tile_pair(value + 8, 1, inside && key + 8 < limit, inside && key + 9 < limit)};
            if (8 * n < head_dim)
                gpu_mma(out[n], a, b);
        }
    }
}

GPU_DEVICE void write_out(const struct attention_args *a, const struct queries *queries,
                          float out[][4], const struct online *online, const int tiles)
{
    int g = GPU_THREAD % GPU_WARP / 4, t = GPU_THREAD % 4;
    int32_t dim = a->kv.head_dim;
    for (int r = 0; r < 2; r++) {
        int i = g + 8 * r;
        int64_t at = queries->row[i] * a->heads + queries->head[i];
        if (queries->key_count[i] == 0)
            continue;
        for (int n = 0; n < tiles; n++)
            for (int e = 0; e < 2; e++)
                if (8 * n + 2 * t + e < dim)
                    ((bf16 *)a->out)[at * dim + 8 * n + 2 * t + e] =
                        gpu_to_bf16(out[n][2 * r + e] / online->sum[r]);
        if (t == 0 && a->lse)
            a->lse[at] = online->max[r] + logf(online->sum[r]);
    }
}

/* 16 queries of one sequence and kv head. */
GPU_DEVICE void attend(const struct attention_args *a, const struct queries *queries, bf16 *shared,
                       const int tiles)
{
    int g = GPU_THREAD % GPU_WARP / 4;
    int32_t dim = a->kv.head_dim;
    const float *rows[TILE_ROWS];
    float out[HEAD_DIM_MAX / 8][4], c[4][4], factor[2];
    struct online online = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}};
    const int32_t key_count[2] = {queries->key_count[g], queries->key_count[g + 8]};
    struct tile_kv kv = {(const bf16 *)a->kv.keys,
                         (const bf16 *)a->kv.values,
                         a->table[queries->row[0]].blocks,
                         a->kv.kv_heads,
                         dim,
                         queries->head[0] / (a->heads / a->kv.kv_heads)};
    for (int i = 0; i < TILE_ROWS; i++)
        rows[i] = queries->key_count[i] > 0
                      ? a->q + queries->row[i] * a->ldq + (int64_t)queries->head[i] * dim
                      : NULL;
    for (int n = 0; n < tiles; n++)
        for (int e = 0; e < 4; e++)
            out[n][e] = 0.0f;
    tile_load_rows(shared, rows, dim);
    gpu_sync();
    for (int64_t block = 0; block * KEYS < queries->most; block++) {
        tile_scores(c, shared, tile_keys(&kv, block), dim);
        weigh(c, &online, factor, a->scale, key_count, block * KEYS);
        for (int n = 0; n < tiles; n++) /* + 0: a product that vanished leaves no sign behind */
            for (int e = 0; e < 4; e++)
                out[n][e] = fmaf(out[n][e], factor[e / 2], 0.0f);
        add_values(out, c, tile_values(&kv, block), dim, tiles, queries->most - block * KEYS);
    }
    write_out(a, queries, out, &online, tiles);
}

GPU_DEVICE void attend_rows(const struct attention_args *a, bf16 *shared, const int tiles)
{
    struct queries queries;
    int64_t first = GPU_BLOCK * TILE_ROWS;
    if (!tile_is_uniform(a, first))
        return;
    choose_queries(a, &queries, first, (int32_t)GPU_BLOCK_Y, 0);
    attend(a, &queries, shared, tiles);
}

GPU_DEVICE void attend_heads(const struct attention_args *a, bf16 *shared, const int tiles)
{
    struct queries queries;
    int64_t row = GPU_BLOCK;
    int32_t group = a->heads / a->kv.kv_heads;
    if (tile_is_uniform(a, row / TILE_ROWS * TILE_ROWS))
        return;
    for (int32_t i = 0; i < group; i += TILE_ROWS) {
        int32_t heads = group - i < TILE_ROWS ? group - i : TILE_ROWS;
        gpu_sync();
        choose_queries(a, &queries, row, (int32_t)GPU_BLOCK_Y * group + i, heads);
        attend(a, &queries, shared, tiles);
    }
}

#define ATTENTION_KERNELS(name, tiles)                                                             \
    GPU_KERNEL(attention_rows_##name, struct attention_args)                                       \
    {                                                                                              \
        GPU_SHARED bf16 shared[TILE_ROWS * TILE_STRIDE];                                           \
        attend_rows(a, shared, tiles);                                                             \
    }                                                                                              \
    GPU_KERNEL(attention_heads_##name, struct attention_args)                                      \
    {                                                                                              \
        GPU_SHARED bf16 shared[TILE_ROWS * TILE_STRIDE];                                           \
        attend_heads(a, shared, tiles);                                                            \
    }

ATTENTION_KERNELS(64, 8)
ATTENTION_KERNELS(128, 16)
ATTENTION_KERNELS(256, 32)

/* ---- fp32: a warp a row and head, a lane a key and then a lane a column ---- */

GPU_KERNEL(attention_f32, struct attention_args)
{
    GPU_SHARED float weights[KEYS];
    int64_t row = GPU_BLOCK, head = GPU_BLOCK_Y, dim = a->kv.head_dim;
    int64_t kv_head = head / (a->heads / a->kv.kv_heads), lane = GPU_THREAD;
    const float *q = a->q + row * a->ldq + head * dim;
    float out[HEAD_DIM_MAX / KEYS] = {0}, max = -INFINITY, sum = 0.0f;
    for (int64_t block = 0; block * KEYS < a->table[row].key_count; block++) {
        int64_t left = a->table[row].key_count - block * KEYS;
        int64_t base =
            ((int64_t)a->table[row].blocks[block] * a->kv.kv_heads + kv_head) * KEYS * dim;
        const float *key = (const float *)a->kv.keys + base + lane * dim;
        const float *values = (const float *)a->kv.values + base;
        float score = 0.0f, largest;
        for (int64_t d = 0; d < dim; d++)
            score = fmaf(q[d], key[d], score);
        score = lane < left ? score * a->scale : -INFINITY;
        largest = score;
        for (int mask = 16; mask > 0; mask /= 2)
            largest = fmaxf(largest, gpu_shuffle_xor(largest, mask));
        largest = fmaxf(max, largest);
        float weight = expf(score - largest), factor = expf(max - largest), total = weight;
        for (int mask = 16; mask > 0; mask /= 2)
            total = total + gpu_shuffle_xor(total, mask);
        sum = fmaf(sum, factor, total);
        max = largest;
        gpu_sync();
        weights[lane] = weight;
        gpu_sync();
        for (int64_t d = lane; d < dim; d += KEYS) {
            float value = out[d / KEYS] * factor;
            for (int64_t i = 0; i < KEYS && i < left; i++)
                value = fmaf(weights[i], values[d * KEYS + i], value);
            out[d / KEYS] = value;
        }
    }
    for (int64_t d = lane; d < dim; d += KEYS)
        ((float *)a->out)[(row * a->heads + head) * dim + d] = out[d / KEYS] / sum;
    if (lane == 0 && a->lse)
        a->lse[row * a->heads + head] = max + logf(sum);
}

void cuda_attention(struct parallel *pool, const struct attention_kv *kv, int64_t rows,
                    int32_t heads, const float *q, int64_t ldq, const struct attention_row *table,
                    void *out, float *lse)
{
    struct attention_args args = {
        *kv, rows, heads, q, ldq, table, out, lse, 1.0f / sqrtf((float)kv->head_dim)};
    int64_t tiles = gpu_blocks(rows, TILE_ROWS);
    (void)pool;
    if (kv->dtype == DTYPE_F32) {
        HONE_ASSERT(kv->head_dim <= HEAD_DIM_MAX);
        GPU_LAUNCH(attention_f32, rows, heads, GPU_WARP, args);
    } else {
        TILE_LAUNCH(attention_rows, kv->head_dim, tiles, heads, args);
        TILE_LAUNCH(attention_heads, kv->head_dim, rows, kv->kv_heads, args);
    }
}

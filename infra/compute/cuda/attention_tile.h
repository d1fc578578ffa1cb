/* What the attention kernels share: a warp works on 16 query rows of one sequence and one head's
 * keys and values, in blocks of 32 keys from the start of the sequence. Queries and what comes with
 * them lie in shared memory as bf16, 16 rows of TILE_STRIDE.
 *
 * Lane (g, t) = (lane / 4, lane % 4) holds rows g and g + 8 of every 16-row fragment (gpu.h). */
#ifndef HONE_COMPUTE_CUDA_ATTENTION_TILE_H
#define HONE_COMPUTE_CUDA_ATTENTION_TILE_H

#include "infra/base/assert.h"
#include "infra/compute/cuda/gpu.h"
#include "infra/compute/ops.h"

#define TILE_ROWS    16
#define HEAD_DIM_MAX 256
#define TILE_STRIDE  (HEAD_DIM_MAX + 8)
#define KEYS         ATTENTION_BLOCK_TOKENS

/* The kernel of that name for the head dimension: accumulators are registers, so their number is
 * the kernel's own. */
#define TILE_LAUNCH(kernel, head_dim, blocks_x, blocks_y, args)                                    \
    do {                                                                                           \
        HONE_ASSERT((head_dim) <= HEAD_DIM_MAX);                                                   \
        if ((head_dim) <= 64)                                                                      \
            GPU_LAUNCH(kernel##_64, blocks_x, blocks_y, GPU_WARP, args);                           \
        else if ((head_dim) <= 128)                                                                \
            GPU_LAUNCH(kernel##_128, blocks_x, blocks_y, GPU_WARP, args);                          \
        else                                                                                       \
            GPU_LAUNCH(kernel##_256, blocks_x, blocks_y, GPU_WARP, args);                          \
    } while (0)

/* One sequence's keys and values of one kv head. */
struct tile_kv {
    const bf16 *keys, *values; /* of the layer */
    const int32_t *blocks;
    int32_t kv_heads, head_dim, head; /* the kv head */
};

GPU_DEVICE const bf16 *tile_keys(const struct tile_kv *kv, int64_t block)
{
    return kv->keys + ((int64_t)kv->blocks[block] * kv->kv_heads + kv->head) * KEYS * kv->head_dim;
}

GPU_DEVICE const bf16 *tile_values(const struct tile_kv *kv, int64_t block)
{
    return kv->values +
           ((int64_t)kv->blocks[block] * kv->kv_heads + kv->head) * KEYS * kv->head_dim;
}

GPU_DEVICE uint32_t tile_pack(float low, float high)
{
    return (uint32_t)gpu_to_bf16(low) | (uint32_t)gpu_to_bf16(high) << 16;
}

/* from[0] and from[step]; zeros where not asked for. */
GPU_DEVICE uint32_t tile_pair(const bf16 *from, int64_t step, bool first, bool second)
{
    uint32_t low = first ? from[0] : 0, high = second ? from[step] : 0;
    return low | high << 16;
}

/* A fragment of rows x k from shared memory: k from `k` on. */
GPU_DEVICE void tile_rows_fragment(uint32_t a[4], const bf16 *shared, int k)
{
    int g = GPU_THREAD % GPU_WARP / 4, t = GPU_THREAD % 4;
    const bf16 *at = shared + g * TILE_STRIDE + k + 2 * t;
    a[0] = tile_pair(at, 1, true, true);
    a[1] = tile_pair(at + 8 * TILE_STRIDE, 1, true, true);
    a[2] = tile_pair(at + 8, 1, true, true);
    a[3] = tile_pair(at + 8 * TILE_STRIDE + 8, 1, true, true);
}

/* A product of two tiles of 8 columns that stand side by side, as the fragment of the next one:
 * 16 rows x 16 of k. */
GPU_DEVICE void tile_product_fragment(uint32_t a[4], const float left[4], const float right[4])
{
    a[0] = tile_pack(left[0], left[1]);
    a[1] = tile_pack(left[2], left[3]);
    a[2] = tile_pack(right[0], right[1]);
    a[3] = tile_pack(right[2], right[3]);
}

/* 16 rows of fp32 to shared memory as bf16; zeros past head_dim, and for rows that are not there.
 * from[row] NULL: it is not. */
GPU_DEVICE void tile_load_rows(bf16 *shared, const float *const from[TILE_ROWS], int32_t head_dim)
{
    int padded = (head_dim + 15) / 16 * 16;
    for (int i = GPU_THREAD; i < TILE_ROWS * padded; i += GPU_WARP) {
        int row = i / padded, d = i % padded;
        shared[row * TILE_STRIDE + d] =
            from[row] && d < head_dim ? gpu_to_bf16(from[row][d]) : (bf16)0;
    }
}

/* c[4][4]: rows x the block's 32 keys, of the rows in shared memory with the keys. */
GPU_DEVICE void tile_scores(float c[4][4], const bf16 *shared, const bf16 *keys, int32_t head_dim)
{
    int g = GPU_THREAD % GPU_WARP / 4, t = GPU_THREAD % 4;
    for (int j = 0; j < 4; j++)
        for (int e = 0; e < 4; e++)
            c[j][e] = 0.0f;
    for (int k = 0; k < head_dim; k += 16) {
        uint32_t a[4];
        int d = k + 2 * t;
        tile_rows_fragment(a, shared, k);
        for (int j = 0; j < 4; j++) {
            const bf16 *key = keys + (int64_t)(8 * j + g) * head_dim + d;
            uint32_t b[2] = {tile_pair(key, 1, d < head_dim, d + 1 < head_dim),
                             tile_pair(key + 8, 1, d + 8 < head_dim, d + 9 < head_dim)};
            gpu_mma(c[j], a, b);
        }
    }
}

/* The sum or largest of what the four lanes of a row have; all four get it. */
GPU_DEVICE float tile_row_sum(float value)
{
    value = value + gpu_shuffle_xor(value, 1);
    return value + gpu_shuffle_xor(value, 2);
}

GPU_DEVICE float tile_row_max(float value)
{
    value = fmaxf(value, gpu_shuffle_xor(value, 1));
    return fmaxf(value, gpu_shuffle_xor(value, 2));
}

#endif

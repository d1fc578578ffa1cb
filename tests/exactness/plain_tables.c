#include <math.h>
#include <string.h>

#include "infra/base/assert.h"
#include "tests/exactness/exact_tables.h"

#define FEW_ROWS  4
#define BLOCK_K   32
#define SCORE_MAX 4096 /* keys of a row */

/* Which order a plain matmul adds in. The tables below differ in it alone. */
enum order { ORDER_CONTRACT, ORDER_SPLIT_K, ORDER_PAIRS };

static float value_at(enum dtype dtype, const void *base, int64_t index)
{
    return dtype == DTYPE_BF16 ? bf16_to_f32(((const bf16 *)base)[index])
                               : ((const float *)base)[index];
}

/* N3 and N4 over k in [begin, end), continuing from sum. */
static float dot(enum dtype dtype, const void *a, const void *b, int64_t begin, int64_t end,
                 float sum)
{
    if (dtype == DTYPE_F32) {
        for (int64_t k = begin; k < end; k++)
            sum = fmaf(value_at(dtype, a, k), value_at(dtype, b, k), sum);
        return sum;
    }
    for (int64_t block = begin; block < end; block += BLOCK_K) {
        float chains[2] = {0.0f, 0.0f};
        for (int64_t k = block; k < block + BLOCK_K && k < end; k++)
            chains[k % 2] = fmaf(value_at(dtype, a, k), value_at(dtype, b, k), chains[k % 2]);
        sum = sum + (chains[0] + chains[1]);
    }
    return sum;
}

/* Per pair: the odd product first, then the even one, all into one chain. */
static float dot_pairs(const void *a, const void *b, int64_t count, float sum)
{
    for (int64_t k = 0; k < count; k += 2) {
        if (k + 1 < count)
            sum = fmaf(value_at(DTYPE_BF16, a, k + 1), value_at(DTYPE_BF16, b, k + 1), sum);
        sum = fmaf(value_at(DTYPE_BF16, a, k), value_at(DTYPE_BF16, b, k), sum);
    }
    return sum;
}

static float dot_in(enum order order, enum dtype dtype, const void *a, const void *b, int64_t k,
                    float start)
{
    if (order == ORDER_PAIRS && dtype == DTYPE_BF16)
        return dot_pairs(a, b, k, start);
    if (order != ORDER_SPLIT_K)
        return dot(dtype, a, b, 0, k, start);
    int64_t half = dtype == DTYPE_BF16 ? k / 2 / BLOCK_K * BLOCK_K : k / 2;
    return dot(dtype, a, b, 0, half, start) + dot(dtype, a, b, half, k, 0.0f);
}

/* Row-major [n, k] in the place of the packed operand: it is smaller. */
static void pack_plain(struct parallel *pool, enum dtype dtype, int64_t n, int64_t k,
                       const void *source, int64_t ldb, bool b_is_nk, void *packed)
{
    size_t bytes = dtype_bytes(dtype);
    (void)pool;
    for (int64_t column = 0; column < n; column++)
        for (int64_t i = 0; i < k; i++) {
            int64_t from = b_is_nk ? column * ldb + i : i * ldb + column;
            memcpy((char *)packed + (size_t)(column * k + i) * bytes,
                   (const char *)source + (size_t)from * bytes, bytes);
        }
}

static void multiply(enum order order, enum dtype dtype, int64_t m, int64_t n, int64_t k,
                     const void *a, int64_t lda, const void *b, float *c, int64_t ldc,
                     bool accumulate)
{
    size_t bytes = dtype_bytes(dtype);
    for (int64_t row = 0; row < m; row++)
        for (int64_t column = 0; column < n; column++) {
            const void *left = (const char *)a + (size_t)(row * lda) * bytes;
            const void *right = (const char *)b + (size_t)(column * k) * bytes;
            float *out = &c[row * ldc + column];
            *out = dot_in(order, dtype, left, right, k, accumulate ? *out : 0.0f);
        }
}

typedef void (*gemm_function)(struct parallel *pool, enum dtype dtype, int64_t m, int64_t n,
                              int64_t k, const void *a, int64_t lda, const void *packed, float *c,
                              int64_t ldc, bool accumulate);

/* The gradients of a linear layer with one of the matmuls below. */
static void linear_plain(gemm_function gemm, enum dtype dtype, int64_t rows, int64_t in,
                         int64_t out, const float *dy, const void *x, const void *transposed_weight,
                         float *dx, float *dweight, const struct linear_workspace *workspace)
{
    size_t bytes = dtype_bytes(dtype);
    const void *act = dtype == DTYPE_F32 ? (const void *)dy : workspace->cast;
    for (int64_t i = 0; i < rows * out && dtype == DTYPE_BF16; i++)
        ((bf16 *)workspace->cast)[i] = bf16_from_f32(dy[i]);
    if (dx != NULL)
        gemm(NULL, dtype, rows, in, out, act, out, transposed_weight, dx, in, false);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < out; c++)
            memcpy((char *)workspace->transposed + (size_t)(c * rows + r) * bytes,
                   (const char *)act + (size_t)(r * out + c) * bytes, bytes);
    pack_plain(NULL, dtype, in, rows, x, in, false, workspace->packed);
    gemm(NULL, dtype, out, in, rows, workspace->transposed, rows, workspace->packed, dweight, in,
         true);
}

#define PLAIN_GEMM(name, order)                                                                    \
    static void name(struct parallel *pool, enum dtype dtype, int64_t m, int64_t n, int64_t k,     \
                     const void *a, int64_t lda, const void *packed, float *c, int64_t ldc,        \
                     bool accumulate)                                                              \
    {                                                                                              \
        (void)pool;                                                                                \
        multiply(order, dtype, m, n, k, a, lda, packed, c, ldc, accumulate);                       \
    }                                                                                              \
    static void name##_backward(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t in, \
                                int64_t out, const float *dy, const void *x,                       \
                                const void *transposed_weight, float *dx, float *dweight,          \
                                const struct linear_workspace *workspace)                          \
    {                                                                                              \
        (void)pool;                                                                                \
        linear_plain(name, dtype, rows, in, out, dy, x, transposed_weight, dx, dweight,            \
                     workspace);                                                                   \
    }

PLAIN_GEMM(gemm_contract, ORDER_CONTRACT)
PLAIN_GEMM(gemm_split_k, ORDER_SPLIT_K)
PLAIN_GEMM(gemm_pairs, ORDER_PAIRS)
PLAIN_GEMM(gemm_few_rows, m < FEW_ROWS ? ORDER_SPLIT_K : ORDER_CONTRACT)

/* ---- a norm that sums as a 256-bit loop would ---- */

static void norm_eight_lanes(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t dim,
                             float eps, const float *x, const void *weight, void *y,
                             float *inverse_rms)
{
    (void)pool;
    for (int64_t row = 0; row < rows; row++) {
        float lanes[8] = {0};
        for (int64_t d = 0; d < dim; d++)
            lanes[d % 8] = fmaf(x[row * dim + d], x[row * dim + d], lanes[d % 8]);
        for (int width = 4; width >= 1; width /= 2)
            for (int i = 0; i < width; i++)
                lanes[i] += lanes[i + width];
        float inverse = 1.0f / sqrtf(lanes[0] / (float)dim + eps);
        for (int64_t d = 0; d < dim; d++) {
            float normal = x[row * dim + d] * inverse;
            if (dtype == DTYPE_F32) {
                ((float *)y)[row * dim + d] = normal * value_at(dtype, weight, d);
                continue;
            }
            normal = bf16_to_f32(bf16_from_f32(normal));
            ((bf16 *)y)[row * dim + d] = bf16_from_f32(normal * value_at(dtype, weight, d));
        }
        if (inverse_rms != NULL)
            inverse_rms[row] = inverse;
    }
}

/* ---- attention with one softmax over all keys ---- */

static void attend_head(const struct attention_kv *kv, const struct attention_row *row,
                        const float *q, int32_t kv_head, float *scores, float *out, float *lse)
{
    float scale = 1.0f / sqrtf((float)kv->head_dim), max = -INFINITY, sum = 0.0f;
    HONE_ASSERT(row->key_count <= SCORE_MAX);
    for (int64_t key = 0; key < row->key_count; key++) {
        int32_t block = row->blocks[key / ATTENTION_BLOCK_TOKENS];
        float score = 0.0f;
        for (int64_t d = 0; d < kv->head_dim; d++) {
            float value = kv->dtype == DTYPE_BF16 ? bf16_to_f32(bf16_from_f32(q[d])) : q[d];
            int64_t at = attention_key_at(kv, block, kv_head, key % ATTENTION_BLOCK_TOKENS, d);
            score = fmaf(value, value_at(kv->dtype, kv->keys, at), score);
        }
        scores[key] = score * scale;
        max = scores[key] > max ? scores[key] : max;
    }
    memset(out, 0, (size_t)kv->head_dim * sizeof *out);
    for (int64_t key = 0; key < row->key_count; key++) {
        int32_t block = row->blocks[key / ATTENTION_BLOCK_TOKENS];
        float p = expf(scores[key] - max);
        sum += p;
        for (int64_t d = 0; d < kv->head_dim; d++) {
            int64_t at = attention_value_at(kv, block, kv_head, key % ATTENTION_BLOCK_TOKENS, d);
            out[d] = fmaf(p, value_at(kv->dtype, kv->values, at), out[d]);
        }
    }
    for (int64_t d = 0; d < kv->head_dim; d++)
        out[d] /= sum;
    *lse = max + logf(sum);
}

static void attention_one_pass(struct parallel *pool, const struct attention_kv *kv, int64_t rows,
                               int32_t heads, const float *q, int64_t ldq,
                               const struct attention_row *table, void *out, float *lse)
{
    float scores[SCORE_MAX], head_out[512], head_lse;
    (void)pool;
    for (int64_t row = 0; row < rows; row++)
        for (int32_t head = 0; head < heads; head++) {
            attend_head(kv, &table[row], q + row * ldq + head * kv->head_dim,
                        head / (heads / kv->kv_heads), scores, head_out, &head_lse);
            for (int64_t d = 0; d < kv->head_dim; d++) {
                int64_t at = (row * heads + head) * kv->head_dim + d;
                if (kv->dtype == DTYPE_BF16)
                    ((bf16 *)out)[at] = bf16_from_f32(head_out[d]);
                else
                    ((float *)out)[at] = head_out[d];
            }
            if (lse != NULL)
                lse[row * heads + head] = head_lse;
        }
}

/* ---- tables ---- */

struct backend_ops exact_table_plain(const struct backend_ops *base, enum exact_kernels kernels)
{
    struct backend_ops table = *base;
    table.linear_packs_dy = false;
    switch (kernels) {
    case EXACT_EIGHT_LANES:
        table.name = "a norm with eight lanes";
        table.rmsnorm = norm_eight_lanes;
        return table;
    case EXACT_ATTENTION_ONE_PASS:
        table.name = "attention in one pass";
        table.attention = attention_one_pass;
        return table;
    case EXACT_BY_THE_CONTRACT:
        table.name = "plain loops";
        table.gemm = gemm_contract;
        table.linear_backward = gemm_contract_backward;
        break;
    case EXACT_SPLIT_K:
        table.name = "split-k";
        table.gemm = gemm_split_k;
        table.linear_backward = gemm_split_k_backward;
        break;
    case EXACT_PAIR_ORDER:
        table.name = "the order of the AVX-512 bf16 instruction";
        table.gemm = gemm_pairs;
        table.linear_backward = gemm_pairs_backward;
        break;
    case EXACT_SPLIT_K_FEW_ROWS:
        table.name = "split-k for few rows";
        table.gemm = gemm_few_rows;
        table.linear_backward = gemm_few_rows_backward;
        break;
    }
    table.gemm_pack = pack_plain;
    return table;
}

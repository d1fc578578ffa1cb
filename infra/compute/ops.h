/* The backend table: every operation the engine needs, as functions of pointers, shapes and dtypes.
 *
 * Invariants (numerics contract, docs/decisions/0001):
 *  N1  For one dtype, all CPU tables (scalar, avx2, avx512, amx) give the same bits on the same
 * input. N2  A row's result does not depend on the number of rows, the row's position, or the
 * thread. N3  bf16 matmul: every output element is the canonical dot product: k in blocks of 32
 * ascending; in a block an even-k and an odd-k fp32 FMA chain, both from +0, over 16 pairs; C +=
 * even + odd. N4  fp32 matmul: every output element is one FMA chain over ascending k, starting
 * from C (or +0). N5  Row reductions use 16 virtual lanes (element i goes to lane i % 16,
 * ascending) and one fixed tree: 8+8, 4+4, 2+2, 1+1 (lane j with lane j + width/2). N6  exp, log,
 * sigmoid are own fixed polynomials (vec_math in cpu/); 1/sqrt is IEEE sqrt and divide.
 *
 * Matmul operands: A is row-major [m, k] with row stride lda elements. B is packed once per weight
 * version by gemm_pack into an opaque layout that is the same for every CPU table:
 *   panels of 16 columns; bf16: per panel, per k pair: 16 columns x 2 k values (VNNI), k padded
 * with zeros to a multiple of 32; fp32: per panel, per k: 16 columns. n is padded with zeros to 16.
 * C is row-major fp32 [m, n] with row stride ldc.
 *
 * Every function is thread-safe for disjoint outputs; those that take a `struct parallel *` split
 * their own work over it (NULL = inline). None allocates.
 *
 * "act" below means the activation dtype of the compute mode: bf16 or fp32. */
#ifndef HONE_COMPUTE_OPS_H
#define HONE_COMPUTE_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "infra/compute/dtype.h"
#include "infra/compute/parallel.h"

#define ATTENTION_BLOCK_TOKENS 32 /* keys per block, counted from the start of the sequence */

/* Key/value blocks of one layer: ATTENTION_BLOCK_TOKENS positions of all KV heads, in the
 * activation dtype. Block b of a sequence covers positions 32b .. 32b+31. A block's keys and its
 * values take attention_block_values() elements each. fp32: keys [kv_heads][head_dim][32], values
 * [kv_heads][32][head_dim]. bf16: what gemm_pack would make of them (keys as B of q K^T, values as
 * B of p V), with width = head_dim padded to 32 with zeros: keys [kv_heads][2][width/2][16][2],
 * values [kv_heads][width/16][16][16][2] */
struct attention_kv {
    void *keys;   /* base of the layer's key blocks */
    void *values; /* base of the layer's value blocks */
    int32_t kv_heads, head_dim;
    enum dtype dtype;
};

/* head_dim as it is stored. */
static inline int64_t attention_width(enum dtype dtype, int32_t head_dim)
{
    return dtype == DTYPE_BF16 ? ((int64_t)head_dim + 31) / 32 * 32 : head_dim;
}

/* Elements of one block's keys, or of its values. */
static inline int64_t attention_block_values(enum dtype dtype, int32_t kv_heads, int32_t head_dim)
{
    return kv_heads * attention_width(dtype, head_dim) * ATTENTION_BLOCK_TOKENS;
}

/* Element index of dimension d of a head's key, or of its value, in a layer's keys or values:
 * position `offset` (0 .. 31) of block `block`. */
static inline int64_t attention_key_at(const struct attention_kv *kv, int32_t block,
                                       int32_t kv_head, int64_t offset, int64_t d)
{
    int64_t width = attention_width(kv->dtype, kv->head_dim);
    int64_t head = ((int64_t)block * kv->kv_heads + kv_head) * width * ATTENTION_BLOCK_TOKENS;
    if (kv->dtype != DTYPE_BF16)
        return head + d * ATTENTION_BLOCK_TOKENS + offset;
    return head + (offset / 16 * (width / 2) + d / 2) * 32 + offset % 16 * 2 + d % 2;
}

static inline int64_t attention_value_at(const struct attention_kv *kv, int32_t block,
                                         int32_t kv_head, int64_t offset, int64_t d)
{
    int64_t width = attention_width(kv->dtype, kv->head_dim);
    int64_t head = ((int64_t)block * kv->kv_heads + kv_head) * width * ATTENTION_BLOCK_TOKENS;
    if (kv->dtype != DTYPE_BF16)
        return head + offset * width + d;
    return head + (d / 16 * 16 + offset / 2) * 32 + d % 16 * 2 + offset % 2;
}

/* One query row of attention: which blocks it sees and how many keys (positions 0 .. key_count-1).
 */
struct attention_row {
    const int32_t *blocks; /* block table of the row's sequence */
    int32_t key_count;     /* >= 1: the row's own position + 1 */
};

struct adamw_options {
    float learning_rate, beta1, beta2, epsilon, weight_decay;
    float bias_correction1, bias_correction2; /* 1 - beta^step, computed in double by the caller */
    float gradient_scale;                     /* multiplies the gradient first (clipping) */
};

/* The parts of a row's log softmax that are the same for all its tokens. */
struct softmax_parts {
    float inverse_temperature;
    float max;     /* of logits / temperature */
    float log_sum; /* ln of the sum of e^(logit / temperature - max) */
};

/* log softmax(logits / temperature) of the token with this logit. */
static inline float softmax_token_logprob(const struct softmax_parts *parts, float logit)
{
    return (logit * parts->inverse_temperature - parts->max) - parts->log_sum;
}

/* The ids that a row's logits are kept of, ascending and each once; count 0: all of them. */
struct logit_support {
    const int32_t *ids;
    int64_t count;
};

/* What AdamW reads and writes of `count` parameters. */
struct adamw_vectors {
    float *parameters; /* fp32 masters */
    void *m, *v;       /* moments in moments_dtype, fp32 or bf16 */
    enum dtype moments_dtype;
    const float *gradient;
    void *values; /* gets the parameters rounded to values_dtype (fp32 or bf16); NULL: nothing */
    enum dtype values_dtype;
};

/* Memory for linear_backward. */
struct linear_workspace {
    void *cast;       /* act [rows, out]; not for fp32 */
    void *transposed; /* act [out, rows rounded up to 32]; neither for bf16 where linear_packs_dy */
    void *packed;     /* gemm_packed_bytes(dtype, in, rows) */
};

struct backend_ops {
    const char *name;     /* "scalar", "avx2", "avx512", "amx" */
    bool linear_packs_dy; /* in bf16, see linear_workspace */

    /* ---- matmul ---- */
    /* Packs B for C = A * B. b_is_nk: source is [n, k] row-major (a Linear weight [out, in] used as
     * y = x W^T); else [k, n]. ldb is the source row stride. dtype bf16 or fp32. */
    void (*gemm_pack)(struct parallel *pool, enum dtype dtype, int64_t n, int64_t k,
                      const void *source, int64_t ldb, bool b_is_nk, void *packed);
    /* C = A B (accumulate = false) or C += A B, continuing each chain from C. a is bf16 or fp32 as
     * packed. */
    void (*gemm)(struct parallel *pool, enum dtype dtype, int64_t m, int64_t n, int64_t k,
                 const void *a, int64_t lda, const void *packed, float *c, int64_t ldc,
                 bool accumulate);
    /* Gradients of y = x W^T: dx [rows, in] = dy W (NULL: not wanted) and dweight [out, in] += dy^T
     * x, with dy fp32 [rows, out], rounded to act; x act [rows, in]; transposed_weight the packed W
     * for dx. As cast, transpose, gemm_pack and gemm would give them, dweight over rows ascending.
     */
    void (*linear_backward)(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t in,
                            int64_t out, const float *dy, const void *x,
                            const void *transposed_weight, float *dx, float *dweight,
                            const struct linear_workspace *workspace);

    /* ---- element-wise ---- */
    void (*cast)(struct parallel *pool, int64_t count, enum dtype from, const void *in,
                 enum dtype to, void *out); /* fp32 <-> bf16, fp16 -> fp32 */
    void (*add)(struct parallel *pool, int64_t count, float *y, const float *x); /* y += x */
    void (*scale)(struct parallel *pool, int64_t count, float *y, float factor);

    /* ---- embedding: table [vocab, dim] act dtype; out fp32 [rows, dim] ---- */
    void (*embed)(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t dim,
                  const void *table, const int32_t *ids, float *out);
    /* gradient fp32 [vocab, dim] += rows of dy, in ascending row order for each id. */
    void (*embed_backward)(struct parallel *pool, int64_t rows, int64_t dim, const int32_t *ids,
                           const float *dy, float *gradient);

    /* ---- RMSNorm: y = act(x * rsqrt(mean(x^2) + eps)) * weight, rounded as Llama does:
     * the normalised value is rounded to act first, then multiplied by weight, rounded to act.
     * x fp32 [rows, dim]; weight act [dim]; y act [rows, dim]; inverse_rms fp32 [rows] (may be
     * NULL) */
    void (*rmsnorm)(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t dim, float eps,
                    const float *x, const void *weight, void *y, float *inverse_rms);
    /* dx fp32 [rows, dim] += ...; dweight fp32 [dim] += sum over rows in ascending order. */
    void (*rmsnorm_backward)(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t dim,
                             const float *x, const void *weight, const float *inverse_rms,
                             const float *dy, float *dx, float *dweight);

    /* ---- RoPE, halves rotated (Hugging Face Llama layout), in place on fp32 [rows, heads, dim].
     * cos_sin fp32 [max_positions][head_dim]: first half cos, second half sin. backward rotates by
     * the negative angle. ---- */
    void (*rope)(struct parallel *pool, int64_t rows, int32_t heads, int32_t head_dim,
                 const int32_t *positions, const float *cos_sin, float *x, int64_t ldx,
                 bool backward);

    /* ---- SwiGLU: out act [rows, dim] = silu(gate) * up; gate_up fp32 [rows, 2*dim], gate first.
     */
    void (*swiglu)(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t dim,
                   const float *gate_up, void *out);
    /* d_gate_up fp32 [rows, 2*dim] from d_out fp32 [rows, dim]. */
    void (*swiglu_backward)(struct parallel *pool, int64_t rows, int64_t dim, const float *gate_up,
                            const float *d_out, float *d_gate_up);

    /* ---- attention ---- */
    /* Stores rows' keys and values (fp32 [rows, kv_heads*head_dim], row strides ldk, ldv) into
     * blocks: row r goes to block block_ids[r], offset offsets[r] in 0..31. */
    void (*kv_store)(struct parallel *pool, const struct attention_kv *kv, int64_t rows,
                     const float *k, int64_t ldk, const float *v, int64_t ldv,
                     const int32_t *block_ids, const int32_t *offsets);
    /* Online softmax over blocks in ascending order. q fp32 [rows, heads*head_dim] (row stride ldq)
     * is rounded to act before use; out act [rows, heads*head_dim]; lse fp32 [rows, heads] = max +
     * log(sum), may be NULL. Head h reads KV head h / (heads/kv_heads). Score scale is
     * 1/sqrt(head_dim). Bits depend on the row's q, its keys and key_count alone; what memory holds
     * for later keys does not matter. Order: decision 0001; fp32 adds in FMA chains, bf16 in
     * canonical dot products (N3) of q and keys, and of p rounded to bf16 and values. */
    void (*attention)(struct parallel *pool, const struct attention_kv *kv, int64_t rows,
                      int32_t heads, const float *q, int64_t ldq, const struct attention_row *table,
                      void *out, float *lse);
    /* Backward for the rows of ONE sequence, rows in position order starting at position first.
     * Inputs as above; d_out fp32 [rows, heads*head_dim], rounded to act; out act the forward
     * output. Writes dq fp32 [rows, heads*head_dim] (stride lddq), and ADDS into dk, dv
     * fp32 [key_count_total, kv_heads*head_dim] (stride lddk), queries in ascending order: in bf16
     * by blocks of 32 positions counted from the start of the sequence, p and ds rounded. */
    void (*attention_backward)(struct parallel *pool, const struct attention_kv *kv, int64_t rows,
                               int32_t heads, const float *q, int64_t ldq,
                               const struct attention_row *table, const void *out, const float *lse,
                               const float *d_out, float *dq, int64_t lddq, float *dk, float *dv,
                               int64_t lddk);

    /* ---- softmax over the vocabulary ---- */
    /* For each row: logprob[r] = log softmax(logits[r] / temperature)[token[r]] and, when asked,
     * entropy[r] (NULL to skip) and lse[r] = log-sum-exp of logits/temperature (NULL to skip).
     * logits fp32 [rows, vocab], row stride ld. A token's logprob is computed here and in
     * softmax_row's caller, by softmax_token_logprob from the same reductions: the same bits. */
    void (*token_logprob)(struct parallel *pool, int64_t rows, int64_t vocab, const float *logits,
                          int64_t ld, float temperature, const int32_t *tokens, float *logprob,
                          float *entropy, float *lse);
    /* d_logits[r] = (d_logprob[r] * (onehot - p) + d_entropy[r] * dH/dlogits) / temperature, where
     * dH/dz_i = -p_i (log p_i + H). In place: logits become d_logits (fp32). d_entropy may be NULL.
     */
    void (*token_logprob_backward)(struct parallel *pool, int64_t rows, int64_t vocab,
                                   float *logits, int64_t ld, float temperature,
                                   const int32_t *tokens, const float *lse, const float *entropy,
                                   const float *d_logprob, const float *d_entropy);
    /* Logits of the ids that are not in their row's support become -inf: the row's softmax is that
     * of the distribution cut to the support. A token outside gets the logprob -inf and leaves no
     * gradient. */
    void (*cut_logits)(struct parallel *pool, int64_t rows, int64_t vocab, float *logits,
                       int64_t ld, const struct logit_support *support);
    /* probs[v] = softmax(logits / temperature), one row, fp32, and what the row's tokens share: for
     * the sampler, which needs both. probs may be logits. */
    void (*softmax_row)(int64_t vocab, const float *logits, float temperature, float *probs,
                        struct softmax_parts *parts);

    /* ---- optimiser ---- */
    /* AdamW (Loshchilov & Hutter 2019), decoupled decay: p -= lr * (m^ / (sqrt(v^) + eps) + wd *
     * p). Arithmetic in fp32; bf16 moments are rounded to nearest when stored, and the step uses
     * them before that. */
    void (*adamw)(struct parallel *pool, int64_t count, const struct adamw_options *options,
                  const struct adamw_vectors *vectors);
    /* Sum of squares in double: fixed chunks of 4096, 16 lanes within a chunk, chunks ascending. */
    double (*sum_squares)(struct parallel *pool, int64_t count, const float *x);
};

/* Bytes that gemm_pack needs for a [k, n] operand. */
size_t gemm_packed_bytes(enum dtype dtype, int64_t n, int64_t k);

enum cpu_isa { CPU_ISA_SCALAR, CPU_ISA_AVX2, CPU_ISA_AVX512, CPU_ISA_AMX, CPU_ISA_COUNT };

/* Whether this machine (and kernel) can run the table. */
bool cpu_isa_available(enum cpu_isa isa);
const char *cpu_isa_name(enum cpu_isa isa);
/* The table of one instruction set; NULL when not available here. */
const struct backend_ops *backend_cpu(enum cpu_isa isa);
/* The best available table, or the one named by HONE_ISA (scalar|avx2|avx512|amx): an unknown or
 * unavailable name is an error. Calls compute_thread_init for the caller. */
int backend_select(const struct backend_ops **ops);
/* Compares every available table with the scalar one on a fixed set of shapes, bit for bit; well
 * under a second. 0, or HONE_EUNSUPPORTED naming the operation and the table that differ. */
int backend_self_test(void);

#endif

/* The operations of ops.h on a CUDA device. Every pointer is to device memory (memory.h), those in
 * `struct attention_row` and `struct logit_support` too; `parallel` is not used. Operations are
 * queued on the default stream in the order of the calls; only sum_squares waits.
 *
 *  C1  As ops.h N2: a row's result depends on its own inputs alone, not on how many rows there are,
 *      where they stand, or how a sequence was cut into calls.
 *  C2  The same call gives the same bits; nothing is added up in an order of arrival.
 *  C3  Against the CPU tables results are close, not equal: a tensor core's sum of 16 products has
 * an order of its own, and so have rows' reductions. Element-wise operations agree to the bit.
 *
 * Packed matmul operands are [n, k] row-major here, k padded with zeros to a multiple of 32: the
 * same bytes as the CPU's. Keys of a block are [kv_heads][32][head_dim], values
 * [kv_heads][head_dim][32]. */
#ifndef HONE_COMPUTE_CUDA_TABLE_H
#define HONE_COMPUTE_CUDA_TABLE_H

#include "infra/compute/ops.h"

#if defined(__cplusplus)
extern "C" {
#endif

/* The table; the thread's device is the one of gpu_open. */
const struct backend_ops *backend_cuda(void);

/* elementwise.cu */
void cuda_cast(struct parallel *pool, int64_t count, enum dtype from, const void *in, enum dtype to,
               void *out);
void cuda_add(struct parallel *pool, int64_t count, float *y, const float *x);
void cuda_scale(struct parallel *pool, int64_t count, float *y, float factor);
void cuda_swiglu(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t dim,
                 const float *gate_up, void *out);
void cuda_swiglu_backward(struct parallel *pool, int64_t rows, int64_t dim, const float *gate_up,
                          const float *d_out, float *d_gate_up);
void cuda_adamw(struct parallel *pool, int64_t count, const struct adamw_options *options,
                const struct adamw_vectors *vectors);
double cuda_sum_squares(struct parallel *pool, int64_t count, const float *x);

/* rows.cu */
void cuda_embed(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t dim,
                const void *table, const int32_t *ids, float *out);
void cuda_embed_backward(struct parallel *pool, int64_t rows, int64_t dim, const int32_t *ids,
                         const float *dy, float *gradient);
void cuda_rmsnorm(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t dim, float eps,
                  const float *x, const void *weight, void *y, float *inverse_rms);
void cuda_rmsnorm_backward(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t dim,
                           const float *x, const void *weight, const float *inverse_rms,
                           const float *dy, float *dx, float *dweight);
void cuda_rope(struct parallel *pool, int64_t rows, int32_t heads, int32_t head_dim,
               const int32_t *positions, const float *cos_sin, float *x, int64_t ldx,
               bool backward);

/* vocabulary.cu */
void cuda_token_logprob(struct parallel *pool, int64_t rows, int64_t vocab, const float *logits,
                        int64_t ld, float temperature, const int32_t *tokens, float *logprob,
                        float *entropy, float *lse);
void cuda_token_logprob_backward(struct parallel *pool, int64_t rows, int64_t vocab, float *logits,
                                 int64_t ld, float temperature, const int32_t *tokens,
                                 const float *lse, const float *entropy, const float *d_logprob,
                                 const float *d_entropy);
void cuda_cut_logits(struct parallel *pool, int64_t rows, int64_t vocab, float *logits, int64_t ld,
                     const struct logit_support *support);
void cuda_softmax_row(int64_t vocab, const float *logits, float temperature, float *probs,
                      struct softmax_parts *parts);

/* gemm.cu */
void cuda_gemm_pack(struct parallel *pool, enum dtype dtype, int64_t n, int64_t k,
                    const void *source, int64_t ldb, bool b_is_nk, void *packed);
void cuda_gemm(struct parallel *pool, enum dtype dtype, int64_t m, int64_t n, int64_t k,
               const void *a, int64_t lda, const void *packed, float *c, int64_t ldc,
               bool accumulate);
void cuda_linear_backward(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t in,
                          int64_t out, const float *dy, const void *x,
                          const void *transposed_weight, float *dx, float *dweight,
                          const struct linear_workspace *workspace);

/* attention.cu, attention_backward.cu */
void cuda_kv_store(struct parallel *pool, const struct attention_kv *kv, int64_t rows,
                   const float *k, int64_t ldk, const float *v, int64_t ldv,
                   const int32_t *block_ids, const int32_t *offsets);
void cuda_attention(struct parallel *pool, const struct attention_kv *kv, int64_t rows,
                    int32_t heads, const float *q, int64_t ldq, const struct attention_row *table,
                    void *out, float *lse);
void cuda_attention_backward(struct parallel *pool, const struct attention_kv *kv, int64_t rows,
                             int32_t heads, const float *q, int64_t ldq,
                             const struct attention_row *table, const void *out, const float *lse,
                             const float *d_out, float *dq, int64_t lddq, float *dk, float *dv,
                             int64_t lddk);

#if defined(__cplusplus)
}
#endif

#endif

#include "infra/compute/cuda/table.h"

const struct backend_ops *backend_cuda(void)
{
    static const struct backend_ops ops = {.name = "cuda",
                                           .gemm_pack = cuda_gemm_pack,
                                           .gemm = cuda_gemm,
                                           .linear_backward = cuda_linear_backward,
                                           .cast = cuda_cast,
                                           .add = cuda_add,
                                           .scale = cuda_scale,
                                           .embed = cuda_embed,
                                           .embed_backward = cuda_embed_backward,
                                           .rmsnorm = cuda_rmsnorm,
                                           .rmsnorm_backward = cuda_rmsnorm_backward,
                                           .rope = cuda_rope,
                                           .swiglu = cuda_swiglu,
                                           .swiglu_backward = cuda_swiglu_backward,
                                           .kv_store = cuda_kv_store,
                                           .attention = cuda_attention,
                                           .attention_backward = cuda_attention_backward,
                                           .token_logprob = cuda_token_logprob,
                                           .token_logprob_backward = cuda_token_logprob_backward,
                                           .cut_logits = cuda_cut_logits,
                                           .softmax_row = cuda_softmax_row,
                                           .adamw = cuda_adamw,
                                           .sum_squares = cuda_sum_squares};
    return &ops;
}

"""The same matmuls and attention by PyTorch on the same device, for the ratios of bench_kernels.

    python3 -B tests/cuda/ratios.py
"""
import time

import torch
import torch.nn.functional as F


def least(call, repeats=5, calls=10):
    call()
    torch.cuda.synchronize()
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - begin) / calls)
    return best


def main():
    print(torch.__version__, torch.cuda.get_device_name(0))
    for m in (1, 16, 128, 4096, 16384):
        for n, k in ((4096, 4096), (2048, 8192)):
            a, b = torch.randn(m, k, device="cuda").bfloat16(), torch.randn(n, k, device="cuda").bfloat16()
            seconds = least(lambda: a @ b.t())
            print("torch.matmul bf16 m %5d n %5d k %5d  %8.1f us  %7.1f TFLOP/s" % (m, n, k, seconds * 1e6, 2 * m * n * k / seconds * 1e-12))
    for tokens, heads, kv_heads, dim in ((2048, 16, 8, 64), (8192, 16, 16, 128)):
        q = torch.randn(1, heads, tokens, dim, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        k, v = (torch.randn(1, kv_heads, tokens, dim, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
        call = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != kv_heads)
        forward = least(call)
        out = call()
        d_out = torch.randn_like(out)
        backward = least(lambda: out.backward(d_out, retain_graph=True))
        products = 2.0 * tokens * tokens * heads * dim
        print("SDPA %d tokens, %d heads of %d over %d: forward %.1f us, %.1f TFLOP/s; backward %.1f us, %.1f TFLOP/s" % (
            tokens, heads, dim, kv_heads, forward * 1e6, products / forward * 1e-12, backward * 1e6, 2.5 * products / backward * 1e-12))


main()

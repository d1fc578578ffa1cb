"""hone's matmul against the oneDNN and MKL that PyTorch bundles: y = x W^T, GFLOP/s of every shape, and geometric means.

usage: bench_gemm.py HONE [--threads 1] [--dtype bfloat16|float32] [--sizes all|quick] [--rounds N] [--json FILE]"""
import statistics

import torch

import paired

options = paired.arguments(__doc__, dtype="bfloat16", sizes="quick")
torch.set_num_threads(options.threads)
dtype = getattr(torch, options.dtype)
quick = options.sizes == "quick"
shapes = [(size, m) for size in ([512, 1024] if quick else [512, 1024, 2048, 4096])
          for m in ([1, 16, 256] if quick else [1, 8, 16, 64, 256, 1024])]
operands = {}
for size, m in shapes:
    torch.manual_seed(1)
    operands[size, m] = (torch.rand(m, size) - 0.5).to(dtype), (torch.rand(size, size) - 0.5).to(dtype)


def with_means(rates):
    for name, keep in (("M >= 256", lambda m: m >= 256), ("M <= 16", lambda m: m <= 16)):
        chosen = [rates[f"N=K={size} M={m}"] for size, m in shapes if keep(m)]
        rates["mean " + name] = statistics.geometric_mean(chosen)
    return rates


def hone():
    flags = ["--quick"] if quick else []
    result = paired.hone_bench(options, "gemm", "--dtype", options.dtype, *flags)
    return with_means({f"N=K={f['size']} M={f['m']}": f["flops"] / 1e9 for f in result["figures"] if f["form"] == "y"})


@torch.inference_mode()
def peer():
    rates = {}
    for size, m in shapes:
        x, weight = operands[size, m]
        flops, count = 2.0 * m * size * size, 1
        torch.nn.functional.linear(x, weight)

        def work():
            for _ in range(count):
                torch.nn.functional.linear(x, weight)

        while paired.seconds(work, options.threads) < 0.004:
            count *= 2
        best = min(paired.seconds(work, options.threads) for _ in range(9))
        rates[f"N=K={size} M={m}"] = flops * count / best / 1e9
    return with_means(rates)


print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {options.dtype}, {options.threads} threads; GFLOP/s")
paired.alternate(options, hone, peer)

#!/bin/sh
# Everything of the CUDA table that wants a device, as one report on stdout: builds, tests with several seeds, the sanitizer's
# checks, speed, and PyTorch's on the same device where it is there.
# usage: tests/cuda/run.sh [BUILD]
set -eu
cd "$(dirname "$0")/../.."
build=${1:-build/cuda-device}
date -u '+%Y-%m-%d %H:%M UTC'
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
cmake -S tests/cuda -B "$build" -DCMAKE_CUDA_ARCHITECTURES="$architecture" >/dev/null
cmake --build "$build" -j "$(nproc)" >"$build/build.log" 2>&1 || { tail -n 40 "$build/build.log"; exit 1; }
failed=0
for seed in 0 1 2 3 4; do
    echo "test_kernels $seed"
    "$build/test_kernels" $seed | grep -v 'RUN\|      OK' || failed=1
done
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        echo "compute-sanitizer $tool"
        timeout 200 compute-sanitizer --tool $tool --error-exitcode 3 "$build/test_kernels" 0 2>&1 | tail -n 3
    done
fi
"$build/bench_kernels"
python3 -c 'import torch' 2>/dev/null && python3 -B tests/cuda/ratios.py
exit $failed

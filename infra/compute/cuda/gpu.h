/* What kernels are written in: C with a grid of blocks of threads. nvcc compiles it for devices;
 * any C compiler compiles the same sources for the emulator (emulator.h), which runs the threads of
 * a block one by one, so that tests without a device check every kernel's arithmetic.
 *
 *   GPU_KERNEL(name, struct name_args) { ... a->field ... }
 *   GPU_LAUNCH(name, blocks_x, blocks_y, threads, args);
 *
 * A kernel takes one struct by value. Shared memory is GPU_SHARED arrays of fixed size. Threads of
 * a warp all reach gpu_shuffle_xor and gpu_mma; threads of a block all reach gpu_sync.
 *
 * Contraction is off (--fmad=false): only fmaf fuses, so that a function has the same bits in every
 * kernel that uses it. */
#ifndef HONE_COMPUTE_CUDA_GPU_H
#define HONE_COMPUTE_CUDA_GPU_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "infra/compute/dtype.h"

#define GPU_WARP 32

#if defined(__CUDACC__)

#define GPU_DEVICE static __device__ __forceinline__
#define GPU_SHARED __shared__ __align__(16)
#define GPU_KERNEL(name, type)                                                                     \
    static __device__ void name##_body(const type *a);                                             \
    static __global__ void name(const __grid_constant__ type value)                                \
    {                                                                                              \
        name##_body(&value);                                                                       \
    }                                                                                              \
    static __device__ void name##_body(const type *a)
#define GPU_LAUNCH(name, blocks_x, blocks_y, threads, args)                                        \
    do {                                                                                           \
        if ((blocks_x) > 0 && (blocks_y) > 0) {                                                    \
            name<<<dim3((unsigned)(blocks_x), (unsigned)(blocks_y)), (threads)>>>(args);           \
            gpu_check(#name);                                                                      \
        }                                                                                          \
    } while (0)

#define GPU_THREAD  ((int)threadIdx.x)
#define GPU_THREADS ((int)blockDim.x)
#define GPU_BLOCK   ((int64_t)blockIdx.x)
#define GPU_BLOCK_Y ((int64_t)blockIdx.y)

GPU_DEVICE void gpu_sync(void)
{
    __syncthreads();
}

GPU_DEVICE float gpu_shuffle_xor(float value, int mask)
{
    return __shfl_xor_sync(0xffffffffu, value, mask);
}

/* c[16, 8] += a[16, 16] b[16, 8], bf16 products, fp32 sums: mma.m16n8k16, whose fragments are, with
 * g = lane / 4 and t = lane % 4 (PTX ISA, "Matrix Fragments for mma.m16n8k16"):
 *   a[0] row g,     k 2t, 2t+1      a[1] row g + 8, the same
 *   a[2] row g,     k 2t+8, 2t+9    a[3] row g + 8, the same      low half: the lower k
 *   b[0] k 2t, 2t+1, column g       b[1] k 2t+8, 2t+9, column g
 *   c[0], c[1] row g, columns 2t, 2t+1          c[2], c[3] row g + 8 */
GPU_DEVICE void gpu_mma(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* 16 bytes from device memory to shared memory, past the registers. */
GPU_DEVICE void gpu_copy16(void *shared, const void *global)
{
    unsigned address = (unsigned)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(address), "l"(global));
}

GPU_DEVICE void gpu_copy_commit(void)
{
    asm volatile("cp.async.commit_group;\n" ::);
}

/* All but the newest `left` (0 or 1) groups have arrived. */
GPU_DEVICE void gpu_copy_wait(int left)
{
    if (left == 0)
        asm volatile("cp.async.wait_group 0;\n" ::);
    else
        asm volatile("cp.async.wait_group 1;\n" ::);
}

#else

#include "infra/compute/cuda/emulator.h"

#define GPU_DEVICE static inline
#define GPU_SHARED static _Alignas(16)
#define GPU_KERNEL(name, type)                                                                     \
    static void name##_body(const type *a);                                                        \
    static void name(const void *args)                                                             \
    {                                                                                              \
        const type value = *(const type *)args;                                                    \
        name##_body(&value);                                                                       \
    }                                                                                              \
    static void name##_body(const type *a)
#define GPU_LAUNCH(name, blocks_x, blocks_y, threads, args)                                        \
    emulate(name, &(args), (blocks_x), (blocks_y), (threads))

#define GPU_THREAD  (emulated_thread())
#define GPU_THREADS (emulated.threads)
#define GPU_BLOCK   (emulated.block_x)
#define GPU_BLOCK_Y (emulated.block_y)

#define gpu_sync        emulated_sync
#define gpu_shuffle_xor emulated_shuffle_xor
#define gpu_mma         emulated_mma

GPU_DEVICE void gpu_copy16(void *shared, const void *global)
{
    memcpy(shared, global, 16);
}

GPU_DEVICE void gpu_copy_commit(void)
{
}

GPU_DEVICE void gpu_copy_wait(int left)
{
    (void)left;
}

#endif

#if defined(__cplusplus)
extern "C"
#endif
    /* Ends the process with one message when the launch of that kernel, or one before it, has
       failed. */
    void
    gpu_check(const char *kernel);

/* ---- numbers ---- */

GPU_DEVICE float gpu_bits_to_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

GPU_DEVICE uint32_t gpu_float_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

GPU_DEVICE float gpu_from_bf16(bf16 value)
{
    return gpu_bits_to_float((uint32_t)value << 16);
}

/* bf16_from_f32 of dtype.h, which is a host function. */
GPU_DEVICE bf16 gpu_to_bf16(float value)
{
    uint32_t bits = gpu_float_to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (bf16)((bits >> 16) | 0x0040u);
    bits += 0x7fffu + ((bits >> 16) & 1u);
    return (bf16)(bits >> 16);
}

GPU_DEVICE float gpu_round_to(enum dtype dtype, float value)
{
    return dtype == DTYPE_BF16 ? gpu_from_bf16(gpu_to_bf16(value)) : value;
}

GPU_DEVICE float gpu_load(enum dtype dtype, const void *from, int64_t i)
{
    return dtype == DTYPE_BF16 ? gpu_from_bf16(((const bf16 *)from)[i]) : ((const float *)from)[i];
}

GPU_DEVICE void gpu_store(enum dtype dtype, void *to, int64_t i, float value)
{
    if (dtype == DTYPE_BF16)
        ((bf16 *)to)[i] = gpu_to_bf16(value);
    else
        ((float *)to)[i] = value;
}

GPU_DEVICE float gpu_sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* ---- reductions over a block of 2^n threads ---- */

#define GPU_ROW_THREADS 256 /* of kernels with a block a row */

enum gpu_reduction { GPU_SUM, GPU_MAX };

/* Every thread's value, in a fixed tree; every thread gets the result. */
GPU_DEVICE float gpu_reduce(enum gpu_reduction what, float value)
{
    GPU_SHARED float values[1024];
    int thread = GPU_THREAD;
    gpu_sync();
    values[thread] = value;
    for (int half = GPU_THREADS / 2; half > 0; half /= 2) {
        gpu_sync();
        if (thread < half) {
            float other = values[thread + half];
            values[thread] =
                what == GPU_SUM ? values[thread] + other : fmaxf(values[thread], other);
        }
    }
    gpu_sync();
    return values[0];
}

static inline int64_t gpu_blocks(int64_t count, int64_t each)
{
    return (count + each - 1) / each;
}

#endif

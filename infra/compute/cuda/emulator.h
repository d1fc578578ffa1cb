/* Runs kernels on the host: blocks one after the other, the threads of a block as fibers that are
 * switched where they wait for each other. For tests; slow. One process at a time uses it. */
#ifndef HONE_COMPUTE_CUDA_EMULATOR_H
#define HONE_COMPUTE_CUDA_EMULATOR_H

#include <stdint.h>

/* Where the running thread is. */
struct emulated {
    int64_t block_x, block_y;
    int threads;
};
extern struct emulated emulated;

int emulated_thread(void);
/* threads: at most 1024; a multiple of 32 where the kernel has warps. */
void emulate(void (*kernel)(const void *), const void *args, int64_t blocks_x, int64_t blocks_y,
             int threads);
void emulated_sync(void);
float emulated_shuffle_xor(float value, int mask);
/* gpu_mma (gpu.h): a fused multiply-add chain over ascending k from c. */
void emulated_mma(float c[4], const uint32_t a[4], const uint32_t b[2]);

#endif

#include "infra/compute/cuda/memory.h"

#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>

extern "C" {
#include "infra/base/error.h"
void gpu_check(const char *kernel);
}

static void must(cudaError_t error, const char *what)
{
    if (error == cudaSuccess)
        return;
    fprintf(stderr, "hone: CUDA: %s: %s\n", what, cudaGetErrorString(error));
    exit(1);
}

int gpu_open(int device)
{
    cudaError_t error = cudaSetDevice(device);
    if (error == cudaSuccess)
        error = cudaFree(NULL); /* makes the context, and finds out whether that can be done */
    if (error == cudaSuccess)
        return 0;
    return error_set(HONE_EUNSUPPORTED, "CUDA device %d: %s", device, cudaGetErrorString(error));
}

int gpu_allocate(size_t bytes, void **memory)
{
    size_t available = 0, total = 0;
    cudaError_t error = cudaMalloc(memory, bytes > 0 ? bytes : 1);
    if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        (void)cudaMemGetInfo(&available, &total);
        return error_set(HONE_ENOMEM, "device memory of %zu MB: %zu of %zu MB are free",
                         bytes >> 20, available >> 20, total >> 20);
    }
    must(error, "cudaMalloc");
    must(cudaMemset(*memory, 0, bytes), "cudaMemset");
    return 0;
}

void gpu_free(void *memory)
{
    must(cudaFree(memory), "cudaFree");
}

void gpu_to_device(void *device, const void *host, size_t bytes)
{
    must(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice), "copy to the device");
}

void gpu_to_host(void *host, const void *device, size_t bytes)
{
    must(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost), "copy from the device");
}

void gpu_wait(void)
{
    must(cudaDeviceSynchronize(), "kernels");
}

void gpu_check(const char *kernel)
{
    must(cudaGetLastError(), kernel);
}

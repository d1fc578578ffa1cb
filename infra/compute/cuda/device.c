#include "infra/compute/cuda/device.h"

#include <stdio.h>

#if defined(HONE_CUDA)

#include <cuda_runtime_api.h>

int cuda_device_count(void)
{
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

void cuda_device_describe(int device, char *line, size_t capacity)
{
    struct cudaDeviceProp properties;
    cudaError_t error = cudaGetDeviceProperties(&properties, device);
    if (error != cudaSuccess) {
        snprintf(line, capacity, "no CUDA device %d: %s", device, cudaGetErrorString(error));
        return;
    }
    snprintf(line, capacity, "%s, compute %d.%d, %zu GiB, %d multiprocessors", properties.name,
             properties.major, properties.minor, properties.totalGlobalMem >> 30,
             properties.multiProcessorCount);
}

#else

int cuda_device_count(void)
{
    return 0;
}

void cuda_device_describe(int device, char *line, size_t capacity)
{
    snprintf(line, capacity, "no CUDA device %d: built without CUDA", device);
}

#endif

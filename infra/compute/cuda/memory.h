/* Device memory and what comes back from it. With the emulator all of it is host memory. Errors of
 * the device end the process with one message that names the call: after one, nothing on the device
 * can be trusted, and a worker that ends is started again from the last durable state. */
#ifndef HONE_COMPUTE_CUDA_MEMORY_H
#define HONE_COMPUTE_CUDA_MEMORY_H

#include <stddef.h>

#if defined(__cplusplus)
extern "C" {
#endif

/* Makes `device` the one of this thread. 0, or HONE_EUNSUPPORTED when there is none (the driver's
 * reason is in the message). */
int gpu_open(int device);
/* Zeroed; HONE_ENOMEM names the size and what is free. */
int gpu_allocate(size_t bytes, void **memory);
void gpu_free(void *memory); /* NULL is fine */
void gpu_to_device(void *device, const void *host, size_t bytes);
/* Waits for the kernels launched so far. */
void gpu_to_host(void *host, const void *device, size_t bytes);
void gpu_wait(void);

#if defined(__cplusplus)
}
#endif

#endif

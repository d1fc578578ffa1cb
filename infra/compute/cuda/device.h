/* Lists CUDA devices. Without HONE_CUDA there are none, and describing one says why. */
#ifndef HONE_COMPUTE_CUDA_DEVICE_H
#define HONE_COMPUTE_CUDA_DEVICE_H

#include <stddef.h>

/* Devices this process may use; 0 when there are none, no driver, or no CUDA in this build. */
int cuda_device_count(void);
/* Writes one line, e.g. "NVIDIA H200, compute 9.0, 139 GiB, 132 multiprocessors", or the reason why
 * there is none. Always NUL-terminated. */
void cuda_device_describe(int device, char *line, size_t capacity);

#endif

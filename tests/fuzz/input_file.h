/* The bytes of a fuzz target's input as a file in memory, for readers that take a path, and as the
 * strings between its NUL bytes, for those that take several. */
#ifndef HONE_TESTS_FUZZ_INPUT_FILE_H
#define HONE_TESTS_FUZZ_INPUT_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "infra/base/assert.h"
#include "infra/base/memory.h"

/* One file, written over by each call. */
static inline const char *input_file(const uint8_t *data, size_t bytes)
{
    static int fd = -1;
    static char path[64];
    if (fd < 0) {
        fd = memfd_create("fuzz", MFD_CLOEXEC);
        HONE_ASSERT(fd >= 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    HONE_ASSERT(ftruncate(fd, 0) == 0);
    HONE_ASSERT(pwrite(fd, data, bytes, 0) == (ssize_t)bytes);
    return path;
}

/* Moves past one string of the input and returns it, NUL-terminated: what is before the next NUL
 * byte, or all that is left. memory_free it. */
static inline char *input_string(const uint8_t **data, size_t *bytes)
{
    const uint8_t *end = *bytes > 0 ? memchr(*data, 0, *bytes) : NULL;
    size_t length = end != NULL ? (size_t)(end - *data) : *bytes;
    char *text = memory_strndup((const char *)*data, length);
    size_t taken = end != NULL ? length + 1 : length;
    *data += taken;
    *bytes -= taken;
    return text;
}

#endif

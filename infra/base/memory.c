#include "infra/base/memory.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "infra/base/error.h"

#define ALIGNMENT 64

_Noreturn static void out_of_memory(size_t count, size_t size)
{
    fprintf(stderr,
            "hone: out of memory allocating %zu x %zu bytes; use a smaller batch or model\n", count,
            size);
    exit(error_exit_status(HONE_ENOMEM));
}

static void *alloc_uncleared(size_t count, size_t size, size_t *bytes)
{
    void *block = NULL;
    if (__builtin_mul_overflow(count, size, bytes))
        out_of_memory(count, size);
    if (posix_memalign(&block, ALIGNMENT, *bytes ? *bytes : 1) != 0)
        out_of_memory(count, size);
    return block;
}

void *memory_alloc(size_t count, size_t size)
{
    size_t bytes;
    void *block = alloc_uncleared(count, size, &bytes);
    return memset(block, 0, bytes);
}

void *memory_resize(void *block, size_t old_count, size_t count, size_t size)
{
    size_t bytes;
    char *grown = alloc_uncleared(count, size, &bytes);
    size_t kept = (old_count < count ? old_count : count) * size;
    if (kept > 0)
        memcpy(grown, block, kept);
    memset(grown + kept, 0, bytes - kept);
    free(block);
    return grown;
}

char *memory_strdup(const char *text)
{
    return memory_strndup(text, strlen(text));
}

char *memory_strndup(const char *text, size_t length)
{
    size_t bytes;
    size_t kept = strnlen(text, length);
    char *copy = alloc_uncleared(kept + 1, 1, &bytes);
    memcpy(copy, text, kept);
    copy[kept] = '\0';
    return copy;
}

void *memory_dup(const void *block, size_t bytes)
{
    size_t copied;
    void *copy = alloc_uncleared(bytes, 1, &copied);
    if (bytes > 0)
        memcpy(copy, block, bytes);
    return copy;
}

void memory_free(void *block)
{
    free(block);
}

void *memory_map(size_t bytes)
{
    void *block =
        mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED)
        out_of_memory(bytes, 1);
    /* Advice only: a kernel without huge pages gives ordinary ones. */
    (void)madvise(block, bytes, MADV_HUGEPAGE);
    return block;
}

void memory_populate(void *block, size_t bytes)
{
#ifdef MADV_POPULATE_WRITE
    (void)madvise(block, bytes, MADV_POPULATE_WRITE); /* advice: an older kernel does not know it */
#else
    (void)block;
    (void)bytes;
#endif
}

void memory_unmap(void *block, size_t bytes)
{
    if (block)
        munmap(block, bytes ? bytes : 1);
}

int checked_mul(size_t a, size_t b, size_t *product)
{
    if (__builtin_mul_overflow(a, b, product))
        return error_set(HONE_EFORMAT, "size overflow: %zu * %zu", a, b);
    return 0;
}

int checked_add(size_t a, size_t b, size_t *sum)
{
    if (__builtin_add_overflow(a, b, sum))
        return error_set(HONE_EFORMAT, "size overflow: %zu + %zu", a, b);
    return 0;
}

/* Heap allocation for set-up code. A failed allocation ends the process with one clear line: memory
 * is planned before it is used, so running out here is a plan that was wrong. */
#ifndef HONE_BASE_MEMORY_H
#define HONE_BASE_MEMORY_H

#include <stddef.h>

/* Zeroed, 64-byte aligned. count * size is overflow-checked. A zero size gives a valid pointer. */
void *memory_alloc(size_t count, size_t size);
/* Grows or shrinks a block from memory_alloc; bytes past old_count * size are zeroed. */
void *memory_resize(void *block, size_t old_count, size_t count, size_t size);
char *memory_strdup(const char *text);
char *memory_strndup(const char *text, size_t length);
void *memory_dup(const void *block, size_t bytes);
void memory_free(void *block); /* NULL is fine */

/* Zeroed pages from mmap with transparent huge pages advised; for weights and caches. */
void *memory_map(size_t bytes);
/* Asks for the block's pages now rather than at first use. Its values stay as they are. */
void memory_populate(void *block, size_t bytes);
void memory_unmap(void *block, size_t bytes);

#define MEMORY_NEW(type)          ((type *)memory_alloc(1, sizeof(type)))
#define MEMORY_ARRAY(type, count) ((type *)memory_alloc((size_t)(count), sizeof(type)))

/* Checked arithmetic for sizes that come from files: 0, or HONE_EFORMAT on overflow. */
int checked_mul(size_t a, size_t b, size_t *product);
int checked_add(size_t a, size_t b, size_t *sum);

#endif

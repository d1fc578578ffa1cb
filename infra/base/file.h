/* Files: whole reads and writes, atomic replacement, directories. Every function returns 0 or a
 * negative error code with the path in the message. */
#ifndef HONE_BASE_FILE_H
#define HONE_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Reads a whole file of at most limit_bytes; *data is NUL-terminated past *bytes; memory_free it.
 */
int file_read(const char *path, size_t limit_bytes, char **data, size_t *bytes);
/* Writes to path.tmp, fsyncs, renames over path, fsyncs the directory. */
int file_write_atomic(const char *path, const void *data, size_t bytes);
/* Whether that could begin: work whose result has nowhere to go is not worth doing. */
int file_can_write(const char *path);
int file_append(const char *path, const void *data, size_t bytes);
int file_copy(const char *from, const char *to); /* contents only, fsynced */

bool file_exists(const char *path);
bool file_is_directory(const char *path);
int file_size(const char *path, int64_t *bytes);
int file_make_directories(const char *path); /* like mkdir -p */
int file_sync_directory(const char *path);
int file_rename_synced(const char *from, const char *to); /* rename + fsync of the parent */
int file_remove_tree(const char *path);                   /* missing is success */
int64_t file_free_bytes(const char *path);                /* on its file system; -1 unknown */

/* Calls visit for each entry name except . and .., in byte order; stops on a non-zero return. */
int file_list(const char *directory, int (*visit)(void *context, const char *name), void *context);

/* Read-only mapping of a whole file. */
struct file_map {
    const unsigned char *data;
    size_t bytes;
};
int file_map_open(struct file_map *map, const char *path);
void file_map_close(struct file_map *map);

/* Writes "directory/name" into a buffer; asserts that it fits. */
const char *path_join(char *buffer, size_t capacity, const char *directory, const char *name);
#define HONE_PATH_MAX 1024

#endif

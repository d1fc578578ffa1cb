#include "infra/base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"

#define COPY_BYTES     (1 << 20)
#define OPEN_FILES_MAX 32 /* descriptors that a tree walk may hold */

static int open_read(const char *path, int *fd, struct stat *status)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0)
        return error_errno("open %s", path);
    int rc = 0;
    if (fstat(*fd, status) != 0)
        rc = error_errno("stat %s", path);
    else if (S_ISDIR(status->st_mode))
        rc = error_set(HONE_EINVAL, "%s is a directory, not a file", path);
    if (rc < 0) {
        close(*fd);
        *fd = -1;
    }
    return rc;
}

/* Reads until `bytes` or the end; the count, or negative. */
static ssize_t read_some(int fd, char *data, size_t bytes)
{
    size_t done = 0;
    while (done < bytes) {
        ssize_t got = read(fd, data + done, bytes - done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

static int write_all(int fd, const char *path, const char *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t written = write(fd, data, bytes);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return error_errno("write %s", path);
        data += written;
        bytes -= (size_t)written;
    }
    return 0;
}

int file_read(const char *path, size_t limit_bytes, char **data, size_t *bytes)
{
    struct stat status;
    int fd;
    *data = NULL;
    *bytes = 0;
    int rc = open_read(path, &fd, &status);
    if (rc < 0)
        return rc;
    /* Read past st_size too: pipes and /proc files report none. */
    size_t capacity = status.st_size > 0 ? (size_t)status.st_size + 1 : 4096;
    if (capacity > limit_bytes)
        capacity = limit_bytes + 1;
    char *buffer = memory_alloc(capacity + 1, 1);
    size_t length = 0;
    for (;;) {
        ssize_t got = read_some(fd, buffer + length, capacity - length);
        if (got < 0) {
            rc = error_errno("read %s", path);
            goto out;
        }
        length += (size_t)got;
        if (length < capacity)
            break;
        if (length > limit_bytes) {
            rc = error_set(HONE_EFORMAT, "%s is larger than %zu bytes", path, limit_bytes);
            goto out;
        }
        size_t larger = capacity > limit_bytes / 2 ? limit_bytes + 1 : capacity * 2;
        buffer = memory_resize(buffer, length, larger + 1, 1);
        capacity = larger;
    }
    buffer[length] = '\0';
    *data = buffer;
    *bytes = length;
    buffer = NULL;
out:
    memory_free(buffer);
    close(fd);
    return rc;
}

static int close_synced(int fd, const char *path)
{
    int rc = 0;
    if (fsync(fd) != 0)
        rc = error_errno("fsync %s", path);
    if (close(fd) != 0 && rc == 0)
        rc = error_errno("close %s", path);
    return rc;
}

/* "a/b" -> "a", "b" -> ".", "/b" -> "/". */
static const char *parent_of(char buffer[HONE_PATH_MAX], const char *path)
{
    HONE_ASSERT(strlen(path) < HONE_PATH_MAX);
    memcpy(buffer, path, strlen(path) + 1);
    char *slash = strrchr(buffer, '/');
    if (!slash)
        memcpy(buffer, ".", 2);
    else
        slash[slash == buffer] = '\0';
    return buffer;
}

static int check_length(const char *path)
{
    if (strlen(path) >= HONE_PATH_MAX - 8)
        return error_set(HONE_EINVAL, "path longer than %d bytes: %.80s...", HONE_PATH_MAX - 8,
                         path);
    return 0;
}

int file_write_atomic(const char *path, const void *data, size_t bytes)
{
    char temporary[HONE_PATH_MAX];
    int rc = check_length(path);
    if (rc < 0)
        return rc;
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return error_errno("create %s", temporary);
    rc = write_all(fd, temporary, data, bytes);
    if (rc < 0)
        close(fd);
    else
        rc = close_synced(fd, temporary);
    if (rc == 0)
        rc = file_rename_synced(temporary, path);
    if (rc < 0)
        unlink(temporary);
    return rc;
}

int file_can_write(const char *path)
{
    char temporary[HONE_PATH_MAX];
    int rc = check_length(path);
    if (rc < 0)
        return rc;
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return error_errno("create %s", temporary);
    close(fd);
    unlink(temporary);
    return 0;
}

int file_append(const char *path, const void *data, size_t bytes)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0)
        return error_errno("open %s", path);
    int rc = write_all(fd, path, data, bytes);
    if (close(fd) != 0 && rc == 0)
        rc = error_errno("close %s", path);
    return rc;
}

int file_copy(const char *from, const char *to)
{
    struct stat status;
    int in;
    int rc = open_read(from, &in, &status);
    if (rc < 0)
        return rc;
    char *buffer = memory_alloc(COPY_BYTES, 1);
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (out < 0) {
        rc = error_errno("create %s", to);
        goto out;
    }
    ssize_t got;
    do {
        got = read_some(in, buffer, COPY_BYTES);
        if (got < 0)
            rc = error_errno("read %s", from);
        else
            rc = write_all(out, to, buffer, (size_t)got);
    } while (rc == 0 && got == COPY_BYTES);
    if (rc < 0)
        close(out);
    else
        rc = close_synced(out, to);
out:
    memory_free(buffer);
    close(in);
    return rc;
}

bool file_exists(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0;
}

bool file_is_directory(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

int file_size(const char *path, int64_t *bytes)
{
    struct stat status;
    if (stat(path, &status) != 0)
        return error_errno("stat %s", path);
    *bytes = status.st_size;
    return 0;
}

int file_make_directories(const char *path)
{
    char partial[HONE_PATH_MAX];
    int rc = check_length(path);
    if (rc < 0)
        return rc;
    size_t length = strlen(path);
    for (size_t i = 1; i <= length; i++) {
        if (i < length && path[i] != '/')
            continue;
        memcpy(partial, path, i);
        partial[i] = '\0';
        if (mkdir(partial, 0755) != 0 && errno != EEXIST)
            return error_errno("create directory %s", partial);
        if (errno == EEXIST && i == length && !file_is_directory(path))
            return error_set(HONE_EIO, "%s exists and is not a directory", path);
        errno = 0;
    }
    return 0;
}

int file_sync_directory(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_errno("open %s", path);
    int rc = 0;
    /* Some network file systems refuse fsync on a directory; the rename is still ordered there. */
    if (fsync(fd) != 0 && errno != EINVAL)
        rc = error_errno("fsync %s", path);
    close(fd);
    return rc;
}

int file_rename_synced(const char *from, const char *to)
{
    char parent[HONE_PATH_MAX];
    int rc = check_length(to);
    if (rc < 0)
        return rc;
    if (rename(from, to) != 0)
        return error_errno("rename %s to %s", from, to);
    return file_sync_directory(parent_of(parent, to));
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status;
    (void)type;
    (void)walk;
    if (remove(path) != 0 && errno != ENOENT)
        return error_errno("remove %s", path);
    return 0;
}

int file_remove_tree(const char *path)
{
    errno = 0;
    int rc = nftw(path, remove_entry, OPEN_FILES_MAX, FTW_DEPTH | FTW_PHYS);
    if (rc == -1 && errno == ENOENT)
        return 0;
    if (rc == -1)
        return error_errno("remove %s", path);
    return rc;
}

int64_t file_free_bytes(const char *path)
{
    struct statvfs status;
    if (statvfs(path, &status) != 0)
        return -1;
    return (int64_t)status.f_bavail * (int64_t)status.f_frsize;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int file_list(const char *directory, int (*visit)(void *context, const char *name), void *context)
{
    DIR *handle = opendir(directory);
    if (!handle)
        return error_errno("list %s", directory);
    char **names = NULL;
    size_t count = 0, capacity = 0;
    int rc = 0;
    struct dirent *entry;
    while ((entry = readdir(handle))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (count == capacity) {
            names = memory_resize(names, count, count ? 2 * count : 16, sizeof *names);
            capacity = count ? 2 * count : 16;
        }
        names[count++] = memory_strdup(entry->d_name);
    }
    closedir(handle);
    if (count > 0)
        qsort(names, count, sizeof *names, compare_names);
    for (size_t i = 0; i < count; i++) {
        if (rc == 0)
            rc = visit(context, names[i]);
        memory_free(names[i]);
    }
    memory_free(names);
    return rc;
}

int file_map_open(struct file_map *map, const char *path)
{
    static const unsigned char nothing[1];
    struct stat status;
    int fd;
    *map = (struct file_map){.data = nothing};
    int rc = open_read(path, &fd, &status);
    if (rc < 0)
        return rc;
    if (status.st_size > 0) {
        void *data = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            rc = error_errno("map %s", path);
        else
            *map = (struct file_map){.data = data, .bytes = (size_t)status.st_size};
    }
    close(fd);
    return rc;
}

void file_map_close(struct file_map *map)
{
    if (map->bytes > 0)
        munmap((void *)(uintptr_t)map->data, map->bytes);
    *map = (struct file_map){0};
}

const char *path_join(char *buffer, size_t capacity, const char *directory, const char *name)
{
    size_t length = strlen(directory);
    const char *separator = length == 0 || directory[length - 1] == '/' ? "" : "/";
    int written = snprintf(buffer, capacity, "%s%s%s", directory, separator, name);
    HONE_ASSERT(written >= 0 && (size_t)written < capacity);
    return buffer;
}

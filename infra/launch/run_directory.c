#include "infra/launch/run_directory.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "infra/base/assert.h"
#include "infra/base/clock.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/base/text.h"

enum { FILE_MAX_BYTES = 4 << 20, SHORT_FOLDER_BYTES = 64 };

static int take_lock(struct run_directory *run)
{
    char path[HONE_PATH_MAX];
    path_join(path, sizeof path, run->path, "lock");
    run->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (run->lock_fd < 0)
        return error_errno("%s: cannot write there", path);
    if (flock(run->lock_fd, LOCK_EX | LOCK_NB) < 0) {
        int code = errno;
        close(run->lock_fd);
        run->lock_fd = -1;
        errno = code;
        if (errno == EWOULDBLOCK)
            return error_set(HONE_EBUSY,
                             "%s is in use by another `hone run`: wait for it, stop it, or choose "
                             "another output_dir",
                             run->path);
        return error_errno("lock %s", path);
    }
    return 0;
}

/* Top-level keys that do not count for the recipe's hash: they may differ between attempts. */
static bool is_free_to_change(const char *section)
{
    static const char *const keys[] = {"output_dir:", "pools:", "wire:", "log:"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; ++i)
        if (text_starts_with(section, keys[i]))
            return true;
    return false;
}

/* Names the first line that counts in which two recipes differ. */
static int refuse_recipe(const struct run_directory *run, const char *before, const char *now)
{
    const char *section = before;
    int line = 1;
    while (*before != '\0' && *now != '\0') {
        size_t a = strcspn(before, "\n"), b = strcspn(now, "\n");
        if (*before != ' ')
            section = before;
        if ((a != b || memcmp(before, now, a) != 0) && !is_free_to_change(section))
            return error_set(HONE_EINVAL,
                             "%s holds a run of another recipe: line %d of its recipe.yaml is "
                             "\"%.*s\", now it is \"%.*s\"; choose another output_dir",
                             run->path, line, (int)a, before, (int)b, now);
        before += a + (before[a] == '\n');
        now += b + (now[b] == '\n');
        line++;
    }
    return error_set(HONE_EINVAL, "%s holds a run of another recipe (they differ from line %d on)",
                     run->path, line);
}

static int write_identity(struct run_directory *run, const char *recipe_text)
{
    char path[HONE_PATH_MAX], seed[HONE_PATH_MAX + 64], hex[HASH_HEX_SIZE];
    struct hash hash;
    struct text json;
    struct clock *clock = clock_system();
    int length = snprintf(seed, sizeof seed, "%s %lld %d", run->path,
                          (long long)clock_unix_ms(clock), (int)getpid());
    hash_sha256(seed, (size_t)length, &hash);
    hash_hex(&hash, hex);
    memcpy(run->run_id, hex, 32);
    run->run_id[32] = '\0';
    text_init(&json);
    text_printf(&json,
                "{\n  \"run_id\": \"%s\",\n  \"recipe_hash\": \"%s\",\n  \"hone\": \"%s\",\n"
                "  \"started_ms\": %lld\n}\n",
                run->run_id, run->recipe_hash, HONE_VERSION, (long long)clock_unix_ms(clock));
    int rc = file_write_atomic(path_join(path, sizeof path, run->path, "recipe.yaml"), recipe_text,
                               strlen(recipe_text));
    if (rc == 0)
        rc = file_write_atomic(path_join(path, sizeof path, run->path, "run.json"), json.data,
                               json.length);
    text_release(&json);
    return rc;
}

static int read_identity(struct run_directory *run)
{
    char path[HONE_PATH_MAX];
    json_error_t error;
    path_join(path, sizeof path, run->path, "run.json");
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    const char *id = json_string_value(json_object_get(root, "run_id"));
    const char *hash = json_string_value(json_object_get(root, "recipe_hash"));
    int rc = 0;
    if (id == NULL || strlen(id) != 32 || hash == NULL || strlen(hash) + 1 != HASH_HEX_SIZE)
        rc = error_set(HONE_EFORMAT, "%s: not the run.json of a run%s%s", path,
                       root == NULL ? ": " : "", root == NULL ? error.text : "");
    if (rc == 0) {
        memcpy(run->run_id, id, 33);
        memcpy(run->recipe_hash, hash, HASH_HEX_SIZE);
    }
    json_decref(root);
    return rc;
}

/* Reopens an existing run, or makes a new one. */
static int open_identity(struct run_directory *run, const char *recipe_text,
                         const char *recipe_hash)
{
    char path[HONE_PATH_MAX];
    path_join(path, sizeof path, run->path, "run.json");
    if (!file_exists(path)) {
        memcpy(run->recipe_hash, recipe_hash, HASH_HEX_SIZE);
        return write_identity(run, recipe_text);
    }
    int rc = read_identity(run);
    if (rc < 0)
        return rc;
    path_join(path, sizeof path, run->path, "recipe.yaml");
    if (strcmp(run->recipe_hash, recipe_hash) != 0) {
        char *before;
        size_t bytes;
        if ((rc = file_read(path, FILE_MAX_BYTES, &before, &bytes)) < 0)
            return rc;
        rc = refuse_recipe(run, before, recipe_text);
        memory_free(before);
        return rc;
    }
    /* What does not count for the hash (pools, log) may change between attempts. */
    return file_write_atomic(path, recipe_text, strlen(recipe_text));
}

/* realpath may need more than HONE_PATH_MAX. */
static int absolute_path(const char *path, char absolute[HONE_PATH_MAX])
{
    char *found = realpath(path, NULL);
    int rc = 0;
    if (found == NULL)
        return error_errno("run directory %s", path);
    if (strlen(found) + 64 > HONE_PATH_MAX)
        rc = error_set(HONE_EINVAL, "run directory %.80s...: its path is longer than %d bytes",
                       found, HONE_PATH_MAX - 64);
    else
        snprintf(absolute, HONE_PATH_MAX, "%s", found);
    free(found);
    return rc;
}

static int make_socket_directory(const struct run_directory *run)
{
    char path[HONE_PATH_MAX];
    path_join(path, sizeof path, run->path, "sock");
    int rc = file_make_directories(path);
    if (rc == 0 && chmod(path, 0700) < 0)
        rc = error_errno("chmod %s", path);
    return rc;
}

int run_directory_open(struct run_directory *run, const char *path, const char *recipe_text,
                       const char *recipe_hash)
{
    static const char *const folders[] = {"logs", "metrics", "eval"};
    char folder[HONE_PATH_MAX];
    memset(run, 0, sizeof *run);
    run->lock_fd = -1;
    int rc = file_make_directories(path);
    if (rc < 0)
        return error_prefix("output_dir %s", path);
    rc = absolute_path(path, run->path);
    if (rc == 0)
        rc = take_lock(run);
    if (rc == 0)
        rc = open_identity(run, recipe_text, recipe_hash);
    for (size_t i = 0; rc == 0 && i < sizeof folders / sizeof folders[0]; ++i)
        rc = file_make_directories(path_join(folder, sizeof folder, run->path, folders[i]));
    if (rc == 0)
        rc = make_socket_directory(run);
    if (rc < 0)
        run_directory_close(run);
    return rc;
}

int run_directory_attach(struct run_directory *run, const char *path)
{
    memset(run, 0, sizeof *run);
    run->lock_fd = -1;
    int rc = absolute_path(path, run->path);
    return rc < 0 ? rc : read_identity(run);
}

/* Where sockets go when the run's own path is too long for them. */
static void short_socket_folder(const struct run_directory *run, char folder[SHORT_FOLDER_BYTES])
{
    snprintf(folder, SHORT_FOLDER_BYTES, "/tmp/hone-%u-%.16s", (unsigned)getuid(), run->run_id);
}

static bool is_private_folder(const char *folder)
{
    struct stat status;
    return lstat(folder, &status) == 0 && S_ISDIR(status.st_mode) && status.st_uid == getuid() &&
           (status.st_mode & 077) == 0;
}

void run_directory_close(struct run_directory *run)
{
    char folder[SHORT_FOLDER_BYTES];
    if (run->lock_fd >= 0) {
        short_socket_folder(run, folder);
        if (run->run_id[0] != '\0' && is_private_folder(folder))
            file_remove_tree(folder);
        close(run->lock_fd);
    }
    run->lock_fd = -1;
}

const char *run_directory_file(const struct run_directory *run, char *buffer, size_t capacity,
                               const char *relative)
{
    char folder[HONE_PATH_MAX];
    path_join(buffer, capacity, run->path, relative);
    snprintf(folder, sizeof folder, "%s", buffer);
    *strrchr(folder, '/') = '\0';
    /* A folder that cannot be made shows up, with its path, when the file is opened. */
    file_make_directories(folder);
    return buffer;
}

const char *run_directory_endpoint(const struct run_directory *run, char *buffer, size_t capacity,
                                   const char *name)
{
    struct sockaddr_un address;
    int length = snprintf(buffer, capacity, "ipc://%s/sock/%s", run->path, name);
    HONE_ASSERT(length > 0 && (size_t)length < capacity);
    if (strlen(buffer) - strlen("ipc://") < sizeof address.sun_path)
        return buffer;
    /* Too long for a unix socket: a directory of our own under /tmp, named after the run. */
    char folder[SHORT_FOLDER_BYTES];
    short_socket_folder(run, folder);
    if (mkdir(folder, 0700) < 0 && errno == EEXIST && !is_private_folder(folder))
        snprintf(folder, sizeof folder, "%s", "/nonexistent"); /* someone else's: refuse to bind */
    snprintf(buffer, capacity, "ipc://%s/%s", folder, name);
    return buffer;
}

/* The store of a log in RocksDB: one column family a keyspace, every write synced. */
#include "infra/store/rocks_store.h"

#include <fcntl.h>
#include <rocksdb/c.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "infra/base/assert.h"
#include "infra/base/clock.h"
#include "infra/base/error.h"
#include "infra/base/fault.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/store/acked.h"

#define WRITE_BUFFER_BYTES  ((size_t)8 << 20)  /* per keyspace */
#define WRITE_BUFFERS_BYTES ((size_t)16 << 20) /* of all keyspaces together */
#define WAL_BYTES           ((uint64_t)16 << 20)
#define CACHE_BYTES         ((size_t)8 << 20)
#define FILTER_BITS         10 /* a key; of keys that are not there, 1 % look as if they were */
/* Values from this size on lie in files of their own, which compaction leaves alone. */
#define BLOB_BYTES        1024
#define READ_ONLY_TRIES   5 /* a live writer may retire a file while it is read */
#define READ_ONLY_WAIT_MS 20
#define INFO_LOG_FATAL    4
#define DIARY_BYTES       ((int64_t)2 << 20) /* room for what opening writes there */

/* The commits are in RocksDB's "default". */
static const char *const family_names[STORE_KEYSPACES] = {
    [LOG_PROMPTS] = "prompts",   [LOG_LEASES] = "leases",   [LOG_TRAJECTORIES] = "trajectories",
    [LOG_GROUPS] = "groups",     [LOG_BATCHES] = "batches", [LOG_META] = "meta",
    [LOG_PARTIALS] = "partials", [LOG_REWARDS] = "rewards", [LOG_COMMITS] = "default",
};

struct rocks_store {
    struct log_store base;
    char directory[HONE_PATH_MAX];
    bool read_only;
    rocksdb_t *db; /* NULL while closed */
    /* NULL: a log that is only read was written before there was such a keyspace. */
    rocksdb_column_family_handle_t *families[STORE_KEYSPACES];
    rocksdb_options_t *options;
    rocksdb_block_based_table_options_t *tables;
    rocksdb_cache_t *cache;
    rocksdb_writeoptions_t *write_options;
    rocksdb_readoptions_t *read_options;
    int acked_fd;
    bool disk_full;
};

static struct rocks_store *rocks(struct log_store *store)
{
    return (struct rocks_store *)(void *)store;
}

/* ---- errors ---- */

static bool mentions(const char *text, const char *const *words)
{
    for (; *words; words++) {
        if (strstr(text, *words))
            return true;
    }
    return false;
}

/* Takes RocksDB's message, which is all that its C interface says. */
static int store_error(struct rocks_store *store, const char *doing, char *message)
{
    static const char *const full[] = {"No space left",  "NoSpace",           "Disk quota exceeded",
                                       "File too large", "Max allowed space", NULL};
    static const char *const busy[] = {"Resource temporarily unavailable",
                                       "lock hold by current process", NULL};
    int rc;
    store->disk_full = mentions(message, full);
    if (store->disk_full)
        rc = error_set(HONE_ENOSPC, "%s %s: the disk is full; free some space and it goes on (%s)",
                       doing, store->directory, message);
    else if (mentions(message, busy))
        rc = error_set(HONE_EBUSY, "%s %s: another process holds this log; stop it first", doing,
                       store->directory);
    else if (text_starts_with(message, "Corruption"))
        rc = error_set(HONE_ECORRUPT, "%s %s: %s", doing, store->directory, message);
    else
        rc = error_set(HONE_EIO, "%s %s: %s", doing, store->directory, message);
    rocksdb_free(message);
    return rc;
}

/* ---- opening ---- */

/* Ids are looked up that are mostly not there (has this trajectory come before?), so each table has
 * a filter. Filters and indices live in the cache: a log of many tables takes no more memory. */
static void make_tables(struct rocks_store *store)
{
    store->cache = rocksdb_cache_create_lru(CACHE_BYTES);
    store->tables = rocksdb_block_based_options_create();
    rocksdb_block_based_options_set_block_cache(store->tables, store->cache);
    rocksdb_block_based_options_set_cache_index_and_filter_blocks(store->tables, 1);
    rocksdb_block_based_options_set_filter_policy(
        store->tables, rocksdb_filterpolicy_create_bloom_full(FILTER_BITS)); /* owned from here */
    rocksdb_options_set_block_based_table_factory(store->options, store->tables);
}

static void make_options(struct rocks_store *store)
{
    rocksdb_env_t *env = rocksdb_create_default_env();
    rocksdb_env_set_background_threads(env, 1);
    rocksdb_env_set_high_priority_background_threads(env, 1);
    rocksdb_options_t *options = rocksdb_options_create();
    rocksdb_options_set_env(options, env);
    rocksdb_env_destroy(env); /* the handle; the environment is the process's */
    rocksdb_options_set_create_if_missing(options, !store->read_only);
    rocksdb_options_set_create_missing_column_families(options, !store->read_only);
    rocksdb_options_set_wal_recovery_mode(options,
                                          rocksdb_tolerate_corrupted_tail_records_recovery);
    rocksdb_options_set_paranoid_checks(options, 1);
    rocksdb_options_set_max_background_jobs(options, 2);
    rocksdb_options_set_write_buffer_size(options, WRITE_BUFFER_BYTES);
    rocksdb_options_set_db_write_buffer_size(options, WRITE_BUFFERS_BYTES);
    rocksdb_options_set_max_total_wal_size(options, WAL_BYTES);
    rocksdb_options_set_manifest_preallocation_size(options, 64 << 10);
    rocksdb_options_set_max_open_files(options, 256);
    rocksdb_options_set_compression(options, rocksdb_no_compression);
    /* On a full disk, the second line that RocksDB fails to write to its own diary (LOG) aborts the
     * process, an assertion in Debian's build. So it writes none after opening. */
    rocksdb_options_set_info_log_level(options, INFO_LOG_FATAL);
    rocksdb_options_set_stats_dump_period_sec(options, 0);
    rocksdb_options_set_stats_persist_period_sec(options, 0);
    rocksdb_options_set_keep_log_file_num(options, 2);
#ifdef HONE_ROCKSDB_BLOBS
    rocksdb_options_set_enable_blob_files(options, 1);
    rocksdb_options_set_min_blob_size(options, BLOB_BYTES);
#endif
    store->options = options;
    make_tables(store);
    store->write_options = rocksdb_writeoptions_create();
    rocksdb_writeoptions_set_sync(store->write_options, !fault_breaks("log.sync"));
    store->read_options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_verify_checksums(store->read_options, 1);
}

static void rocks_close(struct log_store *base)
{
    struct rocks_store *store = rocks(base);
    if (!store->db)
        return;
    for (int i = 0; i < STORE_KEYSPACES; i++) {
        if (store->families[i])
            rocksdb_column_family_handle_destroy(store->families[i]);
        store->families[i] = NULL;
    }
    rocksdb_close(store->db);
    store->db = NULL;
}

/* What a log holds is read, whichever keyspaces there were when it was written. */
static char *try_open_read_only(struct rocks_store *store)
{
    const rocksdb_options_t *options[STORE_KEYSPACES];
    const char *names[STORE_KEYSPACES];
    rocksdb_column_family_handle_t *handles[STORE_KEYSPACES];
    int keyspaces[STORE_KEYSPACES], count = 0;
    size_t there;
    char *message = NULL;
    char **found = rocksdb_list_column_families(store->options, store->directory, &there, &message);
    if (message)
        return message;
    for (int i = 0; i < STORE_KEYSPACES; i++) {
        bool exists = false;
        for (size_t k = 0; k < there; k++)
            exists = exists || strcmp(found[k], family_names[i]) == 0;
        if (!exists)
            continue;
        keyspaces[count] = i;
        names[count] = family_names[i];
        options[count++] = store->options;
    }
    rocksdb_list_column_families_destroy(found, there);
    store->db = rocksdb_open_for_read_only_column_families(store->options, store->directory, count,
                                                           names, options, handles, 0, &message);
    for (int i = 0; store->db && i < count; i++)
        store->families[keyspaces[i]] = handles[i];
    return message;
}

static char *try_open(struct rocks_store *store)
{
    const rocksdb_options_t *options[STORE_KEYSPACES];
    char *message = NULL;
    for (int i = 0; i < STORE_KEYSPACES; i++)
        options[i] = store->options;
    if (store->read_only)
        message = try_open_read_only(store);
    else
        store->db = rocksdb_open_column_families(store->options, store->directory, STORE_KEYSPACES,
                                                 family_names, options, store->families, &message);
    HONE_ASSERT((store->db == NULL) == (message != NULL));
    return message;
}

static const char *file_in(const struct rocks_store *store, char buffer[HONE_PATH_MAX],
                           const char *name)
{
    return path_join(buffer, HONE_PATH_MAX, store->directory, name);
}

/* S4: a database does not even open on a full disk, so the ballast goes first. */
static bool give_ballast_back(struct rocks_store *store)
{
    char path[HONE_PATH_MAX];
    if (store->read_only || unlink(file_in(store, path, "BALLAST")) != 0)
        return false;
    log_warn("disk full: gave the %lld MB of %s back to keep the log usable",
             (long long)(ROCKS_STORE_ROOM_BYTES >> 20), path);
    return true;
}

static void keep_ballast(struct rocks_store *store)
{
    char path[HONE_PATH_MAX];
    file_in(store, path, "BALLAST");
    if (file_exists(path) || file_free_bytes(store->directory) < 2 * ROCKS_STORE_ROOM_BYTES)
        return;
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return;
    if (posix_fallocate(fd, 0, ROCKS_STORE_ROOM_BYTES) != 0)
        unlink(path);
    close(fd);
}

static int rocks_open(struct log_store *base)
{
    struct rocks_store *store = rocks(base);
    int64_t free_bytes = file_free_bytes(store->directory);
    if (store->disk_full && free_bytes >= 0 && free_bytes < ROCKS_STORE_ROOM_BYTES)
        return error_set(HONE_ENOSPC,
                         "%s: the disk is full; free %lld MB and it goes on (%lld MB are free)",
                         store->directory, (long long)(ROCKS_STORE_ROOM_BYTES >> 20),
                         (long long)(free_bytes >> 20));
    if (!store->read_only && free_bytes >= 0 && free_bytes < DIARY_BYTES &&
        !give_ballast_back(store)) {
        store->disk_full = true;
        return error_set(HONE_ENOSPC, "open %s: the disk is full", store->directory);
    }
    char *message = try_open(store);
    for (int i = 1; message && store->read_only && i < READ_ONLY_TRIES; i++) {
        rocksdb_free(message);
        clock_sleep_ms(READ_ONLY_WAIT_MS);
        message = try_open(store);
    }
    int rc = message ? store_error(store, "open", message) : 0;
    if (rc == HONE_ENOSPC && give_ballast_back(store)) {
        message = try_open(store);
        rc = message ? store_error(store, "open", message) : 0;
    }
    if (rc == 0 && !store->read_only)
        keep_ballast(store);
    if (rc == 0)
        store->disk_full = false;
    return rc;
}

/* ---- the table ---- */

static int rocks_write(struct log_store *base, const struct log_change *changes, size_t count)
{
    struct rocks_store *store = rocks(base);
    char *message = NULL;
    rocksdb_writebatch_t *batch = rocksdb_writebatch_create();
    for (size_t i = 0; i < count; i++) {
        const struct log_change *change = &changes[i];
        rocksdb_column_family_handle_t *family = store->families[change->keyspace];
        if (change->is_delete)
            rocksdb_writebatch_delete_cf(batch, family, change->key, change->key_bytes);
        else
            rocksdb_writebatch_put_cf(batch, family, change->key, change->key_bytes, change->value,
                                      change->value_bytes);
    }
    rocksdb_write(store->db, store->write_options, batch, &message);
    rocksdb_writebatch_destroy(batch);
    return message ? store_error(store, "write to", message) : 0;
}

static int rocks_get(struct log_store *base, uint32_t keyspace, const void *key, size_t key_bytes,
                     struct text *value)
{
    struct rocks_store *store = rocks(base);
    char *message = NULL;
    if (!store->families[keyspace])
        return 0;
    rocksdb_pinnableslice_t *slice = rocksdb_get_pinned_cf(
        store->db, store->read_options, store->families[keyspace], key, key_bytes, &message);
    if (message)
        return store_error(store, "read", message);
    if (!slice)
        return 0;
    if (value) {
        size_t bytes;
        const char *data = rocksdb_pinnableslice_value(slice, &bytes);
        text_clear(value);
        text_append_bytes(value, data, bytes);
    }
    rocksdb_pinnableslice_destroy(slice);
    return 1;
}

static int rocks_scan(struct log_store *base, uint32_t keyspace, run_log_visit visit, void *context)
{
    struct rocks_store *store = rocks(base);
    char *message = NULL;
    int rc = 0;
    if (!store->families[keyspace])
        return 0;
    rocksdb_iterator_t *iterator =
        rocksdb_create_iterator_cf(store->db, store->read_options, store->families[keyspace]);
    rocksdb_iter_seek_to_first(iterator);
    for (; rc == 0 && rocksdb_iter_valid(iterator); rocksdb_iter_next(iterator)) {
        size_t key_bytes, value_bytes;
        const char *key = rocksdb_iter_key(iterator, &key_bytes);
        const char *value = rocksdb_iter_value(iterator, &value_bytes);
        rc = visit(context, key, key_bytes, value, value_bytes);
    }
    rocksdb_iter_get_error(iterator, &message);
    rocksdb_iter_destroy(iterator);
    if (message && rc == 0)
        return store_error(store, "read", message);
    if (message)
        rocksdb_free(message);
    return rc;
}

static int rocks_read_acked(struct log_store *base, struct chain *acked)
{
    char path[HONE_PATH_MAX];
    return acked_read(file_in(rocks(base), path, "ACKED"), acked);
}

static int rocks_write_acked(struct log_store *base, const struct chain *acked)
{
    struct rocks_store *store = rocks(base);
    char path[HONE_PATH_MAX];
    if (store->acked_fd >= 0)
        return acked_write(store->acked_fd, acked);
    store->acked_fd = acked_open(file_in(store, path, "ACKED"), acked);
    return store->acked_fd < 0 ? store->acked_fd : 0;
}

static void rocks_destroy(struct log_store *base)
{
    struct rocks_store *store = rocks(base);
    if (store->acked_fd >= 0)
        close(store->acked_fd);
    if (store->options) {
        rocksdb_options_destroy(store->options);
        rocksdb_block_based_options_destroy(store->tables);
        rocksdb_cache_destroy(store->cache);
        rocksdb_writeoptions_destroy(store->write_options);
        rocksdb_readoptions_destroy(store->read_options);
    }
    memory_free(store);
}

int rocks_store_create(struct log_store **store, const char *directory, bool read_only)
{
    static const struct log_store_table table = {
        .open = rocks_open,
        .close = rocks_close,
        .write = rocks_write,
        .get = rocks_get,
        .scan = rocks_scan,
        .read_acked = rocks_read_acked,
        .write_acked = rocks_write_acked,
        .destroy = rocks_destroy,
    };
    struct rocks_store *made = MEMORY_NEW(struct rocks_store);
    char path[HONE_PATH_MAX];
    int rc = 0;
    *store = NULL;
    made->base.table = &table;
    made->read_only = read_only;
    made->acked_fd = -1;
    if (strlen(directory) + 16 > sizeof made->directory) {
        rc = error_set(HONE_EINVAL, "log path too long: %.80s...", directory);
        goto out;
    }
    snprintf(made->directory, sizeof made->directory, "%s", directory);
    if (read_only && !file_exists(file_in(made, path, "CURRENT")))
        rc = error_set(HONE_ENOENT, "there is no log in %s", directory);
    else if (!read_only)
        rc = file_make_directories(directory);
    if (rc < 0)
        goto out;
    make_options(made);
    *store = &made->base;
    made = NULL;
out:
    if (made)
        rocks_destroy(&made->base);
    return rc;
}

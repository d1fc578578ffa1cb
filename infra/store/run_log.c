/* A commit in order: build the batch from the staged operations, the commit record and the new
 * chain head; write it synced; note it in ACKED. A failed write leaves its outcome unknown (the
 * record may be on disk all the same), so the next commit reopens the database, reads the head that
 * is really there, and writes the staged operations again: they are idempotent. */
#include "infra/store/run_log.h"

#include <errno.h>
#include <fcntl.h>
#include <rocksdb/c.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "infra/base/assert.h"
#include "infra/base/clock.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/hash.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/store/acked.h"
#include "infra/store/chain.h"

#define WRITE_BUFFER_BYTES  ((size_t)8 << 20)  /* per keyspace */
#define WRITE_BUFFERS_BYTES ((size_t)16 << 20) /* of all keyspaces together */
#define WAL_BYTES           ((uint64_t)16 << 20)
#define CACHE_BYTES         ((size_t)8 << 20)
/* Reopening writes what the WAL holds into tables, so it may need as much room as the buffers. */
#define BALLAST_BYTES     ((int64_t)24 << 20)
#define COMMITS_KEPT      65536 /* commit records; older ones are trimmed */
#define FAMILY_COUNT      (LOG_KEYSPACE_COUNT + 1)
#define FAMILY_COMMITS    LOG_KEYSPACE_COUNT /* RocksDB's "default" */
#define READ_ONLY_TRIES   5                  /* a live writer may retire a file while it is read */
#define READ_ONLY_WAIT_MS 20
#define HEAD_KEY          "chain"
#define INFO_LOG_FATAL    4
#define DIARY_BYTES       ((int64_t)2 << 20) /* room for what opening writes there */

static const char *const family_names[FAMILY_COUNT] = {
    [LOG_PROMPTS] = "prompts",    [LOG_LEASES] = "leases",   [LOG_TRAJECTORIES] = "trajectories",
    [LOG_GROUPS] = "groups",      [LOG_BATCHES] = "batches", [LOG_META] = "meta",
    [FAMILY_COMMITS] = "default",
};

struct run_log {
    char directory[HONE_PATH_MAX];
    bool read_only;
    rocksdb_t *db; /* NULL after a failed write, until the next commit reopens it */
    rocksdb_column_family_handle_t *families[FAMILY_COUNT];
    rocksdb_options_t *options;
    rocksdb_block_based_table_options_t *tables;
    rocksdb_cache_t *cache;
    rocksdb_writeoptions_t *write_options;
    rocksdb_readoptions_t *read_options;
    struct chain chain;
    int acked_fd;
    struct text staged; /* operations: see stage() */
    bool disk_full;
};

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
static int store_error(struct run_log *log, const char *doing, char *message)
{
    static const char *const full[] = {"No space left",  "NoSpace",           "Disk quota exceeded",
                                       "File too large", "Max allowed space", NULL};
    static const char *const busy[] = {"Resource temporarily unavailable",
                                       "lock hold by current process", NULL};
    int rc;
    log->disk_full = mentions(message, full);
    if (log->disk_full)
        rc = error_set(HONE_ENOSPC, "%s %s: the disk is full; free some space and it goes on (%s)",
                       doing, log->directory, message);
    else if (mentions(message, busy))
        rc = error_set(HONE_EBUSY, "%s %s: another process holds this log; stop it first", doing,
                       log->directory);
    else if (text_starts_with(message, "Corruption"))
        rc = error_set(HONE_ECORRUPT, "%s %s: %s", doing, log->directory, message);
    else
        rc = error_set(HONE_EIO, "%s %s: %s", doing, log->directory, message);
    rocksdb_free(message);
    return rc;
}

/* ---- opening ---- */

static void make_options(struct run_log *log)
{
    rocksdb_env_t *env = rocksdb_create_default_env();
    rocksdb_env_set_background_threads(env, 1);
    rocksdb_env_set_high_priority_background_threads(env, 1);
    rocksdb_options_t *options = rocksdb_options_create();
    rocksdb_options_set_env(options, env);
    rocksdb_env_destroy(env); /* the handle; the environment is the process's */
    rocksdb_options_set_create_if_missing(options, !log->read_only);
    rocksdb_options_set_create_missing_column_families(options, !log->read_only);
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
    log->cache = rocksdb_cache_create_lru(CACHE_BYTES);
    log->tables = rocksdb_block_based_options_create();
    rocksdb_block_based_options_set_block_cache(log->tables, log->cache);
    rocksdb_options_set_block_based_table_factory(options, log->tables);
    log->options = options;
    log->write_options = rocksdb_writeoptions_create();
    rocksdb_writeoptions_set_sync(log->write_options, 1);
    log->read_options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_verify_checksums(log->read_options, 1);
}

static void close_db(struct run_log *log)
{
    if (!log->db)
        return;
    for (int i = 0; i < FAMILY_COUNT; i++)
        rocksdb_column_family_handle_destroy(log->families[i]);
    rocksdb_close(log->db);
    log->db = NULL;
}

static char *try_open(struct run_log *log)
{
    const rocksdb_options_t *options[FAMILY_COUNT];
    char *message = NULL;
    for (int i = 0; i < FAMILY_COUNT; i++)
        options[i] = log->options;
    if (log->read_only)
        log->db = rocksdb_open_for_read_only_column_families(log->options, log->directory,
                                                             FAMILY_COUNT, family_names, options,
                                                             log->families, 0, &message);
    else
        log->db = rocksdb_open_column_families(log->options, log->directory, FAMILY_COUNT,
                                               family_names, options, log->families, &message);
    HONE_ASSERT((log->db == NULL) == (message != NULL));
    return message;
}

static const char *file_in(const struct run_log *log, char buffer[HONE_PATH_MAX], const char *name)
{
    return path_join(buffer, HONE_PATH_MAX, log->directory, name);
}

/* S4: a database does not even open on a full disk, so the ballast goes first. */
static bool give_ballast_back(struct run_log *log)
{
    char path[HONE_PATH_MAX];
    if (log->read_only || unlink(file_in(log, path, "BALLAST")) != 0)
        return false;
    log_warn("disk full: gave the %lld MB of %s back to keep the log usable",
             (long long)(BALLAST_BYTES >> 20), path);
    return true;
}

static void keep_ballast(struct run_log *log)
{
    char path[HONE_PATH_MAX];
    file_in(log, path, "BALLAST");
    if (file_exists(path) || file_free_bytes(log->directory) < 2 * BALLAST_BYTES)
        return;
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return;
    if (posix_fallocate(fd, 0, BALLAST_BYTES) != 0)
        unlink(path);
    close(fd);
}

static int open_db(struct run_log *log)
{
    int64_t free_bytes = file_free_bytes(log->directory);
    if (!log->read_only && free_bytes >= 0 && free_bytes < DIARY_BYTES && !give_ballast_back(log)) {
        log->disk_full = true;
        return error_set(HONE_ENOSPC, "open %s: the disk is full", log->directory);
    }
    char *message = try_open(log);
    for (int i = 1; message && log->read_only && i < READ_ONLY_TRIES; i++) {
        rocksdb_free(message);
        clock_sleep_ms(READ_ONLY_WAIT_MS);
        message = try_open(log);
    }
    if (!message)
        return 0;
    int rc = store_error(log, "open", message);
    if (rc == HONE_ENOSPC && give_ballast_back(log)) {
        message = try_open(log);
        rc = message ? store_error(log, "open", message) : 0;
    }
    return rc;
}

/* ---- verifying ---- */

static int verify_records(struct run_log *log, const struct chain *acked, struct chain *chain)
{
    rocksdb_iterator_t *iterator =
        rocksdb_create_iterator_cf(log->db, log->read_options, log->families[FAMILY_COMMITS]);
    int rc = 0;
    rocksdb_iter_seek_to_first(iterator);
    for (; rc == 0 && rocksdb_iter_valid(iterator); rocksdb_iter_next(iterator)) {
        size_t key_bytes, record_bytes;
        const char *key = rocksdb_iter_key(iterator, &key_bytes);
        const char *record = rocksdb_iter_value(iterator, &record_bytes);
        rc = chain_verify(chain, key, key_bytes, record, record_bytes);
        if (rc == 0 && chain->sequence == acked->sequence &&
            memcmp(&chain->head, &acked->head, sizeof chain->head) != 0)
            rc = error_set(HONE_ECORRUPT, "commit %llu is not the one that was acknowledged",
                           (unsigned long long)acked->sequence);
    }
    char *message = NULL;
    rocksdb_iter_get_error(iterator, &message);
    rocksdb_iter_destroy(iterator);
    if (message && rc == 0)
        return store_error(log, "read", message);
    if (message)
        rocksdb_free(message);
    return rc;
}

/* S2: the records form a chain without a hole, which ends where the state says and no earlier than
 * the last acknowledged commit. */
static int verify(struct run_log *log, const struct chain *acked)
{
    struct chain chain = {0}, head = {0};
    struct text stored;
    text_init(&stored);
    int rc = run_log_get(log, LOG_META, HEAD_KEY, strlen(HEAD_KEY), &stored);
    if (rc == 1)
        rc = chain_head_decode(&head, stored.data, stored.length);
    text_release(&stored);
    if (rc == 0)
        rc = verify_records(log, acked, &chain);
    if (rc == 0 &&
        (chain.sequence != head.sequence || memcmp(&chain.head, &head.head, sizeof head.head) != 0))
        rc = error_set(HONE_ECORRUPT, "the state is of commit %llu, the records end at %llu",
                       (unsigned long long)head.sequence, (unsigned long long)chain.sequence);
    if (rc == 0 && chain.sequence < acked->sequence)
        rc = error_set(HONE_ECORRUPT,
                       "commits %llu to %llu were acknowledged and are gone (a file of the log was "
                       "deleted or cut); to go on without them remove its file ACKED",
                       (unsigned long long)chain.sequence + 1, (unsigned long long)acked->sequence);
    if (rc < 0)
        return error_prefix("log %s", log->directory);
    log->chain = chain;
    return 0;
}

/* Opens the database, verifies it and takes up the chain. Used again after a failed write. */
static int start(struct run_log *log)
{
    char path[HONE_PATH_MAX];
    struct chain acked;
    /* Before the database: a live writer goes on committing meanwhile. */
    int rc = acked_read(file_in(log, path, "ACKED"), &acked);
    if (rc == 0)
        rc = open_db(log);
    if (rc == 0)
        rc = verify(log, &acked);
    if (rc == 0 && !log->read_only) {
        keep_ballast(log);
        if (log->acked_fd < 0)
            log->acked_fd = acked_open(path, &log->chain);
        rc = log->acked_fd < 0 ? log->acked_fd : 0;
    }
    if (rc < 0)
        close_db(log);
    else
        log->disk_full = false;
    return rc;
}

int run_log_open(struct run_log **log, const char *directory, bool read_only)
{
    struct run_log *made = MEMORY_NEW(struct run_log);
    char path[HONE_PATH_MAX];
    int rc = 0;
    *log = NULL;
    made->read_only = read_only;
    made->acked_fd = -1;
    text_init(&made->staged);
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
    rc = start(made);
    if (rc < 0)
        goto out;
    *log = made;
    made = NULL;
out:
    run_log_close(made);
    return rc;
}

void run_log_close(struct run_log *log)
{
    if (!log)
        return;
    close_db(log);
    if (log->acked_fd >= 0)
        close(log->acked_fd);
    if (log->options) {
        rocksdb_options_destroy(log->options);
        rocksdb_block_based_options_destroy(log->tables);
        rocksdb_cache_destroy(log->cache);
        rocksdb_writeoptions_destroy(log->write_options);
        rocksdb_readoptions_destroy(log->read_options);
    }
    text_release(&log->staged);
    memory_free(log);
}

/* ---- writing ---- */

/* An operation as staged and as hashed, followed by key and value. */
struct operation {
    uint32_t keyspace;
    uint32_t is_delete;
    uint64_t key_bytes, value_bytes;
};

static void stage(struct run_log *log, enum log_keyspace keyspace, bool is_delete, const void *key,
                  size_t key_bytes, const void *value, size_t value_bytes)
{
    HONE_ASSERT((unsigned)keyspace < LOG_KEYSPACE_COUNT && !log->read_only);
    HONE_ASSERT(key_bytes > 0);
    struct operation operation = {.keyspace = keyspace,
                                  .is_delete = is_delete,
                                  .key_bytes = key_bytes,
                                  .value_bytes = value_bytes};
    text_append_bytes(&log->staged, &operation, sizeof operation);
    text_append_bytes(&log->staged, key, key_bytes);
    text_append_bytes(&log->staged, value, value_bytes);
}

void run_log_put(struct run_log *log, enum log_keyspace keyspace, const void *key, size_t key_bytes,
                 const void *value, size_t value_bytes)
{
    HONE_ASSERT(keyspace != LOG_META || key_bytes != strlen(HEAD_KEY) ||
                memcmp(key, HEAD_KEY, key_bytes) != 0);
    stage(log, keyspace, false, key, key_bytes, value, value_bytes);
}

void run_log_delete(struct run_log *log, enum log_keyspace keyspace, const void *key,
                    size_t key_bytes)
{
    stage(log, keyspace, true, key, key_bytes, NULL, 0);
}

bool run_log_has_staged(const struct run_log *log)
{
    return log->staged.length > 0;
}

static void add_operations(const struct run_log *log, rocksdb_writebatch_t *batch)
{
    size_t at = 0;
    while (at < log->staged.length) {
        struct operation operation;
        memcpy(&operation, log->staged.data + at, sizeof operation);
        const char *key = log->staged.data + at + sizeof operation;
        rocksdb_column_family_handle_t *family = log->families[operation.keyspace];
        if (operation.is_delete)
            rocksdb_writebatch_delete_cf(batch, family, key, operation.key_bytes);
        else
            rocksdb_writebatch_put_cf(batch, family, key, operation.key_bytes,
                                      key + operation.key_bytes, operation.value_bytes);
        at += sizeof operation + operation.key_bytes + operation.value_bytes;
    }
    HONE_ASSERT(at == log->staged.length);
}

static void add_chain(const struct run_log *log, const struct chain *next,
                      const struct hash *content, rocksdb_writebatch_t *batch)
{
    unsigned char key[CHAIN_KEY_BYTES], record[CHAIN_RECORD_BYTES], head[CHAIN_HEAD_BYTES];
    rocksdb_column_family_handle_t *commits = log->families[FAMILY_COMMITS];
    run_log_key_u64(next->sequence, key);
    chain_record(next, content, record);
    rocksdb_writebatch_put_cf(batch, commits, (const char *)key, sizeof key, (const char *)record,
                              sizeof record);
    chain_head_encode(next, head);
    rocksdb_writebatch_put_cf(batch, log->families[LOG_META], HEAD_KEY, strlen(HEAD_KEY),
                              (const char *)head, sizeof head);
    if (next->sequence > COMMITS_KEPT) {
        run_log_key_u64(next->sequence - COMMITS_KEPT, key);
        rocksdb_writebatch_delete_cf(batch, commits, (const char *)key, sizeof key);
    }
}

static int reopen(struct run_log *log)
{
    int64_t free_bytes = file_free_bytes(log->directory);
    if (log->disk_full && free_bytes >= 0 && free_bytes < BALLAST_BYTES)
        return error_set(
            HONE_ENOSPC, "%s: the disk is full; free %lld MB and it goes on (%lld MB are free)",
            log->directory, (long long)(BALLAST_BYTES >> 20), (long long)(free_bytes >> 20));
    int rc = start(log);
    if (rc == 0)
        log_info("log %s: works again after a failed write", log->directory);
    return rc;
}

int run_log_commit(struct run_log *log)
{
    HONE_ASSERT(!log->read_only);
    if (log->staged.length == 0)
        return 0;
    int rc = log->db ? 0 : reopen(log);
    if (rc < 0)
        return rc;
    struct hash content;
    char *message = NULL;
    hash_sha256(log->staged.data, log->staged.length, &content);
    struct chain next = chain_next(&log->chain, &content);
    rocksdb_writebatch_t *batch = rocksdb_writebatch_create();
    add_operations(log, batch);
    add_chain(log, &next, &content, batch);
    rocksdb_write(log->db, log->write_options, batch, &message);
    rocksdb_writebatch_destroy(batch);
    if (message) {
        close_db(log);
        return store_error(log, "write to", message);
    }
    log->chain = next;
    text_clear(&log->staged);
    /* The commit is durable; only the check against a shortened log is weaker. */
    if (acked_write(log->acked_fd, &next) < 0)
        log_warn("log %s: %s", log->directory, error_message());
    return 0;
}

/* ---- reading ---- */

static int check_open(const struct run_log *log)
{
    if (!log->db)
        return error_set(HONE_EIO,
                         "log %s is closed since a write failed; the next commit reopens "
                         "it",
                         log->directory);
    return 0;
}

int run_log_get(struct run_log *log, enum log_keyspace keyspace, const void *key, size_t key_bytes,
                struct text *value)
{
    HONE_ASSERT((unsigned)keyspace < LOG_KEYSPACE_COUNT);
    char *message = NULL;
    int rc = check_open(log);
    if (rc < 0)
        return rc;
    rocksdb_pinnableslice_t *slice = rocksdb_get_pinned_cf(
        log->db, log->read_options, log->families[keyspace], key, key_bytes, &message);
    if (message)
        return store_error(log, "read", message);
    if (!slice)
        return 0;
    size_t bytes;
    const char *data = rocksdb_pinnableslice_value(slice, &bytes);
    text_clear(value);
    text_append_bytes(value, data, bytes);
    rocksdb_pinnableslice_destroy(slice);
    return 1;
}

int run_log_scan(struct run_log *log, enum log_keyspace keyspace, run_log_visit visit,
                 void *context)
{
    HONE_ASSERT((unsigned)keyspace < LOG_KEYSPACE_COUNT);
    char *message = NULL;
    int rc = check_open(log);
    if (rc < 0)
        return rc;
    rocksdb_iterator_t *iterator =
        rocksdb_create_iterator_cf(log->db, log->read_options, log->families[keyspace]);
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
        return store_error(log, "read", message);
    if (message)
        rocksdb_free(message);
    return rc;
}

uint64_t run_log_sequence(const struct run_log *log)
{
    return log->chain.sequence;
}

void run_log_key_u64(uint64_t id, unsigned char key[8])
{
    for (int i = 0; i < 8; i++)
        key[i] = (unsigned char)(id >> (56 - 8 * i));
}

uint64_t run_log_u64(const void *key)
{
    const unsigned char *bytes = key;
    uint64_t id = 0;
    for (int i = 0; i < 8; i++)
        id = id << 8 | bytes[i];
    return id;
}

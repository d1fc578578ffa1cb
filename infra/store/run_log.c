/* A commit in order: build the changes from the staged operations, the commit record and the new
 * chain head; write them synced; note the head as acknowledged. A failed write leaves its outcome
 * unknown (the record may be on disk all the same), so the next commit opens the store again, reads
 * the head that is really there, and writes the staged operations again: they are idempotent. */
#include "infra/store/run_log.h"

#include <stdio.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/fault.h"
#include "infra/base/file.h"
#include "infra/base/hash.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/store/chain.h"
#include "infra/store/log_store.h"
#include "infra/store/rocks_store.h"

#define COMMITS_KEPT   65536 /* commit records; older ones are trimmed */
#define HEAD_KEY       "chain"
#define CHANGES_OF_LOG 3 /* commit record, head, an old record that goes */

struct run_log {
    char name[HONE_PATH_MAX];
    bool read_only;
    bool open; /* false after a failed write, until the next commit opens the store again */
    struct log_store *store;
    struct chain chain;
    struct text staged; /* operations: see stage() */
    size_t staged_count;
    struct log_change *changes; /* of a commit; [change_capacity] */
    size_t change_capacity;
};

/* ---- verifying ---- */

struct verification {
    struct chain acked, chain;
};

static int verify_record(void *context, const void *key, size_t key_bytes, const void *value,
                         size_t value_bytes)
{
    struct verification *seen = context;
    int rc = chain_verify(&seen->chain, key, key_bytes, value, value_bytes);
    if (rc == 0 && seen->chain.sequence == seen->acked.sequence &&
        memcmp(&seen->chain.head, &seen->acked.head, sizeof seen->chain.head) != 0)
        rc = error_set(HONE_ECORRUPT, "commit %llu is not the one that was acknowledged",
                       (unsigned long long)seen->acked.sequence);
    return rc;
}

/* Compares the chain, the stored head and the acknowledged head; takes up the chain. */
static int verify(struct run_log *log, const struct chain *acked)
{
    struct verification seen = {.acked = *acked};
    struct chain *chain = &seen.chain, head = {0};
    struct text stored;
    text_init(&stored);
    int rc = log->store->table->get(log->store, LOG_META, HEAD_KEY, strlen(HEAD_KEY), &stored);
    if (rc == 1)
        rc = chain_head_decode(&head, stored.data, stored.length);
    text_release(&stored);
    if (rc == 0)
        rc = log->store->table->scan(log->store, LOG_COMMITS, verify_record, &seen);
    if (rc == 0 && (chain->sequence != head.sequence ||
                    memcmp(&chain->head, &head.head, sizeof head.head) != 0))
        rc = error_set(HONE_ECORRUPT, "the state is of commit %llu, the records end at %llu",
                       (unsigned long long)head.sequence, (unsigned long long)chain->sequence);
    if (rc == 0 && chain->sequence < acked->sequence)
        rc =
            error_set(HONE_ECORRUPT,
                      "commits %llu to %llu were acknowledged and are gone (a file of the log was "
                      "deleted or cut); to go on without them remove its file ACKED",
                      (unsigned long long)chain->sequence + 1, (unsigned long long)acked->sequence);
    if (rc < 0)
        return error_prefix("log %s", log->name);
    log->chain = *chain;
    return 0;
}

/* Opens the store, verifies it and takes up the chain. Used again after a failed write. */
static int start(struct run_log *log)
{
    const struct log_store_table *table = log->store->table;
    struct chain acked;
    /* Before the store: a live writer goes on committing meanwhile. */
    int rc = table->read_acked(log->store, &acked);
    if (rc == 0)
        rc = table->open(log->store);
    if (rc < 0)
        return rc;
    rc = verify(log, &acked);
    if (rc == 0 && !log->read_only)
        rc = table->write_acked(log->store, &log->chain);
    if (rc < 0)
        table->close(log->store);
    log->open = rc == 0;
    return rc;
}

int run_log_open_store(struct run_log **log, struct log_store *store, const char *name,
                       bool read_only)
{
    struct run_log *made = MEMORY_NEW(struct run_log);
    *log = NULL;
    made->store = store;
    made->read_only = read_only;
    text_init(&made->staged);
    snprintf(made->name, sizeof made->name, "%s", name);
    int rc = start(made);
    if (rc == 0)
        *log = made;
    else
        run_log_close(made);
    return rc;
}

int run_log_open(struct run_log **log, const char *directory, bool read_only)
{
    struct log_store *store;
    *log = NULL;
    int rc = rocks_store_create(&store, directory, read_only);
    return rc < 0 ? rc : run_log_open_store(log, store, directory, read_only);
}

void run_log_close(struct run_log *log)
{
    if (!log)
        return;
    if (log->open)
        log->store->table->close(log->store);
    log->store->table->destroy(log->store);
    text_release(&log->staged);
    memory_free(log->changes);
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
    log->staged_count++;
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

static struct log_change *room_for(struct run_log *log, size_t count)
{
    if (count > log->change_capacity) {
        log->changes =
            memory_resize(log->changes, log->change_capacity, 2 * count, sizeof *log->changes);
        log->change_capacity = 2 * count;
    }
    return log->changes;
}

/* The staged operations as changes; returns how many. */
static size_t add_operations(struct run_log *log)
{
    struct log_change *changes = room_for(log, log->staged_count + CHANGES_OF_LOG);
    size_t at = 0, count = 0;
    while (at < log->staged.length) {
        struct operation operation;
        memcpy(&operation, log->staged.data + at, sizeof operation);
        const char *key = log->staged.data + at + sizeof operation;
        changes[count++] = (struct log_change){.keyspace = operation.keyspace,
                                               .is_delete = operation.is_delete,
                                               .key = key,
                                               .key_bytes = operation.key_bytes,
                                               .value = key + operation.key_bytes,
                                               .value_bytes = operation.value_bytes};
        at += sizeof operation + operation.key_bytes + operation.value_bytes;
    }
    HONE_ASSERT(at == log->staged.length && count == log->staged_count);
    return count;
}

/* What a commit says about itself. */
struct commit_record {
    unsigned char key[CHAIN_KEY_BYTES], record[CHAIN_RECORD_BYTES], head[CHAIN_HEAD_BYTES];
    unsigned char old_key[CHAIN_KEY_BYTES];
};

static size_t add_chain(const struct chain *next, const struct hash *content,
                        struct commit_record *commit, struct log_change changes[CHANGES_OF_LOG])
{
    run_log_key_u64(next->sequence, commit->key);
    chain_record(next, content, commit->record);
    chain_head_encode(next, commit->head);
    changes[0] = (struct log_change){.keyspace = LOG_COMMITS,
                                     .key = commit->key,
                                     .key_bytes = sizeof commit->key,
                                     .value = commit->record,
                                     .value_bytes = sizeof commit->record};
    changes[1] = (struct log_change){.keyspace = LOG_META,
                                     .key = HEAD_KEY,
                                     .key_bytes = strlen(HEAD_KEY),
                                     .value = commit->head,
                                     .value_bytes = sizeof commit->head};
    if (next->sequence <= COMMITS_KEPT)
        return 2;
    run_log_key_u64(next->sequence - COMMITS_KEPT, commit->old_key);
    changes[2] = (struct log_change){.keyspace = LOG_COMMITS,
                                     .is_delete = true,
                                     .key = commit->old_key,
                                     .key_bytes = sizeof commit->old_key};
    return 3;
}

static int reopen(struct run_log *log)
{
    int rc = start(log);
    if (rc == 0)
        log_info("log %s: works again after a failed write", log->name);
    return rc;
}

int run_log_commit(struct run_log *log)
{
    HONE_ASSERT(!log->read_only);
    if (log->staged.length == 0)
        return 0;
    int rc = log->open ? 0 : reopen(log);
    if (rc < 0)
        return rc;
    struct hash content;
    struct commit_record commit;
    const struct log_store_table *table = log->store->table;
    hash_sha256(log->staged.data, log->staged.length, &content);
    struct chain next = chain_next(&log->chain, &content);
    size_t count = add_operations(log);
    count += add_chain(&next, &content, &commit, log->changes + count);
    fault_point("log.before_write");
    rc = table->write(log->store, log->changes, count);
    fault_point("log.after_write");
    if (rc < 0) {
        table->close(log->store);
        log->open = false;
        return rc;
    }
    log->chain = next;
    text_clear(&log->staged);
    log->staged_count = 0;
    /* The commit is durable; only the check against a shortened log is weaker. */
    if (table->write_acked(log->store, &next) < 0)
        log_warn("log %s: %s", log->name, error_message());
    fault_point("log.after_acked");
    return 0;
}

/* ---- reading ---- */

static int check_open(const struct run_log *log)
{
    if (!log->open)
        return error_set(HONE_EIO,
                         "log %s is closed since a write failed; the next commit reopens "
                         "it",
                         log->name);
    return 0;
}

int run_log_get(struct run_log *log, enum log_keyspace keyspace, const void *key, size_t key_bytes,
                struct text *value)
{
    HONE_ASSERT((unsigned)keyspace < LOG_KEYSPACE_COUNT);
    int rc = check_open(log);
    return rc < 0 ? rc : log->store->table->get(log->store, keyspace, key, key_bytes, value);
}

int run_log_scan(struct run_log *log, enum log_keyspace keyspace, run_log_visit visit,
                 void *context)
{
    HONE_ASSERT((unsigned)keyspace < LOG_KEYSPACE_COUNT);
    int rc = check_open(log);
    return rc < 0 ? rc : log->store->table->scan(log->store, keyspace, visit, context);
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

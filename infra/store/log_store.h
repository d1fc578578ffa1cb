/* What a log stands on: an ordered map in keyspaces, behind a small table, so that the simulator
 * can put a disk of its own under the same log.
 *
 *  K1  A write is atomic: after any death all of it is there or none of it. One that returned 0 is
 *      there after a power cut. One that failed may be there or not.
 *  K2  A failed write closes the store; open reads what is really there.
 *  K3  The acknowledged head is kept beside the map, unsynced: it may be behind, never ahead.
 *
 * An implementation embeds struct log_store as its first member. Owned by one thread. */
#ifndef HONE_STORE_LOG_STORE_H
#define HONE_STORE_LOG_STORE_H

#include "infra/store/chain.h"
#include "infra/store/run_log.h"

#define LOG_COMMITS     LOG_KEYSPACE_COUNT /* the log's own keyspace: a record per commit */
#define STORE_KEYSPACES (LOG_KEYSPACE_COUNT + 1)

struct log_change { /* a put, or a delete of a key that may not be there */
    uint32_t keyspace;
    bool is_delete;
    const void *key, *value;
    size_t key_bytes, value_bytes;
};

struct log_store;

struct log_store_table {
    int (*open)(struct log_store *store); /* HONE_ENOSPC: too full to open; later, again */
    void (*close)(struct log_store *store);
    int (*write)(struct log_store *store, const struct log_change *changes, size_t count);
    /* 1 found (value replaced; NULL: not wanted), 0 not there. */
    int (*get)(struct log_store *store, uint32_t keyspace, const void *key, size_t key_bytes,
               struct text *value);
    int (*scan)(struct log_store *store, uint32_t keyspace, run_log_visit visit, void *context);
    int (*read_acked)(struct log_store *store, struct chain *acked); /* sequence 0: nothing known */
    int (*write_acked)(struct log_store *store, const struct chain *acked);
    void (*destroy)(struct log_store *store); /* closed */
};

struct log_store {
    const struct log_store_table *table;
};

/* A log over any store. The log owns the store from here on, also when this fails. name: for
 * messages. */
int run_log_open_store(struct run_log **log, struct log_store *store, const char *name,
                       bool read_only);

#endif

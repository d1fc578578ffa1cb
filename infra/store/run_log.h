/* The log of a run: typed keyspaces over RocksDB, one writer process.
 *
 *  S1  Writes are staged and committed as one atomic, synced batch; what run_log_commit has
 * returned 0 for survives kill -9 and a power cut. S2  Every commit carries the next sequence
 * number and a hash chained over its content; opening verifies that the chain's head matches the
 * stored state and refuses a log with a hole. S3  WAL recovery mode is "tolerate corrupted tail" (a
 * torn last write is dropped, damage in the middle is refused), never point-in-time. An unsynced
 * side file (ACKED) remembers the newest acknowledged commit: a log that lost one, say with a
 * deleted WAL, is refused too. S4  A full disk is HONE_ENOSPC with nothing half-written; a ballast
 * file can be given back to make room for the close. Keys are bytes; run_log_key_* make ordered
 * keys (big-endian). Owned by one thread. */
#ifndef HONE_STORE_RUN_LOG_H
#define HONE_STORE_RUN_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "infra/base/text.h"

enum log_keyspace {
    LOG_PROMPTS,      /* prompt_id -> PromptRecord */
    LOG_LEASES,       /* lease_id -> LeaseRecord; deleted when over */
    LOG_TRAJECTORIES, /* trajectory id -> Trajectory */
    LOG_GROUPS,       /* group_id -> GroupRecord */
    LOG_BATCHES,      /* batch number -> BatchRecord */
    LOG_META,         /* "hub" -> HubState, "chain", ... */
    LOG_PARTIALS,     /* group_id, sample, offset -> Trajectory: a piece of a rollout in progress */
    LOG_REWARDS,      /* trajectory id -> RewardRecord */
    LOG_KEYSPACE_COUNT
};

struct run_log;

/* Creates directory when missing and not read_only. HONE_EBUSY when another process holds it. */
int run_log_open(struct run_log **log, const char *directory, bool read_only);
void run_log_close(struct run_log *log);

/* Staged until run_log_commit; later writes to a key win. */
void run_log_put(struct run_log *log, enum log_keyspace keyspace, const void *key, size_t key_bytes,
                 const void *value, size_t value_bytes);
void run_log_delete(struct run_log *log, enum log_keyspace keyspace, const void *key,
                    size_t key_bytes);
bool run_log_has_staged(const struct run_log *log);
int run_log_commit(struct run_log *log);

/* Committed values only. 1 found (value replaced; NULL: only whether it is there), 0 not found,
 * negative on error. */
int run_log_get(struct run_log *log, enum log_keyspace keyspace, const void *key, size_t key_bytes,
                struct text *value);
/* Calls visit in key order; a non-zero return stops the scan and is returned. */
typedef int (*run_log_visit)(void *context, const void *key, size_t key_bytes, const void *value,
                             size_t value_bytes);
int run_log_scan(struct run_log *log, enum log_keyspace keyspace, run_log_visit visit,
                 void *context);
uint64_t run_log_sequence(const struct run_log *log);

void run_log_key_u64(uint64_t id, unsigned char key[8]); /* big-endian */
uint64_t run_log_u64(const void *key);

#endif

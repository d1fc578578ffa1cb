/* The store of a log in RocksDB (infra/store/log_store.h). A full disk is HONE_ENOSPC with nothing
 * half-written: a ballast file is given back to make room for the close, and the store opens again
 * when there is room. */
#ifndef HONE_STORE_ROCKS_STORE_H
#define HONE_STORE_ROCKS_STORE_H

#include "infra/store/log_store.h"

/* A store that met a full disk opens again when so much is free: opening writes what the
 * write-ahead log holds into tables, so it may need as much room as the buffers. The ballast is as
 * large. */
#define ROCKS_STORE_ROOM_BYTES ((int64_t)24 << 20)

/* Creates directory when missing and not read_only; opens nothing yet. HONE_ENOENT: no log there.
 */
int rocks_store_create(struct log_store **store, const char *directory, bool read_only);

#endif

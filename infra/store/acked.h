/* The file that remembers the newest acknowledged commit outside the database (S2).
 *
 * It is written after each synced commit and is not synced itself: after a power cut it may be
 * behind the log, never ahead of it, so a log that ends before it has lost acknowledged commits. A
 * torn file fails its checksum and says nothing. */
#ifndef HONE_STORE_ACKED_H
#define HONE_STORE_ACKED_H

#include "infra/store/chain.h"

/* sequence 0 when the file is missing or torn. */
int acked_read(const char *path, struct chain *acked);
/* Opens for writing and creates it with `chain`; the descriptor, or negative. */
int acked_open(const char *path, const struct chain *chain);
int acked_write(int fd, const struct chain *chain);

#endif

/* The hash chain over a log's commits (S2).
 *
 * Commit n leaves a record: key n (big-endian), value SHA-256(content n) and
 *     chain n = SHA-256(chain n-1, n, SHA-256(content n)),   chain 0 = zeros.
 * Old records may be trimmed: the oldest one left is then taken on trust, and everything after it
 * is checked against it. */
#ifndef HONE_STORE_CHAIN_H
#define HONE_STORE_CHAIN_H

#include <stddef.h>
#include <stdint.h>

#include "infra/base/hash.h"

#define CHAIN_KEY_BYTES    8
#define CHAIN_RECORD_BYTES (2 * HASH_BYTES)
#define CHAIN_HEAD_BYTES   (8 + HASH_BYTES)

struct chain {
    uint64_t sequence; /* of the last commit; 0 = none yet */
    struct hash head;
};

/* The chain after one more commit with this content. */
struct chain chain_next(const struct chain *chain, const struct hash *content);
void chain_record(const struct chain *chain, const struct hash *content,
                  unsigned char record[CHAIN_RECORD_BYTES]);
/* Checks the next stored record against the chain so far and advances it. HONE_ECORRUPT for a
 * missing commit, a broken link or a malformed record. */
int chain_verify(struct chain *chain, const void *key, size_t key_bytes, const void *record,
                 size_t record_bytes);

void chain_head_encode(const struct chain *chain, unsigned char bytes[CHAIN_HEAD_BYTES]);
int chain_head_decode(struct chain *chain, const void *data, size_t bytes);

#endif

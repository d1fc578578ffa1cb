/* Checksums and content hashes. */
#ifndef HONE_BASE_HASH_H
#define HONE_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#define HASH_BYTES    32
#define HASH_HEX_SIZE 65

struct hash {
    unsigned char bytes[HASH_BYTES];
};

/* SHA-256 (libcrypto: the CPU's own instructions where it has them), any thread. A begun state must
 * be ended: it holds memory. */
struct hash_state {
    void *context;
};
void hash_begin(struct hash_state *state);
void hash_update(struct hash_state *state, const void *data, size_t bytes);
void hash_end(struct hash_state *state, struct hash *hash);

void hash_sha256(const void *data, size_t bytes, struct hash *hash);
void hash_hex(const struct hash *hash, char hex[HASH_HEX_SIZE]);

/* 128-bit XXH3 (libxxhash): says whether bytes arrived as they were sent, at the speed of memory.
 * No secret and no identity: whoever can choose the bytes can make two that agree. */
#define CHECKSUM_BYTES 16
struct checksum {
    unsigned char bytes[CHECKSUM_BYTES];
};
struct checksum_state {
    _Alignas(64) unsigned char opaque[640];
};
void checksum_begin(struct checksum_state *state);
void checksum_update(struct checksum_state *state, const void *data, size_t bytes);
void checksum_end(struct checksum_state *state, struct checksum *checksum);
void checksum_of(const void *data, size_t bytes, struct checksum *checksum);

/* 64-bit non-cryptographic hash for ids and tables (FNV-1a with a final mix). */
uint64_t hash_u64(const void *data, size_t bytes);
/* CRC-32C (Castagnoli). Starts from 0 and continues from its own result:
 * hash_crc32c(0, "123456789", 9) = 0xE3069283. */
uint32_t hash_crc32c(uint32_t crc, const void *data, size_t bytes);
/* The same value from tables alone: what hash_crc32c does on a CPU without SSE 4.2. */
uint32_t hash_crc32c_portable(uint32_t crc, const void *data, size_t bytes);

#endif

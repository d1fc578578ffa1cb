#include "infra/base/hash.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>

/* The header carries the whole implementation: the state has a size, and no library is loaded. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "infra/base/assert.h"

#define CRC32C_POLYNOMIAL 0x82F63B78u /* 0x1EDC6F41 reflected */

static EVP_MD *sha256;
static pthread_once_t sha256_once = PTHREAD_ONCE_INIT;

/* Found once: looking an algorithm up takes longer than hashing a record. No configuration file of
 * the machine is read, and nothing runs at exit, when other threads may still hash. */
static void sha256_fetch(void)
{
    OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT, NULL);
    sha256 = EVP_MD_fetch(NULL, "SHA2-256", NULL);
    HONE_ASSERT(sha256 != NULL && EVP_MD_get_size(sha256) == HASH_BYTES);
}

/* libcrypto's digests fail in one case, memory running out, which ends the process as everywhere in
 * set-up code (infra/base/memory.h). */
void hash_begin(struct hash_state *state)
{
    pthread_once(&sha256_once, sha256_fetch);
    state->context = EVP_MD_CTX_new();
    HONE_ASSERT(state->context != NULL && EVP_DigestInit_ex2(state->context, sha256, NULL) == 1);
}

void hash_update(struct hash_state *state, const void *data, size_t bytes)
{
    HONE_ASSERT(EVP_DigestUpdate(state->context, data, bytes) == 1);
}

void hash_end(struct hash_state *state, struct hash *hash)
{
    HONE_ASSERT(EVP_DigestFinal_ex(state->context, hash->bytes, NULL) == 1);
    EVP_MD_CTX_free(state->context);
    state->context = NULL;
}

void hash_sha256(const void *data, size_t bytes, struct hash *hash)
{
    pthread_once(&sha256_once, sha256_fetch);
    HONE_ASSERT(EVP_Digest(data, bytes, hash->bytes, NULL, sha256, NULL) == 1);
}

void hash_hex(const struct hash *hash, char hex[HASH_HEX_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < HASH_BYTES; i++) {
        hex[2 * i] = digits[hash->bytes[i] >> 4];
        hex[2 * i + 1] = digits[hash->bytes[i] & 15];
    }
    hex[2 * HASH_BYTES] = '\0';
}

_Static_assert(sizeof(XXH3_state_t) <= sizeof(struct checksum_state), "room for the state");

static XXH3_state_t *xxh(struct checksum_state *state)
{
    return (XXH3_state_t *)(void *)state->opaque;
}

static void put_checksum(XXH128_hash_t hash, struct checksum *checksum)
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, hash);
    memcpy(checksum->bytes, canonical.digest, sizeof checksum->bytes);
}

void checksum_begin(struct checksum_state *state)
{
    XXH3_128bits_reset(xxh(state));
}

void checksum_update(struct checksum_state *state, const void *data, size_t bytes)
{
    XXH3_128bits_update(xxh(state), data, bytes);
}

void checksum_end(struct checksum_state *state, struct checksum *checksum)
{
    put_checksum(XXH3_128bits_digest(xxh(state)), checksum);
}

void checksum_of(const void *data, size_t bytes, struct checksum *checksum)
{
    put_checksum(XXH3_128bits(data, bytes), checksum);
}

uint64_t hash_u64(const void *data, size_t bytes)
{
    const unsigned char *p = data;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    /* FNV's high bits depend on few input bits; the final mix of MurmurHash3 spreads them. */
    h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdu;
    h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53u;
    return h ^ (h >> 33);
}

/* crc_table[k][b]: the remainder of byte b followed by k zero bytes. */
static uint32_t crc_table[8][256];
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;

static void crc_table_fill(void)
{
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t crc = b;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ ((crc & 1) ? CRC32C_POLYNOMIAL : 0);
        crc_table[0][b] = crc;
    }
    for (int k = 1; k < 8; k++) {
        for (uint32_t b = 0; b < 256; b++) {
            uint32_t before = crc_table[k - 1][b];
            crc_table[k][b] = (before >> 8) ^ crc_table[0][before & 0xff];
        }
    }
}

uint32_t hash_crc32c_portable(uint32_t crc, const void *data, size_t bytes)
{
    const unsigned char *p = data;
    pthread_once(&crc_once, crc_table_fill);
    crc = ~crc;
    for (; bytes >= 8; bytes -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        word ^= crc;
        crc = 0;
        for (int i = 0; i < 8; i++)
            crc ^= crc_table[7 - i][(word >> (8 * i)) & 0xff];
    }
    for (; bytes > 0; bytes--, p++)
        crc = (crc >> 8) ^ crc_table[0][(crc ^ *p) & 0xff];
    return ~crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc_instruction(uint32_t crc, const void *data,
                                                                  size_t bytes)
{
    const unsigned char *p = data;
    uint64_t c = (uint32_t)~crc;
    for (; bytes >= 8; bytes -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        c = __builtin_ia32_crc32di(c, word);
    }
    uint32_t tail = (uint32_t)c;
    for (; bytes > 0; bytes--, p++)
        tail = __builtin_ia32_crc32qi(tail, *p);
    return ~tail;
}
#endif

uint32_t hash_crc32c(uint32_t crc, const void *data, size_t bytes)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2"))
        return crc_instruction(crc, data, bytes);
#endif
    return hash_crc32c_portable(crc, data, bytes);
}

#include "infra/store/chain.h"

#include <string.h>

#include "infra/base/error.h"
#include "infra/store/run_log.h"

struct chain chain_next(const struct chain *chain, const struct hash *content)
{
    struct chain next = {.sequence = chain->sequence + 1};
    unsigned char number[8];
    struct hash_state state;
    run_log_key_u64(next.sequence, number);
    hash_begin(&state);
    hash_update(&state, chain->head.bytes, HASH_BYTES);
    hash_update(&state, number, sizeof number);
    hash_update(&state, content->bytes, HASH_BYTES);
    hash_end(&state, &next.head);
    return next;
}

void chain_record(const struct chain *chain, const struct hash *content,
                  unsigned char record[CHAIN_RECORD_BYTES])
{
    memcpy(record, content->bytes, HASH_BYTES);
    memcpy(record + HASH_BYTES, chain->head.bytes, HASH_BYTES);
}

int chain_verify(struct chain *chain, const void *key, size_t key_bytes, const void *record,
                 size_t record_bytes)
{
    if (key_bytes != CHAIN_KEY_BYTES || record_bytes != CHAIN_RECORD_BYTES)
        return error_set(HONE_ECORRUPT, "a commit record of %zu + %zu bytes", key_bytes,
                         record_bytes);
    struct hash content, head;
    uint64_t sequence = run_log_u64(key);
    memcpy(content.bytes, record, HASH_BYTES);
    memcpy(head.bytes, (const unsigned char *)record + HASH_BYTES, HASH_BYTES);
    if (chain->sequence == 0 && sequence > 1) {
        *chain = (struct chain){.sequence = sequence, .head = head};
        return 0;
    }
    if (sequence != chain->sequence + 1)
        return error_set(HONE_ECORRUPT, "a hole: commit %llu is missing, %llu is there",
                         (unsigned long long)chain->sequence + 1, (unsigned long long)sequence);
    *chain = chain_next(chain, &content);
    if (memcmp(chain->head.bytes, head.bytes, HASH_BYTES) != 0)
        return error_set(HONE_ECORRUPT, "commit %llu does not continue commit %llu",
                         (unsigned long long)sequence, (unsigned long long)sequence - 1);
    return 0;
}

void chain_head_encode(const struct chain *chain, unsigned char bytes[CHAIN_HEAD_BYTES])
{
    run_log_key_u64(chain->sequence, bytes);
    memcpy(bytes + 8, chain->head.bytes, HASH_BYTES);
}

int chain_head_decode(struct chain *chain, const void *data, size_t bytes)
{
    if (bytes != CHAIN_HEAD_BYTES)
        return error_set(HONE_ECORRUPT, "a chain head of %zu bytes", bytes);
    chain->sequence = run_log_u64(data);
    memcpy(chain->head.bytes, (const unsigned char *)data + 8, HASH_BYTES);
    return 0;
}

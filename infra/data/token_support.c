#include "infra/data/token_support.h"

#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"

#define FIRST_CAPACITY 256
#define NUMBER_BYTES   5 /* most of one 32-bit number */

static void reserve(struct token_support *support, size_t more)
{
    size_t capacity = support->capacity > 0 ? support->capacity : FIRST_CAPACITY;
    while (capacity - support->length < more)
        capacity *= 2;
    if (capacity == support->capacity)
        return;
    support->bytes = memory_resize(support->bytes, support->capacity, capacity, 1);
    support->capacity = capacity;
}

static void put(struct token_support *support, uint32_t number)
{
    for (; number >= 0x80; number >>= 7)
        support->bytes[support->length++] = (uint8_t)(number | 0x80);
    support->bytes[support->length++] = (uint8_t)number;
}

void token_support_add(struct token_support *support, const int32_t *ids, int64_t count)
{
    int32_t before = 0;
    HONE_ASSERT(count >= 0 && count <= INT32_MAX);
    reserve(support, (size_t)(count + 1) * NUMBER_BYTES);
    put(support, (uint32_t)count);
    for (int64_t i = 0; i < count; i++) {
        HONE_ASSERT(i == 0 ? ids[i] >= 0 : ids[i] > before);
        put(support, (uint32_t)(ids[i] - before));
        before = ids[i];
    }
}

void token_support_append(struct token_support *support, const uint8_t *bytes, size_t length)
{
    if (length == 0)
        return;
    reserve(support, length);
    memcpy(support->bytes + support->length, bytes, length);
    support->length += length;
}

void token_support_release(struct token_support *support)
{
    memory_free(support->bytes);
    memset(support, 0, sizeof *support);
}

static int take(struct support_cursor *cursor, uint32_t *number)
{
    *number = 0;
    for (int shift = 0; cursor->at < cursor->end && shift < 7 * NUMBER_BYTES; shift += 7) {
        uint8_t byte = *cursor->at++;
        if (shift == 28 && byte > 0x07)
            break; /* not below 2^31 */
        *number |= (uint32_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return 0;
    }
    return error_set(HONE_EFORMAT, "a token's support ends early or has an id that is too large");
}

/* The next id of a record, after `before`; the first one after -1. */
static int take_id(struct support_cursor *cursor, int64_t before, int64_t *id)
{
    uint32_t step;
    int rc = take(cursor, &step);
    if (rc < 0)
        return rc;
    *id = (before < 0 ? 0 : before) + (int64_t)step;
    if (*id <= before || *id > INT32_MAX)
        return error_set(HONE_EFORMAT, "a token's support has the id %lld after %lld",
                         (long long)*id, (long long)before);
    return 0;
}

int64_t token_support_next(struct support_cursor *cursor, int32_t *ids, int64_t capacity)
{
    uint32_t count;
    int64_t id = -1;
    int rc = take(cursor, &count);
    if (rc == 0 && ids && (int64_t)count > capacity)
        rc = error_set(HONE_EFORMAT, "a token's support has %u ids, at most %lld fit", count,
                       (long long)capacity);
    for (uint32_t i = 0; rc == 0 && i < count; i++) {
        rc = take_id(cursor, id, &id);
        if (rc == 0 && ids)
            ids[i] = (int32_t)id;
    }
    return rc < 0 ? rc : (int64_t)count;
}

int token_support_contains(struct support_cursor *cursor, int32_t token)
{
    uint32_t count;
    int64_t id = -1;
    int rc = take(cursor, &count);
    bool found = count == 0;
    for (uint32_t i = 0; rc == 0 && i < count; i++) {
        rc = take_id(cursor, id, &id);
        found = found || id == token;
    }
    return rc < 0 ? rc : found;
}

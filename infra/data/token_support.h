/* Which ids a sampled token was drawn from, token by token, as bytes: what top-k, top-p and min-p
 * left of the vocabulary. A record per token: how many ids (0: all, nothing was cut), the first id,
 * then the difference to the one before for each other; unsigned LEB128. About one byte an id. */
#ifndef HONE_DATA_TOKEN_SUPPORT_H
#define HONE_DATA_TOKEN_SUPPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A growing list of records; a zeroed one is empty. */
struct token_support {
    uint8_t *bytes;
    size_t length, capacity;
};

/* ids ascend, each once. */
void token_support_add(struct token_support *support, const int32_t *ids, int64_t count);
void token_support_append(struct token_support *support, const uint8_t *bytes, size_t length);
void token_support_release(struct token_support *support);

/* Where a reader is. */
struct support_cursor {
    const uint8_t *at, *end;
};

/* Moves past one record. Its ids go to `ids` unless that is NULL; a record that ends early, has
 * more than `capacity` ids, or ids that do not ascend or are not below 2^31 is HONE_EFORMAT.
 * Returns how many ids. */
int64_t token_support_next(struct support_cursor *cursor, int32_t *ids, int64_t capacity);
/* Moves past one record and says whether the token is among its ids (count 0: it is); negative as
 * above. */
int token_support_contains(struct support_cursor *cursor, int32_t token);

#endif

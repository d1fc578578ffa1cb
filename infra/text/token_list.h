/* A growing array of token ids, owned by whoever initialised it. */
#ifndef HONE_TEXT_TOKEN_LIST_H
#define HONE_TEXT_TOKEN_LIST_H

#include <stdint.h>

struct token_list {
    int32_t *ids;
    int32_t count;
    int32_t capacity;
};

void token_list_init(struct token_list *list);
void token_list_release(struct token_list *list);
void token_list_clear(struct token_list *list); /* keeps the storage */
void token_list_reserve(struct token_list *list, int32_t capacity);
void token_list_append(struct token_list *list, int32_t id);
void token_list_append_ids(struct token_list *list, const int32_t *ids, int32_t count);

#endif

#include "infra/text/token_list.h"

#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/memory.h"

void token_list_init(struct token_list *list)
{
    *list = (struct token_list){0};
}

void token_list_release(struct token_list *list)
{
    memory_free(list->ids);
    *list = (struct token_list){0};
}

void token_list_clear(struct token_list *list)
{
    list->count = 0;
}

void token_list_reserve(struct token_list *list, int32_t capacity)
{
    if (capacity <= list->capacity)
        return;
    int64_t grown = list->capacity < 32 ? 64 : (int64_t)list->capacity * 2;
    if (grown < capacity)
        grown = capacity;
    if (grown > INT32_MAX)
        grown = INT32_MAX;
    if (list->ids == NULL)
        list->ids = MEMORY_ARRAY(int32_t, grown);
    else
        list->ids =
            memory_resize(list->ids, (size_t)list->capacity, (size_t)grown, sizeof(int32_t));
    list->capacity = (int32_t)grown;
}

void token_list_append(struct token_list *list, int32_t id)
{
    HONE_ASSERT(list->count < INT32_MAX);
    if (list->count == list->capacity)
        token_list_reserve(list, list->count + 1);
    list->ids[list->count++] = id;
}

void token_list_append_ids(struct token_list *list, const int32_t *ids, int32_t count)
{
    HONE_ASSERT(count >= 0 && list->count <= INT32_MAX - count);
    if (count == 0)
        return;
    token_list_reserve(list, list->count + count);
    memcpy(list->ids + list->count, ids, (size_t)count * sizeof(int32_t));
    list->count += count;
}

#include "infra/train/example.h"

#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/memory.h"

#define LIST_CAPACITY_FIRST 64

void example_release(struct example *example)
{
    memory_free(example->tokens);
    memory_free(example->mask);
    memset(example, 0, sizeof *example);
}

int32_t example_trained_tokens(const struct example *example)
{
    int32_t tokens = 0;
    for (int32_t i = 1; i < example->count; i++)
        tokens += example->mask[i] != 0;
    return tokens;
}

void example_from_tokens(struct example *example, const int32_t *tokens, const uint8_t *mask,
                         int32_t count)
{
    example->tokens = memory_dup(tokens, (size_t)count * sizeof *tokens);
    example->mask = memory_dup(mask, (size_t)count);
    example->count = count;
    if (count > 0)
        example->mask[0] = 0;
}

int32_t example_eos(const struct tokenizer *tokenizer, const struct model_config *config)
{
    int32_t eos = tokenizer_eos(tokenizer);
    if (config->eos_count == 0 || (eos >= 0 && model_config_is_eos(config, eos)))
        return eos;
    return config->eos_ids[0];
}

/* ids with [0, untrained) masked out. */
static void from_list(struct example *example, const struct token_list *ids, int32_t untrained)
{
    example->count = ids->count;
    example->tokens = memory_dup(ids->ids, (size_t)ids->count * sizeof *ids->ids);
    example->mask = MEMORY_ARRAY(uint8_t, ids->count);
    for (int32_t i = 1; i < ids->count; i++)
        example->mask[i] = i >= untrained;
}

int example_from_pair(struct example *example, const struct tokenizer *tokenizer,
                      const char *prompt, const char *completion, int32_t eos_id)
{
    struct token_list ids;
    token_list_init(&ids);
    int rc = tokenizer_encode(tokenizer, prompt, strlen(prompt), TOKENIZE_SPECIAL, &ids);
    if (rc < 0)
        goto out;
    int32_t prompt_tokens = ids.count;
    rc = tokenizer_encode(tokenizer, completion, strlen(completion), TOKENIZE_CONTINUE, &ids);
    if (rc < 0)
        goto out;
    if (eos_id >= 0)
        token_list_append(&ids, eos_id);
    from_list(example, &ids, prompt_tokens);
    rc = 0;
out:
    token_list_release(&ids);
    return rc;
}

int example_from_spans(struct example *example, const struct tokenizer *tokenizer,
                       const struct chat_rendering *rendering)
{
    struct token_list ids, trained;
    token_list_init(&ids);
    token_list_init(&trained);
    int rc = chat_encode(rendering, tokenizer, &ids, &trained);
    if (rc < 0)
        goto out;
    HONE_ASSERT(trained.count == ids.count);
    from_list(example, &ids, ids.count);
    for (int32_t i = 1; i < ids.count; i++)
        example->mask[i] = trained.ids[i] != 0;
    rc = 0;
out:
    token_list_release(&ids);
    token_list_release(&trained);
    return rc;
}

int example_from_text(struct example_list *list, const struct tokenizer *tokenizer,
                      const char *text, int32_t eos_id, int32_t max_length)
{
    struct token_list ids;

    HONE_ASSERT(max_length >= 2);
    token_list_init(&ids);
    int rc = tokenizer_encode(tokenizer, text, strlen(text), TOKENIZE_SPECIAL, &ids);
    if (rc < 0)
        goto out;
    if (eos_id >= 0 && (ids.count == 0 || ids.ids[ids.count - 1] != eos_id))
        token_list_append(&ids, eos_id);
    for (int32_t start = 0; start + 1 < ids.count; start += max_length - 1) {
        int32_t left = ids.count - start;
        struct token_list piece = {.ids = ids.ids + start,
                                   .count = left < max_length ? left : max_length};
        struct example example;
        from_list(&example, &piece, 1);
        example_list_add(list, &example);
    }
    rc = 0;
out:
    token_list_release(&ids);
    return rc;
}

void example_list_init(struct example_list *list)
{
    memset(list, 0, sizeof *list);
}

void example_list_release(struct example_list *list)
{
    for (int64_t i = 0; i < list->count; i++)
        example_release(&list->items[i]);
    memory_free(list->items);
    memset(list, 0, sizeof *list);
}

void example_list_add(struct example_list *list, struct example *example)
{
    if (list->count == list->capacity) {
        int64_t capacity = list->capacity > 0 ? 2 * list->capacity : LIST_CAPACITY_FIRST;
        list->items = memory_resize(list->items, (size_t)list->capacity, (size_t)capacity,
                                    sizeof *list->items);
        list->capacity = capacity;
    }
    list->items[list->count++] = *example;
    memset(example, 0, sizeof *example);
}

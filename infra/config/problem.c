#include "infra/config/problem.h"

#include <stdarg.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"

void problems_init(struct problems *problems)
{
    text_init(&problems->text);
    problems->count = 0;
}

void problems_release(struct problems *problems)
{
    text_release(&problems->text);
    problems->count = 0;
}

/* Quoted input may hold line breaks and terminal escapes; a problem stays one harmless line. */
static void neutralise(char *line, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)line[i];
        if (c < 0x20 || c == 0x7f)
            line[i] = ' ';
    }
}

void problems_add(struct problems *problems, const struct source_place *place, const char *format,
                  ...)
{
    problems->count++;
    if (problems->count > PROBLEMS_MAX)
        return;
    size_t start = problems->text.length;
    text_append(&problems->text, place->source);
    if (place->line > 0)
        text_printf(&problems->text, ":%d:%d", place->line, place->column);
    text_append(&problems->text, ": ");
    va_list args;
    va_start(args, format);
    text_vprintf(&problems->text, format, args);
    va_end(args);
    neutralise(problems->text.data + start, problems->text.length - start);
    text_append_char(&problems->text, '\n');
}

int problems_result(const struct problems *problems)
{
    if (problems->count == 0)
        return 0;
    int length = (int)strcspn(problems->text.data, "\n");
    if (problems->count == 1)
        return error_set(HONE_EINVAL, "%.*s", length, problems->text.data);
    return error_set(HONE_EINVAL, "%.*s (and %d more)", length, problems->text.data,
                     problems->count - 1);
}

void place_list_add(struct place_list *list, const char *key, const struct source_place *place)
{
    if (list->count == list->capacity) {
        int32_t capacity = list->capacity ? 2 * list->capacity : 32;
        list->items =
            memory_resize(list->items, (size_t)list->count, (size_t)capacity, sizeof *list->items);
        list->capacity = capacity;
    }
    list->items[list->count++] = (struct key_place){.key = memory_strdup(key), .place = *place};
}

const struct source_place *place_list_find(const struct place_list *list, const char *key)
{
    const struct source_place *best = NULL;
    size_t best_length = 0;
    for (int32_t i = 0; i < list->count; i++) {
        const char *candidate = list->items[i].key;
        size_t length = strlen(candidate);
        if (strncmp(key, candidate, length) != 0 || (key[length] != '\0' && key[length] != '.'))
            continue;
        if (!best || length > best_length) {
            best = &list->items[i].place;
            best_length = length;
        }
    }
    return best;
}

bool place_list_has(const struct place_list *list, const char *key)
{
    for (int32_t i = 0; i < list->count; i++) {
        if (strcmp(list->items[i].key, key) == 0)
            return true;
    }
    return false;
}

bool place_list_is_bad(const struct place_list *list, const char *key)
{
    for (int32_t i = 0; i < list->count; i++) {
        if (list->items[i].bad && strcmp(list->items[i].key, key) == 0)
            return true;
    }
    return false;
}

void place_list_release(struct place_list *list)
{
    for (int32_t i = 0; i < list->count; i++)
        memory_free(list->items[i].key);
    memory_free(list->items);
    *list = (struct place_list){0};
}

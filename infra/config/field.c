#include "infra/config/field.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/memory.h"
#include "infra/base/text.h"

enum sample_enum { SAMPLE_ENUM };
_Static_assert(sizeof(enum sample_enum) == sizeof(int), "enums are stored through int");

static const char *member_const(const struct config_field *field, const void *object)
{
    return (const char *)object + field->offset;
}

void *field_member(const struct config_field *field, void *object)
{
    return (char *)object + field->offset;
}

const void *field_member_const(const struct config_field *field, const void *object)
{
    return member_const(field, object);
}

int64_t field_int(const struct config_field *field, const void *object)
{
    HONE_ASSERT(field->type == FIELD_INT);
    int64_t value;
    memcpy(&value, member_const(field, object), sizeof value);
    return value;
}

double field_float(const struct config_field *field, const void *object)
{
    HONE_ASSERT(field->type == FIELD_FLOAT);
    double value;
    memcpy(&value, member_const(field, object), sizeof value);
    return value;
}

bool field_bool(const struct config_field *field, const void *object)
{
    HONE_ASSERT(field->type == FIELD_BOOL);
    return *(const bool *)field_member_const(field, object);
}

int field_enum(const struct config_field *field, const void *object)
{
    HONE_ASSERT(field->type == FIELD_ENUM);
    int value;
    memcpy(&value, member_const(field, object), sizeof value);
    return value;
}

const char *field_string(const struct config_field *field, const void *object)
{
    HONE_ASSERT(field->type == FIELD_STRING || field->type == FIELD_PATH);
    const char *value;
    memcpy(&value, member_const(field, object), sizeof value);
    return value;
}

const struct string_list *field_strings(const struct config_field *field, const void *object)
{
    HONE_ASSERT(field->type == FIELD_STRING_LIST);
    return field_member_const(field, object);
}

struct field_table_list field_table_items(const struct config_field *field, const void *object)
{
    HONE_ASSERT(field->type == FIELD_TABLE_LIST);
    struct field_table_list list;
    memcpy(&list, member_const(field, object), sizeof list);
    return list;
}

/* The lists own their strings; const is what readers see. */
static void free_string(const char *string)
{
    memory_free((void *)(uintptr_t)string);
}

void string_list_append(struct string_list *list, const char *value)
{
    list->items = memory_resize(list->items, (size_t)list->count, (size_t)list->count + 1,
                                sizeof *list->items);
    list->items[list->count++] = memory_strdup(value);
}

void string_list_release(struct string_list *list)
{
    for (int32_t i = 0; i < list->count; i++)
        free_string(list->items[i]);
    memory_free(list->items);
    *list = (struct string_list){0};
}

bool string_list_has(const struct string_list *list, const char *value)
{
    for (int32_t i = 0; i < list->count; i++) {
        if (strcmp(list->items[i], value) == 0)
            return true;
    }
    return false;
}

static void default_list(const struct config_field *field, struct string_list *list)
{
    const char *rest = field->default_text ? field->default_text : "";
    *list = (struct string_list){0};
    while (*rest) {
        size_t length = strcspn(rest, " ");
        char *item = memory_strndup(rest, length);
        string_list_append(list, item);
        memory_free(item);
        rest += length + (rest[length] == ' ');
    }
}

void field_defaults(const struct config_field *table, void *object)
{
    char expected[FIELD_EXPECTED_MAX];
    for (const struct config_field *field = table; field->name; field++) {
        void *member = field_member(field, object);
        if (field->type == FIELD_TABLE) {
            field_defaults(field->table, member);
        } else if (field->type == FIELD_STRING_LIST) {
            default_list(field, member);
        } else if (field->type == FIELD_TABLE_LIST) {
            memset(member, 0, sizeof(struct field_table_list));
        } else {
            const char *text = field->default_text ? field->default_text : "";
            if (field->type == FIELD_STRING || field->type == FIELD_PATH)
                memset(member, 0, sizeof(char *));
            HONE_ASSERT(field_store(field, object, text, expected) == NULL);
        }
    }
}

void field_release(const struct config_field *table, void *object)
{
    for (const struct config_field *field = table; field->name; field++) {
        void *member = field_member(field, object);
        if (field->type == FIELD_TABLE) {
            field_release(field->table, member);
        } else if (field->type == FIELD_STRING_LIST) {
            string_list_release(member);
        } else if (field->type == FIELD_STRING || field->type == FIELD_PATH) {
            free_string(field_string(field, object));
            memset(member, 0, sizeof(char *));
        } else if (field->type == FIELD_TABLE_LIST) {
            struct field_table_list list = field_table_items(field, object);
            for (int32_t i = 0; i < list.count; i++)
                field_release(field->table, (char *)list.items + (size_t)i * field->item_size);
            memory_free(list.items);
            memset(member, 0, sizeof list);
        }
    }
}

const struct config_field *field_find(const struct config_field *table, const char *name)
{
    for (const struct config_field *field = table; field->name; field++) {
        if (!(field->flags & FIELD_HIDDEN) && strcmp(field->name, name) == 0)
            return field;
    }
    return NULL;
}

static bool is_index(const char *text)
{
    return text[0] != '\0' && strspn(text, "0123456789") == strlen(text);
}

/* The first part of "a.b.c", and the path goes on behind its dot; false when it is too long. */
static bool take_part(const char **path, char part[FIELD_KEY_MAX])
{
    size_t length = strcspn(*path, ".");
    if (length >= FIELD_KEY_MAX)
        return false;
    memcpy(part, *path, length);
    part[length] = '\0';
    *path += length + ((*path)[length] == '.');
    return true;
}

const struct config_field *field_find_path(const struct config_field *table, const char *path)
{
    const struct config_field *field = NULL;
    bool in_list = false; /* the next part is an index */
    while (*path) {
        char part[FIELD_KEY_MAX];
        if (!take_part(&path, part))
            return NULL;
        if (in_list && is_index(part)) {
            in_list = false;
            continue;
        }
        if (in_list || !table)
            return NULL;
        field = field_find(table, part);
        if (!field)
            return NULL;
        table = field->table;
        in_list = field->type == FIELD_TABLE_LIST || field->type == FIELD_STRING_LIST;
    }
    return field;
}

/* Writes the dotted path of a nested field named so; depth-first, first hit. */
static bool locate(const struct config_field *table, const char *name, char *path, size_t capacity)
{
    for (const struct config_field *field = table; field->name; field++) {
        if ((field->flags & FIELD_HIDDEN) || field->type != FIELD_TABLE)
            continue;
        int length = snprintf(path, capacity, "%s.", field->name);
        if (length < 0 || (size_t)length >= capacity)
            continue;
        if (field_find(field->table, name)) {
            snprintf(path + length, capacity - (size_t)length, "%s", name);
            return true;
        }
        if (locate(field->table, name, path + length, capacity - (size_t)length))
            return true;
    }
    return false;
}

const char *field_suggest(const struct config_field *table, const char *name,
                          char buffer[FIELD_KEY_MAX])
{
    const char *best = NULL;
    size_t length = strlen(name);
    if (length >= FIELD_KEY_MAX)
        return NULL;
    int limit = length <= 3 ? 1 : length <= 7 ? 2 : 3;
    for (const struct config_field *field = table; field->name; field++) {
        int distance = field->flags & FIELD_HIDDEN ? limit + 1 : text_distance(name, field->name);
        if (distance <= limit) {
            best = field->name;
            limit = distance - 1;
        }
    }
    if (best)
        return best;
    return locate(table, name, buffer, FIELD_KEY_MAX) ? buffer : NULL;
}

const char *field_type_name(const struct config_field *field)
{
    switch (field->type) {
    case FIELD_INT:
        return "integer";
    case FIELD_FLOAT:
        return "number";
    case FIELD_BOOL:
        return "true or false";
    case FIELD_STRING:
        return field->names ? "choice" : "string";
    case FIELD_PATH:
        return "path";
    case FIELD_ENUM:
        return "choice";
    case FIELD_STRING_LIST:
        return field->names ? "list of choices" : "list of strings";
    case FIELD_TABLE:
        return "table";
    case FIELD_TABLE_LIST:
        return "list of tables";
    }
    return "";
}

static const char *expect(char buffer[FIELD_EXPECTED_MAX], const char *text)
{
    snprintf(buffer, FIELD_EXPECTED_MAX, "%s", text);
    return buffer;
}

static const char *expect_range(const struct config_field *field, char buffer[FIELD_EXPECTED_MAX])
{
    struct text text;
    text_init(&text);
    text_append(&text, field->type == FIELD_INT ? "an integer" : "a number");
    if (field->max < FIELD_UNBOUNDED) {
        text_append(&text, " from ");
        text_append_number(&text, field->min);
        text_append(&text, " to ");
        text_append_number(&text, field->max);
    } else {
        text_append(&text, " of at least ");
        text_append_number(&text, field->min);
    }
    expect(buffer, text.data);
    text_release(&text);
    return buffer;
}

static const char *expect_name(const struct config_field *field, const char *value,
                               char buffer[FIELD_EXPECTED_MAX])
{
    struct text text;
    text_init(&text);
    text_append(&text, "one of ");
    const char *near = NULL;
    int limit = 2;
    for (int i = 0; field->names[i]; i++) {
        text_printf(&text, "%s%s", i ? ", " : "", field->names[i]);
        int distance = strlen(value) < 64 ? text_distance(value, field->names[i]) : limit + 1;
        if (distance <= limit) {
            near = field->names[i];
            limit = distance - 1;
        }
    }
    if (near)
        text_printf(&text, " (did you mean '%s'?)", near);
    expect(buffer, text.data);
    text_release(&text);
    return buffer;
}

static int name_index(const struct config_field *field, const char *value)
{
    for (int i = 0; field->names[i]; i++) {
        if (strcmp(field->names[i], value) == 0)
            return i;
    }
    return -1;
}

static bool parse_int(const char *text, int64_t *value)
{
    const char *digits = text + (text[0] == '-' || text[0] == '+');
    if (!is_index(digits))
        return false;
    errno = 0;
    *value = strtoll(text, NULL, 10);
    return errno == 0;
}

/* [+-] digits [. digits] [e [+-] digits]: what YAML, JSON and C agree on; no inf, nan, hex or "_".
 */
static bool parse_float(const char *text, double *value)
{
    const char *p = text + (text[0] == '-' || text[0] == '+');
    size_t whole = strspn(p, "0123456789");
    p += whole;
    size_t fraction = 0;
    if (*p == '.') {
        fraction = strspn(p + 1, "0123456789");
        p += 1 + fraction;
    }
    if (whole + fraction == 0)
        return false;
    if (*p == 'e' || *p == 'E') {
        p += 1 + (p[1] == '-' || p[1] == '+');
        size_t exponent = strspn(p, "0123456789");
        if (exponent == 0)
            return false;
        p += exponent;
    }
    if (*p != '\0')
        return false;
    *value = strtod(text, NULL);
    return isfinite(*value);
}

static void set_string(const struct config_field *field, void *object, const char *value)
{
    const char *copy = memory_strdup(value);
    free_string(field_string(field, object));
    memcpy(field_member(field, object), &copy, sizeof copy);
}

const char *field_store(const struct config_field *field, void *object, const char *value,
                        char buffer[FIELD_EXPECTED_MAX])
{
    void *member = field_member(field, object);
    int64_t integer;
    double number;
    int index;
    switch (field->type) {
    case FIELD_INT:
        if (!parse_int(value, &integer) || (double)integer < field->min ||
            (double)integer > field->max)
            return expect_range(field, buffer);
        memcpy(member, &integer, sizeof integer);
        return NULL;
    case FIELD_FLOAT:
        if (!parse_float(value, &number) || number < field->min || number > field->max)
            return expect_range(field, buffer);
        memcpy(member, &number, sizeof number);
        return NULL;
    case FIELD_BOOL:
        if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
            return expect(buffer, "true or false");
        *(bool *)member = value[0] == 't';
        return NULL;
    case FIELD_STRING:
    case FIELD_PATH:
        if (field->names && name_index(field, value) < 0)
            return expect_name(field, value, buffer);
        set_string(field, object, value);
        return NULL;
    case FIELD_ENUM:
        index = name_index(field, value);
        if (index < 0)
            return expect_name(field, value, buffer);
        memcpy(member, &index, sizeof index);
        return NULL;
    case FIELD_STRING_LIST:
        if (field->names && name_index(field, value) < 0)
            return expect_name(field, value, buffer);
        string_list_append(member, value);
        return NULL;
    case FIELD_TABLE:
    case FIELD_TABLE_LIST:
        break;
    }
    return expect(buffer, field_type_name(field));
}

bool field_store_path(const struct config_field *table, void *object, const char *path,
                      const char *value)
{
    char buffer[FIELD_EXPECTED_MAX];
    while (table) {
        char part[FIELD_KEY_MAX];
        const struct config_field *field = take_part(&path, part) ? field_find(table, part) : NULL;
        if (!field)
            return false;
        if (*path == '\0')
            return field->type != FIELD_TABLE && field->type != FIELD_TABLE_LIST &&
                   field_store(field, object, value, buffer) == NULL;
        object = field_member(field, object);
        table = field->type == FIELD_TABLE ? field->table : NULL;
    }
    return false;
}

#include "infra/config/field_reader.h"

#include <stdio.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/memory.h"

struct reader {
    const struct config_field *root;
    struct problems *problems;
    struct place_list *places;
};

static void read_table(struct reader *reader, const struct config_field *table, void *object,
                       const struct yaml_node *node, const char *prefix);

/* Both parts are names from the tables or indices, so the key fits. */
static void join_key(char path[FIELD_KEY_MAX], const char *prefix, const char *name)
{
    size_t head = strlen(prefix), tail = strlen(name);
    HONE_ASSERT(head + tail + 2 <= FIELD_KEY_MAX);
    memcpy(path, prefix, head);
    if (head > 0)
        path[head++] = '.';
    memcpy(path + head, name, tail + 1);
}

static void report_unknown(struct reader *reader, const struct config_field *table,
                           const struct yaml_node *node, const char *prefix)
{
    char buffer[FIELD_KEY_MAX];
    char path[FIELD_KEY_MAX];
    const char *name = field_suggest(table, node->key, buffer);
    if (name && field_find(table, name)) {
        snprintf(path, sizeof path, "%s", name);
    } else if (name) {
        join_key(path, prefix, name);
    } else {
        name = field_suggest(reader->root, node->key, buffer);
        snprintf(path, sizeof path, "%s", name ? name : "");
    }
    const struct source_place *place = &node->key_place;
    if (!name)
        problems_add(reader->problems, place, "unknown key '%s'%s%s", node->key,
                     *prefix ? " in " : "", prefix);
    else
        problems_add(reader->problems, place, "unknown key '%s' (did you mean '%s'?)", node->key,
                     path);
}

static const char *kind_name(const struct yaml_node *node)
{
    switch (node->kind) {
    case YAML_SCALAR:
        return "a single value";
    case YAML_LIST:
        return "a list";
    case YAML_TABLE:
        return "a table of keys";
    }
    return "";
}

static bool is_null(const struct yaml_node *node)
{
    static const char *const spellings[] = {"", "~", "null", "Null", "NULL"};
    if (node->kind != YAML_SCALAR || node->quoted)
        return false;
    for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++) {
        if (strcmp(node->text, spellings[i]) == 0)
            return true;
    }
    return false;
}

static void read_scalar(struct reader *reader, const struct config_field *field, void *object,
                        const struct yaml_node *node, const char *path)
{
    char expected[FIELD_EXPECTED_MAX];
    bool is_text =
        field->type != FIELD_INT && field->type != FIELD_FLOAT && field->type != FIELD_BOOL;
    if (node->kind != YAML_SCALAR) {
        problems_add(reader->problems, &node->place, "%s: expected one value (%s), got %s", path,
                     field_type_name(field), kind_name(node));
    } else if (is_null(node)) {
        problems_add(reader->problems, &node->place, "%s: has no value%s", path,
                     is_text ? " (\"\" is the empty string)" : "");
    } else if (node->quoted && !is_text) {
        problems_add(reader->problems, &node->place,
                     "%s: expected %s without quotes, got \"%.60s\"", path, field_type_name(field),
                     node->text);
    } else if (field_store(field, object, node->text, expected)) {
        problems_add(reader->problems, &node->place, "%s: expected %s, got '%.60s'", path, expected,
                     node->text);
    }
}

/* A single value stands for a list of one. */
static void read_strings(struct reader *reader, const struct config_field *field, void *object,
                         const struct yaml_node *node, const char *path)
{
    char item_path[FIELD_KEY_MAX];
    char index[16];
    string_list_release(field_member(field, object));
    if (node->kind == YAML_SCALAR) {
        read_scalar(reader, field, object, node, path);
    } else if (node->kind == YAML_TABLE) {
        problems_add(reader->problems, &node->place, "%s: expected a %s, got a table of keys", path,
                     field_type_name(field));
    } else {
        for (int32_t i = 0; i < node->count; i++) {
            snprintf(index, sizeof index, "%d", i);
            join_key(item_path, path, index);
            if (!node->children[i]->ignored)
                read_scalar(reader, field, object, node->children[i], item_path);
        }
    }
}

static void free_items(const struct config_field *field, void *object)
{
    struct field_table_list list = field_table_items(field, object);
    for (int32_t i = 0; i < list.count; i++)
        field_release(field->table, (char *)list.items + (size_t)i * field->item_size);
    memory_free(list.items);
    memset(field_member(field, object), 0, sizeof list);
}

static void read_table_list(struct reader *reader, const struct config_field *field, void *object,
                            const struct yaml_node *node, const char *path)
{
    if (node->kind != YAML_LIST) {
        problems_add(reader->problems, &node->place, "%s: expected a list of tables, got %s", path,
                     kind_name(node));
        return;
    }
    if (node->count > (int32_t)field->max) {
        problems_add(reader->problems, &node->place, "%s: at most %d entries, got %d", path,
                     (int)field->max, node->count);
        return;
    }
    free_items(field, object);
    struct field_table_list list = {.items = memory_alloc((size_t)node->count, field->item_size),
                                    .count = node->count};
    memcpy(field_member(field, object), &list, sizeof list);
    for (int32_t i = 0; i < node->count; i++) {
        char item_path[FIELD_KEY_MAX];
        char index[16];
        void *item = (char *)list.items + (size_t)i * field->item_size;
        const struct yaml_node *child = node->children[i];
        snprintf(index, sizeof index, "%d", i);
        join_key(item_path, path, index);
        field_defaults(field->table, item);
        place_list_add(reader->places, item_path, &child->place);
        if (!child->ignored)
            read_table(reader, field->table, item, child, item_path);
    }
}

static void read_value(struct reader *reader, const struct config_field *field, void *object,
                       const struct yaml_node *node, const char *path)
{
    switch (field->type) {
    case FIELD_TABLE:
        read_table(reader, field->table, field_member(field, object), node, path);
        break;
    case FIELD_TABLE_LIST:
        read_table_list(reader, field, object, node, path);
        break;
    case FIELD_STRING_LIST:
        read_strings(reader, field, object, node, path);
        break;
    case FIELD_INT:
    case FIELD_FLOAT:
    case FIELD_BOOL:
    case FIELD_STRING:
    case FIELD_PATH:
    case FIELD_ENUM:
        read_scalar(reader, field, object, node, path);
        break;
    }
}

static void read_table(struct reader *reader, const struct config_field *table, void *object,
                       const struct yaml_node *node, const char *prefix)
{
    if (is_null(node))
        return; /* "pools:" with nothing below it: all defaults */
    if (node->kind != YAML_TABLE) {
        problems_add(reader->problems, &node->place, "%s%sexpected a table of keys, got %s", prefix,
                     *prefix ? ": " : "", kind_name(node));
        return;
    }
    for (int32_t i = 0; i < node->count; i++) {
        const struct yaml_node *child = node->children[i];
        char path[FIELD_KEY_MAX];
        if (child->ignored)
            continue;
        const struct config_field *field = field_find(table, child->key);
        if (!field) {
            report_unknown(reader, table, child, prefix);
            continue;
        }
        join_key(path, prefix, child->key);
        int32_t index = reader->places->count, before = reader->problems->count;
        place_list_add(reader->places, path, &child->place);
        read_value(reader, field, object, child, path);
        bool holds_keys = field->type == FIELD_TABLE ||
                          (field->type == FIELD_TABLE_LIST && child->kind == YAML_LIST);
        if (!holds_keys) /* else the key that the problem belongs to is further down */
            reader->places->items[index].bad = reader->problems->count > before;
    }
}

void field_read(const struct config_field *table, void *object, const struct yaml_node *root,
                struct problems *problems, struct place_list *places)
{
    struct reader reader = {.root = table, .problems = problems, .places = places};
    if (!root->ignored)
        read_table(&reader, table, object, root, "");
}

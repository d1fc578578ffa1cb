#include "infra/config/override.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infra/base/memory.h"

#define PARTS_MAX 8

struct target {
    const struct config_field *table;
    const struct source_place *place;
    struct problems *problems;
    char key[FIELD_KEY_MAX];
    char *parts[PARTS_MAX]; /* into a copy of the key, split at the dots */
    int count;
    char copy[FIELD_KEY_MAX];
};

static const char key_characters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                     "0123456789_-.";

/* Splits "a.b.0.c"; false when it is no key at all. */
static bool split_key(struct target *target, const char *text, size_t length)
{
    if (length == 0 || length >= sizeof target->key || strspn(text, key_characters) < length)
        return false;
    memcpy(target->key, text, length);
    target->key[length] = '\0';
    memcpy(target->copy, target->key, sizeof target->copy);
    char *rest = target->copy;
    while (rest) {
        char *part = strsep(&rest, ".");
        if (*part == '\0' || target->count == PARTS_MAX)
            return false;
        target->parts[target->count++] = part;
    }
    return true;
}

/* The field at the first `count` parts of the key, NULL when unknown. */
static const struct config_field *field_at(const struct target *target, int count)
{
    char path[FIELD_KEY_MAX] = "";
    size_t length = 0;
    for (int i = 0; i < count; i++)
        length += (size_t)snprintf(path + length, sizeof path - length, "%s%s", i ? "." : "",
                                   target->parts[i]);
    return field_find_path(target->table, path);
}

/* Whether the part after the first `count` is a list's index. */
static enum yaml_kind kind_after(const struct target *target, int count)
{
    const struct config_field *field = field_at(target, count);
    bool is_element = count > 0 && strspn(target->parts[count - 1], "0123456789") ==
                                       strlen(target->parts[count - 1]);
    bool is_list = field && !is_element &&
                   (field->type == FIELD_TABLE_LIST || field->type == FIELD_STRING_LIST);
    return is_list ? YAML_LIST : YAML_TABLE;
}

/* Where in the collection the part belongs: the index of its entry, or count to append; -1
 * reported. */
static int32_t slot_of(const struct target *target, const struct yaml_node *collection,
                       const char *part)
{
    if (collection->kind == YAML_TABLE) {
        for (int32_t i = 0; i < collection->count; i++) {
            const struct yaml_node *child = collection->children[i];
            if (!child->ignored && strcmp(child->key, part) == 0)
                return i;
        }
        return collection->count;
    }
    char *end;
    long index = strtol(part, &end, 10);
    if (*end != '\0' || index < 0) {
        problems_add(target->problems, target->place,
                     "'%s' is not an index: the list has %d entries", part, collection->count);
        return -1;
    }
    if (index > collection->count) {
        problems_add(target->problems, target->place,
                     "index %ld is past the end: the list has %d entries", index,
                     collection->count);
        return -1;
    }
    return (int32_t)index;
}

/* Puts node into the slot, freeing what was there; takes node. */
static void put(struct yaml_node *collection, int32_t slot, const char *part,
                struct yaml_node *node)
{
    if (collection->kind == YAML_TABLE) {
        node->key = memory_strdup(part);
        node->key_place = node->place;
    }
    if (slot == collection->count) {
        yaml_node_append(collection, node);
    } else {
        yaml_tree_free(collection->children[slot]);
        collection->children[slot] = node;
    }
}

/* Line and column within the value would be taken for those of a file: only the text is passed on.
 */
static void pass_on(const struct target *target, const struct problems *inner)
{
    const char *line = inner->text.data;
    while (*line) {
        int length = (int)strcspn(line, "\n");
        const char *text = strstr(line, ": ") + 2;
        problems_add(target->problems, target->place, "%s: %.*s", target->key,
                     length - (int)(text - line), text);
        line += length + 1;
    }
}

static struct yaml_node *parse_value(const struct target *target, const char *value)
{
    const struct config_field *field = field_at(target, target->count);
    bool is_collection = field && kind_after(target, target->count) == YAML_LIST;
    is_collection = is_collection || (field && field->type == FIELD_TABLE);
    bool is_flow = value[0] == '"' || (is_collection && (value[0] == '[' || value[0] == '{'));
    if (!is_flow) {
        struct yaml_node *node = yaml_node_create(YAML_SCALAR, target->place);
        node->text = memory_strdup(value);
        /* An empty value is the empty string where a string belongs. */
        node->quoted =
            *value == '\0' && field && (field->type == FIELD_STRING || field->type == FIELD_PATH);
        return node;
    }
    struct problems inner;
    problems_init(&inner);
    struct yaml_node *node = yaml_tree_read("", value, strlen(value), &inner);
    pass_on(target, &inner);
    problems_release(&inner);
    return node;
}

/* Problems inside the value name the override, not a line of it. */
static void set_places(struct yaml_node *node, const struct source_place *place, int depth)
{
    node->place = *place;
    node->key_place = *place;
    for (int32_t i = 0; i < node->count && depth < YAML_DEPTH_MAX; i++)
        set_places(node->children[i], place, depth + 1);
}

/* "pools:" with nothing below it. */
static bool is_empty(const struct yaml_node *node)
{
    return node->kind == YAML_SCALAR && !node->quoted && *node->text == '\0';
}

static void apply(struct target *target, struct yaml_node *root, const char *value)
{
    struct yaml_node *collection = root;
    for (int i = 0; i < target->count; i++) {
        const char *part = target->parts[i];
        if (collection->kind == YAML_SCALAR) {
            problems_add(target->problems, target->place,
                         "%s: '%s' has no keys below it, its value is '%.60s'", target->key,
                         i ? target->parts[i - 1] : "recipe", collection->text);
            return;
        }
        int32_t slot = slot_of(target, collection, part);
        if (slot < 0)
            return;
        if (i + 1 < target->count) {
            if (slot == collection->count || is_empty(collection->children[slot]))
                put(collection, slot, part,
                    yaml_node_create(kind_after(target, i + 1), target->place));
            collection = collection->children[slot];
            continue;
        }
        struct yaml_node *node = parse_value(target, value);
        if (node) {
            set_places(node, target->place, 0);
            put(collection, slot, part, node);
        }
    }
}

void override_apply(const struct config_field *table, struct yaml_node *root, const char *text,
                    const struct source_place *place, struct problems *problems)
{
    struct target target = {.table = table, .place = place, .problems = problems};
    const char *equals = strchr(text, '=');
    if (!equals || !split_key(&target, text, (size_t)(equals - text))) {
        problems_add(problems, place, "an override is written key=value, e.g. rl.steps=200");
        return;
    }
    if (!text_is_utf8(text, strlen(text))) {
        problems_add(problems, place, "not UTF-8 text");
        return;
    }
    apply(&target, root, equals + 1);
}

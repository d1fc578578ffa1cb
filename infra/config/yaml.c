#include "infra/config/yaml.h"

#include <string.h>
#include <yaml.h>

#include "infra/base/memory.h"

struct builder {
    const char *source;
    struct problems *problems;
    struct yaml_node *root;
    struct yaml_node *stack[YAML_DEPTH_MAX]; /* open collections, outermost first */
    int depth;
    char *key; /* read, its value is next; NULL otherwise */
    struct source_place key_place;
    bool key_ignored;
    int documents;
    bool stopped; /* the rest of the input is not worth reading */
};

struct yaml_node *yaml_node_create(enum yaml_kind kind, const struct source_place *place)
{
    struct yaml_node *node = MEMORY_NEW(struct yaml_node);
    node->kind = kind;
    node->place = *place;
    return node;
}

void yaml_node_append(struct yaml_node *parent, struct yaml_node *child)
{
    if (parent->count == parent->capacity) {
        int32_t capacity = parent->capacity ? 2 * parent->capacity : 8;
        parent->children = memory_resize(parent->children, (size_t)parent->count, (size_t)capacity,
                                         sizeof(struct yaml_node *));
        parent->capacity = capacity;
    }
    parent->children[parent->count++] = child;
}

struct yaml_node *yaml_node_get(const struct yaml_node *table, const char *key)
{
    for (int32_t i = 0; i < table->count; i++) {
        struct yaml_node *child = table->children[i];
        if (!child->ignored && strcmp(child->key, key) == 0)
            return child;
    }
    return NULL;
}

/* Recursion is bounded: a tree is at most YAML_DEPTH_MAX deep, plus what overrides add. */
void yaml_tree_free(struct yaml_node *node)
{
    if (!node)
        return;
    for (int32_t i = 0; i < node->count; i++)
        yaml_tree_free(node->children[i]);
    memory_free(node->children);
    memory_free(node->key);
    memory_free(node->text);
    memory_free(node);
}

static struct source_place place_at(const struct builder *builder, const yaml_mark_t *mark)
{
    return (struct source_place){.source = builder->source,
                                 .line = (int32_t)mark->line + 1,
                                 .column = (int32_t)mark->column + 1};
}

static void stop(struct builder *builder, const struct source_place *place, const char *why)
{
    problems_add(builder->problems, place, "%s", why);
    builder->stopped = true;
}

/* The collection that the next node goes into, or NULL at the top. */
static struct yaml_node *container(const struct builder *builder)
{
    return builder->depth > 0 ? builder->stack[builder->depth - 1] : NULL;
}

/* Anchors and tags are reported where they stand; true when there is one. */
static bool has_decoration(struct builder *builder, const struct source_place *place,
                           const yaml_char_t *anchor, const yaml_char_t *tag)
{
    if (anchor)
        problems_add(builder->problems, place, "anchors (&%s) are not supported",
                     (const char *)anchor);
    if (tag)
        problems_add(builder->problems, place, "tags (%s) are not supported", (const char *)tag);
    return anchor || tag;
}

static void take_key(struct builder *builder, const struct yaml_node *table,
                     const yaml_event_t *event, const struct source_place *place)
{
    if (event->type != YAML_SCALAR_EVENT) {
        stop(builder, place, "a key must be a plain word");
        return;
    }
    const char *text = (const char *)event->data.scalar.value;
    builder->key_ignored =
        has_decoration(builder, place, event->data.scalar.anchor, event->data.scalar.tag);
    const struct yaml_node *earlier = yaml_node_get(table, text);
    if (strlen(text) != event->data.scalar.length || strlen(text) > 200) {
        stop(builder, place, "a key must be a plain word");
        return;
    }
    if (strcmp(text, "<<") == 0) {
        problems_add(builder->problems, place, "merge keys (<<) are not supported");
        builder->key_ignored = true;
    } else if (earlier) {
        problems_add(builder->problems, place, "duplicate key '%s' (first on line %d)", text,
                     earlier->key_place.line);
        builder->key_ignored = true;
    }
    builder->key = memory_strdup(text);
    builder->key_place = *place;
}

/* Puts a finished or just opened node into its parent. */
static void attach(struct builder *builder, struct yaml_node *node)
{
    struct yaml_node *parent = container(builder);
    if (!parent) {
        builder->root = node;
        return;
    }
    if (parent->kind == YAML_TABLE) {
        node->key = builder->key;
        node->key_place = builder->key_place;
        node->ignored = node->ignored || builder->key_ignored;
        builder->key = NULL;
        builder->key_ignored = false;
    }
    yaml_node_append(parent, node);
}

static void take_scalar(struct builder *builder, const yaml_event_t *event,
                        const struct source_place *place)
{
    struct yaml_node *node = yaml_node_create(YAML_SCALAR, place);
    const char *text = (const char *)event->data.scalar.value;
    node->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    node->text = memory_strdup(text);
    node->ignored =
        has_decoration(builder, place, event->data.scalar.anchor, event->data.scalar.tag);
    if (strlen(text) != event->data.scalar.length) {
        problems_add(builder->problems, place, "a string must not contain a zero byte");
        node->ignored = true;
    }
    attach(builder, node);
}

static void open_collection(struct builder *builder, enum yaml_kind kind,
                            const struct source_place *place, const yaml_char_t *anchor,
                            const yaml_char_t *tag)
{
    if (builder->depth == YAML_DEPTH_MAX) {
        stop(builder, place, "nested too deeply (more than 32 levels)");
        return;
    }
    struct yaml_node *node = yaml_node_create(kind, place);
    node->ignored = has_decoration(builder, place, anchor, tag);
    attach(builder, node);
    builder->stack[builder->depth++] = node;
}

static void take_value(struct builder *builder, const yaml_event_t *event,
                       const struct source_place *place)
{
    struct yaml_node *parent = container(builder);
    if (parent && parent->count >= YAML_ENTRIES_MAX) {
        stop(builder, place, "more than 4096 entries in one list or table");
        return;
    }
    if (parent && parent->kind == YAML_TABLE && !builder->key) {
        take_key(builder, parent, event, place);
    } else if (event->type == YAML_SCALAR_EVENT) {
        take_scalar(builder, event, place);
    } else if (event->type == YAML_SEQUENCE_START_EVENT) {
        open_collection(builder, YAML_LIST, place, event->data.sequence_start.anchor,
                        event->data.sequence_start.tag);
    } else if (event->type == YAML_MAPPING_START_EVENT) {
        open_collection(builder, YAML_TABLE, place, event->data.mapping_start.anchor,
                        event->data.mapping_start.tag);
    } else {
        struct yaml_node *node = yaml_node_create(YAML_SCALAR, place);
        problems_add(builder->problems, place, "aliases (*%s) are not supported",
                     (const char *)event->data.alias.anchor);
        node->text = memory_strdup("");
        node->ignored = true;
        attach(builder, node);
    }
}

static void take_event(struct builder *builder, const yaml_event_t *event)
{
    struct source_place place = place_at(builder, &event->start_mark);
    if (event->type == YAML_DOCUMENT_START_EVENT) {
        if (++builder->documents > 1)
            stop(builder, &place, "a recipe is one document; a second one starts here");
    } else if (event->type == YAML_SEQUENCE_END_EVENT || event->type == YAML_MAPPING_END_EVENT) {
        builder->depth--;
    } else if (event->type == YAML_SCALAR_EVENT || event->type == YAML_ALIAS_EVENT ||
               event->type == YAML_SEQUENCE_START_EVENT ||
               event->type == YAML_MAPPING_START_EVENT) {
        take_value(builder, event, &place);
    }
}

static void report_syntax(struct builder *builder, const yaml_parser_t *parser)
{
    const yaml_mark_t *mark = &parser->problem_mark;
    struct source_place place = place_at(builder, mark);
    const char *problem = parser->problem ? parser->problem : "not readable as YAML";
    if (parser->error == YAML_READER_ERROR) {
        /* The reader knows bytes, not lines; it fails before the scanner gets there. */
        place = place_at(builder, &parser->mark);
        problems_add(builder->problems, &place, "%s near byte %zu", problem,
                     parser->problem_offset);
    } else {
        problems_add(builder->problems, &place, "%s%s%s", parser->context ? parser->context : "",
                     parser->context ? ": " : "", problem);
    }
    builder->stopped = true;
}

static void read_events(struct builder *builder, yaml_parser_t *parser)
{
    bool ended = false;
    while (!ended && !builder->stopped) {
        yaml_event_t event;
        if (!yaml_parser_parse(parser, &event)) {
            report_syntax(builder, parser);
            return;
        }
        take_event(builder, &event);
        ended = event.type == YAML_STREAM_END_EVENT;
        yaml_event_delete(&event);
    }
}

struct yaml_node *yaml_tree_read(const char *source, const char *data, size_t bytes,
                                 struct problems *problems)
{
    struct builder builder = {.source = source, .problems = problems};
    struct source_place start = {.source = source, .line = 1, .column = 1};
    yaml_parser_t parser;
    if (bytes > YAML_BYTES_MAX) {
        problems_add(problems, &start, "larger than %d bytes", YAML_BYTES_MAX);
        return NULL;
    }
    if (!text_is_utf8(data, bytes)) {
        problems_add(problems, &start, "not UTF-8 text");
        return NULL;
    }
    if (bytes >= 3 && memcmp(data, "\xEF\xBB\xBF", 3) == 0) {
        data += 3;
        bytes -= 3;
    }
    if (!yaml_parser_initialize(&parser)) {
        problems_add(problems, &start, "not enough memory to parse");
        return NULL;
    }
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser, (const unsigned char *)data, bytes);
    read_events(&builder, &parser);
    yaml_parser_delete(&parser);
    memory_free(builder.key);
    if (builder.stopped) {
        yaml_tree_free(builder.root);
        return NULL;
    }
    return builder.root ? builder.root : yaml_node_create(YAML_TABLE, &start);
}

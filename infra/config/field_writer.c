#include "infra/config/field_writer.h"

#include <stdio.h>
#include <string.h>

#include "infra/base/assert.h"

#define SPACES_PER_LEVEL 2

/* Letters, digits and a few marks that mean nothing to YAML, not starting with a mark that does,
 * and not a spelling of null. */
static bool is_plain(const char *string)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    static const char inside[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                 "_./-";
    if (string[0] == '\0' || (!strchr(letters, string[0]) && !strchr("./_", string[0])))
        return false;
    return strspn(string, inside) == strlen(string) && strcmp(string, "null") != 0 &&
           strcmp(string, "Null") != 0 && strcmp(string, "NULL") != 0;
}

/* Decodes one code point of valid UTF-8 and returns its length. */
static size_t decode(const char *p, uint32_t *codepoint)
{
    const unsigned char *u = (const unsigned char *)p;
    if (u[0] < 0x80) {
        *codepoint = u[0];
        return 1;
    }
    size_t length = u[0] < 0xE0 ? 2 : u[0] < 0xF0 ? 3 : 4;
    *codepoint = u[0] & (0xFFu >> (length + 1));
    for (size_t i = 1; i < length; i++)
        *codepoint = *codepoint << 6 | (u[i] & 0x3Fu);
    return length;
}

/* What YAML counts as printable, less the line separators, the no-break space and the byte order
 * mark, which a reader may fold or drop. */
static bool is_printable(uint32_t c)
{
    return (c >= 0x20 && c < 0x7F) || (c > 0xA0 && c < 0x2028) || (c > 0x2029 && c < 0xD800) ||
           (c >= 0xE000 && c < 0xFEFF) || (c > 0xFEFF && c < 0xFFFE) || c >= 0x10000;
}

void field_write_string(const char *string, struct text *text)
{
    if (is_plain(string)) {
        text_append(text, string);
        return;
    }
    text_append_char(text, '"');
    while (*string) {
        uint32_t c;
        size_t length = decode(string, &c);
        if (c == '\n')
            text_append(text, "\\n");
        else if (c == '\t')
            text_append(text, "\\t");
        else if (c == '"' || c == '\\')
            text_printf(text, "\\%c", (int)c);
        else if (is_printable(c))
            text_append_bytes(text, string, length);
        else
            text_printf(text, c < 0x100 ? "\\x%02x" : "\\u%04x", (unsigned)c);
        string += length;
    }
    text_append_char(text, '"');
}

static void write_strings(const struct string_list *list, struct text *text)
{
    text_append_char(text, '[');
    for (int32_t i = 0; i < list->count; i++) {
        text_append(text, i ? ", " : "");
        field_write_string(list->items[i], text);
    }
    text_append_char(text, ']');
}

static void write_scalar(const struct config_field *field, const void *object, struct text *text)
{
    switch (field->type) {
    case FIELD_INT:
        text_printf(text, "%lld", (long long)field_int(field, object));
        break;
    case FIELD_FLOAT:
        text_append_number(text, field_float(field, object));
        break;
    case FIELD_BOOL:
        text_append(text, field_bool(field, object) ? "true" : "false");
        break;
    case FIELD_STRING:
    case FIELD_PATH:
        field_write_string(field_string(field, object), text);
        break;
    case FIELD_ENUM:
        text_append(text, field->names[field_enum(field, object)]);
        break;
    case FIELD_STRING_LIST:
        write_strings(field_strings(field, object), text);
        break;
    case FIELD_TABLE:
    case FIELD_TABLE_LIST:
        HONE_ASSERT(!"a table is not a scalar");
    }
}

static bool is_written(const struct config_field *field, unsigned skip_flags)
{
    return !(field->flags & (FIELD_HIDDEN | skip_flags));
}

static void write_table(const struct config_field *table, const void *object, unsigned skip_flags,
                        int indent, struct text *text);

/* "- " takes the place of the first field's indentation. */
static void write_table_list(const struct config_field *field, const void *object,
                             unsigned skip_flags, int indent, struct text *text)
{
    struct field_table_list list = field_table_items(field, object);
    text_append(text, list.count ? "\n" : " []\n");
    for (int32_t i = 0; i < list.count; i++) {
        size_t start = text->length;
        const char *item = (const char *)list.items + (size_t)i * field->item_size;
        write_table(field->table, item, skip_flags, indent + 2 * SPACES_PER_LEVEL, text);
        HONE_ASSERT(text->length > start);
        text->data[start + (size_t)indent + SPACES_PER_LEVEL] = '-';
    }
}

static void write_table(const struct config_field *table, const void *object, unsigned skip_flags,
                        int indent, struct text *text)
{
    for (const struct config_field *field = table; field->name; field++) {
        if (!is_written(field, skip_flags))
            continue;
        text_printf(text, "%*s%s:", indent, "", field->name);
        if (field->type == FIELD_TABLE) {
            text_append_char(text, '\n');
            write_table(field->table, field_member_const(field, object), skip_flags,
                        indent + SPACES_PER_LEVEL, text);
        } else if (field->type == FIELD_TABLE_LIST) {
            write_table_list(field, object, skip_flags, indent, text);
        } else {
            text_append_char(text, ' ');
            write_scalar(field, object, text);
            text_append_char(text, '\n');
        }
    }
}

void field_write_yaml(const struct config_field *table, const void *object, unsigned skip_flags,
                      struct text *text)
{
    write_table(table, object, skip_flags, 0, text);
}

static void write_json(const char *string, struct text *text)
{
    text_append_json_string(text, string, strlen(string));
}

static void write_names(const struct config_field *field, struct text *text)
{
    if (!field->names)
        return;
    text_append(text, ",\"enum\":[");
    for (int i = 0; field->names[i]; i++) {
        text_append(text, i ? "," : "");
        write_json(field->names[i], text);
    }
    text_append_char(text, ']');
}

static void write_schema_range(const struct config_field *field, struct text *text)
{
    text_append(text, ",\"minimum\":");
    text_append_number(text, field->min);
    if (field->max < FIELD_UNBOUNDED) {
        text_append(text, ",\"maximum\":");
        text_append_number(text, field->max);
    }
    text_printf(text, ",\"default\":%s", field->default_text);
}

static void write_schema_list(const struct config_field *field, struct text *text)
{
    text_append(text, "\"type\":[\"array\",\"string\"],\"items\":{\"type\":\"string\"");
    write_names(field, text);
    text_append(text, "},\"default\":[");
    const char *rest = field->default_text ? field->default_text : "";
    for (bool first = true; *rest; first = false) {
        size_t length = strcspn(rest, " ");
        text_append(text, first ? "" : ",");
        text_append_json_string(text, rest, length);
        rest += length + (rest[length] == ' ');
    }
    text_append_char(text, ']');
}

static void write_schema_field(const struct config_field *field, struct text *text)
{
    switch (field->type) {
    case FIELD_INT:
    case FIELD_FLOAT:
        text_printf(text, "\"type\":\"%s\"", field->type == FIELD_INT ? "integer" : "number");
        write_schema_range(field, text);
        break;
    case FIELD_BOOL:
        text_printf(text, "\"type\":\"boolean\",\"default\":%s", field->default_text);
        break;
    case FIELD_STRING:
    case FIELD_PATH:
    case FIELD_ENUM:
        text_append(text, "\"type\":\"string\"");
        write_names(field, text);
        text_append(text, ",\"default\":");
        write_json(field->default_text ? field->default_text : "", text);
        break;
    case FIELD_STRING_LIST:
        write_schema_list(field, text);
        break;
    case FIELD_TABLE_LIST:
        text_printf(text, "\"type\":\"array\",\"maxItems\":%d,\"items\":{", (int)field->max);
        field_write_schema(field->table, text);
        text_append_char(text, '}');
        break;
    case FIELD_TABLE:
        field_write_schema(field->table, text);
        break;
    }
}

void field_write_schema(const struct config_field *table, struct text *text)
{
    bool first = true;
    text_append(text, "\"type\":\"object\",\"additionalProperties\":false,\"properties\":{");
    for (const struct config_field *field = table; field->name; field++) {
        if (!is_written(field, 0))
            continue;
        text_append(text, first ? "\n" : ",\n");
        first = false;
        write_json(field->name, text);
        text_append(text, ":{");
        write_schema_field(field, text);
        text_append(text, ",\"description\":");
        write_json(field->help, text);
        text_append_char(text, '}');
    }
    text_append_char(text, '}');
}

static void write_reference_range(const struct config_field *field, struct text *text)
{
    if (field->names) {
        for (int i = 0; field->names[i]; i++)
            text_printf(text, "%s`%s`", i ? ", " : "", field->names[i]);
    } else if (field->type == FIELD_INT || field->type == FIELD_FLOAT) {
        text_append_number(text, field->min);
        text_append(text, field->max < FIELD_UNBOUNDED ? " to " : " and up");
        if (field->max < FIELD_UNBOUNDED)
            text_append_number(text, field->max);
    }
}

static void write_reference_default(const struct config_field *field, struct text *text)
{
    const char *value = field->default_text ? field->default_text : "";
    if (field->type == FIELD_STRING_LIST || field->type == FIELD_TABLE_LIST) {
        text_append(text, "`[");
        for (; *value; value++) {
            if (*value == ' ')
                text_append(text, ", ");
            else
                text_append_char(text, *value);
        }
        text_append(text, "]`");
    } else if (*value == '\0') {
        text_append(text, "`\"\"`");
    } else {
        text_printf(text, "`%s`", value);
    }
}

static void write_reference_row(const struct config_field *field, const char *prefix,
                                struct text *text)
{
    text_printf(text, "| `%s%s%s` | %s | ", prefix, *prefix ? "." : "", field->name,
                field_type_name(field));
    write_reference_default(field, text);
    text_append(text, " | ");
    write_reference_range(field, text);
    text_printf(text, "%s%s | ", field->unit ? " " : "", field->unit ? field->unit : "");
    for (const char *c = field->help; *c; c++) {
        if (*c == '|')
            text_append_char(text, '\\');
        text_append_char(text, *c);
    }
    text_append(text, " |\n");
}

void field_write_reference(const struct config_field *table, const char *prefix, struct text *text)
{
    bool has_rows = false;
    for (const struct config_field *field = table; field->name; field++) {
        if (!is_written(field, 0) || field->type == FIELD_TABLE)
            continue;
        if (!has_rows)
            text_append(text,
                        "\n| Key | Type | Default | Range | Meaning |\n|---|---|---|---|---|\n");
        has_rows = true;
        write_reference_row(field, prefix, text);
    }
    for (const struct config_field *field = table; field->name; field++) {
        if (!is_written(field, 0) || !field->table)
            continue;
        char path[FIELD_KEY_MAX];
        snprintf(path, sizeof path, "%s%s%s%s", prefix, *prefix ? "." : "", field->name,
                 field->type == FIELD_TABLE_LIST ? ".N" : "");
        text_printf(text, "\n## %s\n\n%s\n", path, field->help);
        field_write_reference(field->table, path, text);
    }
}

/* Tables of fields: what a struct's members are called in YAML, their types, defaults, ranges and
 * help. Reader, printer, overrides, JSON schema and reference page are all driven by these tables.
 *
 * Member types by field type:
 *   FIELD_INT int64_t    FIELD_FLOAT double   FIELD_BOOL bool      FIELD_ENUM any enum, or int
 *   FIELD_STRING, FIELD_PATH  const char *, never NULL
 *   FIELD_STRING_LIST         struct string_list
 *   FIELD_TABLE               the nested struct itself
 *   FIELD_TABLE_LIST          struct { struct x *items; int32_t count; }
 *
 * 1. A table ends with a field whose name is NULL.
 * 2. Defaults obey their own type, names and range; field_defaults asserts it.
 * 3. Enum values are 0, 1, 2 ... in the order of `names`.
 * 4. Strings and lists in a struct are owned by it; field_release frees them and zeroes the struct.
 */
#ifndef HONE_CONFIG_FIELD_H
#define HONE_CONFIG_FIELD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum field_type {
    FIELD_INT,
    FIELD_FLOAT,
    FIELD_BOOL,
    FIELD_STRING,
    FIELD_PATH,
    FIELD_ENUM,
    FIELD_STRING_LIST,
    FIELD_TABLE,
    FIELD_TABLE_LIST
};

enum field_flags {
    FIELD_UNHASHED = 1, /* never changes what is computed; inherited by a table's fields */
    FIELD_HIDDEN = 2    /* has its default and no key: not settable, printed or documented */
};

struct string_list {
    const char **items;
    int32_t count;
};

struct config_field {
    const char *name;
    enum field_type type;
    size_t offset;
    const char *default_text; /* list: elements separated by spaces; NULL is "" */
    double min, max;          /* INT, FLOAT inclusive; TABLE_LIST: count at most max */
    const char *const *names; /* ENUM; STRING, STRING_LIST: allowed values; NULL-terminated */
    const struct config_field *table; /* TABLE, TABLE_LIST */
    size_t item_size;                 /* TABLE_LIST */
    const char *unit;                 /* "tokens", "s"; NULL none */
    const char *help;
    unsigned flags;
};

#define FIELD_UNBOUNDED 1e15 /* a max of this means none worth naming */
#define FIELD_KEY_MAX   128  /* "rl.sampling.max_completion_tokens" */

void field_defaults(const struct config_field *table, void *object);
void field_release(const struct config_field *table, void *object);

/* The settable field of that name, or NULL. */
const struct config_field *field_find(const struct config_field *table, const char *name);
/* Follows "a.b.0.c"; NULL when there is no such key. */
const struct config_field *field_find_path(const struct config_field *table, const char *path);
/* The name a user may have meant, or NULL: a near name in the table; else, written into buffer, the
 * path of a nested field with exactly that name. */
const char *field_suggest(const struct config_field *table, const char *name,
                          char buffer[FIELD_KEY_MAX]);
/* "integer", "number", "true or false", "string", "choice", "list of strings", ... */
const char *field_type_name(const struct config_field *field);

/* Access to members by type. */
int64_t field_int(const struct config_field *field, const void *object);
double field_float(const struct config_field *field, const void *object);
bool field_bool(const struct config_field *field, const void *object);
int field_enum(const struct config_field *field, const void *object);
const char *field_string(const struct config_field *field, const void *object);
const struct string_list *field_strings(const struct config_field *field, const void *object);
/* The nested struct; const and not. */
void *field_member(const struct config_field *field, void *object);
const void *field_member_const(const struct config_field *field, const void *object);

/* What a TABLE_LIST member looks like, whatever its element type. */
struct field_table_list {
    void *items;
    int32_t count;
};
struct field_table_list field_table_items(const struct config_field *field, const void *object);

/* Checks a scalar's text against the field's type, names and range and stores it; a STRING_LIST
 * gets one more element. NULL, or what was expected, e.g. "an integer of at least 2", in buffer;
 * the member is unchanged then. */
#define FIELD_EXPECTED_MAX 256
const char *field_store(const struct config_field *field, void *object, const char *value,
                        char buffer[FIELD_EXPECTED_MAX]);

/* The same for the member at "a.b.c" (no lists of tables); false when there is none or the value is
 * not one of its own. */
bool field_store_path(const struct config_field *table, void *object, const char *path,
                      const char *value);

void string_list_append(struct string_list *list, const char *value);
void string_list_release(struct string_list *list);
bool string_list_has(const struct string_list *list, const char *value);

#endif

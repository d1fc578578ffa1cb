/* Reading JSON files and the fields of JSON objects with errors that say where: every function
 * takes `where`, the path to the object inside its file ("pre_tokenizer.pretokenizers[1]").
 * An absent field and a null are the same. Values borrow from the parsed document. */
#ifndef HONE_TEXT_JSON_FIELD_H
#define HONE_TEXT_JSON_FIELD_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JSON_FIELD_WHERE_MAX 160

/* Parses a whole file whose top is an object; the caller json_decrefs it. The message names the
 * path, and the line where parsing stopped. */
int json_field_load(const char *path, size_t limit_bytes, json_t **document);

/* Required fields. */
int json_field_string(const json_t *object, const char *where, const char *key, const char **value);
int json_field_object(const json_t *object, const char *where, const char *key, json_t **value);
int json_field_array(const json_t *object, const char *where, const char *key, json_t **value);
int json_field_int(const json_t *object, const char *where, const char *key, int64_t low,
                   int64_t high, int64_t *value);

/* Optional fields. */
int json_field_string_or(const json_t *object, const char *where, const char *key,
                         const char *fallback, const char **value);
int json_field_bool_or(const json_t *object, const char *where, const char *key, bool fallback,
                       bool *value);

/* "object", "array", "string", "integer", "real", "boolean" or "null". */
const char *json_field_type_name(const json_t *value);

#endif

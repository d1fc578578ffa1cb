#include "infra/text/json_field.h"

#include <inttypes.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"

int json_field_load(const char *path, size_t limit_bytes, json_t **document)
{
    *document = NULL;
    char *data = NULL;
    size_t bytes = 0;
    int rc = file_read(path, limit_bytes, &data, &bytes);
    if (rc < 0)
        return rc;
    json_error_t error;
    json_t *root = json_loadb(data, bytes, JSON_REJECT_DUPLICATES, &error);
    memory_free(data);
    if (root == NULL)
        return error_set(HONE_EFORMAT, "%s line %d: %s", path, error.line, error.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return error_set(HONE_EFORMAT, "%s: an object is expected at the top", path);
    }
    *document = root;
    return 0;
}

const char *json_field_type_name(const json_t *value)
{
    if (value == NULL)
        return "null";
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "object";
    case JSON_ARRAY:
        return "array";
    case JSON_STRING:
        return "string";
    case JSON_INTEGER:
        return "integer";
    case JSON_REAL:
        return "real";
    case JSON_TRUE:
    case JSON_FALSE:
        return "boolean";
    case JSON_NULL:
        break;
    }
    return "null";
}

static int wrong_type(const char *where, const char *key, const char *expected, const json_t *value)
{
    if (value == NULL)
        return error_set(HONE_EFORMAT, "%s: \"%s\" is missing (%s expected)", where, key, expected);
    return error_set(HONE_EFORMAT, "%s: \"%s\" is of type %s, %s expected", where, key,
                     json_field_type_name(value), expected);
}

int json_field_string(const json_t *object, const char *where, const char *key, const char **value)
{
    const json_t *found = json_object_get(object, key);
    if (!json_is_string(found))
        return wrong_type(where, key, "string", found);
    *value = json_string_value(found);
    return 0;
}

int json_field_object(const json_t *object, const char *where, const char *key, json_t **value)
{
    *value = json_object_get(object, key);
    if (!json_is_object(*value))
        return wrong_type(where, key, "object", *value);
    return 0;
}

int json_field_array(const json_t *object, const char *where, const char *key, json_t **value)
{
    *value = json_object_get(object, key);
    if (!json_is_array(*value))
        return wrong_type(where, key, "array", *value);
    return 0;
}

int json_field_int(const json_t *object, const char *where, const char *key, int64_t low,
                   int64_t high, int64_t *value)
{
    const json_t *found = json_object_get(object, key);
    if (!json_is_integer(found))
        return wrong_type(where, key, "integer", found);
    *value = json_integer_value(found);
    if (*value < low || *value > high)
        return error_set(HONE_EFORMAT, "%s: \"%s\" is %" PRId64 ", outside %" PRId64 " to %" PRId64,
                         where, key, *value, low, high);
    return 0;
}

int json_field_string_or(const json_t *object, const char *where, const char *key,
                         const char *fallback, const char **value)
{
    const json_t *found = json_object_get(object, key);
    if (found == NULL || json_is_null(found)) {
        *value = fallback;
        return 0;
    }
    return json_field_string(object, where, key, value);
}

int json_field_bool_or(const json_t *object, const char *where, const char *key, bool fallback,
                       bool *value)
{
    const json_t *found = json_object_get(object, key);
    *value = fallback;
    if (found == NULL || json_is_null(found))
        return 0;
    if (!json_is_boolean(found))
        return wrong_type(where, key, "boolean", found);
    *value = json_is_true(found);
    return 0;
}

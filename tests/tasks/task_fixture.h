/* A temporary directory, and the rows of a JSON-lines file in it. */
#ifndef HONE_TESTS_TASK_FIXTURE_H
#define HONE_TESTS_TASK_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"

static char fixture_root[64];

static inline int fixture_set_up(void **state)
{
    (void)state;
    snprintf(fixture_root, sizeof fixture_root, "/tmp/hone_tasks_XXXXXX");
    return mkdtemp(fixture_root) != NULL ? 0 : -1;
}

static inline int fixture_tear_down(void **state)
{
    (void)state;
    return file_remove_tree(fixture_root);
}

static inline const char *fixture_path(const char *name)
{
    static char paths[16][HONE_PATH_MAX];
    static int next;
    next = (next + 1) % 16;
    return path_join(paths[next], sizeof paths[next], fixture_root, name);
}

static inline const char *fixture_write(const char *name, const char *content)
{
    const char *path = fixture_path(name);
    assert_int_equal(file_write_atomic(path, content, strlen(content)), 0);
    return path;
}

/* memory_free it. */
static inline char *fixture_read(const char *path)
{
    char *data;
    size_t bytes;
    if (file_read(path, 64 << 20, &data, &bytes) < 0)
        fail_msg("%s", error_message());
    assert_int_equal(strlen(data), bytes);
    return data;
}

/* Every line must be an object; json_decref the array. */
static inline json_t *fixture_rows(const char *path)
{
    char *data = fixture_read(path);
    json_t *rows = json_array();
    for (char *line = data, *end; *line != '\0'; line = end + 1) {
        end = strchr(line, '\n');
        assert_non_null(end);
        json_t *row = json_loadb(line, (size_t)(end - line), JSON_REJECT_DUPLICATES, NULL);
        assert_true(json_is_object(row));
        json_array_append_new(rows, row);
    }
    memory_free(data);
    return rows;
}

static inline const char *fixture_get(const json_t *row, const char *column)
{
    const char *value = json_string_value(json_object_get(row, column));
    assert_non_null(value);
    return value;
}

#endif

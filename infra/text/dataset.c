#include "infra/text/dataset.h"

#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"
#include "infra/text/dataset_row.h"

#define FILE_BYTES_MAX ((size_t)16 << 30)

struct dataset {
    struct dataset_builder builder;
    char **paths;
    int32_t path_count;
};

static const char *const format_names[DATASET_FORMAT_COUNT] = {
    "auto",     "text",  "prompt_completion", "messages",  "alpaca",
    "sharegpt", "gsm8k", "self_instruct",     "preference"};

int dataset_format_parse(const char *name, enum dataset_format *format)
{
    for (int i = 0; i < DATASET_FORMAT_COUNT; i++) {
        if (strcmp(name, format_names[i]) != 0)
            continue;
        *format = (enum dataset_format)i;
        return 0;
    }
    struct text known;
    text_init(&known);
    for (int i = 0; i < DATASET_FORMAT_COUNT; i++)
        text_printf(&known, "%s%s", i > 0 ? ", " : "", format_names[i]);
    int rc = error_set(HONE_EINVAL, "no dataset format \"%s\"; there are %s", name, known.data);
    text_release(&known);
    return rc;
}

const char *dataset_format_name(enum dataset_format format)
{
    return format_names[format];
}

static bool is_full(const struct dataset_builder *builder)
{
    return builder->options->max_rows > 0 && builder->count >= builder->options->max_rows;
}

static int add_object(struct dataset_builder *builder, const json_t *object, bool first)
{
    if (!json_is_object(object))
        return dataset_error(builder, HONE_EFORMAT, "an object is expected");
    int rc = first ? dataset_detect(builder, object) : 0;
    return rc < 0 ? rc : dataset_append(builder, object);
}

static int load_lines(struct dataset_builder *builder, const char *data, size_t bytes)
{
    bool first = true;
    builder->line_noun = "line";
    builder->line = 0;
    for (size_t start = 0, next = 0; start < bytes && !is_full(builder); start = next) {
        const char *newline = memchr(data + start, '\n', bytes - start);
        size_t end = newline == NULL ? bytes : (size_t)(newline - data);
        next = newline == NULL ? bytes : end + 1;
        builder->line++;
        size_t blank = start;
        while (blank < end && strchr(" \t\r", data[blank]) != NULL && data[blank] != '\0')
            blank++;
        if (blank == end)
            continue;
        json_error_t error;
        json_t *object =
            json_loadb(data + start, end - start, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
        if (object == NULL)
            return dataset_error(builder, HONE_EFORMAT, "column %d: %s", error.column, error.text);
        int rc = add_object(builder, object, first);
        json_decref(object);
        if (rc < 0)
            return rc;
        first = false;
    }
    return 0;
}

static int load_array(struct dataset_builder *builder, const char *data, size_t bytes)
{
    json_error_t error;
    json_t *array = json_loadb(data, bytes, JSON_REJECT_DUPLICATES, &error);
    if (array == NULL)
        return error_set(HONE_EFORMAT, "%s line %d: %s", builder->path, error.line, error.text);
    int rc = 0;
    builder->line_noun = "element";
    for (size_t i = 0; i < json_array_size(array) && rc == 0 && !is_full(builder); i++) {
        builder->line = (int64_t)i + 1;
        rc = add_object(builder, json_array_get(array, i), i == 0);
    }
    json_decref(array);
    return rc;
}

static int load_file(struct dataset_builder *builder)
{
    char *data = NULL;
    size_t bytes = 0;
    int rc = file_read(builder->path, FILE_BYTES_MAX, &data, &bytes);
    if (rc < 0)
        return rc;
    size_t start = bytes >= 3 && memcmp(data, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
    size_t first = start;
    while (first < bytes && (data[first] == ' ' || data[first] == '\n' || data[first] == '\r' ||
                             data[first] == '\t'))
        first++;
    if (bytes >= 2 && memcmp(data, "\x1F\x8B", 2) == 0)
        rc = error_set(HONE_EUNSUPPORTED, "%s is compressed: unpack it with gunzip first",
                       builder->path);
    else if (first < bytes && data[first] == '[')
        rc = load_array(builder, data + start, bytes - start);
    else
        rc = load_lines(builder, data + start, bytes - start);
    memory_free(data);
    return rc;
}

int dataset_load(struct dataset **out, const struct dataset_options *options)
{
    *out = NULL;
    if (options->count <= 0)
        return error_set(HONE_EINVAL, "a dataset without files");
    struct dataset *dataset = MEMORY_NEW(struct dataset);
    dataset->paths = MEMORY_ARRAY(char *, options->count);
    dataset->path_count = options->count;
    dataset->builder.options = options;
    int rc = 0;
    for (int32_t i = 0; i < options->count && rc == 0; i++) {
        dataset->paths[i] = memory_strdup(options->paths[i]);
        dataset->builder.path = dataset->paths[i];
        dataset->builder.source = i;
        int64_t before = dataset->builder.count;
        if (is_full(&dataset->builder))
            continue;
        rc = load_file(&dataset->builder);
        if (rc == 0 && dataset->builder.count == before)
            rc = error_set(HONE_EFORMAT, "%s holds no rows", dataset->paths[i]);
    }
    if (rc < 0) {
        dataset_free(dataset);
        return rc;
    }
    if (options->max_rows > 0 && dataset->builder.count > options->max_rows)
        dataset->builder.count = options->max_rows; /* a self_instruct line gives several rows */
    dataset->builder.options = NULL;
    *out = dataset;
    return 0;
}

void dataset_free(struct dataset *dataset)
{
    if (dataset == NULL)
        return;
    for (int32_t i = 0; i < dataset->builder.chunk_count; i++)
        memory_free(dataset->builder.chunks[i]);
    memory_free(dataset->builder.chunks);
    memory_free(dataset->builder.rows);
    for (int32_t i = 0; i < dataset->path_count; i++)
        memory_free(dataset->paths[i]);
    memory_free(dataset->paths);
    memory_free(dataset);
}

int64_t dataset_count(const struct dataset *dataset)
{
    return dataset->builder.count;
}

const struct dataset_row *dataset_get(const struct dataset *dataset, int64_t index)
{
    HONE_ASSERT(index >= 0 && index < dataset->builder.count);
    return &dataset->builder.rows[index];
}

const char *dataset_path(const struct dataset *dataset, int32_t source)
{
    HONE_ASSERT(source >= 0 && source < dataset->path_count);
    return dataset->paths[source];
}

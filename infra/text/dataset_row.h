/* Turning one JSON object of a dataset file into rows (internal to infra/text/dataset.h).
 * The builder owns the rows and every string in them. */
#ifndef HONE_TEXT_DATASET_ROW_H
#define HONE_TEXT_DATASET_ROW_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "infra/text/dataset.h"

#define DATASET_USED_MAX 64

struct dataset_builder {
    const struct dataset_options *options;
    const char *path;
    int32_t source;
    int64_t line;
    const char *line_noun; /* "line", or "element" in an array file */
    enum dataset_format format;
    struct dataset_row *rows;
    int64_t count;
    int64_t capacity;
    char **chunks; /* where strings live */
    int32_t chunk_count;
    int32_t chunk_capacity;
    size_t chunk_used;
    size_t chunk_bytes;
    const char *used[DATASET_USED_MAX]; /* top-level columns that a field came from */
    int32_t used_count;
};

/* Bytes that live as long as the builder's rows. */
void *dataset_keep(struct dataset_builder *builder, size_t bytes);
const char *dataset_keep_text(struct dataset_builder *builder, const char *text, size_t length);
/* An error at the builder's file and line. */
int dataset_error(const struct dataset_builder *builder, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Sets builder->format from the options and the columns of a file's first row. */
int dataset_detect(struct dataset_builder *builder, const json_t *object);
/* Appends the object's row, or rows. */
int dataset_append(struct dataset_builder *builder, const json_t *object);

#endif

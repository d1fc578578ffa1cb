/* What the field tables can be turned into besides a struct: resolved YAML, a JSON schema, a
 * reference page. All append to a text. */
#ifndef HONE_CONFIG_FIELD_WRITER_H
#define HONE_CONFIG_FIELD_WRITER_H

#include "infra/base/text.h"
#include "infra/config/field.h"

/* Every settable value of the struct; fields with a flag in skip_flags are left out. The text reads
 * back into an equal struct. */
void field_write_yaml(const struct config_field *table, const void *object, unsigned skip_flags,
                      struct text *text);
/* A YAML scalar for the string: plain where that is safe, else in double quotes. */
void field_write_string(const char *string, struct text *text);
/* The object schema of a table, without the outermost "$schema". */
void field_write_schema(const struct config_field *table, struct text *text);
/* Markdown: a table with one row per key, then a section per nested table. prefix is the full key
 * of the table, "" at the top. */
void field_write_reference(const struct config_field *table, const char *prefix, struct text *text);

#endif

/* An aligned text table. */
#ifndef HONE_TELEMETRY_TABLE_H
#define HONE_TELEMETRY_TABLE_H

#include <stdio.h>

struct table;

struct table *table_create(const char *const *titles, int columns);
void table_destroy(struct table *table);
/* Next cell of the current row; text is copied. The first column is left-aligned, the others right.
 */
void table_cell(struct table *table, const char *text);
/* Missing cells are empty. */
void table_end_row(struct table *table);
void table_print(const struct table *table, FILE *out);

#endif

#include "infra/telemetry/table.h"

#include <stdbool.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/memory.h"

struct table {
    int columns;
    int cells; /* all rows, titles first, row after row */
    int capacity;
    char **text;
};

static void push(struct table *table, const char *text)
{
    if (table->cells == table->capacity) {
        int capacity = table->capacity ? 2 * table->capacity : 32;
        table->text =
            memory_resize(table->text, (size_t)table->cells, (size_t)capacity, sizeof *table->text);
        table->capacity = capacity;
    }
    table->text[table->cells++] = memory_strdup(text);
}

struct table *table_create(const char *const *titles, int columns)
{
    HONE_ASSERT(columns > 0);
    struct table *table = MEMORY_NEW(struct table);
    table->columns = columns;
    for (int i = 0; i < columns; i++)
        push(table, titles[i]);
    return table;
}

void table_destroy(struct table *table)
{
    if (!table)
        return;
    for (int i = 0; i < table->cells; i++)
        memory_free(table->text[i]);
    memory_free(table->text);
    memory_free(table);
}

void table_cell(struct table *table, const char *text)
{
    push(table, text);
}

void table_end_row(struct table *table)
{
    /* More cells than titles would shift every later row. */
    int used = table->cells % table->columns;
    for (int i = used; used > 0 && i < table->columns; i++)
        push(table, "");
}

/* Code points: what a terminal shows as one column for the letters used here. */
static int width_of(const char *text)
{
    int width = 0;
    for (; *text; text++)
        width += ((unsigned char)*text & 0xC0) != 0x80;
    return width;
}

static void print_spaces(FILE *out, int count)
{
    fprintf(out, "%*s", count, "");
}

/* The first column is followed by its padding, the others preceded; no line ends in spaces. */
static void print_row(const struct table *table, int row, const int *widths, FILE *out)
{
    char *const *cells = table->text + (size_t)row * (size_t)table->columns;
    int last = table->columns - 1;
    while (last > 0 && *cells[last] == '\0')
        last--;
    for (int i = 0; i <= last; i++) {
        int padding = widths[i] - width_of(cells[i]);
        if (i > 0)
            print_spaces(out, 2 + padding);
        fputs(cells[i], out);
        if (i == 0 && last > 0)
            print_spaces(out, padding);
    }
    fputc('\n', out);
}

void table_print(const struct table *table, FILE *out)
{
    HONE_ASSERT(table->cells % table->columns == 0);
    int rows = table->cells / table->columns;
    int *widths = MEMORY_ARRAY(int, table->columns);
    for (int i = 0; i < table->cells; i++) {
        int width = width_of(table->text[i]);
        int column = i % table->columns;
        widths[column] = width > widths[column] ? width : widths[column];
    }
    for (int row = 0; row < rows; row++) {
        print_row(table, row, widths, out);
        for (int i = 0; row == 0 && i < table->columns; i++) {
            fputs(i > 0 ? "  " : "", out);
            for (int j = 0; j < widths[i]; j++)
                fputc('-', out);
        }
        if (row == 0)
            fputc('\n', out);
    }
    memory_free(widths);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "infra/telemetry/table.h"

static void expect(const struct table *table, const char *expected)
{
    char *data = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&data, &bytes);
    assert_non_null(out);
    table_print(table, out);
    fclose(out);
    assert_string_equal(data, expected);
    free(data);
}

static void test_alignment(void **state)
{
    (void)state;
    static const char *const titles[] = {"stage", "pass@1", "KL"};
    struct table *table = table_create(titles, 3);
    expect(table, "stage  pass@1  KL\n-----  ------  --\n");
    table_cell(table, "base");
    table_cell(table, "3.2");
    table_end_row(table);
    table_cell(table, "b\xC3\xA4se+rl");
    table_cell(table, "100.0");
    table_cell(table, "0.0123");
    table_end_row(table);
    table_end_row(table);
    expect(table, "stage    pass@1      KL\n"
                  "-------  ------  ------\n"
                  "base        3.2\n"
                  "b\xC3\xA4se+rl   100.0  0.0123\n");
    table_destroy(table);
    table_destroy(NULL);
}

static void test_one_column(void **state)
{
    (void)state;
    static const char *const titles[] = {"n"};
    struct table *table = table_create(titles, 1);
    for (int i = 0; i < 100; i++) {
        table_cell(table, i == 99 ? "last" : "x");
        table_end_row(table);
    }
    char *data = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&data, &bytes);
    table_print(table, out);
    fclose(out);
    assert_int_equal(bytes, 2 + 5 + 99 * 2 + 5);
    free(data);
    table_destroy(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_alignment),
                                       cmocka_unit_test(test_one_column)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

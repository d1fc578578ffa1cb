#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "infra/base/rng.h"
#include "infra/config/field.h"
#include "infra/config/field_reader.h"
#include "infra/config/field_writer.h"

enum colour { RED, GREEN };

struct part {
    const char *name;
    double weight;
};

struct part_list {
    struct part *items;
    int32_t count;
};

struct inner {
    bool flag;
    enum colour colour;
};

struct outer {
    int64_t count;
    double rate;
    const char *word;
    const char *hidden;
    struct string_list names;
    struct inner inner;
    struct part_list parts;
};

static const char *const colours[] = {"red", "green", NULL};

static const struct config_field part_fields[] = {
    {.name = "name", .type = FIELD_STRING, .offset = offsetof(struct part, name), .help = "n"},
    {.name = "weight",
     .type = FIELD_FLOAT,
     .offset = offsetof(struct part, weight),
     .default_text = "1",
     .max = 10,
     .help = "w"},
    {.name = NULL}};

static const struct config_field inner_fields[] = {{.name = "flag",
                                                    .type = FIELD_BOOL,
                                                    .offset = offsetof(struct inner, flag),
                                                    .default_text = "false",
                                                    .help = "f"},
                                                   {.name = "colour",
                                                    .type = FIELD_ENUM,
                                                    .offset = offsetof(struct inner, colour),
                                                    .default_text = "green",
                                                    .names = colours,
                                                    .help = "c"},
                                                   {.name = NULL}};

static const struct config_field outer_fields[] = {{.name = "count",
                                                    .type = FIELD_INT,
                                                    .offset = offsetof(struct outer, count),
                                                    .default_text = "3",
                                                    .min = 1,
                                                    .max = 10,
                                                    .help = "how many"},
                                                   {.name = "rate",
                                                    .type = FIELD_FLOAT,
                                                    .offset = offsetof(struct outer, rate),
                                                    .default_text = "2e-5",
                                                    .min = 0,
                                                    .max = FIELD_UNBOUNDED,
                                                    .help = "how fast"},
                                                   {.name = "word",
                                                    .type = FIELD_STRING,
                                                    .offset = offsetof(struct outer, word),
                                                    .default_text = "hello",
                                                    .help = "what"},
                                                   {.name = "hidden",
                                                    .type = FIELD_STRING,
                                                    .offset = offsetof(struct outer, hidden),
                                                    .flags = FIELD_HIDDEN,
                                                    .help = "h"},
                                                   {.name = "names",
                                                    .type = FIELD_STRING_LIST,
                                                    .offset = offsetof(struct outer, names),
                                                    .default_text = "a b",
                                                    .help = "who"},
                                                   {.name = "inner",
                                                    .type = FIELD_TABLE,
                                                    .offset = offsetof(struct outer, inner),
                                                    .table = inner_fields,
                                                    .help = "in"},
                                                   {.name = "parts",
                                                    .type = FIELD_TABLE_LIST,
                                                    .offset = offsetof(struct outer, parts),
                                                    .table = part_fields,
                                                    .item_size = sizeof(struct part),
                                                    .max = 3,
                                                    .help = "p"},
                                                   {.name = NULL}};

static void test_defaults_and_release(void **state)
{
    (void)state;
    struct outer outer;
    memset(&outer, 0xAA, sizeof outer);
    field_defaults(outer_fields, &outer);
    assert_int_equal(outer.count, 3);
    assert_true(outer.rate == 2e-5);
    assert_string_equal(outer.word, "hello");
    assert_string_equal(outer.hidden, "");
    assert_int_equal(outer.names.count, 2);
    assert_string_equal(outer.names.items[1], "b");
    assert_false(outer.inner.flag);
    assert_int_equal(outer.inner.colour, GREEN);
    assert_int_equal(outer.parts.count, 0);
    field_release(outer_fields, &outer);
    assert_null(outer.word);
    field_release(outer_fields, &outer);
}

static const char *store(struct outer *outer, const char *path, const char *value)
{
    static char expected[FIELD_EXPECTED_MAX];
    const struct config_field *field = field_find_path(outer_fields, path);
    void *object = strncmp(path, "inner.", 6) == 0 ? (void *)&outer->inner : (void *)outer;
    return field_store(field, object, value, expected);
}

static void test_numbers(void **state)
{
    (void)state;
    struct outer outer;
    field_defaults(outer_fields, &outer);
    static const char *const good[] = {"1e-6", "2e-5", "0.5", ".5", "5.", "1E3", "+1", "0", "1e+2"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_null(store(&outer, "rate", good[i]));
    assert_null(store(&outer, "rate", "1e-6"));
    assert_true(outer.rate == 1e-6);
    static const char *const bad[] = {"1_000", "inf", "nan", ".inf", "0x10",  "1e",  "e5", ".",
                                      "",      "1 ",  " 1",  "1,5",  "1e999", "--1", "-1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_string_equal(store(&outer, "rate", bad[i]), "a number of at least 0");
    assert_true(outer.rate == 1e-6);

    assert_null(store(&outer, "count", "10"));
    assert_int_equal(outer.count, 10);
    static const char *const bad_int[] = {"11",  "0",   "1.0", "1e1",
                                          "1_0", "0x1", "",    "99999999999999999999"};
    for (size_t i = 0; i < sizeof bad_int / sizeof *bad_int; i++)
        assert_string_equal(store(&outer, "count", bad_int[i]), "an integer from 1 to 10");
    assert_int_equal(outer.count, 10);
    field_release(outer_fields, &outer);
}

static void test_words(void **state)
{
    (void)state;
    struct outer outer;
    field_defaults(outer_fields, &outer);
    assert_null(store(&outer, "inner.flag", "true"));
    assert_true(outer.inner.flag);
    static const char *const bad[] = {"yes", "on", "True", "1", ""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_string_equal(store(&outer, "inner.flag", bad[i]), "true or false");
    assert_null(store(&outer, "inner.colour", "red"));
    assert_int_equal(outer.inner.colour, RED);
    assert_string_equal(store(&outer, "inner.colour", "gren"),
                        "one of red, green (did you mean 'green'?)");
    assert_string_equal(store(&outer, "inner.colour", "blue"), "one of red, green");
    field_release(outer_fields, &outer);
}

static void test_paths_and_suggestions(void **state)
{
    (void)state;
    char buffer[FIELD_KEY_MAX];
    assert_ptr_equal(field_find_path(outer_fields, "inner.colour"), &inner_fields[1]);
    assert_ptr_equal(field_find_path(outer_fields, "parts.2.weight"), &part_fields[1]);
    assert_null(field_find_path(outer_fields, "parts.weight"));
    assert_null(field_find_path(outer_fields, "count.x"));
    assert_null(field_find_path(outer_fields, "hidden"));
    assert_null(field_find_path(outer_fields, ""));
    assert_string_equal(field_suggest(outer_fields, "cuont", buffer), "count");
    assert_string_equal(field_suggest(outer_fields, "colour", buffer), "inner.colour");
    assert_null(field_suggest(outer_fields, "hiden", buffer));
    assert_null(field_suggest(outer_fields, "zzzzzz", buffer));
}

/* Writes, reads back and writes again: equal bytes, whatever the strings hold. */
static void test_strings_round_trip(void **state)
{
    (void)state;
    struct rng_key key = {.seed = 9, .purpose = RNG_SIM};
    static const uint32_t alphabet[] = {'a',  ' ',  '"',    '\\',   '\n',   '\t',   '\r',    ':',
                                        '#',  '-',  '\'',   '{',    ',',    '0',    0x7F,    1,
                                        0x85, 0xA0, 0x2028, 0xFEFF, 0x20AC, 0xFFFE, 0x1F600, '~'};
    for (uint64_t round = 0; round < 2000; round++) {
        struct text value, yaml, again;
        struct problems problems;
        struct place_list places = {0};
        struct outer outer;
        text_init(&value);
        text_init(&yaml);
        text_init(&again);
        problems_init(&problems);
        uint64_t length = rng_below(&key, round * 16, 9);
        for (uint64_t i = 0; i < length; i++) {
            uint64_t pick = rng_below(&key, round * 16 + 1 + i, sizeof alphabet / sizeof *alphabet);
            text_append_utf8(&value, alphabet[pick]);
        }
        field_defaults(outer_fields, &outer);
        assert_null(store(&outer, "word", value.data));
        assert_null(store(&outer, "names", value.data));
        field_write_yaml(outer_fields, &outer, 0, &yaml);
        field_release(outer_fields, &outer);

        field_defaults(outer_fields, &outer);
        struct yaml_node *root = yaml_tree_read("w", yaml.data, yaml.length, &problems);
        assert_non_null(root);
        field_read(outer_fields, &outer, root, &problems, &places);
        assert_string_equal(problems.text.data, "");
        assert_string_equal(outer.word, value.data);
        assert_string_equal(outer.names.items[2], value.data);
        field_write_yaml(outer_fields, &outer, 0, &again);
        assert_string_equal(again.data, yaml.data);
        yaml_tree_free(root);
        field_release(outer_fields, &outer);
        place_list_release(&places);
        problems_release(&problems);
        text_release(&value);
        text_release(&yaml);
        text_release(&again);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_defaults_and_release),
                                       cmocka_unit_test(test_numbers), cmocka_unit_test(test_words),
                                       cmocka_unit_test(test_paths_and_suggestions),
                                       cmocka_unit_test(test_strings_round_trip)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

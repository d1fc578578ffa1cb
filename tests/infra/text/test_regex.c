#include "tests/infra/text/text_fixture.h"

#include "infra/text/regex.h"

/* The matches of a pattern in a text, "a|b". */
static void check_matches(const char *pattern, const char *text, const char *expected)
{
    struct regex *regex = NULL;
    struct text found;
    text_init(&found);
    assert_int_equal(regex_compile(&regex, pattern), 0);
    struct regex_walk walk = {
        .regex = regex, .scratch = regex_scratch_create(), .text = text, .length = strlen(text)};
    for (int i = 0; regex_walk_next(&walk) > 0; i++) {
        text_append(&found, i > 0 ? "|" : "");
        text_append_bytes(&found, text + walk.match_start, walk.match_end - walk.match_start);
    }
    assert_string_equal(found.data, expected);
    regex_scratch_destroy(walk.scratch);
    regex_free(regex);
    text_release(&found);
}

static void test_white_space_is_the_property(void **state)
{
    (void)state;
    check_matches("\\s",
                  "a b\xE2\x80\x89"
                  "c\xC2\x85",
                  " |\xE2\x80\x89|\xC2\x85");
    check_matches("\\s", "\xE1\xA0\x8E", ""); /* U+180E lost the property */
    check_matches("[^\\s]+", "one two", "one|two");
    check_matches("\\S+", "one\xE3\x80\x80two", "one|two");
    check_matches("[\\s\\d]+", "a1 2b", "1 2");
}

static void test_word_class(void **state)
{
    (void)state;
    check_matches("\\w+", "a_\xC2\xBD-\xE4\xB8\xAD!", "a_\xC2\xBD|\xE4\xB8\xAD");
    check_matches("\\W+", "a-+b", "-+");
    check_matches("[\\w.]+", "a.b c", "a.b|c");
}

static void test_case_folding_reaches_beyond_ascii(void **state)
{
    (void)state;
    check_matches("(?i:'s|'k)", "'S '\xC5\xBF '\xE2\x84\xAA", "'S|'\xC5\xBF|'\xE2\x84\xAA");
}

static void test_escaped_brackets_and_classes(void **state)
{
    (void)state;
    check_matches("[\\[\\]]", "a[b]", "[|]");
    check_matches("[]a]", "]a", "]|a");
    check_matches("[[:upper:]]+", "abCDe", "CD");
    check_matches("\\p{N}{1,3}", "12345", "123|45");
}

static void test_empty_matches_move_on(void **state)
{
    (void)state;
    check_matches("x*", "axb", "|x|");
}

static void check_refused(const char *pattern, int code, const char *message)
{
    struct regex *regex = NULL;
    assert_int_equal(regex_compile(&regex, pattern), code);
    assert_null(regex);
    if (strstr(error_message(), message) == NULL)
        fail_msg("\"%s\" lacks \"%s\"", error_message(), message);
}

static void test_refusals(void **state)
{
    (void)state;
    check_refused("a(", HONE_EFORMAT, "a(");
    check_refused("abc\\", HONE_EFORMAT, "backslash");
    check_refused("\\h+", HONE_EUNSUPPORTED, "\\h");
    check_refused("a\\R", HONE_EUNSUPPORTED, "\\R");
    check_refused("[\\W]", HONE_EUNSUPPORTED, "\\W in a character class");
    check_refused("[a[b]]", HONE_EUNSUPPORTED, "class inside a class");
    check_refused("[\\p{L}&&\\p{Lu}]", HONE_EUNSUPPORTED, "&&");
    check_refused("(?m:.)", HONE_EUNSUPPORTED, "flag m");
    check_refused("\\p{NoSuchThing}", HONE_EFORMAT, "NoSuchThing");
    check_refused("[[:upper]", HONE_EFORMAT, "[:");
}

static void test_long_runs(void **state)
{
    (void)state;
    size_t length = 1 << 20;
    char *text = memory_alloc(length + 1, 1);
    memset(text, ' ', length);
    text[length] = 'x';
    struct regex *regex = NULL;
    struct regex_scratch *scratch = regex_scratch_create();
    size_t start = 0, end = 0;
    assert_int_equal(regex_compile(&regex, "\\s+(?!\\S)|\\s+"), 0);
    assert_int_equal(regex_find(regex, scratch, text, length + 1, 0, &start, &end), 1);
    assert_int_equal(start, 0);
    assert_int_equal(end, length - 1);
    regex_scratch_destroy(scratch);
    regex_free(regex);
    memory_free(text);
}

static void test_a_match_limit_is_an_error(void **state)
{
    (void)state;
    struct regex *regex = NULL;
    struct regex_scratch *scratch = regex_scratch_create();
    const char *text = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!";
    size_t start = 0, end = 0;
    assert_int_equal(regex_compile(&regex, "^(a|a|aa|aa)+$"), 0);
    assert_int_equal(regex_find(regex, scratch, text, strlen(text), 0, &start, &end),
                     HONE_EUNSUPPORTED);
    regex_scratch_destroy(scratch);
    regex_free(regex);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_white_space_is_the_property),
        cmocka_unit_test(test_word_class),
        cmocka_unit_test(test_case_folding_reaches_beyond_ascii),
        cmocka_unit_test(test_escaped_brackets_and_classes),
        cmocka_unit_test(test_empty_matches_move_on),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_long_runs),
        cmocka_unit_test(test_a_match_limit_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

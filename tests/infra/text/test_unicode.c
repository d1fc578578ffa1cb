#include "tests/infra/text/text_fixture.h"

static void check_lossy(const char *bytes, size_t length, const char *expected)
{
    struct text out;
    text_init(&out);
    unicode_append_lossy(&out, bytes, length);
    assert_string_equal(out.data, expected);
    text_release(&out);
}

#define R "\xEF\xBF\xBD"

static void test_lossy_replaces_maximal_parts(void **state)
{
    (void)state;
    check_lossy("plain \xC3\xA9", 8, "plain \xC3\xA9");
    check_lossy("a\xFFz", 3, "a" R "z");
    check_lossy("\x80\x80", 2, R R);
    /* The Unicode Standard, table 3-8: E1 80 | E2 | F0 91 92 | F1 BF | 41 */
    check_lossy("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", 9, R R R R "A");
    /* table 3-9 and 3-10: C0 AF, surrogates ED A0 80, F5 */
    check_lossy("\xC0\xAF", 2, R R);
    check_lossy("\xED\xA0\x80", 3, R R R);
    check_lossy("\xF5\x80", 2, R R);
    check_lossy("\xF4\x90\x80\x80", 4, R R R R);
}

static void test_incomplete_tail(void **state)
{
    (void)state;
    assert_int_equal(unicode_incomplete_tail("abc", 3), 0);
    assert_int_equal(unicode_incomplete_tail("a\xC3", 2), 1);
    assert_int_equal(unicode_incomplete_tail("a\xE2\x96", 3), 2);
    assert_int_equal(unicode_incomplete_tail("\xF0\x9F\x98", 3), 3);
    assert_int_equal(unicode_incomplete_tail("\xF0\x9F\x98\x80", 4), 0);
    assert_int_equal(unicode_incomplete_tail("\xED\xA0", 2), 0); /* can never be completed */
    assert_int_equal(unicode_incomplete_tail("\x80\x80\x80", 3), 0);
    assert_int_equal(unicode_incomplete_tail("", 0), 0);
}

static void test_byte_level_is_a_bijection(void **state)
{
    (void)state;
    bool seen[0x144] = {false};
    for (int byte = 0; byte < 256; byte++) {
        uint32_t codepoint = unicode_byte_level((unsigned char)byte);
        assert_true(codepoint < 0x144);
        assert_false(seen[codepoint]);
        seen[codepoint] = true;
        assert_int_equal(unicode_byte_level_inverse(codepoint), byte);
    }
    assert_int_equal(unicode_byte_level(' '), 0x120);
    assert_int_equal(unicode_byte_level('\n'), 0x10A);
    assert_int_equal(unicode_byte_level(0x7F), 0x121);
    assert_int_equal(unicode_byte_level(0xAD), 0x143);
    assert_int_equal(unicode_byte_level('A'), 'A');
    assert_int_equal(unicode_byte_level_inverse(' '), -1);
    assert_int_equal(unicode_byte_level_inverse(0x144), -1);
    assert_int_equal(unicode_byte_level_inverse(0x2581), -1);
}

static void test_classes(void **state)
{
    (void)state;
    assert_true(unicode_is_white_space(0x2009) && unicode_is_white_space(0x3000));
    assert_true(unicode_is_white_space('\t') && unicode_is_white_space(0x85));
    assert_false(unicode_is_white_space(0x180E) || unicode_is_white_space(0x200B));
    assert_true(unicode_is_numeric('7') && unicode_is_numeric(0xBD) && unicode_is_numeric(0x2167));
    assert_false(unicode_is_numeric('x'));
    assert_true(unicode_is_word('_') && unicode_is_word(0x4E2D) && unicode_is_word(0x24B6));
    assert_false(unicode_is_word('-') || unicode_is_word(' ') || unicode_is_word(0xB2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lossy_replaces_maximal_parts),
        cmocka_unit_test(test_incomplete_tail),
        cmocka_unit_test(test_byte_level_is_a_bijection),
        cmocka_unit_test(test_classes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

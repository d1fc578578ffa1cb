#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/base/text.h"

static void test_appends(void **state)
{
    (void)state;
    struct text text;
    text_init(&text);
    assert_string_equal(text.data, "");
    text_append(&text, "ab");
    text_append_char(&text, 'c');
    text_append_bytes(&text, "\0d", 2);
    assert_int_equal(text.length, 5);
    assert_memory_equal(text.data, "abc\0d", 6);
    text_clear(&text);
    for (int i = 0; i < 1000; i++)
        text_printf(&text, "%d,", i);
    assert_int_equal(text.length, 3890);
    assert_true(text_ends_with(text.data, ",998,999,"));
    char *kept = text_detach(&text);
    assert_true(text_starts_with(kept, "0,1,2,"));
    assert_string_equal(text.data, "");
    text_append(&text, "again");
    assert_string_equal(text.data, "again");
    memory_free(kept);
    text_release(&text);
}

static void test_printf_exact_fit(void **state)
{
    (void)state;
    for (int width = 0; width < 100; width++) {
        struct text text;
        text_init(&text);
        text_printf(&text, "%*s", width, "");
        assert_int_equal(text.length, width);
        assert_int_equal(strlen(text.data), width);
        text_release(&text);
    }
}

static void test_utf8(void **state)
{
    (void)state;
    struct text text;
    text_init(&text);
    text_append_utf8(&text, 'A');
    text_append_utf8(&text, 0xE9);
    text_append_utf8(&text, 0x20AC);
    text_append_utf8(&text, 0x1F600);
    assert_string_equal(text.data, "A\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
    assert_true(text_is_utf8(text.data, text.length));
    text_clear(&text);
    text_append_utf8(&text, 0xD800);
    text_append_utf8(&text, 0x110000);
    assert_string_equal(text.data, "\xEF\xBF\xBD\xEF\xBF\xBD");
    text_release(&text);
    assert_false(text_is_utf8("\xC0\x80", 2));         /* overlong */
    assert_false(text_is_utf8("\xE0\x80\x80", 3));     /* overlong */
    assert_false(text_is_utf8("\xED\xA0\x80", 3));     /* surrogate */
    assert_false(text_is_utf8("\xF4\x90\x80\x80", 4)); /* past U+10FFFF */
    assert_false(text_is_utf8("\xE2\x82", 2));         /* cut */
    assert_false(text_is_utf8("\x80", 1));
    assert_true(text_is_utf8("", 0));
}

static void test_distance(void **state)
{
    (void)state;
    assert_int_equal(text_distance("kitten", "sitting"), 3);
    assert_int_equal(text_distance("", "abc"), 3);
    assert_int_equal(text_distance("abc", ""), 3);
    assert_int_equal(text_distance("same", "same"), 0);
    assert_int_equal(text_distance("lerning_rate", "learning_rate"), 1);
}

static void check_number(double value, const char *expected)
{
    struct text text;
    text_init(&text);
    text_append_number(&text, value);
    assert_string_equal(text.data, expected);
    text_release(&text);
}

static void test_numbers(void **state)
{
    (void)state;
    check_number(0.1, "0.1");
    check_number(1e-6, "1e-06");
    check_number(2e-5, "2e-05");
    check_number(100000, "100000");
    check_number(0, "0");
    check_number(-1.5, "-1.5");
    check_number(1.0 / 3.0, "0.3333333333333333");
    check_number(1e300, "1e+300");
    check_number(5e-324, "5e-324");
    check_number((double)NAN, "null");
    check_number((double)INFINITY, "null");

    struct rng_key key = {.seed = 6, .purpose = RNG_SIM};
    struct text text;
    text_init(&text);
    for (uint64_t i = 0; i < 2000; i++) {
        uint64_t bits = rng_u64(&key, i);
        double value, back;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value))
            continue;
        text_clear(&text);
        text_append_number(&text, value);
        back = strtod(text.data, NULL);
        assert_memory_equal(&back, &value, sizeof value);
    }
    text_release(&text);
}

static void test_json_string(void **state)
{
    (void)state;
    struct text text;
    text_init(&text);
    const char bytes[] = "a\"\\\n\x01\0\xFF\xC3\xA9";
    text_append_json_string(&text, bytes, sizeof bytes - 1);
    assert_string_equal(text.data, "\"a\\\"\\\\\\n\\u0001\\u0000\xEF\xBF\xBD\xC3\xA9\"");
    text_release(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_appends), cmocka_unit_test(test_printf_exact_fit),
        cmocka_unit_test(test_utf8),    cmocka_unit_test(test_distance),
        cmocka_unit_test(test_numbers), cmocka_unit_test(test_json_string)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What tokens were drawn from, as bytes: what is added comes back; bytes that are not records are
 * refused, wherever they are cut or changed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "infra/base/error.h"
#include "infra/base/rng.h"
#include "infra/data/token_support.h"

#define RECORDS 200
#define IDS_MAX 40

static int64_t draw_ids(uint64_t record, int32_t *ids)
{
    const struct rng_key key = {.seed = 3, .a = record};
    int64_t count = (int64_t)rng_below(&key, 0, IDS_MAX), next = 0;
    for (int64_t i = 0; i < count; i++) {
        /* steps of one to four bytes */
        int shift = (int)rng_below(&key, (uint64_t)(2 * i + 1), 25);
        next += (i > 0) + (int64_t)rng_below(&key, (uint64_t)(2 * i + 2), 1ull << shift);
        ids[i] = (int32_t)next;
    }
    return count;
}

static void test_what_is_added_comes_back(void **state)
{
    (void)state;
    struct token_support support = {0};
    int32_t ids[IDS_MAX], got[IDS_MAX];
    for (uint64_t r = 0; r < RECORDS; r++)
        token_support_add(&support, ids, draw_ids(r, ids));
    struct support_cursor cursor = {support.bytes, support.bytes + support.length};
    struct support_cursor again = cursor, skipping = cursor;
    for (uint64_t r = 0; r < RECORDS; r++) {
        int64_t count = draw_ids(r, ids);
        assert_int_equal(token_support_next(&cursor, got, count), count);
        assert_memory_equal(ids, got, (size_t)count * sizeof *ids);
        assert_int_equal(token_support_next(&skipping, NULL, 0), count);
        /* a member, or what is one past the largest */
        bool member = count == 0 || r % 2 == 0;
        int32_t asked = count == 0 ? 7 : member ? ids[r % (uint64_t)count] : ids[count - 1] + 1;
        assert_int_equal(token_support_contains(&again, asked), member);
    }
    assert_ptr_equal(cursor.at, cursor.end);
    assert_ptr_equal(skipping.at, cursor.end);
    assert_ptr_equal(again.at, cursor.end);
    token_support_release(&support);
}

static void test_appended_bytes_are_the_records(void **state)
{
    (void)state;
    struct token_support support = {0}, all = {0};
    const int32_t few[] = {0, 3, 900};
    token_support_add(&support, few, 3);
    token_support_append(&all, support.bytes, support.length);
    token_support_append(&all, NULL, 0);
    token_support_append(&all, support.bytes, support.length);
    struct support_cursor cursor = {all.bytes, all.bytes + all.length};
    assert_int_equal(token_support_contains(&cursor, 900), 1);
    assert_int_equal(token_support_contains(&cursor, 1), 0);
    assert_ptr_equal(cursor.at, cursor.end);
    token_support_release(&support);
    token_support_release(&all);
}

static void expect_refused(const uint8_t *bytes, size_t length, int64_t capacity)
{
    int32_t ids[IDS_MAX];
    struct support_cursor cursor = {bytes, bytes + length}, again = cursor;
    assert_int_equal(token_support_next(&cursor, ids, capacity), HONE_EFORMAT);
    if (capacity == IDS_MAX)
        assert_int_equal(token_support_contains(&again, 1), HONE_EFORMAT);
}

static void test_what_is_no_record(void **state)
{
    (void)state;
    const int32_t ids[] = {5, 300, 70000};
    struct token_support support = {0};
    token_support_add(&support, ids, 3);
    for (size_t length = 0; length < support.length; length++)
        expect_refused(support.bytes, length, IDS_MAX);
    expect_refused(support.bytes, support.length, 2);
    token_support_release(&support);
    expect_refused((const uint8_t[]){2, 5, 0}, 3, IDS_MAX); /* the same id twice */
    expect_refused((const uint8_t[]){1, 0xff, 0xff, 0xff, 0xff, 0x0f}, 6, IDS_MAX); /* 2^32 - 1 */
    expect_refused((const uint8_t[]){1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01}, 7, IDS_MAX);
    expect_refused((const uint8_t[]){2, 0xff, 0xff, 0xff, 0xff, 0x07, 1}, 7,
                   IDS_MAX);                                                     /* past 2^31 */
    expect_refused((const uint8_t[]){0xff, 0xff, 0xff, 0xff, 0x07}, 5, IDS_MAX); /* no ids follow */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_added_comes_back),
        cmocka_unit_test(test_appended_bytes_are_the_records),
        cmocka_unit_test(test_what_is_no_record),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "infra/base/error.h"

static void test_set_and_prefix(void **state)
{
    (void)state;
    assert_int_equal(error_set(HONE_EFORMAT, "row %d: %s", 7, "no comma"), HONE_EFORMAT);
    assert_int_equal(error_last(), HONE_EFORMAT);
    assert_string_equal(error_message(), "row 7: no comma");
    assert_int_equal(error_prefix("file %s", "a.csv"), HONE_EFORMAT);
    assert_string_equal(error_message(), "file a.csv: row 7: no comma");
    assert_int_equal(error_set(HONE_EIO, "again: %s", error_message()), HONE_EIO);
    assert_string_equal(error_message(), "again: file a.csv: row 7: no comma");
    error_clear();
    assert_int_equal(error_last(), 0);
    assert_string_equal(error_message(), "");
}

static void test_long_messages_are_cut(void **state)
{
    (void)state;
    char text[5000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    error_set(HONE_EIO, "%s", text);
    error_prefix("%s", text);
    errno = ENOSPC;
    assert_int_equal(error_errno("%s", text), HONE_ENOSPC);
    assert_in_range(strlen(error_message()), 2000, 2047);
}

static int code_of(int number)
{
    errno = number;
    return error_errno("open it");
}

static void test_errno_mapping(void **state)
{
    (void)state;
    assert_int_equal(code_of(ENOSPC), HONE_ENOSPC);
    assert_non_null(strstr(error_message(), "open it: No space left"));
    assert_int_equal(code_of(EDQUOT), HONE_ENOSPC);
    assert_int_equal(code_of(ENOENT), HONE_ENOENT);
    assert_int_equal(code_of(ENOMEM), HONE_ENOMEM);
    assert_int_equal(code_of(EADDRINUSE), HONE_EBUSY);
    assert_int_equal(code_of(ECONNRESET), HONE_EPEER);
    assert_int_equal(code_of(ETIMEDOUT), HONE_ETIMEOUT);
    assert_int_equal(code_of(EACCES), HONE_EIO);
}

static void test_exit_statuses(void **state)
{
    (void)state;
    assert_int_equal(error_exit_status(0), 0);
    assert_int_equal(error_exit_status(12), 0);
    assert_int_equal(error_exit_status(HONE_EINVAL), 2);
    assert_string_equal(error_exit_subject(error_exit_status(HONE_ENOSPC)), "disk");
    assert_string_equal(error_exit_subject(error_exit_status(HONE_EGUARD)), "a guard");
    assert_string_equal(error_exit_subject(9), "failure");
    assert_string_equal(error_exit_subject(130), "interrupted");
    assert_int_equal(error_exit_status(HONE_EFORMAT), 3);
    assert_int_equal(error_exit_status(HONE_ENOSPC), 4);
    assert_int_equal(error_exit_status(HONE_EINTERRUPTED), 130);
    assert_int_equal(error_exit_status(-999), 1);
}

static void *other_thread(void *seen)
{
    *(int *)seen = error_last();
    error_set(HONE_EBUSY, "theirs");
    return NULL;
}

static void test_record_is_per_thread(void **state)
{
    (void)state;
    pthread_t thread;
    int seen = 1;
    error_set(HONE_EIO, "mine");
    assert_int_equal(pthread_create(&thread, NULL, other_thread, &seen), 0);
    pthread_join(thread, NULL);
    assert_int_equal(seen, 0);
    assert_string_equal(error_message(), "mine");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_set_and_prefix), cmocka_unit_test(test_long_messages_are_cut),
        cmocka_unit_test(test_errno_mapping), cmocka_unit_test(test_exit_statuses),
        cmocka_unit_test(test_record_is_per_thread)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

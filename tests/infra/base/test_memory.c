#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"

static void test_alloc_is_zeroed_and_aligned(void **state)
{
    (void)state;
    for (size_t size = 0; size < 300; size += 37) {
        unsigned char *block = memory_alloc(size, 3);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % 64, 0);
        for (size_t i = 0; i < 3 * size; i++)
            assert_int_equal(block[i], 0);
        memset(block, 0xff, 3 * size);
        memory_free(block);
    }
    memory_free(NULL);
}

static void test_resize_keeps_and_zeroes(void **state)
{
    (void)state;
    int *block = MEMORY_ARRAY(int, 3);
    for (int i = 0; i < 3; i++)
        block[i] = i + 1;
    block = memory_resize(block, 3, 100, sizeof *block);
    assert_int_equal((uintptr_t)block % 64, 0);
    for (int i = 0; i < 100; i++)
        assert_int_equal(block[i], i < 3 ? i + 1 : 0);
    block = memory_resize(block, 100, 2, sizeof *block);
    assert_int_equal(block[1], 2);
    memory_free(block);
    int *fresh = memory_resize(NULL, 0, 4, sizeof *fresh);
    assert_int_equal(fresh[3], 0);
    memory_free(fresh);
}

static void test_copies(void **state)
{
    (void)state;
    char *a = memory_strdup("hello");
    char *b = memory_strndup("hello", 3);
    char *c = memory_strndup("hi", 30);
    char *d = memory_dup("\0\1\2", 3);
    assert_string_equal(a, "hello");
    assert_string_equal(b, "hel");
    assert_string_equal(c, "hi");
    assert_memory_equal(d, "\0\1\2", 3);
    memory_free(a);
    memory_free(b);
    memory_free(c);
    memory_free(d);
}

static void test_map(void **state)
{
    (void)state;
    size_t bytes = (size_t)5 << 20;
    unsigned char *block = memory_map(bytes);
    memory_populate(block, bytes);
    assert_int_equal((uintptr_t)block % 4096, 0);
    assert_int_equal(block[0], 0);
    assert_int_equal(block[bytes - 1], 0);
    block[bytes - 1] = 9;
    memory_unmap(block, bytes);
    memory_unmap(NULL, 0);
}

static void test_checked_arithmetic(void **state)
{
    (void)state;
    size_t out = 0;
    assert_int_equal(checked_mul(6, 7, &out), 0);
    assert_int_equal(out, 42);
    assert_int_equal(checked_add(40, 2, &out), 0);
    assert_int_equal(out, 42);
    assert_int_equal(checked_mul(SIZE_MAX / 2, 3, &out), HONE_EFORMAT);
    assert_int_equal(checked_add(SIZE_MAX, 1, &out), HONE_EFORMAT);
}

/* Running out ends the process with the memory status, not with a NULL that somebody uses. */
static void test_overflow_ends_the_process(void **state)
{
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr))
            _exit(99);
        memory_free(memory_alloc(SIZE_MAX / 4, 8));
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), error_exit_status(HONE_ENOMEM));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_alloc_is_zeroed_and_aligned),
                                       cmocka_unit_test(test_resize_keeps_and_zeroes),
                                       cmocka_unit_test(test_copies),
                                       cmocka_unit_test(test_map),
                                       cmocka_unit_test(test_checked_arithmetic),
                                       cmocka_unit_test(test_overflow_ends_the_process)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

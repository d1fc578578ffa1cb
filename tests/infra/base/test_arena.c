#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "infra/base/arena.h"

static void test_blocks(void **state)
{
    (void)state;
    struct arena arena;
    arena_init(&arena, 1000);
    char *a = arena_alloc(&arena, 1);
    char *b = arena_alloc(&arena, 65);
    char *c = arena_alloc(&arena, 0);
    assert_int_equal((uintptr_t)a % 64, 0);
    assert_ptr_equal(b, a + 64);
    assert_ptr_equal(c, a + 192);
    assert_int_equal(arena.used_bytes, 192);
    char *rest = arena_alloc(&arena, 1000 - 192);
    rest[1000 - 192 - 1] = 1;
    assert_int_equal(arena.used_bytes, 1000);
    arena_clear(&arena);
    assert_int_equal(arena.used_bytes, 0);
    assert_int_equal(arena.peak_bytes, 1000);
    assert_ptr_equal(arena_alloc(&arena, 8), a);
    arena_release(&arena);
    assert_null(arena.base);
    arena_release(&arena);
}

static void test_past_capacity_asserts(void **state)
{
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        if (!freopen("/dev/null", "w", stderr))
            _exit(99);
        struct arena arena;
        arena_init(&arena, 128);
        arena_alloc(&arena, 64);
        arena_alloc(&arena, 65);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_blocks),
                                       cmocka_unit_test(test_past_capacity_asserts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

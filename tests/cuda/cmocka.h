/* The few things of cmocka that test_kernels.c uses, for machines without it. */
#ifndef HONE_TESTS_CUDA_CMOCKA_H
#define HONE_TESTS_CUDA_CMOCKA_H

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*run)(void **state);
};

static jmp_buf cmocka_failed;

#define cmocka_unit_test(function)                                                                 \
    {                                                                                              \
#function, function                                                                        \
    }
#define fail_msg(...) (printf("ERROR: " __VA_ARGS__), printf("\n"), longjmp(cmocka_failed, 1))
#define assert_true(condition)                                                                     \
    ((condition) ? (void)0 : fail_msg("%s:%d: %s", __FILE__, __LINE__, #condition))
#define assert_int_equal(a, b)          assert_true((a) == (b))
#define assert_memory_equal(a, b, size) assert_true(memcmp(a, b, size) == 0)

static int cmocka_run(const struct CMUnitTest *tests, size_t count)
{
    volatile int failures = 0;
    for (volatile size_t i = 0; i < count; i++) {
        void *state = NULL;
        printf("[ RUN      ] %s\n", tests[i].name);
        int failed = setjmp(cmocka_failed);
        if (failed == 0)
            tests[i].run(&state);
        printf("[ %s ] %s\n", failed ? " FAILED " : "      OK", tests[i].name);
        failures += failed != 0;
    }
    printf("%d of %d tests failed\n", failures, (int)count);
    return failures;
}

#define cmocka_run_group_tests(tests, setup, teardown)                                             \
    cmocka_run(tests, sizeof(tests) / sizeof((tests)[0]))

#endif

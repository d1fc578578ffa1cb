#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"

static void test_lines_reach_the_file(void **state)
{
    (void)state;
    char path[] = "/tmp/hone_log_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    char *data;
    size_t bytes;
    char long_text[6000];
    memset(long_text, 'y', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';

    log_set_stderr(0);
    log_set_role("actor-3");
    log_set_level(LOG_LEVEL_INFO);
    assert_int_equal(log_open_file(path), 0);
    log_debug("hidden");
    log_info("tokens %d", 42);
    log_warn("one\ntwo\x1b[2J");
    log_error("%s", long_text);
    log_close_file();
    log_info("after close");
    assert_int_equal(file_read(path, 1 << 20, &data, &bytes), 0);
    unlink(path);

    assert_null(strstr(data, "hidden"));
    assert_null(strstr(data, "after close"));
    assert_non_null(strstr(data, " INFO  actor-3: tokens 42\n"));
    assert_non_null(strstr(data, " WARN  actor-3: one two [2J\n"));
    assert_non_null(strstr(data, "yyy...\n"));
    int lines = 0;
    for (size_t i = 0; i < bytes; i++)
        lines += data[i] == '\n';
    assert_int_equal(lines, 3);
    assert_int_equal(data[2], ':');
    assert_int_equal(data[8], '.');
    memory_free(data);
}

static void test_unopenable_file(void **state)
{
    (void)state;
    assert_int_equal(log_open_file("/nonexistent/dir/log"), HONE_ENOENT);
    assert_non_null(strstr(error_message(), "/nonexistent/dir/log"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lines_reach_the_file),
                                       cmocka_unit_test(test_unopenable_file)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

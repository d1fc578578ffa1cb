#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <signal.h>
#include <unistd.h>

#include <jansson.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"
#include "infra/telemetry/metrics.h"

static char path[64];
static int64_t now_ns;

static int set_up(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "/tmp/hone_metrics_XXXXXX");
    int fd = mkstemp(path);
    now_ns = INT64_C(1700000000123) * 1000000;
    return fd < 0 ? -1 : close(fd);
}

static int tear_down(void **state)
{
    (void)state;
    return unlink(path);
}

static char *contents(void)
{
    char *data;
    size_t bytes;
    assert_int_equal(file_read(path, 1 << 20, &data, &bytes), 0);
    return data;
}

static void test_records(void **state)
{
    (void)state;
    struct clock clock = clock_fake(&now_ns);
    struct metrics *metrics;
    assert_int_equal(metrics_open(&metrics, path, &clock), 0);
    metrics_begin(metrics, 3);
    metrics_add(metrics, "loss", 0.1);
    metrics_add(metrics, "norm", (double)NAN);
    metrics_add_text(metrics, "why \"x\"", "a\nb");
    assert_int_equal(metrics_end(metrics), 0);
    metrics_begin(metrics, 4);
    assert_int_equal(metrics_end(metrics), 0);
    char *data = contents();
    assert_string_equal(data,
                        "{\"step\": 3, \"time\": 1700000000123, \"loss\": 0.1, \"norm\": null, "
                        "\"why \\\"x\\\"\": \"a\\nb\"}\n"
                        "{\"step\": 4, \"time\": 1700000000123}\n");
    json_t *record = json_loadb(data, strcspn(data, "\n"), JSON_REJECT_DUPLICATES, NULL);
    assert_true(json_real_value(json_object_get(record, "loss")) == 0.1);
    assert_string_equal(json_string_value(json_object_get(record, "why \"x\"")), "a\nb");
    json_decref(record);
    memory_free(data);
    metrics_close(metrics);
}

static void test_reopening_appends_after_a_torn_line(void **state)
{
    (void)state;
    struct clock clock = clock_fake(&now_ns);
    struct metrics *metrics;
    assert_int_equal(file_append(path, "{\"step\": 1}\n{\"st", 16), 0);
    for (int step = 2; step < 4; step++) {
        assert_int_equal(metrics_open(&metrics, path, &clock), 0);
        metrics_begin(metrics, step);
        assert_int_equal(metrics_end(metrics), 0);
        metrics_close(metrics);
    }
    char *data = contents();
    assert_string_equal(data, "{\"step\": 1}\n{\"st\n{\"step\": 2, \"time\": 1700000000123}\n"
                              "{\"step\": 3, \"time\": 1700000000123}\n");
    memory_free(data);
}

/* A record cut by a file size limit: the write fails, and the next whole record is on its own line.
 */
static void test_a_cut_record_stays_alone(void **state)
{
    (void)state;
    struct clock clock = clock_fake(&now_ns);
    struct metrics *metrics;
    struct rlimit old, small;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(metrics_open(&metrics, path, &clock), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = (struct rlimit){.rlim_cur = 10, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    metrics_begin(metrics, 1);
    int rc = metrics_end(metrics);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(rc, HONE_EIO);
    assert_non_null(strstr(error_message(), path));
    metrics_begin(metrics, 2);
    assert_int_equal(metrics_end(metrics), 0);
    metrics_close(metrics);
    char *data = contents();
    assert_string_equal(data, "{\"step\": 1\n{\"step\": 2, \"time\": 1700000000123}\n");
    memory_free(data);
}

static void test_full_disk_and_bad_path(void **state)
{
    (void)state;
    struct metrics *metrics;
    assert_int_equal(metrics_open(&metrics, "/nonexistent/m.jsonl", clock_system()), HONE_ENOENT);
    assert_null(metrics);
    if (file_exists("/dev/full")) {
        assert_int_equal(metrics_open(&metrics, "/dev/full", clock_system()), 0);
        metrics_begin(metrics, 1);
        assert_int_equal(metrics_end(metrics), HONE_ENOSPC);
        metrics_close(metrics);
    }
}

static void test_no_writer(void **state)
{
    (void)state;
    metrics_begin(NULL, 1);
    metrics_add(NULL, "x", 1);
    metrics_add_text(NULL, "x", "y");
    assert_int_equal(metrics_end(NULL), 0);
    metrics_close(NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_records),
                                       TEST(test_reopening_appends_after_a_torn_line),
                                       TEST(test_a_cut_record_stays_alone),
                                       TEST(test_full_disk_and_bad_path), TEST(test_no_writer)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Real processes: this program starts itself as `test worker MODE PATH`. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/base/text.h"
#include "infra/launch/supervisor.h"

#define WAIT_MS 60000

static char root[64], program[HONE_PATH_MAX];

static int make_root(void **state)
{
    (void)state;
    log_set_level(LOG_LEVEL_ERROR);
    snprintf(root, sizeof root, "%s", "/tmp/hone-super-XXXXXX");
    ssize_t bytes = readlink("/proc/self/exe", program, sizeof program - 1);
    return mkdtemp(root) && bytes > 0 ? 0 : -1;
}

static int remove_root(void **state)
{
    (void)state;
    return file_remove_tree(root);
}

/* ---- the workers ---- */

static void write_pid(const char *path)
{
    char text[16];
    int bytes = snprintf(text, sizeof text, "%d", (int)getpid());
    file_write_atomic(path, text, (size_t)bytes);
}

static void sleep_for_ever(const char *path)
{
    write_pid(path);
    for (;;)
        pause();
}

static int worker_main(const char *mode, const char *path)
{
    printf("hello from %s\n", mode);
    fflush(stdout);
    if (strcmp(mode, "good") == 0)
        return 0;
    if (strcmp(mode, "third") == 0) { /* succeeds the third time */
        int64_t bytes = 0;
        file_append(path, "x", 1);
        file_size(path, &bytes);
        return bytes >= 3 ? 0 : 7;
    }
    if (strcmp(mode, "usage") == 0)
        return 2;
    if (strcmp(mode, "segv") == 0) {
        fprintf(stderr, "the last words\n\n");
        signal(SIGSEGV, SIG_DFL);
        raise(SIGSEGV);
    }
    if (strcmp(mode, "stubborn") == 0) {
        signal(SIGTERM, SIG_IGN);
        sleep_for_ever(path);
    }
    if (strcmp(mode, "sleeper") == 0)
        sleep_for_ever(path);
    if (strcmp(mode, "orphan") == 0) { /* leaves a child behind */
        if (fork() == 0)
            sleep_for_ever(path);
        while (!file_exists(path))
            clock_sleep_ms(5);
        return 0;
    }
    if (strcmp(mode, "environment") == 0)
        return getenv("HONE_PARENT_PID") && atoi(getenv("HONE_PARENT_PID")) == (int)getppid() &&
                       getpgrp() == getpid()
                   ? 0
                   : 9;
    return 8;
}

/* ---- helpers ---- */

static const char *in_root(const char *name)
{
    static char paths[4][HONE_PATH_MAX];
    static int next;
    next = (next + 1) % 4;
    return path_join(paths[next], HONE_PATH_MAX, root, name);
}

static void add(struct supervisor *supervisor, const char *name, const char *mode, int restart_max)
{
    struct worker_spec spec = {
        .essential = true, .restart_max = restart_max, .restart_window_ms = 60000};
    char log_name[80], path[HONE_PATH_MAX], worker[] = "worker", mode_copy[32];
    snprintf(spec.name, sizeof spec.name, "%s", name);
    snprintf(log_name, sizeof log_name, "%s.log", name);
    snprintf(spec.log_path, sizeof spec.log_path, "%s", in_root(log_name));
    snprintf(path, sizeof path, "%s", in_root(name));
    snprintf(mode_copy, sizeof mode_copy, "%s", mode);
    spec.argv[0] = program;
    spec.argv[1] = worker;
    spec.argv[2] = mode_copy;
    spec.argv[3] = path;
    assert_int_equal(supervisor_add(supervisor, &spec), 0);
}

static int run(struct supervisor *supervisor)
{
    int64_t deadline = clock_now_ms(clock_system()) + WAIT_MS;
    int rc;
    while ((rc = supervisor_tick(supervisor)) == 0) {
        assert_true(clock_now_ms(clock_system()) < deadline);
        clock_sleep_ms(5);
    }
    return rc;
}

static pid_t read_pid(const char *path)
{
    char *text;
    size_t bytes;
    for (int i = 0; i < WAIT_MS / 5 && !file_exists(path); i++)
        clock_sleep_ms(5);
    assert_int_equal(file_read(path, 100, &text, &bytes), 0);
    pid_t pid = atoi(text);
    memory_free(text);
    assert_true(pid > 1);
    return pid;
}

/* Gone, or a zombie that whoever adopted it has not looked at yet. */
static bool is_gone(pid_t pid)
{
    char path[64], *text;
    size_t bytes;
    for (int i = 0; i < WAIT_MS / 5; i++) {
        snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
        if (file_read(path, 4096, &text, &bytes) < 0)
            return true;
        bool zombie = strstr(text, ") Z ") != NULL;
        memory_free(text);
        if (zombie)
            return true;
        clock_sleep_ms(5);
    }
    return false;
}

static void expect_log(const char *name, const char *expected)
{
    char *text;
    size_t bytes;
    assert_int_equal(file_read(in_root(name), 1 << 16, &text, &bytes), 0);
    assert_string_equal(text, expected);
    memory_free(text);
}

static struct supervisor *create(void)
{
    struct supervisor *supervisor;
    assert_int_equal(supervisor_create(&supervisor, clock_system()), 0);
    return supervisor;
}

/* ---- tests ---- */

static void test_done_when_every_worker_is(void **state)
{
    (void)state;
    struct supervisor *supervisor = create();
    add(supervisor, "one", "good", 0);
    add(supervisor, "two", "environment", 0);
    assert_int_equal(supervisor_count(supervisor), 2);
    assert_int_equal(supervisor_status(supervisor, 0), WORKER_STARTING);
    assert_int_equal(run(supervisor), 1);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(supervisor_status(supervisor, i), WORKER_DONE);
        assert_int_equal(supervisor_restarts(supervisor, i), 0);
        assert_int_equal(supervisor_pid(supervisor, i), 0);
    }
    assert_string_equal(supervisor_name(supervisor, 1), "two");
    expect_log("one.log", "hello from good\n");
    supervisor_destroy(supervisor);
}

static void test_restarts_with_growing_delay(void **state)
{
    (void)state;
    struct supervisor *supervisor = create();
    int64_t before = clock_now_ms(clock_system());
    add(supervisor, "third", "third", 5);
    assert_int_equal(run(supervisor), 1);
    assert_int_equal(supervisor_restarts(supervisor, 0), 2);
    assert_true(clock_now_ms(clock_system()) - before >= 100 + 200);
    expect_log("third.log", "hello from third\nhello from third\nhello from third\n");
    supervisor_destroy(supervisor);
}

static void expect_failure(const char *name, const char *mode, int restart_max, int restarts,
                           const char *says, const char *last_line)
{
    struct supervisor *supervisor = create();
    add(supervisor, name, mode, restart_max);
    assert_true(run(supervisor) < 0);
    if (!strstr(error_message(), name) || !strstr(error_message(), says) ||
        !text_ends_with(error_message(), last_line))
        fail_msg("%s", error_message());
    assert_int_equal(supervisor_status(supervisor, 0), WORKER_FAILED);
    assert_int_equal(supervisor_restarts(supervisor, 0), restarts);
    assert_true(supervisor_tick(supervisor) < 0);
    supervisor_destroy(supervisor);
}

static void test_gives_up_and_says_why(void **state)
{
    (void)state;
    expect_failure("crasher", "segv", 2, 2, "signal 11", "the last words");
    /* Nor does a guard change its mind. */
    expect_failure("unwilling", "nonsense", 5, 0, "exit status 8", "hello from nonsense");
    /* A bad recipe stays bad: no restart. */
    expect_failure("misused", "usage", 5, 0, "exit status 2", "hello from usage");
    char kept[HONE_PATH_MAX];
    snprintf(kept, sizeof kept, "%s", program);
    snprintf(program, sizeof program, "%s", "/nonexistent/hone");
    expect_failure("absent", "good", 0, 0, "exit status 127", "cannot be started");
    snprintf(program, sizeof program, "%s", kept);
}

static void test_stop_is_gentle_then_firm(void **state)
{
    (void)state;
    struct supervisor *supervisor = create();
    add(supervisor, "sleeper", "sleeper", 0);
    add(supervisor, "stubborn", "stubborn", 0);
    assert_int_equal(supervisor_tick(supervisor), 0);
    pid_t sleeper = read_pid(in_root("sleeper")), stubborn = read_pid(in_root("stubborn"));
    assert_int_equal(supervisor_pid(supervisor, 0), sleeper);
    assert_int_equal(supervisor_status(supervisor, 1), WORKER_RUNNING);
    int64_t before = clock_now_ms(clock_system());
    supervisor_stop(supervisor, 300);
    int64_t took_ms = clock_now_ms(clock_system()) - before;
    assert_true(took_ms >= 300 && took_ms < WAIT_MS);
    assert_int_equal(kill(sleeper, 0), -1); /* reaped */
    assert_int_equal(kill(stubborn, 0), -1);
    supervisor_stop(supervisor, 300);
    supervisor_destroy(supervisor);
}

static void test_what_a_worker_leaves_behind_goes_with_it(void **state)
{
    (void)state;
    struct supervisor *supervisor = create();
    add(supervisor, "orphan", "orphan", 0);
    assert_int_equal(run(supervisor), 1);
    assert_true(is_gone(read_pid(in_root("orphan"))));
    supervisor_destroy(supervisor);
}

static void test_workers_die_with_the_supervisor(void **state)
{
    (void)state;
    int status;
    fflush(stdout);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct supervisor *supervisor = create();
        add(supervisor, "bereaved", "sleeper", 0);
        for (;;) {
            supervisor_tick(supervisor);
            clock_sleep_ms(5);
        }
    }
    pid_t worker = read_pid(in_root("bereaved"));
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(is_gone(worker));
}

static void test_log_that_cannot_be_written(void **state)
{
    (void)state;
    struct supervisor *supervisor = create();
    struct worker_spec spec = {.name = "nolog", .essential = true};
    spec.argv[0] = program;
    snprintf(spec.log_path, sizeof spec.log_path, "%s", "/proc/hone/none.log");
    assert_int_equal(supervisor_add(supervisor, &spec), 0);
    assert_true(supervisor_tick(supervisor) < 0);
    assert_non_null(strstr(error_message(), "/proc/hone/none.log"));
    supervisor_destroy(supervisor);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "worker") == 0)
        return worker_main(argv[2], argv[3]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_done_when_every_worker_is),
        cmocka_unit_test(test_restarts_with_growing_delay),
        cmocka_unit_test(test_gives_up_and_says_why),
        cmocka_unit_test(test_stop_is_gentle_then_firm),
        cmocka_unit_test(test_what_a_worker_leaves_behind_goes_with_it),
        cmocka_unit_test(test_workers_die_with_the_supervisor),
        cmocka_unit_test(test_log_that_cannot_be_written),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}

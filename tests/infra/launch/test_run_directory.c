/* A run directory: made, reopened, refused; found again by workers. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "infra/base/error.h"
#include "infra/base/text.h"
#include "infra/launch/run_directory.h"
#include "infra/wire/socket.h"

#define DEEP_BYTES 3000
#define RECIPE     "model: base\nrl:\n  steps: 10\n  group: 8\n"

static char root[64], hash_a[HASH_HEX_SIZE], hash_b[HASH_HEX_SIZE];

static int make_root(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "%s", "/tmp/hone-run-XXXXXX");
    memset(hash_a, 'a', sizeof hash_a - 1);
    memset(hash_b, 'b', sizeof hash_b - 1);
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
    char mounted[HONE_PATH_MAX];
    (void)state;
    (void)umount2(path_join(mounted, sizeof mounted, root, "small"), MNT_DETACH);
    return file_remove_tree(root);
}

static const char *in_root(const char *name)
{
    static char path[HONE_PATH_MAX];
    return path_join(path, sizeof path, root, name);
}

static void test_create_reopen_attach(void **state)
{
    (void)state;
    struct run_directory run, again, worker;
    struct stat status;
    char path[HONE_PATH_MAX];
    assert_int_equal(run_directory_open(&run, in_root("a/b/run"), RECIPE, hash_a), 0);
    assert_int_equal(strlen(run.run_id), 32);
    assert_string_equal(run.recipe_hash, hash_a);
    assert_int_equal(run.path[0], '/');
    assert_int_equal(stat(run_directory_file(&run, path, sizeof path, "sock"), &status), 0);
    assert_int_equal(status.st_mode & 0777, 0700);
    run_directory_file(&run, path, sizeof path, "rl/checkpoints/step-1");
    assert_true(text_ends_with(path, "/a/b/run/rl/checkpoints/step-1"));
    assert_true(file_is_directory(in_root("a/b/run/rl/checkpoints")));
    /* A second one is refused while the first holds it; a worker only reads. */
    assert_int_equal(run_directory_open(&again, in_root("a/b/run"), RECIPE, hash_a), HONE_EBUSY);
    assert_non_null(strstr(error_message(), "in use"));
    assert_int_equal(run_directory_attach(&worker, in_root("a/b/run")), 0);
    assert_string_equal(worker.run_id, run.run_id);
    assert_string_equal(worker.recipe_hash, hash_a);
    run_directory_close(&worker);
    run_directory_close(&run);
    run_directory_close(&run);
    assert_int_equal(run_directory_open(&again, in_root("a/b/run"), RECIPE, hash_a), 0);
    assert_string_equal(again.run_id, worker.run_id); /* the same run goes on */
    run_directory_close(&again);
}

static void test_other_recipe_is_refused_by_line(void **state)
{
    (void)state;
    struct run_directory run;
    assert_int_equal(run_directory_open(&run, in_root("recipe"), RECIPE, hash_a), 0);
    run_directory_close(&run);
    assert_int_equal(run_directory_open(&run, in_root("recipe"),
                                        "model: base\nrl:\n  steps: 20\n  group: 8\n", hash_b),
                     HONE_EINVAL);
    assert_non_null(strstr(error_message(), "line 3"));
    assert_non_null(strstr(error_message(), "steps: 10"));
    assert_non_null(strstr(error_message(), "steps: 20"));
    assert_int_equal(run_directory_open(&run, in_root("recipe"), "model: base\n", hash_b),
                     HONE_EINVAL);
    assert_non_null(strstr(error_message(), "line 2"));
    /* Nothing of it is changed by the attempt, and the lock is free again. */
    assert_int_equal(run_directory_open(&run, in_root("recipe"), RECIPE, hash_a), 0);
    run_directory_close(&run);
}

static void test_attach_to_nothing(void **state)
{
    (void)state;
    struct run_directory run;
    assert_int_equal(run_directory_attach(&run, in_root("absent")), HONE_ENOENT);
    assert_int_equal(file_make_directories(in_root("plain")), 0);
    assert_int_equal(run_directory_attach(&run, in_root("plain")), HONE_EFORMAT);
    static const char *const bad[] = {"", "{", "[]", "{\"run_id\": 5}", "{\"run_id\": \"short\"}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(file_write_atomic(in_root("plain/run.json"), bad[i], strlen(bad[i])), 0);
        assert_int_equal(run_directory_attach(&run, in_root("plain")), HONE_EFORMAT);
        assert_non_null(strstr(error_message(), "run.json"));
    }
}

static void test_places_that_cannot_be_written(void **state)
{
    (void)state;
    struct run_directory run;
    assert_int_equal(file_write_atomic(in_root("file"), "x", 1), 0);
    assert_true(run_directory_open(&run, in_root("file"), RECIPE, hash_a) < 0);
    assert_non_null(strstr(error_message(), in_root("file")));
    assert_true(run_directory_open(&run, in_root("file/below"), RECIPE, hash_a) < 0);
    assert_true(run_directory_open(&run, "/proc/hone", RECIPE, hash_a) < 0);
    assert_non_null(strstr(error_message(), "/proc/hone"));
    char *deep = test_malloc(DEEP_BYTES);
    snprintf(deep, DEEP_BYTES, "%s", root);
    for (int i = 0; i < 20; i++)
        snprintf(deep + strlen(deep), DEEP_BYTES - strlen(deep), "%s",
                 "/a-folder-with-a-name-that-is-quite-long-as-folders-go");
    assert_int_equal(run_directory_open(&run, deep, RECIPE, hash_a), HONE_EINVAL);
    test_free(deep);
}

static void test_read_only_and_full(void **state)
{
    (void)state;
    char mounted[HONE_PATH_MAX];
    struct run_directory run;
    path_join(mounted, sizeof mounted, root, "small");
    assert_int_equal(file_make_directories(mounted), 0);
    if (mount("tmpfs", mounted, "tmpfs", 0, "size=64k") != 0) {
        printf("skipped: cannot mount a small file system (%s)\n", strerror(errno));
        skip();
    }
    int fd = open(in_root("small/filler"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    static const char zeros[4096];
    while (write(fd, zeros, sizeof zeros) > 0)
        continue;
    close(fd);
    assert_int_equal(run_directory_open(&run, in_root("small/run"), RECIPE, hash_a), HONE_ENOSPC);
    assert_non_null(strstr(error_message(), "small/run"));
    assert_int_equal(unlink(in_root("small/filler")), 0);
    /* What was half-written does not stand in the way. */
    assert_int_equal(run_directory_open(&run, in_root("small/run"), RECIPE, hash_a), 0);
    run_directory_close(&run);
    assert_int_equal(mount("tmpfs", mounted, "tmpfs", MS_REMOUNT | MS_RDONLY, ""), 0);
    assert_true(run_directory_open(&run, in_root("small/run"), RECIPE, hash_a) < 0);
    assert_non_null(strstr(error_message(), "Read-only file system"));
    assert_int_equal(run_directory_attach(&run, in_root("small/run")), 0); /* reading works */
    assert_int_equal(umount2(mounted, MNT_DETACH), 0);
}

/* Both ends bind and connect to what they are told. */
static void check_endpoint(const char *directory, bool is_short)
{
    struct run_directory run, worker;
    struct wire_context *context = wire_context_create();
    struct wire_server *server;
    char endpoint[HONE_PATH_MAX + 32], same[HONE_PATH_MAX + 32];
    assert_int_equal(run_directory_open(&run, directory, RECIPE, hash_a), 0);
    assert_int_equal(run_directory_attach(&worker, directory), 0);
    run_directory_endpoint(&run, endpoint, sizeof endpoint, "weights");
    run_directory_endpoint(&worker, same, sizeof same, "weights");
    assert_string_equal(endpoint, same);
    assert_true(text_starts_with(endpoint, is_short ? "ipc:///tmp/hone-" : "ipc:///tmp/hone-run-"));
    assert_int_equal(strstr(endpoint, "/sock/weights") == NULL, is_short);
    if (wire_server_create(&server, context, endpoint) < 0)
        fail_msg("%s", error_message());
    wire_server_destroy(server);
    wire_context_destroy(context);
    char folder[HONE_PATH_MAX + 32];
    snprintf(folder, sizeof folder, "%s", endpoint + strlen("ipc://"));
    *strrchr(folder, '/') = '\0';
    struct stat status;
    assert_int_equal(stat(folder, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0700);
    run_directory_close(&worker);
    assert_true(file_is_directory(folder));
    run_directory_close(&run);
    assert_int_equal(file_is_directory(folder), !is_short); /* nothing stays behind in /tmp */
}

static void test_endpoints(void **state)
{
    (void)state;
    check_endpoint(in_root("short"), false);
    check_endpoint(
        in_root("a-name-so-long-that-a-unix-socket-cannot-have-it-as-its-address-because-"
                "that-takes-107-bytes-at-most"),
        true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create_reopen_attach),
        cmocka_unit_test(test_other_recipe_is_refused_by_line),
        cmocka_unit_test(test_attach_to_nothing),
        cmocka_unit_test(test_places_that_cannot_be_written),
        cmocka_unit_test(test_read_only_and_full),
        cmocka_unit_test(test_endpoints),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}

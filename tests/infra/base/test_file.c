#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"
#include "infra/base/text.h"

static char root[64];

static const char *at(const char *name)
{
    static char paths[4][HONE_PATH_MAX];
    static int next;
    next = (next + 1) % 4;
    return path_join(paths[next], sizeof paths[next], root, name);
}

static int set_up(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "/tmp/hone_file_XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    return file_remove_tree(root);
}

static void test_write_and_read(void **state)
{
    (void)state;
    char *data;
    size_t bytes;
    int64_t size;
    assert_int_equal(file_write_atomic(at("a"), "hello\0x", 7), 0);
    assert_false(file_exists(at("a.tmp")));
    assert_int_equal(file_append(at("a"), "!", 1), 0);
    assert_int_equal(file_size(at("a"), &size), 0);
    assert_int_equal(size, 8);
    assert_int_equal(file_read(at("a"), 8, &data, &bytes), 0);
    assert_int_equal(bytes, 8);
    assert_memory_equal(data, "hello\0x!", 9);
    memory_free(data);
    assert_int_equal(file_read(at("a"), 7, &data, &bytes), HONE_EFORMAT);
    assert_null(data);
    assert_non_null(strstr(error_message(), root));
    assert_int_equal(file_read(at("missing"), 8, &data, &bytes), HONE_ENOENT);
    assert_int_equal(file_read(root, 8, &data, &bytes), HONE_EINVAL);
    assert_int_equal(file_write_atomic(at("no/such/dir"), "x", 1), HONE_ENOENT);
}

static void test_read_without_a_size(void **state)
{
    (void)state;
    char *data;
    size_t bytes;
    assert_int_equal(file_read("/proc/self/status", 1 << 20, &data, &bytes), 0);
    assert_true(text_starts_with(data, "Name:"));
    memory_free(data);
    assert_int_equal(file_read("/dev/zero", 100000, &data, &bytes), HONE_EFORMAT);
}

static void test_full_disk(void **state)
{
    (void)state;
    if (!file_exists("/dev/full")) {
        print_message("no /dev/full here: skipped\n");
        skip();
    }
    assert_int_equal(file_append("/dev/full", "x", 1), HONE_ENOSPC);
    assert_non_null(strstr(error_message(), "/dev/full"));
}

static void test_copy(void **state)
{
    (void)state;
    size_t bytes = ((size_t)1 << 20) + 3;
    char *data = memory_alloc(bytes, 1), *copy;
    for (size_t i = 0; i < bytes; i++)
        data[i] = (char)(i * 7);
    assert_int_equal(file_write_atomic(at("big"), data, bytes), 0);
    assert_int_equal(file_copy(at("big"), at("copy")), 0);
    size_t got;
    assert_int_equal(file_read(at("copy"), bytes, &copy, &got), 0);
    assert_int_equal(got, bytes);
    assert_memory_equal(copy, data, bytes);
    memory_free(copy);
    memory_free(data);
    assert_int_equal(file_copy(at("missing"), at("copy")), HONE_ENOENT);
}

static int collect(void *context, const char *name)
{
    text_append(context, name);
    text_append_char(context, ' ');
    return 0;
}

static int stop_at_b(void *context, const char *name)
{
    ++*(int *)context;
    return strcmp(name, "b") == 0 ? 5 : 0;
}

static void test_directories(void **state)
{
    (void)state;
    assert_int_equal(file_make_directories(at("tree/x/y")), 0);
    assert_int_equal(file_make_directories(at("tree/x/y/")), 0);
    assert_true(file_is_directory(at("tree/x/y")));
    assert_int_equal(file_append(at("tree/b"), "", 0), 0);
    assert_int_equal(file_append(at("tree/a"), "", 0), 0);
    assert_int_equal(file_append(at("tree/B"), "", 0), 0);
    assert_true(file_make_directories(at("tree/a")) < 0);
    assert_true(file_make_directories(at("tree/a/below")) < 0);
    struct text names;
    text_init(&names);
    assert_int_equal(file_list(at("tree"), collect, &names), 0);
    assert_string_equal(names.data, "B a b x ");
    text_release(&names);
    int visited = 0;
    assert_int_equal(file_list(at("tree"), stop_at_b, &visited), 5);
    assert_int_equal(visited, 3);
    assert_int_equal(file_list(at("missing"), stop_at_b, &visited), HONE_ENOENT);
    assert_int_equal(file_sync_directory(at("tree")), 0);
    assert_int_equal(file_rename_synced(at("tree/a"), at("tree/c")), 0);
    assert_true(file_exists(at("tree/c")));

    /* A link inside a removed tree goes; what it points to stays. */
    assert_int_equal(file_append(at("kept"), "k", 1), 0);
    assert_int_equal(symlink(at("kept"), at("tree/link")), 0);
    assert_int_equal(file_remove_tree(at("tree")), 0);
    assert_false(file_exists(at("tree")));
    assert_true(file_exists(at("kept")));
    assert_int_equal(file_remove_tree(at("tree")), 0);
    assert_true(file_free_bytes(root) > 0);
    assert_int_equal(file_free_bytes(at("missing")), -1);
}

static void test_map(void **state)
{
    (void)state;
    struct file_map map;
    assert_int_equal(file_append(at("mapped"), "0123456789", 10), 0);
    assert_int_equal(file_map_open(&map, at("mapped")), 0);
    assert_int_equal(map.bytes, 10);
    assert_memory_equal(map.data, "0123456789", 10);
    file_map_close(&map);
    assert_int_equal(file_append(at("empty"), "", 0), 0);
    assert_int_equal(file_map_open(&map, at("empty")), 0);
    assert_int_equal(map.bytes, 0);
    assert_non_null(map.data);
    file_map_close(&map);
    assert_int_equal(file_map_open(&map, at("missing")), HONE_ENOENT);
}

static void test_join(void **state)
{
    (void)state;
    char path[16];
    assert_string_equal(path_join(path, sizeof path, "a", "b"), "a/b");
    assert_string_equal(path_join(path, sizeof path, "a/", "b"), "a/b");
    assert_string_equal(path_join(path, sizeof path, "", "b"), "b");
    assert_string_equal(path_join(path, sizeof path, "/", "b"), "/b");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_write_and_read),
                                       cmocka_unit_test(test_read_without_a_size),
                                       cmocka_unit_test(test_full_disk),
                                       cmocka_unit_test(test_copy),
                                       cmocka_unit_test(test_directories),
                                       cmocka_unit_test(test_map),
                                       cmocka_unit_test(test_join)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

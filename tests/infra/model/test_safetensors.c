/* safetensors: what is written reads back, every rule of the format has a file that breaks it, and
 * a sharded directory is held to its index. */
#include "tests/infra/model/model_fixture.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "infra/base/file.h"
#include "infra/model/safetensors.h"

static char directory[] = "/tmp/hone_safetensors_XXXXXX";

static int make_directory(void **state)
{
    (void)state;
    return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state)
{
    (void)state;
    return file_remove_tree(directory);
}

static const char *path_of(const char *name)
{
    static char path[HONE_PATH_MAX];
    return path_join(path, sizeof path, directory, name);
}

/* A file of a header, with its true length in front unless `length` is given, and `bytes` of data.
 */
static void write_raw(const char *name, const char *header, int64_t length, size_t bytes)
{
    struct text out;
    uint64_t declared = length >= 0 ? (uint64_t)length : strlen(header);
    text_init(&out);
    for (int i = 0; i < 8; i++)
        text_append_char(&out, (char)(declared >> (8 * i)));
    text_append(&out, header);
    for (size_t i = 0; i < bytes; i++)
        text_append_char(&out, (char)i);
    assert_int_equal(file_write_atomic(path_of(name), out.data, out.length), 0);
    text_release(&out);
}

static void test_round_trip(void **state)
{
    (void)state;
    const float f32[6] = {1, -2, 3.5f, 0, 1e-30f, 7};
    const uint16_t half[3] = {0x3f80, 0xc000, 1};
    const unsigned char bytes[1] = {9};
    const int64_t scalar = -5;
    const struct safetensor tensors[] = {
        {.name = "z\"\n",
         .dtype = DTYPE_U8,
         .rank = 1,
         .shape = {1},
         .count = 1,
         .data = bytes,
         .bytes = 1},
        {.name = "half",
         .dtype = DTYPE_BF16,
         .rank = 1,
         .shape = {3},
         .count = 3,
         .data = half,
         .bytes = 6},
        {.name = "b",
         .dtype = DTYPE_F32,
         .rank = 2,
         .shape = {2, 3},
         .count = 6,
         .data = f32,
         .bytes = 24},
        {.name = "scalar", .dtype = DTYPE_I64, .rank = 0, .count = 1, .data = &scalar, .bytes = 8},
        {.name = "empty",
         .dtype = DTYPE_F32,
         .rank = 2,
         .shape = {0, 4},
         .count = 0,
         .data = f32,
         .bytes = 0},
    };
    const char *const metadata[] = {"who", "a test", "b\\", "\"", NULL};
    struct safetensors *file;
    assert_int_equal(safetensors_write(path_of("a.safetensors"), tensors, 5, metadata), 0);
    assert_false(file_exists(path_of("a.safetensors.tmp")));
    if (safetensors_open(&file, path_of("a.safetensors")) < 0)
        fail_msg("%s", error_message());
    assert_int_equal(safetensors_count(file), 5);
    for (int i = 0; i < 5; i++) {
        const struct safetensor *found = safetensors_find(file, tensors[i].name);
        assert_non_null(found);
        assert_int_equal(found->dtype, tensors[i].dtype);
        assert_int_equal(found->rank, tensors[i].rank);
        assert_int_equal(found->count, tensors[i].count);
        assert_int_equal(found->bytes, tensors[i].bytes);
        assert_memory_equal(found->shape, tensors[i].shape, sizeof found->shape);
        if (found->bytes > 0)
            assert_memory_equal(found->data, tensors[i].data, found->bytes);
    }
    assert_null(safetensors_find(file, "absent"));
    assert_string_equal(safetensors_metadata(file, "format"), "pt");
    assert_string_equal(safetensors_metadata(file, "who"), "a test");
    assert_string_equal(safetensors_metadata(file, "b\\"), "\"");
    assert_null(safetensors_metadata(file, "absent"));
    safetensors_close(file);
}

/* Alignment descending, then name; header padded so that data starts at a multiple of 8. */
static void test_stored_order(void **state)
{
    (void)state;
    const float f32[2] = {1, 2};
    const uint16_t half[2] = {1, 2};
    const struct safetensor tensors[] = {
        {.name = "a",
         .dtype = DTYPE_BF16,
         .rank = 1,
         .shape = {2},
         .count = 2,
         .data = half,
         .bytes = 4},
        {.name = "d",
         .dtype = DTYPE_F32,
         .rank = 1,
         .shape = {1},
         .count = 1,
         .data = f32,
         .bytes = 4},
        {.name = "c",
         .dtype = DTYPE_F32,
         .rank = 1,
         .shape = {2},
         .count = 2,
         .data = f32,
         .bytes = 8},
    };
    char *data;
    size_t length;
    assert_int_equal(safetensors_write(path_of("b.safetensors"), tensors, 3, NULL), 0);
    assert_int_equal(file_read(path_of("b.safetensors"), 4096, &data, &length), 0);
    size_t header = (unsigned char)data[0] + 256u * (unsigned char)data[1];
    assert_int_equal((8 + header) % 8, 0);
    assert_int_equal(length, 8 + header + 16);
    const char *expected = "{\"__metadata__\":{\"format\":\"pt\"},"
                           "\"c\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                           "\"d\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]},"
                           "\"a\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[12,16]}}";
    assert_memory_equal(data + 8, expected, strlen(expected));
    memory_free(data);
}

#define T(name, dtype, shape, begin, end)                                                          \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" begin "," end \
    "]}"

static const struct {
    const char *header;
    size_t bytes;
    int code;
    const char *mentions;
} broken[] = {
    /* S2 */
    {" {}", 0, HONE_EFORMAT, "'{'"},
    {"[]", 0, HONE_EFORMAT, "'{'"},
    {"", 0, HONE_EFORMAT, "'{'"},
    {"{} \n", 0, HONE_EFORMAT, "padded"},
    {"{\"a\":}", 0, HONE_EFORMAT, "header"},
    {"{\"\xff\":{}}", 0, HONE_EFORMAT, "0xff"},
    {"{" T("a", "U8", "1", "0", "1") "," T("a", "U8", "1", "1", "2") "}", 2, HONE_EFORMAT,
     "duplicate"},
    /* S3 */
    {"{\"__metadata__\":{\"a\":1}}", 0, HONE_EFORMAT, "__metadata__"},
    {"{\"__metadata__\":[]}", 0, HONE_EFORMAT, "__metadata__"},
    /* S4 */
    {"{\"a\":7}", 0, HONE_EFORMAT, "\"a\""},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, HONE_EFORMAT, "\"a\""},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":1}}", 1, HONE_EFORMAT,
     "\"a\""},
    {"{" T("a", "U9", "1", "0", "1") "}", 1, HONE_EFORMAT, "unknown dtype \"U9\""},
    {"{" T("a", "U8", "-1", "0", "1") "}", 1, HONE_EFORMAT, "shape"},
    {"{" T("a", "U8", "1.0", "0", "1") "}", 1, HONE_EFORMAT, "shape"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]}}", 1, HONE_EFORMAT, "shape"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, HONE_EFORMAT,
     "data_offsets"},
    {"{" T("a", "U8", "1", "-1", "0") "}", 1, HONE_EFORMAT, "data_offsets"},
    {"{" T("a", "U8", "1", "1", "0") "}", 1, HONE_EFORMAT, "end before"},
    {"{" T("a", "U8", "1,1,1,1,1,1,1,1,1", "0", "1") "}", 1, HONE_EUNSUPPORTED, "dimensions"},
    {"{" T("a", "F64", "1", "0", "8") "}", 8, HONE_EUNSUPPORTED, "F64"},
    /* S5 */
    {"{" T("a", "U8", "4294967296,4294967296", "0", "0") "}", 0, HONE_EFORMAT, "overflow"},
    {"{" T("a", "F32", "4611686018427387904", "0", "0") "}", 0, HONE_EFORMAT, "overflow"},
    {"{" T("a", "F4", "3", "0", "2") "}", 2, HONE_EFORMAT, "whole bytes"},
    {"{" T("a", "F6_E2M3", "1", "0", "1") "}", 1, HONE_EFORMAT, "whole bytes"},
    {"{" T("a", "F32", "2", "0", "4") "}", 4, HONE_EFORMAT, "needs 8"},
    /* S6 */
    {"{" T("a", "U8", "4", "1", "5") "}", 5, HONE_EFORMAT, "hole"},
    {"{" T("a", "U8", "4", "0", "4") "," T("b", "U8", "4", "5", "9") "}", 9, HONE_EFORMAT, "hole"},
    {"{" T("a", "U8", "4", "0", "4") "," T("b", "U8", "4", "3", "7") "}", 7, HONE_EFORMAT,
     "overlap"},
    {"{" T("a", "U8", "4", "0", "4") "," T("b", "U8", "4", "0", "4") "}", 4, HONE_EFORMAT,
     "overlap"},
    {"{" T("a", "U8", "4", "0", "4") "}", 3, HONE_EFORMAT, "truncated"},
    {"{" T("a", "U8", "4", "0", "4") "}", 5, HONE_EFORMAT, "need 4 bytes"},
    {"{" T("a", "U8", "4", "0", "4") "," T("b", "U8", "9223372036854775807", "4",
                                           "9223372036854775807") "}",
     8, HONE_EFORMAT, "\"b\""},
    {"{}", 1, HONE_EFORMAT, "the file has 1"},
};

static void expect_failure(const char *path, int code, const char *mentions, const char *what)
{
    struct safetensors *file;
    error_clear();
    int rc = safetensors_open(&file, path);
    if (rc != code || !strstr(error_message(), mentions) || !strstr(error_message(), path))
        fail_msg("%s: %d \"%s\"", what, rc, error_message());
    assert_null(file);
}

static void test_broken_headers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        write_raw("broken.safetensors", broken[i].header, -1, broken[i].bytes);
        expect_failure(path_of("broken.safetensors"), broken[i].code, broken[i].mentions,
                       broken[i].header);
    }
}

static void test_broken_lengths(void **state)
{
    (void)state;
    write_raw("length.safetensors", "{}", 100000001, 0);
    expect_failure(path_of("length.safetensors"), HONE_EFORMAT, "100,000,000", "long header");
    write_raw("length.safetensors", "{}", INT64_MAX, 0);
    expect_failure(path_of("length.safetensors"), HONE_EFORMAT, "100,000,000", "huge header");
    write_raw("length.safetensors", "{}", 3, 0);
    expect_failure(path_of("length.safetensors"), HONE_EFORMAT, "truncated", "short file");
    assert_int_equal(file_write_atomic(path_of("length.safetensors"), "1234567", 7), 0);
    expect_failure(path_of("length.safetensors"), HONE_EFORMAT, "too short", "7 bytes");
    assert_int_equal(file_write_atomic(path_of("length.safetensors"), "", 0), 0);
    expect_failure(path_of("length.safetensors"), HONE_EFORMAT, "too short", "no bytes");
    expect_failure(path_of("nowhere.safetensors"), HONE_ENOENT, "nowhere", "no file");
}

/* Cut anywhere, a real file is refused. */
static void test_every_truncation(void **state)
{
    (void)state;
    char *data;
    size_t length;
    struct safetensors *file;
    write_raw("whole.safetensors",
              "{" T("a", "F32", "2", "0", "8") "," T("b", "BF16", "3", "8", "14") "}   ", -1, 14);
    assert_int_equal(safetensors_open(&file, path_of("whole.safetensors")), 0);
    safetensors_close(file);
    assert_int_equal(file_read(path_of("whole.safetensors"), 4096, &data, &length), 0);
    for (size_t cut = 0; cut < length; cut++) {
        assert_int_equal(file_write_atomic(path_of("cut.safetensors"), data, cut), 0);
        assert_int_equal(safetensors_open(&file, path_of("cut.safetensors")), HONE_EFORMAT);
    }
    memory_free(data);
}

/* ---- sharded directories ---- */

#define SHARD_A "model-00001-of-00002.safetensors"
#define SHARD_B "model-00002-of-00002.safetensors"

static void write_shards(const char *index)
{
    write_raw(SHARD_A, "{" T("a", "U8", "4", "0", "4") "," T("b", "U8", "1", "4", "5") "}", -1, 5);
    write_raw(SHARD_B, "{" T("c", "U8", "2", "0", "2") "}", -1, 2);
    assert_int_equal(
        file_write_atomic(path_of("model.safetensors.index.json"), index, strlen(index)), 0);
}

static void test_shards(void **state)
{
    (void)state;
    struct safetensors *file;
    write_shards("{\"metadata\":{\"total_size\":7},\"weight_map\":{\"a\":\"" SHARD_A
                 "\",\"c\":\"" SHARD_B "\",\"b\":\"" SHARD_A "\"}}");
    if (safetensors_open_directory(&file, directory) < 0)
        fail_msg("%s", error_message());
    assert_int_equal(safetensors_count(file), 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(safetensors_at(file, i)->name[0], 'a' + i);
    assert_int_equal(safetensors_find(file, "c")->bytes, 2);
    safetensors_close(file);
}

static void test_broken_indices(void **state)
{
    (void)state;
    static const struct {
        const char *index;
        int code;
        const char *mentions;
    } cases[] = {
        {"{", HONE_EFORMAT, "index.json:1"},
        {"{\"weight_map\":{}}", HONE_EFORMAT, "weight_map"},
        {"{\"weight_map\":{\"a\":7}}", HONE_EFORMAT, "\"a\""},
        {"{\"weight_map\":{\"a\":\"../x.safetensors\"}}", HONE_EFORMAT, "bare"},
        {"{\"weight_map\":{\"a\":\"/etc/x.safetensors\"}}", HONE_EFORMAT, "bare"},
        {"{\"weight_map\":{\"a\":\"..\"}}", HONE_EFORMAT, "bare"},
        {"{\"weight_map\":{\"a\":\"\"}}", HONE_EFORMAT, "bare"},
        {"{\"weight_map\":{\"a\":\"config.json\"}}", HONE_EFORMAT, "bare"},
        {"{\"weight_map\":{\"a\":\"absent.safetensors\"}}", HONE_ENOENT, "absent.safetensors"},
        {"{\"weight_map\":{\"a\":\"link.safetensors\"}}", HONE_EFORMAT, "outside"},
        {"{\"weight_map\":{\"a\":\"" SHARD_A "\",\"a\":\"" SHARD_A "\"}}", HONE_EFORMAT,
         "duplicate"},
        {"{\"weight_map\":{\"a\":\"" SHARD_A "\"}}", HONE_EFORMAT, "\"b\": is not listed"},
        {"{\"weight_map\":{\"a\":\"" SHARD_A "\",\"b\":\"" SHARD_B "\",\"c\":\"" SHARD_B "\"}}",
         HONE_EFORMAT, "the index places in " SHARD_B},
        {"{\"weight_map\":{\"a\":\"" SHARD_A "\",\"b\":\"" SHARD_A "\",\"d\":\"" SHARD_A "\"}}",
         HONE_EFORMAT, "\"d\""},
    };
    char outside[] = "/tmp/hone_outside_XXXXXX";
    int fd = mkstemp(outside);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(symlink(outside, path_of("link.safetensors")), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct safetensors *file;
        write_shards(cases[i].index);
        int rc = safetensors_open_directory(&file, directory);
        if (rc != cases[i].code || !strstr(error_message(), cases[i].mentions))
            fail_msg("%s: %d \"%s\"", cases[i].index, rc, error_message());
        assert_null(file);
    }
    unlink(path_of("link.safetensors"));
    unlink(outside);
}

/* A tensor in two shards is refused whichever of them the index names. */
static void test_tensor_in_two_shards(void **state)
{
    (void)state;
    struct safetensors *file;
    write_shards("{\"weight_map\":{\"a\":\"" SHARD_A "\",\"b\":\"" SHARD_A "\",\"c\":\"" SHARD_B
                 "\"}}");
    write_raw(SHARD_B, "{" T("a", "U8", "1", "0", "1") "," T("c", "U8", "1", "1", "2") "}", -1, 2);
    assert_int_equal(safetensors_open_directory(&file, directory), HONE_EFORMAT);
    assert_non_null(strstr(error_message(), "\"a\""));
}

/* The hub's cache keeps files as links into ../../blobs. */
static void test_hub_cache_links(void **state)
{
    (void)state;
    char snapshot[HONE_PATH_MAX], blob[HONE_PATH_MAX], link[HONE_PATH_MAX];
    const char *index = "{\"weight_map\":{\"a\":\"x.safetensors\"}}";
    struct safetensors *file;
    path_join(snapshot, sizeof snapshot, directory, "hub/snapshots/rev");
    assert_int_equal(file_make_directories(snapshot), 0);
    assert_int_equal(file_make_directories(path_of("hub/blobs")), 0);
    write_raw("hub/blobs/hash", "{" T("a", "U8", "4", "0", "4") "}", -1, 4);
    path_join(link, sizeof link, snapshot, "x.safetensors");
    assert_int_equal(symlink("../../blobs/hash", link), 0);
    path_join(blob, sizeof blob, snapshot, "model.safetensors.index.json");
    assert_int_equal(file_write_atomic(blob, index, strlen(index)), 0);
    if (safetensors_open_directory(&file, snapshot) < 0)
        fail_msg("%s", error_message());
    safetensors_close(file);
}

static void test_no_weights(void **state)
{
    (void)state;
    struct safetensors *file;
    char empty[HONE_PATH_MAX], pickle[HONE_PATH_MAX];
    path_join(empty, sizeof empty, directory, "empty");
    assert_int_equal(file_make_directories(empty), 0);
    assert_int_equal(safetensors_open_directory(&file, empty), HONE_ENOENT);
    assert_null(strstr(error_message(), "pickle"));
    path_join(pickle, sizeof pickle, empty, "pytorch_model.bin");
    assert_int_equal(file_write_atomic(pickle, "x", 1), 0);
    assert_int_equal(safetensors_open_directory(&file, empty), HONE_ENOENT);
    assert_non_null(strstr(error_message(), "pickle"));
    assert_int_equal(safetensors_open_directory(&file, "/nonexistent"), HONE_ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),       cmocka_unit_test(test_stored_order),
        cmocka_unit_test(test_broken_headers),   cmocka_unit_test(test_broken_lengths),
        cmocka_unit_test(test_every_truncation), cmocka_unit_test(test_shards),
        cmocka_unit_test(test_broken_indices),   cmocka_unit_test(test_tensor_in_two_shards),
        cmocka_unit_test(test_hub_cache_links),  cmocka_unit_test(test_no_weights),
    };
    return cmocka_run_group_tests_name("safetensors", tests, make_directory, remove_directory);
}

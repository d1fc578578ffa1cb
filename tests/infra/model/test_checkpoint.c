/* Checkpoints: what is written reads back bit for bit, and a torn, tampered or foreign one is found
 * out, named and passed over. */
#include "tests/infra/model/model_fixture.h"

#include <stdlib.h>
#include <unistd.h>

#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/model/checkpoint.h"

static char directory[] = "/tmp/hone_checkpoint_XXXXXX";
static struct model_config config;
static int64_t parameter_count;
static float *master, *moment1, *moment2;

static const char *const all_files[] = {"config.json",
                                        "model.safetensors",
                                        "tokenizer.json",
                                        "tokenizer_config.json",
                                        "chat_template.jinja",
                                        "optimizer.safetensors",
                                        "state.json",
                                        "manifest.json",
                                        "DONE"};
#define FILE_COUNT ((int)(sizeof all_files / sizeof *all_files))

static const char *path_of(const char *name)
{
    static char paths[4][HONE_PATH_MAX];
    static int next;
    next = (next + 1) % 4;
    return path_join(paths[next], sizeof paths[next], directory, name);
}

static void write_text(const char *name, const char *text)
{
    assert_int_equal(file_write_atomic(path_of(name), text, strlen(text)), 0);
}

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(directory))
        return -1;
    log_set_level(LOG_LEVEL_ERROR);
    config = fixture_config(true);
    parameter_count = model_config_parameter_count(&config);
    master = fixture_flat(&config, 1);
    moment1 = fixture_flat(&config, 2);
    moment2 = fixture_flat(&config, 3);
    assert_int_equal(file_make_directories(path_of("base")), 0);
    assert_int_equal(model_config_write(&config, NULL, DTYPE_F32, path_of("base")), 0);
    write_text("base/tokenizer.json", "{\"a tokenizer\":1}");
    write_text("base/tokenizer_config.json", "{}");
    write_text("base/chat_template.jinja", "{{ messages }}");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    memory_free(master);
    memory_free(moment1);
    memory_free(moment2);
    return file_remove_tree(directory);
}

static int write_checkpoint(const char *name, int64_t step, bool resumable)
{
    struct checkpoint_state state = {.stage = "rl",
                                     .step = step,
                                     .batch = 7,
                                     .policy_version = 8,
                                     .epoch = 1,
                                     .position = 99,
                                     .tokens = 123456789012,
                                     .recipe_hash = "abc",
                                     .weights_hash = "def"};
    return checkpoint_write(path_of(name),
                            &(struct checkpoint_content){.config = &config,
                                                         .base_directory = path_of("base"),
                                                         .weights_dtype = DTYPE_BF16,
                                                         .weights = master,
                                                         .master = resumable ? master : NULL,
                                                         .moment1 = resumable ? moment1 : NULL,
                                                         .moment2 = resumable ? moment2 : NULL,
                                                         .state = &state});
}

static void must_write(const char *name, int64_t step)
{
    if (write_checkpoint(name, step, true) < 0)
        fail_msg("%s", error_message());
    if (checkpoint_verify(path_of(name)) < 0)
        fail_msg("%s", error_message());
}

static void test_round_trip(void **state)
{
    (void)state;
    size_t bytes = (size_t)parameter_count * sizeof(float);
    float *a = MEMORY_ARRAY(float, parameter_count), *b = MEMORY_ARRAY(float, parameter_count);
    float *c = MEMORY_ARRAY(float, parameter_count);
    struct checkpoint_state read;
    struct model_config again;
    must_write("round", 120);
    for (int i = 0; i < FILE_COUNT; i++)
        assert_true(file_exists(
            path_join((char[HONE_PATH_MAX]){0}, HONE_PATH_MAX, path_of("round"), all_files[i])));
    assert_false(file_exists(path_of("round.tmp")));
    assert_int_equal(checkpoint_read_state(path_of("round"), &read), 0);
    assert_string_equal(read.stage, "rl");
    assert_int_equal(read.step, 120);
    assert_int_equal(read.batch, 7);
    assert_int_equal(read.policy_version, 8);
    assert_int_equal(read.epoch, 1);
    assert_int_equal(read.position, 99);
    assert_int_equal(read.tokens, 123456789012);
    assert_string_equal(read.recipe_hash, "abc");
    assert_string_equal(read.weights_hash, "def");
    assert_int_equal(
        checkpoint_read_optimizer(path_of("round"), &config,
                                  &(struct checkpoint_optimizer){a, b, c, DTYPE_F32, NULL, 0}),
        0);
    assert_memory_equal(a, master, bytes);
    assert_memory_equal(b, moment1, bytes);
    assert_int_equal(
        checkpoint_read_optimizer(path_of("round"), &config,
                                  &(struct checkpoint_optimizer){a, b, c, DTYPE_BF16, NULL, 0}),
        HONE_EINVAL);
    assert_non_null(strstr(error_message(), "moments_dtype"));
    assert_memory_equal(c, moment2, bytes);
    assert_int_equal(model_config_read(&again, path_of("round")), 0);
    assert_int_equal(again.stored_dtype, DTYPE_BF16);
    assert_int_equal(model_read_flat(&again, path_of("round"), a), 0);
    for (int64_t i = 0; i < parameter_count; i++)
        assert_true(a[i] >= bf16_to_f32(bf16_from_f32(master[i])) &&
                    a[i] <= bf16_to_f32(bf16_from_f32(master[i])));
    memory_free(a);
    memory_free(b);
    memory_free(c);
}

static void test_weights_only(void **state)
{
    (void)state;
    float *vector = MEMORY_ARRAY(float, parameter_count);
    assert_int_equal(write_checkpoint("weights", 1, false), 0);
    assert_int_equal(checkpoint_verify(path_of("weights")), 0);
    assert_int_equal(checkpoint_read_optimizer(path_of("weights"), &config,
                                               &(struct checkpoint_optimizer){
                                                   vector, vector, vector, DTYPE_F32, NULL, 0}),
                     HONE_ENOENT);
    assert_non_null(strstr(error_message(), "no optimizer state"));
    memory_free(vector);
}

static void test_other_shape_is_refused(void **state)
{
    (void)state;
    struct model_config other = fixture_config(false);
    float *vector = MEMORY_ARRAY(float, model_config_parameter_count(&other));
    must_write("shape", 1);
    assert_int_equal(checkpoint_read_optimizer(path_of("shape"), &other,
                                               &(struct checkpoint_optimizer){
                                                   vector, vector, vector, DTYPE_F32, NULL, 0}),
                     HONE_EINVAL);
    memory_free(vector);
}

/* ---- damage ---- */

static void expect_damage(const char *file, const char *what)
{
    error_clear();
    int rc = checkpoint_verify(path_of("damaged"));
    if (rc >= 0 || !strstr(error_message(), "damaged"))
        fail_msg("%s of %s: %d \"%s\"", what, file, rc, error_message());
    /* A changed DONE shows as a manifest that it does not name. */
    const char *named =
        strcmp(file, "DONE") == 0 && strcmp(what, "removal") != 0 ? "manifest.json" : file;
    if (!strstr(error_message(), named))
        fail_msg("%s of %s is reported as \"%s\"", what, file, error_message());
}

static void replace(const char *path, const char *data, size_t bytes)
{
    assert_int_equal(file_write_atomic(path, data, bytes), 0);
}

static void test_every_file_is_guarded(void **state)
{
    (void)state;
    must_write("damaged", 5);
    for (int i = 0; i < FILE_COUNT; i++) {
        char path[HONE_PATH_MAX], *data;
        size_t bytes;
        path_join(path, sizeof path, path_of("damaged"), all_files[i]);
        assert_int_equal(file_read(path, 1 << 24, &data, &bytes), 0);
        replace(path, data, bytes / 2);
        expect_damage(all_files[i], "truncation");
        replace(path, data, 0);
        expect_damage(all_files[i], "emptying");
        for (size_t flip = 0; flip < bytes; flip += bytes / 3 + 1) {
            data[flip] ^= 4;
            replace(path, data, bytes);
            expect_damage(all_files[i], "bit flip");
            data[flip] ^= 4;
        }
        assert_int_equal(unlink(path), 0);
        expect_damage(all_files[i], "removal");
        replace(path, data, bytes);
        assert_int_equal(checkpoint_verify(path_of("damaged")), 0);
        memory_free(data);
    }
}

static void test_foreign_directories(void **state)
{
    (void)state;
    assert_int_equal(checkpoint_verify(path_of("absent")), HONE_ENOENT);
    assert_int_equal(checkpoint_verify(path_of("base")), HONE_ENOENT);
    assert_non_null(strstr(error_message(), "DONE"));
}

/* One file of another checkpoint, whole in itself, does not pass. */
static void test_swapped_file(void **state)
{
    (void)state;
    char from[HONE_PATH_MAX], to[HONE_PATH_MAX];
    must_write("one", 1);
    master[0] += 1.0f;
    must_write("two", 2);
    master[0] -= 1.0f;
    path_join(from, sizeof from, path_of("one"), "model.safetensors");
    path_join(to, sizeof to, path_of("two"), "model.safetensors");
    assert_int_equal(file_copy(from, to), 0);
    assert_int_equal(checkpoint_verify(path_of("two")), HONE_ECORRUPT);
    assert_non_null(strstr(error_message(), "model.safetensors does not match"));
}

static void test_bad_state(void **state)
{
    (void)state;
    struct checkpoint_state read;
    assert_int_equal(file_make_directories(path_of("bad")), 0);
    write_text("bad/state.json", "{\"format\":9}");
    assert_int_equal(checkpoint_read_state(path_of("bad"), &read), HONE_EUNSUPPORTED);
    write_text("bad/state.json", "{\"format\":1,\"step\":-1}");
    assert_int_equal(checkpoint_read_state(path_of("bad"), &read), HONE_EFORMAT);
    assert_non_null(strstr(error_message(), "\"step\""));
    write_text("bad/state.json", "[");
    assert_int_equal(checkpoint_read_state(path_of("bad"), &read), HONE_EFORMAT);
    assert_int_equal(checkpoint_read_state(path_of("absent"), &read), HONE_ENOENT);
}

/* ---- the directory of checkpoints ---- */

static void test_newest_and_prune(void **state)
{
    (void)state;
    char path[HONE_PATH_MAX];
    assert_int_equal(checkpoint_newest(path_of("run"), path, sizeof path), HONE_ENOENT);
    assert_int_equal(file_make_directories(path_of("run")), 0);
    assert_int_equal(checkpoint_newest(path_of("run"), path, sizeof path), HONE_ENOENT);
    must_write("run/step-9", 9);
    must_write("run/step-10", 10);
    must_write("run/step-200", 200);
    must_write("run/step-300", 300);
    assert_int_equal(file_make_directories(path_of("run/step-999.tmp")), 0);
    assert_int_equal(file_make_directories(path_of("run/step-0400")), 0);
    assert_int_equal(file_make_directories(path_of("run/notes.tmp")), 0);
    assert_int_equal(checkpoint_newest(path_of("run"), path, sizeof path), 0);
    assert_string_equal(path, path_of("run/step-300"));
    assert_int_equal(unlink(path_of("run/step-300/DONE")), 0);
    assert_int_equal(checkpoint_newest(path_of("run"), path, sizeof path), 0);
    assert_string_equal(path, path_of("run/step-200"));
    assert_int_equal(checkpoint_prune(path_of("run"), 2, 0), 0);
    assert_true(file_exists(path_of("run/step-300")));
    assert_true(file_exists(path_of("run/step-200")));
    assert_true(file_exists(path_of("run/step-10")));
    assert_false(file_exists(path_of("run/step-9")));
    assert_false(file_exists(path_of("run/step-999.tmp")));
    assert_true(file_exists(path_of("run/notes.tmp")));
    assert_int_equal(unlink(path_of("run/step-200/state.json")), 0);
    assert_int_equal(unlink(path_of("run/step-10/model.safetensors")), 0);
    assert_int_equal(checkpoint_newest(path_of("run"), path, sizeof path), HONE_ENOENT);
}

static void test_written_again(void **state)
{
    (void)state;
    struct checkpoint_state read;
    must_write("again", 1);
    must_write("again", 2);
    assert_int_equal(checkpoint_read_state(path_of("again"), &read), 0);
    assert_int_equal(read.step, 2);
    assert_false(file_exists(path_of("again.old")));
    assert_false(file_exists(path_of("again.tmp")));
}

static void test_unwritable_place(void **state)
{
    (void)state;
    write_text("a_file", "x");
    assert_true(write_checkpoint("a_file/step-1", 1, true) < 0);
    assert_non_null(strstr(error_message(), "a_file/step-1"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_weights_only),
        cmocka_unit_test(test_other_shape_is_refused),
        cmocka_unit_test(test_every_file_is_guarded),
        cmocka_unit_test(test_foreign_directories),
        cmocka_unit_test(test_swapped_file),
        cmocka_unit_test(test_bad_state),
        cmocka_unit_test(test_newest_and_prune),
        cmocka_unit_test(test_written_again),
        cmocka_unit_test(test_unwritable_place),
    };
    return cmocka_run_group_tests_name("checkpoint", tests, set_up, tear_down);
}

/* Weights: the canonical order, casting, packing by need, hashing, and the Hugging Face directory.
 */
#include "tests/infra/model/model_fixture.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "infra/base/file.h"
#include "infra/base/hash.h"
#include "infra/model/safetensors.h"

static const char *stories; /* directory of the real checkpoint, or NULL */
static char directory[] = "/tmp/hone_model_XXXXXX";

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

static void test_canonical_order(void **state)
{
    (void)state;
    static const char *const names[] = {
        "model.embed_tokens.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.k_proj.weight",
        "model.layers.0.self_attn.v_proj.weight",
        "model.layers.0.self_attn.o_proj.weight",
        "model.layers.0.post_attention_layernorm.weight",
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
        "model.layers.1.input_layernorm.weight",
    };
    struct model_config config = fixture_config(false);
    struct compute compute = {.ops = backend_cpu(CPU_ISA_SCALAR)};
    struct model *model;
    assert_int_equal(model_create(&model, &config, DTYPE_F32, false, &compute), 0);
    assert_int_equal(model_tensor_count(model), 1 + 2 * 9 + 2);
    int64_t offset = 0;
    for (int32_t i = 0; i < model_tensor_count(model); i++) {
        const struct model_tensor *tensor = model_tensor_at(model, i);
        if (i < (int32_t)(sizeof names / sizeof *names))
            assert_string_equal(tensor->name, names[i]);
        assert_int_equal(tensor->offset, offset);
        assert_int_equal(tensor->count, tensor->rows * tensor->columns);
        offset += tensor->count;
    }
    assert_string_equal(model_tensor_at(model, 19)->name, "model.norm.weight");
    assert_string_equal(model_tensor_at(model, 20)->name, "lm_head.weight");
    assert_int_equal(model_tensor_at(model, 2)->rows, 60);
    assert_int_equal(model_tensor_at(model, 3)->rows, 20);
    assert_int_equal(model_tensor_at(model, 5)->columns, 60);
    assert_int_equal(model_tensor_at(model, 9)->columns, 70);
    assert_int_equal(offset, model_parameter_count(model));
    assert_int_equal(offset, model_config_parameter_count(&config));
    model_free(model);
}

static void logits_of(struct engine *engine, float *logits)
{
    const int32_t tokens[] = {1, 5, 9, 100}, positions[] = {0, 1, 2, 3}, sequence[4] = {0};
    const int32_t last[] = {3};
    struct kv_sequence kv, *pointer = &kv;
    kv_sequence_init(&kv, 32);
    assert_true(kv_sequence_reserve(engine->cache, &kv, 4, 0));
    transformer_forward(engine->transformer, &(struct forward_rows){.count = 4,
                                                                    .tokens = tokens,
                                                                    .positions = positions,
                                                                    .sequence = sequence,
                                                                    .sequences = &pointer});
    transformer_logits(engine->transformer, 1, last, logits);
    kv_sequence_release(engine->cache, &kv);
}

/* Setting one tensor at a time repacks just what changed: same logits, same hash as all at once. */
static void check_tensor_by_tensor(bool tied, enum dtype dtype)
{
    struct model_config config = fixture_config(tied);
    float *first = fixture_flat(&config, 1), *second = fixture_flat(&config, 2);
    float before[101], expected[101], got[101];
    struct hash hash_before, hash_expected, hash_got;
    struct engine whole, single;
    engine_open(&whole, &config, second, dtype, CPU_ISA_SCALAR, 1, 8, ACTIVATIONS_NONE);
    engine_open(&single, &config, first, dtype, CPU_ISA_SCALAR, 1, 8, ACTIVATIONS_ALL);
    logits_of(&whole, expected);
    logits_of(&single, before);
    model_hash(whole.model, &hash_expected);
    for (int32_t i = 0; i < model_tensor_count(single.model); i++) {
        model_hash(single.model, &hash_before);
        model_set_tensor(single.model, i, DTYPE_F32,
                         second + model_tensor_at(single.model, i)->offset);
        model_finish(single.model);
        model_hash(single.model, &hash_got);
        assert_memory_not_equal(&hash_before, &hash_got, sizeof hash_got);
        logits_of(&single, got);
        assert_memory_not_equal(before, got, sizeof got);
        memcpy(before, got, sizeof got);
    }
    assert_memory_equal(expected, got, sizeof got);
    assert_memory_equal(&hash_expected, &hash_got, sizeof hash_got);
    engine_close(&whole);
    engine_close(&single);
    memory_free(first);
    memory_free(second);
}

static void test_tensor_by_tensor(void **state)
{
    (void)state;
    check_tensor_by_tensor(true, DTYPE_F32);
    check_tensor_by_tensor(false, DTYPE_BF16);
}

/* Logits through another model's image: only the parts that are named may matter, and every one of
 * them does. */
static void check_parts(struct engine *reader, const char *image, size_t bytes,
                        const float *expected)
{
    float got[101];
    int32_t count = model_image_part_count(reader->model);
    char *copy = memory_map(bytes);
    memset(copy, 0x7b, bytes);
    size_t last = 0;
    for (int32_t i = 0; i < count; i++) {
        struct model_image_part part = model_image_part_at(reader->model, i);
        assert_true(part.bytes > 0 && part.offset >= last && part.offset + part.bytes <= bytes);
        memcpy(copy + part.offset, image + part.offset, part.bytes);
        last = part.offset + part.bytes;
    }
    model_adopt(reader->model, copy);
    logits_of(reader, got);
    assert_memory_equal(expected, got, sizeof got);
    for (int32_t i = 0; i < count; i++) {
        struct model_image_part part = model_image_part_at(reader->model, i);
        memset(copy + part.offset, 0x40, part.bytes);
        logits_of(reader, got);
        assert_memory_not_equal(expected, got, sizeof got);
        memcpy(copy + part.offset, image + part.offset, part.bytes);
    }
    model_adopt(reader->model, NULL);
    memory_unmap(copy, bytes);
}

static void check_images(bool tied, enum dtype dtype)
{
    struct model_config config = fixture_config(tied);
    float *first = fixture_flat(&config, 1), *second = fixture_flat(&config, 2);
    float expected[101], before[101], got[101];
    size_t bytes = model_image_bytes(&config, dtype);
    char *image = memory_map(bytes), *other = memory_map(bytes);
    struct engine writer, reader;
    engine_open(&writer, &config, first, dtype, CPU_ISA_SCALAR, 1, 8, true);
    engine_open(&reader, &config, first, dtype, CPU_ISA_SCALAR, 1, 8, false);
    model_move(writer.model, image);
    logits_of(&writer, before);
    assert_ptr_not_equal(model_image(writer.model), image);
    model_set_flat(writer.model, second);
    assert_ptr_equal(model_image(writer.model), image);
    logits_of(&writer, expected);
    assert_memory_not_equal(before, expected, sizeof expected);
    check_parts(&reader, image, bytes, expected);
    /* The image that was left is what it was. */
    model_adopt(reader.model, image);
    model_move(writer.model, other);
    model_set_flat(writer.model, first);
    logits_of(&reader, got);
    assert_memory_equal(expected, got, sizeof got);
    logits_of(&writer, got);
    assert_memory_equal(before, got, sizeof got);
    model_adopt(reader.model, NULL);
    model_set_flat(reader.model, first);
    logits_of(&reader, got);
    assert_memory_equal(before, got, sizeof got);
    engine_close(&writer);
    engine_close(&reader);
    memory_unmap(image, bytes);
    memory_unmap(other, bytes);
    memory_free(first);
    memory_free(second);
}

static void test_images(void **state)
{
    (void)state;
    check_images(true, DTYPE_BF16);
    check_images(false, DTYPE_F32);
}

static void test_values_are_cast(void **state)
{
    (void)state;
    struct model_config config = fixture_config(true);
    int64_t count = model_config_parameter_count(&config);
    float *flat = fixture_flat(&config, 1);
    struct compute compute = {.ops = backend_cpu(CPU_ISA_SCALAR)};
    struct model *model;
    assert_int_equal(model_create(&model, &config, DTYPE_BF16, false, &compute), 0);
    model_set_flat(model, flat);
    const bf16 *values = model_tensor_values(model, 0);
    for (int64_t i = 0; i < count; i++)
        assert_int_equal(values[i], bf16_from_f32(flat[i]));
    uint16_t *halves = MEMORY_ARRAY(uint16_t, model_tensor_at(model, 0)->count);
    for (int64_t i = 0; i < model_tensor_at(model, 0)->count; i++)
        halves[i] = (uint16_t)(i & 1 ? 0xc100 : 0x3555); /* -2.5 and 0.333251953125 in fp16 */
    model_set_tensor(model, 0, DTYPE_F16, halves);
    assert_int_equal(values[1], bf16_from_f32(-2.5f));
    assert_int_equal(values[4398 % model_tensor_at(model, 0)->count & ~1],
                     bf16_from_f32(0.333251953125f));
    memset(halves, 0x41, (size_t)model_tensor_at(model, 0)->count * 2);
    model_set_tensor(model, 0, DTYPE_BF16, halves);
    assert_int_equal(values[7], 0x4141);
    memory_free(halves);
    model_free(model);
    memory_free(flat);
}

static void test_init_is_from_the_seed(void **state)
{
    (void)state;
    struct model_config config = fixture_config(false);
    int64_t count = model_config_parameter_count(&config);
    float *a = MEMORY_ARRAY(float, count), *b = MEMORY_ARRAY(float, count);
    double squares = 0.0;
    model_init_flat(&config, 1, a);
    model_init_flat(&config, 1, b);
    assert_memory_equal(a, b, (size_t)count * sizeof(float));
    model_init_flat(&config, 2, b);
    assert_memory_not_equal(a, b, (size_t)count * sizeof(float));
    int64_t embedding = (int64_t)config.vocab_size * config.hidden_size;
    for (int64_t i = 0; i < embedding; i++)
        squares += (double)a[i] * (double)a[i];
    assert_true(fabs(sqrt(squares / (double)embedding) - 0.02) < 0.001);
    assert_true(a[embedding] >= 1.0f && a[embedding] <= 1.0f);
    memory_free(a);
    memory_free(b);
}

/* ---- files ---- */

static void write_model(const struct model_config *config, const float *flat, enum dtype dtype)
{
    assert_int_equal(model_config_write(config, NULL, dtype, directory), 0);
    if (model_write_flat(config, flat, dtype, directory) < 0)
        fail_msg("%s", error_message());
}

static float half_precision(float value, enum dtype dtype)
{
    if (dtype == DTYPE_BF16)
        return bf16_to_f32(bf16_from_f32(value));
    if (dtype == DTYPE_F32)
        return value;
    float step = fabsf(value) < 0x1p-14f ? 0x1p-24f : ldexpf(1.0f, ilogbf(value) - 10);
    return rintf(value / step) * step;
}

static void test_write_and_read(void **state)
{
    (void)state;
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    for (int i = 0; i < 3; i++) {
        struct model_config config = fixture_config(i == 1);
        int64_t count = model_config_parameter_count(&config);
        float *flat = fixture_flat(&config, 8), *again = MEMORY_ARRAY(float, count);
        flat[0] = 3e-6f; /* a denormal in fp16 */
        flat[1] = -0.0f;
        write_model(&config, flat, dtypes[i]);
        assert_int_equal(model_read_flat(&config, directory, again), 0);
        for (int64_t j = 0; j < count; j++)
            if (memcmp(&again[j], &(float){half_precision(flat[j], dtypes[i])}, 4) != 0)
                fail_msg("%s: %.9g became %.9g", dtype_name(dtypes[i]), (double)flat[j],
                         (double)again[j]);
        memory_free(flat);
        memory_free(again);
    }
}

static void test_float16_overflow_is_named(void **state)
{
    (void)state;
    struct model_config config = fixture_config(true);
    float *flat = fixture_flat(&config, 8);
    flat[3] = 65519.0f;
    assert_int_equal(model_write_flat(&config, flat, DTYPE_F16, directory), 0);
    flat[3] = 65520.0f;
    assert_int_equal(model_write_flat(&config, flat, DTYPE_F16, directory), HONE_EUNSUPPORTED);
    assert_non_null(strstr(error_message(), "model.embed_tokens.weight"));
    flat[3] = NAN;
    assert_int_equal(model_write_flat(&config, flat, DTYPE_F16, directory), HONE_EUNSUPPORTED);
    memory_free(flat);
}

static void test_load(void **state)
{
    (void)state;
    struct model_config config = fixture_config(false);
    float *flat = fixture_flat(&config, 8);
    struct compute compute = {.ops = backend_cpu(CPU_ISA_SCALAR)};
    struct model *loaded, *direct;
    struct hash a, b;
    write_model(&config, flat, DTYPE_F32);
    assert_int_equal(model_load(&loaded, directory, DTYPE_BF16, false, &compute), 0);
    assert_int_equal(model_create(&direct, &config, DTYPE_BF16, false, &compute), 0);
    model_set_flat(direct, flat);
    model_hash(loaded, &a);
    model_hash(direct, &b);
    assert_memory_equal(&a, &b, sizeof a);
    assert_true(model_config_same_shape(model_config_of(loaded), &config));
    model_free(loaded);
    model_free(direct);
    memory_free(flat);
    assert_int_equal(model_load(&loaded, "/nonexistent", DTYPE_F32, false, &compute), HONE_ENOENT);
}

#define TENSORS_MAX 64

/* The model's own file with one change: `skip` left out, `extra` added, `shape` doubled. */
static void write_changed(const char *skip, const struct safetensor *extra, const char *halved)
{
    struct safetensor tensors[TENSORS_MAX];
    struct safetensors *file;
    int32_t count = 0;
    assert_int_equal(safetensors_open(&file, path_of("good.safetensors")), 0);
    for (int32_t i = 0; i < safetensors_count(file); i++) {
        struct safetensor *tensor = &tensors[count++];
        *tensor = *safetensors_at(file, i);
        if (halved && strcmp(tensor->name, halved) == 0) {
            tensor->shape[0] /= 2;
            tensor->count /= 2;
            tensor->bytes /= 2;
        }
        if (skip && strcmp(tensor->name, skip) == 0)
            count--;
    }
    if (extra)
        tensors[count++] = *extra;
    assert_int_equal(safetensors_write(path_of("model.safetensors"), tensors, count, NULL), 0);
    safetensors_close(file);
}

static void expect_read(const struct model_config *config, int code, const char *mentions)
{
    float *flat = MEMORY_ARRAY(float, model_config_parameter_count(config));
    error_clear();
    int rc = model_read_flat(config, directory, flat);
    if (rc != code || (code < 0 && !strstr(error_message(), mentions)))
        fail_msg("%d \"%s\", expected %d \"%s\"", rc, error_message(), code, mentions);
    memory_free(flat);
}

static void test_wrong_tensors_are_named(void **state)
{
    (void)state;
    struct model_config config = fixture_config(true);
    float *flat = fixture_flat(&config, 8);
    const int64_t words[2] = {1, 2};
    struct safetensor extra = {.name = "model.layers.0.self_attn.rotary_emb.inv_freq",
                               .dtype = DTYPE_F32,
                               .rank = 1,
                               .shape = {4},
                               .count = 4,
                               .data = words,
                               .bytes = 16};
    write_model(&config, flat, DTYPE_F32);
    assert_int_equal(file_copy(path_join((char[HONE_PATH_MAX]){0}, HONE_PATH_MAX, directory,
                                         "model.safetensors"),
                               path_of("good.safetensors")),
                     0);
    write_changed("model.layers.1.mlp.up_proj.weight", NULL, NULL);
    expect_read(&config, HONE_EFORMAT, "\"model.layers.1.mlp.up_proj.weight\" is missing");
    write_changed(NULL, NULL, "model.norm.weight");
    expect_read(&config, HONE_EFORMAT,
                "\"model.norm.weight\" has shape [22], config.json needs [44]");
    write_changed(NULL, NULL, "model.layers.0.self_attn.q_proj.weight");
    expect_read(&config, HONE_EFORMAT, "has shape [30, 44], config.json needs [60, 44]");
    write_changed(NULL, &extra, NULL);
    expect_read(&config, 0, "");
    extra.name = "lm_head.weight";
    write_changed(NULL, &extra, NULL);
    expect_read(&config, 0, "");
    extra.name = "model.layers.2.input_layernorm.weight";
    write_changed(NULL, &extra, NULL);
    expect_read(&config, HONE_EFORMAT, "unknown tensor \"model.layers.2.input_layernorm.weight\"");
    extra = (struct safetensor){.name = "model.norm.weight",
                                .dtype = DTYPE_I64,
                                .rank = 1,
                                .shape = {2},
                                .count = 2,
                                .data = words,
                                .bytes = 16};
    write_changed("model.norm.weight", &extra, NULL);
    expect_read(&config, HONE_EUNSUPPORTED, "dtype I64");
    config.tied_head = false;
    write_changed(NULL, NULL, NULL);
    float *larger = fixture_flat(&config, 8);
    expect_read(&config, HONE_EFORMAT, "\"lm_head.weight\" is missing");
    memory_free(larger);
    memory_free(flat);
}

static void test_bytes_are_planned(void **state)
{
    (void)state;
    struct model_config config = fixture_config(false);
    size_t plain = model_bytes(&config, DTYPE_BF16, false);
    size_t trainable = model_bytes(&config, DTYPE_BF16, true);
    size_t values = (size_t)model_config_parameter_count(&config) * 2;
    assert_true(plain > 2 * values && plain < 4 * values);
    assert_true(trainable > plain + values && trainable < plain + 3 * values);
    assert_true(transformer_bytes(&config, DTYPE_BF16, 64, ACTIVATIONS_ALL) >
                transformer_bytes(&config, DTYPE_BF16, 64, ACTIVATIONS_NONE));
}

/* ---- the real checkpoint ---- */

static void test_stories_round_trip(void **state)
{
    (void)state;
    char path[HONE_PATH_MAX], *original, *written;
    size_t original_bytes, written_bytes;
    struct model_config config;
    path_join(path, sizeof path, stories, "hf");
    assert_int_equal(model_config_read(&config, path), 0);
    assert_int_equal(config.layers, 5);
    assert_int_equal(config.kv_heads, 4);
    assert_true(config.tied_head);
    assert_int_equal(config.eos_count, 2);
    float *flat = MEMORY_ARRAY(float, model_config_parameter_count(&config));
    assert_int_equal(model_read_flat(&config, path, flat), 0);
    assert_int_equal(model_write_flat(&config, flat, DTYPE_F32, directory), 0);
    path_join(path, sizeof path, stories, "hf/model.safetensors");
    assert_int_equal(file_read(path, 1 << 24, &original, &original_bytes), 0);
    assert_int_equal(file_read(path_of("model.safetensors"), 1 << 24, &written, &written_bytes), 0);
    assert_int_equal(original_bytes, written_bytes);
    assert_memory_equal(original + original_bytes - 1040128, written + written_bytes - 1040128,
                        1040128);
    memory_free(original);
    memory_free(written);
    memory_free(flat);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_canonical_order),
        cmocka_unit_test(test_tensor_by_tensor),
        cmocka_unit_test(test_images),
        cmocka_unit_test(test_values_are_cast),
        cmocka_unit_test(test_init_is_from_the_seed),
        cmocka_unit_test(test_write_and_read),
        cmocka_unit_test(test_float16_overflow_is_named),
        cmocka_unit_test(test_load),
        cmocka_unit_test(test_wrong_tensors_are_named),
        cmocka_unit_test(test_bytes_are_planned),
    };
    const struct CMUnitTest real[] = {
        cmocka_unit_test(test_stories_round_trip),
    };
    compute_thread_init();
    if (argc < 2)
        return cmocka_run_group_tests_name("model", tests, make_directory, remove_directory);
    if (!file_is_directory(argv[1])) {
        printf("skipped: no real checkpoint at %s\n", argv[1]);
        return EXIT_SKIPPED;
    }
    stories = argv[1];
    return cmocka_run_group_tests_name("model on stories260k", real, make_directory,
                                       remove_directory);
}

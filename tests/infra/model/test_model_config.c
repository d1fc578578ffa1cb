/* config.json: both key generations, every refusal with its message, writing and reading back. */
#include "tests/infra/model/model_fixture.h"

#include <stdlib.h>
#include <unistd.h>

#include "infra/base/file.h"

#define MINIMAL                                                                                    \
    "\"model_type\":\"llama\",\"vocab_size\":100,\"hidden_size\":32,\"intermediate_size\":64,"     \
    "\"num_hidden_layers\":2,\"num_attention_heads\":4"

static int parse(struct model_config *config, const char *json)
{
    return model_config_parse(config, json, strlen(json), "config.json");
}

static void test_defaults(void **state)
{
    (void)state;
    struct model_config config;
    assert_int_equal(parse(&config, "{" MINIMAL "}"), 0);
    assert_int_equal(config.kv_heads, 4);
    assert_int_equal(config.head_dim, 8);
    assert_int_equal(config.max_positions, 2048);
    assert_true(config.rms_eps == 1e-6f);
    assert_true(config.rope_theta == 10000.0);
    assert_int_equal(config.rope_scaling, ROPE_SCALING_NONE);
    assert_false(config.tied_head);
    assert_int_equal(config.stored_dtype, DTYPE_F32);
    assert_int_equal(config.bos_id, -1);
    assert_int_equal(config.eos_count, 0);
}

static void check_llama3(const struct model_config *config)
{
    assert_int_equal(config->rope_scaling, ROPE_SCALING_LLAMA3);
    assert_true(config->rope_theta == 500000.0);
    assert_true(config->rope_factor == 32.0);
    assert_true(config->rope_low_freq_factor == 1.0);
    assert_true(config->rope_high_freq_factor == 4.0);
    assert_int_equal(config->rope_original_max_positions, 8192);
    assert_int_equal(config->stored_dtype, DTYPE_BF16);
}

static void test_both_generations(void **state)
{
    (void)state;
    struct model_config four, five;
    assert_int_equal(
        parse(&four,
              "{" MINIMAL ",\"architectures\":[\"LlamaForCausalLM\"],\"torch_dtype\":\"bfloat16\","
              "\"rope_theta\":500000.0,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":32.0,"
              "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
              "\"original_max_position_embeddings\":8192},\"head_dim\":null,"
              "\"bos_token_id\":1,\"eos_token_id\":[2,3,2]}"),
        0);
    assert_int_equal(
        parse(&five, "{" MINIMAL ",\"dtype\":\"bfloat16\",\"rope_parameters\":{\"rope_theta\":"
                     "500000.0,\"rope_type\":\"llama3\",\"factor\":32.0,\"low_freq_factor\":1.0,"
                     "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192},"
                     "\"layer_types\":[\"full_attention\",\"full_attention\"]}"),
        0);
    check_llama3(&four);
    check_llama3(&five);
    assert_true(model_config_same_shape(&four, &five));
    assert_int_equal(four.eos_count, 2);
    assert_true(model_config_is_eos(&four, 3));
    assert_false(model_config_is_eos(&four, 1));
}

static void test_older_rope_type_key(void **state)
{
    (void)state;
    struct model_config config;
    assert_int_equal(
        parse(&config, "{" MINIMAL ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}}"), 0);
    assert_int_equal(config.rope_scaling, ROPE_SCALING_LINEAR);
    assert_true(config.rope_factor == 4.0);
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        int code;
        const char *mentions;
    } cases[] = {
        {"[]", HONE_EFORMAT, "not a JSON object"},
        {"{\"a\":1,\"a\":2}", HONE_EFORMAT, "duplicate"},
        {"{" MINIMAL, HONE_EFORMAT, "config.json:1"},
        {"{}", HONE_EFORMAT, "model_type"},
        {"{\"model_type\":\"qwen2\"}", HONE_EUNSUPPORTED, "qwen2"},
        {"{" MINIMAL ",\"architectures\":[\"LlamaForSequenceClassification\"]}", HONE_EUNSUPPORTED,
         "LlamaForSequenceClassification"},
        {"{" MINIMAL ",\"attention_bias\":true}", HONE_EUNSUPPORTED, "attention_bias"},
        {"{" MINIMAL ",\"mlp_bias\":true}", HONE_EUNSUPPORTED, "mlp_bias"},
        {"{" MINIMAL ",\"mlp_bias\":1}", HONE_EFORMAT, "mlp_bias"},
        {"{" MINIMAL ",\"hidden_act\":\"gelu\"}", HONE_EUNSUPPORTED, "gelu"},
        {"{" MINIMAL ",\"sliding_window\":4096}", HONE_EUNSUPPORTED, "sliding window"},
        {"{" MINIMAL ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]}",
         HONE_EUNSUPPORTED, "layer_types[1]"},
        {"{" MINIMAL ",\"quantization_config\":{}}", HONE_EUNSUPPORTED, "quantization_config"},
        {"{" MINIMAL ",\"auto_map\":{}}", HONE_EUNSUPPORTED, "auto_map"},
        {"{" MINIMAL ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4}}", HONE_EUNSUPPORTED,
         "yarn"},
        {"{" MINIMAL ",\"rope_scaling\":7}", HONE_EFORMAT, "rope_scaling"},
        {"{" MINIMAL ",\"rope_scaling\":{\"rope_type\":\"linear\"}}", HONE_EFORMAT, "factor"},
        {"{" MINIMAL ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,"
         "\"low_freq_factor\":1,\"high_freq_factor\":4}}",
         HONE_EFORMAT, "original_max_position_embeddings"},
        {"{" MINIMAL ",\"rope_theta\":-1}", HONE_EFORMAT, "rope_theta"},
        {"{" MINIMAL ",\"partial_rotary_factor\":0.5}", HONE_EUNSUPPORTED, "partial_rotary"},
        {"{" MINIMAL ",\"torch_dtype\":\"int8\"}", HONE_EUNSUPPORTED, "int8"},
        {"{" MINIMAL ",\"num_key_value_heads\":3}", HONE_EFORMAT, "3 key/value heads"},
        {"{" MINIMAL ",\"num_key_value_heads\":0}", HONE_EFORMAT, "num_key_value_heads"},
        {"{" MINIMAL ",\"head_dim\":7}", HONE_EFORMAT, "odd"},
        {"{" MINIMAL ",\"head_dim\":512}", HONE_EFORMAT, "head_dim"},
        {"{" MINIMAL ",\"max_position_embeddings\":99999999}", HONE_EFORMAT,
         "max_position_embeddings"},
        {"{" MINIMAL ",\"max_position_embeddings\":\"x\"}", HONE_EFORMAT, "not an integer"},
        {"{" MINIMAL ",\"rms_norm_eps\":0}", HONE_EFORMAT, "rms_norm_eps"},
        {"{" MINIMAL ",\"eos_token_id\":100}", HONE_EFORMAT, "eos_token_id"},
        {"{" MINIMAL ",\"eos_token_id\":[1,2,3,4,5,6,7,8,9]}", HONE_EUNSUPPORTED, "eos"},
        {"{\"model_type\":\"llama\",\"vocab_size\":100,\"hidden_size\":30,\"intermediate_size\":64,"
         "\"num_hidden_layers\":2,\"num_attention_heads\":4}",
         HONE_EFORMAT, "multiple of 4"},
        {"{\"model_type\":\"llama\",\"hidden_size\":32}", HONE_EFORMAT, "vocab_size"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_config config;
        error_clear();
        int rc = parse(&config, cases[i].json);
        if (rc != cases[i].code || !strstr(error_message(), cases[i].mentions))
            fail_msg("%s: %d \"%s\"", cases[i].json, rc, error_message());
    }
}

/* ---- directories ---- */

static char directory[] = "/tmp/hone_config_XXXXXX";

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

static void write_file(const char *name, const char *text)
{
    char path[HONE_PATH_MAX];
    path_join(path, sizeof path, directory, name);
    assert_int_equal(file_write_atomic(path, text, strlen(text)), 0);
}

static void test_generation_config_adds_eos(void **state)
{
    (void)state;
    struct model_config config;
    write_file("config.json", "{" MINIMAL ",\"eos_token_id\":2,\"bos_token_id\":1}");
    write_file("generation_config.json", "{\"eos_token_id\":[7,2],\"bos_token_id\":5}");
    assert_int_equal(model_config_read(&config, directory), 0);
    assert_int_equal(config.eos_count, 2);
    assert_int_equal(config.eos_ids[1], 7);
    assert_int_equal(config.bos_id, 1);
    write_file("generation_config.json", "{\"eos_token_id\":[777]}");
    assert_int_equal(model_config_read(&config, directory), HONE_EFORMAT);
    assert_non_null(strstr(error_message(), "generation_config.json"));
    write_file("generation_config.json", "{}");
}

static void test_missing_directory_and_file(void **state)
{
    (void)state;
    struct model_config config;
    assert_int_equal(model_config_read(&config, "/nonexistent/model"), HONE_ENOENT);
    assert_non_null(strstr(error_message(), "/nonexistent/model"));
    assert_int_equal(model_config_read(&config, "/proc"), HONE_ENOENT);
    assert_non_null(strstr(error_message(), "config.json"));
}

static void test_write_from_nothing(void **state)
{
    (void)state;
    struct model_config config = fixture_config(true), again;
    config.eos_ids[1] = 9;
    config.eos_count = 2;
    for (int scaling = ROPE_SCALING_NONE; scaling <= ROPE_SCALING_LLAMA3; scaling++) {
        config.rope_scaling = (enum rope_scaling)scaling;
        if (scaling != ROPE_SCALING_LLAMA3)
            config.rope_low_freq_factor = config.rope_high_freq_factor = 0,
            config.rope_original_max_positions = 0;
        config.rope_factor = scaling == ROPE_SCALING_NONE ? 0 : 8;
        if (scaling == ROPE_SCALING_LLAMA3)
            config.rope_low_freq_factor = 1, config.rope_high_freq_factor = 4,
            config.rope_original_max_positions = 64;
        assert_int_equal(model_config_write(&config, NULL, DTYPE_BF16, directory), 0);
        assert_int_equal(model_config_read(&again, directory), 0);
        assert_true(model_config_same_shape(&config, &again));
        assert_int_equal(again.stored_dtype, DTYPE_BF16);
        assert_int_equal(again.max_positions, config.max_positions);
        assert_int_equal(again.bos_id, config.bos_id);
        assert_int_equal(again.eos_count, 2);
        assert_true(model_config_is_eos(&again, 9));
    }
}

/* Unknown keys survive, dtype is replaced, renamed keys appear under both names. */
static void test_write_from_base(void **state)
{
    (void)state;
    struct model_config config, again;
    char path[HONE_PATH_MAX], *text;
    size_t length;
    write_file("config.json",
               "{" MINIMAL ",\"dtype\":\"float32\",\"rope_parameters\":{\"rope_type\":\"default\","
               "\"rope_theta\":1234.5},\"initializer_range\":0.02,\"my_key\":{\"a\":[1,null]}}");
    assert_int_equal(model_config_read(&config, directory), 0);
    assert_int_equal(model_config_write(&config, directory, DTYPE_BF16, directory), 0);
    assert_int_equal(model_config_read(&again, directory), 0);
    assert_true(model_config_same_shape(&config, &again));
    assert_int_equal(again.stored_dtype, DTYPE_BF16);
    path_join(path, sizeof path, directory, "config.json");
    assert_int_equal(file_read(path, 1 << 20, &text, &length), 0);
    assert_non_null(strstr(text, "\"initializer_range\": 0.02"));
    assert_non_null(strstr(text, "\"my_key\": {"));
    assert_non_null(strstr(text, "\"rope_theta\": 1234.5"));
    assert_non_null(strstr(text, "\"torch_dtype\": \"bfloat16\""));
    assert_non_null(strstr(text, "\"dtype\": \"bfloat16\""));
    assert_null(strstr(text, "float32"));
    memory_free(text);
    config.hidden_size *= 2;
    assert_int_equal(model_config_write(&config, directory, DTYPE_BF16, directory), HONE_EINVAL);
    assert_non_null(strstr(error_message(), "another shape"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_both_generations),
        cmocka_unit_test(test_older_rope_type_key),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_generation_config_adds_eos),
        cmocka_unit_test(test_missing_directory_and_file),
        cmocka_unit_test(test_write_from_nothing),
        cmocka_unit_test(test_write_from_base),
    };
    return cmocka_run_group_tests_name("model_config", tests, make_directory, remove_directory);
}

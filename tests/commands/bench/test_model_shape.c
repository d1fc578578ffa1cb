/* The shapes of `hone bench` are models that can be made, a directory takes precedence, and what is
 * wrong is said before anything is measured. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

#include "commands/bench/model_shape.h"
#include "commands/commands.h"
#include "infra/base/error.h"
#include "infra/model/model.h"

static const struct command_option options[] = {
    {.name = "model", .value = "DIR", .help = ""},
    {.name = "shape", .value = "NAME", .help = "", .default_text = "llama-100m"},
    {.name = "recipe", .value = "FILE", .help = ""},
    {.name = "steps", .value = "N", .help = "", .default_text = "3"},
    {.name = "threads", .value = "N", .help = "", .default_text = "1"},
    {.name = "dtype", .value = "NAME", .help = "", .default_text = "bfloat16"},
    {.name = "json", .value = "FILE", .help = ""},
    {.name = "quick", .help = ""},
    {0}};
static const struct command command = {.name = "bench", .arguments = "", .options = options};

static struct command_line line_of(const char *kind, const char *name, const char *value)
{
    struct command_line line = {.command = &command, .positional_count = 1};
    line.positional[0] = kind;
    if (name != NULL) {
        line.value_names[0] = name;
        line.values[0] = value;
        line.value_count = 1;
    }
    return line;
}

static void test_every_shape_is_a_model(void **state)
{
    (void)state;
    static const char *const names[] = {"stories260k", "llama-100m", "llama-500m", "llama-1b"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct command_line line = line_of("decode", "shape", names[i]);
        struct model_config config;
        assert_int_equal(model_shape_config(&line, &config), 0);
        assert_int_equal(config.heads * config.head_dim, config.hidden_size);
        assert_int_equal(config.heads % config.kv_heads, 0);
        assert_int_equal(model_shape_read_parameters(&config),
                         model_config_parameter_count(&config));
    }
    struct command_line line = line_of("decode", NULL, NULL);
    struct model_config config;
    assert_int_equal(model_shape_config(&line, &config), 0);
    assert_true(model_config_parameter_count(&config) == 109529856);
    config.tied_head = false;
    assert_true(model_shape_read_parameters(&config) == 109529856);
    assert_true(model_config_parameter_count(&config) == 109529856 + 32000 * 768);
}

static void test_weights_are_a_function_of_nothing(void **state)
{
    (void)state;
    static float first[300000], second[300000];
    struct command_line line = line_of("decode", "shape", "stories260k");
    struct model_config config;
    assert_int_equal(model_shape_config(&line, &config), 0);
    assert_true(model_config_parameter_count(&config) <= 300000);
    assert_int_equal(model_shape_weights(&line, &config, first), 0);
    assert_int_equal(model_shape_weights(&line, &config, second), 0);
    assert_memory_equal(first, second, sizeof first);
    assert_true(first[0] != 0.0f);
}

static void expect_refused(const char *kind, const char *name, const char *value, const char *says)
{
    struct command_line line = line_of(kind, name, value);
    assert_int_equal(command_bench(&line), HONE_EINVAL);
    assert_non_null(strstr(error_message(), says));
}

static void test_refusals(void **state)
{
    (void)state;
    expect_refused("speed", NULL, NULL, "gemm, attention, decode");
    expect_refused("decode", "shape", "llama-7b", "llama-100m");
    expect_refused("rl", NULL, NULL, "--recipe");
    expect_refused("rl", "steps", "1", "steps");
    expect_refused("gemm", "dtype", "float16", "bfloat16");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_shape_is_a_model),
        cmocka_unit_test(test_weights_are_a_function_of_nothing),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The tiny Llama of tests/golden/llama_gradients.json. */
#ifndef HONE_TESTS_GOLDEN_LLAMA_H
#define HONE_TESTS_GOLDEN_LLAMA_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/model/model.h"

static inline json_t *golden_load(const char *path)
{
    json_error_t error;
    json_t *root = json_load_file(path, 0, &error);
    if (!root)
        fail_msg("%s: %s", path, error.text);
    return root;
}

static inline double golden_number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

static inline void read_floats(const json_t *array, float *out)
{
    const json_t *value;
    size_t i;
    json_array_foreach(array, i, value) out[i] = (float)json_number_value(value);
}

/* "value" or "gradient" of every tensor, in the order of model_tensor_at. The caller frees. */
static inline float *golden_vector(const struct model_config *config, const json_t *golden,
                                   const char *part)
{
    float *flat = MEMORY_ARRAY(float, model_config_parameter_count(config));
    struct compute compute = {.ops = backend_cpu(CPU_ISA_SCALAR)};
    struct model *model;
    assert_int_equal(model_create(&model, config, DTYPE_F32, false, &compute), 0);
    for (int32_t i = 0; i < model_tensor_count(model); i++) {
        const struct model_tensor *tensor = model_tensor_at(model, i);
        const json_t *values = json_object_get(
            json_object_get(json_object_get(golden, "tensors"), tensor->name), part);
        assert_int_equal(json_array_size(values), tensor->count);
        read_floats(values, flat + tensor->offset);
    }
    model_free(model);
    return flat;
}

static inline struct model_config golden_config(const json_t *golden)
{
    struct model_config config;
    char *json = json_dumps(json_object_get(golden, "config"), 0);
    if (model_config_parse(&config, json, strlen(json), "golden config") < 0)
        fail_msg("%s", error_message());
    free(json);
    return config;
}

#endif

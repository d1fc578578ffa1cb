#include "infra/model/model_config.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"
#include "infra/base/text.h"

/* Bounds on what a file may ask for: far above any real model, low enough that every size computed
 * from them fits in 64 bits. */
#define CONFIG_BYTES_MAX   (4u << 20)
#define VOCAB_MAX          (1 << 24)
#define HIDDEN_MAX         (1 << 17)
#define INTERMEDIATE_MAX   (1 << 20)
#define LAYERS_MAX         1024
#define HEADS_MAX          1024
#define HEAD_DIM_MAX       256 /* what the attention kernels hold */
#define POSITIONS_MAX      (1 << 20)
#define POSITIONS_DEFAULT  2048
#define RMS_EPS_DEFAULT    1e-6
#define ROPE_THETA_DEFAULT 10000.0

/* One JSON object being read; `where` names the file in messages. */
struct reader {
    const json_t *object;
    const char *where;
};

/* The value of a key; null counts as absent. */
static const json_t *reader_get(const struct reader *reader, const char *key)
{
    const json_t *value = json_object_get(reader->object, key);
    return json_is_null(value) ? NULL : value;
}

static int read_integer(const struct reader *reader, const char *key, int32_t minimum,
                        int32_t maximum, int32_t *result)
{
    const json_t *value = reader_get(reader, key);
    if (!value)
        return error_set(HONE_EFORMAT, "%s: \"%s\" is missing", reader->where, key);
    if (!json_is_integer(value))
        return error_set(HONE_EFORMAT, "%s: \"%s\" is not an integer", reader->where, key);
    json_int_t number = json_integer_value(value);
    if (number < minimum || number > maximum)
        return error_set(HONE_EFORMAT, "%s: \"%s\" is %lld, outside %d .. %d", reader->where, key,
                         (long long)number, minimum, maximum);
    *result = (int32_t)number;
    return 0;
}

static int read_integer_or(const struct reader *reader, const char *key, int32_t minimum,
                           int32_t maximum, int32_t fallback, int32_t *result)
{
    *result = fallback;
    if (!reader_get(reader, key))
        return 0;
    return read_integer(reader, key, minimum, maximum, result);
}

/* A finite number greater than 0. */
static int read_positive(const struct reader *reader, const char *key, double *result)
{
    const json_t *value = reader_get(reader, key);
    if (!value)
        return error_set(HONE_EFORMAT, "%s: \"%s\" is missing", reader->where, key);
    double number = json_number_value(value);
    if (!json_is_number(value) || !isfinite(number) || number <= 0)
        return error_set(HONE_EFORMAT, "%s: \"%s\" is not a positive number", reader->where, key);
    *result = number;
    return 0;
}

static int read_positive_or(const struct reader *reader, const char *key, double fallback,
                            double *result)
{
    *result = fallback;
    return reader_get(reader, key) ? read_positive(reader, key, result) : 0;
}

static int read_bool_or(const struct reader *reader, const char *key, bool fallback, bool *result)
{
    const json_t *value = reader_get(reader, key);
    *result = fallback;
    if (!value)
        return 0;
    if (!json_is_boolean(value))
        return error_set(HONE_EFORMAT, "%s: \"%s\" is not true or false", reader->where, key);
    *result = json_is_true(value);
    return 0;
}

static int read_string_or(const struct reader *reader, const char *key, const char *fallback,
                          const char **result)
{
    const json_t *value = reader_get(reader, key);
    *result = fallback;
    if (!value)
        return 0;
    if (!json_is_string(value))
        return error_set(HONE_EFORMAT, "%s: \"%s\" is not a string", reader->where, key);
    *result = json_string_value(value);
    return 0;
}

static int refuse_family(const struct reader *reader)
{
    const char *type;
    int rc = read_string_or(reader, "model_type", NULL, &type);
    if (rc < 0)
        return rc;
    if (!type)
        return error_set(HONE_EFORMAT, "%s: \"model_type\" is missing", reader->where);
    if (strcmp(type, "llama") != 0)
        return error_set(HONE_EUNSUPPORTED,
                         "%s: model_type \"%s\" is not supported; hone reads dense Llama models "
                         "(model_type \"llama\")",
                         reader->where, type);
    const json_t *architectures = reader_get(reader, "architectures");
    const json_t *name;
    size_t index;
    json_array_foreach(architectures, index, name)
    {
        if (!json_is_string(name) || strcmp(json_string_value(name), "LlamaForCausalLM") != 0)
            return error_set(
                HONE_EUNSUPPORTED, "%s: architecture %s is not supported, only LlamaForCausalLM",
                reader->where, json_is_string(name) ? json_string_value(name) : "(not a string)");
    }
    return 0;
}

/* Features that would change the mathematics: refused by name rather than ignored. */
static int refuse_variants(const struct reader *reader)
{
    static const char *const biases[] = {"attention_bias", "mlp_bias"};
    static const char *const objects[] = {"quantization_config", "auto_map"};
    bool flag;
    int rc;
    for (int i = 0; i < 2; i++) {
        if ((rc = read_bool_or(reader, biases[i], false, &flag)) < 0)
            return rc;
        if (flag)
            return error_set(HONE_EUNSUPPORTED, "%s: \"%s\": true is not supported", reader->where,
                             biases[i]);
        if (reader_get(reader, objects[i]))
            return error_set(HONE_EUNSUPPORTED, "%s: \"%s\" is not supported", reader->where,
                             objects[i]);
    }
    const char *activation;
    if ((rc = read_string_or(reader, "hidden_act", "silu", &activation)) < 0)
        return rc;
    if (strcmp(activation, "silu") != 0)
        return error_set(HONE_EUNSUPPORTED, "%s: hidden_act \"%s\" is not supported, only \"silu\"",
                         reader->where, activation);
    if ((rc = read_bool_or(reader, "use_sliding_window", true, &flag)) < 0)
        return rc;
    if (flag && reader_get(reader, "sliding_window"))
        return error_set(HONE_EUNSUPPORTED, "%s: sliding window attention is not supported",
                         reader->where);
    const json_t *kind;
    size_t index;
    json_array_foreach(reader_get(reader, "layer_types"), index, kind)
    {
        if (!json_is_string(kind) || strcmp(json_string_value(kind), "full_attention") != 0)
            return error_set(HONE_EUNSUPPORTED,
                             "%s: layer_types[%zu] is not \"full_attention\", the only kind "
                             "supported",
                             reader->where, index);
    }
    return 0;
}

static int read_dtype(const struct reader *reader, enum dtype *dtype)
{
    const char *name;
    int rc = read_string_or(reader, "torch_dtype", "float32", &name);
    if (rc == 0)
        rc = read_string_or(reader, "dtype", name, &name);
    if (rc < 0)
        return rc;
    if (strcmp(name, "float32") == 0)
        *dtype = DTYPE_F32;
    else if (strcmp(name, "bfloat16") == 0)
        *dtype = DTYPE_BF16;
    else if (strcmp(name, "float16") == 0)
        *dtype = DTYPE_F16;
    else
        return error_set(HONE_EUNSUPPORTED,
                         "%s: dtype \"%s\" is not supported (float32, bfloat16, float16)",
                         reader->where, name);
    return 0;
}

static int read_sizes(const struct reader *reader, struct model_config *config)
{
    int rc;
    if ((rc = read_integer(reader, "vocab_size", 2, VOCAB_MAX, &config->vocab_size)) < 0 ||
        (rc = read_integer(reader, "hidden_size", 1, HIDDEN_MAX, &config->hidden_size)) < 0 ||
        (rc = read_integer(reader, "num_hidden_layers", 1, LAYERS_MAX, &config->layers)) < 0 ||
        (rc = read_integer(reader, "num_attention_heads", 1, HEADS_MAX, &config->heads)) < 0 ||
        (rc = read_integer(reader, "intermediate_size", 1, INTERMEDIATE_MAX,
                           &config->intermediate_size)) < 0 ||
        (rc = read_integer_or(reader, "num_key_value_heads", 1, HEADS_MAX, config->heads,
                              &config->kv_heads)) < 0 ||
        (rc = read_integer_or(reader, "max_position_embeddings", 1, POSITIONS_MAX,
                              POSITIONS_DEFAULT, &config->max_positions)) < 0 ||
        (rc = read_integer_or(reader, "head_dim", 1, HEAD_DIM_MAX, 0, &config->head_dim)) < 0)
        return rc;
    if (config->heads % config->kv_heads != 0)
        return error_set(HONE_EFORMAT,
                         "%s: %d attention heads cannot share %d key/value heads evenly",
                         reader->where, config->heads, config->kv_heads);
    if (config->head_dim == 0) {
        if (config->hidden_size % config->heads != 0)
            return error_set(
                HONE_EFORMAT,
                "%s: no \"head_dim\", and hidden_size %d is not a multiple of %d heads",
                reader->where, config->hidden_size, config->heads);
        config->head_dim = config->hidden_size / config->heads;
    }
    if (config->head_dim % 2 != 0)
        return error_set(HONE_EFORMAT, "%s: head_dim %d is odd; rotary positions need pairs",
                         reader->where, config->head_dim);
    if (config->head_dim > HEAD_DIM_MAX)
        return error_set(HONE_EUNSUPPORTED, "%s: head_dim %d is above %d", reader->where,
                         config->head_dim, HEAD_DIM_MAX);
    return 0;
}

static int read_llama3_scaling(const struct reader *scaling, struct model_config *config)
{
    int rc;
    if ((rc = read_positive(scaling, "factor", &config->rope_factor)) < 0 ||
        (rc = read_positive(scaling, "low_freq_factor", &config->rope_low_freq_factor)) < 0 ||
        (rc = read_positive(scaling, "high_freq_factor", &config->rope_high_freq_factor)) < 0 ||
        (rc = read_integer(scaling, "original_max_position_embeddings", 1, POSITIONS_MAX,
                           &config->rope_original_max_positions)) < 0)
        return rc;
    if (config->rope_high_freq_factor < config->rope_low_freq_factor)
        return error_set(HONE_EFORMAT, "%s: rope high_freq_factor is below low_freq_factor",
                         scaling->where);
    return 0;
}

/* rope_theta and rope_scaling (transformers 4), or one rope_parameters object (5). */
static int read_rope(const struct reader *reader, struct model_config *config)
{
    const json_t *parameters = reader_get(reader, "rope_parameters");
    const json_t *scaling = parameters ? parameters : reader_get(reader, "rope_scaling");
    if (scaling && !json_is_object(scaling))
        return error_set(HONE_EFORMAT, "%s: \"%s\" is not an object", reader->where,
                         parameters ? "rope_parameters" : "rope_scaling");
    struct reader inner = {.object = scaling, .where = reader->where};
    const char *type;
    double partial;
    int rc;
    if ((rc = read_positive_or(reader, "rope_theta", ROPE_THETA_DEFAULT, &config->rope_theta)) < 0)
        return rc;
    if (parameters &&
        (rc = read_positive_or(&inner, "rope_theta", config->rope_theta, &config->rope_theta)) < 0)
        return rc;
    if ((rc = read_positive_or(reader, "partial_rotary_factor", 1.0, &partial)) < 0 ||
        (rc = read_positive_or(&inner, "partial_rotary_factor", partial, &partial)) < 0)
        return rc;
    if (partial < 1.0 || partial > 1.0)
        return error_set(HONE_EUNSUPPORTED, "%s: partial_rotary_factor %g is not supported",
                         reader->where, partial);
    if ((rc = read_string_or(&inner, "type", "default", &type)) < 0 ||
        (rc = read_string_or(&inner, "rope_type", type, &type)) < 0)
        return rc;
    if (strcmp(type, "default") == 0) {
        config->rope_scaling = ROPE_SCALING_NONE;
        return 0;
    }
    if (strcmp(type, "linear") == 0) {
        config->rope_scaling = ROPE_SCALING_LINEAR;
        return read_positive(&inner, "factor", &config->rope_factor);
    }
    if (strcmp(type, "llama3") == 0) {
        config->rope_scaling = ROPE_SCALING_LLAMA3;
        return read_llama3_scaling(&inner, config);
    }
    return error_set(HONE_EUNSUPPORTED,
                     "%s: rope type \"%s\" is not supported (default, linear, llama3)",
                     reader->where, type);
}

static int add_eos(const struct reader *reader, const json_t *value, struct model_config *config)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) >= config->vocab_size)
        return error_set(HONE_EFORMAT,
                         "%s: \"eos_token_id\" holds something that is not a token "
                         "id below vocab_size %d",
                         reader->where, config->vocab_size);
    int32_t id = (int32_t)json_integer_value(value);
    if (model_config_is_eos(config, id))
        return 0;
    if (config->eos_count == MODEL_EOS_MAX)
        return error_set(HONE_EUNSUPPORTED, "%s: more than %d different eos ids", reader->where,
                         MODEL_EOS_MAX);
    config->eos_ids[config->eos_count++] = id;
    return 0;
}

static int read_special_ids(const struct reader *reader, struct model_config *config)
{
    int rc = read_integer_or(reader, "bos_token_id", 0, config->vocab_size - 1, config->bos_id,
                             &config->bos_id);
    const json_t *eos = reader_get(reader, "eos_token_id");
    if (rc < 0 || !eos)
        return rc;
    if (!json_is_array(eos))
        return add_eos(reader, eos, config);
    const json_t *id;
    size_t index;
    json_array_foreach(eos, index, id)
    {
        if ((rc = add_eos(reader, id, config)) < 0)
            return rc;
    }
    return 0;
}

static int parse_object(const char *json, size_t length, const char *where, json_t **object)
{
    json_error_t error;
    *object = json_loadb(json, length, JSON_REJECT_DUPLICATES, &error);
    if (!*object)
        return error_set(HONE_EFORMAT, "%s:%d: %s", where, error.line, error.text);
    if (!json_is_object(*object)) {
        json_decref(*object);
        *object = NULL;
        return error_set(HONE_EFORMAT, "%s: not a JSON object", where);
    }
    return 0;
}

int model_config_parse(struct model_config *config, const char *json, size_t length,
                       const char *where)
{
    json_t *root;
    int rc = parse_object(json, length, where, &root);
    if (rc < 0)
        return rc;
    struct reader reader = {.object = root, .where = where};
    double rms_eps;
    *config = (struct model_config){.bos_id = -1};
    if ((rc = refuse_family(&reader)) < 0 || (rc = refuse_variants(&reader)) < 0 ||
        (rc = read_sizes(&reader, config)) < 0 || (rc = read_rope(&reader, config)) < 0 ||
        (rc = read_dtype(&reader, &config->stored_dtype)) < 0 ||
        (rc = read_bool_or(&reader, "tie_word_embeddings", false, &config->tied_head)) < 0 ||
        (rc = read_positive_or(&reader, "rms_norm_eps", RMS_EPS_DEFAULT, &rms_eps)) < 0 ||
        (rc = read_special_ids(&reader, config)) < 0)
        goto out;
    config->rms_eps = (float)rms_eps;
    if (config->rms_eps < FLT_MIN || config->rms_eps > 1.0f)
        rc = error_set(HONE_EFORMAT, "%s: \"rms_norm_eps\" %g is not between 1e-37 and 1", where,
                       rms_eps);
out:
    json_decref(root);
    return rc;
}

/* generation_config.json adds stop ids, and the bos id when config.json has none. */
static int read_generation_config(struct model_config *config, const char *path)
{
    char *text;
    size_t length;
    int rc = file_read(path, CONFIG_BYTES_MAX, &text, &length);
    if (rc < 0)
        return rc;
    json_t *root = NULL;
    int32_t bos_id = config->bos_id;
    rc = parse_object(text, length, path, &root);
    if (rc == 0)
        rc = read_special_ids(&(struct reader){.object = root, .where = path}, config);
    if (bos_id >= 0)
        config->bos_id = bos_id;
    json_decref(root);
    memory_free(text);
    return rc;
}

static int check_directory(const char *directory)
{
    if (strlen(directory) > HONE_PATH_MAX - 300)
        return error_set(HONE_EINVAL, "path too long: %.100s...", directory);
    if (!file_is_directory(directory))
        return error_set(HONE_ENOENT, "model directory %s does not exist", directory);
    return 0;
}

int model_config_read(struct model_config *config, const char *directory)
{
    char path[HONE_PATH_MAX];
    char *text;
    size_t length;
    int rc = check_directory(directory);
    if (rc < 0)
        return rc;
    path_join(path, sizeof path, directory, "config.json");
    if (!file_exists(path))
        return error_set(HONE_ENOENT, "%s has no config.json: not a model directory", directory);
    if ((rc = file_read(path, CONFIG_BYTES_MAX, &text, &length)) < 0)
        return rc;
    rc = model_config_parse(config, text, length, path);
    memory_free(text);
    if (rc < 0)
        return rc;
    path_join(path, sizeof path, directory, "generation_config.json");
    return file_exists(path) ? read_generation_config(config, path) : 0;
}

/* A float as the double with the fewest digits that rounds to it: 1e-05, not 9.9999997e-06. */
static json_t *json_float(float value)
{
    char digits[32];
    for (int precision = 1; precision <= FLT_DECIMAL_DIG; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, (double)value);
        double shortest = strtod(digits, NULL);
        if ((float)shortest >= value && (float)shortest <= value)
            return json_real(shortest);
    }
    return json_real((double)value);
}

static json_t *rope_object(const struct model_config *config, bool with_theta)
{
    static const char *const names[] = {"default", "linear", "llama3"};
    json_t *rope = json_object();
    json_object_set_new(rope, "rope_type", json_string(names[config->rope_scaling]));
    if (with_theta)
        json_object_set_new(rope, "rope_theta", json_real(config->rope_theta));
    if (config->rope_scaling != ROPE_SCALING_NONE)
        json_object_set_new(rope, "factor", json_real(config->rope_factor));
    if (config->rope_scaling == ROPE_SCALING_LLAMA3) {
        json_object_set_new(rope, "low_freq_factor", json_real(config->rope_low_freq_factor));
        json_object_set_new(rope, "high_freq_factor", json_real(config->rope_high_freq_factor));
        json_object_set_new(rope, "original_max_position_embeddings",
                            json_integer(config->rope_original_max_positions));
    }
    return rope;
}

static void set_sizes(json_t *root, const struct model_config *config)
{
    const struct {
        const char *key;
        int32_t value;
    } sizes[] = {
        {"vocab_size", config->vocab_size},
        {"hidden_size", config->hidden_size},
        {"intermediate_size", config->intermediate_size},
        {"num_hidden_layers", config->layers},
        {"num_attention_heads", config->heads},
        {"num_key_value_heads", config->kv_heads},
        {"head_dim", config->head_dim},
        {"max_position_embeddings", config->max_positions},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        json_object_set_new(root, sizes[i].key, json_integer(sizes[i].value));
}

/* Every key hone knows, for a model that has no config.json yet. */
static json_t *object_from_config(const struct model_config *config)
{
    json_t *root = json_object();
    json_t *eos = json_array();
    json_object_set_new(root, "architectures", json_pack("[s]", "LlamaForCausalLM"));
    json_object_set_new(root, "model_type", json_string("llama"));
    set_sizes(root, config);
    json_object_set_new(root, "rms_norm_eps", json_float(config->rms_eps));
    json_object_set_new(root, "hidden_act", json_string("silu"));
    json_object_set_new(root, "attention_bias", json_false());
    json_object_set_new(root, "mlp_bias", json_false());
    json_object_set_new(root, "tie_word_embeddings", json_boolean(config->tied_head));
    json_object_set_new(root, "bos_token_id",
                        config->bos_id < 0 ? json_null() : json_integer(config->bos_id));
    for (int32_t i = 0; i < config->eos_count; i++)
        json_array_append_new(eos, json_integer(config->eos_ids[i]));
    if (config->eos_count == 1) {
        json_object_set_new(root, "eos_token_id", json_integer(config->eos_ids[0]));
        json_decref(eos);
    } else {
        json_object_set_new(root, "eos_token_id", eos);
    }
    return root;
}

static int object_from_base(const struct model_config *config, const char *directory,
                            json_t **object)
{
    char path[HONE_PATH_MAX];
    char *text = NULL;
    size_t length;
    struct model_config base;
    int rc = check_directory(directory);
    if (rc < 0)
        return rc;
    path_join(path, sizeof path, directory, "config.json");
    if ((rc = file_read(path, CONFIG_BYTES_MAX, &text, &length)) < 0 ||
        (rc = model_config_parse(&base, text, length, path)) < 0)
        goto out;
    if (!model_config_same_shape(config, &base)) {
        rc = error_set(HONE_EINVAL, "%s describes a model of another shape", path);
        goto out;
    }
    rc = parse_object(text, length, path, object);
out:
    memory_free(text);
    return rc;
}

/* Both generations of the keys that were renamed, so that old and new readers agree. */
static void set_renamed_keys(json_t *root, const struct model_config *config, enum dtype dtype)
{
    json_object_set_new(root, "torch_dtype", json_string(dtype_name(dtype)));
    json_object_set_new(root, "dtype", json_string(dtype_name(dtype)));
    if (!json_object_get(root, "rope_theta"))
        json_object_set_new(root, "rope_theta", json_real(config->rope_theta));
    if (!json_is_object(json_object_get(root, "rope_scaling")))
        json_object_set_new(root, "rope_scaling",
                            config->rope_scaling == ROPE_SCALING_NONE ? json_null()
                                                                      : rope_object(config, false));
    if (!json_is_object(json_object_get(root, "rope_parameters")))
        json_object_set_new(root, "rope_parameters", rope_object(config, true));
}

/* Fifteen digits when they give every number back, else seventeen. */
static char *dump_object(const json_t *root)
{
    const size_t flags = JSON_INDENT(2) | JSON_ENSURE_ASCII;
    char *text = json_dumps(root, flags | JSON_REAL_PRECISION(15));
    json_t *again = json_loads(text, 0, NULL);
    if (!json_equal(root, again)) {
        free(text);
        text = json_dumps(root, flags | JSON_REAL_PRECISION(17));
    }
    json_decref(again);
    return text;
}

int model_config_write(const struct model_config *config, const char *base_directory,
                       enum dtype dtype, const char *directory)
{
    char path[HONE_PATH_MAX];
    json_t *root = NULL;
    struct text out;
    int rc = check_directory(directory);
    if (rc < 0)
        return rc;
    HONE_ASSERT(dtype == DTYPE_F32 || dtype == DTYPE_BF16 || dtype == DTYPE_F16);
    if (!base_directory)
        root = object_from_config(config);
    else if ((rc = object_from_base(config, base_directory, &root)) < 0)
        return rc;
    set_renamed_keys(root, config, dtype);
    char *json = dump_object(root);
    text_init(&out);
    text_append(&out, json);
    text_append_char(&out, '\n');
    path_join(path, sizeof path, directory, "config.json");
    rc = file_write_atomic(path, out.data, out.length);
    text_release(&out);
    free(json);
    json_decref(root);
    return rc;
}

static bool same_number(double a, double b)
{
    return a >= b && a <= b;
}

bool model_config_same_shape(const struct model_config *a, const struct model_config *b)
{
    return a->vocab_size == b->vocab_size && a->hidden_size == b->hidden_size &&
           a->layers == b->layers && a->heads == b->heads && a->kv_heads == b->kv_heads &&
           a->head_dim == b->head_dim && a->intermediate_size == b->intermediate_size &&
           a->tied_head == b->tied_head && same_number((double)a->rms_eps, (double)b->rms_eps) &&
           same_number(a->rope_theta, b->rope_theta) && a->rope_scaling == b->rope_scaling &&
           same_number(a->rope_factor, b->rope_factor) &&
           same_number(a->rope_low_freq_factor, b->rope_low_freq_factor) &&
           same_number(a->rope_high_freq_factor, b->rope_high_freq_factor) &&
           a->rope_original_max_positions == b->rope_original_max_positions;
}

bool model_config_is_eos(const struct model_config *config, int32_t id)
{
    for (int32_t i = 0; i < config->eos_count; i++)
        if (config->eos_ids[i] == id)
            return true;
    return false;
}

/* A model's weights on disk: the Hugging Face directory to and from the flat fp32 vector. */
#include "infra/model/model.h"

#include <math.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/base/text.h"
#include "infra/model/safetensors.h"
#include "infra/model/weights.h"

#define INIT_STD         0.02
#define F16_OVERFLOW     65520.0f /* the least magnitude that rounds to infinity */
#define F16_NORMAL_MIN   0x1p-14f
#define F16_DENORMAL_ULP 0x1p-24f

/* Norm weights are vectors; everything else is a matrix. */
static bool is_vector(const struct model_tensor *tensor)
{
    return text_ends_with(tensor->name, "norm.weight");
}

static float f16_to_f32(uint16_t value)
{
    uint32_t sign = (uint32_t)(value & 0x8000u) << 16;
    uint32_t exponent = value >> 10 & 0x1fu, mantissa = value & 0x3ffu;
    uint32_t bits;
    float result;
    if (exponent == 0)
        return (sign ? -1.0f : 1.0f) * (float)mantissa * F16_DENORMAL_ULP;
    if (exponent == 31)
        bits = sign | 0x7f800000u | mantissa << 13;
    else
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    memcpy(&result, &bits, sizeof result);
    return result;
}

/* Round to nearest even; the caller has checked that |value| < F16_OVERFLOW. */
static uint16_t f16_from_f32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    float magnitude = fabsf(value);
    if (magnitude < F16_NORMAL_MIN)
        return (uint16_t)(sign | (uint16_t)lrintf(magnitude / F16_DENORMAL_ULP));
    bits &= 0x7fffffffu;
    bits += 0xfffu + (bits >> 13 & 1u);
    return (uint16_t)(sign | (uint16_t)((bits >> 13) - (112u << 10)));
}

/* ---- reading ---- */

static void copy_as_f32(const struct safetensor *tensor, float *out)
{
    const unsigned char *data = tensor->data; /* may lie at any address */
    if (tensor->dtype == DTYPE_F32) {
        memcpy(out, data, tensor->bytes);
        return;
    }
    for (int64_t i = 0; i < tensor->count; i++) {
        uint16_t half;
        memcpy(&half, data + 2 * i, sizeof half);
        out[i] = tensor->dtype == DTYPE_BF16 ? bf16_to_f32(half) : f16_to_f32(half);
    }
}

static int check_tensor(const char *directory, const struct model_tensor *wanted,
                        const struct safetensor *found)
{
    if (!found)
        return error_set(HONE_EFORMAT, "%s: tensor \"%s\" is missing", directory, wanted->name);
    if (found->dtype != DTYPE_F32 && found->dtype != DTYPE_BF16 && found->dtype != DTYPE_F16)
        return error_set(HONE_EUNSUPPORTED, "%s: tensor \"%s\" has dtype %s (F32, BF16, F16 work)",
                         directory, wanted->name, dtype_safetensors_name(found->dtype));
    int32_t rank = is_vector(wanted) ? 1 : 2;
    if (found->rank == rank && found->shape[rank - 1] == wanted->columns &&
        (rank == 1 || found->shape[0] == wanted->rows))
        return 0;
    struct text shape;
    text_init(&shape);
    for (int32_t d = 0; d < found->rank; d++)
        text_printf(&shape, "%s%lld", d ? ", " : "", (long long)found->shape[d]);
    int rc;
    if (rank == 1)
        rc = error_set(HONE_EFORMAT, "%s: tensor \"%s\" has shape [%s], config.json needs [%lld]",
                       directory, wanted->name, shape.data, (long long)wanted->columns);
    else
        rc = error_set(HONE_EFORMAT,
                       "%s: tensor \"%s\" has shape [%s], config.json needs [%lld, %lld]",
                       directory, wanted->name, shape.data, (long long)wanted->rows,
                       (long long)wanted->columns);
    text_release(&shape);
    return rc;
}

/* What a file may hold beyond the table: old exports store rotary frequencies, and some store the
 * head although it is tied. */
static bool is_ignorable(const struct model_config *config, const char *name)
{
    return text_ends_with(name, ".rotary_emb.inv_freq") ||
           (config->tied_head && strcmp(name, "lm_head.weight") == 0);
}

static int check_extra(const struct model_config *config, const char *directory,
                       const struct safetensors *file, const bool *used)
{
    for (int32_t i = 0; i < safetensors_count(file); i++) {
        const char *name = safetensors_at(file, i)->name;
        if (!used[i] && !is_ignorable(config, name))
            return error_set(HONE_EFORMAT, "%s: unknown tensor \"%s\"", directory, name);
    }
    return 0;
}

int model_read_flat(const struct model_config *config, const char *directory, float *flat)
{
    struct safetensors *file;
    int rc = safetensors_open_directory(&file, directory);
    if (rc < 0)
        return rc;
    int32_t count;
    struct model_tensor *tensors = model_tensors_create(config, &count);
    bool *used = MEMORY_ARRAY(bool, safetensors_count(file));
    for (int32_t i = 0; i < count; i++) {
        const struct safetensor *found = safetensors_find(file, tensors[i].name);
        if ((rc = check_tensor(directory, &tensors[i], found)) < 0)
            goto out;
        copy_as_f32(found, flat + tensors[i].offset);
        used[found - safetensors_at(file, 0)] = true;
    }
    rc = check_extra(config, directory, file, used);
out:
    memory_free(used);
    memory_free(tensors);
    safetensors_close(file);
    return rc;
}

/* ---- writing ---- */

static int cast_for_file(const struct model_tensor *tensor, const float *values, enum dtype dtype,
                         uint16_t *out)
{
    for (int64_t i = 0; i < tensor->count; i++) {
        if (dtype == DTYPE_BF16) {
            out[i] = bf16_from_f32(values[i]);
            continue;
        }
        if (!(fabsf(values[i]) < F16_OVERFLOW))
            return error_set(HONE_EUNSUPPORTED,
                             "tensor \"%s\": %g does not fit float16; write bfloat16 or float32",
                             tensor->name, (double)values[i]);
        out[i] = f16_from_f32(values[i]);
    }
    return 0;
}

int model_write_flat(const struct model_config *config, const float *flat, enum dtype dtype,
                     const char *directory)
{
    char path[HONE_PATH_MAX];
    uint16_t *halves = NULL;
    int32_t count;
    int rc = 0;
    HONE_ASSERT(dtype == DTYPE_F32 || dtype == DTYPE_BF16 || dtype == DTYPE_F16);
    if (strlen(directory) > HONE_PATH_MAX - 300)
        return error_set(HONE_EINVAL, "path too long: %.100s...", directory);
    struct model_tensor *tensors = model_tensors_create(config, &count);
    struct safetensor *stored = MEMORY_ARRAY(struct safetensor, count);
    if (dtype != DTYPE_F32)
        halves = MEMORY_ARRAY(uint16_t, model_config_parameter_count(config));
    for (int32_t i = 0; i < count; i++) {
        const struct model_tensor *tensor = &tensors[i];
        const float *values = flat + tensor->offset;
        stored[i] = (struct safetensor){.name = tensor->name,
                                        .dtype = dtype,
                                        .rank = is_vector(tensor) ? 1 : 2,
                                        .count = tensor->count,
                                        .bytes = (size_t)tensor->count * dtype_bytes(dtype),
                                        .data = values};
        stored[i].shape[0] = is_vector(tensor) ? tensor->columns : tensor->rows;
        stored[i].shape[1] = is_vector(tensor) ? 0 : tensor->columns;
        if (!halves)
            continue;
        stored[i].data = halves + tensor->offset;
        if ((rc = cast_for_file(tensor, values, dtype, halves + tensor->offset)) < 0)
            goto out;
    }
    path_join(path, sizeof path, directory, "model.safetensors");
    rc = safetensors_write(path, stored, count, NULL);
out:
    memory_free(halves);
    memory_free(stored);
    memory_free(tensors);
    return rc;
}

/* ---- whole models ---- */

void model_init_flat(const struct model_config *config, uint64_t seed, float *flat)
{
    int32_t count;
    struct model_tensor *tensors = model_tensors_create(config, &count);
    for (int32_t i = 0; i < count; i++) {
        const struct model_tensor *tensor = &tensors[i];
        const struct rng_key key = {.seed = seed, .purpose = RNG_INIT, .a = (uint64_t)i};
        float std = (float)INIT_STD;
        if (text_ends_with(tensor->name, "o_proj.weight") ||
            text_ends_with(tensor->name, "down_proj.weight"))
            std = (float)(INIT_STD / sqrt(2.0 * config->layers));
        for (int64_t j = 0; j < tensor->count; j++)
            flat[tensor->offset + j] =
                is_vector(tensor) ? 1.0f : std * rng_normal(&key, (uint64_t)j);
    }
    memory_free(tensors);
}

int model_load(struct model **model, const char *directory, enum dtype dtype, bool trainable,
               const struct compute *compute)
{
    struct model_config config;
    int rc = model_config_read(&config, directory);
    if (rc < 0)
        return rc;
    float *flat = MEMORY_ARRAY(float, model_config_parameter_count(&config));
    if ((rc = model_read_flat(&config, directory, flat)) == 0 &&
        (rc = model_create(model, &config, dtype, trainable, compute)) == 0)
        model_set_flat(*model, flat);
    memory_free(flat);
    return rc;
}

#include "infra/model/model.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "infra/base/assert.h"
#include "infra/base/hash.h"
#include "infra/base/memory.h"
#include "infra/model/weights.h"

#define TENSORS_PER_LAYER  9
#define OPERANDS_PER_LAYER 4
#define CAST_CHUNK         4096

/* ---- the canonical table ---- */

struct table {
    struct model_tensor *tensors;
    int32_t count;
    int64_t offset;
};

static void table_add(struct table *table, const char *name, int64_t rows, int64_t columns)
{
    struct model_tensor *tensor = &table->tensors[table->count++];
    *tensor = (struct model_tensor){
        .rows = rows, .columns = columns, .count = rows * columns, .offset = table->offset};
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
    table->offset += tensor->count;
}

static void table_add_layer(struct table *table, int32_t layer, const char *part, int64_t rows,
                            int64_t columns)
{
    char name[sizeof table->tensors->name];
    snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, part);
    table_add(table, name, rows, columns);
}

struct model_tensor *model_tensors_create(const struct model_config *config, int32_t *count)
{
    int64_t hidden = config->hidden_size, ff = config->intermediate_size;
    int64_t query = model_query_size(config), kv = model_kv_size(config);
    *count = 2 + TENSORS_PER_LAYER * config->layers + (config->tied_head ? 0 : 1);
    struct table table = {.tensors = MEMORY_ARRAY(struct model_tensor, *count)};
    table_add(&table, "model.embed_tokens.weight", config->vocab_size, hidden);
    for (int32_t layer = 0; layer < config->layers; layer++) {
        table_add_layer(&table, layer, "input_layernorm", 1, hidden);
        table_add_layer(&table, layer, "self_attn.q_proj", query, hidden);
        table_add_layer(&table, layer, "self_attn.k_proj", kv, hidden);
        table_add_layer(&table, layer, "self_attn.v_proj", kv, hidden);
        table_add_layer(&table, layer, "self_attn.o_proj", hidden, query);
        table_add_layer(&table, layer, "post_attention_layernorm", 1, hidden);
        table_add_layer(&table, layer, "mlp.gate_proj", ff, hidden);
        table_add_layer(&table, layer, "mlp.up_proj", ff, hidden);
        table_add_layer(&table, layer, "mlp.down_proj", hidden, ff);
    }
    table_add(&table, "model.norm.weight", 1, hidden);
    if (!config->tied_head)
        table_add(&table, "lm_head.weight", config->vocab_size, hidden);
    HONE_ASSERT(table.count == *count);
    return table.tensors;
}

int64_t model_config_parameter_count(const struct model_config *config)
{
    int64_t hidden = config->hidden_size;
    int64_t attention = hidden * (2 * model_query_size(config) + 2 * model_kv_size(config));
    int64_t mlp = 3 * hidden * config->intermediate_size;
    int64_t embedding = config->vocab_size * hidden;
    return embedding * (config->tied_head ? 1 : 2) +
           config->layers * (attention + mlp + 2 * hidden) + hidden;
}

/* ---- operands ---- */

#define IMAGE_PAGE ((size_t)4096)

/* Places one packed form at *used of a block; base NULL only counts. */
static void *place(char *base, size_t bytes, size_t *used)
{
    void *at = base ? base + *used : NULL;
    *used += (bytes + 63) & ~(size_t)63;
    return at;
}

static void operand_pack(struct operand *operand, const struct model *model)
{
    const struct compute *compute = model->compute;
    const void *source = model_values_at(model, operand->offset);
    if (!operand->stale)
        return;
    compute->ops->gemm_pack(compute->pool, model->dtype, operand->out, operand->in, source,
                            operand->in, true, operand->packed);
    if (operand->packed_transposed)
        compute->ops->gemm_pack(compute->pool, model->dtype, operand->in, operand->out, source,
                                operand->in, false, operand->packed_transposed);
    operand->stale = false;
}

/* All operands, in canonical order: layers, then the head. */
static struct operand *operand_at(const struct model *model, int32_t index)
{
    struct layer_weights *layer = &model->layers[index / OPERANDS_PER_LAYER];
    if (index == OPERANDS_PER_LAYER * model->config.layers)
        return (struct operand *)(uintptr_t)&model->head;
    switch (index % OPERANDS_PER_LAYER) {
    case 0:
        return &layer->qkv;
    case 1:
        return &layer->output;
    case 2:
        return &layer->gate_up;
    default:
        return &layer->down;
    }
}

static int32_t operand_count(const struct model *model)
{
    return OPERANDS_PER_LAYER * model->config.layers + 1;
}

/* Points the model at an image; NULL only counts. Returns the image's bytes. */
static size_t place_image(struct model *model, char *image)
{
    size_t used = (model->values_bytes + IMAGE_PAGE - 1) & ~(IMAGE_PAGE - 1);
    model->image = model->values = image;
    for (int32_t i = 0; i < operand_count(model); i++) {
        struct operand *operand = operand_at(model, i);
        operand->packed =
            place(image, gemm_packed_bytes(model->dtype, operand->out, operand->in), &used);
    }
    return used;
}

static size_t place_transposed(struct model *model, char *block)
{
    size_t used = 0;
    for (int32_t i = 0; i < operand_count(model) && model->trainable; i++) {
        struct operand *operand = operand_at(model, i);
        operand->packed_transposed =
            place(block, gemm_packed_bytes(model->dtype, operand->in, operand->out), &used);
    }
    return used;
}

/* Offsets and shapes of everything the forward uses, from the canonical table. */
static void describe_layers(struct model *model)
{
    const struct model_config *config = &model->config;
    const struct model_tensor *tensor = model->tensors;
    int64_t hidden = config->hidden_size, ff = config->intermediate_size;
    int64_t query = model_query_size(config), kv = model_kv_size(config);
    model->embedding = tensor++->offset;
    for (int32_t i = 0; i < config->layers; i++, tensor += TENSORS_PER_LAYER) {
        model->layers[i] = (struct layer_weights){
            .input_norm = tensor[0].offset,
            .qkv = {.offset = tensor[1].offset, .out = query + 2 * kv, .in = hidden},
            .output = {.offset = tensor[4].offset, .out = hidden, .in = query},
            .post_norm = tensor[5].offset,
            .gate_up = {.offset = tensor[6].offset, .out = 2 * ff, .in = hidden},
            .down = {.offset = tensor[8].offset, .out = hidden, .in = ff},
        };
    }
    model->final_norm = tensor->offset;
    model->head = (struct operand){
        .offset = config->tied_head ? model->embedding : tensor[1].offset,
        .out = config->vocab_size,
        .in = hidden,
    };
}

static void set_stale(struct model *model, int64_t offset)
{
    for (int32_t i = 0; i < operand_count(model); i++) {
        struct operand *operand = operand_at(model, i);
        int64_t end = operand->offset + operand->out * operand->in;
        if (offset >= operand->offset && offset < end)
            operand->stale = true;
    }
}

/* ---- life cycle ---- */

int model_create(struct model **result, const struct model_config *config, enum dtype dtype,
                 bool trainable, const struct compute *compute)
{
    HONE_ASSERT(dtype == DTYPE_F32 || dtype == DTYPE_BF16);
    struct model *model = MEMORY_NEW(struct model);
    model->config = *config;
    model->dtype = dtype;
    model->trainable = trainable;
    model->compute = compute;
    model->tensors = model_tensors_create(config, &model->tensor_count);
    model->parameter_count = model_config_parameter_count(config);
    const struct model_tensor *last = &model->tensors[model->tensor_count - 1];
    HONE_ASSERT(last->offset + last->count == model->parameter_count);
    model->values_bytes = (size_t)model->parameter_count * dtype_bytes(dtype);
    model->layers = MEMORY_ARRAY(struct layer_weights, config->layers);
    describe_layers(model);
    model->image_bytes = place_image(model, NULL);
    model->own_image = memory_map(model->image_bytes);
    place_image(model, model->own_image);
    model->transposed_bytes = place_transposed(model, NULL);
    if (trainable)
        model->transposed = memory_map(model->transposed_bytes);
    place_transposed(model, model->transposed);
    *result = model;
    return 0;
}

void model_free(struct model *model)
{
    if (!model)
        return;
    memory_unmap(model->own_image, model->image_bytes);
    memory_unmap(model->transposed, model->transposed_bytes);
    memory_free(model->layers);
    memory_free(model->tensors);
    memory_free(model->rope);
    memory_free(model);
}

/* A model without memory for values: its layout can be counted. */
static void describe_shape(struct model *model, const struct model_config *config, enum dtype dtype,
                           bool trainable)
{
    *model = (struct model){.config = *config, .dtype = dtype, .trainable = trainable};
    model->tensors = model_tensors_create(config, &model->tensor_count);
    model->layers = MEMORY_ARRAY(struct layer_weights, config->layers);
    model->values_bytes = (size_t)model_config_parameter_count(config) * dtype_bytes(dtype);
    describe_layers(model);
}

static void release_shape(struct model *model)
{
    memory_free(model->layers);
    memory_free(model->tensors);
}

size_t model_bytes(const struct model_config *config, enum dtype dtype, bool trainable)
{
    struct model model;
    describe_shape(&model, config, dtype, trainable);
    size_t bytes = place_image(&model, NULL) + place_transposed(&model, NULL);
    release_shape(&model);
    return bytes;
}

const struct model_config *model_config_of(const struct model *model)
{
    return &model->config;
}

enum dtype model_dtype(const struct model *model)
{
    return model->dtype;
}

int32_t model_tensor_count(const struct model *model)
{
    return model->tensor_count;
}

const struct model_tensor *model_tensor_at(const struct model *model, int32_t index)
{
    HONE_ASSERT(index >= 0 && index < model->tensor_count);
    return &model->tensors[index];
}

int64_t model_parameter_count(const struct model *model)
{
    return model->parameter_count;
}

/* ---- values ---- */

/* fp16 reaches bf16 by way of fp32: both conversions of the backend are exact or round once. */
static void cast_by_f32(const struct compute *compute, int64_t count, const char *from,
                        enum dtype to, char *out)
{
    float chunk[CAST_CHUNK];
    for (int64_t done = 0; done < count; done += CAST_CHUNK) {
        int64_t now = count - done < CAST_CHUNK ? count - done : CAST_CHUNK;
        compute->ops->cast(NULL, now, DTYPE_F16, from + 2 * done, DTYPE_F32, chunk);
        compute->ops->cast(NULL, now, DTYPE_F32, chunk, to, out + (int64_t)dtype_bytes(to) * done);
    }
}

static void cast_values(const struct model *model, int64_t count, enum dtype from,
                        const void *values, void *out)
{
    const struct compute *compute = model->compute;
    if (from == model->dtype)
        memcpy(out, values, (size_t)count * dtype_bytes(from));
    else if (from == DTYPE_F16 && model->dtype != DTYPE_F32)
        cast_by_f32(compute, count, values, model->dtype, out);
    else
        compute->ops->cast(compute->pool, count, from, values, model->dtype, out);
}

void model_set_tensor(struct model *model, int32_t index, enum dtype from, const void *values)
{
    const struct model_tensor *tensor = model_tensor_at(model, index);
    char *out = model->values + (size_t)tensor->offset * dtype_bytes(model->dtype);
    HONE_ASSERT(from == DTYPE_F32 || from == DTYPE_BF16 || from == DTYPE_F16);
    HONE_ASSERT(model->image == model->own_image);
    cast_values(model, tensor->count, from, values, out);
    set_stale(model, tensor->offset);
}

void model_finish(struct model *model)
{
    for (int32_t i = 0; i < operand_count(model); i++)
        operand_pack(operand_at(model, i), model);
}

/* Another image; the pages of the model's own go back to the system when it is left. */
static void leave_image(struct model *model, char *image)
{
    if (model->image == model->own_image && image != model->own_image)
        (void)madvise(model->own_image, model->image_bytes, MADV_DONTNEED);
    place_image(model, image);
}

void *model_overwrite(struct model *model)
{
    HONE_ASSERT(model->trainable || model->next_image || model->image == model->own_image);
    if (model->next_image) {
        leave_image(model, model->next_image);
        model->next_image = NULL;
    }
    for (int32_t i = 0; i < operand_count(model); i++)
        operand_at(model, i)->stale = true;
    return model->values;
}

void model_set_flat(struct model *model, const float *flat)
{
    cast_values(model, model->parameter_count, DTYPE_F32, flat, model_overwrite(model));
    model_finish(model);
}

/* ---- images ---- */

size_t model_image_bytes(const struct model_config *config, enum dtype dtype)
{
    struct model model;
    describe_shape(&model, config, dtype, false);
    size_t bytes = place_image(&model, NULL);
    release_shape(&model);
    return bytes;
}

const void *model_image(const struct model *model)
{
    return model->image;
}

void model_move(struct model *model, void *image)
{
    HONE_ASSERT(image != model->image && (uintptr_t)image % IMAGE_PAGE == 0);
    model->next_image = image;
}

/* Nothing writes through the pointer: model_set_tensor and model_set_flat refuse. */
void model_adopt(struct model *model, const void *image)
{
    HONE_ASSERT(!model->trainable && (uintptr_t)image % IMAGE_PAGE == 0);
    leave_image(model, image ? (char *)(uintptr_t)image : model->own_image);
}

int32_t model_image_part_count(const struct model *model)
{
    return 2 + 2 * model->config.layers + operand_count(model);
}

struct model_image_part model_image_part_at(const struct model *model, int32_t index)
{
    size_t size = dtype_bytes(model->dtype), norm = (size_t)model->config.hidden_size * size;
    int32_t norms = 1 + 2 * model->config.layers;
    HONE_ASSERT(index >= 0 && index < model_image_part_count(model));
    if (index == 0)
        return (struct model_image_part){(size_t)model->embedding * size,
                                         (size_t)model->config.vocab_size * norm};
    if (index <= norms) {
        const struct layer_weights *layer = &model->layers[(index - 1) / 2];
        int64_t offset = index == norms         ? model->final_norm
                         : (index - 1) % 2 == 0 ? layer->input_norm
                                                : layer->post_norm;
        return (struct model_image_part){(size_t)offset * size, norm};
    }
    const struct operand *operand = operand_at(model, index - norms - 1);
    return (struct model_image_part){(size_t)((const char *)operand->packed - model->image),
                                     gemm_packed_bytes(model->dtype, operand->out, operand->in)};
}

const void *model_tensor_values(const struct model *model, int32_t index)
{
    return model_values_at(model, model_tensor_at(model, index)->offset);
}

void model_hash(const struct model *model, struct hash *hash)
{
    hash_sha256(model->values, model->values_bytes, hash);
}

size_t model_rope_bytes(const struct model_config *config, int32_t cache_blocks)
{
    int64_t positions = (int64_t)cache_blocks * ATTENTION_BLOCK_TOKENS;
    if (positions > config->max_positions)
        positions = config->max_positions;
    return (size_t)positions * (size_t)config->head_dim * sizeof(float);
}

void model_reserve_positions(struct model *model, int32_t count)
{
    size_t head_dim = (size_t)model->config.head_dim;
    if (count > model->config.max_positions)
        count = model->config.max_positions;
    if (count <= model->rope_positions)
        return;
    model->rope = memory_resize(model->rope, (size_t)model->rope_positions, (size_t)count,
                                head_dim * sizeof *model->rope);
    rope_table_fill(&model->config, model->rope_positions, count - model->rope_positions,
                    model->rope + (size_t)model->rope_positions * head_dim);
    model->rope_positions = count;
}

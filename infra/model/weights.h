/* What a model holds, shared by the files of this folder only: the canonical tensor table, the
 * values in the compute dtype, and the operands packed for matmuls.
 *
 * Neighbouring tensors of the flat vector that share an input are one operand: q, k, v and gate, up
 * lie next to each other in canonical order, so the fused matrix needs no copy and its gradient is
 * one contiguous range too. */
#ifndef HONE_MODEL_WEIGHTS_H
#define HONE_MODEL_WEIGHTS_H

#include "infra/model/model.h"

/* One [out, in] matrix: y = x W^T through packed, dx = dy W through packed_transposed. */
struct operand {
    int64_t offset; /* first element in the flat vector, and in a gradient */
    int64_t out, in;
    void *packed;
    void *packed_transposed; /* NULL unless trainable */
    bool stale;              /* values changed since it was packed */
};

struct layer_weights {
    int64_t input_norm, post_norm; /* offsets in the flat vector */
    struct operand qkv, output, gate_up, down;
};

struct model {
    struct model_config config;
    enum dtype dtype;
    bool trainable;
    const struct compute *compute;
    struct model_tensor *tensors;
    int32_t tensor_count;
    int64_t parameter_count;
    char *image;      /* in use: values, then the packed operands */
    char *own_image;  /* model_image_bytes, the model's own */
    char *next_image; /* where the next model_set_flat writes; NULL: over the present values */
    char *values;     /* [parameter_count] in dtype, at the start of the image */
    size_t values_bytes;
    size_t image_bytes;
    char *transposed; /* the operands' transposes; NULL unless trainable */
    size_t transposed_bytes;
    struct layer_weights *layers;
    int64_t embedding, final_norm; /* offsets */
    struct operand head;           /* the embedding itself when tied */
    float *rope;                   /* [rope_positions][head_dim], cosines then sines */
    int32_t rope_positions;
};

/* The canonical table of a config; memory_free it. */
struct model_tensor *model_tensors_create(const struct model_config *config, int32_t *count);

static inline int64_t model_query_size(const struct model_config *config)
{
    return (int64_t)config->heads * config->head_dim;
}

static inline int64_t model_kv_size(const struct model_config *config)
{
    return (int64_t)config->kv_heads * config->head_dim;
}

/* Values at an offset of the flat vector. */
static inline const void *model_values_at(const struct model *model, int64_t offset)
{
    return model->values + (size_t)offset * dtype_bytes(model->dtype);
}

/* Makes the rope table reach positions [0, count); set-up time only. */
void model_reserve_positions(struct model *model, int32_t count);

/* Fills cos_sin [count][head_dim] for positions first .. first + count - 1: first half cosines,
 * second half sines. Frequencies are rounded to fp32 as Hugging Face does; the angle is exact in
 * double and its sine and cosine use own polynomials, so that every machine has the same table. */
void rope_table_fill(const struct model_config *config, int32_t first, int32_t count,
                     float *cos_sin);

#endif

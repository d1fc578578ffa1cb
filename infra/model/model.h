/* A model's weights in the form the engine multiplies with.
 *
 * The same struct serves actor, learner, evaluation and reference model: there is one engine (G6).
 * Weights are kept in the compute dtype (bf16 or fp32): row-major for the embedding and the norms,
 * packed for matmuls; a trainable model also holds the packed transposes that dx needs.
 *
 * Tensors have one canonical order (model_tensors), the order of the flat parameter vector:
 * embedding; per layer input norm, q, k, v, o, post-attention norm, gate, up, down; final norm;
 * head when untied. q, k, v are packed as one [q+2kv, hidden] operand, gate and up as one
 * [2*intermediate, hidden].
 *
 * Owned by one thread; model_set_tensor must not run while a forward uses the model. */
#ifndef HONE_MODEL_MODEL_H
#define HONE_MODEL_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "infra/compute/compute.h"
#include "infra/model/model_config.h"

struct model_tensor {
    char name[96]; /* Hugging Face name */
    int64_t rows;  /* 1 for vectors */
    int64_t columns;
    int64_t count;  /* rows * columns */
    int64_t offset; /* first element in the flat parameter vector */
};

struct model;

int model_create(struct model **model, const struct model_config *config, enum dtype dtype,
                 bool trainable, const struct compute *compute);
void model_free(struct model *model);
/* Bytes model_create allocates for weights and packed operands: for the memory plan. */
size_t model_bytes(const struct model_config *config, enum dtype dtype, bool trainable);
/* Bytes of the rotary table once a transformer with a cache of that many blocks exists. */
size_t model_rope_bytes(const struct model_config *config, int32_t cache_blocks);

const struct model_config *model_config_of(const struct model *model);
enum dtype model_dtype(const struct model *model);
int32_t model_tensor_count(const struct model *model);
const struct model_tensor *model_tensor_at(const struct model *model, int32_t index);
int64_t model_parameter_count(const struct model *model);

/* Stores tensor `index` from row-major values of dtype fp32, bf16 or fp16, cast (RNE) to the
 * compute dtype. Packing of fused operands happens in model_finish. */
void model_set_tensor(struct model *model, int32_t index, enum dtype from, const void *values);
/* Packs everything that changed since the last call. Call once after the tensors of a version. */
void model_finish(struct model *model);
/* For whoever makes a whole version in the compute dtype by itself (the optimiser): where its
 * values [parameter_count] go, all of them, before model_finish. */
void *model_overwrite(struct model *model);
/* All tensors from a flat fp32 vector [parameter_count], then model_finish. */
void model_set_flat(struct model *model, const float *flat);

/* Row-major values of tensor `index` in the compute dtype, as the engine uses them: what is hashed
 * and published. Valid until the next model_set_tensor. */
const void *model_tensor_values(const struct model *model, int32_t index);
/* SHA-256 over all tensors' values in order: the identity of a version. */
struct hash;
void model_hash(const struct model *model, struct hash *hash);

/* The image: every value a forward reads, in one block whose layout depends on the config and the
 * dtype alone: the values in canonical order, then, from a page boundary, each operand packed. A
 * page-aligned block of this many bytes, zeros at first, can hold the image of any model of that
 * shape. */
size_t model_image_bytes(const struct model_config *config, enum dtype dtype);
const void *model_image(const struct model *model); /* in use */
/* The next model_overwrite or model_set_flat writes the whole version into `image`, which is in use
 * from then on; the image in use so far is left as it is for whoever else reads it, and the model
 * reads it until then. */
void model_move(struct model *model, void *image);
/* The version is what `image` holds: another model's image, which nobody changes while it is in use
 * here. Nothing is copied, and the memory of the model's own block is given back. Nothing can be
 * set before model_adopt(model, NULL), which returns to that block; every tensor has to be set
 * then. Not for trainable models. */
void model_adopt(struct model *model, const void *image);
/* The parts of an image that a forward reads, in ascending order: the embedding, the norms, the
 * packed operands. What lies between them is read by nobody who has only the image. */
struct model_image_part {
    size_t offset, bytes;
};
int32_t model_image_part_count(const struct model *model);
struct model_image_part model_image_part_at(const struct model *model, int32_t index);

/* Loads a Hugging Face directory's weights (fp32/bf16/fp16) as a flat fp32 vector [parameter_count]
 * in canonical order; missing, extra or misshapen tensors are named. */
int model_read_flat(const struct model_config *config, const char *directory, float *flat);
/* Writes directory/model.safetensors from a flat fp32 vector, values cast to dtype. */
int model_write_flat(const struct model_config *config, const float *flat, enum dtype dtype,
                     const char *directory);
int64_t model_config_parameter_count(const struct model_config *config);
/* Gaussian init (std 0.02, output projections scaled by 1/sqrt(2*layers)), norms 1; from the seed.
 */
void model_init_flat(const struct model_config *config, uint64_t seed, float *flat);
/* config + weights from a directory in one go. */
int model_load(struct model **model, const char *directory, enum dtype dtype, bool trainable,
               const struct compute *compute);

#endif

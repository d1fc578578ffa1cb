/* The shape of a model: what config.json says, checked. Families: dense Llama architecture
 * (LlamaForCausalLM): RMSNorm, RoPE, grouped-query attention, SwiGLU, tied or untied head.
 * Anything else is refused by name rather than half-read. */
#ifndef HONE_MODEL_MODEL_CONFIG_H
#define HONE_MODEL_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "infra/compute/dtype.h"

enum rope_scaling { ROPE_SCALING_NONE, ROPE_SCALING_LINEAR, ROPE_SCALING_LLAMA3 };

#define MODEL_EOS_MAX 8

struct model_config {
    int32_t vocab_size, hidden_size, layers, heads, kv_heads, head_dim, intermediate_size;
    int32_t max_positions;
    float rms_eps;
    double rope_theta;
    enum rope_scaling rope_scaling;
    double rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    int32_t rope_original_max_positions;
    bool tied_head;
    enum dtype stored_dtype; /* config.json's dtype: what a checkpoint is written in by default */
    int32_t bos_id;          /* -1: none */
    int32_t eos_ids[MODEL_EOS_MAX]; /* union of config.json and generation_config.json */
    int32_t eos_count;
};

/* Reads directory/config.json (and generation_config.json's eos ids). Both the v4 and v5 key
 * generations of transformers are understood. */
int model_config_read(struct model_config *config, const char *directory);
/* Parses config.json's text; `where` names it in messages. */
int model_config_parse(struct model_config *config, const char *json, size_t length,
                       const char *where);
/* Writes directory/config.json. base_directory, when not NULL, supplies the keys hone does not
 * know, kept unchanged; only dtype is replaced. */
int model_config_write(const struct model_config *config, const char *base_directory,
                       enum dtype dtype, const char *directory);
/* Same tensors and same mathematics (sizes, rope, epsilon); the context length, stop ids and stored
 * dtype may differ. */
bool model_config_same_shape(const struct model_config *a, const struct model_config *b);
/* True when id is one of the stop ids. */
bool model_config_is_eos(const struct model_config *config, int32_t id);

#endif

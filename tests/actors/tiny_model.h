/* A random model small enough for tests that run it hundreds of times, with odd sizes on purpose:
 * the vocabulary is not a multiple of 16, the intermediate size not of 32. */
#ifndef HONE_TESTS_ACTORS_TINY_MODEL_H
#define HONE_TESTS_ACTORS_TINY_MODEL_H

#include "infra/base/memory.h"
#include "infra/model/model.h"

static inline struct model_config tiny_model_config(void)
{
    return (struct model_config){.vocab_size = 101,
                                 .hidden_size = 48,
                                 .layers = 2,
                                 .heads = 4,
                                 .kv_heads = 2,
                                 .head_dim = 12,
                                 .intermediate_size = 72,
                                 .max_positions = 160,
                                 .rms_eps = 1e-5f,
                                 .rope_theta = 10000.0,
                                 .tied_head = true,
                                 .stored_dtype = DTYPE_F32,
                                 .bos_id = 1,
                                 .eos_ids = {2},
                                 .eos_count = 1};
}

/* Weights as a flat vector, larger than a usual initialisation so that the logits are not flat; the
 * caller frees. */
static inline float *tiny_model_flat(const struct model_config *config, uint64_t seed)
{
    int64_t count = model_config_parameter_count(config);
    float *flat = MEMORY_ARRAY(float, count);
    model_init_flat(config, seed, flat);
    for (int64_t i = 0; i < count; i++) {
        if (flat[i] != 1.0f)
            flat[i] *= 8.0f;
    }
    return flat;
}

#endif

/* Small random models and an engine around a model, for the tests of this folder. */
#ifndef HONE_TESTS_MODEL_FIXTURE_H
#define HONE_TESTS_MODEL_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/base/text.h"
#include "infra/model/kv_cache.h"
#include "infra/model/model.h"
#include "infra/model/transformer.h"

#define EXIT_SKIPPED 77

/* Sizes that are no multiple of a vector, a tile or a panel. */
static inline struct model_config fixture_config(bool tied)
{
    return (struct model_config){
        .vocab_size = 101,
        .hidden_size = 44,
        .layers = 2,
        .heads = 6,
        .kv_heads = 2,
        .head_dim = 10,
        .intermediate_size = 70,
        .max_positions = 256,
        .rms_eps = 1e-5f,
        .rope_theta = 500.0,
        .rope_scaling = ROPE_SCALING_LLAMA3,
        .rope_factor = 8.0,
        .rope_low_freq_factor = 1.0,
        .rope_high_freq_factor = 4.0,
        .rope_original_max_positions = 64,
        .tied_head = tied,
        .stored_dtype = DTYPE_F32,
        .bos_id = 1,
        .eos_ids = {2},
        .eos_count = 1,
    };
}

/* Weights large enough that every part of the model matters; memory_free. */
static inline float *fixture_flat(const struct model_config *config, uint64_t seed)
{
    int64_t count = model_config_parameter_count(config);
    float *flat = MEMORY_ARRAY(float, count);
    model_init_flat(config, seed, flat);
    for (int64_t i = 0; i < count; i++)
        flat[i] = flat[i] > 0.99f && flat[i] < 1.01f
                      ? 1.0f + 0.2f * rng_normal(&(struct rng_key){.seed = seed + 1}, (uint64_t)i)
                      : flat[i] * 12.0f;
    return flat;
}

struct engine {
    struct compute compute;
    struct model *model;
    struct kv_cache *cache;
    struct transformer *transformer;
};

static inline void engine_open(struct engine *engine, const struct model_config *config,
                               const float *flat, enum dtype dtype, enum cpu_isa isa, int threads,
                               int32_t max_rows, enum activation_keep keep)
{
    compute_thread_init();
    engine->compute.ops = backend_cpu(isa);
    engine->compute.pool = parallel_create(threads);
    assert_non_null(engine->compute.ops);
    assert_int_equal(
        model_create(&engine->model, config, dtype, keep != ACTIVATIONS_NONE, &engine->compute), 0);
    model_set_flat(engine->model, flat);
    assert_int_equal(kv_cache_create(&engine->cache, config, dtype, 64), 0);
    assert_int_equal(
        transformer_create(&engine->transformer, engine->model, engine->cache, max_rows, keep), 0);
}

static inline void engine_close(struct engine *engine)
{
    transformer_free(engine->transformer);
    kv_cache_free(engine->cache);
    model_free(engine->model);
    parallel_destroy(engine->compute.pool);
}

#endif

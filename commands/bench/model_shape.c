#include "commands/bench/model_shape.h"

#include <string.h>

#include "infra/base/error.h"
#include "infra/base/text.h"
#include "infra/model/model.h"

static const struct shape {
    const char *name;
    int32_t layers, hidden, heads, kv_heads, intermediate, vocab;
} shapes[] = {
    {"stories260k", 5, 64, 8, 4, 172, 512},
    {"llama-100m", 12, 768, 12, 12, 2048, 32000},
    {"llama-500m", 24, 1024, 16, 8, 4096, 32000},
    {"llama-1b", 16, 2048, 32, 8, 8192, 128256},
};

static const struct shape *find_shape(const char *name)
{
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        if (strcmp(shapes[i].name, name) == 0)
            return &shapes[i];
    return NULL;
}

int model_shape_config(const struct command_line *line, struct model_config *config)
{
    const char *directory = command_value(line, "model"), *name = command_value(line, "shape");
    if (directory != NULL)
        return model_config_read(config, directory);
    const struct shape *shape = find_shape(name);
    if (shape == NULL) {
        struct text known;
        text_init(&known);
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
            text_printf(&known, "%s%s", i > 0 ? ", " : "", shapes[i].name);
        int rc = error_set(HONE_EINVAL, "--shape %s: unknown; use one of %s, or --model DIR", name,
                           known.data);
        text_release(&known);
        return rc;
    }
    *config = (struct model_config){.vocab_size = shape->vocab,
                                    .hidden_size = shape->hidden,
                                    .layers = shape->layers,
                                    .heads = shape->heads,
                                    .kv_heads = shape->kv_heads,
                                    .head_dim = shape->hidden / shape->heads,
                                    .intermediate_size = shape->intermediate,
                                    .max_positions = 32768,
                                    .rms_eps = 1e-5f,
                                    .rope_theta = 10000.0,
                                    .tied_head = true,
                                    .stored_dtype = DTYPE_BF16,
                                    .bos_id = -1};
    return 0;
}

int model_shape_weights(const struct command_line *line, const struct model_config *config,
                        float *flat)
{
    const char *directory = command_value(line, "model");
    if (directory != NULL)
        return model_read_flat(config, directory, flat);
    model_init_flat(config, 1, flat);
    return 0;
}

int64_t model_shape_read_parameters(const struct model_config *config)
{
    int64_t embedding = (int64_t)config->vocab_size * config->hidden_size;
    return model_config_parameter_count(config) - (config->tied_head ? 0 : embedding);
}

#include "actors/engine_plan.h"

#include <unistd.h>

#include "infra/base/error.h"
#include "infra/base/log.h"

/* The table of cosines and sines reaches as far as a sequence can. */
static size_t rope_bytes(const struct model_config *config,
                         const struct rollout_engine_options *options)
{
    int64_t per_slot =
        (options->max_sequence_tokens + ATTENTION_BLOCK_TOKENS - 1) / ATTENTION_BLOCK_TOKENS;
    int64_t blocks = options->kv_blocks > 0 ? options->kv_blocks : options->slots * per_slot;
    int64_t positions = blocks * ATTENTION_BLOCK_TOKENS;
    if (positions > config->max_positions)
        positions = config->max_positions;
    return (size_t)positions * (size_t)config->head_dim * sizeof(float);
}

enum { LINES = 6 };

struct line {
    const char *what;
    size_t bytes;
};

/* Returns the total. */
static size_t fill_lines(const struct model_config *config, enum dtype dtype,
                         const struct rollout_engine_options *options, int threads,
                         struct line lines[LINES])
{
    struct rollout_engine_memory engine = rollout_engine_memory(config, dtype, options, threads);
    const struct line filled[LINES] = {
        {"weights (compute dtype)", model_bytes(config, dtype, false)},
        {"rotary table", rope_bytes(config, options)},
        {"key/value cache", engine.kv_cache},
        {"activations and a tile of logits", engine.activations},
        {"sequences", engine.sequences},
        {"sampling", engine.sampling}};
    size_t total = 0;
    for (int i = 0; i < LINES; i++) {
        lines[i] = filled[i];
        total += filled[i].bytes;
    }
    return total;
}

size_t engine_plan_bytes(const struct model_config *config, enum dtype dtype,
                         const struct rollout_engine_options *options, int threads)
{
    struct line lines[LINES];
    return fill_lines(config, dtype, options, threads, lines);
}

int engine_plan_announce(const struct model_config *config, enum dtype dtype,
                         const struct rollout_engine_options *options, int threads)
{
    double machine = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    struct line lines[LINES];
    size_t total = fill_lines(config, dtype, options, threads, lines);
    log_info("memory for %d slots of %d tokens:", options->slots, options->max_sequence_tokens);
    for (int i = 0; i < LINES; i++)
        log_info("  %-34s %10.1f MB", lines[i].what, (double)lines[i].bytes / 1e6);
    log_info("  %-34s %10.1f MB", "total", (double)total / 1e6);
    if ((double)total > machine)
        return error_set(HONE_ENOMEM,
                         "%d slots of %d tokens need %.1f GB of memory and the machine has %.1f "
                         "GB; use fewer slots or shorter sequences",
                         options->slots, options->max_sequence_tokens, (double)total / 1e9,
                         machine / 1e9);
    return 0;
}

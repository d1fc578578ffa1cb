/* `hone bench decode`, `prefill` and `train`: a whole model against the roofline.
 *
 *   decode   t >= max((weights + sequences x context x kv bytes) / BW, 2 N sequences / F) a step
 *   prefill  t >= 2 N tokens / F + attention
 *   train    t >= 6 N tokens / F + attention + 30 N bytes / BW
 *
 * N: parameters that are multiplied with; F: the peak that a matmul is held against; BW: reading
 * from the level of memory that holds it all; attention: its fp32 multiply-adds at their peak. */
#include <stdio.h>
#include <string.h>

#include "actors/rollout_engine.h"
#include "commands/bench/bench.h"
#include "commands/bench/model_shape.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/train/trainer.h"

#define PREFILL_CHUNK_MAX 4096
#define MICRO_BATCH_MAX   2048
#define WARM_UP_STEPS     1
#define OPTIMIZER_BYTES                                                                            \
    30.0                       /* a parameter: master and moments read and written, gradient, bf16 \
                                */
#define FORWARD_PAIR_FLOPS 4.0 /* a query and key, a value of head_dim */
#define TRAINING_PAIR_FLOPS                                                                        \
    12.0 /* three times that: the recomputation of scores is not counted                           \
          */

/* The limits' ingredients. */
struct roofline {
    const struct ceilings *ceilings;
    const struct model_config *config;
    enum dtype dtype;
    bool all;
    double parameters;
};

static struct roofline roofline_of(const struct bench *bench, const struct model_config *config)
{
    return (struct roofline){.ceilings = &bench->ceilings,
                             .config = config,
                             .dtype = bench->dtype,
                             .all = bench->threads > 1,
                             .parameters = (double)model_shape_read_parameters(config)};
}

static double attention_seconds(const struct roofline *r, double pair_flops, double pairs)
{
    double width = (double)r->config->heads * r->config->head_dim;
    return pair_flops * pairs * width * r->config->layers /
           ceilings_flops(r->ceilings, DTYPE_F32, r->all);
}

static double decode_step_seconds(const struct roofline *r, double sequences, double context)
{
    double value = (double)dtype_bytes(r->dtype);
    double kv = 2.0 * r->config->layers * r->config->kv_heads * r->config->head_dim * value;
    double bytes = value * r->parameters + sequences * context * kv;
    enum memory_level level = ceilings_level(r->ceilings, (int64_t)bytes, r->all);
    return ceilings_seconds(r->ceilings, r->dtype, 2.0 * r->parameters * sequences, bytes, level,
                            r->all);
}

/* The head's matrix multiplies the last token of a prompt alone. */
static double prefill_seconds(const struct roofline *r, double sequences, double prompt_tokens)
{
    double head = (double)r->config->vocab_size * r->config->hidden_size;
    double flops =
        2.0 * (r->parameters - head) * sequences * prompt_tokens + 2.0 * head * sequences;
    double pairs = sequences * prompt_tokens * (prompt_tokens + 1.0) / 2.0;
    return flops / ceilings_flops(r->ceilings, r->dtype, r->all) +
           attention_seconds(r, FORWARD_PAIR_FLOPS, pairs);
}

static double train_seconds(const struct roofline *r, double sequences, double length)
{
    double pairs = sequences * length * (length + 1.0) / 2.0;
    const struct ceiling *memory = &r->ceilings->read[LEVEL_MEMORY];
    return 6.0 * r->parameters * sequences * length /
               ceilings_flops(r->ceilings, r->dtype, r->all) +
           attention_seconds(r, TRAINING_PAIR_FLOPS, pairs) +
           OPTIMIZER_BYTES * r->parameters / (r->all ? memory->all : memory->one);
}

static int32_t *random_tokens(int64_t count, int32_t vocab)
{
    struct rng_key key = {.seed = 1, .purpose = RNG_DATA};
    int32_t *tokens = MEMORY_ARRAY(int32_t, count);
    for (int64_t i = 0; i < count; i++)
        tokens[i] = (int32_t)rng_below(&key, (uint64_t)i, (uint64_t)vocab);
    return tokens;
}

static float *load_weights(struct bench *bench, const struct model_config *config, int *rc)
{
    int64_t count = model_config_parameter_count(config);
    fprintf(stderr, "weights: %.1f million parameters\n", (double)count * 1e-6);
    float *flat = memory_map((size_t)count * sizeof *flat);
    *rc = model_shape_weights(bench->line, config, flat);
    return flat;
}

/* ---- generation ---- */

struct generation {
    int64_t sequences, prompt_tokens, new_tokens;
};

/* When the prompts were in, and when everything was sampled. */
struct generation_times {
    double start, prefilled, end;
    int64_t sampled_before; /* tokens sampled before `prefilled` */
};

static int submit(struct rollout_engine *engine, const struct generation *g, const int32_t *tokens)
{
    int rc = 0;
    for (int64_t i = 0; i < g->sequences && rc == 0; i++) {
        struct rollout_request request = {
            .user = (uint64_t)i,
            .prompt_id = (uint64_t)i,
            .group_id = (uint64_t)i + 1,
            .prompt_tokens = tokens + i * g->prompt_tokens,
            .prompt_token_count = (int32_t)g->prompt_tokens,
            .sampling = {.temperature = 1.0f,
                         .top_p = 1.0f,
                         .max_completion_tokens = (int32_t)g->new_tokens,
                         .seed = 1}};
        rc = rollout_engine_submit(engine, &request);
    }
    return rc;
}

static int generate(struct rollout_engine *engine, const struct generation *g, int threads,
                    const int32_t *tokens, struct generation_times *times)
{
    struct progress *progress = progress_create("bench", "tokens", g->sequences * g->new_tokens);
    *times = (struct generation_times){.start = bench_seconds(threads)};
    int rc = submit(engine, g, tokens);
    while (rc == 0 && rollout_engine_active(engine) > 0) {
        struct trajectory trajectory;
        uint64_t user;
        rollout_engine_step(engine);
        while (rollout_engine_finished(engine, &trajectory, &user) == 1)
            trajectory_release(&trajectory);
        if (times->sampled_before == 0 &&
            rollout_engine_prefill_rows(engine) >= g->sequences * g->prompt_tokens) {
            times->prefilled = bench_seconds(threads);
            times->sampled_before = rollout_engine_tokens(engine);
        }
        progress_update(progress, rollout_engine_tokens(engine), NULL);
    }
    times->end = bench_seconds(threads);
    progress_finish(progress, NULL);
    return rc;
}

static int read_generation(const struct bench *bench, struct generation *g)
{
    const struct command_line *line = bench->line;
    int rc;
    if ((rc = command_int(line, "sequences", 1, 4096, &g->sequences)) < 0 ||
        (rc = command_int(line, "prompt-tokens", 1, 1 << 20, &g->prompt_tokens)) < 0 ||
        (rc = command_int(line, "new-tokens", 1, 1 << 20, &g->new_tokens)) < 0)
        return rc;
    return 0;
}

/* Loads, generates, and leaves the times; the model's size goes to *config. */
static int run_generation(struct bench *bench, const struct generation *g,
                          struct model_config *config, struct generation_times *times)
{
    struct model *model = NULL;
    struct rollout_engine *engine = NULL;
    int rc = model_shape_config(bench->line, config);
    if (rc < 0)
        return rc;
    if (g->prompt_tokens + g->new_tokens > config->max_positions)
        return error_set(HONE_EINVAL,
                         "the model has %d positions; --prompt-tokens + --new-tokens "
                         "is %lld",
                         config->max_positions, (long long)(g->prompt_tokens + g->new_tokens));
    int64_t rows = g->sequences * g->prompt_tokens;
    struct rollout_engine_options options = {
        .slots = (int32_t)g->sequences,
        .prefill_chunk_tokens = (int32_t)(rows < PREFILL_CHUNK_MAX ? rows : PREFILL_CHUNK_MAX),
        .max_sequence_tokens = (int32_t)(g->prompt_tokens + g->new_tokens),
        .rng_purpose = RNG_SAMPLE};
    float *flat = load_weights(bench, config, &rc);
    int32_t *tokens = random_tokens(rows, config->vocab_size);
    if (rc < 0 || (rc = model_create(&model, config, bench->dtype, false, &bench->compute)) < 0)
        goto out;
    model_set_flat(model, flat);
    if ((rc = rollout_engine_create(&engine, model, &options, &bench->compute)) == 0)
        rc = generate(engine, g, bench->threads, tokens, times);
out:
    rollout_engine_destroy(engine);
    model_free(model);
    memory_free(tokens);
    memory_unmap(flat, (size_t)model_config_parameter_count(config) * sizeof *flat);
    return rc;
}

int bench_decode(struct bench *bench)
{
    struct generation g;
    struct generation_times times;
    struct model_config config;
    int rc;
    if ((rc = read_generation(bench, &g)) < 0 ||
        (rc = run_generation(bench, &g, &config, &times)) < 0)
        return rc;
    struct roofline r = roofline_of(bench, &config);
    double sequences = (double)g.sequences, new_tokens = (double)g.new_tokens;
    double prompt = (double)g.prompt_tokens, total = sequences * new_tokens;
    double decoded = total - (double)times.sampled_before;
    double step = decode_step_seconds(&r, sequences, prompt + new_tokens / 2.0);
    double prefill = prefill_seconds(&r, sequences, prompt);
    double rate = decoded / (times.end - times.prefilled),
           whole = total / (times.end - times.start);
    printf("%lld sequences, %lld prompt and %lld new tokens each\n", (long long)g.sequences,
           (long long)g.prompt_tokens, (long long)g.new_tokens);
    bench_report(bench, "decode alone", rate, "tokens/s", rate * step / sequences);
    bench_report(bench, "prompts and decode", whole, "tokens/s",
                 (prefill + step * new_tokens) / (times.end - times.start));
    return 0;
}

int bench_prefill(struct bench *bench)
{
    struct generation g;
    struct generation_times times;
    struct model_config config;
    int rc = read_generation(bench, &g);
    g.new_tokens = 1;
    if (rc < 0 || (rc = run_generation(bench, &g, &config, &times)) < 0)
        return rc;
    struct roofline r = roofline_of(bench, &config);
    double seconds = times.end - times.start, tokens = (double)(g.sequences * g.prompt_tokens);
    double least = prefill_seconds(&r, (double)g.sequences, (double)g.prompt_tokens);
    printf("%lld sequences, %lld prompt tokens each\n", (long long)g.sequences,
           (long long)g.prompt_tokens);
    bench_report(bench, "prefill", tokens / seconds, "tokens/s", least / seconds);
    return 0;
}

/* ---- training ---- */

struct training {
    int64_t tokens, length, steps;
    int threads;
};

/* Mean negative logprob: the cheapest loss there is. */
static int mean_nll(void *context, const struct train_batch *batch,
                    const struct loss_streams *streams, double *loss)
{
    const double weight = 1.0 / *(const double *)context;
    for (int32_t s = 0; s < streams->count; ++s) {
        const struct train_sequence *sequence = &batch->sequences[streams->first + s];
        for (int32_t i = 1; i < sequence->count; ++i) {
            streams->d_logprob[s][i] = (float)-weight;
            *loss -= weight * (double)streams->logprob[s][i];
        }
    }
    return 0;
}

/* Seconds of the fastest step after the warm-up, and where they went. */
static int train_steps(struct trainer *trainer, const struct train_batch *batch,
                       const struct training *t, double *seconds, struct step_report *best)
{
    double targets = (double)(t->tokens - batch->count);
    struct progress *progress = progress_create("bench", "steps", t->steps + WARM_UP_STEPS);
    int rc = 0;
    *seconds = 1e30;
    for (int64_t step = 0; step < t->steps + WARM_UP_STEPS && rc == 0; ++step) {
        struct step_report report;
        double start = bench_seconds(t->threads);
        rc = trainer_step(trainer, batch, mean_nll, &targets, &report);
        double end = bench_seconds(t->threads);
        if (step >= WARM_UP_STEPS && end - start < *seconds) {
            *seconds = end - start;
            *best = report;
        }
        progress_update(progress, step + 1, NULL);
    }
    progress_finish(progress, NULL);
    return rc;
}

static void report_training(struct bench *bench, const struct model_config *config,
                            const struct training *t, double seconds,
                            const struct step_report *best)
{
    struct roofline r = roofline_of(bench, config);
    double tokens = (double)t->tokens, length = (double)t->length;
    double width = (double)config->heads * config->head_dim;
    double token_flops = 6.0 * r.parameters + 6.0 * config->layers * width * length;
    double peak = ceilings_flops(&bench->ceilings, bench->dtype, r.all);
    printf("%lld tokens a step in sequences of %lld: forward %.2f s, backward %.2f s, optimizer "
           "%.2f s\n",
           (long long)t->tokens, (long long)t->length, best->seconds_forward,
           best->seconds_backward, best->seconds_optimizer);
    bench_report(bench, "train step", tokens / seconds, "tokens/s",
                 train_seconds(&r, tokens / length, length) / seconds);
    bench_report(bench, "  as matmul arithmetic", token_flops * tokens / seconds * 1e-9, "GFLOP/s",
                 token_flops * tokens / seconds / peak);
}

int bench_train(struct bench *bench)
{
    struct training t = {.threads = bench->threads};
    struct model_config config;
    struct trainer *trainer = NULL;
    struct step_report best = {0};
    double seconds = 0.0;
    int rc;
    if ((rc = command_int(bench->line, "tokens", 1, 1 << 24, &t.tokens)) < 0 ||
        (rc = command_int(bench->line, "length", 2, 1 << 20, &t.length)) < 0 ||
        (rc = command_int(bench->line, "steps", 1, 1000, &t.steps)) < 0 ||
        (rc = model_shape_config(bench->line, &config)) < 0)
        return rc;
    if (t.length > t.tokens || t.tokens % t.length != 0 || t.length > config.max_positions)
        return error_set(HONE_EINVAL,
                         "--tokens %lld is not a multiple of --length %lld, or the "
                         "model has fewer positions (%d)",
                         (long long)t.tokens, (long long)t.length, config.max_positions);
    int64_t micro_batch = t.tokens < MICRO_BATCH_MAX ? t.tokens : MICRO_BATCH_MAX;
    int32_t count = (int32_t)(t.tokens / t.length);
    float *flat = load_weights(bench, &config, &rc);
    int32_t *tokens = random_tokens(t.tokens, config.vocab_size);
    uint8_t *mask = MEMORY_ARRAY(uint8_t, t.length);
    struct train_sequence *sequences = MEMORY_ARRAY(struct train_sequence, count);
    memset(mask, 1, (size_t)t.length);
    for (int32_t s = 0; s < count; ++s)
        sequences[s] = (struct train_sequence){.tokens = tokens + s * t.length,
                                               .count = (int32_t)t.length,
                                               .loss_mask = mask,
                                               .unit = s};
    struct trainer_options options = {
        .dtype = bench->dtype,
        .micro_batch_tokens = (int32_t)(micro_batch > t.length ? micro_batch : t.length),
        .max_sequence_tokens = (int32_t)t.length,
        .optimizer = {.learning_rate = 1e-6,
                      .beta1 = 0.9,
                      .beta2 = 0.95,
                      .epsilon = 1e-8,
                      .max_gradient_norm = 1.0}};
    struct train_batch batch = {.sequences = sequences, .count = count, .temperature = 1.0f};
    if (rc == 0 && (rc = trainer_create(&trainer, &options, &config, flat, &bench->compute)) == 0)
        rc = train_steps(trainer, &batch, &t, &seconds, &best);
    if (rc == 0)
        report_training(bench, &config, &t, seconds, &best);
    trainer_free(trainer);
    memory_free(sequences);
    memory_free(mask);
    memory_free(tokens);
    memory_unmap(flat, (size_t)model_config_parameter_count(&config) * sizeof *flat);
    return rc;
}

#include "commands/bench.h"

#include <string.h>

#include "actors/rollout_engine.h"
#include "infra/base/clock.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/train/trainer.h"

enum { DECODE_SEQUENCES = 64, DECODE_TOKENS = 64 };
enum { TRAIN_STEPS = 8, TRAIN_TOKENS = 4096, TRAIN_LENGTH = 64 };

static void set_figures(struct bench_figures *figures, int64_t tokens, int64_t begin_ns,
                        double flops_per_token)
{
    figures->tokens = tokens;
    figures->seconds = (double)(clock_now_ns(clock_system()) - begin_ns) * 1e-9;
    figures->tokens_per_second = (double)tokens / figures->seconds;
    figures->gflops = figures->tokens_per_second * flops_per_token * 1e-9;
}

int bench_decode(const char *model_directory, enum dtype dtype, const struct compute *compute,
                 struct bench_figures *figures)
{
    struct model *model = NULL;
    struct rollout_engine *engine = NULL;
    int rc = model_load(&model, model_directory, dtype, false, compute);
    if (rc < 0)
        return rc;
    int32_t prompt = 1, max_positions = model_config_of(model)->max_positions;
    struct rollout_engine_options options = {
        .slots = DECODE_SEQUENCES,
        .prefill_chunk_tokens = DECODE_SEQUENCES,
        .max_sequence_tokens =
            max_positions < DECODE_TOKENS + 1 ? max_positions : DECODE_TOKENS + 1,
        .rng_purpose = RNG_SAMPLE};
    if ((rc = rollout_engine_create(&engine, model, &options, compute)) < 0)
        goto out;
    rollout_engine_set_version(engine, 0);
    for (int32_t i = 0; i < DECODE_SEQUENCES; ++i) {
        struct rollout_request request = {
            .user = (uint64_t)i,
            .group_id = (uint64_t)i + 1,
            .sample_index = i,
            .prompt_tokens = &prompt,
            .prompt_token_count = 1,
            .sampling = {.temperature = 1.0f,
                         .top_p = 1.0f,
                         .max_completion_tokens = options.max_sequence_tokens - 1,
                         .seed = 1}};
        if ((rc = rollout_engine_submit(engine, &request)) < 0)
            goto out;
    }
    int64_t begin = clock_now_ns(clock_system()), tokens = 0;
    while (rollout_engine_active(engine) > 0) {
        struct trajectory trajectory;
        uint64_t user;
        rollout_engine_step(engine);
        while (rollout_engine_finished(engine, &trajectory, &user) == 1) {
            tokens += trajectory_completion_tokens(&trajectory);
            trajectory_release(&trajectory);
        }
    }
    set_figures(figures, tokens, begin, 2.0 * (double)model_parameter_count(model));
out:
    rollout_engine_destroy(engine);
    model_free(model);
    return rc;
}

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

int bench_train(const char *model_directory, enum dtype dtype, const struct compute *compute,
                struct bench_figures *figures)
{
    enum { SEQUENCES = TRAIN_TOKENS / TRAIN_LENGTH };
    struct model_config config;
    struct trainer *trainer = NULL;
    struct train_sequence sequences[SEQUENCES];
    int rc = model_config_read(&config, model_directory);
    if (rc < 0)
        return rc;
    int64_t parameters = model_config_parameter_count(&config);
    float *flat = MEMORY_ARRAY(float, parameters);
    int32_t *tokens = MEMORY_ARRAY(int32_t, TRAIN_TOKENS);
    uint8_t *mask = MEMORY_ARRAY(uint8_t, TRAIN_LENGTH);
    struct rng_key key = {.seed = 1, .purpose = RNG_DATA};
    for (int32_t i = 0; i < TRAIN_TOKENS; ++i)
        tokens[i] = (int32_t)rng_below(&key, (uint64_t)i, (uint64_t)config.vocab_size);
    memset(mask, 1, TRAIN_LENGTH);
    for (int32_t s = 0; s < SEQUENCES; ++s)
        sequences[s] = (struct train_sequence){.tokens = tokens + s * TRAIN_LENGTH,
                                               .count = TRAIN_LENGTH,
                                               .loss_mask = mask,
                                               .unit = s};
    struct trainer_options options = {.dtype = dtype,
                                      .micro_batch_tokens = TRAIN_TOKENS,
                                      .max_sequence_tokens = TRAIN_LENGTH,
                                      .optimizer = {.learning_rate = 1e-6,
                                                    .beta1 = 0.9,
                                                    .beta2 = 0.95,
                                                    .epsilon = 1e-8,
                                                    .max_gradient_norm = 1.0}};
    struct train_batch batch = {.sequences = sequences, .count = SEQUENCES, .temperature = 1.0f};
    double total = TRAIN_TOKENS - SEQUENCES;
    struct step_report report;
    if ((rc = model_read_flat(&config, model_directory, flat)) < 0 ||
        (rc = trainer_create(&trainer, &options, &config, flat, compute)) < 0 ||
        (rc = trainer_step(trainer, &batch, mean_nll, &total, &report)) < 0)
        goto out;
    int64_t begin = clock_now_ns(clock_system());
    for (int step = 0; step < TRAIN_STEPS && rc == 0; ++step)
        rc = trainer_step(trainer, &batch, mean_nll, &total, &report);
    set_figures(figures, (int64_t)TRAIN_STEPS * TRAIN_TOKENS, begin, 6.0 * (double)parameters);
out:
    trainer_free(trainer);
    memory_free(mask);
    memory_free(tokens);
    memory_free(flat);
    return rc;
}

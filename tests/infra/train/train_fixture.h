/* A tiny random model, batches for it, and a directory with a character tokenizer: what the tests
 * of the trainer and of the stages above it train on. */
#ifndef HONE_TESTS_TRAIN_FIXTURE_H
#define HONE_TESTS_TRAIN_FIXTURE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/base/text.h"
#include "infra/model/model.h"
#include "infra/train/trainer.h"

#define FIXTURE_VOCAB 98 /* <s> </s>, 94 printable characters, space, line feed */

/* Skips (cmocka's and ctest's way) are for absent data only; everything here is made up. */
#define assert_ok(call)                                                                            \
    do {                                                                                           \
        if ((call) < 0)                                                                            \
            fail_msg("%s: %s", #call, error_message());                                            \
    } while (0)

static inline struct model_config fixture_config(void)
{
    return (struct model_config){.vocab_size = FIXTURE_VOCAB,
                                 .hidden_size = 24,
                                 .layers = 2,
                                 .heads = 4,
                                 .kv_heads = 2,
                                 .head_dim = 6,
                                 .intermediate_size = 40,
                                 .max_positions = 128,
                                 .rms_eps = 1e-5f,
                                 .rope_theta = 10000.0,
                                 .tied_head = true,
                                 .stored_dtype = DTYPE_F32,
                                 .bos_id = 0,
                                 .eos_ids = {1},
                                 .eos_count = 1};
}

/* Weights a few times larger than usual, so that logprobs differ visibly; memory_free. */
static inline float *fixture_master(const struct model_config *config, uint64_t seed)
{
    int64_t count = model_config_parameter_count(config);
    float *master = MEMORY_ARRAY(float, count);
    model_init_flat(config, seed, master);
    for (int64_t i = 0; i < count; i++)
        if (fabsf(master[i]) < 0.9f)
            master[i] *= 8.0f;
    return master;
}

static inline struct trainer_options fixture_options(enum dtype dtype, int32_t micro_batch_tokens)
{
    return (struct trainer_options){.dtype = dtype,
                                    .micro_batch_tokens = micro_batch_tokens,
                                    .max_sequence_tokens = 40,
                                    .optimizer = {.learning_rate = 1e-2,
                                                  .schedule = SCHEDULE_CONSTANT,
                                                  .beta1 = 0.9,
                                                  .beta2 = 0.99,
                                                  .epsilon = 1e-8,
                                                  .weight_decay = 0.1}};
}

/* Random sequences of 2 .. 40 tokens: a prompt that is masked out, then trained tokens with a gap.
 */
#define FIXTURE_SEQUENCES_MAX 32
#define FIXTURE_TOKENS_MAX    40
struct fixture_batch {
    struct train_batch batch;
    struct train_sequence sequences[FIXTURE_SEQUENCES_MAX];
    int32_t tokens[FIXTURE_SEQUENCES_MAX][FIXTURE_TOKENS_MAX];
    uint8_t mask[FIXTURE_SEQUENCES_MAX][FIXTURE_TOKENS_MAX];
    int64_t trained;
};

static inline void fixture_batch_fill(struct fixture_batch *fixture, int32_t count, uint64_t seed)
{
    struct rng_key key = {.seed = seed, .purpose = RNG_DATA};
    uint64_t draw = 0;

    assert_true(count <= FIXTURE_SEQUENCES_MAX);
    memset(fixture, 0, sizeof *fixture);
    for (int32_t s = 0; s < count; s++) {
        int32_t length = 2 + (int32_t)rng_below(&key, draw++, FIXTURE_TOKENS_MAX - 1);
        int32_t prompt = 1 + (int32_t)rng_below(&key, draw++, (uint64_t)length - 1);
        for (int32_t i = 0; i < length; i++) {
            fixture->tokens[s][i] = (int32_t)rng_below(&key, draw++, FIXTURE_VOCAB);
            fixture->mask[s][i] = i >= prompt && i != prompt + 3;
            fixture->trained += fixture->mask[s][i];
        }
        fixture->sequences[s] = (struct train_sequence){.tokens = fixture->tokens[s],
                                                        .count = length,
                                                        .loss_mask = fixture->mask[s],
                                                        .unit = s};
    }
    fixture->batch =
        (struct train_batch){.sequences = fixture->sequences, .count = count, .temperature = 1.0f};
}

/* ---- finite differences of a whole objective ---- */

struct fixture_loss {
    loss_function function;
    void *context;
    void (*reset)(void *context, const struct train_batch *batch); /* NULL when it has no state */
};

/* The loss at master + step * direction (direction NULL: at master), and the gradient there when
 * asked. */
static inline double fixture_loss_at(const struct trainer_options *options,
                                     const struct model_config *config,
                                     const struct compute *compute, const float *master,
                                     const double *direction, double step,
                                     const struct train_batch *batch,
                                     const struct fixture_loss *loss, float *gradient)
{
    int64_t count = model_config_parameter_count(config);
    float *moved = MEMORY_ARRAY(float, count);
    struct trainer *trainer = NULL;
    struct step_report report;

    for (int64_t i = 0; i < count; i++)
        moved[i] = direction ? (float)((double)master[i] + step * direction[i]) : master[i];
    assert_ok(trainer_create(&trainer, options, config, moved, compute));
    if (loss->reset != NULL)
        loss->reset(loss->context, batch);
    assert_ok(trainer_step(trainer, batch, loss->function, loss->context, &report));
    if (gradient != NULL)
        memcpy(gradient, trainer_gradient(trainer), (size_t)count * sizeof *gradient);
    trainer_free(trainer);
    memory_free(moved);
    return report.loss;
}

/* Central differences along the gradient itself and along `directions` random directions that each
 * move every tensor; relative to the gradient's length. */
static inline void fixture_check_gradient(const struct model_config *config,
                                          const struct compute *compute, const float *master,
                                          const struct train_batch *batch,
                                          const struct fixture_loss *loss, int directions,
                                          double step, double tolerance)
{
    struct trainer_options options = fixture_options(DTYPE_F32, 128);
    int64_t count = model_config_parameter_count(config);
    float *gradient = MEMORY_ARRAY(float, count);
    double *direction = MEMORY_ARRAY(double, count);
    double norm = 0.0;

    fixture_loss_at(&options, config, compute, master, NULL, 0.0, batch, loss, gradient);
    for (int64_t i = 0; i < count; i++)
        norm += (double)gradient[i] * (double)gradient[i];
    norm = sqrt(norm);
    assert_true(norm > 1e-3);
    for (int d = 0; d <= directions; d++) {
        struct rng_key key = {.seed = 77, .purpose = RNG_DATA, .a = (uint64_t)d};
        double length = 0.0, slope = 0.0;
        for (int64_t i = 0; i < count; i++) {
            direction[i] = d == 0 ? (double)gradient[i] : (double)rng_normal(&key, (uint64_t)i);
            length += direction[i] * direction[i];
        }
        length = sqrt(length);
        for (int64_t i = 0; i < count; i++) {
            direction[i] /= length;
            slope += direction[i] * (double)gradient[i];
        }
        double up =
            fixture_loss_at(&options, config, compute, master, direction, step, batch, loss, NULL);
        double down =
            fixture_loss_at(&options, config, compute, master, direction, -step, batch, loss, NULL);
        double measured = (up - down) / (2.0 * step);
        if (fabs(measured - slope) > tolerance * norm)
            fail_msg("direction %d: slope %.8g, measured %.8g, gradient norm %.8g", d, slope,
                     measured, norm);
    }
    memory_free(direction);
    memory_free(gradient);
}

/* ---- directories ---- */

static inline void fixture_directory(char path[HONE_PATH_MAX], const char *name)
{
    const char *base = getenv("TMPDIR");
    snprintf(path, HONE_PATH_MAX, "%s/hone-%s-XXXXXX", base != NULL ? base : "/tmp", name);
    assert_non_null(mkdtemp(path));
}

static inline void fixture_write(const char *directory, const char *name, const char *content)
{
    char path[HONE_PATH_MAX];
    path_join(path, sizeof path, directory, name);
    assert_ok(file_write_atomic(path, content, strlen(content)));
}

/* tokenizer.json with one id a character: <s> 0, </s> 1, '!' .. '~' 2 .. 95, space 96, line
 * feed 97. */
static inline void fixture_write_tokenizer(const char *directory)
{
    struct text json;
    text_init(&json);
    text_append(&json,
                "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":["
                "{\"id\":0,\"content\":\"<s>\",\"single_word\":false,\"lstrip\":false,"
                "\"rstrip\":false,\"normalized\":false,\"special\":true},"
                "{\"id\":1,\"content\":\"</s>\",\"single_word\":false,\"lstrip\":false,"
                "\"rstrip\":false,\"normalized\":false,\"special\":true}],"
                "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\","
                "\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false},"
                "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
                "{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},"
                "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],"
                "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[0],\"tokens\":"
                "[\"<s>\"]}}},\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
                "\"trim_offsets\":true,\"use_regex\":false},\"model\":{\"type\":\"BPE\","
                "\"dropout\":null,\"unk_token\":null,\"byte_fallback\":false,\"vocab\":{"
                "\"<s>\":0,\"</s>\":1");
    for (int c = '!'; c <= '~'; c++) {
        char piece[2] = {(char)c, '\0'};
        text_append(&json, ",");
        text_append_json_string(&json, piece, 1);
        text_printf(&json, ":%d", c - '!' + 2);
    }
    text_append(&json, ",\"\xC4\xA0\":96,\"\xC4\x8A\":97},\"merges\":[]}}");
    fixture_write(directory, "tokenizer.json", json.data);
    fixture_write(directory, "tokenizer_config.json",
                  "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\"}");
    text_release(&json);
}

/* A base checkpoint: config.json, model.safetensors and the tokenizer. */
static inline void fixture_write_model(const char *directory, const struct model_config *config,
                                       uint64_t seed)
{
    float *master = fixture_master(config, seed);
    assert_ok(file_make_directories(directory));
    assert_ok(model_config_write(config, NULL, config->stored_dtype, directory));
    assert_ok(model_write_flat(config, master, config->stored_dtype, directory));
    fixture_write_tokenizer(directory);
    memory_free(master);
}

#endif

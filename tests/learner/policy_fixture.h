/* A policy loss over made-up streams: no model, one batch of sequences of trained tokens. */
#ifndef HONE_TESTS_POLICY_FIXTURE_H
#define HONE_TESTS_POLICY_FIXTURE_H

#include "tests/infra/train/train_fixture.h"

#include "learner/policy_loss.h"

#define STREAM_SEQUENCES 4
#define STREAM_TOKENS    8

struct streams_fixture {
    struct train_batch batch;
    struct train_sequence sequences[STREAM_SEQUENCES];
    struct policy_sequence data[STREAM_SEQUENCES];
    int32_t tokens[STREAM_TOKENS];
    uint8_t mask[STREAM_SEQUENCES][STREAM_TOKENS];
    float logprob[STREAM_SEQUENCES][STREAM_TOKENS], behavior[STREAM_SEQUENCES][STREAM_TOKENS];
    float reference[STREAM_SEQUENCES][STREAM_TOKENS], entropy[STREAM_SEQUENCES][STREAM_TOKENS];
    float d_logprob[STREAM_SEQUENCES][STREAM_TOKENS], d_entropy[STREAM_SEQUENCES][STREAM_TOKENS];
    int64_t version[STREAM_SEQUENCES][STREAM_TOKENS];
    float value[STREAM_SEQUENCES][STREAM_TOKENS], d_value[STREAM_SEQUENCES][STREAM_TOKENS];
};

/* Sequence s has lengths[s] trained tokens, entries 1 .. lengths[s]; every stream 0, version 0. */
static inline void streams_open(struct streams_fixture *f, int32_t count, const int32_t *lengths)
{
    memset(f, 0, sizeof *f);
    for (int32_t s = 0; s < count; s++) {
        for (int32_t i = 1; i <= lengths[s]; i++)
            f->mask[s][i] = 1;
        f->data[s] = (struct policy_sequence){.behavior_logprob = f->behavior[s],
                                              .reference_logprob = f->reference[s],
                                              .policy_version = f->version[s]};
        f->sequences[s] = (struct train_sequence){.tokens = f->tokens,
                                                  .count = lengths[s] + 1,
                                                  .loss_mask = f->mask[s],
                                                  .unit = s,
                                                  .user = &f->data[s]};
    }
    f->batch = (struct train_batch){.sequences = f->sequences, .count = count, .temperature = 1.0f};
}

/* The loss over sequences [first, first + count) as one micro-batch; begin is the caller's. */
static inline int streams_run_part(struct streams_fixture *f, struct policy_loss *loss,
                                   int32_t first, int32_t count, double *total)
{
    const float *logprob[STREAM_SEQUENCES], *entropy[STREAM_SEQUENCES];
    float *d_logprob[STREAM_SEQUENCES], *d_entropy[STREAM_SEQUENCES];
    const float *value[STREAM_SEQUENCES];
    float *d_value[STREAM_SEQUENCES];
    for (int32_t s = 0; s < count; s++) {
        logprob[s] = f->logprob[first + s];
        entropy[s] = f->entropy[first + s];
        d_logprob[s] = f->d_logprob[first + s];
        d_entropy[s] = f->d_entropy[first + s];
        value[s] = f->value[first + s];
        d_value[s] = f->d_value[first + s];
        memset(d_logprob[s], 0, sizeof f->d_logprob[0]);
        memset(d_entropy[s], 0, sizeof f->d_entropy[0]);
    }
    struct loss_streams streams = {.first = first,
                                   .count = count,
                                   .logprob = logprob,
                                   .entropy = f->batch.need_entropy ? entropy : NULL,
                                   .d_logprob = d_logprob,
                                   .d_entropy = f->batch.need_entropy ? d_entropy : NULL,
                                   .value = f->batch.need_value ? value : NULL,
                                   .d_value = f->batch.need_value ? d_value : NULL};
    return policy_loss_function(loss, &f->batch, &streams, total);
}

static inline double streams_run(struct streams_fixture *f, struct policy_loss *loss)
{
    double total = 0.0;
    policy_loss_begin(loss, &f->batch);
    assert_ok(streams_run_part(f, loss, 0, f->batch.count, &total));
    return total;
}

static inline void assert_near(double actual, double expected, double tolerance)
{
    if (!(fabs(actual - expected) <= tolerance))
        fail_msg("%.12g is not %.12g", actual, expected);
}

/* Random streams: ratios on both sides of both clips, advantages of both signs. */
static inline void fill_random(struct streams_fixture *f, uint64_t seed)
{
    static const int32_t lengths[] = {7, 1, 4, 6};
    struct rng_key key = {.seed = seed, .purpose = RNG_DATA};
    uint64_t draw = 0;

    streams_open(f, 4, lengths);
    for (int32_t s = 0; s < 4; s++) {
        f->data[s].advantage = (s % 2 ? -1.0f : 1.0f) * (0.5f + rng_uniform(&key, draw++));
        for (int32_t i = 1; i <= lengths[s]; i++) {
            f->logprob[s][i] = -3.0f * rng_uniform(&key, draw++) - 0.1f;
            f->behavior[s][i] = f->logprob[s][i] + 1.6f * (rng_uniform(&key, draw++) - 0.5f);
            f->reference[s][i] = f->logprob[s][i] + 1.2f * (rng_uniform(&key, draw++) - 0.5f);
            f->entropy[s][i] = 2.0f * rng_uniform(&key, draw++);
        }
    }
}

static inline struct policy_loss make_loss(void)
{
    return (struct policy_loss){.options = {.surrogate = {.clip_low = 0.2f, .clip_high = 0.28f},
                                            .aggregation = AGGREGATE_TOKEN_MEAN,
                                            .constant_tokens = 10},
                                .current_version = -1};
}

#endif

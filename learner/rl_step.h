/* One batch through the trainer: the reference's logprobs, the advantages, then `updates` optimiser
 * steps over the whole batch. The ratio's denominator (policy_loss.h) is the same in every one of
 * them. */
#ifndef HONE_LEARNER_RL_STEP_H
#define HONE_LEARNER_RL_STEP_H

#include "learner/rl_batch.h"

struct rl_step_result;

struct rl_step {
    struct trainer *trainer;
    struct trainer *reference; /* NULL: none kept */
    struct policy_loss_options loss;
    struct advantage_options advantage;
    float temperature;
    int32_t updates;
    int32_t micro_batch_tokens;
    /* Called between micro-batches, so that whoever waits for this process is answered while it
     * trains. Negative ends the step with that error. May be NULL. */
    int (*between)(void *context);
    void *context;
    /* Asked before each update is applied, with the figures of the pass so far in `result`: false
     * leaves the weights and ends the step. May be NULL. */
    bool (*accept)(void *context, const struct rl_step_result *result);
    void *accept_context;
};

struct rl_step_result {
    struct policy_loss_stats before; /* of the first pass: the weights as they were */
    struct policy_loss_stats after;  /* of the last pass: what clipping did */
    struct step_report report;       /* of the last pass */
    double gradient_norm_max;
    int64_t tokens;        /* rows through the trained model */
    int32_t skipped_steps; /* not applied */
    double loss;           /* of the first pass */
};

/* current_version: of the weights before the step, for the mismatch counters (G6). */
int rl_step_run(const struct rl_step *step, struct rl_batch *batch, int64_t current_version,
                struct rl_step_result *result);
/* 1 - var(return - value) / var(return) of a critic: 1 when it is right, 0 when it knows the mean.
 */
double rl_step_explained_variance(const struct policy_loss_stats *stats);
/* Effective sample size of the ratios as a share of the tokens: 1 when all are equal. */
double rl_step_sample_size(const struct policy_loss_stats *stats);

#endif

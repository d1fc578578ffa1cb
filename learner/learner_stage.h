/* The learner process: receives batch n, computes advantages, trains, publishes version n,
 * acknowledges n once a durable checkpoint contains it (G4). Version 0 is the weights it starts
 * from; batch n makes version n. Ticked.
 *
 * After a death it loads its newest valid checkpoint (batch m), tells the hub, and is sent m+1,
 * m+2, ... again in order; training is deterministic, so the versions are the same bits as before.
 *
 *  L1  Batches are trained in order, each once: n <= trained is answered, not trained again; n >
 * trained + 1 is refused by telling the hub where the learner is. L2  Batch n is answered twice:
 * trained (version n is published) and durable (a checkpoint has it). L3  Batches are trained,
 * skipped and gone back from as the guards say (guards.h). Going back makes a checkpoint at once,
 * and those of the versions left behind are deleted after it. A run that has gone back too often
 * stops with the figures. */
#ifndef HONE_LEARNER_LEARNER_STAGE_H
#define HONE_LEARNER_LEARNER_STAGE_H

#include "infra/launch/stage_loop.h"
#include "infra/telemetry/metrics.h"
#include "infra/wire/weight_channel.h"
#include "learner/policy_loss.h"
#include "learner/guards.h"
#include "learner/rl_batch.h"

struct learner_options {
    const char *worker; /* "learner-0" */
    const char *hub_endpoint;
    bool hub_elsewhere;           /* on another machine: nobody here knows whether it is over */
    const char *weights_endpoint; /* bound here */
    struct weight_options weights;
    bool publish_thread; /* weights are published while the next batch trains (publisher.h) */
    const char *recipe_hash;
    const char *model_directory;     /* weights of version 0; tokenizer files */
    const char *reference_directory; /* KL reference; NULL: none kept */
    const char *stage_directory;     /* RUN/rl: checkpoints/step-N, final */
    int64_t steps;                   /* batches to train */
    int64_t checkpoint_steps;        /* 0: only at the end */
    int keep_checkpoints;            /* 0: all */
    float temperature;               /* of the rollouts: logprobs are taken at it */
    int32_t updates_per_batch;
    bool mask_truncated, truncated_behavior, keep_support; /* struct rl_batch_rules */
    struct advantage_options advantage; /* kl_coef and kl_estimator: those of the loss */
    struct policy_loss_options loss;    /* kl_coef: of the first batch; of the reward's KL too */
    double kl_target;  /* mean k3 KL that kl_coef is moved towards (kl.h); 0: it stays */
    double kl_horizon; /* trajectories */
    struct guard_options guards;
    struct trainer_options trainer;
};

struct learner_stage;
/* The options' strings, compute, clock and metrics (NULL: none written) outlive the stage. A
 * checkpoint made under another recipe is HONE_EINVAL. */
int learner_stage_create(struct learner_stage **stage, const struct learner_options *options,
                         const struct compute *compute, struct wire_context *context,
                         struct clock *clock, struct metrics *metrics);
int learner_stage_tick(void *stage,
                       struct stage_wait *wait); /* a stage_tick; finished after `steps` */
void learner_stage_destroy(struct learner_stage *stage);

#endif

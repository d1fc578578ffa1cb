/* The policy in training: its trainer, the KL reference, and where it stands. Batch n makes version
 * n of version n - 1 and nothing else does: the learner process and `hone replay` both go through
 * policy_train, so that the same batches give the same bits.
 *
 * The options outlive it. Owned by one thread. */
#ifndef HONE_LEARNER_POLICY_H
#define HONE_LEARNER_POLICY_H

#include "infra/train/trainer.h"
#include "learner/guards.h"
#include "learner/rl_batch.h"
#include "learner/rl_step.h"

struct learner_options;

struct policy {
    const struct learner_options *options;
    struct model_config config;
    struct trainer *trainer;
    struct trainer *reference;     /* NULL: none kept, or not opened yet */
    struct checkpoint_state state; /* of the weights in hand; state.batch is the version */
    struct guards guards;
    struct guard_verdict verdict; /* on the latest batch */
};

/* Version 0: the weights of options->model_directory. */
int policy_open(struct policy *policy, const struct learner_options *options,
                const struct compute *compute);
/* The KL reference, when the options name one. */
int policy_open_reference(struct policy *policy, const struct compute *compute);
void policy_close(struct policy *policy);

/* HONE_EFORMAT when the batch does not fit the options; nothing is held then. */
int policy_read_batch(const struct policy *policy, const Hone__Batch *message,
                      struct rl_batch *batch);
/* Coefficient of the KL to the reference in the next batch. */
float policy_kl_coef(const struct policy *policy);
/* Trains batch state.batch + 1, or skips it, as the guards say; state.weights_hash is not brought
 * up to date. between: see struct rl_step; may be NULL. After it, `verdict` says whether the caller
 * has to go back (policy_go_back) before the version is used, or to stop. */
int policy_train(struct policy *policy, struct rl_batch *batch, int (*between)(void *),
                 void *context, struct rl_step_result *result);
/* Where a learner keeps the checkpoint of a batch: in its stage directory. */
const char *policy_checkpoint_path(const struct learner_options *options, int64_t batch,
                                   char *buffer, size_t capacity);
/* What the guards say of the batch that was trained, told and done: HONE_EGUARD when they stop, and
 * when they go back the weights are those of the checkpoint in the stage directory. */
int policy_heed_guards(struct policy *policy);
/* Version state.batch gets the weights, moments and KL coefficient of version verdict.back_to:
 * those of the checkpoint, or with back_to 0 those that the stage started from. */
int policy_go_back(struct policy *policy, const char *checkpoint);
/* From a checkpoint: weights, moments and what the guards remember. */
int policy_restore(struct policy *policy, const char *checkpoint);
/* Fills state.weights_hash from the weights in hand. */
void policy_note_hash(struct policy *policy);
/* The result of the stage: weights alone, in the dtype that the base was stored in. */
int policy_export(struct policy *policy, const char *directory);

#endif

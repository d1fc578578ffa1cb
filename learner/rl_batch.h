/* A batch as the learner trains it: decoded trajectories, their advantages, and the sequences that
 * carry a gradient. Owns everything it points at.
 *
 *  R1  Groups are runs of equal group_id (the hub's canonical order) and advantages are taken
 * within one. R2  Trained: the reward's status is OK (G8) and the rollout was not given up.
 * Everything else is counted and left out of the baseline, of the loss and of its token counts. */
#ifndef HONE_LEARNER_RL_BATCH_H
#define HONE_LEARNER_RL_BATCH_H

#include "infra/data/trajectory.h"
#include "infra/train/trainer.h"
#include "infra/wire/codec.h"
#include "learner/advantage.h"
#include "learner/policy_loss.h"

/* What the trainer can take, and how advantages are made. */
struct rl_batch_rules {
    int32_t vocab_size, max_sequence_tokens;
    float temperature; /* every trajectory's */
    enum advantage_baseline baseline;
    enum advantage_scale scale;
};

struct rl_batch_summary {
    int32_t groups, trajectories, trained, aborted, truncated;
    int32_t uniform_groups;         /* all advantages 0 */
    double reward_mean, reward_std; /* over rewards that are OK */
    double length_mean;             /* completion tokens */
    double staleness_mean;          /* versions behind, over trained trajectories' oldest tokens */
    int64_t staleness_max;
};

struct rl_batch {
    int64_t number;
    int32_t count;
    struct trajectory *trajectories; /* [count] */
    float *rewards, *advantages;     /* [count] */
    bool *included;                  /* [count] (R2) */

    int32_t sequence_count; /* included ones */
    struct train_sequence *sequences;
    struct policy_sequence *policies; /* [sequence_count], the sequences' user data */
    float **reference;                /* [sequence_count][tokens], NULL until filled */
    float **proximal;                 /* the same, NULL: not kept */
    struct rl_batch_summary summary;
};

/* HONE_EFORMAT when the message is malformed or does not fit the rules; nothing is held then. */
int rl_batch_read(struct rl_batch *batch, const Hone__Batch *message,
                  const struct rl_batch_rules *rules);
void rl_batch_release(struct rl_batch *batch);
/* Room for the reference's logprobs, and the policies point at it. */
void rl_batch_keep_reference(struct rl_batch *batch);
/* Room for the logprobs of the policy before the batch. */
void rl_batch_keep_proximal(struct rl_batch *batch);

#endif

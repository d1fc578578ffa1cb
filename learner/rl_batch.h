/* A batch as the learner trains it: decoded trajectories, their advantages, and the sequences that
 * carry a gradient. Owns everything it points at.
 *
 *  R1  Groups are runs of equal group_id (the hub's canonical order).
 *  R2  Included: the reward's status is OK (G8) and the rollout was not given up. Everything else
 *      is counted and left out of the baseline, of the loss and of its token counts.
 *  R3  Trained: what is included, and with mask_truncated was not cut at its longest; what was cut
 *      stays in the baseline. */
#ifndef HONE_LEARNER_RL_BATCH_H
#define HONE_LEARNER_RL_BATCH_H

#include "infra/data/trajectory.h"
#include "infra/train/trainer.h"
#include "infra/wire/codec.h"
#include "learner/advantage.h"
#include "learner/policy_loss.h"

/* What the trainer can take, and what is trained. */
struct rl_batch_rules {
    int32_t vocab_size, max_sequence_tokens;
    float temperature; /* every trajectory's */
    bool mask_truncated;
    bool truncated_behavior; /* samples are of the truncated distribution (policy_loss.h) */
    bool keep_support;       /* so is the policy: cut to what each token was drawn from */
};

/* How advantages are made of rewards (advantage.h, returns.h). With kl_in_reward each trained token
 * costs kl_coef times the estimate of the behavior policy's KL to the reference. Where the baseline
 * is of the group the costs are summed into the trajectory's reward; otherwise the reward belongs
 * to the last trained token, and the return of each token with gamma is what is left to gain; with
 * a critic, generalised advantages with gamma and lambda, which also make the value head's
 * targets. */
struct advantage_options {
    enum advantage_baseline baseline;
    enum advantage_scale scale;
    double gamma, lambda;
    bool kl_in_reward;
    enum kl_estimator kl_estimator;
    float kl_coef;
};

struct rl_batch_summary {
    int32_t groups, trajectories, trained, aborted, truncated;
    int32_t uniform_groups;         /* all included rewards equal */
    double reward_mean, reward_std; /* over rewards that are OK */
    double length_mean;             /* completion tokens */
    double staleness_mean;          /* versions behind, over trained trajectories' oldest tokens */
    int64_t staleness_max;
};

struct rl_batch {
    int64_t number;
    int32_t count;
    struct trajectory *trajectories; /* [count] */
    float *rewards, *advantages;     /* [count]; advantages 0 until they are set */
    bool *included;                  /* [count] (R2) */

    int32_t sequence_count; /* trained ones (R3) */
    struct train_sequence *sequences;
    int32_t *owners;                  /* [sequence_count] index of the trajectory */
    struct policy_sequence *policies; /* [sequence_count], the sequences' user data */
    float **reference;                /* [sequence_count][tokens], NULL until filled */
    float **proximal;                 /* the same, NULL: not kept */
    float **token_advantages;         /* the same, NULL: each trajectory has one */
    float **values, **value_targets;  /* the same, NULL: no critic */
    struct logit_support **supports;  /* the same, NULL: nothing is cut */
    int32_t **support_ids;            /* [sequence_count], what they point at */
    struct rl_batch_summary summary;
};

/* HONE_EFORMAT when the message is malformed or does not fit the rules; nothing is held then. */
int rl_batch_read(struct rl_batch *batch, const Hone__Batch *message,
                  const struct rl_batch_rules *rules);
void rl_batch_release(struct rl_batch *batch);
/* Advantages of every trajectory and sequence. HONE_EINVAL when a KL in the reward has no reference
 * logprobs. A critic's values are there already. */
int rl_batch_set_advantages(struct rl_batch *batch, const struct advantage_options *options);
/* Room for the reference's logprobs, and the policies point at it. */
void rl_batch_keep_reference(struct rl_batch *batch);
/* Room for the value head's values before the batch. */
void rl_batch_keep_values(struct rl_batch *batch);
/* Room for the logprobs of the policy before the batch. */
void rl_batch_keep_proximal(struct rl_batch *batch);

#endif

/* Direct preference optimisation: pairs (from a file or mined from the RL log) -> reference
 * logprobs, computed once before the first step from the weights in model_directory and kept in
 * RUN/dpo/reference.logprobs -> trainer steps. One process; ticked: one batch of reference logprobs
 * or one optimiser step a tick. Resumable bit for bit. RUN/dpo/final marks the end: a stage created
 * on it is finished at once. The options' strings must outlive the stage. */
#ifndef HONE_DPO_DPO_STAGE_H
#define HONE_DPO_DPO_STAGE_H

#include "dpo/preference_loss.h"
#include "infra/telemetry/metrics.h"
#include "infra/text/dataset.h"
#include "infra/text/tokenizer.h"

struct dpo_options {
    bool from_log; /* mine RUN/rl/log instead of reading data */
    const char *log_directory;
    struct dataset_options data; /* format preference */
    enum chat_layout layout;     /* how conversations are rendered */
    const char *model_directory; /* where training starts; also the reference model */
    const char *stage_directory;
    const char *recipe_hash;
    uint64_t seed;
    int64_t epochs, max_steps; /* whichever ends first; 0 = no limit, not both */
    int32_t batch_pairs;
    int32_t pairs_max;      /* 0 = all */
    const char *part;       /* mined: struct pair_mining_options */
    const bool *wanted;     /* mined: prompts, struct pair_mining_options */
    int64_t prompt_count;   /* of wanted */
    float anchor_share;     /* mined: struct pair_mining_options */
    float min_margin;       /* mined: reward(best) - reward(worst) at least this */
    float max_length_ratio; /* mined: longer / shorter completion at most this; 0 = off */
    int32_t max_length;     /* longer pairs are dropped and counted */
    int64_t save_steps;
    int keep_checkpoints;
    struct preference_options loss;
    struct trainer_options trainer; /* max_sequence_tokens and total_steps are filled in here */
};

struct dpo_progress {
    int64_t step, total_steps, pairs, dropped_pairs;
    int64_t reference_pairs; /* whose reference logprobs are known */
    int64_t tokens;          /* of both answers of all pairs so far */
    /* of the latest step; rewards are means of beta * (policy - reference) */
    double loss, accuracy, margin, chosen_reward, rejected_reward, learning_rate, gradient_norm;
    double chosen_logprob, rejected_logprob; /* means of the policy's sums */
    bool finished;
};

struct dpo_stage;
/* Resumes from the newest checkpoint under stage_directory when there is one. metrics may be NULL.
 */
int dpo_stage_create(struct dpo_stage **stage, const struct dpo_options *options,
                     const struct compute *compute, struct clock *clock, struct metrics *metrics);
int dpo_stage_tick(struct dpo_stage *stage, struct dpo_progress *progress);
void dpo_stage_destroy(struct dpo_stage *stage);

#endif

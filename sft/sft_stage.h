/* Supervised fine-tuning (and pretraining from text): rows -> masked, packed sequences -> trainer
 * steps. One process; ticked: one optimiser step a tick. Resumable: every checkpoint holds epoch
 * and position, and row order is a function of (seed, epoch), so a resumed run equals the
 * uninterrupted one bit for bit. RUN/sft/final marks the end: a stage created on it is finished at
 * once. A batch does not reach across an epoch. The options' strings must outlive the stage.
 *
 * With measure_steps, pass@k is measured before the first step, every so many steps and after the
 * last, of weights written to RUN/sft/measured; the best so far are RUN/sft/best, and become
 * `final` when pass@k has fallen.
 *
 * With pruning, sequences are scored by the judge first, a batch a tick, and RUN/sft/prune.jsonl
 * says which are left out; a stage that finds its manifest there scores nothing. */
#ifndef HONE_SFT_SFT_STAGE_H
#define HONE_SFT_SFT_STAGE_H

#include "infra/telemetry/metrics.h"
#include "infra/text/dataset.h"
#include "infra/text/tokenizer.h"
#include "infra/train/trainer.h"
#include "sft/prune.h"

/* What a checkpoint can do on the prompts that the policy will explore. */
struct sft_measurement {
    double pass, error; /* pass@k and its standard error */
};

struct sft_options {
    struct dataset_options data;
    enum chat_layout layout;     /* how conversations are rendered */
    const char *model_directory; /* base; also the source of tokenizer files */
    const char *stage_directory; /* RUN/sft: checkpoints/step-N and final are made here */
    const char *recipe_hash;
    bool random_init; /* start from model_init_flat(init_config) instead of weights */
    struct model_config init_config;
    uint64_t seed;
    int64_t epochs, max_steps; /* whichever ends first; 0 = no limit, not both */
    int32_t batch_tokens;      /* tokens of one optimiser step: sequences are added until reached */
    int32_t max_length; /* longer rows: text rows are cut into pieces, pairs are dropped, counted */
    int64_t save_steps; /* 0: only at the end */
    int keep_checkpoints;
    double entropy_floor;  /* struct exploration; 0: not watched */
    int64_t measure_steps; /* between measurements of pass@k; 0: none */
    double pass_drop;      /* struct exploration */
    int (*measure)(void *context, const char *directory, struct sft_measurement *measurement);
    void *measure_context;
    struct prune_options prune;     /* method PRUNE_NONE: every row is trained */
    struct trainer_options trainer; /* max_sequence_tokens and total_steps are filled in here */
};

struct sft_progress {
    int64_t step, total_steps, epoch;
    int64_t tokens; /* of all sequences so far */
    int64_t rows, dropped_rows;
    int64_t scored_sequences, pruned_sequences; /* of the pruning, before the first step */
    double loss, learning_rate, gradient_norm, tokens_per_second; /* of the latest step */
    double entropy;           /* nats a token, when it is watched */
    double token_probability; /* mean p(token) of its trained tokens: accuracy of a sampled token */
    bool finished;
};

struct sft_stage;
/* Resumes from the newest checkpoint under stage_directory when there is one. metrics may be NULL.
 */
int sft_stage_create(struct sft_stage **stage, const struct sft_options *options,
                     const struct compute *compute, struct clock *clock, struct metrics *metrics);
/* A batch of scores, a measurement, one optimiser step, or, after the last, `final`. */
int sft_stage_tick(struct sft_stage *stage, struct sft_progress *progress);
void sft_stage_destroy(struct sft_stage *stage);

#endif

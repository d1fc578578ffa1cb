/* The trainer: weights, optimiser and gradient accumulation for any objective. It knows no
 * algorithm.
 *
 * Every objective depends on the logits through the chosen tokens' logprobs (and entropies) alone,
 * so a loss is a host function from per-token streams to d_logprob (and d_entropy); one generic
 * operation does the vocabulary-sized work.
 *
 * T1. micro_batch_tokens decides which sequences share a micro-batch (packing.h) and so the order
 * in which gradients add up in fp32. Logprobs do not depend on it, nor does anything else. For a
 * fixed recipe a step is the same bits every time (G7), on any number of threads.
 *
 * T2. A loss must normalise by global counts (of the whole train_batch), never a micro-batch's.
 *
 * With more than one gradient shard (sharding.h) that order is the shards', and a step is the same
 * bits on any number of ranks that divides them. All ranks make the same calls with the same
 * batches; a loss is called for this rank's micro-batches alone, and what it adds up beside its
 * gradient it names in train_batch.sums.
 *
 * T3. A step with a non-finite loss, gradient or norm is not applied; the report says so.
 *
 * Owned by one thread. */
#ifndef HONE_TRAIN_TRAINER_H
#define HONE_TRAIN_TRAINER_H

#include <stdbool.h>
#include <stdint.h>

#include "infra/model/checkpoint.h"
#include "infra/model/transformer.h"
#include "infra/train/lora.h"
#include "infra/train/memory_plan.h"
#include "infra/train/optimizer.h"
#include "infra/train/sharding.h"

/* One sequence. Streams are indexed like tokens: entry i belongs to token i given tokens before it;
 * entry 0 is unused. Only entries with loss_mask[i] != 0 (i >= 1) are computed. */
struct train_sequence {
    const int32_t *tokens;
    int32_t count;
    const uint8_t *loss_mask; /* [count] */
    /* [count] What tokens' distributions are cut to; NULL: nothing is cut. */
    const struct logit_support *support;
    int32_t unit; /* consecutive sequences of one unit share a micro-batch (a DPO pair) */
    void *user;   /* the loss's own data of this sequence */
};

/* Its trained tokens: those that the loss sees. */
int32_t train_sequence_trained(const struct train_sequence *sequence);

struct step_report;

struct train_batch {
    const struct train_sequence *sequences;
    int32_t count;
    float temperature; /* logprobs are of softmax(logits / temperature) */
    bool need_entropy;
    bool need_value; /* of the trainer's value head */
    /* What the loss adds up, zeros before a step; NULL: nothing that more than one shard could
     * part.
     */
    const struct loss_sums *sums;
    /* Asked when loss and gradient norm are known: false leaves the weights as they are. NULL: yes.
     */
    bool (*accept)(void *context, const struct step_report *report);
    void *accept_context;
};

/* What a loss sees of one micro-batch: sequences [first, first + count) of `batch`, which holds the
 * sequences in packed order (each one's `user` says whose it is). logprob[s][i], entropy[s][i]
 * (entropy NULL unless asked) for sequence first + s; it writes d_logprob[s][i] (zeroed before)
 * and, when entropy was asked for, d_entropy[s][i], and adds to *loss. Returns 0 or a negative
 * code. */
struct loss_streams {
    int32_t first, count;
    const float *const *logprob;
    const float *const *entropy;
    float *const *d_logprob;
    float *const *d_entropy;
    const float *const *value; /* the two NULL unless asked, as the two of entropy */
    float *const *d_value;
};
typedef int (*loss_function)(void *context, const struct train_batch *batch,
                             const struct loss_streams *streams, double *loss);

struct embedding_noise_options { /* infra/train/embedding_noise.h */
    float alpha;                 /* 0: none */
    uint64_t seed;
};

struct trainer_options {
    enum dtype dtype;            /* compute dtype */
    int32_t micro_batch_tokens;  /* most rows of one forward */
    int32_t max_sequence_tokens; /* longest sequence that will come */
    bool logprobs_only;          /* a reference model: no gradient, moments or kept activations */
    /* A linear head on the final hidden state beside the vocabulary's, from 0; its gradient reaches
     * the model too. It is kept in checkpoints that training goes on from and in nothing else. */
    bool value_head;
    /* Train adapters alone: rank 0 trains every weight. The model computes with them merged. */
    struct lora_options lora;
    double value_learning_rate; /* of the head's own weights, scheduled as the others'; 0: theirs */
    struct embedding_noise_options noise; /* of trainer_step alone */
    bool checkpoint_layers; /* keep layer inputs alone, compute the rest twice: same bits */
    struct optimizer_options optimizer;
    int32_t gradient_shards;  /* 0 is 1 */
    struct rank_group *group; /* borrowed; NULL: one rank */
};

struct step_report {
    double loss;
    double gradient_norm; /* before clipping */
    double learning_rate;
    double clip_scale;      /* 1 when not clipped */
    int64_t tokens;         /* rows through the model */
    int64_t trained_tokens; /* with loss_mask */
    double seconds_forward, seconds_backward, seconds_optimizer;
    bool applied; /* false: non-finite (T3) or not accepted, nothing changed */
};

struct trainer;

/* master: fp32 flat weights [model_config_parameter_count], copied. */
int trainer_create(struct trainer **trainer, const struct trainer_options *options,
                   const struct model_config *config, const float *master,
                   const struct compute *compute);
void trainer_free(struct trainer *trainer);
/* Adds what trainer_create would allocate, by class: weights, master, moments, gradient,
 * activations, KV. */
void trainer_plan(const struct trainer_options *options, const struct model_config *config,
                  const char *owner, struct memory_plan *plan);

/* Forward, loss, backward over micro-batches, then clip and AdamW. A batch without a trained token
 * is a step with gradient 0. On an error nothing is applied and the step does not count. */
int trainer_step(struct trainer *trainer, const struct train_batch *batch, loss_function loss,
                 void *context, struct step_report *report);
/* Logprobs (and entropies when not NULL) of the masked-in tokens, no gradient: logprob[s][i]. */
int trainer_logprobs(struct trainer *trainer, const struct train_batch *batch,
                     float *const *logprob, float *const *entropy);

/* value[s][i] of the value head before token i, for masked-in tokens; no gradient. */
int trainer_values(struct trainer *trainer, const struct train_batch *batch, float *const *value);

struct model *
trainer_model(struct trainer *trainer); /* compute-dtype weights of the current step */
const struct lora *trainer_adapters(const struct trainer *trainer); /* NULL: none are trained */
/* fp32 weights that training moves; with adapters, those that they are added to. */
const float *trainer_master(const struct trainer *trainer);
int64_t trainer_steps(const struct trainer *trainer); /* optimiser steps applied or skipped */
/* The latest step's gradient before clipping, fp32 [parameter_count]; not with adapters. */
const float *trainer_gradient(const struct trainer *trainer);

/* Rank 0 alone saves and exports; the others may do anything but train meanwhile.
 *
 * A checkpoint with everything needed to go on; state->step and weights_hash are filled in here. */
int trainer_save(struct trainer *trainer, const char *directory, const char *base_directory,
                 struct checkpoint_state *state);
/* Weights only (no optimiser), dtype as given: what the next stage starts from. */
int trainer_export(struct trainer *trainer, const char *directory, const char *base_directory,
                   enum dtype dtype, struct checkpoint_state *state);
/* Back to the start: these fp32 weights [parameter_count], moments 0, step 0. Negative: a rank is
 * gone. */
int trainer_reset(struct trainer *trainer, const float *master);
/* Restores master, moments and step counter from a checkpoint made by trainer_save. Weights whose
 * hash in the compute dtype is not the recorded one are HONE_ECORRUPT. Every rank calls it. */
int trainer_restore(struct trainer *trainer, const char *directory, struct checkpoint_state *state);

#endif

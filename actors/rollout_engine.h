/* Continuous-batching generation on one model: slots, chunked prefill, batched decode, weight swap.
 *
 *  A1  The tokens and logprobs of a request depend on (weights, prompt, sampling, rng key) alone:
 * not on the slot, its neighbours, the prefill chunk or the threads (G6, G7). The draw at position
 * p uses rng (seed, RNG_SAMPLE, prompt_id, sample_index) at counter p. A2  behavior_logprob is log
 * softmax(logits / temperature)[token] over the full vocabulary, computed by the same backend
 * operation as the learner's; log_mass is the log of the probability mass that top-k/top-p/min-p
 * kept. A3  Weights change only between two steps; each token carries the version that produced its
 * logits. Sequences in flight keep their KV (kv_on_swap keep), and the tokens they sample from then
 * on are marked kv_mixed; or they compute it again under the new weights (recompute), and are not.
 * A4  Samples of one group share the prompt's KV blocks (prefill once). A prompt whose KV was
 * filled by older weights is not shared with a request that starts under new ones. A5  A request is
 * admitted only when the KV blocks that it and everything running may still need are free: a short
 * cache makes requests wait and never fails one. Nothing is allocated per step; a finished sequence
 * is copied into a trajectory of its own size. Owned by one thread. Also used by evaluation and
 * `hone generate`. */
#ifndef HONE_ACTORS_ROLLOUT_ENGINE_H
#define HONE_ACTORS_ROLLOUT_ENGINE_H

#include "infra/data/trajectory.h"
#include "infra/model/transformer.h"

struct rollout_engine_options {
    int32_t slots;                /* sequences decoded at once */
    int32_t prefill_chunk_tokens; /* most prompt rows per step */
    int32_t max_sequence_tokens;  /* prompt + completion; <= max_positions */
    bool recompute_kv;            /* after a weight change, where the cache has room for it */
    int32_t kv_blocks;            /* 0: enough for every slot at full length */
    uint32_t rng_purpose;         /* RNG_SAMPLE or RNG_EVAL */
    int32_t allowed_vocab; /* ids at or past it are never sampled; 0 = the model's vocabulary */
};

/* One sample to generate. */
struct rollout_request {
    uint64_t user; /* given back with the result */
    uint64_t prompt_id, group_id;
    int32_t sample_index;
    const int32_t *prompt_tokens;    /* copied */
    int32_t prompt_token_count;      /* >= 1 */
    const struct trajectory *prefix; /* sampled before, here or elsewhere, and continued: a piece of
                                        a completion, copied; NULL: none */
    struct sampling sampling;        /* temperature 0 = greedy; logprobs then at temperature 1 */
};

struct rollout_engine;
int rollout_engine_create(struct rollout_engine **engine, struct model *model,
                          const struct rollout_engine_options *options,
                          const struct compute *compute);
void rollout_engine_destroy(struct rollout_engine *engine);
/* What rollout_engine_create would allocate for this model, by use: for the memory plan. */
struct rollout_engine_memory {
    size_t kv_cache, activations, sequences, sampling;
};
struct rollout_engine_memory rollout_engine_memory(const struct model_config *config,
                                                   enum dtype dtype,
                                                   const struct rollout_engine_options *options,
                                                   int threads);

/* Queue room left; a request may be submitted while > 0 (queue of 2 x slots). */
int32_t rollout_engine_room(const struct rollout_engine *engine);
/* HONE_EINVAL: prompt too long for max_sequence_tokens, no room, bad sampling. */
int rollout_engine_submit(struct rollout_engine *engine, const struct rollout_request *request);
/* One step: admits, prefills a chunk, decodes one token for every running slot. Returns rows
 * computed (0 = idle). */
int32_t rollout_engine_step(struct rollout_engine *engine);
/* Finished sequences, oldest first: 1 with *trajectory filled (owned by the caller:
 * trajectory_release), 0 none. Filled: ids, tokens, logprobs, masses, versions, masks, segments,
 * finish, sampling; the reward is REWARD_ABSTAIN, there is none yet. FINISH_ABORT: the logits were
 * not numbers. */
int rollout_engine_finished(struct rollout_engine *engine, struct trajectory *trajectory,
                            uint64_t *user);
/* A sequence in flight. */
struct rollout_partial {
    uint64_t user;
    int32_t sample_index;
    int32_t completion_tokens; /* sampled so far, the prefix it was continued from included */
};
/* The i-th sequence in flight, 0 <= i; false: there are not so many. */
bool rollout_engine_partial(const struct rollout_engine *engine, int32_t i,
                            struct rollout_partial *partial);
/* Its completion tokens from the `first`-th on, as a piece of a trajectory (ids of the group and
 * the sample filled); released by the caller. */
void rollout_engine_piece(const struct rollout_engine *engine, int32_t i, int32_t first,
                          struct trajectory *piece);
/* Drops every request whose user value matches (lease revoked), finished ones too; returns how
 * many. */
int32_t rollout_engine_cancel(struct rollout_engine *engine, uint64_t user);
int32_t rollout_engine_active(const struct rollout_engine *engine); /* running + queued */
int32_t rollout_engine_used(const struct rollout_engine *engine);   /* slots, in the last step */
int64_t rollout_engine_tokens(const struct rollout_engine *engine); /* sampled since create */
int64_t
rollout_engine_prefill_rows(const struct rollout_engine *engine); /* computed since create */

/* The version tokens are stamped with from the next step on (0 at first); call right after the
 * model's weights changed. */
void rollout_engine_set_version(struct rollout_engine *engine, int64_t version);

#endif

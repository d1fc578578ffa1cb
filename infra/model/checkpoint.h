/* Checkpoint directories: Hugging Face layout plus hone's own files, written so that a torn one can
 * never be taken for a whole one.
 *
 *   NAME/config.json model.safetensors tokenizer files      loads anywhere
 *   NAME/optimizer.safetensors                              fp32 master, fp32 or bf16 moments
 *                                                           (resumable ones only)
 *   NAME/state.json                                         step, batch, version, recipe hash ...
 *   NAME/manifest.json                                      every file's size and SHA-256
 *   NAME/DONE                                               written last: the manifest's SHA-256
 *
 * Written to NAME.tmp, each file fsynced, manifest, DONE, rename, parent fsynced.
 *  C1  A directory without DONE, or whose manifest does not match, is not a candidate; it is named
 * in a warning and the next older one is used. */
#ifndef HONE_MODEL_CHECKPOINT_H
#define HONE_MODEL_CHECKPOINT_H

#include "infra/base/hash.h"
#include "infra/model/model_config.h"

/* Versions whose hashes a checkpoint of an RL run holds. */
#define CHECKPOINT_HASHES_MAX 64

#define CHECKPOINT_NUMBERS_MAX 512

struct checkpoint_state {
    char stage[16];          /* "sft", "rl", "dpo" */
    int64_t step;            /* optimiser steps done */
    int64_t batch;           /* last RL batch contained (0: none) */
    int64_t policy_version;  /* version these weights are */
    int64_t epoch, position; /* data cursor of offline stages */
    int64_t tokens;          /* trained so far */
    char recipe_hash[HASH_HEX_SIZE];
    char weights_hash[HASH_HEX_SIZE]; /* model_hash of the weights in the compute dtype */
    double kl_coef;                   /* RL with kl_target: of the next batch */
    /* What else the stage remembers, finite numbers; its own business. */
    int32_t number_count;
    double numbers[CHECKPOINT_NUMBERS_MAX];
    /* RL: the same of the last versions up to policy_version, oldest first: when the learner dies
     * the log may not have them yet. */
    int32_t version_hash_count;
    char version_hashes[CHECKPOINT_HASHES_MAX][HASH_HEX_SIZE];
};

/* What training keeps besides, fp32. */
struct checkpoint_vector {
    const char *name;
    float *values; /* [count] */
    int64_t count;
};
#define CHECKPOINT_VECTORS_MAX 8

struct checkpoint_content {
    const struct model_config *config;
    const char *base_directory;    /* where tokenizer files and unknown config keys come from */
    enum dtype weights_dtype;      /* of model.safetensors */
    const float *weights;          /* [parameter_count] fp32 */
    const float *master;           /* [parameter_count] fp32; NULL: not kept beside them */
    const void *moment1, *moment2; /* with master: in moments_dtype */
    enum dtype moments_dtype;      /* fp32 or bf16 */
    const struct checkpoint_vector
        *extras; /* [extra_count]; with none and no master: not resumable */
    int32_t extra_count;
    const struct checkpoint_state *state;
};

int checkpoint_write(const char *directory, const struct checkpoint_content *content);
/* 0 when complete and every hash matches; else a negative code that says what is wrong. */
int checkpoint_verify(const char *directory);
int checkpoint_read_state(const char *directory, struct checkpoint_state *state);
/* Where optimizer state is read to: vectors of [parameter_count]. */
struct checkpoint_optimizer {
    float *master;
    void *moment1, *moment2;
    enum dtype moments_dtype;
    const struct checkpoint_vector *extras; /* [extra_count] */
    int32_t extra_count;
};
/* All of them must be present, but the first three where master is NULL; moments of another dtype
 * are HONE_EINVAL. */
int checkpoint_read_optimizer(const char *directory, const struct model_config *config,
                              const struct checkpoint_optimizer *optimizer);
/* Newest valid checkpoint "step-<n>" under directory; damaged ones are warned about by name.
 * HONE_ENOENT when there is none. */
int checkpoint_newest(const char *directory, char *path, size_t capacity);
/* Keeps the newest `keep` (>= 1) valid ones and that of step `also` (0: none), and deletes every
 * other older one, and what interrupted writes left. A damaged one newer than those is left for
 * inspection, with a warning. */
int checkpoint_prune(const char *directory, int keep, int64_t also);

#endif

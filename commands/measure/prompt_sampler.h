/* Samples prompts of a dataset from one checkpoint, whose weights stay, and scores what comes: one
 * process, the actors' engine, any number of threads. */
#ifndef HONE_COMMANDS_MEASURE_PROMPT_SAMPLER_H
#define HONE_COMMANDS_MEASURE_PROMPT_SAMPLER_H

#include "actors/rollout_engine.h"
#include "commands/prompts.h"
#include "commands/stage_options.h"
#include "infra/config/recipe.h"
#include "reward/reward_set.h"

struct prompt_sampler_options {
    const struct data_settings *data; /* NULL: the caller fills `set`, and nothing is scored */
    const struct sampling_settings *sampling;
    int64_t max_prompt_tokens, max_prompts; /* 0: any, all */
    int64_t slots;
    const char *data_key, *sampling_key; /* of the recipe, for messages */
};

struct prompt_sampler {
    const struct recipe *recipe;
    struct prompt_sampler_options options;
    struct compute compute;
    struct tokenizer *tokenizer;
    struct model *model;
    struct rollout_engine *engine;
    struct reward_set *rewards;
    struct reward_options reward_options;
    struct prompt_set set;
    struct sampling sampling;
};

int prompt_sampler_open(struct prompt_sampler *sampler, const struct recipe *recipe,
                        const struct prompt_sampler_options *options, const char *model_directory,
                        int threads);
void prompt_sampler_close(struct prompt_sampler *sampler); /* a zeroed one is fine */

/* What is to be sampled: of each listed prompt the samples first .. first + count - 1. A sample's
 * tokens depend on the seed, its prompt and its number alone. */
struct prompt_sampling {
    const int64_t *prompts; /* [prompt_count] indices in the set; NULL: all of it */
    int64_t prompt_count;
    int32_t first, count;
    const char *label; /* of the progress bar */
    /* Takes the trajectory over. prompt: its index. Negative ends the sampling. */
    int (*finished)(void *context, int64_t prompt, struct trajectory *trajectory);
    void *context;
};

/* Tokens sampled, or negative. */
int64_t prompt_sampler_run(struct prompt_sampler *sampler, const struct prompt_sampling *what);
/* Replaces completion, the text that was judged. */
int prompt_sampler_score(struct prompt_sampler *sampler, int64_t prompt,
                         const struct trajectory *trajectory, struct text *completion,
                         struct reward *reward);

#endif

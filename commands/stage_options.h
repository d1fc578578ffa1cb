/* From the recipe to each stage's own options: the one place where they meet. What is filled points
 * into the recipe and the paths given, and lives as long as they do. */
#ifndef HONE_COMMANDS_STAGE_OPTIONS_H
#define HONE_COMMANDS_STAGE_OPTIONS_H

#include "dpo/dpo_stage.h"
#include "infra/config/recipe.h"
#include "infra/data/trajectory.h"
#include "learner/learner_stage.h"
#include "reward/reward_set.h"
#include "sft/sft_stage.h"

enum dtype compute_dtype(const struct recipe *recipe);
enum chat_layout chat_layout_from(const struct recipe *recipe);

/* Stop ids: the model's eos ids plus the single-token strings of sampling.stop. */
int sampling_from(struct sampling *sampling, const struct sampling_settings *settings,
                  const struct model_config *config, const struct tokenizer *tokenizer,
                  uint64_t seed, const char *where);

/* parts and argv storage is allocated; release with reward_options_release. */
struct reward_options {
    struct reward_part_options *parts;
    int32_t count;
};
void reward_options_from(struct reward_options *options, const struct recipe *recipe);
void reward_options_release(struct reward_options *options);

/* votes_path: where the judge's votes are, when the recipe asks for them. */
int sft_options_from(struct sft_options *options, const struct recipe *recipe,
                     const char *model_directory, const char *stage_directory,
                     const char *votes_path, const char *recipe_hash);
int dpo_options_from(struct dpo_options *options, const struct recipe *recipe,
                     const char *model_directory, const char *stage_directory,
                     const char *log_directory, const char *recipe_hash);
/* Both ends of the weight channel; an actor adds where it serves others. */
void weight_options_from(struct weight_options *options, const struct recipe *recipe);
/* Adapters of a stage, as its trainer has them. */
void lora_options_from(struct lora_options *options, const struct recipe *recipe,
                       const struct lora_settings *settings);
void learner_options_from(struct learner_options *options, const struct recipe *recipe,
                          const char *model_directory, const char *stage_directory,
                          const char *recipe_hash);
/* Of the KL reference: NULL when the recipe has no use for one. model_directory: what the stage
 * started from. */
const char *learner_reference(const struct recipe *recipe, const char *model_directory);

#endif

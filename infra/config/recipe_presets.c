#include "infra/config/recipe_presets.h"

#include <stddef.h>

#include "infra/base/assert.h"
#include "infra/config/recipe_fields.h"

struct preset_value {
    const char *key, *value;
};

#define OBJECTIVE(key) "rl.objective." key
#define LAST                                                                                       \
    {                                                                                              \
        NULL, NULL                                                                                 \
    }

/* Group baseline and scale, token ratio, PPO clipping at 0.2 and no KL are the defaults of the
 * fields; a preset lists what it is known by, defaults included where its name promises them. */

/* arXiv 2402.03300: mean over a trajectory's tokens, KL in the loss. */
static const struct preset_value grpo[] = {{OBJECTIVE("baseline"), "group_mean"},
                                           {OBJECTIVE("scale"), "group_std"},
                                           {OBJECTIVE("clipping"), "ppo"},
                                           {OBJECTIVE("clip_low"), "0.2"},
                                           {OBJECTIVE("clip_high"), "0.2"},
                                           {OBJECTIVE("kl_coef"), "0.001"},
                                           {OBJECTIVE("aggregation"), "sequence_mean"},
                                           {OBJECTIVE("kl_estimator"), "k3"},
                                           LAST};
/* arXiv 2503.20783: no division by the deviation, nor by the trajectory's own length. */
static const struct preset_value dr_grpo[] = {{OBJECTIVE("baseline"), "group_mean"},
                                              {OBJECTIVE("scale"), "none"},
                                              {OBJECTIVE("aggregation"), "constant"},
                                              {OBJECTIVE("clip_low"), "0.2"},
                                              {OBJECTIVE("clip_high"), "0.2"},
                                              {OBJECTIVE("kl_coef"), "0"},
                                              LAST};
/* arXiv 2503.14476: the upper bound is wider, tokens weigh alike, groups without signal are
 * replaced; overlong answers lose reward by the verifier `overlong`. */
static const struct preset_value dapo[] = {
    {OBJECTIVE("baseline"), "group_mean"},    {OBJECTIVE("scale"), "group_std"},
    {OBJECTIVE("clip_low"), "0.2"},           {OBJECTIVE("clip_high"), "0.28"},
    {OBJECTIVE("aggregation"), "token_mean"}, {OBJECTIVE("kl_coef"), "0"},
    {"rl.drop_zero_advantage", "true"},       LAST};
/* arXiv 2402.14740. */
static const struct preset_value rloo[] = {{OBJECTIVE("baseline"), "leave_one_out"},
                                           {OBJECTIVE("scale"), "none"},
                                           {OBJECTIVE("aggregation"), "token_mean"},
                                           {OBJECTIVE("kl_coef"), "0.001"},
                                           {OBJECTIVE("kl_in"), "reward"},
                                           {OBJECTIVE("kl_estimator"), "k1"},
                                           LAST};
/* arXiv 2501.03262: no critic and no group; KL is a cost of each token, the batch is whitened. */
static const struct preset_value reinforce_pp[] = {
    {OBJECTIVE("baseline"), "batch_mean"},    {OBJECTIVE("scale"), "batch_std"},
    {OBJECTIVE("aggregation"), "token_mean"}, {OBJECTIVE("kl_coef"), "0.001"},
    {OBJECTIVE("kl_in"), "reward"},           {OBJECTIVE("kl_estimator"), "k1"},
    {"rl.drop_zero_advantage", "false"},      LAST};
/* The same paper's form for groups: their mean is the baseline, KL (k2) is in the loss. */
static const struct preset_value reinforce_pp_baseline[] = {
    {OBJECTIVE("baseline"), "group_mean"},
    {OBJECTIVE("scale"), "batch_std"},
    {OBJECTIVE("aggregation"), "token_mean"},
    {OBJECTIVE("kl_coef"), "0.001"},
    {OBJECTIVE("kl_in"), "loss"},
    {OBJECTIVE("kl_estimator"), "k2"},
    LAST};
/* arXiv 2507.18071, section 5.1 for the bounds. */
static const struct preset_value gspo[] = {
    {OBJECTIVE("baseline"), "group_mean"}, {OBJECTIVE("scale"), "group_std"},
    {OBJECTIVE("ratio"), "sequence"},      {OBJECTIVE("clip_low"), "3e-4"},
    {OBJECTIVE("clip_high"), "4e-4"},      {OBJECTIVE("aggregation"), "sequence_mean"},
    {OBJECTIVE("kl_coef"), "0"},           LAST};
/* arXiv 2506.13585; the ratio between 0 and 5. */
static const struct preset_value cispo[] = {
    {OBJECTIVE("baseline"), "group_mean"}, {OBJECTIVE("scale"), "group_std"},
    {OBJECTIVE("clipping"), "cispo"},      {OBJECTIVE("clip_low"), "1"},
    {OBJECTIVE("clip_high"), "4"},         {OBJECTIVE("aggregation"), "token_mean"},
    {OBJECTIVE("kl_coef"), "0"},           LAST};
/* LlamaRL, arXiv 2505.24034: against the behavior policy, bounded above alone, in [2, 10]. */
static const struct preset_value aipo[] = {{OBJECTIVE("baseline"), "group_mean"},
                                           {OBJECTIVE("scale"), "none"},
                                           {OBJECTIVE("clipping"), "aipo"},
                                           {OBJECTIVE("ratio_max"), "2"},
                                           {OBJECTIVE("off_policy_correction"), "behavior_ratio"},
                                           {OBJECTIVE("aggregation"), "token_mean"},
                                           {OBJECTIVE("kl_coef"), "0"},
                                           LAST};
/* AReaL, arXiv 2505.24298. */
static const struct preset_value decoupled_ppo[] = {
    {OBJECTIVE("baseline"), "group_mean"},
    {OBJECTIVE("scale"), "group_std"},
    {OBJECTIVE("clipping"), "ppo"},
    {OBJECTIVE("off_policy_correction"), "decoupled"},
    {OBJECTIVE("importance_weight_max"), "5"},
    {OBJECTIVE("aggregation"), "token_mean"},
    {OBJECTIVE("kl_coef"), "0"},
    LAST};

/* arXiv 1707.06347 with a critic, as language models are trained with it: one value a token, KL
 * taken off the rewards, advantages whitened. */
static const struct preset_value ppo[] = {{OBJECTIVE("baseline"), "critic"},
                                          {OBJECTIVE("scale"), "batch_std"},
                                          {OBJECTIVE("clipping"), "ppo"},
                                          {OBJECTIVE("clip_low"), "0.2"},
                                          {OBJECTIVE("clip_high"), "0.2"},
                                          {OBJECTIVE("aggregation"), "token_mean"},
                                          {OBJECTIVE("kl_coef"), "0.001"},
                                          {OBJECTIVE("kl_in"), "reward"},
                                          {OBJECTIVE("kl_estimator"), "k1"},
                                          {"rl.drop_zero_advantage", "false"},
                                          LAST};

static const struct preset_value *const presets[] = {
    [RECIPE_PRESET_NONE] = NULL,
    [RECIPE_PRESET_GRPO] = grpo,
    [RECIPE_PRESET_DR_GRPO] = dr_grpo,
    [RECIPE_PRESET_DAPO] = dapo,
    [RECIPE_PRESET_RLOO] = rloo,
    [RECIPE_PRESET_REINFORCE_PP] = reinforce_pp,
    [RECIPE_PRESET_REINFORCE_PP_BASELINE] = reinforce_pp_baseline,
    [RECIPE_PRESET_GSPO] = gspo,
    [RECIPE_PRESET_CISPO] = cispo,
    [RECIPE_PRESET_AIPO] = aipo,
    [RECIPE_PRESET_DECOUPLED_PPO] = decoupled_ppo,
    [RECIPE_PRESET_PPO] = ppo,
};

void recipe_presets_apply(struct recipe *recipe)
{
    for (const struct preset_value *value = presets[recipe->rl.objective.preset];
         value && value->key; value++) {
        if (place_list_has(&recipe->places, value->key))
            continue;
        bool stored = field_store_path(recipe_fields, recipe, value->key, value->value);
        HONE_ASSERT(stored);
    }
}

#include "learner/policy.h"

#include <stdio.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "learner/learner_stage.h"

/* The trained model and its reference, before either is allocated. */
static int check_memory(const struct policy *policy, const struct model_config *config)
{
    struct trainer_options options = policy->options->trainer;
    struct memory_plan plan = {0};
    options.logprobs_only = false;
    trainer_plan(&options, config, "learner", &plan);
    options.logprobs_only = true;
    if (policy->options->reference_directory)
        trainer_plan(&options, config, "reference", &plan);
    return memory_plan_check(&plan, "learner", memory_plan_free_bytes());
}

static int create_trainer(struct policy *policy, const char *directory, bool reference,
                          const struct compute *compute, struct trainer **trainer)
{
    struct trainer_options options = policy->options->trainer;
    struct model_config config;
    int rc = model_config_read(&config, directory);
    if (rc < 0)
        return rc;
    if (reference && !model_config_same_shape(&config, &policy->config))
        return error_set(HONE_EINVAL, "reference model %s has another shape than %s", directory,
                         policy->options->model_directory);
    policy->config = reference ? policy->config : config;
    options.logprobs_only = reference;
    if (!reference && (rc = check_memory(policy, &config)) < 0)
        return rc;
    float *flat = MEMORY_ARRAY(float, model_config_parameter_count(&config));
    rc = model_read_flat(&config, directory, flat);
    if (rc == 0)
        rc = trainer_create(trainer, &options, &config, flat, compute);
    memory_free(flat);
    return rc;
}

int policy_open(struct policy *policy, const struct learner_options *options,
                const struct compute *compute)
{
    memset(policy, 0, sizeof *policy);
    policy->options = options;
    snprintf(policy->state.stage, sizeof policy->state.stage, "rl");
    snprintf(policy->state.recipe_hash, sizeof policy->state.recipe_hash, "%s",
             options->recipe_hash);
    return create_trainer(policy, options->model_directory, false, compute, &policy->trainer);
}

int policy_open_reference(struct policy *policy, const struct compute *compute)
{
    const char *directory = policy->options->reference_directory;
    return directory ? create_trainer(policy, directory, true, compute, &policy->reference) : 0;
}

void policy_close(struct policy *policy)
{
    trainer_free(policy->trainer);
    trainer_free(policy->reference);
    policy->trainer = policy->reference = NULL;
}

int policy_read_batch(const struct policy *policy, const Hone__Batch *message,
                      struct rl_batch *batch)
{
    const struct learner_options *options = policy->options;
    struct rl_batch_rules rules = {.vocab_size = policy->config.vocab_size,
                                   .max_sequence_tokens = options->trainer.max_sequence_tokens,
                                   .temperature = options->temperature,
                                   .mask_truncated = options->mask_truncated,
                                   .truncated_behavior = options->truncated_behavior};
    return rl_batch_read(batch, message, &rules);
}

float policy_kl_coef(const struct policy *policy)
{
    const struct learner_options *options = policy->options;
    return options->kl_target > 0.0 && policy->state.batch > 0 ? (float)policy->state.kl_coef
                                                               : options->loss.kl_coef;
}

int policy_train(struct policy *policy, struct rl_batch *batch, int (*between)(void *),
                 void *context, struct rl_step_result *result)
{
    const struct learner_options *options = policy->options;
    struct rl_step step = {.trainer = policy->trainer,
                           .reference = policy->reference,
                           .loss = options->loss,
                           .advantage = options->advantage,
                           .temperature = options->temperature,
                           .updates = options->updates_per_batch,
                           .micro_batch_tokens = options->trainer.micro_batch_tokens,
                           .between = between,
                           .context = context};
    HONE_ASSERT(batch->number == policy->state.batch + 1);
    float coef = policy_kl_coef(policy);
    step.advantage.kl_coef = coef;
    step.advantage.kl_estimator = options->loss.kl_estimator;
    step.loss.kl_coef = options->advantage.kl_in_reward ? 0.0f : coef;
    int rc = rl_step_run(&step, batch, policy->state.batch, result);
    if (rc < 0)
        return rc;
    policy->state.batch = batch->number;
    policy->state.tokens += result->tokens;
    if (options->kl_target > 0.0 && result->before.tokens > 0)
        policy->state.kl_coef =
            kl_next_coef((double)coef, result->before.kl_reference / (double)result->before.tokens,
                         options->kl_target, batch->sequence_count, options->kl_horizon);
    return 0;
}

void policy_note_hash(struct policy *policy)
{
    struct hash hash;
    model_hash(trainer_model(policy->trainer), &hash);
    hash_hex(&hash, policy->state.weights_hash);
}

int policy_export(struct policy *policy, const char *directory)
{
    struct checkpoint_state state = policy->state;
    return trainer_export(policy->trainer, directory, policy->options->model_directory,
                          policy->config.stored_dtype, &state);
}

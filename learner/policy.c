#include "learner/policy.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
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

/* What the guards know goes with the weights. */
static void remember(struct policy *policy)
{
    _Static_assert(GUARD_NUMBERS <= CHECKPOINT_NUMBERS_MAX, "the guards' memory fits a checkpoint");
    policy->state.number_count = GUARD_NUMBERS;
    memcpy(policy->state.numbers, guards_numbers(&policy->guards), GUARD_NUMBERS * sizeof(double));
}

int policy_open(struct policy *policy, const struct learner_options *options,
                const struct compute *compute)
{
    memset(policy, 0, sizeof *policy);
    policy->options = options;
    guards_init(&policy->guards, &options->guards);
    remember(policy);
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
                                   .truncated_behavior = options->truncated_behavior,
                                   .keep_support = options->keep_support};
    return rl_batch_read(batch, message, &rules);
}

float policy_kl_coef(const struct policy *policy)
{
    const struct learner_options *options = policy->options;
    return options->kl_target > 0.0 && policy->state.batch > 0 ? (float)policy->state.kl_coef
                                                               : options->loss.kl_coef;
}

/* ---- one batch under the guards ---- */

struct watch {
    struct policy *policy;
    const struct rl_batch *batch;
    struct guard_verdict skipped; /* SIGNAL_NONE: nothing was */
};

static struct guard_figures figures_of(const struct policy *policy, const struct rl_batch *batch,
                                       const struct rl_step_result *result)
{
    const struct policy_loss_stats *before = &result->before;
    const struct rl_batch_summary *summary = &batch->summary;
    double tokens = before->tokens > 0 ? (double)before->tokens : (double)NAN;
    return (struct guard_figures){
        .batch = batch->number,
        .loss = result->report.loss,
        .gradient_norm = result->report.gradient_norm,
        .unequal_tokens = before->unequal_tokens,
        .entropy = before->entropy / tokens,
        .reward = summary->reward_mean,
        .kl = policy->reference ? before->kl_reference / tokens : (double)NAN,
        .behavior_kl = result->after.kl_behavior / tokens,
        .sample_size = rl_step_sample_size(before),
        .truncated_share = (double)summary->truncated / (double)summary->trajectories};
}

static bool accept(void *context, const struct rl_step_result *result)
{
    struct watch *watch = context;
    struct guard_figures figures = figures_of(watch->policy, watch->batch, result);
    return guards_accept(&watch->policy->guards, &figures, &watch->skipped);
}

/* Whether a trained token comes from a version that was left behind. */
static bool is_left_behind(const struct policy *policy, const struct rl_batch *batch)
{
    for (int32_t s = 0; s < batch->sequence_count; s++) {
        const struct train_sequence *sequence = &batch->sequences[s];
        for (int32_t i = 1; i < sequence->count; i++)
            if (sequence->loss_mask[i] != 0 &&
                guards_left_behind(&policy->guards, batch->policies[s].policy_version[i]))
                return true;
    }
    return false;
}

static int train(struct policy *policy, struct rl_batch *batch, struct watch *watch,
                 struct rl_step *step, struct rl_step_result *result)
{
    const struct learner_options *options = policy->options;
    float coef = policy_kl_coef(policy);
    step->trainer = policy->trainer;
    step->reference = policy->reference;
    step->loss = options->loss;
    step->loss.kl_coef = options->advantage.kl_in_reward ? 0.0f : coef;
    step->advantage = options->advantage;
    step->advantage.kl_coef = coef;
    step->advantage.kl_estimator = options->loss.kl_estimator;
    step->temperature = options->temperature;
    step->updates = options->updates_per_batch;
    step->micro_batch_tokens =
        options->trainer.micro_batch_tokens * rank_group_count(options->trainer.group);
    step->accept = accept;
    step->accept_context = watch;
    int rc = rl_step_run(step, batch, policy->state.batch, result);
    if (rc < 0)
        return rc;
    policy->state.tokens += result->tokens;
    policy->state.kl_coef = (double)coef;
    if (options->kl_target > 0.0 && result->before.tokens > 0 && result->report.applied)
        policy->state.kl_coef =
            kl_next_coef((double)coef, result->before.kl_reference / (double)result->before.tokens,
                         options->kl_target, batch->sequence_count, options->kl_horizon);
    return 0;
}

int policy_train(struct policy *policy, struct rl_batch *batch, int (*between)(void *),
                 void *context, struct rl_step_result *result)
{
    struct rl_step step = {.between = between, .context = context};
    struct watch watch = {.policy = policy, .batch = batch};
    HONE_ASSERT(batch->number == policy->state.batch + 1);
    if (is_left_behind(policy, batch)) {
        memset(result, 0, sizeof *result);
        result->skipped_steps = 1;
        watch.skipped = (struct guard_verdict){.action = GUARD_SKIP, .signal = SIGNAL_ROLLED_BACK};
    } else {
        int rc = train(policy, batch, &watch, &step, result);
        if (rc < 0)
            return rc;
    }
    struct guard_figures figures = figures_of(policy, batch, result);
    figures.gradient_norm = result->gradient_norm_max;
    guards_observe(&policy->guards, &figures, &watch.skipped, &policy->verdict);
    policy->state.batch = batch->number;
    remember(policy);
    return 0;
}

int policy_restore(struct policy *policy, const char *checkpoint)
{
    struct checkpoint_state found;
    int rc = trainer_restore(policy->trainer, checkpoint, &found);
    if (rc < 0)
        return rc;
    policy->state = found;
    guards_restore(&policy->guards, found.numbers, found.number_count);
    remember(policy);
    return 0;
}

static int reset_to_start(struct policy *policy)
{
    float *flat = MEMORY_ARRAY(float, model_config_parameter_count(&policy->config));
    int rc = model_read_flat(&policy->config, policy->options->model_directory, flat);
    if (rc == 0)
        rc = trainer_reset(policy->trainer, flat);
    memory_free(flat);
    policy->state.kl_coef = (double)policy->options->loss.kl_coef;
    return rc;
}

int policy_go_back(struct policy *policy, const char *checkpoint)
{
    struct checkpoint_state found;
    if (policy->verdict.back_to == 0)
        return reset_to_start(policy);
    int rc = trainer_restore(policy->trainer, checkpoint, &found);
    if (rc < 0)
        return rc;
    if (found.batch != policy->verdict.back_to)
        return error_set(HONE_ECORRUPT, "%s holds version %lld, not %lld", checkpoint,
                         (long long)found.batch, (long long)policy->verdict.back_to);
    policy->state.kl_coef = found.kl_coef;
    return 0;
}

const char *policy_checkpoint_path(const struct learner_options *options, int64_t batch,
                                   char *buffer, size_t capacity)
{
    char name[48];
    snprintf(name, sizeof name, "checkpoints/step-%lld", (long long)batch);
    return path_join(buffer, capacity, options->stage_directory, name);
}

int policy_heed_guards(struct policy *policy)
{
    const struct guard_verdict *verdict = &policy->verdict;
    char text[GUARD_TEXT_MAX], path[HONE_PATH_MAX];
    if (verdict->signal == SIGNAL_NONE)
        return 0;
    guard_verdict_text(verdict, policy->state.batch, text, sizeof text);
    log_warn("%s", text);
    if (verdict->action == GUARD_STOP)
        return error_set(HONE_EGUARD, "%s; lower the learning rate or raise kl_coef", text);
    if (verdict->action != GUARD_GO_BACK)
        return 0;
    int rc = policy_go_back(
        policy, policy_checkpoint_path(policy->options, verdict->back_to, path, sizeof path));
    return rc < 0 ? error_prefix("%s", text) : 0;
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

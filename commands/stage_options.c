#include "commands/stage_options.h"

#include <string.h>

#include "commands/prompts.h"
#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/model/model_config.h"

enum dtype compute_dtype(const struct recipe *recipe)
{
    return recipe->model.dtype == RECIPE_BFLOAT16 ? DTYPE_BF16 : DTYPE_F32;
}

static enum schedule schedule_from(enum recipe_schedule schedule)
{
    switch (schedule) {
    case RECIPE_SCHEDULE_CONSTANT:
        return SCHEDULE_CONSTANT;
    case RECIPE_SCHEDULE_LINEAR:
        return SCHEDULE_LINEAR;
    case RECIPE_SCHEDULE_COSINE:
        return SCHEDULE_COSINE;
    }
    return SCHEDULE_CONSTANT;
}

static void trainer_from(struct trainer_options *options, const struct recipe *recipe,
                         const struct optimizer_settings *settings, int64_t micro_batch_tokens,
                         int64_t max_length)
{
    options->dtype = compute_dtype(recipe);
    options->micro_batch_tokens = (int32_t)micro_batch_tokens;
    options->max_sequence_tokens = (int32_t)max_length;
    options->optimizer = (struct optimizer_options){
        .learning_rate = settings->learning_rate,
        .schedule = schedule_from(settings->schedule),
        .warmup_steps = settings->warmup_steps,
        .min_lr_ratio = settings->min_lr_ratio,
        .beta1 = settings->beta1,
        .beta2 = settings->beta2,
        .epsilon = settings->epsilon,
        .weight_decay = settings->weight_decay,
        .max_gradient_norm = settings->max_grad_norm,
        .moments_dtype = settings->moments_dtype == RECIPE_BFLOAT16 ? DTYPE_BF16 : DTYPE_F32,
    };
}

void lora_options_from(struct lora_options *options, const struct recipe *recipe,
                       const struct lora_settings *settings)
{
    static const struct {
        const char *name;
        enum lora_target target;
    } targets[] = {{"q", LORA_Q},       {"k", LORA_K},   {"v", LORA_V},      {"o", LORA_O},
                   {"gate", LORA_GATE}, {"up", LORA_UP}, {"down", LORA_DOWN}};
    *options = (struct lora_options){.rank = (int32_t)settings->rank,
                                     .alpha = (float)settings->alpha,
                                     .seed = (uint64_t)recipe->seed};
    for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++)
        if (string_list_has(&settings->targets, targets[i].name))
            options->targets |= targets[i].target;
}

/* The recipe has checked the name. */
enum chat_layout chat_layout_from(const struct recipe *recipe)
{
    enum chat_layout layout;
    int rc = chat_layout_parse(recipe->model.chat_layout, &layout);
    HONE_ASSERT(rc == 0);
    return layout;
}

static int add_stop(struct sampling *sampling, int32_t id, const char *where)
{
    for (int32_t i = 0; i < sampling->stop_count; ++i)
        if (sampling->stop_ids[i] == id)
            return 0;
    if (sampling->stop_count == SAMPLING_STOP_MAX)
        return error_set(HONE_EINVAL, "%s.stop: at most %d stop tokens, the model's own included",
                         where, SAMPLING_STOP_MAX);
    sampling->stop_ids[sampling->stop_count++] = id;
    return 0;
}

int sampling_from(struct sampling *sampling, const struct sampling_settings *settings,
                  const struct model_config *config, const struct tokenizer *tokenizer,
                  uint64_t seed, const char *where)
{
    memset(sampling, 0, sizeof *sampling);
    sampling->temperature = (float)settings->temperature;
    sampling->top_p = (float)settings->top_p;
    sampling->top_k = (int32_t)settings->top_k;
    sampling->min_p = (float)settings->min_p;
    sampling->max_completion_tokens = (int32_t)settings->max_completion_tokens;
    sampling->seed = seed;
    int rc = 0;
    for (int32_t i = 0; i < config->eos_count && rc == 0; ++i)
        rc = add_stop(sampling, config->eos_ids[i], where);
    for (int32_t i = 0; i < settings->stop.count && rc == 0; ++i) {
        const char *stop = settings->stop.items[i];
        struct token_list ids;
        token_list_init(&ids);
        int32_t id = tokenizer_token_id(tokenizer, stop);
        if (id < 0 &&
            tokenizer_encode(tokenizer, stop, strlen(stop),
                             TOKENIZE_PARSE_SPECIAL | TOKENIZE_CONTINUE, &ids) == 0 &&
            ids.count == 1)
            id = ids.ids[0];
        token_list_release(&ids);
        rc = id >= 0 ? add_stop(sampling, id, where)
                     : error_set(HONE_EINVAL,
                                 "%s.stop: \"%s\" is not one token of this model's tokenizer",
                                 where, stop);
    }
    return rc;
}

void reward_options_from(struct reward_options *options, const struct recipe *recipe)
{
    const struct reward_part_list *list = &recipe->reward.parts;
    options->count = list->count;
    options->parts = MEMORY_ARRAY(struct reward_part_options, list->count);
    for (int32_t i = 0; i < list->count; ++i) {
        const struct reward_part_settings *from = &list->items[i];
        struct reward_part_options *part = &options->parts[i];
        const char *name = from->name[0] != '\0' ? from->name : from->verifier;
        strncpy(part->name, name, sizeof part->name - 1);
        part->weight = (float)from->weight;
        part->timeout_ms = (int64_t)(from->timeout_s * 1000.0);
        if (from->command.count == 0) {
            part->verifier = from->verifier;
            continue;
        }
        const char **argv = MEMORY_ARRAY(const char *, from->command.count + 1);
        for (int32_t j = 0; j < from->command.count; ++j)
            argv[j] = from->command.items[j];
        part->command = argv;
    }
}

void reward_options_release(struct reward_options *options)
{
    for (int32_t i = 0; i < options->count; ++i)
        memory_free((void *)(uintptr_t)options->parts[i].command);
    memory_free(options->parts);
    memset(options, 0, sizeof *options);
}

int sft_options_from(struct sft_options *options, const struct recipe *recipe,
                     const char *model_directory, const char *stage_directory,
                     const char *votes_path, const char *recipe_hash)
{
    const struct sft_settings *sft = &recipe->sft;
    memset(options, 0, sizeof *options);
    dataset_options_from(&sft->data, &options->data);
    options->layout = chat_layout_from(recipe);
    options->model_directory = model_directory;
    options->stage_directory = stage_directory;
    options->recipe_hash = recipe_hash;
    options->seed = (uint64_t)recipe->seed;
    options->epochs = sft->epochs;
    options->max_steps = sft->max_steps;
    options->batch_tokens = (int32_t)sft->batch_tokens;
    options->max_length = (int32_t)sft->max_length;
    options->save_steps = sft->save_steps;
    options->entropy_floor = sft->entropy_floor;
    options->measure_steps = sft->exploration.steps;
    options->pass_drop = sft->exploration.drop;
    options->trainer.noise = (struct embedding_noise_options){.alpha = (float)sft->neftune_alpha,
                                                              .seed = (uint64_t)recipe->seed};
    options->keep_checkpoints = 2;
    trainer_from(&options->trainer, recipe, &sft->optimizer, sft->micro_batch_tokens,
                 sft->max_length);
    options->trainer.checkpoint_layers =
        sft->activation_checkpointing == RECIPE_ACTIVATIONS_BY_LAYER;
    lora_options_from(&options->trainer.lora, recipe, &sft->lora);
    static const enum prune_method methods[] = {[RECIPE_PRUNE_NONE] = PRUNE_NONE,
                                                [RECIPE_PRUNE_LOSS] = PRUNE_LOSS,
                                                [RECIPE_PRUNE_PROGRESS] = PRUNE_PROGRESS,
                                                [RECIPE_PRUNE_VOTES] = PRUNE_VOTES,
                                                [RECIPE_PRUNE_RANDOM] = PRUNE_RANDOM};
    options->prune =
        (struct prune_options){.method = methods[sft->prune.method],
                               .judge = *sft->prune.judge != '\0' ? sft->prune.judge : NULL,
                               .learned = sft->prune.learned,
                               .votes = votes_path,
                               .drop_share = sft->prune.drop_share,
                               .min_rows = sft->prune.min_rows,
                               .seed = (uint64_t)recipe->seed};
    const struct init_settings *init = &recipe->model.init;
    if (init->method == RECIPE_INIT_NONE)
        return 0;
    options->random_init = true;
    options->model_directory = init->tokenizer;
    struct tokenizer *tokenizer = NULL;
    int rc = tokenizer_load(&tokenizer, init->tokenizer);
    if (rc < 0)
        return error_prefix("model.init.tokenizer");
    options->init_config = (struct model_config){
        .vocab_size = tokenizer_vocab_size(tokenizer),
        .hidden_size = (int32_t)init->hidden_size,
        .layers = (int32_t)init->layers,
        .heads = (int32_t)init->heads,
        .kv_heads = (int32_t)init->kv_heads,
        .head_dim =
            (int32_t)(init->head_dim > 0 ? init->head_dim : init->hidden_size / init->heads),
        .intermediate_size = (int32_t)init->intermediate_size,
        .max_positions = (int32_t)init->max_positions,
        .rms_eps = 1e-5f,
        .rope_theta = init->rope_theta,
        .tied_head = init->tie_embeddings,
        .stored_dtype = compute_dtype(recipe),
        .bos_id = tokenizer_bos(tokenizer),
    };
    if (tokenizer_eos(tokenizer) >= 0) {
        options->init_config.eos_ids[0] = tokenizer_eos(tokenizer);
        options->init_config.eos_count = 1;
    }
    tokenizer_free(tokenizer);
    return 0;
}

static enum preference_kind preference_kind_from(enum recipe_dpo_loss loss)
{
    static const enum preference_kind kinds[] = {
        [RECIPE_DPO_SIGMOID] = PREFERENCE_SIGMOID, [RECIPE_DPO_ROBUST] = PREFERENCE_ROBUST,
        [RECIPE_DPO_HINGE] = PREFERENCE_HINGE,     [RECIPE_DPO_IPO] = PREFERENCE_IPO,
        [RECIPE_DPO_SIMPO] = PREFERENCE_SIMPO,     [RECIPE_DPO_KTO] = PREFERENCE_KTO};
    return kinds[loss];
}

int dpo_options_from(struct dpo_options *options, const struct recipe *recipe,
                     const char *model_directory, const char *stage_directory,
                     const char *log_directory, const char *recipe_hash)
{
    const struct dpo_settings *dpo = &recipe->dpo;
    memset(options, 0, sizeof *options);
    options->from_log = dpo->source == RECIPE_PAIRS_RL_LOG;
    options->log_directory = *dpo->log != '\0' ? dpo->log : log_directory;
    dataset_options_from(&dpo->data, &options->data);
    options->layout = chat_layout_from(recipe);
    options->model_directory = model_directory;
    options->stage_directory = stage_directory;
    options->recipe_hash = recipe_hash;
    options->seed = (uint64_t)recipe->seed;
    options->epochs = dpo->epochs;
    options->max_steps = dpo->max_steps;
    options->batch_pairs = (int32_t)dpo->batch_pairs;
    options->pairs_max = (int32_t)dpo->pairs_max;
    options->anchor_share = (float)dpo->anchor_share;
    options->part = *dpo->part != '\0' ? dpo->part : NULL;
    options->min_margin = (float)dpo->min_margin;
    options->max_length = (int32_t)dpo->max_length;
    options->max_length_ratio = (float)dpo->max_length_ratio;
    options->loss.nll_coef = (float)dpo->nll_coef;
    options->save_steps = dpo->save_steps;
    options->keep_checkpoints = 2;
    options->loss.beta = (float)dpo->beta;
    options->loss.label_smoothing = (float)dpo->label_smoothing;
    options->loss.kind = preference_kind_from(dpo->loss);
    options->loss.summed = dpo->ipo_length == RECIPE_IPO_SUM;
    options->loss.margin = (float)dpo->simpo_margin;
    options->loss.desirable = (float)dpo->kto_desirable;
    options->loss.undesirable = (float)dpo->kto_undesirable;
    trainer_from(&options->trainer, recipe, &dpo->optimizer, dpo->micro_batch_tokens,
                 dpo->max_length);
    options->trainer.checkpoint_layers =
        dpo->activation_checkpointing == RECIPE_ACTIVATIONS_BY_LAYER;
    lora_options_from(&options->trainer.lora, recipe, &dpo->lora);
    return 0;
}

void weight_options_from(struct weight_options *options, const struct recipe *recipe)
{
    static const enum weight_transport transports[] = {[RECIPE_TRANSPORT_AUTO] = WEIGHTS_AUTO,
                                                       [RECIPE_TRANSPORT_SHARED_MEMORY] =
                                                           WEIGHTS_SHARED_MEMORY,
                                                       [RECIPE_TRANSPORT_CHUNKS] = WEIGHTS_CHUNKS};
    const struct weights_settings *weights = &recipe->weights;
    *options = (struct weight_options){.transport = transports[weights->transport],
                                       .delta = weights->delta,
                                       .fanout = (int)weights->fanout,
                                       .deadline_ms = (int64_t)(weights->deadline_s * 1000.0)};
}

static struct surrogate_options surrogate_from(const struct objective_settings *objective)
{
    static const enum clipping clippings[] = {[RECIPE_CLIPPING_PPO] = CLIP_PPO,
                                              [RECIPE_CLIPPING_CISPO] = CLIP_CISPO,
                                              [RECIPE_CLIPPING_AIPO] = CLIP_AIPO,
                                              [RECIPE_CLIPPING_NONE] = CLIP_NONE};
    return (struct surrogate_options){.clipping = clippings[objective->clipping],
                                      .clip_low = (float)objective->clip_low,
                                      .clip_high = (float)objective->clip_high,
                                      .dual_clip = (float)objective->dual_clip,
                                      .ratio_max = (float)objective->ratio_max};
}

static struct importance_options importance_from(const struct objective_settings *objective)
{
    static const enum off_policy corrections[] = {
        [RECIPE_OFF_POLICY_BEHAVIOR_RATIO] = OFF_POLICY_BEHAVIOR_RATIO,
        [RECIPE_OFF_POLICY_DECOUPLED] = OFF_POLICY_DECOUPLED,
        [RECIPE_OFF_POLICY_TRUNCATED_SEQUENCE] = OFF_POLICY_TRUNCATED_SEQUENCE,
        [RECIPE_OFF_POLICY_ICEPOP] = OFF_POLICY_ICEPOP,
        [RECIPE_OFF_POLICY_SEQUENCE_REJECTION] = OFF_POLICY_SEQUENCE_REJECTION,
        [RECIPE_OFF_POLICY_NONE] = OFF_POLICY_NONE};
    return (struct importance_options){.off_policy = corrections[objective->off_policy_correction],
                                       .weight_min = (float)objective->importance_weight_min,
                                       .weight_max = (float)objective->importance_weight_max,
                                       .rejection_low = (float)objective->rejection_low,
                                       .rejection_high = (float)objective->rejection_high};
}

static enum kl_estimator estimator_from(enum recipe_kl_estimator estimator)
{
    static const enum kl_estimator estimators[] = {[RECIPE_KL_K1] = KL_K1,
                                                   [RECIPE_KL_K2] = KL_K2,
                                                   [RECIPE_KL_K3] = KL_K3,
                                                   [RECIPE_KL_K3_STRAIGHT_THROUGH] =
                                                       KL_K3_STRAIGHT_THROUGH};
    return estimators[estimator];
}

void learner_options_from(struct learner_options *options, const struct recipe *recipe,
                          const char *model_directory, const char *stage_directory,
                          const char *recipe_hash)
{
    static const enum loss_aggregation aggregations[] = {
        [RECIPE_AGGREGATE_TOKEN_MEAN] = AGGREGATE_TOKEN_MEAN,
        [RECIPE_AGGREGATE_SEQUENCE_MEAN] = AGGREGATE_SEQUENCE_MEAN,
        [RECIPE_AGGREGATE_CONSTANT] = AGGREGATE_CONSTANT};
    static const enum advantage_baseline baselines[] = {
        [RECIPE_BASELINE_GROUP_MEAN] = BASELINE_GROUP_MEAN,
        [RECIPE_BASELINE_LEAVE_ONE_OUT] = BASELINE_LEAVE_ONE_OUT,
        [RECIPE_BASELINE_BATCH_MEAN] = BASELINE_BATCH_MEAN,
        [RECIPE_BASELINE_CRITIC] = BASELINE_CRITIC,
        [RECIPE_BASELINE_NONE] = BASELINE_NONE};
    static const enum advantage_scale scales[] = {[RECIPE_SCALE_GROUP_STD] = SCALE_GROUP_STD,
                                                  [RECIPE_SCALE_LEAVE_ONE_OUT_STD] =
                                                      SCALE_LEAVE_ONE_OUT_STD,
                                                  [RECIPE_SCALE_GROUP_MEAN] = SCALE_GROUP_MEAN,
                                                  [RECIPE_SCALE_BATCH_STD] = SCALE_BATCH_STD,
                                                  [RECIPE_SCALE_NONE] = SCALE_NONE};
    const struct rl_settings *rl = &recipe->rl;
    const struct objective_settings *objective = &rl->objective;
    memset(options, 0, sizeof *options);
    options->recipe_hash = recipe_hash;
    options->model_directory = model_directory;
    options->stage_directory = stage_directory;
    options->steps = rl->steps;
    options->checkpoint_steps = rl->checkpoint_steps;
    options->keep_checkpoints = (int)rl->keep_checkpoints;
    options->temperature = (float)rl->sampling.temperature;
    options->updates_per_batch = (int32_t)rl->updates_per_batch;
    options->mask_truncated = rl->mask_truncated;
    options->truncated_behavior = rl->truncated_sampling == RECIPE_TRUNCATED_IMPORTANCE;
    options->keep_support = recipe_keeps_support(recipe);
    options->advantage = (struct advantage_options){
        .baseline = baselines[objective->baseline],
        .scale = scales[objective->scale],
        .gamma = objective->gamma,
        .lambda = objective->gae_lambda,
        .kl_in_reward = objective->kl_coef > 0.0 && objective->kl_in == RECIPE_KL_IN_REWARD};
    options->loss = (struct policy_loss_options){
        .ratio = objective->ratio == RECIPE_RATIO_SEQUENCE ? RATIO_SEQUENCE : RATIO_TOKEN,
        .surrogate = surrogate_from(objective),
        .importance = importance_from(objective),
        .aggregation = aggregations[objective->aggregation],
        .constant_tokens = (int32_t)rl->sampling.max_completion_tokens,
        .kl_coef = (float)objective->kl_coef,
        .kl_estimator = estimator_from(objective->kl_estimator),
        .entropy_coef = (float)objective->entropy_coef,
        .value_coef = (float)objective->value_coef,
        .value_clip = (float)objective->value_clip,
    };
    options->kl_target = objective->kl_target;
    options->kl_horizon = objective->kl_horizon;
    options->guards = (struct guard_options){.mismatch = rl->guards.mismatch,
                                             .gradient_spike = rl->guards.gradient_spike,
                                             .entropy_floor = rl->guards.entropy_floor,
                                             .reward_drop = rl->guards.reward_drop,
                                             .behavior_drift = rl->guards.behavior_drift,
                                             .kl_limit = objective->kl_limit,
                                             .good_after = rl->guards.good_after,
                                             .rollbacks_max = rl->guards.rollbacks_max,
                                             .checkpoint_steps = rl->checkpoint_steps};
    weight_options_from(&options->weights, recipe);
    options->publish_thread = true;
    trainer_from(&options->trainer, recipe, &rl->optimizer, rl->micro_batch_tokens,
                 rl->max_prompt_tokens + rl->sampling.max_completion_tokens);
    options->trainer.checkpoint_layers =
        rl->activation_checkpointing == RECIPE_ACTIVATIONS_BY_LAYER;
    options->trainer.optimizer.total_steps = rl->steps * rl->updates_per_batch;
    options->trainer.gradient_shards = (int32_t)rl->gradient_shards;
    lora_options_from(&options->trainer.lora, recipe, &rl->lora);
    options->trainer.value_head = objective->baseline == RECIPE_BASELINE_CRITIC;
    options->trainer.value_learning_rate = objective->value_learning_rate;
}

const char *learner_reference(const struct recipe *recipe, const char *model_directory)
{
    const struct objective_settings *objective = &recipe->rl.objective;
    if (objective->kl_coef <= 0.0 && objective->kl_limit <= 0.0)
        return NULL;
    return objective->kl_reference == RECIPE_KL_BASE ? recipe->model.path : model_directory;
}

#include "infra/config/preflight.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "infra/base/file.h"

struct check {
    const struct recipe *recipe;
    struct problems *problems;
};

__attribute__((format(printf, 3, 4))) static void fail(const struct check *check, const char *key,
                                                       const char *format, ...)
{
    char message[1024];
    va_list args;
    if (place_list_is_bad(&check->recipe->places, key))
        return; /* the value checked here is not the one that was given */
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    struct source_place place = recipe_place_of(check->recipe, key);
    problems_add(check->problems, &place, "%s: %s", key, message);
}

static void check_name(const struct check *check)
{
    const char *name = check->recipe->name;
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                  "._-";
    if (*name == '\0' || *name == '.' || *name == '-' || strlen(name) > 64 ||
        strspn(name, allowed) != strlen(name))
        fail(check, "name",
             "expected 1 to 64 letters, digits, dots, dashes or underscores, not starting with a "
             "dot or dash, got '%.80s'",
             name);
    if (strlen(check->recipe->output_dir) > HONE_PATH_MAX / 2)
        fail(check, "output_dir", "longer than %d bytes", HONE_PATH_MAX / 2);
}

static void check_stages(const struct check *check)
{
    const struct string_list *stages = &check->recipe->stages;
    const char *key = "stages";
    bool has_rl = place_list_is_bad(&check->recipe->places, key);
    if (stages->count == 0)
        fail(check, key, "at least one of sft, rl, dpo");
    for (int32_t i = 0; i < stages->count; i++) {
        for (int32_t j = 0; j < i; j++) {
            if (strcmp(stages->items[i], stages->items[j]) == 0)
                fail(check, key, "'%s' is listed twice", stages->items[i]);
        }
        has_rl = has_rl || strcmp(stages->items[i], "rl") == 0;
        if (strcmp(stages->items[i], "dpo") == 0 && !has_rl &&
            check->recipe->dpo.source == RECIPE_PAIRS_RL_LOG && *check->recipe->dpo.log == '\0')
            fail(check, "dpo.source",
                 "rl_log needs rl among the stages, before dpo, or dpo.log of another run");
    }
}

static void check_model(const struct check *check)
{
    const struct model_settings *model = &check->recipe->model;
    const struct init_settings *init = &model->init;
    if (init->method == RECIPE_INIT_NONE) {
        if (*model->path == '\0')
            fail(check, "model.path", "a checkpoint directory is needed (or model.init)");
        return;
    }
    if (*model->path != '\0')
        fail(check, "model.path", "cannot be given together with model.init.method: random");
    if (*init->tokenizer == '\0')
        fail(check, "model.init.tokenizer", "a new model needs a directory with tokenizer.json");
    if (init->heads % init->kv_heads != 0)
        fail(check, "model.init.kv_heads", "%lld does not divide heads (%lld)",
             (long long)init->kv_heads, (long long)init->heads);
    if (init->head_dim % 2 != 0)
        fail(check, "model.init.head_dim", "must be even");
}

static void check_optimizer(const struct check *check, const char *stage,
                            const struct optimizer_settings *optimizer)
{
    char key[64];
    snprintf(key, sizeof key, "%s.optimizer.beta2", stage);
    if (optimizer->moments_dtype == RECIPE_BFLOAT16 && optimizer->beta2 > 0.99)
        fail(check, key,
             "%g with moments_dtype: bfloat16 leaves the second moment where it is; at most 0.99",
             optimizer->beta2);
}

static void check_lora(const struct check *check, const char *stage,
                       const struct lora_settings *lora)
{
    char key[64];
    snprintf(key, sizeof key, "%s.lora.targets", stage);
    if (lora->rank > 0 && lora->targets.count == 0)
        fail(check, key, "with a rank of %lld at least one weight needs adapters",
             (long long)lora->rank);
}

static void check_exploration(const struct check *check)
{
    const struct exploration_settings *exploration = &check->recipe->sft.exploration;
    if (exploration->steps == 0)
        return;
    if (exploration->k > exploration->samples)
        fail(check, "sft.exploration.k", "%lld is more than sft.exploration.samples (%lld)",
             (long long)exploration->k, (long long)exploration->samples);
    if (check->recipe->rl.data.path.count == 0)
        fail(check, "sft.exploration.steps", "pass@k is measured on rl.data, which has no files");
    if (check->recipe->reward.parts.count == 0)
        fail(check, "sft.exploration.steps",
             "pass@k is measured with reward.parts: there are none");
}

static void check_sft(const struct check *check)
{
    const struct sft_settings *sft = &check->recipe->sft;
    check_optimizer(check, "sft", &sft->optimizer);
    check_lora(check, "sft", &sft->lora);
    check_exploration(check);
    bool judged =
        sft->prune.method != RECIPE_PRUNE_NONE && sft->prune.method != RECIPE_PRUNE_RANDOM;
    if (judged && *sft->prune.judge == '\0' && check->recipe->model.init.method != RECIPE_INIT_NONE)
        fail(check, "sft.prune.judge", "a new model judges nothing: name a checkpoint");
    if (sft->prune.method == RECIPE_PRUNE_PROGRESS && *sft->prune.learned == '\0')
        fail(check, "sft.prune.learned", "method: progress compares with a checkpoint: name it");
    if (sft->prune.method == RECIPE_PRUNE_VOTES && strstr(sft->prune.question, "{prompt}") == NULL)
        fail(check, "sft.prune.question", "has no {prompt}: every row would be the same question");
    if (sft->data.path.count == 0)
        fail(check, "sft.data.path", "no data files given");
    if (sft->micro_batch_tokens < sft->max_length)
        fail(check, "sft.micro_batch_tokens", "%lld is less than sft.max_length (%lld)",
             (long long)sft->micro_batch_tokens, (long long)sft->max_length);
    if (sft->batch_tokens < sft->max_length)
        fail(check, "sft.batch_tokens", "%lld is less than sft.max_length (%lld)",
             (long long)sft->batch_tokens, (long long)sft->max_length);
}

static void check_reward(const struct check *check)
{
    const struct reward_part_list *parts = &check->recipe->reward.parts;
    if (parts->count == 0)
        fail(check, "reward.parts", "at least one part is needed, e.g. [{verifier: exact}]");
    for (int32_t i = 0; i < parts->count; i++) {
        const struct reward_part_settings *part = &parts->items[i];
        char key[64];
        bool is_command = strcmp(part->verifier, "command") == 0;
        snprintf(key, sizeof key, "reward.parts.%d.command", i);
        if (is_command && part->command.count == 0)
            fail(check, key, "verifier: command needs a program to run");
        if (!is_command && part->command.count > 0)
            fail(check, key, "is run only with verifier: command, not '%.60s'", part->verifier);
        if (!is_command && strcmp(part->verifier, "overlong") == 0 &&
            check->recipe->reward.overlong_buffer_tokens < 1)
            fail(check, "reward.overlong_buffer_tokens", "the verifier overlong needs at least 1");
        snprintf(key, sizeof key, "reward.parts.%d.name", i);
        if (strlen(part->name) >= 32)
            fail(check, key, "longer than 31 bytes");
        for (int32_t j = 0; j < i; j++) {
            if (strcmp(part->name, parts->items[j].name) == 0)
                fail(check, key, "'%.60s' is also the name of part %d", part->name, j);
        }
    }
}

/* Values that contradict each other, and values that nothing reads. */
static void check_objective(const struct check *check)
{
    const struct rl_settings *rl = &check->recipe->rl;
    const struct objective_settings *o = &rl->objective;
    bool of_group = recipe_baseline_is_of_group(o->baseline);
    bool group_scale = o->scale != RECIPE_SCALE_BATCH_STD && o->scale != RECIPE_SCALE_NONE;
    if ((of_group || group_scale) && rl->group_size < 2)
        fail(check, "rl.group_size", "a baseline or scale of the group needs at least 2");
    if (group_scale && !of_group)
        fail(check, "rl.objective.scale",
             "is of the group, but the baseline is not: batch_std or none");
    if (!of_group && rl->drop_zero_advantage)
        fail(check, "rl.drop_zero_advantage",
             "groups with equal rewards teach something when the baseline is not of the group");
    if (of_group && o->gamma < 1)
        fail(check, "rl.objective.gamma", "a baseline of the group has one advantage a trajectory");
    if (o->dual_clip != 0 && o->dual_clip <= 1)
        fail(check, "rl.objective.dual_clip", "must be above 1, or 0 for off");
    if (o->dual_clip != 0 && o->clipping != RECIPE_CLIPPING_PPO)
        fail(check, "rl.objective.dual_clip", "is part of clipping: ppo");
    if (o->kl_target > 0 && o->kl_coef <= 0)
        fail(check, "rl.objective.kl_target", "needs a kl_coef above 0 to start from");
}

#define SUPPORT_ID_BYTES  2.0   /* of an id among those of a large vocabulary, about */
#define SUPPORT_BYTES_MAX 128e6 /* half of the largest message */

/* Samples of a truncated distribution are not the policy's own. */
static void check_truncation(const struct check *check)
{
    const struct rl_settings *rl = &check->recipe->rl;
    const struct sampling_settings *sampling = &rl->sampling;
    const char *key = sampling->top_p < 1   ? "rl.sampling.top_p"
                      : sampling->top_k > 0 ? "rl.sampling.top_k"
                      : sampling->min_p > 0 ? "rl.sampling.min_p"
                                            : NULL;
    if (key && rl->truncated_sampling == RECIPE_TRUNCATED_REFUSE)
        fail(check, key,
             "trains on samples of a truncated distribution: leave it off, or set "
             "rl.truncated_sampling: same_support to cut the learner's distributions alike, or "
             "importance to take ratios to that distribution");
    if (!recipe_keeps_support(check->recipe))
        return;
    if (sampling->top_k == 0)
        fail(check, "rl.sampling.top_k",
             "with rl.truncated_sampling: same_support it bounds the ids that are kept with each "
             "token: set it (top_p and min_p then cut further)");
    double tokens = (double)rl->prompts_per_step * (double)rl->group_size *
                    (double)sampling->max_completion_tokens;
    if (tokens * (double)sampling->top_k * SUPPORT_ID_BYTES > SUPPORT_BYTES_MAX)
        fail(check, "rl.sampling.top_k",
             "%lld ids with each of up to %.0f tokens of a batch are more than the %d MB that a "
             "batch may have of them (rl.truncated_sampling: same_support): lower it",
             (long long)sampling->top_k, tokens, (int)(SUPPORT_BYTES_MAX / 1e6));
}

static void check_prompts(const struct check *check, const char *key,
                          const struct data_settings *data)
{
    if (data->system_prompts.count > 0 && data->chat == RECIPE_CHAT_NEVER)
        fail(check, key, "a system prompt needs a conversation: chat is never");
}

static void check_filter(const struct check *check)
{
    const struct filter_settings *filter = &check->recipe->rl.filter;
    if (filter->mode == RECIPE_FILTER_OFF)
        return;
    if (filter->low > filter->high_min || filter->high_min > filter->high)
        fail(check, "rl.filter.high_min", "expected low <= high_min <= high, got %g, %g, %g",
             filter->low, filter->high_min, filter->high);
    if (filter->hard_share + filter->easy_share >= 1.0)
        fail(check, "rl.filter.hard_share",
             "with easy_share (%g) nothing is left for prompts in the band", filter->easy_share);
    for (int32_t i = 0; i < filter->mix.count; i++) {
        const char *item = filter->mix.items[i], *equals = strrchr(item, '=');
        char *end = NULL;
        double factor = equals != NULL ? strtod(equals + 1, &end) : 0.0;
        if (equals == NULL || equals == item || *end != '\0' || !(factor > 0.0 && factor <= 1e6))
            fail(check, "rl.filter.mix",
                 "expected CAPABILITY=FACTOR with a factor above 0, got '%.80s'", item);
    }
}

static void check_rl(const struct check *check)
{
    const struct rl_settings *rl = &check->recipe->rl;
    int64_t longest = rl->max_prompt_tokens + rl->sampling.max_completion_tokens;
    check_optimizer(check, "rl", &rl->optimizer);
    check_lora(check, "rl", &rl->lora);
    if (rl->data.path.count == 0)
        fail(check, "rl.data.path", "no data files given");
    if (rl->micro_batch_tokens < longest)
        fail(check, "rl.micro_batch_tokens",
             "%lld is less than rl.max_prompt_tokens + rl.sampling.max_completion_tokens (%lld)",
             (long long)rl->micro_batch_tokens, (long long)longest);
    if (rl->updates_per_batch > rl->prompts_per_step)
        fail(check, "rl.updates_per_batch", "%lld is more than rl.prompts_per_step (%lld)",
             (long long)rl->updates_per_batch, (long long)rl->prompts_per_step);
    if (rl->guards.good_after > rl->checkpoint_steps * rl->keep_checkpoints)
        fail(check, "rl.guards.good_after",
             "%lld is more than checkpoint_steps x keep_checkpoints (%lld): no checkpoint lives to "
             "be good",
             (long long)rl->guards.good_after,
             (long long)(rl->checkpoint_steps * rl->keep_checkpoints));
    if (rl->eval_steps % rl->checkpoint_steps != 0)
        fail(check, "rl.eval_steps", "%lld is no multiple of rl.checkpoint_steps (%lld)",
             (long long)rl->eval_steps, (long long)rl->checkpoint_steps);
    check_objective(check);
    check_truncation(check);
    check_filter(check);
    check_prompts(check, "rl.data.system_prompts", &rl->data);
    if (rl->sampling.stop.count > 8)
        fail(check, "rl.sampling.stop", "at most 8 stops, got %d", rl->sampling.stop.count);
}

static void check_dpo(const struct check *check)
{
    const struct dpo_settings *dpo = &check->recipe->dpo;
    check_optimizer(check, "dpo", &dpo->optimizer);
    check_lora(check, "dpo", &dpo->lora);
    bool smooths = dpo->loss == RECIPE_DPO_SIGMOID || dpo->loss == RECIPE_DPO_ROBUST;
    if (dpo->label_smoothing > 0 && !smooths)
        fail(check, "dpo.label_smoothing", "is part of loss: sigmoid or robust");
    if (dpo->label_smoothing >= 0.5 && dpo->loss == RECIPE_DPO_ROBUST)
        fail(check, "dpo.label_smoothing", "must be below 0.5 with loss: robust");
    if (dpo->source == RECIPE_PAIRS_FILE && dpo->data.path.count == 0)
        fail(check, "dpo.data.path", "no data files given (or dpo.source: rl_log)");
    if (dpo->source == RECIPE_PAIRS_RL_LOG && dpo->data.path.count > 0)
        fail(check, "dpo.data.path", "is read only with dpo.source: file");
    if (dpo->source == RECIPE_PAIRS_RL_LOG && *dpo->log == '\0' &&
        check->recipe->log.keep != RECIPE_KEEP_ALL)
        fail(check, "log.keep",
             "dpo.source: rl_log mines trajectories that this deletes: keep all");
    if (dpo->source == RECIPE_PAIRS_FILE && dpo->capabilities.count > 0)
        fail(check, "dpo.capabilities", "is read only with dpo.source: rl_log");
    if (dpo->anchor_share > 0 && dpo->capabilities.count == 0)
        fail(check, "dpo.anchor_share", "anchors a slice: name its dpo.capabilities");
    bool known = *dpo->part == '\0';
    for (int32_t i = 0; i < check->recipe->reward.parts.count; i++)
        known = known || strcmp(check->recipe->reward.parts.items[i].name, dpo->part) == 0;
    if (dpo->source == RECIPE_PAIRS_RL_LOG && !known)
        fail(check, "dpo.part", "no part of the reward is called '%.60s'", dpo->part);
    if (dpo->micro_batch_tokens < 2 * dpo->max_length)
        fail(check, "dpo.micro_batch_tokens",
             "%lld does not hold a pair: twice dpo.max_length is %lld",
             (long long)dpo->micro_batch_tokens, (long long)(2 * dpo->max_length));
}

static void check_eval(const struct check *check)
{
    const struct eval_settings *eval = &check->recipe->eval;
    if (eval->k > eval->samples)
        fail(check, "eval.k", "%lld is more than eval.samples (%lld)", (long long)eval->k,
             (long long)eval->samples);
    if (eval->sampling.stop.count > 8)
        fail(check, "eval.sampling.stop", "at most 8 stops, got %d", eval->sampling.stop.count);
    if (eval->sampling.temperature == 0 && eval->samples > 1)
        fail(check, "eval.samples", "greedy decoding gives the same answer %lld times",
             (long long)eval->samples);
}

static void check_ranks(const struct check *check)
{
    const struct pool_settings *learner = &check->recipe->pools.learner;
    int64_t workers = learner->workers > 0 ? learner->workers : 1;
    int64_t shards = check->recipe->rl.gradient_shards;
    if (shards % workers != 0)
        fail(
            check, "pools.learner.workers",
            "%lld learners do not divide rl.gradient_shards (%lld), the parts of a batch that they "
            "share: set it to %lld, say",
            (long long)workers, (long long)shards, (long long)workers);
    if (learner->remote && workers > 1)
        fail(check, "pools.learner.workers", "a learner that joins from elsewhere is one process");
}

static void check_wire(const struct check *check)
{
    const struct wire_settings *wire = &check->recipe->wire;
    const struct pools_settings *pools = &check->recipe->pools;
    const char *const keys[] = {"wire.hub", "wire.weights"};
    const char *const values[] = {wire->hub, wire->weights};
    for (int i = 0; i < 2; i++) {
        if (*values[i] != '\0' && !text_starts_with(values[i], "tcp://"))
            fail(check, keys[i], "expected tcp://ADDRESS:PORT, got '%.80s'", values[i]);
        if (*values[i] != '\0' && *wire->keys == '\0')
            fail(check, keys[i], "tcp is not opened without wire.keys: `hone keys DIR` makes them");
    }
    if (text_starts_with(wire->weights, "tcp://*") ||
        text_starts_with(wire->weights, "tcp://0.0.0.0"))
        fail(check, "wire.weights", "workers dial it as it is written: name one address");
    if ((pools->learner.remote || pools->actors.remote || pools->scorers.remote) &&
        *wire->hub == '\0')
        fail(check, "wire.hub", "workers that join need an endpoint to join at");
}

/* Evaluation happens when there is something to evaluate on. */
static bool has_eval(const struct recipe *recipe)
{
    return recipe->eval.enabled && recipe->eval.data.path.count > 0;
}

static void check_warmup(const struct check *check)
{
    const struct recipe *recipe = check->recipe;
    if (recipe_has_stage(recipe, "rl") && recipe->rl.optimizer.warmup_steps > recipe->rl.steps)
        fail(check, "rl.optimizer.warmup_steps", "%lld is more than rl.steps (%lld)",
             (long long)recipe->rl.optimizer.warmup_steps, (long long)recipe->rl.steps);
}

void preflight_values(const struct recipe *recipe, struct problems *problems)
{
    struct check check = {.recipe = recipe, .problems = problems};
    check_name(&check);
    check_stages(&check);
    check_model(&check);
    if (recipe_has_stage(recipe, "sft"))
        check_sft(&check);
    if (recipe_has_stage(recipe, "rl")) {
        check_rl(&check);
        check_ranks(&check);
    }
    if (recipe_has_stage(recipe, "rl") || has_eval(recipe))
        check_reward(&check);
    if (recipe_has_stage(recipe, "dpo"))
        check_dpo(&check);
    if (has_eval(recipe))
        check_eval(&check);
    check_warmup(&check);
    check_wire(&check);
}

static void check_directory(const struct check *check, const char *key, const char *path,
                            const char *const *needed)
{
    char file[2 * HONE_PATH_MAX];
    if (*path == '\0')
        return;
    if (strlen(path) >= HONE_PATH_MAX) {
        fail(check, key, "longer than %d bytes", HONE_PATH_MAX);
    } else if (!file_exists(path)) {
        fail(check, key, "no such directory: %s", path);
    } else if (!file_is_directory(path)) {
        fail(check, key, "not a directory: %s", path);
    } else {
        for (int i = 0; needed[i]; i++) {
            if (!file_exists(path_join(file, sizeof file, path, needed[i])))
                fail(check, key, "%s has no %s", path, needed[i]);
        }
    }
}

static void check_file(const struct check *check, const char *key, const char *path)
{
    if (!file_exists(path))
        fail(check, key, "no such file: %s", path);
    else if (file_is_directory(path))
        fail(check, key, "%s is a directory, not a file", path);
    else if (access(path, R_OK) != 0)
        fail(check, key, "%s is not readable", path);
}

static void check_data_files(const struct check *check, const char *stage,
                             const struct data_settings *data)
{
    for (int32_t i = 0; i < data->path.count; i++) {
        char key[64];
        snprintf(key, sizeof key, "%s.data.path", stage);
        check_file(check, key, data->path.items[i]);
    }
}

void preflight_check(const struct recipe *recipe, struct problems *problems)
{
    static const char *const model_files[] = {"config.json", NULL};
    static const char *const tokenizer_files[] = {"tokenizer.json", NULL};
    struct check check = {.recipe = recipe, .problems = problems};
    if (recipe->model.init.method == RECIPE_INIT_NONE)
        check_directory(&check, "model.path", recipe->model.path, model_files);
    else
        check_directory(&check, "model.init.tokenizer", recipe->model.init.tokenizer,
                        tokenizer_files);
    static const char *const key_files[] = {"hub.public", NULL};
    check_directory(&check, "wire.keys", recipe->wire.keys, key_files);
    if (recipe_has_stage(recipe, "sft"))
        check_data_files(&check, "sft", &recipe->sft.data);
    if (recipe_has_stage(recipe, "sft")) {
        check_directory(&check, "sft.prune.judge", recipe->sft.prune.judge, model_files);
        check_directory(&check, "sft.prune.learned", recipe->sft.prune.learned, model_files);
    }
    if (recipe_has_stage(recipe, "rl"))
        check_data_files(&check, "rl", &recipe->rl.data);
    if (recipe_has_stage(recipe, "rl") && recipe->rl.filter.mode != RECIPE_FILTER_OFF &&
        *recipe->rl.filter.pools != '\0')
        check_file(&check, "rl.filter.pools", recipe->rl.filter.pools);
    static const char *const log_files[] = {NULL};
    if (recipe_has_stage(recipe, "dpo"))
        check_directory(&check, "dpo.log", recipe->dpo.log, log_files);
    if (recipe_has_stage(recipe, "dpo") && recipe->dpo.source == RECIPE_PAIRS_FILE)
        check_data_files(&check, "dpo", &recipe->dpo.data);
    if (recipe->eval.enabled)
        check_data_files(&check, "eval", &recipe->eval.data);
}

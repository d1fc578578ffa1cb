#include "commands/workers.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "actors/actor_stage.h"
#include "actors/engine_plan.h"
#include "commands/measure/critique.h"
#include "commands/measure/evaluate.h"
#include "commands/measure/pools_file.h"
#include "commands/prompts.h"
#include "commands/stage_options.h"
#include "commands/stages.h"
#include "curriculum/curriculum_stage.h"
#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/config/problem.h"
#include "infra/launch/stack_dump.h"
#include "infra/telemetry/metrics.h"
#include "infra/train/rank_group.h"
#include "infra/wire/endpoint.h"
#include "learner/rank_stage.h"
#include "reward/scorer_stage.h"

#define VOTES_FILE "sft/votes.jsonl" /* of the run directory */

/* ---- the wire ---- */

/* Does this worker meet others over tcp? A worker that joins does; of the run's own, who listens
 * there, and actors whose learner is elsewhere. */
static bool needs_keys(const struct worker *worker)
{
    const struct recipe *recipe = &worker->recipe;
    switch (worker->role) {
    case WORKER_CURRICULUM:
        return *recipe->wire.hub != '\0';
    case WORKER_LEARNER:
        return *recipe->wire.weights != '\0';
    case WORKER_ACTOR:
        return recipe->pools.learner.remote;
    case WORKER_SCORER:
    case WORKER_OFFLINE:
        break;
    }
    return false;
}

/* Keys must not end up in a core file; a listener needs descriptors for whoever knocks. */
static int guard_process(void)
{
    struct rlimit none = {0, 0}, files;
    int fd = open("/proc/self/coredump_filter", O_WRONLY | O_CLOEXEC);
    if (setrlimit(RLIMIT_CORE, &none) < 0)
        return error_errno("setrlimit(RLIMIT_CORE)");
    /* Where cores go to a program the limit does not count, but what is left out still is. */
    if (fd < 0 || write(fd, "0", 1) != 1)
        log_warn("cannot keep memory out of core files: %s", strerror(errno));
    if (fd >= 0)
        close(fd);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    return 0;
}

static int hold_keys(struct worker *worker, const char *directory)
{
    static const Hone__Role roles[] = {[WORKER_CURRICULUM] = HONE__ROLE__ROLE_CURRICULUM,
                                       [WORKER_ACTOR] = HONE__ROLE__ROLE_ACTOR,
                                       [WORKER_SCORER] = HONE__ROLE__ROLE_SCORER,
                                       [WORKER_LEARNER] = HONE__ROLE__ROLE_LEARNER};
    struct keys keys;
    const char *name = worker->role == WORKER_CURRICULUM ? "hub" : worker->name;
    int rc = guard_process();
    if (rc == 0)
        rc = keys_load(&keys, directory, name);
    if (rc == 0 && keys.own.role != roles[worker->role]) {
        rc = error_set(HONE_EINVAL, "the name and the key are for the role %s, not for %s",
                       role_name(keys.own.role), role_name(roles[worker->role]));
        keys_clear(&keys);
    }
    if (rc < 0)
        return error_prefix("keys of %s", worker->name);
    wire_context_secure(worker->context, &keys);
    keys_clear(&keys);
    return 0;
}

static void add_endpoint(char *list, size_t capacity, const char *endpoint)
{
    size_t length = strlen(list);
    if (*endpoint != '\0')
        snprintf(list + length, capacity - length, "%s%s", length > 0 ? " " : "", endpoint);
}

/* Endpoints and keys of a worker of this run directory. */
static int open_wire(struct worker *worker)
{
    const struct wire_settings *wire = &worker->recipe.wire;
    char *hub = worker->hub_endpoint, *weights = worker->weights_endpoint;
    run_directory_endpoint(&worker->run, hub, sizeof worker->hub_endpoint, "hub");
    run_directory_endpoint(&worker->run, weights, sizeof worker->weights_endpoint, "weights");
    if (worker->role == WORKER_CURRICULUM)
        add_endpoint(hub, sizeof worker->hub_endpoint, wire->hub);
    if (worker->role == WORKER_LEARNER)
        add_endpoint(weights, sizeof worker->weights_endpoint, wire->weights);
    return needs_keys(worker) ? hold_keys(worker, wire->keys) : 0;
}

/* ---- life cycle ---- */

/* What every worker has, wherever it runs. */
static void worker_begin(struct worker *worker, enum worker_role role, int index, const char *name)
{
    memset(worker, 0, sizeof *worker);
    worker->role = role;
    worker->index = index;
    worker->run.lock_fd = -1;
    worker->context = wire_context_create();
    snprintf(worker->name, sizeof worker->name, "%s", name);
    log_set_role(worker->name);
    stack_dump_install();
}

static int worker_pin(struct worker *worker)
{
    int workers = worker_count(&worker->recipe, worker->role);
    struct cpu_set_list cpus;
    char where[256];
    if (worker->index >= workers)
        return error_set(HONE_EINVAL, "--index %d: the recipe has %d of these workers",
                         worker->index, workers);
    int rc =
        worker_placement(&worker->recipe, worker->role, worker->index, &cpus, &worker->threads);
    if (rc == 0)
        rc = placement_pin(&cpus);
    if (rc < 0)
        return rc;
    placement_format(&cpus, where, sizeof where);
    log_info("pinned to cpu %s, %d compute thread%s", where, worker->threads,
             worker->threads == 1 ? "" : "s");
    return 0;
}

/* A worker of a run directory. */
static int worker_open(struct worker *worker, const char *run_path, enum worker_role role,
                       int index, const char *name)
{
    char path[HONE_PATH_MAX];
    struct problems problems;
    worker_begin(worker, role, index, name);
    int rc = run_directory_attach(&worker->run, run_path);
    if (rc < 0)
        return rc;
    problems_init(&problems);
    rc = recipe_load(&worker->recipe, path_join(path, sizeof path, worker->run.path, "recipe.yaml"),
                     NULL, 0, &problems);
    problems_release(&problems);
    if (rc == 0)
        rc = worker_pin(worker);
    bool silent = role == WORKER_LEARNER && index > 0; /* a rank of the learner meets nobody else */
    return rc < 0 || silent ? rc : open_wire(worker);
}

/* "actor-HOST-0": the same after a restart, another on every machine. */
static void name_worker(const char *role, int index, char name[64])
{
    char host[40] = "";
    (void)gethostname(host, sizeof host - 1);
    for (char *at = host; *at != '\0'; ++at)
        if (!isalnum((unsigned char)*at))
            *at = '-';
    snprintf(name, 64, "%s-%s-%d", role, host, index);
}

/* A worker that joins a run from elsewhere. Files that it makes go to the recipe's output_dir. */
static int worker_join(struct worker *worker, const struct worker_start *start,
                       enum worker_role role, const char *word)
{
    char name[64];
    name_worker(word, start->index, name);
    if (role == WORKER_LEARNER)
        snprintf(name, sizeof name, "%s", word);
    worker_begin(worker, role, start->index, start->name != NULL ? start->name : name);
    worker->recipe = *start->recipe;
    worker->model = start->model;
    snprintf(worker->run.path, sizeof worker->run.path, "%s", worker->recipe.output_dir);
    recipe_hash(&worker->recipe, worker->run.recipe_hash);
    snprintf(worker->hub_endpoint, sizeof worker->hub_endpoint, "%s", start->join);
    add_endpoint(worker->weights_endpoint, sizeof worker->weights_endpoint,
                 worker->recipe.wire.weights);
    int rc = worker_pin(worker);
    if (rc == 0)
        rc = hold_keys(worker, start->keys);
    if (rc == 0)
        log_info("%s joins the run at %s, recipe %.16s", worker->name, start->join,
                 worker->run.recipe_hash);
    return rc;
}

static int worker_enter(struct worker *worker, const struct worker_start *start,
                        enum worker_role role, const char *word)
{
    char name[64];
    if (start->run_path == NULL)
        return worker_join(worker, start, role, word);
    snprintf(name, sizeof name, "%s-%d", word, start->index);
    return worker_open(worker, start->run_path, role, start->index,
                       role == WORKER_LEARNER && start->index == 0 ? word : name);
}

static void worker_close(struct worker *worker)
{
    wire_context_destroy(worker->context);
    recipe_release(&worker->recipe);
    run_directory_close(&worker->run);
}

/* What the RL stage starts from. */
static int rl_model(const struct worker *worker, char *buffer, size_t capacity)
{
    if (worker->model == NULL)
        return stage_input_model(&worker->recipe, &worker->run, "rl", buffer, capacity);
    snprintf(buffer, capacity, "%s", worker->model);
    return 0;
}

static int worker_metrics(const struct worker *worker, const char *name, struct metrics **metrics)
{
    char relative[128], path[HONE_PATH_MAX];
    snprintf(relative, sizeof relative, "metrics/%s.jsonl", name);
    return metrics_open(metrics, run_directory_file(&worker->run, path, sizeof path, relative),
                        clock_system());
}

/* What the processes of the RL stage share: the model it starts from, tokenizer and prompts. */
struct rl_inputs {
    char model_directory[HONE_PATH_MAX];
    struct tokenizer *tokenizer;
    struct prompt_set set;
};

static int rl_inputs_open(struct rl_inputs *inputs, const struct worker *worker)
{
    memset(inputs, 0, sizeof *inputs);
    int rc = rl_model(worker, inputs->model_directory, sizeof inputs->model_directory);
    if (rc == 0)
        rc = tokenizer_load(&inputs->tokenizer, inputs->model_directory);
    if (rc == 0)
        rc = prompt_set_load(&inputs->set, &worker->recipe.rl.data,
                             chat_layout_from(&worker->recipe), inputs->tokenizer,
                             worker->recipe.rl.max_prompt_tokens, 0, "rl.data");
    return rc;
}

static void rl_inputs_close(struct rl_inputs *inputs)
{
    prompt_set_release(&inputs->set);
    tokenizer_free(inputs->tokenizer);
}

static int curriculum_loop(struct worker *worker, const struct rl_inputs *inputs,
                           const struct filter_options *filter, struct metrics *metrics,
                           struct metrics *workers)
{
    const struct rl_settings *rl = &worker->recipe.rl;
    struct model_config config;
    struct run_log *log = NULL;
    struct curriculum_stage *stage = NULL;
    char path[HONE_PATH_MAX], waiting[HONE_PATH_MAX];
    int rc = model_config_read(&config, inputs->model_directory);
    struct curriculum_options options = {
        .hub_endpoint = worker->hub_endpoint,
        .recipe_hash = worker->run.recipe_hash,
        .run_id = worker->run.run_id,
        .prompts = inputs->set.prompts,
        .prompt_count = inputs->set.count,
        .seed = (uint64_t)worker->recipe.seed,
        .steps = rl->steps,
        .prompts_per_step = (int32_t)rl->prompts_per_step,
        .group_size = (int32_t)rl->group_size,
        .staleness_max = (int32_t)rl->staleness_max,
        .drop_zero_advantage = rl->drop_zero_advantage,
        .refill_max = 4.0f,
        .filter = *filter,
        .lease_timeout_ms = (int64_t)(rl->lease_timeout_s * 1000.0),
        .lease_retries = (int32_t)rl->lease_retries,
        .score_retries = (int32_t)worker->recipe.reward.max_retries,
        .max_error_rate = worker->recipe.reward.max_error_rate,
        .trim = worker->recipe.log.keep != RECIPE_KEEP_ALL,
        .keep_batches = worker->recipe.log.keep_batches,
        .stall_ms = (int64_t)(worker->recipe.log.stall_s * 1000.0),
        .waiting_path =
            run_directory_file(&worker->run, waiting, sizeof waiting, "rl/waiting.json"),
        .workers = workers,
    };
    if (rc == 0)
        rc = sampling_from(&options.sampling, &rl->sampling, &config, inputs->tokenizer,
                           options.seed, "rl.sampling");
    options.sampling.keep_support = recipe_keeps_support(&worker->recipe);
    if (rc == 0)
        rc = run_log_open(&log, run_directory_file(&worker->run, path, sizeof path, "rl/log"),
                          false);
    if (rc == 0)
        rc = curriculum_stage_create(&stage, &options, log, worker->context, clock_system(),
                                     metrics);
    if (rc == 0)
        rc = stage_loop_run(stage, curriculum_stage_tick);
    curriculum_stage_destroy(stage);
    run_log_close(log);
    return rc;
}

int worker_run_curriculum(const char *run_path)
{
    struct worker worker;
    struct rl_inputs inputs = {0};
    struct metrics *metrics = NULL, *workers = NULL;
    struct filter_inputs filter = {0};
    int rc = worker_open(&worker, run_path, WORKER_CURRICULUM, 0, "curriculum");
    if (rc == 0)
        rc = rl_inputs_open(&inputs, &worker);
    if (rc == 0)
        rc = filter_inputs_open(&filter, &worker.recipe, inputs.set.prompts, inputs.set.count);
    if (rc == 0)
        rc = worker_metrics(&worker, "curriculum", &metrics);
    if (rc == 0)
        rc = worker_metrics(&worker, "workers", &workers);
    if (rc == 0)
        rc = curriculum_loop(&worker, &inputs, &filter.options, metrics, workers);
    metrics_close(workers);
    metrics_close(metrics);
    filter_inputs_close(&filter);
    rl_inputs_close(&inputs);
    worker_close(&worker);
    return rc;
}

int worker_run_actor(const struct worker_start *start)
{
    struct worker worker;
    struct compute compute = {0};
    struct model *model = NULL;
    struct actor_stage *stage = NULL;
    struct model_config config;
    char relay_name[96], relay[ENDPOINT_MAX], directory[HONE_PATH_MAX];
    int rc = worker_enter(&worker, start, WORKER_ACTOR, "actor");
    if (rc < 0)
        goto out;
    const struct rl_settings *rl = &worker.recipe.rl;
    if ((rc = rl_model(&worker, directory, sizeof directory)) < 0 ||
        (rc = model_config_read(&config, directory)) < 0 ||
        (rc = compute_open(&compute, worker.threads)) < 0)
        goto out;
    enum dtype dtype = compute_dtype(&worker.recipe);
    int64_t longest = rl->max_prompt_tokens + rl->sampling.max_completion_tokens;
    struct actor_options options = {
        .worker = worker.name,
        .hub_endpoint = worker.hub_endpoint,
        .recipe_hash = worker.run.recipe_hash,
        .engine = {.slots = (int32_t)rl->actor.slots,
                   .prefill_chunk_tokens = (int32_t)rl->actor.prefill_chunk_tokens,
                   .max_sequence_tokens =
                       (int32_t)(longest < config.max_positions ? longest : config.max_positions),
                   .recompute_kv = rl->actor.kv_on_swap == RECIPE_KV_RECOMPUTE,
                   .rng_purpose = RNG_SAMPLE},
        .progress_tokens = (int32_t)rl->actor.progress_tokens,
    };
    lora_options_from(&options.adapters, &worker.recipe, &rl->lora);
    options.model_directory = directory;
    weight_options_from(&options.weights, &worker.recipe);
    /* One that joined from elsewhere has keys to dial, not to listen: it is no relay. */
    if (start->run_path != NULL && options.weights.fanout > 0 &&
        options.weights.transport != WEIGHTS_SHARED_MEMORY) {
        snprintf(relay_name, sizeof relay_name, "%s-weights", worker.name);
        options.weights.relay_endpoint =
            run_directory_endpoint(&worker.run, relay, sizeof relay, relay_name);
    }
    if ((rc = engine_plan_announce(&config, dtype, &options.engine, worker.threads)) == 0 &&
        (rc = model_create(&model, &config, dtype, false, &compute)) == 0 &&
        (rc = actor_stage_create(&stage, &options, model, &compute, worker.context,
                                 clock_system())) == 0)
        rc = stage_loop_run(stage, actor_stage_tick);
out:
    actor_stage_destroy(stage);
    model_free(model);
    compute_close(&compute);
    worker_close(&worker);
    return rc;
}

int worker_run_scorer(const struct worker_start *start)
{
    struct worker worker;
    struct rl_inputs inputs = {0};
    struct reward_options rewards = {0};
    struct reward_set *set = NULL;
    struct scorer_stage *stage = NULL;
    int rc = worker_enter(&worker, start, WORKER_SCORER, "scorer");
    if (rc == 0)
        rc = rl_inputs_open(&inputs, &worker);
    if (rc < 0)
        goto out;
    reward_options_from(&rewards, &worker.recipe);
    if ((rc = reward_set_create(&set, rewards.parts, rewards.count, clock_system())) < 0)
        goto out;
    struct scorer_options options = {
        .worker = worker.name,
        .hub_endpoint = worker.hub_endpoint,
        .recipe_hash = worker.run.recipe_hash,
        .prompts = inputs.set.prompts,
        .prompt_count = inputs.set.count,
        .tokenizer = inputs.tokenizer,
        .credits = 64,
        .longest_tokens = (int32_t)worker.recipe.rl.sampling.max_completion_tokens,
        .overlong_buffer_tokens = (int32_t)worker.recipe.reward.overlong_buffer_tokens,
    };
    if ((rc = scorer_stage_create(&stage, &options, set, worker.context, clock_system())) == 0)
        rc = stage_loop_run(stage, scorer_stage_tick);
out:
    scorer_stage_destroy(stage);
    reward_set_destroy(set);
    reward_options_release(&rewards);
    rl_inputs_close(&inputs);
    worker_close(&worker);
    return rc;
}

/* Where the recipe has more than one learner: the group of them. */
static int open_ranks(const struct worker *worker, struct rank_group **group)
{
    char path[HONE_PATH_MAX];
    const struct rank_group_options options = {
        .directory = run_directory_file(&worker->run, path, sizeof path, "rl/ranks"),
        .name = "learner",
        .rank = worker->index,
        .count = worker_count(&worker->recipe, WORKER_LEARNER),
        .timeout_ms = RANK_TIMEOUT_MS,
        .join_ms = RANK_JOIN_MS};
    if (options.count == 1)
        return 0;
    int rc = file_make_directories(path);
    return rc < 0 ? rc : rank_group_open_local(group, &options);
}

static int run_rank(const struct learner_options *options, const struct compute *compute)
{
    struct rank_stage *stage = NULL;
    int rc = rank_stage_create(&stage, options, compute);
    if (rc == 0)
        rc = stage_loop_run(stage, rank_stage_tick);
    rank_stage_destroy(stage);
    if (rc < 0 && stage_loop_interrupted()) /* rank 0 was asked to stop too, and has */
        return error_set(HONE_EINTERRUPTED, "asked to stop");
    return rc;
}

int worker_run_learner(const struct worker_start *start)
{
    struct worker worker;
    struct compute compute = {0};
    struct metrics *metrics = NULL;
    struct learner_stage *stage = NULL;
    struct rank_group *group = NULL;
    char model[HONE_PATH_MAX], directory[HONE_PATH_MAX];
    int rc = worker_enter(&worker, start, WORKER_LEARNER, "learner");
    if (rc < 0 || (rc = rl_model(&worker, model, sizeof model)) < 0 ||
        (rc = compute_open(&compute, worker.threads)) < 0 || (rc = open_ranks(&worker, &group)) < 0)
        goto out;
    struct learner_options options;
    learner_options_from(&options, &worker.recipe, model,
                         run_directory_file(&worker.run, directory, sizeof directory, "rl"),
                         worker.run.recipe_hash);
    options.worker = worker.name;
    options.hub_endpoint = worker.hub_endpoint;
    options.hub_elsewhere = start->run_path == NULL;
    options.weights_endpoint = worker.weights_endpoint;
    options.reference_directory = learner_reference(&worker.recipe, model);
    options.trainer.group = group;
    if (worker.index > 0) {
        rc = run_rank(&options, &compute);
        goto out;
    }
    if ((rc = worker_metrics(&worker, "rl", &metrics)) == 0 &&
        (rc = learner_stage_create(&stage, &options, &compute, worker.context, clock_system(),
                                   metrics)) == 0)
        rc = stage_loop_run(stage, learner_stage_tick);
out:
    learner_stage_destroy(stage);
    rank_group_close(group);
    metrics_close(metrics);
    compute_close(&compute);
    worker_close(&worker);
    return rc;
}

/* The offline stages as a stage_tick: one optimiser step a tick, nothing to wait for. */
static int sft_tick(void *stage, struct stage_wait *wait)
{
    struct sft_progress progress;
    int rc = sft_stage_tick((struct sft_stage *)stage, &progress);
    if (rc < 0)
        return rc;
    wait->busy = true;
    wait->finished = progress.finished;
    if (progress.finished)
        log_info("sft done: %lld steps, %lld tokens, loss %.4f", (long long)progress.step,
                 (long long)progress.tokens, progress.loss);
    return 0;
}

static int dpo_tick(void *stage, struct stage_wait *wait)
{
    struct dpo_progress progress;
    int rc = dpo_stage_tick((struct dpo_stage *)stage, &progress);
    if (rc < 0)
        return rc;
    wait->busy = true;
    wait->finished = progress.finished;
    if (progress.finished)
        log_info("dpo done: %lld steps, loss %.4f, accuracy %.3f", (long long)progress.step,
                 progress.loss, progress.accuracy);
    return 0;
}

/* pass@k of a checkpoint of SFT on prompts of the RL stage, sampled as there. */
static int measure_sft(void *context, const char *directory, struct sft_measurement *measurement)
{
    const struct worker *worker = context;
    const struct rl_settings *rl = &worker->recipe.rl;
    const struct exploration_settings *asked = &worker->recipe.sft.exploration;
    const struct eval_settings settings = {.data = rl->data,
                                           .max_prompts = asked->prompts,
                                           .samples = asked->samples,
                                           .k = asked->k,
                                           .max_prompt_tokens = rl->max_prompt_tokens,
                                           .sampling = rl->sampling,
                                           .slots = rl->actor.slots};
    const struct evaluate_options options = {.settings = &settings,
                                             .data_key = "rl.data",
                                             .sampling_key = "rl.sampling",
                                             .model_directory = directory,
                                             .threads = worker->threads};
    struct evaluate_result result;
    int rc = evaluate(&worker->recipe, &options, &result);
    if (rc == 0)
        *measurement = (struct sft_measurement){result.passk, result.passk_error};
    return rc;
}

int worker_run_sft(const char *run_path)
{
    struct worker worker;
    struct compute compute = {0};
    struct metrics *metrics = NULL;
    struct sft_stage *stage = NULL;
    struct sft_options options;
    char model[HONE_PATH_MAX], directory[HONE_PATH_MAX], votes[HONE_PATH_MAX];
    int rc = worker_open(&worker, run_path, WORKER_OFFLINE, 0, "sft");
    if (rc < 0 ||
        (rc = stage_input_model(&worker.recipe, &worker.run, "sft", model, sizeof model)) < 0 ||
        (rc = sft_options_from(&options, &worker.recipe, model,
                               run_directory_file(&worker.run, directory, sizeof directory, "sft"),
                               run_directory_file(&worker.run, votes, sizeof votes, VOTES_FILE),
                               worker.run.recipe_hash)) < 0 ||
        (rc = worker_metrics(&worker, "sft", &metrics)) < 0 ||
        (rc = compute_open(&compute, worker.threads)) < 0)
        goto out;
    options.measure = measure_sft;
    options.measure_context = &worker;
    if ((rc = sft_stage_create(&stage, &options, &compute, clock_system(), metrics)) < 0)
        goto out;
    rc = stage_loop_run(stage, sft_tick);
out:
    sft_stage_destroy(stage);
    metrics_close(metrics);
    compute_close(&compute);
    worker_close(&worker);
    return rc;
}

/* The prompts that dpo.capabilities names; numbered as the RL stage numbers them. NULL: all. */
static int wanted_prompts(const struct recipe *recipe, const char *model, bool **wanted,
                          int64_t *count)
{
    struct tokenizer *tokenizer = NULL;
    struct prompt_set set = {0};
    if (recipe->dpo.source != RECIPE_PAIRS_RL_LOG || recipe->dpo.capabilities.count == 0)
        return 0;
    int rc = tokenizer_load(&tokenizer, model);
    if (rc == 0)
        rc = prompt_set_load(&set, &recipe->rl.data, chat_layout_from(recipe), tokenizer,
                             recipe->rl.max_prompt_tokens, 0, "rl.data");
    if (rc == 0)
        rc = prompt_set_with(&set, &recipe->dpo.capabilities, "dpo.capabilities", wanted);
    *count = set.count;
    prompt_set_release(&set);
    tokenizer_free(tokenizer);
    return rc;
}

int worker_run_dpo(const char *run_path)
{
    struct worker worker;
    struct compute compute = {0};
    struct metrics *metrics = NULL;
    struct dpo_stage *stage = NULL;
    struct dpo_options options;
    bool *wanted = NULL;
    char model[HONE_PATH_MAX], directory[HONE_PATH_MAX], log[HONE_PATH_MAX];
    int rc = worker_open(&worker, run_path, WORKER_OFFLINE, 0, "dpo");
    if (rc < 0 ||
        (rc = stage_input_model(&worker.recipe, &worker.run, "dpo", model, sizeof model)) < 0 ||
        (rc = dpo_options_from(&options, &worker.recipe, model,
                               run_directory_file(&worker.run, directory, sizeof directory, "dpo"),
                               run_directory_file(&worker.run, log, sizeof log, "rl/log"),
                               worker.run.recipe_hash)) < 0 ||
        (rc = wanted_prompts(&worker.recipe, model, &wanted, &options.prompt_count)) < 0 ||
        (rc = worker_metrics(&worker, "dpo", &metrics)) < 0 ||
        (rc = compute_open(&compute, worker.threads)) < 0)
        goto out;
    options.wanted = wanted;
    if ((rc = dpo_stage_create(&stage, &options, &compute, clock_system(), metrics)) < 0)
        goto out;
    rc = stage_loop_run(stage, dpo_tick);
out:
    dpo_stage_destroy(stage);
    memory_free(wanted);
    metrics_close(metrics);
    compute_close(&compute);
    worker_close(&worker);
    return rc;
}

int worker_run_eval(const char *run_path, const char *label, const char *model_directory)
{
    struct worker worker;
    struct evaluate_result result;
    char relative[128], path[HONE_PATH_MAX];
    struct text json;
    text_init(&json);
    int rc = worker_open(&worker, run_path, WORKER_OFFLINE, 0, "eval");
    if (rc < 0)
        goto out;
    snprintf(relative, sizeof relative, "eval/%s.samples.jsonl", label);
    const struct evaluate_options options = evaluate_as_asked(
        &worker.recipe, model_directory,
        run_directory_file(&worker.run, path, sizeof path, relative), worker.threads);
    rc = evaluate(&worker.recipe, &options, &result);
    if (rc < 0)
        goto out;
    evaluate_print_json(&result, &json);
    snprintf(relative, sizeof relative, "eval/%s.json", label);
    rc = file_write_atomic(run_directory_file(&worker.run, path, sizeof path, relative), json.data,
                           json.length);
    if (rc == 0)
        log_info("eval %s: pass@1 %.3f on %lld prompts", label, result.pass1,
                 (long long)result.prompts);
out:
    text_release(&json);
    worker_close(&worker);
    return rc;
}

int worker_run_critique(const char *run_path)
{
    struct worker worker;
    char model[HONE_PATH_MAX], path[HONE_PATH_MAX];
    int rc = worker_open(&worker, run_path, WORKER_OFFLINE, 0, "critique");
    if (rc == 0)
        rc = stage_input_model(&worker.recipe, &worker.run, "sft", model, sizeof model);
    if (rc == 0)
        rc = critique_rows(&worker.recipe, model,
                           run_directory_file(&worker.run, path, sizeof path, VOTES_FILE),
                           worker.threads);
    worker_close(&worker);
    return rc;
}

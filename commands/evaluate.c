#include "commands/evaluate.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

#include "actors/engine_plan.h"
#include "actors/rollout_engine.h"
#include "commands/prompts.h"
#include "commands/stage_options.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/telemetry/progress.h"

/* One evaluation: everything it opens, and what it counts. */
struct evaluation {
    const struct recipe *recipe;
    struct compute compute;
    struct tokenizer *tokenizer;
    struct model *model;
    struct rollout_engine *engine;
    struct reward_set *rewards;
    struct reward_options reward_options;
    struct prompt_set set;
    struct sampling sampling;
    struct text samples;     /* JSON lines, in prompt order */
    struct trajectory *done; /* [prompts * samples] by prompt, then sample */
    int64_t samples_per_prompt;
};

static int evaluation_open(struct evaluation *e, const char *model_directory, int threads)
{
    const struct eval_settings *settings = &e->recipe->eval;
    e->samples_per_prompt = settings->samples;
    text_init(&e->samples);
    int rc = compute_open(&e->compute, threads);
    if (rc < 0)
        return rc;
    if ((rc = tokenizer_load(&e->tokenizer, model_directory)) < 0)
        return rc;
    if ((rc = prompt_set_load(&e->set, &settings->data, e->tokenizer, settings->max_prompt_tokens,
                              settings->max_prompts, "eval.data")) < 0)
        return rc;
    struct model_config config;
    if ((rc = model_config_read(&config, model_directory)) < 0 ||
        (rc = sampling_from(&e->sampling, &settings->sampling, &config, e->tokenizer,
                            (uint64_t)e->recipe->seed, "eval.sampling")) < 0)
        return rc;
    int64_t longest = settings->max_prompt_tokens + settings->sampling.max_completion_tokens;
    struct rollout_engine_options options = {
        .slots = (int32_t)settings->slots,
        .prefill_chunk_tokens = 256,
        .max_sequence_tokens =
            (int32_t)(longest < config.max_positions ? longest : config.max_positions),
        .rng_purpose = RNG_EVAL,
    };
    enum dtype dtype = compute_dtype(e->recipe);
    if ((rc = engine_plan_announce(&config, dtype, &options, threads)) < 0 ||
        (rc = model_load(&e->model, model_directory, dtype, false, &e->compute)) < 0 ||
        (rc = rollout_engine_create(&e->engine, e->model, &options, &e->compute)) < 0)
        return rc;
    reward_options_from(&e->reward_options, e->recipe);
    if ((rc = reward_set_create(&e->rewards, e->reward_options.parts, e->reward_options.count,
                                clock_system())) < 0)
        return rc;
    e->done = MEMORY_ARRAY(struct trajectory, e->set.count * e->samples_per_prompt);
    return 0;
}

static void evaluation_close(struct evaluation *e)
{
    for (int64_t i = 0; e->done != NULL && i < e->set.count * e->samples_per_prompt; ++i)
        trajectory_release(&e->done[i]);
    memory_free(e->done);
    reward_set_destroy(e->rewards);
    reward_options_release(&e->reward_options);
    rollout_engine_destroy(e->engine);
    model_free(e->model);
    prompt_set_release(&e->set);
    tokenizer_free(e->tokenizer);
    compute_close(&e->compute);
    text_release(&e->samples);
}

/* Samples everything; completions land in e->done. Returns tokens sampled. */
static int64_t evaluation_sample(struct evaluation *e, const char *label)
{
    int64_t total = e->set.count * e->samples_per_prompt, submitted = 0, finished = 0, tokens = 0;
    struct progress *progress = progress_create(label, "samples", total);
    rollout_engine_set_version(e->engine, 0);
    while (finished < total) {
        while (submitted < total && rollout_engine_room(e->engine) > 0) {
            const struct prompt *prompt = &e->set.prompts[submitted / e->samples_per_prompt];
            struct rollout_request request = {
                .user = (uint64_t)submitted,
                .prompt_id = prompt->id,
                .group_id = prompt->id,
                .sample_index = (int32_t)(submitted % e->samples_per_prompt),
                .prompt_tokens = prompt->tokens,
                .prompt_token_count = prompt->token_count,
                .sampling = e->sampling,
            };
            if (rollout_engine_submit(e->engine, &request) < 0)
                return -1;
            submitted++;
        }
        rollout_engine_step(e->engine);
        struct trajectory trajectory;
        uint64_t user;
        while (rollout_engine_finished(e->engine, &trajectory, &user) == 1) {
            tokens += trajectory_completion_tokens(&trajectory);
            e->done[user] = trajectory;
            finished++;
        }
        progress_update(progress, finished, NULL);
    }
    progress_finish(progress, NULL);
    return tokens;
}

/* pass@k of one prompt from c passes in n samples: 1 - C(n-c, k) / C(n, k). */
static double pass_at_k(int64_t n, int64_t c, int64_t k)
{
    if (n - c < k)
        return 1.0;
    double miss = 1.0;
    for (int64_t i = 0; i < k; ++i)
        miss *= (double)(n - c - i) / (double)(n - i);
    return 1.0 - miss;
}

static struct evaluate_slice *slice_of(struct evaluate_result *result, const char *capability)
{
    for (int i = 0; i < result->slice_count; ++i)
        if (strcmp(result->slices[i].name, capability) == 0)
            return &result->slices[i];
    if (result->slice_count == EVALUATE_CAPABILITIES_MAX)
        return NULL;
    struct evaluate_slice *slice = &result->slices[result->slice_count++];
    strncpy(slice->name, capability, sizeof slice->name - 1);
    return slice;
}

static void append_sample(struct text *out, const struct prompt *prompt,
                          const struct trajectory *trajectory, const struct text *completion,
                          const struct reward *reward)
{
    text_printf(out, "{\"prompt_id\": %llu, \"sample\": %d, \"prompt\": ",
                (unsigned long long)prompt->id, trajectory->sample_index);
    text_append_json_string(out, prompt->text, strlen(prompt->text));
    text_append(out, ", \"completion\": ");
    text_append_json_string(out, completion->data, completion->length);
    text_append(out, ", \"ground_truth\": ");
    text_append_json_string(out, prompt->ground_truth, strlen(prompt->ground_truth));
    text_append(out, ", \"capability\": ");
    text_append_json_string(out, prompt->capability, strlen(prompt->capability));
    text_printf(out, ", \"finish\": \"%s\", \"status\": \"%s\", \"reward\": ",
                finish_reason_name(trajectory->finish), reward_status_name(reward->status));
    if (reward->status == REWARD_OK)
        text_append_number(out, (double)reward->total);
    else
        text_append(out, "null");
    text_append(out, "}\n");
}

/* Scores one prompt's samples and adds them to the result. */
static int evaluation_score_prompt(struct evaluation *e, int64_t index,
                                   struct evaluate_result *result, double *pass_square_sum)
{
    const struct prompt *prompt = &e->set.prompts[index];
    int64_t n = 0, passed = 0;
    int rc = 0;
    struct text completion;
    text_init(&completion);
    for (int64_t s = 0; s < e->samples_per_prompt; ++s) {
        struct trajectory *t = &e->done[index * e->samples_per_prompt + s];
        const int32_t *ids = t->tokens + t->prompt_tokens;
        text_clear(&completion);
        if ((rc = tokenizer_decode(e->tokenizer, ids, t->token_count - t->prompt_tokens, true,
                                   &completion)) < 0)
            break;
        struct reward_input input = {
            .id = (uint64_t)(index * e->samples_per_prompt + s),
            .prompt = prompt->text,
            .completion = completion.data,
            .ground_truth = prompt->ground_truth,
            .data_source = prompt->data_source,
            .capability = prompt->capability,
            .extra_json = prompt->extra_json,
            .prompt_ids = t->tokens,
            .completion_ids = ids,
            .prompt_id_count = t->prompt_tokens,
            .completion_id_count = t->token_count - t->prompt_tokens,
            .finish = t->finish,
            .longest_tokens = (int32_t)e->recipe->eval.sampling.max_completion_tokens,
            .overlong_buffer_tokens = (int32_t)e->recipe->reward.overlong_buffer_tokens,
        };
        struct reward reward;
        reward_set_score(e->rewards, &input, 1, &reward);
        append_sample(&e->samples, prompt, t, &completion, &reward);
        result->length_mean += (double)trajectory_completion_tokens(t);
        result->truncated += t->finish == FINISH_LENGTH ? 1.0 : 0.0;
        if (reward.status != REWARD_OK) {
            result->unscored++;
            continue;
        }
        n++;
        passed += (double)reward.total >= e->recipe->reward.pass_threshold;
        result->reward_mean += (double)reward.total;
    }
    text_release(&completion);
    if (rc < 0 || n == 0)
        return rc;
    double pass1 = (double)passed / (double)n;
    result->prompts++;
    result->pass1 += pass1;
    *pass_square_sum += pass1 * pass1;
    result->passk += pass_at_k(n, passed, result->k < n ? result->k : n);
    struct evaluate_slice *slice = slice_of(result, prompt->capability);
    if (slice != NULL) {
        slice->prompts++;
        slice->pass1 += pass1;
    }
    return 0;
}

static int evaluation_score(struct evaluation *e, struct evaluate_result *result)
{
    double square_sum = 0.0;
    for (int64_t i = 0; i < e->set.count; ++i) {
        int rc = evaluation_score_prompt(e, i, result, &square_sum);
        if (rc < 0)
            return rc;
    }
    int64_t total = e->set.count * e->samples_per_prompt, scored = total - result->unscored;
    if (scored == 0)
        return error_set(
            HONE_EPEER, "eval: none of the %lld samples could be scored; see the rewards' messages",
            (long long)total);
    double n = (double)result->prompts;
    result->pass1 /= n;
    result->passk /= n;
    double variance = square_sum / n - result->pass1 * result->pass1;
    result->pass1_error = variance > 0.0 ? sqrt(variance / n) : 0.0;
    result->reward_mean /= (double)scored;
    result->length_mean /= (double)total;
    result->truncated /= (double)total;
    for (int i = 0; i < result->slice_count; ++i)
        result->slices[i].pass1 /= (double)result->slices[i].prompts;
    return 0;
}

int evaluate(const struct recipe *recipe, const char *model_directory, const char *samples_path,
             int threads, struct evaluate_result *result)
{
    struct evaluation e = {.recipe = recipe};
    memset(result, 0, sizeof *result);
    int rc = evaluation_open(&e, model_directory, threads);
    if (rc < 0)
        goto out;
    result->samples = e.samples_per_prompt;
    result->k = recipe->eval.k;
    int64_t begin = clock_now_ns(clock_system());
    int64_t tokens = evaluation_sample(&e, "eval");
    if (tokens < 0) {
        rc = error_last();
        goto out;
    }
    result->seconds = (double)(clock_now_ns(clock_system()) - begin) * 1e-9;
    result->tokens_per_second = (double)tokens / result->seconds;
    if ((rc = evaluation_score(&e, result)) < 0)
        goto out;
    if (samples_path != NULL)
        rc = file_write_atomic(samples_path, e.samples.data, e.samples.length);
out:
    evaluation_close(&e);
    return rc;
}

static void append_field(struct text *text, const char *name, double value)
{
    text_printf(text, "  \"%s\": ", name);
    text_append_number(text, value);
    text_append(text, ",\n");
}

void evaluate_print_json(const struct evaluate_result *result, struct text *text)
{
    text_append(text, "{\n");
    append_field(text, "prompts", (double)result->prompts);
    append_field(text, "samples", (double)result->samples);
    append_field(text, "k", (double)result->k);
    append_field(text, "pass@1", result->pass1);
    append_field(text, "pass@1_error", result->pass1_error);
    append_field(text, "pass@k", result->passk);
    append_field(text, "reward_mean", result->reward_mean);
    append_field(text, "length_mean", result->length_mean);
    append_field(text, "truncated", result->truncated);
    append_field(text, "unscored", (double)result->unscored);
    append_field(text, "seconds", result->seconds);
    append_field(text, "tokens_per_second", result->tokens_per_second);
    text_append(text, "  \"capabilities\": {");
    for (int i = 0; i < result->slice_count; ++i) {
        const struct evaluate_slice *slice = &result->slices[i];
        text_append(text, i == 0 ? "\n    " : ",\n    ");
        text_append_json_string(text, slice->name, strlen(slice->name));
        text_printf(text, ": {\"prompts\": %lld, \"pass@1\": ", (long long)slice->prompts);
        text_append_number(text, slice->pass1);
        text_append(text, "}");
    }
    text_append(text, "\n  }\n}\n");
}

static double number_of(const json_t *root, const char *name)
{
    return json_number_value(json_object_get(root, name));
}

int evaluate_read_json(const char *path, struct evaluate_result *result)
{
    json_error_t error;
    memset(result, 0, sizeof *result);
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (root == NULL)
        return error_set(HONE_EFORMAT, "%s:%d: %s", path, error.line, error.text);
    result->prompts = (int64_t)number_of(root, "prompts");
    result->samples = (int64_t)number_of(root, "samples");
    result->k = (int64_t)number_of(root, "k");
    result->pass1 = number_of(root, "pass@1");
    result->pass1_error = number_of(root, "pass@1_error");
    result->passk = number_of(root, "pass@k");
    result->reward_mean = number_of(root, "reward_mean");
    result->length_mean = number_of(root, "length_mean");
    result->truncated = number_of(root, "truncated");
    result->unscored = (int64_t)number_of(root, "unscored");
    result->seconds = number_of(root, "seconds");
    result->tokens_per_second = number_of(root, "tokens_per_second");
    json_decref(root);
    return 0;
}

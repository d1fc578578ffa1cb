#include "commands/measure/evaluate.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

#include "commands/measure/prompt_sampler.h"
#include "curriculum/pools/difficulty.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"

/* One evaluation: what it samples, and what it counts. */
struct evaluation {
    struct prompt_sampler sampler;
    struct text samples;     /* JSON lines, in prompt order */
    struct trajectory *done; /* [prompts * samples] by prompt, then sample */
    int64_t samples_per_prompt;
};

static int evaluation_open(struct evaluation *e, const struct recipe *recipe,
                           const struct evaluate_options *asked)
{
    const struct eval_settings *settings = asked->settings;
    const struct prompt_sampler_options options = {
        .data = &settings->data,
        .sampling = &settings->sampling,
        .max_prompt_tokens = settings->max_prompt_tokens,
        .max_prompts = settings->max_prompts,
        .slots = settings->slots,
        .data_key = asked->data_key,
        .sampling_key = asked->sampling_key,
    };
    e->samples_per_prompt = settings->samples;
    text_init(&e->samples);
    int rc =
        prompt_sampler_open(&e->sampler, recipe, &options, asked->model_directory, asked->threads);
    if (rc == 0)
        e->done = MEMORY_ARRAY(struct trajectory, e->sampler.set.count * e->samples_per_prompt);
    return rc;
}

static void evaluation_close(struct evaluation *e)
{
    for (int64_t i = 0; e->done != NULL && i < e->sampler.set.count * e->samples_per_prompt; ++i)
        trajectory_release(&e->done[i]);
    memory_free(e->done);
    prompt_sampler_close(&e->sampler);
    text_release(&e->samples);
}

static int keep_sample(void *context, int64_t prompt, struct trajectory *trajectory)
{
    struct evaluation *e = context;
    e->done[prompt * e->samples_per_prompt + trajectory->sample_index] = *trajectory;
    return 0;
}

/* Samples everything; completions land in e->done. Returns tokens sampled. */
static int64_t evaluation_sample(struct evaluation *e)
{
    const struct prompt_sampling all = {.prompt_count = e->sampler.set.count,
                                        .count = (int32_t)e->samples_per_prompt,
                                        .label = "eval",
                                        .finished = keep_sample,
                                        .context = e};
    return prompt_sampler_run(&e->sampler, &all);
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

struct square_sums {
    double pass1, passk;
};

/* Of the mean over n prompts. */
static double standard_error(double square_sum, double mean, double n)
{
    double variance = square_sum / n - mean * mean;
    return variance > 0.0 ? sqrt(variance / n) : 0.0;
}

/* Scores one prompt's samples and adds them to the result. */
static int evaluation_score_prompt(struct evaluation *e, int64_t index,
                                   struct evaluate_result *result, struct square_sums *squares)
{
    const struct prompt *prompt = &e->sampler.set.prompts[index];
    int64_t n = 0, passed = 0;
    int rc = 0;
    struct text completion;
    text_init(&completion);
    for (int64_t s = 0; s < e->samples_per_prompt; ++s) {
        const struct trajectory *t = &e->done[index * e->samples_per_prompt + s];
        struct reward reward;
        if ((rc = prompt_sampler_score(&e->sampler, index, t, &completion, &reward)) < 0)
            break;
        append_sample(&e->samples, prompt, t, &completion, &reward);
        result->length_mean += (double)trajectory_completion_tokens(t);
        result->truncated += t->finish == FINISH_LENGTH ? 1.0 : 0.0;
        if (reward.status != REWARD_OK) {
            result->unscored++;
            continue;
        }
        n++;
        passed += (double)reward.total >= e->sampler.recipe->reward.pass_threshold;
        result->reward_mean += (double)reward.total;
    }
    text_release(&completion);
    if (rc < 0 || n == 0)
        return rc;
    double pass1 = (double)passed / (double)n;
    result->prompts++;
    result->pass1 += pass1;
    double passk = pass_at_k(n, passed, result->k < n ? result->k : n);
    result->passk += passk;
    squares->pass1 += pass1 * pass1;
    squares->passk += passk * passk;
    struct evaluate_slice *slice = slice_of(result, prompt->capability);
    if (slice != NULL) {
        slice->prompts++;
        slice->pass1 += pass1;
    }
    return 0;
}

static int evaluation_score(struct evaluation *e, struct evaluate_result *result)
{
    struct square_sums squares = {0};
    for (int64_t i = 0; i < e->sampler.set.count; ++i) {
        int rc = evaluation_score_prompt(e, i, result, &squares);
        if (rc < 0)
            return rc;
    }
    int64_t total = e->sampler.set.count * e->samples_per_prompt, scored = total - result->unscored;
    if (scored == 0)
        return error_set(
            HONE_EPEER, "eval: none of the %lld samples could be scored; see the rewards' messages",
            (long long)total);
    double n = (double)result->prompts;
    result->pass1 /= n;
    result->passk /= n;
    result->pass1_error = standard_error(squares.pass1, result->pass1, n);
    result->passk_error = standard_error(squares.passk, result->passk, n);
    result->reward_mean /= (double)scored;
    result->length_mean /= (double)total;
    result->truncated /= (double)total;
    for (int i = 0; i < result->slice_count; ++i)
        result->slices[i].pass1 /= (double)result->slices[i].prompts;
    return 0;
}

struct evaluate_options evaluate_as_asked(const struct recipe *recipe, const char *model_directory,
                                          const char *samples_path, int threads)
{
    return (struct evaluate_options){.settings = &recipe->eval,
                                     .data_key = "eval.data",
                                     .sampling_key = "eval.sampling",
                                     .model_directory = model_directory,
                                     .samples_path = samples_path,
                                     .threads = threads};
}

int evaluate(const struct recipe *recipe, const struct evaluate_options *options,
             struct evaluate_result *result)
{
    struct evaluation e;
    memset(&e, 0, sizeof e);
    memset(result, 0, sizeof *result);
    int rc = evaluation_open(&e, recipe, options);
    if (rc < 0)
        goto out;
    result->samples = e.samples_per_prompt;
    result->k = options->settings->k;
    int64_t begin = clock_now_ns(clock_system());
    int64_t tokens = evaluation_sample(&e);
    if (tokens < 0) {
        rc = (int)tokens;
        goto out;
    }
    result->seconds = (double)(clock_now_ns(clock_system()) - begin) * 1e-9;
    result->tokens_per_second = (double)tokens / result->seconds;
    if ((rc = evaluation_score(&e, result)) < 0)
        goto out;
    if (options->samples_path != NULL)
        rc = file_write_atomic(options->samples_path, e.samples.data, e.samples.length);
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

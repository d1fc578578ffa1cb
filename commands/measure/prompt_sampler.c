#include "commands/measure/prompt_sampler.h"

#include <string.h>

#include "actors/engine_plan.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/telemetry/progress.h"

static int open_engine(struct prompt_sampler *s, const char *model_directory, int threads)
{
    const struct prompt_sampler_options *options = &s->options;
    struct model_config config;
    int rc = model_config_read(&config, model_directory);
    if (rc < 0 || (rc = sampling_from(&s->sampling, options->sampling, &config, s->tokenizer,
                                      (uint64_t)s->recipe->seed, options->sampling_key)) < 0)
        return rc;
    int64_t longest = options->max_prompt_tokens + options->sampling->max_completion_tokens;
    struct rollout_engine_options engine = {
        .slots = (int32_t)options->slots,
        .prefill_chunk_tokens = 256,
        .max_sequence_tokens =
            (int32_t)(longest < config.max_positions ? longest : config.max_positions),
        .rng_purpose = RNG_EVAL,
    };
    enum dtype dtype = compute_dtype(s->recipe);
    if ((rc = engine_plan_announce(&config, dtype, &engine, threads)) < 0 ||
        (rc = model_load(&s->model, model_directory, dtype, false, &s->compute)) < 0)
        return rc;
    return rollout_engine_create(&s->engine, s->model, &engine, &s->compute);
}

int prompt_sampler_open(struct prompt_sampler *sampler, const struct recipe *recipe,
                        const struct prompt_sampler_options *options, const char *model_directory,
                        int threads)
{
    memset(sampler, 0, sizeof *sampler);
    sampler->recipe = recipe;
    sampler->options = *options;
    int rc = compute_open(&sampler->compute, threads);
    if (rc < 0)
        return rc;
    if ((rc = tokenizer_load(&sampler->tokenizer, model_directory)) < 0)
        return rc;
    if (options->data == NULL)
        return open_engine(sampler, model_directory, threads);
    if ((rc = prompt_set_load(&sampler->set, options->data, chat_layout_from(recipe),
                              sampler->tokenizer, options->max_prompt_tokens, options->max_prompts,
                              options->data_key)) < 0)
        return rc;
    if ((rc = open_engine(sampler, model_directory, threads)) < 0)
        return rc;
    reward_options_from(&sampler->reward_options, recipe);
    return reward_set_create(&sampler->rewards, sampler->reward_options.parts,
                             sampler->reward_options.count, clock_system());
}

void prompt_sampler_close(struct prompt_sampler *sampler)
{
    reward_set_destroy(sampler->rewards);
    reward_options_release(&sampler->reward_options);
    rollout_engine_destroy(sampler->engine);
    model_free(sampler->model);
    prompt_set_release(&sampler->set);
    tokenizer_free(sampler->tokenizer);
    compute_close(&sampler->compute);
}

static int64_t index_at(const struct prompt_sampling *what, int64_t sample)
{
    int64_t place = sample / what->count;
    return what->prompts != NULL ? what->prompts[place] : place;
}

static int submit(struct prompt_sampler *sampler, const struct prompt_sampling *what,
                  int64_t sample)
{
    const struct prompt *prompt = &sampler->set.prompts[index_at(what, sample)];
    struct rollout_request request = {
        .user = (uint64_t)sample,
        .prompt_id = prompt->id,
        .group_id = prompt->id,
        .sample_index = what->first + (int32_t)(sample % what->count),
        .prompt_tokens = prompt->tokens,
        .prompt_token_count = prompt->token_count,
        .sampling = sampler->sampling,
    };
    return rollout_engine_submit(sampler->engine, &request);
}

int64_t prompt_sampler_run(struct prompt_sampler *sampler, const struct prompt_sampling *what)
{
    int64_t total = what->prompt_count * what->count, submitted = 0, finished = 0, tokens = 0;
    struct progress *progress = progress_create(what->label, "samples", total);
    int rc = 0;
    rollout_engine_set_version(sampler->engine, 0);
    while (finished < total && rc == 0) {
        while (submitted < total && rc == 0 && rollout_engine_room(sampler->engine) > 0)
            rc = submit(sampler, what, submitted++);
        rollout_engine_step(sampler->engine);
        struct trajectory trajectory;
        uint64_t user;
        while (rc == 0 && rollout_engine_finished(sampler->engine, &trajectory, &user) == 1) {
            tokens += trajectory_completion_tokens(&trajectory);
            rc = what->finished(what->context, index_at(what, (int64_t)user), &trajectory);
            finished++;
        }
        progress_update(progress, finished, NULL);
    }
    progress_finish(progress, NULL);
    return rc < 0 ? rc : tokens;
}

int prompt_sampler_score(struct prompt_sampler *sampler, int64_t prompt_index,
                         const struct trajectory *trajectory, struct text *completion,
                         struct reward *reward)
{
    const struct prompt *prompt = &sampler->set.prompts[prompt_index];
    const int32_t *ids = trajectory->tokens + trajectory->prompt_tokens;
    int32_t count = trajectory->token_count - trajectory->prompt_tokens;
    text_clear(completion);
    int rc = tokenizer_decode(sampler->tokenizer, ids, count, true, completion);
    if (rc < 0)
        return rc;
    struct reward_input input = {
        .id = (uint64_t)prompt_index * 65536 + (uint64_t)trajectory->sample_index,
        .prompt = prompt->text,
        .completion = completion->data,
        .ground_truth = prompt->ground_truth,
        .data_source = prompt->data_source,
        .capability = prompt->capability,
        .extra_json = prompt->extra_json,
        .prompt_ids = trajectory->tokens,
        .completion_ids = ids,
        .prompt_id_count = trajectory->prompt_tokens,
        .completion_id_count = count,
        .finish = trajectory->finish,
        .longest_tokens = (int32_t)sampler->options.sampling->max_completion_tokens,
        .overlong_buffer_tokens = (int32_t)sampler->recipe->reward.overlong_buffer_tokens,
    };
    reward_set_score(sampler->rewards, &input, 1, reward);
    return 0;
}

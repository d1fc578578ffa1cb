#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/engine_plan.h"
#include "commands/commands.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/launch/placement.h"
#include "infra/text/tokenizer.h"
#include "infra/train/trainer.h"

enum { TEXT_MAX_BYTES = 64 << 20 };

/* A model opened for a command, on all the cpus this process may use. */
struct opened {
    const char *directory;
    struct model_config config;
    enum dtype dtype;
    struct compute compute;
    struct tokenizer *tokenizer;
    struct model *model; /* NULL until open_weights */
};

/* Everything but the weights. */
static int open_text(struct opened *opened, const struct command_line *line)
{
    const char *directory = line->positional[0], *dtype_name_given = command_value(line, "dtype");
    int64_t threads;
    memset(opened, 0, sizeof *opened);
    opened->directory = directory;
    if (strcmp(dtype_name_given, "float32") == 0)
        opened->dtype = DTYPE_F32;
    else if (strcmp(dtype_name_given, "bfloat16") == 0)
        opened->dtype = DTYPE_BF16;
    else
        return error_set(HONE_EINVAL, "--dtype %s: float32 or bfloat16", dtype_name_given);
    int rc = command_int(line, "threads", 0, 1024, &threads);
    if (rc < 0)
        return rc;
    if (threads == 0) {
        struct cpu_set_list cpus;
        placement_available(&cpus);
        threads = cpus.count;
    }
    if ((rc = compute_open(&opened->compute, (int)threads)) < 0 ||
        (rc = model_config_read(&opened->config, directory)) < 0 ||
        (rc = tokenizer_load(&opened->tokenizer, directory)) < 0)
        return rc;
    if (tokenizer_vocab_size(opened->tokenizer) > opened->config.vocab_size)
        return error_set(HONE_EINVAL,
                         "%s: the tokenizer has %d entries, the model's vocab_size is %d: they do "
                         "not belong together",
                         directory, tokenizer_vocab_size(opened->tokenizer),
                         opened->config.vocab_size);
    return 0;
}

static int open_weights(struct opened *opened)
{
    return model_load(&opened->model, opened->directory, opened->dtype, false, &opened->compute);
}

static void close_model(struct opened *opened)
{
    model_free(opened->model);
    tokenizer_free(opened->tokenizer);
    compute_close(&opened->compute);
}

/* The text a command works on: --file PATH, "-" for standard input, or the positional words. */
static int input_text(const struct command_line *line, int first, struct text *text)
{
    const char *path = command_value(line, "file");
    if (path != NULL) {
        if (strcmp(path, "-") == 0)
            path = "/dev/stdin";
        char *data;
        size_t bytes;
        int rc = file_read(path, TEXT_MAX_BYTES, &data, &bytes);
        if (rc < 0)
            return rc;
        text_append_bytes(text, data, bytes);
        memory_free(data);
        return 0;
    }
    for (int i = first; i < line->positional_count; ++i)
        text_printf(text, "%s%s", i > first ? " " : "", line->positional[i]);
    return 0;
}

static int fill_sampling(struct sampling *sampling, const struct command_line *line,
                         const struct model_config *config)
{
    double temperature, top_p, min_p;
    int64_t top_k, tokens, seed;
    int rc;
    if ((rc = command_float(line, "temperature", 0.0, 100.0, &temperature)) < 0 ||
        (rc = command_float(line, "top-p", 0.0, 1.0, &top_p)) < 0 ||
        (rc = command_float(line, "min-p", 0.0, 1.0, &min_p)) < 0 ||
        (rc = command_int(line, "top-k", 0, INT32_MAX, &top_k)) < 0 ||
        (rc = command_int(line, "max-tokens", 1, INT32_MAX, &tokens)) < 0 ||
        (rc = command_int(line, "seed", 0, INT64_MAX, &seed)) < 0)
        return rc;
    *sampling = (struct sampling){.temperature = (float)temperature,
                                  .top_p = (float)top_p,
                                  .top_k = (int32_t)top_k,
                                  .min_p = (float)min_p,
                                  .max_completion_tokens = (int32_t)tokens,
                                  .seed = (uint64_t)seed};
    if (command_flag(line, "ignore-eos"))
        return 0;
    for (int32_t i = 0; i < config->eos_count; ++i)
        sampling->stop_ids[sampling->stop_count++] = config->eos_ids[i];
    return 0;
}

static int print_completion(const struct opened *opened, const struct trajectory *trajectory,
                            bool ids)
{
    if (ids) {
        for (int32_t i = 0; i < trajectory->token_count; ++i)
            printf("%d%c", trajectory->tokens[i], i + 1 < trajectory->token_count ? ' ' : '\n');
        return 0;
    }
    struct text text;
    text_init(&text);
    int rc = tokenizer_decode(opened->tokenizer, trajectory->tokens, trajectory->token_count, true,
                              &text);
    if (rc == 0)
        printf("%s\n", text.data);
    text_release(&text);
    return rc;
}

static int generate(struct opened *opened, const struct command_line *line)
{
    struct rollout_engine *engine = NULL;
    struct token_list ids;
    struct text prompt;
    struct sampling sampling;
    int64_t count;
    const struct model_config *config = &opened->config;
    text_init(&prompt);
    token_list_init(&ids);
    int rc = input_text(line, 1, &prompt);
    if (rc < 0 || (rc = fill_sampling(&sampling, line, config)) < 0 ||
        (rc = command_int(line, "samples", 1, 4096, &count)) < 0 ||
        (rc = tokenizer_encode(opened->tokenizer, prompt.data, prompt.length,
                               TOKENIZE_SPECIAL | TOKENIZE_PARSE_SPECIAL, &ids)) < 0)
        goto out;
    if (ids.count == 0 && config->bos_id >= 0)
        token_list_append(&ids, config->bos_id);
    if (ids.count == 0) {
        rc = error_set(HONE_EINVAL, "generate: the prompt is empty and the model has no BOS token");
        goto out;
    }
    if (prompt.length == 0 && config->bos_id >= 0)
        ids.count = 1; /* an empty prompt is BOS alone, whatever the tokenizer puts after it */
    int64_t longest = (int64_t)ids.count + sampling.max_completion_tokens;
    struct rollout_engine_options options = {
        .slots = (int32_t)(count < 64 ? count : 64),
        .prefill_chunk_tokens = ids.count < 512 ? ids.count : 512,
        .max_sequence_tokens =
            longest < config->max_positions ? (int32_t)longest : config->max_positions,
        .rng_purpose = RNG_SAMPLE};
    if ((rc = engine_plan_announce(config, opened->dtype, &options,
                                   parallel_threads(opened->compute.pool))) < 0 ||
        (rc = open_weights(opened)) < 0 ||
        (rc = rollout_engine_create(&engine, opened->model, &options, &opened->compute)) < 0)
        goto out;
    int64_t submitted = 0, finished = 0;
    rollout_engine_set_version(engine, 0);
    while (finished < count) {
        while (submitted < count && rollout_engine_room(engine) > 0) {
            struct rollout_request request = {.user = (uint64_t)submitted,
                                              .sample_index = (int32_t)submitted,
                                              .prompt_tokens = ids.ids,
                                              .prompt_token_count = ids.count,
                                              .sampling = sampling};
            if ((rc = rollout_engine_submit(engine, &request)) < 0)
                goto out;
            submitted++;
        }
        rollout_engine_step(engine);
        struct trajectory trajectory;
        uint64_t user;
        while (rollout_engine_finished(engine, &trajectory, &user) == 1) {
            rc = print_completion(opened, &trajectory, command_flag(line, "ids"));
            trajectory_release(&trajectory);
            finished++;
            if (rc < 0)
                goto out;
        }
    }
out:
    rollout_engine_destroy(engine);
    token_list_release(&ids);
    text_release(&prompt);
    return rc;
}

int command_generate(const struct command_line *line)
{
    struct opened opened;
    int rc = open_text(&opened, line);
    if (rc == 0)
        rc = generate(&opened, line);
    close_model(&opened);
    return rc;
}

int command_tokenize(const struct command_line *line)
{
    struct tokenizer *tokenizer = NULL;
    struct token_list ids;
    struct text text;
    text_init(&text);
    token_list_init(&ids);
    int flags = (command_flag(line, "no-special") ? 0 : TOKENIZE_SPECIAL) |
                (command_flag(line, "parse-special") ? TOKENIZE_PARSE_SPECIAL : 0);
    int rc = tokenizer_load(&tokenizer, line->positional[0]);
    if (rc < 0)
        goto out;
    if (command_flag(line, "decode")) {
        for (int i = 1; i < line->positional_count; ++i)
            token_list_append(&ids, (int32_t)strtol(line->positional[i], NULL, 10));
        if ((rc = tokenizer_decode(tokenizer, ids.ids, ids.count, false, &text)) == 0)
            printf("%s\n", text.data);
        goto out;
    }
    if ((rc = input_text(line, 1, &text)) < 0 ||
        (rc = tokenizer_encode(tokenizer, text.data, text.length, flags, &ids)) < 0)
        goto out;
    for (int32_t i = 0; i < ids.count; ++i) {
        if (command_flag(line, "pieces")) {
            const char *piece = tokenizer_piece(tokenizer, ids.ids[i]);
            printf("%d\t%s\n", ids.ids[i], piece != NULL ? piece : "");
        } else {
            printf("%d%c", ids.ids[i], i + 1 < ids.count ? ' ' : '\n');
        }
    }
out:
    token_list_release(&ids);
    text_release(&text);
    tokenizer_free(tokenizer);
    return rc;
}

/* One line a token: position, id, logprob, piece; then the sums. */
static int print_logprobs(const struct opened *opened, struct transformer *transformer,
                          struct kv_cache *cache, const struct token_list *ids)
{
    int32_t n = ids->count;
    int32_t *positions = MEMORY_ARRAY(int32_t, n), *sequence = MEMORY_ARRAY(int32_t, n);
    float *logprob = MEMORY_ARRAY(float, n);
    struct kv_sequence kv;
    struct kv_sequence *sequences[] = {&kv};
    int rc = 0;
    kv_sequence_init(&kv, n);
    if (!kv_sequence_reserve(cache, &kv, n, 0)) {
        rc = error_set(HONE_ENOMEM, "logprobs: no room for %d tokens", n);
        goto out;
    }
    for (int32_t i = 0; i < n; ++i)
        positions[i] = i;
    struct forward_rows rows = {.count = n,
                                .tokens = ids->ids,
                                .positions = positions,
                                .sequence = sequence,
                                .sequences = sequences};
    transformer_forward(transformer, &rows);
    const struct head_targets targets = {
        .count = n - 1, .rows = positions, .targets = ids->ids + 1, .temperature = 1.0f};
    transformer_logprob(transformer, &targets, logprob, NULL);
    double sum = 0.0;
    for (int32_t i = 1; i < n; ++i) {
        const char *piece = tokenizer_piece(opened->tokenizer, ids->ids[i]);
        printf("%d\t%d\t%.9g\t%s\n", i, ids->ids[i], (double)logprob[i - 1],
               piece != NULL ? piece : "");
        sum += (double)logprob[i - 1];
    }
    printf("sum %.9g\tmean_nll %.9g\tperplexity_tokens %d\n", sum, n > 1 ? -sum / (n - 1) : 0.0,
           n - 1);
out:
    kv_sequence_release(cache, &kv);
    memory_free(logprob);
    memory_free(sequence);
    memory_free(positions);
    return rc;
}

int command_logprobs(const struct command_line *line)
{
    struct opened opened;
    struct token_list ids;
    struct text text;
    struct kv_cache *cache = NULL;
    struct transformer *transformer = NULL;
    text_init(&text);
    token_list_init(&ids);
    int rc = open_text(&opened, line);
    if (rc < 0 || (rc = open_weights(&opened)) < 0 || (rc = input_text(line, 1, &text)) < 0 ||
        (rc = tokenizer_encode(opened.tokenizer, text.data, text.length, TOKENIZE_SPECIAL, &ids)) <
            0)
        goto out;
    const struct model_config *config = model_config_of(opened.model);
    if (ids.count < 2 || ids.count > config->max_positions) {
        rc = error_set(HONE_EINVAL, "logprobs: %d tokens; this model takes 2 to %d", ids.count,
                       config->max_positions);
        goto out;
    }
    int32_t blocks = (ids.count + ATTENTION_BLOCK_TOKENS - 1) / ATTENTION_BLOCK_TOKENS;
    if ((rc = kv_cache_create(&cache, config, model_dtype(opened.model), blocks)) == 0 &&
        (rc = transformer_create(&transformer, opened.model, cache, ids.count, ACTIVATIONS_NONE)) ==
            0)
        rc = print_logprobs(&opened, transformer, cache, &ids);
out:
    transformer_free(transformer);
    kv_cache_free(cache);
    close_model(&opened);
    token_list_release(&ids);
    text_release(&text);
    return rc;
}

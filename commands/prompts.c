#include "commands/prompts.h"

#include <string.h>

#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"

static const char *given(const char *text)
{
    return text != NULL && text[0] != '\0' ? text : NULL;
}

void dataset_options_from(const struct data_settings *data, struct dataset_options *options)
{
    memset(options, 0, sizeof *options);
    options->paths = data->path.items;
    options->count = data->path.count;
    if (dataset_format_parse(data->format, &options->format) < 0)
        options->format = DATASET_AUTO;
    options->prompt_column = given(data->prompt_column);
    options->completion_column = given(data->completion_column);
    options->text_column = given(data->text_column);
    options->ground_truth_column = given(data->ground_truth_column);
    options->capability_column = given(data->capability_column);
    options->data_source_column = given(data->data_source_column);
    options->chosen_column = given(data->chosen_column);
    options->rejected_column = given(data->rejected_column);
    options->prompt_template = given(data->prompt_template);
    options->completion_template = given(data->completion_template);
    options->max_rows = data->max_rows;
}

static char *copy_or(const char *text, const char *fallback)
{
    return memory_strdup(text != NULL ? text : fallback);
}

static int fill_prompt(struct prompt *prompt, const struct dataset_row *row,
                       const struct tokenizer *tokenizer)
{
    struct token_list ids;
    token_list_init(&ids);
    int rc = tokenizer_encode(tokenizer, row->prompt, strlen(row->prompt), TOKENIZE_SPECIAL, &ids);
    if (rc == 0 && ids.count == 0)
        rc = error_set(HONE_EFORMAT, "the prompt is empty");
    if (rc == 0) {
        prompt->text = memory_strdup(row->prompt);
        prompt->tokens = memory_dup(ids.ids, (size_t)ids.count * sizeof ids.ids[0]);
        prompt->token_count = ids.count;
        prompt->ground_truth = copy_or(row->ground_truth, "");
        prompt->capability = copy_or(row->capability, "");
        prompt->data_source = copy_or(row->data_source, "");
        prompt->extra_json = copy_or(row->extra, "{}");
    }
    token_list_release(&ids);
    return rc;
}

int prompt_set_load(struct prompt_set *set, const struct data_settings *data,
                    const struct tokenizer *tokenizer, int64_t max_prompt_tokens, int64_t limit,
                    const char *where)
{
    struct dataset_options options;
    struct dataset *dataset = NULL;
    memset(set, 0, sizeof *set);
    dataset_options_from(data, &options);
    int rc = dataset_load(&dataset, &options);
    if (rc < 0)
        return error_prefix("%s", where);
    int64_t rows = dataset_count(dataset);
    int64_t wanted = limit > 0 && limit < rows ? limit : rows;
    set->prompts = MEMORY_ARRAY(struct prompt, wanted);
    for (int64_t i = 0; i < wanted; ++i) {
        const struct dataset_row *row = dataset_get(dataset, i * rows / wanted);
        struct prompt *prompt = &set->prompts[set->count];
        if (row->prompt == NULL) {
            rc = error_set(HONE_EFORMAT, "%s: %s:%lld has no prompt (format %s)", where,
                           dataset_path(dataset, row->source), (long long)row->line,
                           dataset_format_name(options.format));
            goto out;
        }
        if ((rc = fill_prompt(prompt, row, tokenizer)) < 0) {
            error_prefix("%s: %s:%lld", where, dataset_path(dataset, row->source),
                         (long long)row->line);
            goto out;
        }
        if (max_prompt_tokens > 0 && prompt->token_count > max_prompt_tokens) {
            prompt_release(prompt);
            memset(prompt, 0, sizeof *prompt);
            set->dropped++;
            continue;
        }
        prompt->id = (uint64_t)set->count++;
    }
    if (set->count == 0)
        rc = error_set(HONE_EINVAL, "%s: no prompt left: all %lld are longer than %lld tokens",
                       where, (long long)wanted, (long long)max_prompt_tokens);
    else if (set->dropped > 0)
        log_warn("%s: %lld of %lld prompts have more than %lld tokens and are left out", where,
                 (long long)set->dropped, (long long)wanted, (long long)max_prompt_tokens);
out:
    dataset_free(dataset);
    if (rc < 0)
        prompt_set_release(set);
    return rc;
}

void prompt_set_release(struct prompt_set *set)
{
    for (int64_t i = 0; i < set->count; ++i)
        prompt_release(&set->prompts[i]);
    memory_free(set->prompts);
    memset(set, 0, sizeof *set);
}

int prompt_set_with(const struct prompt_set *set, const struct string_list *capabilities,
                    const char *where, bool **wanted)
{
    *wanted = MEMORY_ARRAY(bool, set->count);
    for (int32_t k = 0; k < capabilities->count; ++k) {
        int64_t found = 0;
        for (int64_t i = 0; i < set->count; ++i) {
            if (strcmp(set->prompts[i].capability, capabilities->items[k]) != 0)
                continue;
            (*wanted)[i] = true;
            found++;
        }
        if (found > 0)
            continue;
        memory_free(*wanted);
        *wanted = NULL;
        return error_set(HONE_EINVAL, "%s: no prompt has the capability '%s'", where,
                         capabilities->items[k]);
    }
    return 0;
}

#include "commands/prompts.h"

#include <string.h>

#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/text/chat.h"

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

/* One prompt of a row: its text for rewards, and what the model reads. system NULL: none is added.
 */
struct rendering {
    const struct dataset_row *row;
    const char *system;
    bool is_chat;
    enum chat_layout layout;
    const struct tokenizer *tokenizer;
};

/* The turns before the answer: those that the row ends with, if it has any, are the assistant's. */
static int32_t prompt_turns(const struct dataset_row *row)
{
    int32_t count = row->turn_count;
    while (count > 0 && strcmp(row->turns[count - 1].role, "assistant") == 0)
        count--;
    return count;
}

static bool has_system(const struct dataset_row *row)
{
    return row->turn_count > 0 && strcmp(row->turns[0].role, "system") == 0;
}

/* What a verifier is shown: the last words of the user. */
static const char *prompt_text(const struct dataset_row *row)
{
    if (row->prompt != NULL)
        return row->prompt;
    for (int32_t i = prompt_turns(row) - 1; i >= 0; i--)
        if (strcmp(row->turns[i].role, "user") == 0)
            return row->turns[i].content;
    return NULL;
}

static int encode_chat(const struct rendering *what, struct token_list *ids)
{
    const struct dataset_row *row = what->row;
    int32_t count = prompt_turns(row);
    struct chat_turn *turns = MEMORY_ARRAY(struct chat_turn, count + 2);
    struct chat_rendering rendering;
    int32_t used = 0;
    if (what->system != NULL)
        turns[used++] = (struct chat_turn){.role = "system", .content = what->system};
    for (int32_t i = 0; i < count; i++, used++) {
        turns[used] = row->turns[i];
        turns[used].is_trained = false;
    }
    if (count == 0)
        turns[used++] = (struct chat_turn){.role = "user", .content = row->prompt};
    chat_rendering_init(&rendering);
    int rc = chat_render(what->layout, turns, used, true, &rendering);
    if (rc == 0)
        rc = chat_encode(&rendering, what->tokenizer, ids, NULL);
    chat_rendering_release(&rendering);
    memory_free(turns);
    return rc;
}

static int fill_prompt(struct prompt *prompt, const struct rendering *what)
{
    const struct dataset_row *row = what->row;
    const char *text = prompt_text(row);
    struct token_list ids;
    token_list_init(&ids);
    int rc = what->is_chat ? encode_chat(what, &ids)
                           : tokenizer_encode(what->tokenizer, row->prompt, strlen(row->prompt),
                                              TOKENIZE_SPECIAL, &ids);
    if (rc == 0 && ids.count == 0)
        rc = error_set(HONE_EFORMAT, "the prompt is empty");
    if (rc == 0) {
        prompt->text = copy_or(text, "");
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

/* A prompt of every variant. */
static int add_row(struct prompt_set *set, const struct data_settings *data, struct rendering *what,
                   int64_t max_prompt_tokens)
{
    const struct string_list *systems = &data->system_prompts;
    int32_t variants = has_system(what->row) || systems->count == 0 ? 1 : systems->count;
    bool wants_chat = data->chat == RECIPE_CHAT_ALWAYS || systems->count > 0 ||
                      (data->chat == RECIPE_CHAT_AUTO && what->row->turn_count > 0);
    what->is_chat = wants_chat && data->chat != RECIPE_CHAT_NEVER;
    if (what->is_chat ? prompt_text(what->row) == NULL : what->row->prompt == NULL)
        return error_set(HONE_EFORMAT, "it has no prompt");
    for (int32_t v = 0; v < variants; v++) {
        struct prompt *prompt = &set->prompts[set->count];
        what->system = systems->count > 0 && !has_system(what->row) ? systems->items[v] : NULL;
        int rc = fill_prompt(prompt, what);
        if (rc < 0)
            return rc;
        if (max_prompt_tokens > 0 && prompt->token_count > max_prompt_tokens) {
            prompt_release(prompt);
            memset(prompt, 0, sizeof *prompt);
            set->dropped++;
            continue;
        }
        prompt->id = (uint64_t)set->count++;
    }
    return 0;
}

int prompt_set_load(struct prompt_set *set, const struct data_settings *data,
                    enum chat_layout layout, const struct tokenizer *tokenizer,
                    int64_t max_prompt_tokens, int64_t limit, const char *where)
{
    struct dataset_options options;
    struct dataset *dataset = NULL;
    memset(set, 0, sizeof *set);
    dataset_options_from(data, &options);
    int rc = dataset_load(&dataset, &options);
    if (rc < 0)
        return error_prefix("%s", where);
    int64_t rows = dataset_count(dataset), variants = data->system_prompts.count;
    int64_t wanted = limit > 0 && limit < rows ? limit : rows;
    set->prompts = MEMORY_ARRAY(struct prompt, wanted * (variants > 1 ? variants : 1));
    for (int64_t i = 0; i < wanted && rc == 0; ++i) {
        const struct dataset_row *row = dataset_get(dataset, i * rows / wanted);
        struct rendering what = {.row = row, .layout = layout, .tokenizer = tokenizer};
        rc = add_row(set, data, &what, max_prompt_tokens);
        if (rc < 0)
            error_prefix("%s: %s:%lld (format %s)", where, dataset_path(dataset, row->source),
                         (long long)row->line, dataset_format_name(options.format));
    }
    if (rc == 0 && set->count == 0)
        rc = error_set(HONE_EINVAL, "%s: no prompt left: all %lld are longer than %lld tokens",
                       where, (long long)set->dropped, (long long)max_prompt_tokens);
    else if (rc == 0 && set->dropped > 0)
        log_warn("%s: %lld of %lld prompts have more than %lld tokens and are left out", where,
                 (long long)set->dropped, (long long)(set->dropped + set->count),
                 (long long)max_prompt_tokens);
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

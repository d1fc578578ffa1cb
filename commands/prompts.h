/* Prompts of a dataset: rows read, prompts tokenised, numbered. Every process of a run loads the
 * same file with the same settings and so agrees on ids. */
#ifndef HONE_COMMANDS_PROMPTS_H
#define HONE_COMMANDS_PROMPTS_H

#include "infra/config/recipe.h"
#include "infra/data/trajectory.h"
#include "infra/text/dataset.h"
#include "infra/text/tokenizer.h"

struct prompt_set {
    struct prompt *prompts;
    int64_t count;
    int64_t dropped; /* rows whose prompt had more than max_prompt_tokens */
};

/* Options that point into `data`: valid as long as it is. */
void dataset_options_from(const struct data_settings *data, struct dataset_options *options);

/* Conversations are rendered in the layout up to where the assistant's words begin (data->chat);
 * the text of a prompt is the last words of the user. Each variant of data->system_prompts is a
 * prompt. Keeps at most `limit` rows (0 = all), spread evenly over the file. A prompt of more than
 * max_prompt_tokens (0 = any length) is left out and counted. No prompt left is an error.
 * `where` names the recipe's key in messages. */
int prompt_set_load(struct prompt_set *set, const struct data_settings *data,
                    enum chat_layout layout, const struct tokenizer *tokenizer,
                    int64_t max_prompt_tokens, int64_t limit, const char *where);
void prompt_set_release(struct prompt_set *set);
/* Which prompts have one of the capabilities: [count], the caller's. A capability that no prompt
 * has is an error; `where` as above. */
int prompt_set_with(const struct prompt_set *set, const struct string_list *capabilities,
                    const char *where, bool **wanted);

#endif

/* Datasets: JSON-lines files, or files that hold one JSON array, read into rows.
 *
 * Formats, and the columns each one reads (a *_column option renames a column; "a.b" reaches into
 * an object):
 *   text               text
 *   prompt_completion  prompt [completion] [ground_truth]; prompt may be a list of messages
 *   messages           messages: [{role, content}]
 *   alpaca             instruction [input] output [system]
 *   sharegpt           conversations: [{from, value}] [system]; with chosen and rejected: a
 * preference gsm8k              question, answer: the ground truth follows "####" in answer, commas
 * removed self_instruct      instruction, instances: [{input, output}]; one row for each instance
 *   preference         [prompt] chosen rejected: strings or lists of messages
 *   auto               decided by the columns of the first row, as TRL does, and by the options
 *
 * prompt_column also renames messages and conversations. In alpaca and self_instruct the input
 * follows the instruction on a new line. Unless a column is named for it, the ground truth comes
 * from ground_truth or reward_model.ground_truth, the capability from capability or ability, the
 * data source from data_source; lists and objects there are given as JSON. Numbers count as text.
 * Roles: human and user, gpt and assistant (function_call too), tool (observation, function,
 * ipython), system (developer); tool calls are appended to the content as JSON.
 *
 * A row with turns is a conversation: the turns are all of it, and prompt and completion, where
 * they are not NULL, repeat its last exchange. A row without turns is prompt and completion, or
 * text.
 *
 * A dataset is loaded whole and immutable from then on; its strings live until dataset_free.
 *
 * 1. Rows are in file order, files in the order given; a row knows its file and line.
 * 2. A missing column, a value of the wrong type or a line that does not parse is an error that
 * names file, line, column and the columns that the row has; no row is skipped.
 * 3. A field that the format does not have is NULL; an empty string is a value. */
#ifndef HONE_TEXT_DATASET_H
#define HONE_TEXT_DATASET_H

#include <stdint.h>

#include "infra/text/chat.h"

enum dataset_format {
    DATASET_AUTO,
    DATASET_TEXT,
    DATASET_PROMPT_COMPLETION,
    DATASET_MESSAGES,
    DATASET_ALPACA,
    DATASET_SHAREGPT,
    DATASET_GSM8K,
    DATASET_SELF_INSTRUCT,
    DATASET_PREFERENCE,
    DATASET_FORMAT_COUNT
};

struct dataset_options {
    const char *const *paths;
    int32_t count;
    enum dataset_format format;
    const char *prompt_column; /* NULL in any of these: the format's own name */
    const char *completion_column;
    const char *text_column;
    const char *ground_truth_column;
    const char *chosen_column;
    const char *rejected_column;
    const char *capability_column;
    const char *data_source_column;
    const char *prompt_template;     /* "Question: {question}\nAnswer:"; {column}, {{ and }} */
    const char *completion_template; /* overrides the completion column */
    int64_t max_rows;                /* 0: all */
};

struct dataset_row {
    int32_t source; /* index of its file */
    int64_t line;   /* 1-based; in an array file, the 1-based index of the element */
    const char *text;
    const char *prompt;
    const char *completion;
    const char *ground_truth;
    const char *chosen;
    const char *rejected;
    const char *capability;
    const char *data_source;
    const char *extra;             /* a JSON object with the columns that nothing above came from */
    const struct chat_turn *turns; /* conversations; a preference's turns stop before the answer */
    int32_t turn_count;
};

struct dataset;

int dataset_format_parse(const char *name, enum dataset_format *format);
const char *dataset_format_name(enum dataset_format format);

/* Two files may have different formats when the format is auto. */
int dataset_load(struct dataset **dataset, const struct dataset_options *options);
void dataset_free(struct dataset *dataset); /* NULL is fine */

int64_t dataset_count(const struct dataset *dataset);
const struct dataset_row *dataset_get(const struct dataset *dataset, int64_t index);
const char *dataset_path(const struct dataset *dataset, int32_t source);

#endif

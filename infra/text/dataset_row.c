#include "infra/text/dataset_row.h"

#include <stdarg.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/text/json_field.h"

#define CHUNK_BYTES ((size_t)1 << 20)
#define TURNS_MAX   4096

void *dataset_keep(struct dataset_builder *builder, size_t bytes)
{
    bytes = (bytes + 15) & ~(size_t)15;
    if (builder->chunk_bytes - builder->chunk_used < bytes || builder->chunk_count == 0) {
        if (builder->chunk_count == builder->chunk_capacity) {
            int32_t grown = builder->chunk_capacity == 0 ? 16 : builder->chunk_capacity * 2;
            char **chunks = MEMORY_ARRAY(char *, grown);
            if (builder->chunk_count > 0)
                memcpy(chunks, builder->chunks, (size_t)builder->chunk_count * sizeof(char *));
            memory_free(builder->chunks);
            builder->chunks = chunks;
            builder->chunk_capacity = grown;
        }
        builder->chunk_bytes = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
        builder->chunk_used = 0;
        builder->chunks[builder->chunk_count++] = MEMORY_ARRAY(char, builder->chunk_bytes);
    }
    void *block = builder->chunks[builder->chunk_count - 1] + builder->chunk_used;
    builder->chunk_used += bytes;
    return block;
}

const char *dataset_keep_text(struct dataset_builder *builder, const char *text, size_t length)
{
    char *kept = dataset_keep(builder, length + 1);
    memcpy(kept, text, length);
    kept[length] = '\0';
    return kept;
}

int dataset_error(const struct dataset_builder *builder, int code, const char *format, ...)
{
    struct text message;
    va_list args;
    text_init(&message);
    va_start(args, format);
    text_vprintf(&message, format, args);
    va_end(args);
    int rc = error_set(code, "%s %s %" PRId64 ": %s", builder->path, builder->line_noun,
                       builder->line, message.data);
    text_release(&message);
    return rc;
}

static void list_columns(const json_t *object, struct text *out)
{
    void *iterator = json_object_iter((json_t *)(uintptr_t)object);
    if (iterator == NULL)
        text_append(out, "none");
    for (int i = 0; iterator != NULL;
         i++, iterator = json_object_iter_next((json_t *)(uintptr_t)object, iterator)) {
        if (i == 40) {
            text_append(out, ", ...");
            break;
        }
        text_printf(out, "%s%.60s", i > 0 ? ", " : "", json_object_iter_key(iterator));
    }
}

static int missing_column(const struct dataset_builder *builder, const json_t *object,
                          const char *name)
{
    struct text columns;
    text_init(&columns);
    list_columns(object, &columns);
    int rc = dataset_error(builder, HONE_EFORMAT, "no column \"%s\"; the row has: %s", name,
                           columns.data);
    text_release(&columns);
    return rc;
}

static void mark_used(struct dataset_builder *builder, const char *key)
{
    for (int32_t i = 0; i < builder->used_count; i++)
        if (strcmp(builder->used[i], key) == 0)
            return;
    if (builder->used_count < DATASET_USED_MAX)
        builder->used[builder->used_count++] = key;
}

/* The value at "key" or "key.inner" of an object. NULL when absent or null. */
static const json_t *find_path(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    if (value != NULL)
        return json_is_null(value) ? NULL : value;
    const char *dot = strchr(name, '.');
    char head[128];
    if (dot == NULL || (size_t)(dot - name) >= sizeof(head))
        return NULL;
    memcpy(head, name, (size_t)(dot - name));
    head[dot - name] = '\0';
    value = json_object_get(object, head);
    return json_is_object(value) ? find_path(value, dot + 1) : NULL;
}

/* The same for a column of the row. A column reached into stays among the extra ones: the rest of
 * it may matter. */
static const json_t *find_column(struct dataset_builder *builder, const json_t *object,
                                 const char *name)
{
    void *iterator = json_object_iter_at((json_t *)(uintptr_t)object, name);
    if (iterator != NULL)
        mark_used(builder, json_object_iter_key(iterator));
    return find_path(object, name);
}

static void append_dump(struct text *out, const json_t *value)
{
    char *dump = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    if (dump != NULL)
        text_append(out, dump);
    free(dump);
}

/* A scalar as text; with `any`, lists and objects as JSON. */
static int value_text(struct dataset_builder *builder, const json_t *value, const char *name,
                      bool any, const char **text)
{
    if (json_is_string(value)) {
        *text = dataset_keep_text(builder, json_string_value(value), json_string_length(value));
        return 0;
    }
    if (!any && (json_is_object(value) || json_is_array(value)))
        return dataset_error(builder, HONE_EFORMAT,
                             "column \"%s\" is of type %s, a string is expected", name,
                             json_field_type_name(value));
    struct text dump;
    text_init(&dump);
    append_dump(&dump, value);
    *text = dataset_keep_text(builder, dump.data, dump.length);
    text_release(&dump);
    return 0;
}

static int required_text(struct dataset_builder *builder, const json_t *object, const char *name,
                         const char **text)
{
    const json_t *value = find_column(builder, object, name);
    if (value == NULL)
        return missing_column(builder, object, name);
    return value_text(builder, value, name, false, text);
}

/* The column an option names is required; its default name is not. */
static int optional_text(struct dataset_builder *builder, const json_t *object, const char *option,
                         const char *fallback, const char **text)
{
    const char *name = option != NULL ? option : fallback;
    const json_t *value = name != NULL ? find_column(builder, object, name) : NULL;
    if (value == NULL)
        return option != NULL ? missing_column(builder, object, option) : 0;
    return value_text(builder, value, name, true, text);
}

static int fill_template(struct dataset_builder *builder, const json_t *object,
                         const char *template, const char **text)
{
    struct text out;
    int rc = 0;
    text_init(&out);
    for (const char *at = template; *at != '\0' && rc == 0; at++) {
        if ((at[0] == '{' && at[1] == '{') || (at[0] == '}' && at[1] == '}')) {
            text_append_char(&out, *at++);
            continue;
        }
        if (*at != '{') {
            text_append_char(&out, *at);
            continue;
        }
        const char *end = strchr(at, '}');
        char name[128];
        if (end == NULL || (size_t)(end - at) > sizeof(name)) {
            rc =
                dataset_error(builder, HONE_EINVAL, "template \"%s\": a { without its }", template);
            break;
        }
        memcpy(name, at + 1, (size_t)(end - at - 1));
        name[end - at - 1] = '\0';
        const char *value = NULL;
        rc = required_text(builder, object, name, &value);
        if (rc == 0)
            text_append(&out, value);
        at = end;
    }
    if (rc == 0)
        *text = dataset_keep_text(builder, out.data, out.length);
    text_release(&out);
    return rc;
}

static const char *role_of(const char *name)
{
    static const char *const roles[][2] = {
        {"system", "system"},
        {"developer", "system"},
        {"user", "user"},
        {"human", "user"},
        {"assistant", "assistant"},
        {"gpt", "assistant"},
        {"function_call", "assistant"},
        {"tool", "tool"},
        {"observation", "tool"},
        {"function", "tool"},
        {"ipython", "tool"},
        {"function_response", "tool"},
    };
    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++)
        if (strcmp(name, roles[i][0]) == 0)
            return roles[i][1];
    return NULL;
}

/* A message's content: a string, a list of text parts, or null beside tool calls. */
static int message_content(struct dataset_builder *builder, const json_t *message, int32_t index,
                           const char **content)
{
    const json_t *value = json_object_get(message, "content");
    if (value == NULL)
        value = json_object_get(message, "value");
    const json_t *calls = json_object_get(message, "tool_calls");
    bool has_calls = json_array_size(calls) > 0;
    struct text out;
    int rc = 0;
    text_init(&out);
    if (json_is_string(value)) {
        text_append(&out, json_string_value(value));
    } else if (json_is_array(value)) {
        for (size_t i = 0; i < json_array_size(value) && rc == 0; i++) {
            const char *part = json_string_value(json_object_get(json_array_get(value, i), "text"));
            if (part == NULL)
                rc = dataset_error(builder, HONE_EUNSUPPORTED,
                                   "message %d: content part %zu is not text", index + 1, i + 1);
            else
                text_append(&out, part);
        }
    } else if (!has_calls) {
        rc = dataset_error(builder, HONE_EFORMAT, "message %d has no \"content\" or \"value\" text",
                           index + 1);
    }
    if (has_calls)
        append_dump(&out, calls);
    if (rc == 0)
        *content = dataset_keep_text(builder, out.data, out.length);
    text_release(&out);
    return rc;
}

static int read_message(struct dataset_builder *builder, const json_t *message, int32_t index,
                        struct chat_turn *turn)
{
    const char *name = json_string_value(json_object_get(message, "role"));
    if (name == NULL)
        name = json_string_value(json_object_get(message, "from"));
    if (name == NULL)
        return dataset_error(builder, HONE_EFORMAT, "message %d has no \"role\" or \"from\"",
                             index + 1);
    turn->role = role_of(name);
    if (turn->role == NULL)
        return dataset_error(builder, HONE_EFORMAT, "message %d: unknown role \"%s\"", index + 1,
                             name);
    turn->is_trained = strcmp(turn->role, "assistant") == 0;
    return message_content(builder, message, index, &turn->content);
}

/* Reads messages after the turns that the row already has. */
static int append_messages(struct dataset_builder *builder, const json_t *list, const char *column,
                           struct dataset_row *row, bool trained)
{
    if (!json_is_array(list))
        return dataset_error(builder, HONE_EFORMAT,
                             "column \"%s\" is of type %s, a list of messages is expected", column,
                             json_field_type_name(list));
    size_t added = json_array_size(list);
    if (added == 0)
        return dataset_error(builder, HONE_EFORMAT, "column \"%s\" is an empty list", column);
    if (added + (size_t)row->turn_count > TURNS_MAX)
        return dataset_error(builder, HONE_EFORMAT, "more than %d messages", TURNS_MAX);
    struct chat_turn *turns =
        dataset_keep(builder, ((size_t)row->turn_count + added) * sizeof(struct chat_turn));
    if (row->turn_count > 0)
        memcpy(turns, row->turns, (size_t)row->turn_count * sizeof(struct chat_turn));
    for (size_t i = 0; i < added; i++) {
        struct chat_turn *turn = &turns[(size_t)row->turn_count + i];
        int rc = read_message(builder, json_array_get(list, i), (int32_t)i, turn);
        if (rc < 0)
            return rc;
        turn->is_trained = turn->is_trained && trained;
    }
    row->turns = turns;
    row->turn_count += (int32_t)added;
    return 0;
}

static void append_turn(struct dataset_builder *builder, struct dataset_row *row, const char *role,
                        const char *content)
{
    struct chat_turn *turns =
        dataset_keep(builder, ((size_t)row->turn_count + 1) * sizeof(struct chat_turn));
    if (row->turn_count > 0)
        memcpy(turns, row->turns, (size_t)row->turn_count * sizeof(struct chat_turn));
    turns[row->turn_count] = (struct chat_turn){role, content, strcmp(role, "assistant") == 0};
    row->turns = turns;
    row->turn_count++;
}

static struct dataset_row *open_row(struct dataset_builder *builder)
{
    if (builder->count == builder->capacity) {
        int64_t grown = builder->capacity == 0 ? 256 : builder->capacity * 2;
        builder->rows = builder->rows == NULL
                            ? MEMORY_ARRAY(struct dataset_row, grown)
                            : memory_resize(builder->rows, (size_t)builder->capacity, (size_t)grown,
                                            sizeof(struct dataset_row));
        builder->capacity = grown;
    }
    struct dataset_row *row = &builder->rows[builder->count];
    *row = (struct dataset_row){.source = builder->source, .line = builder->line};
    return row;
}

/* The fields that every format may have, and what is left. Counts the row in. */
static int close_row(struct dataset_builder *builder, const json_t *object, struct dataset_row *row)
{
    const struct dataset_options *options = builder->options;
    int rc = 0;
    if (row->ground_truth == NULL || options->ground_truth_column != NULL)
        rc = optional_text(builder, object, options->ground_truth_column, "ground_truth",
                           &row->ground_truth);
    if (rc == 0 && row->ground_truth == NULL)
        rc = optional_text(builder, object, NULL, "reward_model.ground_truth", &row->ground_truth);
    if (rc == 0)
        rc = optional_text(builder, object, options->capability_column, "capability",
                           &row->capability);
    if (rc == 0 && row->capability == NULL)
        rc = optional_text(builder, object, NULL, "ability", &row->capability);
    if (rc == 0)
        rc = optional_text(builder, object, options->data_source_column, "data_source",
                           &row->data_source);
    if (rc < 0)
        return rc;
    json_t *rest = json_object();
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        bool used = false;
        for (int32_t i = 0; i < builder->used_count && !used; i++)
            used = strcmp(builder->used[i], key) == 0;
        if (!used)
            json_object_set(rest, key, value);
    }
    rc = value_text(builder, rest, "extra", true, &row->extra);
    json_decref(rest);
    builder->count++;
    return rc;
}

static int read_text(struct dataset_builder *builder, const json_t *object, struct dataset_row *row)
{
    const char *column = builder->options->text_column;
    return required_text(builder, object, column != NULL ? column : "text", &row->text);
}

static int read_prompt(struct dataset_builder *builder, const json_t *object, const char *fallback,
                       struct dataset_row *row)
{
    const struct dataset_options *options = builder->options;
    if (options->prompt_template != NULL)
        return fill_template(builder, object, options->prompt_template, &row->prompt);
    const char *name = options->prompt_column != NULL ? options->prompt_column : fallback;
    const json_t *value = find_column(builder, object, name);
    if (value == NULL)
        return missing_column(builder, object, name);
    if (json_is_array(value))
        return append_messages(builder, value, name, row, false);
    return value_text(builder, value, name, false, &row->prompt);
}

static int read_prompt_completion(struct dataset_builder *builder, const json_t *object,
                                  struct dataset_row *row)
{
    const struct dataset_options *options = builder->options;
    int rc = read_prompt(builder, object, "prompt", row);
    if (rc < 0)
        return rc;
    if (options->completion_template != NULL) {
        rc = fill_template(builder, object, options->completion_template, &row->completion);
    } else {
        const char *name =
            options->completion_column != NULL ? options->completion_column : "completion";
        const json_t *value = find_column(builder, object, name);
        if (value == NULL)
            return options->completion_column != NULL ? missing_column(builder, object, name) : 0;
        if (json_is_array(value) && row->turn_count > 0)
            return append_messages(builder, value, name, row, true);
        rc = value_text(builder, value, name, false, &row->completion);
    }
    if (rc == 0 && row->turn_count > 0)
        append_turn(builder, row, "assistant", row->completion);
    return rc;
}

static int read_system(struct dataset_builder *builder, const json_t *object,
                       struct dataset_row *row)
{
    const char *system = NULL;
    int rc = optional_text(builder, object, NULL, "system", &system);
    if (rc == 0 && system != NULL && system[0] != '\0')
        append_turn(builder, row, "system", system);
    return rc;
}

static int read_messages(struct dataset_builder *builder, const json_t *object,
                         const char *fallback, bool trained, struct dataset_row *row)
{
    const char *column = builder->options->prompt_column;
    const char *name = column != NULL ? column : fallback;
    const json_t *list = find_column(builder, object, name);
    if (list == NULL)
        return missing_column(builder, object, name);
    int rc = read_system(builder, object, row);
    return rc < 0 ? rc : append_messages(builder, list, name, row, trained);
}

static int join_instruction(struct dataset_builder *builder, const char *instruction,
                            const char *input, const char **prompt)
{
    struct text out;
    text_init(&out);
    text_append(&out, instruction);
    if (input != NULL && input[0] != '\0')
        text_printf(&out, "\n%s", input);
    *prompt = dataset_keep_text(builder, out.data, out.length);
    text_release(&out);
    return 0;
}

static int read_alpaca(struct dataset_builder *builder, const json_t *object,
                       struct dataset_row *row)
{
    const char *instruction = NULL, *input = NULL;
    int rc = required_text(builder, object, "instruction", &instruction);
    if (rc == 0)
        rc = optional_text(builder, object, NULL, "input", &input);
    if (rc == 0)
        rc = required_text(builder, object, "output", &row->completion);
    if (rc == 0)
        rc = builder->options->prompt_template != NULL
                 ? fill_template(builder, object, builder->options->prompt_template, &row->prompt)
                 : join_instruction(builder, instruction, input, &row->prompt);
    if (rc == 0)
        rc = read_system(builder, object, row);
    const json_t *history = rc == 0 ? find_column(builder, object, "history") : NULL;
    for (size_t i = 0; i < json_array_size(history); i++) {
        const json_t *pair = json_array_get(history, i);
        const char *asked = json_string_value(json_array_get(pair, 0));
        const char *answered = json_string_value(json_array_get(pair, 1));
        if (asked == NULL || answered == NULL)
            return dataset_error(builder, HONE_EFORMAT, "history %zu is not a pair of strings",
                                 i + 1);
        append_turn(builder, row, "user", dataset_keep_text(builder, asked, strlen(asked)));
        append_turn(builder, row, "assistant",
                    dataset_keep_text(builder, answered, strlen(answered)));
    }
    if (rc == 0 && row->turn_count > 0) {
        append_turn(builder, row, "user", row->prompt);
        append_turn(builder, row, "assistant", row->completion);
    }
    return rc;
}

static int read_gsm8k(struct dataset_builder *builder, const json_t *object,
                      struct dataset_row *row)
{
    const char *column = builder->options->completion_column;
    const char *name = column != NULL ? column : "answer";
    int rc = read_prompt(builder, object, "question", row);
    if (rc == 0)
        rc = required_text(builder, object, name, &row->completion);
    if (rc < 0)
        return rc;
    const char *mark = NULL;
    for (const char *at = row->completion; (at = strstr(at, "####")) != NULL; at += 4)
        mark = at;
    if (mark == NULL)
        return dataset_error(builder, HONE_EFORMAT, "column \"%s\" has no \"####\" answer", name);
    struct text truth;
    text_init(&truth);
    for (mark += 4; *mark != '\0' && *mark != '\n'; mark++)
        if (*mark != ',' && *mark != ' ' && *mark != '\r' && *mark != '\t')
            text_append_char(&truth, *mark);
    row->ground_truth = dataset_keep_text(builder, truth.data, truth.length);
    text_release(&truth);
    return 0;
}

/* One side of a preference given as an object: its text. */
static int preference_text(struct dataset_builder *builder, const json_t *value, const char *name,
                           const char **text)
{
    if (!json_is_object(value))
        return value_text(builder, value, name, false, text);
    struct chat_turn turn;
    int rc = read_message(builder, value, 0, &turn);
    *text = turn.content;
    return rc < 0 ? error_prefix("column \"%s\"", name) : 0;
}

/* Both sides are lists of messages: the common beginning is the prompt, one message must remain. */
static int preference_lists(struct dataset_builder *builder, const json_t *chosen,
                            const json_t *rejected, struct dataset_row *row)
{
    size_t chosen_count = json_array_size(chosen), rejected_count = json_array_size(rejected);
    size_t common = 0;
    if (row->turn_count == 0 || chosen_count > 1 || rejected_count > 1)
        while (common + 1 < chosen_count && common + 1 < rejected_count &&
               json_equal(json_array_get(chosen, common), json_array_get(rejected, common)))
            common++;
    if (chosen_count != common + 1 || rejected_count != common + 1)
        return dataset_error(builder, HONE_EFORMAT,
                             "chosen has %zu messages and rejected %zu, %zu in common: one answer "
                             "each is expected after them",
                             chosen_count, rejected_count, common);
    if (common > 0) { /* the lists repeat the prompt */
        json_t *prompt = json_array();
        for (size_t i = 0; i < common; i++)
            json_array_append(prompt, json_array_get(chosen, i));
        row->turn_count = 0;
        row->prompt = NULL;
        int rc = append_messages(builder, prompt, "chosen", row, false);
        json_decref(prompt);
        if (rc < 0)
            return rc;
    }
    int rc = preference_text(builder, json_array_get(chosen, common), "chosen", &row->chosen);
    return rc < 0 ? rc
                  : preference_text(builder, json_array_get(rejected, common), "rejected",
                                    &row->rejected);
}

/* Strings without a prompt: their common beginning is the prompt, a space before the difference
 * goes with the answers, as in TRL; never cut inside a character. */
static void split_common_prompt(struct dataset_builder *builder, struct dataset_row *row)
{
    size_t common = 0;
    while (row->chosen[common] != '\0' && row->chosen[common] == row->rejected[common])
        common++;
    while (common > 0 && ((unsigned char)row->chosen[common] & 0xC0) == 0x80)
        common--;
    if (common > 0 && row->chosen[common - 1] == ' ')
        common--;
    row->prompt = dataset_keep_text(builder, row->chosen, common);
    row->chosen += common;
    row->rejected += common;
}

static int read_sides(struct dataset_builder *builder, const json_t *object,
                      struct dataset_row *row)
{
    const struct dataset_options *options = builder->options;
    const char *chosen_name = options->chosen_column != NULL ? options->chosen_column : "chosen";
    const char *rejected_name =
        options->rejected_column != NULL ? options->rejected_column : "rejected";
    const json_t *chosen = find_column(builder, object, chosen_name);
    const json_t *rejected = find_column(builder, object, rejected_name);
    if (chosen == NULL || rejected == NULL)
        return missing_column(builder, object, chosen == NULL ? chosen_name : rejected_name);
    if (json_is_array(chosen) && json_is_array(rejected))
        return preference_lists(builder, chosen, rejected, row);
    int rc = preference_text(builder, chosen, chosen_name, &row->chosen);
    if (rc == 0)
        rc = preference_text(builder, rejected, rejected_name, &row->rejected);
    return rc;
}

static int read_preference(struct dataset_builder *builder, const json_t *object,
                           struct dataset_row *row)
{
    const struct dataset_options *options = builder->options;
    int rc = 0;
    if (options->prompt_template != NULL || options->prompt_column != NULL ||
        find_column(builder, object, "prompt") != NULL)
        rc = read_prompt(builder, object, "prompt", row);
    if (rc == 0)
        rc = read_sides(builder, object, row);
    if (rc == 0 && row->prompt == NULL && row->turn_count == 0)
        split_common_prompt(builder, row);
    return rc;
}

static bool has_column(const json_t *object, const char *name)
{
    return json_object_get(object, name) != NULL;
}

static int read_sharegpt(struct dataset_builder *builder, const json_t *object,
                         struct dataset_row *row)
{
    bool is_preference = builder->options->chosen_column != NULL || has_column(object, "chosen");
    int rc = read_messages(builder, object, "conversations", !is_preference, row);
    return rc == 0 && is_preference ? read_sides(builder, object, row) : rc;
}

static int append_self_instruct(struct dataset_builder *builder, const json_t *object)
{
    const char *instruction = NULL;
    int rc = required_text(builder, object, "instruction", &instruction);
    if (rc < 0)
        return rc;
    const json_t *instances = find_column(builder, object, "instances");
    if (json_array_size(instances) == 0)
        return instances == NULL
                   ? missing_column(builder, object, "instances")
                   : dataset_error(builder, HONE_EFORMAT,
                                   "column \"instances\" is not a list with elements");
    for (size_t i = 0; i < json_array_size(instances); i++) {
        const json_t *instance = json_array_get(instances, i);
        const char *input = json_string_value(json_object_get(instance, "input"));
        const char *output = json_string_value(json_object_get(instance, "output"));
        if (output == NULL)
            return dataset_error(builder, HONE_EFORMAT, "instance %zu has no \"output\" text",
                                 i + 1);
        struct dataset_row *row = open_row(builder);
        row->completion = dataset_keep_text(builder, output, strlen(output));
        if ((rc = join_instruction(builder, instruction, input, &row->prompt)) < 0 ||
            (rc = close_row(builder, object, row)) < 0)
            return rc;
    }
    return 0;
}

int dataset_append(struct dataset_builder *builder, const json_t *object)
{
    builder->used_count = 0;
    if (builder->format == DATASET_SELF_INSTRUCT)
        return append_self_instruct(builder, object);
    struct dataset_row *row = open_row(builder);
    int rc = 0;
    switch (builder->format) {
    case DATASET_TEXT:
        rc = read_text(builder, object, row);
        break;
    case DATASET_PROMPT_COMPLETION:
        rc = read_prompt_completion(builder, object, row);
        break;
    case DATASET_MESSAGES:
        rc = read_messages(builder, object, "messages", true, row);
        break;
    case DATASET_ALPACA:
        rc = read_alpaca(builder, object, row);
        break;
    case DATASET_SHAREGPT:
        rc = read_sharegpt(builder, object, row);
        break;
    case DATASET_GSM8K:
        rc = read_gsm8k(builder, object, row);
        break;
    case DATASET_PREFERENCE:
        rc = read_preference(builder, object, row);
        break;
    case DATASET_SELF_INSTRUCT:
    case DATASET_AUTO:
    case DATASET_FORMAT_COUNT:
        return dataset_error(builder, HONE_EINVAL, "dataset format %d", (int)builder->format);
    }
    return rc < 0 ? rc : close_row(builder, object, row);
}

static enum dataset_format detect_by_columns(const json_t *object)
{
    const char *answer = json_string_value(json_object_get(object, "answer"));
    if (has_column(object, "messages"))
        return DATASET_MESSAGES;
    if (has_column(object, "conversations"))
        return DATASET_SHAREGPT;
    if (has_column(object, "chosen") && has_column(object, "rejected"))
        return DATASET_PREFERENCE;
    if (has_column(object, "prompt"))
        return DATASET_PROMPT_COMPLETION;
    if (has_column(object, "question") && answer != NULL && strstr(answer, "####") != NULL)
        return DATASET_GSM8K;
    if (has_column(object, "instruction") && has_column(object, "instances"))
        return DATASET_SELF_INSTRUCT;
    if (has_column(object, "instruction") && has_column(object, "output"))
        return DATASET_ALPACA;
    return has_column(object, "text") ? DATASET_TEXT : DATASET_AUTO;
}

int dataset_detect(struct dataset_builder *builder, const json_t *object)
{
    const struct dataset_options *options = builder->options;
    builder->format = options->format;
    if (builder->format != DATASET_AUTO)
        return 0;
    if (has_column(object, "conversations") && options->prompt_column == NULL)
        builder->format = DATASET_SHAREGPT;
    else if (options->chosen_column != NULL || options->rejected_column != NULL)
        builder->format = DATASET_PREFERENCE;
    else if (options->text_column != NULL)
        builder->format = DATASET_TEXT;
    else
        builder->format = detect_by_columns(object);
    bool maps_prompt = options->prompt_column != NULL || options->prompt_template != NULL ||
                       options->completion_column != NULL || options->completion_template != NULL;
    if (maps_prompt && (builder->format == DATASET_AUTO || builder->format == DATASET_TEXT))
        builder->format = DATASET_PROMPT_COMPLETION;
    if (builder->format != DATASET_AUTO)
        return 0;
    struct text columns;
    text_init(&columns);
    list_columns(object, &columns);
    int rc = dataset_error(builder, HONE_EFORMAT,
                           "the columns (%s) do not tell the format: name it, or name the prompt "
                           "column",
                           columns.data);
    text_release(&columns);
    return rc;
}

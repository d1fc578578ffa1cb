#include "reward/answer_line.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "infra/base/text.h"

/* What languages print for numbers that JSON has not, Python's json.dumps among them. */
static const char *const non_finite[] = {"NaN", "-Infinity", "Infinity"};
#define NON_FINITE_COUNT (int)(sizeof non_finite / sizeof non_finite[0])

/* The line with each of those words, outside strings, in quotation marks; true when it had one. */
static bool quote_non_finite(const char *line, size_t length, struct text *quoted)
{
    bool inside = false, found = false;
    for (size_t i = 0; i < length; i++) {
        int word = inside ? NON_FINITE_COUNT : 0;
        while (word < NON_FINITE_COUNT &&
               (length - i < strlen(non_finite[word]) ||
                memcmp(line + i, non_finite[word], strlen(non_finite[word])) != 0))
            word++;
        if (word < NON_FINITE_COUNT) {
            text_printf(quoted, "\"%s\"", non_finite[word]);
            i += strlen(non_finite[word]) - 1;
            found = true;
            continue;
        }
        if (inside && line[i] == '\\' && i + 1 < length)
            text_append_char(quoted, line[i++]);
        else if (line[i] == '"')
            inside = !inside;
        text_append_char(quoted, line[i]);
    }
    return found;
}

static json_t *parse(const char *line, size_t length)
{
    json_error_t error;
    struct text quoted;
    json_t *root = json_loadb(line, length, JSON_REJECT_DUPLICATES, &error);

    if (root != NULL)
        return root;
    text_init(&quoted);
    if (quote_non_finite(line, length, &quoted))
        root = json_loadb(quoted.data, quoted.length, JSON_REJECT_DUPLICATES, &error);
    text_release(&quoted);
    return root;
}

/* Of a score, as parse leaves it. */
static const char *non_finite_word(const json_t *score)
{
    const char *string = json_string_value(score);
    for (int word = 0; string != NULL && word < NON_FINITE_COUNT; word++)
        if (strcmp(string, non_finite[word]) == 0)
            return non_finite[word];
    return NULL;
}

static const char *failed(struct answer_line *answer, const char *score)
{
    answer->status = REWARD_ERROR;
    answer->value = 0.0f;
    snprintf(answer->message, sizeof answer->message, "its score is %s", score);
    return NULL;
}

/* The status and value of an answer whose id is read. */
static const char *read_score(struct answer_line *answer, const json_t *root)
{
    const json_t *score = json_object_get(root, "score"), *word = json_object_get(root, "status");
    if (word != NULL && !json_is_null(word)) {
        const char *name = json_string_value(word);
        if (name == NULL)
            return "its status is not a string";
        while (answer->status <= REWARD_ERROR &&
               strcmp(name, reward_status_name(answer->status)) != 0)
            answer->status++;
        if (answer->status > REWARD_ERROR)
            return "its status is none of ok, abstain, timeout, error";
        if (answer->status != REWARD_OK)
            return NULL;
    }
    if (json_is_null(score) && word == NULL) {
        answer->status = REWARD_ABSTAIN;
        return NULL;
    }
    if (non_finite_word(score) != NULL)
        return failed(answer, non_finite_word(score));
    if (json_is_boolean(score))
        answer->value = json_is_true(score) ? 1.0f : 0.0f;
    else if (json_is_number(score))
        answer->value = (float)json_number_value(score);
    else
        return "it has no numeric score";
    return isfinite(answer->value) ? NULL : failed(answer, "out of range");
}

const char *answer_line_read(struct answer_line *answer, const char *line, size_t length)
{
    json_t *root = parse(line, length);
    const json_t *id = json_object_get(root, "id");
    const char *wrong = NULL;

    memset(answer, 0, sizeof *answer);
    answer->status = REWARD_OK;
    if (!json_is_object(root))
        wrong = "it is not a JSON object";
    else if (!json_is_integer(id))
        wrong = "it has no integer id";
    else
        wrong = read_score(answer, root);
    if (wrong == NULL) {
        const char *message = json_string_value(json_object_get(root, "message"));
        answer->id = json_integer_value(id);
        if (answer->status != REWARD_OK && message != NULL)
            snprintf(answer->message, sizeof answer->message, "%s", message);
    }
    json_decref(root);
    return wrong;
}

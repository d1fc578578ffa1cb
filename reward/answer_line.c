#include "reward/answer_line.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

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
    if (json_is_boolean(score))
        answer->value = json_is_true(score) ? 1.0f : 0.0f;
    else if (json_is_number(score))
        answer->value = (float)json_number_value(score);
    else
        return "it has no numeric score";
    return isfinite(answer->value) ? NULL : "its score is out of range";
}

const char *answer_line_read(struct answer_line *answer, const char *line, size_t length)
{
    json_error_t error;
    json_t *root = json_loadb(line, length, JSON_REJECT_DUPLICATES, &error);
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

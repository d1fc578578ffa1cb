/* The built-in verifiers. Each but the last gives 1 or 0; a row whose ground truth it cannot use is
 * REWARD_ERROR, so a data set of the wrong kind stops the run instead of teaching that everything
 * is wrong (G8).
 *
 *   exact   the completion is the ground truth, surrounding white space aside
 *   number  the last number in the completion equals the ground truth exactly, as decimals
 *   gsm8k   the last "#### <number>" among the last 300 characters, as text, commas and $ aside:
 * the strict mode of verl's scorer, so "18.00" is not "18" boxed   the last \boxed{...}, compared
 * as normalised text or as rational numbers
 *   overlong  soft punishment of length (DAPO, arXiv 2503.14476, equation 13): 0 up to longest -
 * buffer tokens, then falling to -1 at longest */
#include "reward/reward_set.h"

#include <string.h>

#include "infra/base/text.h"
#include "reward/math_answer.h"
#include "reward/number.h"

#define GSM8K_WINDOW_CHARACTERS 300

struct span {
    const char *data;
    size_t length;
};

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}

static struct span trimmed(const char *text)
{
    struct span span = {text, strlen(text)};
    while (span.length > 0 && is_space(span.data[0])) {
        span.data++;
        span.length--;
    }
    while (span.length > 0 && is_space(span.data[span.length - 1]))
        span.length--;
    return span;
}

static enum reward_status score_exact(const struct reward_input *input, float *value)
{
    struct span answer = trimmed(input->completion), gold = trimmed(input->ground_truth);
    if (gold.length == 0)
        return REWARD_ERROR;
    *value = answer.length == gold.length && memcmp(answer.data, gold.data, gold.length) == 0;
    return REWARD_OK;
}

static enum reward_status score_number(const struct reward_input *input, float *value)
{
    struct number answer, gold;
    if (!number_whole(input->ground_truth, strlen(input->ground_truth), &gold))
        return REWARD_ERROR;
    *value = number_find_last(input->completion, strlen(input->completion), &answer) &&
             number_equal(&answer, &gold);
    return REWARD_OK;
}

/* Start of the last `count` characters (code points) of the text. */
static const char *last_characters(const char *text, int count)
{
    const char *at = text + strlen(text);
    while (at > text && count > 0)
        if (((unsigned char)*--at & 0xC0) != 0x80)
            count--;
    return at;
}

/* The next "#### -1,234.5" at or after `from`: the characters of its number. */
static bool next_marked(const char *from, struct span *answer)
{
    for (const char *at = strstr(from, "#### "); at != NULL; at = strstr(at + 1, "#### ")) {
        const char *begin = at + 5;
        size_t sign = *begin == '-';
        size_t digits = strspn(begin + sign, "0123456789.,");
        if (digits > 0) {
            *answer = (struct span){begin, sign + digits};
            return true;
        }
    }
    return false;
}

static void append_without(struct text *out, struct span span, const char *dropped)
{
    for (size_t i = 0; i < span.length; i++)
        if (strchr(dropped, span.data[i]) == NULL)
            text_append_char(out, span.data[i]);
}

static enum reward_status score_gsm8k(const struct reward_input *input, float *value)
{
    struct span gold_span = trimmed(input->ground_truth), answer_span = {NULL, 0}, found;
    if (gold_span.length == 0)
        return REWARD_ERROR;
    const char *from = last_characters(input->completion, GSM8K_WINDOW_CHARACTERS);
    while (next_marked(from, &found)) {
        answer_span = found;
        from = found.data + found.length;
    }
    *value = 0;
    if (answer_span.data == NULL)
        return REWARD_OK;
    struct text answer, gold;
    text_init(&answer);
    text_init(&gold);
    append_without(&answer, answer_span, ",$");
    append_without(&gold, gold_span, ",$");
    *value = strcmp(answer.data, gold.data) == 0;
    text_release(&answer);
    text_release(&gold);
    return REWARD_OK;
}

static enum reward_status score_boxed(const struct reward_input *input, float *value)
{
    struct text answer, gold;
    text_init(&answer);
    text_init(&gold);
    if (!math_answer_boxed(input->ground_truth, &gold))
        text_append(&gold, input->ground_truth);
    enum reward_status status = trimmed(gold.data).length == 0 ? REWARD_ERROR : REWARD_OK;
    *value =
        math_answer_boxed(input->completion, &answer) && math_answer_equal(answer.data, gold.data);
    text_release(&answer);
    text_release(&gold);
    return status;
}

static enum reward_status score_overlong(const struct reward_input *input, float *value)
{
    int32_t buffer = input->overlong_buffer_tokens;
    int32_t over = input->completion_id_count - (input->longest_tokens - buffer);
    if (buffer < 1 || input->longest_tokens < buffer)
        return REWARD_ERROR;
    *value = over <= 0 ? 0.0f : -(float)(over < buffer ? over : buffer) / (float)buffer;
    return REWARD_OK;
}

static const struct verifier verifiers[] = {
    {"exact", "1 when the completion is the ground truth, surrounding white space aside",
     score_exact},
    {"number", "1 when the completion's last number equals the ground truth exactly", score_number},
    {"gsm8k", "1 when the last \"#### <number>\" is the ground truth (strict)", score_gsm8k},
    {"boxed", "1 when the last \\boxed{...} is the ground truth, normalised or as a fraction",
     score_boxed},
    {"overlong", "0, or down to -1 for completions that come near the longest they may be",
     score_overlong},
};

const struct verifier *verifier_at(int index)
{
    int count = (int)(sizeof verifiers / sizeof verifiers[0]);
    return index >= 0 && index < count ? &verifiers[index] : NULL;
}

const struct verifier *verifier_find(const char *name)
{
    const struct verifier *verifier;
    for (int i = 0; (verifier = verifier_at(i)) != NULL; i++)
        if (strcmp(verifier->name, name) == 0)
            return verifier;
    return NULL;
}

#include "infra/text/added_tokens.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/text/bpe.h"
#include "infra/text/json_field.h"
#include "infra/text/unicode.h"

#define ADDED_COUNT_MAX 1000000

static int parse_token(struct added_token *token, const json_t *json, const char *where)
{
    const char *content = NULL;
    int64_t id = 0;
    int rc = 0;
    if (!json_is_object(json))
        return error_set(HONE_EFORMAT, "%s: an object is expected", where);
    if ((rc = json_field_string(json, where, "content", &content)) < 0 ||
        (rc = json_field_int(json, where, "id", 0, BPE_ID_MAX, &id)) < 0 ||
        (rc = json_field_bool_or(json, where, "special", false, &token->is_special)) < 0 ||
        (rc = json_field_bool_or(json, where, "single_word", false, &token->single_word)) < 0 ||
        (rc = json_field_bool_or(json, where, "lstrip", false, &token->lstrip)) < 0 ||
        (rc = json_field_bool_or(json, where, "rstrip", false, &token->rstrip)) < 0 ||
        (rc = json_field_bool_or(json, where, "normalized", !token->is_special,
                                 &token->normalized)) < 0)
        return rc;
    token->content = memory_strdup(content);
    token->id = (int32_t)id;
    return 0;
}

static int normalise_content(struct added_token *token, const struct normalizer *normalizer)
{
    struct text text;
    int rc = 0;
    text_init(&text);
    text_append(&text, token->content);
    if (token->normalized) {
        struct regex_scratch *scratch = regex_scratch_create();
        rc = normalizer_run(normalizer, scratch, true, &text);
        regex_scratch_destroy(scratch);
    }
    token->matched_length = text.length;
    token->matched = text_detach(&text);
    text_release(&text);
    return rc;
}

static int compare_bytes(const struct added_token *a, const struct added_token *b)
{
    size_t shorter = a->matched_length < b->matched_length ? a->matched_length : b->matched_length;
    int order = memcmp(a->matched, b->matched, shorter);
    if (order != 0)
        return order;
    return a->matched_length < b->matched_length ? -1 : a->matched_length > b->matched_length;
}

static int compare_indices(const void *left, const void *right, void *context)
{
    const struct added_token *tokens = context;
    int32_t a = *(const int32_t *)left, b = *(const int32_t *)right;
    int order = compare_bytes(&tokens[a], &tokens[b]);
    return order != 0 ? order : (a > b) - (a < b);
}

static void index_pass(struct added_tokens *added, enum added_pass pass)
{
    int32_t *sorted = MEMORY_ARRAY(int32_t, added->count + 1);
    int32_t count = 0;
    for (int32_t i = 0; i < added->count; i++) {
        const struct added_token *token = &added->tokens[i];
        if (token->matched_length == 0 || token->normalized != (pass == ADDED_NORMALIZED))
            continue;
        sorted[count++] = i;
        added->can_start[pass][(unsigned char)token->matched[0]] = true;
    }
    qsort_r(sorted, (size_t)count, sizeof(int32_t), compare_indices, added->tokens);
    added->sorted[pass] = sorted;
    added->sorted_count[pass] = count;
}

static int check_duplicates(const struct added_tokens *added, enum added_pass pass)
{
    for (int32_t i = 1; i < added->sorted_count[pass]; i++) {
        const struct added_token *a = &added->tokens[added->sorted[pass][i - 1]];
        const struct added_token *b = &added->tokens[added->sorted[pass][i]];
        if (compare_bytes(a, b) == 0 && a->id != b->id)
            return error_set(HONE_EFORMAT, "added_tokens: \"%s\" has id %d and id %d", a->content,
                             a->id, b->id);
    }
    return 0;
}

int added_tokens_parse(struct added_tokens *added, const json_t *list,
                       const struct normalizer *normalizer)
{
    *added = (struct added_tokens){0};
    if (list != NULL && !json_is_null(list) && !json_is_array(list))
        return error_set(HONE_EFORMAT, "added_tokens: an array is expected");
    size_t count = json_array_size(list);
    if (count > ADDED_COUNT_MAX)
        return error_set(HONE_EFORMAT, "added_tokens: %zu of them", count);
    added->tokens = MEMORY_ARRAY(struct added_token, count + 1);
    int rc = 0;
    for (size_t i = 0; i < count && rc == 0; i++) {
        char where[JSON_FIELD_WHERE_MAX];
        snprintf(where, sizeof(where), "added_tokens[%zu]", i);
        struct added_token *token = &added->tokens[added->count++];
        rc = parse_token(token, json_array_get(list, i), where);
        if (rc == 0)
            rc = normalise_content(token, normalizer);
    }
    if (rc == 0) {
        index_pass(added, ADDED_RAW);
        index_pass(added, ADDED_NORMALIZED);
        rc = check_duplicates(added, ADDED_RAW);
    }
    if (rc == 0)
        rc = check_duplicates(added, ADDED_NORMALIZED);
    if (rc < 0)
        added_tokens_release(added);
    return rc;
}

void added_tokens_release(struct added_tokens *added)
{
    for (int32_t i = 0; i < added->count; i++) {
        memory_free(added->tokens[i].content);
        memory_free(added->tokens[i].matched);
    }
    memory_free(added->tokens);
    memory_free(added->sorted[ADDED_RAW]);
    memory_free(added->sorted[ADDED_NORMALIZED]);
    *added = (struct added_tokens){0};
}

/* First index in [low, high) whose byte at depth is at least `byte`; shorter tokens come first. */
static int32_t lower_bound(const struct added_tokens *added, const int32_t *sorted, int32_t low,
                           int32_t high, size_t depth, int byte)
{
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        const struct added_token *token = &added->tokens[sorted[middle]];
        int at = depth < token->matched_length ? (unsigned char)token->matched[depth] : -1;
        if (at < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest token that starts at this position; NULL when there is none. */
static const struct added_token *match_at(const struct added_walk *walk, size_t position)
{
    const int32_t *sorted = walk->added->sorted[walk->pass];
    int32_t low = 0, high = walk->added->sorted_count[walk->pass];
    const struct added_token *longest = NULL;
    for (size_t depth = 0; position + depth < walk->length; depth++) {
        int byte = (unsigned char)walk->text[position + depth];
        low = lower_bound(walk->added, sorted, low, high, depth, byte);
        high = lower_bound(walk->added, sorted, low, high, depth, byte + 1);
        if (low == high)
            break;
        const struct added_token *token = &walk->added->tokens[sorted[low]];
        if (token->matched_length == depth + 1)
            longest = token;
    }
    return longest;
}

static uint32_t character_before(const char *text, size_t position)
{
    do
        position--;
    while (((unsigned char)text[position] & 0xC0) == 0x80);
    return unicode_next(text, &position);
}

static bool touches_word(const struct added_walk *walk, size_t start, size_t end)
{
    if (start > 0 && unicode_is_word(character_before(walk->text, start)))
        return true;
    return end < walk->length && unicode_is_word(unicode_next(walk->text, &end));
}

static size_t strip_left(const struct added_walk *walk, size_t start)
{
    while (start > walk->emitted) {
        uint32_t before = character_before(walk->text, start);
        if (!unicode_is_white_space(before))
            break;
        char bytes[4];
        start -= (size_t)unicode_encode(before, bytes);
    }
    return start;
}

static size_t strip_right(const struct added_walk *walk, size_t end)
{
    while (end < walk->length) {
        size_t next = end;
        if (!unicode_is_white_space(unicode_next(walk->text, &next)))
            break;
        end = next;
    }
    return end;
}

static bool find_token(struct added_walk *walk, struct added_segment *found)
{
    while (walk->search_from < walk->length) {
        size_t start = walk->search_from;
        unsigned char first = (unsigned char)walk->text[start];
        const struct added_token *token =
            walk->added->can_start[walk->pass][first] ? match_at(walk, start) : NULL;
        if (token == NULL) {
            walk->search_from++;
            continue;
        }
        size_t end = start + token->matched_length;
        walk->search_from = end;
        if ((walk->skip_special && token->is_special) ||
            (token->single_word && touches_word(walk, start, end)))
            continue;
        if (token->lstrip)
            start = strip_left(walk, start);
        if (token->rstrip)
            end = strip_right(walk, end);
        *found = (struct added_segment){start, end, token->id};
        return true;
    }
    return false;
}

bool added_walk_next(struct added_walk *walk, struct added_segment *segment)
{
    if (walk->has_held) {
        walk->has_held = false;
        *segment = walk->held;
        walk->emitted = walk->held.end;
        return true;
    }
    struct added_segment found;
    if (!find_token(walk, &found)) {
        if (walk->emitted >= walk->length)
            return false;
        *segment = (struct added_segment){walk->emitted, walk->length, -1};
        walk->emitted = walk->length;
        return true;
    }
    if (found.start <= walk->emitted) {
        *segment = found;
        walk->emitted = found.end;
        return true;
    }
    *segment = (struct added_segment){walk->emitted, found.start, -1};
    walk->held = found;
    walk->has_held = true;
    return true;
}

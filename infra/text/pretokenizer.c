#include "infra/text/pretokenizer.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/text/json_field.h"
#include "infra/text/normalizer.h"
#include "infra/text/unicode.h"

#define STEPS_MAX 32
#define DEPTH_MAX 8

const char pretokenizer_gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

enum step_kind { STEP_SPLIT, STEP_BYTE_LEVEL, STEP_DIGITS, STEP_METASPACE };

enum split_behavior {
    SPLIT_ISOLATED,
    SPLIT_REMOVED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS,
    SPLIT_BEHAVIOR_COUNT
};

static const char *const behavior_names[SPLIT_BEHAVIOR_COUNT] = {
    "Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};

enum prefix_scheme { PREFIX_NEVER, PREFIX_FIRST, PREFIX_ALWAYS };

struct pretokenizer_step {
    enum step_kind kind;
    struct regex *regex; /* SPLIT, BYTE_LEVEL with use_regex, METASPACE with split */
    enum split_behavior behavior;
    bool invert;
    enum prefix_scheme prefix; /* BYTE_LEVEL: ALWAYS for add_prefix_space */
    char replacement[8];       /* METASPACE */
};

struct pretokenizer {
    struct pretokenizer_step steps[STEPS_MAX];
    int count;
    char byte_level[256][3]; /* UTF-8 of each byte's character, 1 or 2 bytes and NUL */
};

void piece_list_init(struct piece_list *list)
{
    *list = (struct piece_list){0};
    text_init(&list->bytes);
}

void piece_list_release(struct piece_list *list)
{
    text_release(&list->bytes);
    memory_free(list->pieces);
    *list = (struct piece_list){0};
}

void piece_list_clear(struct piece_list *list)
{
    text_clear(&list->bytes);
    list->count = 0;
}

static struct piece *piece_list_open(struct piece_list *list, enum piece_place place)
{
    if (list->count == list->capacity) {
        size_t grown = list->capacity == 0 ? 64 : list->capacity * 2;
        list->pieces = list->pieces == NULL ? MEMORY_ARRAY(struct piece, grown)
                                            : memory_resize(list->pieces, list->capacity, grown,
                                                            sizeof(struct piece));
        list->capacity = grown;
    }
    struct piece *piece = &list->pieces[list->count++];
    *piece = (struct piece){.start = list->bytes.length, .place = place};
    return piece;
}

void piece_list_append(struct piece_list *list, const char *bytes, size_t length,
                       enum piece_place place)
{
    if (length == 0)
        return;
    piece_list_open(list, place)->length = length;
    text_append_bytes(&list->bytes, bytes, length);
}

/* Turns the spans of one piece, matches and the text between them, into pieces. */
struct splitter {
    struct piece_list *out;
    const char *text;
    enum piece_place place;
    enum split_behavior behavior;
    bool invert;
    size_t first;         /* index of the first piece made from this text */
    bool previous_match;  /* the span before was a match */
    size_t pending_start; /* MERGED_WITH_NEXT: a match that waits for its next span */
    size_t pending_end;
};

static void splitter_emit(struct splitter *splitter, size_t start, size_t end)
{
    piece_list_append(splitter->out, splitter->text + start, end - start,
                      start == 0 ? splitter->place : PIECE_INNER);
}

static void splitter_extend_or_emit(struct splitter *splitter, bool extend, size_t start,
                                    size_t end)
{
    struct piece_list *out = splitter->out;
    if (!extend || out->count == splitter->first) {
        splitter_emit(splitter, start, end);
        return;
    }
    text_append_bytes(&out->bytes, splitter->text + start, end - start);
    out->pieces[out->count - 1].length += end - start;
}

static void splitter_span(struct splitter *splitter, size_t start, size_t end, bool is_match)
{
    is_match = is_match != splitter->invert;
    switch (splitter->behavior) {
    case SPLIT_ISOLATED:
        splitter_emit(splitter, start, end);
        break;
    case SPLIT_REMOVED:
        if (!is_match)
            splitter_emit(splitter, start, end);
        break;
    case SPLIT_MERGED_WITH_PREVIOUS:
        splitter_extend_or_emit(splitter, is_match && !splitter->previous_match, start, end);
        break;
    case SPLIT_MERGED_WITH_NEXT:
        if (!is_match && splitter->pending_end > splitter->pending_start)
            start = splitter->pending_start;
        else
            splitter_emit(splitter, splitter->pending_start, splitter->pending_end);
        splitter->pending_start = splitter->pending_end = end;
        if (is_match)
            splitter->pending_start = start;
        else
            splitter_emit(splitter, start, end);
        break;
    case SPLIT_CONTIGUOUS:
        splitter_extend_or_emit(splitter, is_match == splitter->previous_match, start, end);
        break;
    case SPLIT_BEHAVIOR_COUNT:
        break;
    }
    splitter->previous_match = is_match;
}

static int split_by_regex(struct splitter *splitter, const struct regex *regex,
                          struct regex_scratch *scratch, size_t length)
{
    struct regex_walk walk = {
        .regex = regex, .scratch = scratch, .text = splitter->text, .length = length};
    size_t previous = 0;
    int rc = 0;
    while ((rc = regex_walk_next(&walk)) > 0) {
        if (walk.match_start != previous)
            splitter_span(splitter, previous, walk.match_start, false);
        splitter_span(splitter, walk.match_start, walk.match_end, true);
        previous = walk.match_end;
    }
    if (previous != length)
        splitter_span(splitter, previous, length, false);
    splitter_emit(splitter, splitter->pending_start, splitter->pending_end);
    return rc;
}

static void split_digits(struct splitter *splitter, size_t length)
{
    size_t previous = 0, position = 0;
    while (position < length) {
        size_t start = position;
        if (!unicode_is_numeric(unicode_next(splitter->text, &position)))
            continue;
        if (start != previous)
            splitter_span(splitter, previous, start, false);
        splitter_span(splitter, start, position, true);
        previous = position;
    }
    if (previous != length)
        splitter_span(splitter, previous, length, false);
}

static bool takes_prefix(enum prefix_scheme scheme, enum piece_place place)
{
    if (place == PIECE_CONTINUED)
        return false;
    return scheme == PREFIX_ALWAYS || (scheme == PREFIX_FIRST && place == PIECE_FIRST);
}

/* The step's view of a piece: spaces replaced, a prefix put in front. */
static void prepare_piece(const struct pretokenizer_step *step, const char *bytes, size_t length,
                          enum piece_place place, struct text *out)
{
    const char *prefix = step->kind == STEP_METASPACE ? step->replacement : " ";
    text_clear(out);
    if (step->kind != STEP_METASPACE) {
        text_append_bytes(out, bytes, length);
    } else {
        for (size_t i = 0; i < length; i++) {
            if (bytes[i] == ' ')
                text_append(out, step->replacement);
            else
                text_append_char(out, bytes[i]);
        }
    }
    if (takes_prefix(step->prefix, place) && !text_starts_with(out->data, prefix)) {
        struct text prefixed;
        text_init(&prefixed);
        text_append(&prefixed, prefix);
        text_append_bytes(&prefixed, out->data, out->length);
        text_release(out);
        *out = prefixed;
    }
}

/* Rewrites every piece from index first on into byte-level characters. */
static void byte_level_map(const struct pretokenizer *pretokenizer, struct piece_list *from,
                           struct piece_list *to)
{
    piece_list_clear(to);
    for (size_t i = 0; i < from->count; i++) {
        const struct piece *source = &from->pieces[i];
        const char *bytes = from->bytes.data + source->start;
        struct piece *piece = piece_list_open(to, source->place);
        for (size_t j = 0; j < source->length; j++)
            text_append(&to->bytes, pretokenizer->byte_level[(unsigned char)bytes[j]]);
        piece->length = to->bytes.length - piece->start;
    }
}

static void swap_lists(struct piece_list *a, struct piece_list *b)
{
    struct piece_list held = *a;
    *a = *b;
    *b = held;
}

static int run_step(const struct pretokenizer *pretokenizer, const struct pretokenizer_step *step,
                    struct regex_scratch *scratch, struct piece_list *pieces,
                    struct piece_list *spare)
{
    struct text prepared;
    int rc = 0;
    bool prepare = step->kind == STEP_METASPACE || step->prefix != PREFIX_NEVER;
    text_init(&prepared);
    piece_list_clear(spare);
    for (size_t i = 0; i < pieces->count && rc == 0; i++) {
        const struct piece *piece = &pieces->pieces[i];
        const char *bytes = pieces->bytes.data + piece->start;
        size_t length = piece->length;
        if (prepare) {
            prepare_piece(step, bytes, length, piece->place, &prepared);
            bytes = prepared.data;
            length = prepared.length;
        }
        struct splitter splitter = {.out = spare,
                                    .text = bytes,
                                    .place = piece->place,
                                    .behavior = step->behavior,
                                    .invert = step->invert,
                                    .first = spare->count};
        if (step->kind == STEP_DIGITS)
            split_digits(&splitter, length);
        else if (step->regex != NULL)
            rc = split_by_regex(&splitter, step->regex, scratch, length);
        else
            piece_list_append(spare, bytes, length, piece->place);
    }
    text_release(&prepared);
    if (step->kind == STEP_BYTE_LEVEL)
        byte_level_map(pretokenizer, spare, pieces);
    else
        swap_lists(pieces, spare);
    return rc;
}

int pretokenizer_run(const struct pretokenizer *pretokenizer, struct regex_scratch *scratch,
                     struct piece_list *pieces, struct piece_list *spare)
{
    int rc = 0;
    for (int i = 0; i < pretokenizer->count && rc == 0; i++)
        rc = run_step(pretokenizer, &pretokenizer->steps[i], scratch, pieces, spare);
    return rc;
}

static int parse_split(struct pretokenizer_step *step, const json_t *json, const char *where)
{
    const char *behavior = NULL;
    int rc = json_field_string(json, where, "behavior", &behavior);
    if (rc == 0)
        rc = json_field_bool_or(json, where, "invert", false, &step->invert);
    if (rc < 0)
        return rc;
    int found = 0;
    while (found < SPLIT_BEHAVIOR_COUNT && strcmp(behavior, behavior_names[found]) != 0)
        found++;
    if (found == SPLIT_BEHAVIOR_COUNT)
        return error_set(HONE_EUNSUPPORTED, "%s: split behaviour \"%s\" is not supported", where,
                         behavior);
    step->behavior = (enum split_behavior)found;
    return pattern_parse(&step->regex, json, where);
}

static int parse_byte_level(struct pretokenizer_step *step, const json_t *json, const char *where)
{
    bool prefix = true, use_regex = true;
    int rc = json_field_bool_or(json, where, "add_prefix_space", true, &prefix);
    if (rc == 0)
        rc = json_field_bool_or(json, where, "use_regex", true, &use_regex);
    step->prefix = prefix ? PREFIX_ALWAYS : PREFIX_NEVER;
    if (rc == 0 && use_regex)
        rc = regex_compile(&step->regex, pretokenizer_gpt2_pattern);
    return rc;
}

static int parse_metaspace(struct pretokenizer_step *step, const json_t *json, const char *where)
{
    const char *replacement = NULL, *scheme = NULL;
    bool split = true, add_prefix = true;
    int rc = json_field_string(json, where, "replacement", &replacement);
    if (rc == 0)
        rc = json_field_string_or(json, where, "prepend_scheme", "always", &scheme);
    if (rc == 0)
        rc = json_field_bool_or(json, where, "add_prefix_space", true, &add_prefix);
    if (rc == 0)
        rc = json_field_bool_or(json, where, "split", true, &split);
    if (rc < 0)
        return rc;
    if (replacement[0] == '\0' ||
        (size_t)unicode_length((unsigned char)replacement[0]) != strlen(replacement))
        return error_set(HONE_EFORMAT, "%s: replacement \"%s\" is not one character", where,
                         replacement);
    snprintf(step->replacement, sizeof(step->replacement), "%s", replacement);
    if (!add_prefix || strcmp(scheme, "never") == 0)
        step->prefix = PREFIX_NEVER;
    else if (strcmp(scheme, "first") == 0)
        step->prefix = PREFIX_FIRST;
    else if (strcmp(scheme, "always") == 0)
        step->prefix = PREFIX_ALWAYS;
    else
        return error_set(HONE_EUNSUPPORTED, "%s: prepend_scheme \"%s\"", where, scheme);
    step->behavior = SPLIT_MERGED_WITH_NEXT;
    return split ? regex_compile_literal(&step->regex, replacement, strlen(replacement)) : 0;
}

static int parse_digits(struct pretokenizer_step *step, const json_t *json, const char *where)
{
    bool individual = false;
    int rc = json_field_bool_or(json, where, "individual_digits", false, &individual);
    step->behavior = individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
    return rc;
}

static const struct step_type {
    const char *name;
    enum step_kind kind;
    int (*parse)(struct pretokenizer_step *step, const json_t *json, const char *where);
} step_types[] = {
    {"Split", STEP_SPLIT, parse_split},
    {"ByteLevel", STEP_BYTE_LEVEL, parse_byte_level},
    {"Digits", STEP_DIGITS, parse_digits},
    {"Metaspace", STEP_METASPACE, parse_metaspace},
};

static int parse_step(struct pretokenizer *pretokenizer, const json_t *json, const char *type,
                      const char *where)
{
    if (pretokenizer->count == STEPS_MAX)
        return error_set(HONE_EUNSUPPORTED, "%s: more than %d pre-tokenisers", where, STEPS_MAX);
    for (size_t i = 0; i < sizeof(step_types) / sizeof(step_types[0]); i++) {
        if (strcmp(type, step_types[i].name) != 0)
            continue;
        struct pretokenizer_step *step = &pretokenizer->steps[pretokenizer->count++];
        step->kind = step_types[i].kind;
        return step_types[i].parse(step, json, where);
    }
    return error_set(HONE_EUNSUPPORTED, "%s: pre-tokeniser \"%s\" is not supported", where, type);
}

static int parse_into(struct pretokenizer *pretokenizer, const json_t *json, const char *where,
                      int depth)
{
    const char *type = NULL;
    if (!json_is_object(json))
        return error_set(HONE_EFORMAT, "%s: an object is expected", where);
    int rc = json_field_string(json, where, "type", &type);
    if (rc < 0)
        return rc;
    if (strcmp(type, "Sequence") != 0)
        return parse_step(pretokenizer, json, type, where);
    if (depth == DEPTH_MAX)
        return error_set(HONE_EFORMAT, "%s: sequences nested more than %d deep", where, DEPTH_MAX);
    json_t *list = NULL;
    if ((rc = json_field_array(json, where, "pretokenizers", &list)) < 0)
        return rc;
    for (size_t i = 0; i < json_array_size(list) && rc == 0; i++) {
        char inner[JSON_FIELD_WHERE_MAX];
        snprintf(inner, sizeof(inner), "%s[%zu]", where, i);
        rc = parse_into(pretokenizer, json_array_get(list, i), inner, depth + 1);
    }
    return rc;
}

int pretokenizer_parse(struct pretokenizer **out, const json_t *json, const char *where)
{
    *out = NULL;
    struct pretokenizer *pretokenizer = MEMORY_NEW(struct pretokenizer);
    for (int byte = 0; byte < 256; byte++) {
        char utf8[4];
        int length = unicode_encode(unicode_byte_level((unsigned char)byte), utf8);
        memcpy(pretokenizer->byte_level[byte], utf8, (size_t)length);
    }
    int rc = 0;
    if (json != NULL && !json_is_null(json))
        rc = parse_into(pretokenizer, json, where, 0);
    if (rc < 0) {
        pretokenizer_free(pretokenizer);
        return rc;
    }
    *out = pretokenizer;
    return 0;
}

void pretokenizer_free(struct pretokenizer *pretokenizer)
{
    if (pretokenizer == NULL)
        return;
    for (int i = 0; i < STEPS_MAX; i++)
        regex_free(pretokenizer->steps[i].regex);
    memory_free(pretokenizer);
}

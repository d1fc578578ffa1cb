#include "infra/text/decoder.h"

#include <stdio.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/text/json_field.h"
#include "infra/text/normalizer.h"
#include "infra/text/unicode.h"

#define STEPS_MAX 32
#define DEPTH_MAX 8

enum step_kind {
    STEP_BYTE_LEVEL,
    STEP_BYTE_FALLBACK,
    STEP_REPLACE,
    STEP_FUSE,
    STEP_STRIP,
    STEP_METASPACE,
    STEP_JOIN_WITH_SPACES
};

struct decoder_step {
    enum step_kind kind;
    struct regex *regex; /* REPLACE */
    char *content;       /* REPLACE; METASPACE and STRIP: the character */
    int64_t strip_count; /* STRIP */
    bool drops_first;    /* METASPACE: the first token loses its marks */
    bool is_fused;       /* STRIP: the input is one token in parts */
};

struct decoder {
    struct decoder_step steps[STEPS_MAX];
    int count;
    bool is_fused; /* a Fuse or ByteLevel has been parsed */
};

struct step_state {
    struct text pending; /* bytes of an unfinished character or run */
    struct text scratch;
    int64_t stripped;
    bool strip_done;
    bool started;
    size_t given; /* eager byte fallback: bytes of the run already passed on */
};

struct decoder_state {
    const struct decoder *decoder;
    struct regex_scratch *regex;
    bool eager;
    struct step_state steps[STEPS_MAX];
};

static int pass(struct decoder_state *state, int step, const char *token, size_t length,
                struct text *out);

static int pass_byte_level(struct decoder_state *state, int index, const char *token, size_t length,
                           struct text *out)
{
    struct step_state *step = &state->steps[index];
    size_t before = step->pending.length;
    for (size_t position = 0; position < length;) {
        int byte = unicode_byte_level_inverse(unicode_next(token, &position));
        if (byte < 0) { /* not written in byte-level characters: its own bytes count */
            step->pending.length = before;
            text_append_bytes(&step->pending, token, length);
            break;
        }
        text_append_char(&step->pending, (char)byte);
    }
    size_t tail = unicode_incomplete_tail(step->pending.data, step->pending.length);
    size_t ready = step->pending.length - tail;
    if (ready == 0)
        return 0;
    char kept[4];
    memcpy(kept, step->pending.data + ready, tail);
    text_clear(&step->scratch);
    unicode_append_lossy(&step->scratch, step->pending.data, ready);
    text_clear(&step->pending);
    text_append_bytes(&step->pending, kept, tail);
    return pass(state, index + 1, step->scratch.data, step->scratch.length, out);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte of "<0xAB>", -1 for any other token. */
static int fallback_byte(const char *token, size_t length)
{
    if (length != 6 || memcmp(token, "<0x", 3) != 0 || token[5] != '>')
        return -1;
    int high = hex_digit(token[3]), low = hex_digit(token[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static int end_byte_run(struct decoder_state *state, int index, struct text *out)
{
    struct step_state *step = &state->steps[index];
    const char *rest = step->pending.data + step->given;
    size_t length = step->pending.length - step->given;
    int rc = 0;
    if (length > 0 && text_is_utf8(rest, length)) {
        rc = pass(state, index + 1, rest, length, out);
    } else {
        for (size_t i = 0; i < length && rc == 0; i++)
            rc = pass(state, index + 1, "\xEF\xBF\xBD", 3, out);
    }
    text_clear(&step->pending);
    step->given = 0;
    return rc;
}

static int pass_byte_fallback(struct decoder_state *state, int index, const char *token,
                              size_t length, struct text *out)
{
    struct step_state *step = &state->steps[index];
    int byte = fallback_byte(token, length);
    if (byte < 0) {
        int rc = end_byte_run(state, index, out);
        return rc < 0 ? rc : pass(state, index + 1, token, length, out);
    }
    text_append_char(&step->pending, (char)byte);
    if (!state->eager)
        return 0;
    const char *rest = step->pending.data + step->given;
    size_t waiting = step->pending.length - step->given;
    if (!text_is_utf8(rest, waiting))
        return 0;
    step->given = step->pending.length;
    return pass(state, index + 1, rest, waiting, out);
}

static int pass_replace(struct decoder_state *state, int index, const char *token, size_t length,
                        struct text *out)
{
    const struct decoder_step *step = &state->decoder->steps[index];
    struct text *scratch = &state->steps[index].scratch;
    text_clear(scratch);
    int rc = pattern_replace(step->regex, state->regex, token, length, step->content, scratch);
    return rc < 0 ? rc : pass(state, index + 1, scratch->data, scratch->length, out);
}

static int pass_strip(struct decoder_state *state, int index, const char *token, size_t length,
                      struct text *out)
{
    const struct decoder_step *step = &state->decoder->steps[index];
    struct step_state *own = &state->steps[index];
    size_t width = strlen(step->content), cut = 0;
    if (!step->is_fused) {
        own->stripped = 0;
        own->strip_done = false;
    }
    while (!own->strip_done && cut < length) {
        if (own->stripped == step->strip_count || length - cut < width ||
            memcmp(token + cut, step->content, width) != 0) {
            own->strip_done = true;
            break;
        }
        own->stripped++;
        cut += width;
    }
    return pass(state, index + 1, token + cut, length - cut, out);
}

static int pass_metaspace(struct decoder_state *state, int index, const char *token, size_t length,
                          struct text *out)
{
    const struct decoder_step *step = &state->decoder->steps[index];
    struct step_state *own = &state->steps[index];
    const char *content = step->drops_first && !own->started ? "" : " ";
    size_t width = strlen(step->content);
    own->started = true;
    text_clear(&own->scratch);
    for (size_t i = 0; i < length;) {
        if (length - i >= width && memcmp(token + i, step->content, width) == 0) {
            text_append(&own->scratch, content);
            i += width;
        } else {
            text_append_char(&own->scratch, token[i++]);
        }
    }
    return pass(state, index + 1, own->scratch.data, own->scratch.length, out);
}

/* Sends one token through the steps from index on. */
static int pass(struct decoder_state *state, int index, const char *token, size_t length,
                struct text *out)
{
    if (index == state->decoder->count) {
        text_append_bytes(out, token, length);
        return 0;
    }
    switch (state->decoder->steps[index].kind) {
    case STEP_BYTE_LEVEL:
        return pass_byte_level(state, index, token, length, out);
    case STEP_BYTE_FALLBACK:
        return pass_byte_fallback(state, index, token, length, out);
    case STEP_REPLACE:
        return pass_replace(state, index, token, length, out);
    case STEP_STRIP:
        return pass_strip(state, index, token, length, out);
    case STEP_METASPACE:
        return pass_metaspace(state, index, token, length, out);
    case STEP_JOIN_WITH_SPACES:
        if (state->steps[index].started)
            text_append_char(out, ' ');
        state->steps[index].started = true;
        break;
    case STEP_FUSE:
        break;
    }
    return pass(state, index + 1, token, length, out);
}

struct decoder_state *decoder_state_create(const struct decoder *decoder, bool eager)
{
    struct decoder_state *state = MEMORY_NEW(struct decoder_state);
    state->decoder = decoder;
    state->eager = eager;
    state->regex = regex_scratch_create();
    for (int i = 0; i < decoder->count; i++) {
        text_init(&state->steps[i].pending);
        text_init(&state->steps[i].scratch);
    }
    return state;
}

void decoder_state_destroy(struct decoder_state *state)
{
    if (state == NULL)
        return;
    for (int i = 0; i < state->decoder->count; i++) {
        text_release(&state->steps[i].pending);
        text_release(&state->steps[i].scratch);
    }
    regex_scratch_destroy(state->regex);
    memory_free(state);
}

int decoder_push(struct decoder_state *state, const char *token, size_t length, struct text *out)
{
    return pass(state, 0, token, length, out);
}

int decoder_finish(struct decoder_state *state, struct text *out)
{
    int rc = 0;
    for (int i = 0; i < state->decoder->count && rc == 0; i++) {
        struct step_state *step = &state->steps[i];
        enum step_kind kind = state->decoder->steps[i].kind;
        if (kind == STEP_BYTE_FALLBACK) {
            rc = end_byte_run(state, i, out);
        } else if (kind == STEP_BYTE_LEVEL && step->pending.length > 0) {
            text_clear(&step->scratch);
            unicode_append_lossy(&step->scratch, step->pending.data, step->pending.length);
            rc = pass(state, i + 1, step->scratch.data, step->scratch.length, out);
        }
    }
    for (int i = 0; i < state->decoder->count; i++) {
        struct step_state *step = &state->steps[i];
        text_clear(&step->pending);
        step->stripped = 0;
        step->strip_done = false;
        step->started = false;
        step->given = 0;
    }
    return rc;
}

static int parse_character(struct decoder_step *step, const json_t *json, const char *where,
                           const char *key)
{
    const char *content = NULL;
    int rc = json_field_string(json, where, key, &content);
    if (rc < 0)
        return rc;
    if (content[0] == '\0' || (size_t)unicode_length((unsigned char)content[0]) != strlen(content))
        return error_set(HONE_EFORMAT, "%s: %s \"%s\" is not one character", where, key, content);
    step->content = memory_strdup(content);
    return 0;
}

static int parse_plain(struct decoder_step *step, const json_t *json, const char *where)
{
    (void)step;
    (void)json;
    (void)where;
    return 0;
}

static int parse_replace(struct decoder_step *step, const json_t *json, const char *where)
{
    const char *content = NULL;
    int rc = json_field_string(json, where, "content", &content);
    if (rc < 0)
        return rc;
    step->content = memory_strdup(content);
    return pattern_parse_replaced(&step->regex, json, where);
}

static int parse_strip(struct decoder_step *step, const json_t *json, const char *where)
{
    int64_t stop = 0;
    int rc = parse_character(step, json, where, "content");
    if (rc == 0)
        rc = json_field_int(json, where, "start", 0, INT32_MAX, &step->strip_count);
    if (rc == 0)
        rc = json_field_int(json, where, "stop", 0, INT32_MAX, &stop);
    if (rc == 0 && stop != 0)
        return error_set(HONE_EUNSUPPORTED, "%s: Strip with stop %d is not supported", where,
                         (int)stop);
    return rc;
}

static int parse_metaspace(struct decoder_step *step, const json_t *json, const char *where)
{
    const char *scheme = NULL;
    bool add_prefix = true;
    int rc = parse_character(step, json, where, "replacement");
    if (rc == 0)
        rc = json_field_string_or(json, where, "prepend_scheme", "always", &scheme);
    if (rc == 0)
        rc = json_field_bool_or(json, where, "add_prefix_space", true, &add_prefix);
    if (rc < 0)
        return rc;
    if (strcmp(scheme, "always") != 0 && strcmp(scheme, "first") != 0 &&
        strcmp(scheme, "never") != 0)
        return error_set(HONE_EUNSUPPORTED, "%s: prepend_scheme \"%s\"", where, scheme);
    step->drops_first = add_prefix && strcmp(scheme, "never") != 0;
    return 0;
}

static const struct step_type {
    const char *name;
    enum step_kind kind;
    int (*parse)(struct decoder_step *step, const json_t *json, const char *where);
} step_types[] = {
    {"ByteLevel", STEP_BYTE_LEVEL, parse_plain},
    {"ByteFallback", STEP_BYTE_FALLBACK, parse_plain},
    {"Fuse", STEP_FUSE, parse_plain},
    {"Replace", STEP_REPLACE, parse_replace},
    {"Strip", STEP_STRIP, parse_strip},
    {"Metaspace", STEP_METASPACE, parse_metaspace},
};

static int parse_step(struct decoder *decoder, const json_t *json, const char *type,
                      const char *where)
{
    if (decoder->count == STEPS_MAX)
        return error_set(HONE_EUNSUPPORTED, "%s: more than %d decoders", where, STEPS_MAX);
    for (size_t i = 0; i < sizeof(step_types) / sizeof(step_types[0]); i++) {
        if (strcmp(type, step_types[i].name) != 0)
            continue;
        enum step_kind kind = step_types[i].kind;
        if (decoder->is_fused && kind != STEP_FUSE && kind != STEP_STRIP)
            return error_set(HONE_EUNSUPPORTED, "%s: %s after Fuse or ByteLevel is not supported",
                             where, type);
        struct decoder_step *step = &decoder->steps[decoder->count++];
        step->kind = kind;
        step->is_fused = decoder->is_fused;
        decoder->is_fused = decoder->is_fused || kind == STEP_FUSE || kind == STEP_BYTE_LEVEL;
        return step_types[i].parse(step, json, where);
    }
    return error_set(HONE_EUNSUPPORTED, "%s: decoder \"%s\" is not supported", where, type);
}

static int parse_into(struct decoder *decoder, const json_t *json, const char *where, int depth)
{
    const char *type = NULL;
    if (!json_is_object(json))
        return error_set(HONE_EFORMAT, "%s: an object is expected", where);
    int rc = json_field_string(json, where, "type", &type);
    if (rc < 0)
        return rc;
    if (strcmp(type, "Sequence") != 0)
        return parse_step(decoder, json, type, where);
    if (depth == DEPTH_MAX)
        return error_set(HONE_EFORMAT, "%s: sequences nested more than %d deep", where, DEPTH_MAX);
    json_t *list = NULL;
    if ((rc = json_field_array(json, where, "decoders", &list)) < 0)
        return rc;
    for (size_t i = 0; i < json_array_size(list) && rc == 0; i++) {
        char inner[JSON_FIELD_WHERE_MAX];
        snprintf(inner, sizeof(inner), "%s[%zu]", where, i);
        rc = parse_into(decoder, json_array_get(list, i), inner, depth + 1);
    }
    return rc;
}

int decoder_parse(struct decoder **out, const json_t *json, const char *where)
{
    *out = NULL;
    struct decoder *decoder = MEMORY_NEW(struct decoder);
    int rc = 0;
    if (json == NULL || json_is_null(json))
        decoder->steps[decoder->count++].kind = STEP_JOIN_WITH_SPACES;
    else
        rc = parse_into(decoder, json, where, 0);
    if (rc < 0) {
        decoder_free(decoder);
        return rc;
    }
    *out = decoder;
    return 0;
}

void decoder_free(struct decoder *decoder)
{
    if (decoder == NULL)
        return;
    for (int i = 0; i < STEPS_MAX; i++) {
        regex_free(decoder->steps[i].regex);
        memory_free(decoder->steps[i].content);
    }
    memory_free(decoder);
}

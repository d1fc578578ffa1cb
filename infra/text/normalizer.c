#include "infra/text/normalizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/text/json_field.h"

#define STEPS_MAX 32
#define DEPTH_MAX 8

enum step_kind { STEP_UNICODE_FORM, STEP_PREPEND, STEP_REPLACE };

struct normalizer_step {
    enum step_kind kind;
    int form_options;    /* STEP_UNICODE_FORM: utf8proc's */
    struct regex *regex; /* STEP_REPLACE */
    char *content;       /* STEP_PREPEND, STEP_REPLACE */
};

struct normalizer {
    struct normalizer_step steps[STEPS_MAX];
    int count;
};

static const struct form {
    const char *name;
    int options;
} forms[] = {
    {"NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE},
    {"NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
    {"NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
    {"NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT},
};

int pattern_parse(struct regex **regex, const json_t *owner, const char *where)
{
    json_t *pattern = NULL;
    const char *source = NULL;
    *regex = NULL;
    int rc = json_field_object(owner, where, "pattern", &pattern);
    if (rc < 0)
        return rc;
    if (json_object_get(pattern, "Regex") != NULL) {
        if ((rc = json_field_string(pattern, where, "Regex", &source)) < 0)
            return rc;
        return regex_compile(regex, source) < 0 ? error_prefix("%s", where) : 0;
    }
    if ((rc = json_field_string(pattern, where, "String", &source)) < 0)
        return rc;
    return regex_compile_literal(regex, source, strlen(source)) < 0 ? error_prefix("%s", where) : 0;
}

int pattern_parse_replaced(struct regex **regex, const json_t *owner, const char *where)
{
    int rc = pattern_parse(regex, owner, where);
    if (rc == 0 && regex_may_be_empty(*regex))
        return error_set(HONE_EUNSUPPORTED, "%s: the pattern can match an empty string", where);
    return rc;
}

int pattern_replace(const struct regex *regex, struct regex_scratch *scratch, const char *text,
                    size_t length, const char *content, struct text *out)
{
    struct regex_walk walk = {.regex = regex, .scratch = scratch, .text = text, .length = length};
    size_t copied = 0;
    int rc = 0;
    while ((rc = regex_walk_next(&walk)) > 0) {
        text_append_bytes(out, text + copied, walk.match_start - copied);
        text_append(out, content);
        copied = walk.match_end;
    }
    text_append_bytes(out, text + copied, length - copied);
    return rc;
}

static int parse_step(struct normalizer *normalizer, const json_t *json, const char *type,
                      const char *where)
{
    if (normalizer->count == STEPS_MAX)
        return error_set(HONE_EUNSUPPORTED, "%s: more than %d normalisers", where, STEPS_MAX);
    struct normalizer_step *step = &normalizer->steps[normalizer->count];
    const char *content = NULL;
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        if (strcmp(type, forms[i].name) != 0)
            continue;
        step->kind = STEP_UNICODE_FORM;
        step->form_options = forms[i].options;
        normalizer->count++;
        return 0;
    }
    int rc = 0;
    if (strcmp(type, "Prepend") == 0) {
        step->kind = STEP_PREPEND;
        rc = json_field_string(json, where, "prepend", &content);
    } else if (strcmp(type, "Replace") == 0) {
        step->kind = STEP_REPLACE;
        rc = json_field_string(json, where, "content", &content);
        if (rc == 0)
            rc = pattern_parse_replaced(&step->regex, json, where);
    } else {
        return error_set(HONE_EUNSUPPORTED, "%s: normaliser \"%s\" is not supported", where, type);
    }
    if (rc < 0)
        return rc;
    step->content = memory_strdup(content);
    normalizer->count++;
    return 0;
}

static int parse_into(struct normalizer *normalizer, const json_t *json, const char *where,
                      int depth)
{
    const char *type = NULL;
    if (!json_is_object(json))
        return error_set(HONE_EFORMAT, "%s: an object is expected", where);
    int rc = json_field_string(json, where, "type", &type);
    if (rc < 0)
        return rc;
    if (strcmp(type, "Sequence") != 0)
        return parse_step(normalizer, json, type, where);
    if (depth == DEPTH_MAX)
        return error_set(HONE_EFORMAT, "%s: sequences nested more than %d deep", where, DEPTH_MAX);
    json_t *list = NULL;
    if ((rc = json_field_array(json, where, "normalizers", &list)) < 0)
        return rc;
    for (size_t i = 0; i < json_array_size(list) && rc == 0; i++) {
        char inner[JSON_FIELD_WHERE_MAX];
        snprintf(inner, sizeof(inner), "%s[%zu]", where, i);
        rc = parse_into(normalizer, json_array_get(list, i), inner, depth + 1);
    }
    return rc;
}

int normalizer_parse(struct normalizer **out, const json_t *json, const char *where)
{
    *out = NULL;
    struct normalizer *normalizer = MEMORY_NEW(struct normalizer);
    int rc = 0;
    if (json != NULL && !json_is_null(json))
        rc = parse_into(normalizer, json, where, 0);
    if (rc < 0) {
        normalizer_free(normalizer);
        return rc;
    }
    *out = normalizer;
    return 0;
}

void normalizer_free(struct normalizer *normalizer)
{
    if (normalizer == NULL)
        return;
    for (int i = 0; i < STEPS_MAX; i++) {
        regex_free(normalizer->steps[i].regex);
        memory_free(normalizer->steps[i].content);
    }
    memory_free(normalizer);
}

static int unicode_form(int options, struct text *text)
{
    utf8proc_uint8_t *mapped = NULL;
    utf8proc_ssize_t length =
        utf8proc_map((const utf8proc_uint8_t *)text->data, (utf8proc_ssize_t)text->length, &mapped,
                     (utf8proc_option_t)options);
    if (length < 0)
        return error_set(HONE_EUNSUPPORTED, "normalising %zu bytes: %s", text->length,
                         utf8proc_errmsg(length));
    text_clear(text);
    text_append_bytes(text, mapped, (size_t)length);
    free(mapped);
    return 0;
}

static bool is_ascii(const struct text *text)
{
    for (size_t i = 0; i < text->length; i++)
        if ((unsigned char)text->data[i] >= 0x80)
            return false;
    return true;
}

static int run_step(const struct normalizer_step *step, struct regex_scratch *scratch, bool prepend,
                    struct text *text)
{
    if (text->length == 0)
        return 0;
    if (step->kind == STEP_UNICODE_FORM) /* every form leaves ASCII as it is */
        return is_ascii(text) ? 0 : unicode_form(step->form_options, text);
    if (step->kind == STEP_PREPEND && !prepend)
        return 0;
    struct text result;
    int rc = 0;
    text_init(&result);
    if (step->kind == STEP_PREPEND) {
        text_append(&result, step->content);
        text_append_bytes(&result, text->data, text->length);
    } else {
        rc =
            pattern_replace(step->regex, scratch, text->data, text->length, step->content, &result);
    }
    text_release(text);
    *text = result;
    return rc;
}

int normalizer_run(const struct normalizer *normalizer, struct regex_scratch *scratch, bool prepend,
                   struct text *text)
{
    int rc = 0;
    for (int i = 0; i < normalizer->count && rc == 0; i++)
        rc = run_step(&normalizer->steps[i], scratch, prepend, text);
    return rc;
}

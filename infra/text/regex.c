#include "infra/text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdbool.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/base/text.h"
#include "infra/text/unicode.h"

#define PATTERN_BYTES_MAX 65536

struct regex {
    pcre2_code *code;    /* NULL for a literal */
    struct text literal; /* the bytes of a literal */
};

struct regex_scratch {
    pcre2_match_data *match;
};

/* Oniguruma's word characters: alphabetic, marks, decimal digits, connectors, and six fractions and
 * superscripts of Latin-1. */
#define WORD_CLASS                                                                                 \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}"                        \
    "\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}"

static const struct rewrite {
    char escape;
    const char *outside;
    const char *inside; /* in a character class; NULL: cannot be said there */
} rewrites[] = {
    {'s', "\\p{White_Space}", "\\p{White_Space}"},
    {'S', "\\P{White_Space}", "\\P{White_Space}"},
    {'w', "[" WORD_CLASS "]", WORD_CLASS},
    {'W', "[^" WORD_CLASS "]", NULL},
};

/* Escapes that PCRE2 accepts with another meaning than Oniguruma's. */
static const char refused_escapes[] = "bBhHRXKOyYNQEgkCV";

static int rewrite_escape(struct text *out, char escape, bool in_class, const char *pattern)
{
    for (size_t i = 0; i < sizeof(rewrites) / sizeof(rewrites[0]); i++) {
        if (rewrites[i].escape != escape)
            continue;
        const char *replacement = in_class ? rewrites[i].inside : rewrites[i].outside;
        if (replacement == NULL)
            break;
        text_append(out, replacement);
        return 0;
    }
    if (escape == 'W' || (escape != '\0' && strchr(refused_escapes, escape) != NULL))
        return error_set(HONE_EUNSUPPORTED, "pattern \"%s\": \\%c%s is not supported", pattern,
                         escape, in_class ? " in a character class" : "");
    text_append_char(out, '\\');
    text_append_char(out, escape);
    return 0;
}

/* "(?m" is "dot matches newline" in Oniguruma and "multi-line" in PCRE2; "s" exists in one only. */
static int check_group_flags(const char *at, const char *pattern)
{
    for (at += 2; *at == 'i' || *at == 'x' || *at == '-'; at++)
        continue;
    if (*at == 'm' || *at == 's')
        return error_set(HONE_EUNSUPPORTED, "pattern \"%s\": group flag %c", pattern, *at);
    return 0;
}

static int rewrite_pattern(struct text *out, const char *pattern)
{
    bool in_class = false;
    for (const char *at = pattern; *at != '\0'; at++) {
        if (*at == '\\') {
            if (at[1] == '\0')
                return error_set(HONE_EFORMAT, "pattern \"%s\" ends in a backslash", pattern);
            int rc = rewrite_escape(out, *++at, in_class, pattern);
            if (rc < 0)
                return rc;
            continue;
        }
        if (in_class && at[0] == '[' && at[1] != ':')
            return error_set(HONE_EUNSUPPORTED, "pattern \"%s\": a class inside a class", pattern);
        if (in_class && at[0] == '&' && at[1] == '&')
            return error_set(HONE_EUNSUPPORTED, "pattern \"%s\": && in a class", pattern);
        if (in_class && at[0] == '[') {
            const char *end = strstr(at, ":]");
            if (end == NULL)
                return error_set(HONE_EFORMAT, "pattern \"%s\": [: without :]", pattern);
            text_append_bytes(out, at, (size_t)(end + 2 - at));
            at = end + 1;
            continue;
        }
        if (!in_class && at[0] == '(' && at[1] == '?') {
            int rc = check_group_flags(at, pattern);
            if (rc < 0)
                return rc;
        }
        text_append_char(out, *at);
        if (!in_class && *at == '[') {
            in_class = true;
            if (at[1] == '^')
                text_append_char(out, *++at);
            if (at[1] == ']')
                text_append_char(out, *++at);
        } else if (in_class && *at == ']') {
            in_class = false;
        }
    }
    return 0;
}

static int compile_rewritten(struct regex *regex, const char *source, const char *pattern)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    int number = 0;
    size_t offset = 0;
    if (context != NULL) {
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        regex->code =
            pcre2_compile((PCRE2_SPTR)source, PCRE2_ZERO_TERMINATED,
                          PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &number, &offset, context);
        pcre2_compile_context_free(context);
    }
    if (regex->code == NULL) {
        char reason[256] = "out of memory";
        if (number != 0)
            pcre2_get_error_message(number, (PCRE2_UCHAR *)reason, sizeof(reason));
        return error_set(HONE_EFORMAT, "pattern \"%s\": %s", pattern, reason);
    }
    /* Without JIT (a kernel that forbids it) matching is slower and otherwise the same. */
    (void)pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE);
    return 0;
}

int regex_compile(struct regex **out, const char *pattern)
{
    *out = NULL;
    size_t length = strlen(pattern);
    if (length > PATTERN_BYTES_MAX)
        return error_set(HONE_EFORMAT, "a pattern of %zu bytes (limit %d)", length,
                         PATTERN_BYTES_MAX);
    struct regex *regex = MEMORY_NEW(struct regex);
    text_init(&regex->literal);
    struct text source;
    text_init(&source);
    int rc = rewrite_pattern(&source, pattern);
    if (rc == 0)
        rc = compile_rewritten(regex, source.data, pattern);
    text_release(&source);
    if (rc < 0) {
        regex_free(regex);
        return rc;
    }
    *out = regex;
    return 0;
}

int regex_compile_literal(struct regex **out, const char *literal, size_t length)
{
    *out = NULL;
    if (length == 0)
        return error_set(HONE_EUNSUPPORTED, "an empty pattern");
    struct regex *regex = MEMORY_NEW(struct regex);
    text_init(&regex->literal);
    text_append_bytes(&regex->literal, literal, length);
    *out = regex;
    return 0;
}

void regex_free(struct regex *regex)
{
    if (regex == NULL)
        return;
    pcre2_code_free(regex->code);
    text_release(&regex->literal);
    memory_free(regex);
}

bool regex_may_be_empty(const struct regex *regex)
{
    uint32_t may = 0;
    return regex->code != NULL &&
           (pcre2_pattern_info(regex->code, PCRE2_INFO_MATCHEMPTY, &may) != 0 || may != 0);
}

struct regex_scratch *regex_scratch_create(void)
{
    struct regex_scratch *scratch = MEMORY_NEW(struct regex_scratch);
    return scratch;
}

void regex_scratch_destroy(struct regex_scratch *scratch)
{
    if (scratch == NULL)
        return;
    pcre2_match_data_free(scratch->match);
    memory_free(scratch);
}

static int find_literal(const struct text *literal, const char *text, size_t length, size_t start,
                        size_t *match_start, size_t *match_end)
{
    const char *hit = memmem(text + start, length - start, literal->data, literal->length);
    if (hit == NULL)
        return 0;
    *match_start = (size_t)(hit - text);
    *match_end = *match_start + literal->length;
    return 1;
}

int regex_find(const struct regex *regex, struct regex_scratch *scratch, const char *text,
               size_t length, size_t start, size_t *match_start, size_t *match_end)
{
    if (start > length)
        return 0;
    if (regex->code == NULL)
        return find_literal(&regex->literal, text, length, start, match_start, match_end);
    /* One pair of offsets is enough for every pattern: groups are never read. */
    if (scratch->match == NULL && (scratch->match = pcre2_match_data_create(1, NULL)) == NULL)
        return error_set(HONE_ENOMEM, "no memory for a regex match");
    int rc = pcre2_match(regex->code, (PCRE2_SPTR)text, length, start, PCRE2_NO_UTF_CHECK,
                         scratch->match, NULL);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(regex->code, (PCRE2_SPTR)text, length, start,
                         PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, scratch->match, NULL);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc < 0) {
        char reason[256] = "";
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)reason, sizeof(reason));
        return error_set(HONE_EUNSUPPORTED, "matching %zu bytes of text: %s", length, reason);
    }
    size_t *ends = pcre2_get_ovector_pointer(scratch->match);
    *match_start = ends[0];
    *match_end = ends[1];
    return 1;
}

int regex_walk_next(struct regex_walk *walk)
{
    for (;;) {
        if (walk->next > walk->length)
            return 0;
        int rc = regex_find(walk->regex, walk->scratch, walk->text, walk->length, walk->next,
                            &walk->match_start, &walk->match_end);
        if (rc <= 0)
            return rc;
        if (walk->match_start == walk->match_end && walk->any &&
            walk->last_end == walk->match_end) {
            walk->next += walk->next < walk->length
                              ? (size_t)unicode_length((unsigned char)walk->text[walk->next])
                              : 1;
            continue;
        }
        walk->any = 1;
        walk->next = walk->match_end;
        walk->last_end = walk->match_end;
        return 1;
    }
}

/* A compiled pattern with the meaning that tokenizer files give it (Oniguruma), run by PCRE2.
 *
 * Where the two languages differ the pattern is rewritten (\s, \w) or refused (\h, \R, class
 * intersections, nested classes); PCRE2 10.42's tables are Unicode 14.
 * A compiled regex is immutable; each thread matches with its own regex_scratch. */
#ifndef HONE_TEXT_REGEX_H
#define HONE_TEXT_REGEX_H

#include <stdbool.h>
#include <stddef.h>

struct regex;
struct regex_scratch;

/* On HONE_EFORMAT or HONE_EUNSUPPORTED the message shows the pattern. */
int regex_compile(struct regex **regex, const char *pattern);
/* A pattern that matches these bytes and nothing else. */
int regex_compile_literal(struct regex **regex, const char *literal, size_t length);
void regex_free(struct regex *regex);
bool regex_may_be_empty(const struct regex *regex); /* matches an empty string somewhere */

struct regex_scratch *regex_scratch_create(void);
void regex_scratch_destroy(struct regex_scratch *scratch);

/* Finds the first match at or after start in valid UTF-8: 1 and its ends, 0 when there is none,
 * negative when a match limit is exceeded. */
int regex_find(const struct regex *regex, struct regex_scratch *scratch, const char *text,
               size_t length, size_t start, size_t *match_start, size_t *match_end);

/* Successive matches, as the reference iterates: an empty match right after the last one is
 * skipped. Zero-initialise, set regex, scratch, text and length. */
struct regex_walk {
    const struct regex *regex;
    struct regex_scratch *scratch;
    const char *text;
    size_t length;
    size_t next;
    size_t last_end;
    int any;
    size_t match_start;
    size_t match_end;
};
int regex_walk_next(struct regex_walk *walk); /* 1, 0 at the end, negative on an error */

#endif

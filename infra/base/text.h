/* A growing byte string. `data` is always NUL-terminated; embedded NULs are allowed. */
#ifndef HONE_BASE_TEXT_H
#define HONE_BASE_TEXT_H

#include <stdbool.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

struct text {
    char *data; /* never NULL after text_init */
    size_t length;
    size_t capacity;
};

void text_init(struct text *text);
void text_release(struct text *text);
void text_clear(struct text *text);
void text_append(struct text *text, const char *string);
void text_append_bytes(struct text *text, const void *bytes, size_t length);
void text_append_char(struct text *text, char c);
void text_append_utf8(struct text *text, uint32_t codepoint);
void text_printf(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_vprintf(struct text *text, const char *format, va_list args);
char *text_detach(struct text *text); /* caller memory_frees; text is empty again */

bool text_starts_with(const char *string, const char *prefix);
bool text_ends_with(const char *string, const char *suffix);
/* Levenshtein distance, for "did you mean" messages. */
int text_distance(const char *a, const char *b);
/* True when the bytes are valid UTF-8 (no surrogates, no overlongs). */
bool text_is_utf8(const char *bytes, size_t length);
/* Shortest decimal that reads back as the same double, e.g. "0.1", "1e-06"; NaN and Inf as null. */
void text_append_number(struct text *text, double value);
/* Appends a JSON string literal with quotes; invalid UTF-8 becomes U+FFFD. */
void text_append_json_string(struct text *text, const char *bytes, size_t length);

#endif

#include "infra/base/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/memory.h"

#define FIRST_CAPACITY 32
#define REPLACEMENT    "\xEF\xBF\xBD" /* U+FFFD */

void text_init(struct text *text)
{
    *text = (struct text){.data = memory_alloc(1, FIRST_CAPACITY), .capacity = FIRST_CAPACITY};
}

void text_release(struct text *text)
{
    memory_free(text->data);
    *text = (struct text){0};
}

void text_clear(struct text *text)
{
    text->length = 0;
    text->data[0] = '\0';
}

/* Makes room for `extra` more bytes and the NUL. */
static void reserve(struct text *text, size_t extra)
{
    HONE_ASSERT(extra < SIZE_MAX / 4);
    size_t needed = text->length + extra + 1;
    if (needed <= text->capacity)
        return;
    size_t capacity = text->capacity * 2 > needed ? text->capacity * 2 : needed;
    text->data = memory_resize(text->data, text->length + 1, capacity, 1);
    text->capacity = capacity;
}

void text_append(struct text *text, const char *string)
{
    text_append_bytes(text, string, strlen(string));
}

void text_append_bytes(struct text *text, const void *bytes, size_t length)
{
    reserve(text, length);
    if (length > 0)
        memcpy(text->data + text->length, bytes, length);
    text->length += length;
    text->data[text->length] = '\0';
}

void text_append_char(struct text *text, char c)
{
    text_append_bytes(text, &c, 1);
}

void text_append_utf8(struct text *text, uint32_t codepoint)
{
    char out[4];
    size_t length;
    if (codepoint < 0x80) {
        out[0] = (char)codepoint;
        length = 1;
    } else if (codepoint < 0x800) {
        out[0] = (char)(0xC0 | (codepoint >> 6));
        out[1] = (char)(0x80 | (codepoint & 0x3F));
        length = 2;
    } else if (codepoint > 0x10FFFF || (codepoint >= 0xD800 && codepoint <= 0xDFFF)) {
        memcpy(out, REPLACEMENT, 3);
        length = 3;
    } else if (codepoint < 0x10000) {
        out[0] = (char)(0xE0 | (codepoint >> 12));
        out[1] = (char)(0x80 | ((codepoint >> 6) & 0x3F));
        out[2] = (char)(0x80 | (codepoint & 0x3F));
        length = 3;
    } else {
        out[0] = (char)(0xF0 | (codepoint >> 18));
        out[1] = (char)(0x80 | ((codepoint >> 12) & 0x3F));
        out[2] = (char)(0x80 | ((codepoint >> 6) & 0x3F));
        out[3] = (char)(0x80 | (codepoint & 0x3F));
        length = 4;
    }
    text_append_bytes(text, out, length);
}

void text_printf(struct text *text, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    text_vprintf(text, format, args);
    va_end(args);
}

void text_vprintf(struct text *text, const char *format, va_list args)
{
    va_list again;
    va_copy(again, args);
    int length = vsnprintf(text->data + text->length, text->capacity - text->length, format, args);
    HONE_ASSERT(length >= 0);
    if ((size_t)length >= text->capacity - text->length) {
        reserve(text, (size_t)length);
        vsnprintf(text->data + text->length, text->capacity - text->length, format, again);
    }
    va_end(again);
    text->length += (size_t)length;
}

char *text_detach(struct text *text)
{
    char *data = text->data;
    text_init(text);
    return data;
}

bool text_starts_with(const char *string, const char *prefix)
{
    return strncmp(string, prefix, strlen(prefix)) == 0;
}

bool text_ends_with(const char *string, const char *suffix)
{
    size_t length = strlen(string), tail = strlen(suffix);
    return length >= tail && memcmp(string + length - tail, suffix, tail) == 0;
}

int text_distance(const char *a, const char *b)
{
    size_t columns = strlen(b);
    int *row = MEMORY_ARRAY(int, columns + 1);
    for (size_t j = 0; j <= columns; j++)
        row[j] = (int)j;
    for (size_t i = 0; a[i]; i++) {
        int diagonal = row[0];
        row[0] = (int)i + 1;
        for (size_t j = 0; j < columns; j++) {
            int best = diagonal + (a[i] != b[j]);
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j + 1] + 1 < best)
                best = row[j + 1] + 1;
            diagonal = row[j + 1];
            row[j + 1] = best;
        }
    }
    int distance = row[columns];
    memory_free(row);
    return distance;
}

/* Bytes of the valid UTF-8 sequence at p, 0 when there is none (Unicode 15, table 3-7). */
static size_t sequence_length(const unsigned char *p, size_t left)
{
    unsigned char lead = p[0];
    if (lead < 0x80)
        return 1;
    size_t length = lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
    if (length == 0 || length > left)
        return 0;
    unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++) {
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    }
    return length;
}

bool text_is_utf8(const char *bytes, size_t length)
{
    const unsigned char *p = (const unsigned char *)bytes;
    for (size_t i = 0; i < length;) {
        size_t step = sequence_length(p + i, length - i);
        if (step == 0)
            return false;
        i += step;
    }
    return true;
}

void text_append_number(struct text *text, double value)
{
    char digits[40];
    if (!isfinite(value)) {
        text_append(text, "null");
        return;
    }
    if (fabs(value) < 1e15 && value == trunc(value)) {
        text_printf(text, "%.0f", value);
        return;
    }
    for (int precision = 1; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, value);
        double back = strtod(digits, NULL);
        /* Bits, not ==: threads that compute treat denormals as zero. */
        if (memcmp(&back, &value, sizeof back) == 0)
            break;
    }
    text_append(text, digits);
}

void text_append_json_string(struct text *text, const char *bytes, size_t length)
{
    static const char *const short_escapes[128] = {
        ['"'] = "\\\"", ['\\'] = "\\\\", ['\n'] = "\\n", ['\r'] = "\\r",
        ['\t'] = "\\t", ['\b'] = "\\b",  ['\f'] = "\\f"};
    const unsigned char *p = (const unsigned char *)bytes;
    text_append_char(text, '"');
    for (size_t i = 0; i < length;) {
        size_t step = sequence_length(p + i, length - i);
        if (step == 0) {
            text_append(text, REPLACEMENT);
            step = 1;
        } else if (step > 1) {
            text_append_bytes(text, bytes + i, step);
        } else if (short_escapes[p[i]]) {
            text_append(text, short_escapes[p[i]]);
        } else if (p[i] < 0x20) {
            text_printf(text, "\\u%04x", (unsigned)p[i]);
        } else {
            text_append_char(text, bytes[i]);
        }
        i += step;
    }
    text_append_char(text, '"');
}

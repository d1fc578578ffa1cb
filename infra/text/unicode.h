/* UTF-8 and the character classes that tokenizers need, on top of utf8proc's tables.
 * Functions without state; any thread. */
#ifndef HONE_TEXT_UNICODE_H
#define HONE_TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "infra/base/text.h"

#define UNICODE_REPLACEMENT 0xFFFDu

/* Bytes of the character that starts with this byte of valid UTF-8: 1 to 4. */
int unicode_length(unsigned char lead);
/* Reads one character of valid UTF-8 and moves *position past it. */
uint32_t unicode_next(const char *bytes, size_t *position);
/* Writes 1 to 4 bytes; returns how many. */
int unicode_encode(uint32_t codepoint, char bytes[4]);

/* Appends bytes with every maximal ill-formed part replaced by U+FFFD (Unicode 3.9, table 3-8). */
void unicode_append_lossy(struct text *out, const char *bytes, size_t length);
/* Bytes at the end that begin a character and lack its rest: 0 to 3. */
size_t unicode_incomplete_tail(const char *bytes, size_t length);

bool unicode_is_white_space(uint32_t codepoint); /* the White_Space property */
bool unicode_is_numeric(uint32_t codepoint);     /* categories Nd, Nl, No */
bool unicode_is_word(uint32_t codepoint);        /* alphabetic, mark, Nd, Pc, join control */

/* The 256 printable characters that byte-level tokenizers write for bytes: printable Latin-1 stands
 * for itself, the other 68 bytes are U+0100 upwards in order. */
uint32_t unicode_byte_level(unsigned char byte);
int unicode_byte_level_inverse(uint32_t codepoint); /* -1: not one of them */

#endif

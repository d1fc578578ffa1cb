/* The decoder of a tokenizer.json: ByteLevel, ByteFallback, Replace, Fuse, Strip, Metaspace and
 * sequences of them, run as a pipeline that takes one token at a time.
 * A decoder is immutable; each decoding has its own decoder_state.
 *
 * 1. Every push appends whole characters only.
 * 2. After Fuse or ByteLevel the text is one token; only Fuse and Strip may follow. */
#ifndef HONE_TEXT_DECODER_H
#define HONE_TEXT_DECODER_H

#include <jansson.h>
#include <stdbool.h>

#include "infra/base/text.h"

struct decoder;
struct decoder_state;

/* json may be NULL or null: tokens are joined with spaces. */
int decoder_parse(struct decoder **decoder, const json_t *json, const char *where);
void decoder_free(struct decoder *decoder);

/* eager: characters of a byte-fallback run are given as soon as they are complete. Otherwise the
 * run waits for its end, and is one U+FFFD a byte when any part of it is invalid. */
struct decoder_state *decoder_state_create(const struct decoder *decoder, bool eager);
void decoder_state_destroy(struct decoder_state *state);

int decoder_push(struct decoder_state *state, const char *token, size_t length, struct text *out);
int decoder_finish(struct decoder_state *state, struct text *out); /* starts over */

#endif

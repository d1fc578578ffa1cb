/* The normaliser of a tokenizer.json: NFC, NFD, NFKC, NFKD, Prepend, Replace and sequences of them.
 * Immutable once parsed; any other type is refused by name. */
#ifndef HONE_TEXT_NORMALIZER_H
#define HONE_TEXT_NORMALIZER_H

#include <jansson.h>
#include <stdbool.h>

#include "infra/base/text.h"
#include "infra/text/regex.h"

struct normalizer;

/* json may be NULL or null: a normaliser that changes nothing. */
int normalizer_parse(struct normalizer **normalizer, const json_t *json, const char *where);
void normalizer_free(struct normalizer *normalizer);

/* Rewrites text, valid UTF-8, in place. prepend false leaves Prepend steps out. */
int normalizer_run(const struct normalizer *normalizer, struct regex_scratch *scratch, bool prepend,
                   struct text *text);

/* Parses {"String": ...} or {"Regex": ...}, the form of every pattern in a tokenizer.json. */
int pattern_parse(struct regex **regex, const json_t *owner, const char *where);
/* The same for a pattern whose matches are replaced: one that can be empty is refused. */
int pattern_parse_replaced(struct regex **regex, const json_t *owner, const char *where);
/* Appends text with every match replaced by content. */
int pattern_replace(const struct regex *regex, struct regex_scratch *scratch, const char *text,
                    size_t length, const char *content, struct text *out);

#endif

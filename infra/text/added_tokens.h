/* The added tokens of a tokenizer.json: whole tokens cut out of a text before anything else.
 * Immutable once built. Matching is leftmost, then longest. */
#ifndef HONE_TEXT_ADDED_TOKENS_H
#define HONE_TEXT_ADDED_TOKENS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "infra/text/normalizer.h"

struct added_token {
    char *content;
    char *matched; /* what is searched for: content, normalised when `normalized` */
    size_t matched_length;
    int32_t id;
    bool is_special;
    bool single_word;
    bool lstrip;
    bool rstrip;
    bool normalized;
};

/* Which of the two passes a token is cut out in: from the raw text, or from normalised pieces. */
enum added_pass { ADDED_RAW, ADDED_NORMALIZED, ADDED_PASS_COUNT };

struct added_tokens {
    struct added_token *tokens; /* [count] in file order */
    int32_t count;
    int32_t *sorted[ADDED_PASS_COUNT]; /* indices by matched bytes */
    int32_t sorted_count[ADDED_PASS_COUNT];
    bool can_start[ADDED_PASS_COUNT][256];
};

int added_tokens_parse(struct added_tokens *added, const json_t *list,
                       const struct normalizer *normalizer);
void added_tokens_release(struct added_tokens *added);

/* A stretch of text between tokens (id -1) or a token. */
struct added_segment {
    size_t start;
    size_t end;
    int32_t id;
};

/* Cuts text segment by segment. Zero-initialise, set added, pass, text, length, skip_special. */
struct added_walk {
    const struct added_tokens *added;
    enum added_pass pass;
    const char *text;
    size_t length;
    bool skip_special; /* special tokens stay text */
    size_t search_from;
    size_t emitted; /* end of the last segment */
    bool has_held;  /* a token waits behind the text before it */
    struct added_segment held;
};
bool added_walk_next(struct added_walk *walk, struct added_segment *segment);

#endif

/* The pre-tokeniser of a tokenizer.json: Split, ByteLevel, Digits, Metaspace and sequences of them.
 * It cuts a text into pieces that are merged on their own.
 * Immutable once parsed; any other type is refused by name. */
#ifndef HONE_TEXT_PRETOKENIZER_H
#define HONE_TEXT_PRETOKENIZER_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "infra/base/text.h"
#include "infra/text/regex.h"

enum piece_place {
    PIECE_INNER,
    PIECE_FIRST,    /* starts the text that is encoded */
    PIECE_CONTINUED /* starts it, and goes on from text before it: takes no space in front */
};

struct piece {
    size_t start; /* into the list's bytes */
    size_t length;
    enum piece_place place;
};

struct piece_list {
    struct text bytes;
    struct piece *pieces;
    size_t count;
    size_t capacity;
};

void piece_list_init(struct piece_list *list);
void piece_list_release(struct piece_list *list);
void piece_list_clear(struct piece_list *list);
/* Appends one piece; an empty one is left out. */
void piece_list_append(struct piece_list *list, const char *bytes, size_t length,
                       enum piece_place place);

struct pretokenizer;

/* json may be NULL or null: the text stays one piece. */
int pretokenizer_parse(struct pretokenizer **pretokenizer, const json_t *json, const char *where);
void pretokenizer_free(struct pretokenizer *pretokenizer);

/* Cuts every piece of the list further, in place; spare is a second list to work in. */
int pretokenizer_run(const struct pretokenizer *pretokenizer, struct regex_scratch *scratch,
                     struct piece_list *pieces, struct piece_list *spare);

/* The pattern that ByteLevel uses when use_regex is true (GPT-2). */
extern const char pretokenizer_gpt2_pattern[];

#endif

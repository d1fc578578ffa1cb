/* The BPE model of a tokenizer.json: a vocabulary and ranked merges.
 * Immutable once parsed; each thread encodes with its own bpe_scratch.
 *
 * 1. Merging repeatedly joins the adjacent pair of lowest rank, the leftmost first.
 * 2. A character outside the vocabulary becomes its <0xXX> byte tokens (byte_fallback, when all of
 *    them exist), else the unknown token, else nothing.
 * 3. Every merge's parts and result are in the vocabulary; a file where they are not is refused. */
#ifndef HONE_TEXT_BPE_H
#define HONE_TEXT_BPE_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "infra/text/token_list.h"

/* Largest token id that a file may use. */
#define BPE_ID_MAX ((1 << 22) - 1)

struct bpe;
struct bpe_scratch;

int bpe_parse(struct bpe **bpe, const json_t *model, const char *where);
void bpe_free(struct bpe *bpe);

struct bpe_scratch *bpe_scratch_create(void);
void bpe_scratch_destroy(struct bpe_scratch *scratch);

/* Appends the ids of one piece of valid UTF-8. */
int bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const char *piece, size_t length,
               struct token_list *out);

int32_t bpe_size(const struct bpe *bpe);                                  /* largest id + 1 */
int32_t bpe_entry_count(const struct bpe *bpe);                           /* entries */
int32_t bpe_id(const struct bpe *bpe, const char *piece, size_t length);  /* -1: none */
const char *bpe_piece(const struct bpe *bpe, int32_t id, size_t *length); /* NULL: none */

#endif

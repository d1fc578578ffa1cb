/* A Hugging Face tokenizer.json turned into ids and back: BPE, byte-level (GPT-2, Llama 3, Qwen2)
 * and SentencePiece-style with byte fallback (Llama 2).
 *
 * The pipeline is the file's own: added tokens are cut out, each remaining piece is normalised,
 * pre-tokenised, merged, and the post-processor adds its special tokens. Whatever the file asks for
 * that hone cannot do exactly is refused when it is loaded, by name; nothing is approximated.
 *
 * 1. A loaded tokenizer is immutable: any number of threads may encode and decode with it.
 * 2. Encoding accepts any bytes: invalid UTF-8 is replaced with U+FFFD first.
 * 3. Without TOKENIZE_PARSE_SPECIAL no special token can come out of the text itself, so untrusted
 *    content cannot forge a turn or an end of sequence.
 * 4. Ids out of range are skipped by decoding: model heads are often padded past the vocabulary. */
#ifndef HONE_TEXT_TOKENIZER_H
#define HONE_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "infra/base/text.h"
#include "infra/text/token_list.h"

struct tokenizer;

enum tokenize_flag {
    TOKENIZE_SPECIAL = 1,       /* run the post-processor: BOS and the like */
    TOKENIZE_PARSE_SPECIAL = 2, /* special tokens written in the text become their ids */
    TOKENIZE_CONTINUE = 4, /* the text goes on where other text ended: SentencePiece-style files
                              put no extra space in front (completions after a prompt) */
};

/* path_to_tokenizer_json may also be the directory that holds tokenizer.json. Beside it,
 * tokenizer_config.json and special_tokens_map.json name bos and eos when they exist;
 * add_bos_token and add_eos_token in the former override the post-processor. */
int tokenizer_load(struct tokenizer **tokenizer, const char *path_to_tokenizer_json);
void tokenizer_free(struct tokenizer *tokenizer); /* NULL is fine */

/* Appends the ids of length bytes of text. flags: TOKENIZE_*. On an error (a regex past its
 * limits, more than 2^31 - 1 ids) the list holds what it held before. */
int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t length, int flags,
                     struct token_list *out);
/* Appends the text of ids; skip_special leaves out special tokens. Bytes that do not form UTF-8
 * become U+FFFD. */
int tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, int32_t count,
                     bool skip_special, struct text *out);

/* Decoding token by token. A character is held back until all its bytes are there, so every push
 * appends whole characters. What push and finish append is what tokenizer_decode gives for the same
 * ids, except that a byte-fallback run which turns out invalid keeps the characters already given.
 */
struct token_stream {
    const struct tokenizer *tokenizer;
    struct decoder_state *state;
    bool skip_special;
};
void token_stream_init(struct token_stream *stream, const struct tokenizer *tokenizer,
                       bool skip_special);
int token_stream_push(struct token_stream *stream, int32_t id, struct text *out);
int token_stream_finish(struct token_stream *stream, struct text *out); /* ready for a new text */
void token_stream_release(struct token_stream *stream);

int32_t tokenizer_vocab_size(const struct tokenizer *tokenizer); /* largest id + 1 */
int32_t tokenizer_bos(const struct tokenizer *tokenizer);        /* -1: none */
int32_t tokenizer_eos(const struct tokenizer *tokenizer);        /* -1: none */
int32_t tokenizer_pad(const struct tokenizer *tokenizer);        /* -1: none */
/* True when TOKENIZE_SPECIAL puts bos in front. */
bool tokenizer_adds_bos(const struct tokenizer *tokenizer);
/* The id of a whole vocabulary entry or added token as the file spells it, -1 when there is none.
 */
int32_t tokenizer_token_id(const struct tokenizer *tokenizer, const char *piece);
bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id);
/* The entry as the file spells it ("\xC4\xA0the", "<0x0A>"); NULL for an id without one. */
const char *tokenizer_piece(const struct tokenizer *tokenizer, int32_t id);

/* Copies tokenizer.json, tokenizer_config.json, special_tokens_map.json, added_tokens.json,
 * chat_template.jinja, generation_config.json, vocab.json, merges.txt and tokenizer.model when
 * present, for a checkpoint's directory. Copying a directory onto itself does nothing. */
int tokenizer_copy(const char *from_directory, const char *to_directory);

#endif

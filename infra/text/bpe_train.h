/* Trains a byte-level BPE tokenizer from text and writes it in Hugging Face layout.
 *
 * Ids: the special tokens in the order bos, eos, pad, extra; then the 256 byte characters; then the
 * merges in the order they were learnt. The pre-tokeniser isolates every digit before the GPT-2
 * pattern, so digits never merge, with each other or with a space.
 *
 * 1. The same text and options give the same files, byte for byte: of pairs that are equally
 *    frequent the one with the smaller left id, then right id, is merged.
 * 2. Only pairs that occur at least twice are merged, so a short text gives a smaller vocabulary.
 */
#ifndef HONE_TEXT_BPE_TRAIN_H
#define HONE_TEXT_BPE_TRAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bpe_train_options {
    int32_t vocab_size; /* special tokens and bytes included */
    const char *bos;    /* "<|bos|>"; NULL: none, likewise below */
    const char *eos;
    const char *pad;
    const char *const *extra; /* more special tokens */
    int32_t extra_count;
    bool add_bos;               /* encoding with TOKENIZE_SPECIAL puts bos in front */
    int32_t context_max_tokens; /* model_max_length in tokenizer_config.json; 0: left out */
};

/* Writes tokenizer.json and tokenizer_config.json into an existing directory. Returns the size of
 * the vocabulary, or a negative error. */
int bpe_train(const char *text, size_t length, const struct bpe_train_options *options,
              const char *directory);

#endif

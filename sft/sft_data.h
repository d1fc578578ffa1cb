/* Dataset rows -> examples: text rows are cut into pieces, conversations train the assistant's
 * words, prompt and completion rows train the completion. What cannot be used is counted, never
 * hidden. */
#ifndef HONE_SFT_SFT_DATA_H
#define HONE_SFT_SFT_DATA_H

#include "infra/text/dataset.h"
#include "infra/train/example.h"

struct sft_data_options {
    enum chat_layout layout; /* of conversations */
    int32_t eos_id;          /* -1: none */
    int32_t max_length;
};

struct sft_data_counts {
    int64_t rows;
    int64_t dropped_long;  /* longer than max_length */
    int64_t dropped_empty; /* nothing in them is trained */
};

/* The dataset's row that each example came from. */
struct sft_origins {
    int64_t *rows; /* [count] */
    int64_t count, capacity;
};
void sft_origins_release(struct sft_origins *origins);

/* Appends to list, and to origins (NULL: not wanted). A row that has neither text, nor turns, nor a
 * completion is HONE_EFORMAT with its file and line. */
int sft_data_read(struct example_list *list, const struct dataset *dataset,
                  const struct tokenizer *tokenizer, const struct sft_data_options *options,
                  struct sft_data_counts *counts, struct sft_origins *origins);

#endif

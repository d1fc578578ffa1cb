/* Pairs from preference rows: a prompt or the turns of a conversation, then two answers. */
#ifndef HONE_DPO_PAIR_ROWS_H
#define HONE_DPO_PAIR_ROWS_H

#include "dpo/preference_pairs.h"
#include "infra/text/dataset.h"

struct pair_rows_options {
    enum chat_layout layout; /* of conversations */
    int32_t eos_id;          /* -1: none */
    struct pair_limits limits;
};

/* In row order. A row without two answers is HONE_EFORMAT with its file and line. */
int pair_rows_read(struct preference_pairs *pairs, const struct dataset *dataset,
                   const struct tokenizer *tokenizer, const struct pair_rows_options *options);

#endif

/* Tokenised training examples: ids and which of them are trained. The one place where offline
 * stages turn rows into tokens, the same way the RL stage does: a prompt is encoded with special
 * tokens (BOS), a completion is encoded on its own as the text that goes on after it, then ends
 * with EOS.
 *
 *  E1  The prompt's ids do not depend on the completion: what is trained is what an actor would
 * sample. E2  Token 0 is never trained: nothing predicts it. The owner releases. */
#ifndef HONE_TRAIN_EXAMPLE_H
#define HONE_TRAIN_EXAMPLE_H

#include <stdint.h>

#include "infra/model/model_config.h"
#include "infra/text/chat.h"
#include "infra/text/tokenizer.h"

struct example {
    int32_t *tokens; /* [count] */
    uint8_t *mask;   /* [count] 1 = trained */
    int32_t count;
};

struct example_list {
    struct example *items;
    int64_t count, capacity;
};

void example_release(struct example *example);
/* How many of its tokens are trained. */
int32_t example_trained_tokens(const struct example *example);
/* Copies ids and mask; mask entry 0 becomes 0. */
void example_from_tokens(struct example *example, const int32_t *tokens, const uint8_t *mask,
                         int32_t count);

/* The id a completion ends with: the tokenizer's when the model stops at it (or names none), else
 * the model's first stop id; -1 when neither has one. */
int32_t example_eos(const struct tokenizer *tokenizer, const struct model_config *config);

/* Prompt, completion, EOS (unless eos_id is -1); the completion and EOS are trained. */
int example_from_pair(struct example *example, const struct tokenizer *tokenizer,
                      const char *prompt, const char *completion, int32_t eos_id);
/* A rendered conversation; the spans marked so are trained. */
int example_from_spans(struct example *example, const struct tokenizer *tokenizer,
                       const struct chat_rendering *rendering);
/* BOS, text, EOS, cut into pieces of at most max_length tokens, each beginning with the last token
 * of the one before so that every token but the first is trained once. Appends to list. */
int example_from_text(struct example_list *list, const struct tokenizer *tokenizer,
                      const char *text, int32_t eos_id, int32_t max_length);

void example_list_init(struct example_list *list);
void example_list_release(struct example_list *list);
/* Takes over the example's memory. */
void example_list_add(struct example_list *list, struct example *example);

#endif

/* Conversations as text or token ids, by named layout.
 *
 *   plain    System: ...\nUser: ...\nAssistant: ...<eos>\n      the default; needs no special token
 *   chatml   <|im_start|>role\n...<|im_end|>\n
 *   llama3   <|start_header_id|>role<|end_header_id|>\n\n...<|eot_id|>      content trimmed
 *   llama2   [INST] <<SYS>>\nsystem\n<</SYS>>\n\nuser [/INST] answer </s>
 *   mistral  [INST] user[/INST] answer</s>      system goes in front of the first user turn
 *   olmo2    <|user|>\n...\n<|assistant|>\n...<eos>\n
 *
 * A rendering is a list of spans; each is text, one special token by name, or "end of sequence".
 * Its owner releases it; dataset_row turns (infra/text/dataset.h) can be rendered as they are.
 *
 * 1. The spans' bytes, in order, are the rendered text, with special tokens spelled out.
 * 2. Content is encoded as plain text: a special token written inside a message stays text.
 * 3. Only what the assistant has to produce is trained: its words and the end of its turn.
 * 4. A rendering with a generation prompt is a prefix of the rendering that has the answer. */
#ifndef HONE_TEXT_CHAT_H
#define HONE_TEXT_CHAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "infra/base/text.h"
#include "infra/text/token_list.h"
#include "infra/text/tokenizer.h"

enum chat_layout {
    CHAT_PLAIN,
    CHAT_CHATML,
    CHAT_LLAMA3,
    CHAT_LLAMA2,
    CHAT_MISTRAL,
    CHAT_OLMO2,
    CHAT_LAYOUT_COUNT
};

struct chat_turn {
    const char *role; /* system, user, assistant, tool */
    const char *content;
    bool is_trained; /* false on every turn but the assistant's */
};

enum chat_span_kind {
    CHAT_SPAN_TEXT,  /* plain text */
    CHAT_SPAN_TOKEN, /* one special token, by its name */
    CHAT_SPAN_EOS    /* the tokenizer's eos; no bytes of its own */
};

struct chat_span {
    enum chat_span_kind kind;
    size_t start; /* into chat_rendering.text */
    size_t length;
    bool is_trained;
};

struct chat_rendering {
    struct text text;
    struct chat_span *spans;
    int32_t count;
    int32_t capacity;
};

int chat_layout_parse(const char *name, enum chat_layout *layout); /* lists the names it knows */
const char *chat_layout_name(enum chat_layout layout);

void chat_rendering_init(struct chat_rendering *rendering);
void chat_rendering_release(struct chat_rendering *rendering);

/* Replaces the rendering. add_generation_prompt ends it where the assistant's words begin. An
 * unknown role, or one the layout has no place for, is HONE_EFORMAT with the turn's number. */
int chat_render(enum chat_layout layout, const struct chat_turn *turns, int32_t count,
                bool add_generation_prompt, struct chat_rendering *rendering);

/* Appends the rendering's ids, BOS first when the tokenizer adds one. When trained is not NULL it
 * receives a 0 or 1 per id. A special token that the tokenizer lacks is HONE_EFORMAT. */
int chat_encode(const struct chat_rendering *rendering, const struct tokenizer *tokenizer,
                struct token_list *ids, struct token_list *trained);

#endif

#include "infra/text/chat.h"

#include <string.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"

static const char *const layout_names[CHAT_LAYOUT_COUNT] = {"plain",  "chatml",  "llama3",
                                                            "llama2", "mistral", "olmo2"};

int chat_layout_parse(const char *name, enum chat_layout *layout)
{
    for (int i = 0; i < CHAT_LAYOUT_COUNT; i++) {
        if (strcmp(name, layout_names[i]) != 0)
            continue;
        *layout = (enum chat_layout)i;
        return 0;
    }
    struct text known;
    text_init(&known);
    for (int i = 0; i < CHAT_LAYOUT_COUNT; i++)
        text_printf(&known, "%s%s", i > 0 ? ", " : "", layout_names[i]);
    int rc = error_set(HONE_EINVAL, "no chat layout \"%s\"; there are %s", name, known.data);
    text_release(&known);
    return rc;
}

const char *chat_layout_name(enum chat_layout layout)
{
    return layout_names[layout];
}

void chat_rendering_init(struct chat_rendering *rendering)
{
    *rendering = (struct chat_rendering){0};
    text_init(&rendering->text);
}

void chat_rendering_release(struct chat_rendering *rendering)
{
    text_release(&rendering->text);
    memory_free(rendering->spans);
    *rendering = (struct chat_rendering){0};
}

/* Appends a span; text goes into the last span when that one is text of the same kind. */
static void add_span(struct chat_rendering *out, enum chat_span_kind kind, const char *bytes,
                     size_t length, bool is_trained)
{
    size_t start = out->text.length;
    if (kind == CHAT_SPAN_TEXT && length == 0)
        return;
    text_append_bytes(&out->text, bytes, length);
    struct chat_span *last = out->count > 0 ? &out->spans[out->count - 1] : NULL;
    if (kind == CHAT_SPAN_TEXT && last != NULL && last->kind == kind &&
        last->is_trained == is_trained) {
        last->length += length;
        return;
    }
    if (out->count == out->capacity) {
        int32_t grown = out->capacity == 0 ? 16 : out->capacity * 2;
        out->spans = out->spans == NULL ? MEMORY_ARRAY(struct chat_span, grown)
                                        : memory_resize(out->spans, (size_t)out->capacity,
                                                        (size_t)grown, sizeof(struct chat_span));
        out->capacity = grown;
    }
    out->spans[out->count++] = (struct chat_span){kind, start, length, is_trained};
}

static void add_text(struct chat_rendering *out, const char *text, bool is_trained)
{
    add_span(out, CHAT_SPAN_TEXT, text, strlen(text), is_trained);
}

static void add_token(struct chat_rendering *out, const char *name, bool is_trained)
{
    add_span(out, CHAT_SPAN_TOKEN, name, strlen(name), is_trained);
}

static void add_eos(struct chat_rendering *out, bool is_trained)
{
    add_span(out, CHAT_SPAN_EOS, "", 0, is_trained);
}

static void add_trimmed(struct chat_rendering *out, const char *text, bool is_trained)
{
    static const char blanks[] = " \t\r\n\v\f";
    text += strspn(text, blanks);
    size_t length = strlen(text);
    while (length > 0 && strchr(blanks, text[length - 1]) != NULL)
        length--;
    add_span(out, CHAT_SPAN_TEXT, text, length, is_trained);
}

static bool is_role(const struct chat_turn *turn, const char *role)
{
    return strcmp(turn->role, role) == 0;
}

/* What one layout writes for one turn. */
struct turn_context {
    const struct chat_turn *turns;
    int32_t count;
    int32_t index;
};

static int refuse_role(const struct turn_context *at, enum chat_layout layout)
{
    return error_set(HONE_EFORMAT, "turn %d: the layout %s has no place for role \"%s\" there",
                     at->index + 1, layout_names[layout], at->turns[at->index].role);
}

static int render_plain(const struct turn_context *at, struct chat_rendering *out)
{
    static const struct {
        const char *role;
        const char *heading;
    } headings[] = {
        {"system", "System:"}, {"user", "User:"}, {"assistant", "Assistant:"}, {"tool", "Tool:"}};
    const struct chat_turn *turn = &at->turns[at->index];
    for (size_t i = 0; i < sizeof(headings) / sizeof(headings[0]); i++) {
        if (!is_role(turn, headings[i].role))
            continue;
        add_text(out, headings[i].heading, false);
        add_text(out, " ", turn->is_trained);
        add_text(out, turn->content, turn->is_trained);
        if (is_role(turn, "assistant"))
            add_eos(out, turn->is_trained);
        add_text(out, "\n", false);
        return 0;
    }
    return refuse_role(at, CHAT_PLAIN);
}

static int render_chatml(const struct turn_context *at, struct chat_rendering *out)
{
    const struct chat_turn *turn = &at->turns[at->index];
    add_token(out, "<|im_start|>", false);
    add_text(out, turn->role, false);
    add_text(out, "\n", false);
    add_text(out, turn->content, turn->is_trained);
    add_token(out, "<|im_end|>", turn->is_trained);
    add_text(out, "\n", false);
    return 0;
}

static int render_llama3(const struct turn_context *at, struct chat_rendering *out)
{
    const struct chat_turn *turn = &at->turns[at->index];
    add_token(out, "<|start_header_id|>", false);
    add_text(out, is_role(turn, "tool") ? "ipython" : turn->role, false);
    add_token(out, "<|end_header_id|>", false);
    add_text(out, "\n\n", false);
    add_trimmed(out, turn->content, turn->is_trained);
    add_token(out, "<|eot_id|>", turn->is_trained);
    return 0;
}

/* Llama 2 and Mistral: the system message is part of the first user turn. */
static int render_instruct(const struct turn_context *at, enum chat_layout layout,
                           struct chat_rendering *out)
{
    const struct chat_turn *turn = &at->turns[at->index];
    bool llama2 = layout == CHAT_LLAMA2;
    bool follows_system = at->index == 1 && is_role(&at->turns[0], "system");
    if (is_role(turn, "system") && at->index == 0) {
        if (at->count == 1 || !is_role(&at->turns[1], "user"))
            return refuse_role(at, layout);
        add_text(out, llama2 ? "[INST] <<SYS>>\n" : "[INST] ", false);
        add_text(out, turn->content, false);
        add_text(out, llama2 ? "\n<</SYS>>\n\n" : "\n\n", false);
        return 0;
    }
    if (is_role(turn, "user")) {
        if (!follows_system)
            add_text(out, "[INST] ", false);
        add_text(out, turn->content, false);
        add_text(out, llama2 ? " [/INST]" : "[/INST]", false);
        return 0;
    }
    if (!is_role(turn, "assistant") || at->index == 0)
        return refuse_role(at, layout);
    add_text(out, " ", turn->is_trained);
    add_text(out, turn->content, turn->is_trained);
    if (llama2)
        add_text(out, " ", turn->is_trained);
    add_eos(out, turn->is_trained);
    return 0;
}

static int render_olmo2(const struct turn_context *at, struct chat_rendering *out)
{
    const struct chat_turn *turn = &at->turns[at->index];
    bool assistant = is_role(turn, "assistant");
    if (!assistant && !is_role(turn, "user") && !is_role(turn, "system"))
        return refuse_role(at, CHAT_OLMO2);
    add_text(out, "<|", false);
    add_text(out, turn->role, false);
    add_text(out, "|>\n", false);
    add_text(out, turn->content, turn->is_trained);
    if (assistant)
        add_eos(out, turn->is_trained);
    if (!assistant || at->index + 1 < at->count)
        add_text(out, "\n", false);
    return 0;
}

static int render_turn(enum chat_layout layout, const struct turn_context *at,
                       struct chat_rendering *out)
{
    switch (layout) {
    case CHAT_PLAIN:
        return render_plain(at, out);
    case CHAT_CHATML:
        return render_chatml(at, out);
    case CHAT_LLAMA3:
        return render_llama3(at, out);
    case CHAT_LLAMA2:
    case CHAT_MISTRAL:
        return render_instruct(at, layout, out);
    case CHAT_OLMO2:
        return render_olmo2(at, out);
    case CHAT_LAYOUT_COUNT:
        break;
    }
    return error_set(HONE_EINVAL, "chat layout %d", (int)layout);
}

static void render_generation_prompt(enum chat_layout layout, struct chat_rendering *out)
{
    switch (layout) {
    case CHAT_PLAIN:
        add_text(out, "Assistant:", false);
        break;
    case CHAT_CHATML:
        add_token(out, "<|im_start|>", false);
        add_text(out, "assistant\n", false);
        break;
    case CHAT_LLAMA3:
        add_token(out, "<|start_header_id|>", false);
        add_text(out, "assistant", false);
        add_token(out, "<|end_header_id|>", false);
        add_text(out, "\n\n", false);
        break;
    case CHAT_OLMO2:
        add_text(out, "<|assistant|>\n", false);
        break;
    case CHAT_LLAMA2: /* [/INST] is the prompt */
    case CHAT_MISTRAL:
    case CHAT_LAYOUT_COUNT:
        break;
    }
}

int chat_render(enum chat_layout layout, const struct chat_turn *turns, int32_t count,
                bool add_generation_prompt, struct chat_rendering *rendering)
{
    text_clear(&rendering->text);
    rendering->count = 0;
    for (int32_t i = 0; i < count; i++) {
        struct turn_context at = {turns, count, i};
        if (turns[i].is_trained && !is_role(&turns[i], "assistant"))
            return error_set(HONE_EFORMAT, "turn %d: role \"%s\" cannot be trained", i + 1,
                             turns[i].role);
        int rc = render_turn(layout, &at, rendering);
        if (rc < 0)
            return rc;
    }
    if (add_generation_prompt) {
        if (count > 0 && is_role(&turns[count - 1], "assistant") && layout == CHAT_OLMO2)
            add_text(rendering, "\n", false);
        render_generation_prompt(layout, rendering);
    }
    return 0;
}

static int encode_span(const struct chat_rendering *rendering, const struct chat_span *span,
                       const struct tokenizer *tokenizer, int flags, struct token_list *ids)
{
    const char *bytes = rendering->text.data + span->start;
    if (span->kind == CHAT_SPAN_TEXT)
        return tokenizer_encode(tokenizer, bytes, span->length, flags, ids);
    int32_t id = -1;
    if (span->kind == CHAT_SPAN_EOS) {
        id = tokenizer_eos(tokenizer);
        if (id < 0)
            return error_set(HONE_EFORMAT, "the chat layout ends turns with eos, and the "
                                           "tokenizer names none");
    } else {
        char name[64] = "";
        memcpy(name, bytes, span->length < sizeof(name) ? span->length : sizeof(name) - 1);
        id = tokenizer_token_id(tokenizer, name);
        if (id < 0)
            return error_set(HONE_EFORMAT,
                             "the chat layout needs the token %s, which the tokenizer lacks", name);
    }
    token_list_append(ids, id);
    return 0;
}

int chat_encode(const struct chat_rendering *rendering, const struct tokenizer *tokenizer,
                struct token_list *ids, struct token_list *trained)
{
    int32_t count_before = ids->count;
    int32_t trained_before = trained != NULL ? trained->count : 0;
    int rc = 0;
    if (tokenizer_adds_bos(tokenizer))
        token_list_append(ids, tokenizer_bos(tokenizer));
    if (trained != NULL && ids->count > count_before)
        token_list_append(trained, 0);
    for (int32_t i = 0; i < rendering->count && rc == 0; i++) {
        const struct chat_span *span = &rendering->spans[i];
        bool continues = i > 0 && rendering->spans[i - 1].kind == CHAT_SPAN_TEXT;
        int32_t first = ids->count;
        rc = encode_span(rendering, span, tokenizer, continues ? TOKENIZE_CONTINUE : 0, ids);
        for (int32_t j = first; trained != NULL && j < ids->count; j++)
            token_list_append(trained, span->is_trained);
    }
    if (rc < 0) {
        ids->count = count_before;
        if (trained != NULL)
            trained->count = trained_before;
    }
    return rc;
}

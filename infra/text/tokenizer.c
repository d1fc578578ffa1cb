#include "infra/text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"
#include "infra/text/added_tokens.h"
#include "infra/text/bpe.h"
#include "infra/text/decoder.h"
#include "infra/text/json_field.h"
#include "infra/text/normalizer.h"
#include "infra/text/post_processor.h"
#include "infra/text/pretokenizer.h"
#include "infra/text/unicode.h"

#define FILE_BYTES_MAX ((size_t)256 << 20)

struct tokenizer {
    struct normalizer *normalizer;
    struct added_tokens added;
    struct pretokenizer *pretokenizer;
    struct bpe *bpe;
    struct post_processor post;
    struct decoder *decoder;
    const struct added_token **added_by_id; /* [vocab_size], NULL: not an added token */
    int32_t vocab_size;
    int32_t bos;
    int32_t eos;
    int32_t pad;
};

/* What one call of tokenizer_encode works in. */
struct encoding {
    const struct tokenizer *tokenizer;
    struct regex_scratch *regex;
    struct bpe_scratch *bpe;
    struct piece_list pieces;
    struct piece_list spare;
    struct text normalized;
    bool skip_special;
    struct token_list *out;
};

static int index_added_tokens(struct tokenizer *tokenizer)
{
    tokenizer->vocab_size = bpe_size(tokenizer->bpe);
    for (int32_t i = 0; i < tokenizer->added.count; i++)
        if (tokenizer->added.tokens[i].id >= tokenizer->vocab_size)
            tokenizer->vocab_size = tokenizer->added.tokens[i].id + 1;
    tokenizer->added_by_id = MEMORY_ARRAY(const struct added_token *, tokenizer->vocab_size);
    for (int32_t i = 0; i < tokenizer->added.count; i++) {
        const struct added_token *token = &tokenizer->added.tokens[i];
        const struct added_token *other = tokenizer->added_by_id[token->id];
        int32_t in_vocab = bpe_id(tokenizer->bpe, token->content, strlen(token->content));
        if (in_vocab >= 0 && in_vocab != token->id)
            return error_set(HONE_EFORMAT, "added token \"%s\" has id %d, in the vocabulary %d",
                             token->content, token->id, in_vocab);
        size_t length = 0;
        const char *piece = bpe_piece(tokenizer->bpe, token->id, &length);
        if (in_vocab < 0 && piece != NULL)
            return error_set(HONE_EFORMAT, "added token \"%s\" has the id %d of \"%s\"",
                             token->content, token->id, piece);
        if (other != NULL && strcmp(other->content, token->content) != 0)
            return error_set(HONE_EFORMAT, "added tokens \"%s\" and \"%s\" share id %d",
                             other->content, token->content, token->id);
        tokenizer->added_by_id[token->id] = token;
    }
    return 0;
}

static int check_post_ids(const struct tokenizer *tokenizer, const struct token_list *ids)
{
    for (int32_t i = 0; i < ids->count; i++)
        if (tokenizer_piece(tokenizer, ids->ids[i]) == NULL)
            return error_set(HONE_EFORMAT, "post_processor adds id %d, which is no token",
                             ids->ids[i]);
    return 0;
}

static int parse_document(struct tokenizer *tokenizer, const json_t *root)
{
    json_t *model = NULL;
    int rc = json_field_object(root, "top level", "model", &model);
    if (rc < 0 || (rc = bpe_parse(&tokenizer->bpe, model, "model")) < 0 ||
        (rc = normalizer_parse(&tokenizer->normalizer, json_object_get(root, "normalizer"),
                               "normalizer")) < 0 ||
        (rc = added_tokens_parse(&tokenizer->added, json_object_get(root, "added_tokens"),
                                 tokenizer->normalizer)) < 0 ||
        (rc = pretokenizer_parse(&tokenizer->pretokenizer, json_object_get(root, "pre_tokenizer"),
                                 "pre_tokenizer")) < 0 ||
        (rc = post_processor_parse(&tokenizer->post, json_object_get(root, "post_processor"),
                                   "post_processor")) < 0 ||
        (rc = decoder_parse(&tokenizer->decoder, json_object_get(root, "decoder"), "decoder")) < 0)
        return rc;
    if ((rc = index_added_tokens(tokenizer)) < 0 ||
        (rc = check_post_ids(tokenizer, &tokenizer->post.prefix)) < 0)
        return rc;
    return check_post_ids(tokenizer, &tokenizer->post.suffix);
}

/* A special token by name: "<s>" or {"content": "<s>", ...}. Names without a token stay -1: files
 * often mention tokens that their vocabulary does not have. */
static int read_named_token(const struct tokenizer *tokenizer, const json_t *config,
                            const char *key, int32_t *id)
{
    const json_t *value = json_object_get(config, key);
    if (json_is_object(value))
        value = json_object_get(value, "content");
    if (value == NULL || json_is_null(value))
        return 0;
    if (!json_is_string(value))
        return error_set(HONE_EFORMAT, "\"%s\" is neither a string nor a token", key);
    if (*id < 0)
        *id = tokenizer_token_id(tokenizer, json_string_value(value));
    return 0;
}

/* add_bos_token / add_eos_token: true makes sure of the token at that end, false takes it away. */
static int apply_add_flag(const json_t *config, const char *key, struct token_list *side,
                          int32_t at, int32_t id)
{
    bool wanted = false;
    if (json_object_get(config, key) == NULL || json_is_null(json_object_get(config, key)))
        return 0;
    int rc = json_field_bool_or(config, "top level", key, false, &wanted);
    if (rc < 0 || id < 0)
        return rc;
    bool present = side->count > 0 && side->ids[at] == id;
    if (wanted == present)
        return 0;
    if (!wanted) {
        side->count--;
        if (at == 0)
            memmove(side->ids, side->ids + 1, (size_t)side->count * sizeof(int32_t));
        return 0;
    }
    token_list_append(side, id);
    if (at == 0) {
        memmove(side->ids + 1, side->ids, (size_t)(side->count - 1) * sizeof(int32_t));
        side->ids[0] = id;
    }
    return 0;
}

static int read_config(struct tokenizer *tokenizer, const char *directory, const char *name,
                       bool has_flags)
{
    char path[HONE_PATH_MAX];
    path_join(path, sizeof(path), directory, name);
    if (!file_exists(path))
        return 0;
    json_t *config = NULL;
    int rc = json_field_load(path, FILE_BYTES_MAX, &config);
    if (rc < 0)
        return rc;
    if ((rc = read_named_token(tokenizer, config, "bos_token", &tokenizer->bos)) < 0 ||
        (rc = read_named_token(tokenizer, config, "eos_token", &tokenizer->eos)) < 0 ||
        (rc = read_named_token(tokenizer, config, "pad_token", &tokenizer->pad)) < 0)
        goto out;
    if (has_flags) {
        struct post_processor *post = &tokenizer->post;
        int32_t last = post->suffix.count > 0 ? post->suffix.count - 1 : 0;
        rc = apply_add_flag(config, "add_bos_token", &post->prefix, 0, tokenizer->bos);
        if (rc == 0)
            rc = apply_add_flag(config, "add_eos_token", &post->suffix, last, tokenizer->eos);
    }
out:
    json_decref(config);
    return rc < 0 ? error_prefix("%s", path) : 0;
}

int tokenizer_load(struct tokenizer **out, const char *path_to_tokenizer_json)
{
    char path[HONE_PATH_MAX], directory[HONE_PATH_MAX];
    *out = NULL;
    if (strlen(path_to_tokenizer_json) + 32 > HONE_PATH_MAX)
        return error_set(HONE_EINVAL, "tokenizer path longer than %d bytes", HONE_PATH_MAX - 32);
    snprintf(path, sizeof(path), "%s", path_to_tokenizer_json);
    if (file_is_directory(path))
        path_join(path, sizeof(path), path_to_tokenizer_json, "tokenizer.json");
    const char *slash = strrchr(path, '/');
    snprintf(directory, sizeof(directory), "%.*s", slash == NULL ? 1 : (int)(slash - path),
             slash == NULL ? "." : path);
    if (slash == path)
        snprintf(directory, sizeof(directory), "/");
    json_t *root = NULL;
    int rc = json_field_load(path, FILE_BYTES_MAX, &root);
    if (rc < 0)
        return rc;
    struct tokenizer *tokenizer = MEMORY_NEW(struct tokenizer);
    tokenizer->bos = tokenizer->eos = tokenizer->pad = -1;
    rc = parse_document(tokenizer, root);
    json_decref(root);
    if (rc < 0)
        rc = error_prefix("%s", path);
    if (rc == 0)
        rc = read_config(tokenizer, directory, "tokenizer_config.json", true);
    if (rc == 0)
        rc = read_config(tokenizer, directory, "special_tokens_map.json", false);
    if (rc < 0) {
        tokenizer_free(tokenizer);
        return rc;
    }
    if (tokenizer->bos < 0 && tokenizer->post.prefix.count == 1)
        tokenizer->bos = tokenizer->post.prefix.ids[0];
    *out = tokenizer;
    return 0;
}

void tokenizer_free(struct tokenizer *tokenizer)
{
    if (tokenizer == NULL)
        return;
    normalizer_free(tokenizer->normalizer);
    added_tokens_release(&tokenizer->added);
    pretokenizer_free(tokenizer->pretokenizer);
    bpe_free(tokenizer->bpe);
    post_processor_release(&tokenizer->post);
    decoder_free(tokenizer->decoder);
    memory_free(tokenizer->added_by_id);
    memory_free(tokenizer);
}

/* Normalised text without added tokens: pre-tokenises and merges it. */
static int encode_plain(struct encoding *encoding, const char *text, size_t length,
                        enum piece_place place)
{
    const struct tokenizer *tokenizer = encoding->tokenizer;
    struct piece_list *pieces = &encoding->pieces;
    piece_list_clear(pieces);
    piece_list_append(pieces, text, length, place);
    int rc = pretokenizer_run(tokenizer->pretokenizer, encoding->regex, pieces, &encoding->spare);
    for (size_t i = 0; i < pieces->count && rc == 0; i++)
        rc = bpe_encode(tokenizer->bpe, encoding->bpe, pieces->bytes.data + pieces->pieces[i].start,
                        pieces->pieces[i].length, encoding->out);
    return rc;
}

/* Raw text between two raw added tokens. */
static int encode_stretch(struct encoding *encoding, const char *text, size_t length,
                          enum piece_place place)
{
    struct text *normalized = &encoding->normalized;
    text_clear(normalized);
    text_append_bytes(normalized, text, length);
    int rc = normalizer_run(encoding->tokenizer->normalizer, encoding->regex,
                            place != PIECE_CONTINUED, normalized);
    struct added_walk walk = {.added = &encoding->tokenizer->added,
                              .pass = ADDED_NORMALIZED,
                              .text = normalized->data,
                              .length = normalized->length,
                              .skip_special = encoding->skip_special};
    struct added_segment segment;
    while (rc == 0 && added_walk_next(&walk, &segment)) {
        if (segment.id >= 0)
            token_list_append(encoding->out, segment.id);
        else
            rc =
                encode_plain(encoding, normalized->data + segment.start,
                             segment.end - segment.start, segment.start == 0 ? place : PIECE_INNER);
    }
    return rc;
}

static int encode_text(struct encoding *encoding, const char *text, size_t length, bool continues)
{
    struct added_walk walk = {.added = &encoding->tokenizer->added,
                              .pass = ADDED_RAW,
                              .text = text,
                              .length = length,
                              .skip_special = encoding->skip_special};
    enum piece_place first = continues ? PIECE_CONTINUED : PIECE_FIRST;
    struct added_segment segment;
    int rc = 0;
    while (rc == 0 && added_walk_next(&walk, &segment)) {
        if (segment.id >= 0)
            token_list_append(encoding->out, segment.id);
        else
            rc = encode_stretch(encoding, text + segment.start, segment.end - segment.start,
                                segment.start == 0 ? first : PIECE_INNER);
    }
    return rc;
}

int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t length, int flags,
                     struct token_list *out)
{
    if (length > (size_t)INT32_MAX / 2)
        return error_set(HONE_EUNSUPPORTED, "a text of %zu bytes is too long to encode", length);
    int32_t count_before = out->count;
    struct encoding encoding = {
        .tokenizer = tokenizer, .skip_special = (flags & TOKENIZE_PARSE_SPECIAL) == 0, .out = out};
    struct text clean;
    text_init(&clean);
    text_init(&encoding.normalized);
    piece_list_init(&encoding.pieces);
    piece_list_init(&encoding.spare);
    encoding.regex = regex_scratch_create();
    encoding.bpe = bpe_scratch_create();
    if (!text_is_utf8(text, length)) {
        unicode_append_lossy(&clean, text, length);
        text = clean.data;
        length = clean.length;
    }
    if (flags & TOKENIZE_SPECIAL)
        token_list_append_ids(out, tokenizer->post.prefix.ids, tokenizer->post.prefix.count);
    int rc = encode_text(&encoding, text, length, (flags & TOKENIZE_CONTINUE) != 0);
    if (flags & TOKENIZE_SPECIAL)
        token_list_append_ids(out, tokenizer->post.suffix.ids, tokenizer->post.suffix.count);
    if (rc < 0)
        out->count = count_before;
    bpe_scratch_destroy(encoding.bpe);
    regex_scratch_destroy(encoding.regex);
    piece_list_release(&encoding.spare);
    piece_list_release(&encoding.pieces);
    text_release(&encoding.normalized);
    text_release(&clean);
    return rc;
}

static int push_id(const struct tokenizer *tokenizer, struct decoder_state *state, int32_t id,
                   bool skip_special, struct text *out)
{
    const char *piece = tokenizer_piece(tokenizer, id);
    if (piece == NULL || (skip_special && tokenizer_is_special(tokenizer, id)))
        return 0;
    return decoder_push(state, piece, strlen(piece), out);
}

int tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, int32_t count,
                     bool skip_special, struct text *out)
{
    struct decoder_state *state = decoder_state_create(tokenizer->decoder, false);
    int rc = 0;
    for (int32_t i = 0; i < count && rc == 0; i++)
        rc = push_id(tokenizer, state, ids[i], skip_special, out);
    if (rc == 0)
        rc = decoder_finish(state, out);
    decoder_state_destroy(state);
    return rc;
}

void token_stream_init(struct token_stream *stream, const struct tokenizer *tokenizer,
                       bool skip_special)
{
    stream->tokenizer = tokenizer;
    stream->skip_special = skip_special;
    stream->state = decoder_state_create(tokenizer->decoder, true);
}

int token_stream_push(struct token_stream *stream, int32_t id, struct text *out)
{
    return push_id(stream->tokenizer, stream->state, id, stream->skip_special, out);
}

int token_stream_finish(struct token_stream *stream, struct text *out)
{
    return decoder_finish(stream->state, out);
}

void token_stream_release(struct token_stream *stream)
{
    decoder_state_destroy(stream->state);
    stream->state = NULL;
}

int32_t tokenizer_vocab_size(const struct tokenizer *tokenizer)
{
    return tokenizer->vocab_size;
}

int32_t tokenizer_bos(const struct tokenizer *tokenizer)
{
    return tokenizer->bos;
}

int32_t tokenizer_eos(const struct tokenizer *tokenizer)
{
    return tokenizer->eos;
}

int32_t tokenizer_pad(const struct tokenizer *tokenizer)
{
    return tokenizer->pad;
}

bool tokenizer_adds_bos(const struct tokenizer *tokenizer)
{
    const struct token_list *prefix = &tokenizer->post.prefix;
    return tokenizer->bos >= 0 && prefix->count > 0 && prefix->ids[0] == tokenizer->bos;
}

int32_t tokenizer_token_id(const struct tokenizer *tokenizer, const char *piece)
{
    for (int32_t i = 0; i < tokenizer->added.count; i++)
        if (strcmp(tokenizer->added.tokens[i].content, piece) == 0)
            return tokenizer->added.tokens[i].id;
    return bpe_id(tokenizer->bpe, piece, strlen(piece));
}

bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id)
{
    return id >= 0 && id < tokenizer->vocab_size && tokenizer->added_by_id[id] != NULL &&
           tokenizer->added_by_id[id]->is_special;
}

const char *tokenizer_piece(const struct tokenizer *tokenizer, int32_t id)
{
    if (id < 0 || id >= tokenizer->vocab_size)
        return NULL;
    if (tokenizer->added_by_id[id] != NULL)
        return tokenizer->added_by_id[id]->content;
    size_t length = 0;
    return bpe_piece(tokenizer->bpe, id, &length);
}

int tokenizer_copy(const char *from_directory, const char *to_directory)
{
    static const char *const names[] = {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "generation_config.json",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
    };
    char *from_real = realpath(from_directory, NULL);
    char *to_real = realpath(to_directory, NULL);
    bool same = from_real != NULL && to_real != NULL && strcmp(from_real, to_real) == 0;
    free(from_real);
    free(to_real);
    for (size_t i = 0; !same && i < sizeof(names) / sizeof(names[0]); i++) {
        char from[HONE_PATH_MAX], to[HONE_PATH_MAX];
        path_join(from, sizeof(from), from_directory, names[i]);
        path_join(to, sizeof(to), to_directory, names[i]);
        if (!file_exists(from))
            continue;
        int rc = file_copy(from, to);
        if (rc < 0)
            return rc;
    }
    return 0;
}

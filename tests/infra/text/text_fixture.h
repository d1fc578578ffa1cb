/* A temporary directory, two small tokenizer files, and encodings compared as "piece|piece". */
#ifndef HONE_TESTS_TEXT_FIXTURE_H
#define HONE_TESTS_TEXT_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"
#include "infra/base/text.h"
#include "infra/text/tokenizer.h"
#include "infra/text/unicode.h"

static char fixture_root[64];

static inline int fixture_set_up(void **state)
{
    (void)state;
    snprintf(fixture_root, sizeof(fixture_root), "/tmp/hone_text_XXXXXX");
    return mkdtemp(fixture_root) != NULL ? 0 : -1;
}

static inline int fixture_tear_down(void **state)
{
    (void)state;
    return file_remove_tree(fixture_root);
}

static inline const char *fixture_path(const char *name)
{
    static char paths[4][HONE_PATH_MAX];
    static int next;
    next = (next + 1) % 4;
    return path_join(paths[next], sizeof(paths[next]), fixture_root, name);
}

static inline const char *fixture_write(const char *name, const char *content)
{
    const char *path = fixture_path(name);
    assert_int_equal(file_write_atomic(path, content, strlen(content)), 0);
    return path;
}

/* The parts of a tokenizer.json that a test varies; NULL takes the default. */
struct fixture_parts {
    const char *normalizer;
    const char *pre_tokenizer;
    const char *post_processor;
    const char *decoder;
    const char *added;   /* elements of added_tokens */
    const char *options; /* fields of model, ended by a comma */
    const char *merges;  /* elements of merges */
};

#define FIXTURE_LLAMA3_REGEX                                                                       \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}|"          \
    " ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"

#define FIXTURE_LLAMA3_PRE                                                                         \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"        \
    "\"" FIXTURE_LLAMA3_REGEX "\"},\"behavior\":\"Isolated\",\"invert\":false},"                   \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"                    \
    "\"use_regex\":false}]}"

#define FIXTURE_SPECIAL(id, content)                                                               \
    "{\"id\":" #id ",\"content\":\"" content "\",\"single_word\":false,\"lstrip\":false,"          \
    "\"rstrip\":false,\"normalized\":false,\"special\":true}"

static inline const char *fixture_or(const char *value, const char *fallback)
{
    return value != NULL ? value : fallback;
}

/* Vocabulary: the 256 byte characters, then what the merges make, he 256 ... ; <|bos|> 300,
 * <|eos|> 301. Written as Llama 3 files are. */
static inline const char *fixture_byte_level(const struct fixture_parts *parts)
{
    struct text out;
    text_init(&out);
    text_printf(
        &out,
        "{\"added_tokens\":[%s],\"normalizer\":%s,\"pre_tokenizer\":%s,"
        "\"post_processor\":%s,\"decoder\":%s,\"model\":{\"type\":\"BPE\",%s\"vocab\":{",
        fixture_or(parts->added,
                   FIXTURE_SPECIAL(300, "<|bos|>") "," FIXTURE_SPECIAL(301, "<|eos|>")),
        fixture_or(parts->normalizer, "null"), fixture_or(parts->pre_tokenizer, FIXTURE_LLAMA3_PRE),
        fixture_or(parts->post_processor, "null"),
        fixture_or(parts->decoder, "{\"type\":\"ByteLevel\"}"), fixture_or(parts->options, ""));
    for (int byte = 0; byte < 256; byte++) {
        char utf8[8] = "";
        unicode_encode(unicode_byte_level((unsigned char)byte), utf8);
        text_append_json_string(&out, utf8, strlen(utf8));
        text_printf(&out, ":%d,", byte);
    }
    text_printf(&out,
                "\"he\":256,\"ll\":257,\"hell\":258,\"hello\":259,\"\xC4\xA0w\":260,\"or\":261,"
                "\"\xC4\xA0wor\":262,\"ld\":263,\"12\":264,\"123\":265,\"\xC3\x83\xC2\xA9\":266,"
                "\"world\":267},\"merges\":[%s]}}",
                fixture_or(parts->merges,
                           "\"h e\",\"l l\",[\"he\",\"ll\"],\"hell o\",\"\xC4\xA0 w\",\"o r\","
                           "\"\xC4\xA0w or\",\"l d\",\"1 2\",\"12 3\",\"\xC3\x83 \xC2\xA9\""));
    const char *path = fixture_write("tokenizer.json", out.data);
    text_release(&out);
    return path;
}

#define FIXTURE_SPACE "\xE2\x96\x81"

/* <unk> 0, <s> 1, </s> 2, <0x00>..<0xFF> 3..258, then pieces. Written as Llama 2 files are. */
static inline const char *fixture_sentencepiece(const struct fixture_parts *parts)
{
    struct text out;
    text_init(&out);
    text_printf(
        &out,
        "{\"added_tokens\":[%s],\"normalizer\":%s,\"pre_tokenizer\":%s,\"post_processor\":%s,"
        "\"decoder\":%s,\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",%s\"vocab\":{"
        "\"<unk>\":0,\"<s>\":1,\"</s>\":2",
        fixture_or(parts->added, FIXTURE_SPECIAL(0, "<unk>") "," FIXTURE_SPECIAL(
                                     1, "<s>") "," FIXTURE_SPECIAL(2, "</s>")),
        fixture_or(parts->normalizer,
                   "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":"
                   "\"" FIXTURE_SPACE "\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},"
                   "\"content\":\"" FIXTURE_SPACE "\"}]}"),
        fixture_or(parts->pre_tokenizer, "null"),
        fixture_or(parts->post_processor,
                   "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\","
                   "\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],"
                   "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[1],\"tokens\":[\"<s>\"]}}"
                   "}"),
        fixture_or(parts->decoder,
                   "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{"
                   "\"String\":\"" FIXTURE_SPACE "\"},\"content\":\" \"},{\"type\":"
                   "\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \","
                   "\"start\":1,\"stop\":0}]}"),
        fixture_or(parts->options, "\"byte_fallback\":true,\"fuse_unk\":true,"));
    for (int byte = 0; byte < 256; byte++)
        text_printf(&out, ",\"<0x%02X>\":%d", (unsigned)byte, byte + 3);
    text_printf(&out,
                ",\"" FIXTURE_SPACE "\":259,\"t\":260,\"h\":261,\"e\":262,\"th\":263,"
                "\"" FIXTURE_SPACE "the\":264,\"the\":265,\"c\":266,\"a\":267,"
                "\"" FIXTURE_SPACE "c\":268,\".\":269,\"at\":270},\"merges\":[%s]}}",
                fixture_or(parts->merges,
                           "\"t h\",\"th e\",\"" FIXTURE_SPACE " the\",\"" FIXTURE_SPACE " c\","
                           "\"a t\""));
    const char *path = fixture_write("tokenizer.json", out.data);
    text_release(&out);
    return path;
}

static inline struct tokenizer *fixture_load(const char *path)
{
    struct tokenizer *tokenizer = NULL;
    if (tokenizer_load(&tokenizer, path) < 0)
        fail_msg("%s", error_message());
    return tokenizer;
}

/* The pieces of an encoding, "he|ll|o". */
static inline void fixture_check_bytes(const struct tokenizer *tokenizer, const char *bytes,
                                       size_t length, int flags, const char *expected)
{
    struct token_list ids;
    struct text pieces;
    token_list_init(&ids);
    text_init(&pieces);
    assert_int_equal(tokenizer_encode(tokenizer, bytes, length, flags, &ids), 0);
    for (int32_t i = 0; i < ids.count; i++)
        text_printf(&pieces, "%s%s", i > 0 ? "|" : "", tokenizer_piece(tokenizer, ids.ids[i]));
    assert_string_equal(pieces.data, expected);
    text_release(&pieces);
    token_list_release(&ids);
}

static inline void fixture_check(const struct tokenizer *tokenizer, const char *text, int flags,
                                 const char *expected)
{
    fixture_check_bytes(tokenizer, text, strlen(text), flags, expected);
}

static inline void fixture_check_decode(const struct tokenizer *tokenizer, const int32_t *ids,
                                        int32_t count, bool skip_special, const char *expected)
{
    struct text text;
    text_init(&text);
    assert_int_equal(tokenizer_decode(tokenizer, ids, count, skip_special, &text), 0);
    assert_string_equal(text.data, expected);
    text_release(&text);
}

#endif

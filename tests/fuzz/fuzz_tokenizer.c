/* A tokenizer.json, then after a NUL byte a text: a file that loads encodes the text, and any
 * other, into ids it has, and decodes them, whole and one by one, into the same valid UTF-8. */
#include "infra/text/tokenizer.h"
#include "tests/fuzz/input_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check_text(const struct tokenizer *tokenizer, const char *text, size_t length,
                       int flags)
{
    struct token_list ids;
    struct text whole;
    token_list_init(&ids);
    text_init(&whole);
    if (tokenizer_encode(tokenizer, text, length, flags, &ids) == 0) {
        for (int32_t i = 0; i < ids.count; i++) {
            HONE_ASSERT(ids.ids[i] >= 0 && ids.ids[i] < tokenizer_vocab_size(tokenizer));
            HONE_ASSERT(tokenizer_piece(tokenizer, ids.ids[i]) != NULL);
        }
        if (tokenizer_decode(tokenizer, ids.ids, ids.count, false, &whole) == 0)
            HONE_ASSERT(text_is_utf8(whole.data, whole.length));
        struct token_stream stream;
        token_stream_init(&stream, tokenizer, true);
        text_clear(&whole);
        for (int32_t i = 0; i < ids.count; i++)
            if (token_stream_push(&stream, ids.ids[i], &whole) < 0)
                break;
        (void)token_stream_finish(&stream, &whole);
        token_stream_release(&stream);
    } else {
        HONE_ASSERT(ids.count == 0);
    }
    text_release(&whole);
    token_list_release(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static const char sample[] = "Hello, w\xC3\xB6rld! <|bos|></s> 1234  \n\t\xF0\x9F\x98\x80 "
                                 "I'll \xff\xfe the cat";
    struct tokenizer *tokenizer = NULL;
    char *document = input_string(&data, &bytes);
    if (tokenizer_load(&tokenizer, input_file((const uint8_t *)document, strlen(document))) == 0) {
        static const int flags[] = {0, TOKENIZE_SPECIAL,
                                    TOKENIZE_PARSE_SPECIAL | TOKENIZE_CONTINUE};
        for (int i = 0; i < 3; i++) {
            check_text(tokenizer, sample, sizeof sample - 1, flags[i]);
            check_text(tokenizer, (const char *)data, bytes, flags[i]);
        }
        (void)tokenizer_token_id(tokenizer, "a");
        tokenizer_free(tokenizer);
    } else {
        HONE_ASSERT(tokenizer == NULL);
    }
    memory_free(document);
    return 0;
}

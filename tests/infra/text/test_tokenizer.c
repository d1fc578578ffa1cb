#include "tests/infra/text/text_fixture.h"

#include <pthread.h>

static const struct fixture_parts defaults;

#define G "\xC4\xA0" /* the byte-level space */

static void test_byte_level_merges(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = fixture_load(fixture_byte_level(&defaults));
    fixture_check(tokenizer, "", 0, "");
    fixture_check(tokenizer, "hello", 0, "hello");
    fixture_check(tokenizer, "hello world", 0, "hello|" G "wor|ld");
    fixture_check(tokenizer, "hhell", 0, "h|hell");
    fixture_check(tokenizer, "lllll", 0, "ll|ll|l"); /* leftmost first */
    fixture_check(tokenizer, "world", 0, "w|or|ld"); /* in the vocabulary, but no merge makes it */
    fixture_check(tokenizer, "\xC3\xA9", 0, "\xC3\x83\xC2\xA9");
    assert_int_equal(tokenizer_vocab_size(tokenizer), 302);
    tokenizer_free(tokenizer);
}

static void test_ignore_merges(void **state)
{
    (void)state;
    struct fixture_parts parts = {.options = "\"ignore_merges\":true,"};
    struct tokenizer *tokenizer = fixture_load(fixture_byte_level(&parts));
    fixture_check(tokenizer, "world", 0, "world");
    fixture_check(tokenizer, "worlds", 0, "w|or|ld|s");
    tokenizer_free(tokenizer);
}

static void test_llama3_pattern(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = fixture_load(fixture_byte_level(&defaults));
    fixture_check(tokenizer, "12345", 0, "123|4|5"); /* groups of three: 123, 45 */
    fixture_check(tokenizer, " 12", 0, G "|12");
    fixture_check(tokenizer, "12 3", 0, "12|" G "|3");
    fixture_check(tokenizer, "\n\n", 0, "\xC4\x8A|\xC4\x8A");
    tokenizer_free(tokenizer);
}

static void test_invalid_utf8_becomes_replacement(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = fixture_load(fixture_byte_level(&defaults));
    struct token_list ids;
    token_list_init(&ids);
    assert_int_equal(tokenizer_encode(tokenizer,
                                      "a\xFF"
                                      "b\0c",
                                      5, 0, &ids),
                     0);
    struct text text;
    text_init(&text);
    assert_int_equal(tokenizer_decode(tokenizer, ids.ids, ids.count, false, &text), 0);
    assert_int_equal(text.length, 7);
    assert_memory_equal(text.data,
                        "a\xEF\xBF\xBD"
                        "b\0c",
                        7);
    text_release(&text);
    token_list_release(&ids);
    tokenizer_free(tokenizer);
}

static void test_special_tokens_need_permission(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = fixture_load(fixture_byte_level(&defaults));
    fixture_check(tokenizer, "he<|eos|>he", TOKENIZE_PARSE_SPECIAL, "he|<|eos|>|he");
    fixture_check(tokenizer, "he<|eos|>he", 0, "he|<|||e|o|s|||>|he");
    assert_int_equal(tokenizer_token_id(tokenizer, "<|eos|>"), 301);
    assert_int_equal(tokenizer_token_id(tokenizer, "hello"), 259);
    assert_int_equal(tokenizer_token_id(tokenizer, "absent"), -1);
    assert_true(tokenizer_is_special(tokenizer, 301));
    assert_false(tokenizer_is_special(tokenizer, 259));
    assert_false(tokenizer_is_special(tokenizer, -1) || tokenizer_is_special(tokenizer, 302));
    assert_null(tokenizer_piece(tokenizer, 299)); /* a hole */
    assert_null(tokenizer_piece(tokenizer, 302));
    tokenizer_free(tokenizer);
}

static void test_decode_skips(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = fixture_load(fixture_byte_level(&defaults));
    const int32_t ids[] = {300, 259, 299, 5000, -7, 262, 263, 301};
    fixture_check_decode(tokenizer, ids, 8, false, "<|bos|>hello world<|eos|>");
    fixture_check_decode(tokenizer, ids, 8, true, "hello world");
    const int32_t half[] = {0xC3, 259};
    fixture_check_decode(tokenizer, half, 2, true, "\xEF\xBF\xBDhello");
    tokenizer_free(tokenizer);
}

static void test_template_processing(void **state)
{
    (void)state;
    struct fixture_parts parts = {
        .post_processor =
            "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},{\"type\":"
            "\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"b\",\"type_id\":0}},"
            "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},{\"SpecialToken\":{\"id\":\"e\","
            "\"type_id\":0}}],\"special_tokens\":{\"b\":{\"id\":\"b\",\"ids\":[300],\"tokens\":"
            "[\"<|bos|>\"]},\"e\":{\"id\":\"e\",\"ids\":[301],\"tokens\":[\"<|eos|>\"]}}}]}"};
    struct tokenizer *tokenizer = fixture_load(fixture_byte_level(&parts));
    fixture_check(tokenizer, "he", TOKENIZE_SPECIAL, "<|bos|>|he|<|eos|>");
    fixture_check(tokenizer, "he", 0, "he");
    assert_int_equal(tokenizer_bos(tokenizer), 300); /* the one token in front */
    assert_true(tokenizer_adds_bos(tokenizer));
    tokenizer_free(tokenizer);
}

static void test_config_names_and_flags(void **state)
{
    (void)state;
    fixture_byte_level(&defaults);
    fixture_write("tokenizer_config.json",
                  "{\"bos_token\":{\"content\":\"<|bos|>\",\"lstrip\":false},"
                  "\"eos_token\":\"<|eos|>\",\"pad_token\":\"<|nowhere|>\","
                  "\"add_bos_token\":true,\"add_eos_token\":true,\"model_max_length\":1e30}");
    struct tokenizer *tokenizer = fixture_load(fixture_root); /* the directory will do */
    assert_int_equal(tokenizer_bos(tokenizer), 300);
    assert_int_equal(tokenizer_eos(tokenizer), 301);
    assert_int_equal(tokenizer_pad(tokenizer), -1);
    fixture_check(tokenizer, "he", TOKENIZE_SPECIAL, "<|bos|>|he|<|eos|>");
    tokenizer_free(tokenizer);

    fixture_sentencepiece(&defaults);
    fixture_write("tokenizer_config.json", "{\"bos_token\":\"<s>\",\"add_bos_token\":false}");
    fixture_write("special_tokens_map.json", "{\"eos_token\":\"</s>\",\"bos_token\":\"</s>\"}");
    tokenizer = fixture_load(fixture_root);
    assert_int_equal(tokenizer_bos(tokenizer), 1); /* tokenizer_config.json wins */
    assert_int_equal(tokenizer_eos(tokenizer), 2);
    assert_false(tokenizer_adds_bos(tokenizer));
    fixture_check(tokenizer, "the", TOKENIZE_SPECIAL, FIXTURE_SPACE "the");
    tokenizer_free(tokenizer);
    unlink(fixture_path("tokenizer_config.json"));
    unlink(fixture_path("special_tokens_map.json"));
}

static void test_nfc(void **state)
{
    (void)state;
    struct fixture_parts parts = {.normalizer = "{\"type\":\"NFC\"}"};
    struct tokenizer *tokenizer = fixture_load(fixture_byte_level(&parts));
    fixture_check(tokenizer, "e\xCC\x81", 0, "\xC3\x83\xC2\xA9");
    tokenizer_free(tokenizer);
    tokenizer = fixture_load(fixture_byte_level(&defaults));
    fixture_check(tokenizer, "e\xCC\x81", 0, "e|\xC3\x8C|\xC4\xA3"); /* untouched without it */
    tokenizer_free(tokenizer);
}

static void test_added_token_flags(void **state)
{
    (void)state;
    struct fixture_parts parts = {
        .added = "{\"id\":300,\"content\":\"<w>\",\"single_word\":true,\"normalized\":false},"
                 "{\"id\":301,\"content\":\"<l>\",\"lstrip\":true,\"normalized\":false},"
                 "{\"id\":302,\"content\":\"<r>\",\"rstrip\":true,\"normalized\":false},"
                 "{\"id\":303,\"content\":\"<r><r>\",\"normalized\":false}"};
    struct tokenizer *tokenizer = fixture_load(fixture_byte_level(&parts));
    fixture_check(tokenizer, "h<w>", 0, "h|<|w|>"); /* touches a word character */
    fixture_check(tokenizer, ".<w>-", 0, ".|<w>|-");
    fixture_check(tokenizer, "h \t<l> h", 0, "h|<l>|" G "|h");
    fixture_check(tokenizer, "h <r> \n h", 0, "h|" G "|<r>|h");
    fixture_check(tokenizer, "<r><r><r>h", 0, "<r><r>|<r>|h"); /* longest, then the rest */
    tokenizer_free(tokenizer);
}

static void test_sentencepiece(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = fixture_load(fixture_sentencepiece(&defaults));
    fixture_check(tokenizer, "", TOKENIZE_SPECIAL, "<s>");
    fixture_check(tokenizer, "the cat", 0, FIXTURE_SPACE "the|" FIXTURE_SPACE "c|at");
    fixture_check(tokenizer, "the cat", TOKENIZE_SPECIAL,
                  "<s>|" FIXTURE_SPACE "the|" FIXTURE_SPACE "c|at");
    fixture_check(tokenizer, "the\n\xC3\xA9", 0, FIXTURE_SPACE "the|<0x0A>|<0xC3>|<0xA9>");
    fixture_check(tokenizer, "the", TOKENIZE_CONTINUE, "the");
    fixture_check(tokenizer, " the", TOKENIZE_CONTINUE, FIXTURE_SPACE "the");
    fixture_check(tokenizer, "the</s>the", TOKENIZE_PARSE_SPECIAL,
                  FIXTURE_SPACE "the|</s>|" FIXTURE_SPACE "the");
    fixture_check(tokenizer, "</s>", 0, FIXTURE_SPACE "|<0x3C>|<0x2F>|<0x73>|<0x3E>");
    tokenizer_free(tokenizer);
}

static void test_sentencepiece_decode(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = fixture_load(fixture_sentencepiece(&defaults));
    const int32_t words[] = {1, 264, 268, 270, 0xC3 + 3, 0xA9 + 3, 269};
    fixture_check_decode(tokenizer, words, 7, true, "the cat\xC3\xA9.");
    fixture_check_decode(tokenizer, words, 7, false, "<s> the cat\xC3\xA9.");
    /* one U+FFFD for every byte of a run that is not UTF-8, even its valid part */
    const int32_t broken[] = {'a' + 3, 0xC3 + 3, 265};
    fixture_check_decode(tokenizer, broken, 3, true, "\xEF\xBF\xBD\xEF\xBF\xBDthe");
    const int32_t spaces[] = {259, 259, 265}; /* one leading space goes, not two */
    fixture_check_decode(tokenizer, spaces, 3, true, " the");
    tokenizer_free(tokenizer);
}

static void test_unknown_tokens(void **state)
{
    (void)state;
    struct fixture_parts fused = {.options = "\"byte_fallback\":false,\"fuse_unk\":true,"};
    struct tokenizer *tokenizer = fixture_load(fixture_sentencepiece(&fused));
    fixture_check(tokenizer, "thexyzthe", 0, FIXTURE_SPACE "the|<unk>|the");
    tokenizer_free(tokenizer);
    struct fixture_parts apart = {.options = "\"byte_fallback\":false,\"fuse_unk\":false,"};
    tokenizer = fixture_load(fixture_sentencepiece(&apart));
    fixture_check(tokenizer, "xyzthe", 0, FIXTURE_SPACE "|<unk>|<unk>|<unk>|the");
    tokenizer_free(tokenizer);
}

static void test_metaspace_file(void **state)
{
    (void)state;
    struct fixture_parts parts = {
        .normalizer = "null",
        .pre_tokenizer = "{\"type\":\"Metaspace\",\"replacement\":\"" FIXTURE_SPACE
                         "\",\"prepend_scheme\":\"first\",\"split\":false}",
        .decoder = "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteFallback\"},{\"type\":"
                   "\"Metaspace\",\"replacement\":\"" FIXTURE_SPACE
                   "\",\"prepend_scheme\":\"first\",\"split\":false}]}"};
    struct tokenizer *tokenizer = fixture_load(fixture_sentencepiece(&parts));
    fixture_check(tokenizer, "the cat", 0, FIXTURE_SPACE "the|" FIXTURE_SPACE "c|at");
    fixture_check(tokenizer, "</s>the", TOKENIZE_PARSE_SPECIAL, "</s>|the"); /* not the first */
    fixture_check(tokenizer, "the", TOKENIZE_CONTINUE, "the");
    const int32_t ids[] = {264, 268, 270};
    fixture_check_decode(tokenizer, ids, 3, true, "the cat");
    tokenizer_free(tokenizer);
}

/* Streams ids, checks that every step gives whole characters, and compares with expected. */
static void check_stream(const struct tokenizer *tokenizer, const int32_t *ids, int32_t count,
                         const char *expected)
{
    struct token_stream stream;
    struct text text;
    text_init(&text);
    token_stream_init(&stream, tokenizer, true);
    for (int round = 0; round < 2; round++) { /* finish makes it ready for another text */
        text_clear(&text);
        for (int32_t i = 0; i < count; i++) {
            assert_int_equal(token_stream_push(&stream, ids[i], &text), 0);
            assert_true(text_is_utf8(text.data, text.length));
        }
        assert_int_equal(token_stream_finish(&stream, &text), 0);
        assert_string_equal(text.data, expected);
    }
    token_stream_release(&stream);
    text_release(&text);
}

static void test_streaming(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = fixture_load(fixture_byte_level(&defaults));
    const int32_t llama[] = {300, 259, 0xF0, 0x9F, 0x98, 0x80, 262, 0xC3};
    check_stream(tokenizer, llama, 8, "hello\xF0\x9F\x98\x80 wor\xEF\xBF\xBD");
    tokenizer_free(tokenizer);

    tokenizer = fixture_load(fixture_sentencepiece(&defaults));
    const int32_t spm[] = {1, 264, 0xF0 + 3, 0x9F + 3, 0x98 + 3, 0x80 + 3, 268};
    check_stream(tokenizer, spm, 7, "the\xF0\x9F\x98\x80 c");
    struct token_stream stream;
    struct text text;
    text_init(&text);
    token_stream_init(&stream, tokenizer, true);
    for (int32_t i = 0; i < 6; i++)
        token_stream_push(&stream, spm[i], &text);
    assert_string_equal(text.data, "the\xF0\x9F\x98\x80"); /* given before the run ends */
    token_stream_release(&stream);
    text_release(&text);
    tokenizer_free(tokenizer);
}

static void *encode_often(void *context)
{
    const struct tokenizer *tokenizer = context;
    const char *text = "hello world 12345 hello\n\n\xC3\xA9 <|eos|>";
    struct token_list first, ids;
    token_list_init(&first);
    token_list_init(&ids);
    bool same = true;
    tokenizer_encode(tokenizer, text, strlen(text), 0, &first);
    for (int i = 0; i < 200 && same; i++) {
        token_list_clear(&ids);
        same = tokenizer_encode(tokenizer, text, strlen(text), 0, &ids) == 0 &&
               ids.count == first.count &&
               memcmp(ids.ids, first.ids, (size_t)ids.count * sizeof(int32_t)) == 0;
    }
    token_list_release(&ids);
    token_list_release(&first);
    return same ? context : NULL;
}

static void test_threads_share_a_tokenizer(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = fixture_load(fixture_byte_level(&defaults));
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, encode_often, tokenizer), 0);
    for (int i = 0; i < 4; i++) {
        void *result = NULL;
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_non_null(result);
    }
    tokenizer_free(tokenizer);
}

static void test_copy(void **state)
{
    (void)state;
    fixture_byte_level(&defaults);
    fixture_write("chat_template.jinja", "template");
    fixture_write("model.safetensors", "weights stay");
    const char *to = fixture_path("exported");
    assert_int_equal(file_make_directories(to), 0);
    assert_int_equal(tokenizer_copy(fixture_root, to), 0);
    assert_int_equal(tokenizer_copy(fixture_root, fixture_root), 0);
    struct tokenizer *tokenizer = fixture_load(fixture_path("exported"));
    fixture_check(tokenizer, "hello", 0, "hello");
    tokenizer_free(tokenizer);
    assert_true(file_exists(fixture_path("exported/chat_template.jinja")));
    assert_false(file_exists(fixture_path("exported/model.safetensors")));
    assert_true(tokenizer_copy(fixture_root, fixture_path("no/such")) < 0);
}

static void test_long_piece(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = fixture_load(fixture_sentencepiece(&defaults));
    size_t repeats = 20000, width = strlen("the cat ");
    char *text = memory_alloc(repeats * width + 1, 1);
    for (size_t i = 0; i < repeats; i++)
        memcpy(text + i * width, "the cat ", width);
    struct token_list ids;
    token_list_init(&ids);
    assert_int_equal(tokenizer_encode(tokenizer, text, repeats * width - 1, 0, &ids), 0);
    assert_int_equal(ids.count, 3 * repeats);
    for (int32_t i = 0; i < ids.count; i += 3)
        assert_true(ids.ids[i] == 264 && ids.ids[i + 1] == 268 && ids.ids[i + 2] == 270);
    token_list_release(&ids);
    memory_free(text);
    tokenizer_free(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_byte_level_merges),
        cmocka_unit_test(test_ignore_merges),
        cmocka_unit_test(test_llama3_pattern),
        cmocka_unit_test(test_invalid_utf8_becomes_replacement),
        cmocka_unit_test(test_special_tokens_need_permission),
        cmocka_unit_test(test_decode_skips),
        cmocka_unit_test(test_template_processing),
        cmocka_unit_test(test_config_names_and_flags),
        cmocka_unit_test(test_nfc),
        cmocka_unit_test(test_added_token_flags),
        cmocka_unit_test(test_sentencepiece),
        cmocka_unit_test(test_sentencepiece_decode),
        cmocka_unit_test(test_unknown_tokens),
        cmocka_unit_test(test_metaspace_file),
        cmocka_unit_test(test_streaming),
        cmocka_unit_test(test_threads_share_a_tokenizer),
        cmocka_unit_test(test_copy),
        cmocka_unit_test(test_long_piece),
    };
    return cmocka_run_group_tests(tests, fixture_set_up, fixture_tear_down);
}

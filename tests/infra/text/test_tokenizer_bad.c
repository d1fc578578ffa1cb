/* Files that must be refused: one clear message each, never a crash. */
#include "tests/infra/text/text_fixture.h"

static void check_refused(const char *path, int code, const char *message)
{
    struct tokenizer *tokenizer = NULL;
    int rc = tokenizer_load(&tokenizer, path);
    if (rc != code)
        fail_msg("returned %d (%s), %d expected for \"%s\"", rc, error_message(), code, message);
    assert_null(tokenizer);
    if (strstr(error_message(), message) == NULL)
        fail_msg("\"%s\" lacks \"%s\"", error_message(), message);
    if (strstr(error_message(), fixture_root) == NULL)
        fail_msg("\"%s\" does not name the file", error_message());
}

static void test_documents(void **state)
{
    (void)state;
    static const struct {
        const char *content;
        const char *message;
    } cases[] = {
        {"", "line 1"},
        {"not json", "line 1"},
        {"[1, 2]", "an object is expected"},
        {"{}", "\"model\" is missing"},
        {"{\"model\": 7}", "\"model\" is of type integer"},
        {"{\"model\": {}}", "\"vocab\" is missing"},
        {"{\"model\": {\"vocab\": {}, \"merges\": []}}", "vocab is empty"},
        {"{\"model\": {\"vocab\": {\"a\": 0}}}", "\"merges\" is missing"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": {}}}", "\"merges\" is of type object"},
        {"{\"model\": {\"vocab\": {\"a\": \"x\"}, \"merges\": []}}", "is of type string"},
        {"{\"model\": {\"vocab\": {\"a\": -1}, \"merges\": []}}", "has id -1"},
        {"{\"model\": {\"vocab\": {\"a\": 4000000000}, \"merges\": []}}", "has id 4000000000"},
        {"{\"model\": {\"vocab\": {\"a\": 9223372036854775808}, \"merges\": []}}", "line 1"},
        {"{\"model\": {\"vocab\": {\"a\": 1, \"b\": 1}, \"merges\": []}}", "id 1 belongs to"},
        {"{\"model\": {\"vocab\": {\"a\": 0, \"a\": 1}, \"merges\": []}}", "duplicate"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [5]}}", "merges[0]"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [\"aa\"]}}", "not two parts"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [\"a a a\"]}}", "not two parts"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [\"a b\"]}}", "the right part"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [\"a a\"]}}", "the result is not"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [], \"unk_token\": \"u\"}}", "unk_token"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [], \"fuse_unk\": 1}}", "fuse_unk"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        check_refused(fixture_write("tokenizer.json", cases[i].content), HONE_EFORMAT,
                      cases[i].message);
    check_refused(fixture_path("absent.json"), HONE_ENOENT, "absent.json");
}

static void test_models_hone_cannot_do(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"{\"model\": {\"type\": \"WordPiece\"}}", "WordPiece"},
        {"{\"model\": {\"type\": \"Unigram\"}}", "Unigram"},
        {"{\"model\": {\"dropout\": 0.1, \"vocab\": {\"a\": 0}, \"merges\": []}}", "dropout"},
        {"{\"model\": {\"end_of_word_suffix\": \"</w>\", \"vocab\": {\"a\": 0}, \"merges\": []}}",
         "end_of_word_suffix"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        check_refused(fixture_write("tokenizer.json", cases[i][0]), HONE_EUNSUPPORTED, cases[i][1]);
}

static void test_unknown_parts_are_named(void **state)
{
    (void)state;
    static const struct {
        struct fixture_parts parts;
        int code;
        const char *message;
    } cases[] = {
        {{.normalizer = "{\"type\":\"BertNormalizer\"}"}, HONE_EUNSUPPORTED, "BertNormalizer"},
        {{.normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":"
                        "\"Lowercase\"}]}"},
         HONE_EUNSUPPORTED,
         "normalizer[1]: normaliser \"Lowercase\""},
        {{.normalizer = "{\"type\":\"Prepend\"}"}, HONE_EFORMAT, "\"prepend\" is missing"},
        {{.normalizer = "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a*\"},\"content\":\"\"}"},
         HONE_EUNSUPPORTED,
         "empty string"},
        {{.normalizer = "3"}, HONE_EFORMAT, "normalizer: an object"},
        {{.pre_tokenizer = "{\"type\":\"BertPreTokenizer\"}"},
         HONE_EUNSUPPORTED,
         "BertPreTokenizer"},
        {{.pre_tokenizer = "{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":"
                           "\"Sideways\"}"},
         HONE_EUNSUPPORTED,
         "Sideways"},
        {{.pre_tokenizer = "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":"
                           "\"Isolated\"}"},
         HONE_EFORMAT,
         "pattern \"(\""},
        {{.pre_tokenizer = "{\"type\":\"Split\",\"behavior\":\"Isolated\"}"},
         HONE_EFORMAT,
         "\"pattern\" is missing"},
        {{.pre_tokenizer = "{\"type\":\"Metaspace\",\"replacement\":\"ab\"}"},
         HONE_EFORMAT,
         "not one character"},
        {{.post_processor = "{\"type\":\"BertProcessing\"}"}, HONE_EUNSUPPORTED, "BertProcessing"},
        {{.post_processor = "{\"type\":\"TemplateProcessing\",\"single\":[]}"},
         HONE_EUNSUPPORTED,
         "does not contain the text"},
        {{.post_processor = "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
                            "{\"id\":\"x\"}}],\"special_tokens\":{}}"},
         HONE_EFORMAT,
         "special_tokens[\"x\"]"},
        {{.post_processor = "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
                            "{\"id\":\"x\"}},{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":"
                            "{\"x\":{\"ids\":[299]}}}"},
         HONE_EFORMAT,
         "id 299, which is no token"},
        {{.decoder = "{\"type\":\"WordPiece\"}"}, HONE_EUNSUPPORTED, "WordPiece"},
        {{.decoder = "{\"type\":\"Strip\",\"content\":\" \",\"start\":0,\"stop\":1}"},
         HONE_EUNSUPPORTED,
         "stop 1"},
        {{.decoder = "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":"
                     "\"ByteFallback\"}]}"},
         HONE_EUNSUPPORTED,
         "after Fuse"},
        {{.added = "{\"id\":300}"}, HONE_EFORMAT, "added_tokens[0]: \"content\" is missing"},
        {{.added = "{\"id\":999999999,\"content\":\"x\"}"}, HONE_EFORMAT, "999999999"},
        {{.added = "{\"id\":5,\"content\":\"x<>\"}"}, HONE_EFORMAT, "has the id 5 of"},
        {{.added = "{\"id\":300,\"content\":\"hello\"}"}, HONE_EFORMAT, "in the vocabulary 259"},
        {{.added = "{\"id\":300,\"content\":\"x<>\"},{\"id\":301,\"content\":\"x<>\"}"},
         HONE_EFORMAT,
         "has id 300 and id 301"},
        {{.added = "{\"id\":300,\"content\":\"x<>\"},{\"id\":300,\"content\":\"y<>\"}"},
         HONE_EFORMAT,
         "share id 300"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        check_refused(fixture_byte_level(&cases[i].parts), cases[i].code, cases[i].message);
}

static void test_deep_nesting(void **state)
{
    (void)state;
    struct text deep;
    text_init(&deep);
    for (int i = 0; i < 40; i++)
        text_append(&deep, "{\"type\":\"Sequence\",\"pretokenizers\":[");
    for (int i = 0; i < 40; i++)
        text_append(&deep, "]}");
    struct fixture_parts parts = {.pre_tokenizer = deep.data};
    check_refused(fixture_byte_level(&parts), HONE_EFORMAT, "nested more than");
    text_release(&deep);
}

static void test_every_truncation(void **state)
{
    (void)state;
    const struct fixture_parts defaults = {0};
    char *data = NULL;
    size_t bytes = 0;
    assert_int_equal(file_read(fixture_sentencepiece(&defaults), 1 << 20, &data, &bytes), 0);
    const char *path = fixture_path("cut.json");
    for (size_t cut = 0; cut < bytes; cut += 61) {
        FILE *file = fopen(path, "wb");
        assert_non_null(file);
        assert_int_equal(fwrite(data, 1, cut, file), cut);
        assert_int_equal(fclose(file), 0);
        check_refused(path, HONE_EFORMAT, "cut.json");
    }
    memory_free(data);
}

/* Any byte of the file replaced: loads or is refused, and what loads can encode and decode. */
static void test_damaged_bytes(void **state)
{
    (void)state;
    const struct fixture_parts defaults = {0};
    char *data = NULL;
    size_t bytes = 0;
    int refused = 0, loaded = 0;
    assert_int_equal(file_read(fixture_byte_level(&defaults), 1 << 20, &data, &bytes), 0);
    const char *path = fixture_path("damaged.json");
    for (size_t at = 0; at < bytes; at += 17) {
        char kept = data[at];
        data[at] = "\0{]\"9-z\xFF"[at % 8];
        FILE *file = fopen(path, "wb");
        assert_non_null(file);
        assert_int_equal(fwrite(data, 1, bytes, file), bytes);
        assert_int_equal(fclose(file), 0);
        data[at] = kept;
        struct tokenizer *tokenizer = NULL;
        if (tokenizer_load(&tokenizer, path) < 0) {
            refused++;
            continue;
        }
        struct token_list ids;
        struct text text;
        token_list_init(&ids);
        text_init(&text);
        tokenizer_encode(tokenizer, "hello world 123\n", 16, TOKENIZE_SPECIAL, &ids);
        tokenizer_decode(tokenizer, ids.ids, ids.count, false, &text);
        text_release(&text);
        token_list_release(&ids);
        tokenizer_free(tokenizer);
        loaded++;
    }
    assert_true(refused > 100 && loaded > 0);
    memory_free(data);
}

static void test_bad_config_beside_it(void **state)
{
    (void)state;
    const struct fixture_parts defaults = {0};
    fixture_byte_level(&defaults);
    fixture_write("tokenizer_config.json", "{\"bos_token\": 5}");
    check_refused(fixture_path("tokenizer.json"), HONE_EFORMAT, "\"bos_token\" is neither");
    fixture_write("tokenizer_config.json",
                  "{\"bos_token\": \"<|bos|>\", \"add_bos_token\": \"y\"}");
    check_refused(fixture_path("tokenizer.json"), HONE_EFORMAT, "add_bos_token");
    fixture_write("tokenizer_config.json", "{");
    check_refused(fixture_path("tokenizer.json"), HONE_EFORMAT, "tokenizer_config.json");
    unlink(fixture_path("tokenizer_config.json"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_documents),
        cmocka_unit_test(test_models_hone_cannot_do),
        cmocka_unit_test(test_unknown_parts_are_named),
        cmocka_unit_test(test_deep_nesting),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_damaged_bytes),
        cmocka_unit_test(test_bad_config_beside_it),
    };
    return cmocka_run_group_tests(tests, fixture_set_up, fixture_tear_down);
}

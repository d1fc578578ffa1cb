#include "tests/infra/text/text_fixture.h"

#include "infra/text/pretokenizer.h"

static void check_pieces(const char *json_text, const char *text, const char *expected)
{
    struct pretokenizer *pretokenizer = NULL;
    struct piece_list pieces, spare;
    struct text found;
    json_t *json = json_loads(json_text, 0, NULL);
    assert_non_null(json);
    if (pretokenizer_parse(&pretokenizer, json, "pre_tokenizer") < 0)
        fail_msg("%s", error_message());
    json_decref(json);
    struct regex_scratch *scratch = regex_scratch_create();
    piece_list_init(&pieces);
    piece_list_init(&spare);
    text_init(&found);
    piece_list_append(&pieces, text, strlen(text), PIECE_FIRST);
    assert_int_equal(pretokenizer_run(pretokenizer, scratch, &pieces, &spare), 0);
    for (size_t i = 0; i < pieces.count; i++) {
        text_append(&found, i > 0 ? "|" : "");
        text_append_bytes(&found, pieces.bytes.data + pieces.pieces[i].start,
                          pieces.pieces[i].length);
    }
    assert_string_equal(found.data, expected);
    text_release(&found);
    piece_list_release(&spare);
    piece_list_release(&pieces);
    regex_scratch_destroy(scratch);
    pretokenizer_free(pretokenizer);
}

static void check_split(const char *behavior, const char *invert, const char *expected)
{
    char json[256];
    snprintf(json, sizeof(json),
             "{\"type\":\"Split\",\"pattern\":{\"String\":\"-\"},\"behavior\":\"%s\","
             "\"invert\":%s}",
             behavior, invert);
    check_pieces(json, "the-final--countdown", expected);
}

/* The reference library's documented example. */
static void test_split_behaviors(void **state)
{
    (void)state;
    check_split("Removed", "false", "the|final|countdown");
    check_split("Isolated", "false", "the|-|final|-|-|countdown");
    check_split("MergedWithPrevious", "false", "the-|final-|-|countdown");
    check_split("MergedWithNext", "false", "the|-final|-|-countdown");
    check_split("Contiguous", "false", "the|-|final|--|countdown");
}

static void test_split_inverted(void **state)
{
    (void)state;
    check_split("Removed", "true", "-|-|-");
    check_split("Isolated", "true", "the|-|final|-|-|countdown");
    check_split("MergedWithPrevious", "true", "the|-final|-|-countdown");
    check_split("MergedWithNext", "true", "the-|final-|-|countdown");
    check_split("Contiguous", "true", "the|-|final|--|countdown");
}

static void test_digits(void **state)
{
    (void)state;
    check_pieces("{\"type\":\"Digits\",\"individual_digits\":true}", "a12b\xC2\xBD",
                 "a|1|2|b|\xC2\xBD");
    check_pieces("{\"type\":\"Digits\",\"individual_digits\":false}", "a12b3", "a|12|b|3");
}

static void test_byte_level(void **state)
{
    (void)state;
    check_pieces("{\"type\":\"ByteLevel\",\"add_prefix_space\":false}", "Hi there's  two 12",
                 "Hi|\xC4\xA0there|'s|\xC4\xA0|\xC4\xA0two|\xC4\xA0"
                 "12");
    check_pieces("{\"type\":\"ByteLevel\"}", "Hi", "\xC4\xA0Hi"); /* the prefix is the default */
    check_pieces("{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}", "a b\n",
                 "a\xC4\xA0"
                 "b\xC4\x8A");
}

#define S FIXTURE_SPACE

static void test_metaspace(void **state)
{
    (void)state;
    check_pieces("{\"type\":\"Metaspace\",\"replacement\":\"" S "\",\"prepend_scheme\":\"always\"}",
                 "a  b", S "a|" S "|" S "b");
    check_pieces("{\"type\":\"Metaspace\",\"replacement\":\"" S "\",\"prepend_scheme\":\"never\","
                 "\"split\":false}",
                 "a b", "a" S "b");
    check_pieces("{\"type\":\"Metaspace\",\"replacement\":\"" S "\",\"prepend_scheme\":\"first\"}",
                 " a", S "a");
}

static void test_sequence_with_digits(void **state)
{
    (void)state;
    check_pieces(
        "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\","
        "\"individual_digits\":true},{\"type\":\"ByteLevel\",\"add_prefix_space\":false}]}",
        "x = 12", "x|\xC4\xA0=|\xC4\xA0|1|2");
    check_pieces("{\"type\":\"Sequence\",\"pretokenizers\":[]}", "as is", "as is");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_split_behaviors), cmocka_unit_test(test_split_inverted),
        cmocka_unit_test(test_digits),          cmocka_unit_test(test_byte_level),
        cmocka_unit_test(test_metaspace),       cmocka_unit_test(test_sequence_with_digits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

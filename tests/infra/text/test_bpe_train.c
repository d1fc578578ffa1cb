#include "tests/infra/text/text_fixture.h"

#include "infra/text/bpe_train.h"

static const char corpus[] = "low low low low low lower lower newest newest newest newest newest "
                             "newest widest widest widest 11 11 11 1112 1112\n";

static const struct bpe_train_options defaults = {
    .vocab_size = 300, .bos = "<|bos|>", .eos = "<|eos|>", .pad = "<|pad|>", .add_bos = true};

static int train(const char *directory, const char *text, const struct bpe_train_options *options)
{
    assert_int_equal(file_make_directories(directory), 0);
    return bpe_train(text, strlen(text), options, directory);
}

static void test_learns_frequent_pairs_first(void **state)
{
    (void)state;
    struct bpe_train_options options = defaults;
    options.vocab_size = 263;
    assert_int_equal(train(fixture_path("few"), corpus, &options), 263);
    struct tokenizer *tokenizer = fixture_load(fixture_path("few"));
    /* counts: "es" 9 and "st" 9 (e before s, so "es" goes first), then "est" 9, "lo" 7 and "ow" 7
     */
    assert_string_equal(tokenizer_piece(tokenizer, 259), "es");
    assert_string_equal(tokenizer_piece(tokenizer, 260), "est");
    assert_string_equal(tokenizer_piece(tokenizer, 261), "lo");
    assert_string_equal(tokenizer_piece(tokenizer, 262), "low");
    fixture_check(tokenizer, "lowest", 0, "low|est");
    tokenizer_free(tokenizer);
}

static void test_digits_never_merge(void **state)
{
    (void)state;
    train(fixture_path("digits"), corpus, &defaults);
    struct tokenizer *tokenizer = fixture_load(fixture_path("digits"));
    fixture_check(tokenizer, "1112", 0, "1|1|1|2");
    fixture_check(tokenizer, " 11", 0, "\xC4\xA0|1|1");
    for (int32_t id = 259; id < tokenizer_vocab_size(tokenizer); id++)
        assert_null(strpbrk(tokenizer_piece(tokenizer, id), "0123456789"));
    tokenizer_free(tokenizer);
}

static void test_special_tokens(void **state)
{
    (void)state;
    static const char *const extra[] = {"<|im_start|>", "<|im_end|>"};
    struct bpe_train_options options = defaults;
    options.extra = extra;
    options.extra_count = 2;
    options.pad = "<|eos|>"; /* one token in two parts */
    options.context_max_tokens = 128;
    assert_true(train(fixture_path("special"), corpus, &options) > 260);
    struct tokenizer *tokenizer = fixture_load(fixture_path("special"));
    assert_int_equal(tokenizer_bos(tokenizer), 0);
    assert_int_equal(tokenizer_eos(tokenizer), 1);
    assert_int_equal(tokenizer_pad(tokenizer), 1);
    assert_int_equal(tokenizer_token_id(tokenizer, "<|im_end|>"), 3);
    assert_true(tokenizer_is_special(tokenizer, 3));
    fixture_check(tokenizer, "low<|im_end|>", TOKENIZE_SPECIAL | TOKENIZE_PARSE_SPECIAL,
                  "<|bos|>|low|<|im_end|>");
    tokenizer_free(tokenizer);
}

static void check_same_file(const char *a, const char *b)
{
    char *first = NULL, *second = NULL;
    size_t first_bytes = 0, second_bytes = 0;
    assert_int_equal(file_read(a, 1 << 24, &first, &first_bytes), 0);
    assert_int_equal(file_read(b, 1 << 24, &second, &second_bytes), 0);
    assert_int_equal(first_bytes, second_bytes);
    assert_memory_equal(first, second, first_bytes);
    memory_free(first);
    memory_free(second);
}

static void test_same_text_gives_same_files(void **state)
{
    (void)state;
    train(fixture_path("one"), corpus, &defaults);
    train(fixture_path("two"), corpus, &defaults);
    check_same_file(fixture_path("one/tokenizer.json"), fixture_path("two/tokenizer.json"));
    check_same_file(fixture_path("one/tokenizer_config.json"),
                    fixture_path("two/tokenizer_config.json"));
}

/* Every byte is in the vocabulary, so anything comes back. */
static void test_round_trip_of_unseen_text(void **state)
{
    (void)state;
    const char *text = "unseen \xF0\x9F\xA6\x99 caf\xC3\xA9\t\r\n 2024!";
    train(fixture_path("round"), corpus, &defaults);
    struct tokenizer *tokenizer = fixture_load(fixture_path("round"));
    struct token_list ids;
    token_list_init(&ids);
    assert_int_equal(tokenizer_encode(tokenizer, text, strlen(text), TOKENIZE_SPECIAL, &ids), 0);
    fixture_check_decode(tokenizer, ids.ids, ids.count, true, text);
    token_list_release(&ids);
    tokenizer_free(tokenizer);
}

static void test_short_texts(void **state)
{
    (void)state;
    assert_int_equal(train(fixture_path("empty"), "", &defaults), 259);
    assert_int_equal(train(fixture_path("once"), "abcdef", &defaults), 259); /* no pair twice */
    assert_int_equal(train(fixture_path("twice"), "ab ab", &defaults), 260);
    struct tokenizer *tokenizer = fixture_load(fixture_path("empty"));
    fixture_check(tokenizer, "ab", 0, "a|b");
    tokenizer_free(tokenizer);
}

static void test_bad_options(void **state)
{
    (void)state;
    struct bpe_train_options options = defaults;
    options.vocab_size = 258;
    assert_int_equal(train(fixture_path("bad"), corpus, &options), HONE_EINVAL);
    assert_non_null(strstr(error_message(), "259"));
    options = defaults;
    options.bos = NULL;
    assert_int_equal(train(fixture_path("bad"), corpus, &options), HONE_EINVAL);
    options = defaults;
    options.eos = "";
    assert_int_equal(train(fixture_path("bad"), corpus, &options), HONE_EINVAL);
    assert_true(bpe_train(corpus, strlen(corpus), &defaults, fixture_path("no/such/place")) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_learns_frequent_pairs_first),
        cmocka_unit_test(test_digits_never_merge),
        cmocka_unit_test(test_special_tokens),
        cmocka_unit_test(test_same_text_gives_same_files),
        cmocka_unit_test(test_round_trip_of_unseen_text),
        cmocka_unit_test(test_short_texts),
        cmocka_unit_test(test_bad_options),
    };
    return cmocka_run_group_tests(tests, fixture_set_up, fixture_tear_down);
}

#include "tests/infra/train/train_fixture.h"

#include "infra/train/example.h"

static struct tokenizer *tokenizer;

static int open_tokenizer(void **state)
{
    char directory[HONE_PATH_MAX];
    (void)state;
    fixture_directory(directory, "example");
    fixture_write_tokenizer(directory);
    assert_ok(tokenizer_load(&tokenizer, directory));
    return file_remove_tree(directory);
}

static int close_tokenizer(void **state)
{
    (void)state;
    tokenizer_free(tokenizer);
    return 0;
}

/* The fixture tokenizer's id of a printable character. */
static int32_t id_of(char c)
{
    return c == ' ' ? 96 : c == '\n' ? 97 : c - '!' + 2;
}

static void pair_trains_completion_and_eos(void **state)
{
    (void)state;
    struct example example;
    assert_ok(example_from_pair(&example, tokenizer, "1+2=", " 3", 1));
    static const char text[] = "1+2= 3";
    assert_int_equal(example.count, 8);
    assert_int_equal(example.tokens[0], 0);
    for (int i = 0; i < 6; i++)
        assert_int_equal(example.tokens[i + 1], id_of(text[i]));
    assert_int_equal(example.tokens[7], 1);
    static const uint8_t mask[] = {0, 0, 0, 0, 0, 1, 1, 1};
    assert_memory_equal(example.mask, mask, sizeof mask);
    assert_int_equal(example_trained_tokens(&example), 3);
    example_release(&example);
    assert_ok(example_from_pair(&example, tokenizer, "1+2=", " 3", -1));
    assert_int_equal(example.count, 7);
    example_release(&example);
}

/* A completion cannot forge an end of sequence. */
static void special_tokens_in_content_stay_text(void **state)
{
    (void)state;
    struct example example;
    assert_ok(example_from_pair(&example, tokenizer, "<s>", "</s>", 1));
    assert_int_equal(example.count, 1 + 3 + 4 + 1);
    for (int32_t i = 1; i < example.count - 1; i++)
        assert_true(example.tokens[i] > 1);
    example_release(&example);
}

static void text_is_cut_with_one_token_of_overlap(void **state)
{
    (void)state;
    static const char text[] = "abcdefghij"; /* BOS + 10 + EOS = 12 tokens */
    struct example_list list;
    example_list_init(&list);
    assert_ok(example_from_text(&list, tokenizer, text, 1, 5));
    assert_int_equal(list.count, 3);
    int32_t trained = 0, at = 0;
    for (int64_t i = 0; i < list.count; i++) {
        const struct example *piece = &list.items[i];
        assert_true(piece->count >= 2 && piece->count <= 5);
        assert_int_equal(piece->mask[0], 0);
        assert_int_equal(piece->tokens[0], at == 0 ? 0 : id_of(text[at - 1]));
        for (int32_t j = 1; j < piece->count; j++, at++)
            assert_int_equal(piece->tokens[j], at < 10 ? id_of(text[at]) : 1);
        trained += example_trained_tokens(piece);
    }
    assert_int_equal(trained, 11);
    /* Exactly filled pieces leave no remainder of a single token. */
    assert_ok(example_from_text(&list, tokenizer, "abcdefg", 1, 5));
    assert_int_equal(list.count, 5);
    assert_int_equal(list.items[4].count, 5);
    example_list_release(&list);
}

static void tokens_are_copied_and_the_first_is_untrained(void **state)
{
    (void)state;
    int32_t tokens[] = {4, 5, 6};
    uint8_t mask[] = {1, 0, 1};
    struct example example;
    example_from_tokens(&example, tokens, mask, 3);
    tokens[1] = 9;
    assert_int_equal(example.tokens[1], 5);
    assert_int_equal(example.mask[0], 0);
    assert_int_equal(example_trained_tokens(&example), 1);
    example_release(&example);
}

static void eos_is_one_that_stops_the_model(void **state)
{
    (void)state;
    struct model_config config = {.eos_count = 0};
    assert_int_equal(example_eos(tokenizer, &config), 1);
    config = (struct model_config){.eos_ids = {7, 1}, .eos_count = 2};
    assert_int_equal(example_eos(tokenizer, &config), 1);
    config = (struct model_config){.eos_ids = {7, 8}, .eos_count = 2};
    assert_int_equal(example_eos(tokenizer, &config), 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pair_trains_completion_and_eos),
        cmocka_unit_test(special_tokens_in_content_stay_text),
        cmocka_unit_test(text_is_cut_with_one_token_of_overlap),
        cmocka_unit_test(tokens_are_copied_and_the_first_is_untrained),
        cmocka_unit_test(eos_is_one_that_stops_the_model),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}

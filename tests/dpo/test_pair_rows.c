#include "tests/infra/train/train_fixture.h"

#include "dpo/pair_rows.h"

struct bench {
    char directory[HONE_PATH_MAX], path[HONE_PATH_MAX];
    struct tokenizer *tokenizer;
    struct preference_pairs pairs;
};

static int read_rows(struct bench *bench, const char *rows, enum dataset_format format,
                     const struct pair_limits *limits)
{
    struct dataset *dataset = NULL;
    const char *paths[] = {bench->path};
    struct dataset_options options = {.paths = paths, .count = 1, .format = format};
    struct pair_rows_options pairs = {.layout = CHAT_PLAIN, .eos_id = 1, .limits = *limits};

    fixture_directory(bench->directory, "pairs");
    path_join(bench->path, sizeof bench->path, bench->directory, "rows.jsonl");
    fixture_write_tokenizer(bench->directory);
    fixture_write(bench->directory, "rows.jsonl", rows);
    preference_pairs_init(&bench->pairs);
    assert_ok(tokenizer_load(&bench->tokenizer, bench->directory));
    assert_ok(dataset_load(&dataset, &options));
    int rc = pair_rows_read(&bench->pairs, dataset, bench->tokenizer, &pairs);
    dataset_free(dataset);
    return rc;
}

static void bench_close(struct bench *bench)
{
    tokenizer_free(bench->tokenizer);
    preference_pairs_release(&bench->pairs);
    assert_ok(file_remove_tree(bench->directory));
}

/* Trained (or else untrained) tokens as text; </s> is written "$". */
static void assert_part(const struct bench *bench, const struct example *example, bool trained,
                        const char *expected)
{
    struct text out;
    text_init(&out);
    for (int32_t i = 0; i < example->count; i++) {
        if ((example->mask[i] != 0) != trained)
            continue;
        if (example->tokens[i] == 1)
            text_append_char(&out, '$');
        else
            assert_ok(tokenizer_decode(bench->tokenizer, &example->tokens[i], 1, true, &out));
    }
    assert_string_equal(out.data, expected);
    text_release(&out);
}

static void prompt_and_two_answers(void **state)
{
    (void)state;
    struct pair_limits limits = {.max_length = 100};
    struct bench bench;
    assert_ok(read_rows(&bench,
                        "{\"prompt\": \"Q:\", \"chosen\": \"yes\", \"rejected\": \"no\"}\n"
                        "{\"chosen\": \"say hello\", \"rejected\": \"say bye\"}\n",
                        DATASET_PREFERENCE, &limits));
    assert_int_equal(bench.pairs.count, 2);
    assert_part(&bench, &bench.pairs.items[0].chosen, true, "yes$");
    assert_part(&bench, &bench.pairs.items[0].chosen, false, "Q:");
    assert_part(&bench, &bench.pairs.items[0].rejected, true, "no$");
    assert_true(bench.pairs.items[0].chosen_data.chosen);
    assert_false(bench.pairs.items[0].rejected_data.chosen);
    /* Without a prompt the common beginning is the prompt. */
    assert_part(&bench, &bench.pairs.items[1].chosen, false, "say");
    assert_part(&bench, &bench.pairs.items[1].chosen, true, " hello$");
    assert_part(&bench, &bench.pairs.items[1].rejected, true, " bye$");
    bench_close(&bench);
}

static void conversations_train_the_last_answer(void **state)
{
    (void)state;
    struct pair_limits limits = {.max_length = 200};
    struct bench bench;
    struct text text;
    assert_ok(read_rows(&bench,
                        "{\"conversations\": [{\"from\": \"human\", \"value\": \"hi\"},"
                        "{\"from\": \"gpt\", \"value\": \"first\"},"
                        "{\"from\": \"human\", \"value\": \"more\"}],"
                        "\"chosen\": {\"from\": \"gpt\", \"value\": \"good\"},"
                        "\"rejected\": {\"from\": \"gpt\", \"value\": \"bad\"}}\n",
                        DATASET_SHAREGPT, &limits));
    assert_int_equal(bench.pairs.count, 1);
    const struct preference_pair *pair = &bench.pairs.items[0];
    text_init(&text);
    for (int side = 0; side < 2; side++) {
        const struct example *example = side ? &pair->rejected : &pair->chosen;
        text_clear(&text);
        for (int32_t i = 0; i < example->count; i++)
            if (example->mask[i])
                assert_ok(tokenizer_decode(bench.tokenizer, &example->tokens[i], 1, true, &text));
        assert_non_null(strstr(text.data, side ? "bad" : "good"));
        assert_null(strstr(text.data, "first"));
    }
    text_release(&text);
    bench_close(&bench);
}

static void dropped_pairs_are_counted_by_reason(void **state)
{
    (void)state;
    struct pair_limits limits = {.max_length = 12, .pairs_max = 2, .max_length_ratio = 3.0f};
    struct bench bench;
    assert_ok(read_rows(&bench,
                        "{\"prompt\": \"q\", \"chosen\": \"0123456789ab\", \"rejected\": \"n\"}\n"
                        "{\"prompt\": \"q\", \"chosen\": \"same\", \"rejected\": \"same\"}\n"
                        "{\"prompt\": \"q\", \"chosen\": \"0123456\", \"rejected\": \"n\"}\n"
                        "{\"prompt\": \"q\", \"chosen\": \"y\", \"rejected\": \"n\"}\n"
                        "{\"prompt\": \"q\", \"chosen\": \"12345\", \"rejected\": \"n\"}\n"
                        "{\"prompt\": \"q\", \"chosen\": \"n\", \"rejected\": \"y\"}\n",
                        DATASET_PREFERENCE, &limits));
    assert_int_equal(bench.pairs.count, 2);
    assert_int_equal(bench.pairs.verdicts[PAIR_TOO_LONG], 1);
    assert_int_equal(bench.pairs.verdicts[PAIR_SAME], 1);
    assert_int_equal(bench.pairs.verdicts[PAIR_LENGTH_RATIO], 1);
    assert_int_equal(bench.pairs.verdicts[PAIR_OVER_MAX], 1);
    assert_int_equal(bench.pairs.verdicts[PAIR_KEPT], 2);
    assert_int_equal(preference_pairs_dropped(&bench.pairs), 4);
    assert_int_equal(preference_pairs_longest(&bench.pairs), 8 + 4);
    bench_close(&bench);
}

static void rows_without_two_answers_are_named(void **state)
{
    (void)state;
    struct pair_limits limits = {.max_length = 12};
    struct bench bench;
    assert_int_equal(read_rows(&bench, "{\"prompt\": \"a\", \"completion\": \"b\"}\n",
                               DATASET_PROMPT_COMPLETION, &limits),
                     HONE_EFORMAT);
    assert_non_null(strstr(error_message(), "rows.jsonl:1: the row is no preference"));
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompt_and_two_answers),
        cmocka_unit_test(conversations_train_the_last_answer),
        cmocka_unit_test(dropped_pairs_are_counted_by_reason),
        cmocka_unit_test(rows_without_two_answers_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

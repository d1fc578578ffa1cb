#include "tests/infra/train/train_fixture.h"

#include "sft/sft_data.h"

struct bench {
    char directory[HONE_PATH_MAX], path[HONE_PATH_MAX];
    struct tokenizer *tokenizer;
    struct example_list list;
    struct sft_data_counts counts;
};

static int read_rows(struct bench *bench, const char *rows, int32_t max_length)
{
    struct dataset *dataset = NULL;
    const char *paths[] = {bench->path};
    struct dataset_options options = {.paths = paths, .count = 1, .format = DATASET_AUTO};
    struct sft_data_options data = {.layout = CHAT_PLAIN, .eos_id = 1, .max_length = max_length};

    fixture_directory(bench->directory, "sft-data");
    path_join(bench->path, sizeof bench->path, bench->directory, "rows.jsonl");
    fixture_write_tokenizer(bench->directory);
    fixture_write(bench->directory, "rows.jsonl", rows);
    example_list_init(&bench->list);
    assert_ok(tokenizer_load(&bench->tokenizer, bench->directory));
    assert_ok(dataset_load(&dataset, &options));
    int rc = sft_data_read(&bench->list, dataset, bench->tokenizer, &data, &bench->counts, NULL);
    dataset_free(dataset);
    return rc;
}

static void bench_close(struct bench *bench)
{
    tokenizer_free(bench->tokenizer);
    example_list_release(&bench->list);
    assert_ok(file_remove_tree(bench->directory));
}

/* The trained tokens as text; </s> is written "$". */
static void assert_trained(const struct bench *bench, int64_t index, const char *expected)
{
    const struct example *example = &bench->list.items[index];
    struct text trained;
    text_init(&trained);
    for (int32_t i = 0; i < example->count; i++) {
        if (example->mask[i] == 0)
            continue;
        if (example->tokens[i] == 1)
            text_append_char(&trained, '$');
        else
            assert_ok(tokenizer_decode(bench->tokenizer, &example->tokens[i], 1, true, &trained));
    }
    assert_string_equal(trained.data, expected);
    text_release(&trained);
}

static void completions_are_trained(void **state)
{
    (void)state;
    struct bench bench;
    assert_ok(read_rows(&bench,
                        "{\"prompt\": \"2+2=\", \"completion\": \"4\"}\n"
                        "{\"prompt\": \"long long long\", \"completion\": \"0123456789\"}\n"
                        "{\"prompt\": \"x\", \"completion\": \"\"}\n",
                        12));
    assert_int_equal(bench.counts.rows, 3);
    assert_int_equal(bench.counts.dropped_long, 1);
    assert_int_equal(bench.list.count, 2);
    assert_trained(&bench, 0, "4$");
    assert_trained(&bench, 1, "$");
    bench_close(&bench);
}

static void assistants_are_trained(void **state)
{
    (void)state;
    struct bench bench;
    assert_ok(read_rows(&bench,
                        "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"},"
                        "{\"role\": \"assistant\", \"content\": \"yes\"},"
                        "{\"role\": \"user\", \"content\": \"more\"},"
                        "{\"role\": \"assistant\", \"content\": \"no\"}]}\n"
                        "{\"messages\": [{\"role\": \"user\", \"content\": \"alone\"}]}\n",
                        200));
    assert_int_equal(bench.list.count, 1);
    assert_int_equal(bench.counts.dropped_empty, 1);
    assert_int_equal(bench.list.items[0].tokens[0], 0);
    struct text whole;
    text_init(&whole);
    assert_ok(tokenizer_decode(bench.tokenizer, bench.list.items[0].tokens,
                               bench.list.items[0].count, true, &whole));
    assert_non_null(strstr(whole.data, "User: hi\nAssistant: yes"));
    text_release(&whole);
    int32_t trained = example_trained_tokens(&bench.list.items[0]);
    assert_true(trained >= 5 + 2 &&
                trained <= 5 + 6); /* two answers, their ends, perhaps a space */
    bench_close(&bench);
}

static void text_is_cut_never_dropped(void **state)
{
    (void)state;
    struct bench bench;
    assert_ok(read_rows(&bench, "{\"text\": \"abcdefghijklmnop\"}\n{\"text\": \"xy\"}\n", 8));
    assert_int_equal(bench.counts.dropped_long, 0);
    assert_int_equal(bench.list.count, 4);
    assert_trained(&bench, 0, "abcdefg");
    assert_trained(&bench, 1, "hijklmn");
    assert_trained(&bench, 2, "op$");
    assert_trained(&bench, 3, "xy$");
    bench_close(&bench);
}

static void row_without_anything_to_train_is_named(void **state)
{
    (void)state;
    struct bench bench;
    int rc =
        read_rows(&bench, "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"c\"}\n", 8);
    assert_int_equal(rc, HONE_EFORMAT);
    assert_non_null(strstr(error_message(), "rows.jsonl:2: "));
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(completions_are_trained),
        cmocka_unit_test(assistants_are_trained),
        cmocka_unit_test(text_is_cut_never_dropped),
        cmocka_unit_test(row_without_anything_to_train_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

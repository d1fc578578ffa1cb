/* Prompts of a dataset: which rows are kept, in what order, and what is said when none can be. */
#include "tests/commands/command_fixture.h"

#include "commands/prompts.h"

static struct tokenizer *tokenizer;

static int set_up(void **state)
{
    int rc = fixture_set_up(state);
    if (rc == 0)
        tokenizer = fixture_tokenizer();
    return rc;
}

static int tear_down(void **state)
{
    tokenizer_free(tokenizer);
    return fixture_tear_down(state);
}

/* Ten rows; row i's prompt is a letter and i more dots, so i + 2 tokens with bos. */
static const char *write_rows(void)
{
    struct text text;
    text_init(&text);
    for (int i = 0; i < 10; ++i)
        text_printf(&text,
                    "{\"prompt\": \"%c%.*s\", \"ground_truth\": \"%d\", \"capability\": \"c%d\", "
                    "\"data_source\": \"d\", \"level\": %d}\n",
                    'p' + i, i, "..........", i * 10, i % 2, i);
    const char *path = fixture_write("rows.jsonl", text.data);
    text_release(&text);
    return path;
}

static int load(struct prompt_set *set, const char *path, int64_t max_prompt_tokens, int64_t limit)
{
    const struct data_settings data = {.path = {&path, 1}, .format = "auto"};
    return prompt_set_load(set, &data, CHAT_PLAIN, tokenizer, max_prompt_tokens, limit, "rl.data");
}

static void test_every_row_becomes_a_numbered_prompt(void **state)
{
    (void)state;
    struct prompt_set set;
    assert_int_equal(load(&set, write_rows(), 0, 0), 0);
    assert_int_equal(set.count, 10);
    assert_int_equal(set.dropped, 0);
    for (int64_t i = 0; i < set.count; ++i) {
        const struct prompt *prompt = &set.prompts[i];
        char truth[16];
        snprintf(truth, sizeof truth, "%d", (int)i * 10);
        assert_int_equal(prompt->id, i);
        assert_int_equal(prompt->token_count, i + 2);
        assert_int_equal(prompt->tokens[0], tokenizer_bos(tokenizer));
        assert_int_equal(strlen(prompt->text), i + 1);
        assert_string_equal(prompt->ground_truth, truth);
        assert_string_equal(prompt->capability, i % 2 == 0 ? "c0" : "c1");
        assert_string_equal(prompt->data_source, "d");
        assert_non_null(strstr(prompt->extra_json, "\"level\""));
    }
    prompt_set_release(&set);
    assert_null(set.prompts);
}

static void test_columns_a_row_lacks_are_empty(void **state)
{
    (void)state;
    struct prompt_set set;
    assert_int_equal(load(&set, fixture_write("bare.jsonl", "{\"prompt\": \"x\"}\n"), 0, 0), 0);
    assert_int_equal(set.count, 1);
    assert_string_equal(set.prompts[0].ground_truth, "");
    assert_string_equal(set.prompts[0].capability, "");
    assert_string_equal(set.prompts[0].data_source, "");
    assert_string_equal(set.prompts[0].extra_json, "{}");
    prompt_set_release(&set);
}

static void test_limit_is_spread_over_the_file(void **state)
{
    (void)state;
    static const struct {
        int64_t limit, count;
        char first_letters[11];
    } cases[] = {
        {1, 1, "p"},         {2, 2, "pu"},           {3, 3, "psv"},          {5, 5, "prtvx"},
        {9, 9, "pqrstuvwx"}, {10, 10, "pqrstuvwxy"}, {25, 10, "pqrstuvwxy"}, {0, 10, "pqrstuvwxy"}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; ++c) {
        struct prompt_set set;
        assert_int_equal(load(&set, write_rows(), 0, cases[c].limit), 0);
        assert_int_equal(set.count, cases[c].count);
        for (int64_t i = 0; i < set.count; ++i) {
            assert_int_equal(set.prompts[i].text[0], cases[c].first_letters[i]);
            assert_int_equal(set.prompts[i].id, i);
        }
        prompt_set_release(&set);
    }
}

static void test_long_prompts_are_dropped_and_counted(void **state)
{
    (void)state;
    struct prompt_set set;
    assert_int_equal(load(&set, write_rows(), 5, 0), 0); /* 2, 3, 4 and 5 tokens stay */
    assert_int_equal(set.count, 4);
    assert_int_equal(set.dropped, 6);
    for (int64_t i = 0; i < set.count; ++i)
        assert_int_equal(set.prompts[i].id, i);
    prompt_set_release(&set);
    /* The limit chooses first; a long one among the chosen is not replaced. */
    assert_int_equal(load(&set, write_rows(), 5, 5), 0);
    assert_int_equal(set.count, 2);
    assert_int_equal(set.dropped, 3);
    prompt_set_release(&set);
}

static void test_no_prompt_left_is_an_error(void **state)
{
    (void)state;
    struct prompt_set set;
    assert_int_equal(load(&set, write_rows(), 1, 0), HONE_EINVAL);
    assert_string_equal(error_message(),
                        "rl.data: no prompt left: all 10 are longer than 1 tokens");
    assert_null(set.prompts);
    assert_int_equal(set.count, 0);
}

static void expect_error(const char *content, const char *const *words)
{
    struct prompt_set set;
    const char *path = fixture_write("bad.jsonl", content);
    assert_true(load(&set, path, 0, 0) < 0);
    assert_int_equal(strncmp(error_message(), "rl.data: ", 9), 0);
    assert_non_null(strstr(error_message(), path));
    for (; *words != NULL; ++words)
        if (strstr(error_message(), *words) == NULL)
            fail_msg("no '%s' in: %s", *words, error_message());
    assert_null(set.prompts);
}

static void test_bad_rows_name_file_and_line(void **state)
{
    (void)state;
    expect_error("{\"prompt\": \"x\"}\n{\"question\": \"x\", \"id\": 4}\n",
                 (const char *const[]){" line 2", "prompt", "question", "id", NULL});
    expect_error("{\"text\": \"raw\"}\n", (const char *const[]){":1", "no prompt", NULL});
    expect_error("{\"prompt\": \"x\"}\n{\"prompt\": 3.5.1}\n",
                 (const char *const[]){" line 2", NULL});
}

static void test_named_column_that_is_missing(void **state)
{
    (void)state;
    struct prompt_set set;
    const char *path = write_rows();
    const struct data_settings data = {
        .path = {&path, 1}, .format = "auto", .prompt_column = "problem"};
    assert_true(prompt_set_load(&set, &data, CHAT_PLAIN, tokenizer, 0, 0, "eval.data") < 0);
    assert_int_equal(strncmp(error_message(), "eval.data: ", 11), 0);
    assert_non_null(strstr(error_message(), "problem"));
    assert_non_null(strstr(error_message(), "ground_truth")); /* the columns it has */
}

/* What the model reads. */
static void assert_reads(const struct prompt *prompt, const char *expected)
{
    struct text text;
    text_init(&text);
    assert_int_equal(prompt->tokens[0], tokenizer_bos(tokenizer));
    assert_int_equal(
        tokenizer_decode(tokenizer, prompt->tokens + 1, prompt->token_count - 1, false, &text), 0);
    assert_string_equal(text.data, expected);
    text_release(&text);
}

/* A dialogue, one whose prompt is a list, one with a system turn, a plain prompt. */
static const char conversations[] =
    "{\"prompt\": [{\"role\": \"user\", \"content\": \"one\"}, {\"role\": \"assistant\", "
    "\"content\": \"two\"}, {\"role\": \"user\", \"content\": \"three\"}], \"ground_truth\": "
    "\"t\"}\n"
    "{\"prompt\": [{\"role\": \"system\", \"content\": \"own\"}, {\"role\": \"user\", "
    "\"content\": \"four\"}], \"completion\": [{\"role\": \"assistant\", \"content\": "
    "\"five\"}]}\n"
    "{\"prompt\": \"six\"}\n";

static int load_chat(struct prompt_set *set, enum recipe_chat chat, const char *const *systems,
                     int32_t count)
{
    const char *path = fixture_write("chat.jsonl", conversations);
    const struct data_settings data = {
        .path = {&path, 1},
        .format = "prompt_completion",
        .chat = chat,
        .system_prompts = {(const char **)(uintptr_t)systems, count}};
    return prompt_set_load(set, &data, CHAT_PLAIN, tokenizer, 0, 0, "rl.data");
}

static void test_conversations_are_rendered(void **state)
{
    (void)state;
    struct prompt_set set;
    assert_int_equal(load_chat(&set, RECIPE_CHAT_AUTO, NULL, 0), 0);
    assert_int_equal(set.count, 3);
    assert_reads(&set.prompts[0], "User: one\nAssistant: two<|eos|>\nUser: three\nAssistant:");
    assert_string_equal(set.prompts[0].text, "three");
    assert_reads(&set.prompts[1], "System: own\nUser: four\nAssistant:");
    assert_string_equal(set.prompts[1].text, "four");
    assert_reads(&set.prompts[2], "six");
    prompt_set_release(&set);
    assert_int_equal(load_chat(&set, RECIPE_CHAT_ALWAYS, NULL, 0), 0);
    assert_reads(&set.prompts[2], "User: six\nAssistant:");
    assert_string_equal(set.prompts[2].text, "six");
    prompt_set_release(&set);
    assert_int_equal(load_chat(&set, RECIPE_CHAT_NEVER, NULL, 0), HONE_EFORMAT);
    assert_non_null(strstr(error_message(), "chat.jsonl:1"));
    assert_non_null(strstr(error_message(), "no prompt"));
}

/* Each variant is a prompt of its own; who has a system turn keeps it. */
static void test_system_prompts_make_variants(void **state)
{
    (void)state;
    static const char *const systems[] = {"brief", "kind"};
    struct prompt_set set;
    assert_int_equal(load_chat(&set, RECIPE_CHAT_AUTO, systems, 2), 0);
    assert_int_equal(set.count, 5);
    assert_reads(&set.prompts[0],
                 "System: brief\nUser: one\nAssistant: two<|eos|>\nUser: three\nAssistant:");
    assert_reads(&set.prompts[2], "System: own\nUser: four\nAssistant:");
    assert_reads(&set.prompts[3], "System: brief\nUser: six\nAssistant:");
    assert_reads(&set.prompts[4], "System: kind\nUser: six\nAssistant:");
    for (int64_t i = 0; i < 5; i++)
        assert_int_equal(set.prompts[i].id, i);
    assert_string_equal(set.prompts[0].ground_truth, "t");
    assert_string_equal(set.prompts[1].ground_truth, "t");
    prompt_set_release(&set);
}

static void test_missing_file(void **state)
{
    (void)state;
    struct prompt_set set;
    assert_int_equal(load(&set, fixture_path("absent.jsonl"), 0, 0), HONE_ENOENT);
    assert_non_null(strstr(error_message(), "absent.jsonl"));
}

static void test_settings_become_options(void **state)
{
    (void)state;
    const char *paths[] = {"a", "b"};
    const struct data_settings data = {.path = {paths, 2},
                                       .format = "messages",
                                       .prompt_column = "",
                                       .completion_column = "reply",
                                       .max_rows = 7};
    struct dataset_options options;
    dataset_options_from(&data, &options);
    assert_ptr_equal(options.paths, paths);
    assert_int_equal(options.count, 2);
    assert_int_equal(options.format, DATASET_MESSAGES);
    assert_null(options.prompt_column); /* "" means not given */
    assert_string_equal(options.completion_column, "reply");
    assert_int_equal(options.max_rows, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_row_becomes_a_numbered_prompt),
        cmocka_unit_test(test_columns_a_row_lacks_are_empty),
        cmocka_unit_test(test_limit_is_spread_over_the_file),
        cmocka_unit_test(test_long_prompts_are_dropped_and_counted),
        cmocka_unit_test(test_no_prompt_left_is_an_error),
        cmocka_unit_test(test_bad_rows_name_file_and_line),
        cmocka_unit_test(test_named_column_that_is_missing),
        cmocka_unit_test(test_conversations_are_rendered),
        cmocka_unit_test(test_system_prompts_make_variants),
        cmocka_unit_test(test_missing_file),
        cmocka_unit_test(test_settings_become_options),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

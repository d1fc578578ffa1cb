#include "tests/infra/text/text_fixture.h"

#include "infra/text/dataset.h"

static struct dataset *load(const char *content, const struct dataset_options *given)
{
    const char *path = fixture_write("rows.jsonl", content);
    struct dataset_options options = *given;
    options.paths = &path;
    options.count = 1;
    struct dataset *dataset = NULL;
    if (dataset_load(&dataset, &options) < 0)
        fail_msg("%s", error_message());
    return dataset;
}

static void check_refused(const char *content, const struct dataset_options *given, int code,
                          const char *message)
{
    const char *path = fixture_write("rows.jsonl", content);
    struct dataset_options options = *given;
    options.paths = &path;
    options.count = 1;
    struct dataset *dataset = NULL;
    int rc = dataset_load(&dataset, &options);
    if (rc != code)
        fail_msg("returned %d (%s), %d expected for \"%s\"", rc, error_message(), code, message);
    assert_null(dataset);
    if (strstr(error_message(), message) == NULL || strstr(error_message(), "rows.jsonl") == NULL)
        fail_msg("\"%s\" lacks \"%s\" or the file", error_message(), message);
}

static const struct dataset_options automatic;

static void check_turn(const struct dataset_row *row, int32_t index, const char *role,
                       const char *content, bool is_trained)
{
    assert_true(index < row->turn_count);
    assert_string_equal(row->turns[index].role, role);
    assert_string_equal(row->turns[index].content, content);
    assert_int_equal(row->turns[index].is_trained, is_trained);
}

static void test_text(void **state)
{
    (void)state;
    struct dataset *dataset = load("{\"text\": \"one\", \"n\": 1}\n\n{\"text\": \"\"}", &automatic);
    assert_int_equal(dataset_count(dataset), 2);
    assert_string_equal(dataset_get(dataset, 0)->text, "one");
    assert_string_equal(dataset_get(dataset, 0)->extra, "{\"n\":1}");
    assert_string_equal(dataset_get(dataset, 1)->text, "");
    assert_int_equal(dataset_get(dataset, 1)->line, 3); /* blank lines count */
    assert_null(dataset_get(dataset, 0)->prompt);
    dataset_free(dataset);
}

static void test_prompt_completion(void **state)
{
    (void)state;
    struct dataset *dataset =
        load("{\"prompt\": \"2+2=\", \"completion\": \"4\", \"ground_truth\": 4, \"capability\": "
             "\"add\", \"data_source\": \"made\", \"level\": [1, 2]}\n{\"prompt\": \"only\"}",
             &automatic);
    const struct dataset_row *row = dataset_get(dataset, 0);
    assert_string_equal(row->prompt, "2+2=");
    assert_string_equal(row->completion, "4");
    assert_string_equal(row->ground_truth, "4");
    assert_string_equal(row->capability, "add");
    assert_string_equal(row->data_source, "made");
    assert_string_equal(row->extra, "{\"level\":[1,2]}");
    assert_null(dataset_get(dataset, 1)->completion);
    dataset_free(dataset);
}

static void test_columns_and_templates(void **state)
{
    (void)state;
    struct dataset_options options = {.prompt_template = "Q: {q}\n{{A}}:",
                                      .completion_template = " {meta.answer}!",
                                      .ground_truth_column = "meta.answer",
                                      .capability_column = "topic"};
    struct dataset *dataset = load(
        "{\"q\": \"why?\", \"meta\": {\"answer\": 7}, \"topic\": \"x\", \"left\": null}", &options);
    const struct dataset_row *row = dataset_get(dataset, 0);
    assert_string_equal(row->prompt, "Q: why?\n{A}:");
    assert_string_equal(row->completion, " 7!");
    assert_string_equal(row->ground_truth, "7");
    assert_string_equal(row->capability, "x");
    assert_string_equal(row->extra, "{\"meta\":{\"answer\":7},\"left\":null}");
    dataset_free(dataset);
}

static void test_messages(void **state)
{
    (void)state;
    struct dataset *dataset =
        load("{\"messages\": [{\"role\": \"developer\", \"content\": \"s\"}, {\"role\": \"user\", "
             "\"content\": [{\"type\": \"text\", \"text\": \"u\"}]}, {\"role\": \"assistant\", "
             "\"content\": null, \"tool_calls\": [{\"f\": 1}]}, {\"role\": \"tool\", \"content\": "
             "\"t\"}, {\"role\": \"assistant\", \"content\": \"a\"}]}",
             &automatic);
    const struct dataset_row *row = dataset_get(dataset, 0);
    assert_int_equal(row->turn_count, 5);
    check_turn(row, 0, "system", "s", false);
    check_turn(row, 1, "user", "u", false);
    check_turn(row, 2, "assistant", "[{\"f\":1}]", true);
    check_turn(row, 3, "tool", "t", false);
    check_turn(row, 4, "assistant", "a", true);
    dataset_free(dataset);
}

static void test_prompt_of_messages(void **state)
{
    (void)state;
    struct dataset *dataset =
        load("{\"prompt\": [{\"role\": \"user\", \"content\": \"u\"}], \"completion\": "
             "[{\"role\": \"assistant\", \"content\": \"a\"}]}\n"
             "{\"prompt\": [{\"role\": \"user\", \"content\": \"v\"}], \"reward_model\": "
             "{\"style\": \"rule\", \"ground_truth\": \"9\"}, \"ability\": \"math\"}",
             &automatic);
    check_turn(dataset_get(dataset, 0), 1, "assistant", "a", true);
    const struct dataset_row *row = dataset_get(dataset, 1);
    assert_int_equal(row->turn_count, 1);
    assert_string_equal(row->ground_truth, "9");
    assert_string_equal(row->capability, "math");
    dataset_free(dataset);
}

static void test_alpaca(void **state)
{
    (void)state;
    struct dataset *dataset =
        load("[{\"instruction\": \"Add\", \"input\": \"1 1\", \"output\": \"2\"},"
             "{\"instruction\": \"Go on\", \"input\": \"\", \"output\": \"3\", \"system\": \"s\","
             "\"history\": [[\"Start\", \"1\"]]}]",
             &automatic);
    const struct dataset_row *row = dataset_get(dataset, 0);
    assert_string_equal(row->prompt, "Add\n1 1");
    assert_string_equal(row->completion, "2");
    assert_int_equal(row->turn_count, 0);
    row = dataset_get(dataset, 1);
    assert_int_equal(row->line, 2); /* of an array: the element */
    assert_int_equal(row->turn_count, 5);
    check_turn(row, 0, "system", "s", false);
    check_turn(row, 2, "assistant", "1", true);
    check_turn(row, 3, "user", "Go on", false);
    check_turn(row, 4, "assistant", "3", true);
    dataset_free(dataset);
}

static void test_sharegpt(void **state)
{
    (void)state;
    struct dataset *dataset =
        load("{\"conversations\": [{\"from\": \"human\", \"value\": \"h\"}, {\"from\": "
             "\"function_call\", \"value\": \"{}\"}, {\"from\": \"observation\", \"value\": \"o\"},"
             "{\"from\": \"gpt\", \"value\": \"g\"}], \"system\": \"s\"}\n"
             "{\"conversations\": [{\"from\": \"human\", \"value\": \"h\"}, {\"from\": \"gpt\", "
             "\"value\": \"old\"}, {\"from\": \"human\", \"value\": \"more\"}], \"chosen\": "
             "{\"from\": \"gpt\", \"value\": \"good\"}, \"rejected\": {\"from\": \"gpt\", "
             "\"value\": \"bad\"}}",
             &automatic);
    const struct dataset_row *row = dataset_get(dataset, 0);
    check_turn(row, 0, "system", "s", false);
    check_turn(row, 2, "assistant", "{}", true);
    check_turn(row, 3, "tool", "o", false);
    check_turn(row, 4, "assistant", "g", true);
    row = dataset_get(dataset, 1);
    assert_int_equal(row->turn_count, 3);
    check_turn(row, 1, "assistant", "old", false); /* only the answers are compared */
    assert_string_equal(row->chosen, "good");
    assert_string_equal(row->rejected, "bad");
    dataset_free(dataset);
}

static void test_gsm8k(void **state)
{
    (void)state;
    struct dataset *dataset = load("{\"question\": \"How many?\", \"answer\": \"1,000+1=<<1000+1="
                                   "1001>>1001\\n#### -1,001\"}",
                                   &automatic);
    const struct dataset_row *row = dataset_get(dataset, 0);
    assert_string_equal(row->prompt, "How many?");
    assert_string_equal(row->completion, "1,000+1=<<1000+1=1001>>1001\n#### -1,001");
    assert_string_equal(row->ground_truth, "-1001");
    dataset_free(dataset);
    struct dataset_options options = {.format = DATASET_GSM8K, .prompt_template = "Q {question}"};
    dataset = load("{\"question\": \"x\", \"answer\": \"#### 5\"}", &options);
    assert_string_equal(dataset_get(dataset, 0)->prompt, "Q x");
    dataset_free(dataset);
}

static void test_self_instruct(void **state)
{
    (void)state;
    const char *content = "{\"instruction\": \"Do\", \"id\": 3, \"instances\": [{\"input\": \"\", "
                          "\"output\": \"a\"}, {\"input\": \"i\", \"output\": \"b\"}]}";
    struct dataset *dataset = load(content, &automatic);
    assert_int_equal(dataset_count(dataset), 2);
    assert_string_equal(dataset_get(dataset, 0)->prompt, "Do");
    assert_string_equal(dataset_get(dataset, 1)->prompt, "Do\ni");
    assert_string_equal(dataset_get(dataset, 1)->completion, "b");
    assert_string_equal(dataset_get(dataset, 1)->extra, "{\"id\":3}");
    dataset_free(dataset);
    struct dataset_options one = {.max_rows = 1};
    dataset = load(content, &one);
    assert_int_equal(dataset_count(dataset), 1);
    dataset_free(dataset);
}

static void test_preferences(void **state)
{
    (void)state;
    struct dataset *dataset =
        load("{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"r\"}\n"
             "{\"chosen\": \"The sky is blue\", \"rejected\": \"The sky is green\"}\n"
             "{\"chosen\": [{\"role\": \"user\", \"content\": \"u\"}, {\"role\": \"assistant\", "
             "\"content\": \"c\"}], \"rejected\": [{\"role\": \"user\", \"content\": \"u\"}, "
             "{\"role\": \"assistant\", \"content\": \"r\"}], \"prompt\": \"u\"}\n"
             "{\"prompt\": [{\"role\": \"user\", \"content\": \"u\"}], \"chosen\": [{\"role\": "
             "\"assistant\", \"content\": \"c\"}], \"rejected\": [{\"role\": \"assistant\", "
             "\"content\": \"r\"}]}",
             &automatic);
    assert_string_equal(dataset_get(dataset, 0)->prompt, "p");
    const struct dataset_row *row = dataset_get(dataset, 1);
    assert_string_equal(row->prompt, "The sky is");
    assert_string_equal(row->chosen, " blue");
    assert_string_equal(row->rejected, " green");
    for (int64_t i = 2; i < 4; i++) {
        row = dataset_get(dataset, i);
        assert_int_equal(row->turn_count, 1);
        check_turn(row, 0, "user", "u", false);
        assert_string_equal(row->chosen, "c");
        assert_string_equal(row->rejected, "r");
    }
    dataset_free(dataset);
}

static void test_implicit_prompt_keeps_characters_whole(void **state)
{
    (void)state;
    struct dataset *dataset =
        load("{\"chosen\": \"a\xC3\xA9\", \"rejected\": \"a\xC3\xA8\"}", &automatic);
    assert_string_equal(dataset_get(dataset, 0)->prompt, "a");
    assert_string_equal(dataset_get(dataset, 0)->chosen, "\xC3\xA9");
    dataset_free(dataset);
}

static void test_files_in_order(void **state)
{
    (void)state;
    const char *paths[] = {fixture_write("a.jsonl", "{\"text\": \"1\"}\n{\"text\": \"2\"}\n"),
                           fixture_write("b.json", "\xEF\xBB\xBF [{\"prompt\": \"3\"}]")};
    struct dataset_options options = {.paths = paths, .count = 2};
    struct dataset *dataset = NULL;
    assert_int_equal(dataset_load(&dataset, &options), 0);
    assert_int_equal(dataset_count(dataset), 3);
    assert_string_equal(dataset_get(dataset, 2)->prompt, "3");
    assert_int_equal(dataset_get(dataset, 2)->source, 1);
    assert_string_equal(dataset_path(dataset, 1), paths[1]);
    dataset_free(dataset);
    options.max_rows = 2;
    assert_int_equal(dataset_load(&dataset, &options), 0);
    assert_int_equal(dataset_count(dataset), 2);
    dataset_free(dataset);
}

static void test_errors_name_the_place(void **state)
{
    (void)state;
    const struct dataset_options prompt = {.prompt_column = "question"};
    const struct dataset_options text = {.format = DATASET_TEXT};
    const struct dataset_options gsm8k = {.format = DATASET_GSM8K};
    const struct dataset_options broken = {.prompt_template = "{a"};
    check_refused("{\"question\": \"a\"}\n{\"query\": \"b\", \"n\": 1}\n", &prompt, HONE_EFORMAT,
                  "line 2: no column \"question\"; the row has: query, n");
    check_refused("{\"question\": [1]}", &prompt, HONE_EFORMAT, "message 1 has no \"role\"");
    check_refused("{\"question\": {\"a\": 1}}", &prompt, HONE_EFORMAT,
                  "column \"question\" is of type object");
    check_refused("{\"question\": null}", &prompt, HONE_EFORMAT, "no column \"question\"");
    check_refused("{\"text\": \"a\"}\n{\"text\": \"b\"\n", &text, HONE_EFORMAT, "line 2: column");
    check_refused("{\"text\": \"a\"}\n[1]\n", &text, HONE_EFORMAT, "line 2: an object is expected");
    check_refused("[{\"text\": \"a\"}, 3]", &text, HONE_EFORMAT, "element 2: an object");
    check_refused("[{\"text\": \"a\"},\n {\"text\"]", &text, HONE_EFORMAT, "line 2");
    check_refused("{\"text\": \"\xFF\"}", &text, HONE_EFORMAT, "line 1");
    check_refused("{\"text\": \"a\\u0000b\"}", &text, HONE_EFORMAT, "line 1");
    check_refused("{\"text\": \"a\", \"text\": \"b\"}", &text, HONE_EFORMAT, "duplicate");
    check_refused("", &text, HONE_EFORMAT, "holds no rows");
    check_refused("[]", &text, HONE_EFORMAT, "holds no rows");
    check_refused("{\"x\": 1, \"y\": 2}", &automatic, HONE_EFORMAT, "columns (x, y)");
    check_refused("{\"question\": \"a\", \"answer\": \"5\"}", &gsm8k, HONE_EFORMAT, "\"####\"");
    check_refused("{\"a\": \"1\"}", &broken, HONE_EINVAL, "without its }");
    check_refused("{\"messages\": []}", &automatic, HONE_EFORMAT, "empty list");
    check_refused("{\"messages\": [{\"role\": \"bard\", \"content\": \"x\"}]}", &automatic,
                  HONE_EFORMAT, "unknown role \"bard\"");
    check_refused("{\"chosen\": [], \"rejected\": []}", &automatic, HONE_EFORMAT, "one answer");
    check_refused("\x1F\x8B\x08", &automatic, HONE_EUNSUPPORTED, "gunzip");
}

static void test_missing_file_and_formats(void **state)
{
    (void)state;
    const char *path = "/nonexistent/rows.jsonl";
    struct dataset_options options = {.paths = &path, .count = 1};
    struct dataset *dataset = NULL;
    assert_int_equal(dataset_load(&dataset, &options), HONE_ENOENT);
    options.count = 0;
    assert_int_equal(dataset_load(&dataset, &options), HONE_EINVAL);
    for (int i = 0; i < DATASET_FORMAT_COUNT; i++) {
        enum dataset_format format = DATASET_FORMAT_COUNT;
        assert_int_equal(dataset_format_parse(dataset_format_name((enum dataset_format)i), &format),
                         0);
        assert_int_equal(format, i);
    }
    enum dataset_format format = DATASET_AUTO;
    assert_int_equal(dataset_format_parse("parquet", &format), HONE_EINVAL);
    assert_non_null(strstr(error_message(), "sharegpt"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_prompt_completion),
        cmocka_unit_test(test_columns_and_templates),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_prompt_of_messages),
        cmocka_unit_test(test_alpaca),
        cmocka_unit_test(test_sharegpt),
        cmocka_unit_test(test_gsm8k),
        cmocka_unit_test(test_self_instruct),
        cmocka_unit_test(test_preferences),
        cmocka_unit_test(test_implicit_prompt_keeps_characters_whole),
        cmocka_unit_test(test_files_in_order),
        cmocka_unit_test(test_errors_name_the_place),
        cmocka_unit_test(test_missing_file_and_formats),
    };
    return cmocka_run_group_tests(tests, fixture_set_up, fixture_tear_down);
}

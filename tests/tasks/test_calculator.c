/* Calculator notes, on a small written file and, given a data directory, on GSM8K.
 * usage: test [DATA_DIRECTORY] */
#include "tests/tasks/task_fixture.h"

#include "tasks/calculator.h"

static const char *data_directory;

static const char notes[] =
    "{\"question\": \"q\", \"answer\": \"She sold 48/2 = <<48/2=24>>24 and 24+48 <<24 + 48 = 72>>72"
    "\\n#### 72\"}\n"
    "{\"answer\": \"again <<48/2=24>>24, <<3*4-2=10>>10, <<7-9=-2>>, <<-2-3=-5>>, <<5*6=30>>\"}\n"
    "{\"answer\": \"<<nothing>> <<=3>> <<3=>> <<2+2=2*2=4>>\"}\n"
    "{\"answer\": \"no notes\"}\n"
    "{\"answer\": \"<<1+1=2>> and one that never closes <<9+9=18\"}\n";

static void test_notes_become_rows(void **state)
{
    (void)state;
    static const struct {
        const char *prompt, *value, *capability;
    } expected[] = {{"48/2=", "24", "divide"},   {"24+48=", "72", "add"},
                    {"3*4-2=", "10", "mixed"},   {"7-9=", "-2", "subtract"},
                    {"-2-3=", "-5", "subtract"}, {"5*6=", "30", "multiply"},
                    {"2+2=2*2=", "4", "mixed"},  {"1+1=", "2", "add"}};
    const size_t count = sizeof expected / sizeof expected[0];
    struct calculator_counts counts;
    const char *input = fixture_write("notes.jsonl", notes), *output = fixture_path("out.jsonl");
    if (calculator_write(input, NULL, output, &counts) < 0)
        fail_msg("%s", error_message());
    assert_int_equal(counts.notes, 13);
    assert_int_equal(counts.distinct, count);
    assert_int_equal(counts.excluded, 0);
    assert_int_equal(counts.invalid, 4);
    json_t *rows = fixture_rows(output);
    assert_int_equal(json_array_size(rows), count);
    for (size_t i = 0; i < count; ++i) {
        const json_t *row = json_array_get(rows, i);
        assert_string_equal(fixture_get(row, "prompt"), expected[i].prompt);
        assert_string_equal(fixture_get(row, "completion"), expected[i].value);
        assert_string_equal(fixture_get(row, "answer"), expected[i].value);
        assert_string_equal(fixture_get(row, "capability"), expected[i].capability);
    }
    json_decref(rows);
}

static void test_excluded_notes(void **state)
{
    (void)state;
    struct calculator_counts counts;
    const char *input = fixture_write("notes.jsonl", notes), *output = fixture_path("out.jsonl");
    const char *excluded =
        fixture_write("excluded.jsonl", "{\"answer\": \"<<24 +48=72>> <<6*5=30>> <<1+1=2>>\"}\n");
    assert_int_equal(calculator_write(input, excluded, output, &counts), 0);
    assert_int_equal(counts.distinct, 6);
    assert_int_equal(counts.excluded, 2);
    json_t *rows = fixture_rows(output);
    size_t index;
    json_t *row;
    json_array_foreach(rows, index, row)
    {
        assert_string_not_equal(fixture_get(row, "prompt"), "24+48=");
        assert_string_not_equal(fixture_get(row, "prompt"), "1+1=");
    }
    assert_int_equal(json_array_size(rows), 6);
    json_decref(rows);
}

static void test_bad_input_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *row, *message;
    } cases[] = {{"{\"question\": \"q\"}", "no string \"answer\""},
                 {"{\"answer\": 7}", "no string \"answer\""},
                 {"{\"answer\": \"<<1+1=2>>\"", "not a GSM8K row"},
                 {"{\"answer\": \"a\", \"answer\": \"b\"}", "duplicate"},
                 {"", "not a GSM8K row"}};
    struct calculator_counts counts;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
        char content[256], where[HONE_PATH_MAX];
        snprintf(content, sizeof content, "{\"answer\": \"fine\"}\n%s\n", cases[i].row);
        const char *input = fixture_write("bad.jsonl", content);
        snprintf(where, sizeof where, "%s:2: ", input);
        for (int as_exclusion = 0; as_exclusion < 2; ++as_exclusion) {
            const char *good = fixture_write("notes.jsonl", notes);
            int rc = calculator_write(as_exclusion ? good : input, as_exclusion ? input : NULL,
                                      fixture_path("none.jsonl"), &counts);
            assert_int_equal(rc, HONE_EFORMAT);
            assert_non_null(strstr(error_message(), where));
            assert_non_null(strstr(error_message(), cases[i].message));
            assert_false(file_exists(fixture_path("none.jsonl")));
        }
    }
    assert_int_equal(
        calculator_write(fixture_path("absent"), NULL, fixture_path("none.jsonl"), &counts),
        HONE_ENOENT);
}

static void test_note_too_long_is_invalid(void **state)
{
    (void)state;
    struct calculator_counts counts;
    char content[512];
    snprintf(content, sizeof content, "{\"answer\": \"<<%0120d+1=2>> <<%0200d+1=2>>\"}\n", 1, 1);
    assert_int_equal(calculator_write(fixture_write("long.jsonl", content), NULL,
                                      fixture_path("long_out.jsonl"), &counts),
                     0);
    assert_int_equal(counts.notes, 2);
    assert_int_equal(counts.distinct, 1);
    assert_int_equal(counts.invalid, 1);
}

static void test_gsm8k(void **state)
{
    (void)state;
    char train[HONE_PATH_MAX], test[HONE_PATH_MAX];
    struct calculator_counts counts;
    path_join(train, sizeof train, data_directory, "prompts/gsm8k_train.jsonl");
    path_join(test, sizeof test, data_directory, "prompts/gsm8k_test.jsonl");
    const char *output = fixture_path("train.jsonl");
    if (calculator_write(train, NULL, output, &counts) < 0)
        fail_msg("%s", error_message());
    assert_int_equal(counts.notes, 23716);
    assert_int_equal(counts.distinct, 10772);
    json_t *trained = json_object(), *rows = fixture_rows(output);
    size_t index;
    json_t *row;
    json_array_foreach(rows, index, row)
        json_object_set_new(trained, fixture_get(row, "prompt"), json_true());
    assert_int_equal(json_object_size(trained), 10772);
    json_decref(rows);
    output = fixture_path("test.jsonl");
    assert_int_equal(calculator_write(test, train, output, &counts), 0);
    assert_int_equal(counts.distinct, 1375);
    rows = fixture_rows(output);
    assert_int_equal(json_array_size(rows), 1375);
    json_array_foreach(rows, index, row)
        assert_null(json_object_get(trained, fixture_get(row, "prompt")));
    json_decref(rows);
    json_decref(trained);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_notes_become_rows),
        cmocka_unit_test(test_excluded_notes),
        cmocka_unit_test(test_bad_input_is_named),
        cmocka_unit_test(test_note_too_long_is_invalid),
    };
    const struct CMUnitTest with_data[] = {cmocka_unit_test(test_gsm8k)};
    int failed = cmocka_run_group_tests(tests, fixture_set_up, fixture_tear_down);
    data_directory = argc > 1 ? argv[1] : "";
    if (!file_is_directory(data_directory)) {
        printf("no data directory: GSM8K is left out\n");
        return failed;
    }
    return failed + cmocka_run_group_tests(with_data, fixture_set_up, fixture_tear_down);
}

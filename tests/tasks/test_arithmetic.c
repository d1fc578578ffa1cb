/* The word problems: K1 by looking for every calculation that a training row states, in whatever
 * words, among the held-out ones; K2; determinism. */
#include "tests/tasks/task_fixture.h"

#include "tasks/arithmetic.h"

enum { HELD_OUT_SAMPLES = 40000, SEED = 5 };

static const struct arithmetic_counts counts = {
    .text = 4000, .sft = 1500, .train = 1500, .test = 600};
static const char *const files[] = {"text.jsonl", "sft.jsonl", "train.jsonl", "test.jsonl"};

static int make(void **state)
{
    int rc = fixture_set_up(state);
    return rc == 0 ? arithmetic_write(fixture_root, SEED, &counts) : rc;
}

/* The numbers of a text in order; returns how many. */
static int numbers_of(const char *text, int *numbers, int capacity)
{
    int count = 0;
    while (*(text += strcspn(text, "0123456789")) != '\0') {
        char *end;
        long value = strtol(text, &end, 10);
        assert_true(count < capacity);
        numbers[count++] = (int)value;
        text = end;
    }
    return count;
}

static bool is_in(const json_t *set, const char *format, ...)
{
    char expression[64];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(expression, sizeof expression, format, arguments);
    va_end(arguments);
    return json_object_get(set, expression) != NULL;
}

/* "14+27" or "14+27-5", from a worked solution. */
static void expression_of(const json_t *row, char *buffer, size_t capacity)
{
    const char *solution = fixture_get(row, "completion");
    int n[7];
    int count = numbers_of(solution, n, 7);
    assert_int_equal(solution[0], ' ');
    if (strcmp(fixture_get(row, "capability"), "two_step") == 0) {
        assert_int_equal(count, 7); /* a+b=m. m-c=r. #### r */
        snprintf(buffer, capacity, "%d+%d-%d", n[0], n[1], n[4]);
    } else {
        assert_int_equal(count, 4);
        snprintf(buffer, capacity, "%.*s", (int)strcspn(solution + 1, "="), solution + 1);
    }
}

/* Expressions of many held-out problems, those of the test file among them. */
static json_t *held_out_expressions(void)
{
    json_t *set = json_object();
    for (uint64_t i = 0; i < HELD_OUT_SAMPLES; ++i) {
        struct arithmetic_problem problem;
        arithmetic_make(SEED, "test", i, &problem);
        if (problem.capability != ARITHMETIC_MULTIPLY && arithmetic_held_out(&problem))
            json_object_set_new(set, problem.expression, json_true());
    }
    json_t *rows = fixture_rows(fixture_path("test.jsonl"));
    size_t index;
    json_t *row;
    json_array_foreach(rows, index, row)
    {
        char expression[64];
        expression_of(row, expression, sizeof expression);
        assert_true(strchr(expression, '*') != NULL || is_in(set, "%s", expression));
    }
    json_decref(rows);
    return set;
}

/* Calculations written with signs: every "a+b" and "a-b", and "a+b-c" from two steps. */
static int count_written(const json_t *set, const char *text)
{
    int hits = 0;
    for (const char *at = text; *(at += strcspn(at, "0123456789")) != '\0';) {
        int a, b, length = 0;
        char sign;
        if (sscanf(at, "%d%c%d%n", &a, &sign, &b, &length) == 3 && (sign == '+' || sign == '-'))
            hits += is_in(set, "%d%c%d", a, sign, b);
        at += strspn(at, "0123456789");
    }
    int n[7];
    if (strchr(text, '=') != NULL && numbers_of(text, n, 7) >= 6 && n[2] == n[3])
        hits += is_in(set, "%d+%d-%d", n[0], n[1], n[4]);
    return hits;
}

/* Calculations told in words: the numbers in order, when the last is the result of the others. */
static int count_told(const json_t *set, const char *text)
{
    int n[7];
    int count = numbers_of(text, n, 7);
    if (count == 5) { /* a gets b, loses c. had m and has r */
        assert_int_equal(n[0] + n[1], n[3]);
        assert_int_equal(n[3] - n[2], n[4]);
        return is_in(set, "%d+%d-%d", n[0], n[1], n[2]) + is_in(set, "%d+%d", n[0], n[1]) +
               is_in(set, "%d-%d", n[3], n[2]);
    }
    if (count == 4) {
        assert_int_equal(n[0] + n[1] - n[2], n[3]);
        return is_in(set, "%d+%d-%d", n[0], n[1], n[2]) + is_in(set, "%d+%d", n[0], n[1]) +
               is_in(set, "%d-%d", n[0] + n[1], n[2]);
    }
    assert_int_equal(count, 3);
    if (strstr(text, " each") != NULL || strstr(text, " rows of ") != NULL) {
        assert_int_equal(n[0] * n[1], n[2]);
        return 0;
    }
    if (n[0] + n[1] == n[2])
        return is_in(set, "%d+%d", n[0], n[1]);
    int more = n[0] > n[1] ? n[0] : n[1], fewer = n[0] > n[1] ? n[1] : n[0];
    assert_int_equal(more - fewer, n[2]);
    return is_in(set, "%d-%d", more, fewer);
}

static void test_no_held_out_expression_is_trained_on(void **state)
{
    (void)state;
    json_t *set = held_out_expressions();
    assert_true(json_object_size(set) > 1000);
    for (int file = 0; file < 4; ++file) {
        json_t *rows = fixture_rows(fixture_path(files[file]));
        size_t index;
        json_t *row;
        int hits = 0;
        json_array_foreach(rows, index, row)
        {
            char told[512];
            if (file == 0) {
                const char *text = fixture_get(row, "text");
                assert_null(strstr(text, "####"));
                const char *so = strstr(text, " So ");
                int story = (int)(so != NULL ? (size_t)(so - text) : strlen(text));
                snprintf(told, sizeof told, "%.*s", story, text);
                hits +=
                    strchr(told, '=') != NULL ? count_written(set, told) : count_told(set, told);
                hits += so != NULL ? count_written(set, so) : 0;
                continue;
            }
            snprintf(told, sizeof told, "%s %s", fixture_get(row, "prompt"),
                     fixture_get(row, "answer"));
            hits += count_told(set, told) + count_written(set, fixture_get(row, "completion"));
        }
        if (file < 3)
            assert_int_equal(hits, 0);
        else
            assert_true(hits > (int)json_array_size(rows)); /* what is looked for can be found */
        json_decref(rows);
    }
    json_decref(set);
}

static void test_held_out_products_are_new_wordings(void **state)
{
    (void)state;
    json_t *prompts = json_object();
    for (int file = 1; file < 4; ++file) {
        json_t *rows = fixture_rows(fixture_path(files[file]));
        size_t index;
        json_t *row;
        json_array_foreach(rows, index, row)
        {
            const char *prompt = fixture_get(row, "prompt");
            if (file < 3)
                json_object_set_new(prompts, prompt, json_true());
            else
                assert_null(json_object_get(prompts, prompt));
        }
        json_decref(rows);
    }
    json_decref(prompts);
}

/* K2, and that every step is right. */
static void check_solution(const char *solution, const char *answer)
{
    const char *marker = strstr(solution, ". #### ");
    assert_non_null(marker);
    assert_string_equal(marker + strlen(". #### "), answer);
    int steps = 0, value = 0;
    for (const char *step = solution; step < marker; step = strchr(step, '.') + 1, ++steps) {
        int a, b, result;
        char sign;
        assert_int_equal(sscanf(step, " %d%c%d=%d.", &a, &sign, &b, &result), 4);
        assert_true(steps == 0 || a == value);
        value = sign == '+' ? a + b : sign == '-' ? a - b : a * b;
        assert_int_equal(value, result);
    }
    assert_true(steps == 1 || steps == 2);
    assert_int_equal(value, strtol(answer, NULL, 10));
}

static void test_solutions_are_right(void **state)
{
    (void)state;
    const int64_t wanted[] = {counts.text, counts.sft, counts.train, counts.test};
    json_t *kinds = json_object();
    for (int file = 1; file < 4; ++file) {
        json_t *rows = fixture_rows(fixture_path(files[file])), *seen = json_object();
        size_t index;
        json_t *row;
        assert_int_equal(json_array_size(rows), wanted[file]);
        json_array_foreach(rows, index, row)
        {
            char kind[64];
            const char *prompt = fixture_get(row, "prompt");
            snprintf(kind, sizeof kind, "%s %d", fixture_get(row, "capability"),
                     (int)json_integer_value(json_object_get(row, "difficulty")));
            json_object_set_new(kinds, kind, json_true());
            check_solution(fixture_get(row, "completion"), fixture_get(row, "answer"));
            assert_int_equal(strncmp(prompt, "Q: ", 3), 0);
            assert_string_equal(prompt + strlen(prompt) - 3, "\nA:");
            assert_null(json_object_get(seen, prompt)); /* rows are distinct */
            json_object_set_new(seen, prompt, json_true());
        }
        json_decref(seen);
        json_decref(rows);
    }
    assert_int_equal(json_object_size(kinds), ARITHMETIC_CAPABILITIES * ARITHMETIC_DIFFICULTIES);
    json_decref(kinds);
    json_t *text = fixture_rows(fixture_path(files[0]));
    assert_int_equal(json_array_size(text), counts.text);
    json_decref(text);
}

static void test_seed_decides_every_byte(void **state)
{
    (void)state;
    const char *const directories[] = {"same", "other"};
    for (int i = 0; i < 2; ++i)
        assert_int_equal(
            arithmetic_write(fixture_path(directories[i]), SEED + (uint64_t)i, &counts), 0);
    for (int file = 0; file < 4; ++file) {
        char name[64];
        char *first = fixture_read(fixture_path(files[file]));
        snprintf(name, sizeof name, "same/%s", files[file]);
        char *same = fixture_read(fixture_path(name));
        snprintf(name, sizeof name, "other/%s", files[file]);
        char *other = fixture_read(fixture_path(name));
        assert_string_equal(first, same);
        assert_string_not_equal(first, other);
        memory_free(first);
        memory_free(same);
        memory_free(other);
    }
}

static void test_splits_differ(void **state)
{
    (void)state;
    struct arithmetic_problem sft, train;
    int same = 0;
    for (uint64_t i = 0; i < 200; ++i) {
        arithmetic_make(SEED, "sft", i, &sft);
        arithmetic_make(SEED, "train", i, &train);
        same += strcmp(sft.prompt, train.prompt) == 0;
    }
    assert_true(same < 5);
}

static void test_zero_rows_write_no_file(void **state)
{
    (void)state;
    const struct arithmetic_counts only = {.test = 3};
    assert_int_equal(arithmetic_write(fixture_path("only"), 1, &only), 0);
    assert_true(file_exists(fixture_path("only/test.jsonl")));
    assert_false(file_exists(fixture_path("only/train.jsonl")));
}

static void test_place_that_cannot_be_written(void **state)
{
    (void)state;
    const char *path = fixture_write("file", "x");
    assert_true(arithmetic_write(path, 1, &counts) < 0);
    assert_non_null(strstr(error_message(), path));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_held_out_expression_is_trained_on),
        cmocka_unit_test(test_held_out_products_are_new_wordings),
        cmocka_unit_test(test_solutions_are_right),
        cmocka_unit_test(test_seed_decides_every_byte),
        cmocka_unit_test(test_splits_differ),
        cmocka_unit_test(test_zero_rows_write_no_file),
        cmocka_unit_test(test_place_that_cannot_be_written),
    };
    return cmocka_run_group_tests(tests, make, fixture_tear_down);
}

/* Counting: answers are right, lengths follow the distribution asked for, the held-out prompts are
 * in the test split alone. */
#include "tests/tasks/task_fixture.h"

#include "tasks/counting.h"

enum { SEED = 5, DRAWS = 20000 };

static const struct counting_lengths long_tail = {.median = 12, .p99 = 120, .longest = 200};
static const struct counting_lengths uniform = {.median = 20, .p99 = 20, .longest = 20};

static int compare(const void *a, const void *b)
{
    return *(const int32_t *)a - *(const int32_t *)b;
}

static void test_lengths(void **state)
{
    (void)state;
    static int32_t lengths[DRAWS];
    struct counting_problem problem;
    for (uint64_t i = 0; i < DRAWS; i++) {
        counting_make(SEED, "train", i, &long_tail, &problem);
        assert_in_range(problem.first, 0, COUNTING_FIRST_MAX - 1);
        lengths[i] = problem.last - problem.first + 1;
        counting_make(SEED, "train", i, &uniform, &problem);
        assert_int_equal(problem.last - problem.first + 1, 20);
    }
    qsort(lengths, DRAWS, sizeof lengths[0], compare);
    assert_in_range(lengths[0], 1, 2);
    assert_in_range(lengths[DRAWS / 2], 12, 12);
    assert_in_range(lengths[DRAWS / 100 * 99], 110, 130);
    assert_int_equal(lengths[DRAWS - 1], 200);
}

static void check_row(const json_t *row, bool held_out)
{
    struct counting_problem problem = {0};
    char first[3], last[3], name[3], expected[3];
    const char *prompt = fixture_get(row, "prompt"), *at = fixture_get(row, "completion");
    assert_int_equal(sscanf(prompt, "count %2[a-z] to %2[a-z]:", first, last), 2);
    snprintf(problem.prompt, sizeof problem.prompt, "%s", prompt);
    assert_true(counting_held_out(&problem) == held_out);
    assert_string_equal(at + 1, fixture_get(row, "answer"));
    int32_t column = first[0] - 'a'; /* the first is a single letter */
    do {
        assert_int_equal(sscanf(at, " %2[a-z]", name), 1);
        counting_name(column++, expected);
        assert_string_equal(name, expected);
        at += 1 + strlen(name);
    } while (strcmp(name, last) != 0);
    assert_int_equal(*at, '\0');
}

static void test_names(void **state)
{
    (void)state;
    static const struct {
        int32_t index;
        const char *name;
    } cases[] = {{0, "a"}, {25, "z"}, {26, "aa"}, {51, "az"}, {52, "ba"}, {701, "zz"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char name[3];
        counting_name(cases[i].index, name);
        assert_string_equal(name, cases[i].name);
    }
}

static void test_splits(void **state)
{
    (void)state;
    static const char *const names[] = {"sft.jsonl", "train.jsonl", "test.jsonl"};
    static const size_t rows[] = {300, 200, 100};
    struct counting_counts counts = {.sft = 300, .train = 200, .test = 100};
    char *contents[2];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(counting_write(fixture_path("count"), SEED, &long_tail, &counts), 0);
        contents[i] = fixture_read(fixture_path("count/train.jsonl"));
    }
    assert_string_equal(contents[0], contents[1]);
    for (int split = 0; split < 3; split++) {
        char name[64];
        snprintf(name, sizeof name, "count/%s", names[split]);
        json_t *read = fixture_rows(fixture_path(name));
        assert_int_equal(json_array_size(read), rows[split]);
        for (size_t i = 0; i < rows[split]; i++)
            check_row(json_array_get(read, i), split == 2);
        json_decref(read);
    }
    assert_int_equal(counting_write(fixture_path("count"), SEED + 1, &long_tail, &counts), 0);
    char *other = fixture_read(fixture_path("count/train.jsonl"));
    assert_string_not_equal(contents[0], other);
    memory_free(other);
    for (int i = 0; i < 2; i++)
        memory_free(contents[i]);
}

static void test_bad_lengths(void **state)
{
    (void)state;
    static const struct counting_lengths bad[] = {{.median = 0.5, .p99 = 2, .longest = 9},
                                                  {.median = 4, .p99 = 3, .longest = 9},
                                                  {.median = 4, .p99 = 8, .longest = 3},
                                                  {.median = 4, .p99 = 8, .longest = 641}};
    struct counting_counts counts = {.sft = 1};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(counting_write(fixture_path("bad"), SEED, &bad[i], &counts), HONE_EINVAL);
    assert_false(file_exists(fixture_path("bad/sft.jsonl")));
}

/* Of the 26 prompts that ask for five columns none is held out: that ends, with a message. */
static void test_no_prompt_for_a_split(void **state)
{
    (void)state;
    static const struct counting_lengths five = {.median = 5, .p99 = 5, .longest = 5};
    struct counting_counts counts = {.test = 1};
    assert_int_equal(counting_write(fixture_path("five"), SEED, &five, &counts), HONE_EINVAL);
    assert_false(file_exists(fixture_path("five/test.jsonl")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_splits),
        cmocka_unit_test(test_bad_lengths),
        cmocka_unit_test(test_no_prompt_for_a_split),
    };
    return cmocka_run_group_tests(tests, fixture_set_up, fixture_tear_down);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infra/base/file.h"
#include "infra/base/memory.h"
#include "infra/base/text.h"
#include "reward/math_answer.h"
#include "reward/number.h"
#include "reward/reward_set.h"

static const char *data_directory;

/* The score, or -1 - status when it is none. */
static int verdict(const char *verifier, const char *completion, const char *gold)
{
    struct reward_input input = {.completion = completion, .ground_truth = gold};
    float value = -7;
    enum reward_status status = verifier_find(verifier)->score(&input, &value);
    return status == REWARD_OK ? (int)value : -1 - (int)status;
}

#define UNUSABLE (-1 - (int)REWARD_ERROR)

static void test_exact(void **state)
{
    (void)state;
    assert_int_equal(verdict("exact", " 42\n", "42"), 1);
    assert_int_equal(verdict("exact", "a b", "\ta b "), 1);
    assert_int_equal(verdict("exact", "a  b", "a b"), 0);
    assert_int_equal(verdict("exact", "", "x"), 0);
    assert_int_equal(verdict("exact", "", ""), UNUSABLE);
}

static bool same_number(const char *a, const char *b)
{
    struct number x, y;
    assert_true(number_whole(a, strlen(a), &x));
    assert_true(number_whole(b, strlen(b), &y));
    return number_equal(&x, &y);
}

static void test_numbers_compare_exactly(void **state)
{
    (void)state;
    assert_true(same_number("0.10", ".1"));
    assert_true(same_number("1e2", "100"));
    assert_true(same_number("1,234,567.50", "1234567.5"));
    assert_true(same_number("-0", "0.000"));
    assert_true(same_number("007", "7.0"));
    assert_true(same_number("12.5e-1", "1.25"));
    assert_true(same_number("$18", "18%"));
    assert_true(same_number("-$18.00", "$-18"));
    assert_true(same_number("\xE2\x88\x92"
                            "3",
                            "-3"));
    assert_false(same_number("0.1", "0.1000000000000000000000000000001"));
    assert_false(same_number("100000000000000000000000000001", "1e29"));
    assert_true(same_number("100000000000000000000000000000", "1e29"));
    assert_false(same_number("1", "-1"));
    assert_false(same_number("10", "1"));
    assert_true(same_number("1e99999999999", "1e88888888888")); /* both past any text: saturated */
}

static void test_what_is_no_number(void **state)
{
    (void)state;
    static const char *const words[] = {"",    " ",  "-",   "$",   "1,22",  "1.2.3", "x2",  "1/2",
                                        "--1", "e5", "nan", "inf", "1 000", "0x10",  "five"};
    struct number number;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (number_whole(words[i], strlen(words[i]), &number))
            fail_msg("\"%s\" was read as a number", words[i]);
}

static void test_last_number(void **state)
{
    (void)state;
    static const struct {
        const char *text, *gold;
        int verdict;
    } cases[] = {
        {"5 + 3 = 8", "8", 1},
        {"the answer is 8.", "8", 1},
        {"10-3", "3", 1},
        {"10 - 3 = -7", "-7", 1},
        {"(-3)", "-3", 1},
        {"x=-3", "-3", 1},
        {"x^2-3", "3", 1},
        {"it costs $1,234.50!", "1234.5", 1},
        {"1, 2, 3", "3", 1},
        {"up 12%", "12", 1},
        {"12 km", "12", 1},
        {"5km", "5", 1},
        {"AZYUK2A", "2", 0},
        {"7 then GPT4", "7", 1},
        {"no number here", "7", 0},
        {"", "7", 0},
        {"8 or 9", "8", 0},
        {"3.14.", "3.14", 1},
        {"version 1.2.3", "3", 0},
        {"7", "seven", UNUSABLE},
        {"7", "", UNUSABLE},
        {"3/4", "3/4", UNUSABLE},
        {"two\xE2\x88\x92 5 \xE2\x88\x92"
         "5",
         "-5", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (verdict("number", cases[i].text, cases[i].gold) != cases[i].verdict)
            fail_msg("number(\"%s\", \"%s\") is not %d", cases[i].text, cases[i].gold,
                     cases[i].verdict);
}

static void test_gsm8k(void **state)
{
    (void)state;
    char longer[700];
    assert_int_equal(verdict("gsm8k", "so 9*2\n#### 18", "18"), 1);
    assert_int_equal(verdict("gsm8k", "#### 18\nno, #### 19", "18"), 0);
    assert_int_equal(verdict("gsm8k", "#### 1,800", "1800"), 1);
    assert_int_equal(verdict("gsm8k", "#### 1800", "1,800"), 1);
    assert_int_equal(verdict("gsm8k", "#### -5", "-5"), 1);
    assert_int_equal(verdict("gsm8k", "#### 18.00", "18"), 0); /* text, not a number */
    assert_int_equal(verdict("gsm8k", "#### 18.", "18"), 0);
    assert_int_equal(verdict("gsm8k", "####18", "18"), 0);
    assert_int_equal(verdict("gsm8k", "#### $18", "18"), 0);
    assert_int_equal(verdict("gsm8k", "The answer is 18", "18"), 0);
    assert_int_equal(verdict("gsm8k", "#### #### 18", "18"), 1);
    assert_int_equal(verdict("gsm8k", "#### 18", ""), UNUSABLE);
    /* Only the last 300 characters count: "#### 18" and 293 more are inside, 294 are not. */
    snprintf(longer, sizeof longer, "#### 18 %0292d", 0);
    assert_int_equal(verdict("gsm8k", longer, "18"), 1);
    snprintf(longer, sizeof longer, "#### 18 %0293d", 0);
    assert_int_equal(verdict("gsm8k", longer, "18"), 0);
    /* Characters, not bytes: 290 two-byte ones behind it leave it inside. */
    struct text accents;
    text_init(&accents);
    text_append(&accents, "#### 18 ");
    for (int i = 0; i < 290; i++)
        text_append(&accents, "\xC3\xA9");
    assert_int_equal(verdict("gsm8k", accents.data, "18"), 1);
    text_release(&accents);
}

static void test_boxed(void **state)
{
    (void)state;
    static const struct {
        const char *text, *gold;
        int verdict;
    } cases[] = {
        {"so \\boxed{42}.", "42", 1},
        {"\\boxed{1} and \\boxed{2}", "2", 1},
        {"\\boxed{1} and \\boxed{2}", "1", 0},
        {"\\boxed{\\frac{63}{400}}", "\\frac{63}{400}", 1},
        {"\\boxed{\\frac{63}{400}}", "63/400", 1},
        {"\\boxed{\\frac{64}{400}}", "\\frac{63}{400}", 0},
        {"\\boxed{\\frac{8}{2}}", "4.0", 1},
        {"\\boxed{\\tfrac12}", "0.5", 1},
        {"\\boxed{.5}", "\\dfrac{1}{2}", 1},
        {"\\boxed{-\\frac{1}{2}}", "-1/2", 1},
        {"\\boxed{\\frac{-1}{2}}", "-0.5", 1},
        {"\\boxed{12\\text{ cm}^2}", "12", 1},
        {"\\boxed{\\text{odd}}", "odd", 1},
        {"\\boxed{\\left( 1,\\, 2 \\right)}", "(1,2)", 1},
        {"\\boxed{32,\\!349}", "32349", 1},
        {"\\boxed{90^\\circ}", "90", 1},
        {"\\boxed{x = 5}", "5", 1},
        {"\\boxed{\\$5}", "5", 1},
        {"\\boxed{50\\%}", "50", 1},
        {"\\boxed{\\sqrt3}", "\\sqrt{3}", 1},
        {"\\boxed{\\{1,2\\}}", "\\{1,2\\}", 1},
        {"$\\boxed 7$", "7", 1},
        {"\\fbox{3}", "3", 1},
        {"\\boxed{12", "12", 0},
        {"12", "12", 0},
        {"\\boxed{}", "12", 0},
        {"\\boxed{1/0}", "2/0", 0},
        {"\\boxed{4}", "\\boxed{4}", 1},
        {"\\boxed{4}", " ", UNUSABLE},
        {"\\boxed{0.3333}", "1/3", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (verdict("boxed", cases[i].text, cases[i].gold) != cases[i].verdict)
            fail_msg("boxed(\"%s\", \"%s\") is not %d", cases[i].text, cases[i].gold,
                     cases[i].verdict);
}

/* Neither long nor deep input may be slow or overflow a stack. */
static void test_hostile_input(void **state)
{
    (void)state;
    struct text text;
    text_init(&text);
    for (int i = 0; i < 200000; i++)
        text_append(&text, "\\boxed{");
    assert_int_equal(verdict("boxed", text.data, "1"), 0);
    text_clear(&text);
    for (int i = 0; i < 1000000; i++)
        text_append_char(&text, '9');
    assert_int_equal(verdict("number", text.data, "9"), 0);
    assert_int_equal(verdict("number", text.data, text.data), 1);
    text_clear(&text);
    text_append(&text, "\\boxed{\xFF\xFE\\frac}");
    assert_int_equal(verdict("boxed", text.data, "1"), 0);
    text_release(&text);
}

/* 10 tokens at most, the last 4 of them cost. */
static void test_overlong(void **state)
{
    (void)state;
    const struct verifier *verifier = verifier_find("overlong");
    struct reward_input input = {.longest_tokens = 10, .overlong_buffer_tokens = 4};
    static const float expected[] = {0, 0, 0, 0, 0, 0, 0, -0.25f, -0.5f, -0.75f, -1, -1};
    float value;
    for (int32_t tokens = 0; tokens <= 11; tokens++) {
        input.completion_id_count = tokens;
        assert_int_equal(verifier->score(&input, &value), REWARD_OK);
        assert_true(value == expected[tokens]);
    }
    input.overlong_buffer_tokens = 0;
    assert_int_equal(verifier->score(&input, &value), REWARD_ERROR);
    input.overlong_buffer_tokens = 11;
    assert_int_equal(verifier->score(&input, &value), REWARD_ERROR);
}

static void test_registry(void **state)
{
    (void)state;
    int count = 0;
    for (; verifier_at(count) != NULL; count++)
        assert_ptr_equal(verifier_find(verifier_at(count)->name), verifier_at(count));
    assert_int_equal(count, 5);
    assert_null(verifier_find("gsm"));
    assert_null(verifier_at(-1));
}

/* Reads a file of the data directory; skips the test when there is none. */
static char *data_file(const char *name)
{
    char path[HONE_PATH_MAX];
    char *data = NULL;
    size_t bytes;
    if (data_directory == NULL || !file_is_directory(data_directory)) {
        print_message("no data directory: %s is not read\n", name);
        skip();
    }
    path_join(path, sizeof path, data_directory, name);
    assert_int_equal(file_read(path, 64u << 20, &data, &bytes), 0);
    return data;
}

static const char *field(const json_t *row, const char *name)
{
    const char *value = json_string_value(json_object_get(row, name));
    assert_non_null(value);
    return value;
}

/* Calls visit for each JSON line; returns how many there were. */
static int each_line(char *data, void (*visit)(const json_t *row, void *context), void *context)
{
    int count = 0;
    for (char *line = strtok(data, "\n"); line != NULL; line = strtok(NULL, "\n"), count++) {
        json_t *row = json_loads(line, 0, NULL);
        assert_non_null(row);
        visit(row, context);
        json_decref(row);
    }
    return count;
}

struct agreement {
    int number, gsm8k, correct;
};

/* These solutions end in "A: 18": as they are for `number`, with the marker of the task for
 * `gsm8k`. */
static void visit_labelled(const json_t *row, void *context)
{
    struct agreement *agreement = context;
    const char *solution = field(row, "solution"), *gold = field(row, "gold"), *last = NULL;
    int label = json_is_true(json_object_get(row, "is_correct"));
    struct text marked;
    text_init(&marked);
    for (const char *at = strstr(solution, "A: "); at != NULL; at = strstr(at + 1, "A: "))
        last = at;
    if (last != NULL) {
        text_append_bytes(&marked, solution, (size_t)(last - solution));
        text_printf(&marked, "#### %s", last + 3);
    }
    agreement->correct += label;
    agreement->number += verdict("number", solution, gold) == label;
    agreement->gsm8k += verdict("gsm8k", marked.data, gold) == label;
    text_release(&marked);
}

static void test_labelled_solutions(void **state)
{
    (void)state;
    struct agreement agreement = {0};
    char *data = data_file("verifier/gsm8k_labelled_solutions.jsonl");
    int rows = each_line(data, visit_labelled, &agreement);
    memory_free(data);
    print_message("labelled solutions: number agrees on %d, gsm8k on %d of %d (%d correct)\n",
                  agreement.number, agreement.gsm8k, rows, agreement.correct);
    assert_int_equal(rows, 1600);
    assert_int_equal(agreement.number, 1600);
    assert_int_equal(agreement.gsm8k, 1600);
}

static void visit_gsm8k(const json_t *row, void *context)
{
    const char *answer = field(row, "answer"), *gold = strstr(answer, "#### ");
    assert_non_null(gold);
    *(int *)context += verdict("gsm8k", answer, gold + 5) == 1 &&
                       verdict("number", answer, gold + 5) == 1 &&
                       verdict("gsm8k", answer, "x") == 0;
}

static void test_gsm8k_answers(void **state)
{
    (void)state;
    int right = 0;
    char *data = data_file("prompts/gsm8k_test.jsonl");
    assert_int_equal(each_line(data, visit_gsm8k, &right), 1319);
    memory_free(data);
    assert_int_equal(right, 1319);
}

static void visit_math(const json_t *row, void *context)
{
    const char *solution = field(row, "solution"), *answer = field(row, "answer");
    if (verdict("boxed", solution, answer) == 1)
        ++*(int *)context;
    else
        print_message("boxed disagrees: %s\n", answer);
}

static void test_math500_solutions(void **state)
{
    (void)state;
    int right = 0;
    char *data = data_file("prompts/math500.jsonl");
    assert_int_equal(each_line(data, visit_math, &right), 500);
    memory_free(data);
    print_message("math500: the boxed answer of %d of 500 solutions is the answer\n", right);
    assert_int_equal(right, 500);
}

static void check_reward_cases(const json_t *cases, const char *text_name)
{
    size_t i;
    json_t *row;
    assert_true(json_array_size(cases) > 0);
    json_array_foreach(cases, i, row)
    {
        int wanted = (int)json_integer_value(json_object_get(row, "reward"));
        if (verdict("boxed", field(row, text_name), field(row, "gold")) != wanted)
            fail_msg("boxed(\"%s\", \"%s\") is not %d", field(row, text_name), field(row, "gold"),
                     wanted);
    }
}

static void test_reward_cases(void **state)
{
    (void)state;
    char *data = data_file("verifier/reward_cases.json");
    json_t *root = json_loads(data, 0, NULL);
    memory_free(data);
    assert_non_null(root);
    check_reward_cases(json_object_get(root, "accuracy"), "completion");
    check_reward_cases(json_object_get(root, "nemo_math_env"), "response");
    json_decref(root);
}

struct math_verify {
    int boxed, right, false_positive;
};

/* Pairs of answers with another program's verdict. It evaluates algebra and boxed does not, so
 * equal pairs are missed; what must not happen is calling a different answer equal. */
static void visit_pair(const json_t *row, void *context)
{
    struct math_verify *seen = context;
    const char *pred = field(row, "pred");
    if (strstr(pred, "\\boxed") == NULL)
        return;
    int wanted = (int)json_integer_value(json_object_get(row, "expected"));
    int got = verdict("boxed", pred, field(row, "gold")) == 1;
    seen->boxed++;
    seen->right += got == wanted;
    seen->false_positive += got > wanted;
}

static void test_math_verify_pairs(void **state)
{
    (void)state;
    struct math_verify seen = {0};
    char *data = data_file("verifier/math_verify_cases.jsonl");
    assert_int_equal(each_line(data, visit_pair, &seen), 133);
    memory_free(data);
    print_message("math-verify pairs with a box: %d of %d, %d called equal wrongly\n", seen.right,
                  seen.boxed, seen.false_positive);
    assert_int_equal(seen.false_positive, 0);
    assert_true(seen.right >= 25);
}

int main(int argc, char **argv)
{
    data_directory = argc > 1 ? argv[1] : NULL;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_numbers_compare_exactly),
        cmocka_unit_test(test_what_is_no_number),
        cmocka_unit_test(test_last_number),
        cmocka_unit_test(test_gsm8k),
        cmocka_unit_test(test_boxed),
        cmocka_unit_test(test_hostile_input),
        cmocka_unit_test(test_overlong),
        cmocka_unit_test(test_registry),
        cmocka_unit_test(test_labelled_solutions),
        cmocka_unit_test(test_gsm8k_answers),
        cmocka_unit_test(test_math500_solutions),
        cmocka_unit_test(test_reward_cases),
        cmocka_unit_test(test_math_verify_pairs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Equations: right by an exact evaluator of rational numbers, deterministic, and never one that is
 * excluded. */
#include "tests/tasks/task_fixture.h"

#include <ctype.h>

#include "infra/base/text.h"
#include "tasks/equations.h"

enum { SEED = 11 };

/* numerator / denominator, denominator > 0. */
struct rational {
    __int128 numerator, denominator;
};

static struct rational reduced(__int128 numerator, __int128 denominator)
{
    __int128 a = numerator < 0 ? -numerator : numerator, b = denominator;
    while (b != 0) {
        __int128 rest = a % b;
        a = b;
        b = rest;
    }
    return (struct rational){numerator / a, denominator / a};
}

static struct rational evaluate_sum(const char **at);

static struct rational evaluate_factor(const char **at)
{
    if (**at == '(') {
        ++*at;
        struct rational inside = evaluate_sum(at);
        assert_int_equal(*(*at)++, ')');
        return inside;
    }
    struct rational value = {0, 1};
    bool point = false;
    assert_true(isdigit((unsigned char)**at) || (**at == '.' && isdigit((unsigned char)(*at)[1])));
    for (; isdigit((unsigned char)**at) || (**at == '.' && !point); ++*at) {
        if (**at == '.') {
            point = true;
            continue;
        }
        value.numerator = value.numerator * 10 + (**at - '0');
        value.denominator *= point ? 10 : 1;
    }
    return value;
}

static struct rational evaluate_product(const char **at)
{
    struct rational left = evaluate_factor(at);
    while (**at == '*' || **at == '/') {
        bool divide = *(*at)++ == '/';
        struct rational right = evaluate_factor(at);
        if (divide)
            assert_true(right.numerator > 0);
        left =
            divide
                ? reduced(left.numerator * right.denominator, left.denominator * right.numerator)
                : reduced(left.numerator * right.numerator, left.denominator * right.denominator);
    }
    return left;
}

static struct rational evaluate_sum(const char **at)
{
    struct rational left = evaluate_product(at);
    while (**at == '+' || **at == '-') {
        int sign = *(*at)++ == '-' ? -1 : 1;
        struct rational right = evaluate_product(at);
        left =
            reduced(left.numerator * right.denominator + sign * right.numerator * left.denominator,
                    left.denominator * right.denominator);
    }
    return left;
}

static struct rational evaluate(const char *text)
{
    struct rational value = evaluate_sum(&text);
    assert_string_equal(text, "");
    return value;
}

static void check_equation(const char *expression, const char *value)
{
    struct rational left = evaluate(expression), right = evaluate(value);
    if (left.numerator * right.denominator != right.numerator * left.denominator)
        fail_msg("%s is not %s", expression, value);
    const char *point = strchr(value, '.');
    assert_true(point == NULL || (strlen(point) <= 3 && point[strlen(point) - 1] != '0'));
}

static void test_evaluator(void **state)
{
    (void)state;
    const struct {
        const char *text;
        int numerator, denominator;
    } cases[] = {{"2+3*4", 14, 1}, {"(2+3)*4", 20, 1}, {"7-2-3", 2, 1},
                 {"1/8*2", 1, 4},  {"0.25+0.5", 3, 4}, {"10/4/5", 1, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
        struct rational value = evaluate(cases[i].text);
        assert_true(value.numerator * cases[i].denominator ==
                    value.denominator * cases[i].numerator);
    }
}

static void test_equations_are_right(void **state)
{
    (void)state;
    int with[128] = {0}, decimals = 0;
    for (uint64_t i = 0; i < 50000; ++i) {
        struct equation equation;
        equation_make(SEED, i, &equation);
        check_equation(equation.expression, equation.value);
        for (const char *c = equation.expression; *c != '\0'; ++c)
            with[(unsigned char)*c & 127]++;
        decimals += strchr(equation.value, '.') != NULL;
    }
    for (const char *c = "0123456789+-*/()."; *c != '\0'; ++c) /* every form occurs */
        assert_true(with[(unsigned char)*c] > 100);
    assert_true(decimals > 500);
}

static void test_file_is_a_function_of_the_seed(void **state)
{
    (void)state;
    int64_t left_out = -1;
    char *contents[3];
    for (int i = 0; i < 3; ++i) {
        const char *path = fixture_path("equations.jsonl");
        assert_int_equal(equations_write(path, SEED + (i == 2), 500, NULL, &left_out), 0);
        assert_int_equal(left_out, 0);
        contents[i] = fixture_read(path);
    }
    assert_string_equal(contents[0], contents[1]);
    assert_string_not_equal(contents[0], contents[2]);
    for (int i = 0; i < 3; ++i)
        memory_free(contents[i]);
}

static void test_excluded_expressions_are_never_written(void **state)
{
    (void)state;
    const char *output = fixture_path("all.jsonl");
    int64_t left_out;
    assert_int_equal(equations_write(output, SEED, 2000, NULL, &left_out), 0);
    json_t *rows = fixture_rows(output);
    assert_int_equal(json_array_size(rows), 2000);
    /* Exclude what the first 100 rows ask. */
    struct text prompts;
    text_init(&prompts);
    json_t *excluded = json_object();
    for (size_t i = 0; i < 100; ++i) {
        const char *text = fixture_get(json_array_get(rows, i), "text");
        int length = (int)strcspn(text, "=");
        char expression[EQUATION_MAX];
        snprintf(expression, sizeof expression, "%.*s", length, text);
        check_equation(expression, text + length + 1);
        json_object_set_new(excluded, expression, json_true());
        text_printf(&prompts, "{\"prompt\": \"%s=\"}\n", expression);
    }
    const char *exclude = fixture_write("exclude.jsonl", prompts.data);
    output = fixture_path("some.jsonl");
    assert_int_equal(equations_write(output, SEED, 2000, exclude, &left_out), 0);
    assert_true(left_out >= 100);
    json_t *kept = fixture_rows(output);
    assert_int_equal(json_array_size(kept), 2000);
    for (size_t i = 0; i < 2000; ++i) {
        char expression[EQUATION_MAX];
        const char *text = fixture_get(json_array_get(kept, i), "text");
        snprintf(expression, sizeof expression, "%.*s", (int)strcspn(text, "="), text);
        assert_null(json_object_get(excluded, expression));
    }
    json_decref(kept);
    json_decref(excluded);
    json_decref(rows);
    text_release(&prompts);
}

static void test_exclusions_of_the_wrong_kind(void **state)
{
    (void)state;
    static const char *const bad[] = {"{\"prompt\": \"1+1=\"}\n{\"text\": \"1+1=2\"}\n",
                                      "{\"prompt\": \"1+1=\"}\n{\"prompt\": \"1+1\"}\n",
                                      "{\"prompt\": \"1+1=\"}\n{\"prompt\": \"=\"}\n",
                                      "{\"prompt\": \"1+1=\"}\nnot json\n"};
    int64_t left_out;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; ++i) {
        char where[HONE_PATH_MAX];
        const char *exclude = fixture_write("bad.jsonl", bad[i]);
        snprintf(where, sizeof where, "%s:2: ", exclude);
        assert_int_equal(equations_write(fixture_path("none.jsonl"), 1, 5, exclude, &left_out),
                         HONE_EFORMAT);
        assert_non_null(strstr(error_message(), where));
        assert_false(file_exists(fixture_path("none.jsonl")));
    }
    assert_int_equal(
        equations_write(fixture_path("none.jsonl"), 1, 5, fixture_path("absent"), &left_out),
        HONE_ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_evaluator),
        cmocka_unit_test(test_equations_are_right),
        cmocka_unit_test(test_file_is_a_function_of_the_seed),
        cmocka_unit_test(test_excluded_expressions_are_never_written),
        cmocka_unit_test(test_exclusions_of_the_wrong_kind),
    };
    return cmocka_run_group_tests(tests, fixture_set_up, fixture_tear_down);
}

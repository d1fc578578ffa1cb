/* What a line of an external reward command says, and what is wrong with those that say nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "reward/answer_line.h"

static void test_lines_that_say_something(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        int64_t id;
        enum reward_status status;
        float value;
        const char *message;
    } cases[] = {
        {"{\"id\": 7, \"score\": 0.5}", 7, REWARD_OK, 0.5f, ""},
        {"{\"id\": -1, \"score\": -3, \"status\": \"ok\"}", -1, REWARD_OK, -3.0f, ""},
        {"{\"score\": true, \"id\": 0, \"status\": null}", 0, REWARD_OK, 1.0f, ""},
        {"{\"id\": 0, \"score\": false, \"more\": []}", 0, REWARD_OK, 0.0f, ""},
        {"{\"id\": 7, \"score\": null}", 7, REWARD_ABSTAIN, 0.0f, ""},
        {"{\"id\": 7, \"status\": \"abstain\", \"score\": 1}", 7, REWARD_ABSTAIN, 0.0f, ""},
        {"{\"id\": 7, \"status\": \"timeout\"}", 7, REWARD_TIMEOUT, 0.0f, ""},
        {"{\"id\": 7, \"status\": \"error\", \"message\": \"why\"}", 7, REWARD_ERROR, 0.0f, "why"},
        {"{\"id\": 7, \"score\": 1, \"message\": \"fine\"}", 7, REWARD_OK, 1.0f, ""},
        {"{\"id\": 7, \"score\": NaN}", 7, REWARD_ERROR, 0.0f, "its score is NaN"},
        {"{\"score\":Infinity,\"id\":7}", 7, REWARD_ERROR, 0.0f, "its score is Infinity"},
        {"{\"id\": 7, \"score\":-Infinity}", 7, REWARD_ERROR, 0.0f, "its score is -Infinity"},
        {"{\"id\": 7, \"score\": 1e39}", 7, REWARD_ERROR, 0.0f, "its score is out of range"},
        {"{\"id\": 7, \"score\": 1, \"more\": [NaN, \"\\\"NaN\"]}", 7, REWARD_OK, 1.0f, ""},
        {"{\"id\": 7, \"status\": \"error\", \"message\": \"\\\\\", \"more\": NaN}", 7,
         REWARD_ERROR, 0.0f, "\\"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
        struct answer_line answer;
        const char *wrong = answer_line_read(&answer, cases[i].line, strlen(cases[i].line));
        if (wrong != NULL)
            fail_msg("%s: %s", cases[i].line, wrong);
        assert_int_equal(answer.id, cases[i].id);
        assert_int_equal(answer.status, cases[i].status);
        assert_true(answer.value == cases[i].value);
        assert_string_equal(answer.message, cases[i].message);
    }
}

static void test_lines_that_do_not(void **state)
{
    (void)state;
    static const struct {
        const char *line, *wrong;
    } cases[] = {
        {"", "it is not a JSON object"},
        {"[1]", "it is not a JSON object"},
        {"{\"id\": NaN, \"score\": 1}", "it has no integer id"},
        {"{\"id\": 7, \"score\": NaNa}", "it is not a JSON object"},
        {"{\"id\": 7, \"score\": N", "it is not a JSON object"},
        {"NaN", "it is not a JSON object"},
        {"{\"id\": 7, \"id\": 8, \"score\": 1}", "it is not a JSON object"},
        {"{\"score\": 1}", "it has no integer id"},
        {"{\"id\": 7.0, \"score\": 1}", "it has no integer id"},
        {"{\"id\": 7}", "it has no numeric score"},
        {"{\"id\": 7, \"score\": \"1\"}", "it has no numeric score"},
        {"{\"id\": 7, \"score\": null, \"status\": \"ok\"}", "it has no numeric score"},
        {"{\"id\": 7, \"score\": 1, \"status\": 3}", "its status is not a string"},
        {"{\"id\": 7, \"status\": \"late\"}", "its status is none of ok, abstain, timeout, error"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
        struct answer_line answer;
        const char *wrong = answer_line_read(&answer, cases[i].line, strlen(cases[i].line));
        if (wrong == NULL)
            fail_msg("%s is taken", cases[i].line);
        assert_string_equal(wrong, cases[i].wrong);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines_that_say_something),
        cmocka_unit_test(test_lines_that_do_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What a judge's answer says, and the file of votes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "sft/votes.h"

static char path[] = "/tmp/hone_votes_XXXXXX";

static void answers_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *answer;
        int vote;
    } cases[] = {{" easy", VOTE_EASY},
                 {"Hard.", VOTE_HARD},
                 {"It is not hard but MEDIUM", VOTE_HARD}, /* the first word counts */
                 {"**Medium**\nbecause easy", VOTE_MEDIUM},
                 {"uneasy, hardly", -1},
                 {"(easy)", VOTE_EASY},
                 {"eas", -1},
                 {"", -1},
                 {"3 of 5", -1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (vote_parse(cases[i].answer) != cases[i].vote)
            fail_msg("'%s' is read as %d", cases[i].answer, vote_parse(cases[i].answer));
}

static void scores_are_means(void **state)
{
    (void)state;
    assert_true(fabs(votes_score(&(struct row_votes){.counts = {3, 1, 1}}) - 0.6) < 1e-12);
    assert_true(fabs(votes_score(&(struct row_votes){.unread = 4}) - 1.0) < 1e-12);
    assert_true(fabs(votes_score(&(struct row_votes){.counts = {0, 0, 2}, .unread = 9}) - 2.0) <
                1e-12);
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    static const struct row_votes rows[] = {{{5, 0, 0}, 0}, {{0, 1, 2}, 2}, {{0, 0, 0}, 5}};
    struct row_votes read[3];
    struct hash first, second;
    assert_int_equal(votes_write(path, "{\"judge\": \"a\"}", rows, 3), 0);
    assert_int_equal(votes_read(path, read, 3, &first), 0);
    assert_memory_equal(rows, read, sizeof rows);
    assert_true(votes_are_about(path, "{\"judge\": \"a\"}", 3));
    assert_false(votes_are_about(path, "{\"judge\": \"b\"}", 3));
    assert_false(votes_are_about(path, "{\"judge\": \"a\"}", 4));
    assert_false(votes_are_about("/nowhere/votes", "{}", 3));
    assert_int_equal(votes_write(path, "{\"judge\": \"b\"}", rows, 3), 0);
    assert_int_equal(votes_read(path, read, 3, &second), 0);
    assert_memory_not_equal(&first, &second, sizeof first);
}

static void expect_refused(const char *content, int64_t count, const char *why)
{
    struct row_votes read[3];
    struct hash hash;
    assert_int_equal(file_write_atomic(path, content, strlen(content)), 0);
    assert_int_equal(votes_read(path, read, count, &hash), HONE_EFORMAT);
    if (strstr(error_message(), why) == NULL)
        fail_msg("'%s' does not say '%s'", error_message(), why);
}

#define ROW(n) "{\"row\": " #n ", \"easy\": 1, \"medium\": 0, \"hard\": 0, \"unread\": 0}\n"

static void damaged_files_are_refused(void **state)
{
    (void)state;
    expect_refused("{}\n" ROW(0), 2, ":3: the file ends, and has votes on 1 of 2 rows");
    expect_refused("{}\n" ROW(0) ROW(1), 1, "more than 1 rows");
    expect_refused("{}\n" ROW(1), 1, ":2: not the votes on row 0");
    expect_refused("{}\n{\"row\": 0, \"easy\": -1}\n", 1, ":2: not the votes on row 0");
    expect_refused("", 1, ":1: the file ends");
}

static int set_up(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int tear_down(void **state)
{
    (void)state;
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_read),
        cmocka_unit_test(scores_are_means),
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(damaged_files_are_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

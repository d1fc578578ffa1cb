/* Commands that behave and commands that do not. Every one is a few lines of shell, so nothing but
 * /bin/sh is needed; the shipped Python example is run when there is a python3. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "infra/base/clock.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/base/text.h"
#include "reward/command_reward.h"

#define COUNT 6

/* Shell for: the id of the request in $line. */
#define ID "id=${line#*\\\"id\\\":}; id=${id%%,*}; "

static struct reward_input inputs[COUNT];
static float values[COUNT];
static enum reward_status statuses[COUNT];

static int set_up(void **state)
{
    (void)state;
    static const int32_t ids[] = {3, 1, 4, 1};
    for (int i = 0; i < COUNT; i++) {
        inputs[i] = (struct reward_input){.id = 1000u + (unsigned)i,
                                          .prompt = "say \"hi\"\n",
                                          .completion = "h\xC3\xA9llo",
                                          .ground_truth = "hello",
                                          .data_source = "test",
                                          .capability = "greet",
                                          .extra_json = "{\"level\":\n2}",
                                          .prompt_ids = ids,
                                          .completion_ids = ids,
                                          .prompt_id_count = 1,
                                          .completion_id_count = 4,
                                          .finish = FINISH_STOP,
                                          .policy_version = 5,
                                          .group_id = 9};
        values[i] = -1;
        statuses[i] = (enum reward_status)77;
    }
    return 0;
}

static struct command_reward *start(const char *script, int64_t timeout_ms)
{
    const char *const argv[] = {"/bin/sh", "-c", script, NULL};
    struct command_reward *command = NULL;
    if (command_reward_create(&command, "test", argv, timeout_ms, clock_system()) < 0)
        fail_msg("%s", error_message());
    return command;
}

static void score(struct command_reward *command, int count)
{
    command_reward_score(command, inputs, count, values, statuses);
}

/* Runs a script against count inputs and compares statuses, one letter each: o a t e. */
static int64_t expect(const char *script, int64_t timeout_ms, const char *wanted)
{
    int count = (int)strlen(wanted);
    char got[COUNT + 1] = "";
    struct command_reward *command = start(script, timeout_ms);
    int64_t begin = clock_now_ms(clock_system());
    score(command, count);
    int64_t took = clock_now_ms(clock_system()) - begin;
    for (int i = 0; i < count; i++)
        got[i] = statuses[i] <= REWARD_ERROR ? "oate"[statuses[i]] : '?';
    command_reward_destroy(command);
    assert_string_equal(got, wanted);
    return took;
}

static void test_answers(void **state)
{
    (void)state;
    struct command_reward *command = start(
        "while read -r line; do " ID "echo \"{\\\"id\\\":$id,\\\"score\\\":0.5}\"; done", 5000);
    score(command, COUNT);
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(statuses[i], REWARD_OK);
        assert_true(values[i] == 0.5f);
    }
    score(command, 0);
    score(command, 1); /* the process goes on: ids continue */
    assert_int_equal(statuses[0], REWARD_OK);
    command_reward_destroy(command);
}

static void test_request_holds_everything(void **state)
{
    (void)state;
    char path[] = "/tmp/hone_test_request_XXXXXX", script[512];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    snprintf(script, sizeof script,
             "while read -r line; do printf '%%s\\n' \"$line\" >>%s; "
             "%s echo \"{\\\"id\\\":$id,\\\"score\\\":true}\"; done",
             path, ID);
    struct command_reward *command = start(script, 5000);
    score(command, 1);
    command_reward_destroy(command);
    char *data = NULL;
    size_t bytes;
    assert_int_equal(file_read(path, 1 << 20, &data, &bytes), 0);
    unlink(path);
    assert_int_equal(statuses[0], REWARD_OK);
    assert_true(values[0] == 1.0f);
    assert_string_equal(
        data, "{\"id\":1,\"prompt\":\"say \\\"hi\\\"\\n\",\"completion\":\"h\xC3\xA9llo\","
              "\"ground_truth\":\"hello\",\"data_source\":\"test\",\"capability\":\"greet\","
              "\"extra\":{\"level\": 2},\"prompt_ids\":[3],\"completion_ids\":[3,1,4,1],"
              "\"finish_reason\":\"stop\",\"policy_version\":5,\"group_id\":9}\n");
    memory_free(data);
}

/* Answers three requests in reverse. */
static void test_out_of_order(void **state)
{
    (void)state;
    static const char script[] = "while read -r a && read -r b && read -r c; do"
                                 " for line in \"$c\" \"$b\" \"$a\"; do " ID
                                 " echo \"{\\\"id\\\":$id,\\\"score\\\":$id}\"; done; done";
    struct command_reward *command = start(script, 5000);
    score(command, 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(statuses[i], REWARD_OK);
        assert_true(values[i] == (float)(i + 1));
    }
    command_reward_destroy(command);
}

static void test_stated_statuses(void **state)
{
    (void)state;
    static const char script[] =
        "n=0; while read -r line; do " ID "n=$((n+1)); case $n in"
        " 1) echo \"{\\\"id\\\":$id,\\\"score\\\":null}\";;"
        " 2) echo \"{\\\"id\\\":$id,\\\"status\\\":\\\"timeout\\\"}\";;"
        " 3) echo \"{\\\"id\\\":$id,\\\"status\\\":\\\"error\\\",\\\"message\\\":\\\"no\\\"}\";;"
        " 4) echo \"{\\\"id\\\":$id,\\\"status\\\":\\\"abstain\\\",\\\"score\\\":3}\";;"
        " *) echo \"{\\\"id\\\":$id,\\\"status\\\":\\\"ok\\\",\\\"score\\\":-2}\";; esac; done";
    expect(script, 5000, "ateao");
    assert_true(values[4] == -2.0f);
}

/* The first answer of each life is bad, so each start settles exactly one request. */
static void test_garbage(void **state)
{
    (void)state;
    expect("read -r line; echo hello; sleep 9", 5000, "eee");
    expect("read -r line; echo '[1]'; sleep 9", 5000, "e");
    expect("read -r line; echo '{\"score\":1}'; sleep 9", 5000, "e");
    expect("read -r line; echo '{\"id\":\"1\",\"score\":1}'; sleep 9", 5000, "e");
    expect("read -r line; echo '{\"id\":1}'; sleep 9", 5000, "e");
    expect("read -r line; echo '{\"id\":1,\"score\":\"1\"}'; sleep 9", 5000, "e");
    expect("read -r line; echo '{\"id\":1,\"score\":NaN}'; sleep 9", 5000, "e");
    expect("read -r line; echo '{\"id\":1,\"score\":Infinity}'; sleep 9", 5000, "e");
    expect("read -r line; echo '{\"id\":1,\"score\":1e300}'; sleep 9", 5000, "e");
    expect("read -r line; echo '{\"id\":1,\"score\":null,\"status\":\"ok\"}'; sleep 9", 5000, "e");
    expect("read -r line; echo '{\"id\":1,\"status\":\"fine\",\"score\":1}'; sleep 9", 5000, "e");
    expect("read -r line; echo '{\"id\":77,\"score\":1}'; sleep 9", 5000, "e");
    expect("read -r line; printf '{\"id\":1,\\0\"score\":1}\\n'; sleep 9", 5000, "e");
}

static void test_answering_twice(void **state)
{
    (void)state;
    static const char script[] =
        "while read -r line; do " ID "echo \"{\\\"id\\\":$id,\\\"score\\\":1}\";"
        "echo \"{\\\"id\\\":$id,\\\"score\\\":1}\"; done";
    char got[4] = "";
    struct command_reward *command = start(script, 5000);
    score(command, 3);
    for (int i = 0; i < 3; i++)
        got[i] = "oate"[statuses[i]];
    command_reward_destroy(command);
    assert_string_equal(got,
                        "oeo"); /* the second answer to 1 is blamed on 2; 3 goes to a new process */
}

static void test_deaths(void **state)
{
    (void)state;
    expect("exit 3", 5000, "ee");
    expect("read -r line; kill -9 $$", 5000, "e");
    expect("exec 1>&-; sleep 9", 5000, "e"); /* closes stdout and lives on */
    /* Answers one and dies: the rest goes to the next life; only the one it dies on is lost. */
    expect("read -r line; " ID "echo \"{\\\"id\\\":$id,\\\"score\\\":1}\"", 5000, "oeoeoe");
}

static void test_hangs(void **state)
{
    (void)state;
    int64_t took = expect("sleep 60", 200, "tt");
    assert_in_range(took, 350, 30000);
    took = expect("while :; do :; done", 200, "t"); /* never reads */
    assert_in_range(took, 190, 30000);
    expect("exec 0<&-; sleep 60", 200, "t"); /* closes stdin */
    expect("exec 2>&-; sleep 60", 200, "t"); /* closes stderr */
    expect("trap '' TERM HUP INT; sleep 60 & wait", 200, "t");
    /* Fast but for one request in three. */
    expect("n=0; while read -r line; do " ID
           "n=$((n+1)); [ $id = 2 ] && sleep 9; echo \"{\\\"id\\\":$id,\\\"score\\\":1}\"; done",
           1500, "oto");
}

/* More request bytes than a pipe holds, while the command writes as much: nobody may wait for the
 * other. */
static void test_no_deadlock_on_full_pipes(void **state)
{
    (void)state;
    struct text big;
    text_init(&big);
    for (int i = 0; i < 300000; i++)
        text_append_char(&big, 'x');
    for (int i = 0; i < COUNT; i++)
        inputs[i].completion = big.data;
    expect("while read -r line; do " ID "head -c 200000 /dev/zero | tr '\\0' ' ';"
           "head -c 100000 /dev/zero | tr '\\0' 'e' >&2;"
           "echo \"{\\\"id\\\":$id,\\\"score\\\":1}\"; done",
           20000, "oooooo");
    text_release(&big);
}

static void test_long_lines(void **state)
{
    (void)state;
    expect("read -r line; head -c 2000000 /dev/zero | tr '\\0' 'x'; echo; sleep 9", 5000, "e");
    expect("read -r line; head -c 2000000 /dev/zero | tr '\\0' ' '; sleep 9", 5000, "e");
}

/* Children of the command are in its group and die with it. */
static void test_whole_group_is_killed(void **state)
{
    (void)state;
    char path[] = "/tmp/hone_test_group_XXXXXX", script[256];
    int fd = mkstemp(path), pid = 0;
    assert_true(fd >= 0);
    close(fd);
    snprintf(script, sizeof script, "sleep 60 & echo $! >%s; wait", path);
    expect(script, 1500, "t");
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%d", &pid), 1);
    fclose(file);
    unlink(path);
    for (int i = 0; i < 1000 && kill(pid, 0) == 0; i++) {
        char stat[64], state_letter = '?';
        snprintf(stat, sizeof stat, "/proc/%d/stat", pid);
        FILE *proc = fopen(stat, "r"); /* nobody may have reaped it: a zombie is dead too */
        if (proc == NULL || fscanf(proc, "%*d %*s %c", &state_letter) == 1) {
            if (proc != NULL)
                fclose(proc);
            if (proc == NULL || state_letter == 'Z')
                return;
        } else {
            fclose(proc);
        }
        clock_sleep_ms(10);
    }
    assert_int_not_equal(kill(pid, 0), 0);
}

/* With the starts spent, requests fail at once; answers earn starts back. */
static void test_budget(void **state)
{
    (void)state;
    struct command_reward *command = start("exit 1", 60000);
    int64_t begin = 0;
    for (int i = 0; i < COMMAND_START_BUDGET + 1; i++) {
        score(command, 1);
        assert_int_equal(statuses[0], REWARD_ERROR);
    }
    begin = clock_now_ms(clock_system());
    score(command, COUNT);
    assert_in_range(clock_now_ms(clock_system()) - begin, 0, 30000);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(statuses[i], REWARD_ERROR);
    command_reward_destroy(command);
}

static void test_cannot_start(void **state)
{
    (void)state;
    static const char *const missing[] = {"/nonexistent/reward", NULL};
    static const char *const in_path[] = {"hone-no-such-program", NULL};
    static const char *const plain[] = {"/etc/passwd", NULL};
    static const char *const none[] = {NULL};
    struct command_reward *command;
    assert_int_equal(command_reward_create(&command, "length", missing, 100, clock_system()),
                     HONE_ENOENT);
    assert_non_null(strstr(error_message(), "length"));
    assert_non_null(strstr(error_message(), "/nonexistent/reward"));
    assert_null(command);
    assert_int_equal(command_reward_create(&command, "a", in_path, 100, clock_system()),
                     HONE_ENOENT);
    assert_true(command_reward_create(&command, "a", plain, 100, clock_system()) < 0);
    assert_non_null(strstr(error_message(), "Permission denied"));
    assert_int_equal(command_reward_create(&command, "a", none, 100, clock_system()), HONE_EINVAL);
    assert_int_equal(command_reward_create(&command, "a", missing, 0, clock_system()), HONE_EINVAL);
}

static void test_shipped_example(void **state)
{
    (void)state;
    static const char *const argv[] = {"python3", "examples/rewards/length_reward.py", "8", NULL};
    struct command_reward *command;
    if (system("python3 -c 1 >/dev/null 2>&1") != 0) {
        print_message("no python3: the example is not run\n");
        skip();
    }
    assert_int_equal(command_reward_create(&command, "length", argv, 20000, clock_system()), 0);
    inputs[1].completion_id_count = 0;
    inputs[2].finish = FINISH_ABORT;
    score(command, 3);
    assert_int_equal(statuses[0], REWARD_OK);
    assert_true(values[0] == 0.5f); /* 4 of 8 tokens */
    assert_int_equal(statuses[1], REWARD_OK);
    assert_true(values[1] == 0.0f);
    assert_int_equal(statuses[2], REWARD_ABSTAIN);
    command_reward_destroy(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_answers, set_up),
        cmocka_unit_test_setup(test_request_holds_everything, set_up),
        cmocka_unit_test_setup(test_out_of_order, set_up),
        cmocka_unit_test_setup(test_stated_statuses, set_up),
        cmocka_unit_test_setup(test_garbage, set_up),
        cmocka_unit_test_setup(test_answering_twice, set_up),
        cmocka_unit_test_setup(test_deaths, set_up),
        cmocka_unit_test_setup(test_hangs, set_up),
        cmocka_unit_test_setup(test_no_deadlock_on_full_pipes, set_up),
        cmocka_unit_test_setup(test_long_lines, set_up),
        cmocka_unit_test_setup(test_whole_group_is_killed, set_up),
        cmocka_unit_test_setup(test_budget, set_up),
        cmocka_unit_test_setup(test_cannot_start, set_up),
        cmocka_unit_test_setup(test_shipped_example, set_up),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

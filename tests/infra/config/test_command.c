#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"
#include "infra/base/text.h"
#include "infra/config/command.h"

static struct command_line seen;
static int result;

static int remember(const struct command_line *line)
{
    seen = *line;
    if (result < 0)
        return error_set(result, "the reason");
    return result;
}

static const struct command_option options[] = {
    {.name = "set", .value = "KEY=VALUE", .help = "override [a] key", .repeated = true},
    {.name = "steps", .value = "N", .help = "how many", .default_text = "7"},
    {.name = "rate", .value = "R", .help = "how fast"},
    {.name = "kind", .value = "one|two", .help = "which one it's"},
    {.name = "quiet", .help = "say less"},
    {0}};

static const struct command table[] = {
    {"run", "RECIPE [KEY=VALUE ...]", "run a recipe", "Long\n.text with a \\ in it.", options, 1,
     -1, remember},
    {"data make", "", "make data", NULL, NULL, 0, 0, remember},
    {"shell", "bash|zsh|fish", "print it", NULL, NULL, 1, 1, remember},
    {0}};

struct capture {
    int status;
    char *out, *err;
};

/* `seen` points into argv, which therefore lives until the next dispatch. */
static char *argv[16];

static void free_words(void)
{
    for (int i = 0; i < 16; i++) {
        memory_free(argv[i]);
        argv[i] = NULL;
    }
}

/* Runs the dispatcher with stdout and stderr going to files. */
static struct capture dispatch(const char *const *words, int count)
{
    struct capture capture = {0};
    char out[] = "/tmp/hone_out_XXXXXX", err[] = "/tmp/hone_err_XXXXXX";
    size_t bytes;
    free_words();
    argv[0] = memory_strdup("/usr/bin/hone");
    for (int i = 0; i < count; i++)
        argv[i + 1] = memory_strdup(words[i]);
    fflush(stdout);
    fflush(stderr);
    int out_fd = mkstemp(out), err_fd = mkstemp(err);
    int old_out = dup(1), old_err = dup(2);
    dup2(out_fd, 1);
    dup2(err_fd, 2);
    memset(&seen, 0, sizeof seen);
    capture.status = command_dispatch(table, count + 1, argv);
    fflush(stdout);
    fflush(stderr);
    dup2(old_out, 1);
    dup2(old_err, 2);
    close(old_out);
    close(old_err);
    close(out_fd);
    close(err_fd);
    assert_int_equal(file_read(out, 1 << 20, &capture.out, &bytes), 0);
    assert_int_equal(file_read(err, 1 << 20, &capture.err, &bytes), 0);
    unlink(out);
    unlink(err);
    return capture;
}

#define WORDS(...)                                                                                 \
    (const char *const[]){__VA_ARGS__},                                                            \
        (int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

static void release(struct capture *capture)
{
    memory_free(capture->out);
    memory_free(capture->err);
}

static void expect(struct capture capture, int status, const char *out, const char *err)
{
    if (out && !strstr(capture.out, out))
        fail_msg("expected '%s' in '%s'", out, capture.out);
    if (err && !strstr(capture.err, err))
        fail_msg("expected '%s' in '%s'", err, capture.err);
    assert_int_equal(capture.status, status);
    release(&capture);
}

static int tear_down(void **state)
{
    (void)state;
    free_words();
    return 0;
}

static void test_values_and_positionals(void **state)
{
    (void)state;
    int64_t steps = 0;
    double rate = 0;
    result = 0;
    expect(dispatch(WORDS("run", "r.yaml", "--set", "a=1", "b=2", "--set=c=3", "--quiet", "--rate",
                          "-2.5e-1", "--", "--steps")),
           0, NULL, NULL);
    assert_int_equal(seen.positional_count, 3);
    assert_string_equal(seen.positional[0], "r.yaml");
    assert_string_equal(seen.positional[1], "b=2");
    assert_string_equal(seen.positional[2], "--steps");
    assert_string_equal(command_value_at(&seen, "set", 0), "a=1");
    assert_string_equal(command_value_at(&seen, "set", 1), "c=3");
    assert_null(command_value_at(&seen, "set", 2));
    assert_string_equal(command_value(&seen, "set"), "c=3");
    assert_true(command_flag(&seen, "quiet"));
    assert_int_equal(command_int(&seen, "steps", 1, 10, &steps), 0);
    assert_int_equal(steps, 7);
    assert_int_equal(command_int(&seen, "steps", 1, 6, &steps), HONE_EINVAL);
    assert_string_equal(error_message(), "--steps: expected an integer from 1 to 6, got '7'");
    assert_int_equal(command_float(&seen, "rate", -1, 1, &rate), 0);
    assert_true(rate == -0.25);
    assert_int_equal(command_float(&seen, "rate", 0, 1, &rate), HONE_EINVAL);
    assert_null(command_value(&seen, "kind"));

    expect(dispatch(WORDS("data", "make")), 0, NULL, NULL);
    assert_string_equal(seen.command->name, "data make");
    expect(dispatch(WORDS("run", "-", "-1")), 0, NULL, NULL);
    assert_string_equal(seen.positional[0], "-");
    assert_string_equal(seen.positional[1], "-1");
}

static void test_bad_numbers(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "x", "1x", " 1", "0x5", "99999999999999999999", "1.5"};
    int64_t steps;
    double rate;
    result = 0;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        expect(dispatch(WORDS("run", "r", "--steps", bad[i])), 0, NULL, NULL);
        assert_int_equal(command_int(&seen, "steps", INT64_MIN, INT64_MAX, &steps), HONE_EINVAL);
    }
    static const char *const bad_float[] = {"", "inf", "nan", "0x1", "1e999", "1.5.2", "1,5"};
    for (size_t i = 0; i < sizeof bad_float / sizeof *bad_float; i++) {
        expect(dispatch(WORDS("run", "r", "--rate", bad_float[i])), 0, NULL, NULL);
        assert_int_equal(command_float(&seen, "rate", -1e300, 1e300, &rate), HONE_EINVAL);
    }
}

static void test_usage_errors(void **state)
{
    (void)state;
    expect(dispatch(NULL, 0), 2, NULL, "usage: hone COMMAND");
    expect(dispatch(WORDS("rum")), 2, NULL, "hone: unknown command 'rum' (did you mean 'run'?)\n");
    expect(dispatch(WORDS("zzzzz")), 2, NULL, "hone: unknown command 'zzzzz'\n");
    expect(dispatch(WORDS("run")), 2, NULL, "hone: run needs RECIPE [KEY=VALUE ...]\n");
    expect(dispatch(WORDS("run", "r", "--stpes=3")), 2, NULL,
           "hone: unknown option '--stpes' (did you mean '--steps'?)\n'hone run --help' shows");
    expect(dispatch(WORDS("run", "r", "--steps")), 2, NULL, "hone: --steps needs a value (N)\n");
    expect(dispatch(WORDS("run", "r", "--steps", "--quiet")), 2, NULL, "--steps needs a value");
    expect(dispatch(WORDS("run", "r", "--quiet=1")), 2, NULL, "hone: --quiet takes no value\n");
    expect(dispatch(WORDS("run", "r", "-q")), 2, NULL, "hone: unknown option '-q'\n");
    expect(dispatch(WORDS("data", "make", "x")), 2, NULL, "hone: unexpected argument 'x'\n");
    expect(dispatch(WORDS("data", "makes")), 2, NULL, "hone: unknown command 'data'\n");
}

static void test_help_and_version(void **state)
{
    (void)state;
    expect(dispatch(WORDS("--version")), 0, "hone " HONE_VERSION "\n", NULL);
    expect(dispatch(WORDS("--help")), 0, "  data make  make data\n", NULL);
    expect(dispatch(WORDS("help")), 0, "  run        run a recipe\n", NULL);
    expect(dispatch(WORDS("run", "--help")), 0,
           "usage: hone run [options] RECIPE [KEY=VALUE ...]\n", NULL);
    expect(dispatch(WORDS("help", "run")), 0, "  --steps N                 how many (default: 7)\n",
           NULL);
    expect(dispatch(WORDS("help", "data", "make")), 0, "usage: hone data make\n", NULL);
    expect(dispatch(WORDS("help", "rum")), 2, NULL, "did you mean 'run'");
}

static void test_exit_status_of_errors(void **state)
{
    (void)state;
    result = HONE_ENOSPC;
    expect(dispatch(WORDS("run", "r")), 4, NULL, "hone: the reason\n");
    result = HONE_EFORMAT;
    expect(dispatch(WORDS("run", "r")), 3, NULL, "hone: the reason\n");
    result = 5;
    expect(dispatch(WORDS("run", "r")), 0, NULL, NULL);
    result = 0;
}

static char *written(void (*write)(FILE *out))
{
    char *data = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&data, &bytes);
    assert_non_null(out);
    write(out);
    fclose(out);
    return data;
}

static void write_man(FILE *out)
{
    command_man_page(table, out);
}

static void write_bash(FILE *out)
{
    assert_int_equal(command_completion(table, "bash", out), 0);
}

static void write_zsh(FILE *out)
{
    assert_int_equal(command_completion(table, "zsh", out), 0);
}

static void write_fish(FILE *out)
{
    assert_int_equal(command_completion(table, "fish", out), 0);
}

static void test_man_page(void **state)
{
    (void)state;
    char *page = written(write_man);
    assert_non_null(strstr(page, ".SS \"hone run RECIPE [KEY=VALUE ...]\"\n"));
    assert_non_null(strstr(page, "\\fB\\-\\-steps\\fR \\fIN\\fR\nhow many (default: 7)\n"));
    assert_non_null(strstr(page, "Long\n\\&.text with a \\e in it.\n"));
    free(page);
}

/* Whether the shell, when it is installed, accepts the script; -n parses without running. */
static void expect_parses(const char *shell, const char *script)
{
    char path[] = "/tmp/hone_script_XXXXXX";
    char command[128];
    snprintf(command, sizeof command, "command -v %s >/dev/null", shell);
    if (system(command) != 0) {
        print_message("%s is not installed: its script is not parsed\n", shell);
        return;
    }
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(file_append(path, script, strlen(script)), 0);
    snprintf(command, sizeof command, "%s -n %s", shell, path);
    assert_int_equal(system(command), 0);
    unlink(path);
}

static void test_completion(void **state)
{
    (void)state;
    char *script = written(write_bash);
    assert_non_null(strstr(script, "'run') words='--help --set --steps --rate --kind --quiet'"));
    assert_non_null(strstr(script, "'shell') words='--help bash zsh fish'"));
    expect_parses("bash", script);
    free(script);
    script = written(write_zsh);
    assert_non_null(strstr(script, "'*--set[override \\[a\\] key]"));
    assert_non_null(strstr(script, "'--kind[which one it'\\''s]:value:(one two)'"));
    expect_parses("zsh", script);
    free(script);
    script = written(write_fish);
    assert_non_null(strstr(script, "-l kind -x -a 'one two' -d 'which one it"));
    expect_parses("fish", script);
    free(script);
    assert_int_equal(command_completion(table, "csh", stdout), HONE_EINVAL);
}

/* The bash script run by bash: the candidates for "hone shell z". */
static void test_bash_completes(void **state)
{
    (void)state;
    char path[] = "/tmp/hone_bash_XXXXXX";
    char command[512];
    char *script = written(write_bash);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(file_append(path, script, strlen(script)), 0);
    snprintf(command, sizeof command,
             "bash -c 'cd /; . %s; COMP_WORDS=(hone shell z); COMP_CWORD=2; _hone; "
             "[ \"${COMPREPLY[*]}\" = zsh ] && COMP_WORDS=(hone r) COMP_CWORD=1 && _hone && "
             "[ \"${COMPREPLY[*]}\" = run ]'",
             path);
    assert_int_equal(system(command), 0);
    unlink(path);
    free(script);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_values_and_positionals),
                                       cmocka_unit_test(test_bad_numbers),
                                       cmocka_unit_test(test_usage_errors),
                                       cmocka_unit_test(test_help_and_version),
                                       cmocka_unit_test(test_exit_status_of_errors),
                                       cmocka_unit_test(test_man_page),
                                       cmocka_unit_test(test_completion),
                                       cmocka_unit_test(test_bash_completes)};
    return cmocka_run_group_tests(tests, NULL, tear_down);
}

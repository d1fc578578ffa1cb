#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <pty.h>
#include <string.h>
#include <unistd.h>

#include "infra/telemetry/progress.h"

static int64_t now_ns;
static struct clock fake;
static char *drawn;
static size_t drawn_bytes;

static struct progress_sink sink(bool is_terminal, bool has_color, int columns)
{
    free(drawn);
    drawn = NULL;
    now_ns = 1000000000;
    fake = clock_fake(&now_ns);
    FILE *out = open_memstream(&drawn, &drawn_bytes);
    assert_non_null(out);
    return (struct progress_sink){.out = out,
                                  .is_terminal = is_terminal,
                                  .has_color = has_color,
                                  .columns = columns,
                                  .clock = &fake};
}

static void advance_ms(int64_t ms)
{
    now_ns += ms * 1000000;
}

static int count_of(const char *text, char c)
{
    int count = 0;
    for (; *text; text++)
        count += *text == c;
    return count;
}

static void test_plain_lines(void **state)
{
    (void)state;
    struct progress_sink to = sink(false, false, 80);
    struct progress *progress = progress_create_on(&to, "rl", "steps", 100);
    for (int i = 0; i <= 20; i++) {
        progress_update(progress, i, "loss 1.5");
        advance_ms(1000);
    }
    fflush(to.out);
    assert_string_equal(drawn, "rl: 5/100 steps 00:05<01:35 1 steps/s loss 1.5\n"
                               "rl: 10/100 steps 00:10<01:30 1 steps/s loss 1.5\n"
                               "rl: 15/100 steps 00:15<01:25 1 steps/s loss 1.5\n"
                               "rl: 20/100 steps 00:20<01:20 1 steps/s loss 1.5\n");
    progress_finish(progress, "stopped\nearly");
    fclose(to.out);
    assert_non_null(strstr(drawn, "\nrl: 20/100 steps 00:21 0.95 steps/s stopped early\n"));
    assert_null(strchr(drawn, '\r'));
    assert_null(strchr(drawn, '\033'));
}

static void test_short_work_prints_one_line(void **state)
{
    (void)state;
    struct progress_sink to = sink(false, false, 80);
    struct progress *progress = progress_create_on(&to, "eval", "samples", 0);
    for (int i = 0; i <= 500; i++)
        progress_update(progress, i, NULL);
    advance_ms(500);
    progress_finish(progress, NULL);
    fclose(to.out);
    assert_string_equal(drawn, "eval: 500 samples 00:00 1000 samples/s\n");
}

static void test_resumed_work_has_an_honest_rate(void **state)
{
    (void)state;
    struct progress_sink to = sink(false, false, 80);
    struct progress *progress = progress_create_on(&to, "sft", "steps", 1000);
    progress_update(progress, 900, NULL);
    advance_ms(10000);
    progress_update(progress, 910, NULL);
    progress_finish(progress, NULL);
    fclose(to.out);
    assert_non_null(strstr(drawn, "910/1000 steps 00:10<01:30 1 steps/s\n"));
}

static void test_bar(void **state)
{
    (void)state;
    struct progress_sink to = sink(true, false, 80);
    struct progress *progress = progress_create_on(&to, "sft", "steps", 4);
    progress_update(progress, 1, NULL);
    fflush(to.out);
    assert_string_equal(drawn, "\rsft [=====>              ]  25% 1/4 steps 00:00<?\033[K");
    advance_ms(99);
    progress_update(progress, 2, NULL);
    fflush(to.out);
    assert_int_equal(count_of(drawn, '\r'), 1);
    advance_ms(3600000);
    progress_update(progress, 3, "loss 2");
    fflush(to.out);
    assert_non_null(strstr(drawn, "\rsft [===============>    ]  75% 3/4 steps 1:00:00<30:00 "
                                  "0.00056 steps/s loss 2\033[K"));
    progress_update(progress, 9, NULL);
    progress_finish(progress, NULL);
    fclose(to.out);
    assert_non_null(strstr(drawn, "\rsft [====================] 100% 9/4 steps 1:00:00 "));
    assert_int_equal(count_of(drawn, '\n'), 1);
}

static void test_at_most_ten_redraws_a_second(void **state)
{
    (void)state;
    struct progress_sink to = sink(true, false, 80);
    struct progress *progress = progress_create_on(&to, "x", "y", 3000);
    for (int i = 0; i < 3000; i++) {
        progress_update(progress, i, NULL);
        advance_ms(1);
    }
    fflush(to.out);
    assert_int_equal(count_of(drawn, '\r'), 30);
    progress_finish(progress, NULL);
    fclose(to.out);
}

static void test_bar_fits_the_terminal(void **state)
{
    (void)state;
    for (int columns = 2; columns < 70; columns++) {
        struct progress_sink to = sink(true, true, columns);
        struct progress *progress = progress_create_on(&to, "st\xC3\xA4ge", "steps", 10);
        progress_update(progress, 5, "d\xC3\xA9tail \033[31m that is very long indeed");
        progress_finish(progress, NULL);
        fclose(to.out);
        int width = 0;
        for (const char *c = drawn + 1; *c && *c != '\r'; c++) {
            if (*c == '\033') {
                c += strcspn(c, "mK"); /* the sequences that the bar itself writes */
                continue;
            }
            width += ((unsigned char)*c & 0xC0) != 0x80;
        }
        assert_true(width <= columns - 1);
        assert_null(strstr(drawn, "\033[31m"));
    }
}

static void test_color(void **state)
{
    (void)state;
    struct progress_sink to = sink(true, true, 80);
    struct progress *progress = progress_create_on(&to, "a", "b", 2);
    progress_update(progress, 2, NULL);
    progress_finish(progress, NULL);
    fclose(to.out);
    assert_non_null(strstr(drawn, "\ra \033[36m[====================]\033[0m 100% 2/2 b 00:00"));
    free(drawn);
    drawn = NULL;
}

/* What progress_create draws on a pseudo-terminal of 60 columns, under TERM and NO_COLOR. */
static void draw_on_terminal(const char *term, const char *no_color, char *seen, size_t capacity)
{
    struct winsize size = {.ws_row = 24, .ws_col = 60};
    int master, slave;
    setenv("TERM", term, 1);
    if (no_color)
        setenv("NO_COLOR", no_color, 1);
    else
        unsetenv("NO_COLOR");
    assert_int_equal(openpty(&master, &slave, NULL, NULL, &size), 0);
    fflush(stderr);
    int saved = dup(STDERR_FILENO);
    dup2(slave, STDERR_FILENO);
    struct progress *progress = progress_create("a", "steps", 2);
    progress_update(progress, 1, "a detail that makes the line longer than sixty columns");
    progress_finish(progress, NULL);
    dup2(saved, STDERR_FILENO);
    close(saved);
    size_t length = 0;
    while (length == 0 || seen[length - 1] != '\n') {
        assert_true(length + 1 < capacity);
        ssize_t got = read(master, seen + length, capacity - 1 - length);
        assert_true(got > 0);
        length += (size_t)got;
    }
    seen[length] = '\0';
    close(slave);
    close(master);
}

static void test_terminal_is_recognised(void **state)
{
    (void)state;
    char seen[4096];
    draw_on_terminal("xterm", NULL, seen, sizeof seen);
    assert_non_null(strstr(seen, "\ra \033[36m[====="));
    assert_null(strstr(seen, "sixty"));
    draw_on_terminal("xterm", "1", seen, sizeof seen);
    assert_non_null(strstr(seen, "\ra [====="));
    assert_null(strstr(seen, "\033[36m"));
    draw_on_terminal("dumb", NULL, seen, sizeof seen);
    assert_string_equal(seen, "a: 1/2 steps 00:00\r\n"); /* the terminal adds the return */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_plain_lines),
                                       cmocka_unit_test(test_short_work_prints_one_line),
                                       cmocka_unit_test(test_resumed_work_has_an_honest_rate),
                                       cmocka_unit_test(test_bar),
                                       cmocka_unit_test(test_at_most_ten_redraws_a_second),
                                       cmocka_unit_test(test_bar_fits_the_terminal),
                                       cmocka_unit_test(test_color),
                                       cmocka_unit_test(test_terminal_is_recognised)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

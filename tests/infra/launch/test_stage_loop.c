/* The loop: ticks until finished, sleeps on sockets, stops on a signal, dies with its parent. Cases
 * with signals run in a child: once asked to stop, a process stays asked. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "infra/base/clock.h"
#include "infra/base/error.h"
#include "infra/launch/stage_loop.h"

struct counter {
    int ticks, finish_at, fail_at;
    bool busy;
    int timeout_ms;
    struct wire_server *server;
    int received;
};

static int count_tick(void *stage, struct stage_wait *wait)
{
    struct counter *counter = stage;
    counter->ticks++;
    wait->busy = counter->busy;
    wait->timeout_ms = counter->timeout_ms;
    wait->finished = counter->ticks == counter->finish_at;
    if (counter->ticks == counter->fail_at)
        return error_set(HONE_EFORMAT, "tick %d", counter->ticks);
    if (counter->server) {
        struct wire_peer from;
        struct wire_message message;
        wait->servers[wait->server_count++] = counter->server;
        while (wire_server_receive(counter->server, &from, &message) == 1) {
            counter->received++;
            wire_message_release(&message);
        }
        wait->finished = counter->received > 0;
    }
    return 0;
}

static void test_finishes_or_fails(void **state)
{
    (void)state;
    struct counter counter = {.finish_at = 1000, .busy = true};
    assert_int_equal(stage_loop_run(&counter, count_tick), 0);
    assert_int_equal(counter.ticks, 1000);
    counter = (struct counter){.fail_at = 3, .timeout_ms = 1};
    assert_int_equal(stage_loop_run(&counter, count_tick), HONE_EFORMAT);
    assert_string_equal(error_message(), "tick 3");
    assert_int_equal(counter.ticks, 3);
    assert_false(stage_loop_interrupted());
}

static void test_sleeps_between_ticks(void **state)
{
    (void)state;
    struct counter counter = {.finish_at = 6, .timeout_ms = 20};
    int64_t before = clock_now_ms(clock_system());
    assert_int_equal(stage_loop_run(&counter, count_tick), 0);
    assert_true(clock_now_ms(clock_system()) - before >= 5 * 20 - 5);
}

static void test_wakes_for_a_message(void **state)
{
    (void)state;
    struct wire_context *context = wire_context_create();
    struct counter counter = {.timeout_ms = 100000};
    struct wire_client *client;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__ScoreAck ack = HONE__SCORE_ACK__INIT;
    envelope.kind = HONE__KIND__KIND_SCORE_ACK;
    envelope.score_ack = &ack;
    assert_int_equal(wire_server_create(&counter.server, context, "inproc://loop"), 0);
    assert_int_equal(wire_client_create(&client, context, "inproc://loop", "actor-0"), 0);
    assert_int_equal(wire_client_send(client, &envelope, NULL, 0), 0);
    assert_int_equal(stage_loop_run(&counter, count_tick), 0);
    assert_int_equal(counter.received, 1);
    wire_client_destroy(client);
    wire_server_destroy(counter.server);
    wire_context_destroy(context);
}

/* Starts a child whose loop never ends by itself; its exit status says how it did. */
static pid_t start_endless(bool on_socket)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    struct wire_context *context = wire_context_create();
    struct counter counter = {.timeout_ms = 100000};
    if (on_socket && wire_server_create(&counter.server, context, "inproc://endless") < 0)
        _exit(90);
    int rc = stage_loop_run(&counter, count_tick);
    _exit(rc == HONE_EINTERRUPTED && stage_loop_interrupted() ? error_exit_status(rc) : 91);
}

static void expect_exit(pid_t pid, int expected)
{
    int status = 0;
    int64_t deadline = clock_now_ms(clock_system()) + 30000;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (clock_now_ms(clock_system()) > deadline) {
            kill(pid, SIGKILL);
            fail_msg("the loop did not end");
        }
        clock_sleep_ms(5);
    }
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), expected);
}

static void test_stops_on_a_signal(void **state)
{
    (void)state;
    static const int signals[] = {SIGTERM, SIGINT};
    for (int i = 0; i < 4; i++) {
        pid_t pid = start_endless(i >= 2);
        assert_true(pid > 0);
        clock_sleep_ms(100);
        assert_int_equal(kill(pid, SIGPIPE), 0); /* harmless */
        assert_int_equal(kill(pid, signals[i % 2]), 0);
        expect_exit(pid, 130);
    }
}

static void test_does_not_outlive_its_parent(void **state)
{
    (void)state;
    int ends[2];
    char byte;
    assert_int_equal(pipe(ends), 0);
    fflush(stdout);
    pid_t middle = fork();
    assert_true(middle >= 0);
    if (middle == 0) {
        char parent[16];
        snprintf(parent, sizeof parent, "%d", (int)getpid());
        setenv("HONE_PARENT_PID", parent, 1);
        if (start_endless(false) < 0)
            _exit(1);
        for (;;)
            pause();
    }
    close(ends[1]);
    clock_sleep_ms(200);
    kill(middle, SIGKILL);
    assert_int_equal(waitpid(middle, NULL, 0), middle);
    /* End of file comes when the last process that holds the other end is gone. */
    alarm(10);
    assert_int_equal(read(ends[0], &byte, 1), 0);
    alarm(0);
    close(ends[0]);
    setenv("HONE_PARENT_PID", "1", 1); /* not our parent: it is gone already */
    struct counter counter = {.finish_at = 1};
    assert_int_equal(stage_loop_run(&counter, count_tick), HONE_EINTERRUPTED);
    assert_int_equal(counter.ticks, 0);
    unsetenv("HONE_PARENT_PID");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stops_on_a_signal), /* first: it forks, and threads come later */
        cmocka_unit_test(test_does_not_outlive_its_parent),
        cmocka_unit_test(test_finishes_or_fails),
        cmocka_unit_test(test_sleeps_between_ticks),
        cmocka_unit_test(test_wakes_for_a_message),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

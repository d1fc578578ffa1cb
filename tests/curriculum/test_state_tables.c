/* The state machines of groups, samples, leases and batches: every move that their tables name, and
 * no other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "curriculum/group_table.h"
#include "curriculum/hub.h"
#include "curriculum/lease_table.h"

typedef void (*move)(int from, int to, int variant);

/* In a child process, because a forbidden move is a bug and ends it. */
static bool is_allowed(move try_move, int from, int to, int variant)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        signal(SIGABRT, SIG_DFL);
        if (freopen("/dev/null", "w", stderr) == NULL)
            _exit(3);
        try_move(from, to, variant);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status))
        assert_int_equal(WEXITSTATUS(status), 0);
    return WIFEXITED(status);
}

/* allowed: a string per state, '1' where the move to that state exists. */
static void check_table(const char *what, move try_move, const char *const *allowed, int states,
                        int variant)
{
    for (int from = 0; from < states; from++) {
        assert_int_equal(strlen(allowed[from]), states);
        for (int to = 0; to < states; to++)
            if (is_allowed(try_move, from, to, variant) != (allowed[from][to] == '1'))
                fail_msg("%s: the move from %d to %d is %s (variant %d)", what, from, to,
                         allowed[from][to] == '1' ? "forbidden" : "allowed", variant);
    }
}

/* variant: 0 all samples scored; 1 a sample is missing; 2, 3 the same with the reason abandoned. */
static void move_group(int from, int to, int variant)
{
    struct group_table table;
    group_table_init(&table);
    struct group *group = group_table_add(&table, 0, 0, 1);
    if (variant % 2 == 0)
        sample_restore(group, &group->samples[0], SAMPLE_SCORED);
    group->reason = variant >= 2 ? DROP_ABANDONED : DROP_STALE;
    group->state = (enum group_state)from;
    group_table_move(&table, group, (enum group_state)to);
    if (group->state != (enum group_state)to || table.state_count[to] != 1)
        _exit(4);
}

static void test_groups(void **state)
{
    (void)state;
    static const char *const complete[] = {"01000", "00101", "00010", "00000", "00000"};
    static const char *const incomplete[] = {"00000", "00000", "00000", "00000", "00000"};
    static const char *const abandoned[] = {"01001", "00100", "00010", "00000", "00000"};
    static const char *const abandoned_incomplete[] = {"00001", "00000", "00000", "00000", "00000"};
    check_table("group", move_group, complete, 5, 0);
    check_table("group", move_group, incomplete, 5, 1);
    check_table("group", move_group, abandoned, 5, 2);
    check_table("group", move_group, abandoned_incomplete, 5, 3);
}

static void move_sample(int from, int to, int variant)
{
    struct group_table table;
    (void)variant;
    group_table_init(&table);
    struct group *group = group_table_add(&table, 0, 0, 1);
    sample_restore(group, &group->samples[0], (enum sample_state)from);
    sample_move(group, &group->samples[0], (enum sample_state)to);
    if (group->samples[0].state != (enum sample_state)to || group->sample_count[to] != 1 ||
        table.sample_count[to] != 1 || group->sample_count[from] != 0)
        _exit(4);
}

static void test_samples(void **state)
{
    (void)state;
    static const char *const allowed[] = {"01000", "10101", "00011", "00101", "00000"};
    check_table("sample", move_sample, allowed, 5, 0);
}

static void move_lease_between(int from, int to, int variant)
{
    struct lease lease = {.state = (enum lease_state)from};
    (void)variant;
    lease_move(&lease, (enum lease_state)to);
    if (lease.state != (enum lease_state)to)
        _exit(4);
}

static void remove_lease(int from, int to, int variant)
{
    struct lease_table table;
    struct lease lease = {.state = (enum lease_state)from, .id = 1};
    (void)to, (void)variant;
    lease_table_init(&table);
    lease_table_remove(&table, lease_table_add(&table, &lease));
    if (table.count != 0)
        _exit(4);
}

static void test_leases(void **state)
{
    (void)state;
    static const char *const allowed[] = {"0111", "1011", "0000", "0000"};
    check_table("lease", move_lease_between, allowed, 4, 0);
    for (int from = LEASE_QUEUED; from <= LEASE_TAKEN; from++)
        assert_int_equal(is_allowed(remove_lease, from, 0, 0), from >= LEASE_FILLED);
}

static void move_batch(int from, int to, int variant)
{
    struct batch_entry batch = {.state = (enum batch_state)from};
    (void)variant;
    batch_move(&batch, (enum batch_state)to);
    if (batch.state != (enum batch_state)to)
        _exit(4);
}

static void test_batches(void **state)
{
    (void)state;
    static const char *const allowed[] = {"010", "001", "000"};
    check_table("batch", move_batch, allowed, 3, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_samples),
        cmocka_unit_test(test_leases),
        cmocka_unit_test(test_batches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

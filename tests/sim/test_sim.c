/* The hub under every fault at once, seed after seed (tests/sim/README.md).
 *
 *   test_sim FIRST COUNT        runs seeds
 *   test_sim --trace SEED       runs one and prints the last events when it fails
 *   test_sim --twice FIRST COUNT   every seed twice: the same events
 *   test_sim --no-sync COUNT    a control: a disk that does not sync must be found out
 *   test_sim --planted COUNT    a control: each planted bug must be found out */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "curriculum/hub.h"
#include "infra/base/log.h"
#include "tests/sim/sim.h"
#include "tests/sim/sim_trace.h"

#ifdef HONE_PLANT_BUG
enum planted_bug planted_bug = PLANTED_NONE;
#endif

static struct {
    uint64_t first, count;
    struct sim_options run;    /* the one that is going on */
    struct sim_report *report; /* of all of them */
    bool is_on;
} plan;
static const char *program;

/* What a failed run leaves behind: its seed, and the run once more with its events kept. */
static void on_failure(void)
{
    if (!plan.is_on)
        return;
    plan.is_on = false;
    fprintf(stderr, "seed %llu failed\n", (unsigned long long)plan.run.seed);
    if (plan.run.trace) {
        sim_trace_print();
        return;
    }
    char seed[32];
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)plan.run.seed);
    fflush(NULL);
    if (!plan.run.no_sync && PLANTED(PLANTED_NONE))
        execl(program, program, "--trace", seed, (char *)NULL);
}

static void on_abort(int number)
{
    (void)number;
    on_failure();
    _exit(1);
}

static void test_seeds(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < plan.count; i++) {
        plan.run.seed = plan.first + i;
        plan.is_on = true;
        sim_run(&plan.run, plan.report);
        plan.is_on = false;
    }
}

/* 0: all of them hold. */
static int run_seeds(uint64_t first, uint64_t count, struct sim_report *report)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_seeds)};
    plan.first = first;
    plan.count = count;
    plan.report = report;
    cmocka_set_message_output(CM_OUTPUT_TAP);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed != 0)
        on_failure();
    return failed;
}

static void print_report(uint64_t count, const struct sim_report *report)
{
    printf("%llu seeds: %lld batches, %lld ticks, %lld messages; %lld worker deaths, %lld hub "
           "deaths (%lld within a tick), %lld power cuts, %lld connections cut, %lld stalls, %lld "
           "failed writes, %lld refusals, %lld duplicates, %lld stale groups\n",
           (unsigned long long)count, (long long)report->batches, (long long)report->ticks,
           (long long)report->messages, (long long)report->worker_deaths,
           (long long)report->hub_deaths, (long long)report->deaths_in_ticks,
           (long long)report->power_cuts, (long long)report->cuts, (long long)report->stalls,
           (long long)report->disk_failures, (long long)report->refusals,
           (long long)report->duplicates, (long long)report->stale_drops);
}

/* Every kind of fault has struck: the witness. */
static int check_witness(uint64_t count, const struct sim_report *report)
{
    if (count < 100)
        return 0;
    bool all = report->worker_deaths > 0 && report->hub_deaths > 0 && report->deaths_in_ticks > 0 &&
               report->power_cuts > 0 && report->cuts > 0 && report->stalls > 0 &&
               report->disk_failures > 0 && report->refusals > 0 && report->duplicates > 0 &&
               report->stale_drops > 0;
    if (!all)
        fprintf(stderr, "a kind of fault never happened\n");
    return all ? 0 : 1;
}

static int run_twice(uint64_t first, uint64_t count)
{
    struct sim_report report = {0};
    for (uint64_t seed = first; seed < first + count; seed++) {
        if (run_seeds(seed, 1, &report) != 0)
            return 1;
        uint64_t digest = report.digest;
        if (run_seeds(seed, 1, &report) != 0)
            return 1;
        if (digest != report.digest) {
            fprintf(stderr, "seed %llu is not the same run twice\n", (unsigned long long)seed);
            return 1;
        }
    }
    printf("%llu seeds run twice, the same each time\n", (unsigned long long)count);
    return 0;
}

/* Runs seeds in a child whose output is thrown away; true: one failed. */
static bool is_found_out(uint64_t count)
{
    struct sim_report report = {0};
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        if (freopen("/dev/null", "w", stdout) == NULL || freopen("/dev/null", "w", stderr) == NULL)
            _exit(0);
        _exit(run_seeds(1, count, &report));
    }
    int status = 0;
    waitpid(child, &status, 0);
    return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

static int run_control(uint64_t count)
{
    plan.run.no_sync = true;
    bool found = is_found_out(count);
    printf("a disk that does not sync is %sfound out\n", found ? "" : "NOT ");
    return found ? 0 : 1;
}

static int run_planted(uint64_t count)
{
#ifdef HONE_PLANT_BUG
    static const char *const names[PLANTED_COUNT] = {"no bug", "double count", "lost lease",
                                                     "stale batch", "early fold"};
    int failures = 0;
    for (int bug = PLANTED_NONE; bug < PLANTED_COUNT; bug++) {
        planted_bug = (enum planted_bug)bug;
        bool found = is_found_out(count);
        printf("%s: %s\n", names[bug], found ? "found" : "not found");
        failures += found != (bug != PLANTED_NONE);
    }
    return failures == 0 ? 0 : 1;
#else
    (void)count;
    fprintf(stderr, "this program was built without planted bugs\n");
    return 2;
#endif
}

static uint64_t number(char **arguments, int index, int count)
{
    return index < count ? strtoull(arguments[index], NULL, 10) : 1;
}

int main(int argc, char **argv)
{
    struct sim_report report = {0};
    program = argv[0];
    log_set_level((enum log_level)(LOG_LEVEL_ERROR + 1)); /* the disks fail on purpose */
    signal(SIGABRT, on_abort);
    signal(SIGSEGV, on_abort);
    if (argc > 1 && strcmp(argv[1], "--twice") == 0)
        return run_twice(number(argv, 2, argc), number(argv, 3, argc));
    if (argc > 1 && strcmp(argv[1], "--no-sync") == 0)
        return run_control(number(argv, 2, argc));
    if (argc > 1 && strcmp(argv[1], "--planted") == 0)
        return run_planted(number(argv, 2, argc));
    plan.run.trace = argc > 1 && strcmp(argv[1], "--trace") == 0;
    uint64_t first = number(argv, plan.run.trace ? 2 : 1, argc);
    uint64_t count = plan.run.trace ? 1 : number(argv, 2, argc);
    if (run_seeds(first, count, &report) != 0)
        return 1;
    print_report(count, &report);
    return check_witness(count, &report);
}

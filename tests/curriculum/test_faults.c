/* Random deaths, duplicates and failing verifiers, seed after seed: the run ends, the books
 * balance, and what was trained is one history (G1, G3, G4). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "infra/base/log.h"
#include "tests/curriculum/world.h"

static int seeds = 20;

static struct world_options storm(uint64_t seed, int32_t staleness_max)
{
    struct world_options options = world_defaults();
    options.seed = seed;
    options.actors = 1 + (int)(seed % 3);
    options.scorers = 1 + (int)(seed % 2);
    options.slots = 4 + (int)(seed % 7);
    options.checkpoint_every = 1 + (int)(seed % 3);
    options.hub.staleness_max = staleness_max;
    options.hub.lease_timeout_ms = 5000;
    options.hub.steps = 10;
    options.rates = (struct world_rates){.actor_death = 3,
                                         .scorer_death = 3,
                                         .learner_death = 4,
                                         .hub_death = 6,
                                         .duplicate = 30,
                                         .score_error = 30,
                                         .score_timeout = 30,
                                         .progress = 100};
    return options;
}

static void weather(int32_t staleness_max)
{
    int64_t deaths = 0, restarts = 0, duplicates = 0, stale = 0, resumed = 0;
    for (int seed = 1; seed <= seeds; seed++) {
        struct world world;
        struct world_options options = storm((uint64_t)seed, staleness_max);
        world_start(&world, &options);
        for (int i = 0; i < 400 && !world.finished; i++) {
            world_tick(&world);
            if (i % 50 == 0)
                world_check_books(&world, false);
        }
        world.faults_off = true;
        world_run(&world, 20000);
        world_check_books(&world, true);
        deaths += world.deaths;
        restarts += world.hub_restarts;
        duplicates += world.duplicates_sent;
        stale += world.staleness_seen;
        resumed += world.resumed;
        world_end(&world);
    }
    print_message("staleness_max %d: %d runs, %lld worker deaths, %lld hub restarts, %lld "
                  "duplicates, %lld rollouts continued\n",
                  staleness_max, seeds, (long long)deaths, (long long)restarts,
                  (long long)duplicates, (long long)resumed);
    assert_true(resumed >= seeds);
    assert_true(deaths >= seeds && restarts >= seeds && duplicates >= seeds);
    assert_true(staleness_max == 0 || stale > 0);
}

static void test_synchronous(void **state)
{
    (void)state;
    weather(0);
}

static void test_asynchronous(void **state)
{
    (void)state;
    weather(2);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        seeds = atoi(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_synchronous),
        cmocka_unit_test(test_asynchronous),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

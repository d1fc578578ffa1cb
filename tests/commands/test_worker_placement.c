/* Which cpus each worker gets: from pools that are given, and from the machine where they are not.
 */
#include "tests/commands/command_fixture.h"

#include <sched.h>

#include "commands/workers.h"

static struct recipe recipe;

static void given(const char *const *overrides, int count)
{
    fixture_recipe(&recipe, overrides, count);
}

static void expect(enum worker_role role, int index, const char *cpus, int threads)
{
    struct cpu_set_list list;
    char text[256];
    int count = -1;
    if (worker_placement(&recipe, role, index, &list, &count) < 0)
        fail_msg("%s", error_message());
    placement_format(&list, text, sizeof text);
    assert_string_equal(text, cpus);
    assert_int_equal(count, threads);
}

static void test_given_pools(void **state)
{
    (void)state;
    given((const char *const[]){"pools.learner.devices=[\"cpu:0-3\", \"cpu:9\"]",
                                "pools.actors.devices=[\"cpu:4,6\"]", "pools.actors.workers=1",
                                "pools.scorers.devices=[\"cpu:5\"]", "pools.learner.threads=3"},
          5);
    expect(WORKER_LEARNER, 0, "0-3,9", 3); /* threads as given */
    expect(WORKER_ACTOR, 0, "4,6", 2);     /* one a cpu */
    expect(WORKER_SCORER, 0, "5", 1);
    expect(WORKER_CURRICULUM, 0, "5", 1);
    expect(WORKER_OFFLINE, 0, "0-4,6,9", 7); /* learner and actors together */
    recipe_release(&recipe);
}

static void test_workers_share_a_pool(void **state)
{
    (void)state;
    given((const char *const[]){"pools.actors.devices=[\"cpu:0-6\"]", "pools.actors.workers=3"}, 2);
    assert_int_equal(worker_count(&recipe, WORKER_ACTOR), 3);
    expect(WORKER_ACTOR, 0, "0-1", 2);
    expect(WORKER_ACTOR, 1, "2-3", 2);
    expect(WORKER_ACTOR, 2, "4-6", 3);
    recipe_release(&recipe);
}

static void test_more_workers_than_cpus(void **state)
{
    (void)state;
    given((const char *const[]){"pools.scorers.devices=[\"cpu:2-3\"]", "pools.scorers.workers=3"},
          2);
    for (int i = 0; i < 3; ++i)
        expect(WORKER_SCORER, i, "2-3", 2); /* all of them share all cpus */
    recipe_release(&recipe);
}

static void test_offline_union_has_no_duplicates(void **state)
{
    (void)state;
    given((const char *const[]){"pools.learner.devices=[\"cpu:2-5\"]",
                                "pools.actors.devices=[\"cpu:0-3,5,7\"]"},
          2);
    expect(WORKER_OFFLINE, 0, "0-5,7", 7);
    recipe_release(&recipe);
}

static void test_only_actors_and_scorers_are_several(void **state)
{
    (void)state;
    given((const char *const[]){"pools.actors.workers=0", "pools.scorers.workers=4"}, 2);
    assert_int_equal(worker_count(&recipe, WORKER_ACTOR), 1); /* 0: derived */
    assert_int_equal(worker_count(&recipe, WORKER_SCORER), 4);
    assert_int_equal(worker_count(&recipe, WORKER_CURRICULUM), 1);
    assert_int_equal(worker_count(&recipe, WORKER_LEARNER), 1);
    assert_int_equal(worker_count(&recipe, WORKER_OFFLINE), 1);
    recipe_release(&recipe);
}

static void test_derived_pools(void **state)
{
    (void)state;
    struct cpu_set_list available, learner, actors, offline;
    int threads;
    given(NULL, 0);
    placement_available(&available);
    assert_true(available.count >= 1);
    assert_int_equal(worker_placement(&recipe, WORKER_LEARNER, 0, &learner, &threads), 0);
    assert_int_equal(threads, learner.count);
    assert_int_equal(worker_placement(&recipe, WORKER_ACTOR, 0, &actors, &threads), 0);
    assert_int_equal(threads, actors.count);
    assert_int_equal(worker_placement(&recipe, WORKER_OFFLINE, 0, &offline, &threads), 0);
    assert_int_equal(offline.count, available.count);
    assert_memory_equal(offline.cpus, available.cpus,
                        (size_t)available.count * sizeof available.cpus[0]);
    if (available.count >= 2) {
        /* The first half, rounded up, and the rest: nothing shared, nothing left over. */
        assert_int_equal(learner.count, (available.count + 1) / 2);
        assert_int_equal(learner.count + actors.count, available.count);
        assert_int_equal(learner.cpus[0], available.cpus[0]);
        assert_int_equal(actors.cpus[0], available.cpus[learner.count]);
    }
    recipe_release(&recipe);
}

/* A process held to one cpu (a container, taskset) gives it to everybody. */
static void test_one_cpu_is_shared_by_all(void **state)
{
    (void)state;
    struct cpu_set_list available;
    cpu_set_t before, one;
    char cpu[16];
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    placement_available(&available);
    CPU_ZERO(&one);
    CPU_SET(available.cpus[available.count - 1], &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    snprintf(cpu, sizeof cpu, "%d", available.cpus[available.count - 1]);
    given(NULL, 0);
    const enum worker_role roles[] = {WORKER_CURRICULUM, WORKER_ACTOR, WORKER_SCORER,
                                      WORKER_LEARNER, WORKER_OFFLINE};
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; ++i)
        expect(roles[i], 0, cpu, 1);
    recipe_release(&recipe);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
}

static void test_bad_device_names_its_pool(void **state)
{
    (void)state;
    struct cpu_set_list list;
    int threads;
    struct recipe bad = {0};
    const char *device = "cpu:x";
    bad.pools.actors.devices = (struct string_list){&device, 1};
    assert_int_equal(worker_placement(&bad, WORKER_ACTOR, 0, &list, &threads), HONE_EINVAL);
    assert_int_equal(strncmp(error_message(), "pools.actors.devices: ", 22), 0);
    assert_non_null(strstr(error_message(), "cpu:x"));
    assert_int_equal(worker_placement(&bad, WORKER_OFFLINE, 0, &list, &threads), HONE_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_given_pools),
        cmocka_unit_test(test_workers_share_a_pool),
        cmocka_unit_test(test_more_workers_than_cpus),
        cmocka_unit_test(test_offline_union_has_no_duplicates),
        cmocka_unit_test(test_only_actors_and_scorers_are_several),
        cmocka_unit_test(test_derived_pools),
        cmocka_unit_test(test_one_cpu_is_shared_by_all),
        cmocka_unit_test(test_bad_device_names_its_pool),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

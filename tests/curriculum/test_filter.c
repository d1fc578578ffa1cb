/* A hub that keeps pools: what it trains, what it measures, and what the log has of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "curriculum/audit.h"
#include "curriculum/hub.h"
#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/store/log_record.h"
#include "infra/wire/envelope.h"
#include "tests/curriculum/world.h"

static struct world world;

static struct world_options filtering(enum filter_mode mode)
{
    struct world_options options = world_defaults();
    options.hub.filter = world_filter();
    options.hub.filter.mode = mode;
    options.hub.steps = 10;
    return options;
}

static uint64_t run(const struct world_options *options)
{
    world_start(&world, options);
    world_run(&world, 200000);
    world_check_books(&world, true);
    uint64_t result = world_result(&world);
    return result;
}

/* G7: who is faster, and who dies, changes nothing of a synchronous run. */
static void test_a_synchronous_run_depends_on_no_timing(void **state)
{
    (void)state;
    struct world_options options = filtering(FILTER_ON);
    uint64_t expected = run(&options);
    world_end(&world);
    for (uint64_t seed = 2; seed < 8; seed++) {
        options.seed = seed;
        options.actors = 1 + (int)seed % 3;
        options.scorers = 1 + (int)seed % 2;
        options.rates = (struct world_rates){.actor_death = 5,
                                             .scorer_death = 5,
                                             .learner_death = 3,
                                             .hub_death = 20,
                                             .duplicate = 30};
        assert_true(run(&options) == expected);
        assert_true(world.hub_restarts > 0);
        world_end(&world);
    }
    options.hub.filter.mode = FILTER_MEASURE; /* the control selects as a run without pools */
    uint64_t control = run(&options);
    world_end(&world);
    options.hub.filter.mode = FILTER_OFF;
    assert_true(run(&options) == control && control != expected);
    world_end(&world);
}

static void test_a_synchronous_run_has_no_probes(void **state)
{
    (void)state;
    struct world_options options = filtering(FILTER_ON);
    struct curriculum_stage *stage;
    options.hub.filter.probes = 1;
    assert_int_equal(curriculum_stage_create(&stage, &options.hub, NULL, NULL, NULL, NULL),
                     HONE_EINVAL);
    assert_non_null(strstr(error_message(), "probes"));
}

/* What else the recipe says of pools means nothing then. */
static void test_a_run_without_pools_has_no_probes(void **state)
{
    (void)state;
    struct world_options options = filtering(FILTER_OFF);
    options.hub.staleness_max = 1;
    options.hub.filter.probes = 4;
    run(&options);
    assert_int_equal(world.hub->drops[DROP_PROBE], 0);
    world_end(&world);
}

/* Probes measure, are counted, and none is left when the run ends. */
static void test_idle_actors_measure(void **state)
{
    (void)state;
    struct world_options options = filtering(FILTER_ON);
    options.hub.staleness_max = 1;
    options.hub.filter.probes = 2;
    options.actors = 3;
    run(&options);
    assert_true(world.hub->drops[DROP_PROBE] > 3);
    assert_int_equal(world.hub->groups.probe_count, 0);
    int64_t judged = 0, selections = 0;
    for (int64_t i = 0; i < world.hub->pools.count; i++) {
        judged += world.hub->pools.prompts[i].judged_all;
        selections += world.hub->pools.prompts[i].selections;
    }
    /* Q5: every group that was scored has counted, dropped or not. */
    int64_t scored = options.hub.steps * options.hub.prompts_per_step;
    for (int i = 0; i < DROP_REASON_COUNT; i++)
        scored += i != DROP_PROBE ? world.hub->drops[i] : 0;
    assert_int_equal(selections, scored);
    assert_true(judged > scored * options.hub.group_size);
    world_end(&world);
}

/* Rewards that fail are in no measurement (G8). */
static void test_failed_rewards_are_not_measured(void **state)
{
    (void)state;
    struct world_options options = filtering(FILTER_ON);
    options.hub.score_retries = 0;
    options.rates.score_error = 200;
    run(&options);
    int64_t judged = 0, failed = 0, groups = 0;
    for (int64_t i = 0; i < world.hub->pools.count; i++) {
        judged += world.hub->pools.prompts[i].judged_all;
        failed += world.hub->pools.prompts[i].failed;
        groups += world.hub->pools.prompts[i].selections;
    }
    assert_true(failed > judged / 10);
    assert_int_equal(judged + failed, groups * options.hub.group_size);
    world_end(&world);
}

/* A prompt's record that does not say what its groups say is found. */
static void test_the_audit_adds_up(void **state)
{
    (void)state;
    struct world_options options = filtering(FILTER_MEASURE);
    ProtobufCMessage *base;
    struct text report;
    run(&options);
    text_init(&report);
    assert_int_equal(curriculum_audit(world.log, &report), 0);
    assert_non_null(strstr(report.data, "pools "));
    assert_int_equal(
        log_record_get(world.log, LOG_PROMPTS, 3, &hone__prompt_record__descriptor, &base), 1);
    Hone__PromptRecord *record = (Hone__PromptRecord *)(void *)base;
    record->solved++;
    record->attempts++;
    log_record_put(world.log, LOG_PROMPTS, 3, base);
    assert_int_equal(run_log_commit(world.log), 0);
    assert_int_equal(curriculum_audit(world.log, &report), HONE_ECORRUPT);
    assert_non_null(strstr(error_message(), "prompt 3"));
    wire_free(base);
    text_release(&report);
    world_end(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_synchronous_run_depends_on_no_timing),
        cmocka_unit_test(test_a_synchronous_run_has_no_probes),
        cmocka_unit_test(test_a_run_without_pools_has_no_probes),
        cmocka_unit_test(test_idle_actors_measure),
        cmocka_unit_test(test_failed_rewards_are_not_measured),
        cmocka_unit_test(test_the_audit_adds_up),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

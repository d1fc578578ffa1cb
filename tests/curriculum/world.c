#include "tests/curriculum/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "curriculum/audit.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/hash.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "tests/curriculum/fake_worker.h"

#define ENDPOINT     "inproc://hub"
#define TICK_NS      20000000
#define PROMPT_COUNT 13

uint64_t world_draw(struct world *world, uint64_t bound)
{
    struct rng_key key = {world->options.seed, RNG_SIM, 0, 0};
    return rng_below(&key, world->draws++, bound);
}

struct world_options world_defaults(void)
{
    struct world_options options = {0};
    options.hub = (struct curriculum_options){.hub_endpoint = ENDPOINT,
                                              .recipe_hash = "recipe",
                                              .run_id = "run",
                                              .prompt_count = PROMPT_COUNT,
                                              .seed = 7,
                                              .steps = 6,
                                              .prompts_per_step = 4,
                                              .group_size = 4,
                                              .staleness_max = 0,
                                              .drop_zero_advantage = true,
                                              .refill_max = 2,
                                              .lease_timeout_ms = 60000,
                                              .lease_retries = 3,
                                              .score_retries = 2,
                                              .max_error_rate = 1,
                                              .stall_ms = 60000};
    options.hub.sampling =
        (struct sampling){.temperature = 1, .top_p = 1, .max_completion_tokens = 8};
    options.seed = 1;
    options.actors = 1;
    options.scorers = 1;
    options.slots = 8;
    options.checkpoint_every = 2;
    options.zero_groups = 25;
    return options;
}

struct filter_options world_filter(void)
{
    return (struct filter_options){.mode = FILTER_ON,
                                   .pass_threshold = 2,
                                   .low = 0.125,
                                   .high = 0.75,
                                   .high_min = 0.5,
                                   .high_step = 0.125,
                                   .certificate = 8,
                                   .hard_share = 0.1,
                                   .easy_share = 0.1,
                                   .round_steps = 2,
                                   .expire_steps = 3,
                                   .accept_min = 0.25,
                                   .k = 2};
}

/* ---- processes ---- */

static void connect_worker(struct world *world, struct fake_worker *worker)
{
    assert_int_equal(wire_client_create(&worker->client, world->context, ENDPOINT, worker->name),
                     0);
    worker->welcomed = false;
    worker->hello_tick = -1;
}

static void start_worker(struct world *world, struct fake_worker *worker, Hone__Role role,
                         const char *name)
{
    memset(worker, 0, sizeof *worker);
    snprintf(worker->name, sizeof worker->name, "%s", name);
    worker->role = role;
    worker->alive = true;
    worker->incarnation = fake_mix(world->options.seed, ++world->incarnations);
    worker->version = -1;
    connect_worker(world, worker);
}

static int open_log(struct world *world)
{
    const struct world_options *options = &world->options;
    return options->store != NULL
               ? run_log_open_store(&world->log, options->store(options->store_context),
                                    "simulated", false)
               : run_log_open(&world->log, world->directory, false);
}

int world_start_hub(struct world *world)
{
    struct curriculum_options options = world->options.hub;
    options.prompts = world->prompts;
    if (world->context == NULL)
        world->context = wire_context_create();
    int rc = open_log(world);
    if (rc == 0)
        rc = curriculum_stage_create(&world->hub, &options, world->log, world->context,
                                     &world->clock, NULL);
    if (rc < 0) {
        run_log_close(world->log);
        world->log = NULL;
    }
    return rc;
}

static void start_hub(struct world *world)
{
    if (world_start_hub(world) < 0)
        fail_msg("%s", error_message());
}

static void each_worker(struct world *world,
                        void (*act)(struct world *world, struct fake_worker *worker))
{
    for (int i = 0; i < world->options.actors; i++)
        act(world, &world->actors[i]);
    for (int i = 0; i < world->options.scorers; i++)
        act(world, &world->scorers[i]);
    act(world, &world->learner.worker);
}

static void disconnect_worker(struct world *world, struct fake_worker *worker)
{
    (void)world;
    wire_client_destroy(worker->client);
    worker->client = NULL;
}

static void destroy_context(struct world *world)
{
    each_worker(world, disconnect_worker);
    wire_context_destroy(world->context);
    world->context = NULL;
}

void world_stop_hub(struct world *world)
{
    curriculum_stage_destroy(world->hub);
    world->hub = NULL;
    run_log_close(world->log);
    world->log = NULL;
    if (world->options.store == NULL)
        destroy_context(world);
}

void world_start(struct world *world, const struct world_options *options)
{
    static char kinds[3][8] = {"add", "count", "order"};
    char name[16];
    memset(world, 0, sizeof *world);
    world->options = *options;
    world->now_ns = 1000000000000;
    world->clock = clock_fake(&world->now_ns);
    /* In memory where there is such a place: thousands of synced commits are not the subject. */
    snprintf(world->directory, sizeof world->directory, "%s/hone_test_world_XXXXXX",
             file_is_directory("/dev/shm") ? "/dev/shm" : "/tmp");
    if (options->store == NULL)
        assert_non_null(mkdtemp(world->directory));
    world->prompts = MEMORY_ARRAY(struct prompt, PROMPT_COUNT);
    for (int i = 0; i < PROMPT_COUNT; i++) {
        world->prompts[i].id = (uint64_t)i;
        world->prompts[i].capability = kinds[i % 3];
        world->prompts[i].token_count = 1 + i % 3;
        world->prompts[i].tokens = MEMORY_ARRAY(int32_t, world->prompts[i].token_count);
        for (int k = 0; k < world->prompts[i].token_count; k++)
            world->prompts[i].tokens[k] = i * 10 + k;
    }
    start_hub(world);
    for (int i = 0; i < options->actors; i++) {
        snprintf(name, sizeof name, "actor-%d", i);
        start_worker(world, &world->actors[i], HONE__ROLE__ROLE_ACTOR, name);
    }
    for (int i = 0; i < options->scorers; i++) {
        snprintf(name, sizeof name, "scorer-%d", i);
        start_worker(world, &world->scorers[i], HONE__ROLE__ROLE_SCORER, name);
    }
    start_worker(world, &world->learner.worker, HONE__ROLE__ROLE_LEARNER, "learner-0");
    world->learner.weights = world->learner.durable_weights = world->learner.weights_at[0] = 99;
}

void world_end(struct world *world)
{
    world_stop_hub(world);
    if (world->options.store == NULL)
        file_remove_tree(world->directory);
    else
        destroy_context(world);
    for (int i = 0; i < PROMPT_COUNT; i++)
        memory_free(world->prompts[i].tokens);
    memory_free(world->prompts);
}

void world_kill_hub(struct world *world)
{
    world->hub_restarts++;
    world_stop_hub(world);
    start_hub(world);
    if (world->options.store == NULL)
        each_worker(world, connect_worker);
}

void world_kill(struct world *world, struct fake_worker *worker)
{
    char name[16];
    world->deaths++;
    memcpy(name, worker->name, sizeof name);
    disconnect_worker(world, worker);
    start_worker(world, worker, worker->role, name);
}

void world_kill_learner(struct world *world)
{
    struct fake_learner *learner = &world->learner;
    world_kill(world, &learner->worker);
    learner->trained = learner->durable;
    learner->weights = learner->durable_weights;
    learner->queue_count = 0;
}

/* ---- a tick ---- */

static bool strikes(struct world *world, int rate)
{
    return rate > 0 && world_draw(world, 1000) < (uint64_t)rate;
}

static void apply_faults(struct world *world)
{
    const struct world_rates *rates = &world->options.rates;
    for (int i = 0; i < world->options.actors; i++)
        if (strikes(world, rates->actor_death))
            world_kill(world, &world->actors[i]);
    for (int i = 0; i < world->options.scorers; i++)
        if (strikes(world, rates->scorer_death))
            world_kill(world, &world->scorers[i]);
    if (strikes(world, rates->learner_death))
        world_kill_learner(world);
    if (strikes(world, rates->hub_death))
        world_kill_hub(world);
}

static int tick_hub(struct world *world)
{
    struct stage_wait wait = {0};
    if (world->hub == NULL || world->tick < world->hub_stalled_until)
        return 0;
    int rc = curriculum_stage_tick(world->hub, &wait);
    if (rc < 0 && !world->hub_may_stop)
        fail_msg("the hub stopped: %s", error_message());
    world->hub_error = rc;
    world->finished = rc == 0 && wait.finished;
    return rc;
}

void world_tick(struct world *world)
{
    struct fake_worker *order[WORLD_ACTORS_MAX + WORLD_SCORERS_MAX + 1];
    int count = 0;
    world->now_ns += TICK_NS;
    world->tick++;
    if (!world->faults_off)
        apply_faults(world);
    if (tick_hub(world) < 0)
        return;
    for (int i = 0; i < world->options.actors; i++)
        order[count++] = &world->actors[i];
    for (int i = 0; i < world->options.scorers; i++)
        order[count++] = &world->scorers[i];
    order[count++] = &world->learner.worker;
    while (count > 0) { /* in another order each time */
        int pick = (int)world_draw(world, (uint64_t)count);
        fake_worker_tick(world, order[pick]);
        order[pick] = order[--count];
    }
}

void world_run(struct world *world, int64_t limit)
{
    int64_t end = world->tick + limit;
    while (!world->finished) {
        if (world->tick == end)
            fail_msg("not finished after %lld ticks (seed %llu): batch %lld trained",
                     (long long)limit, (unsigned long long)world->options.seed,
                     (long long)world->learner.trained);
        world_tick(world);
    }
}

void world_check_books(struct world *world, bool all_left)
{
    struct text report;
    text_init(&report);
    if (curriculum_audit(world->log, &report) < 0)
        fail_msg("the audit (seed %llu): %s", (unsigned long long)world->options.seed,
                 error_message());
    if (all_left) {
        assert_non_null(strstr(report.data, " 0 batched, 0 scored, 0 leased,"));
        assert_non_null(strstr(report.data, "leases       0 out"));
        assert_int_equal(world->learner.durable, world->options.hub.steps);
        uint64_t weights = 99;
        for (int64_t n = 1; n <= world->options.hub.steps; n++)
            weights = fake_mix(weights, world->batch_hash[n]);
        assert_int_equal(weights, world->learner.weights); /* each batch once, in order */
    }
    text_release(&report);
}

uint64_t world_result(const struct world *world)
{
    return world->learner.weights;
}

#include "tests/sim/sim.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "curriculum/hub.h"
#include "curriculum/hub_report.h"
#include "infra/base/error.h"
#include "infra/base/rng.h"
#include "tests/curriculum/world.h"
#include "tests/sim/sim_check.h"
#include "tests/sim/sim_disk.h"
#include "tests/sim/sim_net.h"
#include "tests/sim/sim_trace.h"

#define END_TICKS     40000 /* a run without further faults is over by then */
#define REFERENCE_END 20000

/* Chances per tick, out of 10000. Each seed switches some kinds of faults off. */
struct weather {
    int worker_death, learner_fallback, hub_death, hub_death_in_tick, all_die, power_cut;
    int cut, stall, hub_stall, disk_failure, disk_full;
};

struct sim {
    struct sim_options options;
    struct sim_report *report;
    struct world world;
    struct sim_disk *disk;
    struct weather weather;
    uint64_t draws;
    int64_t storm_ticks;    /* faults happen until then */
    int64_t hub_back_tick;  /* while it is down */
    int64_t disk_free_tick; /* while it is full */
};

static uint64_t draw(struct sim *sim, uint64_t bound)
{
    struct rng_key key = {sim->options.seed, RNG_SIM, 3, 0};
    return rng_below(&key, sim->draws++, bound);
}

static int between(struct sim *sim, int low, int high)
{
    return low + (int)draw(sim, (uint64_t)(high - low + 1));
}

/* ---- what a seed says ---- */

/* Of draws of its own: half the seeds run without. */
static void draw_filter(const struct sim *sim, struct curriculum_options *hub)
{
    struct rng_key key = {sim->options.seed, RNG_SIM, 4, 0};
    struct filter_options *filter = &hub->filter;
    if (rng_below(&key, 0, 2) == 0)
        return;
    *filter = world_filter();
    filter->mode = rng_below(&key, 1, 4) == 0 ? FILTER_MEASURE : FILTER_ON;
    filter->pass_threshold = (double)rng_below(&key, 2, 6);
    filter->certificate = 1 + (int32_t)rng_below(&key, 3, 12);
    filter->round_steps = 1 + (int64_t)rng_below(&key, 4, 4);
    filter->expire_steps = 1 + (int64_t)rng_below(&key, 5, 4);
    if (hub->staleness_max > 0)
        filter->probes = (int32_t)rng_below(&key, 6, 4);
}

static void draw_run(struct sim *sim, struct world_options *options)
{
    static const int staleness[] = {0, 0, 1, 2, 4};
    *options = world_defaults();
    options->seed = sim->options.seed;
    options->actors = between(sim, 1, WORLD_ACTORS_MAX);
    options->scorers = between(sim, 1, WORLD_SCORERS_MAX);
    options->slots = between(sim, 2, 10);
    options->checkpoint_every = between(sim, 1, 3);
    options->late_hashes = 50;
    options->zero_groups = between(sim, 0, 50);
    options->hub.seed = sim->options.seed;
    options->hub.steps = between(sim, 3, 6);
    options->hub.prompts_per_step = between(sim, 1, 4);
    options->hub.group_size = between(sim, 2, 4);
    options->hub.staleness_max = staleness[draw(sim, 5)];
    options->hub.drop_zero_advantage = draw(sim, 4) != 0;
    options->hub.lease_timeout_ms = between(sim, 1, 30) * 1000;
    options->hub.score_retries = between(sim, 0, 2);
    options->rates.score_error = between(sim, 0, 60);
    options->rates.score_timeout = between(sim, 0, 60);
    options->rates.duplicate = between(sim, 0, 60);
    options->rates.progress = between(sim, 0, 60);
    sim->storm_ticks = between(sim, 50, 500);
    draw_filter(sim, &options->hub);
}

static int maybe(struct sim *sim, int most)
{
    return draw(sim, 2) == 0 ? 0 : between(sim, 1, most) * between(sim, 1, 3);
}

static void draw_weather(struct sim *sim)
{
    sim->weather = (struct weather){.worker_death = maybe(sim, 60),
                                    .learner_fallback = maybe(sim, 15),
                                    .hub_death = maybe(sim, 80),
                                    .hub_death_in_tick = maybe(sim, 200),
                                    .all_die = maybe(sim, 15),
                                    .power_cut = maybe(sim, 40),
                                    .cut = maybe(sim, 100),
                                    .stall = maybe(sim, 100),
                                    .hub_stall = maybe(sim, 40),
                                    .disk_failure = maybe(sim, 60),
                                    .disk_full = maybe(sim, 15)};
    if (sim->options.no_sync)
        sim->weather.power_cut = 100;
}

static struct log_store *make_store(void *context)
{
    return sim_disk_store(((struct sim *)context)->disk);
}

/* ---- the hub's life ---- */

static void stop_hub(struct sim *sim, int down_ticks)
{
    world_stop_hub(&sim->world);
    sim_die_after(0);
    sim->hub_back_tick = sim->world.tick + down_ticks;
    sim->world.hub_restarts++;
}

static void start_hub(struct sim *sim)
{
    int rc = world_start_hub(&sim->world);
    if (rc == HONE_ENOSPC || rc == HONE_EIO) { /* the supervisor tries again */
        sim_trace("the hub cannot start: %s", error_message());
        sim->hub_back_tick = sim->world.tick + WORLD_PER_SECOND;
        return;
    }
    if (rc < 0)
        fail_msg("the hub does not start: %s", error_message());
    sim_check_acked(&sim->world);
    if (draw(sim, 8) == 0 && sim->world.tick < sim->storm_ticks) { /* in recovery */
        sim_trace("the hub dies while it recovers");
        stop_hub(sim, 1);
    }
}

static void kill_hub(struct sim *sim, const char *how)
{
    if (sim->world.hub == NULL)
        return;
    sim_trace("the hub %s", how);
    stop_hub(sim, between(sim, 1, 3 * WORLD_PER_SECOND));
}

/* ---- faults ---- */

static struct fake_worker *any_worker(struct sim *sim)
{
    struct world *world = &sim->world;
    int actors = world->options.actors, scorers = world->options.scorers;
    int pick = between(sim, 0, actors + scorers);
    if (pick < actors)
        return &world->actors[pick];
    return pick < actors + scorers ? &world->scorers[pick - actors] : &world->learner.worker;
}

static void kill_worker(struct sim *sim, struct fake_worker *worker)
{
    sim_trace("%s dies", worker->name);
    if (worker == &sim->world.learner.worker)
        world_kill_learner(&sim->world);
    else
        world_kill(&sim->world, worker);
    worker->stalled_until = sim->world.tick + between(sim, 0, 2 * WORLD_PER_SECOND);
}

/* The newest checkpoint is damaged: the learner goes on from the one before. */
static void lose_checkpoint(struct sim *sim)
{
    struct fake_learner *learner = &sim->world.learner;
    int every = sim->world.options.checkpoint_every;
    if (learner->durable <= 0 || learner->durable == sim->world.options.hub.steps)
        return;
    learner->durable = (learner->durable - 1) / every * every;
    learner->durable_weights = learner->weights_at[learner->durable];
    sim_trace("the newest checkpoint is lost");
    kill_worker(sim, &learner->worker);
}

static void kill_all(struct sim *sim, bool power_cut)
{
    struct world *world = &sim->world;
    kill_hub(sim, power_cut ? "loses its power" : "dies with everyone");
    for (int i = 0; i < world->options.actors; i++)
        kill_worker(sim, &world->actors[i]);
    for (int i = 0; i < world->options.scorers; i++)
        kill_worker(sim, &world->scorers[i]);
    kill_worker(sim, &world->learner.worker);
    if (power_cut)
        sim_disk_power_cut(sim->disk);
    sim->report->power_cuts += power_cut;
}

static void cut(struct sim *sim)
{
    struct fake_worker *worker = any_worker(sim);
    sim_trace("the connection of %s is cut", worker->name);
    sim_net_cut(worker->client, between(sim, 0, 8000));
    sim->report->cuts++;
}

static void stall(struct sim *sim)
{
    struct fake_worker *worker = any_worker(sim);
    int ticks = between(sim, 1, draw(sim, 4) == 0 ? 20 * WORLD_PER_SECOND : WORLD_PER_SECOND);
    sim_trace("%s stalls for %d ticks", worker->name, ticks);
    worker->stalled_until = sim->world.tick + ticks;
    sim->report->stalls++;
}

static bool strikes(struct sim *sim, int chance)
{
    return chance > 0 && draw(sim, 10000) < (uint64_t)chance;
}

static void apply_weather(struct sim *sim)
{
    const struct weather *weather = &sim->weather;
    struct world *world = &sim->world;
    if (strikes(sim, weather->worker_death))
        kill_worker(sim, any_worker(sim));
    if (strikes(sim, weather->learner_fallback))
        lose_checkpoint(sim);
    if (strikes(sim, weather->hub_death))
        kill_hub(sim, "dies");
    if (strikes(sim, weather->hub_death_in_tick))
        sim_die_after(between(sim, 1, 6));
    if (strikes(sim, weather->all_die))
        kill_all(sim, false);
    if (strikes(sim, weather->power_cut))
        kill_all(sim, true);
    if (strikes(sim, weather->cut))
        cut(sim);
    if (strikes(sim, weather->stall))
        stall(sim);
    if (strikes(sim, weather->hub_stall))
        world->hub_stalled_until = world->tick + between(sim, 1, 12 * WORLD_PER_SECOND);
    if (strikes(sim, weather->disk_failure))
        sim_disk_fail_next(sim->disk);
    if (strikes(sim, weather->disk_full)) {
        sim_trace("the disk is full");
        sim_disk_set_full(sim->disk, true);
        sim->disk_free_tick = world->tick + between(sim, 1, 20 * WORLD_PER_SECOND);
    }
}

/* ---- a run ---- */

static void tick(struct sim *sim)
{
    struct world *world = &sim->world;
    if (world->tick < sim->storm_ticks)
        apply_weather(sim);
    if (world->tick >= sim->disk_free_tick)
        sim_disk_set_full(sim->disk, false);
    if (world->hub == NULL && world->tick >= sim->hub_back_tick)
        start_hub(sim);
    world_tick(world);
    if (sim_is_dead()) {
        sim->report->deaths_in_ticks++;
        world->finished = false;
        kill_hub(sim, "is dead in the middle of a tick");
    } else if (world->hub != NULL && world->hub_error < 0) {
        if (world->hub_error != HONE_EIO && world->hub_error != HONE_ENOSPC)
            fail_msg("the hub stops the run: %s", error_message());
        sim_net_linger();
        kill_hub(sim, "ends with an error");
    } else if (world->hub != NULL && world->tick >= world->hub_stalled_until) {
        sim_check(world);
    }
    world->hub_error = 0;
}

static void finish(struct sim *sim)
{
    struct world *world = &sim->world;
    sim->weather = (struct weather){0};
    world->faults_off = true;
    sim_die_after(0);
    sim_trace("calm");
    int64_t end = world->tick + END_TICKS;
    while (!world->finished) {
        if (world->tick == end) {
            struct text why;
            text_init(&why);
            if (world->hub != NULL)
                hub_describe_wait(world->hub, &why);
            fail_msg("the run does not end: %s", why.length > 0 ? why.data : "the hub is down");
        }
        tick(sim);
    }
    sim_check_acked(world);
    world_check_books(world, true);
}

/* G7: what a synchronous run trains is what it trains without any fault, with one actor. */
static uint64_t reference_result(struct sim *sim, const struct world_options *options)
{
    static struct world world;
    struct world_options calm = *options;
    struct sim_disk *disk = sim_disk_create(1);
    struct sim saved_disk = {.disk = disk};
    int64_t zero = 0;
    (void)sim;
    sim_net_start(&(struct sim_net_options){
        .seed = 1, .now_ns = &world.now_ns, .delay_max_ms = 1, .queue_max = 1000});
    sim_trace_start(false, &zero);
    calm.actors = calm.scorers = 1;
    calm.slots = 8;
    calm.rates.duplicate = 0;
    calm.store = make_store;
    calm.store_context = &saved_disk;
    world_start(&world, &calm);
    world_run(&world, REFERENCE_END);
    uint64_t result = world_result(&world);
    world_end(&world);
    sim_net_stop();
    sim_disk_free(disk);
    return result;
}

static void report(struct sim *sim)
{
    struct world *world = &sim->world;
    struct sim_report *total = sim->report;
    total->digest = sim_check_digest(world);
    total->ticks += world->tick;
    total->messages += sim_net_messages();
    total->worker_deaths += world->deaths;
    total->hub_deaths += world->hub_restarts;
    total->disk_failures += sim_disk_failures(sim->disk);
    total->refusals += world->refusals;
    total->duplicates += world->duplicates_sent;
    total->stale_drops += world->hub->drops[DROP_STALE];
    total->batches += world->options.hub.steps;
}

void sim_run(const struct sim_options *options, struct sim_report *total)
{
    static struct sim sim;
    struct world_options run;
    memset(&sim, 0, sizeof sim);
    sim.options = *options;
    sim.report = total;
    draw_run(&sim, &run);
    draw_weather(&sim);
    uint64_t expected = run.hub.staleness_max == 0 ? reference_result(&sim, &run) : 0;
    run.store = make_store;
    run.store_context = &sim;
    sim.disk = sim_disk_create(options->seed);
    sim_disk_set_sync(sim.disk, !options->no_sync);
    sim_net_start(&(struct sim_net_options){.seed = options->seed,
                                            .now_ns = &sim.world.now_ns,
                                            .delay_max_ms = between(&sim, 0, 200),
                                            .queue_max = draw(&sim, 4) == 0 ? 4 : 1000});
    sim_trace_start(options->trace, &sim.world.now_ns);
    sim_check_start();
    world_start(&sim.world, &run);
    sim.world.hub_may_stop = true;
    while (sim.world.tick < sim.storm_ticks && !sim.world.finished)
        tick(&sim);
    finish(&sim);
    if (run.hub.staleness_max == 0 && world_result(&sim.world) != expected)
        fail_msg("G7: a synchronous run with faults trained something else than one without");
    report(&sim);
    world_end(&sim.world);
    sim_net_stop();
    sim_disk_free(sim.disk);
}

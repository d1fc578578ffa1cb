#include "tests/sim/sim_check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "curriculum/hub_store.h"
#include "curriculum/recovery.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/wire/envelope.h"

/* What the tick before left behind: it may only grow. */
static struct {
    uint64_t next_order, next_lease, fence, sequence;
    int64_t batch_count, done_batch, durable_batch;
    uint64_t first_group[WORLD_BATCHES_MAX]; /* of each batch */
} before;

/* The tables as recovery makes them; too large to be cleared at each check. */
static struct curriculum_stage shadow;

void sim_check_start(void)
{
    memset(&before, 0, sizeof before);
}

#define REQUIRE(condition, ...)                                                                    \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail_msg(__VA_ARGS__);                                                                 \
    } while (0)

/* ---- the tables among themselves ---- */

static void check_sample(const struct curriculum_stage *hub, const struct group *group, int32_t k)
{
    const struct sample *sample = &group->samples[k];
    const struct lease *lease = NULL;
    bool arrived = sample->state >= SAMPLE_ARRIVED;
    REQUIRE(arrived == (sample->trajectory_id != 0),
            "G1: group %llu sample %d: state %d and trajectory %llu", (unsigned long long)group->id,
            k, (int)sample->state, (unsigned long long)sample->trajectory_id);
    if (sample->state != SAMPLE_LEASED)
        return;
    lease = lease_table_find(&hub->leases, sample->lease_id);
    REQUIRE(lease != NULL, "G1: group %llu sample %d waits for lease %llu, which is over",
            (unsigned long long)group->id, k, (unsigned long long)sample->lease_id);
    REQUIRE(lease->group_id == group->id && k >= lease->first && k < lease->first + lease->count,
            "G1: lease %llu does not cover its sample", (unsigned long long)lease->id);
}

static void check_groups(const struct curriculum_stage *hub)
{
    int32_t counts[GROUP_DROPPED + 1] = {0};
    for (int32_t i = 0; i < hub->groups.count; i++) {
        const struct group *group = hub->groups.items[i];
        counts[group->state]++;
        REQUIRE(i == 0 || hub->groups.items[i - 1]->id < group->id, "groups are out of order");
        REQUIRE(group->id <= hub->next_order, "group %llu was never dispatched",
                (unsigned long long)group->id);
        for (int32_t k = 0; k < group->size; k++)
            check_sample(hub, group, k);
        if (group->state != GROUP_LEASED)
            REQUIRE(group_all_scored(group), "G8: group %llu is complete without all rewards",
                    (unsigned long long)group->id);
    }
    REQUIRE(memcmp(counts, hub->groups.state_count, sizeof counts) == 0,
            "the group table has miscounted");
}

static void check_leases(const struct curriculum_stage *hub)
{
    for (int32_t i = 0; i < hub->leases.count; i++) {
        const struct lease *lease = &hub->leases.items[i];
        const struct group *group = group_table_find(&hub->groups, lease->group_id);
        int32_t missing = 0;
        REQUIRE(group != NULL && group->state == GROUP_LEASED, "G1: lease %llu has no group",
                (unsigned long long)lease->id);
        REQUIRE(lease->id < hub->next_lease && lease->fence <= hub->fence, "L2: lease %llu",
                (unsigned long long)lease->id);
        for (int32_t k = lease->first; k < lease->first + lease->count; k++)
            missing +=
                group->samples[k].state == SAMPLE_LEASED && group->samples[k].lease_id == lease->id;
        REQUIRE(missing > 0 && missing == lease->missing,
                "L1: lease %llu waits for %d samples and counts %d", (unsigned long long)lease->id,
                missing, lease->missing);
    }
    for (int32_t i = 0; i < hub->peers.count; i++)
        REQUIRE(hub->peers.items[i].credit >= 0, "P2: more was leased than %s has credit for",
                hub->peers.items[i].wire.identity);
}

static void check_conservation(const struct world *world)
{
    const struct curriculum_stage *hub = world->hub;
    const struct curriculum_options *options = &world->options.hub;
    int64_t trained = hub->durable_batch * options->prompts_per_step, dropped = 0;
    for (int i = 0; i < DROP_REASON_COUNT; i++)
        dropped += hub->drops[i];
    REQUIRE((int64_t)hub->next_order == hub->groups.count + trained + dropped,
            "G1: %llu groups dispatched, %d in flight, %lld trained, %lld dropped",
            (unsigned long long)hub->next_order, hub->groups.count, (long long)trained,
            (long long)dropped);
    int64_t ahead = group_table_waiting(&hub->groups) +
                    (hub->batch_count - hub->done_batch) * options->prompts_per_step;
    REQUIRE(ahead <= (options->staleness_max + 1) * options->prompts_per_step,
            "G3: %lld groups are dispatched and not trained", (long long)ahead);
    REQUIRE(hub->durable_batch <= hub->done_batch && hub->done_batch <= hub->batch_count &&
                hub->batch_count <= options->steps,
            "G4: %lld durable, %lld trained, %lld formed", (long long)hub->durable_batch,
            (long long)hub->done_batch, (long long)hub->batch_count);
    for (int64_t n = 1; n <= hub->durable_batch; n++)
        REQUIRE(hub->batches[n - 1].weights_hash[0] != '\0',
                "G7: nobody may be left who knows the hash of durable batch %lld", (long long)n);
}

static void check_batches(const struct world *world)
{
    const struct curriculum_stage *hub = world->hub;
    for (int64_t n = hub->durable_batch + 1; n <= hub->batch_count; n++) {
        for (int32_t i = 0; i < world->options.hub.prompts_per_step; i++) {
            uint64_t id = hub->batches[n - 1].group_ids[i];
            const struct group *group = group_table_find(&hub->groups, id);
            REQUIRE(group != NULL && group->state == GROUP_BATCHED && group->batch == n,
                    "G4: group %llu of batch %lld is not in it", (unsigned long long)id,
                    (long long)n);
            int64_t oldest = group_oldest_version(group);
            REQUIRE(n - 1 - oldest <= world->options.hub.staleness_max,
                    "G3: batch %lld has group %llu of version %lld", (long long)n,
                    (unsigned long long)id, (long long)oldest);
        }
    }
}

/* ---- against the tick before ---- */

static void check_monotone(const struct curriculum_stage *hub)
{
    REQUIRE(hub->next_order >= before.next_order && hub->next_lease >= before.next_lease &&
                hub->fence >= before.fence && hub->batch_count >= before.batch_count &&
                hub->done_batch >= before.done_batch && hub->durable_batch >= before.durable_batch,
            "what was committed has gone back: order %llu after %llu, batch %lld after %lld",
            (unsigned long long)hub->next_order, (unsigned long long)before.next_order,
            (long long)hub->batch_count, (long long)before.batch_count);
    before.next_order = hub->next_order;
    before.next_lease = hub->next_lease;
    before.fence = hub->fence;
    before.batch_count = hub->batch_count;
    before.done_batch = hub->done_batch;
    before.durable_batch = hub->durable_batch;
    for (int64_t n = 1; n <= hub->batch_count; n++) {
        uint64_t first = hub->batches[n - 1].group_ids[0];
        REQUIRE(before.first_group[n] == 0 || before.first_group[n] == first,
                "G4: batch %lld has changed", (long long)n);
        before.first_group[n] = first;
    }
}

/* ---- against the log (H2) ---- */

static void shadow_clear(void)
{
    group_table_release(&shadow.groups);
    lease_table_release(&shadow.leases);
    prompt_pools_release(&shadow.pools);
    for (int64_t i = 0; i < shadow.batch_count; i++)
        memory_free(shadow.batches[i].group_ids);
    memory_free(shadow.batches);
    shadow.batches = NULL;
    shadow.batch_count = shadow.batch_capacity = shadow.done_batch = shadow.zero_drops = 0;
    shadow.next_order = shadow.fence = 0;
    shadow.next_lease = 1;
    shadow.durable_batch = 0;
    memset(shadow.drops, 0, sizeof shadow.drops);
}

static void compare_sample(const struct group *group, int32_t k, const struct sample *own,
                           const struct sample *logged)
{
    enum sample_state state = own->state == SAMPLE_SCORING ? SAMPLE_ARRIVED : own->state;
    bool same = state == logged->state && own->trajectory_id == logged->trajectory_id;
    if (same && state == SAMPLE_LEASED)
        same = own->lease_id == logged->lease_id;
    if (same && state >= SAMPLE_ARRIVED)
        same = own->oldest_version == logged->oldest_version &&
               own->completion_tokens == logged->completion_tokens;
    if (same && state == SAMPLE_SCORED)
        same = own->status == logged->status &&
               (own->status != REWARD_OK || own->total == logged->total);
    REQUIRE(same, "H2: group %llu sample %d: state %d in the table, %d in the log",
            (unsigned long long)group->id, k, (int)state, (int)logged->state);
}

static void compare_groups(const struct curriculum_stage *hub)
{
    REQUIRE(hub->groups.count == shadow.groups.count, "H2: %d groups, %d in the log",
            hub->groups.count, shadow.groups.count);
    for (int32_t i = 0; i < hub->groups.count; i++) {
        const struct group *own = hub->groups.items[i], *logged = shadow.groups.items[i];
        REQUIRE(own->id == logged->id && own->state == logged->state &&
                    own->probe == logged->probe && own->prompt_id == logged->prompt_id &&
                    own->batch == logged->batch,
                "H2: group %llu: state %d in the table, %d in the log", (unsigned long long)own->id,
                (int)own->state, (int)logged->state);
        for (int32_t k = 0; k < own->size; k++)
            compare_sample(own, k, &own->samples[k], &logged->samples[k]);
    }
}

static void compare_leases(const struct curriculum_stage *hub)
{
    REQUIRE(hub->leases.count == shadow.leases.count, "H2: %d leases, %d in the log",
            hub->leases.count, shadow.leases.count);
    for (int32_t i = 0; i < hub->leases.count; i++) {
        const struct lease *own = &hub->leases.items[i];
        const struct lease *logged = lease_table_find(&shadow.leases, own->id);
        REQUIRE(logged != NULL && logged->fence == own->fence &&
                    logged->group_id == own->group_id && logged->first == own->first &&
                    logged->count == own->count && logged->missing == own->missing &&
                    logged->incarnation == own->incarnation &&
                    logged->deadline_ms == own->deadline_ms &&
                    strcmp(logged->worker.identity, own->worker.identity) == 0,
                "H2: lease %llu is another in the log", (unsigned long long)own->id);
    }
}

static void compare_batches(const struct world *world)
{
    const struct curriculum_stage *hub = world->hub;
    size_t bytes = (size_t)world->options.hub.prompts_per_step * sizeof(uint64_t);
    REQUIRE(hub->next_order == shadow.next_order && hub->next_lease == shadow.next_lease &&
                hub->fence == shadow.fence && hub->batch_count == shadow.batch_count &&
                hub->done_batch == shadow.done_batch &&
                hub->durable_batch == shadow.durable_batch &&
                hub->zero_drops == shadow.zero_drops &&
                memcmp(hub->drops, shadow.drops, sizeof hub->drops) == 0,
            "H2: the hub's state is another in the log");
    for (int64_t n = 0; n < hub->batch_count; n++)
        REQUIRE(memcmp(hub->batches[n].group_ids, shadow.batches[n].group_ids, bytes) == 0 &&
                    strcmp(hub->batches[n].weights_hash, shadow.batches[n].weights_hash) == 0,
                "H2: batch %lld is another in the log", (long long)n + 1);
}

/* What is selected next follows from the queues, and they from the prompts. */
static void compare_queues(const struct prompt_queue *own, const struct prompt_queue *logged)
{
    REQUIRE(own->count == logged->count, "H2: %lld prompts are queued, %lld by the log",
            (long long)own->count, (long long)logged->count);
    for (int64_t i = 0; i < logged->count; i++) {
        const struct prompt_rank *rank = &logged->items[i];
        int64_t place = own->places[rank->id];
        REQUIRE(place >= 0 && place < own->count && own->items[place].id == rank->id &&
                    own->items[place].major == rank->major &&
                    own->items[place].minor == rank->minor,
                "H2: prompt %lld is queued elsewhere by the log", (long long)rank->id);
    }
}

static bool is_same_measurement(const struct measurement *a, const struct measurement *b)
{
    return a->judged == b->judged && a->passed == b->passed && a->version == b->version;
}

static void compare_pools(const struct prompt_pools *own)
{
    const struct prompt_pools *logged = &shadow.pools;
    REQUIRE(own->round == logged->round && own->round_batch == logged->round_batch &&
                own->window_measured == logged->window_measured &&
                own->window_in_band == logged->window_in_band &&
                memcmp(own->class_deficit, logged->class_deficit, sizeof own->class_deficit) == 0 &&
                memcmp(own->pool_count, logged->pool_count, sizeof own->pool_count) == 0,
            "H2: the pools' state is another in the log");
    for (int64_t i = 0; i < own->count; i++) {
        const struct pool_prompt *a = &own->prompts[i], *b = &logged->prompts[i];
        REQUIRE(a->difficulty.pool == b->difficulty.pool &&
                    a->difficulty.leaning == b->difficulty.leaning &&
                    a->difficulty.tries == b->difficulty.tries &&
                    is_same_measurement(&a->difficulty.newest, &b->difficulty.newest) &&
                    is_same_measurement(&a->pending, &b->pending) &&
                    a->pending_selected == b->pending_selected &&
                    a->measured_batch == b->measured_batch && a->due == b->due &&
                    a->in_flight == b->in_flight && a->settled == b->settled &&
                    a->selections == b->selections && a->judged_all == b->judged_all &&
                    a->passed_all == b->passed_all && a->failed == b->failed,
                "H2: prompt %lld is another in the log", (long long)i);
    }
    for (int32_t i = 0; i < own->capability_count; i++) {
        const struct pool_capability *a = &own->capabilities[i], *b = &logged->capabilities[i];
        REQUIRE(a->deficit == b->deficit, "H2: capability %d is owed something else by the log", i);
        for (int class = 0; class < CLASS_COUNT; class ++)
            compare_queues(&a->queues[class], &b->queues[class]);
    }
}

/* Every group of a prompt that is not folded in is known to its prompt. */
static void check_pools(const struct curriculum_stage *hub)
{
    const struct prompt_pools *pools = &hub->pools;
    for (int32_t i = 0; i < hub->groups.count; i++) {
        const struct group *group = hub->groups.items[i];
        const struct pool_prompt *prompt = &pools->prompts[group->prompt_id];
        REQUIRE(group->state != GROUP_LEASED || prompt->in_flight > prompt->settled,
                "Q2: group %llu is in flight and its prompt is not", (unsigned long long)group->id);
    }
    REQUIRE(hub->groups.probe_count <= hub->options.filter.probes, "more probes than there may be");
}

static void check_log(const struct world *world)
{
    const struct curriculum_options *options = &world->hub->options;
    shadow_clear();
    shadow.options = *options;
    shadow.log = world->log;
    shadow.clock = world->hub->clock;
    prompt_pools_init(&shadow.pools, &options->filter, options->prompts, options->prompt_count,
                      options->seed, options->prompts_per_step);
    if (hub_recover(&shadow) < 0)
        fail_msg("H2: the log cannot be recovered: %s", error_message());
    compare_batches(world);
    compare_groups(world->hub);
    compare_leases(world->hub);
    if (options->filter.mode != FILTER_OFF)
        compare_pools(&world->hub->pools);
    shadow_clear();
}

void sim_check(struct world *world)
{
    check_groups(world->hub);
    check_leases(world->hub);
    check_conservation(world);
    check_batches(world);
    if (world->hub->options.filter.mode != FILTER_OFF)
        check_pools(world->hub);
    if (run_log_has_staged(world->log)) /* a commit has failed and will be tried again */
        return;
    check_monotone(world->hub);
    if (run_log_sequence(world->log) == before.sequence)
        return;
    before.sequence = run_log_sequence(world->log);
    check_log(world);
}

void sim_check_acked(struct world *world)
{
    for (int64_t i = 0; i < world->acked_count; i++) {
        Hone__Trajectory *message;
        int rc = trajectory_log_get(world->log, world->acked[i], &message);
        REQUIRE(rc > 0, "P1: trajectory %llu was acknowledged and is not in the log",
                (unsigned long long)world->acked[i]);
        wire_free(&message->base);
    }
}

uint64_t sim_check_digest(const struct world *world)
{
    uint64_t words[] = {world_result(world),
                        (uint64_t)world->tick,
                        (uint64_t)world->acked_count,
                        (uint64_t)world->trajectories_sent,
                        (uint64_t)world->hub_restarts,
                        (uint64_t)world->deaths,
                        world->draws,
                        before.sequence,
                        before.next_order,
                        before.fence};
    return hash_u64(words, sizeof words);
}

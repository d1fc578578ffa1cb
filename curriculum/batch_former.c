#include "curriculum/batch_former.h"

#include <inttypes.h>

#include "curriculum/hub_report.h"
#include "curriculum/hub_store.h"
#include "infra/base/assert.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"

void batch_former_drop(struct curriculum_stage *hub, struct group *group, enum drop_reason reason)
{
    group->reason = reason;
    group->batch = hub_next_batch(hub);
    if (hub->options.filter.mode != FILTER_OFF && group->state == GROUP_LEASED)
        prompt_pools_returned(&hub->pools, (int64_t)group->prompt_id);
    group_table_move(&hub->groups, group, GROUP_DROPPED);
    hub_store_group(hub, group);
    hub->drops[reason]++;
    hub_note_dropped(hub, group->id, group->batch);
    hub->zero_drops += reason == DROP_ZERO_ADVANTAGE;
    hub->dropped_tokens += group_completion_tokens(group);
    log_debug("group %" PRIu64 " is dropped: %s", group->id, drop_reason_name(reason));
    group_table_remove(&hub->groups, group);
}

static bool refill_left(const struct curriculum_stage *hub)
{
    double budget = (double)hub->options.refill_max * hub->options.prompts_per_step;
    return (double)(hub->zero_drops + 1) <= budget;
}

static void settle_scored(struct curriculum_stage *hub, struct group *group)
{
    group_table_move(&hub->groups, group, GROUP_SCORED);
    hub_store_group(hub, group);
    if (hub->options.filter.mode == FILTER_OFF)
        return;
    struct measurement measurement = group_measurement(group, hub->options.filter.pass_threshold);
    prompt_pools_measured(&hub->pools, (int64_t)group->prompt_id, &measurement,
                          group->size - measurement.judged, !group->probe);
    if (PLANTED(PLANTED_EARLY_FOLD))
        prompt_pools_fold(&hub->pools, hub->batch_count);
}

/* F1. false: the group was dropped. */
static bool decide(struct curriculum_stage *hub, struct group *group)
{
    if (group->probe)
        return batch_former_drop(hub, group, DROP_PROBE), false;
    if (group_ok_count(group) < 2)
        return batch_former_drop(hub, group, DROP_REWARD_FAILED), false;
    if (hub->options.drop_zero_advantage && group_zero_advantage(group) && refill_left(hub))
        return batch_former_drop(hub, group, DROP_ZERO_ADVANTAGE), false;
    group->decided = true;
    return true;
}

void batch_former_decide(struct curriculum_stage *hub)
{
    bool in_order = hub->options.staleness_max == 0, open = false;
    for (int32_t i = 0; i < hub->groups.count;) {
        struct group *group = hub->groups.items[i];
        if (group->state == GROUP_LEASED && group_all_scored(group))
            settle_scored(hub, group);
        open = open || group->state == GROUP_LEASED;
        bool decidable = group->state == GROUP_SCORED && !group->decided && !(in_order && open);
        if (!decidable || decide(hub, group))
            i++;
    }
}

/* F3: drops what is too old for the next batch; counts what is fit. */
static int32_t count_fit(struct curriculum_stage *hub)
{
    int64_t oldest_allowed = hub_next_batch(hub) - 1 - hub->options.staleness_max;
    int32_t fit = 0;
    for (int32_t i = 0; i < hub->groups.count;) {
        struct group *group = hub->groups.items[i];
        if (group->state == GROUP_SCORED && group->decided) {
            if (group_oldest_version(group) < oldest_allowed && !PLANTED(PLANTED_STALE_BATCH)) {
                batch_former_drop(hub, group, DROP_STALE);
                continue;
            }
            fit++;
        }
        i++;
    }
    return fit;
}

bool batch_former_form(struct curriculum_stage *hub)
{
    if (hub->batch_count >= hub->options.steps || hub->batch_count > hub->done_batch + 1)
        return false; /* F4 */
    if (count_fit(hub) < hub->options.prompts_per_step)
        return false;
    struct batch_entry *batch = hub_add_batch(hub);
    const struct group **members =
        MEMORY_ARRAY(const struct group *, hub->options.prompts_per_step);
    int32_t count = 0;
    for (int32_t i = 0; count < hub->options.prompts_per_step; i++) {
        HONE_ASSERT(i < hub->groups.count);
        struct group *group = hub->groups.items[i];
        if (group->state != GROUP_SCORED || !group->decided)
            continue;
        group->batch = hub->batch_count;
        group_table_move(&hub->groups, group, GROUP_BATCHED);
        hub_store_group(hub, group);
        batch->group_ids[count] = group->id;
        members[count++] = group;
    }
    if (hub->options.filter.mode != FILTER_OFF)
        prompt_pools_fold(&hub->pools, hub->batch_count);
    hub->state_changed = true;
    hub_store_batch(hub, hub->batch_count);
    int rc = hub_report_batch(hub, members, count);
    hub->zero_drops = 0;
    if (rc < 0)
        hub->write_error = rc;
    memory_free(members);
    hub_progress(hub);
    return true;
}

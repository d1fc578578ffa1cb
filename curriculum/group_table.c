#include "curriculum/group_table.h"

#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/memory.h"
#include "infra/wire/envelope.h"

void group_table_init(struct group_table *table)
{
    memset(table, 0, sizeof *table);
}

static void group_free(struct group *group)
{
    for (int32_t i = 0; i < group->size; i++) {
        memory_free(group->samples[i].partial.offsets);
        if (group->samples[i].message != NULL)
            wire_free(&group->samples[i].message->base);
    }
    memory_free(group->samples);
    memory_free(group);
}

void group_table_release(struct group_table *table)
{
    for (int32_t i = 0; i < table->count; i++)
        group_free(table->items[i]);
    memory_free(table->items);
    id_map_release(&table->by_trajectory);
    group_table_init(table);
}

struct group *group_table_add(struct group_table *table, uint64_t order, uint64_t prompt_id,
                              int32_t size)
{
    HONE_ASSERT(table->count == 0 || table->items[table->count - 1]->order < order);
    HONE_ASSERT(size > 0);
    if (table->count == table->capacity) {
        int32_t capacity = table->capacity > 0 ? table->capacity * 2 : 64;
        table->items = memory_resize(table->items, (size_t)table->capacity, (size_t)capacity,
                                     sizeof *table->items);
        table->capacity = capacity;
    }
    struct group *group = MEMORY_NEW(struct group);
    group->table = table;
    group->id = order + 1;
    group->order = order;
    group->prompt_id = prompt_id;
    group->size = size;
    group->samples = MEMORY_ARRAY(struct sample, size);
    for (int32_t i = 0; i < size; i++)
        group->samples[i].oldest_version = -1;
    group->sample_count[SAMPLE_FREE] = size;
    table->sample_count[SAMPLE_FREE] += size;
    table->items[table->count++] = group;
    table->state_count[GROUP_LEASED]++;
    return group;
}

void group_table_make_probe(struct group_table *table, struct group *group)
{
    HONE_ASSERT(!group->probe);
    group->probe = true;
    table->probe_count++;
}

static int32_t index_of(const struct group_table *table, uint64_t id)
{
    int32_t low = 0, high = table->count;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (table->items[middle]->id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < table->count && table->items[low]->id == id ? low : -1;
}

struct group *group_table_find(const struct group_table *table, uint64_t id)
{
    int32_t index = index_of(table, id);
    return index < 0 ? NULL : table->items[index];
}

int32_t group_table_waiting(const struct group_table *table)
{
    const int32_t *count = table->state_count;
    return count[GROUP_LEASED] + count[GROUP_SCORED] - table->probe_count;
}

void group_table_move(struct group_table *table, struct group *group, enum group_state state)
{
    static const bool allowed[GROUP_DROPPED + 1][GROUP_DROPPED + 1] = {
        [GROUP_LEASED] = {[GROUP_SCORED] = true, [GROUP_DROPPED] = true},
        [GROUP_SCORED] = {[GROUP_BATCHED] = true, [GROUP_DROPPED] = true},
        [GROUP_BATCHED] = {[GROUP_TRAINED] = true},
    };
    HONE_ASSERT(allowed[group->state][state]);
    if (state == GROUP_DROPPED && group->state == GROUP_LEASED)
        HONE_ASSERT(group_may_lack_samples(group->reason));
    else
        HONE_ASSERT(group_all_scored(group));
    if (state == GROUP_DROPPED && group->state == GROUP_SCORED)
        HONE_ASSERT(group->reason != DROP_ABANDONED);
    table->state_count[group->state]--;
    table->state_count[state]++;
    group->state = state;
}

void sample_restore(struct group *group, struct sample *sample, enum sample_state state)
{
    group->sample_count[sample->state]--;
    group->table->sample_count[sample->state]--;
    sample->state = state;
    group->sample_count[state]++;
    group->table->sample_count[state]++;
}

void sample_move(struct group *group, struct sample *sample, enum sample_state state)
{
    static const bool allowed[SAMPLE_SCORED + 1][SAMPLE_SCORED + 1] = {
        [SAMPLE_FREE] = {[SAMPLE_LEASED] = true},
        [SAMPLE_LEASED] = {[SAMPLE_FREE] = true, [SAMPLE_ARRIVED] = true, [SAMPLE_SCORED] = true},
        [SAMPLE_ARRIVED] = {[SAMPLE_SCORING] = true, [SAMPLE_SCORED] = true},
        [SAMPLE_SCORING] = {[SAMPLE_ARRIVED] = true, [SAMPLE_SCORED] = true},
    };
    HONE_ASSERT(allowed[sample->state][state]);
    sample_restore(group, sample, state);
}

void group_table_remove(struct group_table *table, struct group *group)
{
    int32_t index = index_of(table, group->id);
    HONE_ASSERT(index >= 0 && table->items[index] == group);
    HONE_ASSERT(group->state == GROUP_TRAINED || group->state == GROUP_DROPPED);
    for (int32_t i = 0; i < group->size; i++) {
        id_map_remove(&table->by_trajectory, group->samples[i].trajectory_id);
        table->message_bytes -= group->samples[i].message_bytes;
    }
    for (int k = 0; k <= SAMPLE_SCORED; k++)
        table->sample_count[k] -= group->sample_count[k];
    table->state_count[group->state]--;
    table->probe_count -= group->probe;
    table->count--;
    memmove(&table->items[index], &table->items[index + 1],
            (size_t)(table->count - index) * sizeof *table->items);
    group_free(group);
}

void group_table_hold(struct group_table *table, struct group *group, int32_t index,
                      uint64_t trajectory_id)
{
    HONE_ASSERT(index >= 0 && index < group->size);
    group->samples[index].trajectory_id = trajectory_id;
    id_map_set(&table->by_trajectory, trajectory_id, group->id);
}

void group_table_keep(struct group_table *table, struct sample *sample, Hone__Trajectory **message)
{
    size_t bytes = hone__trajectory__get_packed_size(*message);
    if (sample->message != NULL || bytes > GROUP_MESSAGES_BYTES - table->message_bytes)
        return;
    table->message_bytes += bytes;
    sample->message_bytes = bytes;
    sample->message = *message;
    *message = NULL;
}

Hone__Trajectory *group_table_take(struct group_table *table, struct sample *sample)
{
    Hone__Trajectory *message = sample->message;
    table->message_bytes -= sample->message_bytes;
    sample->message_bytes = 0;
    sample->message = NULL;
    return message;
}

struct sample *group_table_sample(const struct group_table *table, uint64_t trajectory_id,
                                  struct group **group)
{
    uint64_t id;
    if (!id_map_get(&table->by_trajectory, trajectory_id, &id))
        return NULL;
    *group = group_table_find(table, id);
    HONE_ASSERT(*group != NULL);
    for (int32_t k = 0; k < (*group)->size; k++)
        if ((*group)->samples[k].trajectory_id == trajectory_id)
            return &(*group)->samples[k];
    return NULL;
}

bool group_all_scored(const struct group *group)
{
    return group->sample_count[SAMPLE_SCORED] == group->size;
}

bool group_may_lack_samples(enum drop_reason reason)
{
    return reason == DROP_ABANDONED || reason == DROP_PROBE;
}

int32_t group_ok_count(const struct group *group)
{
    int32_t count = 0;
    for (int32_t i = 0; i < group->size; i++)
        count += group->samples[i].state == SAMPLE_SCORED && group->samples[i].status == REWARD_OK;
    return count;
}

bool group_zero_advantage(const struct group *group)
{
    const struct sample *first = NULL;
    for (int32_t i = 0; i < group->size; i++) {
        const struct sample *sample = &group->samples[i];
        if (sample->status != REWARD_OK)
            continue;
        if (first == NULL)
            first = sample;
        if (sample->total != first->total)
            return false;
    }
    return true;
}

struct measurement group_measurement(const struct group *group, double pass_threshold)
{
    struct measurement measurement = {0};
    for (int32_t i = 0; i < group->size; i++) {
        const struct sample *sample = &group->samples[i];
        if (sample->state != SAMPLE_SCORED || sample->status != REWARD_OK)
            continue;
        measurement.judged++;
        measurement.passed += (double)sample->total >= pass_threshold;
    }
    int64_t oldest = group_oldest_version(group);
    measurement.version = oldest == INT64_MAX ? 0 : oldest;
    return measurement;
}

int64_t group_completion_tokens(const struct group *group)
{
    int64_t tokens = 0;
    for (int32_t i = 0; i < group->size; i++)
        tokens += group->samples[i].completion_tokens;
    return tokens;
}

int64_t group_oldest_version(const struct group *group)
{
    int64_t oldest = INT64_MAX;
    for (int32_t i = 0; i < group->size; i++)
        if (group->samples[i].oldest_version >= 0 && group->samples[i].oldest_version < oldest)
            oldest = group->samples[i].oldest_version;
    return oldest;
}

static const char *const reason_names[] = {"reward_failed", "zero_advantage", "stale", "abandoned",
                                           "probe"};

const char *drop_reason_name(enum drop_reason reason)
{
    HONE_ASSERT(reason < DROP_REASON_COUNT);
    return reason_names[reason];
}

int drop_reason_find(const char *name)
{
    for (int i = 0; i < DROP_REASON_COUNT; i++)
        if (strcmp(reason_names[i], name) == 0)
            return i;
    return -1;
}

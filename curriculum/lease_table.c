#include "curriculum/lease_table.h"

#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/memory.h"

void lease_table_init(struct lease_table *table)
{
    memset(table, 0, sizeof *table);
}

void lease_table_release(struct lease_table *table)
{
    memory_free(table->items);
    id_map_release(&table->by_id);
    lease_table_init(table);
}

struct lease *lease_table_add(struct lease_table *table, const struct lease *lease)
{
    HONE_ASSERT(lease_table_find(table, lease->id) == NULL);
    if (table->count == table->capacity) {
        int32_t capacity = table->capacity > 0 ? table->capacity * 2 : 64;
        table->items = memory_resize(table->items, (size_t)table->capacity, (size_t)capacity,
                                     sizeof *table->items);
        table->capacity = capacity;
    }
    id_map_set(&table->by_id, lease->id, (uint64_t)table->count);
    table->items[table->count] = *lease;
    return &table->items[table->count++];
}

struct lease *lease_table_find(const struct lease_table *table, uint64_t id)
{
    uint64_t index;
    return id_map_get(&table->by_id, id, &index) ? &table->items[index] : NULL;
}

void lease_move(struct lease *lease, enum lease_state state)
{
    static const bool allowed[LEASE_TAKEN + 1][LEASE_TAKEN + 1] = {
        [LEASE_QUEUED] = {[LEASE_OUT] = true, [LEASE_FILLED] = true, [LEASE_TAKEN] = true},
        [LEASE_OUT] = {[LEASE_QUEUED] = true, [LEASE_FILLED] = true, [LEASE_TAKEN] = true},
    };
    HONE_ASSERT(allowed[lease->state][state]);
    lease->state = state;
}

void lease_table_remove(struct lease_table *table, struct lease *lease)
{
    HONE_ASSERT(lease->state == LEASE_FILLED || lease->state == LEASE_TAKEN);
    HONE_ASSERT(lease >= table->items && lease < table->items + table->count);
    id_map_remove(&table->by_id, lease->id);
    *lease = table->items[--table->count];
    if (lease != &table->items[table->count])
        id_map_set(&table->by_id, lease->id, (uint64_t)(lease - table->items));
}

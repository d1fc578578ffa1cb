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
    table->items[table->count] = *lease;
    return &table->items[table->count++];
}

struct lease *lease_table_find(const struct lease_table *table, uint64_t id)
{
    for (int32_t i = 0; i < table->count; i++)
        if (table->items[i].id == id)
            return &table->items[i];
    return NULL;
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
    *lease = table->items[--table->count];
}

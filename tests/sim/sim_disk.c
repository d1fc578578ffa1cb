#include "tests/sim/sim_disk.h"

#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "tests/sim/sim_trace.h"

#define UNSYNCED_MAX 16 /* writes that a power cut can take with sync off */
#define KEY_MAX      16

struct record {
    unsigned char key[KEY_MAX];
    size_t key_bytes, value_bytes;
    unsigned char *value;
};

struct keyspace {
    struct record *records; /* by key */
    size_t count, capacity;
};

struct undo { /* what a key held before a write */
    uint32_t keyspace;
    bool was_there;
    struct record record;
};

struct write {
    struct undo *undos;
    size_t count;
};

struct sim_disk {
    struct keyspace keyspaces[STORE_KEYSPACES];
    struct write writes[UNSYNCED_MAX]; /* the newest last */
    size_t write_count;
    struct chain acked, acked_synced;
    uint64_t seed, draws;
    bool fail_next, full, no_sync, in_use;
    int64_t failures;
};

struct sim_store {
    struct log_store base;
    struct sim_disk *disk;
};

static struct sim_disk *disk_of(struct log_store *store)
{
    return ((struct sim_store *)(void *)store)->disk;
}

static uint64_t draw(struct sim_disk *disk, uint64_t bound)
{
    struct rng_key key = {disk->seed, RNG_SIM, 2, 0};
    return rng_below(&key, disk->draws++, bound);
}

struct sim_disk *sim_disk_create(uint64_t seed)
{
    struct sim_disk *disk = MEMORY_NEW(struct sim_disk);
    disk->seed = seed;
    return disk;
}

static void write_release(struct write *write)
{
    for (size_t i = 0; i < write->count; i++)
        memory_free(write->undos[i].record.value);
    memory_free(write->undos);
}

void sim_disk_free(struct sim_disk *disk)
{
    HONE_ASSERT(!disk->in_use);
    for (int i = 0; i < STORE_KEYSPACES; i++) {
        for (size_t k = 0; k < disk->keyspaces[i].count; k++)
            memory_free(disk->keyspaces[i].records[k].value);
        memory_free(disk->keyspaces[i].records);
    }
    for (size_t i = 0; i < disk->write_count; i++)
        write_release(&disk->writes[i]);
    memory_free(disk);
}

void sim_disk_fail_next(struct sim_disk *disk)
{
    disk->fail_next = true;
}

void sim_disk_set_full(struct sim_disk *disk, bool full)
{
    disk->full = full;
}

void sim_disk_set_sync(struct sim_disk *disk, bool sync)
{
    disk->no_sync = !sync;
}

int64_t sim_disk_failures(const struct sim_disk *disk)
{
    return disk->failures;
}

/* ---- the map ---- */

static int compare(const struct record *record, const void *key, size_t key_bytes)
{
    size_t shorter = record->key_bytes < key_bytes ? record->key_bytes : key_bytes;
    int order = memcmp(record->key, key, shorter);
    return order != 0 ? order : (record->key_bytes > key_bytes) - (record->key_bytes < key_bytes);
}

/* Where key is, or would be. */
static size_t position(const struct keyspace *space, const void *key, size_t key_bytes)
{
    size_t low = 0, high = space->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare(&space->records[middle], key, key_bytes) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct record *find(const struct keyspace *space, const void *key, size_t key_bytes)
{
    size_t at = position(space, key, key_bytes);
    bool there = at < space->count && compare(&space->records[at], key, key_bytes) == 0;
    return there ? &space->records[at] : NULL;
}

/* Takes the value over. */
static void put(struct keyspace *space, const void *key, size_t key_bytes, unsigned char *value,
                size_t value_bytes)
{
    struct record *record = find(space, key, key_bytes);
    if (record == NULL) {
        size_t at = position(space, key, key_bytes);
        if (space->count == space->capacity) {
            size_t capacity = space->capacity > 0 ? 2 * space->capacity : 32;
            space->records =
                memory_resize(space->records, space->capacity, capacity, sizeof *space->records);
            space->capacity = capacity;
        }
        memmove(&space->records[at + 1], &space->records[at],
                (space->count++ - at) * sizeof *space->records);
        record = &space->records[at];
        record->key_bytes = key_bytes;
        memcpy(record->key, key, key_bytes);
    } else {
        memory_free(record->value);
    }
    record->value = value;
    record->value_bytes = value_bytes;
}

static void erase(struct keyspace *space, const void *key, size_t key_bytes)
{
    struct record *record = find(space, key, key_bytes);
    if (record == NULL)
        return;
    memory_free(record->value);
    size_t at = (size_t)(record - space->records);
    memmove(record, record + 1, (--space->count - at) * sizeof *record);
}

/* ---- writes ---- */

static struct undo undo_of(const struct sim_disk *disk, const struct log_change *change)
{
    struct undo undo = {.keyspace = change->keyspace};
    const struct record *old =
        find(&disk->keyspaces[change->keyspace], change->key, change->key_bytes);
    undo.was_there = old != NULL;
    undo.record.key_bytes = change->key_bytes;
    memcpy(undo.record.key, change->key, change->key_bytes);
    if (old != NULL) {
        undo.record.value = memory_dup(old->value, old->value_bytes);
        undo.record.value_bytes = old->value_bytes;
    }
    return undo;
}

static void remember(struct sim_disk *disk, const struct log_change *changes, size_t count)
{
    if (disk->write_count == UNSYNCED_MAX) {
        write_release(&disk->writes[0]);
        memmove(&disk->writes[0], &disk->writes[1], (UNSYNCED_MAX - 1) * sizeof disk->writes[0]);
        disk->write_count--;
    }
    struct write *write = &disk->writes[disk->write_count++];
    write->undos = MEMORY_ARRAY(struct undo, count);
    write->count = count;
    for (size_t i = 0; i < count; i++)
        write->undos[i] = undo_of(disk, &changes[i]);
}

static void apply(struct sim_disk *disk, const struct log_change *changes, size_t count)
{
    if (disk->no_sync)
        remember(disk, changes, count);
    for (size_t i = 0; i < count; i++) {
        const struct log_change *change = &changes[i];
        struct keyspace *space = &disk->keyspaces[change->keyspace];
        HONE_ASSERT(change->key_bytes <= KEY_MAX);
        if (change->is_delete)
            erase(space, change->key, change->key_bytes);
        else
            put(space, change->key, change->key_bytes,
                memory_dup(change->value, change->value_bytes), change->value_bytes);
    }
}

static void roll_back_newest(struct sim_disk *disk)
{
    struct write *write = &disk->writes[--disk->write_count];
    for (size_t i = write->count; i-- > 0;) {
        struct undo *undo = &write->undos[i];
        struct keyspace *space = &disk->keyspaces[undo->keyspace];
        if (undo->was_there) {
            put(space, undo->record.key, undo->record.key_bytes, undo->record.value,
                undo->record.value_bytes);
            undo->record.value = NULL;
        } else {
            erase(space, undo->record.key, undo->record.key_bytes);
        }
    }
    write_release(write);
}

void sim_disk_power_cut(struct sim_disk *disk)
{
    HONE_ASSERT(!disk->in_use);
    size_t lost = disk->write_count > 0 ? draw(disk, disk->write_count + 1) : 0;
    sim_trace("power cut: %zu unsynced writes are lost", lost);
    while (lost-- > 0)
        roll_back_newest(disk);
    switch (draw(disk, 3)) {
    case 0:
        break;
    case 1:
        disk->acked = disk->acked_synced;
        break;
    default: /* torn: its checksum fails, it says nothing */
        memset(&disk->acked, 0, sizeof disk->acked);
    }
    disk->acked_synced = disk->acked;
}

/* ---- the table ---- */

static int disk_open(struct log_store *store)
{
    struct sim_disk *disk = disk_of(store);
    HONE_ASSERT(!disk->in_use);
    if (disk->full)
        return error_set(HONE_ENOSPC, "open: the simulated disk is full");
    disk->in_use = true;
    return 0;
}

static void disk_close(struct log_store *store)
{
    HONE_ASSERT(disk_of(store)->in_use);
    disk_of(store)->in_use = false;
}

static int disk_write(struct log_store *store, const struct log_change *changes, size_t count)
{
    struct sim_disk *disk = disk_of(store);
    HONE_ASSERT(disk->in_use);
    if (sim_dying("write %zu changes", count))
        return 0;
    if (disk->full) {
        disk->failures++;
        return error_set(HONE_ENOSPC, "write: the simulated disk is full");
    }
    if (disk->fail_next) {
        disk->fail_next = false;
        disk->failures++;
        bool there = draw(disk, 2) == 0;
        sim_trace("the write fails and is %sthere", there ? "" : "not ");
        if (there)
            apply(disk, changes, count);
        return error_set(HONE_EIO, "write: the simulated disk failed");
    }
    apply(disk, changes, count);
    return 0;
}

static int disk_get(struct log_store *store, uint32_t keyspace, const void *key, size_t key_bytes,
                    struct text *value)
{
    struct sim_disk *disk = disk_of(store);
    HONE_ASSERT(disk->in_use);
    const struct record *record = find(&disk->keyspaces[keyspace], key, key_bytes);
    if (record == NULL)
        return 0;
    if (value != NULL) {
        text_clear(value);
        text_append_bytes(value, record->value, record->value_bytes);
    }
    return 1;
}

static int disk_scan(struct log_store *store, uint32_t keyspace, run_log_visit visit, void *context)
{
    struct sim_disk *disk = disk_of(store);
    const struct keyspace *space = &disk->keyspaces[keyspace];
    int rc = 0;
    HONE_ASSERT(disk->in_use);
    for (size_t i = 0; rc == 0 && i < space->count; i++) {
        const struct record *record = &space->records[i];
        rc = visit(context, record->key, record->key_bytes, record->value, record->value_bytes);
    }
    return rc;
}

static int disk_read_acked(struct log_store *store, struct chain *acked)
{
    *acked = disk_of(store)->acked;
    return 0;
}

static int disk_write_acked(struct log_store *store, const struct chain *acked)
{
    struct sim_disk *disk = disk_of(store);
    if (sim_is_dead())
        return 0;
    if (draw(disk, 4) == 0) /* the kernel wrote it back meanwhile */
        disk->acked_synced = disk->acked;
    disk->acked = *acked;
    return 0;
}

static void disk_destroy(struct log_store *store)
{
    memory_free(store);
}

struct log_store *sim_disk_store(struct sim_disk *disk)
{
    static const struct log_store_table table = {
        .open = disk_open,
        .close = disk_close,
        .write = disk_write,
        .get = disk_get,
        .scan = disk_scan,
        .read_acked = disk_read_acked,
        .write_acked = disk_write_acked,
        .destroy = disk_destroy,
    };
    struct sim_store *store = MEMORY_NEW(struct sim_store);
    store->base.table = &table;
    store->disk = disk;
    return &store->base;
}

/* A slot as the owner sees it:
 *
 *   FREE --take--> WRITING (LOCK_EX, new nonce) --publish--> SHARED --last release--> FREE
 *
 * FREE and locked by a reader: skipped, and given up when there is no other way (S2). The last page
 * of a slot is its trailer. */
#include "infra/wire/weight_slots.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/hash.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"

#define PAGE_BYTES  ((size_t)4096)
#define SLOTS_MAX   16
#define SLOT_MAGIC  "hone weights 1"
#define SHRINK_SEAL (F_SEAL_SHRINK | F_SEAL_GROW)

struct trailer {
    char magic[16];
    uint64_t bytes;
    unsigned char nonce[WEIGHT_NONCE_BYTES];
};

struct weight_slot {
    struct weight_slots *owner;
    int fd;
    unsigned char *base;
    int holds;
    unsigned char nonce[WEIGHT_NONCE_BYTES];
};

struct weight_slots {
    size_t bytes, mapped_bytes;
    int count, count_max;
    struct weight_slot items[SLOTS_MAX];
    pthread_mutex_t mutex;
    pthread_cond_t released;
};

static size_t mapped_bytes(size_t bytes)
{
    return ((bytes + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1)) + PAGE_BYTES;
}

uint64_t weight_host_token(void)
{
    char text[256] = "", space[128] = "";
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t length = read(fd, text, 64);
    close(fd);
    ssize_t named = readlink("/proc/self/ns/pid", space, sizeof space - 1);
    if (length <= 0 || named <= 0)
        return 0;
    int total = snprintf(text + length, sizeof text - (size_t)length, " %s %lld", space,
                         (long long)geteuid());
    return hash_u64(text, (size_t)length + (size_t)total) | 1;
}

/* ---- the owner ---- */

static int open_slot(struct weight_slot *slot)
{
    const struct weight_slots *slots = slot->owner;
    slot->fd = memfd_create("hone-weights", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (slot->fd < 0)
        return error_errno("memfd_create");
    if (ftruncate(slot->fd, (off_t)slots->mapped_bytes) < 0 ||
        fcntl(slot->fd, F_ADD_SEALS, SHRINK_SEAL) < 0)
        return error_errno("shared memory of %zu bytes", slots->mapped_bytes);
    void *base = mmap(NULL, slots->mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, slot->fd, 0);
    if (base == MAP_FAILED)
        return error_errno("map %zu bytes of shared memory", slots->mapped_bytes);
    slot->base = base;
    /* Advice only: where the system has no huge pages for shared memory it gives ordinary ones. */
    (void)madvise(base, slots->mapped_bytes, MADV_HUGEPAGE);
    return 0;
}

static void close_slot(struct weight_slot *slot)
{
    if (slot->base)
        munmap(slot->base, slot->owner->mapped_bytes);
    if (slot->fd >= 0)
        close(slot->fd);
    slot->base = NULL;
    slot->fd = -1;
}

/* First touch of shared memory runs at a tenth of the speed of a copy: here, once. Through the
 * mapping, which has asked for huge pages; fallocate would give ordinary ones. */
static void touch_slot(struct weight_slot *slot)
{
    for (size_t at = 0; at < slot->owner->mapped_bytes; at += PAGE_BYTES)
        *(volatile unsigned char *)(slot->base + at) = 0;
}

/* Another slot at the end of the list. */
static int add_slot(struct weight_slots *slots)
{
    struct weight_slot *slot = &slots->items[slots->count++];
    *slot = (struct weight_slot){.owner = slots, .fd = -1};
    int rc = open_slot(slot);
    if (rc == 0)
        touch_slot(slot);
    return rc;
}

int weight_slots_create(struct weight_slots **slots, size_t bytes, int count, int count_max)
{
    struct weight_slots *made = MEMORY_NEW(struct weight_slots);
    int rc = 0;
    HONE_ASSERT(count >= 1 && count <= count_max && count_max <= SLOTS_MAX);
    *slots = NULL;
    made->bytes = bytes;
    made->mapped_bytes = mapped_bytes(bytes);
    pthread_mutex_init(&made->mutex, NULL);
    pthread_cond_init(&made->released, NULL);
    made->count_max = count_max;
    while (rc == 0 && made->count < count)
        rc = add_slot(made);
    if (rc < 0)
        weight_slots_destroy(made);
    else
        *slots = made;
    return rc;
}

void weight_slots_destroy(struct weight_slots *slots)
{
    if (!slots)
        return;
    for (int i = 0; i < slots->count; i++) {
        HONE_ASSERT(slots->items[i].holds == 0);
        close_slot(&slots->items[i]);
    }
    pthread_cond_destroy(&slots->released);
    pthread_mutex_destroy(&slots->mutex);
    memory_free(slots);
}

static struct trailer *trailer_of(const struct weight_slot *slot)
{
    return (struct trailer *)(void *)(slot->base + slot->owner->mapped_bytes - PAGE_BYTES);
}

/* The slot is locked against readers; it gets a new nonce. */
static void begin_writing(struct weight_slot *slot)
{
    struct trailer *trailer = trailer_of(slot);
    ssize_t drawn;
    do
        drawn = getrandom(slot->nonce, sizeof slot->nonce, 0);
    while (drawn != (ssize_t)sizeof slot->nonce);
    memcpy(trailer->magic, SLOT_MAGIC, sizeof SLOT_MAGIC);
    trailer->bytes = slot->owner->bytes;
    memcpy(trailer->nonce, slot->nonce, sizeof trailer->nonce);
    slot->holds = 1;
}

/* A slot without holds that no reader has locked; *read: one that a reader has. */
static struct weight_slot *find_free(struct weight_slots *slots, struct weight_slot **read)
{
    for (int i = 0; i < slots->count; i++) {
        struct weight_slot *slot = &slots->items[i];
        if (slot->holds > 0)
            continue;
        if (slot->fd >= 0 && flock(slot->fd, LOCK_EX | LOCK_NB) == 0)
            return slot;
        *read = slot;
    }
    return NULL;
}

/* No slot is free: another one, or in the place of one that a reader keeps. NULL: none can be had
 * (*rc), or all are held (*rc 0). */
static struct weight_slot *make_slot(struct weight_slots *slots, struct weight_slot *read, int *rc)
{
    struct weight_slot *slot = read;
    if (slots->count < slots->count_max) {
        *rc = add_slot(slots);
        slot = &slots->items[slots->count - 1];
        if (*rc < 0)
            close_slot(slot);
        slots->count -= *rc < 0;
    } else if (slot) {
        log_info("shared weights: a reader keeps the slot of an old version");
        close_slot(slot);
        *rc = open_slot(slot);
        if (*rc < 0)
            close_slot(slot);
    }
    if (!slot || *rc < 0)
        return NULL;
    int locked = flock(slot->fd, LOCK_EX | LOCK_NB);
    HONE_ASSERT(locked == 0); /* nobody has heard of it */
    return slot;
}

struct weight_slot *weight_slots_take(struct weight_slots *slots)
{
    struct weight_slot *slot;
    int rc = 0;
    pthread_mutex_lock(&slots->mutex);
    while (true) {
        struct weight_slot *read = NULL;
        slot = find_free(slots, &read);
        if (!slot)
            slot = make_slot(slots, read, &rc);
        if (slot || rc < 0)
            break;
        pthread_cond_wait(&slots->released, &slots->mutex);
    }
    if (slot)
        begin_writing(slot);
    pthread_mutex_unlock(&slots->mutex);
    return slot;
}

void weight_slot_publish(struct weight_slot *slot)
{
    HONE_ASSERT(slot->holds > 0);
    int rc = flock(slot->fd, LOCK_UN);
    HONE_ASSERT(rc == 0);
}

void weight_slot_hold(struct weight_slot *slot)
{
    pthread_mutex_lock(&slot->owner->mutex);
    HONE_ASSERT(slot->holds > 0);
    slot->holds++;
    pthread_mutex_unlock(&slot->owner->mutex);
}

void weight_slot_release(struct weight_slot *slot)
{
    if (!slot)
        return;
    pthread_mutex_lock(&slot->owner->mutex);
    HONE_ASSERT(slot->holds > 0);
    if (--slot->holds == 0) {
        (void)flock(slot->fd, LOCK_UN); /* when it was never published */
        pthread_cond_broadcast(&slot->owner->released);
    }
    pthread_mutex_unlock(&slot->owner->mutex);
}

void *weight_slot_memory(const struct weight_slot *slot)
{
    return slot->base;
}

void weight_slot_place(const struct weight_slot *slot, struct weight_place *place)
{
    *place = (struct weight_place){.pid = getpid(), .fd = slot->fd, .bytes = slot->owner->bytes};
    memcpy(place->nonce, slot->nonce, sizeof place->nonce);
}

/* ---- a reader ---- */

void weight_mappings_init(struct weight_mappings *mappings)
{
    memset(mappings, 0, sizeof *mappings);
    for (int i = 0; i < WEIGHT_MAPPINGS_MAX; i++)
        mappings->items[i].fd = -1;
}

static void close_mapping(struct weight_mapping *mapping)
{
    if (mapping->base)
        munmap((void *)(uintptr_t)mapping->base, mapped_bytes(mapping->bytes));
    if (mapping->fd >= 0)
        close(mapping->fd);
    *mapping = (struct weight_mapping){.fd = -1};
}

void weight_mappings_release(struct weight_mappings *mappings)
{
    for (int i = 0; i < WEIGHT_MAPPINGS_MAX; i++)
        close_mapping(&mappings->items[i]);
}

/* O_NONBLOCK: whatever may lie behind the number, opening it does not wait. */
static int open_mapping(struct weight_mapping *mapping, const struct weight_place *place)
{
    char path[64];
    struct stat stat;
    size_t bytes = mapped_bytes(place->bytes);
    snprintf(path, sizeof path, "/proc/%lld/fd/%d", (long long)place->pid, place->fd);
    mapping->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (mapping->fd < 0)
        return error_set(HONE_EIO, "open %s: %s", path, strerror(errno));
    int seals = fcntl(mapping->fd, F_GET_SEALS);
    if (fstat(mapping->fd, &stat) < 0 || !S_ISREG(stat.st_mode) || seals < 0 ||
        (seals & F_SEAL_SHRINK) == 0 || (uint64_t)stat.st_size != bytes)
        return error_set(HONE_EIO, "%s is not a slot of %zu bytes", path, place->bytes);
    void *base = mmap(NULL, bytes, PROT_READ, MAP_SHARED, mapping->fd, 0);
    if (base == MAP_FAILED)
        return error_set(HONE_EIO, "map %s: %s", path, strerror(errno));
    mapping->base = base;
    mapping->bytes = place->bytes;
    mapping->pid = place->pid;
    mapping->place_fd = place->fd;
    (void)madvise(base, bytes, MADV_HUGEPAGE);
    return 0;
}

/* S3 */
static bool has_nonce(const struct weight_mapping *mapping, const struct weight_place *place)
{
    struct trailer trailer;
    memcpy(&trailer, mapping->base + mapped_bytes(mapping->bytes) - PAGE_BYTES, sizeof trailer);
    return memcmp(trailer.magic, SLOT_MAGIC, sizeof SLOT_MAGIC) == 0 &&
           trailer.bytes == place->bytes &&
           memcmp(trailer.nonce, place->nonce, sizeof trailer.nonce) == 0;
}

static int lock_mapping(struct weight_mapping *mapping, const struct weight_place *place)
{
    if (mapping->locks == 0 && flock(mapping->fd, LOCK_SH | LOCK_NB) < 0)
        return error_set(errno == EWOULDBLOCK ? HONE_EPEER : HONE_EIO, "lock shared weights: %s",
                         strerror(errno));
    mapping->locks++;
    if (has_nonce(mapping, place))
        return 0;
    weight_mapping_unlock(mapping);
    return error_set(HONE_EPEER, "the shared weights are of another version already");
}

/* A mapping that may be used for this place: one that is unused, else one that nobody has locked.
 */
static struct weight_mapping *pick_mapping(struct weight_mappings *mappings)
{
    for (int i = 0; i < WEIGHT_MAPPINGS_MAX; i++) {
        if (mappings->items[i].fd < 0)
            return &mappings->items[i];
    }
    for (int i = 0; i < WEIGHT_MAPPINGS_MAX; i++) {
        struct weight_mapping *mapping = &mappings->items[mappings->next];
        mappings->next = (mappings->next + 1) % WEIGHT_MAPPINGS_MAX;
        if (mapping->locks == 0) {
            close_mapping(mapping);
            return mapping;
        }
    }
    return NULL;
}

int weight_mappings_lock(struct weight_mappings *mappings, const struct weight_place *place,
                         struct weight_mapping **mapping)
{
    for (int i = 0; i < WEIGHT_MAPPINGS_MAX; i++) {
        struct weight_mapping *known = &mappings->items[i];
        *mapping = known;
        if (known->fd < 0 || known->pid != place->pid || known->place_fd != place->fd ||
            known->bytes != place->bytes)
            continue;
        if (lock_mapping(known, place) == 0)
            return 0;
        if (known->locks == 0) /* the number may belong to another slot now */
            close_mapping(known);
    }
    struct weight_mapping *opened = pick_mapping(mappings);
    *mapping = NULL;
    if (!opened)
        return error_set(HONE_EIO, "%d shared slots are in use", WEIGHT_MAPPINGS_MAX);
    int rc = open_mapping(opened, place);
    if (rc == 0)
        rc = lock_mapping(opened, place);
    if (rc < 0)
        close_mapping(opened);
    else
        *mapping = opened;
    return rc;
}

void weight_mapping_unlock(struct weight_mapping *mapping)
{
    if (!mapping)
        return;
    HONE_ASSERT(mapping->locks > 0);
    if (--mapping->locks == 0)
        (void)flock(mapping->fd, LOCK_UN);
}

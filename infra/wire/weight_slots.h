/* Weights in memory that the processes of one host share.
 *
 * The owner (the learner) has a ring of slots, memfds that are allocated and touched once, and
 * writes each version into one that nobody reads. A reader (an actor) of the same user opens
 * /proc/PID/fd/FD read-only and maps it. A path rather than a descriptor that is passed: no second
 * socket, and an open file of its own, so that flock tells readers apart.
 *
 *  S1  While a reader holds a slot (flock LOCK_SH) the owner does not write into it. The kernel
 *      keeps the lock and drops it with the process, so a reader that dies holds nothing.
 *  S2  A reader that stops holds one slot. When no slot of the ring is free the owner makes
 *      another, or, having as many as it may, gives such a slot up (its memory lives until the
 *      reader lets go) and replaces it: nobody waits for a reader.
 *  S3  A slot carries a number drawn anew before every write (the nonce). A reader that locks a
 *      slot with another nonce than it was told is late, or has opened something else: HONE_EPEER.
 *  S4  A slot cannot shrink (F_SEAL_SHRINK): a reader never faults on a page that is gone.
 *
 * weight_slots: take by one thread; hold and release by any. weight_mapping: owned by one thread.
 */
#ifndef HONE_WIRE_WEIGHT_SLOTS_H
#define HONE_WIRE_WEIGHT_SLOTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WEIGHT_NONCE_BYTES 16

/* Names this host, process id space and user: two processes whose tokens are equal can open each
 * other's slots. */
uint64_t weight_host_token(void);

/* ---- the owner ---- */

struct weight_slots;
struct weight_slot;

/* count slots of `bytes`, at most count_max later; negative when the system refuses. */
int weight_slots_create(struct weight_slots **slots, size_t bytes, int count, int count_max);
/* Every hold must have been released. Readers keep what they have mapped. */
void weight_slots_destroy(struct weight_slots *slots);
/* A slot to write into, held once; waits while all of count_max are held by this process. NULL when
 * a slot had to be made and the system refused (error set). */
struct weight_slot *weight_slots_take(struct weight_slots *slots);
/* What was written stays as it is from now on; readers may lock it. */
void weight_slot_publish(struct weight_slot *slot);
void weight_slot_hold(struct weight_slot *slot);
void weight_slot_release(struct weight_slot *slot);       /* NULL is fine */
void *weight_slot_memory(const struct weight_slot *slot); /* page aligned */

/* Where a reader finds a slot. */
struct weight_place {
    int64_t pid;
    int32_t fd;
    unsigned char nonce[WEIGHT_NONCE_BYTES];
    size_t bytes;
};
void weight_slot_place(const struct weight_slot *slot, struct weight_place *place);

/* ---- a reader ---- */

#define WEIGHT_MAPPINGS_MAX 8

struct weight_mapping {
    int fd; /* -1: unused */
    int64_t pid;
    int32_t place_fd;
    const unsigned char *base;
    size_t bytes;
    int locks; /* of this reader */
};

/* Slots that were opened stay mapped, so that a later version in the same slot costs a lock. */
struct weight_mappings {
    struct weight_mapping items[WEIGHT_MAPPINGS_MAX];
    int next; /* whose turn it is to give way */
};

void weight_mappings_init(struct weight_mappings *mappings);
void weight_mappings_release(struct weight_mappings *mappings);
/* Maps and locks. HONE_EPEER: late (S3); HONE_EIO: it cannot be opened, locked or mapped here. */
int weight_mappings_lock(struct weight_mappings *mappings, const struct weight_place *place,
                         struct weight_mapping **mapping);
void weight_mapping_unlock(struct weight_mapping *mapping); /* NULL is fine */

#endif

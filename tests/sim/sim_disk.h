/* A disk in memory under the log: the second implementation of infra/store/log_store.h. It outlives
 * the processes that write to it.
 *
 *  Y1  What was synced survives a power cut; a write that was under way is there whole or not at
 *      all. The acknowledged head is never synced: a cut leaves it behind, or torn.
 *  Y2  A write can fail and be there, fail and not be there, or find the disk full.
 *  Y3  With sync off (a control) a power cut takes the newest writes as well. */
#ifndef HONE_TESTS_SIM_DISK_H
#define HONE_TESTS_SIM_DISK_H

#include "infra/store/log_store.h"

struct sim_disk;

struct sim_disk *sim_disk_create(uint64_t seed);
void sim_disk_free(struct sim_disk *disk);
/* A store on this disk for one process; several one after the other. */
struct log_store *sim_disk_store(struct sim_disk *disk);

void sim_disk_fail_next(struct sim_disk *disk); /* Y2: the next write fails, either way */
void sim_disk_set_full(struct sim_disk *disk, bool full);
void sim_disk_set_sync(struct sim_disk *disk, bool sync);
void sim_disk_power_cut(struct sim_disk *disk); /* no process has it open */
int64_t sim_disk_failures(const struct sim_disk *disk);

#endif

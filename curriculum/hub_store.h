/* The hub's records in the log, beside the trajectories (infra/store/trajectory_log.h).
 *
 * Writes are staged; curriculum_stage_tick commits them once a tick. Reads see committed records
 * only. */
#ifndef HONE_CURRICULUM_HUB_STORE_H
#define HONE_CURRICULUM_HUB_STORE_H

#include "curriculum/hub.h"
#include "infra/store/trajectory_log.h"

void hub_store_group(struct curriculum_stage *hub, const struct group *group);
void hub_store_lease(struct curriculum_stage *hub, const struct lease *lease);
void hub_delete_lease(struct curriculum_stage *hub, const struct lease *lease);
void hub_store_batch(struct curriculum_stage *hub, int64_t number);
void hub_store_state(struct curriculum_stage *hub);

/* 1 found (release with wire_free), 0 not there, negative: the log is broken. */
int hub_read_group(struct run_log *log, uint64_t id, Hone__GroupRecord **message);
int hub_read_state(struct run_log *log, Hone__HubState **message);

/* A batch as it was formed, with what came of it. */
struct logged_batch {
    Hone__Batch message; /* trajectories in canonical order; owned */
    bool done, durable;
    char weights_hash[HASH_HEX_SIZE]; /* of the version it made; "" unknown */
    int64_t rolled_back_to;           /* version whose weights it made again; -1 none */
};
/* 1 found (release it), 0 no such batch. HONE_ENOENT when its trajectories were trimmed (log.keep),
 * HONE_ECORRUPT when one of them is missing. */
int hub_read_batch(struct run_log *log, int64_t number, struct logged_batch *batch);
/* The same without trajectories; there is nothing to release. */
int hub_read_batch_record(struct run_log *log, int64_t number, struct logged_batch *batch);
/* The same of the hub's own log, with the messages that are still in memory. */
int hub_read_recent_batch(struct curriculum_stage *hub, int64_t number, struct logged_batch *batch);
void hub_release_batch(struct logged_batch *batch);

/* Deletes the trajectories of every batch, and of every group dropped for it, that is older than
 * the newest keep_batches durable ones. */
void hub_trim(struct curriculum_stage *hub);
void hub_note_dropped(struct curriculum_stage *hub, uint64_t group_id, int64_t batch);

/* Appends an entry to hub->batches. */
struct batch_entry *hub_add_batch(struct curriculum_stage *hub);

#endif

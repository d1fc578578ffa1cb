/* Acknowledgements that wait for the commit. One that cannot be sent is forgotten: its sender asks
 * again and is answered from the tables and the log. Owned by one thread. */
#ifndef HONE_CURRICULUM_OUTBOX_H
#define HONE_CURRICULUM_OUTBOX_H

#include <stdbool.h>
#include <stdint.h>

#include "infra/wire/socket.h"

/* How much of a rollout is durable. */
struct outbox_progress {
    uint64_t lease_id, fence;
    int32_t sample_index, tokens; /* tokens -1: the lease is over */
    int64_t deadline_ms;
};

struct outbox_ack {
    struct wire_peer to;
    Hone__Kind kind;                 /* TRAJECTORY_ACK, SCORE_ACK or PROGRESS_ACK */
    struct outbox_progress progress; /* PROGRESS_ACK alone */
    uint64_t trajectory_id;
    bool refused;
    char reason[96];
};

struct outbox {
    struct outbox_ack *items;
    int32_t count, capacity;
};

void outbox_init(struct outbox *outbox);
void outbox_release(struct outbox *outbox);
/* refusal: NULL accepts. */
void outbox_trajectory(struct outbox *outbox, const struct wire_peer *to, uint64_t trajectory_id,
                       const char *refusal);
void outbox_score(struct outbox *outbox, const struct wire_peer *to, uint64_t trajectory_id);
void outbox_progress(struct outbox *outbox, const struct wire_peer *to,
                     const struct outbox_progress *progress);
/* Sends and forgets everything. */
void outbox_flush(struct outbox *outbox, struct wire_server *server);

#endif

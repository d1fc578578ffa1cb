#include "curriculum/outbox.h"

#include <stdio.h>
#include <string.h>

#include "infra/base/fault.h"
#include "infra/base/memory.h"

void outbox_init(struct outbox *outbox)
{
    memset(outbox, 0, sizeof *outbox);
}

void outbox_release(struct outbox *outbox)
{
    memory_free(outbox->items);
    outbox_init(outbox);
}

static struct outbox_ack *add(struct outbox *outbox, const struct wire_peer *to, Hone__Kind kind,
                              uint64_t trajectory_id)
{
    if (outbox->count == outbox->capacity) {
        int32_t capacity = outbox->capacity > 0 ? outbox->capacity * 2 : 64;
        outbox->items = memory_resize(outbox->items, (size_t)outbox->capacity, (size_t)capacity,
                                      sizeof *outbox->items);
        outbox->capacity = capacity;
    }
    struct outbox_ack *ack = &outbox->items[outbox->count++];
    memset(ack, 0, sizeof *ack);
    ack->to = *to;
    ack->kind = kind;
    ack->trajectory_id = trajectory_id;
    return ack;
}

void outbox_trajectory(struct outbox *outbox, const struct wire_peer *to, uint64_t trajectory_id,
                       const char *refusal)
{
    struct outbox_ack *ack = add(outbox, to, HONE__KIND__KIND_TRAJECTORY_ACK, trajectory_id);
    ack->refused = refusal != NULL;
    if (refusal != NULL)
        snprintf(ack->reason, sizeof ack->reason, "%s", refusal);
}

void outbox_score(struct outbox *outbox, const struct wire_peer *to, uint64_t trajectory_id)
{
    add(outbox, to, HONE__KIND__KIND_SCORE_ACK, trajectory_id);
}

void outbox_progress(struct outbox *outbox, const struct wire_peer *to,
                     const struct outbox_progress *progress)
{
    add(outbox, to, HONE__KIND__KIND_PROGRESS_ACK, 0)->progress = *progress;
}

static void send_progress(const struct outbox_ack *ack, struct wire_server *server)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__ProgressAck progress = HONE__PROGRESS_ACK__INIT;
    progress.lease_id = ack->progress.lease_id;
    progress.fence = ack->progress.fence;
    progress.sample_index = ack->progress.sample_index;
    progress.tokens = ack->progress.tokens;
    progress.has_deadline_ms = ack->progress.deadline_ms != 0;
    progress.deadline_ms = ack->progress.deadline_ms;
    envelope.kind = ack->kind;
    envelope.progress_ack = &progress;
    (void)wire_server_send(server, &ack->to, &envelope, NULL, 0);
}

static void send_ack(struct outbox_ack *ack, struct wire_server *server)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__TrajectoryAck trajectory = HONE__TRAJECTORY_ACK__INIT;
    Hone__ScoreAck score = HONE__SCORE_ACK__INIT;
    envelope.kind = ack->kind;
    if (ack->kind == HONE__KIND__KIND_PROGRESS_ACK) {
        send_progress(ack, server);
        return;
    }
    if (ack->kind == HONE__KIND__KIND_SCORE_ACK) {
        score.trajectory_id = ack->trajectory_id;
        envelope.score_ack = &score;
    } else {
        trajectory.id = ack->trajectory_id;
        trajectory.has_refused = ack->refused;
        trajectory.refused = ack->refused;
        trajectory.reason = ack->refused ? ack->reason : NULL;
        envelope.trajectory_ack = &trajectory;
    }
    (void)wire_server_send(server, &ack->to, &envelope, NULL, 0);
}

void outbox_flush(struct outbox *outbox, struct wire_server *server)
{
    for (int32_t i = 0; i < outbox->count; i++)
        send_ack(&outbox->items[i], server);
    fault_point("ack.sent");
    outbox->count = 0;
}

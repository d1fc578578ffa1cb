/* Weights from the learner to the actors (G5).
 *
 * The publisher binds a ROUTER of its own and serves immutable snapshots. Three ways lead to a
 * receiver, the first that applies:
 *  - same host: the snapshot lies in a shared slot (weight_slots.h). The receiver maps it, sums
 *    every part that the engine reads and compares with the publisher's sums; nothing is copied.
 *  - a delta (weight_delta.h) from the version that the receiver holds, when it is small enough.
 *  - the whole data.
 * The last two come as 1 MiB chunks against the receiver's byte credit, after a manifest (version,
 * per-tensor name, dtype, shape, checksum).
 *
 * A snapshot is handed out only when every checksum matches (never half a model). What does not
 * match, does not come by the deadline, or whose sender goes away is given up and started again,
 * the next time by a plainer way; what the actor holds stays. The newest version wins: a transfer
 * that is not half done gives way to it, once in a row, so that some version always arrives. The
 * newest snapshot and the one before it are kept, so that a transfer in progress can end.
 *
 * Relays: a receiver that says where it listens is a relay once it holds the newest version. When
 * more than `fanout` receivers are being sent chunks, another one of the relay's host is pointed to
 * it instead, which serves it the same manifest; a receiver that a relay fails turns back to the
 * publisher.
 *
 * Both ends are ticked; neither blocks nor starts a thread. Each is owned by one thread. */
#ifndef HONE_WIRE_WEIGHT_CHANNEL_H
#define HONE_WIRE_WEIGHT_CHANNEL_H

#include "infra/base/clock.h"
#include "infra/base/hash.h"
#include "infra/compute/dtype.h"
#include "infra/wire/socket.h"
#include "infra/wire/weight_slots.h"

enum weight_transport {
    WEIGHTS_AUTO,          /* shared memory where it can be mapped, else chunks */
    WEIGHTS_SHARED_MEMORY, /* a receiver that cannot map fails */
    WEIGHTS_CHUNKS
};

struct weight_options {
    enum weight_transport transport;
    bool delta;
    int fanout; /* receivers served with chunks before others are sent to a relay; 0: all */
    int64_t deadline_ms;        /* without progress before a fetch starts again */
    const char *relay_endpoint; /* receivers: where this one serves others; NULL: it does not */
};

/* Where a tensor lies in a snapshot's data (values back to back in tensor order). */
struct snapshot_tensor {
    char name[96];
    enum dtype dtype;
    int64_t rows, columns;
    size_t offset, bytes;
    struct checksum checksum;
};

/* A range of an image that the engine reads. */
struct snapshot_part {
    int64_t offset, bytes;
};

struct snapshot {
    int64_t version;
    int32_t tensor_count;
    struct snapshot_tensor *tensors;
    unsigned char *data; /* [bytes]; NULL when only the image was received */
    size_t bytes;
    bool summed; /* the tensors' checksums are filled in */

    /* The same version in the engine's own layout (model_image), NULL: none. */
    const unsigned char *image;
    size_t image_bytes;
    struct snapshot_part *parts;
    struct checksum *part_sums;
    int32_t part_count;
    struct weight_slot *slot; /* held: data and image lie there */
    bool lent;                /* data is somebody else's; neither: it is memory_alloc's */
    bool own_data;            /* there is a slot for the image, and data is memory_alloc's */
};

/* tensors, parts and part_sums come from memory_alloc; data too, unless there is a slot. */
void snapshot_release(struct snapshot *snapshot);
/* Hex SHA-256 over names, dtypes, shapes and checksums: what a manifest calls weights_hash. */
void snapshot_hash(const struct snapshot *snapshot, char hex[HASH_HEX_SIZE]);

/* What became of the newest version. */
struct weight_publish_report {
    int64_t version;
    double publish_ms;  /* until every waiting receiver was told and its checksums were there */
    size_t bytes;       /* of the whole data */
    size_t delta_bytes; /* 0: none was made */
    double delta_ratio; /* delta_bytes / bytes */
    double changed;     /* share of values that differ; 0 when no delta was made */
};

struct weight_publisher;
int weight_publisher_create(struct weight_publisher **publisher, struct wire_context *context,
                            const char *endpoint, struct clock *clock,
                            const struct weight_options *options);
void weight_publisher_destroy(struct weight_publisher *publisher);
/* Takes the snapshot (everything is moved; checksums are computed here, for whoever waits). */
void weight_publisher_publish(struct weight_publisher *publisher, struct snapshot *snapshot);
/* For a relay: serves a snapshot whose checksums are verified, from its owner's memory, until
 * weight_publisher_forget; nothing of an earlier one is served then. */
void weight_publisher_lend(struct weight_publisher *publisher, const struct snapshot *snapshot);
void weight_publisher_forget(struct weight_publisher *publisher);
int64_t weight_publisher_version(const struct weight_publisher *publisher); /* -1: none yet */
const struct weight_publish_report *
weight_publisher_report(const struct weight_publisher *publisher);
/* Answers requests; bounded work. 0, 1 when more is waiting to be sent than one tick may send,
 * negative on a socket error. */
int weight_publisher_tick(struct weight_publisher *publisher);
struct wire_server *weight_publisher_socket(struct weight_publisher *publisher); /* for wire_poll */

/* How the latest snapshot came. */
struct weight_fetch_report {
    int64_t version;
    const char *way;   /* "slot", "delta", "chunks" */
    size_t wire_bytes; /* payload received for it */
    double fetch_ms;   /* from its notice or manifest to its hand-out */
};

struct weight_receiver;
/* identity: this worker's name. */
int weight_receiver_create(struct weight_receiver **receiver, struct wire_context *context,
                           const char *identity, struct clock *clock,
                           const struct weight_options *options);
void weight_receiver_destroy(struct weight_receiver *receiver);
/* Asks for anything newer than have_version at endpoint, now or as soon as it is published; a fetch
 * in progress goes on, unless the endpoint is another one. Ends with the next snapshot handed out.
 */
void weight_receiver_want(struct weight_receiver *receiver, const char *endpoint,
                          int64_t have_version);
/* 1: *snapshot now points at a verified snapshot. It is valid, and an image stays mapped and
 * unchanged, until the tick after the one that hands out the next; 0 nothing yet. */
int weight_receiver_tick(struct weight_receiver *receiver, const struct snapshot **snapshot);
/* There is work for the next tick that no message announces. */
bool weight_receiver_working(const struct weight_receiver *receiver);
/* NULL while no endpoint is known. Poll it at every tick: weight_receiver_want may replace it. */
struct wire_client *weight_receiver_socket(struct weight_receiver *receiver);
/* The relay's socket, NULL when this receiver is none. */
struct wire_server *weight_receiver_relay(struct weight_receiver *receiver);
/* A version was asked for and is not here yet. */
bool weight_receiver_busy(const struct weight_receiver *receiver);
const struct weight_fetch_report *weight_receiver_report(const struct weight_receiver *receiver);

#endif

/* Weights from the learner to the actors (G5).
 *
 * The publisher binds a ROUTER of its own and serves immutable snapshots: a manifest (version,
 * per-tensor name, dtype, shape, SHA-256) and 1 MiB chunks, sent against the receiver's byte
 * credit. The newest snapshot and the one before it are kept, so that a transfer in progress can
 * end. The receiver fetches the newest version: request, manifest, chunks, check every tensor, and
 * only then hands the snapshot out. A tensor that does not match, a missing chunk by the deadline
 * or a publisher that goes away: the fetch is abandoned and started again; what the actor holds
 * stays (never half a model). Both ends are ticked; neither blocks nor starts a thread. */
#ifndef HONE_WIRE_WEIGHT_CHANNEL_H
#define HONE_WIRE_WEIGHT_CHANNEL_H

#include "infra/base/clock.h"
#include "infra/base/hash.h"
#include "infra/compute/dtype.h"
#include "infra/wire/socket.h"

/* Where a tensor lies in a snapshot's data (values back to back in tensor order). */
struct snapshot_tensor {
    char name[96];
    enum dtype dtype;
    int64_t rows, columns;
    size_t offset, bytes;
    unsigned char sha256[32];
};

struct snapshot {
    int64_t version;
    int32_t tensor_count;
    struct snapshot_tensor *tensors;
    unsigned char *data;
    size_t bytes;
};

/* tensors and data come from memory_alloc. */
void snapshot_release(struct snapshot *snapshot);
/* Hex SHA-256 over names, dtypes, shapes and digests: what a manifest calls weights_hash. */
void snapshot_hash(const struct snapshot *snapshot, char hex[HASH_HEX_SIZE]);

struct weight_publisher;
int weight_publisher_create(struct weight_publisher **publisher, struct wire_context *context,
                            const char *endpoint, struct clock *clock);
void weight_publisher_destroy(struct weight_publisher *publisher);
/* Takes the snapshot (tensors and data are moved; digests are computed here). */
void weight_publisher_publish(struct weight_publisher *publisher, struct snapshot *snapshot);
int64_t weight_publisher_version(const struct weight_publisher *publisher); /* -1: none yet */
/* Answers requests; bounded work. 0, 1 when more is waiting to be sent than one tick may send,
 * negative on a socket error. */
int weight_publisher_tick(struct weight_publisher *publisher);
struct wire_server *weight_publisher_socket(struct weight_publisher *publisher); /* for wire_poll */

struct weight_receiver;
int weight_receiver_create(struct weight_receiver **receiver, struct wire_context *context,
                           const char *identity, struct clock *clock, int64_t deadline_ms);
void weight_receiver_destroy(struct weight_receiver *receiver);
/* Asks for anything newer than have_version at endpoint, now or as soon as it is published; a fetch
 * in progress goes on, unless the endpoint is another one. Ends with the next snapshot handed out.
 */
void weight_receiver_want(struct weight_receiver *receiver, const char *endpoint,
                          int64_t have_version);
/* 1: *snapshot now points at a verified snapshot, valid until the next tick; 0 nothing yet. */
int weight_receiver_tick(struct weight_receiver *receiver, const struct snapshot **snapshot);
/* NULL while no endpoint is known. Poll it at every tick: weight_receiver_want may replace it. */
struct wire_client *weight_receiver_socket(struct weight_receiver *receiver);
/* A version was asked for and is not here yet. */
bool weight_receiver_busy(const struct weight_receiver *receiver);

#endif

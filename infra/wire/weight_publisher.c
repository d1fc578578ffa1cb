/* The learner's end. Per receiver: what it holds, whether it waits for something newer, and one
 * range [next, limit) of one version still to be sent, extended by its requests. A send that fails
 * forgets the range: the receiver asks again for what it misses. */
#include "infra/wire/weight_channel.h"

#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/wire/snapshot.h"

#define RECEIVERS_MAX      1024 /* the longest silent one gives way */
#define MESSAGES_PER_TICK  64
#define CHUNKS_PER_TICK    64
#define CREDIT_LIMIT_BYTES ((int64_t)64 << 20)

struct published {
    struct snapshot snapshot;
    struct manifest manifest;
};

struct receiver_state {
    struct wire_peer peer;
    int64_t have_version;
    bool waiting;    /* for anything newer than have_version */
    int64_t version; /* of the range; -1 = no range */
    size_t next, limit;
    int64_t heard_ms;
};

struct weight_publisher {
    struct wire_server *server;
    struct clock *clock;
    struct published newest, previous;
    struct receiver_state *receivers;
    int receiver_count;
    int turn; /* whose range is served first */
};

int weight_publisher_create(struct weight_publisher **publisher, struct wire_context *context,
                            const char *endpoint, struct clock *clock)
{
    struct weight_publisher *made = MEMORY_NEW(struct weight_publisher);
    *publisher = NULL;
    made->clock = clock;
    made->receivers = MEMORY_ARRAY(struct receiver_state, RECEIVERS_MAX);
    made->newest.snapshot.version = made->previous.snapshot.version = -1;
    int rc = wire_server_create(&made->server, context, endpoint);
    if (rc < 0)
        weight_publisher_destroy(made);
    else
        *publisher = made;
    return rc;
}

static void published_release(struct published *published)
{
    manifest_release(&published->manifest);
    snapshot_release(&published->snapshot);
    published->snapshot.version = -1;
}

void weight_publisher_destroy(struct weight_publisher *publisher)
{
    if (!publisher)
        return;
    wire_server_destroy(publisher->server);
    published_release(&publisher->newest);
    published_release(&publisher->previous);
    memory_free(publisher->receivers);
    memory_free(publisher);
}

static void send_manifest(struct weight_publisher *publisher, struct receiver_state *receiver)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    envelope.kind = HONE__KIND__KIND_WEIGHTS_MANIFEST;
    envelope.weights_manifest = &publisher->newest.manifest.message;
    if (wire_server_send(publisher->server, &receiver->peer, &envelope, NULL, 0) < 0)
        log_debug("manifest: %s", error_message());
    else
        receiver->waiting = false;
}

void weight_publisher_publish(struct weight_publisher *publisher, struct snapshot *snapshot)
{
    int64_t parent = publisher->newest.snapshot.version;
    HONE_ASSERT(snapshot->version >= 0 && snapshot->tensor_count > 0);
    published_release(&publisher->previous);
    publisher->previous = publisher->newest;
    publisher->newest = (struct published){.snapshot = *snapshot};
    memset(snapshot, 0, sizeof *snapshot);
    snapshot_digest(&publisher->newest.snapshot);
    manifest_build(&publisher->newest.manifest, &publisher->newest.snapshot, parent);
    for (int i = 0; i < publisher->receiver_count; i++) {
        struct receiver_state *receiver = &publisher->receivers[i];
        if (receiver->waiting && receiver->have_version < publisher->newest.snapshot.version)
            send_manifest(publisher, receiver);
    }
}

int64_t weight_publisher_version(const struct weight_publisher *publisher)
{
    return publisher->newest.snapshot.version;
}

struct wire_server *weight_publisher_socket(struct weight_publisher *publisher)
{
    return publisher->server;
}

static struct receiver_state *find_receiver(struct weight_publisher *publisher,
                                            const struct wire_peer *peer)
{
    struct receiver_state *oldest = &publisher->receivers[0];
    for (int i = 0; i < publisher->receiver_count; i++) {
        struct receiver_state *receiver = &publisher->receivers[i];
        if (strcmp(receiver->peer.identity, peer->identity) == 0)
            return receiver;
        if (receiver->heard_ms < oldest->heard_ms)
            oldest = receiver;
    }
    if (publisher->receiver_count < RECEIVERS_MAX)
        oldest = &publisher->receivers[publisher->receiver_count++];
    *oldest = (struct receiver_state){.peer = *peer, .have_version = -1, .version = -1};
    return oldest;
}

static const struct snapshot *find_version(const struct weight_publisher *publisher,
                                           int64_t version)
{
    if (version >= 0 && publisher->newest.snapshot.version == version)
        return &publisher->newest.snapshot;
    if (version >= 0 && publisher->previous.snapshot.version == version)
        return &publisher->previous.snapshot;
    return NULL;
}

static void handle_request(struct weight_publisher *publisher, const struct wire_peer *peer,
                           const Hone__WeightsRequest *request)
{
    struct receiver_state *receiver = find_receiver(publisher, peer);
    int64_t credit = request->has_credit_bytes ? request->credit_bytes : 0;
    int64_t offset = request->has_offset ? request->offset : 0;
    receiver->heard_ms = clock_now_ms(publisher->clock);
    receiver->have_version = request->have_version;
    const struct snapshot *snapshot =
        request->has_version ? find_version(publisher, request->version) : NULL;
    if (!snapshot) {
        receiver->version = -1;
        receiver->waiting = true;
        if (receiver->have_version < publisher->newest.snapshot.version)
            send_manifest(publisher, receiver);
        return;
    }
    if (credit < 0 || credit > CREDIT_LIMIT_BYTES || offset < 0 ||
        (uint64_t)offset > snapshot->bytes) {
        wire_server_drop(publisher->server, peer, "a weights request out of range");
        receiver->version = -1;
        return;
    }
    if (receiver->version != snapshot->version || receiver->limit != (size_t)offset)
        receiver->next = (size_t)offset;
    receiver->version = snapshot->version;
    receiver->limit = (size_t)offset + (size_t)credit;
    if (receiver->limit > snapshot->bytes)
        receiver->limit = snapshot->bytes;
}

/* 1 when a chunk went out, 0 when this receiver is owed nothing. */
static int send_chunk(struct weight_publisher *publisher, struct receiver_state *receiver)
{
    const struct snapshot *snapshot = find_version(publisher, receiver->version);
    if (!snapshot || receiver->next >= receiver->limit || receiver->limit > snapshot->bytes) {
        receiver->version = snapshot ? receiver->version : -1;
        return 0;
    }
    size_t bytes = receiver->limit - receiver->next;
    if (bytes > WEIGHT_CHUNK_BYTES)
        bytes = WEIGHT_CHUNK_BYTES;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__WeightsChunk chunk = HONE__WEIGHTS_CHUNK__INIT;
    chunk.version = snapshot->version;
    chunk.offset = (int64_t)receiver->next;
    chunk.bytes = (int32_t)bytes;
    envelope.kind = HONE__KIND__KIND_WEIGHTS_CHUNK;
    envelope.weights_chunk = &chunk;
    if (wire_server_send(publisher->server, &receiver->peer, &envelope,
                         snapshot->data + receiver->next, bytes) < 0) {
        log_debug("weights v%lld: %s", (long long)snapshot->version, error_message());
        receiver->version = -1;
        return 0;
    }
    receiver->next += bytes;
    return 1;
}

static bool owes(const struct weight_publisher *publisher)
{
    for (int i = 0; i < publisher->receiver_count; i++) {
        const struct receiver_state *receiver = &publisher->receivers[i];
        if (receiver->version >= 0 && receiver->next < receiver->limit)
            return true;
    }
    return false;
}

/* One chunk to each receiver in turn, so that a slow start of one does not delay the others. */
static int send_chunks(struct weight_publisher *publisher)
{
    int sent = 0, idle = 0;
    while (sent < CHUNKS_PER_TICK && idle < publisher->receiver_count) {
        publisher->turn = (publisher->turn + 1) % publisher->receiver_count;
        if (send_chunk(publisher, &publisher->receivers[publisher->turn])) {
            sent++;
            idle = 0;
        } else {
            idle++;
        }
    }
    return owes(publisher) ? 1 : 0;
}

int weight_publisher_tick(struct weight_publisher *publisher)
{
    for (int i = 0; i < MESSAGES_PER_TICK; i++) {
        struct wire_peer from;
        struct wire_message message;
        int rc = wire_server_receive(publisher->server, &from, &message);
        if (rc < 0)
            return rc;
        if (rc == 0)
            break;
        if (message.envelope->kind == HONE__KIND__KIND_WEIGHTS_REQUEST)
            handle_request(publisher, &from, message.envelope->weights_request);
        else if (message.envelope->kind != HONE__KIND__KIND_HELLO)
            wire_server_drop(publisher->server, &from, "only weights are served here");
        wire_message_release(&message);
    }
    return send_chunks(publisher);
}

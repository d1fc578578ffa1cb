/* The learner's end. Per receiver: what it holds, whether it waits for something newer, and one
 * range [next, limit) of one version's data, or of a delta to that version, still to be sent,
 * extended by its requests. A send that fails forgets the range: the receiver asks again for what
 * it misses. */
#include "infra/wire/weight_channel.h"

#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/wire/endpoint.h"
#include "infra/wire/snapshot.h"
#include "infra/wire/weight_delta.h"

#define RECEIVERS_MAX      1024 /* the longest silent one gives way */
#define MESSAGES_PER_TICK  64
#define CHUNKS_PER_TICK    64
#define CREDIT_LIMIT_BYTES ((int64_t)64 << 20)
#define LINKS_MAX          8     /* versions back that a delta can start from */
#define SILENT_MS          60000 /* receivers that say nothing for so long are not counted on */

struct published {
    struct snapshot snapshot;
    struct manifest manifest;  /* once summed */
    struct slot_notice notice; /* with an image */
    bool parts_summed;
};

struct receiver_state {
    struct wire_peer peer;
    int64_t have_version;
    uint64_t host;
    bool slot, delta;   /* what will do for it */
    bool waiting;       /* for anything newer than have_version */
    bool told_slot;     /* of the newest version; its checksums follow */
    bool gave_way;      /* its last transfer was given up for a newer version */
    int64_t version;    /* of the range; -1 = no range */
    int64_t delta_from; /* of the range; -1: the data itself */
    size_t next, limit;
    int64_t heard_ms;
    char relay[ENDPOINT_MAX]; /* where it serves have_version; "": it does not */
    bool no_redirect;
    int children; /* pointed to it for the newest version */
};

/* links[i] leads from version links[i].from to links[i + 1].from, the last to the newest. */
struct link {
    int64_t from;
    struct weight_delta delta;
};

struct weight_publisher {
    struct wire_server *server;
    struct clock *clock;
    struct weight_options options;
    uint64_t host;
    struct published newest, previous;
    struct link links[LINKS_MAX];
    int link_count;
    struct weight_publish_report report;
    struct receiver_state *receivers;
    int receiver_count;
    int turn; /* whose range is served first */
};

int weight_publisher_create(struct weight_publisher **publisher, struct wire_context *context,
                            const char *endpoint, struct clock *clock,
                            const struct weight_options *options)
{
    struct weight_publisher *made = MEMORY_NEW(struct weight_publisher);
    *publisher = NULL;
    made->clock = clock;
    made->options = *options;
    made->host = options->transport == WEIGHTS_CHUNKS ? 0 : weight_host_token();
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
    slot_notice_release(&published->notice);
    snapshot_release(&published->snapshot);
    published->snapshot.version = -1;
}

static void drop_links(struct weight_publisher *publisher, int count)
{
    for (int i = 0; i < count; i++)
        weight_delta_release(&publisher->links[i].delta);
    publisher->link_count -= count;
    memmove(publisher->links, publisher->links + count,
            (size_t)publisher->link_count * sizeof *publisher->links);
}

void weight_publisher_destroy(struct weight_publisher *publisher)
{
    if (!publisher)
        return;
    wire_server_destroy(publisher->server);
    drop_links(publisher, publisher->link_count);
    published_release(&publisher->newest);
    published_release(&publisher->previous);
    memory_free(publisher->receivers);
    memory_free(publisher);
}

/* ---- deltas ---- */

static int find_link(const struct weight_publisher *publisher, int64_t from)
{
    for (int i = 0; i < publisher->link_count; i++) {
        if (publisher->links[i].from == from)
            return i;
    }
    return -1;
}

/* Bytes of the delta from a version to another, 0 when there is none. */
static size_t delta_bytes(const struct weight_publisher *publisher, int64_t from, int64_t to)
{
    size_t bytes = 0;
    int first = from >= 0 ? find_link(publisher, from) : -1;
    for (int i = first; i >= 0 && i < publisher->link_count; i++) {
        bool is_last = i + 1 == publisher->link_count;
        int64_t next = is_last ? publisher->newest.snapshot.version : publisher->links[i + 1].from;
        bytes += publisher->links[i].delta.bytes;
        if (next == to)
            return bytes;
    }
    return 0;
}

static bool can_map(const struct weight_publisher *publisher, const struct receiver_state *receiver)
{
    return publisher->newest.snapshot.image && receiver->slot && publisher->host != 0 &&
           receiver->host == publisher->host;
}

/* Whether anybody may ask for a delta to the newest version; who holds nothing yet will next time.
 */
static bool wants_delta(const struct weight_publisher *publisher)
{
    int64_t now_ms = clock_now_ms(publisher->clock);
    for (int i = 0; i < publisher->receiver_count; i++) {
        const struct receiver_state *receiver = &publisher->receivers[i];
        if ((receiver->delta || receiver->have_version < 0) && !can_map(publisher, receiver) &&
            now_ms - receiver->heard_ms < SILENT_MS)
            return true;
    }
    return false;
}

/* A link from the version before to the newest, when it has less than half of the whole; without
 * it the chain is broken and begins anew. */
static void make_link(struct weight_publisher *publisher)
{
    const struct snapshot *from = &publisher->previous.snapshot;
    const struct snapshot *to = &publisher->newest.snapshot;
    struct link link = {.from = from->version};
    bool made = publisher->options.delta && from->version >= 0 && wants_delta(publisher) &&
                snapshot_same_layout(from, to) &&
                weight_delta_encode(from->data, to, to->bytes / 2, &link.delta) > 0;
    if (!made) {
        drop_links(publisher, publisher->link_count);
        return;
    }
    if (publisher->link_count == LINKS_MAX)
        drop_links(publisher, 1);
    publisher->links[publisher->link_count++] = link;
    publisher->report.delta_bytes = link.delta.bytes;
    publisher->report.delta_ratio = (double)link.delta.bytes / (double)to->bytes;
    int64_t values = 0;
    for (int32_t i = 0; i < to->tensor_count; i++)
        values += to->tensors[i].rows * to->tensors[i].columns;
    publisher->report.changed = (double)link.delta.changes / (double)values;
}

/* ---- telling receivers ---- */

static int send_kind(struct weight_publisher *publisher, struct receiver_state *receiver,
                     Hone__Kind kind, Hone__Envelope *envelope)
{
    envelope->kind = kind;
    int rc = wire_server_send(publisher->server, &receiver->peer, envelope, NULL, 0);
    if (rc < 0)
        log_debug("%s: %s", wire_kind_name(kind), error_message());
    return rc;
}

static void send_slot(struct weight_publisher *publisher, struct receiver_state *receiver)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    envelope.weights_slot = &publisher->newest.notice.message;
    receiver->told_slot =
        send_kind(publisher, receiver, HONE__KIND__KIND_WEIGHTS_SLOT, &envelope) == 0;
    receiver->waiting = !receiver->told_slot;
}

static void send_part_sums(struct weight_publisher *publisher, struct receiver_state *receiver)
{
    const struct published *newest = &publisher->newest;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__WeightsSlotChecksums sums = HONE__WEIGHTS_SLOT_CHECKSUMS__INIT;
    sums.version = newest->snapshot.version;
    sums.nonce.data = (uint8_t *)(uintptr_t)newest->notice.place.nonce;
    sums.nonce.len = sizeof newest->notice.place.nonce;
    sums.checksums.data = (uint8_t *)newest->snapshot.part_sums;
    sums.checksums.len = (size_t)newest->snapshot.part_count * sizeof *newest->snapshot.part_sums;
    envelope.weights_slot_checksums = &sums;
    send_kind(publisher, receiver, HONE__KIND__KIND_WEIGHTS_SLOT_CHECKSUMS, &envelope);
    receiver->told_slot = false;
}

/* The checksums of the values, when somebody first needs them. */
static void sum_newest(struct weight_publisher *publisher)
{
    struct published *newest = &publisher->newest;
    if (newest->manifest.digests)
        return;
    if (!newest->snapshot.summed)
        snapshot_sum(&newest->snapshot);
    manifest_build(&newest->manifest, &newest->snapshot, publisher->previous.snapshot.version);
}

static void send_manifest(struct weight_publisher *publisher, struct receiver_state *receiver)
{
    sum_newest(publisher);
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__WeightsManifest message = publisher->newest.manifest.message;
    int64_t sizes[LINKS_MAX][2];
    size_t bytes = delta_bytes(publisher, receiver->have_version, message.version);
    if (receiver->delta && bytes > 0 && bytes < publisher->newest.snapshot.bytes / 2) {
        int first = find_link(publisher, receiver->have_version);
        for (int i = first; i < publisher->link_count; i++) {
            sizes[i - first][0] = (int64_t)publisher->links[i].delta.bytes;
            sizes[i - first][1] = (int64_t)publisher->links[i].delta.raw_bytes;
        }
        message.has_delta_from = message.has_delta_links = 1;
        message.delta_from = receiver->have_version;
        message.delta_links.data = (uint8_t *)sizes;
        message.delta_links.len = (size_t)(publisher->link_count - first) * sizeof *sizes;
    }
    envelope.weights_manifest = &message;
    if (send_kind(publisher, receiver, HONE__KIND__KIND_WEIGHTS_MANIFEST, &envelope) == 0)
        receiver->waiting = false;
}

static bool owes(const struct receiver_state *receiver)
{
    return receiver->version >= 0 && receiver->next < receiver->limit;
}

/* Relays listen at sockets of their host. */
static bool can_reach(const struct receiver_state *receiver, const struct receiver_state *relay)
{
    return relay->relay[0] != '\0' && relay->host != 0 && relay->host == receiver->host;
}

/* Somebody else who serves the newest version, when enough are served from here. */
static struct receiver_state *find_relay(struct weight_publisher *publisher,
                                         const struct receiver_state *receiver)
{
    struct receiver_state *best = NULL;
    int64_t now_ms = clock_now_ms(publisher->clock);
    int served = 0;
    if (publisher->options.fanout <= 0 || receiver->no_redirect)
        return NULL;
    for (int i = 0; i < publisher->receiver_count; i++) {
        struct receiver_state *other = &publisher->receivers[i];
        served += other != receiver && other->version == publisher->newest.snapshot.version &&
                  other->have_version < other->version;
        if (other == receiver || !can_reach(receiver, other) ||
            other->have_version != publisher->newest.snapshot.version ||
            now_ms - other->heard_ms > SILENT_MS)
            continue;
        if (!best || other->children < best->children)
            best = other;
    }
    return served >= publisher->options.fanout ? best : NULL;
}

static void send_redirect(struct weight_publisher *publisher, struct receiver_state *receiver,
                          struct receiver_state *relay)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__WeightsRedirect redirect = HONE__WEIGHTS_REDIRECT__INIT;
    redirect.version = publisher->newest.snapshot.version;
    redirect.endpoint = relay->relay;
    envelope.weights_redirect = &redirect;
    if (send_kind(publisher, receiver, HONE__KIND__KIND_WEIGHTS_REDIRECT, &envelope) == 0) {
        receiver->waiting = false;
        relay->children++;
    }
}

/* Tells a receiver of the newest version in the best way there is for it. */
static void send_offer(struct weight_publisher *publisher, struct receiver_state *receiver)
{
    if (can_map(publisher, receiver)) {
        send_slot(publisher, receiver);
        if (receiver->told_slot && publisher->newest.parts_summed)
            send_part_sums(publisher, receiver);
        return;
    }
    struct receiver_state *relay = find_relay(publisher, receiver);
    if (relay)
        send_redirect(publisher, receiver, relay);
    else
        send_manifest(publisher, receiver);
}

static void sum_parts(struct published *published)
{
    struct snapshot *snapshot = &published->snapshot;
    for (int32_t i = 0; i < snapshot->part_count; i++)
        checksum_of(snapshot->image + snapshot->parts[i].offset, (size_t)snapshot->parts[i].bytes,
                    &snapshot->part_sums[i]);
    published->parts_summed = true;
}

/* A transfer of an older version that is not half done gives way, once in a row. */
static bool gives_way(const struct weight_publisher *publisher,
                      const struct receiver_state *receiver)
{
    return receiver->version >= 0 && receiver->version < publisher->newest.snapshot.version &&
           !receiver->gave_way && receiver->delta_from < 0 &&
           receiver->next < publisher->newest.snapshot.bytes / 2;
}

/* First those who map: they sum while the checksums are made here. */
static void tell_everybody(struct weight_publisher *publisher)
{
    struct published *newest = &publisher->newest;
    for (int i = 0; i < publisher->receiver_count; i++) {
        struct receiver_state *receiver = &publisher->receivers[i];
        receiver->told_slot = false;
        receiver->children = 0;
        if (receiver->waiting && can_map(publisher, receiver))
            send_slot(publisher, receiver);
    }
    if (newest->snapshot.image)
        sum_parts(newest);
    for (int i = 0; i < publisher->receiver_count; i++) {
        if (publisher->receivers[i].told_slot)
            send_part_sums(publisher, &publisher->receivers[i]);
    }
    make_link(publisher);
    for (int i = 0; i < publisher->receiver_count; i++) {
        struct receiver_state *receiver = &publisher->receivers[i];
        bool yields = gives_way(publisher, receiver);
        if (yields) {
            receiver->version = -1;
            receiver->gave_way = true;
        }
        if (yields || (receiver->waiting && receiver->have_version < newest->snapshot.version))
            send_offer(publisher, receiver);
    }
}

void weight_publisher_publish(struct weight_publisher *publisher, struct snapshot *snapshot)
{
    HONE_ASSERT(snapshot->version >= 0 && snapshot->tensor_count > 0);
    int64_t start_ns = clock_now_ns(publisher->clock);
    published_release(&publisher->previous);
    publisher->previous = publisher->newest;
    publisher->newest = (struct published){.snapshot = *snapshot};
    memset(snapshot, 0, sizeof *snapshot);
    struct published *newest = &publisher->newest;
    publisher->report = (struct weight_publish_report){.version = newest->snapshot.version,
                                                       .bytes = newest->snapshot.bytes};
    if (newest->snapshot.image)
        slot_notice_build(&newest->notice, &newest->snapshot);
    tell_everybody(publisher);
    publisher->report.publish_ms = (double)(clock_now_ns(publisher->clock) - start_ns) * 1e-6;
}

void weight_publisher_forget(struct weight_publisher *publisher)
{
    published_release(&publisher->previous);
    published_release(&publisher->newest);
}

void weight_publisher_lend(struct weight_publisher *publisher, const struct snapshot *snapshot)
{
    HONE_ASSERT(snapshot->summed && snapshot->data);
    struct snapshot lent = {.version = snapshot->version,
                            .tensor_count = snapshot->tensor_count,
                            .tensors =
                                memory_dup(snapshot->tensors, (size_t)snapshot->tensor_count *
                                                                  sizeof *snapshot->tensors),
                            .data = snapshot->data,
                            .bytes = snapshot->bytes,
                            .summed = true,
                            .lent = true};
    weight_publisher_forget(publisher);
    weight_publisher_publish(publisher, &lent);
}

int64_t weight_publisher_version(const struct weight_publisher *publisher)
{
    return publisher->newest.snapshot.version;
}

const struct weight_publish_report *
weight_publisher_report(const struct weight_publisher *publisher)
{
    return &publisher->report;
}

struct wire_server *weight_publisher_socket(struct weight_publisher *publisher)
{
    return publisher->server;
}

/* ---- requests ---- */

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
    *oldest =
        (struct receiver_state){.peer = *peer, .have_version = -1, .version = -1, .delta_from = -1};
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

/* Bytes of what a range is cut from; 0: it is not here (any more). */
static size_t stream_bytes(const struct weight_publisher *publisher, int64_t version,
                           int64_t delta_from)
{
    if (delta_from >= 0)
        return delta_bytes(publisher, delta_from, version);
    const struct snapshot *snapshot = find_version(publisher, version);
    return snapshot ? snapshot->bytes : 0;
}

static void note_receiver(const struct weight_publisher *publisher, struct receiver_state *receiver,
                          const Hone__WeightsRequest *request)
{
    receiver->heard_ms = clock_now_ms(publisher->clock);
    if (request->have_version > receiver->have_version)
        receiver->gave_way = false; /* a transfer has ended */
    receiver->have_version = request->have_version;
    receiver->host = request->has_host ? request->host : 0;
    receiver->slot = request->has_slot && request->slot;
    receiver->delta = request->has_delta && request->delta;
    receiver->no_redirect = request->has_no_redirect && request->no_redirect;
    receiver->relay[0] = '\0';
    if (request->relay && strlen(request->relay) < sizeof receiver->relay)
        memcpy(receiver->relay, request->relay, strlen(request->relay) + 1);
}

static void handle_request(struct weight_publisher *publisher, const struct wire_peer *peer,
                           const Hone__WeightsRequest *request)
{
    struct receiver_state *receiver = find_receiver(publisher, peer);
    int64_t credit = request->has_credit_bytes ? request->credit_bytes : 0;
    int64_t offset = request->has_offset ? request->offset : 0;
    int64_t from = request->has_delta_from ? request->delta_from : -1;
    note_receiver(publisher, receiver, request);
    size_t total = request->has_version ? stream_bytes(publisher, request->version, from) : 0;
    if (total == 0) {
        receiver->version = -1;
        receiver->waiting = true;
        if (receiver->have_version < publisher->newest.snapshot.version)
            send_offer(publisher, receiver);
        return;
    }
    if (credit < 0 || credit > CREDIT_LIMIT_BYTES || offset < 0 || (uint64_t)offset > total) {
        wire_server_drop(publisher->server, peer, "a weights request out of range");
        receiver->version = -1;
        return;
    }
    if (receiver->version != request->version || receiver->delta_from != from ||
        receiver->limit != (size_t)offset)
        receiver->next = (size_t)offset;
    receiver->version = request->version;
    receiver->delta_from = from;
    receiver->limit = (size_t)offset + (size_t)credit;
    if (receiver->limit > total)
        receiver->limit = total;
}

/* ---- chunks ---- */

/* Where a receiver's range goes on, and for how many bytes in one piece. */
static const unsigned char *range_data(const struct weight_publisher *publisher,
                                       const struct receiver_state *receiver, size_t *bytes)
{
    *bytes = receiver->limit - receiver->next;
    if (receiver->delta_from < 0)
        return find_version(publisher, receiver->version)->data + receiver->next;
    size_t at = receiver->next;
    const struct link *link = &publisher->links[find_link(publisher, receiver->delta_from)];
    for (; at >= link->delta.bytes; link++)
        at -= link->delta.bytes;
    if (*bytes > link->delta.bytes - at)
        *bytes = link->delta.bytes - at;
    return link->delta.data + at;
}

/* 1 when a chunk went out, 0 when this receiver is owed nothing. */
static int send_chunk(struct weight_publisher *publisher, struct receiver_state *receiver)
{
    if (!owes(receiver))
        return 0;
    size_t total = stream_bytes(publisher, receiver->version, receiver->delta_from), bytes;
    if (receiver->limit > total) {
        receiver->version = -1;
        return 0;
    }
    const unsigned char *data = range_data(publisher, receiver, &bytes);
    if (bytes > WEIGHT_CHUNK_BYTES)
        bytes = WEIGHT_CHUNK_BYTES;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__WeightsChunk chunk = HONE__WEIGHTS_CHUNK__INIT;
    chunk.version = receiver->version;
    chunk.offset = (int64_t)receiver->next;
    chunk.bytes = (int32_t)bytes;
    chunk.has_delta_from = receiver->delta_from >= 0;
    chunk.delta_from = receiver->delta_from;
    envelope.kind = HONE__KIND__KIND_WEIGHTS_CHUNK;
    envelope.weights_chunk = &chunk;
    if (wire_server_send(publisher->server, &receiver->peer, &envelope, data, bytes) < 0) {
        log_debug("weights v%lld: %s", (long long)receiver->version, error_message());
        receiver->version = -1;
        return 0;
    }
    receiver->next += bytes;
    return 1;
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
    for (int i = 0; i < publisher->receiver_count; i++) {
        if (owes(&publisher->receivers[i]))
            return 1;
    }
    return 0;
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

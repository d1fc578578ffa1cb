/* The actor's end.
 *
 *   idle --want--> asking --slot--> mapping --every part right--> idle (snapshot handed out)
 *                    ^ \--manifest--> fetching --every tensor right--> idle (snapshot handed out)
 *                    |                  |
 *                    +------------------+  wrong checksum, deadline, another manifest, bad delta
 *
 * While asking and fetching, whatever brings no progress for REPEAT_MS is asked for again: a
 * request or a chunk may have died with a connection. Data arrives in order: `received` bytes of
 * the stream are here, `requested` have been asked for. The stream is the data itself, which is
 * summed as it comes, or the links of a delta, each applied when it is complete. A mapped slot is
 * summed SUM_BYTES_PER_TICK at a time, so that whoever ticks goes on working. */
#include "infra/wire/weight_channel.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/wire/endpoint.h"
#include "infra/wire/snapshot.h"
#include "infra/wire/weight_delta.h"

#define REPEAT_MS          1000
#define MESSAGES_PER_TICK  4 /* of 1 MiB */
#define SUM_BYTES_PER_TICK ((size_t)16 << 20)
#define RELAY_MS           5000 /* without progress, and a relay is given up */
#define LINKS_MAX          64

enum receiver_phase { PHASE_IDLE, PHASE_ASKING, PHASE_MAPPING, PHASE_FETCHING };

struct delta_stream {
    int64_t from;                /* -1: the stream is the data itself */
    int64_t sizes[LINKS_MAX][2]; /* bytes, raw bytes */
    int count, next;
    unsigned char *data; /* of the link that is arriving */
    size_t length;
};

struct slot_check {
    struct weight_mapping *mapping;
    struct weight_place place;
    struct checksum *sums; /* made here; snapshot.part_sums are the publisher's */
    bool told;             /* the publisher's are here */
    int32_t part;
    size_t at; /* within the part */
    struct checksum_state state;
};

struct weight_receiver {
    struct wire_context *context;
    struct wire_client *client, *relay_client; /* the second while a relay serves */
    struct clock *clock;
    struct weight_options options;
    uint64_t host;
    char identity[WIRE_IDENTITY_MAX];
    char endpoint[ENDPOINT_MAX];
    enum receiver_phase phase;
    int64_t have_version;
    bool asked;                       /* the request for a manifest is on its way */
    bool no_slot, no_delta, no_relay; /* it failed: by a plainer way */
    struct snapshot incoming, ready;
    struct slot_check slot;
    struct weight_mappings mappings;
    struct weight_mapping *ready_mapping, *old_mapping;
    unsigned char *spare; /* a data block of an earlier fetch */
    size_t spare_bytes;
    struct delta_stream delta;
    char incoming_hash[HASH_HEX_SIZE];
    size_t received, requested, total;
    size_t summed; /* bytes that went into checksums */
    struct checksum_state state;
    int32_t verified;    /* tensors that are complete and right */
    int mismatches;      /* in a row */
    int64_t progress_ms; /* when something last arrived */
    int64_t repeated_ms; /* when something was last asked for again */
    int64_t started_ns;  /* of this fetch */
    struct weight_fetch_report report;
    size_t wire_bytes;
    struct weight_publisher *relay;
};

int weight_receiver_create(struct weight_receiver **receiver, struct wire_context *context,
                           const char *identity, struct clock *clock,
                           const struct weight_options *options)
{
    *receiver = NULL;
    if (strlen(identity) >= WIRE_IDENTITY_MAX)
        return error_set(HONE_EINVAL, "worker name %.70s... is too long", identity);
    struct weight_receiver *made = MEMORY_NEW(struct weight_receiver);
    made->context = context;
    made->clock = clock;
    made->options = *options;
    made->have_version = -1;
    made->host = weight_host_token();
    made->ready.version = made->report.version = -1;
    made->no_slot = options->transport == WEIGHTS_CHUNKS;
    weight_mappings_init(&made->mappings);
    snprintf(made->identity, sizeof made->identity, "%s", identity);
    if (options->relay_endpoint) {
        struct weight_options relay = {.transport = WEIGHTS_CHUNKS};
        int rc =
            weight_publisher_create(&made->relay, context, options->relay_endpoint, clock, &relay);
        if (rc < 0) {
            weight_receiver_destroy(made);
            return rc;
        }
    }
    *receiver = made;
    return 0;
}

void weight_receiver_destroy(struct weight_receiver *receiver)
{
    if (!receiver)
        return;
    weight_publisher_destroy(receiver->relay);
    wire_client_destroy(receiver->relay_client);
    wire_client_destroy(receiver->client);
    snapshot_release(&receiver->incoming);
    snapshot_release(&receiver->ready);
    weight_mappings_release(&receiver->mappings);
    memory_free(receiver->slot.sums);
    memory_free(receiver->delta.data);
    memory_free(receiver->spare);
    memory_free(receiver);
}

/* ---- beginning ---- */

static struct wire_client *active_client(struct weight_receiver *receiver)
{
    return receiver->relay_client ? receiver->relay_client : receiver->client;
}

static void keep_spare(struct weight_receiver *receiver, struct snapshot *snapshot)
{
    if (!snapshot->data)
        return;
    memory_free(receiver->spare);
    receiver->spare = snapshot->data;
    receiver->spare_bytes = snapshot->bytes;
    snapshot->data = NULL;
}

/* What has come of the version in transfer is forgotten. */
static void abandon(struct weight_receiver *receiver)
{
    weight_mapping_unlock(receiver->slot.mapping);
    receiver->slot.mapping = NULL;
    keep_spare(receiver, &receiver->incoming);
    snapshot_release(&receiver->incoming);
}

static void start_asking(struct weight_receiver *receiver)
{
    abandon(receiver);
    receiver->phase = PHASE_ASKING;
    receiver->asked = false;
    receiver->progress_ms = receiver->repeated_ms = clock_now_ms(receiver->clock);
}

static void leave_relay(struct weight_receiver *receiver)
{
    wire_client_destroy(receiver->relay_client);
    receiver->relay_client = NULL;
}

void weight_receiver_want(struct weight_receiver *receiver, const char *endpoint,
                          int64_t have_version)
{
    receiver->have_version = have_version;
    bool moved = strcmp(receiver->endpoint, endpoint) != 0;
    if (moved || !receiver->client) {
        struct wire_client *client;
        if (strlen(endpoint) >= sizeof receiver->endpoint ||
            wire_client_create(&client, receiver->context, endpoint, receiver->identity) < 0) {
            log_error("weights from %.80s: %s", endpoint, error_message());
            return;
        }
        wire_client_destroy(receiver->client);
        leave_relay(receiver);
        receiver->client = client;
        receiver->no_slot = receiver->options.transport == WEIGHTS_CHUNKS;
        snprintf(receiver->endpoint, sizeof receiver->endpoint, "%s", endpoint);
    }
    if (moved || receiver->phase == PHASE_IDLE)
        start_asking(receiver);
}

struct wire_client *weight_receiver_socket(struct weight_receiver *receiver)
{
    return active_client(receiver);
}

struct wire_server *weight_receiver_relay(struct weight_receiver *receiver)
{
    return receiver->relay ? weight_publisher_socket(receiver->relay) : NULL;
}

bool weight_receiver_busy(const struct weight_receiver *receiver)
{
    return receiver->phase != PHASE_IDLE;
}

bool weight_receiver_working(const struct weight_receiver *receiver)
{
    return receiver->phase == PHASE_MAPPING && receiver->slot.part < receiver->incoming.part_count;
}

const struct weight_fetch_report *weight_receiver_report(const struct weight_receiver *receiver)
{
    return &receiver->report;
}

/* ---- asking ---- */

/* The version in hand as the base of a delta: its values; NULL when they are not here. */
static const unsigned char *base_values(const struct weight_receiver *receiver)
{
    if (receiver->ready.version < 0 || receiver->ready.version != receiver->have_version)
        return NULL;
    return receiver->ready.image ? receiver->ready.image : receiver->ready.data;
}

static bool send_request(struct weight_receiver *receiver, Hone__WeightsRequest *request)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    request->have_version = receiver->have_version;
    request->has_host = request->has_slot = 1;
    request->host = receiver->host;
    request->slot = !receiver->no_slot;
    request->has_delta = 1;
    request->delta = receiver->options.delta && !receiver->no_delta && base_values(receiver);
    request->has_no_redirect = 1;
    request->no_redirect = receiver->no_relay || receiver->relay_client;
    if (receiver->relay && weight_publisher_version(receiver->relay) == receiver->have_version)
        request->relay =
            (char *)(uintptr_t)wire_server_endpoint(weight_publisher_socket(receiver->relay));
    envelope.kind = HONE__KIND__KIND_WEIGHTS_REQUEST;
    envelope.weights_request = request;
    return wire_client_send(active_client(receiver), &envelope, NULL, 0) == 0;
}

/* A Hello before it: should the publisher have dropped this peer, a new fetch is a new beginning.
 */
static void ask_manifest(struct weight_receiver *receiver)
{
    Hone__WeightsRequest request = HONE__WEIGHTS_REQUEST__INIT;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Hello hello = HONE__HELLO__INIT;
    char no_recipe[1] = "";
    hello.protocol = WIRE_PROTOCOL;
    hello.role = HONE__ROLE__ROLE_ACTOR;
    hello.worker = receiver->identity;
    hello.recipe_hash = no_recipe;
    hello.pid = getpid();
    envelope.kind = HONE__KIND__KIND_HELLO;
    envelope.hello = &hello;
    receiver->asked = wire_client_send(active_client(receiver), &envelope, NULL, 0) == 0 &&
                      send_request(receiver, &request);
}

/* Keeps between half a credit and a whole one under way. */
static void ask_chunks(struct weight_receiver *receiver)
{
    size_t under_way = receiver->requested - receiver->received;
    if (receiver->requested >= receiver->total || under_way > WEIGHT_CREDIT_BYTES / 2)
        return;
    size_t credit = WEIGHT_CREDIT_BYTES - under_way;
    if (credit > receiver->total - receiver->requested)
        credit = receiver->total - receiver->requested;
    Hone__WeightsRequest request = HONE__WEIGHTS_REQUEST__INIT;
    request.has_version = request.has_offset = request.has_credit_bytes = 1;
    request.version = receiver->incoming.version;
    request.offset = (int64_t)receiver->requested;
    request.credit_bytes = (int64_t)credit;
    request.has_delta_from = receiver->delta.from >= 0;
    request.delta_from = receiver->delta.from;
    if (send_request(receiver, &request))
        receiver->requested += credit;
}

/* ---- what is offered ---- */

static void begin_fetch(struct weight_receiver *receiver, enum receiver_phase phase)
{
    receiver->received = receiver->requested = receiver->summed = receiver->wire_bytes = 0;
    receiver->verified = 0;
    receiver->phase = phase;
    receiver->progress_ms = receiver->repeated_ms = clock_now_ms(receiver->clock);
    receiver->started_ns = clock_now_ns(receiver->clock);
}

static int read_links(struct delta_stream *delta, const Hone__WeightsManifest *message,
                      const struct snapshot *snapshot, size_t *total)
{
    size_t bytes = message->has_delta_links ? message->delta_links.len : 0;
    delta->from = message->delta_from;
    delta->next = 0;
    delta->length = 0;
    if (bytes == 0 || bytes % sizeof *delta->sizes != 0 || bytes > sizeof delta->sizes)
        return error_set(HONE_EFORMAT, "a delta with links of %zu bytes", bytes);
    delta->count = (int)(bytes / sizeof *delta->sizes);
    memcpy(delta->sizes, message->delta_links.data, bytes);
    *total = 0;
    for (int i = 0; i < delta->count; i++) {
        int64_t size = delta->sizes[i][0], raw = delta->sizes[i][1];
        if (size <= 0 || size > (int64_t)snapshot->bytes || raw <= 0 ||
            (uint64_t)raw > weight_delta_raw_max(snapshot))
            return error_set(HONE_EFORMAT, "a delta of %lld bytes for %lld", (long long)size,
                             (long long)raw);
        *total += (size_t)size;
    }
    return 0;
}

/* A data block of the right size, the base's values in it when a delta comes. */
static void take_block(struct weight_receiver *receiver)
{
    struct snapshot *incoming = &receiver->incoming;
    if (receiver->spare && receiver->spare_bytes == incoming->bytes) {
        incoming->data = receiver->spare;
        receiver->spare = NULL;
    } else {
        incoming->data = memory_alloc(incoming->bytes, 1);
    }
    if (receiver->delta.from >= 0)
        memcpy(incoming->data, base_values(receiver), incoming->bytes);
}

/* The manifest fits what is here, and so does the delta that it offers; *total bytes will come. */
static int check_manifest(struct weight_receiver *receiver, const Hone__WeightsManifest *message,
                          const struct snapshot *described, size_t *total)
{
    *total = described->bytes;
    receiver->delta.from = -1;
    if (!message->has_delta_from)
        return 0;
    receiver->no_delta = true; /* until it turns out to be good */
    if (message->delta_from != receiver->have_version || !base_values(receiver) ||
        !snapshot_same_layout(&receiver->ready, described))
        return error_set(HONE_EPEER, "a delta from v%lld, which is not here",
                         (long long)message->delta_from);
    int rc = read_links(&receiver->delta, message, described, total);
    receiver->no_delta = rc < 0;
    return rc;
}

/* Negative when the recipe wants shared memory and this comes instead. */
static int handle_manifest(struct weight_receiver *receiver, const Hone__WeightsManifest *message)
{
    struct snapshot described;
    size_t total;
    int64_t from = message->has_delta_from ? message->delta_from : -1;
    if (receiver->phase == PHASE_IDLE || message->version <= receiver->have_version)
        return 0;
    if (receiver->options.transport == WEIGHTS_SHARED_MEMORY)
        return error_set(HONE_EUNSUPPORTED,
                         "weights v%lld cannot come through shared memory: the learner is on "
                         "another host or another user's; set weights.transport to auto",
                         (long long)message->version);
    if (receiver->phase == PHASE_FETCHING && message->version == receiver->incoming.version &&
        from == receiver->delta.from && strcmp(message->weights_hash, receiver->incoming_hash) == 0)
        return 0; /* the answer to a repeated question */
    if (manifest_read(message, &described) < 0) {
        log_warn("manifest from %s: %s", receiver->endpoint, error_message());
        return 0;
    }
    if (check_manifest(receiver, message, &described, &total) < 0) {
        log_warn("manifest from %s: %s", receiver->endpoint, error_message());
        snapshot_release(&described);
        start_asking(receiver);
        return 0;
    }
    abandon(receiver);
    receiver->incoming = described;
    receiver->total = total;
    take_block(receiver);
    snprintf(receiver->incoming_hash, sizeof receiver->incoming_hash, "%s", message->weights_hash);
    begin_fetch(receiver, PHASE_FETCHING);
    return 0;
}

/* 0, or negative when the recipe wants shared memory and there is none. */
static int handle_slot(struct weight_receiver *receiver, const Hone__WeightsSlot *message)
{
    struct snapshot described;
    struct weight_place place;
    struct weight_mapping *mapping;
    if (receiver->phase == PHASE_IDLE || receiver->no_slot ||
        message->version <= receiver->have_version)
        return 0;
    if (receiver->phase == PHASE_MAPPING && message->version == receiver->incoming.version)
        return 0;
    if (slot_notice_read(message, &described, &place) < 0) {
        log_warn("%s: %s", receiver->endpoint, error_message());
        return 0;
    }
    abandon(receiver);
    int rc = weight_mappings_lock(&receiver->mappings, &place, &mapping);
    if (rc < 0) {
        snapshot_release(&described);
        if (rc != HONE_EPEER && receiver->options.transport == WEIGHTS_SHARED_MEMORY)
            return error_prefix("weights v%lld", (long long)message->version);
        log_info("weights v%lld: %s%s", (long long)message->version, error_message(),
                 rc == HONE_EPEER ? "" : "; they come as chunks from now on");
        receiver->no_slot = rc != HONE_EPEER;
        start_asking(receiver);
        receiver->asked = receiver->mismatches++ > 0;
        return 0;
    }
    receiver->incoming = described;
    receiver->incoming.image = mapping->base;
    memory_free(receiver->slot.sums);
    receiver->slot = (struct slot_check){.mapping = mapping, .place = place};
    receiver->slot.sums = MEMORY_ARRAY(struct checksum, described.part_count);
    begin_fetch(receiver, PHASE_MAPPING);
    return 0;
}

static void handle_slot_sums(struct weight_receiver *receiver,
                             const Hone__WeightsSlotChecksums *message)
{
    struct snapshot *incoming = &receiver->incoming;
    size_t bytes = (size_t)incoming->part_count * sizeof *incoming->part_sums;
    if (receiver->phase != PHASE_MAPPING || message->version != incoming->version ||
        message->nonce.len != WEIGHT_NONCE_BYTES || message->checksums.len != bytes ||
        memcmp(message->nonce.data, receiver->slot.place.nonce, WEIGHT_NONCE_BYTES) != 0)
        return;
    memcpy(incoming->part_sums, message->checksums.data, bytes);
    receiver->slot.told = true;
    receiver->progress_ms = clock_now_ms(receiver->clock);
}

static void handle_redirect(struct weight_receiver *receiver, const Hone__WeightsRedirect *message)
{
    struct wire_client *client;
    if (receiver->phase != PHASE_ASKING || receiver->relay_client || receiver->no_relay ||
        message->version <= receiver->have_version)
        return;
    if (wire_client_create(&client, receiver->context, message->endpoint, receiver->identity) < 0) {
        log_warn("relay %.80s: %s", message->endpoint, error_message());
        receiver->no_relay = true;
    } else {
        log_debug("weights v%lld come from the relay %s", (long long)message->version,
                  message->endpoint);
        receiver->relay_client = client;
    }
    start_asking(receiver);
}

/* ---- data ---- */

/* What has gone wrong goes wrong another way next time: without the relay, the delta, the slot. */
static void start_again(struct weight_receiver *receiver)
{
    if (receiver->relay_client) {
        leave_relay(receiver);
        receiver->no_relay = true;
    } else if (receiver->phase == PHASE_FETCHING && receiver->delta.from >= 0) {
        receiver->no_delta = true;
    } else if (receiver->phase == PHASE_MAPPING && receiver->mismatches > 0 &&
               receiver->options.transport == WEIGHTS_AUTO) {
        receiver->no_slot = true;
    }
    start_asking(receiver);
}

static void mismatch(struct weight_receiver *receiver, const char *what)
{
    log_warn("weights v%lld: %s does not match its checksum, fetching again",
             (long long)receiver->incoming.version, what);
    start_again(receiver);
    /* At once the first time; damage that stays must not turn into a flood. */
    receiver->asked = receiver->mismatches++ > 0;
}

/* Sums what has arrived; false when a tensor is complete and not what it should be. */
static bool verify_received(struct weight_receiver *receiver, size_t upto_bytes)
{
    const struct snapshot *incoming = &receiver->incoming;
    while (receiver->summed < upto_bytes) {
        const struct snapshot_tensor *tensor = &incoming->tensors[receiver->verified];
        size_t end = tensor->offset + tensor->bytes;
        size_t upto = end < upto_bytes ? end : upto_bytes;
        struct checksum sum;
        if (receiver->summed == tensor->offset)
            checksum_begin(&receiver->state);
        checksum_update(&receiver->state, incoming->data + receiver->summed,
                        upto - receiver->summed);
        receiver->summed = upto;
        if (upto < end)
            break;
        checksum_end(&receiver->state, &sum);
        if (memcmp(&sum, &tensor->checksum, sizeof sum) != 0) {
            mismatch(receiver, tensor->name);
            return false;
        }
        receiver->verified++;
    }
    return true;
}

/* Part of a link, or of several. False when one is broken. */
static bool take_delta(struct weight_receiver *receiver, const unsigned char *data, size_t bytes)
{
    struct delta_stream *delta = &receiver->delta;
    while (bytes > 0) {
        size_t size = (size_t)delta->sizes[delta->next][0];
        size_t now = size - delta->length < bytes ? size - delta->length : bytes;
        if (delta->length == 0) {
            memory_free(delta->data);
            delta->data = memory_alloc(size, 1);
        }
        memcpy(delta->data + delta->length, data, now);
        delta->length += now;
        data += now;
        bytes -= now;
        if (delta->length < size)
            return true;
        if (weight_delta_apply(&receiver->incoming, delta->data, size,
                               (size_t)delta->sizes[delta->next][1]) < 0) {
            log_warn("weights v%lld: %s, fetching the whole", (long long)receiver->incoming.version,
                     error_message());
            start_again(receiver);
            return false;
        }
        delta->next++;
        delta->length = 0;
    }
    return true;
}

/* Data that continues what is here; anything else is a repetition or follows a loss, and is asked
 * for again in time. */
static void handle_chunk(struct weight_receiver *receiver, const struct wire_message *message)
{
    const Hone__WeightsChunk *chunk = message->envelope->weights_chunk;
    struct snapshot *incoming = &receiver->incoming;
    int64_t from = chunk->has_delta_from ? chunk->delta_from : -1;
    if (receiver->phase != PHASE_FETCHING || chunk->version != incoming->version ||
        from != receiver->delta.from || chunk->offset < 0 ||
        (uint64_t)chunk->offset != receiver->received)
        return;
    if (message->payload_bytes == 0 ||
        message->payload_bytes > receiver->total - receiver->received) {
        log_warn("weights v%lld: a chunk of %zu bytes at %zu of %zu", (long long)incoming->version,
                 message->payload_bytes, receiver->received, receiver->total);
        return;
    }
    size_t at = receiver->received;
    receiver->received += message->payload_bytes;
    receiver->wire_bytes += message->payload_bytes;
    if (receiver->requested < receiver->received)
        receiver->requested = receiver->received;
    receiver->progress_ms = receiver->repeated_ms = clock_now_ms(receiver->clock);
    if (from < 0) {
        memcpy(incoming->data + at, message->payload, message->payload_bytes);
        verify_received(receiver, receiver->received);
    } else if (take_delta(receiver, message->payload, message->payload_bytes) &&
               receiver->received == receiver->total) {
        verify_received(receiver, incoming->bytes);
    }
}

static int handle_message(struct weight_receiver *receiver, const struct wire_message *message)
{
    const Hone__Envelope *envelope = message->envelope;
    switch ((int)envelope->kind) {
    case HONE__KIND__KIND_WEIGHTS_MANIFEST:
        return handle_manifest(receiver, envelope->weights_manifest);
    case HONE__KIND__KIND_WEIGHTS_CHUNK:
        handle_chunk(receiver, message);
        break;
    case HONE__KIND__KIND_WEIGHTS_SLOT:
        return handle_slot(receiver, envelope->weights_slot);
    case HONE__KIND__KIND_WEIGHTS_SLOT_CHECKSUMS:
        handle_slot_sums(receiver, envelope->weights_slot_checksums);
        break;
    case HONE__KIND__KIND_WEIGHTS_REDIRECT:
        handle_redirect(receiver, envelope->weights_redirect);
        break;
    default:
        break;
    }
    return 0;
}

static bool is_complete(const struct weight_receiver *receiver)
{
    return receiver->phase == PHASE_FETCHING &&
           receiver->verified == receiver->incoming.tensor_count;
}

static int receive_messages(struct weight_receiver *receiver)
{
    for (int i = 0; i < MESSAGES_PER_TICK && !is_complete(receiver); i++) {
        struct wire_message message;
        int rc = wire_client_receive(active_client(receiver), &message);
        if (rc <= 0)
            return rc;
        rc = handle_message(receiver, &message);
        wire_message_release(&message);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* ---- slots ---- */

/* Sums a piece of the mapped image; true when all of it is summed. */
static bool sum_slot(struct weight_receiver *receiver)
{
    const struct snapshot *incoming = &receiver->incoming;
    struct slot_check *slot = &receiver->slot;
    size_t budget = SUM_BYTES_PER_TICK;
    while (slot->part < incoming->part_count && budget > 0) {
        const struct snapshot_part *part = &incoming->parts[slot->part];
        size_t left = (size_t)part->bytes - slot->at;
        size_t now = left < budget ? left : budget;
        if (slot->at == 0)
            checksum_begin(&slot->state);
        checksum_update(&slot->state, incoming->image + part->offset + slot->at, now);
        slot->at += now;
        budget -= now;
        if (now < left)
            break;
        checksum_end(&slot->state, &slot->sums[slot->part++]);
        slot->at = 0;
    }
    receiver->progress_ms =
        slot->part < incoming->part_count ? clock_now_ms(receiver->clock) : receiver->progress_ms;
    return slot->part == incoming->part_count;
}

/* True when the mapped version is verified. */
static bool check_slot(struct weight_receiver *receiver)
{
    const struct snapshot *incoming = &receiver->incoming;
    if (!sum_slot(receiver) || !receiver->slot.told)
        return false;
    for (int32_t i = 0; i < incoming->part_count; i++) {
        if (memcmp(&receiver->slot.sums[i], &incoming->part_sums[i], sizeof(struct checksum)) !=
            0) {
            char what[64];
            snprintf(what, sizeof what, "part %d of the shared image", i);
            mismatch(receiver, what);
            return false;
        }
    }
    return true;
}

/* ---- the tick ---- */

static void watch_progress(struct weight_receiver *receiver)
{
    int64_t now_ms = clock_now_ms(receiver->clock);
    int64_t limit_ms = receiver->options.deadline_ms;
    if (receiver->relay_client && limit_ms > RELAY_MS)
        limit_ms = RELAY_MS;
    bool stuck = now_ms - receiver->progress_ms >= limit_ms;
    if (stuck && (receiver->phase != PHASE_ASKING || receiver->relay_client)) {
        log_warn("weights v%lld: nothing from %s for %lld ms at %zu of %zu bytes, starting again",
                 (long long)receiver->incoming.version,
                 receiver->relay_client ? "the relay" : receiver->endpoint,
                 (long long)(now_ms - receiver->progress_ms), receiver->received, receiver->total);
        start_again(receiver);
    } else if (now_ms - receiver->repeated_ms >= REPEAT_MS) {
        receiver->repeated_ms = now_ms;
        receiver->asked = false;
        receiver->requested = receiver->received;
    }
}

/* What was received becomes what is held. */
static void hand_out(struct weight_receiver *receiver)
{
    receiver->report = (struct weight_fetch_report){
        .version = receiver->incoming.version,
        .way = receiver->phase == PHASE_MAPPING ? "slot"
               : receiver->delta.from >= 0      ? "delta"
                                                : "chunks",
        .wire_bytes = receiver->wire_bytes,
        .fetch_ms = (double)(clock_now_ns(receiver->clock) - receiver->started_ns) * 1e-6};
    if (receiver->relay) /* what it serves is the block that comes next in turn */
        weight_publisher_forget(receiver->relay);
    keep_spare(receiver, &receiver->ready);
    snapshot_release(&receiver->ready);
    receiver->ready = receiver->incoming;
    receiver->incoming = (struct snapshot){.version = -1};
    receiver->old_mapping = receiver->ready_mapping;
    receiver->ready_mapping = receiver->slot.mapping;
    receiver->slot.mapping = NULL;
    receiver->have_version = receiver->ready.version;
    receiver->mismatches = 0;
    receiver->no_delta = receiver->no_relay = false;
    receiver->phase = PHASE_IDLE;
    leave_relay(receiver);
}

int weight_receiver_tick(struct weight_receiver *receiver, const struct snapshot **snapshot)
{
    *snapshot = NULL;
    weight_mapping_unlock(receiver->old_mapping);
    receiver->old_mapping = NULL;
    int rc = receiver->relay ? weight_publisher_tick(receiver->relay) : 0;
    if (rc < 0 || receiver->phase == PHASE_IDLE || !receiver->client)
        return rc < 0 ? rc : 0;
    rc = receive_messages(receiver);
    if (rc < 0)
        return rc;
    if (is_complete(receiver) || (receiver->phase == PHASE_MAPPING && check_slot(receiver))) {
        hand_out(receiver);
        if (receiver->relay && receiver->ready.data)
            weight_publisher_lend(receiver->relay, &receiver->ready);
        *snapshot = &receiver->ready;
        return 1;
    }
    watch_progress(receiver);
    if (receiver->phase == PHASE_ASKING && !receiver->asked)
        ask_manifest(receiver);
    else if (receiver->phase == PHASE_FETCHING)
        ask_chunks(receiver);
    return 0;
}

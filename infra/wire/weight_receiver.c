/* The actor's end.
 *
 *   idle --want--> asking --manifest--> fetching --last tensor verified--> idle (snapshot handed
 * out) ^                     | digest mismatch, deadline, another manifest
 *                    +---------------------+
 *
 * While asking and fetching, whatever brings no progress for REPEAT_MS is asked for again: a
 * request or a chunk may have died with a connection. Data arrives in order; `received` bytes are
 * here and every tensor that ends before it is verified (G5). `requested` bytes have been asked
 * for. */
#include "infra/wire/weight_channel.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/wire/snapshot.h"

#define REPEAT_MS         1000
#define MESSAGES_PER_TICK 4 /* of 1 MiB: hashing them takes about 10 ms */
#define ENDPOINT_MAX      256

enum receiver_phase { PHASE_IDLE, PHASE_ASKING, PHASE_FETCHING };

struct weight_receiver {
    struct wire_context *context;
    struct wire_client *client;
    struct clock *clock;
    int64_t deadline_ms;
    char identity[WIRE_IDENTITY_MAX];
    char endpoint[ENDPOINT_MAX];
    enum receiver_phase phase;
    int64_t have_version;
    bool asked; /* the request for a manifest is on its way */
    struct snapshot incoming, ready;
    char incoming_hash[HASH_HEX_SIZE];
    size_t received, requested;
    size_t hashed;            /* bytes that went into digests */
    struct hash_state digest; /* of the tensor that is arriving */
    int32_t verified;         /* tensors that are complete and right */
    int mismatches;           /* in a row */
    int64_t progress_ms;      /* when something last arrived */
    int64_t repeated_ms;      /* when something was last asked for again */
};

int weight_receiver_create(struct weight_receiver **receiver, struct wire_context *context,
                           const char *identity, struct clock *clock, int64_t deadline_ms)
{
    *receiver = NULL;
    if (strlen(identity) >= WIRE_IDENTITY_MAX)
        return error_set(HONE_EINVAL, "worker name %.70s... is too long", identity);
    struct weight_receiver *made = MEMORY_NEW(struct weight_receiver);
    made->context = context;
    made->clock = clock;
    made->deadline_ms = deadline_ms;
    made->have_version = -1;
    snprintf(made->identity, sizeof made->identity, "%s", identity);
    *receiver = made;
    return 0;
}

void weight_receiver_destroy(struct weight_receiver *receiver)
{
    if (!receiver)
        return;
    wire_client_destroy(receiver->client);
    snapshot_release(&receiver->incoming);
    snapshot_release(&receiver->ready);
    memory_free(receiver);
}

static void start_asking(struct weight_receiver *receiver)
{
    receiver->phase = PHASE_ASKING;
    receiver->asked = false;
    receiver->progress_ms = receiver->repeated_ms = clock_now_ms(receiver->clock);
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
        receiver->client = client;
        snprintf(receiver->endpoint, sizeof receiver->endpoint, "%s", endpoint);
    }
    if (moved || receiver->phase == PHASE_IDLE)
        start_asking(receiver);
}

struct wire_client *weight_receiver_socket(struct weight_receiver *receiver)
{
    return receiver->client;
}

bool weight_receiver_busy(const struct weight_receiver *receiver)
{
    return receiver->phase != PHASE_IDLE;
}

static bool send_request(struct weight_receiver *receiver, Hone__WeightsRequest *request)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    request->have_version = receiver->have_version;
    envelope.kind = HONE__KIND__KIND_WEIGHTS_REQUEST;
    envelope.weights_request = request;
    return wire_client_send(receiver->client, &envelope, NULL, 0) == 0;
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
    receiver->asked = wire_client_send(receiver->client, &envelope, NULL, 0) == 0 &&
                      send_request(receiver, &request);
}

/* Keeps between half a credit and a whole one under way. */
static void ask_chunks(struct weight_receiver *receiver)
{
    size_t total = receiver->incoming.bytes;
    size_t under_way = receiver->requested - receiver->received;
    if (receiver->requested >= total || under_way > WEIGHT_CREDIT_BYTES / 2)
        return;
    size_t credit = WEIGHT_CREDIT_BYTES - under_way;
    if (credit > total - receiver->requested)
        credit = total - receiver->requested;
    Hone__WeightsRequest request = HONE__WEIGHTS_REQUEST__INIT;
    request.has_version = request.has_offset = request.has_credit_bytes = 1;
    request.version = receiver->incoming.version;
    request.offset = (int64_t)receiver->requested;
    request.credit_bytes = (int64_t)credit;
    if (send_request(receiver, &request))
        receiver->requested += credit;
}

static void handle_manifest(struct weight_receiver *receiver, const Hone__WeightsManifest *message)
{
    struct snapshot described;
    if (receiver->phase == PHASE_IDLE || message->version <= receiver->have_version)
        return;
    if (receiver->phase == PHASE_FETCHING && message->version == receiver->incoming.version &&
        strcmp(message->weights_hash, receiver->incoming_hash) == 0)
        return; /* the answer to a repeated question */
    if (manifest_read(message, &described) < 0) {
        log_warn("manifest from %s: %s", receiver->endpoint, error_message());
        return;
    }
    /* The data block of an earlier fetch serves again when it fits. */
    if (receiver->incoming.data && receiver->incoming.bytes == described.bytes) {
        described.data = receiver->incoming.data;
        receiver->incoming.data = NULL;
    } else {
        memory_free(receiver->incoming.data);
        receiver->incoming.data = NULL;
        described.data = memory_alloc(described.bytes, 1);
    }
    snapshot_release(&receiver->incoming);
    receiver->incoming = described;
    snprintf(receiver->incoming_hash, sizeof receiver->incoming_hash, "%s", message->weights_hash);
    receiver->received = receiver->requested = receiver->hashed = 0;
    receiver->verified = 0;
    receiver->phase = PHASE_FETCHING;
    receiver->progress_ms = receiver->repeated_ms = clock_now_ms(receiver->clock);
}

/* Digests what has arrived; false when a tensor is complete and not what it should be. */
static bool verify_received(struct weight_receiver *receiver)
{
    const struct snapshot *incoming = &receiver->incoming;
    while (receiver->hashed < receiver->received) {
        const struct snapshot_tensor *tensor = &incoming->tensors[receiver->verified];
        size_t end = tensor->offset + tensor->bytes;
        size_t upto = end < receiver->received ? end : receiver->received;
        struct hash digest;
        if (receiver->hashed == tensor->offset)
            hash_begin(&receiver->digest);
        hash_update(&receiver->digest, incoming->data + receiver->hashed, upto - receiver->hashed);
        receiver->hashed = upto;
        if (upto < end)
            break;
        hash_end(&receiver->digest, &digest);
        if (memcmp(digest.bytes, tensor->sha256, sizeof tensor->sha256) != 0) {
            log_warn("weights v%lld: %s does not match its digest, fetching again",
                     (long long)incoming->version, tensor->name);
            return false;
        }
        receiver->verified++;
    }
    return true;
}

/* Data that continues what is here; anything else is a repetition or follows a loss, and is asked
 * for again in time. */
static void handle_chunk(struct weight_receiver *receiver, const struct wire_message *message)
{
    const Hone__WeightsChunk *chunk = message->envelope->weights_chunk;
    struct snapshot *incoming = &receiver->incoming;
    if (receiver->phase != PHASE_FETCHING || chunk->version != incoming->version ||
        chunk->offset < 0 || (uint64_t)chunk->offset != receiver->received)
        return;
    if (message->payload_bytes == 0 ||
        message->payload_bytes > incoming->bytes - receiver->received) {
        log_warn("weights v%lld: a chunk of %zu bytes at %zu of %zu", (long long)incoming->version,
                 message->payload_bytes, receiver->received, incoming->bytes);
        return;
    }
    memcpy(incoming->data + receiver->received, message->payload, message->payload_bytes);
    receiver->received += message->payload_bytes;
    if (receiver->requested < receiver->received)
        receiver->requested = receiver->received;
    receiver->progress_ms = receiver->repeated_ms = clock_now_ms(receiver->clock);
    if (!verify_received(receiver)) {
        start_asking(receiver);
        /* At once the first time; damage that stays must not turn into a flood. */
        receiver->asked = receiver->mismatches++ > 0;
    }
}

static int receive_messages(struct weight_receiver *receiver)
{
    for (int i = 0; i < MESSAGES_PER_TICK; i++) {
        struct wire_message message;
        int rc = wire_client_receive(receiver->client, &message);
        if (rc <= 0)
            return rc;
        if (message.envelope->kind == HONE__KIND__KIND_WEIGHTS_MANIFEST)
            handle_manifest(receiver, message.envelope->weights_manifest);
        else if (message.envelope->kind == HONE__KIND__KIND_WEIGHTS_CHUNK)
            handle_chunk(receiver, &message);
        wire_message_release(&message);
        if (receiver->phase == PHASE_FETCHING &&
            receiver->verified == receiver->incoming.tensor_count)
            break;
    }
    return 0;
}

static void watch_progress(struct weight_receiver *receiver)
{
    int64_t now_ms = clock_now_ms(receiver->clock);
    if (receiver->phase == PHASE_FETCHING &&
        now_ms - receiver->progress_ms >= receiver->deadline_ms) {
        log_warn("weights v%lld: nothing from %s for %lld ms at %zu of %zu bytes, starting again",
                 (long long)receiver->incoming.version, receiver->endpoint,
                 (long long)(now_ms - receiver->progress_ms), receiver->received,
                 receiver->incoming.bytes);
        start_asking(receiver);
    } else if (now_ms - receiver->repeated_ms >= REPEAT_MS) {
        receiver->repeated_ms = now_ms;
        receiver->asked = false;
        receiver->requested = receiver->received;
    }
}

int weight_receiver_tick(struct weight_receiver *receiver, const struct snapshot **snapshot)
{
    *snapshot = NULL;
    if (receiver->phase == PHASE_IDLE || !receiver->client)
        return 0;
    int rc = receive_messages(receiver);
    if (rc < 0)
        return rc;
    if (receiver->phase == PHASE_FETCHING &&
        receiver->verified == receiver->incoming.tensor_count) {
        struct snapshot old = receiver->ready;
        HONE_ASSERT(receiver->received == receiver->incoming.bytes);
        receiver->ready = receiver->incoming;
        receiver->incoming = old;
        receiver->have_version = receiver->ready.version;
        receiver->mismatches = 0;
        receiver->phase = PHASE_IDLE;
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

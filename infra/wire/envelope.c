#include "infra/wire/envelope.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/wire/socket.h"

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

struct kind_rule {
    const char *name;
    size_t offset; /* of the kind's message pointer in the envelope */
    size_t limit_bytes;
};

#define RULE(kind, field, limit)                                                                   \
    [HONE__KIND__KIND_##kind] = {#kind, offsetof(Hone__Envelope, field), limit}

/* Control messages are small; token arrays of a long context are not; a batch is the largest. */
static const struct kind_rule rules[] = {
    RULE(HELLO, hello, 64 * KIB),
    RULE(WELCOME, welcome, 64 * KIB),
    RULE(REFUSED, refused, 64 * KIB),
    RULE(HEARTBEAT, heartbeat, 64 * KIB),
    RULE(LEASE_CREDIT, lease_credit, 64 * KIB),
    RULE(LEASE, lease, 16 * MIB),
    RULE(TRAJECTORY, trajectory, 64 * MIB),
    RULE(TRAJECTORY_ACK, trajectory_ack, 64 * KIB),
    RULE(SCORE_CREDIT, score_credit, 64 * KIB),
    RULE(SCORE_REQUEST, score_request, 16 * MIB),
    RULE(SCORE_RESULT, score_result, 64 * KIB),
    RULE(SCORE_ACK, score_ack, 64 * KIB),
    RULE(LEARNER_READY, learner_ready, 64 * KIB),
    RULE(BATCH, batch, WIRE_MESSAGE_MAX),
    RULE(BATCH_DONE, batch_done, 64 * KIB),
    RULE(WEIGHTS_NOTICE, weights_notice, 64 * KIB),
    RULE(WEIGHTS_REQUEST, weights_request, 64 * KIB),
    RULE(WEIGHTS_MANIFEST, weights_manifest, 16 * MIB),
    RULE(WEIGHTS_CHUNK, weights_chunk, 64 * KIB),
    RULE(STOP, stop, 64 * KIB),
    RULE(LEASE_RETURN, lease_return, 64 * KIB),
    RULE(WEIGHTS_SLOT, weights_slot, 16 * MIB),
    RULE(WEIGHTS_SLOT_CHECKSUMS, weights_slot_checksums, 16 * MIB),
    RULE(WEIGHTS_REDIRECT, weights_redirect, 64 * KIB),
    RULE(PROGRESS, progress, 16 * MIB),
    RULE(PROGRESS_ACK, progress_ack, 64 * KIB),
};

#define KIND_COUNT (sizeof rules / sizeof *rules)

const char *wire_kind_name(Hone__Kind kind)
{
    return (size_t)kind < KIND_COUNT && rules[kind].name ? rules[kind].name : "?";
}

struct budget {
    size_t left_bytes;
};

/* The budget counts everything ever asked for, so it bounds the work as well as the memory. */
static void *budget_alloc(void *data, size_t bytes)
{
    struct budget *budget = data;
    if (bytes > budget->left_bytes)
        return NULL;
    void *block = malloc(bytes ? bytes : 1);
    if (!block)
        return NULL;
    /* A block costs what the heap sets aside for it, not what was asked. */
    size_t cost = malloc_usable_size(block) + sizeof(size_t);
    budget->left_bytes -= cost < budget->left_bytes ? cost : budget->left_bytes;
    return block;
}

static void budget_free(void *data, void *block)
{
    (void)data;
    free(block);
}

int wire_unpack(ProtobufCMessage **message, const ProtobufCMessageDescriptor *descriptor,
                const void *data, size_t bytes)
{
    *message = NULL;
    if (bytes > WIRE_MESSAGE_MAX)
        return error_set(HONE_EFORMAT, "a message of %zu bytes, at most %u", bytes,
                         WIRE_MESSAGE_MAX);
    struct budget budget = {WIRE_DECODE_FACTOR * bytes + WIRE_DECODE_SLACK};
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};
    *message = protobuf_c_message_unpack(descriptor, &allocator, bytes, data);
    if (!*message)
        return error_set(HONE_EFORMAT, "%zu bytes that are not a %s", bytes,
                         descriptor->short_name);
    return 0;
}

void wire_free(ProtobufCMessage *message)
{
    ProtobufCAllocator allocator = {budget_alloc, budget_free, NULL};
    if (message)
        protobuf_c_message_free_unpacked(message, &allocator);
}

static const void *message_at(const Hone__Envelope *envelope, size_t offset)
{
    const void *pointer;
    memcpy(&pointer, (const char *)envelope + offset, sizeof pointer);
    return pointer;
}

int envelope_check(const Hone__Envelope *envelope, size_t packed_bytes, int64_t payload_bytes)
{
    size_t kind = (size_t)envelope->kind;
    if (kind >= KIND_COUNT || !rules[kind].name)
        return error_set(HONE_EFORMAT, "unknown kind %d", (int)envelope->kind);
    for (size_t i = 0; i < KIND_COUNT; i++) {
        if (!rules[i].name)
            continue; /* no kind has this number */
        bool present = message_at(envelope, rules[i].offset) != NULL;
        if (present != (i == kind))
            return error_set(HONE_EFORMAT, "a %s envelope %s a %s message", rules[kind].name,
                             present ? "with" : "without", rules[i].name);
    }
    if (packed_bytes > rules[kind].limit_bytes)
        return error_set(HONE_EFORMAT, "a %s of %zu bytes, at most %zu", rules[kind].name,
                         packed_bytes, rules[kind].limit_bytes);
    bool is_chunk = envelope->kind == HONE__KIND__KIND_WEIGHTS_CHUNK;
    if (is_chunk && envelope->weights_chunk->bytes != payload_bytes)
        return error_set(HONE_EFORMAT, "a %s that declares %d bytes and brings %lld",
                         rules[kind].name, envelope->weights_chunk->bytes,
                         (long long)payload_bytes);
    if (is_chunk == (payload_bytes < 0))
        return error_set(HONE_EFORMAT, "a %s %s a payload", rules[kind].name,
                         is_chunk ? "without" : "with");
    return 0;
}

/* The kind that encoded bytes begin with: field 1, a varint of one byte. -1 when they do not. */
static int leading_kind(const void *data, size_t bytes)
{
    const unsigned char *at = data;
    return bytes >= 2 && at[0] == 0x08 && at[1] < 0x80 ? at[1] : -1;
}

/* E3: before anything is decoded. */
static int check_size(const void *data, size_t bytes)
{
    int kind = leading_kind(data, bytes);
    if (kind < 0 || (size_t)kind >= KIND_COUNT || !rules[kind].name)
        return error_set(HONE_EFORMAT, "%zu bytes that do not begin with a known kind", bytes);
    if (bytes > rules[kind].limit_bytes)
        return error_set(HONE_EFORMAT, "a %s of %zu bytes, at most %zu", rules[kind].name, bytes,
                         rules[kind].limit_bytes);
    return 0;
}

int envelope_decode(Hone__Envelope **envelope, const void *data, size_t bytes,
                    int64_t payload_bytes)
{
    ProtobufCMessage *message;
    *envelope = NULL;
    int rc = check_size(data, bytes);
    if (rc < 0)
        return rc;
    rc = wire_unpack(&message, &hone__envelope__descriptor, data, bytes);
    if (rc < 0)
        return rc;
    Hone__Envelope *decoded = (Hone__Envelope *)message;
    rc = envelope_check(decoded, bytes, payload_bytes);
    if (rc < 0)
        wire_free(message);
    else
        *envelope = decoded;
    return rc;
}

bool envelope_asks_for_hello(const Hone__Envelope *envelope)
{
    return envelope->kind == HONE__KIND__KIND_HEARTBEAT &&
           envelope->heartbeat->waiting_for != NULL &&
           strcmp(envelope->heartbeat->waiting_for, ENVELOPE_WAITS_FOR_HELLO) == 0;
}

bool envelope_looks_like_hello(const void *data, size_t bytes)
{
    return leading_kind(data, bytes) == HONE__KIND__KIND_HELLO;
}

#include "infra/wire/snapshot.h"

#include <stdio.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"

void snapshot_release(struct snapshot *snapshot)
{
    memory_free(snapshot->tensors);
    memory_free(snapshot->parts);
    memory_free(snapshot->part_sums);
    if (snapshot->own_data || (!snapshot->slot && !snapshot->lent))
        memory_free(snapshot->data);
    if (snapshot->slot)
        weight_slot_release(snapshot->slot);
    memset(snapshot, 0, sizeof *snapshot);
}

void snapshot_sum(struct snapshot *snapshot)
{
    size_t next = 0;
    for (int32_t i = 0; i < snapshot->tensor_count; i++) {
        struct snapshot_tensor *tensor = &snapshot->tensors[i];
        HONE_ASSERT(tensor->offset == next && tensor->bytes <= snapshot->bytes - next);
        HONE_ASSERT(tensor->bytes ==
                    (size_t)tensor->rows * (size_t)tensor->columns * dtype_bytes(tensor->dtype));
        next += tensor->bytes;
        checksum_of(snapshot->data + tensor->offset, tensor->bytes, &tensor->checksum);
    }
    HONE_ASSERT(next == snapshot->bytes);
    snapshot->summed = true;
}

bool snapshot_same_layout(const struct snapshot *a, const struct snapshot *b)
{
    if (a->tensor_count != b->tensor_count || a->bytes != b->bytes)
        return false;
    for (int32_t i = 0; i < a->tensor_count; i++) {
        const struct snapshot_tensor *left = &a->tensors[i], *right = &b->tensors[i];
        if (strcmp(left->name, right->name) != 0 || left->dtype != right->dtype ||
            left->rows != right->rows || left->columns != right->columns)
            return false;
    }
    return true;
}

void snapshot_hash(const struct snapshot *snapshot, char hex[HASH_HEX_SIZE])
{
    struct hash_state state;
    struct hash hash;
    hash_begin(&state);
    for (int32_t i = 0; i < snapshot->tensor_count; i++) {
        const struct snapshot_tensor *tensor = &snapshot->tensors[i];
        int64_t shape[3] = {(int64_t)tensor->dtype, tensor->rows, tensor->columns};
        hash_update(&state, tensor->name, strlen(tensor->name) + 1);
        hash_update(&state, shape, sizeof shape);
        hash_update(&state, &tensor->checksum, sizeof tensor->checksum);
    }
    hash_end(&state, &hash);
    hash_hex(&hash, hex);
}

/* Messages about the tensors, which point into the snapshot. */
static void describe_tensors(const struct snapshot *snapshot, Hone__TensorDigest **digests,
                             Hone__TensorDigest ***pointers)
{
    size_t count = (size_t)snapshot->tensor_count;
    *digests = MEMORY_ARRAY(Hone__TensorDigest, count);
    *pointers = MEMORY_ARRAY(Hone__TensorDigest *, count);
    for (size_t i = 0; i < count; i++) {
        struct snapshot_tensor *tensor = &snapshot->tensors[i];
        Hone__TensorDigest *digest = &(*digests)[i];
        hone__tensor_digest__init(digest);
        digest->name = tensor->name;
        digest->dtype = (int32_t)tensor->dtype;
        digest->rows = tensor->rows;
        digest->columns = tensor->columns;
        digest->checksum.data = tensor->checksum.bytes;
        digest->checksum.len = snapshot->summed ? sizeof tensor->checksum : 0;
        (*pointers)[i] = digest;
    }
}

void manifest_build(struct manifest *manifest, const struct snapshot *snapshot, int64_t parent)
{
    HONE_ASSERT(snapshot->summed);
    hone__weights_manifest__init(&manifest->message);
    describe_tensors(snapshot, &manifest->digests, &manifest->pointers);
    snapshot_hash(snapshot, manifest->hash);
    manifest->message.version = snapshot->version;
    manifest->message.has_parent = parent >= 0;
    manifest->message.parent = parent;
    manifest->message.total_bytes = (int64_t)snapshot->bytes;
    manifest->message.chunk_bytes = (int32_t)WEIGHT_CHUNK_BYTES;
    manifest->message.n_tensors = (size_t)snapshot->tensor_count;
    manifest->message.tensors = manifest->pointers;
    manifest->message.weights_hash = manifest->hash;
}

void manifest_release(struct manifest *manifest)
{
    memory_free(manifest->digests);
    memory_free(manifest->pointers);
    memset(manifest, 0, sizeof *manifest);
}

/* sum_bytes: what its checksum must have, CHECKSUM_BYTES or none. */
static int read_tensor(const Hone__TensorDigest *digest, size_t offset, size_t sum_bytes,
                       struct snapshot_tensor *tensor)
{
    size_t count, bytes;
    if (digest->name[0] == '\0' || strlen(digest->name) >= sizeof tensor->name)
        return error_set(HONE_EFORMAT, "tensor name \"%.40s\"", digest->name);
    if (digest->dtype < DTYPE_F32 || digest->dtype > DTYPE_U8)
        return error_set(HONE_EFORMAT, "%s has dtype %d", digest->name, digest->dtype);
    if (digest->checksum.len != sum_bytes)
        return error_set(HONE_EFORMAT, "%s has a checksum of %zu bytes", digest->name,
                         digest->checksum.len);
    if (digest->rows <= 0 || digest->columns <= 0 ||
        checked_mul((size_t)digest->rows, (size_t)digest->columns, &count) < 0 ||
        checked_mul(count, dtype_bytes((enum dtype)digest->dtype), &bytes) < 0 ||
        bytes > (size_t)SNAPSHOT_BYTES_MAX)
        return error_set(HONE_EFORMAT, "%s has shape [%lld, %lld]", digest->name,
                         (long long)digest->rows, (long long)digest->columns);
    snprintf(tensor->name, sizeof tensor->name, "%s", digest->name);
    tensor->dtype = (enum dtype)digest->dtype;
    tensor->rows = digest->rows;
    tensor->columns = digest->columns;
    tensor->offset = offset;
    tensor->bytes = bytes;
    if (sum_bytes > 0)
        memcpy(tensor->checksum.bytes, digest->checksum.data, sum_bytes);
    return 0;
}

static int read_tensors(struct snapshot *snapshot, Hone__TensorDigest **digests, size_t count,
                        size_t sum_bytes)
{
    int rc = 0;
    if (snapshot->version < 0 || count == 0 || count > SNAPSHOT_TENSOR_MAX)
        return error_set(HONE_EFORMAT, "version %lld with %zu tensors",
                         (long long)snapshot->version, count);
    snapshot->tensor_count = (int32_t)count;
    snapshot->tensors = MEMORY_ARRAY(struct snapshot_tensor, count);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        rc = read_tensor(digests[i], snapshot->bytes, sum_bytes, &snapshot->tensors[i]);
        snapshot->bytes += snapshot->tensors[i].bytes;
        if (rc == 0 && snapshot->bytes > (size_t)SNAPSHOT_BYTES_MAX)
            rc = error_set(HONE_EFORMAT, "more than %lld bytes", (long long)SNAPSHOT_BYTES_MAX);
    }
    return rc;
}

int manifest_read(const Hone__WeightsManifest *message, struct snapshot *snapshot)
{
    char hash[HASH_HEX_SIZE];
    *snapshot = (struct snapshot){.version = message->version, .summed = true};
    int rc = read_tensors(snapshot, message->tensors, message->n_tensors, CHECKSUM_BYTES);
    if (rc == 0 && message->total_bytes != (int64_t)snapshot->bytes)
        rc = error_set(HONE_EFORMAT, "%lld bytes in all, but the tensors have %zu",
                       (long long)message->total_bytes, snapshot->bytes);
    if (rc == 0) {
        snapshot_hash(snapshot, hash);
        if (strcmp(hash, message->weights_hash) != 0)
            rc = error_set(HONE_EFORMAT, "the manifest does not have its own hash");
    }
    if (rc < 0) {
        snapshot_release(snapshot);
        return error_prefix("weights v%lld", (long long)message->version);
    }
    return 0;
}

void slot_notice_build(struct slot_notice *notice, const struct snapshot *snapshot)
{
    Hone__WeightsSlot *message = &notice->message;
    hone__weights_slot__init(message);
    describe_tensors(snapshot, &notice->digests, &notice->pointers);
    for (int32_t i = 0; i < snapshot->tensor_count; i++)
        notice->digests[i].checksum.len = 0;
    weight_slot_place(snapshot->slot, &notice->place);
    message->version = snapshot->version;
    message->pid = notice->place.pid;
    message->fd = notice->place.fd;
    message->nonce.data = notice->place.nonce;
    message->nonce.len = sizeof notice->place.nonce;
    message->image_bytes = (int64_t)snapshot->image_bytes;
    message->parts.data = (uint8_t *)snapshot->parts;
    message->parts.len = (size_t)snapshot->part_count * sizeof *snapshot->parts;
    message->n_tensors = (size_t)snapshot->tensor_count;
    message->tensors = notice->pointers;
}

void slot_notice_release(struct slot_notice *notice)
{
    memory_free(notice->digests);
    memory_free(notice->pointers);
    memset(notice, 0, sizeof *notice);
}

static int read_parts(const Hone__WeightsSlot *message, struct snapshot *snapshot)
{
    size_t bytes = message->parts.len, size = sizeof *snapshot->parts;
    int64_t last = 0;
    if (bytes == 0 || bytes % size != 0 || bytes / size > SNAPSHOT_TENSOR_MAX)
        return error_set(HONE_EFORMAT, "parts of %zu bytes", bytes);
    snapshot->part_count = (int32_t)(bytes / size);
    snapshot->parts = memory_dup(message->parts.data, bytes);
    snapshot->part_sums = MEMORY_ARRAY(struct checksum, snapshot->part_count);
    for (int32_t i = 0; i < snapshot->part_count; i++) {
        const struct snapshot_part *part = &snapshot->parts[i];
        if (part->offset < last || part->bytes <= 0 || part->offset > message->image_bytes ||
            part->bytes > message->image_bytes - part->offset)
            return error_set(HONE_EFORMAT, "part %d at %lld of an image of %lld bytes", i,
                             (long long)part->offset, (long long)message->image_bytes);
        last = part->offset + part->bytes;
    }
    return 0;
}

int slot_notice_read(const Hone__WeightsSlot *message, struct snapshot *snapshot,
                     struct weight_place *place)
{
    *snapshot = (struct snapshot){.version = message->version};
    int rc = read_tensors(snapshot, message->tensors, message->n_tensors, 0);
    if (rc == 0 && (message->nonce.len != sizeof place->nonce ||
                    message->image_bytes < (int64_t)snapshot->bytes ||
                    message->image_bytes > SNAPSHOT_BYTES_MAX || message->pid <= 0))
        rc = error_set(HONE_EFORMAT, "a slot of %lld bytes with a nonce of %zu",
                       (long long)message->image_bytes, message->nonce.len);
    if (rc == 0)
        rc = read_parts(message, snapshot);
    if (rc < 0) {
        snapshot_release(snapshot);
        return error_prefix("shared weights v%lld", (long long)message->version);
    }
    *place = (struct weight_place){
        .pid = message->pid, .fd = message->fd, .bytes = (size_t)message->image_bytes};
    memcpy(place->nonce, message->nonce.data, sizeof place->nonce);
    snapshot->image_bytes = place->bytes;
    return 0;
}

#include "infra/wire/snapshot.h"

#include <stdio.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"

void snapshot_release(struct snapshot *snapshot)
{
    memory_free(snapshot->tensors);
    memory_free(snapshot->data);
    memset(snapshot, 0, sizeof *snapshot);
}

void snapshot_digest(struct snapshot *snapshot)
{
    size_t next = 0;
    for (int32_t i = 0; i < snapshot->tensor_count; i++) {
        struct snapshot_tensor *tensor = &snapshot->tensors[i];
        struct hash digest;
        HONE_ASSERT(tensor->offset == next && tensor->bytes <= snapshot->bytes - next);
        HONE_ASSERT(tensor->bytes ==
                    (size_t)tensor->rows * (size_t)tensor->columns * dtype_bytes(tensor->dtype));
        next += tensor->bytes;
        hash_sha256(snapshot->data + tensor->offset, tensor->bytes, &digest);
        memcpy(tensor->sha256, digest.bytes, sizeof tensor->sha256);
    }
    HONE_ASSERT(next == snapshot->bytes);
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
        hash_update(&state, tensor->sha256, sizeof tensor->sha256);
    }
    hash_end(&state, &hash);
    hash_hex(&hash, hex);
}

void manifest_build(struct manifest *manifest, const struct snapshot *snapshot, int64_t parent)
{
    size_t count = (size_t)snapshot->tensor_count;
    hone__weights_manifest__init(&manifest->message);
    manifest->digests = MEMORY_ARRAY(Hone__TensorDigest, count);
    manifest->pointers = MEMORY_ARRAY(Hone__TensorDigest *, count);
    for (size_t i = 0; i < count; i++) {
        struct snapshot_tensor *tensor = &snapshot->tensors[i];
        Hone__TensorDigest *digest = &manifest->digests[i];
        hone__tensor_digest__init(digest);
        digest->name = tensor->name;
        digest->dtype = (int32_t)tensor->dtype;
        digest->rows = tensor->rows;
        digest->columns = tensor->columns;
        digest->sha256.data = tensor->sha256;
        digest->sha256.len = sizeof tensor->sha256;
        manifest->pointers[i] = digest;
    }
    snapshot_hash(snapshot, manifest->hash);
    manifest->message.version = snapshot->version;
    manifest->message.has_parent = parent >= 0;
    manifest->message.parent = parent;
    manifest->message.total_bytes = (int64_t)snapshot->bytes;
    manifest->message.chunk_bytes = (int32_t)WEIGHT_CHUNK_BYTES;
    manifest->message.n_tensors = count;
    manifest->message.tensors = manifest->pointers;
    manifest->message.weights_hash = manifest->hash;
}

void manifest_release(struct manifest *manifest)
{
    memory_free(manifest->digests);
    memory_free(manifest->pointers);
    memset(manifest, 0, sizeof *manifest);
}

static int read_tensor(const Hone__TensorDigest *digest, size_t offset,
                       struct snapshot_tensor *tensor)
{
    size_t count, bytes;
    if (digest->name[0] == '\0' || strlen(digest->name) >= sizeof tensor->name)
        return error_set(HONE_EFORMAT, "tensor name \"%.40s\"", digest->name);
    if (digest->dtype < DTYPE_F32 || digest->dtype > DTYPE_U8)
        return error_set(HONE_EFORMAT, "%s has dtype %d", digest->name, digest->dtype);
    if (digest->sha256.len != sizeof tensor->sha256)
        return error_set(HONE_EFORMAT, "%s has a digest of %zu bytes", digest->name,
                         digest->sha256.len);
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
    memcpy(tensor->sha256, digest->sha256.data, sizeof tensor->sha256);
    return 0;
}

int manifest_read(const Hone__WeightsManifest *message, struct snapshot *snapshot)
{
    char hash[HASH_HEX_SIZE];
    int rc = 0;
    memset(snapshot, 0, sizeof *snapshot);
    if (message->version < 0 || message->n_tensors == 0 || message->n_tensors > SNAPSHOT_TENSOR_MAX)
        return error_set(HONE_EFORMAT, "a manifest of version %lld with %zu tensors",
                         (long long)message->version, message->n_tensors);
    snapshot->version = message->version;
    snapshot->tensor_count = (int32_t)message->n_tensors;
    snapshot->tensors = MEMORY_ARRAY(struct snapshot_tensor, message->n_tensors);
    for (size_t i = 0; rc == 0 && i < message->n_tensors; i++) {
        rc = read_tensor(message->tensors[i], snapshot->bytes, &snapshot->tensors[i]);
        snapshot->bytes += snapshot->tensors[i].bytes;
        if (rc == 0 && snapshot->bytes > (size_t)SNAPSHOT_BYTES_MAX)
            rc = error_set(HONE_EFORMAT, "more than %lld bytes", (long long)SNAPSHOT_BYTES_MAX);
    }
    if (rc == 0 && message->total_bytes != (int64_t)snapshot->bytes)
        rc = error_set(HONE_EFORMAT, "%lld bytes in all, but the tensors have %zu",
                       (long long)message->total_bytes, snapshot->bytes);
    snapshot_hash(snapshot, hash);
    if (rc == 0 && strcmp(hash, message->weights_hash) != 0)
        rc = error_set(HONE_EFORMAT, "the manifest does not have its own hash");
    if (rc < 0) {
        snapshot_release(snapshot);
        return error_prefix("weights v%lld", (long long)message->version);
    }
    return 0;
}

/* Manifests and slot notices, as envelopes. What is accepted has tensors back to back that fill
 * its bytes, parts within the image, and is written again as it was read. */
#include <stdint.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/wire/envelope.h"
#include "infra/wire/snapshot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check_tensors(const struct snapshot *snapshot)
{
    size_t next = 0;
    HONE_ASSERT(snapshot->version >= 0 && snapshot->tensor_count > 0);
    for (int32_t i = 0; i < snapshot->tensor_count; i++) {
        const struct snapshot_tensor *tensor = &snapshot->tensors[i];
        HONE_ASSERT(tensor->offset == next && tensor->rows > 0 && tensor->columns > 0);
        HONE_ASSERT(memchr(tensor->name, '\0', sizeof tensor->name) != NULL);
        next += tensor->bytes;
    }
    HONE_ASSERT(next == snapshot->bytes && snapshot->data == NULL);
}

static void check_manifest(const Hone__WeightsManifest *message)
{
    struct snapshot snapshot, again;
    struct manifest manifest;
    if (manifest_read(message, &snapshot) < 0)
        return;
    check_tensors(&snapshot);
    HONE_ASSERT(snapshot.summed);
    manifest_build(&manifest, &snapshot, -1);
    HONE_ASSERT(strcmp(manifest.hash, message->weights_hash) == 0);
    HONE_ASSERT(manifest_read(&manifest.message, &again) == 0);
    HONE_ASSERT(snapshot_same_layout(&snapshot, &again));
    manifest_release(&manifest);
    snapshot_release(&again);
    snapshot_release(&snapshot);
}

static void check_notice(const Hone__WeightsSlot *message)
{
    struct snapshot snapshot;
    struct weight_place place;
    if (slot_notice_read(message, &snapshot, &place) < 0)
        return;
    check_tensors(&snapshot);
    HONE_ASSERT(place.bytes >= snapshot.bytes && snapshot.part_count > 0);
    int64_t last = 0;
    for (int32_t i = 0; i < snapshot.part_count; i++) {
        const struct snapshot_part *part = &snapshot.parts[i];
        HONE_ASSERT(part->offset >= last && part->bytes > 0);
        last = part->offset + part->bytes;
        HONE_ASSERT((uint64_t)last <= place.bytes);
    }
    snapshot_release(&snapshot);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    Hone__Envelope *envelope;
    if (envelope_decode(&envelope, data, bytes, -1) < 0)
        return 0;
    if (envelope->weights_manifest)
        check_manifest(envelope->weights_manifest);
    if (envelope->weights_slot)
        check_notice(envelope->weights_slot);
    wire_free(&envelope->base);
    return 0;
}

/* What both ends of the weight channel need of a snapshot: checksums, messages, layout checks.
 * (struct snapshot itself is in weight_channel.h.) */
#ifndef HONE_WIRE_SNAPSHOT_H
#define HONE_WIRE_SNAPSHOT_H

#include "infra/wire/weight_channel.h"

#define WEIGHT_CHUNK_BYTES  ((size_t)1 << 20)
#define WEIGHT_CREDIT_BYTES ((size_t)8 << 20)
#define SNAPSHOT_TENSOR_MAX 65536
#define SNAPSHOT_BYTES_MAX  ((int64_t)1 << 42)

/* Fills every tensor's checksum from the data. The tensors must lie back to back: asserts. */
void snapshot_sum(struct snapshot *snapshot);
/* Same tensors, types and shapes: a delta between them makes sense. */
bool snapshot_same_layout(const struct snapshot *a, const struct snapshot *b);

/* A manifest message that points into itself and into the snapshot; manifest_release frees it. */
struct manifest {
    Hone__WeightsManifest message;
    Hone__TensorDigest *digests;
    Hone__TensorDigest **pointers;
    char hash[HASH_HEX_SIZE];
};
void manifest_build(struct manifest *manifest, const struct snapshot *snapshot, int64_t parent);
void manifest_release(struct manifest *manifest);
/* Checks a received manifest and makes the snapshot that it describes, without its data (data is
 * NULL). HONE_EFORMAT. */
int manifest_read(const Hone__WeightsManifest *message, struct snapshot *snapshot);

/* The same for a slot in shared memory: message points into the notice and the snapshot. */
struct slot_notice {
    Hone__WeightsSlot message;
    struct weight_place place;
    Hone__TensorDigest *digests;
    Hone__TensorDigest **pointers;
};
void slot_notice_build(struct slot_notice *notice, const struct snapshot *snapshot);
void slot_notice_release(struct slot_notice *notice);
/* The snapshot has parts without checksums, and no image yet. HONE_EFORMAT. */
int slot_notice_read(const Hone__WeightsSlot *message, struct snapshot *snapshot,
                     struct weight_place *place);

#endif

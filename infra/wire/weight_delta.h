/* A version as what differs from the one before it, without loss.
 *
 * Before compression (varints are LEB128, 7 bits a byte, at most 10 bytes; sizes are
 * little-endian):
 *
 *     uint64 head_bytes, gap_bytes, plane_bytes
 *     head    per tensor that differs: varint tensors passed over, varint changes
 *     gaps    per change: varint values passed over since the last change of that tensor
 *     planes  per tensor: byte 0 of every change, then byte 1, ...
 *
 * A change is new - old of the values' bits as integers of their width, zigzag: a step of one unit
 * in the last place is 1 or 2. Bits are never interpreted, so -0, NaN payloads and denormals
 * arrive as they are. All of it is one zstd frame. The decoder trusts nothing: a delta that is
 * damaged, cut or of another base is refused or gives values whose checksums are wrong, and no more
 * memory is used than the sizes that were checked before. No state; any thread. */
#ifndef HONE_WIRE_WEIGHT_DELTA_H
#define HONE_WIRE_WEIGHT_DELTA_H

#include "infra/wire/snapshot.h"

struct weight_delta {
    unsigned char *data; /* compressed; memory_alloc */
    size_t bytes, raw_bytes;
    int64_t changes; /* values that differ */
};

void weight_delta_release(struct weight_delta *delta);
/* Largest raw size a snapshot's delta may have; what the decoder accepts. */
size_t weight_delta_raw_max(const struct snapshot *snapshot);
/* from: values of the version before, laid out as to's. 1 made; 0 when it would have more than
 * limit_bytes (the version is better sent whole) and *delta is empty then. */
int weight_delta_encode(const unsigned char *from, const struct snapshot *to, size_t limit_bytes,
                        struct weight_delta *delta);
/* snapshot->data holds the version before and becomes the next one. HONE_EFORMAT; what data holds
 * is undefined then. Its checksums are the caller's to compare. */
int weight_delta_apply(struct snapshot *snapshot, const void *data, size_t bytes, size_t raw_bytes);

#endif

/* A snapshot laid out from a table of shapes: names, places and sizes as the channel expects them.
 */
#ifndef HONE_TESTS_WIRE_SNAPSHOT_FIXTURE_H
#define HONE_TESTS_WIRE_SNAPSHOT_FIXTURE_H

#include <stdio.h>

#include "infra/base/memory.h"
#include "infra/wire/snapshot.h"

struct tensor_shape {
    enum dtype dtype;
    int64_t rows, columns;
};

/* snapshot_release it; data is NULL. */
static inline struct snapshot snapshot_of_shapes(int64_t version, const struct tensor_shape *shapes,
                                                 int count)
{
    struct snapshot snapshot = {.version = version, .tensor_count = count};
    snapshot.tensors = MEMORY_ARRAY(struct snapshot_tensor, count);
    for (int i = 0; i < count; i++) {
        struct snapshot_tensor *tensor = &snapshot.tensors[i];
        snprintf(tensor->name, sizeof tensor->name, "layers.%d.weight", i);
        tensor->dtype = shapes[i].dtype;
        tensor->rows = shapes[i].rows;
        tensor->columns = shapes[i].columns;
        tensor->offset = snapshot.bytes;
        tensor->bytes = (size_t)(tensor->rows * tensor->columns) * dtype_bytes(tensor->dtype);
        snapshot.bytes += tensor->bytes;
    }
    return snapshot;
}

#endif

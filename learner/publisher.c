#include "learner/publisher.h"

#include <stdio.h>
#include <string.h>

#include "infra/base/memory.h"

void snapshot_of_model(const struct model *model, int64_t version, struct snapshot *snapshot)
{
    enum dtype dtype = model_dtype(model);
    int32_t count = model_tensor_count(model);
    *snapshot = (struct snapshot){.version = version, .tensor_count = count};
    snapshot->tensors = MEMORY_ARRAY(struct snapshot_tensor, count);
    for (int32_t i = 0; i < count; i++) {
        const struct model_tensor *tensor = model_tensor_at(model, i);
        struct snapshot_tensor *entry = &snapshot->tensors[i];
        snprintf(entry->name, sizeof entry->name, "%s", tensor->name);
        entry->dtype = dtype;
        entry->rows = tensor->rows;
        entry->columns = tensor->columns;
        entry->offset = snapshot->bytes;
        entry->bytes = (size_t)tensor->count * dtype_bytes(dtype);
        snapshot->bytes += entry->bytes;
    }
    snapshot->data = MEMORY_ARRAY(unsigned char, snapshot->bytes);
    for (int32_t i = 0; i < count; i++)
        memcpy(snapshot->data + snapshot->tensors[i].offset, model_tensor_values(model, i),
               snapshot->tensors[i].bytes);
}

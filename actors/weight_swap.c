#include "actors/weight_swap.h"

#include <string.h>

#include "infra/base/error.h"
#include "infra/base/hash.h"

static int check_tensors(const struct model *model, const struct snapshot *snapshot)
{
    int32_t count = model_tensor_count(model);
    if (snapshot->tensor_count != count)
        return error_set(HONE_EINVAL, "weights v%lld have %d tensors, this model %d",
                         (long long)snapshot->version, snapshot->tensor_count, count);
    for (int32_t i = 0; i < count; i++) {
        const struct model_tensor *own = model_tensor_at(model, i);
        const struct snapshot_tensor *sent = &snapshot->tensors[i];
        if (strcmp(own->name, sent->name) != 0 || own->rows != sent->rows ||
            own->columns != sent->columns)
            return error_set(HONE_EINVAL,
                             "weights v%lld: tensor %d is %s [%lld, %lld], this model's is %s "
                             "[%lld, %lld]",
                             (long long)snapshot->version, i, sent->name, (long long)sent->rows,
                             (long long)sent->columns, own->name, (long long)own->rows,
                             (long long)own->columns);
        if (sent->dtype != model_dtype(model))
            return error_set(HONE_EINVAL, "weights v%lld: %s is %s, this model computes in %s",
                             (long long)snapshot->version, sent->name, dtype_name(sent->dtype),
                             dtype_name(model_dtype(model)));
        if (sent->bytes != (size_t)own->count * dtype_bytes(sent->dtype) ||
            sent->offset > snapshot->bytes || sent->bytes > snapshot->bytes - sent->offset)
            return error_set(HONE_EINVAL, "weights v%lld: %s has %zu bytes at %zu of %zu",
                             (long long)snapshot->version, sent->name, sent->bytes, sent->offset,
                             snapshot->bytes);
    }
    return 0;
}

int weight_swap(struct model *model, const struct snapshot *snapshot)
{
    int rc = check_tensors(model, snapshot);
    if (rc < 0)
        return rc;
    struct hash_state state;
    struct hash expected;
    struct hash held;
    hash_begin(&state);
    for (int32_t i = 0; i < snapshot->tensor_count; i++) {
        const struct snapshot_tensor *sent = &snapshot->tensors[i];
        model_set_tensor(model, i, sent->dtype, snapshot->data + sent->offset);
        hash_update(&state, snapshot->data + sent->offset, sent->bytes);
    }
    hash_end(&state, &expected);
    model_finish(model);
    model_hash(model, &held);
    if (memcmp(&held, &expected, sizeof held) != 0)
        return error_set(HONE_ECORRUPT,
                         "weights v%lld: the model holds other values than were sent",
                         (long long)snapshot->version);
    return 0;
}

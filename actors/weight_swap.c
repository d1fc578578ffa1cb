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

/* The parts that were verified are exactly those that a forward reads. */
static int check_image(const struct model *model, const struct snapshot *snapshot)
{
    int32_t count = model_image_part_count(model);
    bool same =
        snapshot->image_bytes == model_image_bytes(model_config_of(model), model_dtype(model)) &&
        snapshot->part_count == count;
    for (int32_t i = 0; same && i < count; i++) {
        struct model_image_part own = model_image_part_at(model, i);
        same = snapshot->parts[i].offset == (int64_t)own.offset &&
               snapshot->parts[i].bytes == (int64_t)own.bytes;
    }
    return same ? 0
                : error_set(HONE_EINVAL,
                            "weights v%lld: an image of %zu bytes in %d parts is not laid out as "
                            "this model's",
                            (long long)snapshot->version, snapshot->image_bytes,
                            snapshot->part_count);
}

static int check_held(const struct model *model, const struct snapshot *snapshot)
{
    for (int32_t i = 0; i < snapshot->tensor_count; i++) {
        const struct snapshot_tensor *sent = &snapshot->tensors[i];
        struct checksum held, expected = sent->checksum;
        checksum_of(model_tensor_values(model, i), sent->bytes, &held);
        if (!snapshot->summed)
            checksum_of(snapshot->data + sent->offset, sent->bytes, &expected);
        if (memcmp(&held, &expected, sizeof held) != 0)
            return error_set(HONE_ECORRUPT,
                             "weights v%lld: the model holds other values of %s than were sent",
                             (long long)snapshot->version, sent->name);
    }
    return 0;
}

int weight_swap(struct model *model, const struct snapshot *snapshot)
{
    int rc = snapshot->image ? check_image(model, snapshot) : check_tensors(model, snapshot);
    if (rc < 0)
        return rc;
    if (snapshot->image) {
        model_adopt(model, snapshot->image);
        return 0;
    }
    model_adopt(model, NULL);
    for (int32_t i = 0; i < snapshot->tensor_count; i++) {
        const struct snapshot_tensor *sent = &snapshot->tensors[i];
        model_set_tensor(model, i, sent->dtype, snapshot->data + sent->offset);
    }
    model_finish(model);
    return check_held(model, snapshot);
}

void weight_swap_leave(struct model *model)
{
    model_adopt(model, NULL);
}

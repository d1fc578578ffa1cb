#include "infra/train/adapter_snapshot.h"

#include <stdio.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"

#define BASE_NAME "base"

void adapter_base_hash(const float *base, int64_t parameters, struct hash *hash)
{
    hash_sha256(base, (size_t)parameters * sizeof *base, hash);
}

static const char *tensor_at(const struct model *model, int64_t offset)
{
    for (int32_t i = 0; i < model_tensor_count(model); i++)
        if (model_tensor_at(model, i)->offset == offset)
            return model_tensor_at(model, i)->name;
    return "";
}

static void describe(struct snapshot *snapshot, const char *name, const char *part, int64_t rows,
                     int64_t columns)
{
    struct snapshot_tensor *tensor = &snapshot->tensors[snapshot->tensor_count++];
    *tensor = (struct snapshot_tensor){.dtype = DTYPE_F32,
                                       .rows = rows,
                                       .columns = columns,
                                       .offset = snapshot->bytes,
                                       .bytes = (size_t)(rows * columns) * sizeof(float)};
    snprintf(tensor->name, sizeof tensor->name, "%.80s%s", name, part);
    snapshot->bytes += tensor->bytes;
}

/* In the order in which the adapters' values lie, the base last. */
static void describe_all(const struct lora *lora, const struct model *model, int64_t version,
                         struct snapshot *snapshot)
{
    int64_t rank = lora->options.rank;
    *snapshot = (struct snapshot){.version = version};
    snapshot->tensors = MEMORY_ARRAY(struct snapshot_tensor, 2 * lora->matrix_count + 1);
    for (int32_t i = 0; i < lora->matrix_count; i++) {
        const struct lora_matrix *matrix = &lora->matrices[i];
        const char *name = tensor_at(model, matrix->offset);
        describe(snapshot, name, ".lora_A", rank, matrix->columns);
        describe(snapshot, name, ".lora_B", matrix->rows, rank);
    }
    describe(snapshot, BASE_NAME, "", 1, (int64_t)(sizeof(struct hash) / sizeof(float)));
}

void adapter_snapshot_fill(const struct lora *lora, const struct model *model,
                           const struct hash *base, int64_t version, struct snapshot *snapshot)
{
    size_t bytes = (size_t)lora->count * sizeof(float);
    describe_all(lora, model, version, snapshot);
    snapshot->data = MEMORY_ARRAY(unsigned char, snapshot->bytes);
    memcpy(snapshot->data, lora->values, bytes);
    memcpy(snapshot->data + bytes, base, sizeof *base);
}

static int check(const struct snapshot *expected, const struct snapshot *sent)
{
    if (sent->tensor_count != expected->tensor_count || sent->bytes != expected->bytes)
        return error_set(HONE_EINVAL, "weights v%lld: %d tensors of adapters, here %d",
                         (long long)sent->version, sent->tensor_count, expected->tensor_count);
    for (int32_t i = 0; i < expected->tensor_count; i++) {
        const struct snapshot_tensor *own = &expected->tensors[i], *other = &sent->tensors[i];
        if (strcmp(own->name, other->name) != 0 || own->rows != other->rows ||
            own->columns != other->columns || own->dtype != other->dtype ||
            own->offset != other->offset)
            return error_set(HONE_EINVAL,
                             "weights v%lld: tensor %d is %s [%lld, %lld], here %s [%lld, %lld]",
                             (long long)sent->version, i, other->name, (long long)other->rows,
                             (long long)other->columns, own->name, (long long)own->rows,
                             (long long)own->columns);
    }
    return 0;
}

int adapter_snapshot_read(struct lora *lora, const struct model *model, const struct hash *base,
                          const struct snapshot *snapshot)
{
    struct snapshot expected;
    size_t bytes = (size_t)lora->count * sizeof(float);
    describe_all(lora, model, snapshot->version, &expected);
    int rc = check(&expected, snapshot);
    snapshot_release(&expected);
    if (rc < 0)
        return rc;
    if (memcmp(snapshot->data + bytes, base, sizeof *base) != 0)
        return error_set(HONE_EINVAL,
                         "weights v%lld: adapters of another base model than the one here",
                         (long long)snapshot->version);
    memcpy(lora->values, snapshot->data, bytes);
    return 0;
}

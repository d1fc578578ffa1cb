#include "infra/compute/dtype.h"

#include "infra/base/assert.h"

struct dtype_info {
    size_t bytes;
    const char *name;
    const char *safetensors_name;
};

static const struct dtype_info infos[] = {
    [DTYPE_F32] = {4, "float32", "F32"}, [DTYPE_BF16] = {2, "bfloat16", "BF16"},
    [DTYPE_F16] = {2, "float16", "F16"}, [DTYPE_I32] = {4, "int32", "I32"},
    [DTYPE_I64] = {8, "int64", "I64"},   [DTYPE_U8] = {1, "uint8", "U8"},
};

static const struct dtype_info *info_of(enum dtype dtype)
{
    HONE_ASSERT((size_t)dtype < sizeof infos / sizeof infos[0]);
    return &infos[dtype];
}

size_t dtype_bytes(enum dtype dtype)
{
    return info_of(dtype)->bytes;
}

const char *dtype_name(enum dtype dtype)
{
    return info_of(dtype)->name;
}

const char *dtype_safetensors_name(enum dtype dtype)
{
    return info_of(dtype)->safetensors_name;
}

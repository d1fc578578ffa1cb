/* Deltas. The first byte says what follows: even, what a frame would hold (so that the parser is
 * reached and not only zstd); odd, a frame. What is accepted changes the base into values that a
 * delta of our own leads to as well. */
#include <stdint.h>
#include <string.h>
#include <zstd.h>

#include "infra/base/assert.h"
#include "infra/base/memory.h"
#include "infra/wire/weight_delta.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { TENSORS = 4 };

static void base_version(struct snapshot *snapshot, struct snapshot_tensor tensors[TENSORS],
                         unsigned char *data)
{
    static const enum dtype dtypes[TENSORS] = {DTYPE_BF16, DTYPE_F32, DTYPE_U8, DTYPE_BF16};
    *snapshot = (struct snapshot){.tensor_count = TENSORS, .tensors = tensors, .data = data};
    for (int i = 0; i < TENSORS; i++) {
        tensors[i] = (struct snapshot_tensor){.name = "t",
                                              .dtype = dtypes[i],
                                              .rows = 2,
                                              .columns = 40 + i,
                                              .offset = snapshot->bytes};
        tensors[i].bytes = (size_t)(80 + 2 * i) * dtype_bytes(dtypes[i]);
        snapshot->bytes += tensors[i].bytes;
    }
    for (size_t i = 0; i < snapshot->bytes; i++)
        data[i] = (unsigned char)(i * 37);
}

static void expect_same_from_own(const struct snapshot *base, const struct snapshot *result)
{
    unsigned char data[1024];
    struct snapshot again = *base;
    struct weight_delta delta;
    memcpy(data, base->data, base->bytes);
    again.data = data;
    if (weight_delta_encode(base->data, result, 4096, &delta) == 0)
        return; /* too many changes for a raw size that is allowed */
    HONE_ASSERT(weight_delta_apply(&again, delta.data, delta.bytes, delta.raw_bytes) == 0);
    HONE_ASSERT(memcmp(again.data, result->data, result->bytes) == 0);
    weight_delta_release(&delta);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct snapshot base, result;
    struct snapshot_tensor base_tensors[TENSORS], result_tensors[TENSORS];
    unsigned char base_data[1024], result_data[1024];
    base_version(&base, base_tensors, base_data);
    base_version(&result, result_tensors, result_data);
    if (bytes < 3)
        return 0;
    int rc;
    if (data[0] % 2 == 0) {
        size_t bound = ZSTD_compressBound(bytes - 1);
        unsigned char *frame = memory_alloc(bound, 1);
        size_t length = ZSTD_compress(frame, bound, data + 1, bytes - 1, 1);
        HONE_ASSERT(!ZSTD_isError(length));
        rc = weight_delta_apply(&result, frame, length, bytes - 1);
        memory_free(frame);
    } else {
        size_t raw_bytes = (size_t)data[1] + 256 * (size_t)data[2];
        rc = weight_delta_apply(&result, data + 3, bytes - 3, raw_bytes);
    }
    if (rc == 0)
        expect_same_from_own(&base, &result);
    return 0;
}

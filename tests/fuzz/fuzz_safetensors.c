/* safetensors files: an accepted one's tensors have the bytes their shape says, tile the file up to
 * its end (S5, S6) and can be found by name. */
#include "infra/model/safetensors.h"
#include "tests/fuzz/input_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static volatile unsigned sum; /* so that reading the data is not optimised away */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct safetensors *file = NULL;
    if (safetensors_open(&file, input_file(data, bytes)) < 0) {
        HONE_ASSERT(file == NULL);
        return 0;
    }
    size_t total = 0;
    for (int32_t i = 0; i < safetensors_count(file); i++) {
        const struct safetensor *tensor = safetensors_at(file, i);
        int64_t count = 1;
        HONE_ASSERT(tensor->rank >= 0 && tensor->rank <= SAFETENSORS_RANK_MAX);
        for (int32_t d = 0; d < tensor->rank; d++)
            count *= tensor->shape[d];
        HONE_ASSERT(count == tensor->count);
        HONE_ASSERT(tensor->bytes == (size_t)count * dtype_bytes(tensor->dtype));
        HONE_ASSERT(safetensors_find(file, tensor->name) == tensor);
        const unsigned char *content = tensor->data;
        for (size_t b = 0; b < tensor->bytes; b++)
            sum += content[b];
        total += tensor->bytes;
    }
    uint64_t header = 0;
    for (int i = 7; i >= 0; i--)
        header = header << 8 | data[i];
    HONE_ASSERT(8 + header + total == bytes);
    (void)safetensors_metadata(file, "format");
    safetensors_close(file);
    return 0;
}

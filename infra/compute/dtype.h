/* Element types of tensors and the two compute modes. */
#ifndef HONE_COMPUTE_DTYPE_H
#define HONE_COMPUTE_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_I32, DTYPE_I64, DTYPE_U8 };

typedef uint16_t bf16; /* the upper half of an fp32 */

static inline float bf16_to_f32(bf16 value)
{
    uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

/* Round to nearest even; NaN stays NaN (quiet). Denormals are kept: only arithmetic flushes them.
 */
static inline bf16 bf16_from_f32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (bf16)((bits >> 16) | 0x0040u);
    bits += 0x7fffu + ((bits >> 16) & 1u);
    return (bf16)(bits >> 16);
}

size_t dtype_bytes(enum dtype dtype);
const char *dtype_name(enum dtype dtype);             /* "float32", "bfloat16", ... */
const char *dtype_safetensors_name(enum dtype dtype); /* "F32", "BF16", ... */

#endif

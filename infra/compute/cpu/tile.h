/* The AMX tile instructions that gemm_amx.c uses, as macros over constant tile numbers.
 *
 * HONE_TILE_EMULATION (tests) replaces them by exact C: TDPBF16PS per element runs an even-k and an
 * odd-k fp32 FMA chain from +0 over the 16 pairs, adds them, and adds the sum to C, with denormals
 * as zero. The emulation keeps one register file per translation unit: one thread at a time. */
#ifndef HONE_COMPUTE_CPU_TILE_H
#define HONE_COMPUTE_CPU_TILE_H

#include <stdint.h>
#include <string.h>

#include "infra/compute/dtype.h"

#define TILE_ROWS      16
#define TILE_ROW_BYTES 64

/* The 64-byte operand of LDTILECFG, palette 1. */
struct tile_config {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

#if defined(HONE_TILE_EMULATION)

#include <math.h>

struct tile_file {
    struct tile_config config;
    unsigned char data[8][TILE_ROWS][TILE_ROW_BYTES];
};

static struct tile_file tile_file;

static inline void tile_emulate_load(int tile, const void *base, int64_t stride)
{
    for (int row = 0; row < tile_file.config.rows[tile]; row++)
        memcpy(tile_file.data[tile][row], (const char *)base + row * stride, TILE_ROW_BYTES);
}

static inline void tile_emulate_store(int tile, void *base, int64_t stride)
{
    for (int row = 0; row < tile_file.config.rows[tile]; row++)
        memcpy((char *)base + row * stride, tile_file.data[tile][row], TILE_ROW_BYTES);
}

static inline float tile_emulate_dot(const bf16 *a, const unsigned char b[TILE_ROWS][64],
                                     int column)
{
    float even = 0.0f, odd = 0.0f;
    for (int pair = 0; pair < TILE_ROWS; pair++) {
        bf16 values[2];
        memcpy(values, b[pair] + 4 * column, sizeof values);
        even = fmaf(bf16_to_f32(a[2 * pair]), bf16_to_f32(values[0]), even);
        odd = fmaf(bf16_to_f32(a[2 * pair + 1]), bf16_to_f32(values[1]), odd);
    }
    return even + odd;
}

static inline void tile_emulate_dp(int c, int a, int b)
{
    for (int row = 0; row < tile_file.config.rows[c]; row++) {
        float sums[16];
        bf16 values[32];
        memcpy(sums, tile_file.data[c][row], sizeof sums);
        memcpy(values, tile_file.data[a][row], sizeof values);
        for (int column = 0; column < 16; column++)
            sums[column] += tile_emulate_dot(values, tile_file.data[b], column);
        memcpy(tile_file.data[c][row], sums, sizeof sums);
    }
}

#define TILE_CONFIGURE(config_pointer) (tile_file.config = *(config_pointer))
#define TILE_RELEASE()                 memset(&tile_file, 0, sizeof tile_file)
#define TILE_ZERO(tile)                memset(tile_file.data[tile], 0, sizeof tile_file.data[tile])
#define TILE_LOAD(tile, base, stride)  tile_emulate_load(tile, base, stride)
#define TILE_LOAD_STREAM               TILE_LOAD
#define TILE_STORE(tile, base, stride) tile_emulate_store(tile, base, stride)
#define TILE_DP_BF16(c, a, b)          tile_emulate_dp(c, a, b)

#else

/* Assembly rather than intrinsics: the compiler's intrinsics do not say that they touch memory, and
 * stores to a local configuration are then dropped. */
#define TILE_CONFIGURE(config_pointer)                                                             \
    __asm__ volatile("ldtilecfg %0" : : "m"(*(config_pointer)) : "memory")
#define TILE_RELEASE()  __asm__ volatile("tilerelease" : : : "memory")
#define TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile : : : "memory")
#define TILE_LOAD(tile, base, stride)                                                              \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile                                            \
                     :                                                                             \
                     : "r"((const void *)(base)), "r"((int64_t)(stride))                           \
                     : "memory")
/* The same for what is not read again soon: it stays out of the first-level cache. */
#define TILE_LOAD_STREAM(tile, base, stride)                                                       \
    __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm" #tile                                          \
                     :                                                                             \
                     : "r"((const void *)(base)), "r"((int64_t)(stride))                           \
                     : "memory")
#define TILE_STORE(tile, base, stride)                                                             \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)"                                        \
                     :                                                                             \
                     : "r"((void *)(base)), "r"((int64_t)(stride))                                 \
                     : "memory")
#define TILE_DP_BF16(c, a, b)                                                                      \
    __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : : "memory")

#endif

#endif

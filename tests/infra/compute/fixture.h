/* What the tests of infra/compute share: reproducible inputs, comparison, and a walk over the
 * tables that this machine can run. Static functions; include after cmocka. */
#ifndef HONE_TESTS_COMPUTE_FIXTURE_H
#define HONE_TESTS_COMPUTE_FIXTURE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/compute/ops.h"

/* Uniform in [-spread, spread). */
static inline void fill(float *x, int64_t count, uint64_t seed, float spread)
{
    struct rng_key key = {.seed = seed, .purpose = RNG_SIM};
    for (int64_t i = 0; i < count; i++)
        x[i] = (rng_uniform(&key, (uint64_t)i) * 2.0f - 1.0f) * spread;
}

static inline float *floats(int64_t count, uint64_t seed, float spread)
{
    float *x = MEMORY_ARRAY(float, count);
    fill(x, count, seed, spread);
    return x;
}

/* The same values as an array of `dtype` (bf16: rounded); free with memory_free. */
static inline void *as_act(enum dtype dtype, const float *x, int64_t count)
{
    if (dtype == DTYPE_F32)
        return memory_dup(x, (size_t)count * sizeof *x);
    bf16 *rounded = MEMORY_ARRAY(bf16, count);
    for (int64_t i = 0; i < count; i++)
        rounded[i] = bf16_from_f32(x[i]);
    return rounded;
}

static inline float act_at(enum dtype dtype, const void *x, int64_t index)
{
    return dtype == DTYPE_F32 ? ((const float *)x)[index] : bf16_to_f32(((const bf16 *)x)[index]);
}

static inline float rounded_to(enum dtype dtype, float x)
{
    return dtype == DTYPE_F32 ? x : bf16_to_f32(bf16_from_f32(x));
}

/* |got - want| <= tolerance * (1 + |want|) */
static inline void assert_near(double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance * (1.0 + fabs(want))))
        fail_msg("got %.9g, want %.9g, tolerance %g", got, want, tolerance);
}

static inline void assert_all_near(const float *got, const double *want, int64_t count,
                                   double tolerance)
{
    for (int64_t i = 0; i < count; i++)
        if (!(fabs((double)got[i] - want[i]) <= tolerance * (1.0 + fabs(want[i]))))
            fail_msg("element %lld: got %.9g, want %.9g", (long long)i, (double)got[i], want[i]);
}

static inline void assert_same_bits(const void *a, const void *b, int64_t count, size_t size)
{
    const unsigned char *x = a, *y = b;
    for (int64_t i = 0; i < count; i++)
        if (memcmp(x + (size_t)i * size, y + (size_t)i * size, size) != 0)
            fail_msg("element %lld of %lld differs", (long long)i, (long long)count);
}

/* Runs test(ops) for every table of this machine. */
static inline void for_each_table(void (*test)(const struct backend_ops *ops))
{
    compute_thread_init();
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++)
        if (cpu_isa_available((enum cpu_isa)isa))
            test(backend_cpu((enum cpu_isa)isa));
}

#endif

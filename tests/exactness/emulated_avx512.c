/* The AVX-512 kernels as a whole table, run through SIMDe. */
#include "tests/exactness/exact_tables.h"

#include "tests/infra/compute/avx512_emulation.h"

#if HONE_AVX512_EMULATED

#include "infra/compute/cpu/table.h"

static const struct backend_ops emulated = BACKEND_TABLE("avx512 (emulated)");

const struct backend_ops *exact_table_avx512(void)
{
    return &emulated;
}

#else

const struct backend_ops *exact_table_avx512(void)
{
    return NULL;
}

#endif

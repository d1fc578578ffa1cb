#include "infra/compute/cpu/tables.h"

#include "infra/compute/cpu/table.h"

const struct backend_ops table_avx512 = BACKEND_TABLE("avx512");

double peak_avx512(int64_t steps, float *sink)
{
    return fma_chains(steps, sink);
}

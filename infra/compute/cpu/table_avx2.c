#include "infra/compute/cpu/tables.h"

#include "infra/compute/cpu/table.h"

const struct backend_ops table_avx2 = BACKEND_TABLE("avx2");

double peak_avx2(int64_t steps, float *sink)
{
    return fma_chains(steps, sink);
}

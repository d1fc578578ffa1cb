#include "infra/compute/cpu/tables.h"

#include "infra/compute/cpu/table.h"

const struct backend_ops table_scalar = BACKEND_TABLE("scalar");

double peak_scalar(int64_t steps, float *sink)
{
    return fma_chains(steps, sink);
}

#include "infra/compute/cpu/tables.h"

#include "infra/compute/bench/probes.h"
#include "infra/compute/cpu/table.h"

const struct backend_ops table_scalar = BACKEND_TABLE("scalar");
const struct cpu_probes probes_scalar = CPU_PROBES;

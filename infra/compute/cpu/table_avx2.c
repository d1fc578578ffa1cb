#include "infra/compute/cpu/tables.h"

#include "infra/compute/bench/probes.h"
#include "infra/compute/cpu/table.h"

const struct backend_ops table_avx2 = BACKEND_TABLE("avx2");
const struct cpu_probes probes_avx2 = CPU_PROBES;

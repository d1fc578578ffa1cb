#include "infra/compute/cpu/tables.h"

#include "infra/compute/bench/probes.h"
#include "infra/compute/cpu/table.h"

const struct backend_ops table_avx512 = BACKEND_TABLE("avx512");
const struct cpu_probes probes_avx512 = CPU_PROBES;

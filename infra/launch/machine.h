/* What this machine can do, for `hone doctor`. Plain data. */
#ifndef HONE_LAUNCH_MACHINE_H
#define HONE_LAUNCH_MACHINE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "infra/compute/ops.h"

struct machine {
    char cpu_model[128];
    char cpus[256]; /* that this process may use: "0-3" */
    int cpu_count;
    int64_t memory_total_bytes, memory_available_bytes;
    bool isa[CPU_ISA_COUNT];
    char isa_selected[32]; /* what would be used; "" with the reason in isa_problem */
    char isa_problem[256];
    int cuda_count;
    char cuda[256];          /* first device, or why there is none */
    bool bubblewrap;         /* bwrap is on PATH */
    bool user_namespaces;    /* an unprivileged sandbox is possible */
    int64_t disk_free_bytes; /* of the current directory */
    int64_t open_files_max;
};

void machine_describe(struct machine *machine);
void machine_print(const struct machine *machine, FILE *out);

#endif

#include "infra/launch/machine.h"

#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/compute/cuda/device.h"
#include "infra/launch/placement.h"

/* Value of "name : value" in a /proc file, or false. */
static bool proc_value(const char *path, const char *name, char *value, size_t capacity)
{
    char line[512];
    bool found = false;
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return false;
    while (!found && fgets(line, sizeof line, file) != NULL) {
        char *colon = strchr(line, ':');
        if (colon == NULL || strncmp(line, name, strlen(name)) != 0)
            continue;
        colon += 1 + strspn(colon + 1, " \t");
        colon[strcspn(colon, "\n")] = '\0';
        snprintf(value, capacity, "%s", colon);
        found = true;
    }
    fclose(file);
    return found;
}

static int64_t meminfo_bytes(const char *name)
{
    char value[64];
    return proc_value("/proc/meminfo", name, value, sizeof value) ? strtoll(value, NULL, 10) * 1024
                                                                  : -1;
}

static bool on_path(const char *program)
{
    const char *path = getenv("PATH");
    char candidate[HONE_PATH_MAX];
    while (path != NULL && *path != '\0') {
        size_t length = strcspn(path, ":");
        snprintf(candidate, sizeof candidate, "%.*s/%s", (int)length, path, program);
        if (access(candidate, X_OK) == 0)
            return true;
        path += length + (path[length] == ':');
    }
    return false;
}

/* Whether the kernel lets this user make user namespaces: the two switches distributions have. */
static bool may_make_user_namespaces(void)
{
    static const char *const switches[] = {"/proc/sys/user/max_user_namespaces",
                                           "/proc/sys/kernel/unprivileged_userns_clone"};
    if (!file_exists("/proc/self/ns/user"))
        return false;
    for (size_t i = 0; i < sizeof switches / sizeof switches[0]; ++i) {
        char value[32] = "1";
        FILE *file = fopen(switches[i], "r");
        if (file == NULL)
            continue;
        if (fgets(value, sizeof value, file) == NULL)
            value[0] = '\0';
        fclose(file);
        if (strtoll(value, NULL, 10) == 0)
            return false;
    }
    return true;
}

void machine_describe(struct machine *machine)
{
    struct cpu_set_list cpus;
    struct rlimit files;
    const struct backend_ops *ops;
    memset(machine, 0, sizeof *machine);
    if (!proc_value("/proc/cpuinfo", "model name", machine->cpu_model, sizeof machine->cpu_model))
        snprintf(machine->cpu_model, sizeof machine->cpu_model, "unknown");
    placement_available(&cpus);
    placement_format(&cpus, machine->cpus, sizeof machine->cpus);
    machine->cpu_count = cpus.count;
    machine->memory_total_bytes = meminfo_bytes("MemTotal");
    machine->memory_available_bytes = meminfo_bytes("MemAvailable");
    for (int isa = 0; isa < CPU_ISA_COUNT; ++isa)
        machine->isa[isa] = cpu_isa_available((enum cpu_isa)isa);
    if (backend_select(&ops) == 0)
        snprintf(machine->isa_selected, sizeof machine->isa_selected, "%s", ops->name);
    else
        snprintf(machine->isa_problem, sizeof machine->isa_problem, "%s", error_message());
    machine->cuda_count = cuda_device_count();
    cuda_device_describe(0, machine->cuda, sizeof machine->cuda);
    machine->bubblewrap = on_path("bwrap");
    machine->user_namespaces = may_make_user_namespaces();
    machine->disk_free_bytes = file_free_bytes(".");
    machine->open_files_max = getrlimit(RLIMIT_NOFILE, &files) == 0 ? (int64_t)files.rlim_cur : -1;
}

static double gib(int64_t bytes)
{
    return (double)bytes / (double)(1 << 30);
}

void machine_print(const struct machine *machine, FILE *out)
{
    fprintf(out, "%-14s hone %s\n", "version", HONE_VERSION);
    fprintf(out, "%-14s %s\n", "cpu", machine->cpu_model);
    fprintf(out, "%-14s %s (%d)\n", "cpus", machine->cpus, machine->cpu_count);
    fprintf(out, "%-14s %.1f GiB, %.1f GiB available\n", "memory", gib(machine->memory_total_bytes),
            gib(machine->memory_available_bytes));
    fprintf(out, "%-14s", "instructions");
    for (int isa = 0; isa < CPU_ISA_COUNT; ++isa)
        fprintf(out, " %s %s%s", cpu_isa_name((enum cpu_isa)isa), machine->isa[isa] ? "yes" : "no",
                isa + 1 < CPU_ISA_COUNT ? "," : "");
    fprintf(out, "\n%-14s %s\n", "compute path",
            machine->isa_selected[0] != '\0' ? machine->isa_selected : machine->isa_problem);
    fprintf(out, "%-14s %d device%s: %s\n", "cuda", machine->cuda_count,
            machine->cuda_count == 1 ? "" : "s", machine->cuda);
    fprintf(out, "%-14s bubblewrap %s, user namespaces %s\n", "sandbox",
            machine->bubblewrap ? "yes" : "no", machine->user_namespaces ? "yes" : "no");
    fprintf(out, "%-14s %.1f GiB free here\n", "disk", gib(machine->disk_free_bytes));
    fprintf(out, "%-14s %lld\n", "open files", (long long)machine->open_files_max);
}

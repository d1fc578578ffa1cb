#include "infra/launch/placement.h"

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/compute/cuda/device.h"

static void list_add(bool wanted[PLACEMENT_CPUS_MAX], long first, long last)
{
    for (long cpu = first; cpu <= last; ++cpu)
        wanted[cpu] = true;
}

static void list_from(struct cpu_set_list *list, const bool wanted[PLACEMENT_CPUS_MAX])
{
    list->count = 0;
    for (int32_t cpu = 0; cpu < PLACEMENT_CPUS_MAX; ++cpu)
        if (wanted[cpu])
            list->cpus[list->count++] = cpu;
}

/* Parses "0-3,5" after "cpu:". */
static int parse_cpus(bool wanted[PLACEMENT_CPUS_MAX], const char *device)
{
    const char *text = device + strlen("cpu:");
    do {
        char *end;
        long first = strtol(text, &end, 10), last = first;
        if (end == text)
            break;
        if (*end == '-') {
            text = end + 1;
            last = strtol(text, &end, 10);
            if (end == text)
                break;
        }
        if (first < 0 || last < first || last >= PLACEMENT_CPUS_MAX)
            return error_set(HONE_EINVAL, "device '%s': cpu numbers are 0 to %d, ascending", device,
                             PLACEMENT_CPUS_MAX - 1);
        list_add(wanted, first, last);
        if (*end == '\0')
            return 0;
        text = end + 1;
        if (*end != ',')
            break;
    } while (true);
    return error_set(HONE_EINVAL, "device '%s': expected cpu:N, cpu:N-M or a list cpu:0,2", device);
}

int placement_parse(struct cpu_set_list *list, const char *const *devices, int device_count)
{
    bool wanted[PLACEMENT_CPUS_MAX] = {false};
    for (int i = 0; i < device_count; ++i) {
        const char *device = devices[i];
        if (strncmp(device, "cuda:", 5) == 0)
            return error_set(
                HONE_EUNSUPPORTED,
                "device '%s': %d CUDA device%s here, and this version of hone trains and "
                "generates on cpus only: use cpu:N-M",
                device, cuda_device_count(), cuda_device_count() == 1 ? "" : "s");
        if (strncmp(device, "cpu:", 4) != 0)
            return error_set(HONE_EINVAL, "device '%s': expected cpu:N-M or cuda:N", device);
        int rc = parse_cpus(wanted, device);
        if (rc < 0)
            return rc;
    }
    list_from(list, wanted);
    return 0;
}

void placement_available(struct cpu_set_list *list)
{
    bool wanted[PLACEMENT_CPUS_MAX] = {false};
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) < 0)
        CPU_SET(0, &set);
    for (int cpu = 0; cpu < PLACEMENT_CPUS_MAX && cpu < CPU_SETSIZE; ++cpu)
        wanted[cpu] = CPU_ISSET(cpu, &set);
    list_from(list, wanted);
}

int placement_pin(const struct cpu_set_list *list)
{
    char text[256];
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int32_t i = 0; i < list->count; ++i)
        CPU_SET(list->cpus[i], &set);
    placement_format(list, text, sizeof text);
    if (list->count == 0)
        return error_set(HONE_EINVAL, "pinning: no cpu given");
    /* EINVAL: none of them exists or is allowed. */
    bool refused = sched_setaffinity(0, sizeof set, &set) < 0;
    if (refused && errno != EINVAL)
        return error_errno("pinning to cpu %s", text);
    /* The kernel drops cpus that do not exist or are not allowed; a worker must not run on fewer
     * than it was promised without a word. */
    struct cpu_set_list granted;
    placement_available(&granted);
    if (refused || granted.count != list->count) {
        char available[256];
        placement_format(&granted, available, sizeof available);
        return error_set(HONE_EINVAL, "pinning to cpu %s: this process may only use cpu %s", text,
                         available);
    }
    return 0;
}

void placement_format(const struct cpu_set_list *list, char *buffer, int capacity)
{
    int length = 0;
    buffer[0] = '\0';
    for (int32_t i = 0; i < list->count && length < capacity; ++i) {
        int32_t first = list->cpus[i];
        while (i + 1 < list->count && list->cpus[i + 1] == list->cpus[i] + 1)
            ++i;
        const char *comma = length > 0 ? "," : "";
        if (list->cpus[i] == first)
            length += snprintf(buffer + length, (size_t)(capacity - length), "%s%d", comma, first);
        else
            length += snprintf(buffer + length, (size_t)(capacity - length), "%s%d-%d", comma,
                               first, list->cpus[i]);
    }
}

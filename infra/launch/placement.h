/* Devices of a pool: parsing "cpu:0-3", "cpu:0,2", "cuda:0"; defaults from the machine; pinning. */
#ifndef HONE_LAUNCH_PLACEMENT_H
#define HONE_LAUNCH_PLACEMENT_H

#include <stdint.h>

#define PLACEMENT_CPUS_MAX 1024

struct cpu_set_list {
    int32_t count;
    int32_t cpus[PLACEMENT_CPUS_MAX]; /* ascending, no duplicates */
};

/* Parses device strings; cuda devices in a build or on a machine without CUDA are an error that
 * says so. */
int placement_parse(struct cpu_set_list *list, const char *const *devices, int device_count);
/* Cpus this process may run on. */
void placement_available(struct cpu_set_list *list);
/* Pins the calling process (all threads started later inherit). Cpus outside the machine: an error.
 */
int placement_pin(const struct cpu_set_list *list);
/* "0-3,7" */
void placement_format(const struct cpu_set_list *list, char *buffer, int capacity);

#endif

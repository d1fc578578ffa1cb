/* One simulated run from one seed: which roles, which faults, when, how slow the network is. The
 * same seed is the same run, event by event. A broken promise fails the test on the spot. */
#ifndef HONE_TESTS_SIM_H
#define HONE_TESTS_SIM_H

#include <stdbool.h>
#include <stdint.h>

struct sim_options {
    uint64_t seed;
    bool trace;   /* keep the last events */
    bool no_sync; /* a control: power cuts take what was not synced */
};

struct sim_report {
    uint64_t digest;
    int64_t ticks, messages, worker_deaths, hub_deaths, deaths_in_ticks, power_cuts, cuts, stalls;
    int64_t disk_failures, refusals, duplicates, stale_drops, batches;
};

/* Adds to the report; digest is this run's. */
void sim_run(const struct sim_options *options, struct sim_report *report);

#endif

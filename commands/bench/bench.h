/* `hone bench KIND`: one table of kinds, one context that they share. A kind prints its own table
 * to stdout and adds its figures to `json`, which --json writes. The ceilings are measured first,
 * so that everything a kind prints is held against the same minute of the same machine. */
#ifndef HONE_COMMANDS_BENCH_BENCH_H
#define HONE_COMMANDS_BENCH_BENCH_H

#include <jansson.h>

#include "infra/compute/bench/ceilings.h"
#include "infra/compute/compute.h"
#include "infra/config/command.h"
#include "infra/telemetry/progress.h"

struct bench {
    const struct command_line *line;
    enum dtype dtype;
    enum cpu_isa isa;
    int threads;
    bool quick;
    struct compute compute;
    struct ceilings ceilings;
    json_t *json;
};

int bench_gemm(struct bench *bench); /* kernel_bench.c */
int bench_attention(struct bench *bench);
int bench_decode(struct bench *bench); /* model_bench.c */
int bench_prefill(struct bench *bench);
int bench_train(struct bench *bench);
int bench_rl(struct bench *bench);      /* rl_bench.c */
int bench_weights(struct bench *bench); /* weights_bench.c */

/* Prints and records achieved against possible: "label  rate unit, share of the roofline". */
void bench_report(struct bench *bench, const char *label, double rate, const char *unit,
                  double share);

/* For the progress callbacks of infra/compute/bench; context is a struct progress **. */
void bench_progress(void *context, const char *what, int done, int total);

#endif

/* What this machine can do at most, measured: multiply-adds, tile products, and reading from every
 * level of memory, by one thread and by all of a pool. The other figures of `hone bench` are held
 * against these, so they are measured in the same run. Best of several short windows, since
 * whatever else runs can only slow a window down. */
#ifndef HONE_COMPUTE_BENCH_CEILINGS_H
#define HONE_COMPUTE_BENCH_CEILINGS_H

#include "infra/compute/ops.h"

enum memory_level { LEVEL_L1, LEVEL_L2, LEVEL_L3, LEVEL_MEMORY, LEVEL_COUNT };

/* One thread, and all of them together. */
struct ceiling {
    double one, all;
};

struct ceilings {
    enum cpu_isa isa;
    int threads;
    struct ceiling fma;               /* FLOP/s, fp32, in registers */
    struct ceiling tile, tile_loads;  /* FLOP/s of tile products, without and with loads; 0: none */
    struct ceiling read[LEVEL_COUNT]; /* bytes/s */
    int64_t level_bytes[LEVEL_COUNT]; /* caches: size; memory: what was read */
};

/* Seconds of work that ceilings_measure does, about. */
#define CEILINGS_SECONDS 3

void ceilings_measure(struct ceilings *ceilings, enum cpu_isa isa, struct parallel *pool);
/* Bytes a second that the pool's threads read of this memory, each its part, again and again: the
 * ceiling of whatever reads it, wherever it stays. bytes is rounded down to 512 a thread. */
double ceilings_read(enum cpu_isa isa, struct parallel *pool, const void *memory, int64_t bytes);
const char *memory_level_name(enum memory_level level);

/* FLOP/s that a matmul of this dtype is held against: tile products with their loads, or
 * multiply-adds. */
double ceilings_flops(const struct ceilings *ceilings, enum dtype dtype, bool all);
/* The level that `bytes` read again and again stay in, leaving a quarter of it for the rest. With
 * all threads each has its part in its own inner caches. */
enum memory_level ceilings_level(const struct ceilings *ceilings, int64_t bytes, bool all);
/* The least time for this work: by arithmetic or by reading a level, whichever is longer. */
double ceilings_seconds(const struct ceilings *ceilings, enum dtype dtype, double flops,
                        double bytes, enum memory_level level, bool all);

/* The clock of everything that is timed. One thread: its processor clock, which stands while others
 * have its cpu. Several: the wall's. */
double bench_seconds(int threads);
/* Runs work(context, rounds) in windows of at least `window_s` and gives the shortest time of one
 * round. */
double bench_best_seconds(void (*work)(void *context, int64_t rounds), void *context,
                          double window_s, int threads);

#endif

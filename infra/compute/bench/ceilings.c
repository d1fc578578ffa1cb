#include "infra/compute/bench/ceilings.h"

#include <time.h>
#include <unistd.h>

#include "infra/base/assert.h"
#include "infra/base/memory.h"
#include "infra/compute/cpu/gemm_amx.h"
#include "infra/compute/cpu/tables.h"

#define WINDOW_S         0.004
#define WINDOWS_MIN      3
#define WINDOWS_MAX      15
#define SECONDS_MAX      0.5
#define PROBE_STEPS      1000
#define READ_BYTES       512 /* cpu_probes.read takes multiples of it */
#define L3_READ_MAX      (32ll << 20)
#define MEMORY_READ_MIN  (256ll << 20)
#define MEMORY_READ_MAX  (1ll << 30)
#define L1_BYTES_DEFAULT (32ll << 10)
#define L2_BYTES_DEFAULT (1ll << 20)

static const struct cpu_probes *probes_of(enum cpu_isa isa)
{
    static const struct cpu_probes *const probes[CPU_ISA_COUNT] = {
        [CPU_ISA_SCALAR] = &probes_scalar,
        [CPU_ISA_AVX2] = &probes_avx2,
        [CPU_ISA_AVX512] = &probes_avx512,
        [CPU_ISA_AMX] = &probes_avx512,
    };
    return probes[isa];
}

double bench_seconds(int threads)
{
    struct timespec now;
    clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

double bench_best_seconds(void (*work)(void *context, int64_t rounds), void *context,
                          double window_s, int threads)
{
    double best = 1e30, begin = bench_seconds(threads);
    int64_t rounds = 1;
    for (int window = 0; window < WINDOWS_MAX;) {
        double start = bench_seconds(threads);
        work(context, rounds);
        double end = bench_seconds(threads), seconds = end - start;
        if (seconds < window_s) {
            rounds *= seconds < window_s / 4 ? 4 : 2;
            continue;
        }
        best = seconds / (double)rounds < best ? seconds / (double)rounds : best;
        window++;
        if (window >= WINDOWS_MIN && end - begin > SECONDS_MAX)
            break;
    }
    return best;
}

/* Every thread of the pool runs the probe; sinks keep the results alive. */
struct probe_job {
    struct parallel *pool;
    int threads;
    double (*flops)(int64_t steps, float *sink);
    void (*read)(const void *from, int64_t bytes, int64_t rounds, float *sink);
    const char *memory;
    int64_t thread_bytes;
    int64_t rounds;
    double steps_flops; /* of PROBE_STEPS by one thread */
};

static void run_probe(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    struct probe_job *job = context;
    float sink = 0.0f;
    for (int64_t i = begin; i < end; i++) {
        if (job->read != NULL)
            job->read(job->memory + i * job->thread_bytes, job->thread_bytes, job->rounds, &sink);
        else
            (void)job->flops(job->rounds * PROBE_STEPS, &sink);
    }
    __asm__ volatile("" : : "x"(sink));
}

static void run_probes(void *context, int64_t rounds)
{
    struct probe_job *job = context;
    job->rounds = rounds;
    parallel_for(job->pool, job->threads, 1, run_probe, job);
}

/* Units a second: FLOPs, or bytes. */
static double measure_threads(struct probe_job *job, struct parallel *pool, int threads)
{
    job->pool = pool;
    job->threads = threads;
    double units = job->read != NULL ? (double)job->thread_bytes : job->steps_flops;
    return units * threads / bench_best_seconds(run_probes, job, WINDOW_S, threads);
}

static struct ceiling measure_flops(double (*probe)(int64_t steps, float *sink),
                                    struct parallel *pool)
{
    float sink;
    struct probe_job job = {.flops = probe, .steps_flops = probe(PROBE_STEPS, &sink)};
    int threads = parallel_threads(pool);
    struct ceiling result = {.one = measure_threads(&job, NULL, 1)};
    result.all = threads > 1 ? measure_threads(&job, pool, threads) : result.one;
    return result;
}

/* Threads share the last cache and memory: each reads its part. The inner caches are their own. */
static struct ceiling measure_read(const struct cpu_probes *probes, struct parallel *pool,
                                   const char *memory, int64_t bytes, bool shared)
{
    int threads = parallel_threads(pool);
    struct probe_job job = {.read = probes->read, .memory = memory};
    job.thread_bytes = bytes / READ_BYTES * READ_BYTES;
    struct ceiling result = {.one = measure_threads(&job, NULL, 1)};
    if (shared)
        job.thread_bytes = bytes / threads / READ_BYTES * READ_BYTES;
    result.all = threads > 1 ? measure_threads(&job, pool, threads) : result.one;
    return result;
}

double ceilings_read(enum cpu_isa isa, struct parallel *pool, const void *memory, int64_t bytes)
{
    int threads = parallel_threads(pool);
    struct probe_job job = {.read = probes_of(isa)->read, .memory = memory};
    job.thread_bytes = bytes / threads / READ_BYTES * READ_BYTES;
    HONE_ASSERT(job.thread_bytes > 0);
    return measure_threads(&job, pool, threads);
}

static void cache_sizes(int64_t bytes[LEVEL_COUNT])
{
    static const int names[3] = {_SC_LEVEL1_DCACHE_SIZE, _SC_LEVEL2_CACHE_SIZE,
                                 _SC_LEVEL3_CACHE_SIZE};
    static const int64_t defaults[3] = {L1_BYTES_DEFAULT, L2_BYTES_DEFAULT, 0};
    for (int level = LEVEL_L1; level <= LEVEL_L3; level++) {
        long size = sysconf(names[level]);
        bytes[level] = size > 0 ? size : defaults[level];
    }
    int64_t memory = 4 * bytes[LEVEL_L3];
    memory = memory < MEMORY_READ_MAX ? memory : MEMORY_READ_MAX;
    bytes[LEVEL_MEMORY] = memory > MEMORY_READ_MIN ? memory : MEMORY_READ_MIN;
}

void ceilings_measure(struct ceilings *ceilings, enum cpu_isa isa, struct parallel *pool)
{
    const struct cpu_probes *probes = probes_of(isa);
    int threads = parallel_threads(pool);
    *ceilings = (struct ceilings){.isa = isa, .threads = threads};
    ceilings->fma = measure_flops(probes->fma, pool);
    if (isa == CPU_ISA_AMX) {
        ceilings->tile = measure_flops(peak_amx, pool);
        ceilings->tile_loads = measure_flops(peak_amx_loads, pool);
    }
    cache_sizes(ceilings->level_bytes);
    const int64_t *sizes = ceilings->level_bytes;
    int64_t private_bytes = sizes[LEVEL_L2] * threads;
    size_t mapped =
        (size_t)(private_bytes > sizes[LEVEL_MEMORY] ? private_bytes : sizes[LEVEL_MEMORY]);
    float *memory = memory_map(mapped);
    for (size_t i = 0; i < mapped / sizeof *memory; i++)
        memory[i] = 1.0f; /* pages of its own */
    for (int level = LEVEL_L1; level < LEVEL_COUNT; level++) {
        int64_t bytes = level == LEVEL_MEMORY ? sizes[level] : sizes[level] / 2;
        if (level == LEVEL_L3)
            bytes = bytes < L3_READ_MAX ? bytes : L3_READ_MAX;
        if (bytes > 0)
            ceilings->read[level] =
                measure_read(probes, pool, (const char *)memory, bytes, level >= LEVEL_L3);
    }
    memory_unmap(memory, mapped);
}

const char *memory_level_name(enum memory_level level)
{
    static const char *const names[LEVEL_COUNT] = {"L1", "L2", "L3", "memory"};
    return names[level];
}

double ceilings_flops(const struct ceilings *ceilings, enum dtype dtype, bool all)
{
    const struct ceiling *ceiling = &ceilings->fma;
    if (dtype == DTYPE_BF16 && ceilings->tile_loads.one > 0.0)
        ceiling = &ceilings->tile_loads;
    return all ? ceiling->all : ceiling->one;
}

enum memory_level ceilings_level(const struct ceilings *ceilings, int64_t bytes, bool all)
{
    for (int level = LEVEL_L1; level < LEVEL_MEMORY; level++) {
        int parts = all && level < LEVEL_L3 ? ceilings->threads : 1;
        if (bytes / parts <= ceilings->level_bytes[level] / 4 * 3)
            return (enum memory_level)level;
    }
    return LEVEL_MEMORY;
}

double ceilings_seconds(const struct ceilings *ceilings, enum dtype dtype, double flops,
                        double bytes, enum memory_level level, bool all)
{
    const struct ceiling *read = &ceilings->read[level];
    double compute = flops / ceilings_flops(ceilings, dtype, all);
    double memory = bytes / (all ? read->all : read->one);
    return compute > memory ? compute : memory;
}

#include "infra/compute/bench.h"

#include <string.h>
#include <time.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/compute/cpu/gemm_amx.h"
#include "infra/compute/cpu/tables.h"

#define BEST_OF        5
#define SECONDS_WANTED 0.01 /* per timed repetition */
#define SIZE_MAX_VALUE 512

struct bench_shape {
    int64_t m, n, k;
};

static const struct bench_shape shapes[] = {
    {1, 512, 512},  {16, 512, 512},  {64, 128, 128},  {64, 256, 256},
    {64, 512, 512}, {256, 128, 128}, {256, 256, 256}, {256, 512, 512},
};

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Each thread runs its own chains; sinks keep the results alive. */
struct peak_job {
    double (*probe)(int64_t steps, float *sink);
    int64_t steps;
    double flops[64];
    float sinks[64];
};

static void run_peak(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    struct peak_job *job = context;
    for (int64_t i = begin; i < end; i++)
        job->flops[i] = job->probe(job->steps, &job->sinks[i]);
}

static double measure_peak(struct parallel *pool, double (*probe)(int64_t steps, float *sink))
{
    struct peak_job job = {.probe = probe, .steps = 1000};
    int threads = parallel_threads(pool) < 64 ? parallel_threads(pool) : 64;
    double best = 0.0;
    for (int round = 0; round < 3 * BEST_OF;) {
        double start = seconds_now();
        parallel_for(pool, threads, 1, run_peak, &job);
        double seconds = seconds_now() - start, flops = 0.0;
        if (seconds < SECONDS_WANTED) {
            job.steps *= 2;
            continue;
        }
        for (int i = 0; i < threads; i++)
            flops += job.flops[i];
        best = flops / seconds > best ? flops / seconds : best;
        round++;
    }
    return best;
}

struct bench_buffers {
    void *a, *b, *packed;
    float *c;
};

static double measure_gemm(struct parallel *pool, const struct backend_ops *ops, enum dtype dtype,
                           const struct bench_shape *shape, const struct bench_buffers *buffers)
{
    double best = 0.0, flops = 2.0 * (double)shape->m * (double)shape->n * (double)shape->k;
    ops->gemm_pack(pool, dtype, shape->n, shape->k, buffers->b, shape->k, true, buffers->packed);
    int64_t repeats = 1;
    for (int round = 0; round < BEST_OF;) {
        double start = seconds_now();
        for (int64_t i = 0; i < repeats; i++)
            ops->gemm(pool, dtype, shape->m, shape->n, shape->k, buffers->a, shape->k,
                      buffers->packed, buffers->c, shape->n, false);
        double seconds = seconds_now() - start, rate = flops * (double)repeats / seconds;
        if (seconds < SECONDS_WANTED) {
            repeats *= 2;
            continue;
        }
        best = rate > best ? rate : best;
        round +=
            seconds > BEST_OF * SECONDS_WANTED ? BEST_OF : 1; /* slow is measured well at once */
    }
    return best;
}

static void fill(enum dtype dtype, void *x, int64_t count, uint32_t stream)
{
    struct rng_key key = {.seed = 1, .purpose = RNG_DATA, .b = stream};
    for (int64_t i = 0; i < count; i++) {
        float value = rng_uniform(&key, (uint64_t)i) - 0.5f;
        if (dtype == DTYPE_BF16)
            ((bf16 *)x)[i] = bf16_from_f32(value);
        else
            ((float *)x)[i] = value;
    }
}

static void bench_dtype(FILE *out, FILE *json, struct parallel *pool, enum cpu_isa isa,
                        enum dtype dtype, double peak, const struct bench_buffers *buffers)
{
    const int64_t values = SIZE_MAX_VALUE * SIZE_MAX_VALUE;
    fill(dtype, buffers->a, values, 0);
    fill(dtype, buffers->b, values, 1);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        const struct bench_shape *s = &shapes[i];
        double rate = measure_gemm(pool, backend_cpu(isa), dtype, s, buffers);
        fprintf(out, "%-7s %-9s %5lld %5lld %5lld %10.1f %10.1f %6.2f\n", cpu_isa_name(isa),
                dtype_name(dtype), (long long)s->m, (long long)s->n, (long long)s->k, rate * 1e-9,
                peak * 1e-9, rate / peak);
        if (json != NULL)
            fprintf(json,
                    "{\"isa\":\"%s\",\"dtype\":\"%s\",\"m\":%lld,\"n\":%lld,\"k\":%lld,"
                    "\"threads\":%d,\"gflops\":%.2f,\"peak_gflops\":%.2f,\"ratio\":%.4f}\n",
                    cpu_isa_name(isa), dtype_name(dtype), (long long)s->m, (long long)s->n,
                    (long long)s->k, parallel_threads(pool), rate * 1e-9, peak * 1e-9, rate / peak);
    }
}

int bench_gemm_to(FILE *out, FILE *json, int threads)
{
    static double (*const probes[CPU_ISA_COUNT])(int64_t steps, float *sink) = {
        peak_scalar, peak_avx2, peak_avx512, peak_amx};
    const size_t values = (size_t)SIZE_MAX_VALUE * SIZE_MAX_VALUE;
    struct parallel *pool = parallel_create(threads);
    struct bench_buffers buffers = {memory_alloc(values, 4), memory_alloc(values, 4),
                                    memory_alloc(values, 4), memory_alloc(values, 4)};
    fprintf(out, "%-7s %-9s %5s %5s %5s %10s %10s %6s   (%d threads)\n", "isa", "dtype", "m", "n",
            "k", "GFLOP/s", "peak", "ratio", threads);
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++) {
        if (!cpu_isa_available((enum cpu_isa)isa))
            continue;
        double peak = measure_peak(pool, probes[isa]);
        double fp32_peak = isa == CPU_ISA_AMX ? measure_peak(pool, peak_avx512) : peak;
        bench_dtype(out, json, pool, (enum cpu_isa)isa, DTYPE_F32, fp32_peak, &buffers);
        bench_dtype(out, json, pool, (enum cpu_isa)isa, DTYPE_BF16, peak, &buffers);
    }
    memory_free(buffers.a);
    memory_free(buffers.b);
    memory_free(buffers.packed);
    memory_free(buffers.c);
    parallel_destroy(pool);
    if (fflush(out) != 0 || (json != NULL && fflush(json) != 0))
        return error_errno("write the benchmark's results");
    return 0;
}

int bench_gemm(FILE *out, int threads)
{
    return bench_gemm_to(out, NULL, threads);
}

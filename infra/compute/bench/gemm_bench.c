#include "infra/compute/bench/gemm_bench.h"

#include <math.h>
#include <stdio.h>

#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/compute/cpu/tables.h"

#define WINDOW_S    0.004
#define FREE_ROUNDS 3 /* exact and free-order in turns */

static const int64_t sizes[] = {512, 1024, 2048, 4096};
static const int64_t rows[] = {1, 8, 16, 64, 256, 1024};
static const int64_t quick_sizes[] = {512, 1024};
static const int64_t quick_rows[] = {1, 16, 256};

/* One product; work functions see it as their context. */
struct product {
    const struct backend_ops *ops;
    const struct cpu_probes *probes;
    struct parallel *pool;
    enum dtype dtype;
    int64_t m, size;
    void *x;               /* [m, size] */
    float *dy;             /* [m, size] */
    void *weight, *packed; /* [size, size] */
    void *cast, *transposed, *packed_x;
    float *out, *gradient; /* [m, size], [size, size] */
};

static void run_packed(void *context, int64_t rounds)
{
    const struct product *p = context;
    for (int64_t i = 0; i < rounds; i++)
        p->ops->gemm(p->pool, p->dtype, p->m, p->size, p->size, p->x, p->size, p->packed, p->out,
                     p->size, false);
}

static void run_free(void *context, int64_t rounds)
{
    const struct product *p = context;
    for (int64_t i = 0; i < rounds; i++)
        p->probes->gemm_free(p->pool, p->m, p->size, p->size, p->x, p->size, p->packed, p->out,
                             p->size);
}

static void run_gradient(void *context, int64_t rounds)
{
    const struct product *p = context;
    const struct linear_workspace workspace = {p->cast, p->transposed, p->packed_x};
    for (int64_t i = 0; i < rounds; i++)
        p->ops->linear_backward(p->pool, p->dtype, p->m, p->size, p->size, p->dy, p->x, NULL, NULL,
                                p->gradient, &workspace);
}

static void *random_values(enum dtype dtype, int64_t count, uint32_t stream)
{
    struct rng_key key = {.seed = 1, .purpose = RNG_DATA, .b = stream};
    void *x = memory_map((size_t)count * dtype_bytes(dtype));
    for (int64_t i = 0; i < count; i++) {
        float value = rng_uniform(&key, (uint64_t)i) - 0.5f;
        if (dtype == DTYPE_BF16)
            ((bf16 *)x)[i] = bf16_from_f32(value);
        else
            ((float *)x)[i] = value;
    }
    return x;
}

static void product_init(struct product *p, int64_t size, int64_t m_max)
{
    size_t value = dtype_bytes(p->dtype), m_padded = (size_t)(m_max + 31) / 32 * 32;
    p->size = size;
    p->x = random_values(p->dtype, m_max * size, 0);
    p->dy = random_values(DTYPE_F32, m_max * size, 1);
    p->weight = random_values(p->dtype, size * size, 2);
    p->packed = memory_map(gemm_packed_bytes(p->dtype, size, size));
    p->packed_x = memory_map(gemm_packed_bytes(p->dtype, size, m_max));
    p->cast = memory_map((size_t)(m_max * size) * value);
    p->transposed = memory_map((size_t)size * m_padded * value);
    p->out = memory_map((size_t)(m_max * size) * sizeof *p->out);
    p->gradient = memory_map((size_t)(size * size) * sizeof *p->gradient);
}

static void product_release(struct product *p, int64_t m_max)
{
    size_t value = dtype_bytes(p->dtype), m_padded = (size_t)(m_max + 31) / 32 * 32;
    size_t size = (size_t)p->size;
    memory_unmap(p->x, (size_t)m_max * size * value);
    memory_unmap(p->dy, (size_t)m_max * size * sizeof *p->dy);
    memory_unmap(p->weight, size * size * value);
    memory_unmap(p->packed, gemm_packed_bytes(p->dtype, p->size, p->size));
    memory_unmap(p->packed_x, gemm_packed_bytes(p->dtype, p->size, m_max));
    memory_unmap(p->cast, (size_t)m_max * size * value);
    memory_unmap(p->transposed, size * m_padded * value);
    memory_unmap(p->out, (size_t)m_max * size * sizeof *p->out);
    memory_unmap(p->gradient, size * size * sizeof *p->gradient);
}

static void measure(struct product *p, const struct ceilings *ceilings, enum gemm_form_kind form,
                    double read, struct gemm_figures *figures)
{
    double flops = 2.0 * (double)p->m * (double)p->size * (double)p->size;
    int threads = parallel_threads(p->pool);
    double seconds = 1e30, free_seconds = 1e30;
    void (*run)(void *context, int64_t rounds) = form == GEMM_DW ? run_gradient : run_packed;
    bool with_free = form == GEMM_Y && p->probes != NULL;
    int turns = with_free ? FREE_ROUNDS : 1;
    for (int turn = 0; turn < turns; turn++) {
        seconds = fmin(seconds, bench_best_seconds(run, p, WINDOW_S, threads));
        if (with_free)
            free_seconds = fmin(free_seconds, bench_best_seconds(run_free, p, WINDOW_S, threads));
    }
    /* Reading the weights bounds few rows; a weight gradient reads and writes its fp32 sums. */
    double bytes = form == GEMM_DW ? 2.0 * (double)(p->size * p->size) * sizeof(float)
                                   : (double)gemm_packed_bytes(p->dtype, p->size, p->size);
    double compute_s = flops / ceilings_flops(ceilings, p->dtype, threads > 1);
    *figures = (struct gemm_figures){.form = form, .m = p->m, .size = p->size, .read = read};
    figures->flops = flops / seconds;
    figures->roofline_flops = flops / fmax(compute_s, bytes / read);
    figures->free_flops = with_free ? flops / free_seconds : 0.0;
}

static void report(const struct gemm_bench_options *options, const struct product *p,
                   enum gemm_form_kind form, int done, int total)
{
    char what[64];
    if (options->progress == NULL)
        return;
    snprintf(what, sizeof what, "%s size %lld, %lld rows", gemm_form_name(form), (long long)p->size,
             (long long)p->m);
    options->progress(options->context, what, done, total);
}

int gemm_bench(const struct gemm_bench_options *options, const struct ceilings *ceilings,
               struct parallel *pool, struct gemm_figures *figures)
{
    static const struct cpu_probes *const probes[CPU_ISA_COUNT] = {&probes_scalar, &probes_avx2,
                                                                   &probes_avx512, NULL};
    const int64_t *wanted_sizes = options->quick ? quick_sizes : sizes;
    const int64_t *wanted_rows = options->quick ? quick_rows : rows;
    int size_count = options->quick ? 2 : 4, row_count = options->quick ? 3 : 6, count = 0;
    int total = size_count * row_count * GEMM_FORM_COUNT;
    int64_t m_max = wanted_rows[row_count - 1];
    struct product p = {.ops = backend_cpu(options->isa), .pool = pool, .dtype = options->dtype};
    p.probes = options->dtype == DTYPE_BF16 ? probes[options->isa] : NULL;
    for (int s = 0; s < size_count; s++) {
        product_init(&p, wanted_sizes[s], m_max);
        for (int form = 0; form < GEMM_FORM_COUNT; form++) {
            p.ops->gemm_pack(pool, p.dtype, p.size, p.size, p.weight, p.size, form == GEMM_Y,
                             p.packed);
            double read = form == GEMM_DW
                              ? ceilings_read(options->isa, pool, p.gradient, p.size * p.size * 4)
                              : ceilings_read(options->isa, pool, p.packed,
                                              (int64_t)gemm_packed_bytes(p.dtype, p.size, p.size));
            for (int r = 0; r < row_count; r++) {
                p.m = wanted_rows[r];
                report(options, &p, (enum gemm_form_kind)form, count, total);
                measure(&p, ceilings, (enum gemm_form_kind)form, read, &figures[count++]);
            }
        }
        product_release(&p, m_max);
    }
    return count;
}

struct gemm_means gemm_figures_means(const struct gemm_figures *figures, int count,
                                     enum gemm_form_kind form, int64_t m_min, int64_t m_max)
{
    double flops = 0.0, share = 0.0, free_share = 0.0;
    int counted = 0, with_free = 0;
    for (int i = 0; i < count; i++) {
        const struct gemm_figures *f = &figures[i];
        if (f->form != form || f->m < m_min || f->m > m_max)
            continue;
        counted++;
        flops += log(f->flops);
        share += log(f->flops / f->roofline_flops);
        if (f->free_flops > 0.0) {
            with_free++;
            free_share += log(f->flops / f->free_flops);
        }
    }
    struct gemm_means means = {0};
    if (counted > 0) {
        means.flops = exp(flops / counted);
        means.roofline_share = exp(share / counted);
    }
    if (with_free > 0)
        means.free_share = exp(free_share / with_free);
    return means;
}

const char *gemm_form_name(enum gemm_form_kind form)
{
    static const char *const names[GEMM_FORM_COUNT] = {"y", "dx", "dW"};
    return names[form];
}

/* `hone bench gemm` and `hone bench attention`. */
#include <stdio.h>

#include "commands/bench/bench.h"
#include "commands/bench/model_shape.h"
#include "infra/compute/bench/attention_bench.h"
#include "infra/compute/bench/gemm_bench.h"

#define FEW_ROWS_MAX  16
#define MANY_ROWS_MIN 256

static void print_gemm_row(struct bench *bench, const struct gemm_figures *f)
{
    double share = f->flops / f->roofline_flops;
    double price = f->free_flops > 0.0 ? f->free_flops / f->flops - 1.0 : 0.0;
    printf("%-4s %6lld %6lld %10.1f %10.1f %6.2f %8.1f", gemm_form_name(f->form),
           (long long)f->size, (long long)f->m, f->flops * 1e-9, f->roofline_flops * 1e-9, share,
           f->read * 1e-9);
    if (f->free_flops > 0.0)
        printf(" %8.1f %+6.1f %%", f->free_flops * 1e-9, 100.0 * price);
    printf("\n");
    json_t *row =
        json_pack("{s:s,s:I,s:I,s:f,s:f,s:f,s:f}", "form", gemm_form_name(f->form), "size",
                  (json_int_t)f->size, "m", (json_int_t)f->m, "flops", f->flops, "roofline_flops",
                  f->roofline_flops, "roofline_share", share, "read", f->read);
    if (f->free_flops > 0.0)
        json_object_set_new(row, "free_order_flops", json_real(f->free_flops));
    json_array_append_new(json_object_get(bench->json, "figures"), row);
}

static void print_means(struct bench *bench, const struct gemm_figures *figures, int count)
{
    const double peak = ceilings_flops(&bench->ceilings, bench->dtype, bench->threads > 1);
    json_t *means = json_array();
    printf("\ngeometric means\n");
    for (int form = 0; form < GEMM_FORM_COUNT; form++) {
        for (int class = 0; class < 2; class ++) {
            int64_t low = class == 0 ? MANY_ROWS_MIN : 1;
            int64_t high = class == 0 ? INT64_MAX : FEW_ROWS_MAX;
            struct gemm_means m =
                gemm_figures_means(figures, count, (enum gemm_form_kind)form, low, high);
            const char *name = class == 0 ? "M >= 256" : "M <= 16";
            printf("%-4s %-9s %10.1f GFLOP/s, %4.2f of the peak, %4.2f of the roofline",
                   gemm_form_name((enum gemm_form_kind)form), name, m.flops * 1e-9, m.flops / peak,
                   m.roofline_share);
            if (m.free_share > 0.0)
                printf("; %4.2f of the speed without an order", m.free_share);
            printf("\n");
            json_t *mean =
                json_pack("{s:s,s:s,s:f,s:f,s:f}", "form",
                          gemm_form_name((enum gemm_form_kind)form), "rows", name, "flops", m.flops,
                          "peak_share", m.flops / peak, "roofline_share", m.roofline_share);
            if (m.free_share > 0.0)
                json_object_set_new(mean, "exact_to_free", json_real(m.free_share));
            json_array_append_new(means, mean);
        }
    }
    json_object_set_new(bench->json, "means", means);
}

int bench_gemm(struct bench *bench)
{
    struct gemm_figures figures[GEMM_FIGURES_MAX];
    struct progress *progress = NULL;
    struct gemm_bench_options options = {.isa = bench->isa,
                                         .dtype = bench->dtype,
                                         .quick = bench->quick,
                                         .progress = bench_progress,
                                         .context = &progress};
    int count = gemm_bench(&options, &bench->ceilings, bench->compute.pool, figures);
    progress_finish(progress, NULL);
    printf("%-4s %6s %6s %10s %10s %6s %8s %8s %8s\n", "form", "N = K", "M", "GFLOP/s", "roofline",
           "share", "read", "no order", "faster");
    for (int i = 0; i < count; i++)
        print_gemm_row(bench, &figures[i]);
    print_means(bench, figures, count);
    if (bench->isa == CPU_ISA_AMX && bench->dtype == DTYPE_BF16)
        printf("tiles add in the canonical order themselves: there is no faster kernel without\n");
    return 0;
}

int bench_attention(struct bench *bench)
{
    struct attention_figures figures[ATTENTION_FIGURES_MAX];
    struct model_config config;
    struct progress *progress = NULL;
    int64_t sequences;
    int rc = model_shape_config(bench->line, &config);
    if (rc < 0 || (rc = command_int(bench->line, "sequences", 1, 4096, &sequences)) < 0)
        return rc;
    struct attention_bench_options options = {.isa = bench->isa,
                                              .dtype = bench->dtype,
                                              .heads = config.heads,
                                              .kv_heads = config.kv_heads,
                                              .head_dim = config.head_dim,
                                              .sequences = (int32_t)sequences,
                                              .quick = bench->quick,
                                              .progress = bench_progress,
                                              .context = &progress};
    int count = attention_bench(&options, &bench->ceilings, bench->compute.pool, figures);
    progress_finish(progress, NULL);
    printf("%d heads of %d, %d of keys\n", config.heads, config.head_dim, config.kv_heads);
    for (int i = 0; i < count; i++) {
        const struct attention_figures *f = &figures[i];
        char label[64];
        snprintf(label, sizeof label, "%s, %d rows, %d keys", attention_kind_name(f->kind), f->rows,
                 f->context);
        bench_report(bench, label, f->flops * 1e-9, "GFLOP/s", f->flops / f->roofline_flops);
    }
    return 0;
}

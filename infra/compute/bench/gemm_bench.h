/* Speed of the matmul in the forms that a linear layer needs, against the ceilings measured in the
 * same run and against a kernel that may add in any order. */
#ifndef HONE_COMPUTE_BENCH_GEMM_BENCH_H
#define HONE_COMPUTE_BENCH_GEMM_BENCH_H

#include "infra/compute/bench/ceilings.h"

/* M rows (tokens) and a square weight of N = K = size. */
enum gemm_form_kind {
    GEMM_Y,  /* y = x W^T from weights packed before */
    GEMM_DX, /* dx = dy W from their packed transpose */
    GEMM_DW, /* dW += dy^T x: transposes dy and packs x each time */
    GEMM_FORM_COUNT
};

struct gemm_figures {
    enum gemm_form_kind form;
    int64_t m, size;
    double flops;          /* a second, achieved */
    double roofline_flops; /* a second: by arithmetic or by reading the weights */
    double read;       /* bytes a second that a bare loop reads of the same weights (dW: sums) */
    double free_flops; /* the free-order kernel's, bf16 y alone, timed in turns with it; 0: none */
};

struct gemm_bench_options {
    enum cpu_isa isa;
    enum dtype dtype;
    bool quick; /* sizes 512 and 1024, M = 1, 16, 256 */
    void (*progress)(void *context, const char *what, int done, int total); /* or NULL */
    void *context;
};

#define GEMM_FIGURES_MAX 128

/* Fills figures[GEMM_FIGURES_MAX]; returns how many. Uses every thread of the pool. */
int gemm_bench(const struct gemm_bench_options *options, const struct ceilings *ceilings,
               struct parallel *pool, struct gemm_figures *figures);

/* Geometric means over the figures of one form with m in [m_min, m_max]; 0 without any. */
struct gemm_means {
    double flops, roofline_share;
    double free_share; /* exact / free-order speed over those that have it; 0: none */
};
struct gemm_means gemm_figures_means(const struct gemm_figures *figures, int count,
                                     enum gemm_form_kind form, int64_t m_min, int64_t m_max);
const char *gemm_form_name(enum gemm_form_kind form);

#endif

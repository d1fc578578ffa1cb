/* Speed of attention: one decode step of many sequences, the prefill of one, and its gradient. */
#ifndef HONE_COMPUTE_BENCH_ATTENTION_BENCH_H
#define HONE_COMPUTE_BENCH_ATTENTION_BENCH_H

#include "infra/compute/bench/ceilings.h"

enum attention_kind { ATTENTION_DECODE, ATTENTION_PREFILL, ATTENTION_BACKWARD, ATTENTION_KINDS };

struct attention_bench_options {
    enum cpu_isa isa;
    enum dtype dtype;
    int32_t heads, kv_heads, head_dim;
    int32_t sequences; /* of a decode step */
    bool quick;        /* contexts up to 512 instead of 2048 */
    void (*progress)(void *context, const char *what, int done, int total); /* or NULL */
    void *context;
};

struct attention_figures {
    enum attention_kind kind;
    int32_t rows, context; /* queries, and the most keys of one */
    double flops;          /* a second: 4 head_dim a pair of query and key, 10 in the gradient */
    double tokens;         /* rows a second, of one layer */
    double roofline_flops; /* a second: by multiply-adds or by reading keys and values */
    enum memory_level level;
};

#define ATTENTION_FIGURES_MAX 16

/* Fills figures[ATTENTION_FIGURES_MAX]; returns how many. Uses every thread of the pool. */
int attention_bench(const struct attention_bench_options *options, const struct ceilings *ceilings,
                    struct parallel *pool, struct attention_figures *figures);
const char *attention_kind_name(enum attention_kind kind);

#endif

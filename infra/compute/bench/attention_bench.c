#include "infra/compute/bench/attention_bench.h"

#include <stdio.h>

#include "infra/base/memory.h"
#include "infra/base/rng.h"

#define WINDOW_S 0.004

static const int32_t contexts[] = {256, 512, 2048};

/* Everything that the three operations read and write; work functions see it as their context. */
struct subject {
    const struct backend_ops *ops;
    struct parallel *pool;
    int32_t heads, rows, keys;
    int64_t q_width, kv_width;
    struct attention_kv kv;
    size_t kv_bytes, out_bytes, q_bytes, gradient_bytes;
    float *q, *d_out, *dq, *dk, *dv, *lse;
    void *out;
    int32_t *blocks; /* of all sequences, in order */
    struct attention_row *table;
};

static void run_forward(void *context, int64_t rounds)
{
    const struct subject *s = context;
    for (int64_t i = 0; i < rounds; i++)
        s->ops->attention(s->pool, &s->kv, s->rows, s->heads, s->q, s->q_width, s->table, s->out,
                          s->lse);
}

static void run_backward(void *context, int64_t rounds)
{
    const struct subject *s = context;
    for (int64_t i = 0; i < rounds; i++)
        s->ops->attention_backward(s->pool, &s->kv, s->rows, s->heads, s->q, s->q_width, s->table,
                                   s->out, s->lse, s->d_out, s->dq, s->q_width, s->dk, s->dv,
                                   s->kv_width);
}

static float *random_floats(size_t bytes, uint32_t stream)
{
    struct rng_key key = {.seed = 1, .purpose = RNG_DATA, .b = stream};
    float *x = memory_map(bytes);
    for (size_t i = 0; i < bytes / sizeof *x; i++)
        x[i] = rng_uniform(&key, (uint64_t)i) - 0.5f;
    return x;
}

/* `sequences` of `keys` keys with one query each, or one sequence with a query at every key. */
static void subject_init(struct subject *s, const struct attention_bench_options *options,
                         int32_t sequences, int32_t keys, int32_t rows)
{
    int64_t sequence_blocks = (keys + ATTENTION_BLOCK_TOKENS - 1) / ATTENTION_BLOCK_TOKENS;
    int64_t block_count = sequence_blocks * sequences;
    s->heads = options->heads;
    s->rows = rows;
    s->keys = keys;
    s->q_width = (int64_t)options->heads * options->head_dim;
    s->kv_width = (int64_t)options->kv_heads * options->head_dim;
    s->kv = (struct attention_kv){
        .kv_heads = options->kv_heads, .head_dim = options->head_dim, .dtype = options->dtype};
    size_t kv_values =
        (size_t)(block_count *
                 attention_block_values(options->dtype, options->kv_heads, options->head_dim));
    s->kv_bytes = kv_values * dtype_bytes(options->dtype);
    s->q_bytes = (size_t)(rows * s->q_width) * sizeof(float);
    s->gradient_bytes = (size_t)(keys * s->kv_width) * sizeof(float);
    s->kv.keys = memory_map(s->kv_bytes);
    s->kv.values = memory_map(s->kv_bytes);
    float *values = random_floats(kv_values * sizeof(float), 0);
    s->ops->cast(s->pool, (int64_t)kv_values, DTYPE_F32, values, options->dtype, s->kv.keys);
    s->ops->cast(s->pool, (int64_t)kv_values, DTYPE_F32, values, options->dtype, s->kv.values);
    memory_unmap(values, kv_values * sizeof(float));
    s->q = random_floats(s->q_bytes, 1);
    s->d_out = random_floats(s->q_bytes, 2);
    s->dq = memory_map(s->q_bytes);
    s->out = memory_map(s->q_bytes);
    s->dk = memory_map(s->gradient_bytes);
    s->dv = memory_map(s->gradient_bytes);
    s->lse = MEMORY_ARRAY(float, (size_t)rows *(size_t)options->heads);
    s->blocks = MEMORY_ARRAY(int32_t, block_count);
    s->table = MEMORY_ARRAY(struct attention_row, rows);
    for (int64_t b = 0; b < block_count; b++)
        s->blocks[b] = (int32_t)b;
    for (int32_t r = 0; r < rows; r++)
        s->table[r] = sequences == 1
                          ? (struct attention_row){s->blocks, r + 1}
                          : (struct attention_row){s->blocks + r * sequence_blocks, keys};
}

static void subject_release(struct subject *s)
{
    memory_unmap(s->kv.keys, s->kv_bytes);
    memory_unmap(s->kv.values, s->kv_bytes);
    memory_unmap(s->q, s->q_bytes);
    memory_unmap(s->d_out, s->q_bytes);
    memory_unmap(s->dq, s->q_bytes);
    memory_unmap(s->out, s->q_bytes);
    memory_unmap(s->dk, s->gradient_bytes);
    memory_unmap(s->dv, s->gradient_bytes);
    memory_free(s->lse);
    memory_free(s->blocks);
    memory_free(s->table);
}

static void measure(const struct attention_bench_options *options, const struct ceilings *ceilings,
                    struct parallel *pool, struct attention_figures *figures)
{
    bool decode = figures->kind == ATTENTION_DECODE, all = parallel_threads(pool) > 1;
    bool backward = figures->kind == ATTENTION_BACKWARD;
    struct subject s = {.ops = backend_cpu(options->isa), .pool = pool};
    subject_init(&s, options, decode ? options->sequences : 1, figures->context, figures->rows);
    run_forward(&s, 1);
    double seconds = bench_best_seconds(backward ? run_backward : run_forward, &s, WINDOW_S,
                                        parallel_threads(pool));
    double keys = (double)figures->context;
    double pairs = decode ? (double)figures->rows * keys : keys * (keys + 1.0) / 2.0;
    double flops = (backward ? 10.0 : 4.0) * pairs * (double)s.q_width;
    double bytes = 2.0 * (double)s.kv_bytes;
    figures->level = ceilings_level(ceilings, (int64_t)bytes, all);
    figures->flops = flops / seconds;
    figures->tokens = (double)figures->rows / seconds;
    figures->roofline_flops =
        flops / ceilings_seconds(ceilings, options->dtype, flops, bytes, figures->level, all);
    subject_release(&s);
}

int attention_bench(const struct attention_bench_options *options, const struct ceilings *ceilings,
                    struct parallel *pool, struct attention_figures *figures)
{
    int context_count = options->quick ? 2 : 3, count = 0;
    for (int kind = 0; kind < ATTENTION_KINDS; kind++) {
        for (int c = 0; c < context_count; c++) {
            char what[64];
            figures[count] = (struct attention_figures){
                .kind = (enum attention_kind)kind,
                .rows = kind == ATTENTION_DECODE ? options->sequences : contexts[c],
                .context = contexts[c]};
            snprintf(what, sizeof what, "%s of %d keys",
                     attention_kind_name((enum attention_kind)kind), contexts[c]);
            if (options->progress != NULL)
                options->progress(options->context, what, count, ATTENTION_KINDS * context_count);
            measure(options, ceilings, pool, &figures[count++]);
        }
    }
    return count;
}

const char *attention_kind_name(enum attention_kind kind)
{
    static const char *const names[ATTENTION_KINDS] = {"decode", "prefill", "backward"};
    return names[kind];
}

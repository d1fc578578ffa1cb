/* The CUDA table: against the scalar CPU table, with stated tolerances; and what it promises bit
 * for bit (cuda/table.h): a row does not depend on its company, and a call gives the same bits
 * twice.
 *
 * Built twice: with the emulator, everywhere; and by nvcc for a device (tests/cuda), where it skips
 * when there is none. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/compute/cuda/memory.h"
#include "infra/compute/cuda/table.h"
#include "infra/compute/parallel.h"

#define BLOCKS_MAX 12 /* KV blocks of a sequence */

static const struct backend_ops *cpu, *gpu;
static uint64_t draws;

static int64_t between(int64_t low, int64_t high)
{
    const struct rng_key key = {.seed = 17, .purpose = RNG_SIM};
    return low + (int64_t)rng_below(&key, draws++, (uint64_t)(high - low + 1));
}

/* Memory on both sides. */
struct both {
    void *cpu, *gpu;
    size_t bytes;
};

static struct both both_new(size_t bytes)
{
    struct both b = {.cpu = memory_alloc(bytes, 1), .bytes = bytes};
    if (gpu_allocate(bytes, &b.gpu) < 0)
        fail_msg("%s", error_message());
    return b;
}

static void both_send(const struct both *b)
{
    gpu_to_device(b->gpu, b->cpu, b->bytes);
}

static void both_free(struct both *b)
{
    memory_free(b->cpu);
    gpu_free(b->gpu);
}

/* `count` values of the dtype, about normal times `size`, the same on both sides. */
static struct both both_random(enum dtype dtype, int64_t count, float size)
{
    struct both b = both_new((size_t)count * dtype_bytes(dtype));
    const struct rng_key key = {.seed = 23, .purpose = RNG_SIM, .a = draws++};
    for (int64_t i = 0; i < count; i++) {
        float value = size * rng_normal(&key, (uint64_t)i);
        if (dtype == DTYPE_BF16)
            ((bf16 *)b.cpu)[i] = bf16_from_f32(value);
        else
            ((float *)b.cpu)[i] = value;
    }
    both_send(&b);
    return b;
}

static struct both both_ids(int64_t count, int64_t below)
{
    struct both b = both_new((size_t)count * sizeof(int32_t));
    for (int64_t i = 0; i < count; i++)
        ((int32_t *)b.cpu)[i] = (int32_t)between(0, below - 1);
    both_send(&b);
    return b;
}

static float value_at(enum dtype dtype, const void *values, int64_t i)
{
    return dtype == DTYPE_BF16 ? bf16_to_f32(((const bf16 *)values)[i])
                               : ((const float *)values)[i];
}

/* |difference| <= tolerance x (|value| + scale). */
static void expect_close(const char *what, enum dtype dtype, const struct both *b, int64_t count,
                         double tolerance, double scale)
{
    void *got = memory_alloc(b->bytes, 1);
    gpu_to_host(got, b->gpu, b->bytes);
    for (int64_t i = 0; i < count; i++) {
        double expected = (double)value_at(dtype, b->cpu, i),
               value = (double)value_at(dtype, got, i);
        if (!(fabs(value - expected) <= tolerance * (fabs(expected) + scale)) && value != expected)
            fail_msg("%s: value %lld of %lld is %.9g, the CPU has %.9g", what, (long long)i,
                     (long long)count, value, expected);
    }
    memory_free(got);
}

/* ---- element-wise: the CPU's bits ---- */

static void test_elementwise(void **state)
{
    (void)state;
    for (int round = 0; round < 6; round++) {
        int64_t count = between(1, 3000), rows = between(1, 9), dim = between(1, 70);
        struct both x = both_random(DTYPE_F32, count, 2.0f),
                    y = both_random(DTYPE_F32, count, 1.0f);
        struct both narrow = both_new((size_t)count * sizeof(bf16));
        cpu->add(NULL, count, y.cpu, x.cpu);
        gpu->add(NULL, count, y.gpu, x.gpu);
        cpu->scale(NULL, count, y.cpu, 0.37f);
        gpu->scale(NULL, count, y.gpu, 0.37f);
        expect_close("add, scale", DTYPE_F32, &y, count, 0.0, 0.0);
        cpu->cast(NULL, count, DTYPE_F32, y.cpu, DTYPE_BF16, narrow.cpu);
        gpu->cast(NULL, count, DTYPE_F32, y.gpu, DTYPE_BF16, narrow.gpu);
        expect_close("cast", DTYPE_BF16, &narrow, count, 0.0, 0.0);
        double expected = cpu->sum_squares(NULL, count, x.cpu);
        assert_true(fabs(gpu->sum_squares(NULL, count, x.gpu) - expected) < 1e-12 * expected);

        struct both gates = both_random(DTYPE_F32, rows * 2 * dim, 3.0f);
        struct both out = both_new((size_t)(rows * dim) * sizeof(float));
        struct both d_out = both_random(DTYPE_F32, rows * dim, 1.0f);
        struct both d_gates = both_new((size_t)(rows * 2 * dim) * sizeof(float));
        cpu->swiglu(NULL, DTYPE_F32, rows, dim, gates.cpu, out.cpu);
        gpu->swiglu(NULL, DTYPE_F32, rows, dim, gates.gpu, out.gpu);
        expect_close("swiglu", DTYPE_F32, &out, rows * dim, 1e-6, 1e-6);
        cpu->swiglu_backward(NULL, rows, dim, gates.cpu, d_out.cpu, d_gates.cpu);
        gpu->swiglu_backward(NULL, rows, dim, gates.gpu, d_out.gpu, d_gates.gpu);
        expect_close("swiglu_backward", DTYPE_F32, &d_gates, rows * 2 * dim, 1e-5, 1e-5);
        struct both *all[] = {&x, &y, &narrow, &gates, &out, &d_out, &d_gates};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            both_free(all[i]);
    }
}

static void test_halves_become_floats(void **state)
{
    (void)state;
    struct both half = both_new(65536 * sizeof(uint16_t)), wide = both_new(65536 * sizeof(float));
    for (int i = 0; i < 65536; i++)
        ((uint16_t *)half.cpu)[i] = (uint16_t)((i & 0x7c00) == 0x7c00 && (i & 0x3ff) ? 0x7c00 : i);
    both_send(&half);
    cpu->cast(NULL, 65536, DTYPE_F16, half.cpu, DTYPE_F32, wide.cpu);
    gpu->cast(NULL, 65536, DTYPE_F16, half.gpu, DTYPE_F32, wide.gpu);
    expect_close("half to float", DTYPE_F32, &wide, 65536, 0.0, 0.0);
    both_free(&half);
    both_free(&wide);
}

static void test_adamw(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        enum dtype moments = k ? DTYPE_BF16 : DTYPE_F32;
        int64_t count = between(300, 900);
        struct both p = both_random(DTYPE_F32, count, 1.0f),
                    g = both_random(DTYPE_F32, count, 0.1f);
        struct both m = both_random(moments, count, 0.1f), v = both_random(moments, count, 0.0f);
        struct both values = both_new((size_t)count * sizeof(bf16));
        const struct adamw_options options = {1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.1f, 0.05f, 0.7f};
        struct adamw_vectors on_cpu = {p.cpu, m.cpu, v.cpu, moments, g.cpu, values.cpu, DTYPE_BF16};
        struct adamw_vectors on_gpu = {p.gpu, m.gpu, v.gpu, moments, g.gpu, values.gpu, DTYPE_BF16};
        for (int step = 0; step < 3; step++) {
            cpu->adamw(NULL, count, &options, &on_cpu);
            gpu->adamw(NULL, count, &options, &on_gpu);
        }
        expect_close("adamw: weights", DTYPE_F32, &p, count, 0.0, 0.0);
        expect_close("adamw: first moments", moments, &m, count, 0.0, 0.0);
        expect_close("adamw: second moments", moments, &v, count, 0.0, 0.0);
        expect_close("adamw: rounded weights", DTYPE_BF16, &values, count, 0.0, 0.0);
        struct both *all[] = {&p, &g, &m, &v, &values};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            both_free(all[i]);
    }
}

/* ---- rows ---- */

static void test_rows(void **state)
{
    (void)state;
    for (int round = 0; round < 4; round++) {
        enum dtype dtype = round % 2 ? DTYPE_BF16 : DTYPE_F32;
        int64_t rows = between(1, 70), dim = between(1, 400), vocab = between(1, 9);
        struct both x = both_random(DTYPE_F32, rows * dim, 1.0f), w = both_random(dtype, dim, 1.0f);
        struct both y = both_new((size_t)(rows * dim) * 4), rms = both_new((size_t)rows * 4);
        struct both dy = both_random(DTYPE_F32, rows * dim, 1.0f);
        struct both dx = both_random(DTYPE_F32, rows * dim, 1.0f);
        struct both dw = both_random(DTYPE_F32, dim, 1.0f), ids = both_ids(rows, vocab);
        struct both table = both_random(dtype, vocab * dim, 1.0f);
        struct both d_table = both_random(DTYPE_F32, vocab * dim, 1.0f);
        cpu->rmsnorm(NULL, dtype, rows, dim, 1e-5f, x.cpu, w.cpu, y.cpu, rms.cpu);
        gpu->rmsnorm(NULL, dtype, rows, dim, 1e-5f, x.gpu, w.gpu, y.gpu, rms.gpu);
        expect_close("inverse rms", DTYPE_F32, &rms, rows, 1e-6, 0.0);
        expect_close("rmsnorm", dtype, &y, rows * dim, dtype == DTYPE_F32 ? 1e-6 : 1.6e-2, 1e-6);
        cpu->rmsnorm_backward(NULL, dtype, rows, dim, x.cpu, w.cpu, rms.cpu, dy.cpu, dx.cpu,
                              dw.cpu);
        gpu->rmsnorm_backward(NULL, dtype, rows, dim, x.gpu, w.gpu, rms.gpu, dy.gpu, dx.gpu,
                              dw.gpu);
        expect_close("rmsnorm_backward dx", DTYPE_F32, &dx, rows * dim, 1e-5, 1.0);
        expect_close("rmsnorm_backward dw", DTYPE_F32, &dw, dim, dtype == DTYPE_F32 ? 1e-5 : 1e-2,
                     3.0);
        cpu->embed(NULL, dtype, rows, dim, table.cpu, ids.cpu, y.cpu);
        gpu->embed(NULL, dtype, rows, dim, table.gpu, ids.gpu, y.gpu);
        expect_close("embed", DTYPE_F32, &y, rows * dim, 0.0, 0.0);
        cpu->embed_backward(NULL, rows, dim, ids.cpu, dy.cpu, d_table.cpu);
        gpu->embed_backward(NULL, rows, dim, ids.gpu, dy.gpu, d_table.gpu);
        expect_close("embed_backward", DTYPE_F32, &d_table, vocab * dim, 0.0, 0.0);
        struct both *all[] = {&x, &w, &y, &rms, &dy, &dx, &dw, &ids, &table, &d_table};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            both_free(all[i]);
    }
}

static void test_rope(void **state)
{
    (void)state;
    int64_t rows = 7, ld = 5 * 12 + 3;
    struct both x = both_random(DTYPE_F32, rows * ld, 1.0f), positions = both_ids(rows, 20);
    struct both angles = both_random(DTYPE_F32, 20 * 12, 1.0f);
    for (int backward = 0; backward < 2; backward++) {
        cpu->rope(NULL, rows, 5, 12, positions.cpu, angles.cpu, x.cpu, ld, backward);
        gpu->rope(NULL, rows, 5, 12, positions.gpu, angles.gpu, x.gpu, ld, backward);
        expect_close("rope", DTYPE_F32, &x, rows * ld, 0.0, 0.0);
    }
    both_free(&x);
    both_free(&positions);
    both_free(&angles);
}

/* ---- the vocabulary ---- */

static void test_vocabulary(void **state)
{
    (void)state;
    for (int round = 0; round < 3; round++) {
        int64_t rows = between(1, 5), vocab = between(2, 1500);
        struct both logits = both_random(DTYPE_F32, rows * vocab, 4.0f),
                    ids = both_ids(rows, vocab);
        struct both results = both_new((size_t)rows * 3 * 4), probs = both_new((size_t)vocab * 4);
        struct both d = both_random(DTYPE_F32, rows * 2, 1.0f), kept = both_ids(vocab, vocab);
        struct both support = both_new((size_t)rows * sizeof(struct logit_support));
        struct both parts = both_new(sizeof(struct softmax_parts));
        struct logit_support *s = support.cpu;
        for (int64_t id = 0; id < vocab; id++) /* row 0 keeps two of three, and its token */
            if (id % 3 != 1 || id == ((int32_t *)ids.cpu)[0])
                ((int32_t *)kept.cpu)[s[0].count++] = (int32_t)id;
        both_send(&kept);
        s[0].ids = kept.gpu;
        both_send(&support);
        s[0].ids = kept.cpu;
        cpu->cut_logits(NULL, rows, vocab, logits.cpu, vocab, support.cpu);
        gpu->cut_logits(NULL, rows, vocab, logits.gpu, vocab, support.gpu);
        expect_close("cut_logits", DTYPE_F32, &logits, rows * vocab, 0.0, 0.0);
        float *c = results.cpu, *g = results.gpu, *dc = d.cpu, *dg = d.gpu;
        cpu->token_logprob(NULL, rows, vocab, logits.cpu, vocab, 0.7f, ids.cpu, c, c + rows,
                           c + 2 * rows);
        gpu->token_logprob(NULL, rows, vocab, logits.gpu, vocab, 0.7f, ids.gpu, g, g + rows,
                           g + 2 * rows);
        expect_close("logprob, entropy, lse", DTYPE_F32, &results, rows * 3, 2e-6, 1.0);
        cpu->softmax_row(vocab, logits.cpu, 0.7f, probs.cpu, parts.cpu);
        gpu->softmax_row(vocab, logits.gpu, 0.7f, probs.gpu, parts.gpu);
        expect_close("softmax_row", DTYPE_F32, &probs, vocab, 2e-6, 1e-6);
        /* What the sampler makes of the parts is the logprob to the bit. */
        struct softmax_parts found;
        float first, logit;
        gpu_to_host(&found, parts.gpu, sizeof found);
        gpu_to_host(&first, results.gpu, sizeof first);
        gpu_to_host(&logit, (float *)logits.gpu + ((int32_t *)ids.cpu)[0], sizeof logit);
        assert_true(softmax_token_logprob(&found, logit) == first);
        cpu->token_logprob_backward(NULL, rows, vocab, logits.cpu, vocab, 0.7f, ids.cpu,
                                    c + 2 * rows, c + rows, dc, dc + rows);
        gpu->token_logprob_backward(NULL, rows, vocab, logits.gpu, vocab, 0.7f, ids.gpu,
                                    g + 2 * rows, g + rows, dg, dg + rows);
        expect_close("token_logprob_backward", DTYPE_F32, &logits, rows * vocab, 1e-5, 0.5);
        struct both *all[] = {&logits, &ids, &results, &probs, &d, &kept, &support, &parts};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            both_free(all[i]);
    }
}

/* ---- matmul ---- */

static void check_gemm(enum dtype dtype, int64_t m, int64_t n, int64_t k, bool is_nk, bool adds)
{
    int64_t lda = k + between(0, 3) * 8, ldb = (is_nk ? k : n) + 5;
    struct both a = both_random(dtype, m * lda, 1.0f);
    struct both b = both_random(dtype, (is_nk ? n : k) * ldb, 1.0f);
    struct both packed = both_new(gemm_packed_bytes(dtype, n, k));
    struct both c = both_random(DTYPE_F32, m * n, 1.0f);
    cpu->gemm_pack(NULL, dtype, n, k, b.cpu, ldb, is_nk, packed.cpu);
    gpu->gemm_pack(NULL, dtype, n, k, b.gpu, ldb, is_nk, packed.gpu);
    cpu->gemm(NULL, dtype, m, n, k, a.cpu, lda, packed.cpu, c.cpu, n, adds);
    gpu->gemm(NULL, dtype, m, n, k, a.gpu, lda, packed.gpu, c.gpu, n, adds);
    expect_close("gemm", DTYPE_F32, &c, m * n, dtype == DTYPE_F32 && k < 300 ? 1e-6 : 1e-5,
                 sqrt((double)k));
    /* Each row alone: the same bits (C1). */
    float *whole = memory_alloc((size_t)(m * n), sizeof *whole),
          *alone = memory_alloc((size_t)n, 4);
    gpu->gemm(NULL, dtype, m, n, k, a.gpu, lda, packed.gpu, c.gpu, n, false);
    gpu_to_host(whole, c.gpu, c.bytes);
    for (int64_t row = 0; row < m; row += 1 + m / 5) {
        char *at = (char *)a.gpu + (size_t)(row * lda) * dtype_bytes(dtype);
        gpu->gemm(NULL, dtype, 1, n, k, at, lda, packed.gpu, c.gpu, n, false);
        gpu_to_host(alone, c.gpu, (size_t)n * sizeof *alone);
        assert_memory_equal(alone, whole + row * n, (size_t)n * sizeof *alone);
    }
    memory_free(whole);
    memory_free(alone);
    struct both *all[] = {&a, &b, &packed, &c};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        both_free(all[i]);
}

static void test_gemm(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {
        {1, 1, 1}, {3, 20, 33}, {16, 130, 64}, {17, 24, 96}, {130, 129, 40}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int k = 0; k < 4; k++)
            check_gemm(k % 2 ? DTYPE_BF16 : DTYPE_F32, sizes[i][0], sizes[i][1], sizes[i][2], k < 2,
                       i % 2 == 1);
}

static void test_linear_backward(void **state)
{
    (void)state;
    for (int round = 0; round < 4; round++) {
        enum dtype dtype = round % 2 ? DTYPE_BF16 : DTYPE_F32;
        int64_t rows = between(1, 50), in = between(1, 70), out = between(1, 70);
        int64_t rows_padded = (rows + 31) / 32 * 32;
        struct both dy = both_random(DTYPE_F32, rows * out, 1.0f),
                    x = both_random(dtype, rows * in, 1.0f);
        struct both w = both_random(dtype, out * in, 1.0f), dx = both_new((size_t)(rows * in) * 4);
        struct both dw = both_random(DTYPE_F32, out * in, 1.0f);
        struct both packed = both_new(gemm_packed_bytes(dtype, in, out));
        struct both cast = both_new((size_t)(rows * out) * 4);
        struct both transposed = both_new((size_t)(out * rows_padded) * 4);
        struct both work = both_new(gemm_packed_bytes(dtype, in, rows));
        const struct linear_workspace on_cpu = {cast.cpu, transposed.cpu, work.cpu};
        const struct linear_workspace on_gpu = {cast.gpu, transposed.gpu, work.gpu};
        cpu->gemm_pack(NULL, dtype, in, out, w.cpu, in, false, packed.cpu);
        gpu->gemm_pack(NULL, dtype, in, out, w.gpu, in, false, packed.gpu);
        cpu->linear_backward(NULL, dtype, rows, in, out, dy.cpu, x.cpu, packed.cpu,
                             round < 2 ? dx.cpu : NULL, dw.cpu, &on_cpu);
        gpu->linear_backward(NULL, dtype, rows, in, out, dy.gpu, x.gpu, packed.gpu,
                             round < 2 ? dx.gpu : NULL, dw.gpu, &on_gpu);
        expect_close("linear_backward dx", DTYPE_F32, &dx, rows * in, 1e-5, 8.0);
        expect_close("linear_backward dw", DTYPE_F32, &dw, out * in, 1e-5, 8.0);
        struct both *all[] = {&dy, &x, &w, &dx, &dw, &packed, &cast, &transposed, &work};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            both_free(all[i]);
    }
}

/* ---- attention ---- */

/* Two sequences' caches, each with its blocks in an order of its own; `count` tokens each. */
struct cache {
    enum dtype dtype;
    int32_t kv_heads, dim, heads;
    int64_t counts[2];
    struct attention_kv on_cpu, on_gpu;
    struct both keys, values, blocks; /* block tables of the two, back to back */
    struct both q, k, v;              /* rows of sequence 0, then of 1 */
};

static int64_t cache_first(const struct cache *c, int s)
{
    return s == 0 ? 0 : c->counts[0];
}

static void cache_open(struct cache *c, enum dtype dtype, int32_t kv_heads, int32_t group,
                       int32_t dim, int64_t count0, int64_t count1)
{
    *c = (struct cache){.dtype = dtype,
                        .kv_heads = kv_heads,
                        .dim = dim,
                        .heads = kv_heads * group,
                        .counts = {count0, count1}};
    int64_t rows = count0 + count1, width = kv_heads * dim;
    size_t bytes = (size_t)(2 * BLOCKS_MAX * attention_block_values(dtype, kv_heads, dim)) *
                   dtype_bytes(dtype);
    c->keys = both_new(bytes);
    c->values = both_new(bytes);
    memset(c->keys.cpu, 0xff, bytes); /* stale: not a number */
    memset(c->values.cpu, 0xff, bytes);
    both_send(&c->keys);
    both_send(&c->values);
    c->on_cpu = (struct attention_kv){c->keys.cpu, c->values.cpu, kv_heads, dim, dtype};
    c->on_gpu = (struct attention_kv){c->keys.gpu, c->values.gpu, kv_heads, dim, dtype};
    c->blocks = both_new(2 * BLOCKS_MAX * sizeof(int32_t));
    for (int i = 0; i < 2 * BLOCKS_MAX; i++)
        ((int32_t *)c->blocks.cpu)[i] = (i * 7 + 3) % (2 * BLOCKS_MAX);
    both_send(&c->blocks);
    c->q = both_random(DTYPE_F32, rows * c->heads * dim, 1.0f);
    c->k = both_random(DTYPE_F32, rows * width, 1.0f);
    c->v = both_random(DTYPE_F32, rows * width, 1.0f);
    struct both ids = both_new((size_t)rows * 4), offsets = both_new((size_t)rows * 4);
    for (int s = 0; s < 2; s++)
        for (int64_t i = 0; i < c->counts[s]; i++) {
            int64_t row = cache_first(c, s) + i;
            ((int32_t *)ids.cpu)[row] =
                ((int32_t *)c->blocks.cpu)[s * BLOCKS_MAX + i / ATTENTION_BLOCK_TOKENS];
            ((int32_t *)offsets.cpu)[row] = (int32_t)(i % ATTENTION_BLOCK_TOKENS);
        }
    both_send(&ids);
    both_send(&offsets);
    cpu->kv_store(NULL, &c->on_cpu, rows, c->k.cpu, width, c->v.cpu, width, ids.cpu, offsets.cpu);
    gpu->kv_store(NULL, &c->on_gpu, rows, c->k.gpu, width, c->v.gpu, width, ids.gpu, offsets.gpu);
    both_free(&ids);
    both_free(&offsets);
}

static void cache_close(struct cache *c)
{
    struct both *all[] = {&c->keys, &c->values, &c->blocks, &c->q, &c->k, &c->v};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        both_free(all[i]);
}

/* Table of `rows` given as (sequence, position) pairs, for one side. */
static struct attention_row *table_of(const struct cache *c, const int64_t (*rows)[2],
                                      int64_t count, const int32_t *blocks)
{
    struct attention_row *table = memory_alloc((size_t)count, sizeof *table);
    (void)c;
    for (int64_t i = 0; i < count; i++)
        table[i] =
            (struct attention_row){blocks + rows[i][0] * BLOCKS_MAX, (int32_t)rows[i][1] + 1};
    return table;
}

/* out and lse of the rows, on the device; out act [count, heads * dim]. */
static void attend_on_gpu(const struct cache *c, const int64_t (*rows)[2], int64_t count, void *out,
                          float *lse)
{
    int64_t width = c->heads * c->dim;
    struct attention_row *table = table_of(c, rows, count, c->blocks.gpu);
    void *device_table, *device_q, *device_out, *device_lse;
    size_t out_bytes = (size_t)(count * width) * dtype_bytes(c->dtype);
    assert_int_equal(gpu_allocate((size_t)count * sizeof *table, &device_table), 0);
    assert_int_equal(gpu_allocate((size_t)(count * width) * 4, &device_q), 0);
    assert_int_equal(gpu_allocate(out_bytes, &device_out), 0);
    assert_int_equal(gpu_allocate((size_t)(count * c->heads) * 4, &device_lse), 0);
    gpu_to_device(device_table, table, (size_t)count * sizeof *table);
    for (int64_t i = 0; i < count; i++) {
        int64_t row = cache_first(c, (int)rows[i][0]) + rows[i][1];
        gpu_to_device((float *)device_q + i * width, (float *)c->q.cpu + row * width,
                      (size_t)width * 4);
    }
    gpu->attention(NULL, &c->on_gpu, count, c->heads, device_q, width, device_table, device_out,
                   device_lse);
    gpu_to_host(out, device_out, out_bytes);
    gpu_to_host(lse, device_lse, (size_t)(count * c->heads) * 4);
    gpu_free(device_table);
    gpu_free(device_q);
    gpu_free(device_out);
    gpu_free(device_lse);
    memory_free(table);
}

/* All rows at once against the CPU; then one by one, in pieces, and mixed: the same bits. */
static void check_attention(enum dtype dtype, int32_t kv_heads, int32_t group, int32_t dim)
{
    struct cache c;
    cache_open(&c, dtype, kv_heads, group, dim, between(40, 90), between(20, 50));
    int64_t count = c.counts[0] + c.counts[1], width = c.heads * dim;
    size_t row_bytes = (size_t)width * dtype_bytes(dtype), lse_bytes = (size_t)c.heads * 4;
    int64_t(*rows)[2] = memory_alloc((size_t)count, sizeof *rows);
    struct both out = both_new((size_t)count * row_bytes),
                lse = both_new((size_t)count * lse_bytes);
    char *got = memory_alloc((size_t)count, row_bytes),
         *got_lse = memory_alloc((size_t)count, lse_bytes);
    for (int64_t i = 0; i < count; i++) {
        rows[i][0] = i >= c.counts[0];
        rows[i][1] = i - cache_first(&c, (int)rows[i][0]);
    }
    struct attention_row *table = table_of(&c, (const int64_t(*)[2])rows, count, c.blocks.cpu);
    cpu->attention(NULL, &c.on_cpu, count, c.heads, c.q.cpu, width, table, out.cpu, lse.cpu);
    attend_on_gpu(&c, (const int64_t(*)[2])rows, count, got, (float *)(void *)got_lse);
    gpu_to_device(out.gpu, got, out.bytes);
    gpu_to_device(lse.gpu, got_lse, lse.bytes);
    expect_close("attention", dtype, &out, count * width, dtype == DTYPE_F32 ? 1e-5 : 2e-2, 0.3);
    expect_close("attention lse", DTYPE_F32, &lse, count * c.heads,
                 dtype == DTYPE_F32 ? 1e-6 : 1e-4, 1.0);
    char *piece = memory_alloc((size_t)count, row_bytes),
         *piece_lse = memory_alloc((size_t)count, lse_bytes);
    int64_t(*some)[2] = memory_alloc((size_t)count, sizeof *some);
    int64_t *which = memory_alloc((size_t)count, sizeof *which);
    for (int arrangement = 0; arrangement < 8; arrangement++) {
        int64_t taken = 0; /* one row, a chunk from anywhere, or every third in reverse */
        for (int64_t i = 0; i < count; i++) {
            int64_t at = arrangement % 2 ? count - 1 - i : i;
            bool takes = arrangement < 2 ? taken == 0 && at >= count / 3
                                         : (at + arrangement) % (arrangement < 5 ? 3 : 1) == 0;
            if (!takes || (arrangement > 5 && taken == 20))
                continue;
            which[taken] = at;
            memcpy(some[taken++], rows[at], sizeof *rows);
        }
        attend_on_gpu(&c, (const int64_t(*)[2])some, taken, piece, (float *)(void *)piece_lse);
        for (int64_t i = 0; i < taken; i++) {
            assert_memory_equal(piece + (size_t)i * row_bytes, got + (size_t)which[i] * row_bytes,
                                row_bytes);
            assert_memory_equal(piece_lse + (size_t)i * lse_bytes,
                                got_lse + (size_t)which[i] * lse_bytes, lse_bytes);
        }
    }
    void *const all[] = {rows, got, got_lse, table, piece, piece_lse, some, which};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        memory_free(all[i]);
    both_free(&out);
    both_free(&lse);
    cache_close(&c);
}

static void test_attention(void **state)
{
    (void)state;
    check_attention(DTYPE_F32, 2, 2, 12);
    check_attention(DTYPE_BF16, 1, 1, 64);
    check_attention(DTYPE_BF16, 2, 3, 20);
    check_attention(DTYPE_BF16, 1, 18, 16); /* more heads a group than a tile has rows */
    check_attention(DTYPE_BF16, 1, 2, 128);
    check_attention(DTYPE_BF16, 1, 1, 200);
}

static void check_attention_backward(enum dtype dtype, int32_t kv_heads, int32_t group, int32_t dim)
{
    struct cache c;
    cache_open(&c, dtype, kv_heads, group, dim, between(20, 75), 1);
    int64_t count = c.counts[0], width = c.heads * dim, kv_width = kv_heads * dim;
    int64_t(*rows)[2] = memory_alloc((size_t)count, sizeof *rows);
    struct both table = both_new((size_t)count * sizeof(struct attention_row));
    for (int64_t i = 0; i < count; i++)
        rows[i][1] = i;
    struct attention_row *made = table_of(&c, (const int64_t(*)[2])rows, count, c.blocks.gpu);
    memcpy(table.cpu, made, table.bytes);
    both_send(&table);
    memory_free(made);
    made = table_of(&c, (const int64_t(*)[2])rows, count, c.blocks.cpu);
    struct both out = both_new((size_t)(count * width) * 4),
                lse = both_new((size_t)(count * c.heads) * 4);
    cpu->attention(NULL, &c.on_cpu, count, c.heads, c.q.cpu, width, made, out.cpu, lse.cpu);
    both_send(&out); /* both go back from the same forward */
    both_send(&lse);
    struct both d_out = both_random(DTYPE_F32, count * width, 1.0f);
    struct both dq = both_new((size_t)(count * width) * 4);
    struct both dk = both_random(DTYPE_F32, count * kv_width, 1.0f);
    struct both dv = both_random(DTYPE_F32, count * kv_width, 1.0f);
    cpu->attention_backward(NULL, &c.on_cpu, count, c.heads, c.q.cpu, width, made, out.cpu, lse.cpu,
                            d_out.cpu, dq.cpu, width, dk.cpu, dv.cpu, kv_width);
    gpu->attention_backward(NULL, &c.on_gpu, count, c.heads, c.q.gpu, width, table.gpu, out.gpu,
                            lse.gpu, d_out.gpu, dq.gpu, width, dk.gpu, dv.gpu, kv_width);
    double tolerance = dtype == DTYPE_F32 ? 1e-5 : 2e-2;
    expect_close("dq", DTYPE_F32, &dq, count * width, tolerance, 1.0);
    expect_close("dk", DTYPE_F32, &dk, count * kv_width, tolerance, 2.0 * group);
    expect_close("dv", DTYPE_F32, &dv, count * kv_width, tolerance, 2.0 * group);
    struct both *all[] = {&table, &out, &lse, &d_out, &dq, &dk, &dv};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        both_free(all[i]);
    memory_free(made);
    memory_free(rows);
    cache_close(&c);
}

static void test_attention_backward(void **state)
{
    (void)state;
    check_attention_backward(DTYPE_F32, 2, 2, 12);
    check_attention_backward(DTYPE_BF16, 1, 1, 64);
    check_attention_backward(DTYPE_BF16, 2, 3, 20);
    check_attention_backward(DTYPE_BF16, 1, 2, 128);
    check_attention_backward(DTYPE_BF16, 1, 1, 200);
}

/* usage: test_kernels [SEED] */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_elementwise), cmocka_unit_test(test_halves_become_floats),
        cmocka_unit_test(test_adamw),       cmocka_unit_test(test_rows),
        cmocka_unit_test(test_rope),        cmocka_unit_test(test_vocabulary),
        cmocka_unit_test(test_gemm),        cmocka_unit_test(test_linear_backward),
        cmocka_unit_test(test_attention),   cmocka_unit_test(test_attention_backward),
    };
    if (gpu_open(0) < 0) {
        printf("skipped: %s\n", error_message());
        return 77;
    }
    draws = argc > 1 ? strtoull(argv[1], NULL, 10) << 32 : 0;
    compute_thread_init();
    cpu = backend_cpu(CPU_ISA_SCALAR);
    gpu = backend_cuda();
    return cmocka_run_group_tests(tests, NULL, NULL);
}

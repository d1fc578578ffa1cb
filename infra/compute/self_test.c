#include "infra/compute/self_test.h"

#include <math.h>
#include <string.h>

#include "infra/base/arena.h"
#include "infra/base/error.h"
#include "infra/base/rng.h"

#define SELF_TEST_SEED   20
#define RESULT_WORDS_MAX (1 << 16)
#define SCRATCH_BYTES    (4u << 20)

/* One operation on one table: inputs come from the counter, results go to `words`. Replaying the
 * same seed on another table gives it the same inputs. */
struct exercise {
    const struct backend_ops *ops;
    enum dtype dtype;
    struct rng_key key;
    uint64_t position;
    struct arena scratch;
    uint32_t *words;
    int64_t word_count;
};

static int64_t draw_size(struct exercise *e, int64_t low, int64_t high)
{
    return low + (int64_t)rng_below(&e->key, e->position++, (uint64_t)(high - low + 1));
}

/* Mostly normal numbers; one in 32 each is a zero of either sign, a denormal, a large value. */
static float draw_value(struct exercise *e, float spread)
{
    uint32_t words[4];
    rng_words(&e->key, e->position++, words);
    float unit = (float)(words[1] >> 8) * 0x1p-23f - 1.0f;
    switch (words[0] % 32) {
    case 0:
        return (words[2] & 1) != 0 ? -0.0f : 0.0f;
    case 1:
        return unit * 1e-39f;
    case 2:
        return unit * spread * 100.0f;
    default:
        return unit * spread;
    }
}

static float *draw_floats(struct exercise *e, int64_t count, float spread)
{
    float *x = arena_alloc(&e->scratch, (size_t)count * sizeof *x);
    for (int64_t i = 0; i < count; i++)
        x[i] = draw_value(e, spread);
    return x;
}

/* An array of the exercise's activation type. */
static void *draw_act(struct exercise *e, int64_t count, float spread)
{
    float *x = draw_floats(e, count, spread);
    if (e->dtype == DTYPE_F32)
        return x;
    bf16 *rounded = arena_alloc(&e->scratch, (size_t)count * sizeof *rounded);
    for (int64_t i = 0; i < count; i++)
        rounded[i] = bf16_from_f32(x[i]);
    return rounded;
}

static void *zeros(struct exercise *e, size_t bytes)
{
    return memset(arena_alloc(&e->scratch, bytes), 0, bytes);
}

static void record(struct exercise *e, const float *x, int64_t count)
{
    for (int64_t i = 0; i < count && e->word_count < RESULT_WORDS_MAX; i++)
        memcpy(&e->words[e->word_count++], &x[i], sizeof *x);
}

static void record_act(struct exercise *e, const void *x, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        float value =
            e->dtype == DTYPE_F32 ? ((const float *)x)[i] : bf16_to_f32(((const bf16 *)x)[i]);
        record(e, &value, 1);
    }
}

static void run_gemm(struct exercise *e)
{
    int64_t m = draw_size(e, 1, 70), n = draw_size(e, 1, 70), k = draw_size(e, 1, 300);
    bool nk = draw_size(e, 0, 1) != 0, accumulate = draw_size(e, 0, 1) != 0;
    void *a = draw_act(e, m * k, 1.0f), *b = draw_act(e, n * k, 1.0f);
    float *c = draw_floats(e, m * n, 1.0f);
    void *packed = arena_alloc(&e->scratch, gemm_packed_bytes(e->dtype, n, k));
    e->ops->gemm_pack(NULL, e->dtype, n, k, b, nk ? k : n, nk, packed);
    e->ops->gemm(NULL, e->dtype, m, n, k, a, k, packed, c, n, accumulate);
    record(e, c, m * n);
}

static void run_linear(struct exercise *e)
{
    int64_t rows = draw_size(e, 1, 70), in = draw_size(e, 1, 70), out = draw_size(e, 1, 70);
    size_t value = dtype_bytes(e->dtype), count = (size_t)out * (size_t)(rows + 31);
    struct linear_workspace workspace = {zeros(e, count * value), zeros(e, count * value), NULL};
    workspace.packed = zeros(e, gemm_packed_bytes(e->dtype, in, rows));
    float *dy = draw_floats(e, rows * out, 1.0f), *dx = draw_floats(e, rows * in, 1.0f);
    float *dweight = draw_floats(e, out * in, 1.0f);
    void *x = draw_act(e, rows * in, 1.0f), *weight = draw_act(e, out * in, 1.0f);
    void *packed = zeros(e, gemm_packed_bytes(e->dtype, in, out));
    e->ops->gemm_pack(NULL, e->dtype, in, out, weight, in, false, packed);
    e->ops->linear_backward(NULL, e->dtype, rows, in, out, dy, x, packed, dx, dweight, &workspace);
    record(e, dx, rows * in);
    record(e, dweight, out * in);
}

static void run_elementwise(struct exercise *e)
{
    int64_t count = draw_size(e, 1, 400);
    float *x = draw_floats(e, count, 2.0f), *y = draw_floats(e, count, 2.0f);
    void *cast = zeros(e, (size_t)count * 4);
    e->ops->add(NULL, count, y, x);
    e->ops->scale(NULL, count, y, 0.7f);
    e->ops->cast(NULL, count, DTYPE_F32, x, e->dtype, cast);
    record(e, y, count);
    record_act(e, cast, count);
    double sum = e->ops->sum_squares(NULL, count, x);
    float halves[2];
    memcpy(halves, &sum, sizeof sum);
    record(e, halves, 2);
}

static void run_adamw(struct exercise *e)
{
    int64_t count = draw_size(e, 1, 200);
    struct adamw_options options = {1e-2f, 0.9f, 0.999f, 1e-8f, 0.1f, 0.1f, 0.001f, 0.5f};
    float *p = draw_floats(e, count, 1.0f), *m = draw_floats(e, count, 1.0f);
    float *v = draw_floats(e, count, 1.0f), *g = draw_floats(e, count, 1.0f);
    for (int64_t i = 0; i < count; i++)
        v[i] = fabsf(v[i]);
    void *values = zeros(e, (size_t)count * 4);
    struct adamw_vectors vectors = {p, m, v, DTYPE_F32, g, values, e->dtype};
    e->ops->adamw(NULL, count, &options, &vectors);
    record(e, p, count);
    record(e, m, count);
    record(e, v, count);
    record_act(e, values, count);
    vectors.moments_dtype = e->dtype;
    vectors.m = draw_act(e, count, 1.0f);
    vectors.v = zeros(e, (size_t)count * 4);
    vectors.values = NULL;
    e->ops->adamw(NULL, count, &options, &vectors);
    record(e, p, count);
    record_act(e, vectors.m, count);
    record_act(e, vectors.v, count);
}

static void run_embed(struct exercise *e)
{
    int64_t vocab = 9, dim = draw_size(e, 1, 70), rows = draw_size(e, 1, 20);
    void *table = draw_act(e, vocab * dim, 1.0f);
    float *out = draw_floats(e, rows * dim, 1.0f), *gradient = draw_floats(e, vocab * dim, 1.0f);
    int32_t *ids = zeros(e, (size_t)rows * sizeof *ids);
    for (int64_t r = 0; r < rows; r++)
        ids[r] = (int32_t)draw_size(e, 0, vocab - 1);
    e->ops->embed_backward(NULL, rows, dim, ids, out, gradient);
    e->ops->embed(NULL, e->dtype, rows, dim, table, ids, out);
    record(e, out, rows * dim);
    record(e, gradient, vocab * dim);
}

static void run_rmsnorm(struct exercise *e)
{
    int64_t rows = draw_size(e, 1, 9), dim = draw_size(e, 1, 200);
    float *x = draw_floats(e, rows * dim, 2.0f), *dy = draw_floats(e, rows * dim, 1.0f);
    float *dx = draw_floats(e, rows * dim, 1.0f), *dweight = draw_floats(e, dim, 1.0f);
    float *inverse_rms = zeros(e, (size_t)rows * sizeof *inverse_rms);
    void *weight = draw_act(e, dim, 1.0f), *y = zeros(e, (size_t)(rows * dim) * 4);
    e->ops->rmsnorm(NULL, e->dtype, rows, dim, 1e-5f, x, weight, y, inverse_rms);
    e->ops->rmsnorm_backward(NULL, e->dtype, rows, dim, x, weight, inverse_rms, dy, dx, dweight);
    record_act(e, y, rows * dim);
    record(e, inverse_rms, rows);
    record(e, dx, rows * dim);
    record(e, dweight, dim);
}

static void run_rope(struct exercise *e)
{
    int32_t heads = (int32_t)draw_size(e, 1, 4), dim = 2 * (int32_t)draw_size(e, 1, 40);
    int64_t rows = draw_size(e, 1, 8), width = (int64_t)heads * dim;
    float *x = draw_floats(e, rows * width, 1.0f), *cos_sin = draw_floats(e, 8 * dim, 1.0f);
    int32_t *positions = zeros(e, (size_t)rows * sizeof *positions);
    for (int64_t r = 0; r < rows; r++)
        positions[r] = (int32_t)draw_size(e, 0, 7);
    e->ops->rope(NULL, rows, heads, dim, positions, cos_sin, x, width, draw_size(e, 0, 1) != 0);
    record(e, x, rows * width);
}

static void run_swiglu(struct exercise *e)
{
    int64_t rows = draw_size(e, 1, 8), dim = draw_size(e, 1, 100);
    float *gate_up = draw_floats(e, rows * 2 * dim, 4.0f),
          *d_out = draw_floats(e, rows * dim, 1.0f);
    void *out = zeros(e, (size_t)(rows * dim) * 4);
    e->ops->swiglu(NULL, e->dtype, rows, dim, gate_up, out);
    record_act(e, out, rows * dim);
    float *d_gate_up = zeros(e, (size_t)(rows * 2 * dim) * sizeof *d_gate_up);
    e->ops->swiglu_backward(NULL, rows, dim, gate_up, d_out, d_gate_up);
    record(e, d_gate_up, rows * 2 * dim);
}

static void run_attention(struct exercise *e)
{
    int32_t kv_heads = (int32_t)draw_size(e, 1, 2), heads = kv_heads * (int32_t)draw_size(e, 1, 3);
    int32_t dim = (int32_t)draw_size(e, 1, 70), keys = (int32_t)draw_size(e, 1, 100);
    int64_t rows = draw_size(e, 1, keys), q_width = (int64_t)heads * dim;
    int64_t kv_width = (int64_t)kv_heads * dim;
    const int32_t blocks[4] = {2, 0, 3, 1};
    struct attention_kv kv = {NULL, NULL, kv_heads, dim, e->dtype};
    size_t kv_bytes = (size_t)attention_block_values(e->dtype, kv_heads, dim) * 4 * 4;
    kv.keys = zeros(e, kv_bytes);
    kv.values = zeros(e, kv_bytes);
    int32_t *ids = zeros(e, (size_t)keys * sizeof *ids);
    int32_t *offsets = zeros(e, (size_t)keys * sizeof *offsets);
    for (int32_t key = 0; key < keys; key++) {
        ids[key] = blocks[key / ATTENTION_BLOCK_TOKENS];
        offsets[key] = key % ATTENTION_BLOCK_TOKENS;
    }
    e->ops->kv_store(NULL, &kv, keys, draw_floats(e, keys * kv_width, 1.0f), kv_width,
                     draw_floats(e, keys * kv_width, 1.0f), kv_width, ids, offsets);
    struct attention_row *table = zeros(e, (size_t)rows * sizeof *table);
    for (int64_t r = 0; r < rows; r++)
        table[r] = (struct attention_row){blocks, keys - (int32_t)(rows - 1 - r)};
    float *q = draw_floats(e, rows * q_width, 1.0f), *d_out = draw_floats(e, rows * q_width, 1.0f);
    void *out = zeros(e, (size_t)(rows * q_width) * 4);
    float *lse = zeros(e, (size_t)(rows * heads) * sizeof *lse);
    e->ops->attention(NULL, &kv, rows, heads, q, q_width, table, out, lse);
    record_act(e, out, rows * q_width);
    record(e, lse, rows * heads);
    float *dq = draw_floats(e, rows * q_width, 1.0f);
    float *dk = draw_floats(e, keys * kv_width, 1.0f), *dv = draw_floats(e, keys * kv_width, 1.0f);
    e->ops->attention_backward(NULL, &kv, rows, heads, q, q_width, table, out, lse, d_out, dq,
                               q_width, dk, dv, kv_width);
    record(e, dq, rows * q_width);
    record(e, dk, keys * kv_width);
    record(e, dv, keys * kv_width);
}

static void run_token_logprob(struct exercise *e)
{
    int64_t rows = draw_size(e, 1, 4), vocab = draw_size(e, 1, 600);
    float temperature = draw_size(e, 0, 1) != 0 ? 1.0f : 0.7f;
    float *logits = draw_floats(e, rows * vocab, 5.0f);
    float *d_logprob = draw_floats(e, rows, 1.0f), *d_entropy = draw_floats(e, rows, 1.0f);
    float *results = zeros(e, (size_t)rows * 3 * sizeof *results);
    float *probs = zeros(e, (size_t)vocab * sizeof *probs);
    int32_t *tokens = zeros(e, (size_t)rows * sizeof *tokens);
    for (int64_t r = 0; r < rows; r++)
        tokens[r] = (int32_t)draw_size(e, 0, vocab - 1);
    float *entropy = results + rows, *lse = entropy + rows;
    int32_t *ids = zeros(e, (size_t)vocab * sizeof *ids);
    struct logit_support *support = zeros(e, (size_t)rows * sizeof *support);
    for (int32_t id = 0; id < vocab; id++)
        if (draw_size(e, 0, 2) != 0 || id == tokens[0])
            ids[support[0].count++] = id;
    support[0].ids = ids; /* the first row is cut */
    struct softmax_parts parts;
    e->ops->cut_logits(NULL, rows, vocab, logits, vocab, support);
    e->ops->softmax_row(vocab, logits, temperature, probs, &parts);
    e->ops->token_logprob(NULL, rows, vocab, logits, vocab, temperature, tokens, results, entropy,
                          lse);
    e->ops->token_logprob_backward(NULL, rows, vocab, logits, vocab, temperature, tokens, lse,
                                   entropy, d_logprob, d_entropy);
    record(e, probs, vocab);
    record(e, &parts.max, 1);
    record(e, &parts.log_sum, 1);
    record(e, results, rows * 3);
    record(e, logits, rows * vocab);
}

static const struct {
    const char *name;
    void (*run)(struct exercise *e);
} cases[] = {
    {"gemm", run_gemm},
    {"linear", run_linear},
    {"elementwise", run_elementwise},
    {"adamw", run_adamw},
    {"embed", run_embed},
    {"rmsnorm", run_rmsnorm},
    {"rope", run_rope},
    {"swiglu", run_swiglu},
    {"attention", run_attention},
    {"token_logprob", run_token_logprob},
};

static bool same_word(uint32_t a, uint32_t b)
{
    const uint32_t infinity = 0x7f800000u, magnitude = 0x7fffffffu;
    return a == b || ((a & magnitude) > infinity && (b & magnitude) > infinity);
}

/* Runs one case from a fresh counter and leaves its results in e->words. */
static void run_case(struct exercise *e, size_t index, uint32_t *words)
{
    e->words = words;
    e->word_count = 0;
    e->position = (uint64_t)index << 32;
    arena_clear(&e->scratch);
    cases[index].run(e);
}

static int compare_case(struct exercise *e, size_t index, const struct backend_ops *reference,
                        const struct backend_ops *other, uint32_t *words)
{
    e->ops = reference;
    run_case(e, index, words);
    int64_t count = e->word_count;
    e->ops = other;
    run_case(e, index, words + RESULT_WORDS_MAX);
    for (int64_t i = 0; i < count; i++)
        if (!same_word(words[i], words[RESULT_WORDS_MAX + i]))
            return error_set(HONE_EUNSUPPORTED,
                             "%s (%s): %s gives 0x%08x where %s gives 0x%08x (result %lld of %lld)",
                             cases[index].name, dtype_name(e->dtype), other->name,
                             words[RESULT_WORDS_MAX + i], reference->name, words[i], (long long)i,
                             (long long)count);
    return 0;
}

int backend_compare(const struct backend_ops *reference, const struct backend_ops *other,
                    uint64_t seed)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};
    struct arena results;
    struct exercise e = {.key = {.seed = seed, .purpose = RNG_SIM}};
    int rc = 0;
    compute_thread_init();
    arena_init(&results, 2 * RESULT_WORDS_MAX * sizeof(uint32_t));
    arena_init(&e.scratch, SCRATCH_BYTES);
    uint32_t *words = arena_alloc(&results, 2 * RESULT_WORDS_MAX * sizeof *words);
    for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0] && rc == 0; d++) {
        e.dtype = dtypes[d];
        e.key.b = (uint32_t)d;
        for (size_t i = 0; i < sizeof cases / sizeof cases[0] && rc == 0; i++)
            rc = compare_case(&e, i, reference, other, words);
    }
    arena_release(&e.scratch);
    arena_release(&results);
    return rc;
}

int backend_self_test(void)
{
    const struct backend_ops *reference = backend_cpu(CPU_ISA_SCALAR);
    for (int isa = CPU_ISA_SCALAR + 1; isa < CPU_ISA_COUNT; isa++) {
        const struct backend_ops *ops = backend_cpu((enum cpu_isa)isa);
        for (uint64_t round = 0; ops != NULL && round < 4; round++) {
            int rc = backend_compare(reference, ops, SELF_TEST_SEED + round);
            if (rc < 0)
                return error_prefix("self-test");
        }
    }
    return 0;
}

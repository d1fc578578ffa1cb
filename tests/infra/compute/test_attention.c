/* Attention and its gradient: against double precision, against finite differences, and bit for bit
 * against the order of additions that docs/decisions/0001 gives, written out one element at a time.
 */
#include "tests/infra/compute/fixture.h"

#include "infra/compute/vec/vec.h"
#include "infra/compute/vec/vec_math.h"

#define KEYS_MAX 310
#define BLOCKS   11

/* One sequence of `keys` tokens in a paged cache. Memory outside the stored tokens holds NaN. */
struct sequence {
    enum dtype dtype;
    int32_t heads, kv_heads, head_dim, keys;
    int64_t q_width, kv_width;
    float *q, *k, *v;
    struct attention_kv kv;
    struct attention_row rows[KEYS_MAX];
};

static const int32_t block_table[] = {3, 1, 2, 10, 4, 0, 9, 5, 8, 6};

static struct sequence *sequence_create(const struct backend_ops *ops, enum dtype dtype,
                                        int32_t heads, int32_t kv_heads, int32_t head_dim,
                                        int32_t keys)
{
    struct sequence *s = MEMORY_NEW(struct sequence);
    *s = (struct sequence){.dtype = dtype, .heads = heads, .kv_heads = kv_heads, .keys = keys};
    s->head_dim = head_dim;
    s->q_width = (int64_t)heads * head_dim;
    s->kv_width = (int64_t)kv_heads * head_dim;
    s->q = floats(keys * s->q_width, 1, 2.0f);
    s->k = floats(keys * s->kv_width, 2, 1.0f);
    s->v = floats(keys * s->kv_width, 3, 1.0f);
    size_t bytes = (size_t)(BLOCKS * attention_block_values(dtype, kv_heads, head_dim)) * 4;
    s->kv = (struct attention_kv){memory_alloc(bytes, 1), memory_alloc(bytes, 1), kv_heads,
                                  head_dim, dtype};
    memset(s->kv.keys, 0xff, bytes);
    memset(s->kv.values, 0xff, bytes);
    int32_t ids[KEYS_MAX], offsets[KEYS_MAX];
    for (int32_t i = 0; i < keys; i++) {
        ids[i] = block_table[i / ATTENTION_BLOCK_TOKENS];
        offsets[i] = i % ATTENTION_BLOCK_TOKENS;
        s->rows[i] = (struct attention_row){block_table, i + 1};
    }
    ops->kv_store(NULL, &s->kv, keys, s->k, s->kv_width, s->v, s->kv_width, ids, offsets);
    return s;
}

static void sequence_destroy(struct sequence *s)
{
    memory_free(s->q);
    memory_free(s->k);
    memory_free(s->v);
    memory_free(s->kv.keys);
    memory_free(s->kv.values);
    memory_free(s);
}

/* Probabilities of one row and head over its keys, in double; returns lse. */
static double naive_probabilities(const struct sequence *s, int64_t row, int32_t head, double *p)
{
    int32_t kv_head = head / (s->heads / s->kv_heads);
    double max = -INFINITY, sum = 0.0;
    for (int64_t j = 0; j <= row; j++) {
        p[j] = 0.0;
        for (int64_t d = 0; d < s->head_dim; d++)
            p[j] += (double)rounded_to(s->dtype, s->q[row * s->q_width + head * s->head_dim + d]) *
                    (double)rounded_to(s->dtype, s->k[j * s->kv_width + kv_head * s->head_dim + d]);
        p[j] /= sqrt((double)s->head_dim);
        max = fmax(max, p[j]);
    }
    for (int64_t j = 0; j <= row; j++)
        sum += exp(p[j] - max);
    for (int64_t j = 0; j <= row; j++)
        p[j] = exp(p[j] - max) / sum;
    return max + log(sum);
}

static double naive_output(const struct sequence *s, int64_t row, int32_t head, int64_t d,
                           const double *p)
{
    int32_t kv_head = head / (s->heads / s->kv_heads);
    double sum = 0.0;
    for (int64_t j = 0; j <= row; j++)
        sum +=
            p[j] * (double)rounded_to(s->dtype, s->v[j * s->kv_width + kv_head * s->head_dim + d]);
    return sum;
}

static void check_forward(const struct backend_ops *ops, enum dtype dtype, int32_t heads,
                          int32_t kv_heads, int32_t head_dim, int32_t keys)
{
    struct sequence *s = sequence_create(ops, dtype, heads, kv_heads, head_dim, keys);
    size_t size = dtype_bytes(dtype);
    char *out = memory_alloc((size_t)(keys * s->q_width), 4);
    char *again = memory_alloc((size_t)(keys * s->q_width), 4);
    float *lse = MEMORY_ARRAY(float, keys *heads);
    ops->attention(NULL, &s->kv, keys, heads, s->q, s->q_width, s->rows, out, lse);
    for (int64_t row = 0; row < keys; row++)
        for (int32_t head = 0; head < heads; head++) {
            double p[KEYS_MAX];
            double want_lse = naive_probabilities(s, row, head, p);
            assert_near((double)lse[row * heads + head], want_lse, 2e-6);
            for (int64_t d = 0; d < head_dim; d++)
                assert_near((double)act_at(dtype, out, row * s->q_width + head * head_dim + d),
                            naive_output(s, row, head, d, p),
                            dtype == DTYPE_F32 ? 2e-6 : 1.0 / 256);
        }
    /* One row at a time, and on threads: the same bits (decode equals prefill). */
    for (int64_t row = 0; row < keys; row++)
        ops->attention(NULL, &s->kv, 1, heads, s->q + row * s->q_width, s->q_width, s->rows + row,
                       again + (size_t)(row * s->q_width) * size, NULL);
    assert_same_bits(again, out, keys * s->q_width, size);
    for (int threads = 2; threads <= 3; threads++) {
        struct parallel *pool = parallel_create(threads);
        memset(again, 0, (size_t)(keys * s->q_width) * size);
        ops->attention(pool, &s->kv, keys, heads, s->q, s->q_width, s->rows, again, NULL);
        assert_same_bits(again, out, keys * s->q_width, size);
        parallel_destroy(pool);
    }
    memory_free(out);
    memory_free(again);
    memory_free(lse);
    sequence_destroy(s);
}

static void run_forward(const struct backend_ops *ops)
{
    for (int d = 0; d < 2; d++) {
        enum dtype dtype = d == 0 ? DTYPE_F32 : DTYPE_BF16;
        check_forward(ops, dtype, 1, 1, 8, 1);
        check_forward(ops, dtype, 4, 2, 16, 33);
        check_forward(ops, dtype, 3, 1, 37, 64);
        check_forward(ops, dtype, 2, 2, 64, 70);
    }
}

static void test_forward(void **state)
{
    (void)state;
    for_each_table(run_forward);
}

/* sum of d_out . out over all rows, in double. */
static double attention_loss(const struct sequence *s, const float *d_out)
{
    double loss = 0.0, p[KEYS_MAX];
    for (int64_t row = 0; row < s->keys; row++)
        for (int32_t head = 0; head < s->heads; head++) {
            naive_probabilities(s, row, head, p);
            for (int64_t d = 0; d < s->head_dim; d++)
                loss += (double)d_out[row * s->q_width + head * s->head_dim + d] *
                        naive_output(s, row, head, d, p);
        }
    return loss;
}

static double attention_slope(const struct sequence *s, const float *d_out, float *at)
{
    float saved = *at, step = 1.0f / 512.0f;
    *at = saved + step;
    double high = attention_loss(s, d_out), top = (double)*at;
    *at = saved - step;
    double low = attention_loss(s, d_out), bottom = (double)*at;
    *at = saved;
    return (high - low) / (top - bottom);
}

struct gradients {
    float *dq, *dk, *dv;
};

static struct gradients run_backward(const struct backend_ops *ops, struct parallel *pool,
                                     const struct sequence *s, const float *d_out)
{
    char *out = memory_alloc((size_t)(s->keys * s->q_width), 4);
    float *lse = MEMORY_ARRAY(float, s->keys * s->heads);
    struct gradients g = {floats(s->keys * s->q_width, 11, 1.0f),
                          floats(s->keys * s->kv_width, 12, 1.0f),
                          floats(s->keys * s->kv_width, 13, 1.0f)};
    ops->attention(pool, &s->kv, s->keys, s->heads, s->q, s->q_width, s->rows, out, lse);
    ops->attention_backward(pool, &s->kv, s->keys, s->heads, s->q, s->q_width, s->rows, out, lse,
                            d_out, g.dq, s->q_width, g.dk, g.dv, s->kv_width);
    memory_free(out);
    memory_free(lse);
    return g;
}

static void gradients_release(struct gradients *g)
{
    memory_free(g->dq);
    memory_free(g->dk);
    memory_free(g->dv);
}

/* dq is written, dk and dv are added to. */
static void check_backward(const struct backend_ops *ops, int32_t heads, int32_t kv_heads,
                           int32_t head_dim, int32_t keys)
{
    struct sequence *s = sequence_create(ops, DTYPE_F32, heads, kv_heads, head_dim, keys);
    float *d_out = floats(keys * s->q_width, 10, 1.0f);
    float *dk = floats(keys * s->kv_width, 12, 1.0f), *dv = floats(keys * s->kv_width, 13, 1.0f);
    struct gradients g = run_backward(ops, NULL, s, d_out);
    for (int64_t i = 0; i < keys * s->q_width; i += 1 + keys * s->q_width / 60)
        assert_near((double)g.dq[i], attention_slope(s, d_out, &s->q[i]), 2e-5);
    for (int64_t i = 0; i < keys * s->kv_width; i += 1 + keys * s->kv_width / 60) {
        assert_near((double)g.dk[i] - (double)dk[i], attention_slope(s, d_out, &s->k[i]), 2e-5);
        assert_near((double)g.dv[i] - (double)dv[i], attention_slope(s, d_out, &s->v[i]), 2e-5);
    }
    struct parallel *pool = parallel_create(3);
    struct gradients threaded = run_backward(ops, pool, s, d_out);
    assert_same_bits(threaded.dq, g.dq, keys * s->q_width, sizeof *d_out);
    assert_same_bits(threaded.dk, g.dk, keys * s->kv_width, sizeof *d_out);
    assert_same_bits(threaded.dv, g.dv, keys * s->kv_width, sizeof *d_out);
    parallel_destroy(pool);
    gradients_release(&threaded);
    gradients_release(&g);
    memory_free(d_out);
    memory_free(dk);
    memory_free(dv);
    sequence_destroy(s);
}

static void run_backward_shapes(const struct backend_ops *ops)
{
    check_backward(ops, 1, 1, 8, 1);
    check_backward(ops, 2, 1, 16, 35);
    check_backward(ops, 4, 2, 21, 40);
}

static void test_backward(void **state)
{
    (void)state;
    for_each_table(run_backward_shapes);
}

/* bf16: the gradient of the rounded problem. Against fp32 on the rounded inputs every p, ds and
 * d_out is off by up to 2^-9 of itself, and D by the rounding of `out`. */
static void run_backward_bf16(const struct backend_ops *ops)
{
    struct sequence *s = sequence_create(ops, DTYPE_BF16, 4, 2, 24, 45);
    struct sequence *wide = sequence_create(ops, DTYPE_F32, 4, 2, 24, 45);
    float *d_out = floats(45 * s->q_width, 10, 1.0f);
    for (int64_t i = 0; i < 45 * s->q_width; i++)
        d_out[i] = rounded_to(DTYPE_BF16, d_out[i]);
    int32_t ids[KEYS_MAX], offsets[KEYS_MAX];
    for (int32_t i = 0; i < 45; i++) {
        ids[i] = block_table[i / ATTENTION_BLOCK_TOKENS];
        offsets[i] = i % ATTENTION_BLOCK_TOKENS;
    }
    for (int64_t i = 0; i < 45 * s->q_width; i++)
        wide->q[i] = rounded_to(DTYPE_BF16, wide->q[i]);
    for (int64_t i = 0; i < 45 * s->kv_width; i++) {
        wide->k[i] = rounded_to(DTYPE_BF16, wide->k[i]);
        wide->v[i] = rounded_to(DTYPE_BF16, wide->v[i]);
    }
    ops->kv_store(NULL, &wide->kv, 45, wide->k, s->kv_width, wide->v, s->kv_width, ids, offsets);
    struct gradients got = run_backward(ops, NULL, s, d_out);
    struct gradients want = run_backward(ops, NULL, wide, d_out);
    for (int64_t i = 0; i < 45 * s->q_width; i++)
        assert_near((double)got.dq[i], (double)want.dq[i], 5e-3);
    for (int64_t i = 0; i < 45 * s->kv_width; i++) {
        assert_near((double)got.dk[i], (double)want.dk[i], 2e-2);
        assert_near((double)got.dv[i], (double)want.dv[i], 1e-2);
    }
    gradients_release(&got);
    gradients_release(&want);
    memory_free(d_out);
    sequence_destroy(s);
    sequence_destroy(wide);
}

static void test_backward_bf16(void **state)
{
    (void)state;
    for_each_table(run_backward_bf16);
}

/* ---- the order of additions, element by element ---- */

static float kv_at(const struct sequence *s, const float *x, int64_t key, int32_t head, int64_t d)
{
    int32_t kv_head = head / (s->heads / s->kv_heads);
    return rounded_to(s->dtype, x[key * s->kv_width + kv_head * s->head_dim + d]);
}

static float q_at(const struct sequence *s, int64_t row, int32_t head, int64_t d)
{
    return rounded_to(s->dtype, s->q[row * s->q_width + head * s->head_dim + d]);
}

/* N3 over `count` values, continuing from sum. */
static float canonical_dot(const float *a, const float *b, int64_t count, float sum)
{
    for (int64_t block = 0; block < count; block += 32) {
        float chains[2] = {0.0f, 0.0f};
        for (int64_t k = block; k < block + 32 && k < count; k++)
            chains[k % 2] = fmaf(a[k], b[k], chains[k % 2]);
        sum = sum + (chains[0] + chains[1]);
    }
    return sum;
}

static float exp2_one(float x)
{
    float lanes[VEC_LANES];
    vec_store(lanes, vec_exp2(vec_set1(x)));
    return lanes[0];
}

/* A head's vectors of one row, rounded. */
static void q_row(const struct sequence *s, int64_t row, int32_t head, float *to)
{
    for (int64_t d = 0; d < s->head_dim; d++)
        to[d] = q_at(s, row, head, d);
}

static void kv_row(const struct sequence *s, const float *x, int64_t key, int32_t head, float *to)
{
    for (int64_t d = 0; d < s->head_dim; d++)
        to[d] = kv_at(s, x, key, head, d);
}

/* In units of log2. */
static float score_bf16(const struct sequence *s, int64_t row, int32_t head, int64_t key)
{
    float q[KEYS_MAX], k[KEYS_MAX];
    q_row(s, row, head, q);
    kv_row(s, s->k, key, head, k);
    return canonical_dot(q, k, s->head_dim, 0.0f) *
           (1.0f / sqrtf((float)s->head_dim) * 0x1.715476p+0f);
}

/* Returns lse; out gets the row's outputs before rounding. */
static float written_out_row_bf16(const struct sequence *s, int64_t row, int32_t head, float *out)
{
    float max = -INFINITY, sum = 0.0f;
    memset(out, 0, (size_t)s->head_dim * sizeof *out);
    for (int64_t first = 0; first <= row; first += ATTENTION_BLOCK_TOKENS) {
        float p[ATTENTION_BLOCK_TOKENS] = {0}, v[ATTENTION_BLOCK_TOKENS] = {0}, most = max;
        int64_t valid = row + 1 - first < 32 ? row + 1 - first : 32;
        for (int64_t j = 0; j < valid; j++) {
            p[j] = score_bf16(s, row, head, first + j);
            most = most > p[j] ? most : p[j];
        }
        for (int64_t j = 0; j < valid; j++)
            p[j] = exp2_one(p[j] - most);
        float correction = exp2_one(max - most);
        sum = fmaf(sum, correction, vec_sum(vec_add(vec_load(p), vec_load(p + VEC_LANES))));
        max = most;
        for (int64_t j = 0; j < valid; j++)
            p[j] = rounded_to(DTYPE_BF16, p[j]);
        for (int64_t d = 0; d < s->head_dim; d++) {
            for (int64_t j = 0; j < valid; j++)
                v[j] = kv_at(s, s->v, first + j, head, d);
            out[d] = fmaf(out[d], correction, canonical_dot(p, v, 32, 0.0f));
        }
    }
    for (int64_t d = 0; d < s->head_dim; d++)
        out[d] = out[d] / sum + 0.0f;
    return fmaf(max, 0x1.62e430p-1f, log_one(sum));
}

/* p and ds of a head, [row][KEYS_MAX], rounded. */
static void written_out_weights(const struct sequence *s, int32_t head, const void *out,
                                const float *lse, const float *d_out, float *p, float *ds)
{
    int64_t dim = s->head_dim;
    for (int64_t row = 0; row < s->keys; row++) {
        int64_t at = row * s->q_width + head * dim;
        float slope[KEYS_MAX], v[KEYS_MAX], shift = lse[row * s->heads + head] * 0x1.715476p+0f;
        struct vec dot = vec_zero();
        for (int64_t d = 0; d < dim; d++)
            slope[d] = rounded_to(DTYPE_BF16, d_out[at + d]);
        for (int64_t d = 0; d < dim; d += VEC_LANES)
            dot = vec_fma(vec_load_up_to(slope + d, dim - d),
                          act_load(DTYPE_BF16, out, at + d, dim - d), dot);
        for (int64_t key = 0; key < s->keys; key++) {
            float weight = key <= row ? exp2_one(score_bf16(s, row, head, key) - shift) : 0.0f;
            kv_row(s, s->v, key, head, v);
            float dp = canonical_dot(slope, v, dim, 0.0f) - vec_sum(dot);
            p[row * KEYS_MAX + key] = rounded_to(DTYPE_BF16, weight);
            ds[row * KEYS_MAX + key] =
                key <= row ? rounded_to(DTYPE_BF16, weight * dp * (1.0f / sqrtf((float)dim))) : 0;
        }
    }
}

/* The sum over one block of positions of weights[row][key] * x[row][d], onto sum. */
static float position_block(const struct sequence *s, int64_t first, const float *weights,
                            int64_t key, const float *x, int64_t d, float sum)
{
    float a[32] = {0}, b[32] = {0};
    for (int64_t i = 0; i < 32 && first + i < s->keys; i++) {
        a[i] = rounded_to(DTYPE_BF16, x[(first + i) * s->q_width + d]);
        b[i] = weights[(first + i) * KEYS_MAX + key];
    }
    return canonical_dot(a, b, 32, sum);
}

/* Of a KV head: dq of its group, and what it adds to dk and dv. p and ds: of the group's heads, one
 * after the other. */
static void written_out_group(const struct sequence *s, int32_t kv_head, const float *p,
                              const float *ds, const float *d_out, struct gradients *g)
{
    int64_t dim = s->head_dim, size = KEYS_MAX * KEYS_MAX;
    int32_t group = s->heads / s->kv_heads;
    for (int64_t i = 0; i < s->keys; i++)
        for (int64_t d = 0; d < dim; d++) {
            float dk = 0.0f, dv = 0.0f, k[KEYS_MAX];
            for (int64_t first = i / 32 * 32; first < s->keys; first += 32)
                for (int32_t h = 0; h < group; h++) {
                    int64_t column = (kv_head * group + h) * dim + d;
                    dk = position_block(s, first, ds + h * size, i, s->q, column, dk);
                    dv = position_block(s, first, p + h * size, i, d_out, column, dv);
                }
            g->dk[i * s->kv_width + kv_head * dim + d] += dk;
            g->dv[i * s->kv_width + kv_head * dim + d] += dv;
            for (int64_t key = 0; key < s->keys; key++)
                k[key] = kv_at(s, s->k, key, kv_head * group, d);
            for (int32_t h = 0; h < group; h++)
                g->dq[i * s->q_width + (kv_head * group + h) * dim + d] =
                    canonical_dot(ds + h * size + i * KEYS_MAX, k, s->keys, 0.0f);
        }
}

static void written_out_gradients_bf16(const struct sequence *s, const void *out, const float *lse,
                                       const float *d_out, struct gradients *g)
{
    int32_t group = s->heads / s->kv_heads;
    int64_t size = KEYS_MAX * KEYS_MAX;
    float *p = MEMORY_ARRAY(float, group *size), *ds = MEMORY_ARRAY(float, group *size);
    for (int32_t kv_head = 0; kv_head < s->kv_heads; kv_head++) {
        for (int32_t h = 0; h < group; h++)
            written_out_weights(s, kv_head * group + h, out, lse, d_out, p + h * size,
                                ds + h * size);
        written_out_group(s, kv_head, p, ds, d_out, g);
    }
    memory_free(p);
    memory_free(ds);
}

static float score_at(const struct sequence *s, int64_t row, int32_t head, int64_t key)
{
    float score = 0.0f;
    for (int64_t d = 0; d < s->head_dim; d++)
        score = fmaf(q_at(s, row, head, d), kv_at(s, s->k, key, head, d), score);
    return score * (1.0f / sqrtf((float)s->head_dim));
}

/* Returns lse; out gets the row's outputs before rounding. */
static float written_out_row(const struct sequence *s, int64_t row, int32_t head, float *out)
{
    float max = -INFINITY, sum = 0.0f;
    memset(out, 0, (size_t)s->head_dim * sizeof *out);
    for (int64_t first = 0; first <= row; first += ATTENTION_BLOCK_TOKENS) {
        float p[ATTENTION_BLOCK_TOKENS] = {0}, most = max;
        int64_t valid =
            row + 1 - first < ATTENTION_BLOCK_TOKENS ? row + 1 - first : ATTENTION_BLOCK_TOKENS;
        for (int64_t j = 0; j < valid; j++) {
            p[j] = score_at(s, row, head, first + j);
            most = most > p[j] ? most : p[j];
        }
        for (int64_t j = 0; j < valid; j++)
            p[j] = exp_one(p[j] - most);
        float correction = exp_one(max - most);
        sum = fmaf(sum, correction, vec_sum(vec_add(vec_load(p), vec_load(p + VEC_LANES))));
        max = most;
        for (int64_t d = 0; d < s->head_dim; d++) {
            out[d] *= correction;
            for (int64_t j = 0; j < valid; j++)
                out[d] = fmaf(p[j], kv_at(s, s->v, first + j, head, d), out[d]);
        }
    }
    for (int64_t d = 0; d < s->head_dim; d++)
        out[d] /= sum;
    return max + log_one(sum);
}

/* Adds row's and head's share to the gradients; out and lse are the forward's. */
static void written_out_gradient(const struct sequence *s, int64_t row, int32_t head,
                                 const void *out, const float *lse, const float *d_out,
                                 struct gradients *g)
{
    int64_t at = row * s->q_width + head * s->head_dim, dim = s->head_dim;
    int32_t kv_head = head / (s->heads / s->kv_heads);
    float scale = 1.0f / sqrtf((float)dim);
    struct vec dot = vec_zero();
    for (int64_t d = 0; d < dim; d += VEC_LANES)
        dot = vec_fma(vec_load_up_to(d_out + at + d, dim - d),
                      act_load(s->dtype, out, at + d, dim - d), dot);
    for (int64_t key = 0; key <= row; key++) {
        float dp = 0.0f, p = exp_one(score_at(s, row, head, key) - lse[row * s->heads + head]);
        for (int64_t d = 0; d < dim; d++)
            dp = fmaf(d_out[at + d], kv_at(s, s->v, key, head, d), dp);
        float ds = p * (dp - vec_sum(dot)) * scale;
        for (int64_t d = 0; d < dim; d++) {
            int64_t to = key * s->kv_width + kv_head * dim + d;
            g->dq[at + d] = fmaf(ds, kv_at(s, s->k, key, head, d), g->dq[at + d]);
            g->dk[to] = fmaf(ds, q_at(s, row, head, d), g->dk[to]);
            g->dv[to] = fmaf(p, d_out[at + d], g->dv[to]);
        }
    }
}

static void check_order(const struct backend_ops *ops, enum dtype dtype, int32_t heads,
                        int32_t kv_heads, int32_t head_dim, int32_t keys)
{
    struct sequence *s = sequence_create(ops, dtype, heads, kv_heads, head_dim, keys);
    int64_t outputs = keys * s->q_width, kv_values = keys * s->kv_width;
    float *d_out = floats(outputs, 10, 1.0f), *lse = MEMORY_ARRAY(float, keys *heads);
    char *out = memory_alloc((size_t)outputs, 4);
    struct gradients want = {MEMORY_ARRAY(float, outputs), floats(kv_values, 12, 1.0f),
                             floats(kv_values, 13, 1.0f)};
    ops->attention(NULL, &s->kv, keys, heads, s->q, s->q_width, s->rows, out, lse);
    for (int64_t row = 0; row < keys; row++)
        for (int32_t head = 0; head < heads; head++) {
            float row_out[KEYS_MAX];
            float row_lse = dtype == DTYPE_BF16 ? written_out_row_bf16(s, row, head, row_out)
                                                : written_out_row(s, row, head, row_out);
            assert_same_bits(&row_lse, &lse[row * heads + head], 1, sizeof row_lse);
            for (int64_t d = 0; d < head_dim; d++) {
                float got = act_at(dtype, out, row * s->q_width + head * head_dim + d);
                float rounded = rounded_to(dtype, row_out[d]);
                assert_same_bits(&got, &rounded, 1, sizeof got);
            }
            if (dtype == DTYPE_F32)
                written_out_gradient(s, row, head, out, lse, d_out, &want);
        }
    if (dtype == DTYPE_BF16)
        written_out_gradients_bf16(s, out, lse, d_out, &want);
    struct gradients got = run_backward(ops, NULL, s, d_out);
    assert_same_bits(got.dq, want.dq, outputs, sizeof *d_out);
    assert_same_bits(got.dk, want.dk, kv_values, sizeof *d_out);
    assert_same_bits(got.dv, want.dv, kv_values, sizeof *d_out);
    gradients_release(&got);
    gradients_release(&want);
    memory_free(d_out);
    memory_free(lse);
    memory_free(out);
    sequence_destroy(s);
}

/* Lengths that end inside a block, a tile of queries and a span of keys. */
static void run_order(const struct backend_ops *ops)
{
    for (int d = 0; d < 2; d++) {
        enum dtype dtype = d == 0 ? DTYPE_F32 : DTYPE_BF16;
        check_order(ops, dtype, 1, 1, 16, 310);
        check_order(ops, dtype, 6, 2, 21, 165);
        check_order(ops, dtype, 5, 1, 32, 37);
    }
}

static void test_order_of_additions(void **state)
{
    (void)state;
    for_each_table(run_order);
}

/* Keys and values after a row's own position may be anything, infinite too: the row's bits are
 * those that it has where they are not. */
static void run_later_keys(const struct backend_ops *ops)
{
    const float later[] = {INFINITY, -INFINITY, NAN, 3e38f};
    for (int d = 0; d < 2; d++)
        for (int32_t head_dim = 16; head_dim <= 40; head_dim += 24) {
            enum dtype dtype = d == 0 ? DTYPE_F32 : DTYPE_BF16;
            struct sequence *s = sequence_create(ops, dtype, 4, 2, head_dim, 50);
            size_t bytes = (size_t)(50 * s->q_width) * dtype_bytes(dtype);
            size_t seen = (size_t)(35 * s->q_width) * dtype_bytes(dtype);
            char *want = memory_alloc(bytes, 1), *got = memory_alloc(bytes, 1);
            int32_t ids[KEYS_MAX], offsets[KEYS_MAX];
            ops->attention(NULL, &s->kv, 50, 4, s->q, s->q_width, s->rows, want, NULL);
            for (int32_t i = 35; i < 50; i++) {
                ids[i] = block_table[i / ATTENTION_BLOCK_TOKENS];
                offsets[i] = i % ATTENTION_BLOCK_TOKENS;
                for (int64_t at = i * s->kv_width; at < (i + 1) * s->kv_width; at++)
                    s->k[at] = s->v[at] = later[at % 4];
            }
            ops->kv_store(NULL, &s->kv, 15, s->k + 35 * s->kv_width, s->kv_width,
                          s->v + 35 * s->kv_width, s->kv_width, ids + 35, offsets + 35);
            ops->attention(NULL, &s->kv, 50, 4, s->q, s->q_width, s->rows, got, NULL);
            assert_same_bits(got, want, (int64_t)seen, 1);
            for (int64_t at = 36 * s->q_width; at < 50 * s->q_width; at++)
                assert_true(isnan(act_at(dtype, got, at)));
            memory_free(want);
            memory_free(got);
            sequence_destroy(s);
        }
}

static void test_later_keys(void **state)
{
    (void)state;
    for_each_table(run_later_keys);
}

/* The gradient of the last rows alone: that of all rows when the others' d_out is 0. */
static void run_last_rows(const struct backend_ops *ops)
{
    for (int d = 0; d < 2; d++) {
        const int64_t first = 45, keys = 150;
        struct sequence *s =
            sequence_create(ops, d == 0 ? DTYPE_F32 : DTYPE_BF16, 6, 2, 24, (int32_t)keys);
        float *d_out = floats(keys * s->q_width, 10, 1.0f);
        memset(d_out, 0, (size_t)(first * s->q_width) * sizeof *d_out);
        struct gradients want = run_backward(ops, NULL, s, d_out),
                         got = run_backward(ops, NULL, s, d_out);
        int64_t kv_values = keys * s->kv_width, at = first * s->q_width;
        char *out = memory_alloc((size_t)(keys * s->q_width), 4);
        float *lse = MEMORY_ARRAY(float, keys * s->heads);
        fill(got.dk, kv_values, 12, 1.0f);
        fill(got.dv, kv_values, 13, 1.0f);
        fill(got.dq + at, (keys - first) * s->q_width, 14, 1.0f);
        ops->attention(NULL, &s->kv, keys - first, s->heads, s->q + at, s->q_width, s->rows + first,
                       out, lse);
        ops->attention_backward(NULL, &s->kv, keys - first, s->heads, s->q + at, s->q_width,
                                s->rows + first, out, lse, d_out + at, got.dq + at, s->q_width,
                                got.dk, got.dv, s->kv_width);
        assert_same_bits(got.dq + at, want.dq + at, (keys - first) * s->q_width, sizeof *d_out);
        assert_same_bits(got.dk, want.dk, kv_values, sizeof *d_out);
        assert_same_bits(got.dv, want.dv, kv_values, sizeof *d_out);
        gradients_release(&got);
        gradients_release(&want);
        memory_free(out);
        memory_free(lse);
        memory_free(d_out);
        sequence_destroy(s);
    }
}

static void test_last_rows(void **state)
{
    (void)state;
    for_each_table(run_last_rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),       cmocka_unit_test(test_backward),
        cmocka_unit_test(test_backward_bf16), cmocka_unit_test(test_order_of_additions),
        cmocka_unit_test(test_later_keys),    cmocka_unit_test(test_last_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

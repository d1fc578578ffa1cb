#include "tests/infra/compute/fixture.h"

/* Operands of one product with row strides wider than the matrices; the padding is NaN, so a read
 * past a row shows in the result, and a marker, so that a write past a row of C shows. */
struct product {
    enum dtype dtype;
    int64_t m, n, k, lda, ldb, ldc;
    bool b_is_nk;
    void *a, *b, *packed;
    float *c_start, *c;
};

#define MARKER 12345.0f

static void *operand(enum dtype dtype, int64_t rows, int64_t columns, int64_t ld, uint64_t seed)
{
    float *x = floats(rows * ld, seed, 1.0f);
    struct rng_key key = {.seed = seed + 1, .purpose = RNG_SIM};
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < ld; c++) {
            uint64_t draw = rng_below(&key, (uint64_t)(r * ld + c), 64);
            float *value = &x[r * ld + c];
            if (c >= columns)
                *value = NAN;
            else if (draw < 2)
                *value = draw == 0 ? 0.0f : -0.0f;
            else if (draw == 2)
                *value *= 1e-39f;
            else if (draw == 3)
                *value *= 1e-20f;
        }
    void *result = as_act(dtype, x, rows * ld);
    memory_free(x);
    return result;
}

static struct product product_create(enum dtype dtype, int64_t m, int64_t n, int64_t k,
                                     uint64_t seed)
{
    struct product p = {.dtype = dtype, .m = m, .n = n, .k = k, .lda = k + 3, .ldc = n + 2};
    p.b_is_nk = seed % 2 == 0;
    p.ldb = (p.b_is_nk ? k : n) + 1;
    p.a = operand(dtype, m, k, p.lda, seed * 4);
    p.b = p.b_is_nk ? operand(dtype, n, k, p.ldb, seed * 4 + 1)
                    : operand(dtype, k, n, p.ldb, seed * 4 + 1);
    p.packed = memory_alloc(gemm_packed_bytes(dtype, n, k), 1);
    p.c = MEMORY_ARRAY(float, m *p.ldc);
    p.c_start = floats(m * p.ldc, seed * 4 + 2, 1.0f);
    for (int64_t r = 0; r < m; r++)
        for (int64_t c = n; c < p.ldc; c++)
            p.c_start[r * p.ldc + c] = MARKER;
    return p;
}

static void product_release(struct product *p)
{
    memory_free(p->a);
    memory_free(p->b);
    memory_free(p->packed);
    memory_free(p->c);
    memory_free(p->c_start);
}

static void product_run(struct product *p, const struct backend_ops *ops, struct parallel *pool,
                        bool accumulate)
{
    memset(p->packed, 0xff, gemm_packed_bytes(p->dtype, p->n, p->k));
    memcpy(p->c, p->c_start, (size_t)(p->m * p->ldc) * sizeof *p->c);
    ops->gemm_pack(pool, p->dtype, p->n, p->k, p->b, p->ldb, p->b_is_nk, p->packed);
    ops->gemm(pool, p->dtype, p->m, p->n, p->k, p->a, p->lda, p->packed, p->c, p->ldc, accumulate);
}

static float a_at(const struct product *p, int64_t row, int64_t k)
{
    return k < p->k ? act_at(p->dtype, p->a, row * p->lda + k) : 0.0f;
}

static float b_at(const struct product *p, int64_t k, int64_t column)
{
    if (k >= p->k)
        return 0.0f;
    return act_at(p->dtype, p->b, p->b_is_nk ? column * p->ldb + k : k * p->ldb + column);
}

/* The definition, written out (N3, N4). */
static float canonical(const struct product *p, int64_t row, int64_t column, float start)
{
    volatile float sum = start;
    if (p->dtype == DTYPE_F32) {
        for (int64_t k = 0; k < p->k; k++)
            sum = fmaf(a_at(p, row, k), b_at(p, k, column), sum);
        return sum;
    }
    for (int64_t block = 0; block < p->k; block += 32) {
        volatile float even = 0.0f, odd = 0.0f;
        for (int64_t k = block; k < block + 32; k += 2) {
            even = fmaf(a_at(p, row, k), b_at(p, k, column), even);
            odd = fmaf(a_at(p, row, k + 1), b_at(p, k + 1, column), odd);
        }
        volatile float both = even + odd;
        sum = sum + both;
    }
    return sum;
}

static void check_product(struct product *p, bool accumulate)
{
    for (int64_t r = 0; r < p->m; r++) {
        for (int64_t c = 0; c < p->n; c++) {
            float start = accumulate ? p->c_start[r * p->ldc + c] : 0.0f;
            float want = canonical(p, r, c, start);
            assert_same_bits(&p->c[r * p->ldc + c], &want, 1, sizeof want);
            double exact = (double)start;
            for (int64_t k = 0; k < p->k; k++)
                exact += (double)a_at(p, r, k) * (double)b_at(p, k, c);
            assert_near((double)want, exact, 1e-8 * (double)(1000 + p->k));
        }
        for (int64_t c = p->n; c < p->ldc; c++)
            assert_true(p->c[r * p->ldc + c] == MARKER);
    }
}

static const int64_t sizes[][3] = {
    {1, 1, 1},
    {1, 16, 32},
    {1, 100, 33},
    {2, 17, 31},
    {3, 15, 64},
    {5, 47, 65},
    {6, 33, 300},
    {7, 64, 256},
    {13, 96, 257},
    {49, 18, 290},
    {64, 20, 40},
    {97, 31, 70},
    /* several k chunks of few and of many rows; more panels than a group; mixed row tiles */
    {2, 20, 4200},
    {4, 50, 4130},
    {11, 230, 40},
    {48, 35, 520},
    {100, 50, 530},
    {193, 40, 64},
};

static void run_canonical(const struct backend_ops *ops)
{
    for (int dtype = 0; dtype < 2; dtype++)
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            struct product p = product_create(dtype == 0 ? DTYPE_F32 : DTYPE_BF16, sizes[i][0],
                                              sizes[i][1], sizes[i][2], 100 + i);
            product_run(&p, ops, NULL, false);
            check_product(&p, false);
            product_run(&p, ops, NULL, true);
            check_product(&p, true);
            product_release(&p);
        }
}

static void test_canonical_dot_product(void **state)
{
    (void)state;
    for_each_table(run_canonical);
}

static void run_threads(const struct backend_ops *ops)
{
    for (int dtype = 0; dtype < 2; dtype++)
        for (int64_t m = 1; m < 150; m += 37) {
            /* enough columns to give each thread its own, and too few for that */
            struct product p = product_create(dtype == 0 ? DTYPE_F32 : DTYPE_BF16, m,
                                              m % 2 == 0 ? 600 : 200, 130, (uint64_t)m);
            product_run(&p, ops, NULL, true);
            float *want = memory_dup(p.c, (size_t)(m * p.ldc) * sizeof *p.c);
            for (int threads = 1; threads <= 4; threads++) {
                struct parallel *pool = parallel_create(threads);
                product_run(&p, ops, pool, true);
                assert_same_bits(p.c, want, m * p.ldc, sizeof *p.c);
                parallel_destroy(pool);
            }
            memory_free(want);
            product_release(&p);
        }
}

static void test_threads_do_not_change_bits(void **state)
{
    (void)state;
    for_each_table(run_threads);
}

/* N2: any range of rows, computed alone, gives those rows. */
static void run_rows(const struct backend_ops *ops)
{
    const int64_t ranges[][2] = {{0, 1}, {5, 6}, {96, 97}, {1, 7}, {10, 58}, {40, 97}, {3, 16}};
    for (int dtype = 0; dtype < 2; dtype++) {
        struct product p = product_create(dtype == 0 ? DTYPE_F32 : DTYPE_BF16, 97, 77, 300, 9);
        product_run(&p, ops, NULL, false);
        float *alone = MEMORY_ARRAY(float, p.m *p.ldc);
        for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
            int64_t from = ranges[i][0], rows = ranges[i][1] - from;
            const char *a = (const char *)p.a + (size_t)(from * p.lda) * dtype_bytes(p.dtype);
            memset(alone, 0, (size_t)(p.m * p.ldc) * sizeof *alone);
            ops->gemm(NULL, p.dtype, rows, p.n, p.k, a, p.lda, p.packed, alone, p.ldc, false);
            for (int64_t r = 0; r < rows; r++)
                assert_same_bits(alone + r * p.ldc, p.c + (from + r) * p.ldc, p.n, sizeof *alone);
        }
        memory_free(alone);
        product_release(&p);
    }
}

static void test_rows_do_not_depend_on_their_batch(void **state)
{
    (void)state;
    for_each_table(run_rows);
}

/* Splitting k at a multiple of 32 and continuing from C is the same chain. */
static void run_accumulate(const struct backend_ops *ops)
{
    for (int dtype = 0; dtype < 2; dtype++) {
        struct product p = product_create(dtype == 0 ? DTYPE_F32 : DTYPE_BF16, 9, 40, 160, 2);
        size_t size = dtype_bytes(p.dtype);
        product_run(&p, ops, NULL, false);
        float *split = MEMORY_ARRAY(float, p.m *p.ldc);
        for (int64_t k = 0; k < 160; k += 64) {
            int64_t part = k + 64 <= 160 ? 64 : 160 - k;
            ops->gemm_pack(NULL, p.dtype, p.n, part, (const char *)p.b + (size_t)k * size, p.ldb,
                           true, p.packed);
            ops->gemm(NULL, p.dtype, p.m, p.n, part, (const char *)p.a + (size_t)k * size, p.lda,
                      p.packed, split, p.ldc, k > 0);
        }
        for (int64_t r = 0; r < p.m; r++)
            assert_same_bits(split + r * p.ldc, p.c + r * p.ldc, p.n, sizeof *split);
        memory_free(split);
        product_release(&p);
    }
}

static void test_accumulate_continues_the_chain(void **state)
{
    (void)state;
    for_each_table(run_accumulate);
}

/* Infinities and NaN reach exactly the elements they belong to. */
static void run_special(const struct backend_ops *ops)
{
    for (int d = 0; d < 2; d++) {
        enum dtype dtype = d == 0 ? DTYPE_F32 : DTYPE_BF16;
        float a_values[3 * 40], b_values[20 * 40], c[3 * 20];
        for (int i = 0; i < 3 * 40; i++)
            a_values[i] = 1.0f;
        for (int i = 0; i < 20 * 40; i++)
            b_values[i] = 1.0f;
        a_values[40 + 7] = INFINITY;
        a_values[2 * 40 + 39] = NAN;
        b_values[5 * 40 + 8] = -INFINITY;
        void *a = as_act(dtype, a_values, 3 * 40), *b = as_act(dtype, b_values, 20 * 40);
        void *packed = memory_alloc(gemm_packed_bytes(dtype, 20, 40), 1);
        ops->gemm_pack(NULL, dtype, 20, 40, b, 40, true, packed);
        ops->gemm(NULL, dtype, 3, 20, 40, a, 40, packed, c, 20, false);
        for (int column = 0; column < 20; column++) {
            assert_true(column == 5 ? c[column] == -INFINITY : c[column] == 40.0f);
            assert_true(column == 5 ? isnan(c[20 + column]) : c[20 + column] == INFINITY);
            assert_true(isnan(c[40 + column]));
        }
        memory_free(a);
        memory_free(b);
        memory_free(packed);
    }
}

static void test_infinities_and_nan(void **state)
{
    (void)state;
    for_each_table(run_special);
}

/* Against sums in double precision; that tables agree to the bit is the self-test's. */
static void compare_linear(const struct backend_ops *ops, struct parallel *pool, enum dtype dtype,
                           int64_t rows, int64_t in, int64_t out)
{
    size_t value = dtype_bytes(dtype);
    float *dy = floats(rows * out, 1, 1.0f), *values = floats(rows * in, 2, 1.0f);
    float *weights = floats(out * in, 3, 1.0f), *dx = floats(rows * in, 4, 1.0f);
    float *before = floats(out * in, 5, 1.0f), *dw = floats(out * in, 5, 1.0f);
    void *x = as_act(dtype, values, rows * in), *w = as_act(dtype, weights, out * in);
    void *packed_w = memory_alloc(gemm_packed_bytes(dtype, in, out), 1);
    struct linear_workspace workspace = {memory_alloc((size_t)(rows * out), value),
                                         memory_alloc((size_t)(out * (rows + 31)), value),
                                         memory_alloc(gemm_packed_bytes(dtype, in, rows), 1)};
    ops->gemm_pack(pool, dtype, in, out, w, in, false, packed_w);
    ops->linear_backward(pool, dtype, rows, in, out, dy, x, packed_w, dx, dw, &workspace);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < in; i++) {
            double sum = 0.0;
            for (int64_t o = 0; o < out; o++)
                sum += (double)rounded_to(dtype, dy[r * out + o]) *
                       (double)act_at(dtype, w, o * in + i);
            assert_near((double)dx[r * in + i], sum, 1e-4);
        }
    for (int64_t o = 0; o < out; o++)
        for (int64_t i = 0; i < in; i++) {
            double sum = (double)before[o * in + i];
            for (int64_t r = 0; r < rows; r++)
                sum += (double)rounded_to(dtype, dy[r * out + o]) *
                       (double)act_at(dtype, x, r * in + i);
            assert_near((double)dw[o * in + i], sum, 1e-4);
        }
    void *blocks[] = {dy,
                      values,
                      weights,
                      dx,
                      before,
                      dw,
                      x,
                      w,
                      packed_w,
                      workspace.cast,
                      workspace.transposed,
                      workspace.packed};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        memory_free(blocks[i]);
}

static void run_linear(const struct backend_ops *ops)
{
    const int64_t shapes[][3] = {{1, 1, 1},    {1, 5, 40},    {16, 16, 16},
                                 {33, 20, 17}, {100, 40, 64}, {70, 150, 33}};
    struct parallel *pool = parallel_create(2);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        compare_linear(ops, pool, DTYPE_F32, shapes[s][0], shapes[s][1], shapes[s][2]);
        compare_linear(ops, pool, DTYPE_BF16, shapes[s][0], shapes[s][1], shapes[s][2]);
    }
    parallel_destroy(pool);
}

static void test_linear_backward(void **state)
{
    (void)state;
    for_each_table(run_linear);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_canonical_dot_product),
        cmocka_unit_test(test_threads_do_not_change_bits),
        cmocka_unit_test(test_rows_do_not_depend_on_their_batch),
        cmocka_unit_test(test_accumulate_continues_the_chain),
        cmocka_unit_test(test_infinities_and_nan),
        cmocka_unit_test(test_linear_backward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

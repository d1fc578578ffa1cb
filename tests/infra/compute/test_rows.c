#include "tests/infra/compute/fixture.h"

#define ROWS 7

static void run_embed(const struct backend_ops *ops)
{
    const int32_t ids[ROWS] = {3, 0, 3, 4, 3, 1, 0};
    const int64_t dim = 37;
    struct parallel *pool = parallel_create(3);
    for (int d = 0; d < 2; d++) {
        enum dtype dtype = d == 0 ? DTYPE_F32 : DTYPE_BF16;
        float *values = floats(5 * dim, 1, 1.0f), *dy = floats(ROWS * dim, 2, 1.0f);
        void *table = as_act(dtype, values, 5 * dim);
        float *out = floats(ROWS * dim, 3, 1.0f), *gradient = floats(5 * dim, 4, 1.0f);
        float *want = memory_dup(gradient, (size_t)(5 * dim) * sizeof *want);
        ops->embed(pool, dtype, ROWS, dim, table, ids, out);
        ops->embed_backward(pool, ROWS, dim, ids, dy, gradient);
        for (int64_t r = 0; r < ROWS; r++)
            for (int64_t i = 0; i < dim; i++) {
                assert_true(out[r * dim + i] == act_at(dtype, table, ids[r] * dim + i));
                want[ids[r] * dim + i] += dy[r * dim + i];
            }
        assert_same_bits(gradient, want, 5 * dim, sizeof *want);
        memory_free(values);
        memory_free(dy);
        memory_free(table);
        memory_free(out);
        memory_free(gradient);
        memory_free(want);
    }
    parallel_destroy(pool);
}

static void test_embed(void **state)
{
    (void)state;
    for_each_table(run_embed);
}

/* sum over rows of dy . y, in double; the scalar whose gradient the backward pass is. */
static double norm_loss(const float *x, const float *weight, const float *dy, int64_t dim)
{
    double loss = 0.0;
    for (int64_t r = 0; r < ROWS; r++) {
        double squares = 0.0;
        for (int64_t i = 0; i < dim; i++)
            squares += (double)x[r * dim + i] * (double)x[r * dim + i];
        double inverse = 1.0 / sqrt(squares / (double)dim + 1e-5);
        for (int64_t i = 0; i < dim; i++)
            loss += (double)dy[r * dim + i] * (double)x[r * dim + i] * inverse * (double)weight[i];
    }
    return loss;
}

/* Central difference of a double-precision loss in one fp32 input. */
static double slope(double (*loss)(const float *, const float *, const float *, int64_t),
                    const float *x, const float *weight, const float *dy, int64_t dim, float *at)
{
    float saved = *at, step = 1.0f / 1024.0f;
    *at = saved + step;
    double high = loss(x, weight, dy, dim), top = (double)*at;
    *at = saved - step;
    double low = loss(x, weight, dy, dim), bottom = (double)*at;
    *at = saved;
    return (high - low) / (top - bottom);
}

static void check_norm(const struct backend_ops *ops, enum dtype dtype, int64_t dim)
{
    float *x = floats(ROWS * dim, 1, 2.0f), *weight = floats(dim, 2, 1.0f);
    float *dy = floats(ROWS * dim, 3, 1.0f), *dx = floats(ROWS * dim, 4, 1.0f);
    float *dweight = floats(dim, 5, 1.0f), inverse_rms[ROWS];
    float *dx_start = memory_dup(dx, (size_t)(ROWS * dim) * sizeof *dx);
    float *dweight_start = memory_dup(dweight, (size_t)dim * sizeof *dweight);
    void *act_weight = as_act(dtype, weight, dim);
    void *y = memory_alloc((size_t)(ROWS * dim), 4);
    for (int64_t i = 0; i < dim; i++)
        weight[i] = act_at(dtype, act_weight, i);
    struct parallel *pool = parallel_create(3);
    ops->rmsnorm(pool, dtype, ROWS, dim, 1e-5f, x, act_weight, y, inverse_rms);
    ops->rmsnorm_backward(pool, dtype, ROWS, dim, x, act_weight, inverse_rms, dy, dx, dweight);
    double tolerance = dtype == DTYPE_F32 ? 1e-6 : 1e-2;
    for (int64_t r = 0; r < ROWS; r++) {
        double squares = 0.0;
        for (int64_t i = 0; i < dim; i++)
            squares += (double)x[r * dim + i] * (double)x[r * dim + i];
        assert_near((double)inverse_rms[r], 1.0 / sqrt(squares / (double)dim + 1e-5), 1e-6);
        for (int64_t i = 0; i < dim; i++) {
            float normal = rounded_to(dtype, x[r * dim + i] * inverse_rms[r]);
            float want = rounded_to(dtype, normal * weight[i]);
            assert_true(act_at(dtype, y, r * dim + i) == want);
        }
    }
    for (int64_t i = 0; i < ROWS * dim; i += 3)
        assert_near((double)dx[i] - (double)dx_start[i],
                    slope(norm_loss, x, weight, dy, dim, &x[i]), 1e-5);
    for (int64_t i = 0; i < dim; i++)
        assert_near((double)dweight[i] - (double)dweight_start[i],
                    slope(norm_loss, x, weight, dy, dim, &weight[i]), tolerance * 3);
    void *alone = memory_alloc((size_t)dim, 4);
    ops->rmsnorm(NULL, dtype, 1, dim, 1e-5f, x + 4 * dim, act_weight, alone, NULL);
    assert_same_bits(alone, (char *)y + (size_t)(4 * dim) * dtype_bytes(dtype), dim,
                     dtype_bytes(dtype));
    void *all[] = {x, weight, dy, dx, dweight, dx_start, dweight_start, act_weight, y, alone};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        memory_free(all[i]);
    parallel_destroy(pool);
}

static void run_norm(const struct backend_ops *ops)
{
    const int64_t dims[] = {1, 16, 37, 128};
    for (size_t i = 0; i < 4; i++) {
        check_norm(ops, DTYPE_F32, dims[i]);
        check_norm(ops, DTYPE_BF16, dims[i]);
    }
}

static void test_rmsnorm(void **state)
{
    (void)state;
    for_each_table(run_norm);
}

static void run_rope(const struct backend_ops *ops)
{
    const int32_t heads = 3, dim = 20, positions[ROWS] = {0, 1, 5, 9, 2, 2, 7};
    float cos_sin[10 * 20], x[ROWS * 70], start[ROWS * 70];
    for (int p = 0; p < 10; p++)
        for (int i = 0; i < 10; i++) {
            double angle = p * pow(10000.0, -2.0 * i / 20.0);
            cos_sin[p * 20 + i] = (float)cos(angle);
            cos_sin[p * 20 + 10 + i] = (float)sin(angle);
        }
    fill(x, ROWS * 70, 6, 1.0f);
    memcpy(start, x, sizeof x);
    ops->rope(NULL, ROWS, heads, dim, positions, cos_sin, x, 70, false);
    for (int r = 0; r < ROWS; r++) {
        for (int h = 0; h < heads; h++)
            for (int i = 0; i < 10; i++) {
                double angle = positions[r] * pow(10000.0, -2.0 * i / 20.0);
                const float *in = start + r * 70 + h * 20, *out = x + r * 70 + h * 20;
                double a = (double)in[i], b = (double)in[i + 10];
                assert_near((double)out[i], a * cos(angle) - b * sin(angle), 1e-6);
                assert_near((double)out[i + 10], b * cos(angle) + a * sin(angle), 1e-6);
            }
        for (int i = heads * dim; i < 70; i++)
            assert_true(x[r * 70 + i] == start[r * 70 + i]);
    }
    /* The rotation is orthogonal: its gradient is the inverse rotation. */
    ops->rope(NULL, ROWS, heads, dim, positions, cos_sin, x, 70, true);
    for (int i = 0; i < ROWS * 70; i++)
        assert_near((double)x[i], (double)start[i], 1e-6);
}

static void test_rope(void **state)
{
    (void)state;
    for_each_table(run_rope);
}

static double swiglu_loss(const float *gate_up, const float *unused, const float *dy, int64_t dim)
{
    (void)unused;
    double loss = 0.0;
    for (int64_t r = 0; r < ROWS; r++)
        for (int64_t i = 0; i < dim; i++) {
            double gate = (double)gate_up[r * 2 * dim + i];
            double up = (double)gate_up[r * 2 * dim + dim + i];
            loss += (double)dy[r * dim + i] * gate / (1.0 + exp(-gate)) * up;
        }
    return loss;
}

static void run_swiglu(const struct backend_ops *ops)
{
    const int64_t dim = 37;
    float *gate_up = floats(ROWS * 2 * dim, 1, 6.0f), *dy = floats(ROWS * dim, 2, 1.0f);
    float *gradient = floats(ROWS * 2 * dim, 3, 1.0f);
    gate_up[0] = 90.0f; /* exp of either sign leaves the range of fp32 */
    gate_up[1] = -120.0f;
    for (int d = 0; d < 2; d++) {
        enum dtype dtype = d == 0 ? DTYPE_F32 : DTYPE_BF16;
        void *out = memory_alloc((size_t)(ROWS * dim), 4);
        ops->swiglu(NULL, dtype, ROWS, dim, gate_up, out);
        for (int64_t r = 0; r < ROWS; r++)
            for (int64_t i = 0; i < dim; i++) {
                double gate = (double)gate_up[r * 2 * dim + i];
                double want = gate / (1.0 + exp(-gate)) * (double)gate_up[r * 2 * dim + dim + i];
                assert_near((double)act_at(dtype, out, r * dim + i), want,
                            d == 0 ? 1e-6 : 1.0 / 256);
            }
        memory_free(out);
    }
    ops->swiglu_backward(NULL, ROWS, dim, gate_up, dy, gradient);
    for (int64_t i = 0; i < ROWS * 2 * dim; i++)
        assert_near((double)gradient[i], slope(swiglu_loss, gate_up, NULL, dy, dim, &gate_up[i]),
                    1e-5);
    memory_free(gate_up);
    memory_free(dy);
    memory_free(gradient);
}

static void test_swiglu(void **state)
{
    (void)state;
    for_each_table(run_swiglu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embed),
        cmocka_unit_test(test_rmsnorm),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_swiglu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

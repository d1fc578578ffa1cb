/* usage: test_elementwise [DIRECTORY of test data] */
#include "tests/infra/compute/fixture.h"

#include <jansson.h>

static char oracle_path[1024];

static void run_cast(const struct backend_ops *ops)
{
    static uint16_t half[0x10000];
    static float wide[0x10000];
    static bf16 narrow[0x10000];
    for (uint32_t bits = 0; bits < 0x10000u; bits++)
        half[bits] = (uint16_t)bits;
    ops->cast(NULL, 0x10000, DTYPE_BF16, half, DTYPE_F32, wide);
    for (uint32_t bits = 0; bits < 0x10000u; bits++) {
        uint32_t got;
        memcpy(&got, &wide[bits], sizeof got);
        assert_int_equal(got, bits << 16);
    }
    ops->cast(NULL, 0xffff, DTYPE_F16, half, DTYPE_F32, wide);
    for (uint32_t bits = 0; bits < 0xffffu; bits++) {
        int exponent = (int)(bits >> 10 & 31), mantissa = (int)(bits & 0x3ff);
        double want = exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
        if (exponent == 31)
            assert_true(mantissa != 0 ? isnan(wide[bits]) : isinf(wide[bits]));
        else
            assert_true((double)wide[bits] == ((bits & 0x8000u) != 0 ? -want : want));
    }
    float *x = floats(1003, 4, 1e3f);
    x[5] = NAN;
    x[6] = 1e-40f;
    ops->cast(NULL, 1003, DTYPE_F32, x, DTYPE_BF16, narrow);
    for (int i = 0; i < 1003; i++)
        assert_int_equal(narrow[i], bf16_from_f32(x[i]));
    memory_free(x);
}

static void test_cast(void **state)
{
    (void)state;
    for_each_table(run_cast);
}

static void run_add_and_scale(const struct backend_ops *ops)
{
    const int64_t counts[] = {1, 15, 16, 17, 100003};
    struct parallel *pool = parallel_create(3);
    for (size_t c = 0; c < 5; c++) {
        float *x = floats(counts[c] + 1, 1, 1.0f), *y = floats(counts[c] + 1, 2, 1.0f);
        float *start = memory_dup(y, (size_t)(counts[c] + 1) * sizeof *y);
        ops->add(pool, counts[c], y, x);
        ops->scale(pool, counts[c], y, 3.0f);
        for (int64_t i = 0; i < counts[c]; i++)
            assert_true(y[i] == (start[i] + x[i]) * 3.0f);
        assert_true(y[counts[c]] == start[counts[c]]);
        memory_free(x);
        memory_free(y);
        memory_free(start);
    }
    parallel_destroy(pool);
}

static void test_add_and_scale(void **state)
{
    (void)state;
    for_each_table(run_add_and_scale);
}

static void run_sum_squares(const struct backend_ops *ops)
{
    const int64_t counts[] = {0, 1, 17, 4096, 5000, 300001, (int64_t)5 << 20};
    struct parallel *pool = parallel_create(3);
    float *x = floats((int64_t)5 << 20, 8, 1.0f);
    for (size_t c = 0; c < 7; c++) {
        double exact = 0.0;
        for (int64_t i = 0; i < counts[c]; i++)
            exact += (double)x[i] * (double)x[i];
        double alone = ops->sum_squares(NULL, counts[c], x);
        assert_near(alone, exact, 1e-10);
        assert_true(ops->sum_squares(pool, counts[c], x) == alone);
    }
    float large[2] = {1e30f, 1e30f};
    assert_near(ops->sum_squares(NULL, 2, large) / 2e60, 1.0, 1e-6);
    memory_free(x);
    parallel_destroy(pool);
}

static void test_sum_squares(void **state)
{
    (void)state;
    for_each_table(run_sum_squares);
}

/* Two steps by hand: with bias correction the first step moves by the learning rate. */
static void run_adamw(const struct backend_ops *ops)
{
    float p[19], m[19] = {0}, v[19] = {0}, g[19];
    for (int i = 0; i < 19; i++) {
        p[i] = 1.0f;
        g[i] = i % 2 == 0 ? 4.0f : -4.0f;
    }
    struct adamw_options o = {0.1f, 0.9f, 0.999f, 1e-8f, 0.5f, 0.1f, 0.001f, 0.5f};
    bf16 values[19];
    struct adamw_vectors at = {p, m, v, DTYPE_F32, g, values, DTYPE_BF16};
    ops->adamw(NULL, 19, &o, &at);
    for (int i = 0; i < 19; i++) {
        double sign = i % 2 == 0 ? 1.0 : -1.0;
        assert_near((double)m[i], 0.2 * sign, 1e-6);
        assert_near((double)v[i], 0.004, 1e-6);
        assert_near((double)p[i], 1.0 - 0.1 * (sign + 0.5), 1e-5);
        assert_int_equal(values[i], bf16_from_f32(p[i]));
    }
    o.bias_correction1 = 0.19f;
    o.bias_correction2 = 0.001999f;
    float before = p[0];
    at.values = NULL;
    ops->adamw(NULL, 19, &o, &at);
    double m2 = 0.9 * 0.2 + 0.1 * 2.0, v2 = 0.999 * 0.004 + 0.001 * 4.0;
    double step = m2 / 0.19 / (sqrt(v2 / 0.001999) + 1e-8);
    assert_near((double)p[0], (double)before - 0.1 * (step + 0.5 * (double)before), 1e-5);
}

static void test_adamw_by_hand(void **state)
{
    (void)state;
    for_each_table(run_adamw);
}

/* A quadratic whose curvature spans four decades, with noise on the gradient. Returns the root mean
 * square distance from the minimum, relative to the learning rate, over the last 500 steps. */
static double quadratic_distance(const struct backend_ops *ops, enum dtype moments, float beta2)
{
    enum { COUNT = 64, STEPS = 2000, TAIL = 500 };
    const struct rng_key key = {.seed = 31, .purpose = RNG_SIM};
    float p[COUNT], m[COUNT] = {0}, v[COUNT] = {0}, g[COUNT];
    struct adamw_options o = {1e-2f, 0.9f, beta2, 1e-8f, 0.0f, 0.0f, 0.0f, 1.0f};
    struct adamw_vectors at = {p, m, v, moments, g, NULL, DTYPE_F32};
    double squares = 0.0;
    for (int i = 0; i < COUNT; i++)
        p[i] = 1.0f;
    for (int step = 1; step <= STEPS; step++) {
        for (int i = 0; i < COUNT; i++) {
            float curvature = powf(10.0f, (float)(i % 5) - 2.0f);
            g[i] = curvature * (p[i] + 0.1f * rng_normal(&key, (uint64_t)(step * COUNT + i)));
        }
        o.bias_correction1 = (float)(1.0 - pow((double)o.beta1, step));
        o.bias_correction2 = (float)(1.0 - pow((double)o.beta2, step));
        ops->adamw(NULL, COUNT, &o, &at);
        for (int i = 0; i < COUNT && step > STEPS - TAIL; i++)
            squares += (double)p[i] * (double)p[i];
    }
    return sqrt(squares / (COUNT * TAIL)) / (double)o.learning_rate;
}

/* Where a bf16 second moment comes to rest after 3,000 steps of gradient `after` when it stood at
 * 1, relative to after^2. */
static double resting_moment(const struct backend_ops *ops, float beta2, float after)
{
    float p[1] = {1.0f};
    bf16 v[1] = {bf16_from_f32(1.0f)}, m[1] = {0};
    struct adamw_options o = {0.0f, 0.9f, beta2, 1e-8f, 0.0f, 1.0f, 1.0f, 1.0f};
    struct adamw_vectors at = {p, m, v, DTYPE_BF16, &after, NULL, DTYPE_F32};
    for (int step = 0; step < 3000; step++)
        ops->adamw(NULL, 1, &o, &at);
    return (double)bf16_to_f32(v[0]) / ((double)after * (double)after);
}

/* bf16 keeps 8 bits of a moment. While 1 - beta2 is well above a bf16's half unit (1/512 to 1/256)
 * the steady state is that of fp32 moments, and a second moment whose gradients have become smaller
 * rests a little above where it should; at 0.999 it does not move at all. */
static void test_bf16_moments(void **state)
{
    (void)state;
    const struct backend_ops *ops = backend_cpu(CPU_ISA_SCALAR);
    const float beta2[] = {0.95f, 0.99f};
    const double excess_max[] = {0.08, 0.7};
    for (int i = 0; i < 2; i++) {
        double exact = quadratic_distance(ops, DTYPE_F32, beta2[i]);
        double rounded = quadratic_distance(ops, DTYPE_BF16, beta2[i]);
        double rest = resting_moment(ops, beta2[i], 0.1f);
        print_message(
            "beta2 %.2f: distance / rate %.3f, bf16 %.3f; a tenth of the gradient: second "
            "moment %.3f of what it should be\n",
            (double)beta2[i], exact, rounded, rest);
        assert_true(rounded != exact);
        assert_true(fabs(rounded - exact) < 0.02 * exact);
        assert_true(rest >= 1.0 && rest < 1.0 + excess_max[i]);
    }
    assert_near(resting_moment(ops, 0.999f, 0.1f), 100.0, 1e-2);
}

static double number_at(const json_t *array, size_t index)
{
    return json_number_value(json_array_get(array, index));
}

/* 1,000 steps on y = W x against published weights. */
static void run_oracle(const struct backend_ops *ops)
{
    json_t *root = json_load_file(oracle_path, 0, NULL);
    assert_non_null(root);
    const json_t *oracle = json_object_get(root, "adamw_1000_steps");
    const json_t *inputs = json_object_get(oracle, "x"), *w0 = json_object_get(oracle, "W0");
    const json_t *expected = json_object_get(oracle, "expected_W");
    assert_int_equal(json_array_size(inputs), 1000);
    float w[6], m[6] = {0}, v[6] = {0}, g[6];
    for (size_t i = 0; i < 6; i++)
        w[i] = (float)number_at(w0, i);
    for (size_t step = 0; step < 1000; step++) {
        const json_t *x = json_array_get(inputs, step);
        double target[2] = {number_at(x, 0) + number_at(x, 1), -number_at(x, 2)};
        for (size_t row = 0; row < 2; row++) {
            double y = 0.0;
            for (size_t c = 0; c < 3; c++)
                y += (double)w[row * 3 + c] * number_at(x, c);
            for (size_t c = 0; c < 3; c++)
                g[row * 3 + c] = (float)(-2.0 * (target[row] - y) * number_at(x, c));
        }
        struct adamw_options o = {1e-3f, 0.9f, 0.999f, 1e-8f, 0.01f, 0.0f, 0.0f, 1.0f};
        o.bias_correction1 = (float)(1.0 - pow((double)o.beta1, (double)step + 1.0));
        o.bias_correction2 = (float)(1.0 - pow((double)o.beta2, (double)step + 1.0));
        ops->adamw(NULL, 6, &o, &(struct adamw_vectors){w, m, v, DTYPE_F32, g, NULL, DTYPE_F32});
    }
    for (size_t i = 0; i < 6; i++)
        assert_near((double)w[i], number_at(expected, i), 1e-4);
    json_decref(root);
}

static void test_adamw_oracle(void **state)
{
    (void)state;
    json_t *root = json_load_file(oracle_path, 0, NULL);
    if (root == NULL) {
        print_message("skipped: no %s\n", oracle_path);
        skip();
    }
    json_decref(root);
    for_each_table(run_oracle);
}

int main(int argc, char **argv)
{
    snprintf(oracle_path, sizeof oracle_path, "%s/oracles/cs336_a1_snapshots.json",
             argc > 1 ? argv[1] : ".");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cast),         cmocka_unit_test(test_add_and_scale),
        cmocka_unit_test(test_sum_squares),  cmocka_unit_test(test_adamw_by_hand),
        cmocka_unit_test(test_adamw_oracle), cmocka_unit_test(test_bf16_moments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "tests/infra/compute/fixture.h"

#include "infra/compute/vec/vec_math.h"

/* Distance in units of the last place of the exact value. */
static double ulps(float got, double exact)
{
    int exponent = 0;
    frexp(exact, &exponent);
    return fabs((double)got - exact) / ldexp(1.0, exponent - 24);
}

static double worst_exp(double low, double high, int steps)
{
    double worst = 0.0;
    for (int i = 0; i <= steps; i++) {
        float x = (float)(low + (high - low) * i / steps);
        double error = ulps(exp_one(x), exp((double)x));
        worst = error > worst ? error : worst;
    }
    return worst;
}

static float exp2_one(float x)
{
    float lanes[VEC_LANES];
    vec_store(lanes, vec_exp2(vec_set1(x)));
    return lanes[0];
}

static void test_exp2(void **state)
{
    (void)state;
    double worst = 0.0;
    for (int i = 0; i <= 400000; i++) {
        float x = -125.0f + (float)i * (126.0f / 400000.0f);
        worst = fmax(worst, ulps(exp2_one(x), exp2((double)x)));
    }
    print_message("exp2: %.3f ulp on [-125, 1]\n", worst);
    assert_true(worst < 2.5);
    assert_true(exp2_one(0.0f) == 1.0f && exp2_one(-0.0f) == 1.0f && exp2_one(-3.0f) == 0.125f);
    assert_true(exp2_one(-INFINITY) == 0.0f && exp2_one(-125.5f) == 0.0f);
    assert_true(!signbit(exp2_one(-INFINITY)) && exp2_one(-125.0f) == 0x1p-125f);
    assert_true(isnan(exp2_one(NAN)));
}

static void test_exp(void **state)
{
    (void)state;
    double worst = worst_exp(-87.0, 88.0, 400000), near_zero = worst_exp(-1.0, 1.0, 200000);
    print_message("exp: %.3f ulp on [-87, 88], %.3f on [-1, 1]\n", worst, near_zero);
    assert_true(worst < 1.1 && near_zero < 1.1);
    assert_true(exp_one(0.0f) == 1.0f && exp_one(-0.0f) == 1.0f);
    assert_true(exp_one(-INFINITY) == 0.0f && exp_one(-88.0f) == 0.0f && exp_one(-1e30f) == 0.0f);
    assert_true(exp_one(INFINITY) == INFINITY && exp_one(89.0f) == INFINITY);
    assert_true(isnan(exp_one(NAN)));
    assert_true(exp_one(88.7f) < INFINITY && exp_one(-87.3f) > 0.0f);
}

static void test_log(void **state)
{
    (void)state;
    double worst = 0.0;
    for (int i = 1; i <= 400000; i++) {
        float near_one = 0.5f + (float)i * (1.5f / 400000.0f);
        float any = ldexpf(near_one, i % 250 - 125);
        double first = near_one == 1.0f ? 0.0 : ulps(log_one(near_one), log((double)near_one));
        double second = any == 1.0f ? 0.0 : ulps(log_one(any), log((double)any));
        worst = fmax(worst, fmax(first, second));
    }
    print_message("log: %.3f ulp\n", worst);
    assert_true(worst < 1.1);
    assert_true(log_one(1.0f) == 0.0f && log_one(0.0f) == -INFINITY);
    assert_true(log_one(INFINITY) == INFINITY);
    assert_true(isnan(log_one(NAN)) && isnan(log_one(-1.0f)) && isnan(log_one(-INFINITY)));
}

static void test_sigmoid(void **state)
{
    (void)state;
    double worst = 0.0;
    for (int i = 0; i <= 200000; i++) {
        float lanes[VEC_LANES], x = (float)i * 1e-3f - 85.0f;
        vec_store(lanes, vec_sigmoid(vec_set1(x)));
        worst = fmax(worst, ulps(lanes[0], 1.0 / (1.0 + exp(-(double)x))));
    }
    print_message("sigmoid: %.3f ulp\n", worst);
    assert_true(worst < 2.5);
}

/* The fixed tree of N5, and lane-exact loads of every tail. */
static void test_sum_tree_and_tails(void **state)
{
    (void)state;
    float lanes[VEC_LANES], tree[VEC_LANES];
    fill(lanes, VEC_LANES, 3, 1e4f);
    memcpy(tree, lanes, sizeof tree);
    for (int width = 8; width >= 1; width /= 2)
        for (int i = 0; i < width; i++)
            tree[i] += tree[i + width];
    assert_true(vec_sum(vec_load(lanes)) == tree[0]);
    for (int count = 1; count < VEC_LANES; count++) {
        float part[VEC_LANES], kept[VEC_LANES];
        vec_store(part, vec_load_part(lanes, count));
        vec_store(kept, vec_keep(vec_load(lanes), count, vec_set1(7.0f)));
        for (int i = 0; i < VEC_LANES; i++) {
            assert_true(part[i] == (i < count ? lanes[i] : 0.0f));
            assert_true(kept[i] == (i < count ? lanes[i] : 7.0f));
        }
    }
}

int main(void)
{
    compute_thread_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp),
        cmocka_unit_test(test_exp2),
        cmocka_unit_test(test_log),
        cmocka_unit_test(test_sigmoid),
        cmocka_unit_test(test_sum_tree_and_tails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

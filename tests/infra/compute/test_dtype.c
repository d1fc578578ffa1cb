#include "tests/infra/compute/fixture.h"

#include "infra/compute/dtype.h"

static float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void test_names_and_sizes(void **state)
{
    (void)state;
    assert_int_equal(dtype_bytes(DTYPE_F32), 4);
    assert_int_equal(dtype_bytes(DTYPE_BF16), 2);
    assert_int_equal(dtype_bytes(DTYPE_I64), 8);
    assert_string_equal(dtype_name(DTYPE_BF16), "bfloat16");
    assert_string_equal(dtype_safetensors_name(DTYPE_F16), "F16");
    assert_string_equal(dtype_safetensors_name(DTYPE_I64), "I64");
}

static void test_bf16_rounds_to_nearest_even(void **state)
{
    (void)state;
    assert_int_equal(bf16_from_f32(1.0f), 0x3f80);
    assert_int_equal(bf16_from_f32(from_bits(0x3f808000u)), 0x3f80); /* tie, even below */
    assert_int_equal(bf16_from_f32(from_bits(0x3f818000u)), 0x3f82); /* tie, even above */
    assert_int_equal(bf16_from_f32(from_bits(0x3f808001u)), 0x3f81);
    assert_int_equal(bf16_from_f32(from_bits(0x7f7fffffu)), 0x7f80); /* overflows to infinity */
    assert_int_equal(bf16_from_f32(from_bits(0x80000001u)), 0x8000);
    assert_int_equal(bf16_from_f32(from_bits(0x00018000u)), 0x0002); /* denormals are kept */
    assert_int_equal(bf16_from_f32(from_bits(0x7f800001u)), 0x7fc0); /* NaN stays NaN */
}

static void test_every_bf16_survives_the_round_trip(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x10000u; bits++) {
        bool nan = (bits & 0x7fffu) > 0x7f80u;
        bf16 back = bf16_from_f32(bf16_to_f32((bf16)bits));
        assert_int_equal(back, nan ? bits | 0x40u : bits);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_and_sizes),
        cmocka_unit_test(test_bf16_rounds_to_nearest_even),
        cmocka_unit_test(test_every_bf16_survives_the_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "tests/infra/train/train_fixture.h"

#include "infra/train/packing.h"

static void make(struct train_sequence *sequences, const int32_t *lengths, const int32_t *units,
                 int32_t count)
{
    memset(sequences, 0, (size_t)count * sizeof *sequences);
    for (int32_t i = 0; i < count; i++) {
        sequences[i].count = lengths[i];
        sequences[i].unit = units[i];
    }
}

static void fills_in_order_up_to_the_limit(void **state)
{
    (void)state;
    struct train_sequence sequences[5];
    make(sequences, (int32_t[]){10, 20, 30, 40, 1}, (int32_t[]){0, 1, 2, 3, 4}, 5);
    assert_int_equal(packing_next(sequences, 5, 0, 60), 3);
    assert_int_equal(packing_next(sequences, 5, 0, 59), 2);
    assert_int_equal(packing_next(sequences, 5, 3, 60), 2);
    assert_int_equal(packing_next(sequences, 5, 4, 60), 1);
}

static void keeps_units_together(void **state)
{
    (void)state;
    struct train_sequence sequences[6];
    make(sequences, (int32_t[]){10, 10, 10, 10, 10, 10}, (int32_t[]){7, 7, 3, 3, 3, 9}, 6);
    assert_int_equal(packing_next(sequences, 6, 0, 45), 2);
    assert_int_equal(packing_next(sequences, 6, 0, 50), 5);
    assert_int_equal(packing_next(sequences, 6, 2, 35), 3);
}

static void refuses_a_unit_that_never_fits(void **state)
{
    (void)state;
    struct train_sequence sequences[3];
    make(sequences, (int32_t[]){5, 30, 31}, (int32_t[]){0, 1, 1}, 3);
    assert_int_equal(packing_next(sequences, 3, 0, 60), 1);
    assert_int_equal(packing_next(sequences, 3, 1, 60), HONE_EINVAL);
    assert_non_null(strstr(error_message(), "61 tokens"));
}

static void bounds_the_number_of_sequences(void **state)
{
    (void)state;
    enum { COUNT = 100 };
    struct train_sequence sequences[COUNT];
    memset(sequences, 0, sizeof sequences);
    for (int32_t i = 0; i < COUNT; i++)
        sequences[i] = (struct train_sequence){.count = 1, .unit = i};
    assert_int_equal(packing_max_sequences(16), 8);
    assert_int_equal(packing_max_sequences(1600), 100);
    assert_int_equal(packing_next(sequences, COUNT, 0, 320), 20);
    assert_int_equal(packing_next(sequences, COUNT, 95, 320), 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fills_in_order_up_to_the_limit),
        cmocka_unit_test(keeps_units_together),
        cmocka_unit_test(refuses_a_unit_that_never_fits),
        cmocka_unit_test(bounds_the_number_of_sequences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

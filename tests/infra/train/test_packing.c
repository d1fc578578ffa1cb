/* Best-fit decreasing: by hand, what every plan keeps, and how full it gets. */
#include "tests/infra/train/train_fixture.h"

#include "infra/train/packing.h"

#define COUNT_MAX 400

static void make(struct train_sequence *sequences, const int32_t *lengths, const int32_t *units,
                 int32_t count)
{
    memset(sequences, 0, (size_t)count * sizeof *sequences);
    for (int32_t i = 0; i < count; i++) {
        sequences[i].count = lengths[i];
        sequences[i].unit = units[i];
    }
}

static void assert_plan(const struct packing *packing, const int32_t *order, const int32_t *ends,
                        int32_t micro_batches)
{
    assert_int_equal(packing->micro_batch_count, micro_batches);
    for (int32_t i = 0; i < micro_batches; i++)
        assert_int_equal(packing->ends[i], ends[i]);
    for (int32_t i = 0; i < packing->count; i++)
        assert_int_equal(packing->order[i], order[i]);
}

static void longest_first_into_the_fullest(void **state)
{
    (void)state;
    struct train_sequence sequences[6];
    struct packing packing;
    packing_init(&packing, 100, 1);
    /* 60; 50 opens another; 40 fills the 60; 30 and 20 fill the 50. */
    make(sequences, (int32_t[]){60, 50, 40, 30, 20}, (int32_t[]){0, 1, 2, 3, 4}, 5);
    assert_ok(packing_plan(&packing, sequences, 5));
    assert_plan(&packing, (int32_t[]){0, 2, 1, 3, 4}, (int32_t[]){2, 5}, 2);
    for (int32_t i = 0; i < 5; i++)
        assert_int_equal(packing.sequences[i].count, sequences[packing.order[i]].count);
    /* The fullest that has room: 30 goes to the 65, not to the 60. */
    make(sequences, (int32_t[]){60, 40, 65, 30}, (int32_t[]){0, 1, 2, 3}, 4);
    assert_ok(packing_plan(&packing, sequences, 4));
    assert_plan(&packing, (int32_t[]){0, 1, 2, 3}, (int32_t[]){2, 4}, 2);
    make(sequences, (int32_t[]){60, 65, 30, 40}, (int32_t[]){0, 1, 2, 3}, 4);
    assert_ok(packing_plan(&packing, sequences, 4));
    assert_plan(&packing, (int32_t[]){1, 2, 0, 3}, (int32_t[]){2, 4}, 2);
    /* Equal lengths: in the batch's order. */
    make(sequences, (int32_t[]){50, 60, 50, 40}, (int32_t[]){0, 1, 2, 3}, 4);
    assert_ok(packing_plan(&packing, sequences, 4));
    assert_plan(&packing, (int32_t[]){1, 3, 0, 2}, (int32_t[]){2, 4}, 2);
    /* The batch's order, when best-fit saves nothing. */
    make(sequences, (int32_t[]){20, 50, 40, 30, 60, 10}, (int32_t[]){0, 1, 2, 3, 4, 5}, 6);
    assert_ok(packing_plan(&packing, sequences, 6));
    assert_plan(&packing, (int32_t[]){0, 1, 2, 3, 4, 5}, (int32_t[]){2, 4, 6}, 3);
    packing_release(&packing);
}

static void keeps_units_together(void **state)
{
    (void)state;
    struct train_sequence sequences[8];
    struct packing packing;
    packing_init(&packing, 45, 1);
    /* Units of 25, 30 (three), 20 and 15: 30 + 15, 25 + 20. */
    make(sequences, (int32_t[]){15, 10, 10, 10, 10, 10, 10, 15},
         (int32_t[]){7, 7, 3, 3, 3, 9, 9, 5}, 8);
    assert_ok(packing_plan(&packing, sequences, 8));
    assert_plan(&packing, (int32_t[]){2, 3, 4, 7, 0, 1, 5, 6}, (int32_t[]){4, 8}, 2);
    packing_release(&packing);
}

static void refuses_a_unit_that_never_fits(void **state)
{
    (void)state;
    struct train_sequence sequences[3];
    struct packing packing;
    packing_init(&packing, 60, 1);
    make(sequences, (int32_t[]){5, 30, 31}, (int32_t[]){0, 1, 1}, 3);
    assert_int_equal(packing_plan(&packing, sequences, 3), HONE_EINVAL);
    assert_non_null(strstr(error_message(), "61 tokens"));
    sequences[2].count = 30;
    assert_ok(packing_plan(&packing, sequences, 3));
    packing_release(&packing);
}

static void bounds_the_number_of_sequences(void **state)
{
    (void)state;
    struct train_sequence sequences[100] = {0};
    struct packing packing;
    for (int32_t i = 0; i < 100; i++)
        sequences[i] = (struct train_sequence){.count = 1, .unit = i};
    assert_int_equal(packing_max_sequences(16), 8);
    assert_int_equal(packing_max_sequences(1600), 100);
    packing_init(&packing, 320, 1);
    assert_ok(packing_plan(&packing, sequences, 100));
    assert_int_equal(packing.micro_batch_count, 5);
    assert_int_equal(packing.ends[0], 20);
    packing_release(&packing);
}

/* Micro-batches when sequences are taken in the batch's order until one does not fit. */
static int32_t next_fit(const struct train_sequence *sequences, int32_t count, int32_t max_tokens)
{
    int32_t bins = 0, tokens = max_tokens;
    for (int32_t i = 0; i < count; i += 2) {
        int32_t unit = sequences[i].count + sequences[i + 1].count;
        if (tokens + unit > max_tokens) {
            bins++;
            tokens = 0;
        }
        tokens += unit;
    }
    return bins;
}

static void check_random(struct packing *packing, int32_t count, uint64_t seed, int64_t *bins,
                         int64_t *next_fit_bins)
{
    const struct rng_key key = {.seed = seed, .purpose = RNG_DATA};
    struct train_sequence sequences[COUNT_MAX] = {0};
    bool seen[COUNT_MAX] = {false};
    int64_t tokens = 0;
    for (int32_t i = 0; i < count; i++) {
        sequences[i].count = 17 + (int32_t)rng_below(&key, (uint64_t)i, 484);
        sequences[i].unit = i / 2;
        tokens += sequences[i].count;
    }
    assert_ok(packing_plan(packing, sequences, count));
    int32_t begin = 0;
    for (int32_t b = 0; b < packing->micro_batch_count; b++) {
        int32_t in_bin = 0;
        for (int32_t i = begin; i < packing->ends[b]; i++) {
            int32_t at = packing->order[i];
            assert_false(seen[at]);
            seen[at] = true;
            in_bin += sequences[at].count;
            assert_true(i == begin || at > packing->order[i - 1]);
            if (at % 2 == 1) /* its unit's other half is right before it */
                assert_true(i > begin && packing->order[i - 1] == at - 1);
        }
        assert_true(in_bin > 0 && in_bin <= packing->max_tokens);
        begin = packing->ends[b];
    }
    assert_int_equal(begin, count);
    int64_t least = (tokens + packing->max_tokens - 1) / packing->max_tokens;
    assert_true(9 * packing->micro_batch_count <= 11 * least + 9);
    *bins += packing->micro_batch_count;
    *next_fit_bins += next_fit(sequences, count, packing->max_tokens);
}

static void random_batches_are_packed_whole_and_tight(void **state)
{
    (void)state;
    struct packing packing, other;
    int64_t bins = 0, taken_in_order = 0;
    packing_init(&packing, 2048, 1);
    packing_init(&other, 2048, 1);
    for (uint64_t seed = 1; seed <= 50; seed++) {
        int32_t count = 2 * (1 + (int32_t)(seed * 37 % (COUNT_MAX / 2)));
        check_random(&packing, count, seed, &bins, &taken_in_order);
    }
    print_message("micro-batches: %lld, in the batch's order %lld\n", (long long)bins,
                  (long long)taken_in_order);
    assert_true(bins < taken_in_order);
    /* What was packed before leaves no trace. */
    check_random(&packing, 90, 7, &bins, &taken_in_order);
    check_random(&other, 90, 7, &bins, &taken_in_order);
    assert_memory_equal(packing.order, other.order, 90 * sizeof *packing.order);
    assert_memory_equal(packing.ends, other.ends,
                        (size_t)packing.micro_batch_count * sizeof *packing.ends);
    packing_release(&packing);
    packing_release(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(longest_first_into_the_fullest),
        cmocka_unit_test(keeps_units_together),
        cmocka_unit_test(refuses_a_unit_that_never_fits),
        cmocka_unit_test(bounds_the_number_of_sequences),
        cmocka_unit_test(random_batches_are_packed_whole_and_tight),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

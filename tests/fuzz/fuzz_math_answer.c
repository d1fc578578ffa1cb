/* Two answers, apart by a NUL byte, through everything that judges answers: equality is
 * reflexive and symmetric, and every verifier gives 0, 1 or a status. */
#include "reward/math_answer.h"
#include "reward/number.h"
#include "reward/reward_set.h"
#include "tests/fuzz/input_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check_numbers(const char *a, const char *b)
{
    struct number first, second;
    size_t length = strlen(a);
    HONE_ASSERT(number_read(a, length, &first) <= length);
    if (number_find_last(a, length, &first)) {
        HONE_ASSERT(number_equal(&first, &first));
        HONE_ASSERT(first.begin >= a && first.end <= a + length && first.begin <= first.end);
        if (number_find_last(b, strlen(b), &second))
            HONE_ASSERT(number_equal(&first, &second) == number_equal(&second, &first));
    }
    if (number_whole(a, length, &first))
        HONE_ASSERT(number_find_last(a, length, &second) && number_equal(&first, &second));
}

static void check_verifiers(const char *completion, const char *ground_truth)
{
    const struct reward_input input = {.prompt = "",
                                       .completion = completion,
                                       .ground_truth = ground_truth,
                                       .data_source = "",
                                       .capability = "",
                                       .extra_json = "{}"};
    for (int i = 0; verifier_at(i) != NULL; i++) {
        float value = -1.0f;
        enum reward_status status = verifier_at(i)->score(&input, &value);
        HONE_ASSERT(status >= REWARD_OK && status <= REWARD_ERROR);
        HONE_ASSERT(status != REWARD_OK || (value >= 0.0f && value <= 1.0f));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct text out;
    char *a = input_string(&data, &bytes), *b = input_string(&data, &bytes);
    text_init(&out);
    if (math_answer_boxed(a, &out))
        HONE_ASSERT(out.length < strlen(a));
    text_clear(&out);
    math_answer_normalise(a, &out);
    HONE_ASSERT(math_answer_equal(a, a) == (out.length > 0)); /* nothing is no answer */
    HONE_ASSERT(math_answer_equal(a, b) == math_answer_equal(b, a));
    check_numbers(a, b);
    check_numbers(b, a);
    check_verifiers(a, b);
    text_release(&out);
    memory_free(b);
    memory_free(a);
    return 0;
}

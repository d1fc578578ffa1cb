/* Published DPO values of other projects' tests, from a file given as the argument. Exits with 77
 * (skipped) when the file is absent. */
#include "tests/infra/train/train_fixture.h"

#include <jansson.h>

#include "dpo/preference_loss.h"

#define EXIT_SKIPPED 77

static json_t *vectors;

static const json_t *vector_of(const char *name)
{
    size_t index;
    json_t *vector;
    json_array_foreach(vectors, index,
                       vector) if (strcmp(json_string_value(json_object_get(vector, "name")),
                                          name) == 0) return vector;
    fail_msg("the file has no vector \"%s\"", name);
    return NULL;
}

static double input(const json_t *vector, const char *key, size_t index)
{
    const json_t *value = json_object_get(json_object_get(vector, "inputs"), key);
    if (json_is_array(value))
        value = json_array_get(value, index);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

static void check_pairs(const char *name, const char *beta, enum preference_kind kind)
{
    const json_t *vector = vector_of(name);
    const json_t *published = json_object_get(vector, "published");
    double tolerance = json_number_value(json_object_get(vector, "tol"));
    struct preference_options options = {.kind = kind, .beta = (float)input(vector, beta, 0)};
    assert_int_equal(json_array_size(published), 3);
    for (size_t i = 0; i < 3; i++) {
        struct preference_result result;
        const struct preference_terms terms = {.chosen = input(vector, "policy_chosen", i),
                                               .rejected = input(vector, "policy_rejected", i),
                                               .reference_chosen = input(vector, "ref_chosen", i),
                                               .reference_rejected =
                                                   input(vector, "ref_rejected", i)};
        preference_pair_loss(&options, &terms, &result);
        assert_true(fabs(result.loss - json_number_value(json_array_get(published, i))) <
                    tolerance);
    }
}

static void losses_of_pairs(void **state)
{
    (void)state;
    check_pairs("dpo_sigmoid_beta0.1", "beta", PREFERENCE_SIGMOID);
    check_pairs("dpo_hinge_gamma0.1", "gamma", PREFERENCE_HINGE);
}

/* Uniform logits of the policy and of the reference. Upstream adds the SFT loss summed over the
 * chosen answer's tokens, hone its mean: the coefficient is multiplied by their number. */
static void with_sft_term(void **state)
{
    (void)state;
    const json_t *vector = vector_of("dpo_plus_sft0.5_uniform_logits_v16");
    int trained = (int)input(vector, "unmasked_tokens_per_seq", 0);
    float logprob[3] = {0}, d_logprob[2][3] = {{0}};
    int32_t tokens[3] = {0};
    uint8_t mask[3] = {0, 1, 1};
    assert_int_equal(trained, 2);
    logprob[1] = logprob[2] = -(float)log(input(vector, "vocab", 0));
    struct preference_sequence data[2] = {
        {.reference_logprob = 2.0 * (double)logprob[1], .chosen = true},
        {.reference_logprob = 2.0 * (double)logprob[1], .chosen = false}};
    struct train_sequence sequences[2];
    for (int s = 0; s < 2; s++)
        sequences[s] = (struct train_sequence){
            .tokens = tokens, .count = 3, .loss_mask = mask, .user = &data[s]};
    struct train_batch batch = {.sequences = sequences, .count = 2, .temperature = 1.0f};
    const float *rows[2] = {logprob, logprob};
    float *d_rows[2] = {d_logprob[0], d_logprob[1]};
    struct loss_streams streams = {.count = 2, .logprob = rows, .d_logprob = d_rows};
    struct preference_loss loss = {
        .options = {.beta = 0.1f, .nll_coef = (float)(input(vector, "sft_weight", 0) * trained)}};
    double total = 0.0;
    preference_loss_begin(&loss, &batch);
    assert_ok(preference_loss_function(&loss, &batch, &streams, &total));
    double published = json_number_value(json_object_get(vector, "published"));
    assert_true(fabs(total - published) < 1e-6);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(losses_of_pairs),
                                       cmocka_unit_test(with_sft_term)};
    json_error_t error;
    if (argc < 2 || !file_exists(argv[1])) {
        printf("skipped: no published vectors at %s\n", argc < 2 ? "(no argument)" : argv[1]);
        return EXIT_SKIPPED;
    }
    vectors = json_load_file(argv[1], 0, &error);
    if (vectors == NULL) {
        fprintf(stderr, "%s: %s\n", argv[1], error.text);
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    json_decref(vectors);
    return failed;
}

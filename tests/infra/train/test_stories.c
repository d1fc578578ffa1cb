/* A checkpoint that others trained, on texts whose token ids and float64 logprobs are known: text
 * -> example
 * -> trainer must give them. Arguments: the checkpoint's directory and the JSON file of the texts.
 * Exits with 77 (skipped) when either is absent. */
#include "tests/infra/train/train_fixture.h"

#include <jansson.h>

#include "infra/train/example.h"

#define EXIT_SKIPPED  77
#define SEQUENCES_MAX 16

static const char *model_directory, *reference_path;

struct bench {
    json_t *reference;
    const json_t *sequences; /* [{text, ids, logprobs_next, mean_nll}] */
    struct example_list examples;
    struct train_sequence rows[SEQUENCES_MAX];
    float *logprob[SEQUENCES_MAX];
    struct train_batch batch;
};

static const json_t *field(const struct bench *bench, int32_t s, const char *name)
{
    const json_t *value = json_object_get(json_array_get(bench->sequences, (size_t)s), name);
    assert_non_null(value);
    return value;
}

static void bench_open(struct bench *bench)
{
    struct tokenizer *tokenizer = NULL;
    json_error_t error;

    memset(bench, 0, sizeof *bench);
    bench->reference = json_load_file(reference_path, 0, &error);
    assert_non_null(bench->reference);
    bench->sequences = json_object_get(bench->reference, "sequences");
    int32_t count = (int32_t)json_array_size(bench->sequences);
    assert_true(count >= 1 && count <= SEQUENCES_MAX);
    example_list_init(&bench->examples);
    assert_ok(tokenizer_load(&tokenizer, model_directory));
    for (int32_t s = 0; s < count; s++) {
        const char *text = json_string_value(field(bench, s, "text"));
        assert_ok(example_from_text(&bench->examples, tokenizer, text, -1, 512));
        assert_int_equal(bench->examples.count, s + 1); /* none is cut */
        const struct example *example = &bench->examples.items[s];
        bench->logprob[s] = MEMORY_ARRAY(float, example->count);
        bench->rows[s] = (struct train_sequence){.tokens = example->tokens,
                                                 .count = example->count,
                                                 .loss_mask = example->mask,
                                                 .unit = s};
    }
    bench->batch =
        (struct train_batch){.sequences = bench->rows, .count = count, .temperature = 1.0f};
    tokenizer_free(tokenizer);
}

static void bench_close(struct bench *bench)
{
    for (int32_t s = 0; s < bench->batch.count; s++)
        memory_free(bench->logprob[s]);
    example_list_release(&bench->examples);
    json_decref(bench->reference);
}

static void run(struct bench *bench, enum dtype dtype)
{
    struct model_config config;
    struct compute compute;
    struct trainer *trainer = NULL;
    struct trainer_options options = {.dtype = dtype,
                                      .micro_batch_tokens = 512,
                                      .max_sequence_tokens = 512,
                                      .logprobs_only = true};

    assert_ok(compute_open(&compute, 2));
    assert_ok(model_config_read(&config, model_directory));
    float *master = MEMORY_ARRAY(float, model_config_parameter_count(&config));
    assert_ok(model_read_flat(&config, model_directory, master));
    assert_ok(trainer_create(&trainer, &options, &config, master, &compute));
    assert_ok(trainer_logprobs(trainer, &bench->batch, bench->logprob, NULL));
    trainer_free(trainer);
    compute_close(&compute);
    memory_free(master);
}

static void check_mean(const struct bench *bench, int32_t s, double tolerance)
{
    double sum = 0.0, known = json_number_value(field(bench, s, "mean_nll"));
    int32_t count = bench->rows[s].count - 1;
    for (int32_t i = 1; i <= count; i++)
        sum -= (double)bench->logprob[s][i];
    if (fabs(sum / count - known) > tolerance)
        fail_msg("sequence %d: mean NLL %.7f, known %.7f", s, sum / count, known);
}

static void ids_are_the_known_ones(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench);
    for (int32_t s = 0; s < bench.batch.count; s++) {
        const json_t *ids = field(&bench, s, "ids");
        assert_int_equal(bench.rows[s].count, json_array_size(ids));
        for (int32_t i = 0; i < bench.rows[s].count; i++)
            assert_int_equal(bench.rows[s].tokens[i],
                             json_integer_value(json_array_get(ids, (size_t)i)));
    }
    bench_close(&bench);
}

static void logprobs_are_the_known_ones(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench);
    run(&bench, DTYPE_F32);
    for (int32_t s = 0; s < bench.batch.count; s++) {
        const json_t *known = field(&bench, s, "logprobs_next");
        assert_int_equal(json_array_size(known), bench.rows[s].count - 1);
        for (int32_t i = 1; i < bench.rows[s].count; i++) {
            double expected = json_number_value(json_array_get(known, (size_t)i - 1));
            double actual = (double)bench.logprob[s][i];
            if (fabs(actual - expected) > 1e-4)
                fail_msg("sequence %d, token %d: %.7f, known %.7f", s, i, actual, expected);
        }
        check_mean(&bench, s, 1e-5);
    }
    run(&bench, DTYPE_BF16); /* rounding moves single tokens, hardly their mean */
    for (int32_t s = 0; s < bench.batch.count; s++)
        check_mean(&bench, s, bench.rows[s].count > 100 ? 5e-3 : 5e-2);
    bench_close(&bench);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ids_are_the_known_ones),
                                       cmocka_unit_test(logprobs_are_the_known_ones)};
    if (argc < 3 || !file_is_directory(argv[1]) || !file_exists(argv[2])) {
        printf("skipped: no checkpoint and reference given, or they are absent\n");
        return EXIT_SKIPPED;
    }
    model_directory = argv[1];
    reference_path = argv[2];
    return cmocka_run_group_tests(tests, NULL, NULL);
}

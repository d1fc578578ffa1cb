/* The forward pass: one set of bits however rows are batched (G6, N1, N2), and the published
 * logits, logprobs and greedy text of a real checkpoint (argument: its folder). */
#include "tests/infra/model/model_fixture.h"

#include <math.h>

#include <jansson.h>

#include "infra/base/file.h"

#define SEQUENCES_MAX 8
#define POSITIONS_MAX 512
#define TEMPERATURE   0.7f
#define TEST_ROWS_MAX 640

static const char *stories; /* directory of the real checkpoint, or NULL */

/* Token sequences, and what was computed for each position but the last. */
struct texts {
    int32_t count;
    int32_t lengths[SEQUENCES_MAX];
    int32_t ids[SEQUENCES_MAX][POSITIONS_MAX];
};

struct results {
    float logprob[SEQUENCES_MAX][POSITIONS_MAX];
    float entropy[SEQUENCES_MAX][POSITIONS_MAX];
};

/* How the rows are cut into passes. */
struct schedule {
    const char *name;
    int32_t chunk;       /* most rows of one sequence in a pass */
    int32_t rows;        /* most rows of a pass */
    bool reversed;       /* sequences in descending order */
    bool interleaved;    /* rows of the sequences alternate */
    bool through_logits; /* as the actor does it: logits, then token_logprob */
};

static const struct schedule schedules[] = {
    {.name = "decode", .chunk = 1, .rows = 8, .through_logits = true},
    {.name = "prefill by 7", .chunk = 7, .rows = 20},
    {.name = "prefill by 32, reversed", .chunk = 32, .rows = 64, .reversed = true},
    {.name = "prefill by 50, through logits", .chunk = 50, .rows = 50, .through_logits = true},
    {.name = "packed in reverse", .chunk = POSITIONS_MAX, .rows = TEST_ROWS_MAX, .reversed = true},
    {.name = "interleaved", .chunk = 13, .rows = 60, .interleaved = true},
};

static const struct schedule packed = {
    .name = "packed", .chunk = POSITIONS_MAX, .rows = TEST_ROWS_MAX};

struct pass {
    int32_t count;
    int32_t tokens[TEST_ROWS_MAX], positions[TEST_ROWS_MAX], sequence[TEST_ROWS_MAX];
};

static void pass_add(struct pass *pass, const struct texts *texts, int32_t s, int32_t position)
{
    pass->tokens[pass->count] = texts->ids[s][position];
    pass->positions[pass->count] = position;
    pass->sequence[pass->count++] = s;
}

/* Fills the next pass; next[] holds each sequence's first position not yet computed. */
static void plan_pass(const struct schedule *schedule, const struct texts *texts,
                      int32_t next[SEQUENCES_MAX], struct pass *pass)
{
    int32_t taken[SEQUENCES_MAX] = {0};
    int32_t turns = schedule->interleaved ? schedule->chunk : 1;
    int32_t step = schedule->interleaved ? 1 : schedule->chunk;
    pass->count = 0;
    for (int32_t turn = 0; turn < turns; turn++)
        for (int32_t i = 0; i < texts->count; i++) {
            int32_t s = schedule->reversed ? texts->count - 1 - i : i;
            for (int32_t j = 0; j < step; j++) {
                if (pass->count == schedule->rows || taken[s] == schedule->chunk ||
                    next[s] == texts->lengths[s])
                    break;
                pass_add(pass, texts, s, next[s]++);
                taken[s]++;
            }
        }
}

static void score_pass(struct engine *engine, const struct schedule *schedule,
                       const struct texts *texts, const struct pass *pass, struct results *results)
{
    int32_t rows[TEST_ROWS_MAX], targets[TEST_ROWS_MAX], count = 0;
    float logprob[TEST_ROWS_MAX], entropy[TEST_ROWS_MAX];
    for (int32_t r = 0; r < pass->count; r++) {
        int32_t s = pass->sequence[r], next = pass->positions[r] + 1;
        if (next == texts->lengths[s])
            continue;
        rows[count] = r;
        targets[count++] = texts->ids[s][next];
    }
    if (schedule->through_logits) {
        int32_t vocab = model_config_of(engine->model)->vocab_size;
        float *logits = MEMORY_ARRAY(float, count *vocab);
        transformer_logits(engine->transformer, count, rows, logits);
        engine->compute.ops->token_logprob(engine->compute.pool, count, vocab, logits, vocab,
                                           TEMPERATURE, targets, logprob, entropy, NULL);
        memory_free(logits);
    } else {
        const struct head_targets heads = {
            .count = count, .rows = rows, .targets = targets, .temperature = TEMPERATURE};
        transformer_logprob(engine->transformer, &heads, logprob, entropy);
    }
    for (int32_t i = 0; i < count; i++) {
        results->logprob[pass->sequence[rows[i]]][pass->positions[rows[i]]] = logprob[i];
        results->entropy[pass->sequence[rows[i]]][pass->positions[rows[i]]] = entropy[i];
    }
}

static void run_schedule(struct engine *engine, const struct schedule *schedule,
                         const struct texts *texts, struct results *results)
{
    struct kv_sequence sequences[SEQUENCES_MAX], *pointers[SEQUENCES_MAX];
    int32_t next[SEQUENCES_MAX] = {0};
    struct pass pass;
    memset(results, 0, sizeof *results);
    for (int32_t s = 0; s < texts->count; s++) {
        pointers[s] = &sequences[s];
        kv_sequence_init(&sequences[s], POSITIONS_MAX);
    }
    for (;;) {
        plan_pass(schedule, texts, next, &pass);
        if (pass.count == 0)
            break;
        for (int32_t s = 0; s < texts->count; s++)
            assert_true(kv_sequence_reserve(engine->cache, &sequences[s], next[s], 0));
        transformer_forward(engine->transformer, &(struct forward_rows){.count = pass.count,
                                                                        .tokens = pass.tokens,
                                                                        .positions = pass.positions,
                                                                        .sequence = pass.sequence,
                                                                        .sequences = pointers});
        score_pass(engine, schedule, texts, &pass, results);
    }
    for (int32_t s = 0; s < texts->count; s++) {
        assert_int_equal(sequences[s].length, texts->lengths[s]);
        kv_sequence_release(engine->cache, &sequences[s]);
    }
    assert_int_equal(kv_cache_free_blocks(engine->cache), kv_cache_total_blocks(engine->cache));
}

static void assert_same_bits(const struct results *a, const struct results *b, const char *what)
{
    if (memcmp(a, b, sizeof *a) != 0)
        fail_msg("%s: bits differ from the packed training forward", what);
}

/* A finished sequence leaves NaN behind in the cache: nobody may ever see it. */
static void poison_cache(struct engine *engine)
{
    const struct model_config *config = model_config_of(engine->model);
    enum dtype dtype = model_dtype(engine->model);
    size_t values = (size_t)attention_block_values(dtype, config->kv_heads, config->head_dim);
    size_t bytes = (size_t)kv_cache_total_blocks(engine->cache) * values * dtype_bytes(dtype);
    for (int32_t layer = 0; layer < config->layers; layer++) {
        struct attention_kv kv = kv_cache_layer(engine->cache, layer);
        memset(kv.keys, 0xff, bytes);
        memset(kv.values, 0xff, bytes);
    }
}

/* Every schedule, instruction set and thread count against one packed training forward. */
static void check_one_engine(const struct model_config *config, const float *flat, enum dtype dtype,
                             const struct texts *texts, int scalar_threads)
{
    struct results *expected = MEMORY_NEW(struct results), *got = MEMORY_NEW(struct results);
    struct engine engine;
    engine_open(&engine, config, flat, dtype, CPU_ISA_SCALAR, 1, TEST_ROWS_MAX, ACTIVATIONS_ALL);
    run_schedule(&engine, &packed, texts, expected);
    engine_close(&engine);
    int32_t distinct = 0;
    for (int32_t s = 0; s < texts->count; s++)
        for (int32_t i = 0; i + 1 < texts->lengths[s]; i++) {
            assert_true(expected->logprob[s][i] <= 0.0f && expected->logprob[s][i] > -40.0f);
            assert_true(expected->entropy[s][i] >= 0.0f && expected->entropy[s][i] < 7.0f);
            distinct += expected->logprob[s][i] < -1e-3f;
        }
    assert_true(distinct > 100);
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++) {
        if (!cpu_isa_available((enum cpu_isa)isa))
            continue;
        int most = isa == CPU_ISA_SCALAR ? scalar_threads : 3;
        for (int threads = 1; threads <= most; threads++) {
            engine_open(&engine, config, flat, dtype, (enum cpu_isa)isa, threads, TEST_ROWS_MAX,
                        true);
            run_schedule(&engine, &packed, texts, got);
            assert_same_bits(expected, got, cpu_isa_name((enum cpu_isa)isa));
            engine_close(&engine);
            engine_open(&engine, config, flat, dtype, (enum cpu_isa)isa, threads, TEST_ROWS_MAX,
                        false);
            poison_cache(&engine);
            for (size_t i = 0; i < sizeof schedules / sizeof *schedules; i++) {
                run_schedule(&engine, &schedules[i], texts, got);
                assert_same_bits(expected, got, schedules[i].name);
            }
            engine_close(&engine);
        }
    }
    memory_free(expected);
    memory_free(got);
}

static struct texts random_texts(int32_t vocab)
{
    const int32_t lengths[] = {2, 33, 70, 32, 97};
    struct texts texts = {.count = 5};
    for (int32_t s = 0; s < texts.count; s++) {
        texts.lengths[s] = lengths[s];
        for (int32_t i = 0; i < lengths[s]; i++)
            texts.ids[s][i] = (int32_t)rng_below(&(struct rng_key){.seed = 5, .a = (uint64_t)s},
                                                 (uint64_t)i, (uint64_t)vocab);
    }
    return texts;
}

static void random_model(enum dtype dtype, bool tied)
{
    struct model_config config = fixture_config(tied);
    struct texts texts = random_texts(config.vocab_size);
    float *flat = fixture_flat(&config, 11);
    check_one_engine(&config, flat, dtype, &texts, 3);
    memory_free(flat);
}

static void test_one_engine_f32(void **state)
{
    (void)state;
    random_model(DTYPE_F32, false);
}

static void test_one_engine_bf16(void **state)
{
    (void)state;
    random_model(DTYPE_BF16, true);
}

/* A prefix shared by two sequences gives the bits of a prefix computed twice. */
static void test_shared_prefix(void **state)
{
    (void)state;
    struct model_config config = fixture_config(true);
    float *flat = fixture_flat(&config, 3), *logits[2];
    struct texts texts = random_texts(config.vocab_size);
    struct engine engine;
    struct kv_sequence first, second, *sequences[] = {&first, &second};
    const int32_t prefix = 40, zeros[64] = {0}, ones[64] = {[0 ... 63] = 1};
    int32_t positions[64], last[] = {9};
    engine_open(&engine, &config, flat, DTYPE_BF16, CPU_ISA_SCALAR, 1, 64, ACTIVATIONS_NONE);
    kv_sequence_init(&first, 100);
    kv_sequence_init(&second, 100);
    for (int32_t i = 0; i < 64; i++)
        positions[i] = i;
    assert_true(kv_sequence_reserve(engine.cache, &first, prefix + 10, 0));
    struct forward_rows rows = {.count = prefix,
                                .tokens = texts.ids[4],
                                .positions = positions,
                                .sequence = zeros,
                                .sequences = sequences};
    transformer_forward(engine.transformer, &rows);
    assert_true(kv_sequence_share(engine.cache, &first, prefix, &second));
    assert_true(kv_sequence_reserve(engine.cache, &second, prefix + 10, 0));
    for (int i = 0; i < 2; i++) {
        logits[i] = MEMORY_ARRAY(float, config.vocab_size);
        rows = (struct forward_rows){.count = 10,
                                     .tokens = texts.ids[2],
                                     .positions = positions + prefix,
                                     .sequence = i ? ones : zeros,
                                     .sequences = sequences};
        transformer_forward(engine.transformer, &rows);
        transformer_logits(engine.transformer, 1, last, logits[i]);
    }
    assert_memory_equal(logits[0], logits[1], (size_t)config.vocab_size * sizeof(float));
    for (int i = 0; i < 2; i++) {
        kv_sequence_release(engine.cache, sequences[i]);
        memory_free(logits[i]);
    }
    engine_close(&engine);
    memory_free(flat);
}

/* ---- the real checkpoint ---- */

static json_t *load_reference(void)
{
    char path[HONE_PATH_MAX];
    json_error_t error;
    path_join(path, sizeof path, stories, "reference_f64.json");
    json_t *reference = json_load_file(path, 0, &error);
    assert_non_null(reference);
    return reference;
}

static float *load_stories(struct model_config *config)
{
    char path[HONE_PATH_MAX];
    path_join(path, sizeof path, stories, "hf");
    if (model_config_read(config, path) < 0)
        fail_msg("%s", error_message());
    float *flat = MEMORY_ARRAY(float, model_config_parameter_count(config));
    if (model_read_flat(config, path, flat) < 0)
        fail_msg("%s", error_message());
    return flat;
}

static struct texts reference_texts(const json_t *reference)
{
    struct texts texts = {0};
    const json_t *sequence, *id;
    size_t s, i;
    json_array_foreach(json_object_get(reference, "sequences"), s, sequence)
    {
        json_array_foreach(json_object_get(sequence, "ids"), i, id) texts.ids[s][i] =
            (int32_t)json_integer_value(id);
        texts.lengths[s] = (int32_t)i;
        texts.count++;
    }
    assert_int_equal(texts.count, 5);
    return texts;
}

static void test_stories_one_engine(void **state)
{
    (void)state;
    struct model_config config;
    float *flat = load_stories(&config);
    json_t *reference = load_reference();
    struct texts texts = reference_texts(reference);
    texts.lengths[4] = 150; /* the scalar table is slow */
    check_one_engine(&config, flat, DTYPE_F32, &texts, 1);
    check_one_engine(&config, flat, DTYPE_BF16, &texts, 1);
    json_decref(reference);
    memory_free(flat);
}

/* Relative 1e-4; near zero, 1e-5 absolute: a millionth of what logits reach. */
static void assert_near(double got, double expected, const char *what)
{
    if (fabs(got - expected) > 1e-4 * fabs(expected) + 1e-5)
        fail_msg("%s: %.9g, the reference has %.9g", what, got, expected);
}

static void check_reference_sequence(struct engine *engine, const json_t *sequence)
{
    int32_t ids[POSITIONS_MAX], positions[POSITIONS_MAX], zeros[POSITIONS_MAX] = {0}, count = 0;
    float logprob[POSITIONS_MAX], logits[512];
    struct kv_sequence kv, *pointer = &kv;
    const json_t *value;
    size_t i;
    json_array_foreach(json_object_get(sequence, "ids"), i, value)
    {
        positions[count] = count;
        ids[count++] = (int32_t)json_integer_value(value);
    }
    kv_sequence_init(&kv, POSITIONS_MAX);
    assert_true(kv_sequence_reserve(engine->cache, &kv, count, 0));
    transformer_forward(engine->transformer, &(struct forward_rows){.count = count,
                                                                    .tokens = ids,
                                                                    .positions = positions,
                                                                    .sequence = zeros,
                                                                    .sequences = &pointer});
    const struct head_targets targets = {
        .count = count - 1, .rows = positions, .targets = ids + 1, .temperature = 1.0f};
    transformer_logprob(engine->transformer, &targets, logprob, NULL);
    json_array_foreach(json_object_get(sequence, "logprobs_next"), i, value)
        assert_near((double)logprob[i], json_real_value(value), "logprob");
    transformer_logits(engine->transformer, 1, positions + count - 1, logits);
    json_array_foreach(json_object_get(sequence, "logits_last_all512"), i, value)
        assert_near((double)logits[i], json_real_value(value), "last logits");
    transformer_logits(engine->transformer, 1, positions, logits);
    json_array_foreach(json_object_get(sequence, "logits_pos0_first8"), i, value)
        assert_near((double)logits[i], json_real_value(value), "first logits");
    kv_sequence_release(engine->cache, &kv);
}

static void test_stories_reference(void **state)
{
    (void)state;
    struct model_config config;
    float *flat = load_stories(&config);
    json_t *reference = load_reference();
    const json_t *sequence;
    struct engine engine;
    size_t i;
    engine_open(&engine, &config, flat, DTYPE_F32, CPU_ISA_SCALAR, 2, POSITIONS_MAX,
                ACTIVATIONS_NONE);
    json_array_foreach(json_object_get(reference, "sequences"), i, sequence)
        check_reference_sequence(&engine, sequence);
    engine_close(&engine);
    json_decref(reference);
    memory_free(flat);
}

static int32_t argmax(const float *values, int32_t count)
{
    int32_t best = 0;
    for (int32_t i = 1; i < count; i++)
        if (values[i] > values[best])
            best = i;
    return best;
}

static void check_greedy(struct engine *engine, const json_t *expected)
{
    struct kv_sequence kv, *pointer = &kv;
    const int32_t zero = 0;
    float logits[512];
    int32_t token = (int32_t)json_integer_value(json_array_get(expected, 0));
    kv_sequence_init(&kv, POSITIONS_MAX);
    for (int32_t position = 0; position < 200; position++) {
        assert_true(kv_sequence_reserve(engine->cache, &kv, position + 1, 0));
        transformer_forward(engine->transformer, &(struct forward_rows){.count = 1,
                                                                        .tokens = &token,
                                                                        .positions = &position,
                                                                        .sequence = &zero,
                                                                        .sequences = &pointer});
        transformer_logits(engine->transformer, 1, &zero, logits);
        token = argmax(logits, 512);
        assert_int_equal(token, json_integer_value(json_array_get(expected, (size_t)position + 1)));
    }
    kv_sequence_release(engine->cache, &kv);
}

static void test_stories_greedy(void **state)
{
    (void)state;
    struct model_config config;
    float *flat = load_stories(&config);
    json_t *reference = load_reference();
    const json_t *expected = json_object_get(reference, "greedy_from_bos_200");
    struct engine engine;
    assert_int_equal(json_array_size(expected), 201);
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++) {
        if (!cpu_isa_available((enum cpu_isa)isa))
            continue;
        engine_open(&engine, &config, flat, DTYPE_F32, (enum cpu_isa)isa, 1, 1, ACTIVATIONS_NONE);
        check_greedy(&engine, expected);
        engine_close(&engine);
    }
    json_decref(reference);
    memory_free(flat);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_engine_f32),
        cmocka_unit_test(test_one_engine_bf16),
        cmocka_unit_test(test_shared_prefix),
    };
    const struct CMUnitTest real[] = {
        cmocka_unit_test(test_stories_reference),
        cmocka_unit_test(test_stories_greedy),
        cmocka_unit_test(test_stories_one_engine),
    };
    if (argc < 2)
        return cmocka_run_group_tests_name("transformer", tests, NULL, NULL);
    if (!file_is_directory(argv[1])) {
        printf("skipped: no real checkpoint at %s\n", argv[1]);
        return EXIT_SKIPPED;
    }
    stories = argv[1];
    return cmocka_run_group_tests_name("transformer on stories260k", real, NULL, NULL);
}

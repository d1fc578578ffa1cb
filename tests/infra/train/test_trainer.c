#include "tests/infra/train/train_fixture.h"

#include "infra/train/packing.h"

/* ---- the objectives of this file ---- */

struct nll {
    double total;             /* trained tokens of the batch */
    int calls, poisoned_call; /* that call writes one NaN (0: none) */
    double entropy_coef;
};

/* Mean NLL of the batch minus entropy_coef times the mean entropy. */
static int nll_loss(void *context, const struct train_batch *batch,
                    const struct loss_streams *streams, double *loss)
{
    struct nll *nll = context;
    nll->calls++;
    for (int32_t s = 0; s < streams->count; s++) {
        const struct train_sequence *sequence = &batch->sequences[streams->first + s];
        for (int32_t i = 1; i < sequence->count; i++) {
            if (sequence->loss_mask[i] == 0) {
                assert_true(streams->logprob[s][i] == 0.0f && streams->d_logprob[s][i] == 0.0f);
                continue;
            }
            *loss -= (double)streams->logprob[s][i] / nll->total;
            streams->d_logprob[s][i] = (float)(-1.0 / nll->total);
            if (streams->entropy != NULL) {
                *loss -= nll->entropy_coef * (double)streams->entropy[s][i] / nll->total;
                streams->d_entropy[s][i] = (float)(-nll->entropy_coef / nll->total);
            }
            if (nll->calls == nll->poisoned_call)
                streams->d_logprob[s][i] = NAN;
        }
    }
    return 0;
}

static int zero_loss(void *context, const struct train_batch *batch,
                     const struct loss_streams *streams, double *loss)
{
    (void)context;
    (void)batch;
    (void)streams;
    *loss += 0.0;
    return 0;
}

static int failing_loss(void *context, const struct train_batch *batch,
                        const struct loss_streams *streams, double *loss)
{
    (void)context;
    (void)batch;
    (void)streams;
    (void)loss;
    return error_set(HONE_EFORMAT, "a bad item");
}

/* ---- a trainer in a known state ---- */

struct bench {
    struct model_config config;
    struct compute compute;
    struct trainer_options options;
    struct trainer *trainer;
    float *master;
    int64_t count;
};

static void bench_open(struct bench *bench, const struct trainer_options *options, int threads)
{
    bench->config = fixture_config();
    bench->options = *options;
    bench->count = model_config_parameter_count(&bench->config);
    bench->master = fixture_master(&bench->config, 5);
    assert_ok(compute_open(&bench->compute, threads));
    assert_ok(
        trainer_create(&bench->trainer, options, &bench->config, bench->master, &bench->compute));
}

static void bench_close(struct bench *bench)
{
    trainer_free(bench->trainer);
    compute_close(&bench->compute);
    memory_free(bench->master);
}

static struct step_report bench_step(struct bench *bench, uint64_t seed)
{
    struct fixture_batch data;
    struct step_report report;
    fixture_batch_fill(&data, 12, seed);
    struct nll nll = {.total = (double)data.trained};
    assert_ok(trainer_step(bench->trainer, &data.batch, nll_loss, &nll, &report));
    return report;
}

static void assert_same_weights(const struct bench *a, const struct bench *b)
{
    assert_memory_equal(trainer_master(a->trainer), trainer_master(b->trainer),
                        (size_t)a->count * sizeof(float));
}

/* ---- tests ---- */

static void check_gradient(bool with_entropy, float temperature)
{
    struct model_config config = fixture_config();
    struct compute compute;
    struct fixture_batch data;
    float *master = fixture_master(&config, 5);

    assert_ok(compute_open(&compute, 1));
    fixture_batch_fill(&data, 6, 9);
    data.batch.temperature = temperature;
    data.batch.need_entropy = with_entropy;
    struct nll nll = {.total = (double)data.trained, .entropy_coef = with_entropy ? 0.5 : 0.0};
    struct fixture_loss loss = {.function = nll_loss, .context = &nll};
    fixture_check_gradient(&config, &compute, master, &data.batch, &loss, 4, 4e-3, 3e-4);
    compute_close(&compute);
    memory_free(master);
}

static void gradient_matches_finite_differences(void **state)
{
    (void)state;
    check_gradient(false, 1.0f);
    check_gradient(true, 0.7f);
}

static void split_into_micro_batches_does_not_matter(void **state)
{
    (void)state;
    struct trainer_options whole = fixture_options(DTYPE_F32, 480);
    struct trainer_options split = fixture_options(DTYPE_F32, 40);
    struct bench a, b;

    bench_open(&a, &whole, 1);
    bench_open(&b, &split, 1);
    struct step_report one = bench_step(&a, 3), many = bench_step(&b, 3);
    assert_true(fabs(one.loss - many.loss) < 1e-6 * one.loss);
    assert_true(fabs(one.gradient_norm - many.gradient_norm) < 1e-5 * one.gradient_norm);
    assert_int_equal(one.tokens, many.tokens);
    assert_int_equal(one.trained_tokens, many.trained_tokens);
    const float *left = trainer_gradient(a.trainer), *right = trainer_gradient(b.trainer);
    for (int64_t i = 0; i < a.count; i++)
        assert_true(fabs((double)left[i] - (double)right[i]) < 1e-5 * one.gradient_norm);
    bench_close(&a);
    bench_close(&b);
}

static void same_recipe_gives_the_same_bits(void **state)
{
    (void)state;
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};
    for (int d = 0; d < 2; d++) {
        struct trainer_options options = fixture_options(dtypes[d], 100);
        struct bench a, b;
        bench_open(&a, &options, 1);
        bench_open(&b, &options, 3);
        for (uint64_t step = 1; step <= 4; step++) {
            struct step_report one = bench_step(&a, step), two = bench_step(&b, step);
            assert_true(one.applied && two.applied);
            assert_memory_equal(&one.loss, &two.loss, sizeof one.loss);
        }
        assert_same_weights(&a, &b);
        assert_memory_not_equal(trainer_master(a.trainer), a.master, 4096);
        bench_close(&a);
        bench_close(&b);
    }
}

static void checkpointed_layers_give_the_same_bits(void **state)
{
    (void)state;
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};
    for (int d = 0; d < 2; d++) {
        struct trainer_options keeping = fixture_options(dtypes[d], 100);
        struct trainer_options checkpointing = keeping;
        struct bench a, b;
        checkpointing.checkpoint_layers = true;
        bench_open(&a, &keeping, 1);
        bench_open(&b, &checkpointing, 2);
        for (uint64_t step = 1; step <= 3; step++) {
            struct step_report one = bench_step(&a, step), two = bench_step(&b, step);
            assert_memory_equal(&one.gradient_norm, &two.gradient_norm, sizeof(double));
        }
        assert_same_weights(&a, &b);
        bench_close(&a);
        bench_close(&b);
    }
}

/* G6 within the learner: a token's logprob does not depend on what shares its micro-batch. */
static void logprobs_do_not_depend_on_packing(void **state)
{
    (void)state;
    struct trainer_options wide = fixture_options(DTYPE_BF16, 480);
    struct trainer_options narrow = fixture_options(DTYPE_BF16, 40);
    struct fixture_batch data;
    static float first[FIXTURE_SEQUENCES_MAX][FIXTURE_TOKENS_MAX];
    static float second[FIXTURE_SEQUENCES_MAX][FIXTURE_TOKENS_MAX];
    static float entropy[FIXTURE_SEQUENCES_MAX][FIXTURE_TOKENS_MAX];
    float *a_rows[FIXTURE_SEQUENCES_MAX], *b_rows[FIXTURE_SEQUENCES_MAX];
    float *entropy_rows[FIXTURE_SEQUENCES_MAX];
    struct bench a, b;

    narrow.logprobs_only = true;
    fixture_batch_fill(&data, 20, 4);
    for (int32_t s = 0; s < 20; s++) {
        a_rows[s] = first[s];
        b_rows[s] = second[s];
        entropy_rows[s] = entropy[s];
    }
    bench_open(&a, &wide, 2);
    bench_open(&b, &narrow, 1);
    assert_ok(trainer_logprobs(a.trainer, &data.batch, a_rows, entropy_rows));
    assert_ok(trainer_logprobs(b.trainer, &data.batch, b_rows, NULL));
    assert_memory_equal(first, second, sizeof first);
    double sum = 0.0;
    for (int32_t s = 0; s < 20; s++)
        for (int32_t i = 0; i < data.sequences[s].count; i++) {
            assert_true((first[s][i] < 0.0f) == (data.mask[s][i] != 0));
            assert_true((entropy[s][i] > 0.0f) == (data.mask[s][i] != 0));
            sum += (double)first[s][i];
        }
    assert_true(sum < -(double)data.trained);
    bench_close(&a);
    bench_close(&b);
}

static void untrained_tail_is_not_computed(void **state)
{
    (void)state;
    int32_t tokens[10] = {0, 5, 6, 7, 8, 9, 10, 11, 12, 13};
    uint8_t mask[10] = {1, 0, 0, 1, 1, 0, 0, 0, 0, 0}, none[10] = {0};
    struct train_sequence sequences[] = {
        {.tokens = tokens, .count = 10, .loss_mask = mask, .unit = 0},
        {.tokens = tokens, .count = 10, .loss_mask = none, .unit = 1}};
    struct train_batch batch = {.sequences = sequences, .count = 2, .temperature = 1.0f};
    struct trainer_options options = fixture_options(DTYPE_F32, 40);
    struct nll nll = {.total = 2.0};
    struct step_report report;
    struct bench bench;

    bench_open(&bench, &options, 1);
    assert_ok(trainer_step(bench.trainer, &batch, nll_loss, &nll, &report));
    assert_int_equal(report.tokens, 4);
    assert_int_equal(report.trained_tokens, 2);
    assert_true(report.applied);
    bench_close(&bench);
}

static void non_finite_step_is_not_applied(void **state)
{
    (void)state;
    struct trainer_options options = fixture_options(DTYPE_F32, 480);
    struct fixture_batch data;
    struct step_report report;
    struct bench hit, spared;

    bench_open(&hit, &options, 1);
    bench_open(&spared, &options, 1);
    fixture_batch_fill(&data, 6, 1);
    struct nll nll = {.total = (double)data.trained, .poisoned_call = 1};
    assert_ok(trainer_step(hit.trainer, &data.batch, nll_loss, &nll, &report));
    assert_false(report.applied);
    assert_false(isfinite(report.gradient_norm));
    assert_int_equal(trainer_steps(hit.trainer), 1);
    assert_memory_equal(trainer_master(hit.trainer), hit.master, (size_t)hit.count * sizeof(float));
    struct hash before, after;
    model_hash(trainer_model(spared.trainer), &before);
    model_hash(trainer_model(hit.trainer), &after);
    assert_memory_equal(&before, &after, sizeof before);
    /* Its moments are untouched too: the next step is finite. */
    report = bench_step(&hit, 2);
    assert_true(report.applied);
    assert_memory_not_equal(trainer_master(hit.trainer), hit.master,
                            (size_t)hit.count * sizeof(float));
    bench_close(&hit);
    bench_close(&spared);
}

static void clipping_scales_the_gradient(void **state)
{
    (void)state;
    struct trainer_options free_options = fixture_options(DTYPE_F32, 480);
    free_options.optimizer.epsilon = 1.0; /* so that Adam does not normalise the scale away */
    free_options.optimizer.weight_decay = 0.0;
    struct trainer_options clipped = free_options;
    clipped.optimizer.max_gradient_norm = 0.25;
    struct bench a, b;

    bench_open(&a, &free_options, 1);
    bench_open(&b, &clipped, 1);
    struct step_report one = bench_step(&a, 3), two = bench_step(&b, 3);
    assert_true(one.gradient_norm > 0.25);
    assert_true(one.clip_scale == 1.0);
    assert_true(two.gradient_norm == one.gradient_norm);
    assert_true(fabs(two.clip_scale * two.gradient_norm - 0.25) < 1e-12);
    /* First AdamW step with epsilon 1: p -= lr g / (|g| + 1) with g the clipped gradient. */
    const float *gradient = trainer_gradient(b.trainer), *moved = trainer_master(b.trainer);
    for (int64_t i = 0; i < b.count; i++) {
        double g = (double)gradient[i] * two.clip_scale;
        double expected = (double)b.master[i] - 1e-2 * g / (fabs(g) + 1.0);
        assert_true(fabs((double)moved[i] - expected) < 2e-6);
    }
    bench_close(&a);
    bench_close(&b);
}

static void decay_applies_to_matrices_only(void **state)
{
    (void)state;
    struct trainer_options options = fixture_options(DTYPE_F32, 480);
    struct fixture_batch data;
    struct step_report report;
    struct bench bench;
    int vectors = 0;

    bench_open(&bench, &options, 1);
    fixture_batch_fill(&data, 3, 1);
    assert_ok(trainer_step(bench.trainer, &data.batch, zero_loss, NULL, &report));
    assert_true(report.applied && report.gradient_norm == 0.0);
    struct model *model = trainer_model(bench.trainer);
    for (int32_t t = 0; t < model_tensor_count(model); t++) {
        const struct model_tensor *tensor = model_tensor_at(model, t);
        double factor = tensor->rows > 1 ? 1.0 - 1e-2 * 0.1 : 1.0;
        vectors += tensor->rows == 1;
        for (int64_t i = tensor->offset; i < tensor->offset + tensor->count; i++) {
            double expected = (double)bench.master[i] * factor;
            double actual = (double)trainer_master(bench.trainer)[i];
            assert_true(fabs(actual - expected) <= 1e-7 * fabs(expected));
        }
    }
    assert_int_equal(vectors, 2 * bench.config.layers + 1);
    bench_close(&bench);
}

static void restored_equals_uninterrupted(void **state)
{
    (void)state;
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};
    char directory[HONE_PATH_MAX], path[HONE_PATH_MAX];

    fixture_directory(directory, "trainer");
    for (int d = 0; d < 2; d++) {
        struct trainer_options options = fixture_options(dtypes[d], 100);
        options.optimizer.moments_dtype = dtypes[d];
        options.optimizer.schedule = SCHEDULE_COSINE;
        options.optimizer.total_steps = 10;
        struct checkpoint_state saved = {.stage = "sft", .epoch = 2, .position = 7, .tokens = 99};
        struct checkpoint_state restored;
        struct bench a, b;
        bench_open(&a, &options, 1);
        bench_open(&b, &options, 1);
        for (uint64_t step = 1; step <= 3; step++)
            bench_step(&a, step);
        assert_ok(trainer_save(a.trainer, path_join(path, sizeof path, directory, "step-3"), NULL,
                               &saved));
        assert_int_equal(saved.step, 3);
        assert_ok(trainer_restore(b.trainer, path, &restored));
        assert_int_equal(trainer_steps(b.trainer), 3);
        assert_memory_equal(&saved, &restored, sizeof saved);
        for (uint64_t step = 4; step <= 6; step++) {
            bench_step(&a, step);
            bench_step(&b, step);
        }
        assert_same_weights(&a, &b);
        bench_close(&a);
        bench_close(&b);
    }
    /* The last checkpoint is bf16: another compute dtype is told, not silently continued. */
    struct trainer_options other = fixture_options(DTYPE_F32, 100);
    struct checkpoint_state restored;
    struct bench bench;
    bench_open(&bench, &other, 1);
    assert_int_equal(trainer_restore(bench.trainer, path, &restored), HONE_EINVAL);
    assert_non_null(strstr(error_message(), "moments_dtype"));
    bench_close(&bench);
    other.optimizer.moments_dtype = DTYPE_BF16;
    bench_open(&bench, &other, 1);
    assert_int_equal(trainer_restore(bench.trainer, path, &restored), HONE_ECORRUPT);
    assert_non_null(strstr(error_message(), "compute dtype"));
    bench_close(&bench);
    assert_ok(file_remove_tree(directory));
}

static void export_holds_the_weights(void **state)
{
    (void)state;
    struct trainer_options options = fixture_options(DTYPE_BF16, 100);
    struct checkpoint_state saved = {.stage = "sft"};
    char directory[HONE_PATH_MAX], path[HONE_PATH_MAX];
    struct bench bench;

    fixture_directory(directory, "export");
    path_join(path, sizeof path, directory, "final");
    bench_open(&bench, &options, 1);
    bench_step(&bench, 1);
    assert_ok(trainer_export(bench.trainer, path, NULL, DTYPE_F32, &saved));
    float *flat = MEMORY_ARRAY(float, bench.count);
    assert_ok(model_read_flat(&bench.config, path, flat));
    assert_memory_equal(flat, trainer_master(bench.trainer), (size_t)bench.count * sizeof(float));
    assert_int_equal(trainer_restore(bench.trainer, path, &saved), HONE_ENOENT);
    memory_free(flat);
    bench_close(&bench);
    assert_ok(file_remove_tree(directory));
}

static void bad_batches_are_named(void **state)
{
    (void)state;
    struct trainer_options options = fixture_options(DTYPE_F32, 48);
    struct fixture_batch data;
    struct step_report report;
    struct nll nll = {.total = 1.0};
    struct bench bench;

    bench_open(&bench, &options, 1);
    fixture_batch_fill(&data, 4, 1);
    data.tokens[2][0] = FIXTURE_VOCAB;
    assert_int_equal(trainer_step(bench.trainer, &data.batch, nll_loss, &nll, &report),
                     HONE_EINVAL);
    assert_non_null(strstr(error_message(), "sequence 2, token 0: id 98"));
    data.tokens[2][0] = 0;
    data.sequences[1].count = 41;
    assert_int_equal(trainer_step(bench.trainer, &data.batch, nll_loss, &nll, &report),
                     HONE_EINVAL);
    assert_non_null(strstr(error_message(), "41 tokens"));
    data.sequences[0].count = data.sequences[1].count = 30;
    data.sequences[1].unit = data.sequences[0].unit;
    assert_int_equal(trainer_step(bench.trainer, &data.batch, nll_loss, &nll, &report),
                     HONE_EINVAL);
    assert_non_null(strstr(error_message(), "60 tokens"));
    data.sequences[1].unit = 1;
    assert_int_equal(trainer_step(bench.trainer, &data.batch, failing_loss, NULL, &report),
                     HONE_EFORMAT);
    assert_int_equal(trainer_steps(bench.trainer), 0);
    assert_memory_equal(trainer_master(bench.trainer), bench.master,
                        (size_t)bench.count * sizeof(float));
    /* KV blocks were given back: every further step fits. */
    for (uint64_t step = 0; step < 20; step++)
        assert_true(bench_step(&bench, step).applied);
    bench_close(&bench);
}

static void bad_options_are_named(void **state)
{
    (void)state;
    struct model_config config = fixture_config();
    struct trainer_options options = fixture_options(DTYPE_F32, 39);
    float *master = fixture_master(&config, 1);
    struct trainer *trainer = NULL;
    struct compute compute;

    assert_ok(compute_open(&compute, 1));
    assert_int_equal(trainer_create(&trainer, &options, &config, master, &compute), HONE_EINVAL);
    options.max_sequence_tokens = 129;
    assert_int_equal(trainer_create(&trainer, &options, &config, master, &compute), HONE_EINVAL);
    options = fixture_options(DTYPE_F32, 100);
    options.optimizer.moments_dtype = DTYPE_BF16;
    options.optimizer.beta2 = 0.995;
    assert_int_equal(trainer_create(&trainer, &options, &config, master, &compute), HONE_EINVAL);
    assert_non_null(strstr(error_message(), "beta2"));
    options = fixture_options(DTYPE_F16, 100);
    assert_int_equal(trainer_create(&trainer, &options, &config, master, &compute), HONE_EINVAL);
    assert_null(trainer);
    compute_close(&compute);
    memory_free(master);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradient_matches_finite_differences),
        cmocka_unit_test(split_into_micro_batches_does_not_matter),
        cmocka_unit_test(same_recipe_gives_the_same_bits),
        cmocka_unit_test(checkpointed_layers_give_the_same_bits),
        cmocka_unit_test(logprobs_do_not_depend_on_packing),
        cmocka_unit_test(untrained_tail_is_not_computed),
        cmocka_unit_test(non_finite_step_is_not_applied),
        cmocka_unit_test(clipping_scales_the_gradient),
        cmocka_unit_test(decay_applies_to_matrices_only),
        cmocka_unit_test(restored_equals_uninterrupted),
        cmocka_unit_test(export_holds_the_weights),
        cmocka_unit_test(bad_batches_are_named),
        cmocka_unit_test(bad_options_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

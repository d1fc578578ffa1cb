/* The memory plan against the kernel's count: a real trainer in a child process takes a step over a
 * full micro-batch, and its peak resident memory grows by what was planned, within 5 %. With
 * lengths as arguments it measures instead: one sequence of each length through training and
 * decoding. */
#include "tests/infra/train/train_fixture.h"

#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DECODED_TOKENS 32
#define PREFILL_ROWS   256

struct outcome {
    double planned_bytes, grown_bytes;
    double train_s, prefill_s, decode_s_per_token, decode_bytes;
};

static double status_bytes(const char *name)
{
    char line[256];
    double value = -1.0;
    FILE *file = fopen("/proc/self/status", "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, name, strlen(name)) == 0)
            value = strtod(line + strlen(name), NULL) * 1024.0;
    fclose(file);
    assert_true(value > 0.0);
    return value;
}

/* Of this process's threads together, so that a busy machine does not show. */
static double cpu_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int mean_nll(void *context, const struct train_batch *batch,
                    const struct loss_streams *streams, double *loss)
{
    double total = *(const double *)context;
    for (int32_t s = 0; s < streams->count; s++)
        for (int32_t i = 1; i < batch->sequences[streams->first + s].count; i++) {
            *loss -= (double)streams->logprob[s][i] / total;
            streams->d_logprob[s][i] = (float)(-1.0 / total);
        }
    return 0;
}

struct job {
    struct model_config config;
    struct trainer_options options;
    int32_t sequences; /* that fill one micro-batch */
    int threads;
    bool decode;
};

static void take_step(struct trainer *trainer, const struct job *job, const int32_t *tokens,
                      struct outcome *outcome)
{
    int32_t length = job->options.max_sequence_tokens;
    struct train_sequence *sequences = MEMORY_ARRAY(struct train_sequence, job->sequences);
    uint8_t *mask = MEMORY_ARRAY(uint8_t, length);
    double total = (double)job->sequences * (length - 1);
    struct step_report report;
    memset(mask, 1, (size_t)length);
    for (int32_t s = 0; s < job->sequences; s++)
        sequences[s] = (struct train_sequence){
            .tokens = tokens, .count = length, .loss_mask = mask, .unit = s};
    struct train_batch batch = {
        .sequences = sequences, .count = job->sequences, .temperature = 1.0f};
    double start = cpu_seconds();
    if (trainer_step(trainer, &batch, mean_nll, &total, &report) < 0 || !report.applied)
        abort();
    outcome->train_s = cpu_seconds() - start;
    memory_free(sequences);
    memory_free(mask);
}

/* The sequence in chunks, then token by token, as an actor does it. */
static void decode(const struct job *job, const struct compute *compute, const float *master,
                   const int32_t *tokens, struct outcome *outcome)
{
    int32_t length = job->options.max_sequence_tokens, last = length - DECODED_TOKENS, rows = 0;
    int32_t positions[PREFILL_ROWS], sequence[PREFILL_ROWS] = {0}, first = 0;
    float *logits = MEMORY_ARRAY(float, job->config.vocab_size);
    struct model *model;
    struct kv_cache *cache;
    struct transformer *transformer;
    struct kv_sequence kv;
    double before = status_bytes("VmRSS:"), start = cpu_seconds();
    assert_ok(model_create(&model, &job->config, job->options.dtype, false, compute));
    model_set_flat(model, master);
    assert_ok(kv_cache_create(&cache, &job->config, job->options.dtype, length / 32 + 1));
    assert_ok(transformer_create(&transformer, model, cache, PREFILL_ROWS, ACTIVATIONS_NONE));
    kv_sequence_init(&kv, length);
    assert_true(kv_sequence_reserve(cache, &kv, length, 0));
    struct kv_sequence *const sequences[] = {&kv};
    for (; first < length; first += rows) {
        rows = first >= last ? 1 : last - first < PREFILL_ROWS ? last - first : PREFILL_ROWS;
        if (first == last) {
            outcome->prefill_s = cpu_seconds() - start;
            start = cpu_seconds();
        }
        for (int32_t i = 0; i < rows; i++)
            positions[i] = first + i;
        transformer_forward(transformer, &(struct forward_rows){.count = rows,
                                                                .tokens = tokens + first,
                                                                .positions = positions,
                                                                .sequence = sequence,
                                                                .sequences = sequences});
        transformer_logits(transformer, 1, &(int32_t){rows - 1}, logits);
    }
    outcome->decode_s_per_token = (cpu_seconds() - start) / DECODED_TOKENS;
    outcome->decode_bytes = status_bytes("VmRSS:") - before;
    memory_free(logits);
}

static void run_job(const struct job *job, struct outcome *outcome)
{
    int64_t count = model_config_parameter_count(&job->config);
    int32_t length = job->options.max_sequence_tokens;
    const struct rng_key key = {.seed = 3, .purpose = RNG_DATA};
    float *master = memory_map((size_t)count * sizeof *master);
    int32_t *tokens = MEMORY_ARRAY(int32_t, length);
    struct memory_plan plan = {0};
    struct trainer *trainer;
    struct compute compute;
    for (int64_t i = 0; i < count; i++)
        master[i] = 0.02f * (float)(i * 7 % 11 - 5);
    for (int32_t i = 0; i < length; i++)
        tokens[i] = (int32_t)rng_below(&key, (uint64_t)i, (uint64_t)job->config.vocab_size);
    assert_ok(compute_open(&compute, job->threads));
    double before = status_bytes("VmRSS:");
    trainer_plan(&job->options, &job->config, "trainer", &plan);
    assert_ok(trainer_create(&trainer, &job->options, &job->config, master, &compute));
    take_step(trainer, job, tokens, outcome);
    outcome->planned_bytes = (double)plan.total;
    outcome->grown_bytes = status_bytes("VmHWM:") - before;
    trainer_free(trainer);
    if (job->decode)
        decode(job, &compute, master, tokens, outcome);
}

/* In a process of its own: a peak is never forgotten. */
static struct outcome run_apart(const struct job *job)
{
    struct outcome outcome = {0};
    int ends[2], status = 0;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        run_job(job, &outcome);
        _exit(write(ends[1], &outcome, sizeof outcome) == sizeof outcome ? 0 : 1);
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &outcome, sizeof outcome), sizeof outcome);
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    return outcome;
}

static struct model_config large_config(void)
{
    struct model_config config = fixture_config();
    config.vocab_size = 8192;
    config.hidden_size = 512;
    config.layers = 4;
    config.heads = 8;
    config.kv_heads = 2;
    config.head_dim = 64;
    config.intermediate_size = 1408;
    return config;
}

static void assert_planned(const char *what, const struct job *job)
{
    struct outcome outcome = run_apart(job);
    double ratio = outcome.grown_bytes / outcome.planned_bytes;
    print_message("%s: planned %.1f MB, peak grew by %.1f MB (%.3f)\n", what,
                  outcome.planned_bytes / 1e6, outcome.grown_bytes / 1e6, ratio);
    assert_true(outcome.planned_bytes > 2e8);
    assert_true(ratio > 0.95 && ratio < 1.05);
}

static void plan_is_what_the_kernel_counts(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    print_message("skipped: a sanitizer's own memory is in the count\n");
    skip();
#endif
    struct job job = {.config = large_config(),
                      .options = fixture_options(DTYPE_BF16, 256),
                      .sequences = 2,
                      .threads = 2};
    job.options.max_sequence_tokens = 128;
    assert_planned("bf16", &job);
    job.options.checkpoint_layers = true;
    job.options.optimizer.moments_dtype = DTYPE_BF16;
    assert_planned("bf16, layers checkpointed, bf16 moments", &job);
    job.options = fixture_options(DTYPE_F32, 256);
    job.options.max_sequence_tokens = 128;
    assert_planned("fp32", &job);
}

static void plan_has_a_line_for_each_class(void **state)
{
    (void)state;
    struct model_config config = large_config();
    struct trainer_options options = fixture_options(DTYPE_BF16, 1024);
    size_t parameters = (size_t)model_config_parameter_count(&config);
    struct memory_plan training = {0}, checkpointing = {0}, reference = {0};
    struct text table;
    trainer_plan(&options, &config, "learner", &training);
    options.checkpoint_layers = true;
    trainer_plan(&options, &config, "learner", &checkpointing);
    assert_true(checkpointing.total < training.total);
    options.logprobs_only = true;
    trainer_plan(&options, &config, "reference", &reference);
    assert_true(training.total > 16 * parameters);
    assert_true(reference.total + 12 * parameters < training.total);
    text_init(&table);
    memory_plan_print(&training, &table);
    assert_non_null(strstr(table.data, "learner    optimizer moments"));
    assert_non_null(strstr(table.data, "activations"));
    assert_non_null(strstr(table.data, "total"));
    text_release(&table);
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    struct memory_plan plan = {0};
    memory_plan_add(&plan, "learner", "nothing", 0);
    memory_plan_add(&plan, "learner", "activations", 3000000);
    memory_plan_add(&plan, "reference", "weights", 1000000);
    assert_int_equal(plan.count, 2);
    assert_ok(memory_plan_check(&plan, "rl", 4000000));
    assert_int_equal(memory_plan_check(&plan, "rl", 3999999), HONE_ENOMEM);
    assert_non_null(strstr(error_message(), "rl needs 4.0 MB"));
    assert_non_null(strstr(error_message(), "activations (3.0 MB)"));
    assert_non_null(strstr(error_message(), "activation_checkpointing"));
    int64_t free_bytes = memory_plan_free_bytes();
    assert_true(free_bytes > 0 && free_bytes < (int64_t)1 << 50);
}

/* ---- measuring ---- */

static int measure(int count, char **lengths)
{
    printf("CPU time of both threads; MB: plan (and with layers checkpointed), peak, decoding\n"
           "tokens  train s     plan  (layer)     peak  prefill s  decode ms/token  decode\n");
    for (int i = 0; i < count; i++) {
        int32_t length = (int32_t)strtol(lengths[i], NULL, 10);
        struct job job = {.config = fixture_config(), .sequences = 1, .threads = 2, .decode = true};
        job.config.hidden_size = 128;
        job.config.head_dim = 32;
        job.config.intermediate_size = 384;
        job.config.vocab_size = 512;
        job.config.max_positions = length;
        job.options = fixture_options(DTYPE_BF16, length);
        job.options.max_sequence_tokens = length;
        struct outcome o = run_apart(&job);
        struct memory_plan layered = {0};
        job.options.checkpoint_layers = true;
        trainer_plan(&job.options, &job.config, "trainer", &layered);
        printf("%6d %8.2f %8.1f %8.1f %8.1f %10.2f %16.2f %7.1f\n", length, o.train_s,
               o.planned_bytes / 1e6, (double)layered.total / 1e6, o.grown_bytes / 1e6, o.prefill_s,
               o.decode_s_per_token * 1e3, o.decode_bytes / 1e6);
        fflush(stdout);
    }
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plan_is_what_the_kernel_counts),
        cmocka_unit_test(plan_has_a_line_for_each_class),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    if (argc > 1)
        return measure(argc - 1, argv + 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What the engine allocates: nothing in a step but the trajectories it hands out, whatever is
 * admitted, finishes or changes; and in total what its plan says, measured as resident memory. The
 * allocator is wrapped by the linker (tests/actors/CMakeLists.txt). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "actors/engine_plan.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "tests/actors/tiny_model.h"

#define REQUESTS     40
#define GROUP_SIZE   4
#define SLOTS        5
#define TOKENS_MAX   90
#define SWAP_AT_STEP 25

/* ---- the counted allocator ---- */

static atomic_long allocations;

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t bytes);
int __real_posix_memalign(void **block, size_t alignment, size_t bytes);
void *__real_mmap(void *at, size_t bytes, int protection, int flags, int file, off_t offset);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t bytes);
int __wrap_posix_memalign(void **block, size_t alignment, size_t bytes);
void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int file, off_t offset);

void *__wrap_malloc(size_t bytes)
{
    atomic_fetch_add(&allocations, 1);
    return __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t size)
{
    atomic_fetch_add(&allocations, 1);
    return __real_calloc(count, size);
}

void *__wrap_realloc(void *block, size_t bytes)
{
    atomic_fetch_add(&allocations, 1);
    return __real_realloc(block, bytes);
}

int __wrap_posix_memalign(void **block, size_t alignment, size_t bytes)
{
    atomic_fetch_add(&allocations, 1);
    return __real_posix_memalign(block, alignment, bytes);
}

void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int file, off_t offset)
{
    atomic_fetch_add(&allocations, 1);
    return __real_mmap(at, bytes, protection, flags, file, offset);
}

/* Of one trajectory, as the engine makes it. */
static long trajectory_allocations(const struct trajectory *like)
{
    struct trajectory copy;
    long before = atomic_load(&allocations);
    trajectory_init(&copy, like->token_count);
    trajectory_add_segment(&copy, SEGMENT_PROMPT, like->prompt_tokens);
    trajectory_add_segment(&copy, SEGMENT_POLICY, like->token_count - like->prompt_tokens);
    long made = atomic_load(&allocations) - before;
    trajectory_release(&copy);
    return made;
}

/* ---- a run with everything in it ---- */

struct bench {
    struct compute compute;
    struct backend_ops ops;
    struct model *model;
    struct rollout_engine *engine;
    int32_t submitted, finished;
    long unexplained; /* allocations in steps beyond the trajectories handed out */
};

static void submit(struct bench *bench, int32_t index)
{
    int32_t prompt[40], group = index / GROUP_SIZE, count = 1 + 9 * (group % 5);
    for (int32_t i = 0; i < count; i++)
        prompt[i] = 3 + (group * 31 + i * 7) % 90;
    struct rollout_request request = {.user = (uint64_t)index,
                                      .prompt_id = (uint64_t)group,
                                      .group_id = (uint64_t)group + 1,
                                      .sample_index = index % GROUP_SIZE,
                                      .prompt_tokens = prompt,
                                      .prompt_token_count = count,
                                      .sampling = {.temperature = group % 4 == 3 ? 0.0f : 1.0f,
                                                   .top_p = group % 3 == 0 ? 0.9f : 1.0f,
                                                   .top_k = group % 3 == 1 ? 12 : 0,
                                                   .min_p = group % 3 == 2 ? 0.05f : 0.0f,
                                                   .max_completion_tokens = 5 + (index * 13) % 40,
                                                   .seed = 5}};
    assert_int_equal(rollout_engine_submit(bench->engine, &request), 0);
}

static void step(struct bench *bench)
{
    struct trajectory trajectory;
    uint64_t user;
    long before = atomic_load(&allocations);
    rollout_engine_step(bench->engine);
    long made = atomic_load(&allocations) - before;
    while (rollout_engine_finished(bench->engine, &trajectory, &user)) {
        made -= trajectory_allocations(&trajectory);
        trajectory_release(&trajectory);
        bench->finished++;
    }
    bench->unexplained += made;
}

/* Requests arrive while others run; the KV cache is short, so that some wait; the weights change
 * once; a request is cancelled. */
static void run_all(struct bench *bench, enum dtype dtype, int threads,
                    const struct backend_ops *ops)
{
    struct model_config config = tiny_model_config();
    struct rollout_engine_options options = {.slots = SLOTS,
                                             .prefill_chunk_tokens = 24,
                                             .max_sequence_tokens = TOKENS_MAX,
                                             .kv_blocks = 9,
                                             .rng_purpose = RNG_SAMPLE};
    float *flat = tiny_model_flat(&config, 3);
    memset(bench, 0, sizeof *bench);
    bench->ops = *ops;
    bench->compute.ops = &bench->ops;
    bench->compute.pool = parallel_create(threads);
    assert_int_equal(model_create(&bench->model, &config, dtype, false, &bench->compute), 0);
    model_set_flat(bench->model, flat);
    assert_int_equal(rollout_engine_create(&bench->engine, bench->model, &options, &bench->compute),
                     0);
    for (int32_t steps = 0; bench->finished < REQUESTS - 1; steps++) {
        while (bench->submitted < REQUESTS && rollout_engine_room(bench->engine) > 0)
            submit(bench, bench->submitted++);
        if (steps == SWAP_AT_STEP)
            rollout_engine_set_version(bench->engine, 1);
        if (steps == SWAP_AT_STEP + 2)
            assert_int_equal(rollout_engine_cancel(bench->engine, REQUESTS - 1) +
                                 (bench->submitted < REQUESTS),
                             1);
        step(bench);
        assert_true(steps < 2000);
    }
    rollout_engine_destroy(bench->engine);
    model_free(bench->model);
    parallel_destroy(bench->compute.pool);
    memory_free(flat);
}

static const struct backend_ops *best_table(void)
{
    const struct backend_ops *ops = backend_cpu(CPU_ISA_SCALAR);
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++)
        if (cpu_isa_available((enum cpu_isa)isa))
            ops = backend_cpu((enum cpu_isa)isa);
    return ops;
}

static void test_steps_allocate_nothing(void **state)
{
    struct bench bench;
    (void)state;
    for (int threads = 1; threads <= 3; threads++) {
        run_all(&bench, threads == 2 ? DTYPE_BF16 : DTYPE_F32, threads, best_table());
        assert_int_equal(bench.unexplained, 0);
    }
}

/* The gate sees an operation that allocates and frees again. */
static void (*real_swiglu)(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t dim,
                           const float *gate_up, void *out);

static void allocating_swiglu(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t dim,
                              const float *gate_up, void *out)
{
    memory_free(memory_alloc((size_t)rows, sizeof(float)));
    real_swiglu(pool, dtype, rows, dim, gate_up, out);
}

static void test_an_allocating_kernel_is_found(void **state)
{
    struct backend_ops ops = *best_table();
    struct bench bench;
    (void)state;
    real_swiglu = ops.swiglu;
    ops.swiglu = allocating_swiglu;
    run_all(&bench, DTYPE_F32, 1, &ops);
    assert_true(bench.unexplained > 0);
}

/* ---- the plan against resident memory ---- */

/* A line of this process's status, in bytes. */
static size_t status_bytes(const char *field)
{
    char line[256];
    size_t kilobytes = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (strncmp(line, field, strlen(field)) == 0)
            kilobytes = (size_t)strtoull(line + strlen(field) + 1, NULL, 10);
    if (status)
        fclose(status);
    return kilobytes * 1024;
}

struct plan_case {
    const char *what;
    struct model_config config;
    enum dtype dtype;
    int32_t completion_tokens;
    struct rollout_engine_options options;
};

/* Fills every slot; completions are long enough for all to be there at once. */
static void fill_slots(struct rollout_engine *engine, const struct plan_case *c)
{
    int32_t count = c->options.max_sequence_tokens - c->completion_tokens;
    int32_t *prompt = MEMORY_ARRAY(int32_t, count);
    for (int32_t s = 0; s < c->options.slots; s++) {
        for (int32_t i = 0; i < count; i++)
            prompt[i] = (s * 17 + i) % c->config.vocab_size;
        struct rollout_request request = {
            .user = (uint64_t)s,
            .group_id = (uint64_t)s + 1,
            .prompt_tokens = prompt,
            .prompt_token_count = count,
            .sampling = {
                .temperature = 1.0f, .top_p = 0.9f, .max_completion_tokens = c->completion_tokens}};
        if (rollout_engine_submit(engine, &request) < 0)
            _exit(3);
    }
    memory_free(prompt);
    while (rollout_engine_step(engine) > 0)
        continue;
}

struct growth {
    size_t planned, measured;
};

/* In the child: how far resident memory grew at its highest, against the plan. */
static struct growth measure(const struct plan_case *c)
{
    struct compute compute = {.ops = best_table(), .pool = parallel_create(2)};
    struct model *model;
    struct rollout_engine *engine;
    struct growth growth = {0};
    int64_t parameters = model_config_parameter_count(&c->config);
    float *flat = MEMORY_ARRAY(float, parameters);
    for (int64_t i = 0; i < parameters; i++)
        flat[i] = (float)(i % 17 - 8) * 0.01f;
    size_t before = status_bytes("VmRSS:");
    growth.planned = engine_plan_bytes(&c->config, c->dtype, &c->options, 2);
    if (model_create(&model, &c->config, c->dtype, false, &compute) < 0)
        _exit(1);
    model_set_flat(model, flat);
    if (rollout_engine_create(&engine, model, &c->options, &compute) < 0)
        _exit(2);
    fill_slots(engine, c);
    growth.measured = status_bytes("VmHWM:") - before;
    return growth;
}

static void check_plan(const struct plan_case *c)
{
    int ends[2];
    int status;
    struct growth growth = {0};
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        growth = measure(c);
        _exit(write(ends[1], &growth, sizeof growth) == (ssize_t)sizeof growth ? 0 : 4);
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &growth, sizeof growth), sizeof growth);
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    double ratio = (double)growth.measured / (double)growth.planned;
    print_message("%s: planned %.1f MB, grew by %.1f MB (%.3f)\n", c->what,
                  (double)growth.planned / 1e6, (double)growth.measured / 1e6, ratio);
    if (ratio < 0.95 || ratio > 1.05)
        fail_msg("%s: the plan is more than 5 %% off", c->what);
}

static struct model_config plan_config(void)
{
    struct model_config config = tiny_model_config();
    config.vocab_size = 1000;
    config.head_dim = 32;
    config.max_positions = 4096;
    return config;
}

static void test_plan_is_resident_memory(void **state)
{
    struct plan_case cache = {"cache", plan_config(), DTYPE_F32, 12, {.slots = 32}};
    struct plan_case rows = {"rows", plan_config(), DTYPE_BF16, 2, {.slots = 64}};
    struct plan_case head = {"head", plan_config(), DTYPE_BF16, 20, {.slots = 64}};
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    print_message("skipped: a sanitizer's shadow memory is not in the plan\n");
    skip();
#endif
    cache.config.kv_heads = cache.config.heads;
    cache.options.prefill_chunk_tokens = 2048;
    cache.options.max_sequence_tokens = 384;
    rows.config.intermediate_size = 2048;
    rows.options.prefill_chunk_tokens = 4096 - 64;
    rows.options.max_sequence_tokens = 96;
    head.config.vocab_size = 60000;
    head.config.hidden_size = 128;
    head.options.prefill_chunk_tokens = 512;
    head.options.max_sequence_tokens = 40;
    check_plan(&cache);
    check_plan(&rows);
    check_plan(&head);
}

static void test_a_plan_that_does_not_fit_fails(void **state)
{
    struct model_config config = plan_config();
    struct rollout_engine_options options = {
        .slots = 1 << 20, .prefill_chunk_tokens = 16, .max_sequence_tokens = 4096};
    (void)state;
    assert_true(engine_plan_announce(&config, DTYPE_F32, &options, 1) < 0);
    options.slots = 1;
    assert_int_equal(engine_plan_announce(&config, DTYPE_F32, &options, 1), 0);
}

int main(void)
{
    compute_thread_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan_is_resident_memory), /* before other pools of threads exist */
        cmocka_unit_test(test_a_plan_that_does_not_fit_fails),
        cmocka_unit_test(test_steps_allocate_nothing),
        cmocka_unit_test(test_an_allocating_kernel_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

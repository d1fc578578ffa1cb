/* The allocation gate: after its first step a trainer's steps and logprob passes allocate nothing,
 * on any thread. malloc and its relatives, and mmap, are this program's own here, so that calls
 * from the C library count too; a loss that does allocate shows that the count counts. */
#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/infra/train/train_fixture.h"

extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *block, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);

void *aligned_alloc(size_t alignment, size_t bytes);
void *memalign(size_t alignment, size_t bytes);

static atomic_int allocations;

void *malloc(size_t bytes)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_calloc(count, bytes);
}

void *realloc(void *block, size_t bytes)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_realloc(block, bytes);
}

void *memalign(size_t alignment, size_t bytes)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_memalign(alignment, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    return memalign(alignment, bytes);
}

int posix_memalign(void **block, size_t alignment, size_t bytes)
{
    *block = memalign(alignment, bytes);
    return *block != NULL ? 0 : ENOMEM;
}

void *mmap(void *address, size_t bytes, int protection, int flags, int file, off_t offset)
{
    atomic_fetch_add(&allocations, 1);
    return (void *)syscall(SYS_mmap, address, bytes, protection, flags, file, offset);
}

struct gate_loss {
    bool allocates;
    void *block;
};

static int gate_loss_function(void *context, const struct train_batch *batch,
                              const struct loss_streams *streams, double *loss)
{
    struct gate_loss *gate = context;
    for (int32_t s = 0; s < streams->count; s++)
        for (int32_t i = 1; i < batch->sequences[streams->first + s].count; i++) {
            *loss -= (double)streams->logprob[s][i];
            streams->d_logprob[s][i] =
                batch->sequences[streams->first + s].loss_mask[i] != 0 ? -0.01f : 0.0f;
        }
    if (gate->allocates) {
        memory_free(gate->block);
        gate->block = memory_alloc(1, 1);
    }
    return 0;
}

/* Allocations of one step, and of one logprob pass, over `count` sequences. */
static int allocations_of_a_step(struct trainer *trainer, int32_t count, uint64_t seed,
                                 struct gate_loss *gate)
{
    static struct fixture_batch data;
    static float logprob[FIXTURE_SEQUENCES_MAX][FIXTURE_TOKENS_MAX];
    float *rows[FIXTURE_SEQUENCES_MAX];
    struct step_report report;
    fixture_batch_fill(&data, count, seed);
    data.batch.need_entropy = true;
    for (int32_t s = 0; s < count; s++)
        rows[s] = logprob[s];
    int before = atomic_load(&allocations);
    assert_ok(trainer_step(trainer, &data.batch, gate_loss_function, gate, &report));
    assert_ok(trainer_logprobs(trainer, &data.batch, rows, NULL));
    int made = atomic_load(&allocations) - before;
    assert_true(report.applied);
    return made;
}

static void check_gate(enum dtype dtype, bool checkpoint_layers, int threads)
{
    struct model_config config = fixture_config();
    struct trainer_options options = fixture_options(dtype, 100);
    struct gate_loss gate = {0};
    float *master = fixture_master(&config, 5);
    struct trainer *trainer;
    struct compute compute;
    options.checkpoint_layers = checkpoint_layers;
    assert_ok(compute_open(&compute, threads));
    int before = atomic_load(&allocations);
    assert_ok(trainer_create(&trainer, &options, &config, master, &compute));
    assert_true(atomic_load(&allocations) - before > 5);
    allocations_of_a_step(trainer, FIXTURE_SEQUENCES_MAX, 1, &gate);
    for (uint64_t step = 2; step <= 8; step++)
        assert_int_equal(allocations_of_a_step(trainer, 4 * (int32_t)step, step, &gate), 0);
    gate.allocates = true;
    assert_true(allocations_of_a_step(trainer, 12, 9, &gate) > 0);
    memory_free(gate.block);
    trainer_free(trainer);
    compute_close(&compute);
    memory_free(master);
}

static void a_step_allocates_nothing(void **state)
{
    (void)state;
    check_gate(DTYPE_BF16, false, 1);
    check_gate(DTYPE_BF16, true, 3);
    check_gate(DTYPE_F32, false, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_step_allocates_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

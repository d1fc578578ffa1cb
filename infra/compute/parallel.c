#include "infra/compute/parallel.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <xmmintrin.h>

#include "infra/base/assert.h"
#include "infra/base/memory.h"

/* A worker waits on its own ticket, which only the caller increments and only when the worker has a
 * part to do; the caller waits on `pending`. Both spin briefly, then sleep on a futex. The job's
 * fields are written before the ticket (release) and read after it (acquire), and the caller does
 * not write them again before every worker with a part has decremented `pending`.
 *
 * Nobody sleeps through a wake-up: the waiter raises its `asleep` flag before it looks at the word
 * for the last time, the waker changes the word before it looks at the flag (all sequentially
 * consistent), and the kernel compares the word again. */

#define SPIN_NS             20000
#define SPINS_BETWEEN_LOOKS 32
#define MXCSR_DAZ_FTZ       0x8040u
#define CACHE_LINE_BYTES    64

struct worker {
    _Alignas(CACHE_LINE_BYTES) _Atomic uint32_t ticket;
    _Atomic uint32_t asleep;
    struct parallel *pool;
    int index;
    pthread_t thread;
};

struct parallel {
    int threads;
    int64_t spin_ns;
    parallel_work work;
    void *context;
    int64_t count, chunk;
    _Atomic bool stopping;
    _Alignas(CACHE_LINE_BYTES) _Atomic uint32_t pending;
    _Atomic uint32_t caller_asleep;
    struct worker *workers; /* [threads - 1]; worker i does part i + 1 */
};

void compute_thread_init(void)
{
    _mm_setcsr(_mm_getcsr() | MXCSR_DAZ_FTZ);
}

static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static int64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* True once *word differs from value (until_zero: equals zero); false when the time is up. */
static bool spin(_Atomic uint32_t *word, uint32_t value, bool until_zero, int64_t spin_ns)
{
    int64_t deadline = spin_ns > 0 ? monotonic_ns() + spin_ns : 0;
    do {
        for (int i = 0; i < SPINS_BETWEEN_LOOKS; i++) {
            uint32_t now = atomic_load_explicit(word, memory_order_acquire);
            if (until_zero ? now == 0 : now != value)
                return true;
            if (spin_ns <= 0)
                return false;
            _mm_pause();
        }
    } while (monotonic_ns() < deadline);
    return false;
}

static void run_part(struct parallel *pool, int part)
{
    int64_t begin = part * pool->chunk;
    int64_t end = begin + pool->chunk < pool->count ? begin + pool->chunk : pool->count;
    pool->work(pool->context, begin, end, part);
}

static void wait_for_ticket(struct worker *worker, uint32_t seen)
{
    if (spin(&worker->ticket, seen, false, worker->pool->spin_ns))
        return;
    atomic_store(&worker->asleep, 1);
    while (atomic_load(&worker->ticket) == seen)
        futex_wait(&worker->ticket, seen);
    atomic_store(&worker->asleep, 0);
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    struct parallel *pool = worker->pool;
    compute_thread_init();
    for (uint32_t seen = 0;; seen++) {
        wait_for_ticket(worker, seen);
        if (atomic_load(&pool->stopping))
            return NULL;
        run_part(pool, worker->index + 1);
        if (atomic_fetch_sub(&pool->pending, 1) == 1 && atomic_load(&pool->caller_asleep))
            futex_wake(&pool->pending);
    }
}

static void hand_ticket(struct worker *worker)
{
    atomic_fetch_add(&worker->ticket, 1);
    if (atomic_load(&worker->asleep))
        futex_wake(&worker->ticket);
}

static void wait_for_workers(struct parallel *pool)
{
    if (spin(&pool->pending, 0, true, pool->spin_ns))
        return;
    atomic_store(&pool->caller_asleep, 1);
    for (uint32_t left = atomic_load(&pool->pending); left != 0; left = atomic_load(&pool->pending))
        futex_wait(&pool->pending, left);
    atomic_store(&pool->caller_asleep, 0);
}

/* Threads beyond the cores they may run on would only steal time by spinning. */
static int64_t spin_time(int threads)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 0;
    return threads <= CPU_COUNT(&set) ? SPIN_NS : 0;
}

struct parallel *parallel_create(int threads)
{
    HONE_ASSERT(threads >= 1);
    compute_thread_init();
    struct parallel *pool = MEMORY_NEW(struct parallel);
    pool->threads = threads;
    pool->spin_ns = spin_time(threads);
    pool->workers = MEMORY_ARRAY(struct worker, threads - 1);
    for (int i = 0; i < threads - 1; i++) {
        struct worker *worker = &pool->workers[i];
        worker->pool = pool;
        worker->index = i;
        HONE_ASSERT(pthread_create(&worker->thread, NULL, worker_main, worker) == 0);
    }
    return pool;
}

void parallel_destroy(struct parallel *pool)
{
    if (pool == NULL)
        return;
    atomic_store(&pool->stopping, true);
    for (int i = 0; i < pool->threads - 1; i++)
        hand_ticket(&pool->workers[i]);
    for (int i = 0; i < pool->threads - 1; i++)
        pthread_join(pool->workers[i].thread, NULL);
    memory_free(pool->workers);
    memory_free(pool);
}

int parallel_threads(const struct parallel *pool)
{
    return pool != NULL ? pool->threads : 1;
}

void parallel_for(struct parallel *pool, int64_t count, int64_t grain, parallel_work work,
                  void *context)
{
    HONE_ASSERT(count >= 0 && grain >= 1);
    if (count == 0)
        return;
    if (pool == NULL || pool->threads == 1 || count <= grain) {
        work(context, 0, count, 0);
        return;
    }
    int64_t chunk = (count + pool->threads - 1) / pool->threads;
    chunk = chunk > grain ? chunk : grain;
    int parts = (int)((count + chunk - 1) / chunk);
    pool->work = work;
    pool->context = context;
    pool->count = count;
    pool->chunk = chunk;
    atomic_store(&pool->pending, (uint32_t)(parts - 1));
    for (int i = 0; i < parts - 1; i++)
        hand_ticket(&pool->workers[i]);
    run_part(pool, 0);
    wait_for_workers(pool);
}

#define BYTES_GRAIN ((int64_t)1 << 18)

struct bytes_job {
    char *to;
    const char *from;
};

static void zero_part(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct bytes_job *job = context;
    memset(job->to + begin, 0, (size_t)(end - begin));
}

static void copy_part(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct bytes_job *job = context;
    memcpy(job->to + begin, job->from + begin, (size_t)(end - begin));
}

void parallel_zero(struct parallel *pool, void *to, size_t bytes)
{
    struct bytes_job job = {.to = to};
    parallel_for(pool, (int64_t)bytes, BYTES_GRAIN, zero_part, &job);
}

void parallel_copy(struct parallel *pool, void *to, const void *from, size_t bytes)
{
    struct bytes_job job = {.to = to, .from = from};
    parallel_for(pool, (int64_t)bytes, BYTES_GRAIN, copy_part, &job);
}

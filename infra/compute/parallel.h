/* A fixed pool of threads that split independent work. Partitioning never changes results: items
 * are independent output tiles and nothing is reduced across threads in arrival order (G7). Every
 * thread of the pool, and the caller, runs with DAZ and FTZ set (see compute_thread_init). One pool
 * is driven by one thread at a time. */
#ifndef HONE_COMPUTE_PARALLEL_H
#define HONE_COMPUTE_PARALLEL_H

#include <stddef.h>
#include <stdint.h>

struct parallel;

/* threads >= 1 counts the caller; threads - 1 workers are started. */
struct parallel *parallel_create(int threads);
void parallel_destroy(struct parallel *pool);
int parallel_threads(const struct parallel *pool);

/* Calls work(context, begin, end, thread) over disjoint ranges covering [0, count), each at least
 * `grain` items except the last; returns when all are done. NULL pool runs inline. Allocates
 * nothing. Small counts (<= grain) run inline without waking anybody. */
typedef void (*parallel_work)(void *context, int64_t begin, int64_t end, int thread);
void parallel_for(struct parallel *pool, int64_t count, int64_t grain, parallel_work work,
                  void *context);
/* memset to 0 and memcpy over the pool's threads. */
void parallel_zero(struct parallel *pool, void *to, size_t bytes);
void parallel_copy(struct parallel *pool, void *to, const void *from, size_t bytes);

/* Sets DAZ|FTZ in this thread's MXCSR; called by every thread that computes. */
void compute_thread_init(void);

#endif

/* Speed of the CUDA kernels on the first device: matmul and attention, with the memory bandwidth
 * that a copy reaches in the same run. One line a case; times are the least of several repetitions.
 *
 * usage: bench_kernels */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/compute/cuda/memory.h"
#include "infra/compute/cuda/table.h"

#define REPEATS 5
#define CALLS   10 /* in one repetition */

static const struct backend_ops *ops;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* Device memory with small numbers in it: halves of zeros would be too kind to the clock. */
static void *filled(size_t bytes)
{
    void *device;
    uint16_t *host = memory_alloc(bytes, 1);
    uint32_t x = 12345;
    for (size_t i = 0; i < bytes / 2; i++) {
        x = x * 1664525u + 1013904223u;
        host[i] = (uint16_t)(0x3c00u + (x >> 23) + ((x >> 16) & 0x8000u));
    }
    if (gpu_allocate(bytes, &device) < 0) {
        printf("%s\n", error_message());
        exit(1);
    }
    gpu_to_device(device, host, bytes);
    memory_free(host);
    return device;
}

static double least(void (*call)(void *), void *context)
{
    double best = 1e30;
    call(context);
    gpu_wait();
    for (int r = 0; r < REPEATS; r++) {
        double begin = now();
        for (int i = 0; i < CALLS; i++)
            call(context);
        gpu_wait();
        double seconds = (now() - begin) / CALLS;
        best = seconds < best ? seconds : best;
    }
    return best;
}

struct gemm_case {
    int64_t m, n, k;
    void *a, *packed;
    float *c;
};

static void call_gemm(void *context)
{
    struct gemm_case *g = context;
    ops->gemm(NULL, DTYPE_BF16, g->m, g->n, g->k, g->a, g->k, g->packed, g->c, g->n, false);
}

static void bench_gemm(int64_t m, int64_t n, int64_t k)
{
    struct gemm_case g = {m,
                          n,
                          k,
                          filled((size_t)(m * k) * 2),
                          filled(gemm_packed_bytes(DTYPE_BF16, n, k)),
                          filled((size_t)(m * n) * 4)};
    double seconds = least(call_gemm, &g), products = 2.0 * (double)m * (double)n * (double)k;
    double bytes = 2.0 * (double)(m * k + n * k) + 4.0 * (double)(m * n);
    printf("gemm bf16 m %5lld n %5lld k %5lld  %8.1f us  %7.1f TFLOP/s  %6.1f GB/s\n", (long long)m,
           (long long)n, (long long)k, seconds * 1e6, products / seconds * 1e-12,
           bytes / seconds * 1e-9);
    gpu_free(g.a);
    gpu_free(g.packed);
    gpu_free(g.c);
}

struct copy_case {
    float *y;
    const float *x;
    int64_t count;
};

static void call_add(void *context)
{
    struct copy_case *c = context;
    ops->add(NULL, c->count, c->y, c->x);
}

static void bench_bandwidth(void)
{
    struct copy_case c = {filled(1u << 30), filled(1u << 30), (1 << 30) / 4};
    double seconds = least(call_add, &c);
    printf("y += x of 1 GiB: %.0f GB/s\n", 3.0 * (double)(1u << 30) / seconds * 1e-9);
    gpu_free(c.y);
    gpu_free((void *)(uintptr_t)c.x);
}

struct attention_case {
    struct attention_kv kv;
    int32_t heads;
    int64_t rows;
    float *q, *lse, *d_out, *dq, *dk, *dv;
    void *out;
    struct attention_row *table;
};

static void call_attention(void *context)
{
    struct attention_case *a = context;
    ops->attention(NULL, &a->kv, a->rows, a->heads, a->q, (int64_t)a->heads * a->kv.head_dim,
                   a->table, a->out, a->lse);
}

static void call_backward(void *context)
{
    struct attention_case *a = context;
    int64_t width = (int64_t)a->heads * a->kv.head_dim;
    int64_t kv_width = (int64_t)a->kv.kv_heads * a->kv.head_dim;
    ops->attention_backward(NULL, &a->kv, a->rows, a->heads, a->q, width, a->table, a->out, a->lse,
                            a->d_out, a->dq, width, a->dk, a->dv, kv_width);
}

/* One sequence of `rows` tokens, or with decode `rows` sequences of `context` tokens, one row each.
 */
static void bench_attention(int64_t rows, int64_t context, int32_t heads, int32_t kv_heads,
                            int32_t dim)
{
    bool decode = context > 0;
    int64_t tokens = decode ? context : rows, sequences = decode ? rows : 1;
    int64_t blocks = (tokens + 31) / 32;
    size_t kv_bytes = (size_t)(sequences * blocks * 32 * kv_heads * dim) * 2;
    size_t width = (size_t)(rows * heads * dim) * 4;
    struct attention_case a = {{filled(kv_bytes), filled(kv_bytes), kv_heads, dim, DTYPE_BF16},
                               heads,
                               rows,
                               filled(width),
                               filled((size_t)(rows * heads) * 4),
                               filled(width),
                               filled(width),
                               filled((size_t)(rows * kv_heads * dim) * 4),
                               filled((size_t)(rows * kv_heads * dim) * 4),
                               filled(width),
                               filled((size_t)rows * sizeof(struct attention_row))};
    int32_t *ids = memory_alloc((size_t)(sequences * blocks), sizeof *ids);
    struct attention_row *table = memory_alloc((size_t)rows, sizeof *table);
    int32_t *device_ids = filled((size_t)(sequences * blocks) * sizeof *ids);
    for (int64_t i = 0; i < sequences * blocks; i++)
        ids[i] = (int32_t)i;
    for (int64_t r = 0; r < rows; r++)
        table[r] = (struct attention_row){device_ids + (decode ? r * blocks : 0),
                                          (int32_t)(decode ? context : r + 1)};
    gpu_to_device(device_ids, ids, (size_t)(sequences * blocks) * sizeof *ids);
    gpu_to_device(a.table, table, (size_t)rows * sizeof *table);
    double forward = least(call_attention, &a);
    if (decode) {
        printf("decode %lld x %lld tokens, %d heads of %d over %d: %.1f us, %.0f GB/s\n",
               (long long)rows, (long long)context, heads, dim, kv_heads, forward * 1e6,
               2.0 * (double)kv_bytes / forward * 1e-9);
    } else {
        double products = 2.0 * (double)rows * (double)rows * (double)heads * (double)dim;
        double backward = least(call_backward, &a);
        printf("attention %lld tokens, %d heads of %d over %d: forward %.1f us, %.1f TFLOP/s; "
               "backward %.1f us, %.1f TFLOP/s\n",
               (long long)rows, heads, dim, kv_heads, forward * 1e6, products / forward * 1e-12,
               backward * 1e6, 2.5 * products / backward * 1e-12);
    }
    void *const all[] = {a.kv.keys, a.kv.values, a.q,   a.lse,   a.d_out,   a.dq,
                         a.dk,      a.dv,        a.out, a.table, device_ids};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        gpu_free(all[i]);
    memory_free(ids);
    memory_free(table);
}

int main(void)
{
    if (gpu_open(0) < 0) {
        printf("skipped: %s\n", error_message());
        return 77;
    }
    ops = backend_cuda();
    bench_bandwidth();
    static const int64_t rows[] = {1, 16, 128, 4096, 16384};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bench_gemm(rows[i], 4096, 4096);
        bench_gemm(rows[i], 2048, 8192);
    }
    bench_attention(2048, 0, 16, 8, 64);
    bench_attention(8192, 0, 16, 16, 128);
    bench_attention(256, 1024, 16, 8, 64);
    bench_attention(64, 512, 12, 12, 64);
    return 0;
}

#include "infra/compute/cuda/emulator.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>
#include <ucontext.h>

#include "infra/base/assert.h"
#include "infra/base/memory.h"
#include "infra/compute/cuda/memory.h"

#define THREADS_MAX 1024
#define WARP        32
#define STACK_BYTES (64 * 1024)

struct fiber {
    ucontext_t context;
    unsigned char *stack;
    bool done;
};

/* Those who wait for each other: counted in, let go when all are there. */
struct meeting {
    int arrived;
    unsigned generation;
};

struct emulated emulated;

static struct fiber fibers[THREADS_MAX];
static ucontext_t scheduler;
static int running;
static void (*running_kernel)(const void *);
static const void *running_args;
static struct meeting block_meeting, warp_meetings[THREADS_MAX / WARP];

/* What the lanes of a warp show each other. */
static struct {
    float value;
    uint32_t a[4], b[2];
} shown[THREADS_MAX];

int emulated_thread(void)
{
    return running;
}

static void yield(void)
{
    int self = running;
    swapcontext(&fibers[self].context, &scheduler);
}

static void meet(struct meeting *meeting, int count)
{
    unsigned generation = meeting->generation;
    if (++meeting->arrived == count) {
        meeting->arrived = 0;
        meeting->generation++;
        return;
    }
    while (meeting->generation == generation)
        yield();
}

void emulated_sync(void)
{
    meet(&block_meeting, emulated.threads);
}

static void meet_warp(void)
{
    meet(&warp_meetings[running / WARP], WARP);
}

float emulated_shuffle_xor(float value, int mask)
{
    shown[running].value = value;
    meet_warp();
    float other = shown[running ^ mask].value;
    meet_warp();
    return other;
}

static float half_of(uint32_t pair, int which)
{
    uint32_t bits = which == 0 ? pair << 16 : pair & 0xffff0000u;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* a[row][k] and b[k][column] out of the lanes' fragments. */
static float a_at(int warp, int row, int k)
{
    int lane = (row % 8) * 4 + (k % 8) / 2;
    int part = (row >= 8) + 2 * (k >= 8);
    return half_of(shown[warp * WARP + lane].a[part], k % 2);
}

static float b_at(int warp, int k, int column)
{
    int lane = column * 4 + (k % 8) / 2;
    return half_of(shown[warp * WARP + lane].b[k >= 8], k % 2);
}

void emulated_mma(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    int warp = running / WARP, lane = running % WARP;
    memcpy(shown[running].a, a, sizeof shown[running].a);
    memcpy(shown[running].b, b, sizeof shown[running].b);
    meet_warp();
    for (int i = 0; i < 4; i++) {
        int row = lane / 4 + 8 * (i >= 2), column = 2 * (lane % 4) + i % 2;
        for (int k = 0; k < 16; k++)
            c[i] = fmaf(a_at(warp, row, k), b_at(warp, k, column), c[i]);
    }
    meet_warp();
}

static void fiber_main(void)
{
    running_kernel(running_args);
    fibers[running].done = true;
    for (;;)
        yield();
}

static void run_block(int threads)
{
    memset(&block_meeting, 0, sizeof block_meeting);
    memset(warp_meetings, 0, sizeof warp_meetings);
    for (int i = 0; i < threads; i++) {
        struct fiber *fiber = &fibers[i];
        if (fiber->stack == NULL)
            fiber->stack = memory_alloc(1, STACK_BYTES);
        getcontext(&fiber->context);
        fiber->context.uc_stack.ss_sp = fiber->stack;
        fiber->context.uc_stack.ss_size = STACK_BYTES;
        fiber->context.uc_link = NULL;
        fiber->done = false;
        makecontext(&fiber->context, fiber_main, 0);
    }
    for (int left = threads, passes = 0; left > 0; passes++) {
        left = 0;
        for (running = 0; running < threads; running++) {
            if (fibers[running].done)
                continue;
            swapcontext(&scheduler, &fibers[running].context);
            left += !fibers[running].done;
        }
        HONE_ASSERT(passes < 1 << 24); /* threads that wait for one that has ended */
    }
}

void emulate(void (*kernel)(const void *), const void *args, int64_t blocks_x, int64_t blocks_y,
             int threads)
{
    HONE_ASSERT(threads > 0 && threads <= THREADS_MAX);
    running_kernel = kernel;
    running_args = args;
    emulated.threads = threads;
    for (emulated.block_y = 0; emulated.block_y < blocks_y; emulated.block_y++)
        for (emulated.block_x = 0; emulated.block_x < blocks_x; emulated.block_x++)
            run_block(threads);
}

/* ---- memory.h on the host ---- */

int gpu_open(int device)
{
    (void)device;
    return 0;
}

int gpu_allocate(size_t bytes, void **memory)
{
    *memory = memory_alloc(bytes, 1);
    return 0;
}

void gpu_free(void *memory)
{
    memory_free(memory);
}

void gpu_to_device(void *device, const void *host, size_t bytes)
{
    memcpy(device, host, bytes);
}

void gpu_to_host(void *host, const void *device, size_t bytes)
{
    memcpy(host, device, bytes);
}

void gpu_wait(void)
{
}

#include "infra/compute/ops.h"

#include <cpuid.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/compute/cpu/attention/attention_amx.h"
#include "infra/compute/cpu/gemm_amx.h"
#include "infra/compute/cpu/tables.h"

#define ARCH_REQUEST_STATE 0x1023 /* ARCH_REQ_XCOMP_PERM of asm/prctl.h */
#define STATE_TILE_DATA    18
#define XCR0_TILES         (3ull << 17)
#define CPUID7_AMX_BF16    (1u << 22)
#define CPUID7_AMX_TILE    (1u << 24)
#define CPUID71_BF16       (1u << 5) /* AVX-512 conversions to bf16, leaf 7.1 eax */
#define CPUID1_OSXSAVE     (1u << 27)

static const char *const isa_names[CPU_ISA_COUNT] = {
    [CPU_ISA_SCALAR] = "scalar",
    [CPU_ISA_AVX2] = "avx2",
    [CPU_ISA_AVX512] = "avx512",
    [CPU_ISA_AMX] = "amx",
};

static bool available[CPU_ISA_COUNT];
static struct backend_ops table_amx; /* the AVX-512 table with bf16 products of its own */
static pthread_once_t detected = PTHREAD_ONCE_INIT;

size_t gemm_packed_bytes(enum dtype dtype, int64_t n, int64_t k)
{
    HONE_ASSERT((dtype == DTYPE_BF16 || dtype == DTYPE_F32) && n >= 1 && k >= 1);
    size_t columns = ((size_t)n + 15) / 16 * 16;
    size_t rows = dtype == DTYPE_BF16 ? ((size_t)k + 31) / 32 * 32 : (size_t)k;
    return columns * rows * dtype_bytes(dtype);
}

static void gemm_amx(struct parallel *pool, enum dtype dtype, int64_t m, int64_t n, int64_t k,
                     const void *a, int64_t lda, const void *packed, float *c, int64_t ldc,
                     bool accumulate)
{
    const struct amx_a operand = {AMX_A_BF16, a, lda};
    if (dtype == DTYPE_BF16)
        gemm_amx_bf16(pool, m, n, k, &operand, packed, c, ldc, accumulate);
    else
        table_avx512.gemm(pool, dtype, m, n, k, a, lda, packed, c, ldc, accumulate);
}

static void linear_backward_amx(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t in,
                                int64_t out, const float *dy, const void *x,
                                const void *transposed_weight, float *dx, float *dweight,
                                const struct linear_workspace *workspace)
{
    if (dtype != DTYPE_BF16) {
        table_avx512.linear_backward(pool, dtype, rows, in, out, dy, x, transposed_weight, dx,
                                     dweight, workspace);
        return;
    }
    linear_backward_amx_bf16(pool, rows, in, out, dy, x, transposed_weight, dx, dweight,
                             workspace->packed);
}

static unsigned long long read_xcr0(void)
{
    unsigned int low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (unsigned long long)high << 32 | low;
}

/* The processor has the tiles, the kernel saves them, and this process was allowed to use them. */
static bool detect_amx(void)
{
    unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
    const unsigned int wanted = CPUID7_AMX_BF16 | CPUID7_AMX_TILE;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (edx & wanted) != wanted)
        return false;
    if (!__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) || (eax & CPUID71_BF16) == 0)
        return false;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & CPUID1_OSXSAVE) == 0)
        return false;
    if ((read_xcr0() & XCR0_TILES) != XCR0_TILES)
        return false;
    return syscall(SYS_arch_prctl, ARCH_REQUEST_STATE, STATE_TILE_DATA) == 0;
}

static void detect(void)
{
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    available[CPU_ISA_SCALAR] = true;
    available[CPU_ISA_AVX2] = avx2;
    available[CPU_ISA_AVX512] = avx2 && avx512;
    available[CPU_ISA_AMX] = available[CPU_ISA_AVX512] && detect_amx();
    table_amx = table_avx512;
    table_amx.name = isa_names[CPU_ISA_AMX];
    table_amx.gemm = gemm_amx;
    table_amx.linear_backward = linear_backward_amx;
    table_amx.linear_packs_dy = true;
    table_amx.attention = attention_amx;
    table_amx.attention_backward = attention_backward_amx;
}

bool cpu_isa_available(enum cpu_isa isa)
{
    HONE_ASSERT((unsigned int)isa < CPU_ISA_COUNT);
    pthread_once(&detected, detect);
    return available[isa];
}

const char *cpu_isa_name(enum cpu_isa isa)
{
    HONE_ASSERT((unsigned int)isa < CPU_ISA_COUNT);
    return isa_names[isa];
}

const struct backend_ops *backend_cpu(enum cpu_isa isa)
{
    static const struct backend_ops *const tables[CPU_ISA_COUNT] = {
        [CPU_ISA_SCALAR] = &table_scalar,
        [CPU_ISA_AVX2] = &table_avx2,
        [CPU_ISA_AVX512] = &table_avx512,
        [CPU_ISA_AMX] = &table_amx,
    };
    return cpu_isa_available(isa) ? tables[isa] : NULL;
}

static int select_named(const char *name, const struct backend_ops **ops)
{
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++) {
        if (strcmp(name, isa_names[isa]) != 0)
            continue;
        *ops = backend_cpu((enum cpu_isa)isa);
        if (*ops == NULL)
            return error_set(HONE_EUNSUPPORTED,
                             "HONE_ISA=%s: this machine cannot run it; unset HONE_ISA to use the "
                             "best instruction set there is",
                             name);
        return 0;
    }
    return error_set(HONE_EINVAL, "HONE_ISA=%s: unknown; use scalar, avx2, avx512 or amx", name);
}

int backend_select(const struct backend_ops **ops)
{
    compute_thread_init();
    const char *name = getenv("HONE_ISA");
    if (name != NULL && name[0] != '\0')
        return select_named(name, ops);
    for (int isa = CPU_ISA_COUNT - 1; isa >= 0; isa--) {
        *ops = backend_cpu((enum cpu_isa)isa);
        if (*ops != NULL)
            return 0;
    }
    return error_set(HONE_EUNSUPPORTED, "no instruction set is available");
}

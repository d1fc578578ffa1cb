/* Matmul. bf16 on tensor cores: k in steps of 16 ascending, each one mma into the same accumulator,
 * so that an element's bits depend on its row, its column and k alone, whatever the tile that it is
 * computed in. fp32: one fused multiply-add chain over ascending k, as on the CPU.
 *
 * A block computes a tile of C; tiles of A and B come through shared memory, the next one while
 * this one is multiplied. Few rows have a narrow tile of their own (decoding reads weights and
 * little else). */
#include "infra/compute/cuda/gpu.h"
#include "infra/compute/cuda/table.h"

#define THREADS  256
#define TILE_N   128
#define TILE_M   128
#define FEW_M    16
#define TILE_K   32
#define STRIDE   40 /* of a row in shared memory: fragments then meet no bank twice */
#define CHUNK    8  /* bf16 values of one copy */
#define F32_TILE 64
#define F32_K    16

static int64_t padded_k(int64_t k)
{
    return gpu_blocks(k, TILE_K) * TILE_K;
}

/* ---- packing ---- */

struct pack_args {
    enum dtype dtype;
    int64_t n, k, k_padded;
    const void *source;
    int64_t ld;
    bool is_nk;
    void *packed;
};

GPU_KERNEL(pack_kernel, struct pack_args)
{
    int64_t i = GPU_BLOCK * GPU_THREADS + GPU_THREAD;
    if (i >= a->n * a->k_padded)
        return;
    int64_t row = i / a->k_padded, k = i % a->k_padded;
    int64_t from = a->is_nk ? row * a->ld + k : k * a->ld + row;
    if (a->dtype == DTYPE_BF16)
        ((bf16 *)a->packed)[i] = k < a->k ? ((const bf16 *)a->source)[from] : (bf16)0;
    else
        ((float *)a->packed)[i] = k < a->k ? ((const float *)a->source)[from] : 0.0f;
}

/* fp32 operands are not padded: the CPU's layout has no room for it. */
static int64_t packed_stride(enum dtype dtype, int64_t k)
{
    return dtype == DTYPE_BF16 ? padded_k(k) : k;
}

void cuda_gemm_pack(struct parallel *pool, enum dtype dtype, int64_t n, int64_t k,
                    const void *source, int64_t ldb, bool b_is_nk, void *packed)
{
    struct pack_args args = {.dtype = dtype,
                             .n = n,
                             .k = k,
                             .k_padded = packed_stride(dtype, k),
                             .source = source,
                             .ld = ldb,
                             .is_nk = b_is_nk,
                             .packed = packed};
    (void)pool;
    GPU_LAUNCH(pack_kernel, gpu_blocks(n * args.k_padded, THREADS), 1, THREADS, args);
}

/* ---- bf16 ---- */

struct gemm_args {
    int64_t m, n, k;
    const void *a;
    int64_t lda;
    const void *b;
    int64_t ldb;
    float *c;
    int64_t ldc;
    bool accumulate;
    bool aligned; /* rows of A begin at multiples of 16 bytes */
};

/* Rows [first, first + rows) of a matrix, columns [k, k + 32), to shared memory; zeros outside. */
GPU_DEVICE void load_tile(bf16 *shared, const bf16 *matrix, int64_t ld, int64_t first, int rows,
                          int64_t row_count, int64_t k, int64_t k_count, bool aligned)
{
    for (int i = GPU_THREAD; i < rows * (TILE_K / CHUNK); i += GPU_THREADS) {
        int row = i / (TILE_K / CHUNK), column = i % (TILE_K / CHUNK) * CHUNK;
        bf16 *to = shared + row * STRIDE + column;
        const bf16 *from = matrix + (first + row) * ld + k + column;
        int64_t left = first + row < row_count ? k_count - k - column : 0;
        if (aligned && left >= CHUNK) {
            gpu_copy16(to, from);
            continue;
        }
        for (int j = 0; j < CHUNK; j++)
            to[j] = j < left ? from[j] : (bf16)0;
    }
}

GPU_DEVICE uint32_t pair_at(const bf16 *shared)
{
    uint32_t pair;
    memcpy(&pair, shared, sizeof pair);
    return pair;
}

/* Both tiles of one step of k. */
GPU_DEVICE void load_step(const struct gemm_args *a, bf16 *shared_a, bf16 *shared_b, int tile_m,
                          int64_t row, int64_t column, int64_t k)
{
    load_tile(shared_a, (const bf16 *)a->a, a->lda, row, tile_m, a->m, k, a->k, a->aligned);
    load_tile(shared_b, (const bf16 *)a->b, a->ldb, column, TILE_N, a->n, k, a->ldb, true);
    gpu_copy_commit();
}

/* A warp's part of the tile, mt x nt tensor core tiles at (row, column) of it. */
GPU_DEVICE void multiply_step(float c[4][4][4], const bf16 *shared_a, const bf16 *shared_b, int row,
                              int column, const int mt, const int nt)
{
    int g = GPU_THREAD % GPU_WARP / 4, t = GPU_THREAD % 4;
    for (int k = 0; k < TILE_K; k += 16) {
        uint32_t a[4][4];
        for (int i = 0; i < mt; i++) {
            const bf16 *at = shared_a + (row + 16 * i + g) * STRIDE + k + 2 * t;
            a[i][0] = pair_at(at);
            a[i][1] = pair_at(at + 8 * STRIDE);
            a[i][2] = pair_at(at + 8);
            a[i][3] = pair_at(at + 8 * STRIDE + 8);
        }
        for (int j = 0; j < nt; j++) {
            const bf16 *at = shared_b + (column + 8 * j + g) * STRIDE + k + 2 * t;
            uint32_t b[2] = {pair_at(at), pair_at(at + 8)};
            for (int i = 0; i < mt; i++)
                gpu_mma(c[i][j], a[i], b);
        }
    }
}

/* What the accumulators start from, or where they go. */
GPU_DEVICE void move_tile(const struct gemm_args *a, float c[4][4][4], int64_t row, int64_t column,
                          const int mt, const int nt, bool store)
{
    int g = GPU_THREAD % GPU_WARP / 4, t = GPU_THREAD % 4;
    for (int i = 0; i < mt; i++)
        for (int j = 0; j < nt; j++)
            for (int e = 0; e < 4; e++) {
                int64_t r = row + 16 * i + g + 8 * (e / 2), s = column + 8 * j + 2 * t + e % 2;
                bool inside = r < a->m && s < a->n;
                if (store && inside)
                    a->c[r * a->ldc + s] = c[i][j][e];
                if (!store)
                    c[i][j][e] = a->accumulate && inside ? a->c[r * a->ldc + s] : 0.0f;
            }
}

/* tile_m rows and 128 columns; the block's 8 warps stand warps_m by 8 / warps_m. */
GPU_DEVICE void gemm_tile(const struct gemm_args *a, bf16 *shared_a, bf16 *shared_b,
                          const int tile_m, const int warps_m, const int mt, const int nt)
{
    float c[4][4][4];
    int warp = GPU_THREAD / GPU_WARP;
    int row = warp % warps_m * 16 * mt, column = warp / warps_m * 8 * nt;
    int64_t first_row = GPU_BLOCK_Y * tile_m, first_column = GPU_BLOCK * TILE_N;
    int64_t steps = (a->k + TILE_K - 1) / TILE_K;
    move_tile(a, c, first_row + row, first_column + column, mt, nt, false);
    load_step(a, shared_a, shared_b, tile_m, first_row, first_column, 0);
    for (int64_t step = 0; step < steps; step++) {
        int now = (int)(step % 2), next = 1 - now;
        if (step + 1 < steps)
            load_step(a, shared_a + next * TILE_M * STRIDE, shared_b + next * TILE_N * STRIDE,
                      tile_m, first_row, first_column, (step + 1) * TILE_K);
        gpu_copy_wait(step + 1 < steps ? 1 : 0);
        gpu_sync();
        multiply_step(c, shared_a + now * TILE_M * STRIDE, shared_b + now * TILE_N * STRIDE, row,
                      column, mt, nt);
        gpu_sync(); /* the tile may be written again */
    }
    move_tile(a, c, first_row + row, first_column + column, mt, nt, true);
}

GPU_KERNEL(gemm_kernel, struct gemm_args)
{
    GPU_SHARED bf16 shared_a[2 * TILE_M * STRIDE], shared_b[2 * TILE_N * STRIDE];
    gemm_tile(a, shared_a, shared_b, TILE_M, 2, 4, 4);
}

GPU_KERNEL(gemm_few_kernel, struct gemm_args)
{
    GPU_SHARED bf16 shared_a[2 * TILE_M * STRIDE], shared_b[2 * TILE_N * STRIDE];
    gemm_tile(a, shared_a, shared_b, FEW_M, 1, 1, 2);
}

/* ---- fp32 ---- */

/* Thread (x, y) of 16 x 16 computes rows y, y + 16, ... and columns x, x + 16, ... of the tile. */
GPU_KERNEL(gemm_f32_kernel, struct gemm_args)
{
    GPU_SHARED float shared_a[F32_TILE][F32_K + 1], shared_b[F32_TILE][F32_K + 1];
    int x = GPU_THREAD % 16, y = GPU_THREAD / 16;
    int64_t row = GPU_BLOCK_Y * F32_TILE, column = GPU_BLOCK * F32_TILE;
    float c[4][4];
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            int64_t r = row + y + 16 * i, s = column + x + 16 * j;
            bool inside = r < a->m && s < a->n;
            c[i][j] = a->accumulate && inside ? a->c[r * a->ldc + s] : 0.0f;
        }
    for (int64_t k = 0; k < a->k; k += F32_K) {
        int64_t depth = a->k - k < F32_K ? a->k - k : F32_K;
        gpu_sync();
        for (int i = GPU_THREAD; i < F32_TILE * F32_K; i += THREADS) {
            int64_t r = i / F32_K, d = i % F32_K;
            const float *at_a = (const float *)a->a + (row + r) * a->lda + k + d;
            const float *at_b = (const float *)a->b + (column + r) * a->ldb + k + d;
            shared_a[r][d] = d < depth && row + r < a->m ? *at_a : 0.0f;
            shared_b[r][d] = d < depth && column + r < a->n ? *at_b : 0.0f;
        }
        gpu_sync();
        for (int64_t d = 0; d < depth; d++)
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++)
                    c[i][j] = fmaf(shared_a[y + 16 * i][d], shared_b[x + 16 * j][d], c[i][j]);
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            int64_t r = row + y + 16 * i, s = column + x + 16 * j;
            if (r < a->m && s < a->n)
                a->c[r * a->ldc + s] = c[i][j];
        }
}

void cuda_gemm(struct parallel *pool, enum dtype dtype, int64_t m, int64_t n, int64_t k,
               const void *a, int64_t lda, const void *packed, float *c, int64_t ldc,
               bool accumulate)
{
    struct gemm_args args = {.m = m,
                             .n = n,
                             .k = k,
                             .a = a,
                             .lda = lda,
                             .b = packed,
                             .ldb = packed_stride(dtype, k),
                             .c = c,
                             .ldc = ldc,
                             .accumulate = accumulate,
                             .aligned = lda % CHUNK == 0 && (uintptr_t)a % 16 == 0};
    (void)pool;
    if (dtype == DTYPE_F32)
        GPU_LAUNCH(gemm_f32_kernel, gpu_blocks(n, F32_TILE), gpu_blocks(m, F32_TILE), THREADS,
                   args);
    else if (m <= FEW_M)
        GPU_LAUNCH(gemm_few_kernel, gpu_blocks(n, TILE_N), 1, THREADS, args);
    else
        GPU_LAUNCH(gemm_kernel, gpu_blocks(n, TILE_N), gpu_blocks(m, TILE_M), THREADS, args);
}

/* ---- gradients of a linear layer ---- */

struct transpose_args {
    enum dtype dtype;
    int64_t rows, columns, ld;
    const void *from; /* [rows, columns] */
    void *to;         /* [columns, ld] */
};

GPU_KERNEL(transpose_kernel, struct transpose_args)
{
    GPU_SHARED float tile[32][33];
    int x = GPU_THREAD % 32, y = GPU_THREAD / 32; /* 32 by 8 */
    int64_t row = GPU_BLOCK_Y * 32, column = GPU_BLOCK * 32;
    for (int i = y; i < 32; i += 8)
        if (row + i < a->rows && column + x < a->columns)
            tile[i][x] = gpu_load(a->dtype, a->from, (row + i) * a->columns + column + x);
    gpu_sync();
    for (int i = y; i < 32; i += 8)
        if (column + i < a->columns && row + x < a->rows)
            gpu_store(a->dtype, a->to, (column + i) * a->ld + row + x, tile[x][i]);
}

void cuda_linear_backward(struct parallel *pool, enum dtype dtype, int64_t rows, int64_t in,
                          int64_t out, const float *dy, const void *x,
                          const void *transposed_weight, float *dx, float *dweight,
                          const struct linear_workspace *workspace)
{
    const void *rounded = dy;
    if (dtype == DTYPE_BF16) {
        cuda_cast(pool, rows * out, DTYPE_F32, dy, DTYPE_BF16, workspace->cast);
        rounded = workspace->cast;
    }
    if (dx)
        cuda_gemm(pool, dtype, rows, in, out, rounded, out, transposed_weight, dx, in, false);
    struct transpose_args args = {.dtype = dtype,
                                  .rows = rows,
                                  .columns = out,
                                  .ld = padded_k(rows),
                                  .from = rounded,
                                  .to = workspace->transposed};
    GPU_LAUNCH(transpose_kernel, gpu_blocks(out, 32), gpu_blocks(rows, 32), THREADS, args);
    cuda_gemm_pack(pool, dtype, in, rows, x, in, false, workspace->packed);
    cuda_gemm(pool, dtype, out, in, rows, workspace->transposed, args.ld, workspace->packed,
              dweight, in, true);
}

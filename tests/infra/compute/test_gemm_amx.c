/* The AMX matmul with its tile instructions emulated exactly, against the scalar table. Where the
 * machine has tiles, test_gemm and test_self_test run the real ones too. */
#include "tests/infra/compute/fixture.h"

#define HONE_TILE_EMULATION
#include "infra/compute/cpu/gemm_amx.c" /* the file under test, compiled for emulation */

static void compare(int64_t rows, int64_t columns, int64_t depth, bool accumulate, uint64_t seed)
{
    const struct backend_ops *scalar = backend_cpu(CPU_ISA_SCALAR);
    int64_t lda = depth + (int64_t)(seed % 3), ldc = columns + (int64_t)(seed % 2);
    float *a_values = floats(rows * lda, seed, 1.0f), *b_values = floats(columns * depth, 7, 1.0f);
    for (int64_t i = 0; i < rows * lda; i += 11)
        a_values[i] = i % 2 == 0 ? 1e-39f : -0.0f;
    bf16 *a = as_act(DTYPE_BF16, a_values, rows * lda);
    bf16 *b = as_act(DTYPE_BF16, b_values, columns * depth);
    bf16 *packed = memory_alloc(gemm_packed_bytes(DTYPE_BF16, columns, depth), 1);
    float *want = floats(rows * ldc, seed + 1, 1.0f), *got = floats(rows * ldc, seed + 1, 1.0f);
    scalar->gemm_pack(NULL, DTYPE_BF16, columns, depth, b, depth, true, packed);
    scalar->gemm(NULL, DTYPE_BF16, rows, columns, depth, a, lda, packed, want, ldc, accumulate);
    const struct amx_a operand = {AMX_A_BF16, a, lda};
    gemm_amx_bf16(NULL, rows, columns, depth, &operand, packed, got, ldc, accumulate);
    assert_same_bits(got, want, rows * ldc, sizeof *got);
    memory_free(a_values);
    memory_free(b_values);
    memory_free(a);
    memory_free(b);
    memory_free(packed);
    memory_free(want);
    memory_free(got);
}

static void test_equals_scalar(void **state)
{
    (void)state;
    const int64_t rows[] = {1, 4, 15, 16, 17, 31, 32, 33, 64, 70};
    const int64_t columns[] = {1, 16, 17, 32, 40, 48, 63};
    const int64_t depths[] = {1, 31, 32, 33, 96, 130};
    compute_thread_init();
    uint64_t seed = 0;
    for (size_t m = 0; m < sizeof rows / sizeof *rows; m++)
        for (size_t n = 0; n < sizeof columns / sizeof *columns; n++)
            for (size_t k = 0; k < sizeof depths / sizeof *depths; k++, seed++)
                compare(rows[m], columns[n], depths[k], seed % 2 == 1, seed);
}

/* Several items and chunks of k, for few rows and for many, and a long last row group. */
static void test_blocking(void **state)
{
    (void)state;
    const int64_t shapes[][3] = {{3, 150, 1100},  {16, 40, 2050},  {31, 33, 1025}, {257, 50, 300},
                                 {300, 70, 40},   {49, 130, 530},  {520, 33, 270}, {300, 40, 1100},
                                 {129, 33, 2100}, {290, 49, 1056}, {545, 64, 512}, {96, 32, 512},
                                 {64, 80, 256},   {10, 100, 17000}};
    compute_thread_init();
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        compare(shapes[i][0], shapes[i][1], shapes[i][2], i % 2 == 1, 500 + i);
}

/* dy is rounded and transposed while it is packed. */
static void compare_linear(int64_t rows, int64_t in, int64_t out, uint64_t seed)
{
    const struct backend_ops *scalar = backend_cpu(CPU_ISA_SCALAR);
    int64_t padded = (rows + 31) / 32 * 32;
    float *dy = floats(rows * out, seed, 1.0f), *values = floats(rows * in, seed + 1, 1.0f);
    float *weights = floats(out * in, seed + 2, 1.0f);
    dy[0] = 1e-39f;
    bf16 *x = as_act(DTYPE_BF16, values, rows * in), *w = as_act(DTYPE_BF16, weights, out * in);
    bf16 *packed_w = memory_alloc(gemm_packed_bytes(DTYPE_BF16, in, out), 1);
    struct linear_workspace workspace = {MEMORY_ARRAY(bf16, rows * out),
                                         MEMORY_ARRAY(bf16, out * padded), NULL};
    workspace.packed = memory_alloc(gemm_packed_bytes(DTYPE_BF16, in, rows), 1);
    float *dx = floats(rows * in, seed, 1.0f), *got_dx = floats(rows * in, seed + 9, 1.0f);
    float *dw = floats(out * in, seed, 1.0f), *got_dw = floats(out * in, seed, 1.0f);
    scalar->gemm_pack(NULL, DTYPE_BF16, in, out, w, in, false, packed_w);
    scalar->linear_backward(NULL, DTYPE_BF16, rows, in, out, dy, x, packed_w, dx, dw, &workspace);
    linear_backward_amx_bf16(NULL, rows, in, out, dy, x, packed_w, got_dx, got_dw,
                             workspace.packed);
    assert_same_bits(got_dx, dx, rows * in, sizeof *dx);
    assert_same_bits(got_dw, dw, out * in, sizeof *dw);
    void *blocks[] = {dy,
                      values,
                      weights,
                      x,
                      w,
                      packed_w,
                      workspace.cast,
                      workspace.transposed,
                      workspace.packed,
                      dx,
                      got_dx,
                      dw,
                      got_dw};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        memory_free(blocks[i]);
}

static void test_linear_backward(void **state)
{
    (void)state;
    const int64_t shapes[][3] = {{1, 1, 1},    {31, 17, 40},    {33, 48, 15},   {64, 64, 32},
                                 {70, 90, 75}, {300, 33, 1090}, {1100, 20, 300}};
    compute_thread_init();
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        compare_linear(shapes[i][0], shapes[i][1], shapes[i][2], 900 + i);
}

/* The probe's product count, since no other test on such a machine reaches it. */
static void test_peak_counts_its_work(void **state)
{
    (void)state;
    float sink = 1.0f;
    assert_true(peak_amx(3, &sink) == 3.0 * 4 * 16 * 16 * 32 * 2);
    assert_true(sink != 1.0f && isfinite(sink));
    sink = 1.0f;
    assert_true(peak_amx_loads(3, &sink) == 3.0 * 4 * 16 * 16 * 32 * 2);
    assert_true(sink != 1.0f && isfinite(sink));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_scalar),
        cmocka_unit_test(test_blocking),
        cmocka_unit_test(test_linear_backward),
        cmocka_unit_test(test_peak_counts_its_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

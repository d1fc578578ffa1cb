/* Attention of the AMX table with its tile instructions emulated exactly, against the scalar table.
 * Where the machine has tiles, test_attention and test_self_test run the real ones too. */
#include "tests/infra/compute/fixture.h"

#include "infra/base/error.h"
#include "infra/compute/self_test.h"

#define HONE_TILE_EMULATION
#include "infra/compute/cpu/attention/attention_amx.c" /* the file under test, for emulation */

static struct backend_ops emulated;

static void test_equals_scalar(void **state)
{
    (void)state;
    for (uint64_t seed = 3000; seed < 3010; seed++)
        if (backend_compare(backend_cpu(CPU_ISA_SCALAR), &emulated, seed) != 0)
            fail_msg("seed %llu: %s", (unsigned long long)seed, error_message());
}

struct shape {
    int32_t heads, kv_heads, head_dim, keys, rows; /* rows: the last so many positions */
};

struct results {
    void *out;
    float *lse, *dq, *dk, *dv;
};

static struct results run(const struct backend_ops *ops, const struct shape *shape)
{
    int64_t width = (int64_t)shape->heads * shape->head_dim;
    int64_t kv_width = (int64_t)shape->kv_heads * shape->head_dim;
    int32_t keys = shape->keys, rows = shape->rows, blocks = (keys + 31) / 32;
    size_t bytes =
        (size_t)(blocks * attention_block_values(DTYPE_BF16, shape->kv_heads, shape->head_dim)) *
        sizeof(bf16);
    struct attention_kv kv = {memory_alloc(bytes, 1), memory_alloc(bytes, 1), shape->kv_heads,
                              shape->head_dim, DTYPE_BF16};
    memset(kv.keys, 0xff, bytes);
    memset(kv.values, 0xff, bytes);
    int32_t *table = MEMORY_ARRAY(int32_t, blocks), *ids = MEMORY_ARRAY(int32_t, keys);
    int32_t *offsets = MEMORY_ARRAY(int32_t, keys);
    struct attention_row *row_table = MEMORY_ARRAY(struct attention_row, rows);
    for (int32_t b = 0; b < blocks; b++)
        table[b] = blocks - 1 - b;
    for (int32_t i = 0; i < keys; i++) {
        ids[i] = table[i / 32];
        offsets[i] = i % 32;
    }
    for (int32_t r = 0; r < rows; r++)
        row_table[r] = (struct attention_row){table, keys - rows + 1 + r};
    float *q = floats(rows * width, 1, 2.0f), *d_out = floats(rows * width, 4, 1.0f);
    float *k = floats(keys * kv_width, 2, 1.0f), *v = floats(keys * kv_width, 3, 1.0f);
    struct results got = {memory_alloc((size_t)(rows * width), 2),
                          MEMORY_ARRAY(float, rows * shape->heads),
                          MEMORY_ARRAY(float, rows *width), floats(keys * kv_width, 5, 1.0f),
                          floats(keys * kv_width, 6, 1.0f)};
    ops->kv_store(NULL, &kv, keys, k, kv_width, v, kv_width, ids, offsets);
    ops->attention(NULL, &kv, rows, shape->heads, q, width, row_table, got.out, got.lse);
    ops->attention_backward(NULL, &kv, rows, shape->heads, q, width, row_table, got.out, got.lse,
                            d_out, got.dq, width, got.dk, got.dv, kv_width);
    void *blocks_used[] = {kv.keys, kv.values, table, ids, offsets, row_table, q, d_out, k, v};
    for (size_t i = 0; i < sizeof blocks_used / sizeof *blocks_used; i++)
        memory_free(blocks_used[i]);
    return got;
}

/* Several spans of keys and batches of queries, odd heads, rows that begin inside a block. */
static void test_shapes(void **state)
{
    (void)state;
    const struct shape shapes[] = {{1, 1, 64, 1100, 1100}, {3, 1, 40, 200, 200},
                                   {2, 2, 96, 70, 70},     {5, 1, 16, 70, 1},
                                   {1, 1, 256, 90, 50},    {6, 2, 33, 150, 77}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct results want = run(backend_cpu(CPU_ISA_SCALAR), &shapes[i]);
        struct results got = run(&emulated, &shapes[i]);
        int64_t values = (int64_t)shapes[i].rows * shapes[i].heads * shapes[i].head_dim;
        int64_t kv_values = (int64_t)shapes[i].keys * shapes[i].kv_heads * shapes[i].head_dim;
        assert_same_bits(got.out, want.out, values, sizeof(bf16));
        assert_same_bits(got.lse, want.lse, shapes[i].rows * shapes[i].heads, sizeof *got.lse);
        assert_same_bits(got.dq, want.dq, values, sizeof *got.dq);
        assert_same_bits(got.dk, want.dk, kv_values, sizeof *got.dk);
        assert_same_bits(got.dv, want.dv, kv_values, sizeof *got.dv);
        for (int j = 0; j < 2; j++) {
            const struct results *r = j == 0 ? &want : &got;
            memory_free(r->out);
            memory_free(r->lse);
            memory_free(r->dq);
            memory_free(r->dk);
            memory_free(r->dv);
        }
    }
}

int main(void)
{
    compute_thread_init();
    emulated = *backend_cpu(CPU_ISA_SCALAR);
    emulated.name = "amx (emulated)";
    emulated.attention = attention_amx;
    emulated.attention_backward = attention_backward_amx;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_scalar),
        cmocka_unit_test(test_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

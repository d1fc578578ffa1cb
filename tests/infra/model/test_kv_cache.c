/* Blocks of the key/value cache: reservation, sharing, copying before a write, conservation. */
#include "tests/infra/model/model_fixture.h"

#define BLOCKS 8

static struct model_config config;
static struct kv_cache *cache;

static int create_cache(void **state)
{
    (void)state;
    config = fixture_config(true);
    return kv_cache_create(&cache, &config, DTYPE_F32, BLOCKS);
}

static int free_cache(void **state)
{
    (void)state;
    kv_cache_free(cache);
    return 0;
}

static size_t block_floats(void)
{
    return (size_t)config.kv_heads * (size_t)config.head_dim * ATTENTION_BLOCK_TOKENS;
}

/* The first key value of a block in a layer. */
static float *first_key(int32_t layer, int32_t block)
{
    struct attention_kv kv = kv_cache_layer(cache, layer);
    return (float *)kv.keys + (size_t)block * block_floats();
}

static float *last_value(int32_t layer, int32_t block)
{
    struct attention_kv kv = kv_cache_layer(cache, layer);
    return (float *)kv.values + (size_t)(block + 1) * block_floats() - 1;
}

static void test_layers_do_not_overlap(void **state)
{
    (void)state;
    for (int32_t layer = 0; layer < config.layers; layer++)
        for (int32_t block = 0; block < BLOCKS; block++) {
            assert_true(*first_key(layer, block) == 0.0f);
            assert_true(*last_value(layer, block) == 0.0f);
            *first_key(layer, block) = (float)(layer * BLOCKS + block + 1);
            *last_value(layer, block) = -(float)(layer * BLOCKS + block + 1);
        }
    for (int32_t layer = 0; layer < config.layers; layer++)
        for (int32_t block = 0; block < BLOCKS; block++) {
            assert_true(*first_key(layer, block) == (float)(layer * BLOCKS + block + 1));
            assert_true(*last_value(layer, block) == -(float)(layer * BLOCKS + block + 1));
        }
}

static void test_reserve_all_or_nothing(void **state)
{
    (void)state;
    struct kv_sequence a, b;
    kv_sequence_init(&a, 10 * ATTENTION_BLOCK_TOKENS);
    kv_sequence_init(&b, 10 * ATTENTION_BLOCK_TOKENS);
    assert_int_equal(a.block_capacity, 10);
    assert_true(kv_sequence_reserve(cache, &a, 1, 3));
    assert_int_equal(a.block_count, 1);
    assert_true(kv_sequence_reserve(cache, &a, 32, 4));
    assert_int_equal(a.block_count, 1);
    assert_true(kv_sequence_reserve(cache, &a, 33, 5));
    assert_int_equal(a.block_count, 2);
    assert_int_equal(kv_cache_block_version(cache, a.blocks[0]), 3);
    assert_int_equal(kv_cache_block_version(cache, a.blocks[1]), 5);
    assert_true(kv_sequence_reserve(cache, &b, 6 * 32, 0));
    assert_int_equal(kv_cache_free_blocks(cache), 0);
    assert_false(kv_sequence_reserve(cache, &b, 6 * 32 + 1, 0));
    assert_int_equal(b.block_count, 6);
    for (int32_t i = 0; i < 6; i++)
        for (int32_t j = 0; j < 2; j++)
            assert_int_not_equal(a.blocks[j], b.blocks[i]);
    kv_sequence_clear(cache, &b);
    assert_int_equal(kv_cache_free_blocks(cache), 6);
    kv_sequence_release(cache, &a);
    kv_sequence_release(cache, &b);
    assert_int_equal(kv_cache_free_blocks(cache), BLOCKS);
}

static void test_share(void **state)
{
    (void)state;
    struct kv_sequence a, b, c;
    kv_sequence_init(&a, 100);
    kv_sequence_init(&b, 100);
    kv_sequence_init(&c, 100);
    assert_true(kv_sequence_reserve(cache, &a, 80, 7));
    a.length = 80;
    *first_key(1, a.blocks[2]) = 42.0f;
    assert_true(kv_sequence_share(cache, &a, 70, &b));
    assert_int_equal(b.length, 70);
    assert_int_equal(b.block_count, 3);
    assert_int_equal(b.blocks[0], a.blocks[0]);
    assert_int_equal(b.blocks[1], a.blocks[1]);
    assert_int_not_equal(b.blocks[2], a.blocks[2]);
    assert_true(*first_key(1, b.blocks[2]) == 42.0f);
    assert_int_equal(kv_cache_block_version(cache, b.blocks[2]), 7);
    assert_int_equal(kv_cache_free_blocks(cache), BLOCKS - 4);
    assert_true(kv_sequence_share(cache, &a, 64, &c));
    assert_int_equal(kv_cache_free_blocks(cache), BLOCKS - 4);
    kv_sequence_release(cache, &a);
    assert_int_equal(kv_cache_free_blocks(cache), BLOCKS - 3);
    kv_sequence_release(cache, &b);
    assert_int_equal(kv_cache_free_blocks(cache), BLOCKS - 2);
    kv_sequence_release(cache, &c);
    assert_int_equal(kv_cache_free_blocks(cache), BLOCKS);
}

/* A sequence cut back into a shared block gets its own copy before it writes there. */
static void test_copy_before_write(void **state)
{
    (void)state;
    struct kv_sequence a, b;
    kv_sequence_init(&a, 256);
    kv_sequence_init(&b, 256);
    assert_true(kv_sequence_reserve(cache, &a, 64, 1));
    a.length = 64;
    *first_key(0, a.blocks[1]) = 5.0f;
    *last_value(1, a.blocks[1]) = 6.0f;
    assert_true(kv_sequence_share(cache, &a, 64, &b));
    int32_t shared = a.blocks[1];
    b.length = 40;
    assert_true(kv_sequence_reserve(cache, &b, 41, 2));
    assert_int_equal(b.blocks[0], a.blocks[0]);
    assert_int_not_equal(b.blocks[1], shared);
    assert_int_equal(a.blocks[1], shared);
    assert_true(*first_key(0, b.blocks[1]) == 5.0f);
    assert_true(*last_value(1, b.blocks[1]) == 6.0f);
    b.length = 0;
    assert_true(kv_sequence_reserve(cache, &b, 1, 2));
    assert_int_not_equal(b.blocks[0], a.blocks[0]);
    assert_int_equal(kv_cache_free_blocks(cache), BLOCKS - 4);
    kv_sequence_release(cache, &a);
    kv_sequence_release(cache, &b);
    assert_int_equal(kv_cache_free_blocks(cache), BLOCKS);
}

static void test_full_cache_changes_nothing(void **state)
{
    (void)state;
    struct kv_sequence a, b, c;
    kv_sequence_init(&a, 64);
    kv_sequence_init(&b, 64);
    kv_sequence_init(&c, 256);
    assert_true(kv_sequence_reserve(cache, &a, 40, 1));
    a.length = 40;
    assert_true(kv_sequence_reserve(cache, &c, 6 * 32, 1));
    assert_false(kv_sequence_share(cache, &a, 40, &b));
    assert_int_equal(b.block_count, 0);
    assert_true(kv_sequence_share(cache, &a, 32, &b));
    b.length = 5;
    assert_false(kv_sequence_reserve(cache, &b, 6, 1));
    assert_int_equal(b.block_count, 1);
    assert_int_equal(b.blocks[0], a.blocks[0]);
    kv_sequence_release(cache, &a);
    kv_sequence_release(cache, &b);
    kv_sequence_release(cache, &c);
    assert_int_equal(kv_cache_free_blocks(cache), BLOCKS);
}

/* Random sharing, growing and clearing: every block is either free or held, and comes back. */
static void test_conservation(void **state)
{
    (void)state;
    const struct rng_key key = {.seed = 1, .purpose = RNG_SIM};
    struct kv_sequence sequences[4];
    for (int i = 0; i < 4; i++)
        kv_sequence_init(&sequences[i], 4 * 32);
    for (uint64_t step = 0; step < 5000; step++) {
        struct kv_sequence *one = &sequences[rng_below(&key, 4 * step, 4)];
        struct kv_sequence *two = &sequences[rng_below(&key, 4 * step + 1, 4)];
        int32_t length = (int32_t)rng_below(&key, 4 * step + 2, 4 * 32 + 1);
        switch (rng_below(&key, 4 * step + 3, 3)) {
        case 0:
            if (kv_sequence_reserve(cache, one, length, 0) && length > one->length)
                one->length = length;
            break;
        case 1:
            if (two->block_count == 0 && one != two && length <= one->length)
                (void)kv_sequence_share(cache, one, length, two);
            break;
        default:
            kv_sequence_clear(cache, one);
        }
        bool held[BLOCKS] = {false};
        int32_t distinct = 0;
        for (int i = 0; i < 4; i++)
            for (int32_t j = 0; j < sequences[i].block_count; j++) {
                distinct += !held[sequences[i].blocks[j]];
                held[sequences[i].blocks[j]] = true;
            }
        assert_int_equal(distinct + kv_cache_free_blocks(cache), BLOCKS);
    }
    for (int i = 0; i < 4; i++)
        kv_sequence_release(cache, &sequences[i]);
    assert_int_equal(kv_cache_free_blocks(cache), BLOCKS);
    assert_int_equal(kv_cache_total_blocks(cache), BLOCKS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_layers_do_not_overlap, create_cache, free_cache),
        cmocka_unit_test_setup_teardown(test_reserve_all_or_nothing, create_cache, free_cache),
        cmocka_unit_test_setup_teardown(test_share, create_cache, free_cache),
        cmocka_unit_test_setup_teardown(test_copy_before_write, create_cache, free_cache),
        cmocka_unit_test_setup_teardown(test_full_cache_changes_nothing, create_cache, free_cache),
        cmocka_unit_test_setup_teardown(test_conservation, create_cache, free_cache),
    };
    return cmocka_run_group_tests_name("kv_cache", tests, NULL, NULL);
}

/* Adapters from a trainer into an actor's model: the same weights to the bit, in both dtypes, and
 * what does not belong to this base or this shape is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "actors/adapter_swap.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/train/adapter_snapshot.h"
#include "infra/train/trainer.h"
#include "tests/actors/tiny_model.h"

#define LENGTH 16

static int toward_even(void *context, const struct train_batch *batch,
                       const struct loss_streams *streams, double *total)
{
    (void)context;
    for (int32_t s = 0; s < streams->count; s++)
        for (int32_t i = 1; i < batch->sequences[streams->first + s].count; i++) {
            streams->d_logprob[s][i] = i % 2 ? 0.1f : -0.1f;
            *total += 0.1 * (double)streams->logprob[s][i];
        }
    return 0;
}

static void train(struct trainer *trainer, int vocab)
{
    int32_t tokens[LENGTH];
    uint8_t mask[LENGTH];
    struct rng_key key = {.seed = 5, .purpose = RNG_DATA};
    struct step_report report;
    memset(mask, 1, sizeof mask);
    for (int i = 0; i < LENGTH; i++)
        tokens[i] = (int32_t)rng_below(&key, (uint64_t)i, (uint64_t)vocab);
    struct train_sequence sequence = {.tokens = tokens, .count = LENGTH, .loss_mask = mask};
    struct train_batch batch = {.sequences = &sequence, .count = 1, .temperature = 1.0f};
    for (int step = 0; step < 5; step++)
        assert_int_equal(trainer_step(trainer, &batch, toward_even, NULL, &report), 0);
}

static void check(enum dtype dtype, const char *directory, const struct model_config *config,
                  const float *flat)
{
    const struct lora_options lora = {
        .rank = 2, .alpha = 8.0f, .targets = LORA_Q | LORA_GATE | LORA_DOWN, .seed = 3};
    const struct trainer_options options = {
        .dtype = dtype,
        .micro_batch_tokens = 32,
        .max_sequence_tokens = LENGTH,
        .lora = lora,
        .optimizer = {.learning_rate = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8}};
    struct compute compute;
    struct trainer *trainer;
    struct model *model;
    struct adapter_swap *swap;
    struct snapshot snapshot;
    struct hash base, trained, held;
    int64_t parameters = model_config_parameter_count(config);
    assert_int_equal(compute_open(&compute, 2), 0);
    assert_int_equal(trainer_create(&trainer, &options, config, flat, &compute), 0);
    assert_int_equal(model_create(&model, config, dtype, false, &compute), 0);
    assert_int_equal(adapter_swap_create(&swap, &lora, directory, model, &compute), 0);
    adapter_base_hash(trainer_master(trainer), parameters, &base);
    for (int version = 0; version < 2; version++) {
        adapter_snapshot_fill(trainer_adapters(trainer), trainer_model(trainer), &base, version,
                              &snapshot);
        assert_int_equal(adapter_swap_apply(swap, &snapshot), 0);
        model_hash(trainer_model(trainer), &trained);
        model_hash(model, &held);
        assert_memory_equal(&trained, &held, sizeof held);
        if (version == 0)
            snapshot_release(&snapshot);
        train(trainer, config->vocab_size);
    }
    /* Another base, another shape: refused, and the model holds what it held. */
    snapshot.data[snapshot.bytes - 1] ^= 1;
    assert_int_equal(adapter_swap_apply(swap, &snapshot), HONE_EINVAL);
    assert_non_null(strstr(error_message(), "another base model"));
    snapshot.data[snapshot.bytes - 1] ^= 1;
    snapshot.tensors[1].rows++;
    assert_int_equal(adapter_swap_apply(swap, &snapshot), HONE_EINVAL);
    assert_non_null(strstr(error_message(), ".lora_B"));
    snapshot.tensor_count--;
    assert_int_equal(adapter_swap_apply(swap, &snapshot), HONE_EINVAL);
    struct hash after;
    model_hash(model, &after);
    assert_memory_equal(&after, &held, sizeof held);
    snapshot_release(&snapshot);
    adapter_swap_destroy(swap);
    model_free(model);
    trainer_free(trainer);
    compute_close(&compute);
}

static void test_the_same_bits(void **state)
{
    (void)state;
    char directory[] = "/tmp/hone-adapters-XXXXXX";
    struct model_config config = tiny_model_config();
    float *flat = tiny_model_flat(&config, 7);
    assert_non_null(mkdtemp(directory));
    config.stored_dtype = DTYPE_F32;
    assert_int_equal(model_config_write(&config, NULL, DTYPE_F32, directory), 0);
    assert_int_equal(model_write_flat(&config, flat, DTYPE_F32, directory), 0);
    check(DTYPE_BF16, directory, &config, flat);
    check(DTYPE_F32, directory, &config, flat);
    assert_int_equal(file_remove_tree(directory), 0);
    memory_free(flat);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_the_same_bits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

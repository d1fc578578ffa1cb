/* Versions leave the trainer whole, with the hash that the model has, while it writes the next; the
 * delta of real optimiser steps is small and brings the very bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/weight_swap.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/rng.h"
#include "infra/train/trainer.h"
#include "learner/publisher.h"
#include "tests/actors/tiny_model.h"

#define VERSIONS  40
#define DIRECTORY "/tmp/hone-publisher-XXXXXX"

struct world {
    char directory[sizeof DIRECTORY];
    char endpoint[64];
    struct wire_context *context;
    struct compute compute;
    struct model_config config;
    struct model *model, *reader;
    float *flat;
    struct publisher *publisher;
    struct weight_receiver *receiver;
    struct weight_options options;
    char hashes[VERSIONS][HASH_HEX_SIZE];
};

static void world_open(struct world *w, enum weight_transport transport, bool threaded)
{
    memset(w, 0, sizeof *w);
    memcpy(w->directory, DIRECTORY, sizeof DIRECTORY);
    assert_non_null(mkdtemp(w->directory));
    snprintf(w->endpoint, sizeof w->endpoint, "ipc://%s/weights", w->directory);
    w->context = wire_context_create();
    w->config = tiny_model_config();
    w->flat = tiny_model_flat(&w->config, 3);
    w->options =
        (struct weight_options){.transport = transport, .delta = true, .deadline_ms = 120000};
    assert_int_equal(compute_open(&w->compute, 1), 0);
    assert_int_equal(model_create(&w->model, &w->config, DTYPE_BF16, true, &w->compute), 0);
    assert_int_equal(model_create(&w->reader, &w->config, DTYPE_BF16, false, &w->compute), 0);
    model_set_flat(w->model, w->flat);
    struct publisher_options options = {
        .endpoint = w->endpoint, .weights = w->options, .threaded = threaded};
    assert_int_equal(
        publisher_create(&w->publisher, w->model, w->context, clock_system(), &options), 0);
    assert_int_equal(
        weight_receiver_create(&w->receiver, w->context, "actor-0", clock_system(), &w->options),
        0);
}

static void world_close(struct world *w)
{
    weight_swap_leave(w->reader);
    weight_receiver_destroy(w->receiver);
    model_free(w->model);
    model_free(w->reader);
    publisher_destroy(w->publisher);
    wire_context_destroy(w->context);
    compute_close(&w->compute);
    memory_free(w->flat);
    assert_int_equal(file_remove_tree(w->directory), 0);
}

static void hash_of(const struct model *model, char hex[HASH_HEX_SIZE])
{
    struct hash hash;
    model_hash(model, &hash);
    hash_hex(&hash, hex);
}

static void publish(struct world *w, int64_t version)
{
    hash_of(w->model, w->hashes[version]);
    assert_int_equal(publisher_publish(w->publisher, version), 0);
}

static void step(struct world *w, int64_t version)
{
    int64_t count = model_parameter_count(w->model);
    for (int64_t i = version % 7; i < count; i += 97)
        w->flat[i] += 0.25f;
    model_set_flat(w->model, w->flat);
}

/* Serves and receives until at least `version` is held by the reader; what it holds is right. */
static int64_t receive(struct world *w, int64_t have, int64_t version)
{
    for (int64_t i = 0; have < version; i++) {
        const struct snapshot *snapshot;
        char hex[HASH_HEX_SIZE];
        assert_true(i < 100000);
        assert_true(publisher_tick(w->publisher) >= 0);
        weight_receiver_want(w->receiver, w->endpoint, have);
        int rc = weight_receiver_tick(w->receiver, &snapshot);
        assert_true(rc >= 0);
        if (rc == 0) {
            struct wire_client *client = weight_receiver_socket(w->receiver);
            struct wire_server *server = publisher_socket(w->publisher);
            wire_poll(&server, 1, &client, 1, 1);
            continue;
        }
        assert_true(snapshot->version > have);
        assert_int_equal(weight_swap(w->reader, snapshot), 0);
        have = snapshot->version;
        hash_of(w->reader, hex);
        assert_string_equal(hex, w->hashes[have]);
    }
    return have;
}

static void expect_hashes(struct world *w, int64_t count)
{
    char hex[HASH_HEX_SIZE];
    publisher_wait(w->publisher);
    for (int64_t version = 0; version < count; version++) {
        assert_true(publisher_hash(w->publisher, version, hex));
        assert_string_equal(hex, w->hashes[version]);
    }
    assert_false(publisher_hash(w->publisher, count, hex));
}

/* Every version in turn reaches the reader, and what it holds stays while others are made. */
static void check_versions(enum weight_transport transport, bool threaded, const char *way)
{
    struct world w;
    char hex[HASH_HEX_SIZE];
    int64_t held = -1;
    world_open(&w, transport, threaded);
    for (int64_t version = 0; version < 12; version++) {
        if (version > 0 && version != 5) /* a step that was not applied: the same values again */
            step(&w, version);
        publish(&w, version);
        if (version % 3 == 0)
            held = receive(&w, held, version);
        hash_of(w.reader, hex);
        assert_string_equal(hex, w.hashes[held]);
    }
    assert_string_equal(w.hashes[5], w.hashes[4]);
    assert_string_not_equal(w.hashes[5], w.hashes[6]);
    assert_string_equal(weight_receiver_report(w.receiver)->way, way);
    expect_hashes(&w, 12);
    world_close(&w);
}

static void test_versions(void **state)
{
    (void)state;
    check_versions(WEIGHTS_AUTO, false, "slot");
    check_versions(WEIGHTS_AUTO, true, "slot");
    check_versions(WEIGHTS_CHUNKS, false, "delta");
    check_versions(WEIGHTS_CHUNKS, true, "delta");
}

/* As fast as they can be made: versions are left out, none is mixed up. */
static void test_a_flood_of_versions(void **state)
{
    (void)state;
    struct world w;
    int64_t held = -1;
    world_open(&w, WEIGHTS_AUTO, true);
    for (int64_t version = 0; version < VERSIONS; version++) {
        step(&w, version);
        publish(&w, version);
        if (version % 8 == 7)
            held = receive(&w, held, held + 1);
    }
    receive(&w, held, VERSIONS - 1);
    expect_hashes(&w, VERSIONS);
    world_close(&w);
}

/* ---- real steps ---- */

enum { TOKENS = 192, LENGTH = 32, STEPS = 3 };

/* The gradient of the clipped objective where the ratio is 1, with an advantage a sequence. */
static int policy_gradient(void *context, const struct train_batch *batch,
                           const struct loss_streams *streams, double *loss)
{
    (void)context;
    for (int32_t s = 0; s < streams->count; s++) {
        float advantage = (streams->first + s) % 2 ? 1.0f : -1.0f;
        for (int32_t i = 1; i < batch->sequences[streams->first + s].count; i++) {
            streams->d_logprob[s][i] = -advantage / (float)TOKENS;
            *loss -= (double)(advantage * streams->logprob[s][i]) / TOKENS;
        }
    }
    return 0;
}

static void train_step(struct trainer *trainer, int step)
{
    int32_t tokens[TOKENS];
    uint8_t mask[LENGTH];
    struct train_sequence sequences[TOKENS / LENGTH];
    struct rng_key key = {.seed = 5, .purpose = RNG_DATA, .a = (uint64_t)step};
    struct train_batch batch = {
        .sequences = sequences, .count = TOKENS / LENGTH, .temperature = 1.0f};
    struct step_report report;
    memset(mask, 1, sizeof mask);
    for (int32_t i = 0; i < TOKENS; i++)
        tokens[i] = (int32_t)rng_below(&key, (uint64_t)i, 4096);
    for (int32_t s = 0; s < TOKENS / LENGTH; s++)
        sequences[s] = (struct train_sequence){
            .tokens = tokens + s * LENGTH, .count = LENGTH, .loss_mask = mask, .unit = s};
    assert_int_equal(trainer_step(trainer, &batch, policy_gradient, NULL, &report), 0);
    assert_true(report.applied);
}

/* 10 million values and more, AdamW at 1e-6: at most 5 % of the whole is sent, and it is exact. */
static void test_delta_of_real_steps(void **state)
{
    (void)state;
    struct world w;
    struct trainer *trainer;
    world_open(&w, WEIGHTS_CHUNKS, false);
    publisher_destroy(w.publisher);
    model_free(w.model);
    model_free(w.reader);
    memory_free(w.flat);
    w.config = (struct model_config){.vocab_size = 4096,
                                     .hidden_size = 384,
                                     .layers = 5,
                                     .heads = 6,
                                     .kv_heads = 6,
                                     .head_dim = 64,
                                     .intermediate_size = 1024,
                                     .max_positions = 64,
                                     .rms_eps = 1e-5f,
                                     .rope_theta = 10000.0,
                                     .tied_head = true,
                                     .bos_id = 1};
    struct trainer_options training = {.dtype = DTYPE_BF16,
                                       .micro_batch_tokens = TOKENS,
                                       .max_sequence_tokens = LENGTH,
                                       .optimizer = {.learning_rate = 1e-6,
                                                     .beta1 = 0.9,
                                                     .beta2 = 0.999,
                                                     .epsilon = 1e-8,
                                                     .max_gradient_norm = 1.0}};
    w.flat = MEMORY_ARRAY(float, model_config_parameter_count(&w.config));
    model_init_flat(&w.config, 1, w.flat);
    assert_int_equal(trainer_create(&trainer, &training, &w.config, w.flat, &w.compute), 0);
    w.model = trainer_model(trainer);
    assert_true(model_parameter_count(w.model) >= 10000000);
    assert_int_equal(model_create(&w.reader, &w.config, DTYPE_BF16, false, &w.compute), 0);
    struct publisher_options options = {.endpoint = w.endpoint, .weights = w.options};
    assert_int_equal(publisher_create(&w.publisher, w.model, w.context, clock_system(), &options),
                     0);
    int64_t held = -1;
    for (int version = 0; version <= STEPS; version++) {
        if (version > 0)
            train_step(trainer, version);
        publish(&w, version);
        held = receive(&w, held, version);
        const struct weight_fetch_report *fetch = weight_receiver_report(w.receiver);
        assert_string_equal(fetch->way, version == 0 ? "chunks" : "delta");
        if (version == 0)
            continue;
        struct publisher_report report;
        publisher_report(w.publisher, &report);
        assert_string_not_equal(w.hashes[version], w.hashes[version - 1]);
        assert_int_equal(fetch->wire_bytes, report.channel.delta_bytes);
        assert_true(fetch->wire_bytes * 20 <= report.channel.bytes);
        print_message("step %d: %.2f %% of %lld values change, %zu of %zu bytes: %.2f %%\n",
                      version, 100.0 * report.channel.changed,
                      (long long)model_parameter_count(w.model), fetch->wire_bytes,
                      report.channel.bytes, 100.0 * report.channel.delta_ratio);
    }
    weight_receiver_want(w.receiver, w.endpoint, held);
    trainer_free(trainer);
    w.model = NULL;
    world_close(&w);
}

int main(void)
{
    log_set_level(LOG_LEVEL_ERROR);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_versions),
                                       cmocka_unit_test(test_a_flood_of_versions),
                                       cmocka_unit_test(test_delta_of_real_steps)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* G6, G7 and A1-A5 on a random model, and on a real checkpoint whose directory is the first
 * argument. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "actors/rollout_engine.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/rng.h"
#include "infra/train/trainer.h"
#include "tests/actors/tiny_model.h"

#define GROUPS      5
#define GROUP_SIZE  4
#define SAMPLES     (GROUPS * GROUP_SIZE)
#define PROMPT_MAX  70
#define GREEDY_MAX  200
#define NO_TOKEN_ID 0x7fffffff

/* ---- what is run ---- */

struct setup {
    enum cpu_isa isa;
    enum dtype dtype;
    int threads;
    int32_t slots, chunk, kv_blocks;
    bool reversed; /* requests are submitted last first */
};

struct subject {
    struct model_config config;
    float *flat;
    int32_t max_tokens; /* of a sequence */
    int scalar_step;    /* scalar code is slow: every how many setups run on it */
};

static const char *data_directory; /* NULL: no real checkpoint here */

static struct subject tiny_subject(void)
{
    struct subject subject = {.config = tiny_model_config(), .max_tokens = 120, .scalar_step = 4};
    subject.flat = tiny_model_flat(&subject.config, 7);
    return subject;
}

static void open_compute(struct compute *compute, enum cpu_isa isa, int threads)
{
    compute_thread_init();
    compute->ops = backend_cpu(isa);
    compute->pool = parallel_create(threads);
}

static enum cpu_isa best_isa(void)
{
    int isa = CPU_ISA_COUNT - 1;
    while (!cpu_isa_available((enum cpu_isa)isa))
        isa--;
    return (enum cpu_isa)isa;
}

/* Group g has a prompt of its own length (one token, inside a block, at and past block edges) and
 * its own sampling; every second group can stop. */
static void fill_request(const struct subject *subject, int32_t group, int32_t sample,
                         int32_t *prompt, struct rollout_request *request)
{
    static const int32_t lengths[GROUPS] = {1, 5, 32, 33, PROMPT_MAX};
    static const float temperatures[GROUPS] = {1.0f, 0.7f, 1.0f, 0.0f, 1.3f};
    struct rng_key key = {.seed = 77, .purpose = RNG_DATA, .a = (uint64_t)group};
    for (int32_t i = 0; i < lengths[group]; i++)
        prompt[i] = 3 + (int32_t)rng_below(&key, (uint64_t)i, 90);
    *request = (struct rollout_request){
        .user = (uint64_t)(group * GROUP_SIZE + sample),
        .prompt_id = (uint64_t)group + 40,
        .group_id = (uint64_t)group + 1,
        .sample_index = sample,
        .prompt_tokens = prompt,
        .prompt_token_count = lengths[group],
        .sampling = {.temperature = temperatures[group],
                     .top_p = group == 1 ? 0.9f : 1.0f,
                     .top_k = group == 2 ? 20 : 0,
                     .min_p = group == 4 ? 0.02f : 0.0f,
                     .max_completion_tokens = group == 2 ? 200 : 20 + 5 * group,
                     .seed = 1234}};
    if (group % 2 == 0) {
        request->sampling.stop_count = 6;
        for (int32_t i = 0; i < 6; i++)
            request->sampling.stop_ids[i] = subject->config.vocab_size - 91 + 13 * i;
    }
    if (request->sampling.max_completion_tokens > subject->max_tokens)
        request->sampling.max_completion_tokens = subject->max_tokens;
}

static void create_engine(struct rollout_engine **engine, struct model *model,
                          const struct subject *subject, const struct setup *setup,
                          const struct compute *compute)
{
    struct rollout_engine_options options = {.slots = setup->slots,
                                             .prefill_chunk_tokens = setup->chunk,
                                             .max_sequence_tokens = subject->max_tokens,
                                             .kv_blocks = setup->kv_blocks,
                                             .rng_purpose = RNG_SAMPLE};
    assert_int_equal(rollout_engine_create(engine, model, &options, compute), 0);
}

static void collect(struct rollout_engine *engine, struct trajectory *results, int32_t *done)
{
    struct trajectory trajectory;
    uint64_t user;
    while (rollout_engine_finished(engine, &trajectory, &user)) {
        assert_true(user < SAMPLES && results[user].token_count == 0);
        assert_int_equal(trajectory_validate(&trajectory), 0);
        results[user] = trajectory;
        (*done)++;
    }
}

/* Generates every sample of every group; results by group and sample. Returns the prompt rows
 * computed. */
static int64_t generate(const struct subject *subject, const struct setup *setup,
                        struct trajectory *results)
{
    struct compute compute;
    struct model *model;
    struct rollout_engine *engine;
    open_compute(&compute, setup->isa, setup->threads);
    assert_int_equal(model_create(&model, &subject->config, setup->dtype, false, &compute), 0);
    model_set_flat(model, subject->flat);
    create_engine(&engine, model, subject, setup, &compute);
    memset(results, 0, SAMPLES * sizeof *results);
    int32_t submitted = 0;
    int32_t done = 0;
    while (done < SAMPLES) {
        while (submitted < SAMPLES && rollout_engine_room(engine) > 0) {
            int32_t prompt[PROMPT_MAX];
            struct rollout_request request;
            int32_t at = setup->reversed ? SAMPLES - 1 - submitted : submitted;
            fill_request(subject, at / GROUP_SIZE, at % GROUP_SIZE, prompt, &request);
            assert_int_equal(rollout_engine_submit(engine, &request), 0);
            submitted++;
        }
        assert_true(rollout_engine_step(engine) > 0);
        collect(engine, results, &done);
    }
    assert_int_equal(rollout_engine_step(engine), 0);
    assert_int_equal(rollout_engine_active(engine), 0);
    int64_t rows = rollout_engine_prefill_rows(engine);
    rollout_engine_destroy(engine);
    model_free(model);
    parallel_destroy(compute.pool);
    return rows;
}

static void release_all(struct trajectory *results, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        trajectory_release(&results[i]);
}

static void assert_same_trajectory(const struct trajectory *a, const struct trajectory *b)
{
    assert_int_equal(a->token_count, b->token_count);
    size_t count = (size_t)a->token_count;
    assert_memory_equal(a->tokens, b->tokens, count * sizeof(int32_t));
    assert_memory_equal(a->behavior_logprob, b->behavior_logprob, count * sizeof(float));
    assert_memory_equal(a->log_mass, b->log_mass, count * sizeof(float));
    assert_memory_equal(a->policy_version, b->policy_version, count * sizeof(int64_t));
    assert_memory_equal(a->loss_mask, b->loss_mask, count);
    assert_int_equal(a->finish, b->finish);
    assert_int_equal(a->prompt_tokens, b->prompt_tokens);
    assert_int_equal(a->group_id, b->group_id);
    assert_int_equal(a->sample_index, b->sample_index);
}

/* ---- G6 ---- */

static void make_trainer(struct trainer **trainer, const struct subject *subject,
                         const struct setup *setup, int32_t micro_batch_tokens,
                         const struct compute *compute)
{
    struct trainer_options options = {.dtype = setup->dtype,
                                      .logprobs_only = true,
                                      .micro_batch_tokens = micro_batch_tokens,
                                      .max_sequence_tokens = subject->max_tokens};
    assert_int_equal(trainer_create(trainer, &options, &subject->config, subject->flat, compute),
                     0);
}

/* The trainer's logprobs of one trajectory's tokens; logprob [token_count]. */
static void train_logprobs(struct trainer *trainer, struct trajectory *const *trajectories,
                           int32_t count, float temperature, float *const *logprob)
{
    struct train_sequence sequences[SAMPLES];
    for (int32_t i = 0; i < count; i++)
        sequences[i] = (struct train_sequence){.tokens = trajectories[i]->tokens,
                                               .count = trajectories[i]->token_count,
                                               .loss_mask = trajectories[i]->loss_mask,
                                               .unit = i};
    struct train_batch batch = {.sequences = sequences, .count = count, .temperature = temperature};
    assert_int_equal(trainer_logprobs(trainer, &batch, logprob, NULL), 0);
}

/* Every behavior_logprob is the trainer's, bit for bit, whatever the packing. */
static void assert_trainer_agrees(const struct subject *subject, const struct setup *setup,
                                  int32_t micro_batch_tokens, struct trajectory *results)
{
    struct compute compute;
    struct trainer *trainer;
    open_compute(&compute, setup->isa, setup->threads);
    make_trainer(&trainer, subject, setup, micro_batch_tokens, &compute);
    for (int32_t group = 0; group < GROUPS; group++) {
        struct trajectory *members[GROUP_SIZE];
        float *logprob[GROUP_SIZE];
        for (int32_t i = 0; i < GROUP_SIZE; i++) {
            members[i] = &results[group * GROUP_SIZE + i];
            logprob[i] = MEMORY_ARRAY(float, members[i]->token_count);
        }
        float temperature = members[0]->sampling.temperature;
        train_logprobs(trainer, members, GROUP_SIZE, temperature > 0.0f ? temperature : 1.0f,
                       logprob);
        for (int32_t i = 0; i < GROUP_SIZE; i++) {
            const struct trajectory *t = members[i];
            for (int32_t p = t->prompt_tokens; p < t->token_count; p++)
                assert_memory_equal(&logprob[i][p], &t->behavior_logprob[p], sizeof(float));
            memory_free(logprob[i]);
        }
    }
    trainer_free(trainer);
    parallel_destroy(compute.pool);
}

/* A spread of slots, chunks and threads, each once against the reference of its dtype. */
static void check_every_setup(const struct subject *subject, enum dtype dtype)
{
    static const int32_t slots[] = {1, 4, 17};
    static const int32_t chunks[] = {1, 7, 64};
    struct trajectory reference[SAMPLES];
    struct trajectory results[SAMPLES];
    struct setup setup = {
        .isa = CPU_ISA_SCALAR, .dtype = dtype, .threads = 1, .slots = SAMPLES, .chunk = 64};
    generate(subject, &setup, reference);
    int variant = 0;
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++) {
        if (!cpu_isa_available((enum cpu_isa)isa))
            continue;
        int step = isa == CPU_ISA_SCALAR ? subject->scalar_step : 1;
        for (int i = 0; i < 9; i += step, variant++) {
            setup = (struct setup){.isa = (enum cpu_isa)isa,
                                   .dtype = dtype,
                                   .threads = 1 + (i / 3 + i) % 3,
                                   .slots = slots[i % 3],
                                   .chunk = chunks[i / 3],
                                   .kv_blocks = variant % 2 ? subject->max_tokens / 32 + 2 : 0,
                                   .reversed = variant % 3 == 1};
            generate(subject, &setup, results);
            for (int32_t s = 0; s < SAMPLES; s++)
                assert_same_trajectory(&results[s], &reference[s]);
            if (i % 4 == 0)
                assert_trainer_agrees(subject, &setup, subject->max_tokens * (1 + i / 2), results);
            release_all(results, SAMPLES);
        }
    }
    int32_t sampled = 0;
    int32_t stopped = 0;
    for (int32_t s = 0; s < SAMPLES; s++) {
        sampled += reference[s].token_count - reference[s].prompt_tokens;
        stopped += reference[s].finish == FINISH_STOP;
    }
    assert_true(sampled > 150 && stopped > 0 && stopped < SAMPLES);
    release_all(reference, SAMPLES);
}

static void test_random_model_bit_for_bit(void **state)
{
    (void)state;
    struct subject subject = tiny_subject();
    check_every_setup(&subject, DTYPE_F32);
    check_every_setup(&subject, DTYPE_BF16);
    memory_free(subject.flat);
}

static bool real_subject(struct subject *subject)
{
    char path[HONE_PATH_MAX];
    if (!data_directory || !file_is_directory(data_directory)) {
        print_message("skipped: no stories260k data\n");
        return false;
    }
    path_join(path, sizeof path, data_directory, "hf");
    assert_int_equal(model_config_read(&subject->config, path), 0);
    subject->flat = MEMORY_ARRAY(float, model_config_parameter_count(&subject->config));
    assert_int_equal(model_read_flat(&subject->config, path, subject->flat), 0);
    subject->max_tokens = 110;
    subject->scalar_step = 9;
    return true;
}

static void test_real_model_bit_for_bit(void **state)
{
    (void)state;
    struct subject subject;
    if (!real_subject(&subject))
        skip();
    check_every_setup(&subject, DTYPE_F32);
    check_every_setup(&subject, DTYPE_BF16);
    memory_free(subject.flat);
}

static void test_real_model_greedy_text(void **state)
{
    (void)state;
    struct subject subject;
    if (!real_subject(&subject))
        skip();
    char path[HONE_PATH_MAX];
    json_error_t problem;
    json_t *root = json_load_file(
        path_join(path, sizeof path, data_directory, "reference_f64.json"), 0, &problem);
    json_t *expected = json_object_get(root, "greedy_from_bos_200");
    assert_int_equal(json_array_size(expected), GREEDY_MAX + 1);

    struct compute compute;
    struct model *model;
    struct rollout_engine *engine;
    struct setup setup = {.dtype = DTYPE_F32, .threads = 1, .slots = 1, .chunk = 16};
    open_compute(&compute, best_isa(), 1);
    assert_int_equal(model_create(&model, &subject.config, DTYPE_F32, false, &compute), 0);
    model_set_flat(model, subject.flat);
    subject.max_tokens = 512;
    create_engine(&engine, model, &subject, &setup, &compute);
    int32_t bos = 1;
    struct rollout_request request = {
        .prompt_tokens = &bos,
        .prompt_token_count = 1,
        .sampling = {.top_p = 1.0f, .max_completion_tokens = GREEDY_MAX}};
    assert_int_equal(rollout_engine_submit(engine, &request), 0);
    while (rollout_engine_step(engine) > 0)
        continue;
    struct trajectory trajectory;
    uint64_t user;
    assert_int_equal(rollout_engine_finished(engine, &trajectory, &user), 1);
    assert_int_equal(trajectory.token_count, GREEDY_MAX + 1);
    for (int32_t i = 0; i < trajectory.token_count; i++)
        assert_int_equal(trajectory.tokens[i],
                         json_integer_value(json_array_get(expected, (size_t)i)));
    trajectory_release(&trajectory);
    rollout_engine_destroy(engine);
    model_free(model);
    parallel_destroy(compute.pool);
    json_decref(root);
    memory_free(subject.flat);
}

/* ---- one engine, looked at more closely ---- */

struct bench {
    struct subject subject;
    struct setup setup;
    struct compute compute;
    struct model *model;
    struct rollout_engine *engine;
};

static void bench_open(struct bench *bench, int32_t slots, int32_t chunk)
{
    bench->subject = tiny_subject();
    bench->setup = (struct setup){.dtype = DTYPE_F32, .threads = 1, .slots = slots, .chunk = chunk};
    open_compute(&bench->compute, CPU_ISA_SCALAR, 1);
    assert_int_equal(
        model_create(&bench->model, &bench->subject.config, DTYPE_F32, false, &bench->compute), 0);
    model_set_flat(bench->model, bench->subject.flat);
    create_engine(&bench->engine, bench->model, &bench->subject, &bench->setup, &bench->compute);
}

static void bench_close(struct bench *bench)
{
    rollout_engine_destroy(bench->engine);
    model_free(bench->model);
    parallel_destroy(bench->compute.pool);
    memory_free(bench->subject.flat);
}

/* Submits samples [0, count) of one group, without stop ids. */
static void bench_submit(struct bench *bench, int32_t group, int32_t first, int32_t count)
{
    for (int32_t i = first; i < first + count; i++) {
        int32_t prompt[PROMPT_MAX];
        struct rollout_request request;
        fill_request(&bench->subject, group, i, prompt, &request);
        request.sampling.stop_count = 0;
        request.sampling.max_completion_tokens = 24;
        assert_int_equal(rollout_engine_submit(bench->engine, &request), 0);
    }
}

static int32_t bench_run(struct bench *bench, struct trajectory *results)
{
    int32_t done = 0;
    memset(results, 0, SAMPLES * sizeof *results);
    while (rollout_engine_step(bench->engine) > 0)
        continue;
    collect(bench->engine, results, &done);
    return done;
}

static void test_a_group_prefills_its_prompt_once(void **state)
{
    (void)state;
    struct trajectory results[SAMPLES];
    struct bench bench;
    bench_open(&bench, 4, 16);
    bench_submit(&bench, 4, 0, 4);
    assert_int_equal(bench_run(&bench, results), 4);
    assert_int_equal(rollout_engine_prefill_rows(bench.engine), PROMPT_MAX);
    release_all(results, SAMPLES);

    /* One more sample joins late: it computes the last prompt row alone, again. */
    bench_submit(&bench, 4, 0, 2);
    for (int i = 0; i < 8; i++)
        assert_true(rollout_engine_step(bench.engine) > 0);
    bench_submit(&bench, 4, 2, 1);
    assert_int_equal(bench_run(&bench, results), 3);
    assert_int_equal(rollout_engine_prefill_rows(bench.engine), 2 * PROMPT_MAX + 1);
    release_all(results, SAMPLES);
    bench_close(&bench);
}

static void test_weights_change_between_steps(void **state)
{
    (void)state;
    struct trajectory plain[SAMPLES];
    struct trajectory swapped[SAMPLES];
    struct trajectory fresh[SAMPLES];
    struct bench bench;
    bench_open(&bench, 4, 64);
    float *newer = tiny_model_flat(&bench.subject.config, 8);
    bench_submit(&bench, 1, 0, 2);
    assert_int_equal(bench_run(&bench, plain), 2);

    /* Ten tokens under version 0, the rest under version 5; one more sample starts after the swap.
     */
    bench_submit(&bench, 1, 0, 2);
    for (int i = 0; i < 10; i++)
        assert_true(rollout_engine_step(bench.engine) > 0);
    model_set_flat(bench.model, newer);
    rollout_engine_set_version(bench.engine, 5);
    bench_submit(&bench, 1, 2, 1);
    assert_int_equal(bench_run(&bench, swapped), 3);
    for (uint64_t s = 4; s < 6; s++) {
        const struct trajectory *t = &swapped[s];
        int32_t boundary = t->prompt_tokens + 10;
        for (int32_t i = t->prompt_tokens; i < t->token_count; i++)
            assert_int_equal(t->policy_version[i], i < boundary ? 0 : 5);
        assert_memory_equal(t->tokens, plain[s].tokens, (size_t)boundary * sizeof(int32_t));
        assert_memory_equal(t->behavior_logprob, plain[s].behavior_logprob,
                            (size_t)boundary * sizeof(float));
        assert_true(t->behavior_logprob[boundary] != plain[s].behavior_logprob[boundary]);
    }

    /* The late one is purely of the new version: nothing of the old prompt's KV. */
    bench_submit(&bench, 1, 2, 1);
    assert_int_equal(bench_run(&bench, fresh), 1);
    assert_same_trajectory(&swapped[6], &fresh[6]);
    assert_int_equal(trajectory_oldest_version(&fresh[6]), 5);
    release_all(plain, SAMPLES);
    release_all(swapped, SAMPLES);
    release_all(fresh, SAMPLES);
    memory_free(newer);
    bench_close(&bench);
}

static void test_cancelled_leader_hands_its_prompt_over(void **state)
{
    (void)state;
    struct trajectory plain[SAMPLES];
    struct trajectory rest[SAMPLES];
    struct bench bench;
    bench_open(&bench, 3, 16);
    bench_submit(&bench, 4, 0, 4);
    assert_int_equal(bench_run(&bench, plain), 4);
    bench_submit(&bench, 4, 0, 4);
    assert_int_equal(rollout_engine_step(bench.engine), 16);
    assert_int_equal(rollout_engine_cancel(bench.engine, 16), 1); /* the leader */
    assert_int_equal(rollout_engine_cancel(bench.engine, 99), 0);
    assert_int_equal(bench_run(&bench, rest), 3);
    assert_int_equal(rest[16].token_count, 0);
    for (int s = 17; s < 20; s++)
        assert_same_trajectory(&rest[s], &plain[s]);
    release_all(plain, SAMPLES);
    release_all(rest, SAMPLES);

    /* Queued, running and finished ones can be dropped too. */
    bench_submit(&bench, 0, 0, 4);
    for (int i = 0; i < 24; i++)
        assert_true(rollout_engine_step(bench.engine) > 0);
    assert_int_equal(rollout_engine_active(bench.engine), 1);
    for (uint64_t user = 0; user < 4; user++)
        assert_int_equal(rollout_engine_cancel(bench.engine, user), 1);
    assert_int_equal(bench_run(&bench, rest), 0);
    bench_close(&bench);
}

static void test_a_short_cache_makes_requests_wait(void **state)
{
    (void)state;
    struct trajectory plain[SAMPLES];
    struct trajectory tight[SAMPLES];
    struct subject subject = tiny_subject();
    struct setup setup = {.dtype = DTYPE_BF16, .threads = 2, .slots = 8, .chunk = 16};
    generate(&subject, &setup, plain);
    setup.kv_blocks = 4; /* one sequence of 120 tokens */
    generate(&subject, &setup, tight);
    for (int s = 0; s < SAMPLES; s++)
        assert_same_trajectory(&tight[s], &plain[s]);
    release_all(plain, SAMPLES);
    release_all(tight, SAMPLES);
    memory_free(subject.flat);
}

static void test_finish_reasons(void **state)
{
    (void)state;
    struct trajectory results[SAMPLES];
    struct bench bench;
    bench_open(&bench, 2, 64);
    int32_t prompt[PROMPT_MAX];
    struct rollout_request request;
    fill_request(&bench.subject, 4, 0, prompt, &request);
    request.sampling.stop_count = 0;
    request.sampling.max_completion_tokens = 1000; /* the context is 120 */
    request.user = 0;
    assert_int_equal(rollout_engine_submit(bench.engine, &request), 0);
    request.sampling.max_completion_tokens = 9;
    request.user = 1;
    assert_int_equal(rollout_engine_submit(bench.engine, &request), 0);
    assert_int_equal(bench_run(&bench, results), 2);
    assert_int_equal(results[0].token_count, 120);
    assert_int_equal(results[0].finish, FINISH_LENGTH);
    assert_int_equal(results[1].token_count, PROMPT_MAX + 9);
    assert_int_equal(results[1].finish, FINISH_LENGTH);

    /* The third token of the same draw as a stop id: it is the last token and it is kept. */
    int32_t stop = results[1].tokens[PROMPT_MAX + 2];
    int32_t first = PROMPT_MAX;
    while (results[1].tokens[first] != stop)
        first++;
    request.sampling.stop_count = 2;
    request.sampling.stop_ids[0] = NO_TOKEN_ID;
    request.sampling.stop_ids[1] = stop;
    release_all(results, SAMPLES);
    assert_int_equal(rollout_engine_submit(bench.engine, &request), 0);
    assert_int_equal(bench_run(&bench, results), 1);
    assert_int_equal(results[1].token_count, first + 1);
    assert_int_equal(results[1].tokens[first], stop);
    assert_int_equal(results[1].finish, FINISH_STOP);
    assert_int_equal(results[1].reward.status, REWARD_ABSTAIN);
    release_all(results, SAMPLES);

    /* Weights that are not numbers end the sequence; nothing not finite is handed out. */
    for (int64_t i = 0; i < bench.subject.config.hidden_size * 101; i++)
        bench.subject.flat[i] = NAN;
    model_set_flat(bench.model, bench.subject.flat);
    assert_int_equal(rollout_engine_submit(bench.engine, &request), 0);
    assert_int_equal(bench_run(&bench, results), 1);
    assert_int_equal(results[1].finish, FINISH_ABORT);
    assert_int_equal(results[1].token_count, PROMPT_MAX);
    release_all(results, SAMPLES);
    bench_close(&bench);
}

static void test_bad_requests_are_refused(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, 1, 8);
    int32_t prompt[200] = {0};
    struct rollout_request good = {
        .prompt_tokens = prompt,
        .prompt_token_count = 3,
        .sampling = {.temperature = 1.0f, .top_p = 1.0f, .max_completion_tokens = 4}};
    struct rollout_request bad = good;
    bad.prompt_token_count = 120;
    assert_int_equal(rollout_engine_submit(bench.engine, &bad), HONE_EINVAL);
    bad.prompt_token_count = 0;
    assert_int_equal(rollout_engine_submit(bench.engine, &bad), HONE_EINVAL);
    bad = good;
    bad.sampling.max_completion_tokens = 0;
    assert_int_equal(rollout_engine_submit(bench.engine, &bad), HONE_EINVAL);
    bad = good;
    bad.sampling.top_p = 1.5f;
    assert_int_equal(rollout_engine_submit(bench.engine, &bad), HONE_EINVAL);
    prompt[1] = 101;
    assert_int_equal(rollout_engine_submit(bench.engine, &good), HONE_EINVAL);
    prompt[1] = 100;
    assert_int_equal(rollout_engine_room(bench.engine), 2);
    assert_int_equal(rollout_engine_submit(bench.engine, &good), 0);
    assert_int_equal(rollout_engine_submit(bench.engine, &good), 0);
    assert_int_equal(rollout_engine_room(bench.engine), 0);
    assert_int_equal(rollout_engine_submit(bench.engine, &good), HONE_EINVAL);

    struct rollout_engine *none;
    struct rollout_engine_options options = {
        .slots = 2, .prefill_chunk_tokens = 4, .max_sequence_tokens = 161};
    assert_int_equal(rollout_engine_create(&none, bench.model, &options, &bench.compute),
                     HONE_EINVAL);
    options.max_sequence_tokens = 160;
    options.kv_blocks = 4;
    assert_int_equal(rollout_engine_create(&none, bench.model, &options, &bench.compute),
                     HONE_EINVAL);
    assert_null(none);
    bench_close(&bench);
}

int main(int argc, char **argv)
{
    data_directory = argc > 1 ? argv[1] : NULL;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_group_prefills_its_prompt_once),
        cmocka_unit_test(test_weights_change_between_steps),
        cmocka_unit_test(test_cancelled_leader_hands_its_prompt_over),
        cmocka_unit_test(test_a_short_cache_makes_requests_wait),
        cmocka_unit_test(test_finish_reasons),
        cmocka_unit_test(test_bad_requests_are_refused),
        cmocka_unit_test(test_random_model_bit_for_bit),
        cmocka_unit_test(test_real_model_bit_for_bit),
        cmocka_unit_test(test_real_model_greedy_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

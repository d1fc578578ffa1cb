/* Ranks of one host: what collectives give, and who is named when a rank dies, stands still or
 * never comes. Then trainers on groups: the bits of one rank with as many shards. Ranks are
 * processes. */
#include "tests/infra/train/train_fixture.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "infra/base/clock.h"
#include "infra/base/log.h"
#include "infra/train/rank_group.h"

#define LENGTH  300000 /* of a vector: several threads' worth */
#define TIMEOUT 400    /* ms */
#define PROBLEM 512    /* bytes of a rank's message */

static char directory[HONE_PATH_MAX];

/* What rank `rank` of `count` does; 0 or the status that it ends with. */
typedef int (*rank_work)(int32_t rank, int32_t count, void *context);

struct ranks {
    int32_t count;
    pid_t pids[RANKS_MAX];
};

static struct ranks ranks_start(int32_t count, rank_work work, void *context)
{
    struct ranks ranks = {.count = count};
    fflush(NULL);
    for (int32_t r = 0; r < count; r++) {
        ranks.pids[r] = fork();
        assert_true(ranks.pids[r] >= 0);
        if (ranks.pids[r] == 0) {
            int rc = work(r, count, context);
            if (rc != 0) { /* for the test that asks */
                char path[HONE_PATH_MAX], name[32];
                snprintf(name, sizeof name, "problem-%d", r);
                (void)file_write_atomic(path_join(path, sizeof path, directory, name),
                                        error_message(), strlen(error_message()));
            }
            _exit(rc == 0 ? 0 : rc < 0 ? -rc : rc);
        }
    }
    return ranks;
}

static int rank_end(const struct ranks *ranks, int32_t rank)
{
    int status;
    assert_int_equal(waitpid(ranks->pids[rank], &status, 0), ranks->pids[rank]);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void run_ranks(int32_t count, rank_work work, void *context)
{
    struct ranks ranks = ranks_start(count, work, context);
    for (int32_t r = 0; r < count; r++) {
        int end = rank_end(&ranks, r);
        char path[HONE_PATH_MAX], name[32], *text = NULL;
        size_t bytes;
        snprintf(name, sizeof name, "problem-%d", r);
        if (end == 0)
            continue;
        (void)file_read(path_join(path, sizeof path, directory, name), PROBLEM, &text, &bytes);
        fail_msg("rank %d of %d ended with %d: %s", r, count, end, text ? text : "?");
    }
}

static void expect_problem(int32_t rank, const char *says)
{
    char path[HONE_PATH_MAX], name[32], *text;
    size_t bytes;
    snprintf(name, sizeof name, "problem-%d", rank);
    assert_ok(file_read(path_join(path, sizeof path, directory, name), PROBLEM, &text, &bytes));
    if (!strstr(text, says))
        fail_msg("rank %d: \"%s\" lacks \"%s\"", rank, text, says);
    memory_free(text);
}

static int open_group(struct rank_group **group, int32_t rank, int32_t count, int64_t join_ms)
{
    const struct rank_group_options options = {.directory = directory,
                                               .name = "learner",
                                               .rank = rank,
                                               .count = count,
                                               .timeout_ms = TIMEOUT,
                                               .join_ms = join_ms};
    return rank_group_open_local(group, &options);
}

static float value_of(int32_t rank, int64_t i)
{
    const struct rng_key key = {.seed = 5, .a = (uint64_t)rank};
    return rng_normal(&key, (uint64_t)i);
}

static int required(int line)
{
    char said[PROBLEM];
    snprintf(said, sizeof said, "%s", error_message());
    return error_set(HONE_EINVAL, "line %d: %s", line, said);
}

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return required(__LINE__);                                                             \
    } while (0)

/* Sums of two rounds, parts of a shared vector, numbers, and commands of several pieces. */
static int collect(int32_t rank, int32_t count, void *context)
{
    (void)context;
    struct rank_group *group;
    void *own, *sum, *big;
    size_t length;
    double numbers[RANKS_MAX * 2];
    static unsigned char sent[3 * (1 << 20) + 17];
    REQUIRE(open_group(&group, rank, count, 20000) == 0);
    REQUIRE(group->ops->own(group, LENGTH * sizeof(float), &own) == 0);
    REQUIRE(group->ops->shared(group, LENGTH * sizeof(float), &sum) == 0);
    int64_t begin = LENGTH * rank / count, end = LENGTH * (rank + 1) / count;
    struct parallel *pool = parallel_create(2);
    for (int32_t round = 0; round < 2; round++) {
        for (int64_t i = 0; i < LENGTH; i++)
            ((float *)own)[i] = value_of(round * count + rank, i);
        REQUIRE(group->ops->add(group, pool, own, begin, end, round == 0, sum) == 0);
    }
    for (int64_t i = 0; i < LENGTH; i++) {
        float expected = value_of(0, i);
        for (int32_t shard = 1; shard < 2 * count; shard++)
            expected += value_of(shard, i);
        REQUIRE(((float *)sum)[i] == expected);
    }
    for (int32_t i = 0; i < 2; i++)
        numbers[rank * 2 + i] = rank + 0.5 * i;
    REQUIRE(group->ops->exchange(group, 2, numbers) == 0);
    for (int32_t i = 0; i < 2 * count; i++)
        REQUIRE(numbers[i] == i / 2 + 0.5 * (i % 2));
    for (size_t i = 0; i < sizeof sent; i++)
        sent[i] = (unsigned char)(i * 31 >> 3);
    for (int k = 0; k < 2; k++) { /* one of several pieces, one of none */
        size_t bytes = k == 0 ? sizeof sent : 0;
        if (rank == 0) {
            REQUIRE(group->ops->send(group, sent, bytes) == 0);
            continue;
        }
        REQUIRE(group->ops->receive(group, &big, &length) == 0 && length == bytes);
        REQUIRE(memcmp(big, sent, bytes) == 0);
        memory_free(big);
    }
    parallel_destroy(pool);
    rank_group_close(group);
    return 0;
}

static void test_collectives(void **state)
{
    (void)state;
    for (int32_t count = 2; count <= 4; count++)
        run_ranks(count, collect, NULL);
}

/* ---- ranks that are missing ---- */

enum fault { DIES, STANDS_STILL };

static int meet_a_fault(int32_t rank, int32_t count, void *context)
{
    struct rank_group *group;
    double numbers[RANKS_MAX] = {0};
    REQUIRE(open_group(&group, rank, count, 20000) == 0);
    for (int round = 0;; round++) {
        if (round == 20 && rank == 1 && *(enum fault *)context == DIES)
            kill(getpid(), SIGKILL);
        if (round == 20 && rank == 1)
            clock_sleep_ms(4 * TIMEOUT);
        int rc = group->ops->exchange(group, 1, numbers);
        if (rc < 0)
            return rc;
    }
}

static void test_a_dead_rank_is_named(void **state)
{
    (void)state;
    enum fault fault = DIES;
    int64_t begin = clock_now_ms(clock_system());
    struct ranks ranks = ranks_start(3, meet_a_fault, &fault);
    assert_int_equal(rank_end(&ranks, 0), -HONE_EPEER);
    assert_int_equal(rank_end(&ranks, 1), 128 + SIGKILL);
    assert_int_equal(rank_end(&ranks, 2), -HONE_EPEER);
    assert_true(clock_now_ms(clock_system()) - begin < 10000);
    char who[64];
    snprintf(who, sizeof who, "learner rank 1 (pid %d)", (int)ranks.pids[1]);
    expect_problem(0, who);
    expect_problem(2, who);
}

static void test_a_rank_that_stands_still_is_named(void **state)
{
    (void)state;
    enum fault fault = STANDS_STILL;
    struct ranks ranks = ranks_start(3, meet_a_fault, &fault);
    int ends[3];
    for (int32_t r = 0; r < 3; r++)
        ends[r] = rank_end(&ranks, r);
    assert_true(ends[0] == -HONE_ETIMEOUT || ends[2] == -HONE_ETIMEOUT);
    assert_true(ends[0] == -HONE_ETIMEOUT || ends[0] == -HONE_EPEER);
    expect_problem(ends[0] == -HONE_ETIMEOUT ? 0 : 2, "learner rank 1 (pid ");
    expect_problem(ends[0] == -HONE_ETIMEOUT ? 0 : 2, "has not come within 0 s");
    assert_int_equal(ends[1], -HONE_EPEER); /* it comes back to a group that has ended */
}

static int wait_alone(int32_t rank, int32_t count, void *context)
{
    (void)context;
    struct rank_group *group;
    if (rank == 1) /* of three: this one never starts */
        return 0;
    return open_group(&group, rank, count, 300);
}

static void test_a_rank_that_never_comes_is_named(void **state)
{
    (void)state;
    struct ranks ranks = ranks_start(3, wait_alone, NULL);
    assert_int_equal(rank_end(&ranks, 0), -HONE_ETIMEOUT);
    assert_int_equal(rank_end(&ranks, 1), 0);
    assert_true(rank_end(&ranks, 2) != 0);
    expect_problem(0, "learner rank 1 has not joined");
}

/* A second life of every rank, the file of the first still there, and one that is slow to start. */
static int come_late(int32_t rank, int32_t count, void *context)
{
    if (rank == 0)
        clock_sleep_ms(100);
    return collect(rank, count, context);
}

static void test_an_old_group_is_not_joined(void **state)
{
    (void)state;
    enum fault fault = DIES;
    struct ranks ranks = ranks_start(3, meet_a_fault, &fault);
    for (int32_t r = 0; r < 3; r++)
        (void)rank_end(&ranks, r);
    run_ranks(3, come_late, NULL);
}

/* ---- trainers ---- */

struct job {
    int32_t shards, steps, from; /* from > 0: goes on from the checkpoint of that step */
    struct lora_options lora;
    bool value_head;
    enum dtype dtype;
    const char *result; /* file that rank 0 writes the hash and figures into */
};

struct sums {
    double tokens, largest;
};

struct weighted {
    double total;
    struct sums sums;
};

static int weighted_nll(void *context, const struct train_batch *batch,
                        const struct loss_streams *streams, double *loss)
{
    struct weighted *w = context;
    for (int32_t s = 0; s < streams->count; s++) {
        const struct train_sequence *sequence = &batch->sequences[streams->first + s];
        for (int32_t i = 1; i < sequence->count; i++) {
            if (sequence->loss_mask[i] == 0)
                continue;
            *loss -= (double)streams->logprob[s][i] / w->total;
            streams->d_logprob[s][i] = (float)(-1.0 / w->total);
            if (streams->value) {
                *loss += 0.5 * (double)streams->value[s][i] * (double)streams->value[s][i];
                streams->d_value[s][i] = streams->value[s][i] - 0.1f;
            }
            w->sums.tokens++;
            w->sums.largest = fmax(w->sums.largest, -(double)streams->logprob[s][i]);
        }
    }
    return 0;
}

/* What one step and what looking gave: into the hash of the run. */
static int train_step(struct trainer *trainer, int32_t step, bool value_head,
                      struct hash_state *state)
{
    struct fixture_batch data;
    struct step_report report;
    fixture_batch_fill(&data, 12 + step % 5, 100 + (uint64_t)step);
    struct weighted loss = {.total = (double)data.trained};
    const struct loss_sums sums = {.values = &loss.sums.tokens, .sums = 1, .maxima = 1};
    float streams[2][FIXTURE_SEQUENCES_MAX][FIXTURE_TOKENS_MAX] = {0};
    float *logprob[FIXTURE_SEQUENCES_MAX], *other[FIXTURE_SEQUENCES_MAX];
    for (int32_t s = 0; s < FIXTURE_SEQUENCES_MAX; s++) {
        logprob[s] = streams[0][s];
        other[s] = streams[1][s];
    }
    data.batch.sums = &sums;
    data.batch.need_value = value_head;
    int rc = value_head ? trainer_values(trainer, &data.batch, other) : 0;
    if (rc == 0)
        rc = trainer_logprobs(trainer, &data.batch, logprob, value_head ? NULL : other);
    hash_update(state, streams, sizeof streams);
    if (rc == 0)
        rc = trainer_step(trainer, &data.batch, weighted_nll, &loss, &report);
    if (rc < 0)
        return rc;
    REQUIRE((int64_t)loss.sums.tokens == data.trained && report.trained_tokens == data.trained);
    const double figures[] = {report.loss, report.gradient_norm, report.clip_scale,
                              loss.sums.largest, (double)report.tokens};
    hash_update(state, figures, sizeof figures);
    struct hash weights;
    model_hash(trainer_model(trainer), &weights);
    hash_update(state, &weights, sizeof weights);
    return 0;
}

static const char *saved_path(const struct job *job, char *path)
{
    char name[32];
    snprintf(name, sizeof name, "saved-%d", (int)job->lora.rank + 2 * job->value_head);
    return path_join(path, HONE_PATH_MAX, directory, name);
}

static int train(int32_t rank, int32_t count, void *context)
{
    const struct job *job = context;
    struct model_config config = fixture_config();
    struct trainer_options options = fixture_options(job->dtype, 80);
    struct rank_group *group = NULL;
    struct compute compute;
    struct trainer *trainer;
    struct checkpoint_state at = {0};
    struct hash_state state;
    struct hash hash;
    char path[HONE_PATH_MAX], hex[HASH_HEX_SIZE];
    config.hidden_size = 32; /* enough parameters for several pieces */
    config.head_dim = 8;
    config.intermediate_size = 96;
    float *master = fixture_master(&config, 5);
    REQUIRE(compute_open(&compute, 1 + rank % 2) == 0);
    if (count > 1)
        REQUIRE(open_group(&group, rank, count, 20000) == 0);
    options.gradient_shards = job->shards;
    options.group = group;
    options.lora = job->lora;
    options.value_head = job->value_head;
    options.optimizer.max_gradient_norm = 0.5;
    int rc = trainer_create(&trainer, &options, &config, master, &compute);
    if (rc == 0 && job->from > 0)
        rc = trainer_restore(trainer, saved_path(job, path), &at);
    hash_begin(&state);
    for (int32_t step = job->from; rc == 0 && step < job->steps; step++) {
        rc = train_step(trainer, step, job->value_head, &state);
        if (rc == 0 && step == 2 && rank == 0 && job->from == 0)
            rc = trainer_save(trainer, saved_path(job, path), NULL, &at);
    }
    if (rc < 0)
        return rc;
    hash_end(&state, &hash);
    hash_hex(&hash, hex);
    if (rank == 0)
        rc = file_write_atomic(path_join(path, sizeof path, directory, job->result), hex,
                               strlen(hex));
    trainer_free(trainer);
    rank_group_close(group);
    compute_close(&compute);
    memory_free(master);
    return rc;
}

static void hash_of(const struct job *job, int32_t ranks, char hex[HASH_HEX_SIZE])
{
    char path[HONE_PATH_MAX], *text;
    size_t bytes;
    run_ranks(ranks, train, (void *)(uintptr_t)job);
    assert_ok(
        file_read(path_join(path, sizeof path, directory, job->result), PROBLEM, &text, &bytes));
    assert_int_equal(bytes, HASH_HEX_SIZE - 1);
    memcpy(hex, text, bytes + 1);
    memory_free(text);
}

/* Every step's weights, figures and streams, on one rank and on several; and on from a checkpoint
 * with another number of ranks. */
static void check_ranks(struct job job)
{
    char one[HASH_HEX_SIZE], other[HASH_HEX_SIZE];
    job.shards = 4;
    job.steps = 6;
    job.result = "hash";
    hash_of(&job, 1, one);
    for (int32_t ranks = 2; ranks <= 4; ranks += 2) {
        hash_of(&job, ranks, other);
        assert_string_equal(one, other);
    }
    job.from = 3;
    hash_of(&job, 1, one);
    for (int32_t ranks = 2; ranks <= 4; ranks += 2) {
        hash_of(&job, ranks, other);
        assert_string_equal(one, other);
    }
}

static void test_any_number_of_ranks_gives_the_same_bits(void **state)
{
    (void)state;
    check_ranks((struct job){.dtype = DTYPE_F32});
    check_ranks((struct job){.dtype = DTYPE_BF16});
}

static void test_with_a_value_head(void **state)
{
    (void)state;
    check_ranks((struct job){.dtype = DTYPE_BF16, .value_head = true});
}

static void test_with_adapters(void **state)
{
    (void)state;
    check_ranks(
        (struct job){.dtype = DTYPE_BF16,
                     .lora = {.rank = 2, .alpha = 4.0f, .targets = LORA_Q | LORA_V | LORA_DOWN}});
}

/* One shard is the trainer as it was: shards change the order of additions and no more. */
static void test_shards_change_rounding_alone(void **state)
{
    (void)state;
    struct model_config config = fixture_config();
    float *master = fixture_master(&config, 5);
    struct compute compute;
    double norms[2];
    assert_ok(compute_open(&compute, 1));
    for (int32_t k = 0; k < 2; k++) {
        struct trainer_options options = fixture_options(DTYPE_F32, 80);
        struct fixture_batch data;
        struct step_report report;
        struct trainer *trainer;
        options.gradient_shards = k == 0 ? 1 : 8;
        assert_ok(trainer_create(&trainer, &options, &config, master, &compute));
        fixture_batch_fill(&data, 20, 3);
        struct weighted loss = {.total = (double)data.trained};
        const struct loss_sums sums = {.values = &loss.sums.tokens, .sums = 1, .maxima = 1};
        data.batch.sums = &sums;
        assert_ok(trainer_step(trainer, &data.batch, weighted_nll, &loss, &report));
        norms[k] = report.gradient_norm;
        trainer_free(trainer);
    }
    assert_true(norms[0] > 0.0 && fabs(norms[1] - norms[0]) < 1e-6 * norms[0]);
    compute_close(&compute);
    memory_free(master);
}

static void test_ranks_must_divide_the_shards(void **state)
{
    (void)state;
    struct rank_group group = {.rank = 0, .count = 2};
    assert_ok(sharding_check(4, &group));
    assert_int_equal(sharding_check(3, &group), HONE_EINVAL);
    assert_non_null(strstr(error_message(), "2 ranks do not divide 3 gradient shards"));
    assert_int_equal(sharding_check(0, NULL), HONE_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_collectives),
        cmocka_unit_test(test_a_dead_rank_is_named),
        cmocka_unit_test(test_a_rank_that_stands_still_is_named),
        cmocka_unit_test(test_a_rank_that_never_comes_is_named),
        cmocka_unit_test(test_an_old_group_is_not_joined),
        cmocka_unit_test(test_any_number_of_ranks_gives_the_same_bits),
        cmocka_unit_test(test_with_a_value_head),
        cmocka_unit_test(test_with_adapters),
        cmocka_unit_test(test_shards_change_rounding_alone),
        cmocka_unit_test(test_ranks_must_divide_the_shards),
    };
    fixture_directory(directory, "ranks");
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    (void)file_remove_tree(directory);
    return rc;
}

/* What getting weights from a learner to an actor process costs on this machine, each figure beside
 * a memcpy of the same bytes taken in the same seconds.
 *
 *  - publish to swap, per way (shared memory, chunks over ipc, chunks over tcp with CURVE): from
 * the learner's call until the actor's model holds the verified version. Two processes.
 *  - a learner that trains with and without publishing every step: what its step loses.
 *  - the delta of those steps: a model of random weights, AdamW at learning rate 1e-6, the policy
 *    gradient of random advantages. */
#include "commands/bench/bench.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "actors/weight_swap.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/train/trainer.h"
#include "infra/wire/endpoint.h"
#include "learner/publisher.h"

enum { ROUNDS = 7, TRAIN_PAIRS = 5, TRAIN_TOKENS = 512, TRAIN_LENGTH = 64, SETTLE_MS = 30 };

/* ---- the actor: a process of its own ---- */

struct arrival {
    int64_t version; /* -1: waiting for the first */
    int64_t swapped_ns;
    double fetch_ms, swap_ms;
    size_t wire_bytes;
    char way[8];
};

struct actor {
    pid_t pid;
    int from, to; /* pipes */
};

struct actor_setup {
    struct model_config config;
    struct weight_options options;
    const char *keys; /* their directory */
    char endpoint[ENDPOINT_MAX];
};

/* tcp needs keys, on this machine too. */
static int secure_context(struct wire_context **context, const char *directory, const char *name)
{
    struct keys keys;
    *context = wire_context_create();
    int rc = keys_load(&keys, directory, name);
    if (rc == 0)
        wire_context_secure(*context, &keys);
    keys_clear(&keys);
    return rc;
}

static void write_all(int fd, const void *data, size_t bytes)
{
    if (write(fd, data, bytes) != (ssize_t)bytes)
        _exit(1); /* the learner is gone */
}

static int actor_loop(const struct actor_setup *setup, int out, const struct compute *compute)
{
    struct model *model;
    struct weight_receiver *receiver;
    struct wire_context *context;
    int rc = secure_context(&context, setup->keys, "actor-bench");
    if (rc == 0)
        rc = model_create(&model, &setup->config, DTYPE_BF16, false, compute);
    if (rc == 0)
        rc = weight_receiver_create(&receiver, context, "actor-bench", clock_system(),
                                    &setup->options);
    int64_t have = -1;
    while (rc >= 0) {
        const struct snapshot *snapshot;
        weight_receiver_want(receiver, setup->endpoint, have);
        rc = weight_receiver_tick(receiver, &snapshot);
        if (rc == 0 && !weight_receiver_working(receiver)) {
            struct wire_client *client = weight_receiver_socket(receiver);
            rc = wire_poll(NULL, 0, &client, 1, 100);
        }
        if (rc <= 0 || !snapshot || snapshot->version <= have)
            continue;
        int64_t start_ns = clock_now_ns(clock_system());
        if ((rc = weight_swap(model, snapshot)) < 0)
            break;
        const struct weight_fetch_report *report = weight_receiver_report(receiver);
        struct arrival arrival = {.version = have = snapshot->version,
                                  .swapped_ns = clock_now_ns(clock_system()),
                                  .fetch_ms = report->fetch_ms,
                                  .wire_bytes = report->wire_bytes};
        arrival.swap_ms = (double)(arrival.swapped_ns - start_ns) * 1e-6;
        snprintf(arrival.way, sizeof arrival.way, "%s", report->way);
        write_all(out, &arrival, sizeof arrival);
    }
    fprintf(stderr, "bench weights: actor: %s\n", error_message());
    return 1;
}

/* Forked before this process has threads or sockets; told where to look later. */
static int start_actor(struct actor *actor, const struct model_config *config,
                       const struct weight_options *options, const char *keys)
{
    int out[2], in[2];
    if (pipe(out) < 0 || pipe(in) < 0)
        return error_errno("pipe");
    pid_t pid = fork();
    if (pid < 0)
        return error_errno("fork");
    if (pid == 0) {
        struct compute compute;
        struct actor_setup setup = {.config = *config, .options = *options, .keys = keys};
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(out[0]);
        close(in[1]);
        if (compute_open(&compute, 1) < 0 ||
            read(in[0], setup.endpoint, sizeof setup.endpoint) != (ssize_t)sizeof setup.endpoint)
            _exit(1);
        _exit(actor_loop(&setup, out[1], &compute));
    }
    close(out[1]);
    close(in[0]);
    *actor = (struct actor){.pid = pid, .from = out[0], .to = in[1]};
    return 0;
}

static int tell_actor(const struct actor *actor, const char *endpoint)
{
    char text[ENDPOINT_MAX] = "";
    snprintf(text, sizeof text, "%s", endpoint);
    if (write(actor->to, text, sizeof text) != (ssize_t)sizeof text)
        return error_errno("write to the actor");
    return 0;
}

static void stop_actor(struct actor *actor)
{
    if (actor->pid > 0) {
        kill(actor->pid, SIGKILL);
        waitpid(actor->pid, NULL, 0);
        close(actor->from);
        close(actor->to);
    }
    actor->pid = 0;
}

static int await_version(const struct actor *actor, int64_t version, struct arrival *arrival)
{
    do {
        if (read(actor->from, arrival, sizeof *arrival) != (ssize_t)sizeof *arrival)
            return error_set(HONE_EPEER, "bench weights: the actor process ended");
    } while (arrival->version < version);
    return 0;
}

/* ---- figures ---- */

static int compare_doubles(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, compare_doubles);
    return count % 2 ? values[count / 2] : 0.5 * (values[count / 2 - 1] + values[count / 2]);
}

static double ms_since(int64_t start_ns)
{
    return (double)(clock_now_ns(clock_system()) - start_ns) * 1e-6;
}

/* About `megabytes` of bf16 values, in layers of the usual shape. */
static struct model_config config_of(int64_t megabytes)
{
    struct model_config config = {.vocab_size = 4096,
                                  .hidden_size = megabytes >= 100 ? 1024 : 256,
                                  .layers = 1,
                                  .max_positions = 256,
                                  .rms_eps = 1e-5f,
                                  .rope_theta = 10000.0,
                                  .tied_head = true,
                                  .stored_dtype = DTYPE_BF16,
                                  .bos_id = 1};
    config.heads = config.kv_heads = config.hidden_size / 64;
    config.head_dim = 64;
    config.intermediate_size = config.hidden_size * 8 / 3 / 32 * 32;
    while (model_config_parameter_count(&config) * 2 < megabytes * 1000000)
        config.layers++;
    return config;
}

/* ---- publish to swap ---- */

struct way {
    const char *name;
    const char *endpoint; /* NULL: ipc in a directory of its own */
    struct weight_options options;
};

struct swap_figures {
    double copy_ms, total_ms, fetch_ms, swap_ms, held_ms, ratio; /* medians of the rounds */
    double best_copy_ms, best_total_ms; /* least disturbed: what a busy machine still shows */
    size_t bytes, wire_bytes;
    char way[8];
};

struct copy_buffers {
    char *from, *to;
    size_t bytes;
};

static double time_copy(const struct copy_buffers *buffers)
{
    int64_t start_ns = clock_now_ns(clock_system());
    memcpy(buffers->to, buffers->from, buffers->bytes);
    double ms = ms_since(start_ns);
    return buffers->to[buffers->bytes / 2] == buffers->from[buffers->bytes / 2] ? ms : 0.0;
}

/* Every round publishes other values (nothing that a delta would be small for). */
static int swap_rounds(struct publisher *publisher, struct model *model, float *flat,
                       const struct actor *actor, struct swap_figures *figures)
{
    double copies[ROUNDS], totals[ROUNDS], fetches[ROUNDS], swaps[ROUNDS], held[ROUNDS];
    struct copy_buffers buffers = {.bytes = (size_t)model_parameter_count(model) * 2};
    struct arrival arrival = {0};
    int rc = 0;
    buffers.from = memory_map(buffers.bytes);
    buffers.to = memory_map(buffers.bytes);
    memset(buffers.from, 1, buffers.bytes);
    time_copy(&buffers);
    for (int round = -2; rc == 0 && round < ROUNDS; round++) { /* two to warm up */
        flat[round + 2] += 1.0f;
        model_set_flat(model, flat);
        clock_sleep_ms(SETTLE_MS);
        double copy_ms = time_copy(&buffers);
        int64_t start_ns = clock_now_ns(clock_system());
        rc = publisher_publish(publisher, round + 2);
        double held_ms = ms_since(start_ns);
        if (rc == 0)
            rc = await_version(actor, round + 2, &arrival);
        publisher_wait(publisher);
        if (rc < 0 || round < 0)
            continue;
        copies[round] = 0.5 * (copy_ms + time_copy(&buffers));
        totals[round] = (double)(arrival.swapped_ns - start_ns) * 1e-6;
        fetches[round] = arrival.fetch_ms;
        swaps[round] = arrival.swap_ms;
        held[round] = held_ms;
    }
    memory_unmap(buffers.from, buffers.bytes);
    memory_unmap(buffers.to, buffers.bytes);
    if (rc < 0)
        return rc;
    *figures = (struct swap_figures){.copy_ms = median(copies, ROUNDS),
                                     .total_ms = median(totals, ROUNDS),
                                     .fetch_ms = median(fetches, ROUNDS),
                                     .swap_ms = median(swaps, ROUNDS),
                                     .held_ms = median(held, ROUNDS),
                                     .bytes = buffers.bytes,
                                     .wire_bytes = arrival.wire_bytes};
    figures->ratio = figures->total_ms / figures->copy_ms;
    figures->best_copy_ms = copies[0]; /* ascending now */
    figures->best_total_ms = totals[0];
    memcpy(figures->way, arrival.way, sizeof figures->way);
    return 0;
}

static int bench_swap(const struct way *way, const struct model_config *config, int threads,
                      const char *directory, struct swap_figures *figures)
{
    struct actor actor = {0};
    struct compute compute;
    struct model *model = NULL;
    struct publisher *publisher = NULL;
    char endpoint[ENDPOINT_MAX];
    int rc = start_actor(&actor, config, &way->options, directory);
    if (rc < 0)
        return rc;
    struct wire_context *context;
    float *flat = MEMORY_ARRAY(float, model_config_parameter_count(config));
    if ((rc = secure_context(&context, directory, "learner")) < 0)
        goto out;
    for (int64_t i = 0; i < model_config_parameter_count(config); i++)
        flat[i] = (float)(i * 7919 % 4093) * 1e-5f;
    snprintf(endpoint, sizeof endpoint, "ipc://%s/%s", directory, way->name);
    struct publisher_options options = {.endpoint = way->endpoint ? way->endpoint : endpoint,
                                        .weights = way->options,
                                        .threaded = true};
    if ((rc = compute_open(&compute, threads)) < 0)
        goto out;
    if ((rc = model_create(&model, config, DTYPE_BF16, false, &compute)) == 0 &&
        (rc = publisher_create(&publisher, model, context, clock_system(), &options)) == 0 &&
        (rc = tell_actor(&actor, publisher_endpoint(publisher))) == 0)
        rc = swap_rounds(publisher, model, flat, &actor, figures);
    model_free(model);
    publisher_destroy(publisher);
    compute_close(&compute);
out:
    stop_actor(&actor);
    wire_context_destroy(context);
    memory_free(flat);
    return rc;
}

/* ---- the learner's step, and real deltas ---- */

struct step_figures {
    double plain_ms, publishing_ms, delay, held_ms;
    double changed, delta_ratio;
    size_t bytes, delta_bytes;
    int64_t parameters;
};

/* The gradient of the policy objective at ratio 1: -advantage / tokens, an advantage a sequence. */
static int policy_gradient(void *context, const struct train_batch *batch,
                           const struct loss_streams *streams, double *loss)
{
    const float *advantages = context;
    for (int32_t s = 0; s < streams->count; s++) {
        const struct train_sequence *sequence = &batch->sequences[streams->first + s];
        float advantage = advantages[streams->first + s];
        for (int32_t i = 1; i < sequence->count; i++) {
            streams->d_logprob[s][i] = -advantage / (float)TRAIN_TOKENS;
            *loss -= (double)(advantage * streams->logprob[s][i]) / TRAIN_TOKENS;
        }
    }
    return 0;
}

struct step_data {
    int32_t tokens[TRAIN_TOKENS];
    uint8_t mask[TRAIN_LENGTH];
    float advantages[TRAIN_TOKENS / TRAIN_LENGTH];
    struct train_sequence sequences[TRAIN_TOKENS / TRAIN_LENGTH];
};

static void draw_step(struct step_data *data, const struct model_config *config, int step)
{
    struct rng_key key = {.seed = 1, .purpose = RNG_DATA, .a = (uint64_t)step};
    memset(data->mask, 1, sizeof data->mask);
    for (int32_t i = 0; i < TRAIN_TOKENS; i++)
        data->tokens[i] = (int32_t)rng_below(&key, (uint64_t)i, (uint64_t)config->vocab_size);
    for (int32_t s = 0; s < TRAIN_TOKENS / TRAIN_LENGTH; s++) {
        data->advantages[s] = rng_below(&key, (uint64_t)(TRAIN_TOKENS + s), 2) ? 1.0f : -1.0f;
        data->sequences[s] = (struct train_sequence){.tokens = data->tokens + s * TRAIN_LENGTH,
                                                     .count = TRAIN_LENGTH,
                                                     .loss_mask = data->mask,
                                                     .unit = s};
    }
}

static int timed_step(struct trainer *trainer, const struct model_config *config, int step,
                      double *ms)
{
    struct step_report report;
    struct step_data *data = MEMORY_NEW(struct step_data);
    draw_step(data, config, step);
    struct train_batch batch = {
        .sequences = data->sequences, .count = TRAIN_TOKENS / TRAIN_LENGTH, .temperature = 1.0f};
    int64_t start_ns = clock_now_ns(clock_system());
    int rc = trainer_step(trainer, &batch, policy_gradient, data->advantages, &report);
    *ms = ms_since(start_ns);
    memory_free(data);
    return rc;
}

/* A version is published and a step trained; `overlapped`: at once, else when nobody is at work on
 * the version any more. */
static int publish_and_step(struct trainer *trainer, struct publisher *publisher,
                            const struct actor *actor, int64_t version, bool overlapped,
                            double *step_ms, double *held_ms)
{
    struct arrival arrival;
    int64_t start_ns = clock_now_ns(clock_system());
    int rc = publisher_publish(publisher, version);
    *held_ms = ms_since(start_ns);
    if (rc == 0 && !overlapped) {
        rc = await_version(actor, version, &arrival);
        publisher_wait(publisher);
    }
    if (rc == 0)
        rc = timed_step(trainer, model_config_of(trainer_model(trainer)), (int)version, step_ms);
    if (rc == 0 && overlapped) {
        rc = await_version(actor, version, &arrival);
        publisher_wait(publisher);
    }
    return rc;
}

/* In turn the one or the other first, so that a drift favours neither. */
static int step_pairs(struct trainer *trainer, struct publisher *publisher,
                      const struct actor *actor, struct step_figures *figures)
{
    double plain[TRAIN_PAIRS], publishing[TRAIN_PAIRS], held[TRAIN_PAIRS], delays[TRAIN_PAIRS];
    struct publisher_report report;
    int64_t version = 0;
    int rc = 0;
    for (int pair = -1; rc == 0 && pair < TRAIN_PAIRS; pair++) { /* one to warm up */
        double ms[2] = {0}, held_ms[2] = {0};
        for (int half = 0; rc == 0 && half < 2; half++) {
            int overlapped = (half == 0) == (pair % 2 == 0);
            rc = publish_and_step(trainer, publisher, actor, version++, overlapped, &ms[overlapped],
                                  &held_ms[overlapped]);
        }
        if (rc < 0 || pair < 0)
            continue;
        plain[pair] = ms[0];
        publishing[pair] = held_ms[1] + ms[1];
        held[pair] = held_ms[1];
        delays[pair] = publishing[pair] / plain[pair] - 1.0;
    }
    if (rc < 0)
        return rc;
    publisher_report(publisher, &report);
    *figures = (struct step_figures){.plain_ms = median(plain, TRAIN_PAIRS),
                                     .publishing_ms = median(publishing, TRAIN_PAIRS),
                                     .delay = median(delays, TRAIN_PAIRS),
                                     .held_ms = median(held, TRAIN_PAIRS),
                                     .changed = report.channel.changed,
                                     .delta_ratio = report.channel.delta_ratio,
                                     .bytes = report.channel.bytes,
                                     .delta_bytes = report.channel.delta_bytes,
                                     .parameters = model_parameter_count(trainer_model(trainer))};
    return 0;
}

static int bench_steps(const struct way *way, int threads, const char *directory,
                       struct step_figures *figures)
{
    struct model_config config = config_of(24); /* 12 million values and more */
    struct trainer_options training = {.dtype = DTYPE_BF16,
                                       .micro_batch_tokens = TRAIN_TOKENS,
                                       .max_sequence_tokens = TRAIN_LENGTH,
                                       .optimizer = {.learning_rate = 1e-6,
                                                     .beta1 = 0.9,
                                                     .beta2 = 0.999,
                                                     .epsilon = 1e-8,
                                                     .max_gradient_norm = 1.0}};
    struct actor actor = {0};
    struct compute compute;
    struct trainer *trainer = NULL;
    struct publisher *publisher = NULL;
    char endpoint[ENDPOINT_MAX];
    int rc = start_actor(&actor, &config, &way->options, directory);
    if (rc < 0)
        return rc;
    struct wire_context *context;
    float *flat = MEMORY_ARRAY(float, model_config_parameter_count(&config));
    if ((rc = secure_context(&context, directory, "learner")) < 0)
        goto out;
    model_init_flat(&config, 1, flat);
    snprintf(endpoint, sizeof endpoint, "ipc://%s/steps-%s", directory, way->name);
    struct publisher_options options = {.endpoint = way->endpoint ? way->endpoint : endpoint,
                                        .weights = way->options,
                                        .threaded = true};
    if ((rc = compute_open(&compute, threads)) < 0)
        goto out;
    if ((rc = trainer_create(&trainer, &training, &config, flat, &compute)) == 0 &&
        (rc = publisher_create(&publisher, trainer_model(trainer), context, clock_system(),
                               &options)) == 0 &&
        (rc = tell_actor(&actor, publisher_endpoint(publisher))) == 0)
        rc = step_pairs(trainer, publisher, &actor, figures);
    trainer_free(trainer);
    publisher_destroy(publisher);
    compute_close(&compute);
out:
    stop_actor(&actor);
    wire_context_destroy(context);
    memory_free(flat);
    return rc;
}

/* ---- the command ---- */

static void add_figures(struct bench *bench, json_t *figures)
{
    json_array_append_new(json_object_get(bench->json, "figures"), figures);
    fflush(stdout);
}

static void print_swap(struct bench *bench, const struct way *way, const struct swap_figures *f)
{
    printf("publish to swap  %-16s %.0f MB: median %.1f ms = %.2f x memcpy (%.1f ms), best %.1f ms "
           "(memcpy %.1f); fetch and verify %.1f, swap %.2f; learner held %.2f\n",
           way->name, (double)f->bytes * 1e-6, f->total_ms, f->ratio, f->copy_ms, f->best_total_ms,
           f->best_copy_ms, f->fetch_ms, f->swap_ms, f->held_ms);
    add_figures(bench,
                json_pack("{s:s,s:s,s:I,s:I,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f}", "transport",
                          way->name, "way", f->way, "bytes", (json_int_t)f->bytes, "wire_bytes",
                          (json_int_t)f->wire_bytes, "memcpy_ms", f->copy_ms, "publish_to_swap_ms",
                          f->total_ms, "ratio", f->ratio, "best_memcpy_ms", f->best_copy_ms,
                          "best_publish_to_swap_ms", f->best_total_ms, "fetch_ms", f->fetch_ms,
                          "swap_ms", f->swap_ms, "learner_held_ms", f->held_ms));
}

static void print_steps(struct bench *bench, const struct way *way, const struct step_figures *f)
{
    printf("training step    %-16s %.1f M values: %.1f ms alone, %.1f ms while publishing: "
           "%+.2f %%; held %.2f ms\n",
           way->name, (double)f->parameters * 1e-6, f->plain_ms, f->publishing_ms, 100.0 * f->delay,
           f->held_ms);
    if (f->delta_bytes > 0)
        printf("delta            lr 1e-6: %.2f %% of the values change; %zu of %zu bytes: "
               "%.2f %%\n",
               100.0 * f->changed, f->delta_bytes, f->bytes, 100.0 * f->delta_ratio);
    add_figures(bench, json_pack("{s:s,s:I,s:f,s:f,s:f,s:f,s:f,s:I,s:I,s:f}", "transport",
                                 way->name, "parameters", (json_int_t)f->parameters, "alone_ms",
                                 f->plain_ms, "publishing_ms", f->publishing_ms, "delay", f->delay,
                                 "held_ms", f->held_ms, "changed", f->changed, "bytes",
                                 (json_int_t)f->bytes, "delta_bytes", (json_int_t)f->delta_bytes,
                                 "delta_ratio", f->delta_ratio));
}

int bench_weights(struct bench *bench)
{
    static const struct way ways[] = {
        {"shared_memory", NULL, {.transport = WEIGHTS_SHARED_MEMORY, .deadline_ms = 30000}},
        {"chunks_ipc", NULL, {.transport = WEIGHTS_CHUNKS, .delta = true, .deadline_ms = 30000}},
        {"chunks_tcp_curve",
         "tcp://127.0.0.1:*",
         {.transport = WEIGHTS_CHUNKS, .delta = true, .deadline_ms = 30000}}};
    char directory[] = "/tmp/hone-bench-XXXXXX", keys[sizeof directory + 8];
    int64_t megabytes;
    int rc = command_int(bench->line, "megabytes", 1, 100000, &megabytes);
    if (rc < 0)
        return rc;
    struct model_config config = config_of(megabytes);
    if (!mkdtemp(directory))
        return error_errno("make %s", directory);
    snprintf(keys, sizeof keys, "%s/keys", directory);
    rc = keys_create(keys);
    for (size_t i = 0; rc == 0 && i < sizeof ways / sizeof *ways; i++) {
        struct swap_figures figures = {0};
        rc = bench_swap(&ways[i], &config, bench->threads, keys, &figures);
        if (rc == 0)
            print_swap(bench, &ways[i], &figures);
    }
    for (size_t i = 0; rc == 0 && i < 2; i++) {
        struct step_figures figures = {0};
        rc = bench_steps(&ways[i], bench->threads, keys, &figures);
        if (rc == 0)
            print_steps(bench, &ways[i], &figures);
    }
    int removed = file_remove_tree(directory);
    return rc < 0 ? rc : removed;
}

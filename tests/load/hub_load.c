/* How many trajectories the hub takes: an open-loop load over the real wire and a real log.
 *
 *   hub_load DIRECTORY ACTORS[,ACTORS...] RATE SECONDS [TOKENS [KEEP_BATCHES]]
 *
 * The hub is a process of its own. Another is everybody else: ACTORS identities, a scorer and a
 * learner, each with a socket of its own, that say what the real ones say. Finished trajectories
 * leave at RATE a second whatever the hub does; the latency of an acknowledgement counts from when
 * its trajectory was due. Scoring and training take no time, so what limits is the hub. DIRECTORY
 * has mode 0700. With KEEP_BATCHES the log keeps the trajectories of so many trained batches;
 * without, all of them (9 bytes a token). A line at each twentieth of the time, and a table of all
 * the counts of actors: trajectories offered and acknowledged a second, latency, processor time per
 * trajectory of the hub and of the others, the hub's memory after a quarter of the time, at its
 * end, and at most. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "curriculum/curriculum_stage.h"
#include "infra/base/assert.h"
#include "infra/base/clock.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/wire/codec.h"
#include "infra/wire/endpoint.h"

#define ACTORS_MAX        1000
#define ACTORS_A_CONTEXT  500
#define RUNS_MAX          16
#define EVENTS_MAX        256
#define CONTACT_MS        50 /* between looks at who has to say something by itself */
#define PROMPT_TOKENS     100
#define PROMPTS_PER_STEP  64
#define GROUP_SIZE        8
#define STALENESS_MAX     31
#define SLOTS             16 /* of an actor */
#define SCORE_CREDITS     900
#define REPORTS           20
#define CREDIT_LEAST      (SLOTS / 4) /* an actor orders no fewer samples (actors/actor_stage.c) */
#define WAITING_MAX       (1 << 17)
#define LATENCIES_MAX     (1 << 22)
#define HEARTBEAT_MS      1000
#define RECEIVES_PER_TURN 64

struct due_sample { /* leased, and waits for its time */
    int actor;
    uint64_t lease_id, fence, group_id;
    int32_t index;
    int64_t min_version;
};

struct sent_sample {
    uint64_t id; /* 0: free */
    int64_t due_ns;
};

struct worker {
    struct wire_client *client;
    char name[16];
    Hone__Role role;
    bool welcomed;
    bool awake;   /* in the list of those to ask for messages */
    int32_t owed; /* credit to be granted */
    int64_t hello_ms, beat_ms;
};

/* A line of the table. */
struct result {
    int actors;
    double offered, acked; /* a second */
    double p50_ms, p95_ms, p99_ms;
    double hub_us, others_us; /* of processor, per trajectory */
    double early_mb, end_mb, max_mb;
};

static struct load {
    int actor_count;
    double rate;
    int64_t keep_batches; /* < 0: all */
    int poll;             /* epoll of all clients */
    struct worker *awake[ACTORS_MAX + 2];
    int awake_count;
    int64_t contact_ms;
    char endpoint[128];
    struct wire_context *contexts[ACTORS_MAX / ACTORS_A_CONTEXT + 1];
    struct worker actors[ACTORS_MAX], scorer, learner;
    struct due_sample waiting[WAITING_MAX]; /* a ring */
    uint64_t waiting_first, waiting_count;
    struct sent_sample sent[WAITING_MAX]; /* by id, open addressing */
    Hone__Trajectory trajectory;          /* the one that all are */
    int64_t trained;
    int64_t released, starved, acked, refused;
    int32_t *latencies_us;
    int64_t latency_count;
} load;

/* ---- the hub's process ---- */

static struct curriculum_options hub_options(struct prompt *prompt)
{
    struct curriculum_options options = {.hub_endpoint = load.endpoint,
                                         .recipe_hash = "load",
                                         .run_id = "load",
                                         .prompts = prompt,
                                         .prompt_count = 1,
                                         .seed = 1,
                                         .steps = INT64_C(1) << 40,
                                         .prompts_per_step = PROMPTS_PER_STEP,
                                         .group_size = GROUP_SIZE,
                                         .staleness_max = STALENESS_MAX,
                                         .lease_timeout_ms = 600000,
                                         .max_error_rate = 1,
                                         .stall_ms = 60000};
    options.trim = load.keep_batches >= 0;
    options.keep_batches = load.keep_batches;
    options.sampling = (struct sampling){.temperature = 1, .top_p = 1, .max_completion_tokens = 8};
    return options;
}

static struct prompt make_prompt(void)
{
    struct prompt prompt = {.token_count = PROMPT_TOKENS,
                            .tokens = MEMORY_ARRAY(int32_t, PROMPT_TOKENS)};
    for (int i = 0; i < PROMPT_TOKENS; i++)
        prompt.tokens[i] = i;
    return prompt;
}

static int run_hub(const char *directory)
{
    struct prompt prompt = make_prompt();
    struct curriculum_options options = hub_options(&prompt);
    struct curriculum_stage *stage = NULL;
    struct run_log *log = NULL;
    char path[HONE_PATH_MAX];
    struct wire_context *context = wire_context_create();
    log_set_level(LOG_LEVEL_WARN);
    int rc = run_log_open(&log, path_join(path, sizeof path, directory, "log"), false);
    if (rc == 0)
        rc = curriculum_stage_create(&stage, &options, log, context, clock_system(), NULL);
    if (rc == 0)
        rc = stage_loop_run(stage, curriculum_stage_tick);
    if (rc < 0 && rc != HONE_EINTERRUPTED)
        fprintf(stderr, "the hub: %s\n", error_message());
    curriculum_stage_destroy(stage);
    run_log_close(log);
    wire_context_destroy(context);
    return rc < 0;
}

/* ---- what a worker says ---- */

static void wake(struct worker *worker)
{
    if (!worker->awake)
        load.awake[load.awake_count++] = worker;
    worker->awake = true;
}

static bool say(struct worker *worker, Hone__Envelope *envelope, Hone__Kind kind)
{
    envelope->kind = kind;
    wake(worker); /* see wire_client_descriptor */
    return wire_client_send(worker->client, envelope, NULL, 0) == 0;
}

static void keep_contact(struct worker *worker, int64_t now_ms)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Hello hello = HONE__HELLO__INIT;
    Hone__Heartbeat beat = HONE__HEARTBEAT__INIT;
    char hash[] = "load";
    if (worker->welcomed && now_ms - worker->beat_ms >= HEARTBEAT_MS) {
        envelope.heartbeat = &beat;
        say(worker, &envelope, HONE__KIND__KIND_HEARTBEAT);
        worker->beat_ms = now_ms;
    }
    if (worker->welcomed || now_ms - worker->hello_ms < 100)
        return;
    hello.protocol = WIRE_PROTOCOL;
    hello.role = worker->role;
    hello.worker = worker->name;
    hello.recipe_hash = hash;
    hello.incarnation = 1;
    envelope.hello = &hello;
    if (say(worker, &envelope, HONE__KIND__KIND_HELLO))
        worker->hello_ms = now_ms + 10000;
    else
        worker->hello_ms = now_ms;
}

static void give_credit(struct worker *worker)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__LeaseCredit credit = HONE__LEASE_CREDIT__INIT;
    Hone__ScoreCredit score = HONE__SCORE_CREDIT__INIT;
    bool is_actor = worker->role == HONE__ROLE__ROLE_ACTOR;
    if (worker->owed < (is_actor ? CREDIT_LEAST : 1))
        return;
    credit.samples = score.count = worker->owed;
    if (is_actor)
        envelope.lease_credit = &credit;
    else
        envelope.score_credit = &score;
    if (say(worker, &envelope,
            is_actor ? HONE__KIND__KIND_LEASE_CREDIT : HONE__KIND__KIND_SCORE_CREDIT))
        worker->owed = 0;
}

/* ---- actors ---- */

static void take_lease(int actor, const Hone__Lease *lease)
{
    for (int32_t i = 0; i < lease->sample_count; i++) {
        HONE_ASSERT(load.waiting_count < WAITING_MAX);
        uint64_t at = (load.waiting_first + load.waiting_count++) % WAITING_MAX;
        load.waiting[at] = (struct due_sample){.actor = actor,
                                               .lease_id = lease->lease_id,
                                               .fence = lease->fence,
                                               .group_id = lease->group_id,
                                               .index = lease->sample_first + i,
                                               .min_version = lease->min_policy_version};
    }
}

static struct sent_sample *sent_slot(uint64_t id)
{
    uint64_t at = id * 0x9E3779B97F4A7C15u % WAITING_MAX;
    while (load.sent[at].id != 0 && load.sent[at].id != id)
        at = (at + 1) % WAITING_MAX;
    return &load.sent[at];
}

/* Keeps probes short: what follows the freed slot moves up. */
static void forget_sent(struct sent_sample *slot)
{
    uint64_t at = (uint64_t)(slot - load.sent);
    slot->id = 0;
    for (uint64_t next = (at + 1) % WAITING_MAX; load.sent[next].id != 0;
         next = (next + 1) % WAITING_MAX) {
        struct sent_sample moved = load.sent[next];
        load.sent[next].id = 0;
        *sent_slot(moved.id) = moved;
    }
}

static void release(int64_t due_ns)
{
    load.released++;
    if (load.waiting_count == 0) {
        load.starved++;
        return;
    }
    struct due_sample *sample = &load.waiting[load.waiting_first % WAITING_MAX];
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Trajectory *message = &load.trajectory;
    struct {
        int64_t version;
        int32_t count;
    } __attribute__((packed)) run = {load.trained, 0};
    message->id = sample->group_id * GROUP_SIZE + (uint64_t)sample->index + 1;
    message->group_id = sample->group_id;
    message->sample_index = sample->index;
    message->lease_id = sample->lease_id;
    message->fence = sample->fence;
    /* The version of the completion is the second of the runs: prompt, completion. */
    memcpy(message->version_runs.data + 12, &run.version, sizeof run.version);
    envelope.trajectory = message;
    if (!say(&load.actors[sample->actor], &envelope, HONE__KIND__KIND_TRAJECTORY)) {
        load.starved++;
        return;
    }
    load.waiting_first++;
    load.waiting_count--;
    struct sent_sample *slot = sent_slot(message->id);
    *slot = (struct sent_sample){message->id, due_ns};
}

static void take_ack(struct worker *actor, const Hone__TrajectoryAck *ack, int64_t now_ns)
{
    struct sent_sample *slot = sent_slot(ack->id);
    load.refused += ack->has_refused && ack->refused;
    actor->owed++;
    if (slot->id == 0)
        return;
    load.acked++;
    if (load.latency_count < LATENCIES_MAX)
        load.latencies_us[load.latency_count++] = (int32_t)((now_ns - slot->due_ns) / 1000);
    forget_sent(slot);
}

/* ---- scorer and learner ---- */

static void score(const Hone__ScoreRequest *request)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__ScoreResult result = HONE__SCORE_RESULT__INIT;
    struct reward reward = {.status = REWARD_OK, .total = (float)(request->trajectory_id % 5)};
    struct wire_reward wire;
    wire_reward_build(&wire, &reward);
    result.trajectory_id = request->trajectory_id;
    result.attempt = request->attempt;
    result.reward = &wire.message;
    envelope.score_result = &result;
    say(&load.scorer, &envelope, HONE__KIND__KIND_SCORE_RESULT);
}

static void say_ready(void)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__LearnerReady ready = HONE__LEARNER_READY__INIT;
    char endpoint[] = "inproc://none";
    ready.durable_batch = ready.policy_version = load.trained;
    ready.weights_endpoint = endpoint;
    envelope.learner_ready = &ready;
    say(&load.learner, &envelope, HONE__KIND__KIND_LEARNER_READY);
}

static void train(const Hone__Batch *batch)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__BatchDone done = HONE__BATCH_DONE__INIT;
    if (batch->number != load.trained + 1)
        return;
    load.trained = batch->number;
    done.number = batch->number;
    done.has_durable = done.durable = done.has_policy_version = 1;
    done.policy_version = batch->number;
    envelope.batch_done = &done;
    say(&load.learner, &envelope, HONE__KIND__KIND_BATCH_DONE);
}

/* ---- the loop ---- */

static void take(struct worker *worker, const Hone__Envelope *envelope, int64_t now_ns)
{
    bool is_actor = worker->role == HONE__ROLE__ROLE_ACTOR;
    switch ((int)envelope->kind) {
    case HONE__KIND__KIND_WELCOME:
        worker->welcomed = true;
        if (worker->role == HONE__ROLE__ROLE_LEARNER)
            say_ready();
        else
            worker->owed = is_actor ? SLOTS : SCORE_CREDITS;
        break;
    case HONE__KIND__KIND_LEASE:
        take_lease((int)(worker - load.actors), envelope->lease);
        break;
    case HONE__KIND__KIND_TRAJECTORY_ACK:
        take_ack(worker, envelope->trajectory_ack, now_ns);
        break;
    case HONE__KIND__KIND_SCORE_REQUEST:
        score(envelope->score_request);
        break;
    case HONE__KIND__KIND_SCORE_ACK:
        worker->owed++;
        break;
    case HONE__KIND__KIND_BATCH:
        train(envelope->batch);
        break;
    default:
        break;
    }
}

/* How many messages it got; one that may have more stays awake. */
static int serve(struct worker *worker, int64_t now_ns)
{
    struct wire_message message;
    int count = 0;
    int most = worker->role == HONE__ROLE__ROLE_ACTOR ? RECEIVES_PER_TURN : SCORE_CREDITS;
    while (count < most && wire_client_receive(worker->client, &message) > 0) {
        take(worker, message.envelope, now_ns);
        wire_message_release(&message);
        count++;
    }
    give_credit(worker);
    if (count > 0)
        wake(worker);
    return count;
}

static void keep_contacts(int64_t now_ms)
{
    if (now_ms - load.contact_ms < CONTACT_MS)
        return;
    load.contact_ms = now_ms;
    keep_contact(&load.scorer, now_ms);
    keep_contact(&load.learner, now_ms);
    for (int i = 0; i < load.actor_count; i++)
        keep_contact(&load.actors[i], now_ms);
}

static int serve_all(int64_t now_ns)
{
    struct epoll_event events[EVENTS_MAX];
    struct worker *awake[ACTORS_MAX + 2];
    int count = 0, ready = epoll_wait(load.poll, events, EVENTS_MAX, 0);
    for (int i = 0; i < ready; i++)
        wake(events[i].data.ptr);
    int awake_count = load.awake_count;
    memcpy(awake, load.awake, (size_t)awake_count * sizeof *awake);
    load.awake_count = 0;
    for (int i = 0; i < awake_count; i++)
        awake[i]->awake = false;
    for (int i = 0; i < awake_count; i++)
        count += serve(awake[i], now_ns);
    keep_contacts(now_ns / 1000000);
    return count;
}

static void open_worker(struct worker *worker, struct wire_context *context, Hone__Role role,
                        const char *name)
{
    snprintf(worker->name, sizeof worker->name, "%s", name);
    worker->role = role;
    if (wire_client_create(&worker->client, context, load.endpoint, worker->name) < 0) {
        fprintf(stderr, "%s\n", error_message());
        exit(1);
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = worker};
    HONE_ASSERT(
        epoll_ctl(load.poll, EPOLL_CTL_ADD, wire_client_descriptor(worker->client), &event) == 0);
}

static void open_all(void)
{
    char name[16];
    load.poll = epoll_create1(EPOLL_CLOEXEC);
    HONE_ASSERT(load.poll >= 0);
    int contexts = (load.actor_count + ACTORS_A_CONTEXT - 1) / ACTORS_A_CONTEXT;
    for (int i = 0; i < contexts; i++)
        load.contexts[i] = wire_context_create();
    for (int i = 0; i < load.actor_count; i++) {
        snprintf(name, sizeof name, "actor-%d", i);
        open_worker(&load.actors[i], load.contexts[i / ACTORS_A_CONTEXT], HONE__ROLE__ROLE_ACTOR,
                    name);
    }
    open_worker(&load.scorer, load.contexts[0], HONE__ROLE__ROLE_SCORER, "scorer-0");
    open_worker(&load.learner, load.contexts[0], HONE__ROLE__ROLE_LEARNER, "learner");
}

static void build_trajectory(int32_t tokens)
{
    static struct wire_trajectory wire;
    struct trajectory t;
    trajectory_init(&t, tokens);
    t.id = t.group_id = 1;
    t.prompt_tokens = PROMPT_TOKENS;
    t.token_count = tokens;
    t.finish = FINISH_STOP;
    t.sampling = (struct sampling){.temperature = 1, .top_p = 1, .max_completion_tokens = tokens};
    trajectory_add_segment(&t, SEGMENT_PROMPT, PROMPT_TOKENS);
    trajectory_add_segment(&t, SEGMENT_POLICY, tokens - PROMPT_TOKENS);
    for (int32_t i = 0; i < tokens; i++) {
        t.tokens[i] = i < PROMPT_TOKENS ? i : 1000 + i;
        t.loss_mask[i] = i >= PROMPT_TOKENS;
        t.behavior_logprob[i] = i < PROMPT_TOKENS ? 0.0f : -0.5f - (float)(i % 7);
        t.policy_version[i] = i < PROMPT_TOKENS ? -1 : 0;
    }
    wire_trajectory_build(&wire, &t);
    load.trajectory = wire.message;
    load.trajectory.reward = NULL;
    HONE_ASSERT(load.trajectory.version_runs.len == 24);
    trajectory_release(&t);
}

/* ---- figures ---- */

static double hub_cpu_s(pid_t hub)
{
    char path[64], line[1024];
    unsigned long user = 0, system = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)hub);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return 0;
    if (fgets(line, sizeof line, file) != NULL) {
        const char *rest = strrchr(line, ')');
        if (rest != NULL)
            sscanf(rest, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
    }
    fclose(file);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static double hub_rss_mb(pid_t hub)
{
    char path[64];
    long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)hub);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return 0;
    if (fscanf(file, "%*d %ld", &pages) != 1)
        pages = 0;
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / 1e6;
}

static int compare_latency(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static double latency_ms(double share)
{
    if (load.latency_count == 0)
        return 0;
    return (double)load.latencies_us[(int64_t)(share * (double)(load.latency_count - 1))] / 1000;
}

struct marks {
    int64_t ns, acked, released, starved;
    double hub_s, own_s; /* of processor */
};

static struct marks take_marks(pid_t hub)
{
    struct rusage own;
    getrusage(RUSAGE_SELF, &own);
    return (struct marks){.ns = clock_now_ns(clock_system()),
                          .acked = load.acked,
                          .released = load.released,
                          .starved = load.starved,
                          .hub_s = hub_cpu_s(hub),
                          .own_s = (double)(own.ru_utime.tv_sec + own.ru_stime.tv_sec) +
                                   (double)(own.ru_utime.tv_usec + own.ru_stime.tv_usec) * 1e-6};
}

/* What happened between two marks, but for the memory. */
static struct result result_of(const struct marks *then, const struct marks *now)
{
    double seconds = (double)(now->ns - then->ns) * 1e-9;
    double acked = (double)(now->acked - then->acked), each = acked > 0 ? 1e6 / acked : 0;
    qsort(load.latencies_us, (size_t)load.latency_count, sizeof *load.latencies_us,
          compare_latency);
    return (struct result){.actors = load.actor_count,
                           .offered = (double)(now->released - then->released) / seconds,
                           .acked = acked / seconds,
                           .p50_ms = latency_ms(0.5),
                           .p95_ms = latency_ms(0.95),
                           .p99_ms = latency_ms(0.99),
                           .hub_us = (now->hub_s - then->hub_s) * each,
                           .others_us = (now->own_s - then->own_s) * each};
}

static void print_progress(const struct marks *start, const struct marks *then, pid_t hub)
{
    struct marks now = take_marks(hub);
    struct result r = result_of(then, &now);
    double seconds = (double)(now.ns - then->ns) * 1e-9;
    printf("  %4.0f s: %d actors, %.0f/s offered, %.0f/s acknowledged, %.0f/s not leased in time, "
           "%lld refused; hub %.0f us a trajectory, %.0f %% of a core, %.1f MB; batch %lld\n",
           (double)(now.ns - start->ns) * 1e-9, load.actor_count, r.offered, r.acked,
           (double)(now.starved - then->starved) / seconds, (long long)load.refused, r.hub_us,
           100 * (now.hub_s - then->hub_s) / seconds, hub_rss_mb(hub), (long long)load.trained);
    fflush(stdout);
}

static void note_memory(struct result *memory, pid_t hub, double done)
{
    double mb = hub_rss_mb(hub);
    if (done <= 0.26)
        memory->early_mb = mb;
    memory->end_mb = mb;
    if (mb > memory->max_mb)
        memory->max_mb = mb;
}

static bool has_died(pid_t hub)
{
    int status;
    if (waitpid(hub, &status, WNOHANG) != hub)
        return false;
    fprintf(stderr, "hub_load: the hub's process has ended\n");
    return true;
}

/* Until there are leases enough to send at the rate. */
static bool warm_up(pid_t hub)
{
    int64_t start_ns = clock_now_ns(clock_system());
    while (load.waiting_count < (uint64_t)load.rate / 4 &&
           clock_now_ns(clock_system()) - start_ns < INT64_C(20000000000)) {
        if (serve_all(clock_now_ns(clock_system())) == 0)
            clock_sleep_ms(1);
        if (has_died(hub))
            return false;
    }
    return true;
}

static int run_load(pid_t hub, double seconds, struct result *result)
{
    struct result memory = {0};
    if (!warm_up(hub))
        return 1;
    struct marks start = take_marks(hub), last = start;
    double interval_ns = 1e9 / load.rate, next_ns = (double)start.ns;
    double end_ns = (double)start.ns + seconds * 1e9;
    while (next_ns < end_ns) {
        int64_t now_ns = clock_now_ns(clock_system());
        for (int i = 0; i < 256 && next_ns <= (double)now_ns; i++, next_ns += interval_ns)
            release((int64_t)next_ns);
        if (serve_all(now_ns) == 0 && next_ns > (double)now_ns)
            clock_sleep_ms(1);
        if ((double)(now_ns - last.ns) >= seconds * 1e9 / REPORTS) {
            if (has_died(hub))
                return 1;
            print_progress(&start, &last, hub);
            note_memory(&memory, hub, (double)(now_ns - start.ns) / (seconds * 1e9));
            last = take_marks(hub);
        }
    }
    last = take_marks(hub);
    *result = result_of(&start, &last);
    result->early_mb = memory.early_mb;
    result->end_mb = memory.end_mb;
    result->max_mb = memory.max_mb;
    return load.acked > 0 ? 0 : 1;
}

/* One count of actors, in a process of its own. */
static int measure(const char *directory, double seconds, int32_t tokens, struct result *result)
{
    char own[HONE_PATH_MAX];
    snprintf(own, sizeof own, "%s/%d", directory, load.actor_count);
    if (file_make_directories(own) < 0) {
        fprintf(stderr, "%s\n", error_message());
        return 1;
    }
    snprintf(load.endpoint, sizeof load.endpoint, "ipc://%s/hub", directory);
    load.latencies_us = MEMORY_ARRAY(int32_t, LATENCIES_MAX);
    pid_t hub = fork();
    if (hub == 0)
        _exit(run_hub(own));
    log_set_level(LOG_LEVEL_WARN);
    build_trajectory(tokens);
    open_all();
    int rc = run_load(hub, seconds, result);
    kill(hub, SIGTERM);
    waitpid(hub, NULL, 0);
    (void)file_remove_tree(own);
    return rc;
}

static void print_table(const struct result *results, int count)
{
    printf(
        "\n| actors | offered/s | acknowledged/s | p50 ms | p95 ms | p99 ms | hub us | others us "
        "| MB at 1/4 | MB at end | MB at most |\n|---|---|---|---|---|---|---|---|---|---|---|\n");
    for (int i = 0; i < count; i++) {
        const struct result *r = &results[i];
        printf("| %d | %.0f | %.0f | %.1f | %.1f | %.1f | %.0f | %.0f | %.1f | %.1f | %.1f |\n",
               r->actors, r->offered, r->acked, r->p50_ms, r->p95_ms, r->p99_ms, r->hub_us,
               r->others_us, r->early_mb, r->end_mb, r->max_mb);
    }
}

/* The hub listens only where nobody else can look (infra/wire/endpoint.h). */
static int check_directory(const char *directory)
{
    char text[ENDPOINT_MAX];
    struct endpoint endpoint;
    snprintf(text, sizeof text, "ipc://%s/hub", directory);
    int rc = endpoint_parse(&endpoint, text);
    if (rc == 0)
        rc = endpoint_check_directory(&endpoint);
    if (rc < 0)
        fprintf(stderr, "hub_load: %s\n", error_message());
    return rc;
}

static void raise_file_limit(void)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

int main(int argc, char **argv)
{
    int count = 0, rc = 0;
    if (argc < 5) {
        fprintf(stderr, "usage: hub_load DIRECTORY ACTORS[,ACTORS...] RATE SECONDS [TOKENS "
                        "[KEEP_BATCHES]]\n");
        return 2;
    }
    if (check_directory(argv[1]) < 0)
        return 1;
    raise_file_limit();
    load.rate = atof(argv[3]);
    load.keep_batches = argc > 6 ? atoll(argv[6]) : -1;
    struct result *results = mmap(NULL, RUNS_MAX * sizeof *results, PROT_READ | PROT_WRITE,
                                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    HONE_ASSERT(results != MAP_FAILED);
    for (char *at = strtok(argv[2], ","); at != NULL && count < RUNS_MAX && rc == 0;
         at = strtok(NULL, ",")) {
        int status = 1;
        load.actor_count = atoi(at) < ACTORS_MAX ? atoi(at) : ACTORS_MAX;
        fflush(stdout);
        pid_t child = fork();
        if (child == 0)
            exit(measure(argv[1], atof(argv[4]), argc > 5 ? atoi(argv[5]) : 1000, &results[count]));
        waitpid(child, &status, 0);
        rc = status != 0;
        count += rc == 0;
    }
    print_table(results, count);
    return rc;
}

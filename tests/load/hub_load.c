/* How many trajectories the hub takes: an open-loop load over the real wire and a real log.
 *
 *   hub_load DIRECTORY ACTORS RATE SECONDS [TOKENS]
 *
 * The hub is a process of its own. This one is everybody else: ACTORS identities, a scorer and a
 * learner, each with a socket of its own. Finished trajectories leave at RATE a second whatever the
 * hub does; the latency of an acknowledgement counts from when its trajectory was due. Scoring and
 * training take no time, so what limits is the hub. A line every five seconds, and a last one:
 *
 *   actors, offered and acknowledged a second, latency, the hub's processor time per trajectory and
 *   its memory */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

#define ACTORS_MAX        1000
#define ACTORS_A_CONTEXT  250
#define PROMPT_TOKENS     100
#define PROMPTS_PER_STEP  64
#define GROUP_SIZE        8
#define STALENESS_MAX     31
#define SLOTS             16 /* of an actor */
#define SCORE_CREDITS     900
#define REPORT_MS         5000
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
    int64_t hello_ms, beat_ms;
};

static struct load {
    int actor_count;
    double rate;
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

static bool say(struct worker *worker, Hone__Envelope *envelope, Hone__Kind kind)
{
    envelope->kind = kind;
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

static void give_credit(struct worker *worker, int32_t count)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__LeaseCredit credit = HONE__LEASE_CREDIT__INIT;
    Hone__ScoreCredit score = HONE__SCORE_CREDIT__INIT;
    credit.samples = score.count = count;
    if (worker->role == HONE__ROLE__ROLE_ACTOR)
        envelope.lease_credit = &credit;
    else
        envelope.score_credit = &score;
    say(worker, &envelope,
        worker->role == HONE__ROLE__ROLE_ACTOR ? HONE__KIND__KIND_LEASE_CREDIT
                                               : HONE__KIND__KIND_SCORE_CREDIT);
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
    give_credit(actor, 1);
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

static void take(struct worker *worker, int actor, const Hone__Envelope *envelope, int64_t now_ns)
{
    switch ((int)envelope->kind) {
    case HONE__KIND__KIND_WELCOME:
        worker->welcomed = true;
        if (worker->role == HONE__ROLE__ROLE_LEARNER)
            say_ready();
        else
            give_credit(worker, worker->role == HONE__ROLE__ROLE_ACTOR ? SLOTS : SCORE_CREDITS);
        break;
    case HONE__KIND__KIND_LEASE:
        take_lease(actor, envelope->lease);
        break;
    case HONE__KIND__KIND_TRAJECTORY_ACK:
        take_ack(worker, envelope->trajectory_ack, now_ns);
        break;
    case HONE__KIND__KIND_SCORE_REQUEST:
        score(envelope->score_request);
        break;
    case HONE__KIND__KIND_SCORE_ACK:
        give_credit(worker, 1);
        break;
    case HONE__KIND__KIND_BATCH:
        train(envelope->batch);
        break;
    default:
        break;
    }
}

/* How many messages it got. */
static int serve(struct worker *worker, int actor, int64_t now_ns)
{
    struct wire_message message;
    int count = 0;
    int most = worker->role == HONE__ROLE__ROLE_ACTOR ? RECEIVES_PER_TURN : SCORE_CREDITS;
    while (count < most && wire_client_receive(worker->client, &message) > 0) {
        take(worker, actor, message.envelope, now_ns);
        wire_message_release(&message);
        count++;
    }
    keep_contact(worker, now_ns / 1000000);
    return count;
}

static int serve_all(int64_t now_ns)
{
    int count = serve(&load.scorer, -1, now_ns) + serve(&load.learner, -1, now_ns);
    for (int i = 0; i < load.actor_count; i++)
        count += serve(&load.actors[i], i, now_ns);
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
}

static void open_all(void)
{
    char name[16];
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
    double cpu_s;
};

static struct marks take_marks(pid_t hub)
{
    return (struct marks){clock_now_ns(clock_system()), load.acked, load.released, load.starved,
                          hub_cpu_s(hub)};
}

static void print_since(const struct marks *then, pid_t hub, const char *label)
{
    struct marks now = take_marks(hub);
    double seconds = (double)(now.ns - then->ns) * 1e-9;
    double acked = (double)(now.acked - then->acked);
    qsort(load.latencies_us, (size_t)load.latency_count, sizeof *load.latencies_us,
          compare_latency);
    printf("%s%d actors: offered %.0f/s, acknowledged %.0f/s (%.0f/s not leased in time, %lld "
           "refused); latency ms p50 %.1f p95 %.1f p99 %.1f; hub %.1f us of processor a "
           "trajectory, %.0f %% of a core, %.1f MB; batch %lld\n",
           label, load.actor_count, (double)(now.released - then->released) / seconds,
           acked / seconds, (double)(now.starved - then->starved) / seconds,
           (long long)load.refused, latency_ms(0.5), latency_ms(0.95), latency_ms(0.99),
           acked > 0 ? (now.cpu_s - then->cpu_s) / acked * 1e6 : 0,
           100 * (now.cpu_s - then->cpu_s) / seconds, hub_rss_mb(hub), (long long)load.trained);
    fflush(stdout);
}

static void run_load(pid_t hub, double seconds)
{
    int64_t now_ns = clock_now_ns(clock_system());
    while (load.waiting_count < (uint64_t)load.rate / 4 &&
           clock_now_ns(clock_system()) - now_ns < INT64_C(20000000000))
        if (serve_all(clock_now_ns(clock_system())) == 0)
            clock_sleep_ms(1);
    struct marks start = take_marks(hub), last = start;
    double interval_ns = 1e9 / load.rate, next_ns = (double)start.ns;
    double end_ns = (double)start.ns + seconds * 1e9;
    while (next_ns < end_ns) {
        now_ns = clock_now_ns(clock_system());
        for (int i = 0; i < 256 && next_ns <= (double)now_ns; i++, next_ns += interval_ns)
            release((int64_t)next_ns);
        if (serve_all(now_ns) == 0 && next_ns > (double)now_ns)
            clock_sleep_ms(1);
        if (now_ns - last.ns >= (int64_t)REPORT_MS * 1000000) {
            print_since(&last, hub, "  ");
            last = take_marks(hub);
        }
    }
    print_since(&start, hub, "");
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: hub_load DIRECTORY ACTORS RATE SECONDS [TOKENS]\n");
        return 2;
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    load.actor_count = atoi(argv[2]) < ACTORS_MAX ? atoi(argv[2]) : ACTORS_MAX;
    load.rate = atof(argv[3]);
    load.latencies_us = MEMORY_ARRAY(int32_t, LATENCIES_MAX);
    snprintf(load.endpoint, sizeof load.endpoint, "ipc://%s/hub", argv[1]);
    if (file_make_directories(argv[1]) < 0) {
        fprintf(stderr, "%s\n", error_message());
        return 1;
    }
    pid_t hub = fork();
    if (hub == 0)
        _exit(run_hub(argv[1]));
    log_set_level(LOG_LEVEL_WARN);
    build_trajectory(argc > 5 ? atoi(argv[5]) : 1000);
    open_all();
    run_load(hub, atof(argv[4]));
    kill(hub, SIGTERM);
    waitpid(hub, NULL, 0);
    return load.acked > 0 ? 0 : 1;
}

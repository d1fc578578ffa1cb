/* What a batch goes through, all within one tick:
 *
 *   WAITING --Batch trained + 1--> read, train, publish, answer "trained" --> checkpoint when due,
 *   answer "durable" --> WAITING, or after batch `steps`: final --> DONE --Stop--> finished
 *
 * The weight channel and the heartbeat are served between micro-batches too, from the loss's
 * callback. */
#include "learner/learner_stage.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "infra/base/error.h"
#include "infra/base/fault.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/train/adapter_snapshot.h"
#include "infra/wire/codec.h"
#include "infra/wire/envelope.h"
#include "learner/policy.h"
#include "learner/publisher.h"
#include "learner/rank_stage.h"
#include "learner/rl_step.h"

#define MESSAGES_PER_TICK 16
#define SERVING_TICKS     8 /* of the weight channel, between two micro-batches */
#define HEARTBEAT_MS      1000
#define HUB_SILENT_MS     3000
#define IDLE_MS           10000 /* without a batch: what was said may have been lost on the way */
#define HUB_GONE_MS       10000 /* after the last batch: the hub has finished without a word */
#define HUB_NEVER_MS      60000 /* the same of one that has never answered this process */
#define NAME_MAX_BYTES    128
#define SIGNALS_KEPT      64
#define HASHES_TOLD       16      /* again to a new hub; the publisher keeps more */
#define ABSENT_MS         1800000 /* the longest that saving is expected to take */

/* Where the learner's time goes. */
enum learner_activity { WAIT_HUB, WAIT_BATCH, WAIT_STOP, TRAIN, PUBLISH, SAVE };
static const char *const activity_names[] = {"wait_hub", "wait_batch", "wait_stop", "train",
                                             "publish",  "save",       NULL};

struct learner_stage {
    struct learner_options options;
    struct clock *clock;
    struct metrics *metrics;
    struct policy policy;
    struct publisher *publisher;
    struct wire_client *hub;

    int64_t durable; /* last batch in a checkpoint, and hashes of the versions up to it */
    int32_t durable_hash_count;
    char durable_hashes[CHECKPOINT_HASHES_MAX][HASH_HEX_SIZE];
    int64_t told_trained, told_durable; /* what the hub was told since its Welcome */
    int64_t told_hash;                  /* last batch whose version's hash it was told, in order */
    int64_t first_version;              /* that this process has made or loaded */
    enum guard_signal signals[SIGNALS_KEPT]; /* of the latest batches, by number */
    bool finished;

    /* the hub, times monotonic */
    uint64_t incarnation;
    bool welcomed, ready_due, asked_for_hello;
    int64_t heard_ms, hello_ms, heartbeat_ms;
    int64_t waiting_since_ns; /* for a batch */
    int64_t window_start_ns, working_ns;
    struct time_account time;
};

/* ---- life cycle ---- */

static const char *checkpoints_path(const struct learner_stage *s, char *buffer, size_t capacity)
{
    return path_join(buffer, capacity, s->options.stage_directory, "checkpoints");
}

/* The weights in hand are those of a checkpoint, whose state has their hash. */
static void set_durable(struct learner_stage *s)
{
    const struct checkpoint_state *state = &s->policy.state;
    s->durable = state->batch;
    s->durable_hash_count = state->version_hash_count;
    memcpy(s->durable_hashes, state->version_hashes, sizeof s->durable_hashes);
    if (s->durable_hash_count == 0) { /* a checkpoint of before */
        memcpy(s->durable_hashes[0], state->weights_hash, sizeof s->durable_hashes[0]);
        s->durable_hash_count = 1;
    }
}

/* Weights of version 0, or of the newest checkpoint when there is one. */
static int restore_newest(struct learner_stage *s)
{
    char directory[HONE_PATH_MAX];
    char path[HONE_PATH_MAX];
    checkpoints_path(s, directory, sizeof directory);
    int rc = file_make_directories(directory);
    if (rc == 0)
        rc = checkpoint_newest(directory, path, sizeof path);
    bool none = rc == HONE_ENOENT;
    if (none || rc == 0)
        rc = ranks_begin(s->options.trainer.group, none ? NULL : path);
    if (rc == 0 && none)
        error_clear();
    if (rc == 0 && !none)
        rc = policy_restore(&s->policy, path);
    if (rc < 0 || none)
        return rc;
    const struct checkpoint_state *found = &s->policy.state;
    if (strcmp(found->recipe_hash, s->options.recipe_hash) != 0)
        return error_set(HONE_EINVAL, "%s was made by recipe %.12s, this is recipe %.12s", path,
                         found->recipe_hash, s->options.recipe_hash);
    set_durable(s);
    log_info("continuing after batch %" PRId64 " from %s", found->batch, path);
    return 0;
}

static int publish(struct learner_stage *s)
{
    s->policy.state.policy_version = s->policy.state.batch;
    return publisher_publish(s->publisher, s->policy.state.batch);
}

static int open_parts(struct learner_stage *s, const struct compute *compute,
                      struct wire_context *context)
{
    const struct learner_options *options = &s->options;
    int rc = policy_open(&s->policy, options, compute);
    if (rc == 0)
        rc = restore_newest(s);
    if (rc == 0)
        rc = policy_open_reference(&s->policy, compute);
    struct publisher_options publishing = {.endpoint = options->weights_endpoint,
                                           .weights = options->weights,
                                           .threaded = options->publish_thread};
    if (rc == 0 && trainer_adapters(s->policy.trainer)) {
        publishing.adapters = trainer_adapters(s->policy.trainer);
        adapter_base_hash(trainer_master(s->policy.trainer),
                          model_parameter_count(trainer_model(s->policy.trainer)),
                          &publishing.base);
    }
    if (rc == 0)
        rc = publisher_create(&s->publisher, trainer_model(s->policy.trainer), context, s->clock,
                              &publishing);
    if (rc == 0)
        rc = wire_client_create(&s->hub, context, options->hub_endpoint, options->worker);
    return rc;
}

static int write_final(struct learner_stage *s);

int learner_stage_create(struct learner_stage **stage, const struct learner_options *options,
                         const struct compute *compute, struct wire_context *context,
                         struct clock *clock, struct metrics *metrics)
{
    *stage = NULL;
    if (options->updates_per_batch < 1 || options->steps < 1)
        return error_set(HONE_EINVAL, "%lld batches of %d updates", (long long)options->steps,
                         options->updates_per_batch);
    if (options->loss.kl_coef != 0.0f && !options->reference_directory)
        return error_set(HONE_EINVAL, "a KL term needs a reference model");
    struct learner_stage *s = MEMORY_NEW(struct learner_stage);
    s->options = *options;
    s->clock = clock;
    s->metrics = metrics;
    int64_t seed[] = {getpid(), clock_unix_ms(clock), clock_now_ns(clock_system())};
    s->incarnation = hash_u64(seed, sizeof seed);
    s->hello_ms = s->heartbeat_ms = INT64_MIN / 2;
    s->waiting_since_ns = s->window_start_ns = clock_now_ns(clock);
    time_account_start(&s->time, activity_names, s->window_start_ns);
    int rc = open_parts(s, compute, context);
    s->first_version = s->told_hash = s->policy.state.batch;
    if (rc == 0)
        rc = publish(s);
    if (rc == 0 && s->policy.state.batch >= options->steps)
        rc = write_final(s);
    if (rc < 0) {
        learner_stage_destroy(s);
        return rc;
    }
    *stage = s;
    return 0;
}

void learner_stage_destroy(struct learner_stage *stage)
{
    if (!stage)
        return;
    if (stage->finished && ranks_stop(stage->options.trainer.group) < 0)
        log_warn("%s", error_message());
    wire_client_destroy(stage->hub);
    policy_close(&stage->policy); /* before the memory that its weights lie in */
    publisher_destroy(stage->publisher);
    memory_free(stage);
}

static void spend(struct learner_stage *s, enum learner_activity activity)
{
    time_account_enter(&s->time, activity, clock_now_ns(s->clock));
}

/* ---- sending ---- */

static bool send_kind(struct learner_stage *s, Hone__Kind kind, Hone__Envelope *envelope)
{
    envelope->kind = kind;
    return wire_client_send(s->hub, envelope, NULL, 0) == 0;
}

static void send_hello(struct learner_stage *s, int64_t now_ms)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Hello hello = HONE__HELLO__INIT;
    hello.protocol = WIRE_PROTOCOL;
    hello.role = HONE__ROLE__ROLE_LEARNER;
    hello.worker = (char *)(uintptr_t)s->options.worker;
    hello.recipe_hash = (char *)(uintptr_t)s->options.recipe_hash;
    hello.pid = getpid();
    hello.incarnation = s->incarnation;
    hello.has_policy_version = 1;
    hello.policy_version = s->policy.state.batch;
    envelope.hello = &hello;
    if (!send_kind(s, HONE__KIND__KIND_HELLO, &envelope))
        return;
    s->hello_ms = now_ms;
    s->asked_for_hello = false;
}

/* What the guards went back from, so that the log has it even when the word of a batch was lost. */
struct told_rollbacks {
    Hone__Rollback items[GUARD_BACKS];
    Hone__Rollback *pointers[GUARD_BACKS];
};

static size_t list_rollbacks(const struct learner_stage *s, struct told_rollbacks *told)
{
    struct guard_return found;
    int32_t count = 0;
    for (; guards_return_at(&s->policy.guards, count, &found); count++) {
        Hone__Rollback *item = told->pointers[count] = &told->items[count];
        hone__rollback__init(item);
        item->batch = found.batch;
        item->to_version = found.to;
        item->signal = (char *)(uintptr_t)guard_signal_name(found.signal);
    }
    return (size_t)count;
}

static size_t list_durable_hashes(struct learner_stage *s, char *hashes[CHECKPOINT_HASHES_MAX])
{
    int32_t count = s->durable > 0 ? s->durable_hash_count : 0;
    for (int32_t i = 0; i < count; i++)
        hashes[i] = s->durable_hashes[i];
    return (size_t)count;
}

static void send_ready(struct learner_stage *s)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__LearnerReady ready = HONE__LEARNER_READY__INIT;
    ready.durable_batch = s->durable;
    ready.policy_version = s->policy.state.batch;
    ready.weights_endpoint = (char *)(uintptr_t)publisher_endpoint(s->publisher);
    char *hashes[CHECKPOINT_HASHES_MAX];
    ready.durable_hashes = hashes;
    ready.n_durable_hashes = list_durable_hashes(s, hashes);
    struct told_rollbacks told;
    ready.rollbacks = told.pointers;
    ready.n_rollbacks = list_rollbacks(s, &told);
    envelope.learner_ready = &ready;
    if (send_kind(s, HONE__KIND__KIND_LEARNER_READY, &envelope))
        s->ready_due = false;
}

static bool send_done(struct learner_stage *s, int64_t number, bool durable)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__BatchDone done = HONE__BATCH_DONE__INIT;
    done.number = number;
    done.has_durable = 1;
    done.durable = durable;
    done.has_policy_version = 1;
    done.policy_version = s->policy.state.batch;
    char hash[HASH_HEX_SIZE];
    bool hashed = number >= s->first_version && publisher_hash(s->publisher, number, hash);
    if (hashed)
        done.weights_hash = hash;
    char *hashes[CHECKPOINT_HASHES_MAX];
    done.durable_hashes = hashes;
    if (number == s->durable)
        done.n_durable_hashes = list_durable_hashes(s, hashes);
    struct told_rollbacks told;
    done.rollbacks = told.pointers;
    done.n_rollbacks = list_rollbacks(s, &told);
    enum guard_signal signal = s->signals[number % SIGNALS_KEPT];
    if (number >= s->first_version && s->policy.state.batch - number < SIGNALS_KEPT &&
        signal != SIGNAL_NONE)
        done.guard = (char *)(uintptr_t)guard_signal_name(signal);
    envelope.batch_done = &done;
    if (!send_kind(s, HONE__KIND__KIND_BATCH_DONE, &envelope))
        return false;
    if (hashed && number == s->told_hash + 1)
        s->told_hash = number;
    return true;
}

/* Whatever the hub has not been told yet, oldest first. */
static void send_due(struct learner_stage *s)
{
    if (!s->welcomed)
        return;
    if (s->ready_due)
        send_ready(s);
    while (!s->ready_due && s->told_trained < s->policy.state.batch) {
        if (!send_done(s, s->told_trained + 1, s->told_trained < s->durable))
            return;
        s->told_trained++;
    }
    if (!s->ready_due && s->told_durable < s->durable) {
        if (!send_done(s, s->durable, true))
            return;
        s->told_durable = s->durable;
    }
    /* A version is announced before its hash is known; the hub is told again. */
    char hash[HASH_HEX_SIZE];
    while (!s->ready_due && s->told_hash < s->told_trained &&
           publisher_hash(s->publisher, s->told_hash + 1, hash)) {
        if (!send_done(s, s->told_hash + 1, s->told_hash < s->durable))
            return;
    }
}

static void send_heartbeat(struct learner_stage *s, bool training)
{
    int64_t now_ms = clock_now_ms(s->clock);
    if (!s->welcomed || now_ms - s->heartbeat_ms < HEARTBEAT_MS)
        return;
    char waiting[NAME_MAX_BYTES] = "";
    int64_t now_ns = clock_now_ns(s->clock);
    int64_t window_ns = now_ns - s->window_start_ns;
    struct wire_time time;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Heartbeat beat = HONE__HEARTBEAT__INIT;
    time_account_enter(&s->time, s->time.activity, now_ns);
    wire_time_build(&time, &s->time, &beat);
    if (!training) {
        snprintf(waiting, sizeof waiting, "batch %" PRId64 " from curriculum",
                 s->policy.state.batch + 1);
        if (s->policy.state.batch >= s->options.steps)
            snprintf(waiting, sizeof waiting, "stop from curriculum");
        beat.has_waiting_since_ms = 1;
        beat.waiting_since_ms =
            clock_unix_ms(s->clock) - (now_ns - s->waiting_since_ns) / INT64_C(1000000);
    }
    beat.waiting_for = waiting;
    beat.has_busy_fraction = 1;
    beat.busy_fraction = training        ? 1.0
                         : window_ns > 0 ? (double)s->working_ns / (double)window_ns
                                         : 0.0;
    beat.has_tokens_done = 1;
    beat.tokens_done = s->policy.state.tokens;
    beat.has_policy_version = 1;
    beat.policy_version = s->policy.state.batch;
    envelope.heartbeat = &beat;
    if (!send_kind(s, HONE__KIND__KIND_HEARTBEAT, &envelope))
        return;
    s->heartbeat_ms = now_ms;
    s->window_start_ns = now_ns;
    s->working_ns = 0;
}

/* ---- training ---- */

/* Between micro-batches: actors that fetch and a hub that listens are not kept waiting. What one
 * tick may not send goes out in the next ones; a limit on these keeps a crowd of actors from
 * stopping the training. */
static int serve_between(void *context)
{
    struct learner_stage *s = context;
    int serving = 1;
    for (int i = 0; i < SERVING_TICKS && serving > 0; i++)
        serving = publisher_tick(s->publisher);
    if (serving < 0)
        return serving;
    send_due(s);
    send_heartbeat(s, true);
    return 0;
}

struct timing {
    double waited_s, trained_s;
};

/* The channel may be a version behind: it works while the next batch trains. */
static void add_weights(struct learner_stage *s)
{
    struct metrics *m = s->metrics;
    struct publisher_report published;
    publisher_report(s->publisher, &published);
    metrics_add(m, "weights/held_ms", published.held_ms);
    metrics_add(m, "weights/version", (double)published.channel.version);
    metrics_add(m, "weights/publish_ms", published.channel.publish_ms);
    metrics_add(m, "weights/bytes", (double)published.channel.bytes);
    metrics_add(m, "weights/delta_bytes", (double)published.channel.delta_bytes);
    metrics_add(m, "weights/delta_ratio", published.channel.delta_ratio);
    metrics_add(m, "weights/changed", published.channel.changed);
}

static int write_metrics(struct learner_stage *s, const struct rl_batch *batch,
                         const struct rl_step_result *result, const struct timing *timing)
{
    struct metrics *m = s->metrics;
    const struct rl_batch_summary *summary = &batch->summary;
    const struct policy_loss_stats *before = &result->before;
    double tokens = before->tokens > 0 ? (double)before->tokens : 1.0;
    double after = result->after.tokens > 0 ? (double)result->after.tokens : 1.0;
    metrics_begin(m, batch->number);
    metrics_add(m, "total_steps", (double)s->options.steps);
    metrics_add(m, "loss", result->loss);
    metrics_add(m, "policy/loss", before->policy_loss / tokens);
    if (s->policy.reference)
        metrics_add(m, "policy/kl_ref", before->kl_reference / tokens);
    if (s->options.trainer.value_head) {
        metrics_add(m, "value/loss", before->value_loss / tokens);
        metrics_add(m, "value/explained_variance", rl_step_explained_variance(before));
    }
    if (s->options.kl_target > 0.0)
        metrics_add(m, "policy/kl_coef",
                    (double)policy_kl_coef(&s->policy)); /* of the next batch */
    metrics_add(m, "policy/kl_behavior", result->after.kl_behavior / after);
    metrics_add(m, "policy/entropy", before->entropy / tokens);
    metrics_add(m, "policy/clip_fraction_low", (double)result->after.clipped_low / after);
    metrics_add(m, "policy/clip_fraction_high", (double)result->after.clipped_high / after);
    metrics_add(m, "policy/clip_fraction_dual", (double)result->after.dual_clipped / after);
    metrics_add(m, "policy/importance_weight", result->after.weight_sum / after);
    metrics_add(m, "policy/rejected_fraction", (double)result->after.rejected / after);
    metrics_add(m, "policy/ratio_max", result->after.ratio_max);
    metrics_add(m, "mismatch/unequal_tokens", (double)before->unequal_tokens);
    metrics_add(m, "mismatch/current_version_tokens", (double)before->current_version_tokens);
    metrics_add(m, "mismatch/mixed_kv_tokens", (double)before->mixed_kv_tokens);
    metrics_add(m, "mismatch/logp_absdiff_max", before->abs_logprob_difference_max);
    metrics_add(m, "mismatch/ess", rl_step_sample_size(before));
    metrics_add(m, "staleness/mean", summary->staleness_mean);
    metrics_add(m, "staleness/max", (double)summary->staleness_max);
    metrics_add(m, "reward/mean", summary->reward_mean);
    metrics_add(m, "reward/std", summary->reward_std);
    metrics_add(m, "length/mean", summary->length_mean);
    metrics_add(m, "batch/groups", summary->groups);
    metrics_add(m, "batch/uniform_groups", summary->uniform_groups);
    metrics_add(m, "batch/trajectories", summary->trajectories);
    metrics_add(m, "batch/trained", summary->trained);
    metrics_add(m, "batch/truncated", summary->truncated);
    metrics_add(m, "batch/aborted", summary->aborted);
    metrics_add(m, "grad_norm", result->gradient_norm_max);
    metrics_add(m, "lr", result->report.learning_rate);
    metrics_add(m, "skipped_steps", result->skipped_steps);
    metrics_add(m, "guard/signal", s->policy.verdict.signal);
    metrics_add(m, "guard/action", s->policy.verdict.action);
    metrics_add(m, "guard/last_good", (double)guards_last_good(&s->policy.guards));
    metrics_add(m, "tokens", (double)result->tokens);
    if (timing->trained_s > 0.0)
        metrics_add(m, "tokens_per_second", (double)result->tokens / timing->trained_s);
    add_weights(s);
    metrics_add(m, "time/train_s", timing->trained_s);
    metrics_add(m, "time/wait_for_batch_s", timing->waited_s);
    return metrics_end(m);
}

/* Before work during which nothing is answered: silence is not death. */
static void announce_absence(struct learner_stage *s, const char *doing)
{
    char text[NAME_MAX_BYTES];
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Heartbeat beat = HONE__HEARTBEAT__INIT;
    if (!s->welcomed)
        return;
    snprintf(text, sizeof text, "%s of batch %" PRId64, doing, s->policy.state.batch);
    beat.doing = text;
    beat.has_absent_ms = 1;
    beat.absent_ms = ABSENT_MS;
    envelope.heartbeat = &beat;
    (void)send_kind(s, HONE__KIND__KIND_HEARTBEAT, &envelope);
    s->heartbeat_ms = INT64_MIN / 2; /* the next one, at once after it, ends the absence */
}

/* The checkpoint has the hashes of the last versions: whatever makes a batch durable in the log
 * then brings the log the hashes that it may not have yet. */
static void collect_hashes(struct learner_stage *s)
{
    struct checkpoint_state *state = &s->policy.state;
    char hex[HASH_HEX_SIZE];
    publisher_wait(s->publisher);
    for (int64_t version = s->durable + 1; version <= state->batch; version++) {
        if (!publisher_hash(s->publisher, version, hex)) {
            state->version_hash_count = 0; /* it keeps as many as fit, and they are without a gap */
            continue;
        }
        if (state->version_hash_count == CHECKPOINT_HASHES_MAX)
            memmove(state->version_hashes[0], state->version_hashes[1],
                    (size_t)--state->version_hash_count * HASH_HEX_SIZE);
        memcpy(state->version_hashes[state->version_hash_count++], hex, HASH_HEX_SIZE);
    }
}

static const char *checkpoint_path(const struct learner_stage *s, int64_t batch, char *buffer,
                                   size_t capacity)
{
    return policy_checkpoint_path(&s->options, batch, buffer, capacity);
}

static int write_checkpoint(struct learner_stage *s)
{
    char path[HONE_PATH_MAX];
    collect_hashes(s);
    checkpoint_path(s, s->policy.state.batch, path, sizeof path);
    announce_absence(s, "saving the checkpoint");
    int rc = trainer_save(s->policy.trainer, path, s->options.model_directory, &s->policy.state);
    if (rc < 0)
        return rc;
    set_durable(s);
    return 0;
}

/* The result of the stage: weights alone, in the dtype that the base was stored in. */
static int write_final(struct learner_stage *s)
{
    char path[HONE_PATH_MAX];
    path_join(path, sizeof path, s->options.stage_directory, "final");
    if (file_exists(path) && checkpoint_verify(path) == 0)
        return 0;
    error_clear();
    announce_absence(s, "saving the result");
    int rc = policy_export(&s->policy, path);
    if (rc == 0)
        log_info("trained %" PRId64 " batches: %s", s->policy.state.batch, path);
    return rc;
}

/* The one that is gone back to next is kept, however old. */
static int prune_checkpoints(struct learner_stage *s)
{
    char directory[HONE_PATH_MAX];
    if (s->options.keep_checkpoints <= 0)
        return 0;
    return checkpoint_prune(checkpoints_path(s, directory, sizeof directory),
                            s->options.keep_checkpoints, guards_last_good(&s->policy.guards));
}

/* Checkpoints of versions that were left behind. */
static int drop_left_behind(struct learner_stage *s)
{
    char path[HONE_PATH_MAX];
    int rc = 0;
    int64_t last = s->policy.state.batch - 1;
    for (int64_t batch = s->policy.verdict.back_to + 1; rc == 0 && batch <= last; batch++) {
        if (file_exists(checkpoint_path(s, batch, path, sizeof path)))
            rc = file_remove_tree(path);
    }
    return rc;
}

static bool checkpoint_is_due(const struct learner_stage *s)
{
    return s->policy.state.batch >= s->options.steps || s->policy.verdict.action == GUARD_GO_BACK ||
           (s->options.checkpoint_steps > 0 &&
            s->policy.state.batch % s->options.checkpoint_steps == 0);
}

static int train_batch(struct learner_stage *s, struct rl_batch *batch)
{
    struct rl_step_result result;
    int64_t start_ns = clock_now_ns(s->clock);
    struct timing timing = {.waited_s = (double)(start_ns - s->waiting_since_ns) * 1e-9};
    int rc = policy_train(&s->policy, batch, serve_between, s, &result);
    if (rc < 0)
        return rc;
    int64_t end_ns = clock_now_ns(s->clock);
    s->working_ns += end_ns - start_ns;
    timing.trained_s = (double)(end_ns - start_ns) * 1e-9;
    fault_point("batch.trained");
    s->signals[batch->number % SIGNALS_KEPT] = s->policy.verdict.signal;
    rc = policy_heed_guards(&s->policy); /* L3, before the version is published */
    if (rc < 0) {
        (void)write_metrics(s, batch, &result, &timing);
        return rc;
    }
    spend(s, PUBLISH);
    rc = publish(s);
    fault_point("weights.published");
    send_due(s);
    fault_point("batch.answered");
    if (rc == 0)
        rc = write_metrics(s, batch, &result, &timing);
    spend(s, SAVE);
    bool saves = rc == 0 && checkpoint_is_due(s);
    if (saves)
        rc = write_checkpoint(s);
    if (rc == 0 && s->policy.verdict.action == GUARD_GO_BACK)
        rc = drop_left_behind(s);
    if (rc == 0 && saves)
        rc = prune_checkpoints(s);
    if (rc == 0 && s->policy.state.batch >= s->options.steps)
        rc = write_final(s);
    s->waiting_since_ns = clock_now_ns(s->clock);
    return rc;
}

static int handle_batch(struct learner_stage *s, const Hone__Batch *message)
{
    struct rl_batch batch;
    if (message->number <=
        s->policy.state.batch) { /* L1: the hub has not heard; it is told again */
        if (s->told_trained >= message->number)
            s->told_trained = message->number - 1;
        if (s->told_durable >= message->number)
            s->told_durable = message->number - 1;
        return 0;
    }
    if (message->number != s->policy.state.batch + 1 || message->number > s->options.steps) {
        log_warn("batch %" PRId64 " refused: %" PRId64 " of %" PRId64 " are trained",
                 message->number, s->policy.state.batch, s->options.steps);
        s->ready_due = true;
        return 0;
    }
    spend(s, TRAIN);
    int rc = policy_read_batch(&s->policy, message, &batch);
    if (rc < 0)
        return rc;
    rc = ranks_train(s->options.trainer.group, message);
    if (rc == 0)
        rc = train_batch(s, &batch);
    rl_batch_release(&batch);
    return rc;
}

/* ---- the tick ---- */

/* The hub may be a new process: it is told everything that it may have missed. */
static void handle_welcome(struct learner_stage *s, const Hone__Welcome *welcome)
{
    if (!s->welcomed)
        log_info("joined run %s", welcome->run_id);
    s->welcomed = true;
    s->ready_due = true;
    /* Again for every version whose hash is known: the hub may have been away when it was made. */
    int64_t unknown = s->policy.state.batch - HASHES_TOLD;
    if (unknown < s->first_version - 1)
        unknown = s->first_version - 1;
    s->told_trained = s->told_hash = unknown > 0 ? unknown : 0;
    s->told_durable = s->durable;
}

static int handle_message(struct learner_stage *s, const Hone__Envelope *envelope)
{
    switch ((int)envelope->kind) {
    case HONE__KIND__KIND_WELCOME:
        handle_welcome(s, envelope->welcome);
        break;
    case HONE__KIND__KIND_REFUSED:
        return error_set(HONE_EPEER, "the hub refused %s: %s", s->options.worker,
                         envelope->refused->reason);
    case HONE__KIND__KIND_BATCH:
        return handle_batch(s, envelope->batch);
    case HONE__KIND__KIND_HEARTBEAT:
        s->asked_for_hello = s->asked_for_hello || envelope_asks_for_hello(envelope);
        break;
    case HONE__KIND__KIND_STOP:
        fault_point("stop.received");
        log_info("stop: %s", envelope->stop->reason ? envelope->stop->reason : "the run is done");
        s->finished = true;
        s->heartbeat_ms = INT64_MIN / 2; /* the last of its time */
        break;
    default:
        break;
    }
    return 0;
}

/* Returns 1 when a batch was trained: one a tick. */
static int receive_messages(struct learner_stage *s)
{
    for (int i = 0; i < MESSAGES_PER_TICK && !s->finished; i++) {
        struct wire_message message;
        int64_t trained = s->policy.state.batch;
        int rc = wire_client_receive(s->hub, &message);
        if (rc <= 0)
            return rc;
        rc = handle_message(s, message.envelope);
        wire_message_release(&message);
        s->heard_ms = clock_now_ms(s->clock);
        if (rc < 0)
            return rc;
        if (s->policy.state.batch != trained)
            return 1;
    }
    return 0;
}

static void greet(struct learner_stage *s)
{
    int64_t now_ms = clock_now_ms(s->clock);
    int64_t silent_ms = now_ms - s->heard_ms;
    if (s->welcomed && s->policy.state.batch >= s->options.steps && silent_ms > HUB_GONE_MS) {
        log_info("every batch is trained and the hub is gone");
        s->finished = true;
        return;
    }
    if (!s->welcomed && s->options.hub_elsewhere && s->policy.state.batch >= s->options.steps &&
        now_ms - s->waiting_since_ns / 1000000 > HUB_NEVER_MS) {
        log_warn("every batch is trained, rl/final is here, and the hub has not answered for %d s: "
                 "this learner ends. If the hub comes back, start it again",
                 HUB_NEVER_MS / 1000);
        s->finished = true;
        return;
    }
    bool silent = !s->welcomed || silent_ms > HUB_SILENT_MS;
    bool idle = now_ms - s->waiting_since_ns / 1000000 > IDLE_MS;
    int64_t greeted_ms = now_ms - s->hello_ms;
    if (s->asked_for_hello || (silent && greeted_ms > HUB_SILENT_MS) ||
        (idle && greeted_ms > IDLE_MS))
        send_hello(s, now_ms);
}

static void note_waiting(struct learner_stage *s)
{
    bool all = s->policy.state.batch >= s->options.steps;
    spend(s, !s->welcomed ? WAIT_HUB : all ? WAIT_STOP : WAIT_BATCH);
}

int learner_stage_tick(void *stage, struct stage_wait *wait)
{
    struct learner_stage *s = stage;
    int trained = receive_messages(s);
    note_waiting(s);
    int serving = trained < 0 ? trained : publisher_tick(s->publisher);
    if (serving < 0)
        return serving;
    if (!s->finished)
        greet(s);
    send_due(s);
    send_heartbeat(s, false);
    *wait = (struct stage_wait){.busy = trained > 0 || serving > 0,
                                .finished = s->finished,
                                .timeout_ms = s->welcomed ? HEARTBEAT_MS / 4 : 20,
                                .servers = {publisher_socket(s->publisher)},
                                .server_count = 1,
                                .clients = {s->hub},
                                .client_count = 1};
    return 0;
}

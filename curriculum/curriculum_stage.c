#include "curriculum/curriculum_stage.h"

#include <stdio.h>
#include <string.h>

#include "curriculum/batch_former.h"
#include "curriculum/dispatch.h"
#include "curriculum/hub.h"
#include "curriculum/hub_report.h"
#include "curriculum/hub_store.h"
#include "curriculum/partial.h"
#include "curriculum/pools/pools_store.h"
#include "curriculum/recovery.h"
#include "curriculum/scoring.h"
#include "curriculum/training.h"
#include "curriculum/wait_chain.h"
#include "infra/base/error.h"
#include "infra/base/fault.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/wire/envelope.h"

#define MESSAGES_PER_TICK 256
#define SILENT_MS         10000   /* a worker not heard for this long is gone */
#define ABSENT_MAX_MS     3600000 /* the longest silence that a worker may announce */
#define IDLE_WAIT_MS      100
#define STOP_LINGER_MS    300 /* Stop is on its way */
#define COMMIT_RETRY_MS   500
#define COMMIT_TRIES      10 /* of a disk that fails; a full one is waited for */
#define RESUMED_LINGER_MS                                                                          \
    4000 /* workers of a hub that died when all was done say Hello within it */

static int check_options(const struct curriculum_options *options)
{
    if (options->prompt_count < 1)
        return error_set(HONE_EINVAL, "there are no prompts to train on");
    if (options->steps < 1 || options->prompts_per_step < 1 || options->staleness_max < 0)
        return error_set(HONE_EINVAL, "steps and prompts_per_step must be at least 1 and "
                                      "staleness_max at least 0");
    if (options->group_size < 2)
        return error_set(HONE_EINVAL,
                         "group_size is %d: a group needs at least 2 samples to "
                         "compare",
                         options->group_size);
    if (options->lease_timeout_ms < 1 || options->score_retries < 0)
        return error_set(HONE_EINVAL, "lease_timeout must be positive and score_retries at least "
                                      "0");
    if (options->staleness_max == 0 && options->filter.probes > 0)
        return error_set(HONE_EINVAL, "a synchronous run has no probes: which of them come back "
                                      "in time is no function of the seed (G7)");
    return 0;
}

int curriculum_stage_create(struct curriculum_stage **stage,
                            const struct curriculum_options *options, struct run_log *log,
                            struct wire_context *context, struct clock *clock,
                            struct metrics *metrics)
{
    *stage = NULL;
    int rc = check_options(options);
    if (rc < 0)
        return rc;
    struct curriculum_stage *hub = MEMORY_NEW(struct curriculum_stage);
    hub->options = *options;
    if (options->filter.mode == FILTER_OFF)
        hub->options.filter = (struct filter_options){0};
    hub->log = log;
    hub->clock = clock;
    hub->metrics = metrics;
    hub->next_lease = 1;
    hub->learner.version = -1;
    prompt_order_init(&hub->prompts, options->seed, options->prompt_count);
    prompt_pools_init(&hub->pools, &options->filter, options->prompts, options->prompt_count,
                      options->seed, options->prompts_per_step);
    group_table_init(&hub->groups);
    lease_table_init(&hub->leases);
    outbox_init(&hub->outbox);
    hub->start_ms = hub->formed_ms = clock_now_ms(clock);
    hub_progress(hub);
    rc = hub_recover(hub);
    if (rc == 0)
        rc = wire_server_create(&hub->server, context, options->hub_endpoint);
    if (rc < 0) {
        curriculum_stage_destroy(hub);
        return rc;
    }
    hub->resumed_finished = training_finished(hub);
    *stage = hub;
    return 0;
}

void curriculum_stage_destroy(struct curriculum_stage *stage)
{
    if (stage == NULL)
        return;
    if (stage->server != NULL)
        wire_server_destroy(stage->server);
    prompt_order_release(&stage->prompts);
    prompt_pools_release(&stage->pools);
    group_table_release(&stage->groups);
    lease_table_release(&stage->leases);
    peer_table_release(&stage->peers);
    outbox_release(&stage->outbox);
    for (int64_t i = 0; i < stage->batch_count; i++)
        memory_free(stage->batches[i].group_ids);
    memory_free(stage->batches);
    memory_free(stage->dropped);
    memory_free(stage);
}

/* ---- peers ---- */

static void send_refusal(struct curriculum_stage *hub, const struct wire_peer *from, char *reason)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Refused refused = HONE__REFUSED__INIT;
    refused.reason = reason;
    envelope.kind = HONE__KIND__KIND_REFUSED;
    envelope.refused = &refused;
    log_warn("refused %s: %s", from->identity, reason);
    (void)wire_server_send(hub->server, from, &envelope, NULL, 0);
}

static void send_welcome(struct curriculum_stage *hub, struct peer *peer)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Welcome welcome = HONE__WELCOME__INIT;
    welcome.run_id = (char *)(uintptr_t)hub->options.run_id;
    welcome.has_policy_version = 1;
    welcome.policy_version = hub->learner.ready ? hub->learner.version : -1;
    if (hub->learner.ready)
        welcome.weights_endpoint = hub->learner.endpoint;
    envelope.kind = HONE__KIND__KIND_WELCOME;
    envelope.welcome = &welcome;
    if (wire_server_send(hub->server, &peer->wire, &envelope, NULL, 0) == 0)
        peer->told_version = welcome.policy_version;
}

static void send_stop(struct curriculum_stage *hub, const struct wire_peer *to, const char *reason)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Stop stop = HONE__STOP__INIT;
    stop.reason = (char *)(uintptr_t)reason;
    envelope.kind = HONE__KIND__KIND_STOP;
    envelope.stop = &stop;
    (void)wire_server_send(hub->server, to, &envelope, NULL, 0);
}

static void lose_peer(struct curriculum_stage *hub, struct peer *peer)
{
    dispatch_peer_lost(hub, &peer->wire);
    scoring_peer_lost(hub, peer);
    peer_table_remove(&hub->peers, peer);
}

static void on_hello(struct curriculum_stage *hub, const struct wire_peer *from,
                     const Hone__Hello *hello)
{
    char reason[256] = "";
    struct peer *peer = peer_table_find(&hub->peers, from->identity);
    if (hello->protocol != WIRE_PROTOCOL)
        snprintf(reason, sizeof reason, "it speaks protocol %u, this hub %d", hello->protocol,
                 WIRE_PROTOCOL);
    else if (strcmp(hello->recipe_hash, hub->options.recipe_hash) != 0)
        snprintf(reason, sizeof reason, "its recipe (%.16s) is not this run's (%.16s)",
                 hello->recipe_hash, hub->options.recipe_hash);
    if (reason[0] != '\0') {
        send_refusal(hub, from, reason);
        return;
    }
    if (hub->stop_ms != 0 || hub->resumed_finished) { /* committed: H1 */
        send_stop(hub, from, "the run is finished");
        return;
    }
    if (peer != NULL && (peer->incarnation != hello->incarnation || peer->role != hello->role)) {
        lose_peer(hub, peer);
        peer = NULL;
    }
    if (peer != NULL) {
        scoring_peer_lost(hub, peer);
    } else {
        peer = peer_table_add(&hub->peers, from, hello->role, hello->incarnation);
        if (peer == NULL) {
            snprintf(reason, sizeof reason, "the hub serves at most %d workers", PEERS_MAX);
            send_refusal(hub, from, reason);
            return;
        }
        log_info("%s joins (pid %lld)", from->identity, (long long)hello->pid);
    }
    dispatch_peer_back(hub, from, hello->incarnation);
    peer->credit = 0; /* P2 */
    peer->heard_ms = clock_now_ms(hub->clock);
    peer->waiting_for[0] = '\0';
    send_welcome(hub, peer);
}

/* Answered in kind: that is how a worker knows that the hub is there. */
static void on_heartbeat(struct curriculum_stage *hub, struct peer *peer,
                         const Hone__Heartbeat *beat)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Heartbeat answer = HONE__HEARTBEAT__INIT;
    snprintf(peer->waiting_for, sizeof peer->waiting_for, "%s",
             beat->waiting_for != NULL ? beat->waiting_for : "");
    peer->waiting_since_ms = beat->has_waiting_since_ms ? beat->waiting_since_ms : 0;
    int64_t absent_ms = beat->has_absent_ms ? beat->absent_ms : 0;
    if (absent_ms > ABSENT_MAX_MS)
        absent_ms = ABSENT_MAX_MS;
    peer->absent_until_ms = absent_ms > 0 ? peer->heard_ms + absent_ms : 0;
    snprintf(peer->doing, sizeof peer->doing, "%s",
             absent_ms > 0 && beat->doing != NULL ? beat->doing : "");
    envelope.kind = HONE__KIND__KIND_HEARTBEAT;
    envelope.heartbeat = &answer;
    (void)wire_server_send(hub->server, &peer->wire, &envelope, NULL, 0);
    hub_report_worker(hub, peer, beat);
}

/* It worked for the process before this one. */
static void ask_for_hello(struct curriculum_stage *hub, const struct wire_peer *from)
{
    static char waits[] = ENVELOPE_WAITS_FOR_HELLO;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Heartbeat beat = HONE__HEARTBEAT__INIT;
    beat.waiting_for = waits;
    envelope.kind = HONE__KIND__KIND_HEARTBEAT;
    envelope.heartbeat = &beat;
    (void)wire_server_send(hub->server, from, &envelope, NULL, 0);
}

static void drop_peer(struct curriculum_stage *hub, struct peer *peer, const char *reason)
{
    wire_server_drop(hub->server, &peer->wire, reason);
    lose_peer(hub, peer);
}

/* ---- messages ---- */

/* What each role may say after its Hello. */
static bool role_may_send(Hone__Role role, Hone__Kind kind)
{
    switch ((int)kind) {
    case HONE__KIND__KIND_LEASE_CREDIT:
    case HONE__KIND__KIND_LEASE_RETURN:
    case HONE__KIND__KIND_TRAJECTORY:
    case HONE__KIND__KIND_PROGRESS:
        return role == HONE__ROLE__ROLE_ACTOR;
    case HONE__KIND__KIND_SCORE_CREDIT:
    case HONE__KIND__KIND_SCORE_RESULT:
        return role == HONE__ROLE__ROLE_SCORER;
    case HONE__KIND__KIND_LEARNER_READY:
    case HONE__KIND__KIND_BATCH_DONE:
        return role == HONE__ROLE__ROLE_LEARNER;
    case HONE__KIND__KIND_HEARTBEAT:
        return true;
    default:
        return false;
    }
}

static int on_message(struct curriculum_stage *hub, struct peer *peer, Hone__Envelope *envelope)
{
    peer->heard_ms = clock_now_ms(hub->clock);
    if (!role_may_send(peer->role, envelope->kind)) {
        char reason[96];
        snprintf(reason, sizeof reason, "it may not send %s", wire_kind_name(envelope->kind));
        drop_peer(hub, peer, reason);
        return 0;
    }
    switch ((int)envelope->kind) {
    case HONE__KIND__KIND_HEARTBEAT:
        on_heartbeat(hub, peer, envelope->heartbeat);
        break;
    case HONE__KIND__KIND_LEASE_CREDIT:
        dispatch_on_credit(hub, peer, envelope->lease_credit->samples);
        break;
    case HONE__KIND__KIND_LEASE_RETURN:
        return dispatch_on_return(hub, peer, envelope->lease_return);
    case HONE__KIND__KIND_TRAJECTORY:
        if (!dispatch_on_trajectory(hub, peer, &envelope->trajectory))
            drop_peer(hub, peer, error_message());
        break;
    case HONE__KIND__KIND_PROGRESS:
        if (!partial_on_progress(hub, peer, envelope->progress))
            drop_peer(hub, peer, error_message());
        break;
    case HONE__KIND__KIND_SCORE_CREDIT:
        scoring_on_credit(hub, peer, envelope->score_credit->count);
        break;
    case HONE__KIND__KIND_SCORE_RESULT:
        if (!scoring_on_result(hub, peer, envelope->score_result))
            drop_peer(hub, peer, error_message());
        break;
    case HONE__KIND__KIND_LEARNER_READY:
        return training_on_ready(hub, peer, envelope->learner_ready);
    case HONE__KIND__KIND_BATCH_DONE:
        return training_on_done(hub, peer, envelope->batch_done);
    default:
        break;
    }
    return 0;
}

/* busy: there may be more. */
static int receive(struct curriculum_stage *hub, bool *busy)
{
    *busy = true;
    for (int i = 0; i < MESSAGES_PER_TICK; i++) {
        struct wire_message message;
        struct wire_peer from;
        int rc = wire_server_receive(hub->server, &from, &message);
        if (rc <= 0) {
            *busy = false;
            return rc;
        }
        struct peer *peer = peer_table_find(&hub->peers, from.identity);
        if (message.envelope->kind == HONE__KIND__KIND_HELLO)
            on_hello(hub, &from, message.envelope->hello);
        else if (peer != NULL && hub->stop_ms == 0)
            rc = on_message(hub, peer, message.envelope);
        else if (message.envelope->kind == HONE__KIND__KIND_HEARTBEAT && peer == NULL)
            ask_for_hello(hub, &from);
        else if (message.envelope->kind == HONE__KIND__KIND_HEARTBEAT)
            hub_report_worker(hub, peer, message.envelope->heartbeat); /* its last */
        wire_message_release(&message);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* ---- the tick ---- */

static void lose_silent_peers(struct curriculum_stage *hub)
{
    int64_t now = clock_now_ms(hub->clock);
    for (int32_t i = hub->peers.count - 1; i >= 0; i--) {
        struct peer *peer = &hub->peers.items[i];
        if (now - peer->heard_ms <= SILENT_MS || now < peer->absent_until_ms)
            continue;
        log_warn("%s has been silent for %lld s: it counts as gone", peer->wire.identity,
                 (long long)((now - peer->heard_ms) / 1000));
        lose_peer(hub, peer);
    }
}

static int check_rewards(const struct curriculum_stage *hub)
{
    struct text what;
    if (!reward_window_exceeds(&hub->rewards, hub->options.max_error_rate))
        return 0;
    text_init(&what);
    reward_window_describe(&hub->rewards, &what);
    int rc = error_set(HONE_EGUARD, "too many rewards fail (limit %.3g %% of %d): %s",
                       100 * hub->options.max_error_rate, WINDOW_REWARDS, what.data);
    text_release(&what);
    return rc;
}

static int commit(struct curriculum_stage *hub)
{
    if (hub->write_error < 0)
        return hub->write_error;
    if (hub->state_changed)
        hub_store_state(hub);
    pools_store_changed(hub->log, &hub->pools);
    return run_log_has_staged(hub->log) ? run_log_commit(hub->log) : 0;
}

/* How long a user waits before anything happens: said once, after the commit. */
static void tell_first(struct curriculum_stage *hub)
{
    for (int32_t i = 0; i < hub->outbox.count && !hub->told_first; i++) {
        const struct outbox_ack *ack = &hub->outbox.items[i];
        if (ack->kind != HONE__KIND__KIND_TRAJECTORY_ACK || ack->refused)
            continue;
        hub->told_first = true;
        log_info("first trajectory in the log, %lld ms after the hub's start",
                 (long long)(clock_now_ms(hub->clock) - hub->start_ms));
    }
}

/* H3. A failed commit has closed the log and its outcome is unknown: until one succeeds nothing is
 * heard and nothing is said. A full disk is waited for; a disk that fails is tried a few times. */
static int commit_or_wait(struct curriculum_stage *hub)
{
    int64_t now = clock_now_ms(hub->clock);
    int rc = commit(hub);
    bool may_mend = rc == HONE_ENOSPC || (rc == HONE_EIO && hub->commit_failures < COMMIT_TRIES);
    if (rc == 0 && hub->commit_failures > 0) {
        log_info("the log is written again after %d failed commits: going on",
                 hub->commit_failures);
        hub->commit_failures = 0;
    }
    if (rc == 0 || hub->write_error < 0 || !may_mend)
        return rc;
    if (hub->commit_failures++ == 0)
        log_error("the run waits until the log can be written: %s", error_message());
    hub->commit_retry_ms = now + COMMIT_RETRY_MS;
    return 0;
}

/* Receives and decides. */
static int work(struct curriculum_stage *hub, bool *busy)
{
    int rc = receive(hub, busy);
    if (rc < 0)
        return rc;
    if (!*busy) /* else their messages may be among those not read yet */
        lose_silent_peers(hub);
    if ((rc = dispatch_expire(hub, SILENT_MS)) < 0)
        return rc;
    scoring_expire(hub);
    if ((rc = check_rewards(hub)) < 0)
        return rc;
    do {
        batch_former_decide(hub);
    } while (batch_former_form(hub));
    dispatch_plan(hub);
    return 0;
}

/* A control for tests: H1 is broken, and there is time for the messages to arrive before a death.
 */
static void acknowledge_too_early(struct curriculum_stage *hub)
{
    if (hub->outbox.count == 0)
        return;
    outbox_flush(&hub->outbox, hub->server);
    clock_sleep_ms(100);
    fault_point("ack.before_commit");
}

static int tick(struct curriculum_stage *hub, bool *busy)
{
    int rc = 0;
    if (hub->commit_failures == 0)
        rc = work(hub, busy);
    else if (clock_now_ms(hub->clock) < hub->commit_retry_ms)
        return 0;
    if (fault_breaks("ack.after_commit"))
        acknowledge_too_early(hub);
    if (rc == 0)
        rc = commit_or_wait(hub);
    if (rc < 0 || hub->commit_failures > 0)
        return rc;
    tell_first(hub);
    outbox_flush(&hub->outbox, hub->server);
    if (hub->stop_ms != 0)
        return 0;
    if ((rc = dispatch_send(hub)) < 0 || (rc = scoring_send(hub)) < 0)
        return rc;
    if ((rc = training_send(hub)) < 0)
        return rc;
    hub_report_stall(hub);
    wait_chain_publish(hub);
    return 0;
}

static void stop_everyone(struct curriculum_stage *hub, const char *reason)
{
    for (int32_t i = 0; i < hub->peers.count; i++)
        send_stop(hub, &hub->peers.items[i].wire, reason);
    hub->stop_ms = clock_now_ms(hub->clock);
    if (hub->stop_ms == 0)
        hub->stop_ms = 1;
}

int curriculum_stage_tick(void *stage, struct stage_wait *wait)
{
    struct curriculum_stage *hub = stage;
    memset(wait, 0, sizeof *wait);
    int rc = tick(hub, &wait->busy);
    if (rc < 0) {
        /* Copied: sending may record errors of its own. */
        char why[512];
        snprintf(why, sizeof why, "%s", error_message());
        /* A disk that fails ends this process, not the run: workers wait for the next one. */
        if (hub->stop_ms == 0 && rc != HONE_EIO && rc != HONE_ENOSPC)
            stop_everyone(hub, why);
        return error_set(rc, "%s", why);
    }
    if (hub->stop_ms == 0 && hub->commit_failures == 0 && training_finished(hub))
        stop_everyone(hub, "the run is finished");
    if (hub->stop_ms != 0)
        wait->finished = clock_now_ms(hub->clock) - hub->stop_ms >=
                         (hub->resumed_finished ? RESUMED_LINGER_MS : STOP_LINGER_MS);
    wait->timeout_ms = IDLE_WAIT_MS;
    if (hub->commit_failures == 0)
        wait->servers[wait->server_count++] = hub->server;
    return 0;
}

#include "curriculum/hub_report.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "curriculum/wait_chain.h"
#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/telemetry/time_account.h"
#include "infra/wire/keys.h"

#define WORKER_RECORD_MS 100 /* between two records of workers */
#define ACTIVITY_MAX     32  /* bytes of a name */
#define SPENT_MAX_US     ((int64_t)1 << 53)

struct figures {
    double reward_sum, reward_squares, length_sum, staleness_sum;
    int64_t ok, samples, sampled, staleness_max, zero_groups;
};

static void add_group(struct figures *figures, const struct group *group, int64_t version)
{
    figures->zero_groups += group_zero_advantage(group);
    for (int32_t i = 0; i < group->size; i++) {
        const struct sample *sample = &group->samples[i];
        figures->samples++;
        figures->length_sum += sample->completion_tokens;
        if (sample->status == REWARD_OK) {
            figures->ok++;
            figures->reward_sum += (double)sample->total;
            figures->reward_squares += (double)sample->total * (double)sample->total;
        }
        if (sample->oldest_version >= 0) {
            int64_t staleness = version - sample->oldest_version;
            figures->sampled++;
            figures->staleness_sum += (double)staleness;
            if (staleness > figures->staleness_max)
                figures->staleness_max = staleness;
        }
    }
}

static double ratio(double sum, int64_t count)
{
    return count > 0 ? sum / (double)count : 0;
}

static void add_counts(struct curriculum_stage *hub)
{
    char name[48];
    for (int i = 0; i < DROP_REASON_COUNT; i++) {
        snprintf(name, sizeof name, "dropped/%s", drop_reason_name((enum drop_reason)i));
        metrics_add(hub->metrics, name, (double)hub->drops[i]);
    }
    for (int i = 0; i <= REWARD_ERROR; i++) {
        snprintf(name, sizeof name, "reward_status/%s", reward_status_name((enum reward_status)i));
        metrics_add(hub->metrics, name, (double)hub->statuses[i]);
        hub->statuses[i] = 0;
    }
}

/* Means over the prompts that were measured. */
static void add_estimates(struct curriculum_stage *hub)
{
    const struct prompt_pools *pools = &hub->pools;
    double age = 0, pass_sum = 0;
    int64_t measured = 0, k = pools->options.k, enough = 0;
    for (int64_t i = 0; i < pools->count; i++) {
        const struct measurement *newest = &pools->prompts[i].difficulty.newest;
        if (newest->judged == 0)
            continue;
        measured++;
        age += (double)(hub->batch_count - pools->prompts[i].measured_batch);
        if (newest->judged >= k) {
            enough++;
            pass_sum += pass_at_k(newest->judged, newest->passed, k);
        }
    }
    metrics_add(hub->metrics, "filter/est_age_mean", ratio(age, measured));
    metrics_add(hub->metrics, "filter/pass_at_k", ratio(pass_sum, enough));
}

static void add_moves(struct curriculum_stage *hub)
{
    const struct pool_fold *fold = &hub->pools.fold;
    for (int from = 0; from < POOL_COUNT; from++)
        for (int to = 0; to < POOL_COUNT; to++) {
            char name[48];
            if (fold->moves[from][to] == 0)
                continue;
            snprintf(name, sizeof name, "filter/move/%s_%s",
                     prompt_pool_name((enum prompt_pool)from),
                     prompt_pool_name((enum prompt_pool)to));
            metrics_add(hub->metrics, name, (double)fold->moves[from][to]);
        }
}

/* groups: of the batch. */
static void add_pools(struct curriculum_stage *hub, int32_t groups)
{
    static const char *const keys[POOL_COUNT] = {[POOL_UNSEEN] = "filter/pool_unseen",
                                                 [POOL_EASY] = "filter/easy",
                                                 [POOL_BAND] = "filter/band",
                                                 [POOL_HARD] = "filter/hard",
                                                 [POOL_PARKED] = "filter/parked"};
    const struct prompt_pools *pools = &hub->pools;
    for (int pool = 0; pool < POOL_COUNT; pool++)
        metrics_add(hub->metrics, keys[pool], (double)pools->pool_count[pool]);
    metrics_add(hub->metrics, "filter/band_high", prompt_pools_band(pools).high);
    metrics_add(hub->metrics, "filter/round", (double)pools->round);
    metrics_add(hub->metrics, "filter/measured", (double)pools->fold.measured);
    metrics_add(hub->metrics, "filter/selected", (double)pools->fold.selected);
    metrics_add(hub->metrics, "filter/accept_rate",
                ratio((double)pools->fold.in_band, pools->fold.selected));
    metrics_add(hub->metrics, "filter/zero_adv_drop_frac",
                ratio((double)hub->zero_drops, hub->zero_drops + groups));
    metrics_add(hub->metrics, "filter/wasted_tokens", (double)hub->dropped_tokens);
    add_estimates(hub);
    add_moves(hub);
}

int hub_report_batch(struct curriculum_stage *hub, const struct group *const *groups, int32_t count)
{
    struct figures figures = {0};
    const int32_t *samples = hub->groups.sample_count;
    int64_t now = clock_now_ms(hub->clock);
    for (int32_t i = 0; i < count; i++)
        add_group(&figures, groups[i], hub->batch_count - 1);
    double mean = ratio(figures.reward_sum, figures.ok);
    double variance = ratio(figures.reward_squares, figures.ok) - mean * mean;
    metrics_begin(hub->metrics, hub->batch_count);
    metrics_add(hub->metrics, "reward/mean", mean);
    metrics_add(hub->metrics, "reward/std", variance > 0 ? sqrt(variance) : 0);
    metrics_add(hub->metrics, "group/zero_std_frac", ratio((double)figures.zero_groups, count));
    metrics_add(hub->metrics, "length/mean", ratio(figures.length_sum, figures.samples));
    metrics_add(hub->metrics, "staleness/mean", ratio(figures.staleness_sum, figures.sampled));
    metrics_add(hub->metrics, "staleness/max", (double)figures.staleness_max);
    metrics_add(hub->metrics, "time/batch_wait_s", (double)(now - hub->formed_ms) / 1000);
    metrics_add(hub->metrics, "queue/groups_leased", hub->groups.state_count[GROUP_LEASED]);
    metrics_add(hub->metrics, "queue/probes", hub->groups.probe_count);
    metrics_add(hub->metrics, "queue/groups_scored", hub->groups.state_count[GROUP_SCORED]);
    metrics_add(hub->metrics, "queue/unscored", samples[SAMPLE_ARRIVED] + samples[SAMPLE_SCORING]);
    metrics_add(hub->metrics, "queue/leases", hub->leases.count);
    metrics_add(hub->metrics, "partial/reports", (double)hub->partial_reports);
    metrics_add(hub->metrics, "partial/resumed_tokens", (double)hub->resumed_tokens);
    metrics_add(hub->metrics, "partial/stale", (double)hub->partial_stale);
    hub->partial_reports = hub->resumed_tokens = hub->partial_stale = 0;
    metrics_add(hub->metrics, "stall/count", (double)hub->stalls);
    metrics_add(hub->metrics, "stall/seconds", (double)hub->stalled_ms / 1000);
    hub->stalls = hub->stalled_ms = 0;
    add_counts(hub);
    if (hub->options.filter.mode != FILTER_OFF)
        add_pools(hub, count);
    hub->dropped_tokens = 0;
    hub->formed_ms = now;
    return metrics_end(hub->metrics);
}

/* What else an actor says of its engine and its weights. */
static void add_engine(struct metrics *metrics, const Hone__Heartbeat *beat)
{
    const Hone__SlotUse *use = beat->slot_use;
    if (use != NULL) {
        metrics_add(metrics, "slots/count", (double)use->slots);
        metrics_add(metrics, "slots/used_s", (double)use->used_us * 1e-6);
        metrics_add(metrics, "slots/full_s", (double)use->full_us * 1e-6);
        metrics_add(metrics, "slots/full_tokens", (double)use->full_tokens);
    }
    if (beat->has_swaps)
        metrics_add(metrics, "weights/swaps", (double)beat->swaps);
    if (beat->has_swap_ms)
        metrics_add(metrics, "weights/swap_ms", beat->swap_ms);
    if (beat->has_fetch_ms)
        metrics_add(metrics, "weights/fetch_ms", beat->fetch_ms);
    if (beat->has_fetch_bytes)
        metrics_add(metrics, "weights/fetch_bytes", (double)beat->fetch_bytes);
}

static bool is_wait(const char *activity)
{
    return strncmp(activity, "wait_", strlen("wait_")) == 0;
}

/* What a peer sends becomes names and sums. */
static bool makes_sense(const Hone__Heartbeat *beat)
{
    if (beat->n_time_spent > TIME_ACTIVITIES_MAX)
        return false;
    for (size_t i = 0; i < beat->n_time_spent; i++) {
        const Hone__TimeSpent *spent = beat->time_spent[i];
        size_t length = strlen(spent->activity);
        if (length == 0 || length >= ACTIVITY_MAX || spent->us < 0 || spent->us > SPENT_MAX_US ||
            strspn(spent->activity, "abcdefghijklmnopqrstuvwxyz_") != length)
            return false;
    }
    return true;
}

void hub_report_worker(struct curriculum_stage *hub, struct peer *peer, const Hone__Heartbeat *beat)
{
    struct metrics *metrics = hub->options.workers;
    int64_t now = clock_now_ms(hub->clock), total_us = 0, busy_us = 0;
    char name[48];
    bool early = now - peer->reported_ms < (int64_t)hub->peers.count * WORKER_RECORD_MS;
    if (metrics == NULL || beat->n_time_spent == 0 || (early && hub->stop_ms == 0) ||
        !makes_sense(beat))
        return;
    peer->reported_ms = now;
    metrics_begin(metrics, hub->batch_count);
    metrics_add_text(metrics, "worker", peer->wire.identity);
    metrics_add_text(metrics, "role", role_name(peer->role));
    snprintf(name, sizeof name, "%016" PRIx64, peer->incarnation);
    metrics_add_text(metrics, "incarnation", name);
    for (size_t i = 0; i < beat->n_time_spent; i++) {
        const Hone__TimeSpent *spent = beat->time_spent[i];
        snprintf(name, sizeof name, "time/%s_s", spent->activity);
        metrics_add(metrics, name, (double)spent->us * 1e-6);
        total_us += spent->us;
        busy_us += is_wait(spent->activity) ? 0 : spent->us;
    }
    metrics_add(metrics, "time/busy_s", (double)busy_us * 1e-6);
    metrics_add(metrics, "time/total_s", (double)total_us * 1e-6);
    if (beat->has_tokens_done)
        metrics_add(metrics, "tokens", (double)beat->tokens_done);
    add_engine(metrics, beat);
    if (metrics_end(metrics) < 0) /* figures: a full disk is the log's to wait for */
        log_warn("%s", error_message());
}

static void describe_peers(struct curriculum_stage *hub, Hone__Role role, struct text *out)
{
    int64_t now = clock_unix_ms(hub->clock);
    const char *separator = " (";
    for (int32_t i = 0; i < hub->peers.count; i++) {
        const struct peer *peer = &hub->peers.items[i];
        if (peer->role != role)
            continue;
        text_printf(out, "%s%s", separator, peer->wire.identity);
        if (peer->waiting_for[0] != '\0')
            text_printf(out, " waits for %s", peer->waiting_for);
        else
            text_append(out, " is busy");
        text_printf(out, ", credit %" PRId64, peer->credit);
        if (peer->waiting_for[0] != '\0' && peer->waiting_since_ms > 0)
            text_printf(out, " for %" PRId64 " s", (now - peer->waiting_since_ms) / 1000);
        separator = ", ";
    }
    text_append(out, separator[0] == ' ' ? " (there is none)" : ")");
}

void hub_describe_wait(struct curriculum_stage *hub, struct text *out)
{
    const int32_t *samples = hub->groups.sample_count;
    const int32_t *count = hub->groups.state_count;
    if (hub->batch_count < hub->options.steps)
        text_printf(out, "batch %" PRId64 " has %d of %d groups; ", hub_next_batch(hub),
                    count[GROUP_SCORED], hub->options.prompts_per_step);
    text_printf(out, "%d samples are with actors and %d wait for one", samples[SAMPLE_LEASED],
                samples[SAMPLE_FREE]);
    describe_peers(hub, HONE__ROLE__ROLE_ACTOR, out);
    text_printf(out, "; %d rewards are with scorers and %d wait for one", samples[SAMPLE_SCORING],
                samples[SAMPLE_ARRIVED]);
    describe_peers(hub, HONE__ROLE__ROLE_SCORER, out);
    if (hub->done_batch < hub->batch_count)
        text_printf(out, "; batch %" PRId64 " is with the learner", hub->done_batch + 1);
    else if (hub->durable_batch < hub->done_batch)
        text_printf(out, "; batch %" PRId64 " is trained and not yet durable", hub->done_batch);
    else if (!hub->learner.ready)
        text_append(out, "; nothing is dispatched before the learner is ready");
    else
        text_append(out, "; the learner has no batch");
    describe_peers(hub, HONE__ROLE__ROLE_LEARNER, out);
}

void hub_report_stall(struct curriculum_stage *hub)
{
    int64_t now = clock_now_ms(hub->clock);
    if (now - hub->stall_told_ms < hub->options.stall_ms || hub->options.stall_ms <= 0)
        return;
    struct wait_chain chain;
    struct text line;
    text_init(&line);
    wait_chain_find(hub, &chain);
    wait_chain_print(&chain, &line);
    log_warn("stall: nothing has moved for %" PRId64 " s, because of %s: %s",
             (now - hub->progress_ms) / 1000, chain.links[chain.count - 1].who, line.data);
    text_clear(&line);
    hub_describe_wait(hub, &line);
    log_warn("stall: queues: %s", line.data);
    text_release(&line);
    hub->stalls += hub->stall_told_ms == hub->progress_ms; /* one stall, told more than once */
    hub->stalled_ms += now - hub->stall_told_ms;
    hub->stall_told_ms = now;
}

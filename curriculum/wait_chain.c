#include "curriculum/wait_chain.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "curriculum/training.h"
#include "infra/base/log.h"

#define SILENT_AFTER_MS 2500 /* two heartbeats are missing */
#define PUBLISH_MS      1000

static void add_link(struct wait_chain *chain, const char *who, int64_t for_ms, const char *format,
                     ...) __attribute__((format(printf, 4, 5)));
static void add_link(struct wait_chain *chain, const char *who, int64_t for_ms, const char *format,
                     ...)
{
    va_list arguments;
    if (chain->count == WAIT_LINKS_MAX)
        return;
    struct wait_link *link = &chain->links[chain->count++];
    snprintf(link->who, sizeof link->who, "%s", who);
    link->for_ms = for_ms > 0 ? for_ms : 0;
    va_start(arguments, format);
    vsnprintf(link->what, sizeof link->what, format, arguments);
    va_end(arguments);
}

static const struct peer *first_of(const struct curriculum_stage *hub, Hone__Role role)
{
    for (int32_t i = 0; i < hub->peers.count; i++)
        if (hub->peers.items[i].role == role)
            return &hub->peers.items[i];
    return NULL;
}

static const struct peer *named(const struct curriculum_stage *hub, const char *identity)
{
    for (int32_t i = 0; i < hub->peers.count; i++)
        if (strcmp(hub->peers.items[i].wire.identity, identity) == 0)
            return &hub->peers.items[i];
    return NULL;
}

/* The one of a role that has been quiet for longest: if any stands still, it. */
static const struct peer *quietest(const struct curriculum_stage *hub, Hone__Role role)
{
    const struct peer *found = NULL;
    for (int32_t i = 0; i < hub->peers.count; i++) {
        const struct peer *peer = &hub->peers.items[i];
        if (peer->role == role && (found == NULL || peer->heard_ms < found->heard_ms))
            found = peer;
    }
    return found;
}

static bool is_silent(const struct curriculum_stage *hub, const struct peer *peer)
{
    return clock_now_ms(hub->clock) - peer->heard_ms > SILENT_AFTER_MS;
}

static const char *kind_of_worker(Hone__Role role)
{
    return role == HONE__ROLE__ROLE_ACTOR    ? "actor"
           : role == HONE__ROLE__ROLE_SCORER ? "scorer"
                                             : "learner";
}

/* What a worker says of itself, and on from there. has_work: since when it has what is waited for;
 * 0 not known. */
static void add_worker(const struct curriculum_stage *hub, struct wait_chain *chain,
                       const struct peer *peer, Hone__Role role, int64_t has_work_ms)
{
    int64_t now = clock_now_ms(hub->clock);
    if (peer == NULL) {
        add_link(chain, kind_of_worker(role), now - hub->progress_ms, "is not there");
        return;
    }
    int64_t silent_ms = now - peer->heard_ms;
    if (is_silent(hub, peer)) {
        add_link(chain, peer->wire.identity, silent_ms, "is silent%s%s%s",
                 peer->doing[0] != '\0' ? " (" : "", peer->doing,
                 peer->doing[0] != '\0' ? ")" : "");
        return;
    }
    if (peer->waiting_for[0] == '\0') {
        add_link(chain, peer->wire.identity, has_work_ms, "is busy");
        return;
    }
    add_link(chain, peer->wire.identity, clock_unix_ms(hub->clock) - peer->waiting_since_ms,
             "waits for %s", peer->waiting_for);
    const struct peer *learner = first_of(hub, HONE__ROLE__ROLE_LEARNER);
    if (role == HONE__ROLE__ROLE_ACTOR && strstr(peer->waiting_for, "from learner") != NULL)
        add_worker(hub, chain, learner, HONE__ROLE__ROLE_LEARNER, 0);
}

static void add_sample(const struct curriculum_stage *hub, struct wait_chain *chain,
                       const struct group *group, const struct sample *sample)
{
    int64_t now = clock_now_ms(hub->clock), quiet_ms = now - hub->progress_ms;
    unsigned long long id = group->id;
    const struct lease *lease = NULL;
    for (int32_t i = 0; i < hub->leases.count; i++)
        if (hub->leases.items[i].id == sample->lease_id)
            lease = &hub->leases.items[i];
    if (sample->state == SAMPLE_LEASED && lease != NULL) {
        int64_t held_ms = clock_unix_ms(hub->clock) - lease->leased_ms;
        add_link(chain, "curriculum", quiet_ms, "waits for a trajectory of group %llu from %s", id,
                 lease->worker.identity);
        add_worker(hub, chain, named(hub, lease->worker.identity), HONE__ROLE__ROLE_ACTOR, held_ms);
    } else if (sample->state == SAMPLE_SCORING) {
        const struct peer *scorer = NULL;
        for (int32_t i = 0; i < hub->peers.count; i++)
            if (hub->peers.items[i].serial == sample->scorer)
                scorer = &hub->peers.items[i];
        add_link(chain, "curriculum", quiet_ms, "waits for a reward of group %llu from %s", id,
                 scorer != NULL ? scorer->wire.identity : "a scorer");
        add_worker(hub, chain, scorer, HONE__ROLE__ROLE_SCORER, now - sample->asked_ms);
    } else if (sample->state == SAMPLE_ARRIVED) {
        add_link(chain, "curriculum", quiet_ms, "waits for a scorer with room for group %llu", id);
        add_worker(hub, chain, quietest(hub, HONE__ROLE__ROLE_SCORER), HONE__ROLE__ROLE_SCORER, 0);
    } else if (now < group->not_before_ms) {
        add_link(chain, "curriculum", quiet_ms, "waits before it leases group %llu again", id);
    } else {
        add_link(chain, "curriculum", quiet_ms, "waits for an actor with room for group %llu", id);
        add_worker(hub, chain, quietest(hub, HONE__ROLE__ROLE_ACTOR), HONE__ROLE__ROLE_ACTOR, 0);
    }
}

/* The group whose samples the next batch lacks: the oldest one that is incomplete. */
static bool add_group(const struct curriculum_stage *hub, struct wait_chain *chain)
{
    for (int32_t i = 0; i < hub->groups.count; i++) {
        const struct group *group = hub->groups.items[i];
        for (int32_t k = 0; group->state == GROUP_LEASED && k < group->size; k++) {
            if (group->probe || group->samples[k].state == SAMPLE_SCORED)
                continue;
            add_sample(hub, chain, group, &group->samples[k]);
            return true;
        }
    }
    return false;
}

void wait_chain_find(const struct curriculum_stage *hub, struct wait_chain *chain)
{
    int64_t quiet_ms = clock_now_ms(hub->clock) - hub->progress_ms;
    const struct peer *learner = first_of(hub, HONE__ROLE__ROLE_LEARNER);
    memset(chain, 0, sizeof *chain);
    if (training_finished(hub)) {
        add_link(chain, "curriculum", 0, "is finished");
    } else if (!hub->learner.ready || learner == NULL) {
        add_link(chain, "curriculum", quiet_ms, "waits for a learner");
        add_worker(hub, chain, learner, HONE__ROLE__ROLE_LEARNER, 0);
    } else if (hub->done_batch < hub->batch_count) {
        add_link(chain, "curriculum", quiet_ms, "waits for batch %" PRId64 " to be trained by %s",
                 hub->done_batch + 1, learner->wire.identity);
        add_worker(hub, chain, learner, HONE__ROLE__ROLE_LEARNER, quiet_ms);
    } else if (hub->batch_count == hub->options.steps) {
        add_link(chain, "curriculum", quiet_ms, "waits for a checkpoint with batch %" PRId64,
                 hub->batch_count);
        add_worker(hub, chain, learner, HONE__ROLE__ROLE_LEARNER, quiet_ms);
    } else {
        if (!is_silent(hub, learner) && learner->waiting_for[0] != '\0')
            add_worker(hub, chain, learner, HONE__ROLE__ROLE_LEARNER, 0);
        if (!add_group(hub, chain)) {
            add_link(chain, "curriculum", quiet_ms, "waits for an actor with room for a new group");
            add_worker(hub, chain, quietest(hub, HONE__ROLE__ROLE_ACTOR), HONE__ROLE__ROLE_ACTOR,
                       0);
        }
    }
}

void wait_chain_print(const struct wait_chain *chain, struct text *out)
{
    for (int32_t i = 0; i < chain->count; i++) {
        const struct wait_link *link = &chain->links[i];
        text_printf(out, "%s%s %s", i > 0 ? "; " : "", link->who, link->what);
        if (link->for_ms >= 1000)
            text_printf(out, " for %" PRId64 " s", link->for_ms / 1000);
    }
}

/* ---- the file ---- */

/* Workers choose their words: what a JSON string may not hold is replaced. */
static void add_string(struct text *out, const char *name, const char *value)
{
    text_printf(out, "\"%s\": \"", name);
    for (; *value != '\0'; value++) {
        bool plain = isprint((unsigned char)*value) && *value != '"' && *value != '\\';
        text_printf(out, "%c", plain ? *value : '?');
    }
    text_append(out, "\"");
}

static void add_workers(const struct curriculum_stage *hub, struct text *out)
{
    int64_t now = clock_now_ms(hub->clock), unix_ms = clock_unix_ms(hub->clock);
    text_append(out, "  \"workers\": [");
    for (int32_t i = 0; i < hub->peers.count; i++) {
        const struct peer *peer = &hub->peers.items[i];
        bool waits = peer->waiting_for[0] != '\0' && peer->waiting_since_ms > 0;
        text_printf(out, "%s\n    {", i > 0 ? "," : "");
        add_string(out, "name", peer->wire.identity);
        text_append(out, ", ");
        add_string(out, "waiting_for", peer->waiting_for);
        text_append(out, ", ");
        add_string(out, "doing", peer->doing);
        text_printf(out,
                    ", \"waiting_ms\": %" PRId64 ", \"heard_ms_ago\": %" PRId64
                    ", \"credit\": %" PRId64 "}",
                    waits ? unix_ms - peer->waiting_since_ms : 0, now - peer->heard_ms,
                    peer->credit);
    }
    text_append(out, "\n  ],\n");
}

static void add_queues(const struct curriculum_stage *hub, struct text *out)
{
    const int32_t *samples = hub->groups.sample_count;
    const int32_t *count = hub->groups.state_count;
    text_printf(out,
                "  \"queues\": {\"groups_leased\": %d, \"groups_scored\": %d, \"groups_batched\": "
                "%d, \"samples_free\": %d, \"samples_leased\": %d, \"rewards_to_ask\": %d, "
                "\"rewards_asked\": %d, \"batches_to_train\": %" PRId64
                ", \"batches_not_durable\": %" PRId64 ", \"acks\": %d}\n",
                count[GROUP_LEASED], count[GROUP_SCORED], count[GROUP_BATCHED],
                samples[SAMPLE_FREE], samples[SAMPLE_LEASED], samples[SAMPLE_ARRIVED],
                samples[SAMPLE_SCORING], hub->batch_count - hub->done_batch,
                hub->done_batch - hub->durable_batch, hub->outbox.count);
}

void wait_chain_json(const struct curriculum_stage *hub, struct text *out)
{
    struct wait_chain chain;
    int64_t quiet_ms = clock_now_ms(hub->clock) - hub->progress_ms;
    bool stalled = hub->options.stall_ms > 0 && quiet_ms >= hub->options.stall_ms;
    wait_chain_find(hub, &chain);
    text_printf(out,
                "{\n  \"time_ms\": %" PRId64 ",\n  \"quiet_ms\": %" PRId64 ",\n  \"stalled\": %s,\n"
                "  \"stalls\": %" PRId64 ",\n  ",
                clock_unix_ms(hub->clock), quiet_ms, stalled ? "true" : "false", hub->stalls);
    add_string(out, "root", chain.count > 0 ? chain.links[chain.count - 1].who : "");
    text_append(out, ",\n  \"chain\": [");
    for (int32_t i = 0; i < chain.count; i++) {
        text_printf(out, "%s\n    {", i > 0 ? "," : "");
        add_string(out, "who", chain.links[i].who);
        text_append(out, ", ");
        add_string(out, "what", chain.links[i].what);
        text_printf(out, ", \"ms\": %" PRId64 "}", chain.links[i].for_ms);
    }
    text_append(out, "\n  ],\n");
    add_workers(hub, out);
    add_queues(hub, out);
    text_append(out, "}\n");
}

/* Renamed into place, so that a reader sees a whole one; not synced: it is worth nothing later. */
static bool write_file(const char *path, const struct text *json)
{
    char temporary[1024];
    if (snprintf(temporary, sizeof temporary, "%s.new", path) >= (int)sizeof temporary)
        return false;
    FILE *file = fopen(temporary, "w");
    bool good = file != NULL && fwrite(json->data, 1, json->length, file) == json->length;
    if (file != NULL && fclose(file) != 0)
        good = false;
    return good && rename(temporary, path) == 0;
}

void wait_chain_publish(struct curriculum_stage *hub)
{
    int64_t now = clock_now_ms(hub->clock);
    struct text json;
    if (hub->options.waiting_path == NULL || now - hub->published_ms < PUBLISH_MS)
        return;
    hub->published_ms = now;
    text_init(&json);
    wait_chain_json(hub, &json);
    bool good = write_file(hub->options.waiting_path, &json);
    if (!good && !hub->publish_failed)
        log_warn("%s cannot be written: %s", hub->options.waiting_path, strerror(errno));
    hub->publish_failed = !good;
    text_release(&json);
}

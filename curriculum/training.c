#include "curriculum/training.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "curriculum/hub_store.h"
#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/fault.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/wire/envelope.h"

#define AHEAD    2   /* batches with the learner at once: one in training, one waiting */
#define RETRY_MS 200 /* before a batch is put together again for a learner whose queue was full */

/* Batches up to number are trained; hashes of those in between are not known. */
static void mark_done(struct curriculum_stage *hub, int64_t number)
{
    for (; hub->done_batch < number; hub->done_batch++) {
        batch_move(&hub->batches[hub->done_batch], BATCH_TRAINED);
        hub_store_batch(hub, hub->done_batch + 1);
        hub_progress(hub);
    }
    hub->state_changed = true;
}

/* N3 */
static void mark_durable(struct curriculum_stage *hub, int64_t number)
{
    mark_done(hub, number);
    while (hub->durable_batch < number) {
        struct batch_entry *batch = &hub->batches[hub->durable_batch++];
        batch_move(batch, BATCH_DURABLE);
        for (int32_t i = 0; i < hub->options.prompts_per_step; i++) {
            struct group *group = group_table_find(&hub->groups, batch->group_ids[i]);
            HONE_ASSERT(group != NULL && group->batch == hub->durable_batch);
            group_table_move(&hub->groups, group, GROUP_TRAINED);
            hub_store_group(hub, group);
            group_table_remove(&hub->groups, group);
        }
        hub_store_batch(hub, hub->durable_batch);
        hub_progress(hub);
    }
    hub_trim(hub);
}

static int foreign(const struct curriculum_stage *hub, const struct peer *peer, int64_t number)
{
    return error_set(HONE_ECORRUPT,
                     "%s has trained batch %" PRId64 ", the log of this run has %" PRId64
                     " batches: its checkpoint belongs to another run",
                     peer->wire.identity, number, hub->batch_count);
}

/* N2 */
static int check_hash(struct curriculum_stage *hub, int64_t number, const char *hash)
{
    struct batch_entry *batch = &hub->batches[number - 1];
    if (batch->weights_hash[0] == '\0') {
        snprintf(batch->weights_hash, sizeof batch->weights_hash, "%s", hash);
        hub_store_batch(hub, number);
        return 0;
    }
    if (strncmp(batch->weights_hash, hash, sizeof batch->weights_hash - 1) == 0)
        return 0;
    return error_set(HONE_ECORRUPT,
                     "replay diverged: batch %" PRId64 " gave weights %.16s when it was trained "
                     "first and %.16s now",
                     number, batch->weights_hash, hash);
}

/* Of the last versions up to `last`, in the commit that makes it durable: a message or a hub that
 * is lost before takes nothing along that the next one does not bring. */
static int check_hashes(struct curriculum_stage *hub, int64_t last, char *const *hashes,
                        size_t count)
{
    int rc = 0;
    for (size_t i = 0; i < count && rc == 0; i++) {
        int64_t number = last - (int64_t)(count - 1 - i);
        if (number >= 1 && number <= hub->batch_count)
            rc = check_hash(hub, number, hashes[i]);
    }
    return rc;
}

/* N4: what the learner's guards did is in the log. */
static void note_guard(struct curriculum_stage *hub, int64_t number, const char *signal,
                       int64_t rolled_back_to)
{
    if (number < 1 || number > hub->batch_count)
        return;
    struct batch_entry *batch = &hub->batches[number - 1];
    if (strncmp(batch->guard, signal, sizeof batch->guard - 1) == 0 &&
        (rolled_back_to < 0 || batch->rolled_back_to == rolled_back_to))
        return;
    snprintf(batch->guard, sizeof batch->guard, "%s", signal);
    if (rolled_back_to >= 0)
        batch->rolled_back_to = rolled_back_to;
    hub_store_batch(hub, number);
}

static void note_rollbacks(struct curriculum_stage *hub, Hone__Rollback *const *rollbacks,
                           size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const Hone__Rollback *rollback = rollbacks[i];
        if (rollback->to_version >= 0 && rollback->to_version < rollback->batch)
            note_guard(hub, rollback->batch, rollback->signal, rollback->to_version);
    }
}

int training_on_ready(struct curriculum_stage *hub, struct peer *peer,
                      const Hone__LearnerReady *message)
{
    struct learner_view *learner = &hub->learner;
    int64_t trained = message->durable_batch > message->policy_version ? message->durable_batch
                                                                       : message->policy_version;
    if (trained < 0)
        trained = 0;
    if (trained > hub->batch_count)
        return foreign(hub, peer, trained);
    if (message->durable_batch < hub->durable_batch)
        log_warn("%s starts from batch %" PRId64 " although %" PRId64
                 " was durable: it trains the batches between again",
                 peer->wire.identity, message->durable_batch, hub->durable_batch);
    memset(learner, 0, sizeof *learner);
    learner->serial = peer->serial;
    learner->ready = true;
    learner->version = message->policy_version;
    learner->sent = learner->trained = trained;
    snprintf(learner->endpoint, sizeof learner->endpoint, "%s", message->weights_endpoint);
    mark_done(hub, trained);
    mark_durable(hub, message->durable_batch > 0 ? message->durable_batch : 0);
    int rc = check_hashes(hub, message->durable_batch, message->durable_hashes,
                          message->n_durable_hashes);
    if (rc < 0)
        return rc;
    note_rollbacks(hub, message->rollbacks, message->n_rollbacks);
    for (int32_t i = 0; i < hub->peers.count; i++)
        hub->peers.items[i].told_version = -1;
    log_info("%s is ready at version %" PRId64 " (batch %" PRId64 " durable)", peer->wire.identity,
             message->policy_version, message->durable_batch);
    hub_progress(hub);
    return 0;
}

int training_on_done(struct curriculum_stage *hub, struct peer *peer,
                     const Hone__BatchDone *message)
{
    struct learner_view *learner = &hub->learner;
    int64_t number = message->number;
    if (peer->serial != learner->serial)
        return 0; /* a learner that was replaced */
    if (number < 1 || number > hub->batch_count)
        return foreign(hub, peer, number);
    if (number > learner->sent) /* it reported anew while this batch was on its way */
        learner->sent = number;
    int rc = check_hashes(hub, number, message->durable_hashes, message->n_durable_hashes);
    if (rc == 0 && message->weights_hash != NULL && message->weights_hash[0] != '\0')
        rc = check_hash(hub, number, message->weights_hash);
    if (rc < 0)
        return rc;
    if (number > learner->trained)
        learner->trained = number;
    if (message->has_policy_version && message->policy_version > learner->version)
        learner->version = message->policy_version;
    mark_done(hub, number);
    if (message->guard != NULL)
        note_guard(hub, number, message->guard, -1);
    note_rollbacks(hub, message->rollbacks, message->n_rollbacks);
    if (message->has_durable && message->durable)
        mark_durable(hub, number);
    hub_progress(hub);
    return 0;
}

/* 1 sent, 0 try later, negative: the log is broken. */
static int send_batch(struct curriculum_stage *hub, const struct peer *peer, int64_t number)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    struct logged_batch batch;
    int rc = hub_read_recent_batch(hub, number, &batch);
    if (rc <= 0)
        return rc < 0 ? rc
                      : error_set(HONE_ECORRUPT, "batch %" PRId64 " is not in the log", number);
    envelope.kind = HONE__KIND__KIND_BATCH;
    envelope.batch = &batch.message;
    rc = wire_server_send(hub->server, &peer->wire, &envelope, NULL, 0);
    hub_release_batch(&batch);
    return rc == 0 ? 1 : rc == HONE_EPEER ? 0 : rc;
}

static int send_batches(struct curriculum_stage *hub)
{
    struct learner_view *learner = &hub->learner;
    const struct peer *peer = peer_table_serial(&hub->peers, learner->serial);
    int64_t now = clock_now_ms(hub->clock);
    if (peer == NULL || !learner->ready || now < learner->retry_ms)
        return 0;
    while (learner->sent < hub->batch_count && learner->sent < learner->trained + AHEAD) {
        int rc = send_batch(hub, peer, learner->sent + 1);
        if (rc < 0)
            return rc;
        if (rc == 0) {
            learner->retry_ms = now + RETRY_MS;
            return 0;
        }
        learner->sent++;
        fault_point("batch.sent");
    }
    return 0;
}

static void send_notices(struct curriculum_stage *hub)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__WeightsNotice notice = HONE__WEIGHTS_NOTICE__INIT;
    if (!hub->learner.ready || hub->learner.version < 0)
        return;
    notice.version = hub->learner.version;
    notice.endpoint = hub->learner.endpoint;
    envelope.kind = HONE__KIND__KIND_WEIGHTS_NOTICE;
    envelope.weights_notice = &notice;
    for (int32_t i = 0; i < hub->peers.count; i++) {
        struct peer *peer = &hub->peers.items[i];
        if (peer->role != HONE__ROLE__ROLE_ACTOR || peer->told_version >= notice.version)
            continue;
        if (wire_server_send(hub->server, &peer->wire, &envelope, NULL, 0) == 0)
            peer->told_version = notice.version;
    }
}

int training_send(struct curriculum_stage *hub)
{
    send_notices(hub);
    return send_batches(hub);
}

bool training_finished(const struct curriculum_stage *hub)
{
    return hub->durable_batch >= hub->options.steps;
}

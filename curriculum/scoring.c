#include "curriculum/scoring.h"

#include <inttypes.h>
#include <string.h>

#include "curriculum/hub_store.h"
#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/wire/codec.h"
#include "infra/wire/envelope.h"

#define CREDIT_MAX      (1 << 20)
#define EXPIRE_EVERY_MS 500 /* looks through all samples */

void scoring_on_credit(struct curriculum_stage *hub, struct peer *peer, int32_t count)
{
    (void)hub;
    if (count > 0 && peer->credit < CREDIT_MAX)
        peer->credit += count < CREDIT_MAX ? count : CREDIT_MAX;
}

bool scoring_on_result(struct curriculum_stage *hub, struct peer *peer,
                       const Hone__ScoreResult *message)
{
    struct reward reward;
    struct group *group;
    if (wire_reward_read(message->reward, &reward) < 0)
        return false;
    outbox_score(&hub->outbox, &peer->wire, message->trajectory_id);
    struct sample *sample = group_table_sample(&hub->groups, message->trajectory_id, &group);
    if (sample == NULL || sample->state == SAMPLE_SCORED)
        return true; /* R3 */
    bool failed = reward.status == REWARD_TIMEOUT || reward.status == REWARD_ERROR;
    if (failed && message->attempt != (uint64_t)sample->attempt + 1)
        return true; /* a failure that was counted already */
    if (failed && sample->attempt < hub->options.score_retries) {
        sample->attempt++;
        if (sample->state == SAMPLE_SCORING)
            sample_move(group, sample, SAMPLE_ARRIVED);
        log_debug("trajectory %" PRIu64 ": %s, scored again", message->trajectory_id,
                  reward_status_name(reward.status));
        return true;
    }
    trajectory_log_put_reward(hub->log, message->trajectory_id, &reward, clock_unix_ms(hub->clock));
    sample_move(group, sample, SAMPLE_SCORED);
    sample->status = reward.status;
    sample->total = reward.total;
    hub->statuses[reward.status]++;
    reward_window_add(&hub->rewards, &reward);
    hub_progress(hub);
    return true;
}

void scoring_peer_lost(struct curriculum_stage *hub, const struct peer *peer)
{
    for (int32_t i = 0; i < hub->groups.count; i++) {
        struct group *group = hub->groups.items[i];
        for (int32_t k = 0; k < group->size; k++)
            if (group->samples[k].state == SAMPLE_SCORING &&
                group->samples[k].scorer == peer->serial)
                sample_move(group, &group->samples[k], SAMPLE_ARRIVED);
    }
}

void scoring_expire(struct curriculum_stage *hub)
{
    int64_t now = clock_now_ms(hub->clock);
    if (now - hub->scores_expired_ms < EXPIRE_EVERY_MS)
        return;
    hub->scores_expired_ms = now;
    for (int32_t i = 0; i < hub->groups.count; i++) {
        struct group *group = hub->groups.items[i];
        for (int32_t k = 0; k < group->size && group->state == GROUP_LEASED; k++)
            if (group->samples[k].state == SAMPLE_SCORING &&
                now - group->samples[k].asked_ms > hub->options.lease_timeout_ms)
                sample_move(group, &group->samples[k], SAMPLE_ARRIVED);
    }
}

/* 1 sent, 0 the scorer's queue is full, negative: the log is broken. */
static int send_request(struct curriculum_stage *hub, const struct peer *peer,
                        const struct group *group, const struct sample *sample)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__ScoreRequest request = HONE__SCORE_REQUEST__INIT;
    Hone__Trajectory *read = NULL;
    const Hone__Trajectory *stored = sample->message;
    int rc = 1;
    if (stored == NULL) {
        rc = trajectory_log_get_arrival(hub->log, sample->trajectory_id, &read);
        stored = read;
    }
    if (rc == 0)
        rc = error_set(HONE_ECORRUPT, "trajectory %" PRIu64 " is no longer in the log",
                       sample->trajectory_id);
    if (rc < 0)
        return rc;
    request.trajectory_id = sample->trajectory_id;
    request.attempt = (uint64_t)sample->attempt + 1;
    request.prompt_id = group->prompt_id;
    request.tokens = stored->tokens;
    request.prompt_token_count = stored->prompt_token_count;
    request.finish = stored->finish;
    request.group_id = group->id;
    request.has_policy_version = 1;
    request.policy_version = sample->oldest_version;
    envelope.kind = HONE__KIND__KIND_SCORE_REQUEST;
    envelope.score_request = &request;
    rc = wire_server_send(hub->server, &peer->wire, &envelope, NULL, 0) == 0;
    if (read != NULL)
        wire_free(&read->base);
    return rc;
}

int scoring_send(struct curriculum_stage *hub)
{
    for (int32_t i = 0; i < hub->peers.count; i++)
        hub->peers.items[i].blocked = false;
    for (int32_t i = 0; i < hub->groups.count && hub->groups.sample_count[SAMPLE_ARRIVED] > 0;
         i++) {
        struct group *group = hub->groups.items[i];
        for (int32_t k = 0; k < group->size && group->sample_count[SAMPLE_ARRIVED] > 0; k++) {
            struct sample *sample = &group->samples[k];
            if (sample->state != SAMPLE_ARRIVED)
                continue;
            struct peer *peer = peer_table_richest(&hub->peers, HONE__ROLE__ROLE_SCORER);
            if (peer == NULL)
                return 0;
            int rc = send_request(hub, peer, group, sample);
            if (rc < 0)
                return rc;
            if (rc == 0) {
                peer->blocked = true;
                k--; /* the same sample to another */
                continue;
            }
            peer->credit--;
            sample_move(group, sample, SAMPLE_SCORING);
            sample->scorer = peer->serial;
            sample->asked_ms = clock_now_ms(hub->clock);
        }
    }
    return 0;
}

#include "curriculum/partial.h"

#include <inttypes.h>
#include <string.h>

#include "curriculum/hub_store.h"
#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/wire/codec.h"
#include "infra/wire/envelope.h"

/* ---- keys: group, sample, offset, all big-endian ---- */

static void make_key(const struct group *group, int32_t index, int32_t offset,
                     unsigned char bytes[PARTIAL_KEY_BYTES])
{
    run_log_key_u64(group->id, bytes);
    run_log_key_u64((uint64_t)index << 32 | (uint32_t)offset, bytes + 8);
}

bool partial_key_read(struct partial_key *key, const void *bytes, size_t count)
{
    if (count != PARTIAL_KEY_BYTES)
        return false;
    uint64_t low = run_log_u64((const unsigned char *)bytes + 8);
    *key = (struct partial_key){run_log_u64(bytes), (int32_t)(low >> 32), (int32_t)low};
    return key->sample_index >= 0 && key->offset >= 0;
}

/* ---- pieces ---- */

static void add_piece(struct sample_partial *partial, const struct trajectory *piece)
{
    if (partial->piece_count == partial->piece_capacity) {
        int32_t capacity = partial->piece_capacity > 0 ? partial->piece_capacity * 2 : 4;
        partial->offsets = memory_resize(partial->offsets, (size_t)partial->piece_capacity,
                                         (size_t)capacity, sizeof *partial->offsets);
        partial->piece_capacity = capacity;
    }
    if (partial->piece_count == 0)
        partial->oldest_version = trajectory_oldest_version(piece);
    partial->offsets[partial->piece_count++] = partial->tokens;
    partial->tokens += piece->token_count;
    partial->newest_version = trajectory_newest_version(piece);
}

static void delete_piece(struct curriculum_stage *hub, const struct group *group, int32_t index,
                         int32_t offset)
{
    unsigned char key[PARTIAL_KEY_BYTES];
    make_key(group, index, offset, key);
    run_log_delete(hub->log, LOG_PARTIALS, key, sizeof key);
}

void partial_forget(struct curriculum_stage *hub, const struct group *group, int32_t index)
{
    struct sample_partial *partial = &group->samples[index].partial;
    for (int32_t i = 0; i < partial->piece_count; i++)
        delete_piece(hub, group, index, partial->offsets[i]);
    partial->piece_count = partial->tokens = 0;
}

static void store_piece(struct curriculum_stage *hub, const struct group *group, int32_t index,
                        const Hone__Trajectory *message)
{
    unsigned char key[PARTIAL_KEY_BYTES];
    struct text bytes;
    make_key(group, index, group->samples[index].partial.tokens, key);
    text_init(&bytes);
    wire_pack(&message->base, &bytes);
    run_log_put(hub->log, LOG_PARTIALS, key, sizeof key, bytes.data, bytes.length);
    text_release(&bytes);
}

static int read_piece(const void *value, size_t bytes, struct trajectory *piece)
{
    ProtobufCMessage *base;
    int rc = wire_unpack(&base, &hone__trajectory__descriptor, value, bytes);
    if (rc == 0)
        rc = wire_trajectory_read((const Hone__Trajectory *)(void *)base, piece);
    wire_free(base);
    return rc;
}

int partial_load(struct curriculum_stage *hub, const struct group *group, int32_t index,
                 struct trajectory *prefix)
{
    const struct sample_partial *partial = &group->samples[index].partial;
    struct text bytes;
    int rc = 0;
    text_init(&bytes);
    trajectory_init(prefix, 0);
    for (int32_t i = 0; rc == 0 && i < partial->piece_count; i++) {
        unsigned char key[PARTIAL_KEY_BYTES];
        struct trajectory piece;
        make_key(group, index, partial->offsets[i], key);
        rc = run_log_get(hub->log, LOG_PARTIALS, key, sizeof key, &bytes);
        if (rc == 0)
            rc = error_set(HONE_ECORRUPT, "group %" PRIu64 ", sample %d: no piece at token %d",
                           group->id, index, partial->offsets[i]);
        if (rc > 0)
            rc = read_piece(bytes.data, bytes.length, &piece);
        if (rc < 0)
            break;
        trajectory_append(prefix, &piece);
        prefix->sampling = piece.sampling;
        prefix->reward.status = REWARD_ABSTAIN;
        trajectory_release(&piece);
    }
    prefix->group_id = group->id;
    prefix->prompt_id = group->prompt_id;
    prefix->sample_index = index;
    text_release(&bytes);
    if (rc < 0)
        trajectory_release(prefix);
    return rc;
}

/* ---- reports ---- */

/* A report that overlaps what is known repeats it from a piece's start on (its acknowledgement was
 * lost): those pieces give way. false: it does not continue what is known. */
static bool make_room(struct curriculum_stage *hub, const struct group *group, int32_t index,
                      int32_t offset, int32_t end)
{
    struct sample_partial *partial = &group->samples[index].partial;
    if (offset == partial->tokens)
        return true;
    int32_t first = 0;
    while (first < partial->piece_count && partial->offsets[first] != offset)
        first++;
    if (first == partial->piece_count || end <= partial->tokens)
        return false;
    for (int32_t i = first; i < partial->piece_count; i++)
        delete_piece(hub, group, index, partial->offsets[i]);
    partial->piece_count = first;
    partial->tokens = offset;
    return true;
}

static int check_piece(const struct curriculum_stage *hub, const struct lease *lease,
                       const struct group *group, const struct trajectory *piece, int32_t end)
{
    int64_t oldest = trajectory_oldest_version(piece), newest = trajectory_newest_version(piece);
    if (piece->token_count < 1 || piece->prompt_tokens != 0 || piece->finish != FINISH_NONE)
        return error_set(HONE_EFORMAT, "a report that is not a piece of a completion");
    if (end >= hub->options.sampling.max_completion_tokens)
        return error_set(HONE_EFORMAT, "a rollout in progress of %d tokens, %d end one", end,
                         hub->options.sampling.max_completion_tokens);
    if (piece->prompt_id != group->prompt_id || oldest < lease->min_version ||
        newest > hub->batch_count)
        return error_set(HONE_EFORMAT,
                         "a report of prompt %" PRIu64 " with versions %" PRId64 " to %" PRId64
                         ", which cannot be",
                         piece->prompt_id, oldest, newest);
    return 0;
}

static void take_piece(struct curriculum_stage *hub, struct lease *lease, const struct group *group,
                       const struct trajectory *piece, const Hone__Progress *message)
{
    int32_t index = piece->sample_index, end = message->offset + piece->token_count;
    struct sample_partial *partial = &group->samples[index].partial;
    if (!make_room(hub, group, index, message->offset, end))
        return;
    if (partial->piece_count > 0 && trajectory_oldest_version(piece) < partial->newest_version)
        return; /* G2: what was sampled before with newer weights is another rollout */
    store_piece(hub, group, index, message->chunk);
    add_piece(partial, piece);
    lease->deadline_ms = clock_unix_ms(hub->clock) + hub->options.lease_timeout_ms;
    hub_store_lease(hub, lease); /* H2 */
    hub->partial_reports++;
    hub_progress(hub);
}

bool partial_on_progress(struct curriculum_stage *hub, struct peer *peer,
                         const Hone__Progress *message)
{
    struct trajectory piece;
    struct outbox_progress progress = {message->chunk->lease_id, message->chunk->fence,
                                       message->chunk->sample_index, -1, 0};
    if (message->offset < 0 || wire_trajectory_read(message->chunk, &piece) < 0)
        return false;
    struct lease *lease = lease_table_find(&hub->leases, piece.lease_id);
    struct group *group = lease != NULL ? group_table_find(&hub->groups, lease->group_id) : NULL;
    int32_t index = piece.sample_index;
    bool fits = true;
    if (group != NULL && lease->fence == piece.fence && piece.group_id == group->id &&
        index >= lease->first && index < lease->first + lease->count &&
        group->samples[index].state == SAMPLE_LEASED) {
        fits = piece.token_count < INT32_MAX - message->offset &&
               check_piece(hub, lease, group, &piece, message->offset + piece.token_count) == 0;
        if (fits)
            take_piece(hub, lease, group, &piece, message);
        progress.tokens = group->samples[index].partial.tokens;
        progress.deadline_ms = lease->deadline_ms;
    }
    if (fits)
        outbox_progress(&hub->outbox, &peer->wire, &progress);
    trajectory_release(&piece);
    return fits;
}

/* ---- recovery ---- */

static int recover_piece(void *context, const void *key_bytes, size_t key_count, const void *value,
                         size_t value_bytes)
{
    struct curriculum_stage *hub = context;
    struct partial_key key;
    struct trajectory piece;
    if (!partial_key_read(&key, key_bytes, key_count))
        return error_set(HONE_ECORRUPT, "a piece of a rollout in the log has an impossible key");
    struct group *group = group_table_find(&hub->groups, key.group_id);
    if (group == NULL || key.sample_index >= group->size ||
        group->samples[key.sample_index].state != SAMPLE_FREE ||
        group->samples[key.sample_index].partial.tokens != key.offset)
        return error_set(HONE_ECORRUPT,
                         "group %" PRIu64 ", sample %d: the piece at token %d does not fit",
                         key.group_id, key.sample_index, key.offset);
    int rc = read_piece(value, value_bytes, &piece);
    if (rc < 0)
        return error_prefix("group %" PRIu64 ", sample %d, piece at token %d in the log",
                            key.group_id, key.sample_index, key.offset);
    add_piece(&group->samples[key.sample_index].partial, &piece);
    trajectory_release(&piece);
    return 0;
}

int partial_recover(struct curriculum_stage *hub)
{
    return run_log_scan(hub->log, LOG_PARTIALS, recover_piece, hub);
}

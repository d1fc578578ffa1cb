#include "infra/wire/codec.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "arrays are little-endian on the wire and are copied as they are");

#define RUN_BYTES     12 /* int64 version, int32 count */
#define SEGMENT_BYTES 12 /* int32 kind, start, count */

/* Everything a Trajectory message points at, in one block followed by the arrays. */
struct trajectory_storage {
    Hone__Sampling sampling_message;
    struct wire_reward reward_message;
    struct sampling sampling;
    struct reward reward;
    unsigned char arrays[];
};

void wire_sampling_build(Hone__Sampling *message, const struct sampling *sampling)
{
    hone__sampling__init(message);
    message->has_temperature = message->has_top_p = message->has_top_k = message->has_min_p = 1;
    message->has_max_completion_tokens = message->has_seed = 1;
    message->temperature = sampling->temperature;
    message->top_p = sampling->top_p;
    message->top_k = sampling->top_k;
    message->min_p = sampling->min_p;
    message->max_completion_tokens = sampling->max_completion_tokens;
    message->seed = sampling->seed;
    message->has_keep_support = message->keep_support = sampling->keep_support;
    if (sampling->stop_count > 0) {
        message->has_stop_ids = 1;
        message->stop_ids.len = (size_t)sampling->stop_count * sizeof(int32_t);
        message->stop_ids.data = (uint8_t *)(uintptr_t)sampling->stop_ids;
    }
}

int wire_sampling_read(const Hone__Sampling *message, struct sampling *sampling)
{
    size_t stop_bytes = message->has_stop_ids ? message->stop_ids.len : 0;
    memset(sampling, 0, sizeof *sampling);
    if (stop_bytes % sizeof(int32_t) != 0 || stop_bytes > sizeof sampling->stop_ids)
        return error_set(HONE_EFORMAT, "stop ids of %zu bytes", stop_bytes);
    sampling->temperature = message->has_temperature ? message->temperature : 1.0f;
    sampling->top_p = message->has_top_p ? message->top_p : 1.0f;
    sampling->top_k = message->has_top_k ? message->top_k : 0;
    sampling->min_p = message->has_min_p ? message->min_p : 0.0f;
    sampling->max_completion_tokens =
        message->has_max_completion_tokens ? message->max_completion_tokens : 0;
    sampling->seed = message->has_seed ? message->seed : 0;
    sampling->keep_support = message->has_keep_support && message->keep_support;
    sampling->stop_count = (int32_t)(stop_bytes / sizeof(int32_t));
    if (stop_bytes > 0)
        memcpy(sampling->stop_ids, message->stop_ids.data, stop_bytes);
    return sampling_validate(sampling);
}

void wire_reward_build(struct wire_reward *wire, const struct reward *reward)
{
    HONE_ASSERT(reward->part_count >= 0 && reward->part_count <= REWARD_PARTS_MAX);
    hone__reward__init(&wire->message);
    wire->message.status = reward->status;
    wire->message.has_total = 1;
    wire->message.total = reward->total;
    wire->message.n_parts = (size_t)reward->part_count;
    wire->message.parts = reward->part_count > 0 ? wire->pointers : NULL;
    for (int32_t i = 0; i < reward->part_count; i++) {
        const struct reward_part *part = &reward->parts[i];
        Hone__RewardPart *message = &wire->parts[i];
        hone__reward_part__init(message);
        message->name = (char *)(uintptr_t)part->name;
        message->has_value = message->has_weight = 1;
        message->value = part->value;
        message->weight = part->weight;
        message->status = part->status;
        wire->pointers[i] = message;
    }
}

int wire_reward_read(const Hone__Reward *message, struct reward *reward)
{
    memset(reward, 0, sizeof *reward);
    if (message->n_parts > REWARD_PARTS_MAX)
        return error_set(HONE_EFORMAT, "%zu reward parts, at most %d", message->n_parts,
                         REWARD_PARTS_MAX);
    reward->status = (enum reward_status)message->status;
    if (reward->status == REWARD_OK && !message->has_total)
        return error_set(HONE_EFORMAT, "a reward without a total (G8)");
    reward->total = message->has_total ? message->total : 0.0f;
    reward->part_count = (int32_t)message->n_parts;
    for (size_t i = 0; i < message->n_parts; i++) {
        const Hone__RewardPart *from = message->parts[i];
        struct reward_part *part = &reward->parts[i];
        if (strlen(from->name) >= sizeof part->name)
            return error_set(HONE_EFORMAT, "reward part name %.40s... is too long", from->name);
        snprintf(part->name, sizeof part->name, "%s", from->name);
        part->status = (enum reward_status)from->status;
        if (part->status == REWARD_OK && !from->has_value)
            return error_set(HONE_EFORMAT, "reward part %s has no value (G8)", part->name);
        part->value = from->has_value ? from->value : 0.0f;
        part->weight = from->has_weight ? from->weight : 1.0f;
    }
    return reward_validate(reward);
}

/* The number of runs of equal versions; each is written to `out` unless that is NULL. */
static size_t encode_runs(const int64_t *versions, int32_t count, unsigned char *out)
{
    size_t runs = 0;
    for (int32_t i = 0; i < count;) {
        int32_t end = i + 1;
        while (end < count && versions[end] == versions[i])
            end++;
        if (out) {
            int32_t length = end - i;
            memcpy(out + runs * RUN_BYTES, &versions[i], sizeof *versions);
            memcpy(out + runs * RUN_BYTES + 8, &length, sizeof length);
        }
        runs++;
        i = end;
    }
    return runs;
}

/* Zero in bits: a negative zero has to survive the trip too. */
static bool all_zero(const float *values, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        if (bits != 0)
            return false;
    }
    return true;
}

static ProtobufCBinaryData place(unsigned char **cursor, const void *data, size_t bytes)
{
    ProtobufCBinaryData binary = {.len = bytes, .data = *cursor};
    if (bytes > 0 && data)
        memcpy(*cursor, data, bytes);
    *cursor += bytes;
    return binary;
}

static void build_arrays(struct wire_trajectory *wire, const struct trajectory *t,
                         unsigned char *cursor, size_t runs, bool has_mass, bool has_mixed)
{
    Hone__Trajectory *m = &wire->message;
    size_t count = (size_t)t->token_count;
    m->tokens = place(&cursor, t->tokens, count * sizeof(int32_t));
    m->behavior_logprob = place(&cursor, t->behavior_logprob, count * sizeof(float));
    m->has_log_mass = has_mass;
    if (has_mass)
        m->log_mass = place(&cursor, t->log_mass, count * sizeof(float));
    m->version_runs = place(&cursor, NULL, runs * RUN_BYTES);
    encode_runs(t->policy_version, t->token_count, m->version_runs.data);
    m->segments = place(&cursor, NULL, (size_t)t->segment_count * SEGMENT_BYTES);
    for (int32_t i = 0; i < t->segment_count; i++) {
        const struct segment *segment = &t->segments[i];
        int32_t words[3] = {(int32_t)segment->kind, segment->start, segment->count};
        memcpy(m->segments.data + (size_t)i * SEGMENT_BYTES, words, sizeof words);
    }
    m->loss_mask = place(&cursor, t->loss_mask, count);
    m->has_kv_mixed = has_mixed;
    if (has_mixed)
        m->kv_mixed = place(&cursor, t->kv_mixed, count);
    m->has_routing = t->routing_bytes > 0;
    if (m->has_routing)
        m->routing = place(&cursor, t->routing, (size_t)t->routing_bytes);
    m->has_support = t->support_bytes > 0;
    if (m->has_support)
        m->support = place(&cursor, t->support, (size_t)t->support_bytes);
}

void wire_trajectory_build(struct wire_trajectory *wire, const struct trajectory *trajectory)
{
    const struct trajectory *t = trajectory;
    HONE_ASSERT(t->token_count >= 0 && t->segment_count >= 0 && t->routing_bytes >= 0 &&
                t->support_bytes >= 0);
    size_t count = (size_t)t->token_count;
    size_t runs = encode_runs(t->policy_version, t->token_count, NULL);
    bool has_mass = !all_zero(t->log_mass, t->token_count);
    bool has_mixed = count > 0 && t->kv_mixed && memchr(t->kv_mixed, 1, count);
    size_t bytes = count * (sizeof(int32_t) + 2 * sizeof(float) + 2) + runs * RUN_BYTES +
                   (size_t)t->segment_count * SEGMENT_BYTES + (size_t)t->routing_bytes +
                   (size_t)t->support_bytes;
    struct trajectory_storage *storage = memory_alloc(1, sizeof *storage + bytes);
    Hone__Trajectory *m = &wire->message;
    hone__trajectory__init(m);
    wire->storage = storage;
    storage->sampling = t->sampling;
    storage->reward = t->reward;
    wire_sampling_build(&storage->sampling_message, &storage->sampling);
    wire_reward_build(&storage->reward_message, &storage->reward);
    m->id = t->id;
    m->prompt_id = t->prompt_id;
    m->group_id = t->group_id;
    m->sample_index = t->sample_index;
    m->lease_id = t->lease_id;
    m->fence = t->fence;
    m->prompt_token_count = t->prompt_tokens;
    build_arrays(wire, t, storage->arrays, runs, has_mass, has_mixed);
    m->finish = t->finish;
    m->sampling = &storage->sampling_message;
    m->reward = &storage->reward_message.message;
    m->has_leased_ms = m->has_started_ms = m->has_finished_ms = m->has_scored_ms = 1;
    m->leased_ms = t->leased_ms;
    m->started_ms = t->started_ms;
    m->finished_ms = t->finished_ms;
    m->scored_ms = t->scored_ms;
}

void wire_trajectory_release(struct wire_trajectory *wire)
{
    memory_free(wire->storage);
    memset(wire, 0, sizeof *wire);
}

static int check_array(const char *name, const ProtobufCBinaryData *array, size_t expected)
{
    if (array->len != expected)
        return error_set(HONE_EFORMAT, "%s has %zu bytes, not %zu", name, array->len, expected);
    return 0;
}

/* Every length is compared with the token array before anything is allocated for it. */
static int check_sizes(const Hone__Trajectory *m, size_t count)
{
    if (m->tokens.len % sizeof(int32_t) != 0 || count > INT32_MAX)
        return error_set(HONE_EFORMAT, "tokens have %zu bytes", m->tokens.len);
    int rc = check_array("behavior_logprob", &m->behavior_logprob, count * sizeof(float));
    if (rc == 0 && m->has_log_mass)
        rc = check_array("log_mass", &m->log_mass, count * sizeof(float));
    if (rc == 0)
        rc = check_array("loss_mask", &m->loss_mask, count);
    if (rc == 0 && m->has_kv_mixed)
        rc = check_array("kv_mixed", &m->kv_mixed, count);
    if (rc < 0)
        return rc;
    if (m->version_runs.len % RUN_BYTES != 0 || m->version_runs.len / RUN_BYTES > count)
        return error_set(HONE_EFORMAT, "version_runs have %zu bytes", m->version_runs.len);
    if (m->segments.len % SEGMENT_BYTES != 0 || m->segments.len / SEGMENT_BYTES > count)
        return error_set(HONE_EFORMAT, "segments have %zu bytes", m->segments.len);
    if (m->has_routing && m->routing.len > INT32_MAX)
        return error_set(HONE_EFORMAT, "routing has %zu bytes", m->routing.len);
    if (m->has_support && m->support.len > INT32_MAX)
        return error_set(HONE_EFORMAT, "support has %zu bytes", m->support.len);
    return 0;
}

static int read_runs(const Hone__Trajectory *m, struct trajectory *t)
{
    int32_t done = 0;
    for (size_t i = 0; i < m->version_runs.len; i += RUN_BYTES) {
        int64_t version;
        int32_t length;
        memcpy(&version, m->version_runs.data + i, sizeof version);
        memcpy(&length, m->version_runs.data + i + 8, sizeof length);
        if (length <= 0 || length > t->token_count - done)
            return error_set(HONE_EFORMAT, "a version run of %d tokens at token %d of %d", length,
                             done, t->token_count);
        for (int32_t end = done + length; done < end; done++)
            t->policy_version[done] = version;
    }
    if (done != t->token_count)
        return error_set(HONE_EFORMAT, "version runs cover %d of %d tokens", done, t->token_count);
    return 0;
}

static void copy_array(void *to, const ProtobufCBinaryData *from)
{
    if (from->len > 0)
        memcpy(to, from->data, from->len);
}

static int read_arrays(const Hone__Trajectory *m, struct trajectory *t)
{
    copy_array(t->tokens, &m->tokens);
    copy_array(t->behavior_logprob, &m->behavior_logprob);
    copy_array(t->loss_mask, &m->loss_mask);
    if (m->has_log_mass)
        copy_array(t->log_mass, &m->log_mass);
    if (m->has_kv_mixed)
        copy_array(t->kv_mixed, &m->kv_mixed);
    t->segment_count = (int32_t)(m->segments.len / SEGMENT_BYTES);
    t->segments = MEMORY_ARRAY(struct segment, t->segment_count);
    for (int32_t i = 0; i < t->segment_count; i++) {
        int32_t words[3];
        memcpy(words, m->segments.data + (size_t)i * SEGMENT_BYTES, sizeof words);
        t->segments[i] = (struct segment){(enum segment_kind)words[0], words[1], words[2]};
    }
    if (m->has_routing && m->routing.len > 0) {
        t->routing_bytes = (int32_t)m->routing.len;
        t->routing = memory_dup(m->routing.data, m->routing.len);
    }
    if (m->has_support && m->support.len > 0) {
        t->support_bytes = (int32_t)m->support.len;
        t->support = memory_dup(m->support.data, m->support.len);
    }
    return read_runs(m, t);
}

int wire_trajectory_read(const Hone__Trajectory *message, struct trajectory *trajectory)
{
    const Hone__Trajectory *m = message;
    struct trajectory *t = trajectory;
    memset(t, 0, sizeof *t);
    size_t count = m->tokens.len / sizeof(int32_t);
    int rc = check_sizes(m, count);
    if (rc < 0)
        return error_prefix("trajectory %016llx", (unsigned long long)m->id);
    trajectory_init(t, (int32_t)count);
    t->id = m->id;
    t->prompt_id = m->prompt_id;
    t->group_id = m->group_id;
    t->sample_index = m->sample_index;
    t->lease_id = m->lease_id;
    t->fence = m->fence;
    t->prompt_tokens = m->prompt_token_count;
    t->token_count = (int32_t)count;
    t->finish = (enum finish_reason)m->finish;
    t->leased_ms = m->has_leased_ms ? m->leased_ms : 0;
    t->started_ms = m->has_started_ms ? m->started_ms : 0;
    t->finished_ms = m->has_finished_ms ? m->finished_ms : 0;
    t->scored_ms = m->has_scored_ms ? m->scored_ms : 0;
    rc = read_arrays(m, t);
    if (rc == 0)
        rc = wire_sampling_read(m->sampling, &t->sampling);
    if (rc == 0 && m->reward)
        rc = wire_reward_read(m->reward, &t->reward);
    else if (rc == 0)
        t->reward.status = REWARD_ABSTAIN; /* not scored is not a score of 0 (G8) */
    if (rc == 0)
        rc = trajectory_validate(t);
    if (rc < 0) {
        error_prefix("trajectory %016llx", (unsigned long long)m->id);
        trajectory_release(t);
    }
    return rc;
}

struct append_buffer {
    ProtobufCBuffer base; /* first: the callback gets its address */
    struct text *out;
};

static void append_bytes(ProtobufCBuffer *buffer, size_t length, const uint8_t *data)
{
    text_append_bytes(((struct append_buffer *)(void *)buffer)->out, data, length);
}

void wire_time_build(struct wire_time *wire, const struct time_account *account,
                     Hone__Heartbeat *beat)
{
    for (int32_t i = 0; i < account->count; i++) {
        hone__time_spent__init(&wire->items[i]);
        wire->items[i].activity = (char *)(uintptr_t)account->names[i];
        wire->items[i].us = account->spent_ns[i] / 1000;
        wire->pointers[i] = &wire->items[i];
    }
    beat->n_time_spent = (size_t)account->count;
    beat->time_spent = wire->pointers;
}

void wire_pack(const ProtobufCMessage *message, struct text *out)
{
    struct append_buffer buffer = {.base = {append_bytes}, .out = out};
    protobuf_c_message_pack_to_buffer(message, &buffer.base);
}

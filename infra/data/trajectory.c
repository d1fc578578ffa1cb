#include "infra/data/trajectory.h"

#include <math.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/data/token_support.h"

/* fp32 rounding may leave a logarithm of a probability a little above zero; more is a bug upstream.
 */
#define LOG_PROBABILITY_SLACK 1e-3f

void prompt_release(struct prompt *prompt)
{
    memory_free(prompt->text);
    memory_free(prompt->tokens);
    memory_free(prompt->ground_truth);
    memory_free(prompt->capability);
    memory_free(prompt->data_source);
    memory_free(prompt->extra_json);
    memset(prompt, 0, sizeof *prompt);
}

void trajectory_init(struct trajectory *trajectory, int32_t capacity)
{
    HONE_ASSERT(capacity >= 0);
    memset(trajectory, 0, sizeof *trajectory);
    trajectory->tokens = MEMORY_ARRAY(int32_t, capacity);
    trajectory->behavior_logprob = MEMORY_ARRAY(float, capacity);
    trajectory->log_mass = MEMORY_ARRAY(float, capacity);
    trajectory->policy_version = MEMORY_ARRAY(int64_t, capacity);
    trajectory->loss_mask = MEMORY_ARRAY(uint8_t, capacity);
    trajectory->kv_mixed = MEMORY_ARRAY(uint8_t, capacity);
}

void trajectory_release(struct trajectory *trajectory)
{
    memory_free(trajectory->tokens);
    memory_free(trajectory->behavior_logprob);
    memory_free(trajectory->log_mass);
    memory_free(trajectory->policy_version);
    memory_free(trajectory->loss_mask);
    memory_free(trajectory->kv_mixed);
    memory_free(trajectory->support);
    memory_free(trajectory->segments);
    memory_free(trajectory->routing);
    memset(trajectory, 0, sizeof *trajectory);
}

void trajectory_add_segment(struct trajectory *trajectory, enum segment_kind kind, int32_t count)
{
    HONE_ASSERT(count >= 0);
    if (count == 0)
        return;
    int32_t old = trajectory->segment_count;
    struct segment *last = old > 0 ? &trajectory->segments[old - 1] : NULL;
    if (last && last->kind == kind) {
        last->count += count;
        return;
    }
    int32_t start = last ? last->start + last->count : 0;
    trajectory->segments = memory_resize(trajectory->segments, (size_t)old, (size_t)old + 1,
                                         sizeof *trajectory->segments);
    trajectory->segments[old] = (struct segment){.kind = kind, .start = start, .count = count};
    trajectory->segment_count = old + 1;
}

int64_t trajectory_oldest_version(const struct trajectory *trajectory)
{
    for (int32_t i = 0; i < trajectory->token_count; i++) {
        if (trajectory->loss_mask[i])
            return trajectory->policy_version[i];
    }
    return -1;
}

int64_t trajectory_newest_version(const struct trajectory *trajectory)
{
    for (int32_t i = trajectory->token_count - 1; i >= 0; i--) {
        if (trajectory->loss_mask[i])
            return trajectory->policy_version[i];
    }
    return -1;
}

int32_t trajectory_completion_tokens(const struct trajectory *trajectory)
{
    return trajectory->token_count - trajectory->prompt_tokens;
}

static void *grown(void *array, int32_t old_count, const void *tail, int32_t count, size_t size)
{
    array = memory_resize(array, (size_t)old_count, (size_t)(old_count + count), size);
    memcpy((char *)array + (size_t)old_count * size, tail, (size_t)count * size);
    return array;
}

void trajectory_append(struct trajectory *to, const struct trajectory *tail)
{
    int32_t old = to->token_count, count = tail->token_count;
    HONE_ASSERT(tail->prompt_tokens == 0 && to->kv_mixed && tail->kv_mixed);
    if (count == 0)
        return;
    to->tokens = grown(to->tokens, old, tail->tokens, count, sizeof *to->tokens);
    to->behavior_logprob = grown(to->behavior_logprob, old, tail->behavior_logprob, count,
                                 sizeof *to->behavior_logprob);
    to->log_mass = grown(to->log_mass, old, tail->log_mass, count, sizeof *to->log_mass);
    to->policy_version =
        grown(to->policy_version, old, tail->policy_version, count, sizeof *to->policy_version);
    to->loss_mask = grown(to->loss_mask, old, tail->loss_mask, count, sizeof *to->loss_mask);
    to->kv_mixed = grown(to->kv_mixed, old, tail->kv_mixed, count, sizeof *to->kv_mixed);
    if (tail->support_bytes > 0)
        to->support = grown(to->support, to->support_bytes, tail->support, tail->support_bytes, 1);
    to->support_bytes += tail->support_bytes;
    to->token_count += count;
    trajectory_add_segment(to, SEGMENT_POLICY, count);
}

static int check_lengths(const struct trajectory *t)
{
    if (t->token_count < 0 || t->segment_count < 0 || t->routing_bytes < 0 ||
        t->support_bytes < 0 || t->sample_index < 0)
        return error_set(HONE_EFORMAT,
                         "a negative count (tokens %d, segments %d, routing %d, support %d, "
                         "sample %d)",
                         t->token_count, t->segment_count, t->routing_bytes, t->support_bytes,
                         t->sample_index);
    if (t->prompt_tokens < 0 || t->prompt_tokens > t->token_count)
        return error_set(HONE_EFORMAT, "%d prompt tokens of %d tokens", t->prompt_tokens,
                         t->token_count);
    if (t->token_count > 0 &&
        (!t->tokens || !t->behavior_logprob || !t->log_mass || !t->policy_version || !t->loss_mask))
        return error_set(HONE_EFORMAT, "a per-token array is missing");
    if ((t->segment_count > 0 && !t->segments) || (t->routing_bytes > 0 && !t->routing) ||
        (t->support_bytes > 0 && !t->support))
        return error_set(HONE_EFORMAT, "segments, routing or support are missing");
    return 0;
}

/* Segments tile the tokens in order; the prompt is the first one and the only one of its kind. */
static int check_segments(const struct trajectory *t)
{
    int32_t next = 0;
    for (int32_t i = 0; i < t->segment_count; i++) {
        const struct segment *s = &t->segments[i];
        if ((int)s->kind < SEGMENT_PROMPT || (int)s->kind > SEGMENT_ENVIRONMENT)
            return error_set(HONE_EFORMAT, "segment %d has kind %d", i, (int)s->kind);
        if (s->start != next || s->count <= 0 || s->count > t->token_count - next)
            return error_set(HONE_EFORMAT,
                             "segment %d (start %d, count %d) leaves a gap or ends "
                             "past %d tokens",
                             i, s->start, s->count, t->token_count);
        bool is_prompt = s->kind == SEGMENT_PROMPT;
        if (is_prompt != (i == 0 && t->prompt_tokens > 0) ||
            (is_prompt && s->count != t->prompt_tokens))
            return error_set(HONE_EFORMAT, "segment %d does not fit the %d prompt tokens", i,
                             t->prompt_tokens);
        next += s->count;
    }
    if (next != t->token_count)
        return error_set(HONE_EFORMAT, "segments cover %d of %d tokens", next, t->token_count);
    return 0;
}

static bool is_log_probability(float value)
{
    return isfinite(value) && value <= LOG_PROBABILITY_SLACK;
}

static int check_token(const struct trajectory *t, int32_t i, enum segment_kind kind,
                       int64_t *newest)
{
    int64_t version = t->policy_version[i];
    if (t->tokens[i] < 0)
        return error_set(HONE_EFORMAT, "token %d has id %d", i, t->tokens[i]);
    if (t->loss_mask[i] > 1)
        return error_set(HONE_EFORMAT, "token %d has loss mask %d", i, t->loss_mask[i]);
    if (t->kv_mixed && t->kv_mixed[i] > t->loss_mask[i])
        return error_set(HONE_EFORMAT, "token %d has KV mark %d and loss mask %d", i,
                         t->kv_mixed[i], t->loss_mask[i]);
    if (t->loss_mask[i] && (kind != SEGMENT_POLICY || version < 0))
        return error_set(HONE_EFORMAT, "token %d is trained but was not sampled by a policy", i);
    if (!t->loss_mask[i] && (t->behavior_logprob[i] != 0.0f || t->log_mass[i] != 0.0f))
        return error_set(HONE_EFORMAT, "token %d is masked but has a logprob", i);
    if (!is_log_probability(t->behavior_logprob[i]) || !is_log_probability(t->log_mass[i]))
        return error_set(HONE_EFORMAT, "token %d has logprob %g, log mass %g", i,
                         (double)t->behavior_logprob[i], (double)t->log_mass[i]);
    if (version < -1 || (kind == SEGMENT_PROMPT && version != -1))
        return error_set(HONE_EFORMAT, "token %d has policy version %lld", i, (long long)version);
    if (version >= 0 && version < *newest)
        return error_set(HONE_EFORMAT, "token %d goes back from policy version %lld to %lld (G2)",
                         i, (long long)*newest, (long long)version);
    if (version > *newest)
        *newest = version;
    return 0;
}

static int check_tokens(const struct trajectory *t)
{
    int64_t newest = -1;
    for (int32_t s = 0; s < t->segment_count; s++) {
        const struct segment *segment = &t->segments[s];
        for (int32_t i = segment->start; i < segment->start + segment->count; i++) {
            int rc = check_token(t, i, segment->kind, &newest);
            if (rc < 0)
                return rc;
        }
    }
    return 0;
}

static int check_support(const struct trajectory *t)
{
    struct support_cursor cursor = {0};
    if (t->support_bytes > 0)
        cursor = (struct support_cursor){t->support, t->support + t->support_bytes};
    for (int32_t i = 0; t->sampling.keep_support && i < t->token_count; i++) {
        if (!t->loss_mask[i])
            continue;
        int found = token_support_contains(&cursor, t->tokens[i]);
        if (found < 0)
            return error_prefix("token %d", i);
        if (!found)
            return error_set(HONE_EFORMAT, "token %d (id %d) is not in what it was drawn from", i,
                             t->tokens[i]);
    }
    if (cursor.at != cursor.end)
        return error_set(HONE_EFORMAT, "%lld bytes of support belong to no token",
                         (long long)(cursor.end - cursor.at));
    return 0;
}

int sampling_validate(const struct sampling *sampling)
{
    if (!isfinite(sampling->temperature) || sampling->temperature < 0.0f)
        return error_set(HONE_EFORMAT, "temperature %g", (double)sampling->temperature);
    if (!(sampling->top_p >= 0.0f && sampling->top_p <= 1.0f))
        return error_set(HONE_EFORMAT, "top_p %g is not in 0..1", (double)sampling->top_p);
    if (!(sampling->min_p >= 0.0f && sampling->min_p <= 1.0f))
        return error_set(HONE_EFORMAT, "min_p %g is not in 0..1", (double)sampling->min_p);
    if (sampling->top_k < 0 || sampling->max_completion_tokens < 0)
        return error_set(HONE_EFORMAT, "top_k %d, max_completion_tokens %d", sampling->top_k,
                         sampling->max_completion_tokens);
    if (sampling->stop_count < 0 || sampling->stop_count > SAMPLING_STOP_MAX)
        return error_set(HONE_EFORMAT, "%d stop ids, at most %d", sampling->stop_count,
                         SAMPLING_STOP_MAX);
    return 0;
}

static bool is_reward_status(enum reward_status status)
{
    return (int)status >= REWARD_OK && (int)status <= REWARD_ERROR;
}

int reward_validate(const struct reward *reward)
{
    if (!is_reward_status(reward->status))
        return error_set(HONE_EFORMAT, "reward status %d", (int)reward->status);
    if (reward->status == REWARD_OK && !isfinite(reward->total))
        return error_set(HONE_EFORMAT, "reward total %g (G8)", (double)reward->total);
    if (reward->part_count < 0 || reward->part_count > REWARD_PARTS_MAX)
        return error_set(HONE_EFORMAT, "%d reward parts, at most %d", reward->part_count,
                         REWARD_PARTS_MAX);
    for (int32_t i = 0; i < reward->part_count; i++) {
        const struct reward_part *part = &reward->parts[i];
        if (!memchr(part->name, '\0', sizeof part->name) || part->name[0] == '\0')
            return error_set(HONE_EFORMAT, "reward part %d has no proper name", i);
        if (!is_reward_status(part->status) || !isfinite(part->weight) ||
            (part->status == REWARD_OK && !isfinite(part->value)))
            return error_set(HONE_EFORMAT, "reward part %s: status %d, value %g, weight %g",
                             part->name, (int)part->status, (double)part->value,
                             (double)part->weight);
    }
    return 0;
}

int trajectory_validate(const struct trajectory *trajectory)
{
    int rc = check_lengths(trajectory);
    if (rc == 0)
        rc = check_segments(trajectory);
    if (rc == 0)
        rc = check_tokens(trajectory);
    if (rc == 0 &&
        ((int)trajectory->finish < FINISH_NONE || (int)trajectory->finish > FINISH_ABORT))
        rc = error_set(HONE_EFORMAT, "finish reason %d", (int)trajectory->finish);
    if (rc == 0)
        rc = sampling_validate(&trajectory->sampling);
    if (rc == 0)
        rc = check_support(trajectory);
    if (rc == 0)
        rc = reward_validate(&trajectory->reward);
    return rc;
}

const char *finish_reason_name(enum finish_reason finish)
{
    switch (finish) {
    case FINISH_NONE:
        return "none";
    case FINISH_STOP:
        return "stop";
    case FINISH_LENGTH:
        return "length";
    case FINISH_ABORT:
        return "abort";
    }
    return "?";
}

const char *reward_status_name(enum reward_status status)
{
    switch (status) {
    case REWARD_OK:
        return "ok";
    case REWARD_ABSTAIN:
        return "abstain";
    case REWARD_TIMEOUT:
        return "timeout";
    case REWARD_ERROR:
        return "error";
    }
    return "?";
}

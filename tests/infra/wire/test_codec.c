/* Messages built from structs and read back: the same bits, and each broken length or rule refused.
 */
#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "infra/data/token_support.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/wire/codec.h"
#include "infra/wire/envelope.h"

#define CASES 300

static uint64_t draw(uint64_t seed, uint64_t *position, uint64_t bound)
{
    struct rng_key key = {.seed = seed, .purpose = RNG_SIM};
    return rng_below(&key, (*position)++, bound);
}

static void draw_tokens(struct trajectory *t, uint64_t seed, uint64_t *at)
{
    int64_t version = (int64_t)draw(seed, at, 1000) - 1;
    for (int32_t s = 0; s < t->segment_count; s++) {
        const struct segment *segment = &t->segments[s];
        for (int32_t i = segment->start; i < segment->start + segment->count; i++) {
            bool sampled = segment->kind == SEGMENT_POLICY && draw(seed, at, 8) > 0;
            t->tokens[i] = (int32_t)draw(seed, at, INT32_MAX);
            t->loss_mask[i] = sampled;
            version += draw(seed, at, 5) == 0;
            t->policy_version[i] = segment->kind == SEGMENT_POLICY ? version + 1 : -1;
            if (!sampled)
                continue;
            t->behavior_logprob[i] = -(float)draw(seed, at, 1 << 30) / 7.0f;
            if (draw(seed, at, 3) == 0)
                t->behavior_logprob[i] = -FLT_TRUE_MIN;
            t->log_mass[i] = seed % 2 ? 0.0f : -(float)draw(seed, at, 1 << 20) / 3e6f;
        }
    }
}

/* Every second trained token was drawn from itself and a neighbour, the others from all. */
static void draw_support(struct trajectory *t)
{
    struct token_support support = {0};
    for (int32_t i = 0; t->sampling.keep_support && i < t->token_count; i++) {
        const int32_t ids[2] = {t->tokens[i] / 2, t->tokens[i]};
        if (t->loss_mask[i])
            token_support_add(&support, ids + (ids[0] == ids[1]),
                              i % 2 ? 0 : 2 - (ids[0] == ids[1]));
    }
    t->support = support.bytes;
    t->support_bytes = (int32_t)support.length;
}

static void draw_trajectory(struct trajectory *t, uint64_t seed)
{
    uint64_t at = 0;
    int32_t prompt = (int32_t)draw(seed, &at, 20);
    int32_t turns = (int32_t)draw(seed, &at, 5);
    trajectory_init(t, prompt + turns * 40);
    trajectory_add_segment(t, SEGMENT_PROMPT, prompt);
    t->token_count = t->prompt_tokens = prompt;
    for (int32_t i = 0; i < turns; i++) {
        int32_t count = 1 + (int32_t)draw(seed, &at, 40);
        trajectory_add_segment(t, i % 2 ? SEGMENT_ENVIRONMENT : SEGMENT_POLICY, count);
        t->token_count += count;
    }
    draw_tokens(t, seed, &at);
    t->id = draw(seed, &at, UINT64_MAX);
    t->prompt_id = draw(seed, &at, UINT64_MAX);
    t->group_id = draw(seed, &at, UINT64_MAX);
    t->lease_id = draw(seed, &at, UINT64_MAX);
    t->fence = draw(seed, &at, UINT64_MAX);
    t->sample_index = (int32_t)draw(seed, &at, 64);
    t->finish = (enum finish_reason)draw(seed, &at, 4);
    t->sampling = (struct sampling){.temperature = 0.7f, .top_p = 0.9f, .top_k = 40, .min_p = 0.1f};
    t->sampling.max_completion_tokens = 512;
    t->sampling.seed = draw(seed, &at, UINT64_MAX);
    t->sampling.stop_count = (int32_t)draw(seed, &at, SAMPLING_STOP_MAX + 1);
    for (int32_t i = 0; i < t->sampling.stop_count; i++)
        t->sampling.stop_ids[i] = (int32_t)draw(seed, &at, 50000);
    t->reward.status = (enum reward_status)draw(seed, &at, 4);
    t->reward.total = -1.5f;
    t->reward.part_count = (int32_t)draw(seed, &at, REWARD_PARTS_MAX + 1);
    for (int32_t i = 0; i < t->reward.part_count; i++) {
        struct reward_part *part = &t->reward.parts[i];
        snprintf(part->name, sizeof part->name, "part-%d-with-a-longer-name", i);
        part->value = 0.1f * (float)i;
        part->weight = 1.0f / (float)(i + 1);
        part->status = (enum reward_status)(i % 4);
    }
    t->routing_bytes = (int32_t)draw(seed, &at, 3) * 17;
    t->routing = t->routing_bytes ? memory_alloc((size_t)t->routing_bytes, 1) : NULL;
    for (int32_t i = 0; i < t->routing_bytes; i++)
        t->routing[i] = (uint8_t)draw(seed, &at, 256);
    t->sampling.keep_support = draw(seed, &at, 2) != 0;
    draw_support(t);
    t->leased_ms = 1700000000000 + (int64_t)seed;
    t->started_ms = t->leased_ms + 5;
    t->finished_ms = t->leased_ms + 50;
    t->scored_ms = seed % 3 ? t->leased_ms + 70 : 0;
}

/* Struct padding is not compared: these structs are made of 4-byte fields and arrays only, but for
 * sampling.seed, so fields go one by one where that matters. */
static void assert_same_sampling(const struct sampling *a, const struct sampling *b)
{
    assert_memory_equal(&a->temperature, &b->temperature, sizeof a->temperature);
    assert_memory_equal(&a->top_p, &b->top_p, sizeof a->top_p);
    assert_int_equal(a->top_k, b->top_k);
    assert_memory_equal(&a->min_p, &b->min_p, sizeof a->min_p);
    assert_int_equal(a->max_completion_tokens, b->max_completion_tokens);
    assert_int_equal(a->seed, b->seed);
    assert_int_equal(a->keep_support, b->keep_support);
    assert_int_equal(a->stop_count, b->stop_count);
    assert_memory_equal(a->stop_ids, b->stop_ids, sizeof a->stop_ids);
}

static void assert_same(const struct trajectory *a, const struct trajectory *b)
{
    size_t count = (size_t)a->token_count;
    assert_int_equal(a->id, b->id);
    assert_int_equal(a->prompt_id, b->prompt_id);
    assert_int_equal(a->group_id, b->group_id);
    assert_int_equal(a->sample_index, b->sample_index);
    assert_int_equal(a->lease_id, b->lease_id);
    assert_int_equal(a->fence, b->fence);
    assert_int_equal(a->prompt_tokens, b->prompt_tokens);
    assert_int_equal(a->token_count, b->token_count);
    assert_memory_equal(a->tokens, b->tokens, count * sizeof *a->tokens);
    assert_memory_equal(a->behavior_logprob, b->behavior_logprob, count * sizeof(float));
    assert_memory_equal(a->log_mass, b->log_mass, count * sizeof(float));
    assert_memory_equal(a->policy_version, b->policy_version, count * sizeof(int64_t));
    assert_memory_equal(a->loss_mask, b->loss_mask, count);
    assert_int_equal(a->support_bytes, b->support_bytes);
    if (a->support_bytes > 0)
        assert_memory_equal(a->support, b->support, (size_t)a->support_bytes);
    assert_int_equal(a->segment_count, b->segment_count);
    if (a->segment_count > 0)
        assert_memory_equal(a->segments, b->segments,
                            (size_t)a->segment_count * sizeof *a->segments);
    assert_int_equal(a->routing_bytes, b->routing_bytes);
    if (a->routing_bytes > 0)
        assert_memory_equal(a->routing, b->routing, (size_t)a->routing_bytes);
    assert_int_equal(a->finish, b->finish);
    assert_same_sampling(&a->sampling, &b->sampling);
    assert_memory_equal(&a->reward, &b->reward, sizeof a->reward);
    assert_int_equal(a->leased_ms, b->leased_ms);
    assert_int_equal(a->started_ms, b->started_ms);
    assert_int_equal(a->finished_ms, b->finished_ms);
    assert_int_equal(a->scored_ms, b->scored_ms);
}

static void test_round_trip(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < CASES; seed++) {
        struct trajectory sent, received;
        struct wire_trajectory wire;
        struct text bytes;
        ProtobufCMessage *message;
        draw_trajectory(&sent, seed);
        if (trajectory_validate(&sent) < 0)
            fail_msg("seed %d: %s", (int)seed, error_message());
        wire_trajectory_build(&wire, &sent);
        assert_int_equal(wire.message.has_log_mass,
                         sent.token_count > sent.prompt_tokens && wire.message.has_log_mass);
        text_init(&bytes);
        wire_pack(&wire.message.base, &bytes);
        assert_int_equal(bytes.length, protobuf_c_message_get_packed_size(&wire.message.base));
        wire_trajectory_release(&wire);
        assert_int_equal(
            wire_unpack(&message, &hone__trajectory__descriptor, bytes.data, bytes.length), 0);
        assert_int_equal(wire_trajectory_read((Hone__Trajectory *)message, &received), 0);
        wire_free(message);
        assert_same(&sent, &received);
        trajectory_release(&sent);
        trajectory_release(&received);
        text_release(&bytes);
    }
}

static void tokens_cut(Hone__Trajectory *m)
{
    m->tokens.len -= 1;
}
static void tokens_fewer(Hone__Trajectory *m)
{
    m->tokens.len -= 4;
}
static void logprob_cut(Hone__Trajectory *m)
{
    m->behavior_logprob.len -= 4;
}
static void mass_cut(Hone__Trajectory *m)
{
    m->log_mass.len -= 4;
}
static void mask_cut(Hone__Trajectory *m)
{
    m->loss_mask.len -= 1;
}
static void mask_two(Hone__Trajectory *m)
{
    m->loss_mask.data[m->loss_mask.len - 1] = 2;
}
static void runs_cut(Hone__Trajectory *m)
{
    m->version_runs.len -= 5;
}
static void runs_missing(Hone__Trajectory *m)
{
    m->version_runs.len = 0;
}
static void run_negative(Hone__Trajectory *m)
{
    memset(m->version_runs.data + 8, 0xff, 4);
}
static void run_too_long(Hone__Trajectory *m)
{
    memset(m->version_runs.data + 8, 0x7f, 4);
}
static void run_empty(Hone__Trajectory *m)
{
    memset(m->version_runs.data + 8, 0, 4);
}
static void segments_cut(Hone__Trajectory *m)
{
    m->segments.len -= 1;
}
static void segments_missing(Hone__Trajectory *m)
{
    m->segments.len = 0;
}
static void segment_start(Hone__Trajectory *m)
{
    memset(m->segments.data + 4, 0xff, 4);
}
static void prompt_negative(Hone__Trajectory *m)
{
    m->prompt_token_count = -1;
}
static void sample_negative(Hone__Trajectory *m)
{
    m->sample_index = -1;
}
static void finish_unknown(Hone__Trajectory *m)
{
    m->finish = 99;
}
static void stop_ids_odd(Hone__Trajectory *m)
{
    m->sampling->stop_ids.len = 3;
}
static void stop_ids_many(Hone__Trajectory *m)
{
    m->sampling->stop_ids.len = 4 * (SAMPLING_STOP_MAX + 1);
}
static void reward_without_total(Hone__Trajectory *m)
{
    m->reward->has_total = 0;
}
static void reward_status(Hone__Trajectory *m)
{
    m->reward->status = -1;
}
static void reward_parts(Hone__Trajectory *m)
{
    m->reward->n_parts = REWARD_PARTS_MAX + 1;
}
static char long_name[40] = "a name that is longer than its 31 bytes";
static void reward_name_long(Hone__Trajectory *m)
{
    m->reward->parts[0]->name = long_name;
}
static char empty_name[1];
static void reward_name_empty(Hone__Trajectory *m)
{
    m->reward->parts[0]->name = empty_name;
}
static void part_without_value(Hone__Trajectory *m)
{
    m->reward->parts[0]->has_value = 0;
}

static void (*const spoilers[])(Hone__Trajectory *m) = {
    tokens_cut,     tokens_fewer,    logprob_cut,      mass_cut,          mask_cut,
    mask_two,       runs_cut,        runs_missing,     run_negative,      run_too_long,
    run_empty,      segments_cut,    segments_missing, segment_start,     prompt_negative,
    finish_unknown, stop_ids_odd,    stop_ids_many,    reward_status,     reward_without_total,
    reward_parts,   sample_negative, reward_name_long, reward_name_empty, part_without_value,
};

static void test_refuses_each_broken_message(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof spoilers / sizeof *spoilers; i++) {
        struct trajectory sent, received;
        struct wire_trajectory wire;
        trajectory_init(&sent, 8);
        sent.token_count = 8;
        sent.prompt_tokens = 3;
        trajectory_add_segment(&sent, SEGMENT_PROMPT, 3);
        trajectory_add_segment(&sent, SEGMENT_POLICY, 5);
        for (int32_t k = 0; k < 8; k++) {
            sent.policy_version[k] = k < 3 ? -1 : k / 2;
            sent.loss_mask[k] = k >= 3;
            sent.behavior_logprob[k] = k < 3 ? 0.0f : -1.0f;
            sent.log_mass[k] = k < 3 ? 0.0f : -0.5f;
        }
        sent.sampling = (struct sampling){.temperature = 1.0f, .top_p = 1.0f, .stop_count = 8};
        sent.reward.part_count = 1;
        sent.reward.parts[0].name[0] = 'x';
        wire_trajectory_build(&wire, &sent);
        assert_int_equal(wire_trajectory_read(&wire.message, &received), 0);
        assert_same(&sent, &received);
        trajectory_release(&received);
        spoilers[i](&wire.message);
        if (wire_trajectory_read(&wire.message, &received) != HONE_EFORMAT)
            fail_msg("case %d was not refused", (int)i);
        assert_null(received.tokens);
        wire_trajectory_release(&wire);
        trajectory_release(&sent);
    }
}

static void test_unscored_is_not_a_zero(void **state)
{
    (void)state;
    struct trajectory sent, received;
    struct wire_trajectory wire;
    trajectory_init(&sent, 0);
    wire_trajectory_build(&wire, &sent);
    wire.message.reward = NULL;
    assert_int_equal(wire_trajectory_read(&wire.message, &received), 0);
    assert_int_equal(received.reward.status, REWARD_ABSTAIN);
    wire_trajectory_release(&wire);
    trajectory_release(&received);
    trajectory_release(&sent);
}

static void test_sampling_defaults(void **state)
{
    (void)state;
    struct sampling sampling;
    Hone__Sampling message = HONE__SAMPLING__INIT;
    assert_int_equal(wire_sampling_read(&message, &sampling), 0);
    assert_true(sampling.temperature == 1.0f && sampling.top_p == 1.0f);
    assert_int_equal(sampling.top_k, 0);
    assert_int_equal(sampling.stop_count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_refuses_each_broken_message),
        cmocka_unit_test(test_unscored_is_not_a_zero),
        cmocka_unit_test(test_sampling_defaults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

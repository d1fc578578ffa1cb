/* Envelope decoding: E1 (memory) and E2 (kind and message agree), and thousands of mutated frames.
 */
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"
#include "infra/base/text.h"
#include "infra/wire/codec.h"
#include "infra/wire/envelope.h"
#include "infra/wire/socket.h"

#define MUTATIONS 6000

static void pack_hello(struct text *out)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Hello hello = HONE__HELLO__INIT;
    char worker[] = "actor-0", recipe[] = "abc";
    hello.worker = worker;
    hello.recipe_hash = recipe;
    envelope.kind = HONE__KIND__KIND_HELLO;
    envelope.sequence = 7;
    envelope.hello = &hello;
    wire_pack(&envelope.base, out);
}

static void pack_trajectory(struct text *out)
{
    struct trajectory trajectory;
    struct wire_trajectory wire;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    trajectory_init(&trajectory, 6);
    trajectory.token_count = 6;
    trajectory.prompt_tokens = 2;
    trajectory_add_segment(&trajectory, SEGMENT_PROMPT, 2);
    trajectory_add_segment(&trajectory, SEGMENT_POLICY, 4);
    for (int i = 0; i < 6; i++) {
        trajectory.policy_version[i] = i < 2 ? -1 : i;
        trajectory.loss_mask[i] = i >= 2;
        trajectory.behavior_logprob[i] = i < 2 ? 0.0f : -0.5f;
    }
    trajectory.reward.part_count = 2;
    snprintf(trajectory.reward.parts[0].name, sizeof trajectory.reward.parts[0].name, "%s",
             "exact");
    snprintf(trajectory.reward.parts[1].name, sizeof trajectory.reward.parts[1].name, "%s",
             "length");
    wire_trajectory_build(&wire, &trajectory);
    envelope.kind = HONE__KIND__KIND_TRAJECTORY;
    envelope.trajectory = &wire.message;
    wire_pack(&envelope.base, out);
    wire_trajectory_release(&wire);
    trajectory_release(&trajectory);
}

static void test_decodes_what_was_packed(void **state)
{
    (void)state;
    struct text bytes;
    Hone__Envelope *envelope;
    text_init(&bytes);
    pack_hello(&bytes);
    assert_true(envelope_looks_like_hello(bytes.data, bytes.length));
    assert_int_equal(envelope_decode(&envelope, bytes.data, bytes.length, -1), 0);
    assert_int_equal(envelope->sequence, 7);
    assert_string_equal(envelope->hello->worker, "actor-0");
    wire_free(&envelope->base);
    text_clear(&bytes);
    pack_trajectory(&bytes);
    assert_false(envelope_looks_like_hello(bytes.data, bytes.length));
    assert_false(envelope_looks_like_hello(bytes.data, 1));
    assert_int_equal(envelope_decode(&envelope, bytes.data, bytes.length, -1), 0);
    wire_free(&envelope->base);
    text_release(&bytes);
}

static void test_kind_and_message_agree(void **state)
{
    (void)state;
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Stop stop = HONE__STOP__INIT;
    Hone__ScoreAck ack = HONE__SCORE_ACK__INIT;
    Hone__WeightsChunk chunk = HONE__WEIGHTS_CHUNK__INIT;
    envelope.kind = HONE__KIND__KIND_STOP;
    assert_int_equal(envelope_check(&envelope, 10, -1), HONE_EFORMAT);
    envelope.stop = &stop;
    assert_int_equal(envelope_check(&envelope, 10, -1), 0);
    assert_int_equal(envelope_check(&envelope, 10, 0), HONE_EFORMAT);
    assert_int_equal(envelope_check(&envelope, 1 << 20, -1), HONE_EFORMAT);
    envelope.score_ack = &ack;
    assert_int_equal(envelope_check(&envelope, 10, -1), HONE_EFORMAT);
    envelope.stop = NULL;
    assert_int_equal(envelope_check(&envelope, 10, -1), HONE_EFORMAT);
    envelope.score_ack = NULL;
    envelope.kind = HONE__KIND__KIND_WEIGHTS_CHUNK;
    envelope.weights_chunk = &chunk;
    chunk.bytes = 5;
    assert_int_equal(envelope_check(&envelope, 10, 5), 0);
    assert_int_equal(envelope_check(&envelope, 10, 4), HONE_EFORMAT);
    assert_int_equal(envelope_check(&envelope, 10, -1), HONE_EFORMAT);
    chunk.bytes = -1;
    assert_int_equal(envelope_check(&envelope, 10, -1), HONE_EFORMAT);
    envelope.kind = (Hone__Kind)-1;
    assert_int_equal(envelope_check(&envelope, 10, -1), HONE_EFORMAT);
    envelope.kind = (Hone__Kind)1000;
    assert_int_equal(envelope_check(&envelope, 10, -1), HONE_EFORMAT);
    assert_string_equal(wire_kind_name(HONE__KIND__KIND_LEASE_RETURN), "LEASE_RETURN");
    assert_string_equal(wire_kind_name((Hone__Kind)1000), "?");
}

/* Fields that the type does not know are kept one by one by protobuf-c, at some 50 bytes for each 2
 * of input: a valid Stop, were it not for the budget. */
static void test_memory_is_bounded_by_input(void **state)
{
    (void)state;
    enum { COUNT = 1 << 20 };
    unsigned char *frame = memory_alloc(COUNT, 2);
    ProtobufCMessage *message;
    for (size_t i = 0; i < COUNT; i++)
        frame[2 * i] = 0x3a; /* field 7, length 0 */
    assert_int_equal(wire_unpack(&message, &hone__stop__descriptor, frame, 2 * 1000), 0);
    wire_free(message);
    size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
    assert_int_equal(wire_unpack(&message, &hone__stop__descriptor, frame, 2 * COUNT),
                     HONE_EFORMAT);
    assert_null(message);
    size_t after = mallinfo2().uordblks + mallinfo2().hblkhd;
    assert_true(after <= before + (64 << 10));
    memory_free(frame);
}

static void test_truncations(void **state)
{
    (void)state;
    struct text bytes;
    Hone__Envelope *envelope;
    text_init(&bytes);
    pack_trajectory(&bytes);
    for (size_t length = 0; length < bytes.length; length++) {
        char *exact = memory_dup(bytes.data, length); /* so that reading past the end is seen */
        assert_int_equal(envelope_decode(&envelope, exact, length, -1), HONE_EFORMAT);
        memory_free(exact);
    }
    text_release(&bytes);
}

static void mutate(struct text *bytes, uint64_t seed)
{
    struct rng_key key = {.seed = seed, .purpose = RNG_SIM};
    uint64_t at = 0;
    int edits = 1 + (int)rng_below(&key, at++, 2);
    for (int i = 0; i < edits && bytes->length > 1; i++) {
        size_t where = (size_t)rng_below(&key, at++, bytes->length);
        switch (rng_below(&key, at++, 8)) {
        case 0:
            bytes->data[where] = (char)rng_below(&key, at++, 256);
            break;
        case 1:
            bytes->data[where] ^= (char)(1 << rng_below(&key, at++, 8));
            break;
        case 2:
        case 3:
            bytes->data[where]++;
            break;
        case 4:
            memmove(bytes->data + where, bytes->data + where + 1, bytes->length - where - 1);
            bytes->length--;
            break;
        case 5:
            bytes->length = where + 1;
            break;
        default:
            bytes->data[where] ^= 1;
            break;
        }
    }
}

static void test_mutated_frames(void **state)
{
    (void)state;
    int refused = 0, decoded = 0, read = 0;
    for (uint64_t seed = 0; seed < MUTATIONS; seed++) {
        struct text bytes;
        Hone__Envelope *envelope;
        text_init(&bytes);
        if (seed % 2)
            pack_trajectory(&bytes);
        else
            pack_hello(&bytes);
        mutate(&bytes, seed);
        char *exact = memory_dup(bytes.data, bytes.length);
        if (envelope_decode(&envelope, exact, bytes.length, -1) < 0) {
            refused++;
        } else {
            struct trajectory trajectory;
            decoded++;
            if (envelope->trajectory &&
                wire_trajectory_read(envelope->trajectory, &trajectory) == 0) {
                assert_int_equal(trajectory_validate(&trajectory), 0);
                trajectory_release(&trajectory);
                read++;
            }
            wire_free(&envelope->base);
        }
        memory_free(exact);
        text_release(&bytes);
    }
    printf("%d refused, %d decoded, of which %d trajectories valid\n", refused, decoded, read);
    assert_true(refused > MUTATIONS / 10 && decoded > MUTATIONS / 10 && read > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decodes_what_was_packed),
        cmocka_unit_test(test_kind_and_message_agree),
        cmocka_unit_test(test_memory_is_bounded_by_input),
        cmocka_unit_test(test_truncations),
        cmocka_unit_test(test_mutated_frames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

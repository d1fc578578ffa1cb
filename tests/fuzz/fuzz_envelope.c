/* Envelope decoding, then everything that reads a decoded message: trajectory, reward, sampling.
 * A trajectory that is accepted must be valid and survive a second trip unchanged. */
#include <stdint.h>

#include "infra/base/assert.h"
#include "infra/base/text.h"
#include "infra/wire/codec.h"
#include "infra/wire/envelope.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check_trajectory(const Hone__Trajectory *message)
{
    struct trajectory trajectory, again;
    struct wire_trajectory wire;
    if (wire_trajectory_read(message, &trajectory) < 0)
        return;
    HONE_ASSERT(trajectory_validate(&trajectory) == 0);
    wire_trajectory_build(&wire, &trajectory);
    HONE_ASSERT(wire_trajectory_read(&wire.message, &again) == 0);
    HONE_ASSERT(again.token_count == trajectory.token_count);
    HONE_ASSERT(trajectory_newest_version(&again) == trajectory_newest_version(&trajectory));
    wire_trajectory_release(&wire);
    trajectory_release(&again);
    trajectory_release(&trajectory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    Hone__Envelope *envelope;
    /* A payload of the length that the first byte says, when it says one, so that both rules of E2
     * are reached. */
    int64_t payload_bytes = bytes > 0 && data[0] == 0xff ? (int64_t)bytes : -1;
    size_t skip = payload_bytes >= 0 ? 1 : 0;
    if (envelope_decode(&envelope, data + skip, bytes - skip, payload_bytes) < 0)
        return 0;
    HONE_ASSERT(envelope_check(envelope, bytes - skip, payload_bytes) == 0);
    struct reward reward;
    struct sampling sampling;
    if (envelope->trajectory)
        check_trajectory(envelope->trajectory);
    if (envelope->progress)
        check_trajectory(envelope->progress->chunk);
    for (size_t i = 0; envelope->batch && i < envelope->batch->n_trajectories; i++)
        check_trajectory(envelope->batch->trajectories[i]);
    if (envelope->score_result)
        (void)wire_reward_read(envelope->score_result->reward, &reward);
    if (envelope->lease)
        (void)wire_sampling_read(envelope->lease->sampling, &sampling);
    struct text out;
    text_init(&out);
    wire_pack(&envelope->base, &out);
    text_release(&out);
    wire_free(&envelope->base);
    return 0;
}

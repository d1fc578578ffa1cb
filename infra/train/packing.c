#include "infra/train/packing.h"

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/train/trainer.h"

#define MAX_SEQUENCES_FLOOR 8  /* tiny micro-batches still hold a few pairs */
#define TOKENS_PER_SEQUENCE 16 /* average below which the sequence bound is what closes a batch */

int32_t packing_max_sequences(int32_t max_tokens)
{
    int32_t most = max_tokens / TOKENS_PER_SEQUENCE;
    return most > MAX_SEQUENCES_FLOOR ? most : MAX_SEQUENCES_FLOOR;
}

int packing_next(const struct train_sequence *sequences, int32_t count, int32_t first,
                 int32_t max_tokens)
{
    int32_t sequences_max = packing_max_sequences(max_tokens);
    int32_t taken = 0;
    int64_t tokens = 0;

    HONE_ASSERT(first >= 0 && first < count && max_tokens > 0);
    while (first + taken < count) {
        int32_t begin = first + taken;
        int32_t end = begin;
        int64_t unit_tokens = 0;
        while (end < count && sequences[end].unit == sequences[begin].unit)
            unit_tokens += sequences[end++].count;
        if (tokens + unit_tokens > max_tokens || taken + (end - begin) > sequences_max) {
            if (taken > 0)
                break;
            return error_set(HONE_EINVAL,
                             "%d sequences that must share a micro-batch have %lld tokens, more "
                             "than a micro-batch of %d tokens holds; raise micro_batch_tokens or "
                             "lower the maximum length",
                             end - begin, (long long)unit_tokens, max_tokens);
        }
        tokens += unit_tokens;
        taken += end - begin;
    }
    return taken;
}

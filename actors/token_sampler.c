#include "actors/token_sampler.h"

#include <math.h>

#include "infra/base/assert.h"

static int32_t greedy_token(int64_t count, const float *logits)
{
    int32_t best = 0;
    for (int64_t i = 1; i < count; i++) {
        if (logits[i] > logits[best])
            best = (int32_t)i;
    }
    return best;
}

/* Whether id a comes before id b: more likely first, then the lower id. Logits decide, because two
 * probabilities may round to the same value. */
static bool ranks_before(const float *logits, int32_t a, int32_t b)
{
    if (logits[a] != logits[b])
        return logits[a] > logits[b];
    return a < b;
}

/* Restores the heap (best id at the root) below `root`. */
static void heap_sift(const float *logits, int32_t *heap, int64_t count, int64_t root)
{
    int32_t moved = heap[root];
    for (int64_t child = 2 * root + 1; child < count; child = 2 * root + 1) {
        if (child + 1 < count && ranks_before(logits, heap[child + 1], heap[child]))
            child++;
        if (!ranks_before(logits, heap[child], moved))
            break;
        heap[root] = heap[child];
        root = child;
    }
    heap[root] = moved;
}

/* Moves the best of the heap's first `count` ids to the heap's end. */
static int32_t heap_pop(const float *logits, int32_t *heap, int64_t count)
{
    int32_t best = heap[0];
    heap[0] = heap[count - 1];
    heap[count - 1] = best;
    heap_sift(logits, heap, count - 1, 0);
    return best;
}

/* Orders ids by likelihood from the array's end and returns how many of them top-k and top-p keep.
 * A heap costs the vocabulary once and a logarithm per kept token: no full sort. */
static int64_t take_most_likely(int64_t count, const float *logits, const float *probs,
                                const struct sampling *sampling, int32_t *heap)
{
    for (int64_t i = 0; i < count; i++)
        heap[i] = (int32_t)i;
    for (int64_t i = count / 2 - 1; i >= 0; i--)
        heap_sift(logits, heap, count, i);

    bool limited = sampling->top_k > 0 && sampling->top_k < count;
    int64_t limit = limited ? sampling->top_k : count;
    double available = 0.0; /* the mass that top-p takes its share of */
    for (int64_t i = 0; i < limit; i++)
        available += (double)probs[limited ? heap_pop(logits, heap, count - i) : i];
    if (!(sampling->top_p < 1.0f))
        return limit;
    double target = (double)sampling->top_p * available;
    double mass = 0.0;
    int64_t kept = 0;
    while (kept < limit && (kept == 0 || mass < target)) {
        int64_t place = count - 1 - kept;
        mass += (double)probs[limited ? heap[place] : heap_pop(logits, heap, place + 1)];
        kept++;
    }
    return kept;
}

/* Sets the probability of every id that top-k, top-p or min-p cut to zero; returns how many stay.
 */
static int64_t cut_support(int64_t count, const float *logits, const struct sampling *sampling,
                           float *probs, int32_t *order)
{
    int64_t kept = count;
    if (sampling->top_k > 0 || sampling->top_p < 1.0f) {
        kept = take_most_likely(count, logits, probs, sampling, order);
        for (int64_t i = 0; i < count - kept; i++)
            probs[order[i]] = 0.0f;
    }
    if (sampling->min_p > 0.0f) {
        int32_t best = greedy_token(count, logits);
        float threshold = sampling->min_p * probs[best];
        for (int64_t i = 0; i < count; i++) {
            if (i != best && probs[i] < threshold && probs[i] > 0.0f) {
                probs[i] = 0.0f;
                kept--;
            }
        }
    }
    return kept;
}

int32_t token_sample(const struct backend_ops *ops, int64_t vocab, int64_t allowed_vocab,
                     const float *logits, const struct sampling *sampling,
                     const struct rng_key *key, uint64_t position, float *probs_scratch,
                     int32_t *order_scratch, float *log_mass)
{
    HONE_ASSERT(allowed_vocab > 0 && allowed_vocab <= vocab);
    *log_mass = 0.0f;
    if (sampling->temperature <= 0.0f)
        return greedy_token(allowed_vocab, logits);

    ops->softmax_row(vocab, logits, sampling->temperature, probs_scratch);
    int64_t kept = cut_support(allowed_vocab, logits, sampling, probs_scratch, order_scratch);
    double mass = 0.0;
    for (int64_t i = 0; i < allowed_vocab; i++)
        mass += (double)probs_scratch[i];
    if (kept < vocab && mass < 1.0)
        *log_mass = (float)log(mass);

    double uniform = (double)(rng_u64(key, position) >> 11) * 0x1p-53; /* [0, 1) */
    double target = uniform * mass;
    double cumulative = 0.0;
    int32_t chosen = greedy_token(allowed_vocab, logits); /* when no probability is a number */
    for (int64_t i = 0; i < allowed_vocab; i++) {
        if (!(probs_scratch[i] > 0.0f))
            continue;
        chosen = (int32_t)i;
        cumulative += (double)probs_scratch[i];
        if (cumulative > target)
            break;
    }
    return chosen;
}

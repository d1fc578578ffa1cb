#include "dpo/preference_pairs.h"

#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/memory.h"

#define PAIRS_CAPACITY_FIRST 64

void preference_pairs_init(struct preference_pairs *pairs)
{
    memset(pairs, 0, sizeof *pairs);
}

void preference_pairs_release(struct preference_pairs *pairs)
{
    for (int64_t i = 0; i < pairs->count; i++) {
        example_release(&pairs->items[i].chosen);
        example_release(&pairs->items[i].rejected);
        example_release(&pairs->items[i].mismatch);
    }
    memory_free(pairs->items);
    memset(pairs, 0, sizeof *pairs);
}

static enum pair_verdict judge(const struct preference_pairs *pairs,
                               const struct pair_limits *limits, const struct example *chosen,
                               const struct example *rejected)
{
    int32_t a = example_trained_tokens(chosen), b = example_trained_tokens(rejected);
    int32_t longer = a > b ? a : b, shorter = a > b ? b : a;

    if (limits->pairs_max > 0 && pairs->count >= limits->pairs_max)
        return PAIR_OVER_MAX;
    if (chosen->count > limits->max_length || rejected->count > limits->max_length)
        return PAIR_TOO_LONG;
    if (shorter == 0)
        return PAIR_EMPTY;
    if (chosen->count == rejected->count &&
        memcmp(chosen->tokens, rejected->tokens, (size_t)chosen->count * sizeof *chosen->tokens) ==
            0)
        return PAIR_SAME;
    if (limits->max_length_ratio > 0.0f &&
        (double)longer > (double)limits->max_length_ratio * (double)shorter)
        return PAIR_LENGTH_RATIO;
    return PAIR_KEPT;
}

static void append(struct preference_pairs *pairs, const struct example *chosen,
                   const struct example *rejected)
{
    if (pairs->count == pairs->capacity) {
        int64_t capacity = pairs->capacity > 0 ? 2 * pairs->capacity : PAIRS_CAPACITY_FIRST;
        pairs->items = memory_resize(pairs->items, (size_t)pairs->capacity, (size_t)capacity,
                                     sizeof *pairs->items);
        pairs->capacity = capacity;
    }
    pairs->items[pairs->count++] = (struct preference_pair){
        .chosen = *chosen, .rejected = *rejected, .chosen_data = {.chosen = true}};
}

enum pair_verdict preference_pairs_add(struct preference_pairs *pairs,
                                       const struct pair_limits *limits, struct example *chosen,
                                       struct example *rejected)
{
    enum pair_verdict verdict = judge(pairs, limits, chosen, rejected);

    pairs->verdicts[verdict]++;
    if (verdict == PAIR_KEPT) {
        append(pairs, chosen, rejected);
        memset(chosen, 0, sizeof *chosen);
        memset(rejected, 0, sizeof *rejected);
    }
    example_release(chosen);
    example_release(rejected);
    return verdict;
}

void preference_pairs_drop(struct preference_pairs *pairs, enum pair_verdict verdict)
{
    HONE_ASSERT(verdict != PAIR_KEPT && verdict < PAIR_VERDICT_COUNT);
    pairs->verdicts[verdict]++;
}

int64_t preference_pairs_dropped(const struct preference_pairs *pairs)
{
    int64_t dropped = 0;
    for (int verdict = PAIR_KEPT + 1; verdict < PAIR_VERDICT_COUNT; verdict++)
        dropped += pairs->verdicts[verdict];
    return dropped;
}

int64_t preference_pairs_longest(const struct preference_pairs *pairs)
{
    int64_t longest = 0;
    for (int64_t i = 0; i < pairs->count; i++) {
        int64_t tokens = (int64_t)pairs->items[i].chosen.count + pairs->items[i].rejected.count;
        longest = tokens > longest ? tokens : longest;
    }
    return longest;
}

/* Tokens before the first that is trained. */
static int32_t prompt_tokens(const struct example *example)
{
    int32_t tokens = 1;
    while (tokens < example->count && example->mask[tokens] == 0)
        tokens++;
    return tokens;
}

void preference_pairs_mismatch(struct preference_pairs *pairs, int32_t max_length)
{
    for (int64_t i = 0; i < pairs->count; i++) {
        struct preference_pair *pair = &pairs->items[i];
        const struct example *other = &pairs->items[(i + 1) % pairs->count].chosen;
        int32_t prompt = prompt_tokens(&pair->chosen), skipped = prompt_tokens(other);
        int32_t count = prompt + other->count - skipped;
        int32_t *tokens = MEMORY_ARRAY(int32_t, count);
        uint8_t *mask = MEMORY_ARRAY(uint8_t, count);
        memcpy(tokens, pair->chosen.tokens, (size_t)prompt * sizeof *tokens);
        memcpy(tokens + prompt, other->tokens + skipped, (size_t)(count - prompt) * sizeof *tokens);
        memcpy(mask + prompt, other->mask + skipped, (size_t)(count - prompt));
        example_release(&pair->mismatch);
        example_from_tokens(&pair->mismatch, tokens, mask, count < max_length ? count : max_length);
        memory_free(tokens);
        memory_free(mask);
    }
}

const char *pair_verdict_name(enum pair_verdict verdict)
{
    static const char *const names[PAIR_VERDICT_COUNT] = {
        "kept",         "too long",     "nothing to train", "same answers",
        "length ratio", "small margin", "too few rewards",  "over pairs_max"};
    HONE_ASSERT(verdict >= PAIR_KEPT && verdict < PAIR_VERDICT_COUNT);
    return names[verdict];
}

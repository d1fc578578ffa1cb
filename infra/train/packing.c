#include "infra/train/packing.h"

#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/train/trainer.h"

#define MAX_SEQUENCES_FLOOR 8  /* tiny micro-batches still hold a few pairs */
#define TOKENS_PER_SEQUENCE 16 /* average below which the sequence bound is what closes a batch */
#define CAPACITY_FLOOR      64

struct packing_unit {
    int32_t first, count; /* sequences of the batch */
    int32_t tokens;
    int32_t shard;
    int32_t bin;
    int32_t bin_in_order; /* when units are taken as they come */
};

struct packing_bin {
    int32_t tokens, sequences;
    int32_t shard;
    int32_t place; /* among the micro-batches in order of shards */
};

int32_t packing_max_sequences(int32_t max_tokens)
{
    int32_t most = max_tokens / TOKENS_PER_SEQUENCE;
    return most > MAX_SEQUENCES_FLOOR ? most : MAX_SEQUENCES_FLOOR;
}

void packing_init(struct packing *packing, int32_t max_tokens, int32_t shards)
{
    HONE_ASSERT(max_tokens > 0 && shards >= 1 && shards <= PACKING_SHARDS_MAX);
    *packing = (struct packing){.max_tokens = max_tokens, .shards = shards};
}

void packing_release(struct packing *packing)
{
    memory_free(packing->sequences);
    memory_free(packing->order);
    memory_free(packing->ends);
    memory_free(packing->units);
    memory_free(packing->by_length);
    memory_free(packing->bins);
    *packing = (struct packing){0};
}

static void reserve(struct packing *packing, int32_t count)
{
    int32_t max_tokens = packing->max_tokens, shards = packing->shards;
    int32_t capacity = packing->capacity > 0 ? packing->capacity : CAPACITY_FLOOR;
    if (count <= packing->capacity)
        return;
    while (capacity < count)
        capacity = capacity > INT32_MAX / 2 ? count : 2 * capacity;
    packing_release(packing);
    packing_init(packing, max_tokens, shards);
    packing->capacity = capacity;
    packing->sequences = MEMORY_ARRAY(struct train_sequence, capacity);
    packing->order = MEMORY_ARRAY(int32_t, capacity);
    packing->ends = MEMORY_ARRAY(int32_t, capacity);
    packing->units = MEMORY_ARRAY(struct packing_unit, capacity);
    packing->by_length = MEMORY_ARRAY(int32_t, capacity);
    packing->bins = MEMORY_ARRAY(struct packing_bin, capacity);
}

/* Finds the units; returns their number. */
static int find_units(struct packing *packing, const struct train_sequence *sequences,
                      int32_t count)
{
    int32_t units = 0, most = packing_max_sequences(packing->max_tokens);
    for (int32_t first = 0, end = 0; first < count; first = end) {
        int64_t tokens = 0;
        while (end < count && sequences[end].unit == sequences[first].unit)
            tokens += sequences[end++].count;
        if (tokens > packing->max_tokens || end - first > most)
            return error_set(HONE_EINVAL,
                             "%d sequences that must share a micro-batch have %lld tokens, more "
                             "than a micro-batch of %d tokens holds; raise micro_batch_tokens or "
                             "lower the maximum length",
                             end - first, (long long)tokens, packing->max_tokens);
        packing->units[units++] =
            (struct packing_unit){.first = first, .count = end - first, .tokens = (int32_t)tokens};
    }
    return units;
}

static bool longer(const struct packing_unit *units, int32_t a, int32_t b)
{
    return units[a].tokens != units[b].tokens ? units[a].tokens > units[b].tokens : a < b;
}

/* Lets by_length[root] sink until neither child comes after it in the final order. */
static void sift_down(int32_t *by_length, const struct packing_unit *units, int32_t root,
                      int32_t count)
{
    for (int32_t child = 2 * root + 1; child < count; child = 2 * root + 1) {
        if (child + 1 < count && longer(units, by_length[child], by_length[child + 1]))
            child++;
        if (!longer(units, by_length[root], by_length[child]))
            return;
        int32_t moved = by_length[root];
        by_length[root] = by_length[child];
        by_length[child] = moved;
        root = child;
    }
}

/* Heap sort: in place, and a total order makes it the only possible result. */
static void sort_by_length(int32_t *by_length, const struct packing_unit *units, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        by_length[i] = i;
    for (int32_t root = count / 2 - 1; root >= 0; root--)
        sift_down(by_length, units, root, count);
    for (int32_t last = count - 1; last > 0; last--) {
        int32_t moved = by_length[0];
        by_length[0] = by_length[last];
        by_length[last] = moved;
        sift_down(by_length, units, 0, last);
    }
}

/* Longest first, each to the shard with the fewest tokens. */
static void deal(struct packing *packing, int32_t units)
{
    int64_t tokens[PACKING_SHARDS_MAX] = {0};
    for (int32_t i = 0; i < units; i++) {
        struct packing_unit *unit = &packing->units[packing->by_length[i]];
        for (int32_t s = 1; s < packing->shards; s++)
            if (tokens[s] < tokens[unit->shard])
                unit->shard = s;
        tokens[unit->shard] += unit->tokens;
    }
}

/* The fullest micro-batch of its shard with room for the unit; a new one when there is none. */
static int32_t best_bin(struct packing *packing, const struct packing_unit *unit)
{
    int32_t best = -1, most = packing_max_sequences(packing->max_tokens);
    for (int32_t i = 0; i < packing->micro_batch_count; i++) {
        const struct packing_bin *bin = &packing->bins[i];
        if (bin->shard == unit->shard && unit->tokens <= packing->max_tokens - bin->tokens &&
            unit->count <= most - bin->sequences &&
            (best < 0 || bin->tokens > packing->bins[best].tokens))
            best = i;
    }
    if (best < 0) {
        best = packing->micro_batch_count++;
        packing->bins[best] = (struct packing_bin){.shard = unit->shard};
    }
    return best;
}

/* Units as they come, a new micro-batch whenever one does not fit; returns how many there are. */
static int32_t fill_in_order(struct packing *packing, int32_t units)
{
    int32_t bin = 0, tokens = 0, sequences = 0, most = packing_max_sequences(packing->max_tokens);
    for (int32_t u = 0; u < units; u++) {
        struct packing_unit *unit = &packing->units[u];
        if (unit->tokens > packing->max_tokens - tokens || unit->count > most - sequences) {
            bin++;
            tokens = sequences = 0;
        }
        tokens += unit->tokens;
        sequences += unit->count;
        unit->bin_in_order = bin;
    }
    return bin + 1;
}

static void use_order(struct packing *packing, int32_t units, int32_t micro_batches)
{
    packing->micro_batch_count = micro_batches;
    memset(packing->bins, 0, (size_t)micro_batches * sizeof *packing->bins);
    for (int32_t u = 0; u < units; u++) {
        struct packing_unit *unit = &packing->units[u];
        unit->bin = unit->bin_in_order;
        packing->bins[unit->bin].sequences += unit->count;
    }
}

/* Micro-batches of a shard stand together. */
static void order_shards(struct packing *packing)
{
    int32_t place = 0;
    for (int32_t s = 0; s < packing->shards; s++) {
        for (int32_t i = 0; i < packing->micro_batch_count; i++)
            if (packing->bins[i].shard == s)
                packing->bins[i].place = place++;
        packing->shard_ends[s] = place;
    }
}

/* Sequences in packed order: each micro-batch's own, as they stand in the batch. */
static void place(struct packing *packing, const struct train_sequence *sequences, int32_t units)
{
    int32_t begin = 0;
    for (int32_t i = 0; i < packing->micro_batch_count; i++)
        packing->ends[packing->bins[i].place] = packing->bins[i].sequences;
    for (int32_t i = 0; i < packing->micro_batch_count; i++) {
        int32_t held = packing->ends[i];
        packing->ends[i] = begin;
        begin += held;
    }
    for (int32_t u = 0; u < units; u++) {
        const struct packing_unit *unit = &packing->units[u];
        for (int32_t i = 0; i < unit->count; i++) {
            int32_t to = packing->ends[packing->bins[unit->bin].place]++;
            packing->sequences[to] = sequences[unit->first + i];
            packing->order[to] = unit->first + i;
        }
    }
}

int packing_plan(struct packing *packing, const struct train_sequence *sequences, int32_t count)
{
    reserve(packing, count);
    packing->count = count;
    packing->micro_batch_count = 0;
    int units = find_units(packing, sequences, count);
    if (units < 0)
        return units;
    sort_by_length(packing->by_length, packing->units, units);
    deal(packing, units);
    for (int32_t i = 0; i < units; i++) {
        struct packing_unit *unit = &packing->units[packing->by_length[i]];
        unit->bin = best_bin(packing, unit);
        packing->bins[unit->bin].tokens += unit->tokens;
        packing->bins[unit->bin].sequences += unit->count;
    }
    int32_t in_order = packing->shards == 1 ? fill_in_order(packing, units) : INT32_MAX;
    if (in_order <= packing->micro_batch_count)
        use_order(packing, units, in_order);
    order_shards(packing);
    place(packing, sequences, units);
    return 0;
}

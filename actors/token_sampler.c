#include "actors/token_sampler.h"

#include <math.h>
#include <string.h>

#include "infra/base/assert.h"

#define MASS_BLOCK 256 /* ids whose probabilities are added up before they join the sum */
#define MASS_LANES 8
#define MAX_LANES  16
#define NEAR_NATS  6.0f /* first guess of how far below the most likely token a cut reaches */
#define FAR_NATS   18.0f

static float largest_of(int64_t count, const float *x)
{
    float lanes[MAX_LANES];
    int64_t i = 0;
    for (int lane = 0; lane < MAX_LANES; lane++)
        lanes[lane] = -INFINITY;
    for (; i + MAX_LANES <= count; i += MAX_LANES)
        for (int lane = 0; lane < MAX_LANES; lane++)
            lanes[lane] = x[i + lane] > lanes[lane] ? x[i + lane] : lanes[lane];
    for (; i < count; i++)
        lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
    for (int lane = 1; lane < MAX_LANES; lane++)
        lanes[0] = lanes[lane] > lanes[0] ? lanes[lane] : lanes[0];
    return lanes[0];
}

static int32_t greedy_token(int64_t count, const float *logits)
{
    float largest = largest_of(count, logits);
    for (int64_t i = 0; i < count; i++) {
        if (logits[i] == largest)
            return (int32_t)i;
    }
    return 0; /* nothing but NaN */
}

/* ---- cutting the support ---- */

/* Whether id a comes before id b: more likely first, then the lower id. Logits decide, because two
 * probabilities may round to the same value. */
static bool ranks_before(const float *logits, int32_t a, int32_t b)
{
    if (logits[a] != logits[b])
        return logits[a] > logits[b];
    return a < b;
}

/* The ids whose logit is at least `floor`, ascending. */
static int64_t collect_from(int64_t count, const float *logits, float floor, int32_t *ids)
{
    int64_t kept = 0;
    for (int64_t block = 0; block < count; block += MASS_BLOCK) {
        int64_t end = block + MASS_BLOCK < count ? block + MASS_BLOCK : count;
        if (!(largest_of(end - block, logits + block) >= floor))
            continue;
        for (int64_t i = block; i < end; i++) {
            ids[kept] = (int32_t)i;
            kept += logits[i] >= floor;
        }
    }
    return kept;
}

static double mass_of(const float *probs, int64_t count, const int32_t *ids)
{
    double mass = 0.0;
    for (int64_t i = 0; i < count; i++)
        mass += (double)probs[ids[i]];
    return mass;
}

/* The sum of a block's probabilities: in 8 lanes, then a fixed tree. */
static double block_mass(int64_t count, const float *probs)
{
    double lanes[MASS_LANES] = {0.0};
    int64_t i = 0;
    for (; i + MASS_LANES <= count; i += MASS_LANES)
        for (int lane = 0; lane < MASS_LANES; lane++)
            lanes[lane] += (double)probs[i + lane];
    for (; i < count; i++)
        lanes[i % MASS_LANES] += (double)probs[i];
    for (int width = MASS_LANES / 2; width >= 1; width /= 2)
        for (int lane = 0; lane < width; lane++)
            lanes[lane] += lanes[lane + width];
    return lanes[0];
}

static double total_mass(int64_t count, const float *probs)
{
    double mass = 0.0;
    for (int64_t i = 0; i < count; i += MASS_BLOCK)
        mass += block_mass(count - i < MASS_BLOCK ? count - i : MASS_BLOCK, probs + i);
    return mass;
}

/* One row being cut. */
struct cut {
    int64_t count;       /* allowed ids */
    const float *logits; /* [count] */
    const float *probs;
    const struct sampling *sampling;
    float largest; /* logit */
    int32_t *ids;
};

static bool limits_rank(const struct cut *cut)
{
    return cut->sampling->top_k > 0 && cut->sampling->top_k < cut->count;
}

/* Collects all ids within some distance of the most likely one, such that top-k and top-p keep
 * nothing outside; returns how many. */
static int64_t collect_candidates(const struct cut *cut, double nucleus)
{
    const float distances[] = {NEAR_NATS, FAR_NATS, INFINITY};
    int64_t kept = 0;
    for (int i = 0; i < 3; i++) {
        float floor = cut->largest - distances[i] * cut->sampling->temperature;
        kept = collect_from(cut->count, cut->logits, floor, cut->ids);
        if ((!limits_rank(cut) || kept >= cut->sampling->top_k) &&
            (limits_rank(cut) || mass_of(cut->probs, kept, cut->ids) >= nucleus))
            break;
    }
    return kept;
}

static void swap_ids(int32_t *a, int32_t *b)
{
    int32_t kept = *a;
    *a = *b;
    *b = kept;
}

/* Puts the id that ranks in the middle of the first, the middle and the last one at the end. */
static void place_pivot(const struct cut *cut, int64_t low, int64_t high)
{
    int32_t *first = &cut->ids[low], *middle = &cut->ids[low + (high - low) / 2];
    int32_t *last = &cut->ids[high - 1];
    if (ranks_before(cut->logits, *middle, *first))
        swap_ids(first, middle);
    if (ranks_before(cut->logits, *last, *first))
        swap_ids(first, last);
    if (ranks_before(cut->logits, *middle, *last))
        swap_ids(middle, last);
}

/* Moves the ids of [low, high) that rank before the last one to the front and that one behind them;
 * returns its place and adds the mass before it to *mass. */
static int64_t partition(const struct cut *cut, int64_t low, int64_t high, double *mass)
{
    int32_t pivot = cut->ids[high - 1];
    int64_t place = low;
    for (int64_t i = low; i < high - 1; i++) {
        if (!ranks_before(cut->logits, cut->ids[i], pivot))
            continue;
        *mass += (double)cut->probs[cut->ids[i]];
        swap_ids(&cut->ids[place++], &cut->ids[i]);
    }
    swap_ids(&cut->ids[place], &cut->ids[high - 1]);
    return place;
}

/* Moves the most likely of `count` ids to the front: the fewest whose mass reaches `nucleus`, at
 * most `limit`, at least one; returns how many. Quickselect: ids below low stay, the answer is no
 * more than high. */
static int64_t select_likely(const struct cut *cut, int64_t count, int64_t limit, double nucleus)
{
    int64_t low = 0, high = count;
    double mass = 0.0;
    while (low < high && low < limit && (low == 0 || mass < nucleus)) {
        double before = mass;
        place_pivot(cut, low, high);
        int64_t place = partition(cut, low, high, &before);
        if (place > 0 && (place >= limit || before >= nucleus)) {
            high = place;
        } else {
            low = place + 1;
            mass = before + (double)cut->probs[cut->ids[place]];
        }
    }
    return low < high ? low : high;
}

/* How many of the candidates top-k and top-p keep, at the front of their array. */
static int64_t rank_candidates(const struct cut *cut, int64_t candidates, double nucleus)
{
    const struct sampling *sampling = cut->sampling;
    if (!limits_rank(cut))
        return select_likely(cut, candidates, candidates, nucleus);
    int64_t likely = select_likely(cut, candidates, sampling->top_k, INFINITY);
    if (!(sampling->top_p < 1.0f))
        return likely;
    double available = mass_of(cut->probs, likely, cut->ids); /* top-p takes its share of it */
    return select_likely(cut, likely, likely, (double)sampling->top_p * available);
}

/* Leaves what top-k and top-p keep in cut->ids, ascending; returns how many. */
static int64_t keep_likely(const struct cut *cut)
{
    const struct sampling *sampling = cut->sampling;
    double nucleus = 0.0;
    if (!limits_rank(cut))
        nucleus = (double)sampling->top_p * total_mass(cut->count, cut->probs);
    int64_t candidates = collect_candidates(cut, nucleus);
    int64_t kept = rank_candidates(cut, candidates, nucleus);
    int32_t last = cut->ids[0]; /* the least likely one that stays */
    for (int64_t i = 1; i < kept; i++)
        last = ranks_before(cut->logits, last, cut->ids[i]) ? cut->ids[i] : last;
    int64_t near = collect_from(cut->count, cut->logits, cut->logits[last], cut->ids);
    int64_t stay = 0;
    for (int64_t i = 0; i < near; i++) {
        int32_t id = cut->ids[i];
        if (id == last || ranks_before(cut->logits, id, last))
            cut->ids[stay++] = id;
    }
    return stay;
}

/* Leaves the support in cut->ids, ascending; returns how many ids. */
static int64_t cut_support(const struct cut *cut)
{
    const struct sampling *sampling = cut->sampling;
    int32_t best = greedy_token(cut->count, cut->logits);
    int64_t kept, stay = 0;
    if (limits_rank(cut) || sampling->top_p < 1.0f)
        kept = keep_likely(cut);
    else /* a little further than min-p reaches, which decides by probability below */
        kept = collect_from(cut->count, cut->logits,
                            cut->largest + (logf(sampling->min_p) - 1.0f) * sampling->temperature,
                            cut->ids);
    float threshold = sampling->min_p * cut->probs[best];
    for (int64_t i = 0; i < kept; i++) {
        int32_t id = cut->ids[i];
        if (id == best || !(cut->probs[id] < threshold))
            cut->ids[stay++] = id;
    }
    return stay;
}

/* ---- drawing ---- */

static double draw_uniform(const struct rng_key *key, uint64_t position)
{
    return (double)(rng_u64(key, position) >> 11) * 0x1p-53; /* [0, 1) */
}

/* The first id at which the cumulative sum passes uniform * mass: whole blocks, then one by one. */
static int32_t draw_any(int64_t count, const float *probs, double uniform, double mass)
{
    double target = uniform * mass, cumulative = 0.0;
    int32_t chosen = -1;
    for (int64_t block = 0; block < count; block += MASS_BLOCK) {
        int64_t end = block + MASS_BLOCK < count ? block + MASS_BLOCK : count;
        double sum = block_mass(end - block, probs + block);
        if (!(cumulative + sum > target) && end < count) {
            cumulative += sum;
            continue;
        }
        for (int64_t i = block; i < end; i++) {
            if (!(probs[i] > 0.0f))
                continue;
            chosen = (int32_t)i;
            cumulative += (double)probs[i];
            if (cumulative > target)
                return chosen;
        }
        if (chosen >= 0)
            return chosen; /* rounding kept the sum at or below the target */
    }
    for (int64_t i = count - 1; i >= 0; i--) { /* the last block is empty: the last id before it */
        if (probs[i] > 0.0f)
            return (int32_t)i;
    }
    return 0;
}

static int32_t draw_from(const struct cut *cut, int64_t count, double uniform, double mass)
{
    double target = uniform * mass, cumulative = 0.0;
    int32_t chosen = cut->ids[0];
    for (int64_t i = 0; i < count; i++) {
        int32_t id = cut->ids[i];
        if (!(cut->probs[id] > 0.0f))
            continue;
        chosen = id;
        cumulative += (double)cut->probs[id];
        if (cumulative > target)
            break;
    }
    return chosen;
}

/* The parts of the distribution that is cut to the first `kept` of the sampler's ids: computed as
 * the learner will. The probabilities are overwritten. */
static void cut_parts(const struct token_sampler *sampler, const float *logits, float temperature,
                      int64_t kept, struct softmax_parts *parts)
{
    const struct logit_support support = {.ids = sampler->ids, .count = kept};
    memcpy(sampler->probs, logits, (size_t)sampler->vocab * sizeof *logits);
    sampler->ops->cut_logits(NULL, 1, sampler->vocab, sampler->probs, sampler->vocab, &support);
    sampler->ops->softmax_row(sampler->vocab, sampler->probs, temperature, sampler->probs, parts);
}

void token_sample(const struct token_sampler *sampler, const float *logits,
                  const struct sampling *sampling, const struct rng_key *key, uint64_t position,
                  struct token_choice *choice)
{
    bool greedy = sampling->temperature <= 0.0f;
    int64_t allowed = sampler->allowed_vocab;
    struct softmax_parts parts;
    HONE_ASSERT(allowed > 0 && allowed <= sampler->vocab);
    sampler->ops->softmax_row(sampler->vocab, logits, greedy ? 1.0f : sampling->temperature,
                              sampler->probs, &parts);
    struct cut cut = {.count = allowed,
                      .logits = logits,
                      .probs = sampler->probs,
                      .sampling = sampling,
                      .ids = sampler->ids};
    choice->log_mass = 0.0f;
    choice->kept = 0;
    if (greedy || !isfinite(parts.max) || !isfinite(parts.log_sum)) {
        choice->token = greedy_token(allowed, logits);
    } else if (limits_rank(&cut) || sampling->top_p < 1.0f || sampling->min_p > 0.0f) {
        cut.largest = largest_of(allowed, logits);
        int64_t kept = cut_support(&cut);
        double mass = mass_of(cut.probs, kept, cut.ids);
        choice->token = draw_from(&cut, kept, draw_uniform(key, position), mass);
        choice->kept = kept < sampler->vocab ? kept : 0;
        if (kept < sampler->vocab && mass < 1.0)
            choice->log_mass = (float)log(mass);
    } else {
        double mass = total_mass(allowed, sampler->probs);
        choice->token = draw_any(allowed, sampler->probs, draw_uniform(key, position), mass);
        if (allowed < sampler->vocab && mass < 1.0)
            choice->log_mass = (float)log(mass);
    }
    if (sampling->keep_support && choice->kept > 0)
        cut_parts(sampler, logits, sampling->temperature, choice->kept, &parts);
    choice->logprob = softmax_token_logprob(&parts, logits[choice->token]);
}

#include "curriculum/pools/prompt_pools.h"

#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/hash.h"
#include "infra/base/memory.h"

/* ---- capabilities ---- */

static int32_t capability_of(struct prompt_pools *pools, const char *name)
{
    if (name == NULL)
        name = "";
    for (int32_t i = 0; i < pools->capability_count; i++)
        if (strcmp(pools->capabilities[i].name, name) == 0)
            return i;
    if (pools->capability_count < POOL_CAPABILITIES_MAX)
        pools->capabilities[pools->capability_count++].name = name;
    return pools->capability_count - 1;
}

static double factor_of(const struct filter_options *options, const char *capability)
{
    for (int32_t i = 0; i < options->mix_count; i++)
        if (strcmp(options->mix[i].capability, capability) == 0)
            return options->mix[i].factor;
    return 1.0;
}

static void share_out(struct prompt_pools *pools)
{
    double sum = 0.0;
    for (int32_t i = 0; i < pools->capability_count; i++) {
        struct pool_capability *capability = &pools->capabilities[i];
        capability->share =
            (double)capability->prompts * factor_of(&pools->options, capability->name);
        sum += capability->share;
    }
    for (int32_t i = 0; i < pools->capability_count; i++)
        pools->capabilities[i].share /= sum > 0.0 ? sum : 1.0;
}

void prompt_pools_init(struct prompt_pools *pools, const struct filter_options *options,
                       const struct prompt *prompts, int64_t count, uint64_t seed,
                       int32_t slots_per_batch)
{
    *pools = (struct prompt_pools){
        .options = *options, .seed = seed, .count = count, .slots_per_batch = slots_per_batch};
    if (options->mode == FILTER_OFF)
        return;
    pools->prompts = MEMORY_ARRAY(struct pool_prompt, count);
    for (int64_t i = 0; i < count; i++) {
        pools->prompts[i].capability = capability_of(pools, prompts[i].capability);
        pools->capabilities[pools->prompts[i].capability].prompts++;
    }
    share_out(pools);
    pools->places = MEMORY_ARRAY(int64_t, count);
    for (int32_t i = 0; i < pools->capability_count; i++)
        for (int class = 0; class < CLASS_COUNT; class ++)
            prompt_queue_init(&pools->capabilities[i].queues[class], pools->places);
    prompt_pools_rebuild(pools);
}

void prompt_pools_release(struct prompt_pools *pools)
{
    for (int32_t i = 0; i < pools->capability_count; i++)
        for (int class = 0; class < CLASS_COUNT; class ++)
            prompt_queue_release(&pools->capabilities[i].queues[class]);
    memory_free(pools->prompts);
    memory_free(pools->places);
    memory_free(pools->settled);
    memory_free(pools->changed);
    memset(pools, 0, sizeof *pools);
}

/* ---- lists and queues ---- */

static void append(int64_t **list, int64_t *count, int64_t *capacity, int64_t id)
{
    if (*count == *capacity) {
        int64_t wider = *capacity > 0 ? *capacity * 2 : 64;
        *list = memory_resize(*list, (size_t)*capacity, (size_t)wider, sizeof **list);
        *capacity = wider;
    }
    (*list)[(*count)++] = id;
}

static void mark_changed(struct prompt_pools *pools, int64_t id)
{
    if (!pools->prompts[id].changed)
        append(&pools->changed, &pools->changed_count, &pools->changed_capacity, id);
    pools->prompts[id].changed = true;
}

/* A prompt that is due and that nobody probes is measured by being trained. */
static enum pool_class class_of(const struct prompt_pools *pools, const struct pool_prompt *prompt)
{
    static const enum pool_class classes[POOL_COUNT] = {[POOL_UNSEEN] = CLASS_BAND,
                                                        [POOL_BAND] = CLASS_BAND,
                                                        [POOL_HARD] = CLASS_HARD,
                                                        [POOL_EASY] = CLASS_EASY,
                                                        [POOL_PARKED] = CLASS_PARKED};
    if (prompt->due && pools->options.probes == 0)
        return CLASS_BAND;
    return classes[prompt->difficulty.pool];
}

static struct prompt_queue *queue_of(struct prompt_pools *pools, const struct pool_prompt *prompt)
{
    return &pools->capabilities[prompt->capability].queues[class_of(pools, prompt)];
}

/* Q4 */
static void enqueue(struct prompt_pools *pools, int64_t id)
{
    const struct pool_prompt *prompt = &pools->prompts[id];
    uint64_t words[3] = {pools->seed, (uint64_t)prompt->selections, (uint64_t)id};
    uint64_t unseen = prompt->difficulty.pool == POOL_UNSEEN;
    struct prompt_rank rank = {.major = (uint64_t)prompt->selections * 2 + unseen,
                               .minor = hash_u64(words, sizeof words),
                               .id = id};
    prompt_queue_put(queue_of(pools, prompt), &rank);
}

void prompt_pools_rebuild(struct prompt_pools *pools)
{
    pools->settled_count = 0;
    pools->probe_idle = 0;
    memset(pools->pool_count, 0, sizeof pools->pool_count);
    for (int32_t i = 0; i < pools->capability_count; i++)
        for (int class = 0; class < CLASS_COUNT; class ++)
            pools->capabilities[i].queues[class].count = 0;
    for (int64_t i = 0; i < pools->count; i++) {
        const struct pool_prompt *prompt = &pools->prompts[i];
        pools->places[i] = -1;
        pools->pool_count[prompt->difficulty.pool]++;
        if (prompt->in_flight == 0)
            enqueue(pools, i);
        if (prompt->settled > 0)
            append(&pools->settled, &pools->settled_count, &pools->settled_capacity, i);
    }
}

void prompt_pools_take_initial(struct prompt_pools *pools)
{
    const struct difficulty_band band = prompt_pools_band(pools);
    for (int64_t i = 0; pools->options.initial != NULL && i < pools->count; i++) {
        if (pools->options.initial[i].judged <= 0)
            continue;
        difficulty_measure(&pools->prompts[i].difficulty, &pools->options.initial[i], &band);
        mark_changed(pools, i);
    }
    prompt_pools_rebuild(pools);
}

/* ---- selection ---- */

static double clamp(double value, double bound)
{
    return value > bound ? bound : value < -bound ? -bound : value;
}

static double class_share(const struct prompt_pools *pools, enum pool_class class)
{
    switch (class) {
    case CLASS_BAND:
        return 1.0 - pools->options.hard_share - pools->options.easy_share;
    case CLASS_HARD:
        return pools->options.hard_share;
    case CLASS_EASY:
        return pools->options.easy_share;
    case CLASS_PARKED:
    case CLASS_COUNT:
        break;
    }
    return 0.0;
}

static bool class_is_empty(const struct prompt_pools *pools, int class)
{
    for (int32_t i = 0; i < pools->capability_count; i++)
        if (pools->capabilities[i].queues[class].count > 0)
            return false;
    return true;
}

/* Q3. One slot for whoever is owed most among those that have something: they share what the others
 * cannot take, and those are owed it, up to one batch's worth. -1: nobody has anything. */
static int give_slot(double *deficits[], const double *shares, const bool *has, int count,
                     double slots_per_batch)
{
    double sum = 0.0;
    int best = -1;
    for (int i = 0; i < count; i++)
        sum += has[i] ? shares[i] : 0.0;
    for (int i = 0; i < count; i++) {
        *deficits[i] += has[i] && sum > 0.0 ? shares[i] / sum : shares[i];
        if (has[i] && (best < 0 || *deficits[i] > *deficits[best]))
            best = i;
    }
    if (best >= 0)
        *deficits[best] -= 1.0;
    for (int i = 0; i < count; i++)
        *deficits[i] = clamp(*deficits[i], shares[i] * slots_per_batch + 1.0);
    return best;
}

/* Parked prompts only when nothing else is left. -1: all prompts are in flight. */
static int choose_class(struct prompt_pools *pools)
{
    double *deficits[CLASS_PARKED], shares[CLASS_PARKED];
    bool has[CLASS_PARKED];
    for (int class = 0; class < CLASS_PARKED; class ++) {
        deficits[class] = &pools->class_deficit[class];
        shares[class] = class_share(pools, (enum pool_class) class);
        has[class] = !class_is_empty(pools, class);
    }
    int best = give_slot(deficits, shares, has, CLASS_PARKED, (double)pools->slots_per_batch);
    return best < 0 && !class_is_empty(pools, CLASS_PARKED) ? CLASS_PARKED : best;
}

static struct pool_capability *choose_capability(struct prompt_pools *pools, int class)
{
    double *deficits[POOL_CAPABILITIES_MAX], shares[POOL_CAPABILITIES_MAX];
    bool has[POOL_CAPABILITIES_MAX];
    for (int32_t i = 0; i < pools->capability_count; i++) {
        deficits[i] = &pools->capabilities[i].deficit;
        shares[i] = pools->capabilities[i].share;
        has[i] = pools->capabilities[i].queues[class].count > 0;
    }
    int best =
        give_slot(deficits, shares, has, pools->capability_count, (double)pools->slots_per_batch);
    HONE_ASSERT(best >= 0);
    return &pools->capabilities[best];
}

/* In flight from now on. */
static void take(struct prompt_pools *pools, int64_t id)
{
    struct pool_prompt *prompt = &pools->prompts[id];
    if (prompt->in_flight++ == 0)
        prompt_queue_remove(queue_of(pools, prompt), id);
    mark_changed(pools, id);
}

void prompt_pools_take(struct prompt_pools *pools, int64_t id)
{
    take(pools, id);
    pools->prompts[id].selections++;
}

int64_t prompt_pools_select(struct prompt_pools *pools)
{
    int class = choose_class(pools);
    if (class < 0)
        return -1;
    int64_t id = prompt_queue_first(&choose_capability(pools, class)->queues[class]);
    prompt_pools_take(pools, id);
    return id;
}

static bool wants_probe(const struct pool_prompt *prompt)
{
    return prompt->in_flight == 0 && (prompt->due || prompt->difficulty.pool == POOL_UNSEEN);
}

int64_t prompt_pools_probe(struct prompt_pools *pools)
{
    while (pools->probe_idle < pools->count) {
        int64_t id = pools->probe_cursor;
        pools->probe_cursor = id + 1 < pools->count ? id + 1 : 0;
        pools->probe_idle++;
        if (!wants_probe(&pools->prompts[id]))
            continue;
        pools->probe_idle = 0;
        take(pools, id);
        return id;
    }
    return -1;
}

/* ---- measurements ---- */

static void settle(struct prompt_pools *pools, int64_t id)
{
    struct pool_prompt *prompt = &pools->prompts[id];
    if (prompt->settled++ == 0)
        append(&pools->settled, &pools->settled_count, &pools->settled_capacity, id);
    HONE_ASSERT(prompt->settled <= prompt->in_flight);
    mark_changed(pools, id);
}

void prompt_pools_measured(struct prompt_pools *pools, int64_t id,
                           const struct measurement *measurement, int32_t failed, bool selected)
{
    struct pool_prompt *prompt = &pools->prompts[id];
    struct measurement *pending = &prompt->pending;
    if (measurement->judged > 0 &&
        (pending->judged == 0 || measurement->version < pending->version))
        pending->version = measurement->version;
    pending->judged += measurement->judged;
    pending->passed += measurement->passed;
    prompt->pending_selected = prompt->pending_selected || (selected && measurement->judged > 0);
    prompt->judged_all += measurement->judged;
    prompt->passed_all += measurement->passed;
    prompt->failed += failed;
    settle(pools, id);
}

void prompt_pools_returned(struct prompt_pools *pools, int64_t id)
{
    settle(pools, id);
}

/* ---- the fold ---- */

struct difficulty_band prompt_pools_band(const struct prompt_pools *pools)
{
    const struct filter_options *options = &pools->options;
    double high = options->high - options->high_step * (double)pools->round;
    return (struct difficulty_band){.low = options->low,
                                    .high = high > options->high_min ? high : options->high_min,
                                    .certificate = options->certificate};
}

static void count_move(struct prompt_pools *pools, enum prompt_pool from, enum prompt_pool to)
{
    pools->pool_count[from]--;
    pools->pool_count[to]++;
    pools->fold.moves[from][to] += from != to;
}

static void apply_pending(struct prompt_pools *pools, struct pool_prompt *prompt, int64_t batch,
                          const struct difficulty_band *band)
{
    enum prompt_pool before = prompt->difficulty.pool;
    difficulty_measure(&prompt->difficulty, &prompt->pending, band);
    count_move(pools, before, prompt->difficulty.pool);
    pools->fold.measured++;
    pools->fold.selected += prompt->pending_selected;
    pools->fold.in_band += prompt->pending_selected && prompt->difficulty.leaning == POOL_BAND;
    prompt->pending_selected = false;
    prompt->measured_batch = batch;
    prompt->due = false;
    prompt->pending = (struct measurement){0};
}

static bool is_outside(const struct pool_prompt *prompt)
{
    return prompt->difficulty.pool != POOL_BAND && prompt->difficulty.pool != POOL_UNSEEN;
}

/* What was measured at batch `last` or before and is not trained is measured again. */
static void make_due(struct prompt_pools *pools, int64_t last)
{
    for (int64_t i = 0; i < pools->count; i++) {
        struct pool_prompt *prompt = &pools->prompts[i];
        if (prompt->due || !is_outside(prompt) || prompt->measured_batch > last)
            continue;
        prompt->due = true;
        mark_changed(pools, i);
    }
}

static void judge_all_again(struct prompt_pools *pools)
{
    const struct difficulty_band band = prompt_pools_band(pools);
    for (int64_t i = 0; i < pools->count; i++) {
        struct difficulty *difficulty = &pools->prompts[i].difficulty;
        const struct difficulty old = *difficulty;
        difficulty_judge_again(difficulty, &band);
        count_move(pools, old.pool, difficulty->pool);
        if (old.pool != difficulty->pool || old.leaning != difficulty->leaning)
            mark_changed(pools, i);
    }
}

/* Q6. A share is told from as many measurements as two batches have. */
static bool too_few_in_band(const struct prompt_pools *pools)
{
    double wanted = pools->options.accept_min * (double)pools->window_measured;
    return pools->window_measured >= 2 * pools->slots_per_batch &&
           (double)pools->window_in_band < wanted;
}

/* Q6 */
static void look_after_rounds(struct prompt_pools *pools, int64_t batch)
{
    bool over = batch - pools->round_batch >= pools->options.round_steps;
    if (!over && !too_few_in_band(pools))
        return;
    make_due(pools, over ? batch - pools->options.expire_steps : pools->round_batch);
    pools->window_measured = pools->window_in_band = 0;
    if (over) {
        pools->round++;
        pools->round_batch = batch;
        pools->fold.round_began = true;
        judge_all_again(pools);
    }
    prompt_pools_rebuild(pools);
}

void prompt_pools_fold(struct prompt_pools *pools, int64_t batch)
{
    const struct difficulty_band band = prompt_pools_band(pools);
    pools->fold = (struct pool_fold){0};
    pools->probe_idle = 0;
    for (int64_t i = 0; i < pools->settled_count; i++) {
        int64_t id = pools->settled[i];
        struct pool_prompt *prompt = &pools->prompts[id];
        if (prompt->pending.judged > 0)
            apply_pending(pools, prompt, batch, &band);
        prompt->in_flight -= prompt->settled;
        prompt->settled = 0;
        if (prompt->in_flight == 0)
            enqueue(pools, id);
        mark_changed(pools, id);
    }
    pools->settled_count = 0;
    pools->window_measured += pools->fold.selected;
    pools->window_in_band += pools->fold.in_band;
    look_after_rounds(pools, batch);
}

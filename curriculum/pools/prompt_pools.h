/* Every prompt of a run, what is known of how hard it is, and which is trained next.
 *
 * Each group that is sampled, trained or not, is a measurement of its prompt; measurements take
 * effect when the next batch is formed (the fold), so that what is chosen depends on the batches
 * before and on nobody's speed.
 *
 *   Q1 (G7)  What select gives is a function of the seed, the folds and the selections before it:
 *       not of the order in which groups of one batch came back.
 *   Q2  A prompt that is in flight is not selected again before the fold that takes its
 *       measurement; when every prompt is in flight, select gives none.
 *   Q3  Slots go to the band (and what is not measured yet), to the hard and to the easy pool by
 *       their shares, and within each to capabilities by theirs. What a share could not have it has
 *       later, up to one batch's worth. A pool that is empty leaves its slots to the others: a
 *       batch is never short, and a capability of which all prompts are easy keeps the easy pool's.
 *   Q4  Within a pool and a capability, prompts selected least often come first: measured before
 *       unseen, then in an order that the seed gives.
 *   Q5  Every group sampled counts, those that are dropped too: an estimate from trained groups
 *       alone would be that of the prompts that were kept for being mixed.
 *   Q6  Every round_steps batches a round begins: the band's upper end comes down by high_step, and
 *       what was measured expire_steps ago and is outside the band is due: to be measured again.
 *       When the share of trained prompts that were in the band falls below accept_min, everything
 * outside of it that was not measured in this round is due at once.
 *
 * Everything but the queues is in the log (curriculum/pools/pools_store.h); the queues follow from
 * it. Owned by one thread. */
#ifndef HONE_CURRICULUM_POOLS_PROMPT_POOLS_H
#define HONE_CURRICULUM_POOLS_PROMPT_POOLS_H

#include <stdbool.h>
#include <stdint.h>

#include "curriculum/pools/difficulty.h"
#include "curriculum/pools/prompt_queue.h"
#include "infra/data/trajectory.h"

#define POOL_CAPABILITIES_MAX 64 /* further ones share the last place */

enum filter_mode {
    FILTER_OFF,
    FILTER_MEASURE, /* pools are kept, prompts come unfiltered: the control */
    FILTER_ON
};

struct capability_factor {
    const char *capability;
    double factor; /* of its share of the dataset */
};

struct filter_options {
    enum filter_mode mode;
    double pass_threshold; /* a total of at least this has passed */
    double low, high;      /* the band at first */
    double high_min, high_step;
    int32_t certificate;
    double hard_share, easy_share; /* of the slots */
    int64_t round_steps, expire_steps;
    double accept_min;
    int32_t probes;                      /* groups that measure on idle actors at once; 0 none */
    int32_t k;                           /* pass@k that is reported */
    const struct capability_factor *mix; /* [mix_count] */
    int32_t mix_count;
    const struct measurement *initial; /* [prompts] of a checkpoint, judged 0: none; NULL: of none.
                                          Only a run that has no log yet takes them */
};

struct pool_prompt {
    struct difficulty difficulty;
    int64_t measured_batch; /* number of the batch whose fold took its newest measurement */
    bool due;
    int32_t capability;
    int32_t in_flight; /* groups of it since the last fold that took one, scored ones included */
    int32_t settled;   /* of these: scored, or left without a score */
    struct measurement pending;             /* of those scored */
    bool pending_selected;                  /* one of them was selected for training */
    int64_t selections;                     /* for training */
    int64_t judged_all, passed_all, failed; /* samples, in the whole run */
    bool changed;                           /* its record is older than this */
};

enum pool_class { CLASS_BAND, CLASS_HARD, CLASS_EASY, CLASS_PARKED, CLASS_COUNT };

struct pool_capability {
    const char *name; /* of a prompt's; "" none */
    int64_t prompts;
    double share;   /* of the slots */
    double deficit; /* slots that it is owed */
    struct prompt_queue queues[CLASS_COUNT];
};

/* What the newest fold did. */
struct pool_fold {
    int64_t measured;                      /* prompts */
    int64_t selected, in_band;             /* of these, selected for training; and in the band */
    int64_t moves[POOL_COUNT][POOL_COUNT]; /* [from][to] */
    bool round_began;
};

struct prompt_pools {
    struct filter_options options;
    uint64_t seed;
    int64_t count, slots_per_batch;
    struct pool_prompt *prompts; /* [count] */
    struct pool_capability capabilities[POOL_CAPABILITIES_MAX];
    int32_t capability_count;
    int64_t *places; /* [count] in its queue */
    double class_deficit[CLASS_COUNT];
    int64_t pool_count[POOL_COUNT];

    int64_t round, round_batch;              /* rounds begun; the batch whose fold began the last */
    int64_t window_measured, window_in_band; /* since then, of those selected for training */
    struct pool_fold fold;

    int64_t *settled; /* [settled_count] prompts that the next fold looks at */
    int64_t settled_count, settled_capacity;
    int64_t *changed; /* [changed_count] prompts whose record is to be written */
    int64_t changed_count, changed_capacity;
    int64_t probe_cursor, probe_idle; /* looked through for probes; looked at without finding any */
};

/* The prompts outlive the pools. FILTER_OFF: holds nothing, and nothing else may be called but
 * release. */
void prompt_pools_init(struct prompt_pools *pools, const struct filter_options *options,
                       const struct prompt *prompts, int64_t count, uint64_t seed,
                       int32_t slots_per_batch);
void prompt_pools_release(struct prompt_pools *pools);
/* After the prompts' states were set from outside (a log, a checkpoint's measurements). */
void prompt_pools_rebuild(struct prompt_pools *pools);
void prompt_pools_take_initial(struct prompt_pools *pools);

/* The next prompt to train, now in flight; -1: all are (Q2). */
int64_t prompt_pools_select(struct prompt_pools *pools);
/* This one was selected by another rule. */
void prompt_pools_take(struct prompt_pools *pools, int64_t id);
/* The next prompt to measure without training it, now in flight; -1: none needs it. */
int64_t prompt_pools_probe(struct prompt_pools *pools);

/* A group of the prompt is scored; selected: it was for training. judged may be 0. */
void prompt_pools_measured(struct prompt_pools *pools, int64_t id,
                           const struct measurement *measurement, int32_t failed, bool selected);
/* A group of the prompt has left without a score. */
void prompt_pools_returned(struct prompt_pools *pools, int64_t id);
/* Batch `batch` is formed: pending measurements take effect; pools->fold says what they did. */
void prompt_pools_fold(struct prompt_pools *pools, int64_t batch);

/* The band of the round. */
struct difficulty_band prompt_pools_band(const struct prompt_pools *pools);

#endif

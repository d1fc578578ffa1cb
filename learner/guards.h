/* What watches a policy while it is trained. Figures of each batch come in; out comes whether its
 * step may be applied, and afterwards whether training goes on, goes back to the last good version
 * or stops. A pure function of the figures, so that a resumed and a replayed run decide the same.
 *
 *   non_finite        loss or gradient is not a number
 *                     skipped; 3 in 50 batches: back
 *   gradient_spike    norm > gradient_spike x median of the last 100 applied
 *                     skipped; 5 in 50: back
 *   mismatch          a logprob of the very version in training differs in any bit (G6)
 *                     skipped; 3 in 50: stop, since no weights are at fault
 *   rolled_back       a token was sampled from a version that was left behind
 *                     skipped
 *   entropy_collapse  mean of 5 batches < entropy_floor x median of the 50 before
 *                     back
 *   reward_collapse   mean of 3 batches is below the median of the 52 before by reward_drop of it
 *                     and by four deviations (1.48 median distances): back
 *   behavior_drift    KL of the behavior policy to the policy, mean of 3 batches > behavior_drift x
 *                     median of the 52 before and > 0.01 nats a token: weights that are not what
 *                     they are said to be, or steps that are too long: back
 *   kl_drift          KL to the reference > kl_limit in 3 batches running
 *                     back
 *   sample_size       effective sample size < 0.3 in 5 batches running
 *                     told
 *   truncation        share of cut trajectories, mean of 5 > 3 x median of the 50 before + 0.1
 *                     told
 *
 *  W1  A skipped batch makes a version with the weights of the one before.
 *  W2  Back: the batch makes a version with the weights and moments of `last_good`, the newest
 *      version of a checkpoint that `good_after` batches without a signal have followed; 0, the
 *      weights that the stage started from, before there is one. Versions in between are left
 *      behind, and every window starts anew.
 *  W3  More than rollbacks_max times in 1,000 batches: stop.
 *  W4  Medians are taken of 20 batches or more; with fewer, what needs one does not trip.
 *
 * Owned by one thread. */
#ifndef HONE_LEARNER_GUARDS_H
#define HONE_LEARNER_GUARDS_H

#include <stdbool.h>
#include <stdint.h>

#define GUARD_NORMS      100
#define GUARD_RECENT     5  /* batches whose mean is judged */
#define GUARD_BEFORE     50 /* batches it is judged by */
#define GUARD_WINDOW     (GUARD_RECENT + GUARD_BEFORE)
#define GUARD_SKIP_KINDS 3
#define GUARD_SKIPS      5
#define GUARD_CANDIDATES 4
#define GUARD_BACKS      8 /* remembered; versions left behind before them count as good */

struct guard_options {
    bool mismatch;         /* watched */
    double gradient_spike; /* 0: off, as the next four */
    double entropy_floor, reward_drop, behavior_drift;
    double kl_limit;          /* nats a token */
    int64_t good_after;       /* batches */
    int64_t rollbacks_max;    /* 0: the first stops */
    int64_t checkpoint_steps; /* batches between versions that can be gone back to; 0: none */
};

enum guard_signal {
    SIGNAL_NONE,
    SIGNAL_NON_FINITE,
    SIGNAL_GRADIENT_SPIKE,
    SIGNAL_MISMATCH,
    SIGNAL_ROLLED_BACK,
    SIGNAL_ENTROPY_COLLAPSE,
    SIGNAL_REWARD_COLLAPSE,
    SIGNAL_KL_DRIFT,
    SIGNAL_BEHAVIOR_DRIFT,
    SIGNAL_SAMPLE_SIZE,
    SIGNAL_TRUNCATION
};
const char *guard_signal_name(enum guard_signal signal);

enum guard_action { GUARD_GO_ON, GUARD_TELL, GUARD_SKIP, GUARD_GO_BACK, GUARD_STOP };

/* Of one batch. Figures that are not known are NaN. */
struct guard_figures {
    int64_t batch;
    double loss, gradient_norm; /* before clipping */
    int64_t unequal_tokens;     /* of the version in training */
    double entropy, reward, kl, behavior_kl, sample_size, truncated_share;
};

struct guard_verdict {
    enum guard_action action;
    enum guard_signal signal;
    double figure, limit; /* that tripped it */
    int64_t back_to;      /* version, with GUARD_GO_BACK */
};

struct guard_window {
    double count, values[GUARD_WINDOW]; /* oldest first */
};

/* Everything remembered, in doubles, so that a checkpoint keeps it as a list of numbers. */
struct guard_memory {
    double norm_count, norms[GUARD_NORMS];
    struct guard_window entropy, reward, behavior, truncated;
    double skipped[GUARD_SKIP_KINDS]
                  [GUARD_SKIPS]; /* batches of the latest skips by signal, -1 none; newest first */
    double kl_streak, sample_size_streak;
    double healthy;                      /* batches running without a signal */
    double last_good;                    /* version */
    double candidates[GUARD_CANDIDATES]; /* versions of checkpoints that may become good, newest
                                            first; -1 */
    double backs[GUARD_BACKS];           /* batches of the latest returns, -1 none; newest first */
    double backs_to[GUARD_BACKS], backs_signal[GUARD_BACKS];
};
#define GUARD_NUMBERS ((int32_t)(sizeof(struct guard_memory) / sizeof(double)))

struct guards {
    struct guard_options options;
    struct guard_memory memory;
};

void guards_init(struct guards *guards, const struct guard_options *options);
/* What guards_numbers gave; anything else is as after guards_init. */
void guards_restore(struct guards *guards, const double *numbers, int32_t count);
/* [GUARD_NUMBERS], finite. */
const double *guards_numbers(const struct guards *guards);

struct guard_return {
    int64_t batch, to;
    enum guard_signal signal;
};
/* The index-th latest return, 0 the newest; false when there are fewer. At most GUARD_BACKS. */
bool guards_return_at(const struct guards *guards, int32_t index, struct guard_return *found);
/* W2 */
int64_t guards_last_good(const struct guards *guards);
/* Whether a version was left behind. */
bool guards_left_behind(const struct guards *guards, int64_t version);
/* Before a step is applied: whether it may be. The signal says why not. */
bool guards_accept(const struct guards *guards, const struct guard_figures *figures,
                   struct guard_verdict *verdict);
/* After a batch: skipped is what guards_accept said, or a verdict with SIGNAL_ROLLED_BACK, or
 * SIGNAL_NONE when it was applied. */
void guards_observe(struct guards *guards, const struct guard_figures *figures,
                    const struct guard_verdict *skipped, struct guard_verdict *verdict);
#define GUARD_TEXT_MAX 256
/* One line: what tripped, by how much and what is done. */
void guard_verdict_text(const struct guard_verdict *verdict, int64_t batch, char *buffer,
                        int32_t capacity);

#endif

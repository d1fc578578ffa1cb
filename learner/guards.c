#include "learner/guards.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEDIAN_MIN         20
#define SKIP_WINDOW        50 /* batches */
#define STREAK_KL          3
#define STREAK_SAMPLE_SIZE 5
#define SAMPLE_SIZE_MIN    0.3
#define RECENT_FEW         3
#define REWARD_DEVIATIONS  4.0
#define BEHAVIOR_KL_MIN    0.01 /* nats a token: ratios of e^+-0.14; less does no harm */
#define TRUNCATION_FACTOR  3.0
#define TRUNCATION_MARGIN  0.1
#define ROLLBACK_WINDOW    1000

/* How many skips for one reason, within SKIP_WINDOW, are too many. */
static const int skips_max[] = {
    [SIGNAL_NON_FINITE] = 3, [SIGNAL_GRADIENT_SPIKE] = 5, [SIGNAL_MISMATCH] = 3};

const char *guard_signal_name(enum guard_signal signal)
{
    static const char *const names[] = {
        "none",           "non_finite",       "gradient_spike",  "mismatch",
        "rolled_back",    "entropy_collapse", "reward_collapse", "kl_drift",
        "behavior_drift", "sample_size",      "truncation"};
    return names[signal];
}

static void forget(struct guard_memory *memory)
{
    memory->norm_count = 0.0;
    memory->entropy.count = memory->reward.count = 0.0;
    memory->behavior.count = memory->truncated.count = 0.0;
    for (int kind = 0; kind < GUARD_SKIP_KINDS; kind++)
        for (int i = 0; i < GUARD_SKIPS; i++)
            memory->skipped[kind][i] = -1.0;
    memory->kl_streak = memory->sample_size_streak = memory->healthy = 0.0;
    for (int i = 0; i < GUARD_CANDIDATES; i++)
        memory->candidates[i] = -1.0;
}

void guards_init(struct guards *guards, const struct guard_options *options)
{
    memset(guards, 0, sizeof *guards);
    guards->options = *options;
    forget(&guards->memory);
    for (int i = 0; i < GUARD_BACKS; i++)
        guards->memory.backs[i] = -1.0;
}

void guards_restore(struct guards *guards, const double *numbers, int32_t count)
{
    if (count == GUARD_NUMBERS)
        memcpy(&guards->memory, numbers, sizeof guards->memory);
}

const double *guards_numbers(const struct guards *guards)
{
    return &guards->memory.norm_count;
}

bool guards_return_at(const struct guards *guards, int32_t index, struct guard_return *found)
{
    const struct guard_memory *memory = &guards->memory;
    if (index >= GUARD_BACKS || memory->backs[index] < 0.0)
        return false;
    *found = (struct guard_return){.batch = (int64_t)memory->backs[index],
                                   .to = (int64_t)memory->backs_to[index],
                                   .signal = (enum guard_signal)memory->backs_signal[index]};
    return true;
}

int64_t guards_last_good(const struct guards *guards)
{
    return (int64_t)guards->memory.last_good;
}

/* ---- windows ---- */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *values, int count)
{
    double sorted[GUARD_NORMS];
    memcpy(sorted, values, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, compare);
    return count % 2 ? sorted[count / 2] : 0.5 * (sorted[count / 2 - 1] + sorted[count / 2]);
}

/* Median distance from the median, as a standard deviation of a normal distribution. */
static double deviation(const double *values, int count, double middle)
{
    double distances[GUARD_WINDOW];
    for (int i = 0; i < count; i++)
        distances[i] = fabs(values[i] - middle);
    return 1.4826 * median(distances, count);
}

/* values[capacity], oldest first. */
static void push(double *count, double *values, int capacity, double value)
{
    int held = (int)*count;
    if (!isfinite(value))
        return;
    if (held == capacity) {
        memmove(values, values + 1, (size_t)(capacity - 1) * sizeof *values);
        held--;
    }
    values[held] = value;
    *count = held + 1;
}

static void push_newest(double *values, int capacity, double value)
{
    memmove(values + 1, values, (size_t)(capacity - 1) * sizeof *values);
    values[0] = value;
}

/* Mean of the newest `recent` of a window and the median of the ones before; false while there are
 * too few. */
static bool split(const struct guard_window *window, int recent, double *mean, double *middle,
                  double *spread)
{
    int before = (int)window->count - recent;
    if (before < MEDIAN_MIN)
        return false;
    *mean = 0.0;
    for (int i = 0; i < recent; i++)
        *mean += window->values[before + i] / recent;
    *middle = median(window->values, before);
    *spread = deviation(window->values, before, *middle);
    return true;
}

/* ---- before a step ---- */

bool guards_left_behind(const struct guards *guards, int64_t version)
{
    struct guard_return found;
    for (int32_t i = 0; guards_return_at(guards, i, &found); i++) {
        if (version > found.to && version < found.batch)
            return true;
    }
    return false;
}

static bool trips(struct guard_verdict *verdict, enum guard_signal signal, double figure,
                  double limit)
{
    verdict->signal = signal;
    verdict->figure = figure;
    verdict->limit = limit;
    return true;
}

bool guards_accept(const struct guards *guards, const struct guard_figures *figures,
                   struct guard_verdict *verdict)
{
    const struct guard_memory *memory = &guards->memory;
    double norm = figures->gradient_norm;
    int norms = (int)memory->norm_count;
    *verdict = (struct guard_verdict){.action = GUARD_SKIP};
    if (!isfinite(figures->loss) || !isfinite(norm))
        return !trips(verdict, SIGNAL_NON_FINITE, isfinite(norm) ? figures->loss : norm, 0.0);
    if (guards->options.mismatch && figures->unequal_tokens > 0)
        return !trips(verdict, SIGNAL_MISMATCH, (double)figures->unequal_tokens, 0.0);
    if (guards->options.gradient_spike > 0.0 && norms >= MEDIAN_MIN) {
        double limit = guards->options.gradient_spike * median(memory->norms, norms);
        if (norm > limit && limit > 0.0)
            return !trips(verdict, SIGNAL_GRADIENT_SPIKE, norm, limit);
    }
    *verdict = (struct guard_verdict){.action = GUARD_GO_ON};
    return true;
}

/* ---- after a batch ---- */

/* A skip of its kind more; true when that is one too many. */
static bool too_many_skips(struct guard_memory *memory, enum guard_signal signal, int64_t batch)
{
    int kind = (int)signal - SIGNAL_NON_FINITE;
    int most = skips_max[signal];
    push_newest(memory->skipped[kind], GUARD_SKIPS, (double)batch);
    double oldest = memory->skipped[kind][most - 1];
    return oldest >= 0.0 && (double)batch - oldest < SKIP_WINDOW;
}

static bool collapsed(const struct guards *guards, struct guard_verdict *verdict)
{
    const struct guard_options *options = &guards->options;
    double mean;
    double middle;
    double spread;
    if (options->entropy_floor > 0.0 &&
        split(&guards->memory.entropy, GUARD_RECENT, &mean, &middle, &spread) &&
        mean < options->entropy_floor * middle)
        return trips(verdict, SIGNAL_ENTROPY_COLLAPSE, mean, options->entropy_floor * middle);
    if (options->reward_drop > 0.0 &&
        split(&guards->memory.reward, RECENT_FEW, &mean, &middle, &spread)) {
        double drop = fmax(options->reward_drop * fabs(middle), REWARD_DEVIATIONS * spread);
        if (mean < middle - drop)
            return trips(verdict, SIGNAL_REWARD_COLLAPSE, mean, middle - drop);
    }
    if (options->behavior_drift > 0.0 &&
        split(&guards->memory.behavior, RECENT_FEW, &mean, &middle, &spread)) {
        double limit = fmax(options->behavior_drift * middle, BEHAVIOR_KL_MIN);
        if (mean > limit)
            return trips(verdict, SIGNAL_BEHAVIOR_DRIFT, mean, limit);
    }
    return false;
}

static bool drifts(struct guards *guards, const struct guard_figures *figures,
                   struct guard_verdict *verdict)
{
    struct guard_memory *memory = &guards->memory;
    double limit = guards->options.kl_limit;
    bool far = limit > 0.0 && figures->kl > limit;
    memory->kl_streak = far ? memory->kl_streak + 1.0 : 0.0;
    return memory->kl_streak >= STREAK_KL && trips(verdict, SIGNAL_KL_DRIFT, figures->kl, limit);
}

static bool told(struct guards *guards, const struct guard_figures *figures,
                 struct guard_verdict *verdict)
{
    struct guard_memory *memory = &guards->memory;
    double mean;
    double middle;
    double spread;
    bool small = figures->sample_size < SAMPLE_SIZE_MIN;
    memory->sample_size_streak = small ? memory->sample_size_streak + 1.0 : 0.0;
    if (memory->sample_size_streak == STREAK_SAMPLE_SIZE)
        return trips(verdict, SIGNAL_SAMPLE_SIZE, figures->sample_size, SAMPLE_SIZE_MIN);
    if (split(&memory->truncated, GUARD_RECENT, &mean, &middle, &spread) &&
        mean > TRUNCATION_FACTOR * middle + TRUNCATION_MARGIN) {
        memory->truncated.count = 0.0; /* once */
        return trips(verdict, SIGNAL_TRUNCATION, mean,
                     TRUNCATION_FACTOR * middle + TRUNCATION_MARGIN);
    }
    return false;
}

/* W2, W3 */
static void go_back(struct guards *guards, int64_t batch, struct guard_verdict *verdict)
{
    struct guard_memory *memory = &guards->memory;
    int64_t recent = 1;
    for (int i = 0; i < GUARD_BACKS; i++)
        recent += memory->backs[i] >= 0.0 && (double)batch - memory->backs[i] < ROLLBACK_WINDOW;
    if (recent > guards->options.rollbacks_max) {
        verdict->action = GUARD_STOP;
        return;
    }
    verdict->action = GUARD_GO_BACK;
    verdict->back_to = (int64_t)memory->last_good;
    push_newest(memory->backs, GUARD_BACKS, (double)batch);
    push_newest(memory->backs_to, GUARD_BACKS, memory->last_good);
    push_newest(memory->backs_signal, GUARD_BACKS, (double)verdict->signal);
    forget(memory);
    memory->last_good = (double)batch; /* the same weights, and a checkpoint is made of them */
}

/* A batch without a signal, nor half of one: checkpoints with enough of them behind are good. */
static void count_healthy(struct guards *guards, int64_t batch)
{
    struct guard_memory *memory = &guards->memory;
    if (memory->kl_streak > 0.0) {
        memory->healthy = 0.0;
        return;
    }
    memory->healthy += 1.0;
    for (int i = 0; i < GUARD_CANDIDATES; i++) {
        double version = memory->candidates[i];
        double after = (double)batch - version;
        if (version >= 0.0 && after >= (double)guards->options.good_after &&
            memory->healthy >= after) {
            if (version > memory->last_good)
                memory->last_good = version;
            break;
        }
    }
    if (guards->options.checkpoint_steps > 0 && batch % guards->options.checkpoint_steps == 0)
        push_newest(memory->candidates, GUARD_CANDIDATES, (double)batch);
}

static void remember(struct guard_memory *memory, const struct guard_figures *figures)
{
    push(&memory->norm_count, memory->norms, GUARD_NORMS, figures->gradient_norm);
    push(&memory->entropy.count, memory->entropy.values, GUARD_WINDOW, figures->entropy);
    push(&memory->reward.count, memory->reward.values, GUARD_WINDOW, figures->reward);
    push(&memory->behavior.count, memory->behavior.values, GUARD_WINDOW, figures->behavior_kl);
    push(&memory->truncated.count, memory->truncated.values, GUARD_WINDOW,
         figures->truncated_share);
}

void guards_observe(struct guards *guards, const struct guard_figures *figures,
                    const struct guard_verdict *skipped, struct guard_verdict *verdict)
{
    struct guard_memory *memory = &guards->memory;
    *verdict = *skipped;
    if (skipped->signal == SIGNAL_ROLLED_BACK)
        return;
    if (skipped->signal != SIGNAL_NONE) {
        memory->healthy = 0.0;
        if (!too_many_skips(memory, skipped->signal, figures->batch))
            return;
        if (skipped->signal == SIGNAL_MISMATCH)
            verdict->action = GUARD_STOP;
        else
            go_back(guards, figures->batch, verdict);
        return;
    }
    remember(memory, figures);
    if (drifts(guards, figures, verdict) || collapsed(guards, verdict)) {
        go_back(guards, figures->batch, verdict);
        return;
    }
    if (told(guards, figures, verdict))
        verdict->action = GUARD_TELL;
    count_healthy(guards, figures->batch);
}

void guard_verdict_text(const struct guard_verdict *verdict, int64_t batch, char *buffer,
                        int32_t capacity)
{
    static const char *const meanings[] = {
        [SIGNAL_NONE] = "",
        [SIGNAL_NON_FINITE] = "loss or gradient is not a number",
        [SIGNAL_GRADIENT_SPIKE] = "the gradient's norm",
        [SIGNAL_MISMATCH] = "tokens of the version in training whose logprob is another",
        [SIGNAL_ROLLED_BACK] = "sampled from a version that was left behind",
        [SIGNAL_ENTROPY_COLLAPSE] = "mean entropy of 5 batches",
        [SIGNAL_REWARD_COLLAPSE] = "mean reward of 3 batches",
        [SIGNAL_KL_DRIFT] = "KL to the reference, 3 batches running",
        [SIGNAL_BEHAVIOR_DRIFT] = "KL of the behavior policy, mean of 3 batches,",
        [SIGNAL_SAMPLE_SIZE] = "effective sample size, 5 batches running",
        [SIGNAL_TRUNCATION] = "share of cut trajectories, mean of 5 batches"};
    char done[96] = "";
    if (verdict->action == GUARD_SKIP)
        snprintf(done, sizeof done, ": not trained");
    else if (verdict->action == GUARD_GO_BACK)
        snprintf(done, sizeof done, ": back to version %" PRId64, verdict->back_to);
    else if (verdict->action == GUARD_STOP)
        snprintf(done, sizeof done, ": too often, the run stops");
    snprintf(buffer, (size_t)capacity, "batch %" PRId64 ": %s: %s is %.4g, the limit is %.4g%s",
             batch, guard_signal_name(verdict->signal), meanings[verdict->signal], verdict->figure,
             verdict->limit, done);
}

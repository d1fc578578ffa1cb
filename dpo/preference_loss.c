#include "dpo/preference_loss.h"

#include <math.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/train/exponential.h"

/* log(sigmoid(x)) without overflow. Only reported: gradients use sigmoid itself. */
static double log_sigmoid(double x)
{
    return -log1p(exponential(-fabs(x))) + fmin(x, 0.0);
}

bool preference_needs_reference(enum preference_kind kind)
{
    return kind != PREFERENCE_SIMPO;
}

/* -(1 - eps) log sigmoid(h) -+ eps log sigmoid(-h), and its derivative with respect to h. */
static double smoothed(double smoothing, double sign, double h, double *slope)
{
    double loss = -(1.0 - smoothing) * log_sigmoid(h);
    *slope = sigmoid(h) - 1.0;
    if (smoothing != 0.0) {
        loss -= sign * smoothing * log_sigmoid(-h);
        *slope = (1.0 - smoothing) * (sigmoid(h) - 1.0) + sign * smoothing * sigmoid(h);
    }
    return loss;
}

/* The losses of h = beta (x_w - x_l): value and derivative with respect to h. */
static double of_margin(const struct preference_options *options, double h, double *slope)
{
    double smoothing = (double)options->label_smoothing;
    double loss;

    switch (options->kind) {
    case PREFERENCE_ROBUST:
        loss = smoothed(smoothing, -1.0, h, slope);
        *slope /= 1.0 - 2.0 * smoothing;
        return loss / (1.0 - 2.0 * smoothing);
    case PREFERENCE_HINGE:
        *slope = h < 1.0 ? -1.0 : 0.0;
        return h < 1.0 ? 1.0 - h : 0.0;
    case PREFERENCE_SIGMOID:
    case PREFERENCE_IPO:
    case PREFERENCE_SIMPO:
    case PREFERENCE_KTO:
        break;
    }
    return smoothed(smoothing, 1.0, h, slope);
}

static void ipo(const struct preference_options *options, double chosen, double rejected,
                const struct preference_terms *terms, struct preference_result *result)
{
    double chosen_tokens = options->summed ? 1.0 : fmax(terms->chosen_tokens, 1);
    double rejected_tokens = options->summed ? 1.0 : fmax(terms->rejected_tokens, 1);
    double off =
        chosen / chosen_tokens - rejected / rejected_tokens - 1.0 / (2.0 * (double)options->beta);
    result->loss = off * off;
    result->d_chosen = 2.0 * off / chosen_tokens;
    result->d_rejected = -2.0 * off / rejected_tokens;
}

static void simpo(const struct preference_options *options, const struct preference_terms *terms,
                  struct preference_result *result)
{
    double beta = (double)options->beta, slope;
    double chosen_tokens = fmax(terms->chosen_tokens, 1);
    double rejected_tokens = fmax(terms->rejected_tokens, 1);
    result->reward = beta * terms->chosen / chosen_tokens;
    result->rejected_reward = beta * terms->rejected / rejected_tokens;
    double h = result->reward - result->rejected_reward - (double)options->margin;
    result->loss = smoothed(0.0, 1.0, h, &slope);
    result->d_chosen = beta * slope / chosen_tokens;
    result->d_rejected = -beta * slope / rejected_tokens;
}

static void kto(const struct preference_options *options, double chosen, double rejected, double kl,
                struct preference_result *result)
{
    double beta = (double)options->beta;
    double good = sigmoid(beta * (chosen - kl)), bad = sigmoid(beta * (kl - rejected));
    double desirable = 0.5 * (double)options->desirable;
    double undesirable = 0.5 * (double)options->undesirable;
    result->loss = desirable * (1.0 - good) + undesirable * (1.0 - bad);
    result->d_chosen = -desirable * beta * good * (1.0 - good);
    result->d_rejected = undesirable * beta * bad * (1.0 - bad);
}

void preference_pair_loss(const struct preference_options *options,
                          const struct preference_terms *terms, struct preference_result *result)
{
    double beta = (double)options->beta, slope;
    double chosen = terms->chosen - terms->reference_chosen;
    double rejected = terms->rejected - terms->reference_rejected;

    *result =
        (struct preference_result){.reward = beta * chosen, .rejected_reward = beta * rejected};
    switch (options->kind) {
    case PREFERENCE_IPO:
        ipo(options, chosen, rejected, terms, result);
        return;
    case PREFERENCE_SIMPO:
        simpo(options, terms, result);
        return;
    case PREFERENCE_KTO:
        kto(options, chosen, rejected, terms->kl, result);
        return;
    case PREFERENCE_SIGMOID:
    case PREFERENCE_ROBUST:
    case PREFERENCE_HINGE:
        break;
    }
    result->loss = of_margin(options, beta * (chosen - rejected), &slope);
    result->d_chosen = beta * slope;
    result->d_rejected = -beta * slope;
}

double preference_kl(int64_t count, const double *policy, const double *reference)
{
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++)
        sum += policy[i] - reference[i];
    return count > 0 ? fmax(0.0, sum / (double)count) : 0.0;
}

void preference_loss_begin(struct preference_loss *loss, const struct train_batch *batch)
{
    memset(&loss->stats, 0, sizeof loss->stats);
    loss->total_pairs = batch->count / 2;
}

struct answer {
    double logprob; /* summed */
    int32_t tokens;
};

static struct answer sum_answer(const struct train_sequence *sequence, const float *logprob)
{
    struct answer answer = {0};
    for (int32_t i = 1; i < sequence->count; i++) {
        if (sequence->loss_mask[i] == 0)
            continue;
        answer.logprob += (double)logprob[i];
        answer.tokens++;
    }
    return answer;
}

static void write_derivative(const struct train_sequence *sequence, float *d_logprob, double value)
{
    for (int32_t i = 1; i < sequence->count; i++)
        if (sequence->loss_mask[i] != 0)
            d_logprob[i] = (float)value;
}

static void count_pair(struct preference_loss *loss, const struct preference_terms *terms,
                       const struct preference_result *result)
{
    struct preference_stats *stats = &loss->stats;
    double margin = result->reward - result->rejected_reward;

    stats->chosen_reward += result->reward;
    stats->rejected_reward += result->rejected_reward;
    stats->margin += margin;
    stats->chosen_logprob += terms->chosen;
    stats->rejected_logprob += terms->rejected;
    stats->correct += margin > 0.0;
    stats->pairs++;
}

static int one_pair(struct preference_loss *loss, const struct train_sequence *chosen,
                    const struct loss_streams *streams, int32_t s, double *total)
{
    const struct train_sequence *rejected = chosen + 1;
    const struct preference_sequence *chosen_data = chosen->user;
    const struct preference_sequence *rejected_data = rejected->user;
    double nll = (double)loss->options.nll_coef;
    double weight = 1.0 / (double)loss->total_pairs;
    struct preference_result result;

    if (!chosen_data->chosen || rejected_data->chosen || chosen->unit != rejected->unit)
        return error_set(HONE_EINVAL, "sequences %d and %d are not a chosen and a rejected one",
                         streams->first + s, streams->first + s + 1);
    struct answer good = sum_answer(chosen, streams->logprob[s]);
    struct answer bad = sum_answer(rejected, streams->logprob[s + 1]);
    const struct preference_terms terms = {.chosen = good.logprob,
                                           .rejected = bad.logprob,
                                           .reference_chosen = chosen_data->reference_logprob,
                                           .reference_rejected = rejected_data->reference_logprob,
                                           .chosen_tokens = good.tokens,
                                           .rejected_tokens = bad.tokens,
                                           .kl = loss->kl};
    preference_pair_loss(&loss->options, &terms, &result);
    if (nll != 0.0 && good.tokens > 0) {
        result.loss -= nll * good.logprob / good.tokens;
        result.d_chosen -= nll / good.tokens;
    }
    *total += weight * result.loss;
    write_derivative(chosen, streams->d_logprob[s], weight * result.d_chosen);
    write_derivative(rejected, streams->d_logprob[s + 1], weight * result.d_rejected);
    count_pair(loss, &terms, &result);
    return 0;
}

int preference_loss_function(void *context, const struct train_batch *batch,
                             const struct loss_streams *streams, double *total)
{
    struct preference_loss *loss = context;
    int rc = 0;

    if (streams->count % 2 != 0)
        return error_set(HONE_EINVAL, "a micro-batch with half a preference pair");
    for (int32_t s = 0; rc == 0 && s < streams->count; s += 2)
        rc = one_pair(loss, &batch->sequences[streams->first + s], streams, s, total);
    return rc;
}

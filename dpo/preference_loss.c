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

double preference_pair_loss(const struct preference_options *options, double policy_chosen,
                            double policy_rejected, double reference_chosen,
                            double reference_rejected, double *derivative_h)
{
    double smoothing = (double)options->label_smoothing;
    double h = (double)options->beta *
               ((policy_chosen - reference_chosen) - (policy_rejected - reference_rejected));

    *derivative_h = sigmoid(h) - (1.0 - smoothing);
    double loss = -(1.0 - smoothing) * log_sigmoid(h);
    return smoothing != 0.0 ? loss - smoothing * log_sigmoid(-h) : loss;
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

static void count_pair(struct preference_loss *loss, double chosen_margin, double rejected_margin)
{
    struct preference_stats *stats = &loss->stats;
    double beta = (double)loss->options.beta;

    stats->chosen_reward += beta * chosen_margin;
    stats->rejected_reward += beta * rejected_margin;
    stats->margin += beta * (chosen_margin - rejected_margin);
    stats->correct += chosen_margin > rejected_margin;
    stats->pairs++;
}

int preference_loss_function(void *context, const struct train_batch *batch,
                             const struct loss_streams *streams, double *total)
{
    struct preference_loss *loss = context;
    double beta = (double)loss->options.beta, nll = (double)loss->options.nll_coef;
    double weight = 1.0 / (double)loss->total_pairs;

    if (streams->count % 2 != 0)
        return error_set(HONE_EINVAL, "a micro-batch with half a preference pair");
    for (int32_t s = 0; s < streams->count; s += 2) {
        const struct train_sequence *chosen = &batch->sequences[streams->first + s];
        const struct train_sequence *rejected = chosen + 1;
        const struct preference_sequence *chosen_data = chosen->user;
        const struct preference_sequence *rejected_data = rejected->user;
        if (!chosen_data->chosen || rejected_data->chosen || chosen->unit != rejected->unit)
            return error_set(HONE_EINVAL, "sequences %d and %d are not a chosen and a rejected one",
                             streams->first + s, streams->first + s + 1);
        struct answer good = sum_answer(chosen, streams->logprob[s]);
        struct answer bad = sum_answer(rejected, streams->logprob[s + 1]);
        double slope;
        double value = preference_pair_loss(&loss->options, good.logprob, bad.logprob,
                                            chosen_data->reference_logprob,
                                            rejected_data->reference_logprob, &slope);
        double d_chosen = weight * beta * slope;
        if (nll != 0.0 && good.tokens > 0) {
            value -= nll * good.logprob / good.tokens;
            d_chosen -= weight * nll / good.tokens;
        }
        *total += weight * value;
        write_derivative(chosen, streams->d_logprob[s], d_chosen);
        write_derivative(rejected, streams->d_logprob[s + 1], -weight * beta * slope);
        count_pair(loss, good.logprob - chosen_data->reference_logprob,
                   bad.logprob - rejected_data->reference_logprob);
    }
    return 0;
}

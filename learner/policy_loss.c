#include "learner/policy_loss.h"

#include <math.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/train/exponential.h"

#define EXPONENT_MAX 20.0
#define K3_MAX       10.0

void policy_kl(enum kl_estimator estimator, float logprob, float reference, float *value,
               float *derivative)
{
    double x = (double)logprob - (double)reference;

    switch (estimator) {
    case KL_K1:
        *value = (float)x;
        *derivative = 1.0f;
        return;
    case KL_K2:
        *value = (float)(0.5 * x * x);
        *derivative = (float)x;
        return;
    case KL_K3:
        break;
    }
    double clamped = fmin(fmax(x, -EXPONENT_MAX), EXPONENT_MAX);
    double inverse_ratio = exponential(-clamped);
    double k3 = inverse_ratio - 1.0 + clamped;
    bool inside = isnan(x) || (clamped == x && k3 <= K3_MAX);
    *value = isnan(x) ? (float)x : (float)fmin(k3, K3_MAX);
    *derivative = inside ? (float)(1.0 - inverse_ratio + (x - clamped)) : 0.0f;
}

static int32_t trained_tokens(const struct train_sequence *sequence)
{
    int32_t tokens = 0;
    for (int32_t i = 1; i < sequence->count; i++)
        tokens += sequence->loss_mask[i] != 0;
    return tokens;
}

void policy_loss_begin(struct policy_loss *loss, const struct train_batch *batch)
{
    memset(&loss->stats, 0, sizeof loss->stats);
    loss->total_tokens = 0;
    loss->total_sequences = 0;
    for (int32_t s = 0; s < batch->count; s++) {
        int32_t tokens = trained_tokens(&batch->sequences[s]);
        loss->total_tokens += tokens;
        loss->total_sequences += tokens > 0;
    }
}

/* Aggregation weight of each token of a sequence. */
static double token_weight(const struct policy_loss *loss, int32_t sequence_tokens)
{
    double sequences = (double)loss->total_sequences;

    switch (loss->options.aggregation) {
    case AGGREGATE_TOKEN_MEAN:
        return 1.0 / (double)loss->total_tokens;
    case AGGREGATE_SEQUENCE_MEAN:
        return 1.0 / (sequences * sequence_tokens);
    case AGGREGATE_CONSTANT:
        break;
    }
    return 1.0 / (sequences * loss->options.constant_tokens);
}

/* exp of a difference of logprobs, the exponent clamped. */
static double ratio_of(double logprob, double other)
{
    double difference = logprob - other;
    if (difference > EXPONENT_MAX || difference < -EXPONENT_MAX)
        difference = difference > 0.0 ? EXPONENT_MAX : -EXPONENT_MAX;
    return exponential(difference);
}

static void count_ratio(struct policy_loss_stats *stats, double ratio)
{
    stats->ratio_sum += ratio;
    stats->ratio_squared_sum += ratio * ratio;
    if (ratio > stats->ratio_max)
        stats->ratio_max = ratio;
}

/* L_t without its weight, and its derivative with respect to logprob; counts clips. center: the
 * logprob in the ratio's denominator. */
static double surrogate(struct policy_loss *loss, double logprob, double center, double advantage,
                        double *derivative)
{
    const struct policy_loss_options *options = &loss->options;
    struct policy_loss_stats *stats = &loss->stats;
    double difference = logprob - center;
    bool bounded = difference > EXPONENT_MAX || difference < -EXPONENT_MAX;
    double ratio = ratio_of(logprob, center);
    double low = 1.0 - (double)options->clip_low;
    double high = 1.0 + (double)options->clip_high;
    double value = -ratio * advantage;
    *derivative = bounded ? 0.0 : value; /* d ratio / d logprob = ratio */

    if (ratio > high && advantage > 0.0) {
        value = -high * advantage;
        *derivative = 0.0;
        stats->clipped_high++;
    } else if (ratio < low && advantage < 0.0) {
        value = -low * advantage;
        *derivative = 0.0;
        stats->clipped_low++;
    }
    double dual = (double)options->dual_clip;
    if (dual > 0.0 && advantage < 0.0 && value > -dual * advantage) {
        value = -dual * advantage;
        *derivative = 0.0;
        stats->dual_clipped++;
    }
    return value;
}

/* L_t under the off-policy correction. */
static double corrected(struct policy_loss *loss, const struct policy_sequence *data, int32_t i,
                        float logprob, double *derivative)
{
    const struct policy_loss_options *options = &loss->options;
    double behavior = (double)data->behavior_logprob[i], advantage = (double)data->advantage;
    double weight = 1.0;
    count_ratio(&loss->stats, ratio_of((double)logprob, behavior));
    if (options->off_policy == OFF_POLICY_BEHAVIOR_RATIO)
        return surrogate(loss, (double)logprob, behavior, advantage, derivative);
    if (loss->first_pass && data->proximal_logprob != NULL)
        data->proximal_logprob[i] = logprob;
    double proximal = (double)(loss->first_pass ? logprob : data->proximal_logprob[i]);
    if (options->off_policy == OFF_POLICY_DECOUPLED)
        weight = fmin(ratio_of(proximal, behavior), (double)options->importance_weight_max);
    double value = weight * surrogate(loss, (double)logprob, proximal, advantage, derivative);
    *derivative *= weight;
    return value;
}

/* Tokens sampled from the very weights that are trained must agree bit for bit (G6). */
static void compare_engines(struct policy_loss *loss, float logprob, float behavior)
{
    struct policy_loss_stats *stats = &loss->stats;
    double difference = fabs((double)logprob - (double)behavior);

    stats->current_version_tokens++;
    stats->unequal_tokens += memcmp(&logprob, &behavior, sizeof logprob) != 0;
    if (!(difference <= stats->abs_logprob_difference_max))
        stats->abs_logprob_difference_max = difference;
}

static double reference_term(struct policy_loss *loss, float logprob, float reference,
                             double *derivative)
{
    float value, slope, k3, k3_slope;

    policy_kl(loss->options.kl_estimator, logprob, reference, &value, &slope);
    policy_kl(KL_K3, logprob, reference, &k3, &k3_slope);
    loss->stats.kl_reference += (double)k3;
    *derivative = (double)slope;
    return (double)value;
}

static double one_token(struct policy_loss *loss, const struct policy_sequence *data, int32_t i,
                        float logprob, double *derivative)
{
    float behavior = data->behavior_logprob[i];
    float k3, k3_slope;
    double value = corrected(loss, data, i, logprob, derivative);

    loss->stats.tokens++;
    loss->stats.policy_loss += value;
    policy_kl(KL_K3, behavior, logprob, &k3, &k3_slope);
    loss->stats.kl_behavior += (double)k3;
    bool mixed = data->kv_mixed != NULL && data->kv_mixed[i] != 0;
    loss->stats.mixed_kv_tokens += mixed;
    if (loss->current_version >= 0 && data->policy_version[i] == loss->current_version && !mixed)
        compare_engines(loss, logprob, behavior);
    if (data->reference_logprob != NULL) {
        double kl_derivative;
        double kl = reference_term(loss, logprob, data->reference_logprob[i], &kl_derivative);
        if (loss->options.kl_coef != 0.0f) {
            value += (double)loss->options.kl_coef * kl;
            *derivative += (double)loss->options.kl_coef * kl_derivative;
        }
    }
    return value;
}

int policy_loss_function(void *context, const struct train_batch *batch,
                         const struct loss_streams *streams, double *total)
{
    struct policy_loss *loss = context;
    double entropy_coef = (double)loss->options.entropy_coef;

    if (entropy_coef != 0.0 && streams->entropy == NULL)
        return error_set(HONE_EINVAL, "an entropy term needs a batch with entropies");
    if (loss->options.aggregation == AGGREGATE_CONSTANT && loss->options.constant_tokens < 1)
        return error_set(HONE_EINVAL, "constant aggregation needs a divisor of at least 1 token");
    for (int32_t s = 0; s < streams->count; s++) {
        const struct train_sequence *sequence = &batch->sequences[streams->first + s];
        const struct policy_sequence *data = sequence->user;
        if (loss->options.kl_coef != 0.0f && data->reference_logprob == NULL)
            return error_set(HONE_EINVAL, "a KL term needs reference logprobs");
        double weight = token_weight(loss, trained_tokens(sequence));
        for (int32_t i = 1; i < sequence->count; i++) {
            double derivative;
            if (sequence->loss_mask[i] == 0)
                continue;
            double value = one_token(loss, data, i, streams->logprob[s][i], &derivative);
            if (streams->entropy != NULL) {
                double entropy = (double)streams->entropy[s][i];
                loss->stats.entropy += entropy;
                value -= entropy_coef * entropy;
                streams->d_entropy[s][i] = (float)(-entropy_coef * weight);
            }
            *total += weight * value;
            streams->d_logprob[s][i] = (float)(weight * derivative);
        }
    }
    return 0;
}

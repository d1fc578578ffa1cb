#include "learner/policy_loss.h"

#include <math.h>
#include <string.h>

#include "infra/base/error.h"

void policy_loss_begin(struct policy_loss *loss, const struct train_batch *batch)
{
    memset(&loss->stats, 0, sizeof loss->stats);
    loss->total_tokens = 0;
    loss->total_sequences = 0;
    for (int32_t s = 0; s < batch->count; s++) {
        int32_t tokens = train_sequence_trained(&batch->sequences[s]);
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

/* What a token's ratio and weight need of its whole trajectory. */
struct sequence_terms {
    struct importance_sums importance;
    double log_ratio_mean; /* of policy to center */
};

/* A token's logprobs under the three policies. */
struct token_logprobs {
    double policy, behavior, proximal, center;
};

static struct token_logprobs logprobs_of(const struct policy_loss *loss,
                                         const struct policy_sequence *data, int32_t i,
                                         float logprob)
{
    struct token_logprobs token = {.policy = (double)logprob,
                                   .behavior = (double)data->behavior_logprob[i]};
    bool first = loss->first_pass || data->proximal_logprob == NULL;
    if (data->log_mass != NULL)
        token.behavior -= (double)data->log_mass[i];
    token.proximal = first ? token.policy : (double)data->proximal_logprob[i];
    token.center = loss->options.importance.off_policy == OFF_POLICY_BEHAVIOR_RATIO
                       ? token.behavior
                       : token.proximal;
    return token;
}

static void sum_sequence(const struct policy_loss *loss, const struct train_sequence *sequence,
                         const float *logprob, struct sequence_terms *terms)
{
    const struct policy_sequence *data = sequence->user;
    double log_ratio = 0.0;

    memset(terms, 0, sizeof *terms);
    for (int32_t i = 1; i < sequence->count; i++) {
        if (sequence->loss_mask[i] == 0)
            continue;
        struct token_logprobs token = logprobs_of(loss, data, i, logprob[i]);
        terms->importance.difference += token.proximal - token.behavior;
        terms->importance.tokens++;
        log_ratio += token.policy - token.center;
    }
    if (terms->importance.tokens > 0)
        terms->log_ratio_mean = log_ratio / terms->importance.tokens;
}

static void count_ratio(struct policy_loss_stats *stats, double ratio)
{
    stats->ratio_sum += ratio;
    stats->ratio_squared_sum += ratio * ratio;
    if (ratio > stats->ratio_max)
        stats->ratio_max = ratio;
}

static void count_clip(struct policy_loss_stats *stats, enum surrogate_clip clip)
{
    stats->clipped_low += clip == SURROGATE_LOW;
    stats->clipped_high += clip == SURROGATE_HIGH;
    stats->dual_clipped += clip == SURROGATE_DUAL;
}

/* L_t and its derivative with respect to logprob. */
static double policy_term(struct policy_loss *loss, const struct policy_sequence *data, int32_t i,
                          float logprob, const struct sequence_terms *terms, double *derivative)
{
    const struct policy_loss_options *options = &loss->options;
    struct token_logprobs token = logprobs_of(loss, data, i, logprob);
    double difference =
        options->ratio == RATIO_SEQUENCE ? terms->log_ratio_mean : token.policy - token.center;
    struct surrogate_input input = {
        .logprob = token.policy,
        .ratio = importance_ratio(difference),
        .saturated = importance_saturated(difference),
        .advantage = (double)(data->token_advantage ? data->token_advantage[i] : data->advantage)};
    struct surrogate_result result;

    if (loss->first_pass && data->proximal_logprob != NULL)
        data->proximal_logprob[i] = logprob;
    surrogate(&options->surrogate, &input, &result);
    double weight = importance_weight(&options->importance, &terms->importance,
                                      token.proximal - token.behavior);
    count_ratio(&loss->stats, importance_ratio(token.policy - token.behavior));
    count_clip(&loss->stats, result.clip);
    loss->stats.weight_sum += weight;
    loss->stats.rejected += weight == 0.0;
    *derivative = weight * result.derivative;
    return weight * result.loss;
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

    kl_estimate(loss->options.kl_estimator, logprob, reference, &value, &slope);
    kl_estimate(KL_K3, logprob, reference, &k3, &k3_slope);
    loss->stats.kl_reference += (double)k3;
    *derivative = (double)slope;
    return (double)value;
}

static double one_token(struct policy_loss *loss, const struct policy_sequence *data, int32_t i,
                        float logprob, const struct sequence_terms *terms, double *derivative)
{
    float behavior = data->behavior_logprob[i];
    float k3, k3_slope;
    double value = policy_term(loss, data, i, logprob, terms, derivative);

    loss->stats.tokens++;
    loss->stats.policy_loss += value;
    kl_estimate(KL_K3, behavior, logprob, &k3, &k3_slope);
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

/* V_t and its derivative with respect to the value. */
static double value_term(struct policy_loss *loss, const struct policy_sequence *data, int32_t i,
                         double value, double *derivative)
{
    struct policy_loss_stats *stats = &loss->stats;
    double clip = (double)loss->options.value_clip;
    double old = (double)data->old_value[i], target = (double)data->value_target[i];
    double clipped = clip > 0.0 ? fmin(fmax(value, old - clip), old + clip) : value;
    double plain = value - target, bounded = clipped - target;
    bool outside = bounded * bounded > plain * plain;

    stats->return_sum += target;
    stats->return_squares += target * target;
    stats->residual_sum += target - value;
    stats->residual_squares += plain * plain;
    *derivative = outside ? 0.0 : plain;
    double term = 0.5 * (outside ? bounded * bounded : plain * plain);
    stats->value_loss += term;
    return term;
}

static void one_sequence(struct policy_loss *loss, const struct train_sequence *sequence,
                         const struct loss_streams *streams, int32_t s, double *total)
{
    double entropy_coef = (double)loss->options.entropy_coef;
    double weight = token_weight(loss, train_sequence_trained(sequence));
    struct sequence_terms terms;

    sum_sequence(loss, sequence, streams->logprob[s], &terms);
    for (int32_t i = 1; i < sequence->count; i++) {
        double derivative;
        if (sequence->loss_mask[i] == 0)
            continue;
        double value =
            one_token(loss, sequence->user, i, streams->logprob[s][i], &terms, &derivative);
        if (streams->entropy != NULL) {
            double entropy = (double)streams->entropy[s][i];
            loss->stats.entropy += entropy;
            value -= entropy_coef * entropy;
            streams->d_entropy[s][i] = (float)(-entropy_coef * weight);
        }
        if (streams->value != NULL) {
            double slope;
            double coef = (double)loss->options.value_coef;
            value +=
                coef * value_term(loss, sequence->user, i, (double)streams->value[s][i], &slope);
            streams->d_value[s][i] = (float)(weight * coef * slope);
        }
        *total += weight * value;
        streams->d_logprob[s][i] = (float)(weight * derivative);
    }
}

int policy_loss_function(void *context, const struct train_batch *batch,
                         const struct loss_streams *streams, double *total)
{
    struct policy_loss *loss = context;

    if (loss->options.entropy_coef != 0.0f && streams->entropy == NULL)
        return error_set(HONE_EINVAL, "an entropy term needs a batch with entropies");
    if (loss->options.aggregation == AGGREGATE_CONSTANT && loss->options.constant_tokens < 1)
        return error_set(HONE_EINVAL, "constant aggregation needs a divisor of at least 1 token");
    for (int32_t s = 0; s < streams->count; s++) {
        const struct train_sequence *sequence = &batch->sequences[streams->first + s];
        const struct policy_sequence *data = sequence->user;
        if (loss->options.kl_coef != 0.0f && data->reference_logprob == NULL)
            return error_set(HONE_EINVAL, "a KL term needs reference logprobs");
        one_sequence(loss, sequence, streams, s, total);
    }
    return 0;
}

#include "learner/rl_step.h"

#include <math.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/fault.h"

#define SPIKE  1e4f   /* times the gradient */
#define HARDEN -50.0f /* entropy bonus, in losses */

struct watched_loss {
    struct policy_loss policy;
    const struct rl_step *step;
    int64_t number; /* of the batch */
};

/* What tests ask to go wrong (infra/base/fault.h). */
static void inject(const struct watched_loss *loss, const struct train_batch *batch,
                   const struct loss_streams *streams, double *total)
{
    bool spike = fault_injected("gradient_spike", loss->number);
    bool wrong = fault_injected("wrong_way", loss->number);
    bool harden = fault_injected("entropy_collapse", loss->number);
    if (fault_injected("nan_loss", loss->number))
        *total = (double)NAN;
    for (int32_t s = 0; (spike || wrong || harden) && s < streams->count; s++) {
        const struct train_sequence *sequence = &batch->sequences[streams->first + s];
        for (int32_t i = 1; i < sequence->count; i++) {
            if (sequence->loss_mask[i] == 0)
                continue;
            streams->d_logprob[s][i] *= (spike ? SPIKE : 1.0f) * (wrong ? -1.0f : 1.0f);
            if (harden && streams->d_entropy)
                streams->d_entropy[s][i] = -HARDEN / (float)loss->policy.total_tokens;
        }
    }
}

static int breathe(const struct rl_step *step)
{
    return step->between ? step->between(step->context) : 0;
}

static int watched_loss_function(void *context, const struct train_batch *batch,
                                 const struct loss_streams *streams, double *total)
{
    struct watched_loss *loss = context;
    int rc = breathe(loss->step);
    if (rc < 0)
        return rc;
    rc = policy_loss_function(&loss->policy, batch, streams, total);
    inject(loss, batch, streams, total);
    return rc;
}

/* In pieces of about a micro-batch; a token's logprob does not depend on the piece (G6). */
static int fill_reference(const struct rl_step *step, struct rl_batch *batch)
{
    rl_batch_keep_reference(batch);
    for (int32_t first = 0, end = 0; first < batch->sequence_count; first = end) {
        int32_t tokens = 0;
        for (end = first; end < batch->sequence_count; end++) {
            tokens += batch->sequences[end].count;
            if (end > first && tokens > step->micro_batch_tokens)
                break;
        }
        struct train_batch piece = {.sequences = batch->sequences + first,
                                    .count = end - first,
                                    .temperature = step->temperature};
        int rc = trainer_logprobs(step->reference, &piece, batch->reference + first, NULL);
        if (rc == 0)
            rc = breathe(step);
        if (rc < 0)
            return error_prefix("reference logprobs of batch %lld", (long long)batch->number);
    }
    return 0;
}

/* What is asked before an update is applied. */
struct asked {
    const struct rl_step *step;
    const struct watched_loss *loss;
    struct rl_step_result *result;
    bool first;
};

static bool ask(void *context, const struct step_report *report)
{
    const struct asked *asked = context;
    struct rl_step_result figures = *asked->result;
    figures.report = *report;
    figures.after = asked->loss->policy.stats;
    if (asked->first) {
        figures.before = figures.after;
        figures.loss = report->loss;
    }
    return asked->step->accept(asked->step->accept_context, &figures);
}

int rl_step_run(const struct rl_step *step, struct rl_batch *batch, int64_t current_version,
                struct rl_step_result *result)
{
    struct train_batch train = {.sequences = batch->sequences,
                                .count = batch->sequence_count,
                                .temperature = step->temperature,
                                .need_entropy = true};
    struct watched_loss loss = {
        .policy.options = step->loss, .step = step, .number = batch->number};
    struct asked asked = {.step = step, .loss = &loss, .result = result};
    const struct loss_sums sums = {.values = (double *)(void *)&loss.policy.stats,
                                   .sums = POLICY_LOSS_SUMS,
                                   .maxima = POLICY_LOSS_MAXIMA};
    train.sums = &sums;
    if (step->accept) {
        train.accept = ask;
        train.accept_context = &asked;
    }
    memset(result, 0, sizeof *result);
    int rc = step->reference ? fill_reference(step, batch) : 0;
    if (rc == 0 && step->advantage.baseline == BASELINE_CRITIC) {
        train.need_value = true;
        rl_batch_keep_values(batch);
        rc = batch->sequence_count > 0 ? trainer_values(step->trainer, &train, batch->values) : 0;
    }
    if (rc == 0)
        rc = rl_batch_set_advantages(batch, &step->advantage);
    if (step->updates > 1 && step->loss.importance.off_policy != OFF_POLICY_BEHAVIOR_RATIO)
        rl_batch_keep_proximal(batch);
    for (int32_t update = 0; rc == 0 && update < step->updates; update++) {
        policy_loss_begin(&loss.policy, &train);
        loss.policy.current_version = update == 0 ? current_version : -1;
        loss.policy.first_pass = asked.first = update == 0;
        rc = trainer_step(step->trainer, &train, watched_loss_function, &loss, &result->report);
        if (rc < 0)
            return error_prefix("batch %lld, update %d", (long long)batch->number, update + 1);
        if (update == 0) {
            result->before = loss.policy.stats;
            result->loss = result->report.loss;
        }
        result->after = loss.policy.stats;
        result->tokens += result->report.tokens;
        result->skipped_steps += !result->report.applied;
        if (!(result->report.gradient_norm <= result->gradient_norm_max))
            result->gradient_norm_max = result->report.gradient_norm;
        if (!result->report.applied && step->accept)
            break;
    }
    return rc;
}

double rl_step_sample_size(const struct policy_loss_stats *stats)
{
    if (stats->tokens == 0 || !(stats->ratio_squared_sum > 0.0))
        return 1.0;
    return stats->ratio_sum * stats->ratio_sum / ((double)stats->tokens * stats->ratio_squared_sum);
}

double rl_step_explained_variance(const struct policy_loss_stats *stats)
{
    double tokens = (double)stats->tokens;
    if (stats->tokens == 0)
        return 0.0;
    double returns = stats->return_squares - stats->return_sum * stats->return_sum / tokens;
    double residuals = stats->residual_squares - stats->residual_sum * stats->residual_sum / tokens;
    return returns > 0.0 ? 1.0 - residuals / returns : 0.0;
}

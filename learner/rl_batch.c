#include "learner/rl_batch.h"

#include <math.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/data/token_support.h"
#include "learner/returns.h"

static int check_trajectory(const struct trajectory *trajectory, const struct rl_batch_rules *rules)
{
    unsigned long long id = (unsigned long long)trajectory->id;
    if (trajectory->token_count > rules->max_sequence_tokens)
        return error_set(HONE_EFORMAT, "trajectory %llu has %d tokens, at most %d are trained", id,
                         trajectory->token_count, rules->max_sequence_tokens);
    for (int32_t i = 0; i < trajectory->token_count; i++) {
        if (trajectory->tokens[i] >= rules->vocab_size)
            return error_set(HONE_EFORMAT, "trajectory %llu: token %d has id %d of %d", id, i,
                             trajectory->tokens[i], rules->vocab_size);
    }
    if (trajectory->sampling.temperature != rules->temperature)
        return error_set(HONE_EFORMAT,
                         "trajectory %llu was sampled at temperature %g, logprobs are taken at %g",
                         id, (double)trajectory->sampling.temperature, (double)rules->temperature);
    if (trajectory->sampling.keep_support != rules->keep_support)
        return error_set(HONE_EFORMAT, "trajectory %llu was sampled %s what its tokens were cut to",
                         id, rules->keep_support ? "without keeping" : "keeping");
    return 0;
}

static int read_trajectories(struct rl_batch *batch, const Hone__Batch *message,
                             const struct rl_batch_rules *rules)
{
    batch->trajectories = MEMORY_ARRAY(struct trajectory, message->n_trajectories);
    for (size_t i = 0; i < message->n_trajectories; i++) {
        struct trajectory *trajectory = &batch->trajectories[i];
        int rc = wire_trajectory_read(message->trajectories[i], trajectory);
        if (rc < 0)
            return error_prefix("trajectory %zu of %zu", i, message->n_trajectories);
        batch->count++;
        rc = check_trajectory(trajectory, rules);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int32_t group_end(const struct rl_batch *batch, int32_t first)
{
    int32_t end = first + 1;
    while (end < batch->count &&
           batch->trajectories[end].group_id == batch->trajectories[first].group_id)
        end++;
    return end;
}

static void include(struct rl_batch *batch)
{
    struct rl_batch_summary *summary = &batch->summary;
    batch->rewards = MEMORY_ARRAY(float, batch->count);
    batch->advantages = MEMORY_ARRAY(float, batch->count);
    batch->included = MEMORY_ARRAY(bool, batch->count);
    for (int32_t i = 0; i < batch->count; i++) {
        const struct trajectory *trajectory = &batch->trajectories[i];
        batch->rewards[i] = trajectory->reward.total;
        batch->included[i] =
            trajectory->reward.status == REWARD_OK && trajectory->finish != FINISH_ABORT;
    }
    for (int32_t first = 0, end = 0; first < batch->count; first = end) {
        bool uniform = true;
        int32_t one = -1;
        end = group_end(batch, first);
        for (int32_t i = first; i < end; i++) {
            if (!batch->included[i])
                continue;
            one = one < 0 ? i : one;
            uniform = uniform && batch->rewards[i] == batch->rewards[one];
        }
        summary->groups++;
        summary->uniform_groups += uniform;
    }
}

/* What each trained token of sequence s was drawn from, out of the trajectory's bytes. */
static int read_support(struct rl_batch *batch, const struct rl_batch_rules *rules, int32_t s)
{
    const struct trajectory *trajectory = &batch->trajectories[batch->owners[s]];
    struct support_cursor cursor = {trajectory->support,
                                    trajectory->support + trajectory->support_bytes};
    struct logit_support *support = MEMORY_ARRAY(struct logit_support, trajectory->token_count);
    int32_t *ids = MEMORY_ARRAY(int32_t, trajectory->support_bytes); /* a byte an id, or more */
    int64_t used = 0;
    batch->supports[s] = support;
    batch->support_ids[s] = ids;
    for (int32_t i = 0; i < trajectory->token_count; i++) {
        if (!trajectory->loss_mask[i])
            continue;
        int64_t count = token_support_next(&cursor, ids + used, trajectory->support_bytes - used);
        if (count < 0)
            return (int)count;
        support[i] = (struct logit_support){.ids = ids + used, .count = count};
        used += count;
        if (count > 0 && ids[used - 1] >= rules->vocab_size)
            return error_set(
                HONE_EFORMAT, "trajectory %llu: token %d was drawn from id %d among others, of %d",
                (unsigned long long)trajectory->id, i, ids[used - 1], rules->vocab_size);
    }
    batch->sequences[s].support = support;
    return 0;
}

static int make_sequences(struct rl_batch *batch, const struct rl_batch_rules *rules)
{
    batch->sequences = MEMORY_ARRAY(struct train_sequence, batch->count);
    batch->owners = MEMORY_ARRAY(int32_t, batch->count);
    batch->policies = MEMORY_ARRAY(struct policy_sequence, batch->count);
    batch->reference = MEMORY_ARRAY(float *, batch->count);
    batch->proximal = MEMORY_ARRAY(float *, batch->count);
    batch->token_advantages = MEMORY_ARRAY(float *, batch->count);
    batch->values = MEMORY_ARRAY(float *, batch->count);
    batch->value_targets = MEMORY_ARRAY(float *, batch->count);
    batch->supports = MEMORY_ARRAY(struct logit_support *, batch->count);
    batch->support_ids = MEMORY_ARRAY(int32_t *, batch->count);
    for (int32_t i = 0; i < batch->count; i++) {
        const struct trajectory *trajectory = &batch->trajectories[i];
        if (!batch->included[i] || (rules->mask_truncated && trajectory->finish == FINISH_LENGTH))
            continue;
        int32_t s = batch->sequence_count++;
        batch->owners[s] = i;
        batch->policies[s] = (struct policy_sequence){
            .behavior_logprob = trajectory->behavior_logprob,
            .log_mass = rules->truncated_behavior ? trajectory->log_mass : NULL,
            .policy_version = trajectory->policy_version,
            .kv_mixed = trajectory->kv_mixed};
        batch->sequences[s] = (struct train_sequence){.tokens = trajectory->tokens,
                                                      .count = trajectory->token_count,
                                                      .loss_mask = trajectory->loss_mask,
                                                      .unit = s,
                                                      .user = &batch->policies[s]};
        int rc = trajectory->support_bytes > 0 ? read_support(batch, rules, s) : 0;
        if (rc < 0)
            return rc;
    }
    return 0;
}

static void summarise(struct rl_batch *batch)
{
    struct rl_batch_summary *summary = &batch->summary;
    int64_t version = batch->number - 1; /* the learner's, before this batch */
    int32_t rewarded = 0;
    int32_t versioned = 0;
    double squares = 0.0;
    summary->trajectories = batch->count;
    summary->trained = batch->sequence_count;
    for (int32_t i = 0; i < batch->count; i++) {
        const struct trajectory *trajectory = &batch->trajectories[i];
        summary->aborted += trajectory->finish == FINISH_ABORT;
        summary->truncated += trajectory->finish == FINISH_LENGTH;
        summary->length_mean += (double)trajectory_completion_tokens(trajectory) / batch->count;
        if (trajectory->reward.status == REWARD_OK) {
            summary->reward_mean += (double)trajectory->reward.total;
            rewarded++;
        }
        int64_t oldest = trajectory_oldest_version(trajectory);
        if (!batch->included[i] || oldest < 0)
            continue;
        summary->staleness_mean += (double)(version - oldest);
        if (version - oldest > summary->staleness_max)
            summary->staleness_max = version - oldest;
        versioned++;
    }
    summary->reward_mean = rewarded > 0 ? summary->reward_mean / rewarded : (double)NAN;
    summary->staleness_mean = versioned > 0 ? summary->staleness_mean / versioned : 0.0;
    for (int32_t i = 0; i < batch->count; i++) {
        double difference = (double)batch->rewards[i] - summary->reward_mean;
        if (batch->trajectories[i].reward.status == REWARD_OK)
            squares += difference * difference;
    }
    summary->reward_std = rewarded > 0 ? sqrt(squares / rewarded) : (double)NAN;
}

static int check_groups(const struct rl_batch *batch, const Hone__Batch *message)
{
    if ((uint64_t)batch->summary.groups != message->group_count)
        return error_set(HONE_EFORMAT, "%llu groups announced, %d found in runs of one group id",
                         (unsigned long long)message->group_count, batch->summary.groups);
    return 0;
}

int rl_batch_read(struct rl_batch *batch, const Hone__Batch *message,
                  const struct rl_batch_rules *rules)
{
    memset(batch, 0, sizeof *batch);
    batch->number = message->number;
    int rc = read_trajectories(batch, message, rules);
    if (rc == 0) {
        include(batch);
        rc = check_groups(batch, message);
    }
    if (rc == 0)
        rc = make_sequences(batch, rules);
    if (rc < 0) {
        rl_batch_release(batch);
        return error_prefix("batch %lld", (long long)message->number);
    }
    summarise(batch);
    return 0;
}

/* ---- advantages ---- */

/* What KL costs at a token of a sequence. */
static double token_cost(const struct rl_batch *batch, const struct advantage_options *options,
                         int32_t s, int32_t i)
{
    const struct policy_sequence *policy = &batch->policies[s];
    float value;
    float slope;
    if (!options->kl_in_reward)
        return 0.0;
    kl_estimate(options->kl_estimator, policy->behavior_logprob[i], policy->reference_logprob[i],
                &value, &slope);
    return (double)options->kl_coef * (double)value;
}

/* One advantage a trajectory, from its reward less what KL costs. */
static void set_group_advantages(struct rl_batch *batch, const struct advantage_options *options)
{
    float *rewards = MEMORY_ARRAY(float, batch->count);
    memcpy(rewards, batch->rewards, (size_t)batch->count * sizeof *rewards);
    for (int32_t s = 0; options->kl_in_reward && s < batch->sequence_count; s++) {
        const struct train_sequence *sequence = &batch->sequences[s];
        double cost = 0.0;
        for (int32_t i = 1; i < sequence->count; i++)
            cost += sequence->loss_mask[i] != 0 ? token_cost(batch, options, s, i) : 0.0;
        rewards[batch->owners[s]] = (float)((double)rewards[batch->owners[s]] - cost);
    }
    for (int32_t first = 0, end = 0; first < batch->count; first = end) {
        end = group_end(batch, first);
        advantage_group(options->baseline, options->scale, end - first, rewards + first,
                        batch->included + first, batch->advantages + first);
    }
    for (int32_t s = 0; s < batch->sequence_count; s++)
        batch->policies[s].advantage = batch->advantages[batch->owners[s]];
    memory_free(rewards);
}

/* Rewards of the trained tokens side by side, the trajectory's at the last one. */
static int32_t token_rewards(const struct rl_batch *batch, const struct advantage_options *options,
                             int32_t s, double *rewards)
{
    const struct train_sequence *sequence = &batch->sequences[s];
    int32_t tokens = 0;
    for (int32_t i = 1; i < sequence->count; i++)
        if (sequence->loss_mask[i] != 0)
            rewards[tokens++] = -token_cost(batch, options, s, i);
    if (tokens > 0)
        rewards[tokens - 1] += (double)batch->rewards[batch->owners[s]];
    return tokens;
}

/* One a token: what is left to gain from it on, less what the critic expects. */
static void set_token_advantages(struct rl_batch *batch, const struct advantage_options *options)
{
    bool critic = options->baseline == BASELINE_CRITIC;
    for (int32_t s = 0; s < batch->sequence_count; s++) {
        const struct train_sequence *sequence = &batch->sequences[s];
        double *gains = MEMORY_ARRAY(double, 2 * sequence->count);
        double *values = gains + sequence->count;
        int32_t tokens = token_rewards(batch, options, s, gains);
        for (int32_t i = 1, t = 0; critic && i < sequence->count; i++)
            if (sequence->loss_mask[i] != 0)
                values[t++] = (double)batch->values[s][i];
        if (critic)
            returns_gae(tokens, gains, values, options->gamma, options->lambda, gains);
        else
            returns_discounted(tokens, gains, options->gamma, gains);
        memory_free(batch->token_advantages[s]);
        batch->token_advantages[s] = MEMORY_ARRAY(float, sequence->count);
        for (int32_t i = 1, t = 0; i < sequence->count; i++) {
            if (sequence->loss_mask[i] == 0)
                continue;
            batch->token_advantages[s][i] = (float)gains[t];
            if (critic)
                batch->value_targets[s][i] = (float)(gains[t] + values[t]);
            t++;
        }
        memory_free(gains);
    }
}

static void add_moments(const struct rl_batch *batch, int32_t s, struct advantage_moments *moments)
{
    const struct train_sequence *sequence = &batch->sequences[s];
    const float *each = batch->token_advantages[s];
    if (!each) {
        advantage_moments_add(moments, (double)batch->policies[s].advantage,
                              train_sequence_trained(sequence));
        return;
    }
    for (int32_t i = 1; i < sequence->count; i++)
        if (sequence->loss_mask[i] != 0)
            advantage_moments_add(moments, (double)each[i], 1);
}

/* What a baseline or scale of the whole batch does to every token. */
static void map_advantages(struct rl_batch *batch, const struct advantage_options *options)
{
    struct advantage_moments moments = {0};
    for (int32_t s = 0; s < batch->sequence_count; s++)
        add_moments(batch, s, &moments);
    struct advantage_map map = advantage_batch(options->baseline, options->scale, &moments);
    for (int32_t s = 0; s < batch->sequence_count; s++) {
        const struct train_sequence *sequence = &batch->sequences[s];
        struct policy_sequence *policy = &batch->policies[s];
        float *each = batch->token_advantages[s];
        policy->token_advantage = each;
        policy->advantage = (float)(((double)policy->advantage - map.shift) / map.divisor);
        struct advantage_moments own = {0};
        for (int32_t i = 1; each && i < sequence->count; i++) {
            if (sequence->loss_mask[i] == 0)
                continue;
            each[i] = (float)(((double)each[i] - map.shift) / map.divisor);
            advantage_moments_add(&own, (double)each[i], 1);
        }
        batch->advantages[batch->owners[s]] =
            each ? (float)advantage_mean(&own) : policy->advantage;
    }
}

int rl_batch_set_advantages(struct rl_batch *batch, const struct advantage_options *options)
{
    bool group = advantage_is_of_group(options->baseline);
    for (int32_t s = 0; options->kl_in_reward && s < batch->sequence_count; s++) {
        if (!batch->policies[s].reference_logprob)
            return error_set(HONE_EINVAL, "batch %lld: a KL in the reward needs a reference model",
                             (long long)batch->number);
    }
    bool critic = options->baseline == BASELINE_CRITIC;
    if (group || (!critic && !options->kl_in_reward && options->gamma == 1.0))
        set_group_advantages(batch, options);
    else
        set_token_advantages(batch, options);
    map_advantages(batch, options);
    return 0;
}

void rl_batch_keep_reference(struct rl_batch *batch)
{
    for (int32_t s = 0; s < batch->sequence_count; s++) {
        batch->reference[s] = MEMORY_ARRAY(float, batch->sequences[s].count);
        batch->policies[s].reference_logprob = batch->reference[s];
    }
}

void rl_batch_keep_values(struct rl_batch *batch)
{
    for (int32_t s = 0; s < batch->sequence_count; s++) {
        batch->values[s] = MEMORY_ARRAY(float, batch->sequences[s].count);
        batch->value_targets[s] = MEMORY_ARRAY(float, batch->sequences[s].count);
        batch->policies[s].old_value = batch->values[s];
        batch->policies[s].value_target = batch->value_targets[s];
    }
}

void rl_batch_keep_proximal(struct rl_batch *batch)
{
    for (int32_t s = 0; s < batch->sequence_count; s++) {
        batch->proximal[s] = MEMORY_ARRAY(float, batch->sequences[s].count);
        batch->policies[s].proximal_logprob = batch->proximal[s];
    }
}

void rl_batch_release(struct rl_batch *batch)
{
    for (int32_t s = 0; s < batch->sequence_count; s++) {
        memory_free(batch->reference[s]);
        memory_free(batch->proximal[s]);
        memory_free(batch->token_advantages[s]);
        memory_free(batch->values[s]);
        memory_free(batch->value_targets[s]);
        memory_free(batch->supports[s]);
        memory_free(batch->support_ids[s]);
    }
    for (int32_t i = 0; i < batch->count; i++)
        trajectory_release(&batch->trajectories[i]);
    memory_free(batch->trajectories);
    memory_free(batch->rewards);
    memory_free(batch->advantages);
    memory_free(batch->included);
    memory_free(batch->sequences);
    memory_free(batch->policies);
    memory_free(batch->reference);
    memory_free(batch->proximal);
    memory_free(batch->token_advantages);
    memory_free(batch->values);
    memory_free(batch->value_targets);
    memory_free(batch->supports);
    memory_free(batch->support_ids);
    memory_free(batch->owners);
    memset(batch, 0, sizeof *batch);
}

#include "learner/rl_batch.h"

#include <math.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"

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

static void make_advantages(struct rl_batch *batch, const struct rl_batch_rules *rules)
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
        end = group_end(batch, first);
        advantage_group(rules->baseline, rules->scale, end - first, batch->rewards + first,
                        batch->included + first, batch->advantages + first);
        bool uniform = true;
        for (int32_t i = first; i < end; i++)
            uniform = uniform && batch->advantages[i] == 0.0f;
        summary->groups++;
        summary->uniform_groups += uniform;
    }
}

static void make_sequences(struct rl_batch *batch)
{
    batch->sequences = MEMORY_ARRAY(struct train_sequence, batch->count);
    batch->policies = MEMORY_ARRAY(struct policy_sequence, batch->count);
    batch->reference = MEMORY_ARRAY(float *, batch->count);
    batch->proximal = MEMORY_ARRAY(float *, batch->count);
    for (int32_t i = 0; i < batch->count; i++) {
        const struct trajectory *trajectory = &batch->trajectories[i];
        if (!batch->included[i])
            continue;
        int32_t s = batch->sequence_count++;
        batch->policies[s] =
            (struct policy_sequence){.behavior_logprob = trajectory->behavior_logprob,
                                     .policy_version = trajectory->policy_version,
                                     .kv_mixed = trajectory->kv_mixed,
                                     .advantage = batch->advantages[i]};
        batch->sequences[s] = (struct train_sequence){.tokens = trajectory->tokens,
                                                      .count = trajectory->token_count,
                                                      .loss_mask = trajectory->loss_mask,
                                                      .unit = s,
                                                      .user = &batch->policies[s]};
    }
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
        make_advantages(batch, rules);
        rc = check_groups(batch, message);
    }
    if (rc < 0) {
        rl_batch_release(batch);
        return error_prefix("batch %lld", (long long)message->number);
    }
    make_sequences(batch);
    summarise(batch);
    return 0;
}

void rl_batch_keep_reference(struct rl_batch *batch)
{
    for (int32_t s = 0; s < batch->sequence_count; s++) {
        batch->reference[s] = MEMORY_ARRAY(float, batch->sequences[s].count);
        batch->policies[s].reference_logprob = batch->reference[s];
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
    memset(batch, 0, sizeof *batch);
}

#include "dpo/pair_mining.h"

#include <inttypes.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/store/log_record.h"
#include "infra/store/trajectory_log.h"
#include "infra/wire/codec.h"
#include "infra/wire/envelope.h"

#define KEY_BYTES 8

struct mining {
    struct preference_pairs *pairs;
    const struct pair_mining_options *options;
    struct run_log *log;
    struct group_list {
        uint64_t *ids; /* [count] ascending */
        size_t count, capacity;
    } wanted, others;
};

/* What answers are compared by; false when a trajectory has no number for it. */
static bool value_of(const struct mining *mining, const struct trajectory *trajectory, float *value)
{
    const struct reward *reward = &trajectory->reward;
    *value = reward->total;
    if (!mining->options->part)
        return reward->status == REWARD_OK;
    for (int32_t i = 0; i < reward->part_count; i++) {
        if (strcmp(reward->parts[i].name, mining->options->part) != 0)
            continue;
        *value = reward->parts[i].value;
        return reward->parts[i].status == REWARD_OK;
    }
    return false;
}

/* Reads a trajectory that can take part: 1, 0 when it is missing or cannot, negative on an error.
 */
static int read_candidate(struct mining *mining, uint64_t id, struct trajectory *trajectory,
                          float *value)
{
    Hone__Trajectory *message;

    if (id == 0)
        return 0;
    int rc = trajectory_log_get(mining->log, id, &message);
    if (rc <= 0)
        return rc;
    rc = wire_trajectory_read(message, trajectory);
    wire_free(&message->base);
    if (rc < 0)
        return error_prefix("trajectory %" PRIu64, id);
    if (value_of(mining, trajectory, value) && trajectory->finish != FINISH_ABORT)
        return 1;
    trajectory_release(trajectory);
    return 0;
}

static void add_pair(struct mining *mining, const struct trajectory *best,
                     const struct trajectory *worst, float margin)
{
    struct example chosen, rejected;

    if (!(margin > 0.0f) || margin < mining->options->min_margin) {
        preference_pairs_drop(mining->pairs, PAIR_SMALL_MARGIN);
        return;
    }
    example_from_tokens(&chosen, best->tokens, best->loss_mask, best->token_count);
    example_from_tokens(&rejected, worst->tokens, worst->loss_mask, worst->token_count);
    preference_pairs_add(mining->pairs, &mining->options->limits, &chosen, &rejected);
}

static int mine_group(struct mining *mining, const Hone__GroupRecord *group)
{
    struct trajectory *answers = MEMORY_ARRAY(struct trajectory, group->n_trajectory_ids);
    float *values = MEMORY_ARRAY(float, group->n_trajectory_ids);
    size_t count = 0, best = 0, worst = 0;
    int rc = 0;

    for (size_t i = 0; i < group->n_trajectory_ids; i++) {
        rc = read_candidate(mining, group->trajectory_ids[i], &answers[count], &values[count]);
        if (rc < 0)
            goto out;
        if (rc == 0)
            continue;
        if (values[count] > values[best])
            best = count;
        if (values[count] < values[worst])
            worst = count;
        count++;
    }
    if (count >= 2)
        add_pair(mining, &answers[best], &answers[worst], values[best] - values[worst]);
    else
        preference_pairs_drop(mining->pairs, PAIR_INCOMPLETE);
    rc = 0;
out:
    for (size_t i = 0; i < count; i++)
        trajectory_release(&answers[i]);
    memory_free(answers);
    memory_free(values);
    return rc;
}

static bool is_wanted(const struct pair_mining_options *options, uint64_t prompt)
{
    return options->wanted == NULL ||
           (prompt < (uint64_t)options->prompt_count && options->wanted[prompt]);
}

static int list_group(void *context, const void *key, size_t key_bytes, const void *value,
                      size_t value_bytes)
{
    struct mining *mining = context;
    ProtobufCMessage *message = NULL;
    uint64_t id = key_bytes == KEY_BYTES ? run_log_u64(key) : 0;
    int rc = wire_unpack(&message, &hone__group_record__descriptor, value, value_bytes);
    if (rc < 0)
        return error_prefix("group %" PRIu64, id);
    uint64_t prompt = ((const Hone__GroupRecord *)message)->prompt_id;
    struct group_list *list =
        is_wanted(mining->options, prompt) ? &mining->wanted : &mining->others;
    if (list->count == list->capacity) {
        size_t capacity = list->capacity > 0 ? list->capacity * 2 : 1024;
        list->ids = memory_resize(list->ids, list->capacity, capacity, sizeof *list->ids);
        list->capacity = capacity;
    }
    list->ids[list->count++] = id;
    wire_free(message);
    return 0;
}

/* P1. Up to `most` pairs in all; 0: no limit. */
static int mine_list(struct mining *mining, const struct group_list *list, int64_t most)
{
    int rc = 0;
    for (size_t i = list->count; i > 0 && rc >= 0; i--) {
        ProtobufCMessage *message = NULL;
        uint64_t id = list->ids[i - 1];
        if (most > 0 && mining->pairs->count >= most) {
            preference_pairs_drop(mining->pairs, PAIR_OVER_MAX);
            continue;
        }
        rc = log_record_get(mining->log, LOG_GROUPS, id, &hone__group_record__descriptor, &message);
        if (rc > 0)
            rc = mine_group(mining, (const Hone__GroupRecord *)message);
        wire_free(message);
        if (rc < 0)
            error_prefix("group %" PRIu64, id);
    }
    return rc < 0 ? rc : 0;
}

/* The slice, then its anchors, as many as their share of the pairs found. */
static int mine_lists(struct mining *mining)
{
    double share = (double)mining->options->anchor_share;
    int64_t most = mining->options->limits.pairs_max;
    int64_t slice = share > 0.0 && most > 0 ? (int64_t)((1.0 - share) * (double)most) : most;
    int rc = mine_list(mining, &mining->wanted, slice > 0 || most == 0 ? slice : 1);
    int64_t anchors = (int64_t)((double)mining->pairs->count * share / (1.0 - share));
    if (rc == 0 && anchors > 0)
        rc = mine_list(mining, &mining->others, mining->pairs->count + anchors);
    return rc;
}

int pair_mining_read(struct preference_pairs *pairs, const char *log_directory,
                     const struct pair_mining_options *options)
{
    struct mining mining = {.pairs = pairs, .options = options};

    int rc = run_log_open(&mining.log, log_directory, true);
    if (rc < 0)
        return error_prefix("mining pairs");
    rc = run_log_scan(mining.log, LOG_GROUPS, list_group, &mining);
    if (rc == 0)
        rc = mine_lists(&mining);
    memory_free(mining.wanted.ids);
    memory_free(mining.others.ids);
    run_log_close(mining.log);
    return rc < 0 ? error_prefix("mining pairs from %s", log_directory) : 0;
}

#include "reward/reward_set.h"

#include <math.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/base/text.h"
#include "reward/command_reward.h"

struct part {
    char name[32];
    float weight;
    const struct verifier *verifier; /* one of the two is set */
    struct command_reward *command;
};

struct reward_set {
    struct part parts[REWARD_PARTS_MAX];
    int32_t count;
    float *values; /* scratch for one part, grown to the largest call */
    enum reward_status *statuses;
    int32_t capacity;
};

static int unknown_verifier(const char *name)
{
    const struct verifier *verifier, *nearest = NULL;
    struct text known;
    text_init(&known);
    for (int i = 0; (verifier = verifier_at(i)) != NULL; i++) {
        text_printf(&known, "%s%s", i == 0 ? "" : ", ", verifier->name);
        if (nearest == NULL ||
            text_distance(name, verifier->name) < text_distance(name, nearest->name))
            nearest = verifier;
    }
    if (text_distance(name, nearest->name) <= 2)
        error_set(HONE_EINVAL, "unknown verifier \"%s\"; did you mean \"%s\"? (known: %s)", name,
                  nearest->name, known.data);
    else
        error_set(HONE_EINVAL, "unknown verifier \"%s\" (known: %s)", name, known.data);
    text_release(&known);
    return HONE_EINVAL;
}

static int add_part(struct reward_set *set, const struct reward_part_options *options,
                    struct clock *clock)
{
    struct part *part = &set->parts[set->count];
    if (memchr(options->name, '\0', sizeof options->name) == NULL || options->name[0] == '\0')
        return error_set(HONE_EINVAL, "reward part %d: its name must have 1 to 31 characters",
                         set->count + 1);
    for (int32_t i = 0; i < set->count; i++)
        if (strcmp(set->parts[i].name, options->name) == 0)
            return error_set(HONE_EINVAL, "two reward parts are named \"%s\"", options->name);
    if (!isfinite(options->weight))
        return error_set(HONE_EINVAL, "reward %s: its weight is not a number", options->name);
    if ((options->verifier == NULL) == (options->command == NULL))
        return error_set(HONE_EINVAL, "reward %s: give either a verifier or a command",
                         options->name);
    memcpy(part->name, options->name, sizeof part->name);
    part->weight = options->weight;
    if (options->verifier != NULL) {
        part->verifier = verifier_find(options->verifier);
        if (part->verifier == NULL) {
            unknown_verifier(options->verifier);
            return error_prefix("reward %s", options->name);
        }
    } else {
        int rc = command_reward_create(&part->command, options->name, options->command,
                                       options->timeout_ms, clock);
        if (rc < 0)
            return rc;
    }
    set->count++;
    return 0;
}

int reward_set_create(struct reward_set **set, const struct reward_part_options *parts,
                      int32_t count, struct clock *clock)
{
    *set = NULL;
    if (count < 1 || count > REWARD_PARTS_MAX)
        return error_set(HONE_EINVAL, "a recipe has 1 to %d reward parts, not %d", REWARD_PARTS_MAX,
                         count);
    struct reward_set *made = MEMORY_NEW(struct reward_set);
    for (int32_t i = 0; i < count; i++) {
        int rc = add_part(made, &parts[i], clock);
        if (rc < 0) {
            reward_set_destroy(made);
            return rc;
        }
    }
    *set = made;
    return 0;
}

void reward_set_destroy(struct reward_set *set)
{
    if (set == NULL)
        return;
    for (int32_t i = 0; i < set->count; i++)
        command_reward_destroy(set->parts[i].command);
    memory_free(set->values);
    memory_free(set->statuses);
    memory_free(set);
}

static void score_part(struct reward_set *set, struct part *part, const struct reward_input *inputs,
                       int32_t count)
{
    if (part->command != NULL) {
        command_reward_score(part->command, inputs, count, set->values, set->statuses);
        return;
    }
    for (int32_t i = 0; i < count; i++) {
        set->values[i] = 0;
        set->statuses[i] = part->verifier->score(&inputs[i], &set->values[i]);
    }
}

/* R1. An error outweighs a timeout: it is the one that waiting does not heal. */
static void total(struct reward *reward)
{
    double sum = 0;
    int32_t counts[REWARD_ERROR + 1] = {0};
    for (int32_t i = 0; i < reward->part_count; i++) {
        const struct reward_part *part = &reward->parts[i];
        counts[part->status]++;
        if (part->status == REWARD_OK)
            sum += (double)part->weight * (double)part->value;
    }
    if (counts[REWARD_ERROR] > 0 || !isfinite((float)sum))
        reward->status = REWARD_ERROR;
    else if (counts[REWARD_TIMEOUT] > 0)
        reward->status = REWARD_TIMEOUT;
    else
        reward->status = counts[REWARD_OK] > 0 ? REWARD_OK : REWARD_ABSTAIN;
    reward->total = reward->status == REWARD_OK ? (float)sum : 0;
}

void reward_set_score(struct reward_set *set, const struct reward_input *inputs, int32_t count,
                      struct reward *rewards)
{
    HONE_ASSERT(count >= 0);
    if (count > set->capacity) {
        memory_free(set->values);
        memory_free(set->statuses);
        set->values = MEMORY_ARRAY(float, count);
        set->statuses = MEMORY_ARRAY(enum reward_status, count);
        set->capacity = count;
    }
    for (int32_t i = 0; i < count; i++) {
        memset(&rewards[i], 0, sizeof rewards[i]);
        rewards[i].part_count = set->count;
    }
    for (int32_t p = 0; p < set->count; p++) {
        score_part(set, &set->parts[p], inputs, count);
        for (int32_t i = 0; i < count; i++) {
            struct reward_part *part = &rewards[i].parts[p];
            memcpy(part->name, set->parts[p].name, sizeof part->name);
            part->weight = set->parts[p].weight;
            part->status = set->statuses[i];
            part->value = part->status == REWARD_OK ? set->values[i] : 0;
        }
    }
    for (int32_t i = 0; i < count; i++)
        total(&rewards[i]);
}

/* Rewards of a recipe: a weighted list of parts, each a built-in verifier or an external command.
 *
 *   R1 (G8)  A part that fails, times out or abstains has a status, never a number. The total is
 *       OK only when every part that did not abstain is OK and at least one is; abstaining parts
 *       are left out of the sum.
 *   R2  An external command is a child process of its own group that reads one JSON object a line
 *       and writes one a line; a deadline per line; death, garbage or silence is a status, the
 *       process is killed and started again with back-off, within a budget.
 *
 * Owned by one thread. */
#ifndef HONE_REWARD_REWARD_SET_H
#define HONE_REWARD_REWARD_SET_H

#include "infra/base/clock.h"
#include "infra/data/trajectory.h"

struct reward_part_options {
    char name[32];
    const char *verifier; /* "exact", "number", "gsm8k", "boxed", ...; NULL when command is given */
    const char *const *command; /* argv, NULL-terminated */
    float weight;
    int64_t timeout_ms;
};

/* What a verifier sees of one completion. Strings are UTF-8, NUL-terminated. */
struct reward_input {
    uint64_t id;
    const char *prompt;
    const char *completion;
    const char *ground_truth;
    const char *data_source;
    const char *capability;
    const char *extra_json;
    const int32_t *prompt_ids, *completion_ids;
    int32_t prompt_id_count, completion_id_count;
    enum finish_reason finish;
    int64_t policy_version;
    uint64_t group_id;
    int32_t longest_tokens;         /* at which completions are cut */
    int32_t overlong_buffer_tokens; /* of the verifier `overlong` */
};

struct reward_set;
/* Unknown verifiers (nearest name given) and commands that cannot be started are errors here. */
int reward_set_create(struct reward_set **set, const struct reward_part_options *parts,
                      int32_t count, struct clock *clock);
void reward_set_destroy(struct reward_set *set);
/* Scores inputs one after another (commands get all lines of the call before answers are read).
 * Takes at most the sum of the timeouts; always fills rewards[count]. */
void reward_set_score(struct reward_set *set, const struct reward_input *inputs, int32_t count,
                      struct reward *rewards);

/* A built-in verifier: 0 with *value set, or a status. */
struct verifier {
    const char *name;
    const char *help;
    enum reward_status (*score)(const struct reward_input *input, float *value);
};
const struct verifier *verifier_find(const char *name);
const struct verifier *verifier_at(int index); /* NULL past the last */

#endif

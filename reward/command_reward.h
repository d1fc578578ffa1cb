/* A reward computed by an external command: a child process that reads one JSON object a line on
 * stdin and writes one a line on stdout.
 *
 *   request  {"id": 7, "prompt": "...", "completion": "...", "ground_truth": "...",
 *             "data_source": "...", "capability": "...", "extra": {...}, "prompt_ids": [...],
 *             "completion_ids": [...], "finish_reason": "stop", "policy_version": 3,
 *             "group_id": 12}
 *   answer   {"id": 7, "score": 0.5}
 *            {"id": 7, "score": null}                                   abstains
 *            {"id": 7, "score": NaN}                                    an error of this one alone
 *            {"id": 7, "status": "timeout" | "error" | "abstain", "message": "why"}
 *
 *   C1  The id is a small number, unique in the life of the process; answers may come in any order.
 *   C2  Deadline: timeout_ms from the call, or from the answer before, to the next answer. Who
 *       misses it is the oldest request without an answer: REWARD_TIMEOUT. Death, a line that is
 *       not such an object, an id that was not asked, a line over COMMAND_LINE_MAX:
 *       that request is REWARD_ERROR.
 *   C3  After any of these the whole process group is killed and the command started again for the
 *       requests that are left, after a back-off that doubles while no answer comes, within a
 *       budget of starts that answers earn back. With the budget spent every request is
 *       REWARD_ERROR at once.
 *   C4  Its stderr goes to our log, line by line. Nothing it does blocks us past the deadline.
 *
 * Owned by one thread: the child dies with the thread that started it. SIGPIPE is ignored in this
 * process from the first create on. */
#ifndef HONE_REWARD_COMMAND_REWARD_H
#define HONE_REWARD_COMMAND_REWARD_H

#include <stdint.h>

#include "infra/base/clock.h"
#include "reward/reward_set.h"

#define COMMAND_LINE_MAX     (1 << 20) /* bytes of one answer */
#define COMMAND_START_BUDGET 8
#define COMMAND_EARN_ANSWERS 16 /* answers that earn one start back */

struct command_reward;

/* Starts the command. A program that cannot be executed is HONE_ENOENT or HONE_EIO, with its name.
 */
int command_reward_create(struct command_reward **command, const char *name,
                          const char *const *argv, int64_t timeout_ms, struct clock *clock);
/* Closes its stdin, gives it a moment, kills its group. NULL is fine. */
void command_reward_destroy(struct command_reward *command);
/* Fills values[count] (where the status is REWARD_OK) and statuses[count]. Takes at most count *
 * timeout. */
void command_reward_score(struct command_reward *command, const struct reward_input *inputs,
                          int32_t count, float *values, enum reward_status *statuses);

#endif

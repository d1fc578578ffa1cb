/* Evaluations of the RL stage's checkpoints while it goes on (rl.eval_steps): one process at a
 * time, beside the workers. What fails is told and left; the run goes on.
 *
 * A result is eval/rl-step-N.json in the run directory, and a record of metrics/eval.jsonl. A
 * checkpoint whose result is there is not evaluated again. */
#ifndef HONE_COMMANDS_STEP_EVALS_H
#define HONE_COMMANDS_STEP_EVALS_H

#include "infra/base/file.h"
#include "infra/config/recipe.h"
#include "infra/launch/run_directory.h"
#include "infra/launch/supervisor.h"

struct step_evals {
    const struct recipe *recipe;
    const struct run_directory *run;
    const char *binary;
    struct supervisor *supervisor; /* NULL: none is going on */
    int64_t step;                  /* of the one that goes on, or was the last */
    int64_t looked_ms;             /* monotonic */
};

void step_evals_init(struct step_evals *evals, const struct recipe *recipe,
                     const struct run_directory *run, const char *binary);
/* Starts the next one, and takes in the result of one that is done. It looks for checkpoints once a
 * second; when the stage is over, at once. true: one is going on. */
bool step_evals_tick(struct step_evals *evals, bool stage_is_over);
void step_evals_stop(struct step_evals *evals);

#endif

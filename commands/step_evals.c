#include "commands/step_evals.h"

#include <stdio.h>
#include <string.h>

#include "commands/measure/evaluate.h"
#include "infra/base/clock.h"
#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/telemetry/metrics.h"

enum { LOOK_MS = 1000, STOP_GRACE_MS = 1000 };

void step_evals_init(struct step_evals *evals, const struct recipe *recipe,
                     const struct run_directory *run, const char *binary)
{
    *evals = (struct step_evals){.recipe = recipe, .run = run, .binary = binary};
}

static bool is_evaluated(const struct step_evals *evals, int64_t step)
{
    char relative[64], path[HONE_PATH_MAX];
    snprintf(relative, sizeof relative, "eval/rl-step-%lld.json", (long long)step);
    return file_exists(run_directory_file(evals->run, path, sizeof path, relative));
}

static const char *checkpoint_path(const struct step_evals *evals, int64_t step, char *path,
                                   size_t capacity)
{
    char relative[64];
    snprintf(relative, sizeof relative, "rl/checkpoints/step-%lld", (long long)step);
    return run_directory_file(evals->run, path, capacity, relative);
}

/* A step to evaluate whose checkpoint is there; 0: none. The last one is the stage's own. */
static int64_t next_step(const struct step_evals *evals)
{
    const struct rl_settings *rl = &evals->recipe->rl;
    char path[HONE_PATH_MAX];
    if (!evals->recipe->eval.enabled || rl->eval_steps == 0)
        return 0;
    for (int64_t step = evals->step + rl->eval_steps - evals->step % rl->eval_steps;
         step < rl->steps; step += rl->eval_steps)
        if (!is_evaluated(evals, step) &&
            file_is_directory(checkpoint_path(evals, step, path, sizeof path)))
            return step;
    return 0;
}

static int start(struct step_evals *evals, int64_t step)
{
    char label[48], model[HONE_PATH_MAX], relative[80];
    snprintf(label, sizeof label, "rl-step-%lld", (long long)step);
    const char *const words[] = {
        evals->binary, "eval", "--run",   evals->run->path,
        "--label",     label,  "--model", checkpoint_path(evals, step, model, sizeof model)};
    const int count = (int)(sizeof words / sizeof words[0]);
    struct worker_spec spec = {.essential = true};
    evals->step = step;
    snprintf(spec.name, sizeof spec.name, "eval-%s", label);
    snprintf(relative, sizeof relative, "logs/eval-%s.log", label);
    run_directory_file(evals->run, spec.log_path, sizeof spec.log_path, relative);
    for (int i = 0; i < count; i++)
        spec.argv[i] = memory_strdup(words[i]);
    int rc = supervisor_create(&evals->supervisor, clock_system());
    if (rc == 0)
        rc = supervisor_add(evals->supervisor, &spec);
    for (int i = 0; i < count; i++)
        memory_free(spec.argv[i]);
    return rc;
}

static int take_in(const struct step_evals *evals)
{
    struct evaluate_result result;
    struct metrics *metrics;
    char relative[64], path[HONE_PATH_MAX];
    snprintf(relative, sizeof relative, "eval/rl-step-%lld.json", (long long)evals->step);
    int rc =
        evaluate_read_json(run_directory_file(evals->run, path, sizeof path, relative), &result);
    if (rc == 0)
        rc = metrics_open(&metrics,
                          run_directory_file(evals->run, path, sizeof path, "metrics/eval.jsonl"),
                          clock_system());
    if (rc < 0)
        return rc;
    metrics_begin(metrics, evals->step);
    metrics_add(metrics, "eval/pass@1", result.pass1);
    metrics_add(metrics, "eval/pass@1_error", result.pass1_error);
    metrics_add(metrics, "eval/pass@k", result.passk);
    metrics_add(metrics, "eval/reward_mean", result.reward_mean);
    metrics_add(metrics, "eval/length_mean", result.length_mean);
    metrics_add(metrics, "eval/truncated", result.truncated);
    metrics_add(metrics, "eval/unscored", (double)result.unscored);
    rc = metrics_end(metrics);
    metrics_close(metrics);
    log_info("eval of step %lld: pass@1 %.1f %% +- %.1f, pass@%lld %.1f %%", (long long)evals->step,
             result.pass1 * 100.0, result.pass1_error * 100.0, (long long)result.k,
             result.passk * 100.0);
    return rc;
}

bool step_evals_tick(struct step_evals *evals, bool stage_is_over)
{
    if (evals->supervisor == NULL) {
        int64_t now = clock_now_ms(clock_system());
        if (now - evals->looked_ms < LOOK_MS && !stage_is_over)
            return false;
        evals->looked_ms = now;
        int64_t step = next_step(evals);
        if (step == 0 || start(evals, step) == 0)
            return step != 0;
    }
    int rc = evals->supervisor != NULL ? supervisor_tick(evals->supervisor) : error_last();
    if (rc == 0)
        return true;
    if (rc == 1)
        rc = take_in(evals);
    if (rc < 0)
        log_warn("step %lld is not evaluated: %s", (long long)evals->step, error_message());
    step_evals_stop(evals);
    return true;
}

void step_evals_stop(struct step_evals *evals)
{
    if (evals->supervisor != NULL)
        supervisor_stop(evals->supervisor, STOP_GRACE_MS);
    supervisor_destroy(evals->supervisor);
    evals->supervisor = NULL;
}

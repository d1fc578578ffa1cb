#include "infra/train/training_run.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/base/rng.h"

#define SKIPPED_STEPS_MAX 8

int training_run_is_done(struct training_run *run, const struct training_run_options *options,
                         bool *done)
{
    char path[HONE_PATH_MAX];

    memset(run, 0, sizeof *run);
    run->options = *options;
    run->order_epoch = -1;
    snprintf(run->state.stage, sizeof run->state.stage, "%s", options->stage);
    snprintf(run->state.recipe_hash, sizeof run->state.recipe_hash, "%s", options->recipe_hash);
    *done = false;
    path_join(path, sizeof path, options->directory, "final");
    if (!file_exists(path))
        return 0;
    if (checkpoint_verify(path) < 0) {
        log_warn("%s is not a complete checkpoint and is written again: %s", path, error_message());
        error_clear();
        return 0;
    }
    int rc = checkpoint_read_state(path, &run->state);
    if (rc < 0)
        return rc;
    if (strcmp(run->state.recipe_hash, options->recipe_hash) != 0)
        log_warn("%s was made by recipe %.12s, this is recipe %.12s; it is kept", path,
                 run->state.recipe_hash, options->recipe_hash);
    *done = true;
    return 0;
}

static void load_order(struct training_run *run, int64_t epoch)
{
    struct rng_key key = {
        .seed = run->options.seed, .purpose = RNG_SHUFFLE, .a = (uint64_t)epoch, .b = 0};
    if (run->order_epoch == epoch)
        return;
    rng_permutation(&key, run->rows, run->order);
    run->order_epoch = epoch;
}

int training_run_begin(struct training_run *run, int64_t rows, batch_end end, void *context)
{
    const struct training_run_options *options = &run->options;

    if (rows < 1)
        return error_set(HONE_EINVAL, "%s: no row is left to train on", options->stage);
    if (options->epochs <= 0 && options->max_steps <= 0)
        return error_set(HONE_EINVAL, "%s: epochs and max_steps are both 0", options->stage);
    run->rows = rows;
    run->order = MEMORY_ARRAY(int64_t, rows);
    int64_t limit = options->max_steps > 0 ? options->max_steps : INT64_MAX;
    for (int64_t epoch = 0; options->epochs <= 0 || epoch < options->epochs; epoch++) {
        load_order(run, epoch);
        int64_t position = 0;
        while (position < rows && run->total_steps < limit) {
            int64_t next = end(context, run->order, rows, position);
            HONE_ASSERT(next > position && next <= rows);
            position = next;
            run->total_steps++;
        }
        if (run->total_steps == limit)
            break;
    }
    return 0;
}

void training_run_release(struct training_run *run)
{
    memory_free(run->order);
    run->order = NULL;
}

static const char *checkpoints_directory(const struct training_run *run, char *path)
{
    return path_join(path, HONE_PATH_MAX, run->options.directory, "checkpoints");
}

int training_run_resume(struct training_run *run, struct trainer *trainer, bool *resumed)
{
    char directory[HONE_PATH_MAX], path[HONE_PATH_MAX];
    struct checkpoint_state state;

    *resumed = false;
    int rc = checkpoint_newest(checkpoints_directory(run, directory), path, sizeof path);
    if (rc == HONE_ENOENT) {
        error_clear();
        return 0;
    }
    if (rc < 0)
        return rc;
    if ((rc = checkpoint_read_state(path, &state)) < 0)
        return rc;
    if (strcmp(state.stage, run->options.stage) != 0 ||
        strcmp(state.recipe_hash, run->options.recipe_hash) != 0)
        return error_set(HONE_EINVAL,
                         "%s is of stage %s, recipe %.12s; this is stage %s, recipe %.12s: use "
                         "another run directory",
                         path, state.stage, state.recipe_hash, run->options.stage,
                         run->options.recipe_hash);
    if (state.position >= run->rows)
        return error_set(HONE_EINVAL,
                         "%s stands at row %" PRId64 " of %" PRId64 ": the data has changed", path,
                         state.position, run->rows);
    if ((rc = trainer_restore(trainer, path, &run->state)) < 0)
        return rc;
    log_info("%s: continuing from step %" PRId64 " of %" PRId64, run->options.stage,
             run->state.step, run->total_steps);
    *resumed = true;
    return 0;
}

const int64_t *training_run_order(struct training_run *run)
{
    load_order(run, run->state.epoch);
    return run->order;
}

static int save(struct training_run *run, struct trainer *trainer)
{
    char directory[HONE_PATH_MAX], name[32], path[HONE_PATH_MAX];

    int rc = file_make_directories(checkpoints_directory(run, directory));
    if (rc < 0)
        return rc;
    snprintf(name, sizeof name, "step-%" PRId64, run->state.step);
    path_join(path, sizeof path, directory, name);
    if ((rc = trainer_save(trainer, path, run->options.base_directory, &run->state)) < 0)
        return rc;
    if (run->options.keep_checkpoints < 1)
        return 0;
    return checkpoint_prune(directory, run->options.keep_checkpoints, 0);
}

int training_run_advance(struct training_run *run, struct trainer *trainer,
                         const struct step_report *report, int64_t next_position, int64_t tokens)
{
    const struct training_run_options *options = &run->options;

    run->state.step = trainer_steps(trainer);
    run->state.tokens += tokens;
    run->state.position = next_position;
    if (next_position >= run->rows) {
        run->state.position = 0;
        run->state.epoch++;
    }
    run->skipped = report->applied ? 0 : run->skipped + 1;
    if (!report->applied)
        log_warn("%s: step %" PRId64 " was not applied: loss %g, gradient norm %g", options->stage,
                 run->state.step, report->loss, report->gradient_norm);
    if (run->skipped >= SKIPPED_STEPS_MAX)
        return error_set(HONE_EINVAL,
                         "%s: %d steps in a row had a loss or gradient that is not finite; lower "
                         "the learning rate or look at the data",
                         options->stage, run->skipped);
    if (options->save_steps > 0 && run->state.step % options->save_steps == 0)
        return save(run, trainer);
    return 0;
}

int training_run_finish(struct training_run *run, struct trainer *trainer, enum dtype dtype)
{
    char path[HONE_PATH_MAX];

    path_join(path, sizeof path, run->options.directory, "final");
    return trainer_export(trainer, path, run->options.base_directory, dtype, &run->state);
}

/* The directory of an offline stage and its place in the data: what makes SFT and DPO resumable.
 *
 *   DIRECTORY/checkpoints/step-N   every save_steps steps, with optimiser state
 *   DIRECTORY/final                weights alone, at the end; its presence means that the stage is
 * done
 *
 *  O1  Row order is a function of (seed, epoch) and a checkpoint holds epoch and position, so a
 * resumed run equals the uninterrupted one bit for bit. O2  A checkpoint of another recipe is
 * refused by name, never continued. The owner keeps the option strings alive. Owned by one thread.
 */
#ifndef HONE_TRAIN_TRAINING_RUN_H
#define HONE_TRAIN_TRAINING_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "infra/model/checkpoint.h"
#include "infra/train/trainer.h"

struct training_run_options {
    const char *stage; /* "sft", "dpo" */
    const char *directory;
    const char *base_directory; /* where tokenizer files and config keys come from */
    const char *recipe_hash;
    uint64_t seed;
    int64_t epochs;       /* 0: no limit */
    int64_t max_steps;    /* 0: no limit */
    int64_t save_steps;   /* 0: only at the end */
    int keep_checkpoints; /* 0: all */
};

struct training_run {
    struct training_run_options options;
    struct checkpoint_state state; /* the next row is row `position` of `epoch` */
    int64_t rows;
    int64_t *order;      /* [rows] of order_epoch */
    int64_t order_epoch; /* -1: none yet */
    int64_t total_steps;
    int32_t skipped; /* steps in a row that were not applied */
};

/* First row after the batch that begins at `position` of `order`. */
typedef int64_t (*batch_end)(void *context, const int64_t *order, int64_t rows, int64_t position);

/* Whether final is there already; state is then read from it. */
int training_run_is_done(struct training_run *run, const struct training_run_options *options,
                         bool *done);
/* Counts the steps of all epochs (total_steps), at most max_steps. No rows, or neither epochs nor
 * max_steps, is HONE_EINVAL. */
int training_run_begin(struct training_run *run, int64_t rows, batch_end end, void *context);
void training_run_release(struct training_run *run);

/* Restores the newest valid checkpoint; false when there is none. */
int training_run_resume(struct training_run *run, struct trainer *trainer, bool *resumed);
/* The order of the current epoch, [rows]. */
const int64_t *training_run_order(struct training_run *run);
/* After a step over rows up to `next_position`: moves the cursor, saves when due. Too many steps in
 * a row that were not applied (T3) end the run: HONE_EINVAL. */
int training_run_advance(struct training_run *run, struct trainer *trainer,
                         const struct step_report *report, int64_t next_position, int64_t tokens);
/* Writes final. */
int training_run_finish(struct training_run *run, struct trainer *trainer, enum dtype dtype);

#endif

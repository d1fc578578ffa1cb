#include "sft/sft_stage.h"

#include <inttypes.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/train/example.h"
#include "infra/train/training_run.h"
#include "sft/nll_loss.h"
#include "sft/sft_data.h"

struct sft_stage {
    struct sft_options options;
    struct clock *clock;
    struct metrics *metrics;
    struct model_config config;
    char base_directory[HONE_PATH_MAX]; /* what checkpoints take config keys and tokenizer from */
    struct example_list examples;
    struct sft_data_counts counts;
    struct training_run run;
    struct trainer *trainer;          /* NULL when the stage was finished at create */
    struct train_sequence *sequences; /* [sequence_capacity] of one step */
    int64_t sequence_capacity;
    struct sft_progress progress;
    bool finished;
};

/* ---- create ---- */

/* A random start has no base checkpoint, only a tokenizer, perhaps beside some other model's
 * config.json: RUN/sft/init holds that tokenizer and the shape that was asked for. */
static int make_random_base(struct sft_stage *stage)
{
    const struct sft_options *options = &stage->options;

    stage->config = options->init_config;
    path_join(stage->base_directory, sizeof stage->base_directory, options->stage_directory,
              "init");
    int rc = file_make_directories(stage->base_directory);
    if (rc == 0)
        rc = model_config_write(&stage->config, NULL, stage->config.stored_dtype,
                                stage->base_directory);
    if (rc == 0)
        rc = tokenizer_copy(options->model_directory, stage->base_directory);
    return rc;
}

static int open_base(struct sft_stage *stage)
{
    const char *directory = stage->options.model_directory;

    if (stage->options.random_init)
        return make_random_base(stage);
    if (strlen(directory) >= sizeof stage->base_directory)
        return error_set(HONE_EINVAL, "path too long: %.100s...", directory);
    memcpy(stage->base_directory, directory, strlen(directory) + 1);
    return model_config_read(&stage->config, directory);
}

static int load_examples(struct sft_stage *stage)
{
    const struct sft_options *options = &stage->options;
    struct tokenizer *tokenizer = NULL;
    struct dataset *dataset = NULL;

    int rc = tokenizer_load(&tokenizer, options->model_directory);
    if (rc < 0 || (rc = dataset_load(&dataset, &options->data)) < 0)
        goto out;
    struct sft_data_options data = {.layout = options->layout,
                                    .eos_id = example_eos(tokenizer, &stage->config),
                                    .max_length = options->max_length};
    rc = sft_data_read(&stage->examples, dataset, tokenizer, &data, &stage->counts);
    if (rc < 0)
        goto out;
    log_info("sft: %" PRId64 " rows, %" PRId64 " sequences; dropped: %" PRId64
             " longer than %d tokens, %" PRId64 " with nothing to train",
             stage->counts.rows, stage->examples.count, stage->counts.dropped_long,
             options->max_length, stage->counts.dropped_empty);
out:
    dataset_free(dataset);
    tokenizer_free(tokenizer);
    return rc;
}

/* Sequences are added until batch_tokens is reached, or the epoch ends. */
static int64_t end_of_batch(void *context, const int64_t *order, int64_t rows, int64_t position)
{
    const struct sft_stage *stage = context;
    int64_t tokens = 0;
    do
        tokens += stage->examples.items[order[position++]].count;
    while (position < rows && tokens < stage->options.batch_tokens);
    return position;
}

static int create_trainer(struct sft_stage *stage, const struct compute *compute)
{
    const struct sft_options *options = &stage->options;
    struct trainer_options trainer = options->trainer;
    struct memory_plan plan = {0};

    trainer.max_sequence_tokens = options->max_length;
    trainer.optimizer.total_steps = stage->run.total_steps;
    trainer_plan(&trainer, &stage->config, "sft", &plan);
    int rc = memory_plan_check(&plan, "sft", memory_plan_free_bytes());
    if (rc < 0)
        return rc;
    float *master = MEMORY_ARRAY(float, model_config_parameter_count(&stage->config));
    if (options->random_init)
        model_init_flat(&stage->config, options->seed, master);
    else
        rc = model_read_flat(&stage->config, options->model_directory, master);
    if (rc == 0)
        rc = trainer_create(&stage->trainer, &trainer, &stage->config, master, compute);
    memory_free(master);
    return rc;
}

static void fill_progress(struct sft_stage *stage)
{
    struct sft_progress *progress = &stage->progress;
    progress->step = stage->run.state.step;
    progress->total_steps = stage->finished ? stage->run.state.step : stage->run.total_steps;
    progress->epoch = stage->run.state.epoch;
    progress->tokens = stage->run.state.tokens;
    progress->rows = stage->counts.rows;
    progress->dropped_rows = stage->counts.dropped_long + stage->counts.dropped_empty;
    progress->finished = stage->finished;
}

static int create(struct sft_stage *stage, const struct compute *compute)
{
    const struct sft_options *options = &stage->options;
    struct training_run_options run = {.stage = "sft",
                                       .directory = options->stage_directory,
                                       .base_directory = stage->base_directory,
                                       .recipe_hash = options->recipe_hash,
                                       .seed = options->seed,
                                       .epochs = options->epochs,
                                       .max_steps = options->max_steps,
                                       .save_steps = options->save_steps,
                                       .keep_checkpoints = options->keep_checkpoints};
    bool resumed;
    int rc = training_run_is_done(&stage->run, &run, &stage->finished);
    if (rc < 0)
        return rc;
    if (stage->finished) {
        log_info("sft: %s/final is there already, %" PRId64 " steps", options->stage_directory,
                 stage->run.state.step);
        return 0;
    }
    if (options->max_length < 2 || options->batch_tokens < 1)
        return error_set(HONE_EINVAL,
                         "sft: max_length %d must be at least 2, batch_tokens %d at "
                         "least 1",
                         options->max_length, options->batch_tokens);
    if ((rc = open_base(stage)) < 0 || (rc = load_examples(stage)) < 0 ||
        (rc = training_run_begin(&stage->run, stage->examples.count, end_of_batch, stage)) < 0 ||
        (rc = create_trainer(stage, compute)) < 0)
        return rc;
    return training_run_resume(&stage->run, stage->trainer, &resumed);
}

int sft_stage_create(struct sft_stage **stage, const struct sft_options *options,
                     const struct compute *compute, struct clock *clock, struct metrics *metrics)
{
    struct sft_stage *s = MEMORY_NEW(struct sft_stage);
    s->options = *options;
    s->clock = clock;
    s->metrics = metrics;
    example_list_init(&s->examples);
    int rc = create(s, compute);
    if (rc < 0) {
        sft_stage_destroy(s);
        return rc;
    }
    fill_progress(s);
    *stage = s;
    return 0;
}

void sft_stage_destroy(struct sft_stage *stage)
{
    if (stage == NULL)
        return;
    trainer_free(stage->trainer);
    training_run_release(&stage->run);
    example_list_release(&stage->examples);
    memory_free(stage->sequences);
    memory_free(stage);
}

/* ---- tick ---- */

/* Rows [position, end) of the order as sequences; returns their tokens. */
static int64_t fill_batch(struct sft_stage *stage, const int64_t *order, int64_t position,
                          int64_t end, struct train_batch *batch)
{
    int64_t count = end - position, tokens = 0;

    if (count > stage->sequence_capacity) {
        stage->sequences = memory_resize(stage->sequences, (size_t)stage->sequence_capacity,
                                         (size_t)count, sizeof *stage->sequences);
        stage->sequence_capacity = count;
    }
    for (int64_t i = 0; i < count; i++) {
        const struct example *example = &stage->examples.items[order[position + i]];
        stage->sequences[i] = (struct train_sequence){.tokens = example->tokens,
                                                      .count = example->count,
                                                      .loss_mask = example->mask,
                                                      .unit = (int32_t)i};
        tokens += example->count;
    }
    *batch = (struct train_batch){
        .sequences = stage->sequences, .count = (int32_t)count, .temperature = 1.0f};
    return tokens;
}

static int write_metrics(struct sft_stage *stage)
{
    const struct sft_progress *progress = &stage->progress;
    metrics_begin(stage->metrics, progress->step);
    metrics_add(stage->metrics, "loss", progress->loss);
    metrics_add(stage->metrics, "learning_rate", progress->learning_rate);
    metrics_add(stage->metrics, "grad_norm", progress->gradient_norm);
    metrics_add(stage->metrics, "num_tokens", (double)progress->tokens);
    metrics_add(stage->metrics, "mean_token_probability", progress->token_probability);
    metrics_add(stage->metrics, "tokens_per_second", progress->tokens_per_second);
    metrics_add(stage->metrics, "epoch", (double)progress->epoch);
    return metrics_end(stage->metrics);
}

static int step(struct sft_stage *stage)
{
    struct sft_progress *progress = &stage->progress;
    struct training_run *run = &stage->run;
    struct train_batch batch;
    struct step_report report;
    struct nll_loss loss;
    int64_t start_ns = clock_now_ns(stage->clock);

    const int64_t *order = training_run_order(run);
    int64_t end = end_of_batch(stage, order, run->rows, run->state.position);
    int64_t tokens = fill_batch(stage, order, run->state.position, end, &batch);
    nll_loss_begin(&loss, &batch);
    int rc = trainer_step(stage->trainer, &batch, nll_loss_function, &loss, &report);
    if (rc < 0)
        return rc;
    double seconds = (double)(clock_now_ns(stage->clock) - start_ns) * 1e-9;
    progress->loss = report.loss;
    progress->learning_rate = report.learning_rate;
    progress->gradient_norm = report.gradient_norm;
    progress->token_probability = loss.probability_sum / (double)loss.total_tokens;
    progress->tokens_per_second = seconds > 0.0 ? (double)tokens / seconds : 0.0;
    rc = training_run_advance(run, stage->trainer, &report, end, tokens);
    fill_progress(stage);
    int metrics_rc = write_metrics(stage);
    return rc < 0 ? rc : metrics_rc;
}

int sft_stage_tick(struct sft_stage *stage, struct sft_progress *progress)
{
    int rc = 0;

    if (!stage->finished && stage->run.state.step < stage->run.total_steps) {
        rc = step(stage);
    } else if (!stage->finished) {
        rc = training_run_finish(&stage->run, stage->trainer, stage->config.stored_dtype);
        stage->finished = rc == 0;
        fill_progress(stage);
    }
    *progress = stage->progress;
    return rc;
}

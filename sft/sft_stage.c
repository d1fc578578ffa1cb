#include "sft/sft_stage.h"

#include <inttypes.h>
#include <string.h>

#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/train/example.h"
#include "infra/train/training_run.h"
#include "sft/exploration.h"
#include "sft/nll_loss.h"
#include "sft/sft_data.h"
#include "sft/votes.h"

/* SCORE (with pruning, without a manifest) -> TRAIN -> FINISHED. */
enum sft_phase { SFT_SCORE, SFT_TRAIN, SFT_FINISHED };

#define SCORE_SEQUENCES 64 /* a tick */

struct sft_stage {
    struct sft_options options;
    struct clock *clock;
    struct metrics *metrics;
    struct model_config config;
    char base_directory[HONE_PATH_MAX]; /* what checkpoints take config keys and tokenizer from */
    struct compute compute;
    struct example_list examples;
    struct sft_data_counts counts;
    struct training_run run;
    struct trainer *trainer;          /* NULL when the stage was finished at create */
    struct train_sequence *sequences; /* [sequence_capacity] of one step */
    int64_t sequence_capacity;
    struct sft_progress progress;
    struct exploration exploration;
    enum sft_phase phase;

    /* while rows are pruned */
    struct dataset *dataset;
    struct sft_origins origins;
    struct prune_row *rows; /* [examples] */
    struct trainer *judge;  /* NULL unless they are scored */
    struct prune_identity identity;
    bool learned_scores; /* progress: the judge is the second one */
    float *logprobs;     /* [max_length] rows of a batch of scores */
    float **logprob_rows;
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

    int rc = tokenizer_load(&tokenizer, options->model_directory);
    if (rc < 0 || (rc = dataset_load(&stage->dataset, &options->data)) < 0)
        goto out;
    struct sft_data_options data = {.layout = options->layout,
                                    .eos_id = example_eos(tokenizer, &stage->config),
                                    .max_length = options->max_length};
    rc = sft_data_read(&stage->examples, stage->dataset, tokenizer, &data, &stage->counts,
                       &stage->origins);
    if (rc < 0)
        goto out;
    log_info("sft: %" PRId64 " rows, %" PRId64 " sequences; dropped: %" PRId64
             " longer than %d tokens, %" PRId64 " with nothing to train",
             stage->counts.rows, stage->examples.count, stage->counts.dropped_long,
             options->max_length, stage->counts.dropped_empty);
out:
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
    progress->total_steps =
        stage->phase == SFT_FINISHED ? stage->run.state.step : stage->run.total_steps;
    progress->epoch = stage->run.state.epoch;
    progress->tokens = stage->run.state.tokens;
    progress->rows = stage->counts.rows;
    progress->dropped_rows = stage->counts.dropped_long + stage->counts.dropped_empty;
    progress->finished = stage->phase == SFT_FINISHED;
}

static int begin_training(struct sft_stage *stage)
{
    bool resumed;
    dataset_free(stage->dataset);
    stage->dataset = NULL;
    sft_origins_release(&stage->origins);
    memory_free(stage->rows);
    stage->rows = NULL;
    int rc = training_run_begin(&stage->run, stage->examples.count, end_of_batch, stage);
    if (rc == 0)
        rc = create_trainer(stage, &stage->compute);
    if (rc == 0)
        rc = training_run_resume(&stage->run, stage->trainer, &resumed);
    exploration_init(&stage->exploration, stage->options.entropy_floor, stage->options.pass_drop);
    if (rc == 0)
        exploration_load(&stage->exploration, &stage->run.state);
    stage->phase = SFT_TRAIN;
    return rc;
}

/* ---- pruning ---- */

static const char *manifest_path(const struct sft_stage *stage, char *buffer, size_t capacity)
{
    return path_join(buffer, capacity, stage->options.stage_directory, "prune.jsonl");
}

static void describe_rows(struct sft_stage *stage)
{
    struct hash_state state;
    hash_begin(&state);
    stage->rows = MEMORY_ARRAY(struct prune_row, stage->examples.count);
    for (int64_t i = 0; i < stage->examples.count; i++) {
        const struct example *example = &stage->examples.items[i];
        const struct dataset_row *row = dataset_get(stage->dataset, stage->origins.rows[i]);
        stage->rows[i] = (struct prune_row){.file = dataset_path(stage->dataset, row->source),
                                            .line = row->line,
                                            .capability = row->capability ? row->capability : ""};
        hash_update(&state, &example->count, sizeof example->count);
        hash_update(&state, example->tokens, (size_t)example->count * sizeof *example->tokens);
        hash_update(&state, example->mask, (size_t)example->count);
    }
    hash_end(&state, &stage->identity.data);
}

/* Replaces the judge. */
static int open_judge(struct sft_stage *stage, const char *directory, struct hash *weights)
{
    struct trainer_options trainer = stage->options.trainer;
    struct model_config config;
    struct memory_plan plan = {0};

    trainer_free(stage->judge);
    stage->judge = NULL;
    int rc = model_config_read(&config, directory);
    if (rc == 0 && config.vocab_size != stage->config.vocab_size)
        rc = error_set(HONE_EINVAL, "its vocabulary has %d ids, the model's %d", config.vocab_size,
                       stage->config.vocab_size);
    if (rc < 0)
        return error_prefix("sft.prune: %s", directory);
    trainer.logprobs_only = true;
    trainer.lora.rank = 0;
    trainer.max_sequence_tokens = stage->options.max_length;
    trainer_plan(&trainer, &config, "judge", &plan);
    if ((rc = memory_plan_check(&plan, "judge", memory_plan_free_bytes())) < 0)
        return rc;
    float *master = MEMORY_ARRAY(float, model_config_parameter_count(&config));
    rc = model_read_flat(&config, directory, master);
    if (rc == 0)
        rc = trainer_create(&stage->judge, &trainer, &config, master, &stage->compute);
    memory_free(master);
    if (rc == 0)
        model_hash(trainer_model(stage->judge), weights);
    return rc;
}

/* Whose likelihoods come first; with progress the other one is told of in the identity too. */
static int open_judges(struct sft_stage *stage)
{
    const struct prune_options *options = &stage->options.prune;
    const char *judge = options->judge ? options->judge : stage->options.model_directory;
    struct hash both[2];
    if (options->method == PRUNE_LOSS)
        return open_judge(stage, judge, &stage->identity.judge);
    int rc = open_judge(stage, options->learned, &both[1]);
    if (rc == 0)
        rc = open_judge(stage, judge, &both[0]);
    if (rc == 0)
        hash_sha256(both, sizeof both, &stage->identity.judge);
    return rc;
}

/* A sequence has its row's votes. */
static int read_votes(struct sft_stage *stage)
{
    const struct prune_options *options = &stage->options.prune;
    int64_t rows = dataset_count(stage->dataset), unjudged = 0;
    int32_t most = 1;
    struct row_votes *votes = MEMORY_ARRAY(struct row_votes, rows);
    int rc = votes_read(options->votes, votes, rows, &stage->identity.judge);
    for (int64_t i = 0; rc == 0 && i < stage->examples.count; i++) {
        const struct row_votes *row = &votes[stage->origins.rows[i]];
        int32_t count = row->counts[VOTE_EASY] + row->counts[VOTE_MEDIUM] + row->counts[VOTE_HARD];
        stage->rows[i].score = votes_score(row);
        unjudged += count == 0;
        most = count > most ? count : most;
    }
    memory_free(votes);
    if (rc < 0)
        return error_prefix("sft.prune");
    if (unjudged > 0)
        log_warn("sft: the judge has said nothing of %" PRId64 " of %" PRId64
                 " sequences: they count as medium",
                 unjudged, stage->examples.count);
    /* Means of up to `most` votes differ by at least 1 / most^2. */
    prune_break_ties(options->seed, 1.0 / ((double)most * (double)most), stage->rows,
                     stage->examples.count);
    return 0;
}

/* Leaves the rows that are kept; the others' tokens are released. */
static int use_choice(struct sft_stage *stage)
{
    struct example_list *examples = &stage->examples;
    int64_t kept = 0;
    for (int64_t i = 0; i < examples->count; i++) {
        if (stage->rows[i].kept)
            examples->items[kept++] = examples->items[i];
        else
            example_release(&examples->items[i]);
    }
    stage->progress.pruned_sequences = examples->count - kept;
    examples->count = kept;
    trainer_free(stage->judge);
    stage->judge = NULL;
    log_info("sft: %" PRId64 " of %" PRId64 " sequences are left out as too easy",
             stage->progress.pruned_sequences, stage->progress.pruned_sequences + kept);
    if (kept == 0)
        return error_set(HONE_EINVAL, "sft.prune leaves no row to train on: lower drop_share or "
                                      "raise min_rows");
    return begin_training(stage);
}

static int choose(struct sft_stage *stage)
{
    char path[HONE_PATH_MAX];
    struct prune_summary summary;
    prune_choose(&stage->options.prune, stage->rows, stage->examples.count, &summary);
    int rc = file_make_directories(stage->options.stage_directory);
    if (rc == 0)
        rc = prune_manifest_write(manifest_path(stage, path, sizeof path), &stage->options.prune,
                                  &stage->identity, stage->rows, stage->examples.count);
    return rc < 0 ? rc : use_choice(stage);
}

static int begin_pruning(struct sft_stage *stage)
{
    const struct prune_options *options = &stage->options.prune;
    char path[HONE_PATH_MAX];
    describe_rows(stage);
    bool scores = options->method == PRUNE_LOSS || options->method == PRUNE_PROGRESS;
    int rc = scores ? open_judges(stage) : options->method == PRUNE_VOTES ? read_votes(stage) : 0;
    if (rc < 0)
        return rc;
    rc = prune_manifest_read(manifest_path(stage, path, sizeof path), options, &stage->identity,
                             stage->rows, stage->examples.count);
    if (rc != 0)
        return rc < 0 ? rc : use_choice(stage);
    if (options->method == PRUNE_RANDOM)
        prune_draw(options->seed, stage->rows, stage->examples.count);
    if (!scores)
        return choose(stage);
    stage->phase = SFT_SCORE;
    stage->logprobs = MEMORY_ARRAY(float, SCORE_SEQUENCES *(size_t)stage->options.max_length);
    stage->logprob_rows = MEMORY_ARRAY(float *, SCORE_SEQUENCES);
    for (int i = 0; i < SCORE_SEQUENCES; i++)
        stage->logprob_rows[i] = stage->logprobs + (size_t)i * (size_t)stage->options.max_length;
    return 0;
}

static int create(struct sft_stage *stage)
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
    bool done;
    int rc = training_run_is_done(&stage->run, &run, &done);
    if (rc < 0)
        return rc;
    if (done) {
        stage->phase = SFT_FINISHED;
        log_info("sft: %s/final is there already, %" PRId64 " steps", options->stage_directory,
                 stage->run.state.step);
        return 0;
    }
    if (options->max_length < 2 || options->batch_tokens < 1)
        return error_set(HONE_EINVAL,
                         "sft: max_length %d must be at least 2, batch_tokens %d at "
                         "least 1",
                         options->max_length, options->batch_tokens);
    if ((rc = open_base(stage)) < 0 || (rc = load_examples(stage)) < 0)
        return rc;
    return options->prune.method == PRUNE_NONE ? begin_training(stage) : begin_pruning(stage);
}

int sft_stage_create(struct sft_stage **stage, const struct sft_options *options,
                     const struct compute *compute, struct clock *clock, struct metrics *metrics)
{
    struct sft_stage *s = MEMORY_NEW(struct sft_stage);
    s->options = *options;
    s->clock = clock;
    s->metrics = metrics;
    example_list_init(&s->examples);
    s->compute = *compute;
    int rc = create(s);
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
    trainer_free(stage->judge);
    dataset_free(stage->dataset);
    sft_origins_release(&stage->origins);
    memory_free(stage->rows);
    memory_free(stage->logprobs);
    memory_free(stage->logprob_rows);
    training_run_release(&stage->run);
    example_list_release(&stage->examples);
    memory_free(stage->sequences);
    memory_free(stage);
}

/* ---- tick ---- */

/* Examples [position, end) of the order (NULL: as they are) as sequences; returns their tokens. */
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
        int64_t at = order ? order[position + i] : position + i;
        const struct example *example = &stage->examples.items[at];
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

/* Mean negative log-likelihood of the trained tokens, for the next sequences. */
static int score(struct sft_stage *stage)
{
    int64_t begin = stage->progress.scored_sequences;
    int64_t end = begin + SCORE_SEQUENCES;
    struct train_batch batch;
    if (end > stage->examples.count)
        end = stage->examples.count;
    fill_batch(stage, NULL, begin, end, &batch);
    int rc = trainer_logprobs(stage->judge, &batch, stage->logprob_rows, NULL);
    if (rc < 0)
        return error_prefix("sft.prune");
    for (int64_t s = 0; s < end - begin; s++) {
        const struct example *example = &stage->examples.items[begin + s];
        double sum = 0.0;
        for (int32_t i = 1; i < example->count; i++)
            sum -= example->mask[i] ? (double)stage->logprob_rows[s][i] : 0.0;
        double mean = sum / example_trained_tokens(example);
        stage->rows[begin + s].score =
            stage->learned_scores ? stage->rows[begin + s].score - mean : mean;
    }
    stage->progress.scored_sequences = end;
    if (end < stage->examples.count)
        return 0;
    if (stage->options.prune.method != PRUNE_PROGRESS || stage->learned_scores)
        return choose(stage);
    struct hash known;
    stage->learned_scores = true;
    stage->progress.scored_sequences = 0;
    return open_judge(stage, stage->options.prune.learned, &known);
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
    if (stage->exploration.floor > 0.0)
        metrics_add(stage->metrics, "entropy", progress->entropy);
    metrics_add(stage->metrics, "tokens_per_second", progress->tokens_per_second);
    metrics_add(stage->metrics, "epoch", (double)progress->epoch);
    return metrics_end(stage->metrics);
}

/* Of the weights before the step; a checkpoint after it remembers. */
static void watch_entropy(struct sft_stage *stage, double entropy)
{
    struct exploration *exploration = &stage->exploration;
    stage->progress.entropy = entropy;
    if (exploration_add(exploration, entropy))
        log_info("sft: enough after %" PRId64 " of %" PRId64 " steps: the policy's entropy is "
                 "%.3f, below %.3g of the %.3f that it was (sft.entropy_floor)",
                 stage->run.state.step + 1, stage->run.total_steps, exploration_now(exploration),
                 exploration->floor, exploration_first(exploration));
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
    batch.need_entropy = stage->exploration.floor > 0.0;
    int rc = trainer_step(stage->trainer, &batch, nll_loss_function, &loss, &report);
    if (rc < 0)
        return rc;
    double seconds = (double)(clock_now_ns(stage->clock) - start_ns) * 1e-9;
    progress->loss = report.loss;
    progress->learning_rate = report.learning_rate;
    progress->gradient_norm = report.gradient_norm;
    progress->token_probability = loss.probability_sum / (double)loss.total_tokens;
    progress->tokens_per_second = seconds > 0.0 ? (double)tokens / seconds : 0.0;
    if (batch.need_entropy)
        watch_entropy(stage, loss.entropy_sum / (double)loss.total_tokens);
    exploration_store(&stage->exploration, &run->state);
    rc = training_run_advance(run, stage->trainer, &report, end, tokens);
    fill_progress(stage);
    int metrics_rc = write_metrics(stage);
    return rc < 0 ? rc : metrics_rc;
}

/* ---- pass@k ---- */

static const char *weights_path(const struct sft_stage *stage, const char *name, char *path)
{
    return path_join(path, HONE_PATH_MAX, stage->options.stage_directory, name);
}

static bool measurement_is_due(const struct sft_stage *stage)
{
    int64_t step = stage->run.state.step, every = stage->options.measure_steps;
    return every > 0 && stage->exploration.measured_step != step && !stage->exploration.fell &&
           (step % every == 0 || step == stage->run.total_steps ||
            exploration_is_lost(&stage->exploration));
}

static int write_measurement(struct sft_stage *stage, const struct sft_measurement *measurement)
{
    metrics_begin(stage->metrics, stage->run.state.step);
    metrics_add(stage->metrics, "pass@k", measurement->pass);
    metrics_add(stage->metrics, "pass@k_error", measurement->error);
    return metrics_end(stage->metrics);
}

static int measure(struct sft_stage *stage)
{
    struct exploration *exploration = &stage->exploration;
    struct training_run *run = &stage->run;
    struct sft_measurement found;
    char measured[HONE_PATH_MAX], best[HONE_PATH_MAX];
    weights_path(stage, "measured", measured);
    weights_path(stage, "best", best);
    int rc = file_remove_tree(measured);
    if (rc == 0)
        rc = trainer_export(stage->trainer, measured, stage->base_directory,
                            stage->config.stored_dtype, &run->state);
    if (rc == 0)
        rc = stage->options.measure(stage->options.measure_context, measured, &found);
    if (rc < 0)
        return error_prefix("pass@k after %" PRId64 " steps", run->state.step);
    double before = exploration->best;
    enum exploration_pass pass =
        exploration_measured(exploration, run->state.step, found.pass, found.error);
    log_info("sft: pass@k %.1f %% +- %.1f after %" PRId64 " steps", found.pass * 100.0,
             found.error * 100.0, run->state.step);
    if (pass == PASS_FELL)
        log_info("sft: enough: it was %.1f %% after %" PRId64
                 " steps, whose weights are the result",
                 before * 100.0, exploration->best_step);
    if (pass == PASS_BEST && (rc = file_remove_tree(best)) == 0)
        rc = file_rename_synced(measured, best);
    else if (rc == 0)
        rc = file_remove_tree(measured);
    int metrics_rc = write_measurement(stage, &found);
    return rc < 0 ? rc : metrics_rc;
}

/* `final`: the weights as they are, or where pass@k fell those that were best. */
static int finish(struct sft_stage *stage)
{
    char best[HONE_PATH_MAX], final[HONE_PATH_MAX];
    struct training_run *run = &stage->run;
    weights_path(stage, "best", best);
    int rc = 0;
    if (stage->exploration.fell) {
        rc = checkpoint_read_state(best, &run->state);
        if (rc == 0)
            rc = file_rename_synced(best, weights_path(stage, "final", final));
    } else {
        rc = training_run_finish(run, stage->trainer, stage->config.stored_dtype);
    }
    if (rc == 0 && stage->options.measure_steps > 0)
        rc = file_remove_tree(best);
    return rc;
}

int sft_stage_tick(struct sft_stage *stage, struct sft_progress *progress)
{
    int rc = 0;

    if (stage->phase == SFT_SCORE) {
        rc = score(stage);
        fill_progress(stage);
    } else if (stage->phase == SFT_TRAIN && measurement_is_due(stage)) {
        rc = measure(stage);
    } else if (stage->phase == SFT_TRAIN && stage->run.state.step < stage->run.total_steps &&
               !exploration_is_lost(&stage->exploration)) {
        rc = step(stage);
    } else if (stage->phase == SFT_TRAIN) {
        rc = finish(stage);
        stage->phase = rc == 0 ? SFT_FINISHED : SFT_TRAIN;
        fill_progress(stage);
    }
    *progress = stage->progress;
    return rc;
}

#include "dpo/dpo_stage.h"

#include <inttypes.h>
#include <string.h>

#include "dpo/pair_mining.h"
#include "dpo/pair_rows.h"
#include "dpo/reference_cache.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/train/training_run.h"

/* REFERENCE -> (resume) -> TRAIN -> FINISHED. The reference pass comes first in every process,
 * while the trainer still holds the weights of model_directory, unless an earlier one wrote it down
 * or the loss has none. */
enum dpo_phase { DPO_REFERENCE, DPO_TRAIN, DPO_FINISHED };

struct dpo_stage {
    struct dpo_options options;
    struct clock *clock;
    struct metrics *metrics;
    struct model_config config;
    struct preference_pairs pairs;
    struct training_run run;
    struct trainer *trainer; /* NULL when the stage was finished at create */
    enum dpo_phase phase;
    int64_t reference_pairs; /* done */
    struct hash key;         /* of weights and pairs: what the reference's logprobs are of */
    double *reference;       /* [pair_answers * pairs] */
    struct train_sequence *sequences; /* [pair_answers * batch_pairs] */
    float *logprobs;                  /* [pair_answers * batch_pairs * max_length], no gradient */
    float **logprob_rows;             /* [pair_answers * batch_pairs] */
    struct dpo_progress progress;
};

/* Answers of a pair that the reference is asked about: with KTO a mismatched one too. */
static int32_t pair_answers(const struct dpo_stage *stage)
{
    return stage->options.loss.kind == PREFERENCE_KTO ? 3 : 2;
}

static struct example *answer_of(struct preference_pair *pair, int32_t answer)
{
    return answer == 0 ? &pair->chosen : answer == 1 ? &pair->rejected : &pair->mismatch;
}

static struct preference_sequence *data_of(struct preference_pair *pair, int32_t answer)
{
    return answer == 0   ? &pair->chosen_data
           : answer == 1 ? &pair->rejected_data
                         : &pair->mismatch_data;
}

/* ---- create ---- */

static int load_rows(struct dpo_stage *stage, const struct pair_limits *limits)
{
    const struct dpo_options *options = &stage->options;
    struct tokenizer *tokenizer = NULL;
    struct dataset *dataset = NULL;

    int rc = tokenizer_load(&tokenizer, options->model_directory);
    if (rc == 0)
        rc = dataset_load(&dataset, &options->data);
    if (rc == 0) {
        struct pair_rows_options rows = {.layout = options->layout,
                                         .eos_id = example_eos(tokenizer, &stage->config),
                                         .limits = *limits};
        rc = pair_rows_read(&stage->pairs, dataset, tokenizer, &rows);
    }
    dataset_free(dataset);
    tokenizer_free(tokenizer);
    return rc;
}

static int load_pairs(struct dpo_stage *stage)
{
    const struct dpo_options *options = &stage->options;
    struct pair_limits limits = {.max_length = options->max_length,
                                 .pairs_max = options->pairs_max,
                                 .max_length_ratio =
                                     options->from_log ? options->max_length_ratio : 0.0f};
    int rc;

    if (options->from_log) {
        struct pair_mining_options mining = {.min_margin = options->min_margin,
                                             .part = options->part,
                                             .wanted = options->wanted,
                                             .prompt_count = options->prompt_count,
                                             .anchor_share = options->anchor_share,
                                             .limits = limits};
        rc = pair_mining_read(&stage->pairs, options->log_directory, &mining);
    } else {
        rc = load_rows(stage, &limits);
    }
    if (rc < 0)
        return rc;
    for (int verdict = PAIR_KEPT; verdict < PAIR_VERDICT_COUNT; verdict++)
        if (verdict == PAIR_KEPT || stage->pairs.verdicts[verdict] > 0)
            log_info("dpo: %" PRId64 " pairs: %s", stage->pairs.verdicts[verdict],
                     pair_verdict_name((enum pair_verdict)verdict));
    if (options->loss.kind == PREFERENCE_KTO)
        preference_pairs_mismatch(&stage->pairs, options->max_length);
    int64_t longest = preference_pairs_longest(&stage->pairs);
    if (longest > options->trainer.micro_batch_tokens)
        return error_set(HONE_EINVAL,
                         "dpo: the longest pair has %" PRId64 " tokens, micro_batch_tokens is %d: "
                         "raise it or lower max_length",
                         longest, options->trainer.micro_batch_tokens);
    return 0;
}

static int64_t end_of_batch(void *context, const int64_t *order, int64_t rows, int64_t position)
{
    const struct dpo_stage *stage = context;
    int64_t end = position + stage->options.batch_pairs;
    (void)order;
    return end < rows ? end : rows;
}

static int create_trainer(struct dpo_stage *stage, const struct compute *compute)
{
    const struct dpo_options *options = &stage->options;
    struct trainer_options trainer = options->trainer;
    struct memory_plan plan = {0};

    trainer.max_sequence_tokens = options->max_length;
    trainer.optimizer.total_steps = stage->run.total_steps;
    trainer_plan(&trainer, &stage->config, "dpo", &plan);
    int rc = memory_plan_check(&plan, "dpo", memory_plan_free_bytes());
    if (rc < 0)
        return rc;
    float *master = MEMORY_ARRAY(float, model_config_parameter_count(&stage->config));
    rc = model_read_flat(&stage->config, options->model_directory, master);
    if (rc == 0)
        rc = trainer_create(&stage->trainer, &trainer, &stage->config, master, compute);
    memory_free(master);
    return rc;
}

static void plan_batches(struct dpo_stage *stage)
{
    size_t sequences = (size_t)pair_answers(stage) * (size_t)stage->options.batch_pairs;
    size_t length = (size_t)stage->options.max_length;

    stage->reference = MEMORY_ARRAY(double, pair_answers(stage) * stage->pairs.count);
    stage->sequences = MEMORY_ARRAY(struct train_sequence, sequences);
    stage->logprobs = MEMORY_ARRAY(float, sequences *length);
    stage->logprob_rows = MEMORY_ARRAY(float *, sequences);
    for (size_t i = 0; i < sequences; i++)
        stage->logprob_rows[i] = stage->logprobs + i * length;
}

/* ---- the reference ---- */

static void make_key(struct dpo_stage *stage)
{
    struct hash_state state;
    struct hash weights;
    model_hash(trainer_model(stage->trainer), &weights);
    hash_begin(&state);
    hash_update(&state, &weights, sizeof weights);
    for (int64_t i = 0; i < stage->pairs.count; i++)
        for (int32_t answer = 0; answer < pair_answers(stage); answer++) {
            const struct example *example = answer_of(&stage->pairs.items[i], answer);
            hash_update(&state, &example->count, sizeof example->count);
            hash_update(&state, example->tokens, (size_t)example->count * sizeof *example->tokens);
            hash_update(&state, example->mask, (size_t)example->count);
        }
    hash_end(&state, &stage->key);
}

static const char *cache_path(const struct dpo_stage *stage, char *buffer, size_t capacity)
{
    return path_join(buffer, capacity, stage->options.stage_directory, "reference.logprobs");
}

static void use_reference(struct dpo_stage *stage)
{
    int32_t answers = pair_answers(stage);
    for (int64_t i = 0; i < answers * stage->pairs.count; i++)
        data_of(&stage->pairs.items[i / answers], (int32_t)(i % answers))->reference_logprob =
            stage->reference[i];
    stage->reference_pairs = stage->pairs.count;
}

static int begin_training(struct dpo_stage *stage)
{
    bool resumed;
    stage->phase = DPO_TRAIN;
    return training_run_resume(&stage->run, stage->trainer, &resumed);
}

/* Where no reference is needed, or an earlier process has written it down, training begins at once.
 */
static int find_reference(struct dpo_stage *stage)
{
    char path[HONE_PATH_MAX];
    if (!preference_needs_reference(stage->options.loss.kind))
        return begin_training(stage);
    int found = reference_cache_read(cache_path(stage, path, sizeof path), &stage->key,
                                     stage->reference, pair_answers(stage) * stage->pairs.count);
    if (found == 0)
        return 0;
    use_reference(stage);
    return begin_training(stage);
}

static void fill_progress(struct dpo_stage *stage)
{
    struct dpo_progress *progress = &stage->progress;
    progress->finished = stage->phase == DPO_FINISHED;
    progress->step = stage->run.state.step;
    progress->total_steps = progress->finished ? progress->step : stage->run.total_steps;
    progress->tokens = stage->run.state.tokens;
    progress->pairs = stage->pairs.count;
    progress->dropped_pairs = preference_pairs_dropped(&stage->pairs);
    progress->reference_pairs = stage->reference_pairs;
}

static int create(struct dpo_stage *stage, const struct compute *compute)
{
    const struct dpo_options *options = &stage->options;
    struct training_run_options run = {.stage = "dpo",
                                       .directory = options->stage_directory,
                                       .base_directory = options->model_directory,
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
        stage->phase = DPO_FINISHED;
        log_info("dpo: %s/final is there already, %" PRId64 " steps", options->stage_directory,
                 stage->run.state.step);
        return 0;
    }
    if (options->max_length < 2 || options->batch_pairs < 1)
        return error_set(HONE_EINVAL,
                         "dpo: max_length %d must be at least 2, batch_pairs %d at least 1",
                         options->max_length, options->batch_pairs);
    if ((rc = model_config_read(&stage->config, options->model_directory)) < 0 ||
        (rc = load_pairs(stage)) < 0 ||
        (rc = training_run_begin(&stage->run, stage->pairs.count, end_of_batch, stage)) < 0 ||
        (rc = create_trainer(stage, compute)) < 0)
        return rc;
    plan_batches(stage);
    make_key(stage);
    return find_reference(stage);
}

int dpo_stage_create(struct dpo_stage **stage, const struct dpo_options *options,
                     const struct compute *compute, struct clock *clock, struct metrics *metrics)
{
    struct dpo_stage *s = MEMORY_NEW(struct dpo_stage);
    s->options = *options;
    s->clock = clock;
    s->metrics = metrics;
    preference_pairs_init(&s->pairs);
    int rc = create(s, compute);
    if (rc < 0) {
        dpo_stage_destroy(s);
        return rc;
    }
    fill_progress(s);
    *stage = s;
    return 0;
}

void dpo_stage_destroy(struct dpo_stage *stage)
{
    if (stage == NULL)
        return;
    trainer_free(stage->trainer);
    training_run_release(&stage->run);
    preference_pairs_release(&stage->pairs);
    memory_free(stage->reference);
    memory_free(stage->sequences);
    memory_free(stage->logprobs);
    memory_free(stage->logprob_rows);
    memory_free(stage);
}

/* ---- tick ---- */

static void set_sequence(struct train_sequence *sequence, const struct example *example,
                         struct preference_sequence *data, int64_t unit)
{
    *sequence = (struct train_sequence){.tokens = example->tokens,
                                        .count = example->count,
                                        .loss_mask = example->mask,
                                        .unit = (int32_t)unit,
                                        .user = data};
}

/* Answers [first, first + count) of pairs order[begin .. end) (order NULL: pairs begin .. end - 1)
 * as sequences; returns their tokens. */
static int64_t fill_batch(struct dpo_stage *stage, const int64_t *order, int64_t begin, int64_t end,
                          int32_t first, int32_t count, struct train_batch *batch)
{
    int64_t tokens = 0;

    for (int64_t i = begin; i < end; i++) {
        struct preference_pair *pair = &stage->pairs.items[order != NULL ? order[i] : i];
        for (int32_t k = 0; k < count; k++) {
            const struct example *example = answer_of(pair, first + k);
            set_sequence(&stage->sequences[count * (i - begin) + k], example,
                         data_of(pair, first + k),
                         count == 2 ? i - begin : count * (i - begin) + k);
            tokens += example->count;
        }
    }
    *batch = (struct train_batch){.sequences = stage->sequences,
                                  .count = (int32_t)(count * (end - begin)),
                                  .temperature = 1.0f};
    return tokens;
}

/* Summed in token order, as the loss sums the policy's: equal weights give a margin of exactly 0.
 */
static double sum_trained(const struct train_sequence *sequence, const float *logprob)
{
    double sum = 0.0;
    for (int32_t i = 1; i < sequence->count; i++)
        if (sequence->loss_mask[i] != 0)
            sum += (double)logprob[i];
    return sum;
}

static int reference_step(struct dpo_stage *stage)
{
    char path[HONE_PATH_MAX];
    struct train_batch batch;
    int32_t answers = pair_answers(stage);
    int64_t begin = stage->reference_pairs;
    int64_t end = end_of_batch(stage, NULL, stage->pairs.count, begin);

    fill_batch(stage, NULL, begin, end, 0, answers, &batch);
    int rc = trainer_logprobs(stage->trainer, &batch, stage->logprob_rows, NULL);
    if (rc < 0)
        return rc;
    for (int32_t s = 0; s < batch.count; s++)
        stage->reference[answers * begin + s] =
            sum_trained(&batch.sequences[s], stage->logprob_rows[s]);
    stage->reference_pairs = end;
    if (end < stage->pairs.count)
        return 0;
    use_reference(stage);
    if ((rc = file_make_directories(stage->options.stage_directory)) < 0)
        return rc;
    rc = reference_cache_write(cache_path(stage, path, sizeof path), &stage->key, stage->reference,
                               answers * stage->pairs.count);
    return rc < 0 ? rc : begin_training(stage);
}

/* KTO's z under the weights before the step, from the answers to prompts that are not theirs. */
static int estimate_kl(struct dpo_stage *stage, const int64_t *order, int64_t end, double *kl)
{
    struct train_batch batch;
    int64_t begin = stage->run.state.position;
    double policy = 0.0;
    double reference = 0.0;

    *kl = 0.0;
    if (stage->options.loss.kind != PREFERENCE_KTO)
        return 0;
    fill_batch(stage, order, begin, end, 2, 1, &batch);
    int rc = trainer_logprobs(stage->trainer, &batch, stage->logprob_rows, NULL);
    for (int32_t s = 0; rc == 0 && s < batch.count; s++) {
        const struct preference_sequence *data = batch.sequences[s].user;
        policy += sum_trained(&batch.sequences[s], stage->logprob_rows[s]) / batch.count;
        reference += data->reference_logprob / batch.count;
    }
    *kl = preference_kl(1, &policy, &reference);
    return rc;
}

static int write_metrics(struct dpo_stage *stage, double tokens_per_second)
{
    const struct dpo_progress *progress = &stage->progress;
    metrics_begin(stage->metrics, progress->step);
    metrics_add(stage->metrics, "loss", progress->loss);
    metrics_add(stage->metrics, "learning_rate", progress->learning_rate);
    metrics_add(stage->metrics, "grad_norm", progress->gradient_norm);
    metrics_add(stage->metrics, "num_tokens", (double)progress->tokens);
    metrics_add(stage->metrics, "rewards/chosen", progress->chosen_reward);
    metrics_add(stage->metrics, "rewards/rejected", progress->rejected_reward);
    metrics_add(stage->metrics, "rewards/margins", progress->margin);
    metrics_add(stage->metrics, "rewards/accuracies", progress->accuracy);
    metrics_add(stage->metrics, "logps/chosen", progress->chosen_logprob);
    metrics_add(stage->metrics, "logps/rejected", progress->rejected_logprob);
    metrics_add(stage->metrics, "tokens_per_second", tokens_per_second);
    metrics_add(stage->metrics, "epoch", (double)stage->run.state.epoch);
    return metrics_end(stage->metrics);
}

static void take_statistics(struct dpo_progress *progress, const struct step_report *report,
                            const struct preference_stats *stats)
{
    double pairs = (double)stats->pairs;
    progress->loss = report->loss;
    progress->learning_rate = report->learning_rate;
    progress->gradient_norm = report->gradient_norm;
    progress->chosen_reward = stats->chosen_reward / pairs;
    progress->rejected_reward = stats->rejected_reward / pairs;
    progress->margin = stats->margin / pairs;
    progress->accuracy = (double)stats->correct / pairs;
    progress->chosen_logprob = stats->chosen_logprob / pairs;
    progress->rejected_logprob = stats->rejected_logprob / pairs;
}

static int train_step(struct dpo_stage *stage)
{
    struct training_run *run = &stage->run;
    struct train_batch batch;
    struct step_report report;
    struct preference_loss loss = {.options = stage->options.loss};
    int64_t start_ns = clock_now_ns(stage->clock);

    const int64_t *order = training_run_order(run);
    int64_t end = end_of_batch(stage, order, run->rows, run->state.position);
    int rc = estimate_kl(stage, order, end, &loss.kl);
    if (rc < 0)
        return rc;
    int64_t tokens = fill_batch(stage, order, run->state.position, end, 0, 2, &batch);
    preference_loss_begin(&loss, &batch);
    rc = trainer_step(stage->trainer, &batch, preference_loss_function, &loss, &report);
    if (rc < 0)
        return rc;
    double seconds = (double)(clock_now_ns(stage->clock) - start_ns) * 1e-9;
    take_statistics(&stage->progress, &report, &loss.stats);
    rc = training_run_advance(run, stage->trainer, &report, end, tokens);
    fill_progress(stage);
    int metrics_rc = write_metrics(stage, seconds > 0.0 ? (double)tokens / seconds : 0.0);
    return rc < 0 ? rc : metrics_rc;
}

int dpo_stage_tick(struct dpo_stage *stage, struct dpo_progress *progress)
{
    int rc = 0;

    if (stage->phase == DPO_REFERENCE) {
        rc = reference_step(stage);
    } else if (stage->phase == DPO_TRAIN && stage->run.state.step < stage->run.total_steps) {
        rc = train_step(stage);
    } else if (stage->phase == DPO_TRAIN) {
        rc = training_run_finish(&stage->run, stage->trainer, stage->config.stored_dtype);
        if (rc == 0)
            stage->phase = DPO_FINISHED;
    }
    fill_progress(stage);
    *progress = stage->progress;
    return rc;
}

#include "tests/exactness/exact_run.h"

#include <math.h>
#include <string.h>

#include "actors/rollout_engine.h"
#include "infra/data/token_support.h"
#include "infra/base/assert.h"
#include "infra/base/memory.h"
#include "infra/train/trainer.h"

#define RUN_SEQUENCES      (EXACT_SEQUENCES_MAX + 1) /* the last one is padding */
#define PADDING            EXACT_SEQUENCES_MAX
#define KV_BLOCKS          32
#define LENGTH_MAX         112 /* tokens of a sequence with its completion */
#define SAMPLES_MAX        (EXACT_GROUPS_MAX * EXACT_SAMPLES_MAX)
#define SECOND_STEP_EVERY  4 /* so many cases take a second step, from moments that are not zero */
#define QUIET_NAN_BITS     0x7fc00000u
#define MAGNITUDE_BITS     0x7fffffffu
#define INFINITY_BITS      0x7f800000u
#define ENTROPY_LOSS_SCALE 0.1

/* ---- results ---- */

void exact_result_release(struct exact_result *result)
{
    memory_free(result->words);
    *result = (struct exact_result){0};
}

static void push(struct exact_result *result, const void *words, int64_t count)
{
    if (result->count + count > result->capacity) {
        int64_t capacity = 2 * (result->count + count);
        result->words = memory_resize(result->words, (size_t)result->capacity, (size_t)capacity,
                                      sizeof(uint32_t));
        result->capacity = capacity;
    }
    memcpy(result->words + result->count, words, (size_t)count * sizeof(uint32_t));
    result->count += count;
}

static void push_double(struct exact_result *result, double value)
{
    uint32_t halves[2];
    if (isnan(value))
        halves[0] = halves[1] = QUIET_NAN_BITS;
    else
        memcpy(halves, &value, sizeof halves);
    push(result, halves, 2);
}

static bool same_word(uint32_t a, uint32_t b)
{
    return a == b || ((a & MAGNITUDE_BITS) > INFINITY_BITS && (b & MAGNITUDE_BITS) > INFINITY_BITS);
}

static int64_t difference_between(const struct exact_result *a, const struct exact_result *b,
                                  int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++)
        if (i >= a->count || i >= b->count || !same_word(a->words[i], b->words[i]))
            return i;
    return -1;
}

int64_t exact_difference(const struct exact_result *a, const struct exact_result *b,
                         enum exact_part *part)
{
    int64_t count = a->count > b->count ? a->count : b->count;
    int64_t at = difference_between(a, b, 0, count);
    *part = EXACT_LOGITS;
    while (*part < EXACT_STEP && at >= a->part_end[*part])
        (*part)++;
    return at;
}

bool exact_part_differs(const struct exact_result *a, const struct exact_result *b,
                        enum exact_part part)
{
    int64_t begin = part == 0 ? 0 : a->part_end[part - 1];
    int64_t other = part == 0 ? 0 : b->part_end[part - 1];
    int64_t count = a->part_end[part] - begin;
    if (count != b->part_end[part] - other)
        return true;
    for (int64_t i = 0; i < count; i++)
        if (!same_word(a->words[begin + i], b->words[other + i]))
            return true;
    return false;
}

const char *exact_part_name(enum exact_part part)
{
    static const char *const names[EXACT_PART_COUNT] = {"logits", "logprobs", "samples", "learner",
                                                        "training step"};
    return names[part];
}

/* ---- forward ---- */

struct forward_run {
    const struct exact_case *c;
    struct draws draws;
    struct kv_cache *cache;
    struct transformer *transformer;
    struct kv_sequence kv[RUN_SEQUENCES];
    struct kv_sequence *kv_of[RUN_SEQUENCES];
    int32_t counts[RUN_SEQUENCES];
    int32_t first[RUN_SEQUENCES]; /* a sequence's first row among all results */
    int32_t max_rows;
    int32_t tokens[EXACT_TOKENS_MAX], positions[EXACT_TOKENS_MAX], sequence[EXACT_TOKENS_MAX];
    int32_t rows;                      /* of the pass being laid out */
    float *logits, *logprob, *entropy; /* of all results, rows of sequence 0 first */
    float *pass_logits;                /* [max_rows, vocab] */
};

static int32_t token_at(const struct forward_run *run, int32_t s, int32_t position)
{
    if (s != PADDING)
        return run->c->tokens[s][position];
    return run->c->poison_id >= 0 ? run->c->poison_id : position % run->c->config.vocab_size;
}

/* Adds the next `count` positions of a sequence to the pass. */
static void lay_out(struct forward_run *run, int32_t s, int32_t count)
{
    struct kv_sequence *kv = &run->kv[s];
    int32_t begin = kv->length;
    for (int32_t i = 0; i < run->rows; i++)
        begin += run->sequence[i] == s;
    HONE_ASSERT(kv_sequence_reserve(run->cache, kv, begin + count, 0));
    for (int32_t i = 0; i < count; i++, run->rows++) {
        run->tokens[run->rows] = token_at(run, s, begin + i);
        run->positions[run->rows] = begin + i;
        run->sequence[run->rows] = s;
    }
}

/* Runs the pass and files the results of its real rows, taken in either order. */
static void run_pass(struct forward_run *run)
{
    const struct exact_case *c = run->c;
    int32_t rows[EXACT_TOKENS_MAX], targets[EXACT_TOKENS_MAX], where[EXACT_TOKENS_MAX];
    float logprob[EXACT_TOKENS_MAX], entropy[EXACT_TOKENS_MAX];
    int64_t vocab = c->config.vocab_size;
    struct forward_rows forward = {.count = run->rows,
                                   .tokens = run->tokens,
                                   .positions = run->positions,
                                   .sequence = run->sequence,
                                   .sequences = run->kv_of};
    bool backwards = draw_between(&run->draws, 0, 1) != 0;
    int32_t count = 0;
    transformer_forward(run->transformer, &forward);
    for (int32_t i = 0; i < run->rows; i++) {
        int32_t row = backwards ? run->rows - 1 - i : i;
        int32_t s = run->sequence[row], next = run->positions[row] + 1;
        if (s == PADDING)
            continue;
        rows[count] = row;
        targets[count] = next < c->counts[s] ? c->tokens[s][next] : 0;
        where[count++] = run->first[s] + next - 1;
    }
    transformer_logits(run->transformer, count, rows, run->pass_logits);
    const struct head_targets heads = {
        .count = count, .rows = rows, .targets = targets, .temperature = c->temperature};
    transformer_logprob(run->transformer, &heads, logprob, entropy);
    for (int32_t i = 0; i < count; i++) {
        memcpy(run->logits + where[i] * vocab, run->pass_logits + i * vocab,
               (size_t)vocab * sizeof(float));
        run->logprob[where[i]] = logprob[i];
        run->entropy[where[i]] = entropy[i];
    }
    run->rows = 0;
}

static bool all_done(const struct forward_run *run)
{
    for (int32_t s = 0; s < run->c->sequences; s++)
        if (run->kv[s].length < run->counts[s])
            return false;
    return true;
}

/* Sequence 1 takes what it has in common with sequence 0 from that one's blocks: all rows whose
 * next token is common too. */
static void share_prefix(struct forward_run *run)
{
    int64_t vocab = run->c->config.vocab_size;
    int32_t count = run->c->shared - 1;
    int32_t from = run->first[0], to = run->first[1];
    HONE_ASSERT(kv_sequence_share(run->cache, &run->kv[0], count, &run->kv[1]));
    memcpy(run->logits + to * vocab, run->logits + from * vocab,
           (size_t)(count * vocab) * sizeof(float));
    memcpy(run->logprob + to, run->logprob + from, (size_t)count * sizeof(float));
    memcpy(run->entropy + to, run->entropy + from, (size_t)count * sizeof(float));
}

/* Passes of random sizes in which random sequences advance by random counts, some in two runs, with
 * rows of a padding sequence among them. */
static void run_random_passes(struct forward_run *run)
{
    struct draws *d = &run->draws;
    bool shares = run->c->shared > 1 && draw_between(d, 0, 1) != 0;
    while (!all_done(run)) {
        if (shares && run->kv[0].length >= run->c->shared) {
            share_prefix(run);
            shares = false;
        }
        int32_t taken[RUN_SEQUENCES] = {0};
        int32_t room = draw_between(d, 1, run->max_rows), turn = draw_between(d, 0, PADDING);
        for (int32_t i = 0; i < 2 * RUN_SEQUENCES && run->rows < room; i++) {
            int32_t s = (turn + i) % RUN_SEQUENCES;
            int32_t left = run->counts[s] - run->kv[s].length - taken[s];
            int32_t most = left < room - run->rows ? left : room - run->rows;
            if (most <= 0 || (shares && s == 1))
                continue;
            int32_t count =
                s == PADDING ? draw_between(d, 0, most < 3 ? most : 3) : draw_between(d, 1, most);
            lay_out(run, s, count);
            taken[s] += count;
        }
        if (run->rows > 0)
            run_pass(run);
    }
}

static void run_forward(const struct exact_case *c, const struct exact_setup *setup,
                        struct model *model, struct exact_result *result)
{
    struct forward_run run = {
        .c = c, .draws = {.key = {.seed = setup->arrangement, .purpose = RNG_SIM, .a = c->index}}};
    int32_t total = 0;
    run.max_rows = setup->plain ? EXACT_TOKENS_MAX : draw_between(&run.draws, 1, EXACT_TOKENS_MAX);
    HONE_ASSERT(kv_cache_create(&run.cache, &c->config, c->dtype, KV_BLOCKS) == 0);
    HONE_ASSERT(transformer_create(&run.transformer, model, run.cache, run.max_rows,
                                   ACTIVATIONS_NONE) == 0);
    for (int32_t s = 0; s < RUN_SEQUENCES; s++) {
        run.counts[s] = s == PADDING ? EXACT_TOKENS_MAX : s < c->sequences ? c->counts[s] : 0;
        run.first[s] = total;
        total += s == PADDING ? 0 : run.counts[s];
        kv_sequence_init(&run.kv[s], EXACT_TOKENS_MAX);
        run.kv_of[s] = &run.kv[s];
    }
    int64_t vocab = c->config.vocab_size;
    run.logits = MEMORY_ARRAY(float, total *vocab);
    run.logprob = MEMORY_ARRAY(float, total);
    run.entropy = MEMORY_ARRAY(float, total);
    run.pass_logits = MEMORY_ARRAY(float, run.max_rows *vocab);
    for (int32_t s = 0; setup->plain && s < c->sequences; s++) {
        lay_out(&run, s, run.counts[s]);
        run_pass(&run);
    }
    if (!setup->plain)
        run_random_passes(&run);
    push(result, run.logits, total * vocab);
    result->part_end[EXACT_LOGITS] = result->count;
    push(result, run.logprob, total);
    push(result, run.entropy, total);
    result->part_end[EXACT_LOGPROBS] = result->count;
    for (int32_t s = 0; s < RUN_SEQUENCES; s++)
        kv_sequence_release(run.cache, &run.kv[s]);
    transformer_free(run.transformer);
    kv_cache_free(run.cache);
    memory_free(run.logits);
    memory_free(run.logprob);
    memory_free(run.entropy);
    memory_free(run.pass_logits);
}

/* ---- sampling ---- */

static void submit_sample(const struct exact_case *c, struct rollout_engine *engine, int32_t index)
{
    int32_t group = index / c->group_size;
    struct rollout_request request = {.user = (uint64_t)index,
                                      .prompt_id = (uint64_t)group + 5,
                                      .group_id = (uint64_t)group + 1,
                                      .sample_index = index % c->group_size,
                                      .prompt_tokens = c->tokens[group],
                                      .prompt_token_count = c->prompt_counts[group],
                                      .sampling = c->sampling[group]};
    HONE_ASSERT(rollout_engine_submit(engine, &request) == 0);
}

static void collect_samples(struct rollout_engine *engine, struct trajectory *samples,
                            int32_t *done)
{
    struct trajectory trajectory;
    uint64_t user;
    while (rollout_engine_finished(engine, &trajectory, &user)) {
        HONE_ASSERT(samples[user].tokens == NULL);
        samples[user] = trajectory;
        (*done)++;
    }
}

static void run_samples(const struct exact_case *c, const struct exact_setup *setup,
                        struct model *model, const struct compute *compute,
                        struct trajectory *samples)
{
    struct draws d = {
        .key = {.seed = setup->arrangement, .purpose = RNG_SIM, .a = c->index, .b = 1}};
    struct rollout_engine_options options = {.slots = 1,
                                             .prefill_chunk_tokens = EXACT_TOKENS_MAX,
                                             .max_sequence_tokens = LENGTH_MAX,
                                             .rng_purpose = RNG_SAMPLE,
                                             .allowed_vocab = c->allowed_vocab};
    int32_t total = c->groups * c->group_size, step = 1, submitted = 0, done = 0;
    if (!setup->plain) {
        options.slots = draw_between(&d, 1, 7);
        options.prefill_chunk_tokens = draw_between(&d, 1, 50);
        if (draw_between(&d, 0, 1) != 0)
            options.kv_blocks = LENGTH_MAX / ATTENTION_BLOCK_TOKENS + draw_between(&d, 1, 6);
        step = draw_between(&d, 0, 1) != 0 ? -1 : 1;
    }
    struct rollout_engine *engine;
    HONE_ASSERT(rollout_engine_create(&engine, model, &options, compute) == 0);
    while (done < total) {
        bool waits = setup->plain && submitted > done;
        while (!waits && submitted < total && rollout_engine_room(engine) > 0) {
            submit_sample(c, engine, step > 0 ? submitted : total - 1 - submitted);
            submitted++;
            waits = setup->plain || draw_between(&d, 0, 2) == 0; /* some arrive later */
        }
        rollout_engine_step(engine);
        collect_samples(engine, samples, &done);
    }
    rollout_engine_destroy(engine);
}

static void push_samples(const struct exact_case *c, const struct trajectory *samples,
                         struct exact_result *result)
{
    for (int32_t i = 0; i < c->groups * c->group_size; i++) {
        const struct trajectory *t = &samples[i];
        int32_t ending[2] = {t->token_count, (int32_t)t->finish};
        push(result, ending, 2);
        push(result, t->tokens, t->token_count);
        push(result, t->behavior_logprob, t->token_count);
        push(result, t->log_mass, t->token_count);
        for (int32_t b = 0; b < t->support_bytes; b++) {
            int32_t byte = t->support[b];
            push(result, &byte, 1);
        }
    }
    result->part_end[EXACT_SAMPLES] = result->count;
}

/* ---- the trainer ---- */

/* What the trajectory's tokens were drawn from; its ids into a new array. */
static int32_t *read_support(const struct trajectory *t, struct logit_support *support)
{
    int32_t *ids = MEMORY_ARRAY(int32_t, t->support_bytes + 1);
    int64_t used = 0;
    struct support_cursor cursor = {t->support, t->support};
    if (t->support_bytes > 0)
        cursor.end += t->support_bytes;
    memset(support, 0, LENGTH_MAX * sizeof *support);
    for (int32_t i = t->prompt_tokens; t->sampling.keep_support && i < t->token_count; i++) {
        int64_t count = token_support_next(&cursor, ids + used, t->support_bytes - used);
        HONE_ASSERT(count >= 0);
        support[i] = (struct logit_support){.ids = ids + used, .count = count};
        used += count;
    }
    HONE_ASSERT(cursor.at == cursor.end && trajectory_validate(t) == 0);
    return ids;
}

/* G6: the logprobs of each group's samples, packed together. */
static void run_learner(const struct exact_case *c, struct trainer *trainer,
                        const struct trajectory *samples, struct exact_result *result)
{
    for (int32_t g = 0; g < c->groups; g++) {
        struct train_sequence sequences[EXACT_SAMPLES_MAX];
        float logprob[EXACT_SAMPLES_MAX][LENGTH_MAX];
        float *logprob_of[EXACT_SAMPLES_MAX];
        struct logit_support support[EXACT_SAMPLES_MAX][LENGTH_MAX];
        int32_t *ids[EXACT_SAMPLES_MAX];
        const struct trajectory *group = samples + g * c->group_size;
        float temperature = c->sampling[g].temperature;
        for (int32_t i = 0; i < c->group_size; i++) {
            logprob_of[i] = memset(logprob[i], 0, sizeof logprob[i]);
            ids[i] = read_support(&group[i], support[i]);
            sequences[i] =
                (struct train_sequence){.tokens = group[i].tokens,
                                        .count = group[i].token_count,
                                        .loss_mask = group[i].loss_mask,
                                        .support = group[i].support_bytes > 0 ? support[i] : NULL,
                                        .unit = i};
        }
        struct train_batch batch = {.sequences = sequences,
                                    .count = c->group_size,
                                    .temperature = temperature > 0.0f ? temperature : 1.0f};
        HONE_ASSERT(trainer_logprobs(trainer, &batch, logprob_of, NULL) == 0);
        for (int32_t i = 0; i < c->group_size; i++) {
            push(result, logprob[i], group[i].token_count);
            for (int32_t p = group[i].prompt_tokens; p < group[i].token_count; p++) {
                result->sampled_tokens++;
                result->unequal_logprobs +=
                    memcmp(&logprob[i][p], &group[i].behavior_logprob[p], sizeof(float)) != 0;
            }
            memory_free(ids[i]);
        }
    }
    result->part_end[EXACT_LEARNER] = result->count;
}

static int weighted_loss(void *context, const struct train_batch *batch,
                         const struct loss_streams *streams, double *loss)
{
    const struct exact_case *c = context;
    for (int32_t s = 0; s < streams->count; s++) {
        int32_t index = streams->first + s;
        for (int32_t i = 0; i < batch->sequences[index].count; i++) {
            if (!c->mask[index][i])
                continue;
            double weight = (double)c->weight[index][i];
            *loss += weight * (double)streams->logprob[s][i];
            streams->d_logprob[s][i] = c->weight[index][i];
            if (streams->entropy == NULL)
                continue;
            *loss += ENTROPY_LOSS_SCALE * weight * (double)streams->entropy[s][i];
            streams->d_entropy[s][i] = (float)(ENTROPY_LOSS_SCALE * weight);
        }
    }
    return 0;
}

static void push_weights(const struct exact_case *c, struct trainer *trainer,
                         struct exact_result *result)
{
    struct model *model = trainer_model(trainer);
    push(result, trainer_master(trainer), c->parameters);
    for (int32_t i = 0; i < model_tensor_count(model); i++) {
        int64_t count = model_tensor_at(model, i)->count;
        const void *values = model_tensor_values(model, i);
        if (c->dtype == DTYPE_F32)
            push(result, values, count);
        for (int64_t j = 0; c->dtype == DTYPE_BF16 && j < count; j++) {
            float value = bf16_to_f32(((const bf16 *)values)[j]);
            push(result, &value, 1);
        }
    }
}

static void run_steps(struct exact_case *c, struct trainer *trainer, struct exact_result *result)
{
    struct train_sequence sequences[EXACT_SEQUENCES_MAX];
    for (int32_t s = 0; s < c->sequences; s++)
        sequences[s] = (struct train_sequence){
            .tokens = c->tokens[s], .count = c->counts[s], .loss_mask = c->mask[s], .unit = s};
    struct train_batch batch = {.sequences = sequences,
                                .count = c->sequences,
                                .temperature = c->temperature,
                                .need_entropy = c->entropy};
    int steps = c->index % SECOND_STEP_EVERY == 0 ? 2 : 1;
    for (int step = 0; step < steps; step++) {
        struct step_report report;
        HONE_ASSERT(trainer_step(trainer, &batch, weighted_loss, c, &report) == 0);
        push_double(result, report.loss);
        push_double(result, report.gradient_norm);
        push(result, trainer_gradient(trainer), c->parameters);
    }
    push_weights(c, trainer, result);
    result->part_end[EXACT_STEP] = result->count;
}

static void run_trainer(const struct exact_case *c, const struct compute *compute,
                        const struct trajectory *samples, struct exact_result *result)
{
    struct trainer_options options = {.dtype = c->dtype,
                                      .micro_batch_tokens = c->micro_batch_tokens,
                                      .max_sequence_tokens = LENGTH_MAX,
                                      .optimizer = {.learning_rate = 1e-2,
                                                    .beta1 = 0.9,
                                                    .beta2 = 0.95,
                                                    .epsilon = 1e-8,
                                                    .weight_decay = 0.1,
                                                    .max_gradient_norm = 1.0}};
    struct exact_case copy = *c; /* a loss's context is not const */
    struct trainer *trainer;
    if (options.micro_batch_tokens < LENGTH_MAX)
        options.micro_batch_tokens = LENGTH_MAX;
    HONE_ASSERT(trainer_create(&trainer, &options, &c->config, c->flat, compute) == 0);
    run_learner(c, trainer, samples, result);
    run_steps(&copy, trainer, result);
    trainer_free(trainer);
}

void exact_run(const struct exact_case *c, const struct exact_setup *setup,
               struct exact_result *result)
{
    struct compute compute = {.ops = setup->ops, .pool = setup->pool};
    struct trajectory samples[SAMPLES_MAX] = {0};
    struct model *model;
    result->count = result->sampled_tokens = result->unequal_logprobs = 0;
    HONE_ASSERT(model_create(&model, &c->config, c->dtype, false, &compute) == 0);
    model_set_flat(model, c->flat);
    run_forward(c, setup, model, result);
    run_samples(c, setup, model, &compute, samples);
    push_samples(c, samples, result);
    run_trainer(c, &compute, samples, result);
    for (int32_t i = 0; i < SAMPLES_MAX; i++)
        trajectory_release(&samples[i]);
    model_free(model);
}

#include "infra/train/embedding_noise.h"
#include "infra/train/trainer.h"

#include <math.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/clock.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/train/micro_batch.h"
#include "infra/train/packing.h"
#include "infra/train/value_head.h"

struct trainer {
    struct trainer_options options;
    struct model_config config;
    struct compute compute;
    struct model *model;
    struct kv_cache *cache;
    struct transformer *transformer;
    struct micro_batch micro;
    struct packing packing;
    int64_t parameters;
    float *master;            /* [parameters] */
    float *noise;             /* [micro_batch_tokens, hidden]; NULL: none */
    void *moment1, *moment2;  /* [parameters] in moments_dtype; NULL when logprobs_only */
    struct sharding sharding; /* and the gradient */
    void *values;             /* [parameters] in dtype, on its way to the ranks; NULL: one rank */
    struct value_head value;  /* with value_head */
    struct lora lora;         /* with lora.rank: master is what they are added to */
    int64_t steps;
};

int32_t train_sequence_trained(const struct train_sequence *sequence)
{
    int32_t tokens = 0;
    for (int32_t i = 1; i < sequence->count; i++)
        tokens += sequence->loss_mask[i] != 0;
    return tokens;
}

static size_t vector_bytes(int64_t parameters)
{
    return (size_t)parameters * sizeof(float);
}

static size_t moment_bytes(const struct trainer_options *options, int64_t parameters)
{
    return (size_t)parameters * dtype_bytes(options->optimizer.moments_dtype);
}

static enum activation_keep kept_activations(const struct trainer_options *options)
{
    if (options->logprobs_only)
        return ACTIVATIONS_NONE;
    return options->checkpoint_layers ? ACTIVATIONS_LAYER_INPUTS : ACTIVATIONS_ALL;
}

static int check_options(const struct trainer_options *options, const struct model_config *config)
{
    if (options->dtype != DTYPE_F32 && options->dtype != DTYPE_BF16)
        return error_set(HONE_EINVAL, "training computes in float32 or bfloat16, not %s",
                         dtype_name(options->dtype));
    if (options->optimizer.moments_dtype != DTYPE_F32 &&
        options->optimizer.moments_dtype != DTYPE_BF16)
        return error_set(HONE_EINVAL, "moments are kept in float32 or bfloat16, not %s",
                         dtype_name(options->optimizer.moments_dtype));
    if (options->optimizer.moments_dtype == DTYPE_BF16 &&
        options->optimizer.beta2 > OPTIMIZER_BF16_BETA2_MAX)
        return error_set(HONE_EINVAL,
                         "beta2 %g with bfloat16 moments: the second moment would not move; use "
                         "beta2 of at most %g, or float32 moments",
                         options->optimizer.beta2, OPTIMIZER_BF16_BETA2_MAX);
    if (options->max_sequence_tokens < 2 || options->max_sequence_tokens > config->max_positions)
        return error_set(HONE_EINVAL,
                         "sequences of up to %d tokens are asked for; the model has %d positions",
                         options->max_sequence_tokens, config->max_positions);
    if (options->micro_batch_tokens < options->max_sequence_tokens)
        return error_set(HONE_EINVAL,
                         "micro_batch_tokens is %d, less than the longest sequence, %d tokens",
                         options->micro_batch_tokens, options->max_sequence_tokens);
    return 0;
}

static size_t noise_bytes(const struct trainer_options *options, const struct model_config *config)
{
    return (size_t)options->micro_batch_tokens * (size_t)config->hidden_size * sizeof(float);
}

static size_t value_bytes(const struct trainer *t)
{
    return (size_t)t->parameters * dtype_bytes(t->options.dtype);
}

/* Gradient, master and moments of a trainer that learns; the ranks share the last two. */
static int open_learning(struct trainer *t)
{
    const struct trainer_options *options = &t->options;
    void *master = NULL;
    int rc = sharding_init(&t->sharding, options->group, options->gradient_shards, t->parameters,
                           t->value.count, options->micro_batch_tokens);
    if (rc == 0)
        rc = sharding_vector(&t->sharding, vector_bytes(t->parameters), &master);
    t->master = master;
    if (rc == 0 && options->lora.rank == 0)
        rc = sharding_vector(&t->sharding, moment_bytes(options, t->parameters), &t->moment1);
    if (rc == 0 && options->lora.rank == 0)
        rc = sharding_vector(&t->sharding, moment_bytes(options, t->parameters), &t->moment2);
    if (rc == 0 && options->group)
        rc = sharding_vector(&t->sharding, value_bytes(t), &t->values);
    return rc;
}

static int open_looking(struct trainer *t)
{
    t->master = memory_map(vector_bytes(t->parameters));
    return sharding_init_streams(&t->sharding, t->options.group, t->options.micro_batch_tokens);
}

/* Each rank writes what is its own. */
static int set_master(struct trainer *t, const float *master)
{
    int64_t begin = 0, end = t->parameters;
    if (t->options.logprobs_only) {
        memcpy(t->master, master, vector_bytes(t->parameters));
        return 0;
    }
    sharding_span(&t->sharding, &begin, &end);
    memcpy(t->master + begin, master + begin, vector_bytes(end - begin));
    return sharding_join(&t->sharding, t->master);
}

int trainer_create(struct trainer **trainer, const struct trainer_options *options,
                   const struct model_config *config, const float *master,
                   const struct compute *compute)
{
    bool training = !options->logprobs_only;
    int rc = check_options(options, config);
    if (rc < 0)
        return rc;

    struct trainer *t = MEMORY_NEW(struct trainer);
    t->options = *options;
    if (options->gradient_shards == 0)
        t->options.gradient_shards = 1;
    t->config = *config;
    t->compute = *compute; /* the model keeps a pointer to it */
    t->parameters = model_config_parameter_count(config);
    if ((rc = model_create(&t->model, config, options->dtype, training, &t->compute)) < 0)
        goto fail;
    int32_t blocks = micro_batch_kv_blocks(options->micro_batch_tokens);
    if ((rc = kv_cache_create(&t->cache, config, options->dtype, blocks)) < 0)
        goto fail;
    rc = transformer_create(&t->transformer, t->model, t->cache, options->micro_batch_tokens,
                            kept_activations(options));
    if (rc < 0)
        goto fail;
    micro_batch_init(&t->micro, options->micro_batch_tokens, t->cache);
    packing_init(&t->packing, options->micro_batch_tokens,
                 training ? t->options.gradient_shards : 1);
    if (options->value_head)
        value_head_init(&t->value, config->hidden_size);
    if ((rc = training ? open_learning(t) : open_looking(t)) < 0)
        goto fail;
    if ((rc = set_master(t, master)) < 0)
        goto fail;
    if (training && options->noise.alpha > 0.0f)
        t->noise = memory_map(noise_bytes(options, config));
    if (training && options->lora.rank > 0)
        rc = lora_init(&t->lora, &options->lora, t->model);
    if (rc < 0)
        goto fail;
    model_set_flat(t->model, t->master);
    *trainer = t;
    return 0;
fail:
    trainer_free(t);
    return rc;
}

static void close_learning(struct trainer *t)
{
    size_t moments = moment_bytes(&t->options, t->parameters);
    sharding_vector_free(&t->sharding, t->master, vector_bytes(t->parameters));
    sharding_vector_free(&t->sharding, t->moment1, moments);
    sharding_vector_free(&t->sharding, t->moment2, moments);
    sharding_vector_free(&t->sharding, t->values, value_bytes(t));
}

void trainer_free(struct trainer *trainer)
{
    if (trainer == NULL)
        return;
    if (trainer->options.logprobs_only)
        memory_unmap(trainer->master, vector_bytes(trainer->parameters));
    else
        close_learning(trainer);
    sharding_release(&trainer->sharding);
    memory_unmap(trainer->noise, noise_bytes(&trainer->options, &trainer->config));
    value_head_release(&trainer->value);
    lora_release(&trainer->lora);
    micro_batch_release(&trainer->micro);
    packing_release(&trainer->packing);
    transformer_free(trainer->transformer);
    kv_cache_free(trainer->cache);
    model_free(trainer->model);
    memory_free(trainer);
}

void trainer_plan(const struct trainer_options *options, const struct model_config *config,
                  const char *owner, struct memory_plan *plan)
{
    bool training = !options->logprobs_only;
    int64_t parameters = model_config_parameter_count(config);
    int32_t rows = options->micro_batch_tokens, blocks = micro_batch_kv_blocks(rows);

    memory_plan_add(plan, owner, "weights (compute dtype)",
                    model_bytes(config, options->dtype, training));
    bool shared = training && rank_group_rank(options->group) > 0; /* rank 0 counts it */
    memory_plan_add(plan, owner, "master weights (fp32)", shared ? 0 : vector_bytes(parameters));
    bool adapters = training && options->lora.rank > 0;
    memory_plan_add(plan, owner, "optimizer moments (2)",
                    training && !adapters && !shared ? 2 * moment_bytes(options, parameters) : 0);
    memory_plan_add(plan, owner, "adapters, their moments and gradient",
                    adapters ? 4 * vector_bytes(lora_count(&options->lora, config)) : 0);
    memory_plan_add(plan, owner, "gradient (fp32)", training ? vector_bytes(parameters) : 0);
    memory_plan_add(plan, owner, "summed gradient (fp32)",
                    training ? sharding_bytes(options->group, options->gradient_shards, parameters)
                             : 0);
    memory_plan_add(plan, owner, "new weights on their way",
                    training && options->group && !shared
                        ? (size_t)parameters * dtype_bytes(options->dtype)
                        : 0);
    memory_plan_add(plan, owner, "activations",
                    transformer_bytes(config, options->dtype, rows, kept_activations(options)));
    memory_plan_add(plan, owner, "key/value cache", kv_cache_bytes(config, options->dtype, blocks));
    memory_plan_add(plan, owner, "rotary table", model_rope_bytes(config, blocks));
    memory_plan_add(plan, owner, "token streams", micro_batch_bytes(rows));
    memory_plan_add(plan, owner, "noise of embeddings",
                    training && options->noise.alpha > 0.0f ? noise_bytes(options, config) : 0);
}

static int check_batch(const struct trainer *t, const struct train_batch *batch)
{
    if (batch->count < 1)
        return error_set(HONE_EINVAL, "a training batch without sequences");
    if (!(batch->temperature > 0.0f))
        return error_set(HONE_EINVAL, "temperature %g is not positive", (double)batch->temperature);
    for (int32_t s = 0; s < batch->count; s++) {
        const struct train_sequence *sequence = &batch->sequences[s];
        if (sequence->count < 1 || sequence->count > t->options.max_sequence_tokens)
            return error_set(HONE_EINVAL, "sequence %d has %d tokens; 1 to %d were planned for", s,
                             sequence->count, t->options.max_sequence_tokens);
        for (int32_t i = 0; i < sequence->count; i++)
            if (sequence->tokens[i] < 0 || sequence->tokens[i] >= t->config.vocab_size)
                return error_set(HONE_EINVAL,
                                 "sequence %d, token %d: id %d is outside the vocabulary of %d", s,
                                 i, sequence->tokens[i], t->config.vocab_size);
    }
    return 0;
}

static double seconds_since(int64_t start_ns)
{
    return (double)(clock_now_ns(clock_system()) - start_ns) * 1e-9;
}

/* The batch in packed order, as losses see it. */
static int pack_batch(struct trainer *t, const struct train_batch *batch,
                      struct train_batch *packed)
{
    int rc = packing_plan(&t->packing, batch->sequences, batch->count);
    *packed = *batch;
    packed->sequences = t->packing.sequences;
    return rc;
}

/* Lays out micro-batch `index` of the plan and fills its streams. learns: for a step. */
static void forward_micro_batch(struct trainer *t, const struct train_batch *packed, int32_t index,
                                bool learns)
{
    struct micro_batch *micro = &t->micro;
    int32_t first = index > 0 ? t->packing.ends[index - 1] : 0;

    micro_batch_load(micro, packed, first, t->packing.ends[index] - first);
    if (micro->row_count > 0) {
        struct forward_rows rows = micro_batch_rows(micro);
        if (learns && t->noise != NULL) {
            embedding_noise_fill(&t->options.noise, t->steps, packed, micro, t->config.hidden_size,
                                 t->compute.pool, t->noise);
            rows.noise = t->noise;
        }
        const struct head_targets targets = micro_batch_targets(micro, packed->temperature);
        transformer_forward(t->transformer, &rows);
        transformer_logprob(t->transformer, &targets, micro->head_logprob,
                            packed->need_entropy ? micro->head_entropy : NULL);
        if (packed->need_value)
            transformer_values(t->transformer, micro->head_count, micro->head_rows,
                               t->value.weights, micro->head_value);
    }
    micro_batch_scatter(micro, packed);
}

static void backward_micro_batch(struct trainer *t, const struct train_batch *batch)
{
    struct micro_batch *micro = &t->micro;

    micro_batch_gather(micro, batch);
    if (micro->row_count == 0)
        return;
    const struct value_gradient values = {.weights = t->value.weights,
                                          .d_values = micro->head_d_value,
                                          .gradient = t->value.gradient};
    const struct head_targets targets = micro_batch_targets(micro, batch->temperature);
    transformer_backward(t->transformer, &targets, micro->head_d_logprob,
                         batch->need_entropy ? micro->head_d_entropy : NULL,
                         batch->need_value ? &values : NULL, t->sharding.own);
}

/* One shard's loss and gradient, from zero. */
static int accumulate_shard(struct trainer *t, const struct train_batch *packed, int32_t shard,
                            loss_function loss, void *context, struct step_report *report,
                            struct shard_figures *figures)
{
    int32_t first = shard > 0 ? t->packing.shard_ends[shard - 1] : 0;
    parallel_zero(t->compute.pool, t->sharding.own, vector_bytes(t->sharding.length));
    t->value.gradient = t->sharding.own + t->parameters;
    for (int32_t i = first; i < t->packing.shard_ends[shard]; i++) {
        int64_t start = clock_now_ns(clock_system());
        forward_micro_batch(t, packed, i, true);
        struct loss_streams streams = micro_batch_streams(&t->micro, packed);
        int rc = loss(context, packed, &streams, &figures->loss);
        report->seconds_forward += seconds_since(start);
        if (rc < 0) {
            micro_batch_unload(&t->micro);
            return rc;
        }
        start = clock_now_ns(clock_system());
        backward_micro_batch(t, packed);
        report->seconds_backward += seconds_since(start);
        figures->tokens += t->micro.row_count;
        figures->trained_tokens += t->micro.head_count;
        micro_batch_unload(&t->micro);
    }
    return 0;
}

/* The whole batch's loss and gradient, of all shards on all ranks. */
static int accumulate(struct trainer *t, const struct train_batch *batch, loss_function loss,
                      void *context, struct step_report *report)
{
    struct train_batch packed;
    struct shard_figures figures = {0};
    int rc = pack_batch(t, batch, &packed);
    for (int32_t round = 0; rc == 0 && round < sharding_rounds(&t->sharding); round++) {
        int32_t shard = sharding_shard(&t->sharding, round);
        rc = accumulate_shard(t, &packed, shard, loss, context, report, &figures);
        if (rc == 0)
            rc = sharding_add(&t->sharding, t->compute.pool, round);
        if (rc == 0)
            sharding_keep(&t->sharding, round, &figures, batch->sums);
    }
    if (rc == 0)
        rc = sharding_collect(&t->sharding, &figures, batch->sums);
    t->value.gradient = t->sharding.sum + t->parameters;
    report->loss = figures.loss;
    report->tokens = (int64_t)figures.tokens;
    report->trained_tokens = (int64_t)figures.trained_tokens;
    return rc;
}

/* AdamW over parameters [begin, end) of one weight decay; `values` of all parameters get the new
 * weights. */
static void adamw_range(struct trainer *t, struct adamw_options *adamw, int64_t begin, int64_t end,
                        char *values)
{
    const struct optimizer_options *options = &t->options.optimizer;
    size_t moment_size = dtype_bytes(options->moments_dtype), at = (size_t)begin;
    struct adamw_vectors vectors = {.parameters = t->master + at,
                                    .m = (char *)t->moment1 + at * moment_size,
                                    .v = (char *)t->moment2 + at * moment_size,
                                    .moments_dtype = options->moments_dtype,
                                    .gradient = t->sharding.sum + at,
                                    .values = values + at * dtype_bytes(t->options.dtype),
                                    .values_dtype = t->options.dtype};
    if (begin < end)
        t->compute.ops->adamw(t->compute.pool, end - begin, adamw, &vectors);
}

/* AdamW over each contiguous run of tensors that share a weight decay, where this rank moves the
 * weights; the new ones reach the model in the same pass, or with more ranks once all are made. */
static int apply_weights(struct trainer *t, struct adamw_options *adamw)
{
    const struct optimizer_options *options = &t->options.optimizer;
    int32_t tensors = model_tensor_count(t->model);
    int64_t first, last;
    char *values = t->values ? t->values : model_overwrite(t->model);

    sharding_span(&t->sharding, &first, &last);
    for (int32_t i = 0; i < tensors;) {
        const struct model_tensor *head = model_tensor_at(t->model, i);
        bool decays = head->rows > 1;
        int64_t count = 0;
        for (; i < tensors; i++) {
            const struct model_tensor *tensor = model_tensor_at(t->model, i);
            if ((tensor->rows > 1) != decays)
                break;
            HONE_ASSERT(tensor->offset == head->offset + count);
            count += tensor->count;
        }
        adamw->weight_decay = decays ? (float)options->weight_decay : 0.0f;
        int64_t begin = head->offset, end = head->offset + count;
        adamw_range(t, adamw, begin > first ? begin : first, end < last ? end : last, values);
    }
    int rc = sharding_join(&t->sharding, values);
    if (rc < 0)
        return rc;
    if (t->values)
        parallel_copy(t->compute.pool, model_overwrite(t->model), t->values, value_bytes(t));
    model_finish(t->model);
    return 0;
}

static void apply_adapters(struct trainer *t, struct adamw_options *adamw)
{
    adamw->weight_decay = (float)t->options.optimizer.weight_decay;
    lora_step(&t->lora, &t->compute, adamw);
    lora_apply(&t->lora, &t->compute, t->master, t->sharding.own, t->model);
}

static int apply_adamw(struct trainer *t, const struct step_report *report)
{
    const struct optimizer_options *options = &t->options.optimizer;
    struct adamw_options adamw = {
        .learning_rate = (float)report->learning_rate,
        .beta1 = (float)options->beta1,
        .beta2 = (float)options->beta2,
        .epsilon = (float)options->epsilon,
        .bias_correction1 = (float)(1.0 - pow(options->beta1, (double)t->steps)),
        .bias_correction2 = (float)(1.0 - pow(options->beta2, (double)t->steps)),
        .gradient_scale = (float)report->clip_scale};
    int rc = 0;
    if (t->lora.count > 0)
        apply_adapters(t, &adamw);
    else
        rc = apply_weights(t, &adamw);
    if (t->options.value_head) {
        if (t->options.value_learning_rate > 0.0)
            adamw.learning_rate = (float)(report->learning_rate / options->learning_rate *
                                          t->options.value_learning_rate);
        adamw.weight_decay = 0.0f;
        value_head_step(&t->value, t->compute.ops, &adamw);
    }
    return rc;
}

/* Of what is trained of the model. */
static int sum_squares(struct trainer *t, double *squares)
{
    if (t->lora.count == 0)
        return sharding_sum_squares(&t->sharding, &t->compute, squares);
    lora_gradient(&t->lora, t->compute.pool, t->sharding.sum);
    *squares = lora_sum_squares(&t->lora, &t->compute);
    return 0;
}

int trainer_step(struct trainer *trainer, const struct train_batch *batch, loss_function loss,
                 void *context, struct step_report *report)
{
    const struct optimizer_options *options = &trainer->options.optimizer;
    double squares;

    HONE_ASSERT(!trainer->options.logprobs_only);
    HONE_ASSERT(!batch->need_value || trainer->options.value_head);
    memset(report, 0, sizeof *report);
    report->clip_scale = 1.0;
    int rc = check_batch(trainer, batch);
    if (rc < 0 || (rc = accumulate(trainer, batch, loss, context, report)) < 0)
        return rc;

    int64_t start = clock_now_ns(clock_system());
    trainer->steps++;
    report->learning_rate = optimizer_learning_rate(options, trainer->steps);
    if ((rc = sum_squares(trainer, &squares)) < 0)
        return rc;
    report->gradient_norm = sqrt(squares + value_head_sum_squares(&trainer->value));
    report->applied = isfinite(report->loss) && isfinite(report->gradient_norm);
    if (batch->accept)
        report->applied = batch->accept(batch->accept_context, report) && report->applied;
    if (report->applied) {
        if (options->max_gradient_norm > 0.0 && report->gradient_norm > options->max_gradient_norm)
            report->clip_scale = options->max_gradient_norm / report->gradient_norm;
        rc = apply_adamw(trainer, report);
    }
    report->seconds_optimizer = seconds_since(start);
    return rc;
}

/* The stream of micro-batch `index`, back to back, to the batch's sequences. */
static void deliver(const struct trainer *t, int32_t index, const float *stream, float *const *out)
{
    int32_t first = index > 0 ? t->packing.ends[index - 1] : 0;
    for (int32_t s = first; out != NULL && s < t->packing.ends[index]; s++) {
        int32_t count = t->packing.sequences[s].count;
        memcpy(out[t->packing.order[s]], stream, (size_t)count * sizeof *stream);
        stream += count;
    }
}

/* A rank's streams of one round. */
static float *streams_of(const struct trainer *t, int32_t rank, int32_t stream)
{
    size_t tokens = (size_t)t->options.micro_batch_tokens;
    return t->sharding.streams + (size_t)(rank * SHARDING_STREAMS + stream) * tokens;
}

/* Forward alone, micro-batch i on rank i % ranks, round by round; out: each stream's place or NULL.
 */
static int look(struct trainer *t, const struct train_batch *packed,
                float *const *const out[SHARDING_STREAMS])
{
    const struct micro_batch *micro = &t->micro;
    const float *own[SHARDING_STREAMS] = {micro->logprob, micro->entropy, micro->value};
    int32_t ranks = rank_group_count(t->options.group), rank = rank_group_rank(t->options.group);
    int32_t count = t->packing.micro_batch_count;
    size_t bytes = (size_t)t->options.micro_batch_tokens * sizeof(float);
    int rc = 0;
    for (int32_t first = 0; rc == 0 && first < count; first += ranks) {
        int32_t index = first + rank;
        if (index < count)
            forward_micro_batch(t, packed, index, false);
        for (int32_t k = 0; k < SHARDING_STREAMS && index < count; k++) {
            deliver(t, index, own[k], out[k]);
            if (t->sharding.streams && out[k])
                memcpy(streams_of(t, rank, k), own[k], bytes);
        }
        if (index < count)
            micro_batch_unload(&t->micro);
        if (!t->sharding.streams)
            continue;
        rc = sharding_join(&t->sharding, t->sharding.streams);
        for (int32_t r = 0; rc == 0 && r < ranks && first + r < count; r++)
            for (int32_t k = 0; k < SHARDING_STREAMS && r != rank; k++)
                deliver(t, first + r, streams_of(t, r, k), out[k]);
        if (rc == 0) /* all have read: they may be written again */
            rc = sharding_join(&t->sharding, t->sharding.streams);
    }
    return rc;
}

int trainer_logprobs(struct trainer *trainer, const struct train_batch *batch,
                     float *const *logprob, float *const *entropy)
{
    struct train_batch view = *batch, packed;
    view.need_entropy = entropy != NULL;
    int rc = check_batch(trainer, &view);
    if (rc < 0 || (rc = pack_batch(trainer, &view, &packed)) < 0)
        return rc;
    return look(trainer, &packed, (float *const *const[]){logprob, entropy, NULL});
}

int trainer_values(struct trainer *trainer, const struct train_batch *batch, float *const *value)
{
    struct train_batch view = *batch, packed;
    HONE_ASSERT(trainer->options.value_head);
    view.need_value = true;
    view.need_entropy = false;
    int rc = check_batch(trainer, &view);
    if (rc < 0 || (rc = pack_batch(trainer, &view, &packed)) < 0)
        return rc;
    return look(trainer, &packed, (float *const *const[]){NULL, NULL, value});
}

struct model *trainer_model(struct trainer *trainer)
{
    return trainer->model;
}

const struct lora *trainer_adapters(const struct trainer *trainer)
{
    return trainer->lora.count > 0 ? &trainer->lora : NULL;
}

const float *trainer_master(const struct trainer *trainer)
{
    return trainer->master;
}

int64_t trainer_steps(const struct trainer *trainer)
{
    return trainer->steps;
}

const float *trainer_gradient(const struct trainer *trainer)
{
    return trainer->sharding.sum;
}

static void fill_state(const struct trainer *trainer, struct checkpoint_state *state)
{
    struct hash hash;

    state->step = trainer->steps;
    model_hash(trainer->model, &hash);
    hash_hex(&hash, state->weights_hash);
}

/* With adapters: base and adapters as one vector, to be unmapped; else NULL. */
static float *merged_weights(const struct trainer *trainer)
{
    if (trainer->lora.count == 0)
        return NULL;
    float *merged = memory_map(vector_bytes(trainer->parameters));
    lora_merge(&trainer->lora, trainer->compute.pool, trainer->master, trainer->parameters, merged);
    return merged;
}

/* What a checkpoint keeps beside or instead of master and moments of every weight. */
#define EXTRA_VECTORS 2
static int32_t list_extras(const struct trainer *trainer,
                           struct checkpoint_vector extras[EXTRA_VECTORS])
{
    int32_t count = 0;
    if (trainer->options.value_head)
        extras[count++] = (struct checkpoint_vector){"value_head", trainer->value.weights,
                                                     value_head_stored(&trainer->value)};
    if (trainer->lora.count > 0)
        extras[count++] = (struct checkpoint_vector){"adapters", trainer->lora.values,
                                                     lora_stored(&trainer->lora)};
    return count;
}

int trainer_save(struct trainer *trainer, const char *directory, const char *base_directory,
                 struct checkpoint_state *state)
{
    HONE_ASSERT(!trainer->options.logprobs_only);
    fill_state(trainer, state);
    float *merged = merged_weights(trainer);
    struct checkpoint_vector extras[EXTRA_VECTORS];
    struct checkpoint_content content = {.config = &trainer->config,
                                         .base_directory = base_directory,
                                         .weights_dtype = trainer->options.dtype,
                                         .weights = merged ? merged : trainer->master,
                                         .master = merged ? NULL : trainer->master,
                                         .moment1 = trainer->moment1,
                                         .moment2 = trainer->moment2,
                                         .moments_dtype = trainer->options.optimizer.moments_dtype,
                                         .extras = extras,
                                         .extra_count = list_extras(trainer, extras),
                                         .state = state};
    int rc = checkpoint_write(directory, &content);
    memory_unmap(merged, vector_bytes(trainer->parameters));
    return rc;
}

int trainer_export(struct trainer *trainer, const char *directory, const char *base_directory,
                   enum dtype dtype, struct checkpoint_state *state)
{
    fill_state(trainer, state);
    float *merged = merged_weights(trainer);
    struct checkpoint_content content = {.config = &trainer->config,
                                         .base_directory = base_directory,
                                         .weights_dtype = dtype,
                                         .weights = merged ? merged : trainer->master,
                                         .state = state};
    int rc = checkpoint_write(directory, &content);
    memory_unmap(merged, vector_bytes(trainer->parameters));
    return rc;
}

int trainer_reset(struct trainer *trainer, const float *master)
{
    size_t moment_size = dtype_bytes(trainer->options.optimizer.moments_dtype);
    int64_t begin, end;
    HONE_ASSERT(!trainer->options.logprobs_only);
    sharding_span(&trainer->sharding, &begin, &end);
    size_t at = (size_t)begin * moment_size, bytes = (size_t)(end - begin) * moment_size;
    if (trainer->moment1) {
        memset((char *)trainer->moment1 + at, 0, bytes);
        memset((char *)trainer->moment2 + at, 0, bytes);
    }
    int rc = set_master(trainer, master);
    if (rc < 0)
        return rc;
    model_set_flat(trainer->model, trainer->master);
    value_head_reset(&trainer->value);
    lora_reset(&trainer->lora);
    trainer->steps = 0;
    return 0;
}

int trainer_restore(struct trainer *trainer, const char *directory, struct checkpoint_state *state)
{
    HONE_ASSERT(!trainer->options.logprobs_only);
    int rc = checkpoint_read_state(directory, state);
    if (rc < 0)
        return rc;
    struct checkpoint_vector extras[EXTRA_VECTORS];
    bool adapters = trainer->lora.count > 0;
    bool reads = rank_group_rank(trainer->options.group) == 0; /* what the ranks share */
    const struct checkpoint_optimizer optimizer = {
        .master = adapters || !reads ? NULL : trainer->master,
        .moment1 = reads ? trainer->moment1 : NULL,
        .moment2 = reads ? trainer->moment2 : NULL,
        .moments_dtype = trainer->options.optimizer.moments_dtype,
        .extras = extras,
        .extra_count = list_extras(trainer, extras)};
    rc = checkpoint_read_optimizer(directory, &trainer->config, &optimizer);
    if (rc == 0)
        rc = sharding_join(&trainer->sharding, trainer->master);
    if (rc < 0)
        return rc;

    struct hash hash;
    char hex[HASH_HEX_SIZE];
    if (adapters)
        lora_apply(&trainer->lora, &trainer->compute, trainer->master, trainer->sharding.own,
                   trainer->model);
    else
        model_set_flat(trainer->model, trainer->master);
    model_hash(trainer->model, &hash);
    hash_hex(&hash, hex);
    if (strcmp(hex, state->weights_hash) != 0)
        return error_set(HONE_ECORRUPT,
                         "%s: weights in %s hash to %.12s, its state says %.12s; was it written "
                         "with another compute dtype?",
                         directory, dtype_name(trainer->options.dtype), hex, state->weights_hash);
    trainer->steps = state->step;
    return 0;
}

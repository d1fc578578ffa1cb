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
    float *master;           /* [parameters] */
    float *noise;            /* [micro_batch_tokens, hidden]; NULL: none */
    void *moment1, *moment2; /* [parameters] in moments_dtype; NULL when logprobs_only */
    float *gradient;         /* [parameters]; NULL when logprobs_only */
    struct value_head value; /* with value_head */
    struct lora lora;        /* with lora.rank: master is what they are added to */
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
    packing_init(&t->packing, options->micro_batch_tokens);
    t->master = memory_map(vector_bytes(t->parameters));
    memcpy(t->master, master, vector_bytes(t->parameters));
    if (training)
        t->gradient = memory_map(vector_bytes(t->parameters));
    if (training && options->noise.alpha > 0.0f)
        t->noise = memory_map(noise_bytes(options, config));
    if (training && options->lora.rank > 0)
        rc = lora_init(&t->lora, &options->lora, t->model);
    if (rc < 0)
        goto fail;
    if (training && options->lora.rank == 0) {
        t->moment1 = memory_map(moment_bytes(options, t->parameters));
        t->moment2 = memory_map(moment_bytes(options, t->parameters));
    }
    if (options->value_head)
        value_head_init(&t->value, config->hidden_size);
    model_set_flat(t->model, t->master);
    *trainer = t;
    return 0;
fail:
    trainer_free(t);
    return rc;
}

void trainer_free(struct trainer *trainer)
{
    if (trainer == NULL)
        return;
    memory_unmap(trainer->master, vector_bytes(trainer->parameters));
    memory_unmap(trainer->gradient, vector_bytes(trainer->parameters));
    memory_unmap(trainer->noise, noise_bytes(&trainer->options, &trainer->config));
    memory_unmap(trainer->moment1, moment_bytes(&trainer->options, trainer->parameters));
    memory_unmap(trainer->moment2, moment_bytes(&trainer->options, trainer->parameters));
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
    memory_plan_add(plan, owner, "master weights (fp32)", vector_bytes(parameters));
    bool adapters = training && options->lora.rank > 0;
    memory_plan_add(plan, owner, "optimizer moments (2)",
                    training && !adapters ? 2 * moment_bytes(options, parameters) : 0);
    memory_plan_add(plan, owner, "adapters, their moments and gradient",
                    adapters ? 4 * vector_bytes(lora_count(&options->lora, config)) : 0);
    memory_plan_add(plan, owner, "gradient (fp32)", training ? vector_bytes(parameters) : 0);
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
                         batch->need_value ? &values : NULL, t->gradient);
}

/* The whole batch's loss and gradient. */
static int accumulate(struct trainer *t, const struct train_batch *batch, loss_function loss,
                      void *context, struct step_report *report)
{
    struct train_batch packed;
    int rc = pack_batch(t, batch, &packed);
    if (rc < 0)
        return rc;
    parallel_zero(t->compute.pool, t->gradient, vector_bytes(t->parameters));
    value_head_zero(&t->value);
    for (int32_t i = 0; i < t->packing.micro_batch_count; i++) {
        int64_t start = clock_now_ns(clock_system());
        forward_micro_batch(t, &packed, i, true);
        struct loss_streams streams = micro_batch_streams(&t->micro, &packed);
        rc = loss(context, &packed, &streams, &report->loss);
        report->seconds_forward += seconds_since(start);
        if (rc < 0) {
            micro_batch_unload(&t->micro);
            return rc;
        }
        start = clock_now_ns(clock_system());
        backward_micro_batch(t, &packed);
        report->seconds_backward += seconds_since(start);
        report->tokens += t->micro.row_count;
        report->trained_tokens += t->micro.head_count;
        micro_batch_unload(&t->micro);
    }
    return 0;
}

/* AdamW over each contiguous run of tensors that share a weight decay; the new weights reach the
 * model in the same pass. */
static void apply_weights(struct trainer *t, struct adamw_options *adamw)
{
    const struct optimizer_options *options = &t->options.optimizer;
    int32_t tensors = model_tensor_count(t->model);
    char *values = model_overwrite(t->model);
    size_t value_bytes = dtype_bytes(t->options.dtype);
    size_t moment_size = dtype_bytes(options->moments_dtype);

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
        size_t at = (size_t)head->offset;
        struct adamw_vectors vectors = {.parameters = t->master + at,
                                        .m = (char *)t->moment1 + at * moment_size,
                                        .v = (char *)t->moment2 + at * moment_size,
                                        .moments_dtype = options->moments_dtype,
                                        .gradient = t->gradient + at,
                                        .values = values + at * value_bytes,
                                        .values_dtype = t->options.dtype};
        t->compute.ops->adamw(t->compute.pool, count, adamw, &vectors);
    }
    model_finish(t->model);
}

static void apply_adapters(struct trainer *t, struct adamw_options *adamw)
{
    adamw->weight_decay = (float)t->options.optimizer.weight_decay;
    lora_step(&t->lora, &t->compute, adamw);
    lora_apply(&t->lora, &t->compute, t->master, t->gradient, t->model);
}

static void apply_adamw(struct trainer *t, const struct step_report *report)
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
    if (t->lora.count > 0)
        apply_adapters(t, &adamw);
    else
        apply_weights(t, &adamw);
    if (t->options.value_head) {
        if (t->options.value_learning_rate > 0.0)
            adamw.learning_rate = (float)(report->learning_rate / options->learning_rate *
                                          t->options.value_learning_rate);
        adamw.weight_decay = 0.0f;
        value_head_step(&t->value, t->compute.ops, &adamw);
    }
}

/* Of what is trained of the model. */
static double sum_squares(struct trainer *t)
{
    if (t->lora.count == 0)
        return t->compute.ops->sum_squares(t->compute.pool, t->parameters, t->gradient);
    lora_gradient(&t->lora, t->compute.pool, t->gradient);
    return lora_sum_squares(&t->lora, &t->compute);
}

int trainer_step(struct trainer *trainer, const struct train_batch *batch, loss_function loss,
                 void *context, struct step_report *report)
{
    const struct optimizer_options *options = &trainer->options.optimizer;

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
    report->gradient_norm = sqrt(sum_squares(trainer) + value_head_sum_squares(&trainer->value));
    report->applied = isfinite(report->loss) && isfinite(report->gradient_norm);
    if (batch->accept)
        report->applied = batch->accept(batch->accept_context, report) && report->applied;
    if (report->applied) {
        if (options->max_gradient_norm > 0.0 && report->gradient_norm > options->max_gradient_norm)
            report->clip_scale = options->max_gradient_norm / report->gradient_norm;
        apply_adamw(trainer, report);
    }
    report->seconds_optimizer = seconds_since(start);
    return 0;
}

static void copy_streams(const struct trainer *t, float *const *logprob, float *const *entropy)
{
    const struct micro_batch *micro = &t->micro;
    for (int32_t s = 0; s < micro->count; s++) {
        int32_t index = t->packing.order[micro->first + s];
        size_t bytes = (size_t)t->packing.sequences[micro->first + s].count * sizeof(float);
        memcpy(logprob[index], micro->logprob_of[s], bytes);
        if (entropy != NULL)
            memcpy(entropy[index], micro->entropy_of[s], bytes);
    }
}

int trainer_logprobs(struct trainer *trainer, const struct train_batch *batch,
                     float *const *logprob, float *const *entropy)
{
    struct train_batch view = *batch;
    view.need_entropy = entropy != NULL;
    int rc = check_batch(trainer, &view);
    if (rc < 0)
        return rc;

    struct train_batch packed;
    if ((rc = pack_batch(trainer, &view, &packed)) < 0)
        return rc;
    for (int32_t i = 0; i < trainer->packing.micro_batch_count; i++) {
        forward_micro_batch(trainer, &packed, i, false);
        copy_streams(trainer, logprob, entropy);
        micro_batch_unload(&trainer->micro);
    }
    return 0;
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
    for (int32_t i = 0; i < trainer->packing.micro_batch_count; i++) {
        const struct micro_batch *micro = &trainer->micro;
        forward_micro_batch(trainer, &packed, i, false);
        for (int32_t s = 0; s < micro->count; s++)
            memcpy(value[trainer->packing.order[micro->first + s]], micro->value_of[s],
                   (size_t)packed.sequences[micro->first + s].count * sizeof(float));
        micro_batch_unload(&trainer->micro);
    }
    return 0;
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
    return trainer->gradient;
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

void trainer_reset(struct trainer *trainer, const float *master)
{
    size_t count = (size_t)trainer->parameters;
    size_t moment_size = dtype_bytes(trainer->options.optimizer.moments_dtype);
    HONE_ASSERT(!trainer->options.logprobs_only);
    memcpy(trainer->master, master, count * sizeof *master);
    if (trainer->moment1) {
        memset(trainer->moment1, 0, count * moment_size);
        memset(trainer->moment2, 0, count * moment_size);
    }
    model_set_flat(trainer->model, trainer->master);
    value_head_reset(&trainer->value);
    lora_reset(&trainer->lora);
    trainer->steps = 0;
}

int trainer_restore(struct trainer *trainer, const char *directory, struct checkpoint_state *state)
{
    HONE_ASSERT(!trainer->options.logprobs_only);
    int rc = checkpoint_read_state(directory, state);
    if (rc < 0)
        return rc;
    struct checkpoint_vector extras[EXTRA_VECTORS];
    bool adapters = trainer->lora.count > 0;
    const struct checkpoint_optimizer optimizer = {.master = adapters ? NULL : trainer->master,
                                                   .moment1 = trainer->moment1,
                                                   .moment2 = trainer->moment2,
                                                   .moments_dtype =
                                                       trainer->options.optimizer.moments_dtype,
                                                   .extras = extras,
                                                   .extra_count = list_extras(trainer, extras)};
    rc = checkpoint_read_optimizer(directory, &trainer->config, &optimizer);
    if (rc < 0)
        return rc;

    struct hash hash;
    char hex[HASH_HEX_SIZE];
    if (adapters)
        lora_apply(&trainer->lora, &trainer->compute, trainer->master, trainer->gradient,
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

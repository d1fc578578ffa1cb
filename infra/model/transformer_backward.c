/* The backward pass over the latest training forward: layers in reverse, each linear layer as one
 * matmul for its input's gradient and one, over the token axis in packed order, for its weight's.
 */
#include "infra/model/transformer.h"

#include <string.h>

#include "infra/base/assert.h"
#include "infra/model/activations.h"

/* What the steps of one backward pass share. */
struct backward {
    struct transformer *transformer;
    const struct model *model;
    const struct backend_ops *ops;
    struct parallel *pool;
    float *gradient;
};

/* For y = x W^T over `rows` rows: gradient of W += dy^T x, and dx = dy W (overwritten). */
static void linear_backward(const struct backward *b, const struct operand *weight, int64_t rows,
                            const float *dy, const void *x, float *dx)
{
    const struct backward_buffers *buffers = &b->transformer->backward;
    const struct linear_workspace workspace = {buffers->cast, buffers->transposed, buffers->packed};
    b->ops->linear_backward(b->pool, b->model->dtype, rows, weight->in, weight->out, dy, x,
                            weight->packed_transposed, dx, b->gradient + weight->offset,
                            &workspace);
}

static void norm_backward(const struct backward *b, int64_t weight, const float *x,
                          const float *rms, const float *dy, float *dx)
{
    const struct transformer *t = b->transformer;
    b->ops->rmsnorm_backward(b->pool, b->model->dtype, t->row_count, t->hidden, x,
                             model_values_at(b->model, weight), rms, dy, dx, b->gradient + weight);
}

/* ---- the head ---- */

struct head_gradient {
    const struct head_targets *targets;
    const float *d_logprob, *d_entropy;
    const struct value_gradient *values; /* NULL: none */
};

/* Adds one chunk's gradient to d_final [T, hidden] (zeroed by the caller) and to the head's weight.
 */
static void head_chunk_backward(const struct backward *b, const struct head_gradient *head,
                                int32_t done, int32_t count, float *d_final)
{
    struct transformer *t = b->transformer;
    const struct backward_buffers *buffers = &t->backward;
    const struct head_targets *targets = head->targets;
    const int32_t *rows = targets->rows + done, *tokens = targets->targets + done;
    const float *d_entropy = head->d_entropy ? head->d_entropy + done : NULL;
    float *entropy = d_entropy ? buffers->head_entropy : NULL;
    const void *input;
    transformer_target_chunk(t, targets, done, count, &input);
    b->ops->token_logprob(b->pool, count, t->vocab, t->logits, t->vocab, targets->temperature,
                          tokens, buffers->head_logprob, entropy, buffers->head_lse);
    b->ops->token_logprob_backward(b->pool, count, t->vocab, t->logits, t->vocab,
                                   targets->temperature, tokens, buffers->head_lse, entropy,
                                   head->d_logprob + done, d_entropy);
    linear_backward(b, &b->model->head, count, t->logits, input, buffers->head_hidden);
    for (int32_t i = 0; i < count; i++)
        memcpy(d_final + rows[i] * t->hidden, buffers->head_hidden + i * t->hidden,
               (size_t)t->hidden * sizeof(float));
}

/* Adds what the value head gives to d_final and to its own gradient, rows ascending. */
static void value_backward(const struct backward *b, const struct head_gradient *head,
                           float *d_final)
{
    const struct transformer *t = b->transformer;
    const struct value_gradient *values = head->values;
    const struct head_targets *targets = head->targets;
    for (int32_t i = 0; i < targets->count; i++) {
        float *d_row = d_final + targets->rows[i] * t->hidden;
        float d_value = values->d_values[i];
        for (int64_t k = 0; k < t->hidden; k++) {
            d_row[k] += d_value * values->weights[k];
            values->gradient[k] += d_value * transformer_final_state(t, targets->rows[i], k);
        }
        values->gradient[t->hidden] += d_value;
    }
}

static void head_backward(const struct backward *b, const struct head_gradient *head)
{
    struct transformer *t = b->transformer;
    int32_t count = head->targets->count;
    const struct layer_activations *last = &t->layers[b->model->config.layers - 1];
    size_t bytes = (size_t)(t->row_count * t->hidden) * sizeof(float);
    float *d_final = t->backward.narrow;
    parallel_zero(b->pool, d_final, bytes);
    for (int32_t done = 0; done < count; done += t->head_rows)
        head_chunk_backward(b, head, done,
                            count - done < t->head_rows ? count - done : t->head_rows, d_final);
    if (head->values)
        value_backward(b, head, d_final);
    parallel_zero(b->pool, t->backward.residual, bytes);
    norm_backward(b, b->model->final_norm, last->output, t->final_rms, d_final,
                  t->backward.residual);
}

/* ---- layers ---- */

static void mlp_backward(const struct backward *b, int32_t layer_index)
{
    struct transformer *t = b->transformer;
    const struct backward_buffers *buffers = &t->backward;
    const struct layer_weights *weights = &b->model->layers[layer_index];
    const struct layer_activations *a = &t->layers[layer_index];
    int64_t rows = t->row_count;
    linear_backward(b, &weights->down, rows, buffers->residual, a->swiglu, buffers->narrow);
    b->ops->swiglu_backward(b->pool, rows, t->intermediate, a->gate_up, buffers->narrow,
                            buffers->wide);
    linear_backward(b, &weights->gate_up, rows, buffers->wide, a->middle_norm, buffers->narrow);
    norm_backward(b, weights->post_norm, a->middle, a->middle_rms, buffers->narrow,
                  buffers->residual);
}

struct attention_work {
    const struct backward *backward;
    const struct layer_activations *activations;
    struct attention_kv kv;
};

/* Sequences [begin, end) of the pass. */
static void attention_runs_backward(const struct attention_work *work, struct parallel *pool,
                                    int64_t begin, int64_t end)
{
    const struct backward *b = work->backward;
    const struct transformer *t = b->transformer;
    const struct layer_activations *a = work->activations;
    int32_t heads = b->model->config.heads;
    size_t act = dtype_bytes(b->model->dtype);
    for (int64_t run = begin; run < end; run++) {
        int64_t first = t->runs[run];
        float *dqkv = t->backward.wide + first * t->qkv;
        b->ops->attention_backward(
            pool, &work->kv, t->runs[run + 1] - first, heads, a->qkv + first * t->qkv, t->qkv,
            t->table + first, (const char *)a->attention + (size_t)(first * t->query) * act,
            a->attention_lse + first * heads, t->backward.narrow + first * t->query, dqkv, t->qkv,
            dqkv + t->query, dqkv + t->query + t->kv, t->qkv);
    }
}

static void attention_share(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    attention_runs_backward(context, NULL, begin, end);
}

static void attention_backward(const struct backward *b, int32_t layer_index)
{
    struct transformer *t = b->transformer;
    const struct backward_buffers *buffers = &t->backward;
    const struct model_config *config = &b->model->config;
    const struct layer_weights *weights = &b->model->layers[layer_index];
    const struct layer_activations *a = &t->layers[layer_index];
    int64_t rows = t->row_count;
    struct attention_work work = {
        .backward = b, .activations = a, .kv = kv_cache_layer(t->cache, layer_index)};
    linear_backward(b, &weights->output, rows, buffers->residual, a->attention, buffers->narrow);
    parallel_zero(b->pool, buffers->wide, (size_t)(rows * t->qkv) * sizeof(float));
    /* Many sequences: whole ones to each thread. Few: the operation splits each by heads. */
    if (b->pool && t->run_count >= 4 * parallel_threads(b->pool))
        parallel_for(b->pool, t->run_count, 1, attention_share, &work);
    else
        attention_runs_backward(&work, b->pool, 0, t->run_count);
    b->ops->rope(b->pool, rows, config->heads + config->kv_heads, config->head_dim, t->positions,
                 b->model->rope, buffers->wide, t->qkv, true);
    linear_backward(b, &weights->qkv, rows, buffers->wide, a->input_norm, buffers->narrow);
    norm_backward(b, weights->input_norm, a->input, a->input_rms, buffers->narrow,
                  buffers->residual);
}

void transformer_backward(struct transformer *transformer, const struct head_targets *targets,
                          const float *d_logprob, const float *d_entropy,
                          const struct value_gradient *values, float *gradient)
{
    struct transformer *t = transformer;
    const struct backward b = {.transformer = t,
                               .model = t->model,
                               .ops = t->model->compute->ops,
                               .pool = t->model->compute->pool,
                               .gradient = gradient};
    const struct head_gradient head = {
        .targets = targets, .d_logprob = d_logprob, .d_entropy = d_entropy, .values = values};
    HONE_ASSERT(t->keep != ACTIVATIONS_NONE);
    HONE_ASSERT(t->whole_runs && t->from_beginning);
    for (int32_t i = 1; i < targets->count; i++)
        HONE_ASSERT(targets->rows[i] > targets->rows[i - 1]);
    if (targets->count == 0)
        return;
    head_backward(&b, &head);
    for (int32_t i = t->model->config.layers - 1; i >= 0; i--) {
        transformer_restore_layer(t, i);
        mlp_backward(&b, i);
        attention_backward(&b, i);
    }
    b.ops->embed_backward(b.pool, t->row_count, t->hidden, t->tokens, t->backward.residual,
                          gradient + t->model->embedding);
}

#include "infra/model/transformer.h"

#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/model/activations.h"

/* Rows of the head at once: the aim, in elements of the logits buffer, and its bounds. In training
 * a chunk reads and writes the whole gradient of the head's weight, hence more rows. */
static const struct head_rows {
    int64_t logits, least, most;
} head_rows_decode = {1 << 20, 64, 256}, head_rows_training = {1 << 24, 256, 1024};

#define THREADS_MAX          64
#define SHARED_BYTES_MAX     (16u << 20) /* weights that every thread may stream by itself */
#define INLINE_MULTIPLY_ADDS (1 << 20)   /* less work than this is not shared at all */

/* ---- the memory plan ---- */

struct plan {
    char *base; /* NULL: only count */
    size_t used;
};

static void *plan_take(struct plan *plan, size_t bytes)
{
    void *block = plan->base ? plan->base + plan->used : NULL;
    plan->used += (bytes + 63) & ~(size_t)63;
    return block;
}

static float *plan_floats(struct plan *plan, int64_t rows, int64_t columns)
{
    return plan_take(plan, (size_t)rows * (size_t)columns * sizeof(float));
}

static int32_t *plan_ints(struct plan *plan, int64_t count)
{
    return plan_take(plan, (size_t)count * sizeof(int32_t));
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static size_t larger_bytes(size_t a, size_t b)
{
    return a > b ? a : b;
}

static int64_t round_up(int64_t value, int64_t step)
{
    return (value + step - 1) / step * step;
}

static void plan_layer(struct plan *plan, const struct transformer *t, size_t act,
                       struct layer_activations *layer)
{
    int64_t rows = t->max_rows;
    size_t count = (size_t)rows;
    int32_t heads = t->model->config.heads;
    layer->input_norm = plan_take(plan, count * (size_t)t->hidden * act);
    layer->qkv = plan_floats(plan, rows, t->qkv);
    layer->attention = plan_take(plan, count * (size_t)t->query * act);
    layer->middle_norm = plan_take(plan, count * (size_t)t->hidden * act);
    layer->gate_up = plan_floats(plan, rows, 2 * t->intermediate);
    layer->swiglu = plan_take(plan, count * (size_t)t->intermediate * act);
    if (t->keep == ACTIVATIONS_NONE)
        return;
    layer->input_rms = plan_floats(plan, rows, 1);
    layer->attention_lse = plan_floats(plan, rows, heads);
    layer->middle = plan_floats(plan, rows, t->hidden);
    layer->middle_rms = plan_floats(plan, rows, 1);
}

static void plan_layers(struct plan *plan, struct transformer *t, size_t act)
{
    int32_t count = t->model->config.layers;
    struct layer_activations one = {0};
    struct layer_activations *layers =
        plan_take(plan, (size_t)count * sizeof(struct layer_activations));
    float *residual = plan_floats(plan, t->max_rows, t->hidden);
    t->layers = layers;
    for (int32_t i = 0; i < count; i++) {
        if (t->keep == ACTIVATIONS_ALL || i == 0)
            plan_layer(plan, t, act, &one);
        one.input = residual;
        if (t->keep == ACTIVATIONS_NONE)
            one.middle = one.output = residual;
        else
            one.output = plan_floats(plan, t->max_rows, t->hidden);
        residual = one.output;
        if (layers)
            layers[i] = one;
    }
}

/* Whether linear_backward wants dy in the activation dtype. A plan without a model yet is for the
 * table that this process will choose. */
static bool linear_needs_act(const struct transformer *t, enum dtype dtype)
{
    const struct backend_ops *ops = NULL;
    if (t->model->compute != NULL)
        ops = t->model->compute->ops;
    else if (backend_select(&ops) != 0)
        return true;
    return dtype == DTYPE_F32 || !ops->linear_packs_dy;
}

static void plan_backward(struct plan *plan, struct transformer *t, enum dtype dtype)
{
    struct backward_buffers *b = &t->backward;
    int64_t rows = t->max_rows;
    size_t act = dtype_bytes(dtype);
    int64_t wide = larger(t->qkv, 2 * t->intermediate);
    int64_t narrow = larger(larger(t->hidden, t->query), t->intermediate);
    int64_t out = larger(wide, t->hidden); /* the widest dy of a layer */
    b->residual = plan_floats(plan, rows, t->hidden);
    b->wide = plan_floats(plan, rows, wide);
    b->narrow = plan_floats(plan, rows, narrow);
    if (linear_needs_act(t, dtype)) {
        if (dtype != DTYPE_F32)
            b->cast = plan_take(plan, act * (size_t)larger(rows * out, t->head_rows * t->vocab));
        b->transposed =
            plan_take(plan, act * (size_t)larger(out * round_up(rows, 32),
                                                 t->vocab * round_up(t->head_rows, 32)));
    }
    b->packed = plan_take(plan, larger_bytes(gemm_packed_bytes(dtype, narrow, rows),
                                             gemm_packed_bytes(dtype, t->hidden, t->head_rows)));
    b->head_hidden = plan_floats(plan, t->head_rows, t->hidden);
    b->head_lse = plan_floats(plan, t->head_rows, 1);
    b->head_logprob = plan_floats(plan, t->head_rows, 1);
    b->head_entropy = plan_floats(plan, t->head_rows, 1);
}

static int32_t choose_head_rows(const struct head_rows *aim, int64_t vocab, int32_t max_rows)
{
    int64_t rows = aim->logits / vocab / 32 * 32;
    if (rows < aim->least)
        rows = aim->least;
    if (rows > aim->most)
        rows = aim->most;
    return rows < max_rows ? (int32_t)rows : max_rows;
}

/* Fills every size and pointer of *t, whose model, max_rows and keep are set; returns the bytes
 * of the block at base (counted only when base is NULL). */
static size_t plan_transformer(struct transformer *t, char *base)
{
    struct plan plan = {.base = base};
    const struct model_config *config = &t->model->config;
    enum dtype dtype = t->model->dtype;
    size_t act = dtype_bytes(dtype);
    int64_t rows = t->max_rows;
    plan_take(&plan, sizeof *t);
    t->hidden = config->hidden_size;
    t->query = model_query_size(config);
    t->kv = model_kv_size(config);
    t->qkv = t->query + 2 * t->kv;
    t->intermediate = config->intermediate_size;
    t->vocab = config->vocab_size;
    t->head_rows =
        choose_head_rows(t->keep == ACTIVATIONS_NONE ? &head_rows_decode : &head_rows_training,
                         t->vocab, t->max_rows);
    plan_layers(&plan, t, act);
    t->final_norm = plan_take(&plan, (size_t)rows * (size_t)t->hidden * act);
    if (t->keep != ACTIVATIONS_NONE)
        t->final_rms = plan_floats(&plan, rows, 1);
    t->tokens = plan_ints(&plan, rows);
    t->positions = plan_ints(&plan, rows);
    t->block_ids = plan_ints(&plan, rows);
    t->offsets = plan_ints(&plan, rows);
    t->table = plan_take(&plan, (size_t)rows * sizeof *t->table);
    t->runs = plan_ints(&plan, rows + 1);
    t->head_input = plan_take(&plan, (size_t)t->head_rows * (size_t)t->hidden * act);
    t->logits = plan_floats(&plan, t->head_rows, t->vocab);
    if (t->keep != ACTIVATIONS_NONE)
        plan_backward(&plan, t, dtype);
    return plan.used;
}

size_t transformer_bytes(const struct model_config *config, enum dtype dtype, int32_t max_rows,
                         enum activation_keep keep)
{
    struct model model = {.config = *config, .dtype = dtype};
    struct transformer t = {.model = &model, .max_rows = max_rows, .keep = keep};
    return plan_transformer(&t, NULL);
}

int transformer_create(struct transformer **transformer, struct model *model,
                       struct kv_cache *cache, int32_t max_rows, enum activation_keep keep)
{
    HONE_ASSERT(max_rows > 0);
    HONE_ASSERT(keep == ACTIVATIONS_NONE || model->trainable);
    struct attention_kv kv = kv_cache_layer(cache, model->config.layers - 1);
    HONE_ASSERT(kv.dtype == model->dtype && kv.kv_heads == model->config.kv_heads &&
                kv.head_dim == model->config.head_dim);
    struct transformer plan = {.model = model, .cache = cache, .max_rows = max_rows, .keep = keep};
    plan.bytes = plan_transformer(&plan, NULL);
    char *block = memory_map(plan.bytes);
    plan_transformer(&plan, block);
    memcpy(block, &plan, sizeof plan);
    int64_t positions = (int64_t)kv_cache_total_blocks(cache) * ATTENTION_BLOCK_TOKENS;
    model_reserve_positions(model, positions < INT32_MAX ? (int32_t)positions : INT32_MAX);
    *transformer = (struct transformer *)(void *)block;
    return 0;
}

void transformer_free(struct transformer *transformer)
{
    if (transformer)
        memory_unmap(transformer, transformer->bytes);
}

/* ---- rows of a pass ---- */

/* Fills the row tables and finds the runs of rows that belong to one sequence. */
static void place_rows(struct transformer *t, const struct forward_rows *rows)
{
    t->row_count = rows->count;
    t->run_count = 0;
    t->whole_runs = t->from_beginning = true;
    memcpy(t->tokens, rows->tokens, (size_t)rows->count * sizeof(int32_t));
    t->noise = rows->noise;
    memcpy(t->positions, rows->positions, (size_t)rows->count * sizeof(int32_t));
    for (int32_t r = 0; r < rows->count; r++) {
        const struct kv_sequence *sequence = rows->sequences[rows->sequence[r]];
        int32_t position = rows->positions[r];
        HONE_ASSERT(rows->tokens[r] >= 0 && rows->tokens[r] < t->vocab);
        HONE_ASSERT(position >= 0 && position < t->model->rope_positions);
        HONE_ASSERT(position / ATTENTION_BLOCK_TOKENS < sequence->block_count);
        t->block_ids[r] = sequence->blocks[position / ATTENTION_BLOCK_TOKENS];
        t->offsets[r] = position % ATTENTION_BLOCK_TOKENS;
        t->table[r] = (struct attention_row){.blocks = sequence->blocks, .key_count = position + 1};
        if (r > 0 && rows->sequence[r] == rows->sequence[r - 1])
            continue;
        /* A sequence's second run starts past its length. */
        t->runs[t->run_count++] = r;
        t->whole_runs = t->whole_runs && position == sequence->length;
        t->from_beginning = t->from_beginning && position == 0;
    }
    t->runs[t->run_count] = rows->count;
}

/* Each row must be the next position of its sequence. */
static void advance_sequences(const struct forward_rows *rows)
{
    for (int32_t r = 0; r < rows->count; r++) {
        struct kv_sequence *sequence = rows->sequences[rows->sequence[r]];
        HONE_ASSERT(rows->positions[r] == sequence->length);
        sequence->length++;
    }
}

/* ---- forward ---- */

/* Rows [first, first + count) of a pass, computed on `pool`. */
struct span {
    struct transformer *transformer;
    const struct backend_ops *ops;
    struct parallel *pool;
    int64_t first, count;
};

static float *float_row(float *base, int64_t row, int64_t columns)
{
    return base ? base + row * columns : NULL;
}

static void *act_row(const struct transformer *t, void *base, int64_t row, int64_t columns)
{
    return (char *)base + (size_t)(row * columns) * dtype_bytes(t->model->dtype);
}

/* out fp32 = in W^T, or out += in W^T. */
static void linear(const struct span *span, const struct operand *weight, const void *in,
                   float *out, bool accumulate)
{
    span->ops->gemm(span->pool, span->transformer->model->dtype, span->count, weight->out,
                    weight->in, in, weight->in, weight->packed, out, weight->out, accumulate);
}

static void norm(const struct span *span, int64_t weight, const float *x, void *y, float *rms)
{
    const struct model *model = span->transformer->model;
    span->ops->rmsnorm(span->pool, model->dtype, span->count, model->config.hidden_size,
                       model->config.rms_eps, x, model_values_at(model, weight), y, rms);
}

/* The residual of the next sub-layer, when it has a buffer of its own. */
static void carry_residual(const struct span *span, float *to, const float *from)
{
    if (to != from)
        parallel_copy(span->pool, to, from,
                      (size_t)(span->count * span->transformer->hidden) * sizeof(float));
}

static void attention_forward(const struct span *span, int32_t layer_index)
{
    struct transformer *t = span->transformer;
    const struct model_config *config = &t->model->config;
    const struct layer_weights *weights = &t->model->layers[layer_index];
    const struct layer_activations *a = &t->layers[layer_index];
    const struct attention_kv kv = kv_cache_layer(t->cache, layer_index);
    int64_t first = span->first;
    float *input = float_row(a->input, first, t->hidden);
    float *middle = float_row(a->middle, first, t->hidden);
    float *qkv = float_row(a->qkv, first, t->qkv);
    void *normed = act_row(t, a->input_norm, first, t->hidden);
    void *attended = act_row(t, a->attention, first, t->query);
    norm(span, weights->input_norm, input, normed, float_row(a->input_rms, first, 1));
    linear(span, &weights->qkv, normed, qkv, false);
    /* Queries and keys lie side by side: one rotation for both. */
    span->ops->rope(span->pool, span->count, config->heads + config->kv_heads, config->head_dim,
                    t->positions + first, t->model->rope, qkv, t->qkv, false);
    span->ops->kv_store(span->pool, &kv, span->count, qkv + t->query, t->qkv,
                        qkv + t->query + t->kv, t->qkv, t->block_ids + first, t->offsets + first);
    span->ops->attention(span->pool, &kv, span->count, config->heads, qkv, t->qkv, t->table + first,
                         attended, float_row(a->attention_lse, first, config->heads));
    carry_residual(span, middle, input);
    linear(span, &weights->output, attended, middle, true);
}

/* Up to the gated values that the down projection takes. */
static void gate_forward(const struct span *span, int32_t layer_index)
{
    struct transformer *t = span->transformer;
    const struct layer_weights *weights = &t->model->layers[layer_index];
    const struct layer_activations *a = &t->layers[layer_index];
    int64_t first = span->first;
    float *middle = float_row(a->middle, first, t->hidden);
    float *gate_up = float_row(a->gate_up, first, 2 * t->intermediate);
    void *normed = act_row(t, a->middle_norm, first, t->hidden);
    void *gated = act_row(t, a->swiglu, first, t->intermediate);
    norm(span, weights->post_norm, middle, normed, float_row(a->middle_rms, first, 1));
    linear(span, &weights->gate_up, normed, gate_up, false);
    span->ops->swiglu(span->pool, t->model->dtype, span->count, t->intermediate, gate_up, gated);
}

static void mlp_forward(const struct span *span, int32_t layer_index)
{
    struct transformer *t = span->transformer;
    const struct layer_activations *a = &t->layers[layer_index];
    float *output = float_row(a->output, span->first, t->hidden);
    gate_forward(span, layer_index);
    carry_residual(span, output, float_row(a->middle, span->first, t->hidden));
    linear(span, &t->model->layers[layer_index].down,
           act_row(t, a->swiglu, span->first, t->intermediate), output, true);
}

/* The embedding, layers 0 .. last, and the final norm. */
static void forward_layers(const struct span *span, int32_t last)
{
    struct transformer *t = span->transformer;
    const struct model *model = t->model;
    span->ops->embed(span->pool, model->dtype, span->count, t->hidden,
                     model_values_at(model, model->embedding), t->tokens + span->first,
                     float_row(t->layers[0].input, span->first, t->hidden));
    if (t->noise != NULL)
        span->ops->add(span->pool, span->count * t->hidden,
                       float_row(t->layers[0].input, span->first, t->hidden),
                       t->noise + span->first * t->hidden);
    for (int32_t i = 0; i <= last; i++) {
        attention_forward(span, i);
        mlp_forward(span, i);
    }
    norm(span, model->final_norm, float_row(t->layers[last].output, span->first, t->hidden),
         act_row(t, t->final_norm, span->first, t->hidden),
         float_row(t->final_rms, span->first, 1));
}

/* ---- sharing a pass among threads ---- */

/* Either every operation is split over the threads, or, when the weights fit in a core's reach,
 * each thread takes whole sequences through all layers and they meet once. Rows do not depend on
 * each other but through their sequence, so the bits are the same. */
struct shares {
    struct transformer *transformer;
    const struct backend_ops *ops;
    void (*compute)(const struct span *span, int32_t layer);
    int32_t layer;
    int32_t count;
    int64_t first_rows[THREADS_MAX + 1];
};

static void forward_share(void *context, int64_t begin, int64_t end, int thread)
{
    const struct shares *shares = context;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        shares->compute(&(struct span){.transformer = shares->transformer,
                                       .ops = shares->ops,
                                       .first = shares->first_rows[i],
                                       .count = shares->first_rows[i + 1] - shares->first_rows[i]},
                        shares->layer);
}

/* Multiply-adds of one row: every weight once, and its keys and values. */
static int64_t row_cost(const struct transformer *t, int64_t row)
{
    return t->model->parameter_count +
           2 * t->query * t->model->config.layers * t->table[row].key_count;
}

/* Cuts the runs into at most `threads` consecutive shares of about equal cost. False when one long
 * sequence would keep the others waiting. */
static bool cut_shares(struct shares *shares, int threads)
{
    const struct transformer *t = shares->transformer;
    int64_t total = 0, done = 0, began = 0, largest = 0;
    for (int64_t r = 0; r < t->row_count; r++)
        total += row_cost(t, r);
    for (int32_t run = 0; run < t->run_count; run++) {
        if (shares->count < threads && done * threads >= total * shares->count) {
            shares->first_rows[shares->count++] = t->runs[run];
            began = done;
        }
        for (int64_t r = t->runs[run]; r < t->runs[run + 1]; r++)
            done += row_cost(t, r);
        largest = larger(largest, done - began);
    }
    shares->first_rows[shares->count] = t->row_count;
    return 2 * largest * threads <= 3 * total;
}

/* The pool for this much work: none when waking threads costs more. */
static struct parallel *pool_for(const struct transformer *t, int64_t multiply_adds)
{
    return multiply_adds < INLINE_MULTIPLY_ADDS ? NULL : t->model->compute->pool;
}

/* True when whole sequences can be given to each of the pool's threads. */
static bool share_pass(struct shares *shares, const struct parallel *pool)
{
    const struct transformer *t = shares->transformer;
    int threads = pool ? parallel_threads(pool) : 1;
    return threads > 1 && threads <= THREADS_MAX && t->whole_runs && t->run_count >= threads &&
           t->model->values_bytes <= SHARED_BYTES_MAX && cut_shares(shares, threads);
}

/* All rows of the pass through `compute`, shared in one of the two ways. */
static void compute_pass(struct transformer *transformer,
                         void (*compute)(const struct span *span, int32_t layer), int32_t layer)
{
    struct shares shares = {.transformer = transformer,
                            .ops = transformer->model->compute->ops,
                            .compute = compute,
                            .layer = layer};
    int64_t count = transformer->row_count;
    struct parallel *pool = pool_for(transformer, count * transformer->model->parameter_count);
    if (share_pass(&shares, pool))
        parallel_for(pool, shares.count, 1, forward_share, &shares);
    else
        compute(
            &(struct span){
                .transformer = transformer, .ops = shares.ops, .pool = pool, .count = count},
            layer);
}

void transformer_forward(struct transformer *transformer, const struct forward_rows *rows)
{
    HONE_ASSERT(rows->count >= 0 && rows->count <= transformer->max_rows);
    place_rows(transformer, rows);
    if (rows->count == 0)
        return;
    int32_t last = transformer->model->config.layers - 1;
    compute_pass(transformer, forward_layers, last);
    transformer->computed_layer = last;
    advance_sequences(rows);
}

/* What the backward reads of a layer; its keys and values are still in the cache and get the bits
 * they have. */
static void restore_span(const struct span *span, int32_t layer)
{
    attention_forward(span, layer);
    gate_forward(span, layer);
}

void transformer_restore_layer(struct transformer *transformer, int32_t layer)
{
    HONE_ASSERT(transformer->keep != ACTIVATIONS_NONE);
    if (transformer->keep == ACTIVATIONS_ALL || transformer->computed_layer == layer)
        return;
    compute_pass(transformer, restore_span, layer);
    transformer->computed_layer = layer;
}

/* ---- the head ---- */

/* Hidden states of the rows side by side: in place when they already are. */
static const void *gather_rows(struct transformer *t, int32_t count, const int32_t *rows)
{
    bool consecutive = true;
    for (int32_t i = 0; i < count; i++) {
        HONE_ASSERT(rows[i] >= 0 && rows[i] < t->row_count);
        consecutive = consecutive && rows[i] == rows[0] + i;
    }
    if (consecutive)
        return act_row(t, t->final_norm, rows[0], t->hidden);
    for (int32_t i = 0; i < count; i++)
        memcpy(act_row(t, t->head_input, i, t->hidden),
               act_row(t, t->final_norm, rows[i], t->hidden),
               (size_t)t->hidden * dtype_bytes(t->model->dtype));
    return t->head_input;
}

static const void *head_logits(struct transformer *t, int32_t count, const int32_t *rows,
                               float *logits)
{
    const struct model *model = t->model;
    const void *input = gather_rows(t, count, rows);
    model->compute->ops->gemm(pool_for(t, count * t->vocab * t->hidden), model->dtype, count,
                              t->vocab, t->hidden, input, t->hidden, model->head.packed, logits,
                              t->vocab, false);
    return input;
}

void transformer_head_chunk(struct transformer *transformer, int32_t count, const int32_t *rows,
                            const void **input)
{
    HONE_ASSERT(count > 0 && count <= transformer->head_rows);
    *input = head_logits(transformer, count, rows, transformer->logits);
}

int32_t transformer_head_rows(const struct transformer *transformer)
{
    return transformer->head_rows;
}

const float *transformer_head(struct transformer *transformer, int32_t count, const int32_t *rows)
{
    const void *input;
    transformer_head_chunk(transformer, count, rows, &input);
    return transformer->logits;
}

static int32_t chunk_at(const struct transformer *t, int32_t count, int32_t done)
{
    return count - done < t->head_rows ? count - done : t->head_rows;
}

void transformer_logits(struct transformer *transformer, int32_t count, const int32_t *rows,
                        float *logits)
{
    for (int32_t done = 0; done < count; done += transformer->head_rows)
        head_logits(transformer, chunk_at(transformer, count, done), rows + done,
                    logits + done * transformer->vocab);
}

void transformer_values(const struct transformer *transformer, int32_t count, const int32_t *rows,
                        const float *weights, float *values)
{
    const struct transformer *t = transformer;
    for (int32_t i = 0; i < count; i++) {
        double sum = 0.0;
        HONE_ASSERT(rows[i] >= 0 && rows[i] < t->row_count);
        for (int64_t k = 0; k < t->hidden; k++)
            sum += (double)weights[k] * (double)transformer_final_state(t, rows[i], k);
        values[i] = (float)(sum + (double)weights[t->hidden]);
    }
}

void transformer_target_chunk(struct transformer *transformer, const struct head_targets *targets,
                              int32_t done, int32_t count, const void **input)
{
    const struct compute *compute = transformer->model->compute;
    HONE_ASSERT(targets->temperature > 0.0f);
    transformer_head_chunk(transformer, count, targets->rows + done, input);
    if (targets->support)
        compute->ops->cut_logits(compute->pool, count, transformer->vocab, transformer->logits,
                                 transformer->vocab, targets->support + done);
}

void transformer_logprob(struct transformer *transformer, const struct head_targets *targets,
                         float *logprob, float *entropy)
{
    struct transformer *t = transformer;
    const struct compute *compute = t->model->compute;
    for (int32_t done = 0; done < targets->count; done += t->head_rows) {
        int32_t chunk = chunk_at(t, targets->count, done);
        const void *input;
        transformer_target_chunk(t, targets, done, chunk, &input);
        compute->ops->token_logprob(compute->pool, chunk, t->vocab, t->logits, t->vocab,
                                    targets->temperature, targets->targets + done, logprob + done,
                                    entropy ? entropy + done : NULL, NULL);
    }
}

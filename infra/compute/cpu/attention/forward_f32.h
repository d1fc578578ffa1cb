/* Attention in fp32 mode: blocks of 32 keys ascending, online softmax. A row's bits depend on its
 * query, its keys and key_count alone (N2).
 *
 * Per block: 32 scores, each one FMA chain over ascending d, then scaled; keys at or past key_count
 * become -inf (whatever the memory holds); m' = max(m, scores); p = e^(score - m');
 * c = e^(m - m'); l = l c + sum(p), the sum being p[0..15] + p[16..31] and then the tree of N5;
 * o = o c, then one FMA chain per d over the block's valid keys, ascending.
 *
 * A query without company (decode without grouped heads) keeps its state in registers. Every chain
 * is the same in both, so the bits do not tell. */
#ifndef HONE_COMPUTE_CPU_ATTENTION_FORWARD_F32_H
#define HONE_COMPUTE_CPU_ATTENTION_FORWARD_F32_H

#include <math.h>

#include "infra/compute/cpu/attention/query_tile.h"
#include "infra/compute/vec/vec.h"
#include "infra/compute/vec/vec_chain.h"
#include "infra/compute/vec/vec_math.h"

/* Head dimensions rounded up to whole vectors: the row stride of everything in a tile. */
static inline int64_t whole_vectors(int64_t head_dim)
{
    return (head_dim + VEC_LANES - 1) / VEC_LANES * VEC_LANES;
}

/* ---- one query by itself ---- */

/* The scores or probabilities of one block: keys 0-15 and 16-31. */
struct key_lanes {
    struct vec low, high;
};

/* Scaled scores of the block's 32 keys against q, -inf at and past `valid`. Fetches the next block
 * into the cache on the way. */
static inline struct key_lanes block_scores(const void *keys, int64_t head_dim, const float *q,
                                            struct vec scale, int64_t valid,
                                            const struct block_place *next)
{
    struct key_lanes s = {vec_zero(), vec_zero()};
    int64_t row_bytes = ATTENTION_BLOCK_TOKENS * 4;
    for (int64_t d = 0; d < head_dim; d++) {
        struct vec query = vec_set1(q[d]);
        int64_t at = d * ATTENTION_BLOCK_TOKENS;
        s.low = vec_fma(query, act_load(DTYPE_F32, keys, at, VEC_LANES), s.low);
        s.high = vec_fma(query, act_load(DTYPE_F32, keys, at + VEC_LANES, VEC_LANES), s.high);
        prefetch_bytes(next->keys + d * row_bytes, row_bytes);
        prefetch_bytes(next->values + d * row_bytes, row_bytes);
    }
    s.low = vec_mul(s.low, scale);
    s.high = vec_mul(s.high, scale);
    if (valid < ATTENTION_BLOCK_TOKENS) {
        struct vec excluded = vec_set1(-INFINITY);
        s.low = vec_keep(s.low, valid, excluded);
        s.high = vec_keep(s.high, valid > VEC_LANES ? valid - VEC_LANES : 0, excluded);
    }
    return s;
}

/* `columns` vectors of o from element d on: o * correction, then += p[j] * values[j] over the valid
 * keys. Each element is one chain; columns decide how many run side by side. */
static inline __attribute__((always_inline)) void
value_columns(const int columns, const void *values, int64_t head_dim, const float *p,
              int64_t valid, float correction, float *o)
{
    struct vec sum[4], factor = vec_set1(correction);
    CHAIN_UNROLL for (int i = 0; i < columns; i++)
    {
        sum[i] = vec_mul(vec_load(o + i * VEC_LANES), factor);
    }
    for (int64_t j = 0; j < valid; j++) {
        struct vec weight = vec_set1(p[j]);
        CHAIN_UNROLL for (int i = 0; i < columns; i++)
        {
            sum[i] = vec_fma(weight,
                             act_load(DTYPE_F32, values, j * head_dim + i * VEC_LANES, VEC_LANES),
                             sum[i]);
        }
    }
    CHAIN_UNROLL for (int i = 0; i < columns; i++)
    {
        vec_store(o + i * VEC_LANES, sum[i]);
    }
}

/* o[d] = o[d] * correction, then += p[j] * values[j][d] over the valid keys. */
static inline void block_values(const void *values, int64_t head_dim, const float *p, int64_t valid,
                                float correction, float *o)
{
    const char *base = values;
    int64_t d = 0, value_bytes = 4;
    for (; d + 4 * VEC_LANES <= head_dim; d += 4 * VEC_LANES)
        value_columns(4, base + d * value_bytes, head_dim, p, valid, correction, o + d);
    for (; d + 2 * VEC_LANES <= head_dim; d += 2 * VEC_LANES)
        value_columns(2, base + d * value_bytes, head_dim, p, valid, correction, o + d);
    for (; d < head_dim; d += VEC_LANES) {
        int64_t left = head_dim - d;
        struct vec sum = vec_mul(vec_load_up_to(o + d, left), vec_set1(correction));
        for (int64_t j = 0; j < valid; j++)
            sum = vec_fma(vec_set1(p[j]), act_load(DTYPE_F32, values, j * head_dim + d, left), sum);
        vec_store_up_to(o + d, sum, left);
    }
}

static inline void attention_row_head(const struct attention_job *job, int64_t row, int32_t head)
{
    const struct attention_kv *kv = job->kv;
    const struct attention_row *table = &job->table[row];
    int64_t head_dim = kv->head_dim;
    int32_t kv_head = head / (job->heads / kv->kv_heads);
    float o[HEAD_DIM_MAX], p[ATTENTION_BLOCK_TOKENS];
    const float *q = job->q + row * job->ldq + head * head_dim;
    memset(o, 0, (size_t)head_dim * sizeof *o);
    struct vec scale = vec_set1(1.0f / sqrtf((float)head_dim));
    float max = -INFINITY, sum = 0.0f;
    struct block_place place, next = block_place(kv, table->blocks[0], kv_head);
    for (int32_t first = 0; first < table->key_count; first += ATTENTION_BLOCK_TOKENS) {
        int64_t left = table->key_count - first;
        int64_t valid = left < ATTENTION_BLOCK_TOKENS ? left : ATTENTION_BLOCK_TOKENS;
        place = next;
        if (left > ATTENTION_BLOCK_TOKENS)
            next = block_place(kv, table->blocks[first / ATTENTION_BLOCK_TOKENS + 1], kv_head);
        struct key_lanes s = block_scores(place.keys, head_dim, q, scale, valid, &next);
        float block_max = vec_max_lanes(vec_max(s.low, s.high));
        float new_max = max > block_max ? max : block_max;
        struct vec shift = vec_set1(new_max);
        struct vec low = vec_exp(vec_sub(s.low, shift)), high = vec_exp(vec_sub(s.high, shift));
        float correction = max == new_max ? 1.0f : exp_one(max - new_max); /* e^0 is 1 exactly */
        sum = fmaf(sum, correction, vec_sum(vec_add(low, high)));
        max = new_max;
        vec_store(p, low);
        vec_store(p + VEC_LANES, high);
        block_values(place.values, head_dim, p, valid, correction, o);
    }
    struct vec divisor = vec_set1(sum);
    for (int64_t d = 0; d < head_dim; d += VEC_LANES)
        act_store(DTYPE_F32, job->out, (row * job->heads + head) * head_dim + d,
                  vec_div(vec_load_up_to(o + d, head_dim - d), divisor), head_dim - d);
    if (job->lse != NULL)
        job->lse[row * job->heads + head] = max + log_one(sum);
}

/* ---- a tile of queries ---- */

/* A tile's rows of q (stride ldq) as [count][whole_vectors]. */
static inline void load_queries(const struct query_tile *tile, const float *q, int64_t ldq,
                                int64_t head_dim, float *out)
{
    int64_t width = whole_vectors(head_dim);
    for (int64_t i = 0; i < tile_count(tile); i++) {
        const float *from =
            q + (tile->row + i / tile->group) * ldq + (tile->head + i % tile->group) * head_dim;
        for (int64_t d = 0; d < head_dim; d += VEC_LANES)
            vec_store(out + i * width + d, vec_load_up_to(from + d, head_dim - d));
    }
}

/* One block as the chains read it: keys [head_dim][32], values [32][value_stride]. */
struct attention_block {
    const void *keys, *values;
    int64_t value_stride;
};

/* Room for a block's values. */
struct block_stage {
    float values[HEAD_DIM_MAX * ATTENTION_BLOCK_TOKENS];
};

/* The block in place, its values copied where their rows are not whole vectors. A row read as whole
 * vectors then takes elements of the next one along, which end up past head_dim in a result and are
 * dropped. What lies past the sequence's end is copied too and never used. */
static inline struct attention_block view_block(const struct block_place *place, int64_t head_dim,
                                                struct block_stage *stage)
{
    struct attention_block view = {place->keys, place->values, head_dim};
    if (whole_vectors(head_dim) == head_dim)
        return view;
    size_t values = (size_t)(head_dim * ATTENTION_BLOCK_TOKENS);
    memcpy(stage->values, place->values, values * sizeof(float));
    vec_store(stage->values + values, vec_zero()); /* the last row is read as whole vectors too */
    view.values = stage->values;
    return view;
}

/* scores[i][32] = q[i] . keys for queries [from, to), not scaled. */
static inline void tile_scores(const struct attention_block *block, const float *q,
                               int64_t head_dim, int64_t from, int64_t to, float *scores)
{
    int64_t width = whole_vectors(head_dim);
    struct chains chains = {.a = q + from * width,
                            .a_row = width,
                            .a_step = 1,
                            .b = block->keys,
                            .ldb = ATTENTION_BLOCK_TOKENS,
                            .end = head_dim,
                            .out = scores + from * ATTENTION_BLOCK_TOKENS,
                            .ldo = ATTENTION_BLOCK_TOKENS};
    chains_run(&chains, CHAIN_FROM_ZERO, to - from, ATTENTION_BLOCK_TOKENS);
}

/* Scales a query's scores; -inf at and past `valid`. */
static inline void scale_scores(float *scores, struct vec scale, int64_t valid)
{
    struct vec low = vec_mul(vec_load(scores), scale);
    struct vec high = vec_mul(vec_load(scores + VEC_LANES), scale);
    if (valid < ATTENTION_BLOCK_TOKENS) {
        struct vec excluded = vec_set1(-INFINITY);
        low = vec_keep(low, valid, excluded);
        high = vec_keep(high, valid > VEC_LANES ? valid - VEC_LANES : 0, excluded);
    }
    vec_store(scores, low);
    vec_store(scores + VEC_LANES, high);
}

/* What a tile carries from block to block. */
struct attention_state {
    const struct query_tile *tile;
    float max[TILE_QUERIES], new_max[TILE_QUERIES], sum[TILE_QUERIES], correction[TILE_QUERIES];
    float scores[TILE_QUERIES * ATTENTION_BLOCK_TOKENS];
    float q[TILE_QUERIES * HEAD_DIM_MAX], out[TILE_QUERIES * HEAD_DIM_MAX];
    struct block_stage stage;
};

/* Scores of queries [from, count) become probabilities; max, sum and correction move on. */
static inline void tile_softmax(struct attention_state *state, int64_t from, int32_t first_key,
                                struct vec scale)
{
    int64_t count = tile_count(state->tile);
    for (int64_t i = from; i < count; i++) {
        float *scores = state->scores + i * ATTENTION_BLOCK_TOKENS;
        scale_scores(scores, scale, keys_seen(state->tile, i, first_key));
        float most = vec_max_lanes(vec_max(vec_load(scores), vec_load(scores + VEC_LANES)));
        state->new_max[i] = state->max[i] > most ? state->max[i] : most;
    }
    for (int64_t i = from / VEC_LANES * VEC_LANES; i < count; i += VEC_LANES) {
        struct vec change = vec_sub(vec_load(state->max + i), vec_load(state->new_max + i));
        vec_store(state->correction + i, vec_exp(change));
    }
    for (int64_t i = from; i < count; i++) {
        float *scores = state->scores + i * ATTENTION_BLOCK_TOKENS;
        struct vec shift = vec_set1(state->new_max[i]);
        struct vec low = vec_exp(vec_sub(vec_load(scores), shift));
        struct vec high = vec_exp(vec_sub(vec_load(scores + VEC_LANES), shift));
        vec_store(scores, low);
        vec_store(scores + VEC_LANES, high);
        state->sum[i] = fmaf(state->sum[i], state->correction[i], vec_sum(vec_add(low, high)));
        state->max[i] = state->new_max[i];
    }
}

/* out = out * correction, then += probabilities x values over the keys each query sees. A few
 * queries go together over the keys that all of them see, then each over the rest of its own. */
static inline void tile_values(struct attention_state *state, const struct attention_block *block,
                               int64_t from, int32_t first_key, int64_t width)
{
    int64_t count = tile_count(state->tile);
    struct chains chains = {.a_row = ATTENTION_BLOCK_TOKENS,
                            .a_step = 1,
                            .b = block->values,
                            .ldb = block->value_stride,
                            .ldo = width};
    for (int64_t i = from; i < count;) {
        int64_t common = keys_seen(state->tile, i, first_key);
        int64_t rows =
            common == ATTENTION_BLOCK_TOKENS || count - i < CHAIN_ROWS ? count - i : CHAIN_ROWS;
        chains.a = state->scores + i * ATTENTION_BLOCK_TOKENS;
        chains.out = state->out + i * width;
        chains.factor = state->correction + i;
        chains.begin = 0;
        chains.end = common;
        chains_run(&chains, CHAIN_FROM_SCALED, rows, width);
        for (int64_t end = i + rows; i < end; i++) {
            chains.a = state->scores + i * ATTENTION_BLOCK_TOKENS;
            chains.out = state->out + i * width;
            chains.begin = common;
            chains.end = keys_seen(state->tile, i, first_key);
            if (chains.end > common)
                chains_run(&chains, CHAIN_FROM_OUT, 1, width);
        }
    }
}

static inline void tile_finish(const struct attention_job *job, const struct attention_state *state)
{
    int64_t head_dim = job->kv->head_dim, width = whole_vectors(head_dim);
    for (int64_t i = 0; i < tile_count(state->tile); i++) {
        int64_t index = query_index(state->tile, job->heads, i);
        struct vec divisor = vec_set1(state->sum[i]);
        for (int64_t d = 0; d < head_dim; d += VEC_LANES)
            act_store(DTYPE_F32, job->out, index * head_dim + d,
                      vec_div(vec_load(state->out + i * width + d), divisor), head_dim - d);
        if (job->lse != NULL)
            job->lse[index] = state->max[i] + log_one(state->sum[i]);
    }
}

static inline void attention_tile_f32(const struct attention_job *job,
                                      const struct query_tile *tile, int32_t kv_head)
{
    const struct attention_kv *kv = job->kv;
    struct attention_state rest, *state = &rest;
    const struct attention_row *last = &job->table[tile->row + tile->rows - 1];
    int64_t head_dim = kv->head_dim, width = whole_vectors(head_dim), count = tile_count(tile);
    struct vec scale = vec_set1(1.0f / sqrtf((float)head_dim));
    if (count == 1) {
        attention_row_head(job, tile->row, tile->head);
        return;
    }
    state->tile = tile;
    load_queries(tile, job->q, job->ldq, head_dim, state->q);
    memset(state->out, 0, (size_t)(count * width) * sizeof(float));
    for (int64_t i = 0; i < TILE_QUERIES; i++) {
        state->max[i] = -INFINITY;
        state->new_max[i] = state->sum[i] = 0.0f;
    }
    for (int32_t key = 0; key < last->key_count; key += ATTENTION_BLOCK_TOKENS) {
        int64_t from = first_query(tile, key);
        const int32_t *blocks = last->blocks + key / ATTENTION_BLOCK_TOKENS;
        struct block_place place = block_place(kv, blocks[0], kv_head);
        if (key + ATTENTION_BLOCK_TOKENS < last->key_count) {
            struct block_place next = block_place(kv, blocks[1], kv_head);
            prefetch_bytes(next.keys, head_block_bytes(kv));
            prefetch_bytes(next.values, head_block_bytes(kv));
        }
        struct attention_block block = view_block(&place, head_dim, &state->stage);
        tile_scores(&block, state->q, head_dim, from, count, state->scores);
        tile_softmax(state, from, key, scale);
        tile_values(state, &block, from, key, width);
    }
    tile_finish(job, state);
}

#endif

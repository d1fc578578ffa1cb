/* The attention backward pass for the rows of one sequence, in fp32 mode.
 *
 * With p = e^(score - lse), D = sum over d of d_out * out, dp[j] = d_out . v[j]:
 *   ds[j] = p[j] (dp[j] - D) / sqrt(head_dim);   dq += ds[j] k[j];   dk[j] += ds[j] q;
 *   dv[j] += p[j] d_out.
 * Threads own KV heads. dk and dv add up over queries in order, and over the heads of a group in
 * order for each query; dq over keys in order. A head walks spans of a few blocks ascending, in a
 * span tiles of queries ascending, for a tile the span's blocks ascending: a query is loaded once
 * per span, and no chain changes its order. */
#ifndef HONE_COMPUTE_CPU_ATTENTION_BACKWARD_F32_H
#define HONE_COMPUTE_CPU_ATTENTION_BACKWARD_F32_H

#include "infra/compute/cpu/attention/backward_job.h"
#include "infra/compute/cpu/attention/forward_f32.h"

#define SPAN_BLOCKS  4
#define SPAN_TOKENS  (SPAN_BLOCKS * ATTENTION_BLOCK_TOKENS)
#define BLOCK_VALUES (ATTENTION_BLOCK_TOKENS * HEAD_DIM_BACKWARD_MAX)

/* One block of one KV head in fp32, rows of whole vectors, and its part of the gradient. */
struct span_block {
    float keys[BLOCK_VALUES];                 /* [head_dim][32], as stored */
    float keys_by_token[BLOCK_VALUES];        /* [32][width] */
    float values[BLOCK_VALUES];               /* [head_dim][32] */
    float dk[BLOCK_VALUES], dv[BLOCK_VALUES]; /* [32][width] */
};

struct backward_state {
    int32_t kv_head, first_key, key_count; /* the span's keys are first_key .. first_key + count */
    struct query_tile tile;
    float lse[TILE_QUERIES], mean[TILE_QUERIES]; /* mean: D */
    float p[TILE_QUERIES * ATTENTION_BLOCK_TOKENS], ds[TILE_QUERIES * ATTENTION_BLOCK_TOKENS];
    float q[TILE_QUERIES * HEAD_DIM_BACKWARD_MAX], d_out[TILE_QUERIES * HEAD_DIM_BACKWARD_MAX];
    float dq[TILE_QUERIES * HEAD_DIM_BACKWARD_MAX];
    struct span_block blocks[SPAN_BLOCKS];
};

/* `valid` rows of fp32 [head_dim] between [..][ld] and the whole vectors of a block. */
static inline void copy_rows(const float *from, int64_t ld_from, int64_t valid, int64_t head_dim,
                             float *to, int64_t ld_to)
{
    for (int64_t j = 0; j < valid; j++)
        for (int64_t d = 0; d < head_dim; d += VEC_LANES)
            vec_store_up_to(to + j * ld_to + d,
                            vec_load_up_to(from + j * ld_from + d, head_dim - d), head_dim - d);
}

/* Tokens at and past `valid` are left out: their memory may hold anything. */
static inline void load_block(const struct attention_backward_job *job, int32_t block_id,
                              int32_t kv_head, int64_t valid, struct span_block *block)
{
    const struct attention_kv *kv = job->kv;
    int64_t head_dim = kv->head_dim, width = whole_vectors(head_dim);
    struct block_place place = block_place(kv, block_id, kv_head);
    const float *keys = (const float *)place.keys, *values = (const float *)place.values;
    size_t bytes = (size_t)(ATTENTION_BLOCK_TOKENS * width) * sizeof(float);
    memset(block->values, 0, bytes);
    memset(block->keys_by_token, 0, bytes);
    for (int64_t i = 0; i < head_dim * ATTENTION_BLOCK_TOKENS; i += VEC_LANES)
        vec_store(block->keys + i, vec_load(keys + i));
    for (int64_t j = 0; j < valid; j++)
        for (int64_t d = 0; d < head_dim; d++) {
            block->keys_by_token[j * width + d] = block->keys[d * ATTENTION_BLOCK_TOKENS + j];
            block->values[d * ATTENTION_BLOCK_TOKENS + j] = values[j * head_dim + d];
        }
}

/* Where query i's dq lies. */
static inline float *query_gradient(const struct attention_backward_job *job,
                                    const struct query_tile *tile, int64_t i)
{
    return job->dq + (tile->row + i / tile->group) * job->lddq +
           (tile->head + i % tile->group) * job->kv->head_dim;
}

/* The tile's queries, gradients of their outputs, and dq as far as it has come. */
static inline void load_tile(const struct attention_backward_job *job, struct backward_state *state)
{
    const struct query_tile *tile = &state->tile;
    int64_t head_dim = job->kv->head_dim, width = whole_vectors(head_dim);
    load_queries(tile, job->q, job->ldq, head_dim, state->q);
    for (int64_t i = 0; i < tile_count(tile); i++) {
        int64_t index = query_index(tile, job->heads, i);
        const float *d_out = job->d_out + index * head_dim;
        for (int64_t d = 0; d < head_dim; d += VEC_LANES) {
            int64_t at = i * width + d, left = head_dim - d;
            vec_store(state->d_out + at, vec_load_up_to(d_out + d, left));
            vec_store(state->dq + at, state->first_key == 0
                                          ? vec_zero()
                                          : vec_load_up_to(query_gradient(job, tile, i) + d, left));
        }
        state->lse[i] = job->lse[index];
        state->mean[i] = head_dot(DTYPE_F32, d_out, job->out, index * head_dim, head_dim);
    }
}

static inline void store_tile(const struct attention_backward_job *job,
                              const struct backward_state *state)
{
    int64_t head_dim = job->kv->head_dim, width = whole_vectors(head_dim);
    for (int64_t i = 0; i < tile_count(&state->tile); i++)
        copy_rows(state->dq + i * width, width, 1, head_dim, query_gradient(job, &state->tile, i),
                  head_dim);
}

/* p and ds of queries [from, count) against one block. */
static inline void block_probabilities(const struct attention_backward_job *job,
                                       struct backward_state *state, const struct span_block *block,
                                       int64_t from, int32_t first_key)
{
    int64_t head_dim = job->kv->head_dim, width = whole_vectors(head_dim);
    int64_t count = tile_count(&state->tile);
    struct vec scale = vec_set1(1.0f / sqrtf((float)head_dim));
    struct chains chains = {.a = state->q + from * width,
                            .a_row = width,
                            .a_step = 1,
                            .b = block->keys,
                            .ldb = ATTENTION_BLOCK_TOKENS,
                            .end = head_dim,
                            .out = state->p + from * ATTENTION_BLOCK_TOKENS,
                            .ldo = ATTENTION_BLOCK_TOKENS};
    chains_run(&chains, CHAIN_FROM_ZERO, count - from, ATTENTION_BLOCK_TOKENS);
    chains.a = state->d_out + from * width;
    chains.b = block->values;
    chains.out = state->ds + from * ATTENTION_BLOCK_TOKENS;
    chains_run(&chains, CHAIN_FROM_ZERO, count - from, ATTENTION_BLOCK_TOKENS);
    for (int64_t i = from; i < count; i++) {
        float *p = state->p + i * ATTENTION_BLOCK_TOKENS;
        float *ds = state->ds + i * ATTENTION_BLOCK_TOKENS;
        struct vec lse = vec_set1(state->lse[i]), mean = vec_set1(state->mean[i]);
        scale_scores(p, scale, keys_seen(&state->tile, i, first_key));
        for (int64_t half = 0; half < ATTENTION_BLOCK_TOKENS; half += VEC_LANES) {
            struct vec weight = vec_exp(vec_sub(vec_load(p + half), lse));
            struct vec slope = vec_mul(weight, vec_sub(vec_load(ds + half), mean));
            vec_store(p + half, weight);
            vec_store(ds + half, vec_mul(slope, scale));
        }
    }
}

/* dq of queries [from, count) += ds x keys, over the keys each sees. */
static inline void add_query_gradients(const struct attention_backward_job *job,
                                       struct backward_state *state, const struct span_block *block,
                                       int64_t from, int32_t first_key)
{
    int64_t width = whole_vectors(job->kv->head_dim), count = tile_count(&state->tile);
    struct chains chains = {.a_row = ATTENTION_BLOCK_TOKENS,
                            .a_step = 1,
                            .b = block->keys_by_token,
                            .ldb = width,
                            .ldo = width};
    for (int64_t i = from; i < count;) {
        int64_t common = keys_seen(&state->tile, i, first_key);
        int64_t rows =
            common == ATTENTION_BLOCK_TOKENS || count - i < CHAIN_ROWS ? count - i : CHAIN_ROWS;
        chains.a = state->ds + i * ATTENTION_BLOCK_TOKENS;
        chains.out = state->dq + i * width;
        chains.begin = 0;
        chains.end = common;
        chains_run(&chains, CHAIN_FROM_OUT, rows, width);
        for (int64_t end = i + rows; i < end; i++) {
            chains.a = state->ds + i * ATTENTION_BLOCK_TOKENS;
            chains.out = state->dq + i * width;
            chains.begin = common;
            chains.end = keys_seen(&state->tile, i, first_key);
            if (chains.end > common)
                chains_run(&chains, CHAIN_FROM_OUT, 1, width);
        }
    }
}

/* by_key[j] += sum over the queries that see key j of weights[query][j] * x[query]. A few keys go
 * together over the queries that see all of them, after each went over those that see only it. */
static inline void add_key_gradients(const struct attention_backward_job *job,
                                     const struct backward_state *state, const float *weights,
                                     const float *x, int32_t first_key, float *by_key)
{
    int64_t width = whole_vectors(job->kv->head_dim), count = tile_count(&state->tile);
    struct chains chains = {
        .a_row = 1, .a_step = ATTENTION_BLOCK_TOKENS, .b = x, .ldb = width, .ldo = width};
    for (int64_t j = 0; j < ATTENTION_BLOCK_TOKENS; j += CHAIN_ROWS) {
        int64_t common = first_query(&state->tile, first_key + j + CHAIN_ROWS - 1);
        for (int64_t key = j; key < j + CHAIN_ROWS; key++) {
            chains.a = weights + key;
            chains.out = by_key + key * width;
            chains.begin = first_query(&state->tile, first_key + key);
            chains.end = common;
            if (chains.begin < common)
                chains_run(&chains, CHAIN_FROM_OUT, 1, width);
        }
        chains.a = weights + j;
        chains.out = by_key + j * width;
        chains.begin = common;
        chains.end = count;
        if (common < count)
            chains_run(&chains, CHAIN_FROM_OUT, CHAIN_ROWS, width);
    }
}

/* One tile of queries against the span's blocks. */
static inline void backward_tile(const struct attention_backward_job *job,
                                 struct backward_state *state)
{
    int64_t count = tile_count(&state->tile);
    load_tile(job, state);
    for (int32_t b = 0; b * ATTENTION_BLOCK_TOKENS < state->key_count; b++) {
        int32_t first_key = state->first_key + b * ATTENTION_BLOCK_TOKENS;
        struct span_block *block = &state->blocks[b];
        int64_t from = first_query(&state->tile, first_key);
        if (from == count)
            break;
        block_probabilities(job, state, block, from, first_key);
        add_query_gradients(job, state, block, from, first_key);
        add_key_gradients(job, state, state->ds, state->q, first_key, block->dk);
        add_key_gradients(job, state, state->p, state->d_out, first_key, block->dv);
    }
    store_tile(job, state);
}

/* dk and dv of the span's keys: into the blocks, or back. */
static inline void exchange_key_gradients(const struct attention_backward_job *job,
                                          struct backward_state *state, bool store)
{
    int64_t head_dim = job->kv->head_dim, width = whole_vectors(head_dim);
    for (int32_t first = 0; first < state->key_count; first += ATTENTION_BLOCK_TOKENS) {
        struct span_block *block = &state->blocks[first / ATTENTION_BLOCK_TOKENS];
        int64_t left = state->key_count - first;
        int64_t valid = left < ATTENTION_BLOCK_TOKENS ? left : ATTENTION_BLOCK_TOKENS;
        int64_t at = (state->first_key + first) * job->lddk + state->kv_head * head_dim;
        if (store) {
            copy_rows(block->dk, width, valid, head_dim, job->dk + at, job->lddk);
            copy_rows(block->dv, width, valid, head_dim, job->dv + at, job->lddk);
        } else {
            copy_rows(job->dk + at, job->lddk, valid, head_dim, block->dk, width);
            copy_rows(job->dv + at, job->lddk, valid, head_dim, block->dv, width);
        }
    }
}

/* All queries against the keys from state->first_key on. */
static inline void backward_span(const struct attention_backward_job *job,
                                 struct backward_state *state)
{
    const struct attention_row *last = &job->table[job->rows - 1];
    int32_t group = job->heads / job->kv->kv_heads, left = last->key_count - state->first_key;
    int64_t most = TILE_QUERIES / group;
    state->key_count = left < SPAN_TOKENS ? left : SPAN_TOKENS;
    for (int32_t key = 0; key < state->key_count; key += ATTENTION_BLOCK_TOKENS)
        load_block(job, last->blocks[(state->first_key + key) / ATTENTION_BLOCK_TOKENS],
                   state->kv_head,
                   state->key_count - key < ATTENTION_BLOCK_TOKENS ? state->key_count - key
                                                                   : ATTENTION_BLOCK_TOKENS,
                   &state->blocks[key / ATTENTION_BLOCK_TOKENS]);
    exchange_key_gradients(job, state, false);
    int64_t row = 0;
    while (job->table[row].key_count <= state->first_key)
        row++;
    for (; row < job->rows; row += most) {
        tile_set(&state->tile, job->table, row, most < job->rows - row ? most : job->rows - row,
                 state->kv_head * group, group);
        backward_tile(job, state);
    }
    exchange_key_gradients(job, state, true);
}

static inline void backward_head_f32(const struct attention_backward_job *job, int32_t kv_head)
{
    const struct attention_row *last = &job->table[job->rows - 1];
    struct backward_state state;
    state.kv_head = kv_head;
    for (int32_t key = 0; key < last->key_count; key += SPAN_TOKENS) {
        state.first_key = key;
        backward_span(job, &state);
    }
}

#endif

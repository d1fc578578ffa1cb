/* kv_store and the attention forward pass: blocks of 32 keys ascending, online softmax. A row's
 * bits depend on its query, its keys and key_count alone (N2).
 *
 * Per block: 32 scores, each one FMA chain over ascending d, then scaled; keys at or past key_count
 * become -inf (whatever the memory holds); m' = max(m, scores); p = e^(score - m');
 * c = e^(m - m'); l = l c + sum(p), the sum being p[0..15] + p[16..31] and then the tree of N5;
 * o = o c, then one FMA chain per d over the block's valid keys, ascending.
 *
 * Consecutive rows of one sequence, and the heads that share a KV head, walk the blocks together as
 * a tile of queries: a block is read (and widened) once for all of them. A query without company
 * (decode without grouped heads) keeps its state in registers. Every chain is the same in both, so
 * the bits do not tell. */
#ifndef HONE_COMPUTE_CPU_ATTENTION_H
#define HONE_COMPUTE_CPU_ATTENTION_H

#include <math.h>

#include "infra/base/assert.h"
#include "infra/compute/vec/vec.h"
#include "infra/compute/vec/vec_chain.h"
#include "infra/compute/vec/vec_math.h"
#include "infra/compute/ops.h"

#define HEAD_DIM_MAX         512
#define ATTENTION_GRAIN_KEYS 256 /* keys x heads that are worth waking a thread for */
#define TILE_QUERIES         32
#define STAGE_QUERIES        4 /* so many queries repay widening a block */

/* Head dimensions rounded up to whole vectors: the row stride of everything in a tile. */
static inline int64_t whole_vectors(int64_t head_dim)
{
    return (head_dim + VEC_LANES - 1) / VEC_LANES * VEC_LANES;
}

static inline const void *kv_block(const struct attention_kv *kv, const void *base, int32_t block,
                                   int32_t kv_head)
{
    size_t values = (size_t)kv->head_dim * ATTENTION_BLOCK_TOKENS;
    size_t at = ((size_t)block * (size_t)kv->kv_heads + (size_t)kv_head) * values;
    return (const char *)base + at * (kv->dtype == DTYPE_BF16 ? 2 : 4);
}

struct kv_store_job {
    const struct attention_kv *kv;
    const float *k, *v;
    int64_t ldk, ldv;
    const int32_t *block_ids, *offsets;
};

static inline void kv_store_head(const struct kv_store_job *job, int64_t row, int32_t head)
{
    const struct attention_kv *kv = job->kv;
    int64_t dim = kv->head_dim, offset = job->offsets[row];
    size_t block = ((size_t)job->block_ids[row] * (size_t)kv->kv_heads + (size_t)head) *
                   (size_t)dim * ATTENTION_BLOCK_TOKENS;
    const float *k = job->k + row * job->ldk + head * dim;
    const float *v = job->v + row * job->ldv + head * dim;
    for (int64_t d = 0; d < dim; d += VEC_LANES) {
        int64_t lanes = dim - d < VEC_LANES ? dim - d : VEC_LANES;
        bf16 rounded[VEC_LANES];
        vec_store_bf16(rounded, vec_load_up_to(k + d, dim - d));
        for (int64_t i = 0; i < lanes; i++) {
            size_t at = block + (size_t)((d + i) * ATTENTION_BLOCK_TOKENS + offset);
            if (kv->dtype == DTYPE_BF16)
                ((bf16 *)kv->keys)[at] = rounded[i];
            else
                ((float *)kv->keys)[at] = k[d + i];
        }
    }
    for (int64_t d = 0; d < dim; d += VEC_LANES)
        act_store(kv->dtype, kv->values, (int64_t)block + offset * dim + d,
                  vec_load_up_to(v + d, dim - d), dim - d);
}

/* A key of one row lies in as many cache lines as it has dimensions: asks for them. */
static inline void kv_store_prefetch(const struct kv_store_job *job, int64_t row, int32_t head)
{
    const struct attention_kv *kv = job->kv;
    int64_t bytes = kv->dtype == DTYPE_BF16 ? 2 : 4;
    const char *key =
        (const char *)kv_block(kv, kv->keys, job->block_ids[row], head) + job->offsets[row] * bytes;
    for (int64_t d = 0; d < kv->head_dim; d++)
        __builtin_prefetch(key + d * ATTENTION_BLOCK_TOKENS * bytes, 1);
}

static inline void kv_store_rows(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct kv_store_job *job = context;
    int32_t heads = job->kv->kv_heads;
    for (int64_t row = begin; row < end; row++)
        for (int32_t head = 0; head < heads; head++) {
            if (head + 1 < heads)
                kv_store_prefetch(job, row, head + 1);
            else if (row + 1 < end)
                kv_store_prefetch(job, row + 1, 0);
            kv_store_head(job, row, head);
        }
}

static inline void kv_store(struct parallel *pool, const struct attention_kv *kv, int64_t rows,
                            const float *k, int64_t ldk, const float *v, int64_t ldv,
                            const int32_t *block_ids, const int32_t *offsets)
{
    HONE_ASSERT(kv->dtype == DTYPE_BF16 || kv->dtype == DTYPE_F32);
    struct kv_store_job job = {kv, k, v, ldk, ldv, block_ids, offsets};
    int64_t grain = 4096 / ((int64_t)kv->kv_heads * kv->head_dim);
    parallel_for(pool, rows, grain > 1 ? grain : 1, kv_store_rows, &job);
}

struct attention_job {
    const struct attention_kv *kv;
    int64_t rows;
    int32_t heads;
    const float *q;
    int64_t ldq;
    const struct attention_row *table;
    void *out;
    float *lse;
    int64_t tile_rows, tiles; /* the last tile may be shorter */
};

/* ---- one query by itself ---- */

/* The scores or probabilities of one block: keys 0-15 and 16-31. */
struct key_lanes {
    struct vec low, high;
};

#define CACHE_LINE_BYTES 64

/* A block's keys and values; both have head_dim x 32 elements. */
struct block_place {
    const char *keys, *values;
};

static inline struct block_place block_place(const struct attention_kv *kv, int32_t block,
                                             int32_t kv_head)
{
    return (struct block_place){kv_block(kv, kv->keys, block, kv_head),
                                kv_block(kv, kv->values, block, kv_head)};
}

/* Asks for `bytes` (a multiple of a cache line) of both, `at` bytes in. */
static inline void block_prefetch(const struct block_place *place, int64_t at, int64_t bytes)
{
    for (int64_t i = at; i < at + bytes; i += CACHE_LINE_BYTES) {
        __builtin_prefetch(place->keys + i);
        __builtin_prefetch(place->values + i);
    }
}

/* Scaled scores of the block's 32 keys against q, -inf at and past `valid`. Fetches the next block
 * into the cache on the way. */
static inline struct key_lanes block_scores(enum dtype dtype, const void *keys, int64_t head_dim,
                                            const float *q, struct vec scale, int64_t valid,
                                            const struct block_place *next)
{
    struct key_lanes s = {vec_zero(), vec_zero()};
    int64_t row_bytes = ATTENTION_BLOCK_TOKENS * (dtype == DTYPE_BF16 ? 2 : 4);
    for (int64_t d = 0; d < head_dim; d++) {
        struct vec query = vec_set1(q[d]);
        int64_t at = d * ATTENTION_BLOCK_TOKENS;
        s.low = vec_fma(query, act_load(dtype, keys, at, VEC_LANES), s.low);
        s.high = vec_fma(query, act_load(dtype, keys, at + VEC_LANES, VEC_LANES), s.high);
        block_prefetch(next, d * row_bytes, row_bytes);
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
value_columns(enum dtype dtype, const int columns, const void *values, int64_t head_dim,
              const float *p, int64_t valid, float correction, float *o)
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
            sum[i] = vec_fma(
                weight, act_load(dtype, values, j * head_dim + i * VEC_LANES, VEC_LANES), sum[i]);
        }
    }
    CHAIN_UNROLL for (int i = 0; i < columns; i++)
    {
        vec_store(o + i * VEC_LANES, sum[i]);
    }
}

/* o[d] = o[d] * correction, then += p[j] * values[j][d] over the valid keys. */
static inline void block_values(enum dtype dtype, const void *values, int64_t head_dim,
                                const float *p, int64_t valid, float correction, float *o)
{
    const char *base = values;
    int64_t d = 0, value_bytes = dtype == DTYPE_BF16 ? 2 : 4;
    for (; d + 4 * VEC_LANES <= head_dim; d += 4 * VEC_LANES)
        value_columns(dtype, 4, base + d * value_bytes, head_dim, p, valid, correction, o + d);
    for (; d + 2 * VEC_LANES <= head_dim; d += 2 * VEC_LANES)
        value_columns(dtype, 2, base + d * value_bytes, head_dim, p, valid, correction, o + d);
    for (; d < head_dim; d += VEC_LANES) {
        int64_t left = head_dim - d;
        struct vec sum = vec_mul(vec_load_up_to(o + d, left), vec_set1(correction));
        for (int64_t j = 0; j < valid; j++)
            sum = vec_fma(vec_set1(p[j]), act_load(dtype, values, j * head_dim + d, left), sum);
        vec_store_up_to(o + d, sum, left);
    }
}

/* The query rounded to act; `rounded` has room for HEAD_DIM_MAX. */
static inline void round_query(enum dtype dtype, const float *q, int64_t head_dim, float *rounded)
{
    for (int64_t d = 0; d < head_dim; d += VEC_LANES) {
        int64_t left = head_dim - d;
        vec_store_up_to(rounded + d, act_round(dtype, vec_load_up_to(q + d, left)), left);
    }
}

static inline __attribute__((always_inline)) void
attention_row_head(const struct attention_job *job, enum dtype dtype, int64_t row, int32_t head)
{
    const struct attention_kv *kv = job->kv;
    const struct attention_row *table = &job->table[row];
    int64_t head_dim = kv->head_dim;
    int32_t kv_head = head / (job->heads / kv->kv_heads);
    float q[HEAD_DIM_MAX], o[HEAD_DIM_MAX], p[ATTENTION_BLOCK_TOKENS];
    round_query(dtype, job->q + row * job->ldq + head * head_dim, head_dim, q);
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
        struct key_lanes s = block_scores(dtype, place.keys, head_dim, q, scale, valid, &next);
        float block_max = vec_max_lanes(vec_max(s.low, s.high));
        float new_max = max > block_max ? max : block_max;
        struct vec shift = vec_set1(new_max);
        struct vec low = vec_exp(vec_sub(s.low, shift)), high = vec_exp(vec_sub(s.high, shift));
        float correction = max == new_max ? 1.0f : exp_one(max - new_max); /* e^0 is 1 exactly */
        sum = fmaf(sum, correction, vec_sum(vec_add(low, high)));
        max = new_max;
        vec_store(p, low);
        vec_store(p + VEC_LANES, high);
        block_values(dtype, place.values, head_dim, p, valid, correction, o);
    }
    struct vec divisor = vec_set1(sum);
    for (int64_t d = 0; d < head_dim; d += VEC_LANES)
        act_store(dtype, job->out, (row * job->heads + head) * head_dim + d,
                  vec_div(vec_load_up_to(o + d, head_dim - d), divisor), head_dim - d);
    if (job->lse != NULL)
        job->lse[row * job->heads + head] = max + log_one(sum);
}

/* ---- a tile of queries ---- */

/* Queries that share a KV head and a sequence: `group` heads from `head` on of consecutive rows,
 * heads of a row side by side, rows in order of key_count. */
struct query_tile {
    int64_t row, rows;
    int32_t head, group;
    int32_t key_count[TILE_QUERIES]; /* of each query, ascending */
};

static inline void tile_set(struct query_tile *tile, const struct attention_row *table, int64_t row,
                            int64_t rows, int32_t head, int32_t group)
{
    tile->row = row;
    tile->rows = rows;
    tile->head = head;
    tile->group = group;
    for (int64_t r = 0; r < rows; r++)
        for (int32_t g = 0; g < group; g++)
            tile->key_count[r * group + g] = table[row + r].key_count;
}

static inline int64_t tile_count(const struct query_tile *tile)
{
    return tile->rows * tile->group;
}

/* Element index of query i in a [rows][heads][head_dim] array. */
static inline int64_t query_index(const struct query_tile *tile, int32_t heads, int64_t i)
{
    return (tile->row + i / tile->group) * heads + tile->head + i % tile->group;
}

/* First query that sees key `key`; the later ones see it too. */
static inline int64_t first_query(const struct query_tile *tile, int64_t key)
{
    int64_t i = 0, count = tile_count(tile);
    while (i < count && tile->key_count[i] <= key)
        i++;
    return i;
}

/* How many of the block's keys query i sees. */
static inline int64_t keys_seen(const struct query_tile *tile, int64_t i, int32_t first_key)
{
    int64_t left = tile->key_count[i] - first_key;
    return left < ATTENTION_BLOCK_TOKENS ? left : ATTENTION_BLOCK_TOKENS;
}

/* A tile's rows of q (stride ldq), rounded to act, as fp32 [count][whole_vectors]. */
static inline void load_queries(enum dtype dtype, const struct query_tile *tile, const float *q,
                                int64_t ldq, int64_t head_dim, float *out)
{
    int64_t width = whole_vectors(head_dim);
    for (int64_t i = 0; i < tile_count(tile); i++) {
        const float *from =
            q + (tile->row + i / tile->group) * ldq + (tile->head + i % tile->group) * head_dim;
        for (int64_t d = 0; d < head_dim; d += VEC_LANES)
            vec_store(out + i * width + d,
                      act_round(dtype, vec_load_up_to(from + d, head_dim - d)));
    }
}

/* One block as the chains read it: keys [head_dim][32], values [32][value_stride]. */
struct attention_block {
    enum dtype dtype;
    const void *keys, *values;
    int64_t value_stride;
};

/* Room for a block in fp32. */
struct block_stage {
    float keys[HEAD_DIM_MAX * ATTENTION_BLOCK_TOKENS];
    float values[HEAD_DIM_MAX * ATTENTION_BLOCK_TOKENS];
};

/* The block in place, or widened into `stage` when enough queries share it or its rows are not
 * whole vectors. Rows then lie side by side, and a row read as whole vectors takes elements of the
 * next one along, which end up past head_dim in a result and are dropped. What lies past the
 * sequence's end is copied too and never used. */
static inline struct attention_block view_block(const struct attention_kv *kv, enum dtype dtype,
                                                int32_t block, int32_t kv_head, int64_t queries,
                                                struct block_stage *stage)
{
    int64_t head_dim = kv->head_dim, width = whole_vectors(head_dim);
    struct attention_block view = {.dtype = dtype,
                                   .keys = kv_block(kv, kv->keys, block, kv_head),
                                   .values = kv_block(kv, kv->values, block, kv_head),
                                   .value_stride = head_dim};
    if (width == head_dim && (dtype == DTYPE_F32 || queries < STAGE_QUERIES))
        return view;
    for (int64_t i = 0; i < head_dim * ATTENTION_BLOCK_TOKENS; i += VEC_LANES) {
        vec_store(stage->keys + i, act_load(dtype, view.keys, i, VEC_LANES));
        vec_store(stage->values + i, act_load(dtype, view.values, i, VEC_LANES));
    }
    if (width != head_dim) /* the last row is read as whole vectors too */
        vec_store(stage->values + head_dim * ATTENTION_BLOCK_TOKENS, vec_zero());
    return (struct attention_block){DTYPE_F32, stage->keys, stage->values, head_dim};
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
    if (block->dtype == DTYPE_F32)
        chains_run(&chains, DTYPE_F32, CHAIN_FROM_ZERO, to - from, ATTENTION_BLOCK_TOKENS);
    else
        chains_run(&chains, DTYPE_BF16, CHAIN_FROM_ZERO, to - from, ATTENTION_BLOCK_TOKENS);
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
    struct query_tile tile;
    float max[TILE_QUERIES], new_max[TILE_QUERIES], sum[TILE_QUERIES], correction[TILE_QUERIES];
    float scores[TILE_QUERIES * ATTENTION_BLOCK_TOKENS];
    float q[TILE_QUERIES * HEAD_DIM_MAX], out[TILE_QUERIES * HEAD_DIM_MAX];
    struct block_stage stage;
};

/* Scores of queries [from, count) become probabilities; max, sum and correction move on. */
static inline void tile_softmax(struct attention_state *state, int64_t from, int32_t first_key,
                                struct vec scale)
{
    int64_t count = tile_count(&state->tile);
    for (int64_t i = from; i < count; i++) {
        float *scores = state->scores + i * ATTENTION_BLOCK_TOKENS;
        scale_scores(scores, scale, keys_seen(&state->tile, i, first_key));
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

static inline void run_values(const struct chains *chains, enum dtype dtype, bool first,
                              int64_t rows, int64_t width)
{
    if (first && dtype == DTYPE_F32)
        chains_run(chains, DTYPE_F32, CHAIN_FROM_SCALED, rows, width);
    else if (first)
        chains_run(chains, DTYPE_BF16, CHAIN_FROM_SCALED, rows, width);
    else if (dtype == DTYPE_F32)
        chains_run(chains, DTYPE_F32, CHAIN_FROM_OUT, rows, width);
    else
        chains_run(chains, DTYPE_BF16, CHAIN_FROM_OUT, rows, width);
}

/* out = out * correction, then += probabilities x values over the keys each query sees. A few
 * queries go together over the keys that all of them see, then each over the rest of its own. */
static inline void tile_values(struct attention_state *state, const struct attention_block *block,
                               int64_t from, int32_t first_key, int64_t width)
{
    int64_t count = tile_count(&state->tile);
    struct chains chains = {.a_row = ATTENTION_BLOCK_TOKENS,
                            .a_step = 1,
                            .b = block->values,
                            .ldb = block->value_stride,
                            .ldo = width};
    for (int64_t i = from; i < count;) {
        int64_t common = keys_seen(&state->tile, i, first_key);
        int64_t rows =
            common == ATTENTION_BLOCK_TOKENS || count - i < CHAIN_ROWS ? count - i : CHAIN_ROWS;
        chains.a = state->scores + i * ATTENTION_BLOCK_TOKENS;
        chains.out = state->out + i * width;
        chains.factor = state->correction + i;
        chains.begin = 0;
        chains.end = common;
        run_values(&chains, block->dtype, true, rows, width);
        for (int64_t end = i + rows; i < end; i++) {
            chains.a = state->scores + i * ATTENTION_BLOCK_TOKENS;
            chains.out = state->out + i * width;
            chains.begin = common;
            chains.end = keys_seen(&state->tile, i, first_key);
            if (chains.end > common)
                run_values(&chains, block->dtype, false, 1, width);
        }
    }
}

static inline void tile_finish(const struct attention_job *job, const struct attention_state *state)
{
    int64_t head_dim = job->kv->head_dim, width = whole_vectors(head_dim);
    for (int64_t i = 0; i < tile_count(&state->tile); i++) {
        int64_t index = query_index(&state->tile, job->heads, i);
        struct vec divisor = vec_set1(state->sum[i]);
        for (int64_t d = 0; d < head_dim; d += VEC_LANES)
            act_store(job->kv->dtype, job->out, index * head_dim + d,
                      vec_div(vec_load(state->out + i * width + d), divisor), head_dim - d);
        if (job->lse != NULL)
            job->lse[index] = state->max[i] + log_one(state->sum[i]);
    }
}

static inline void attention_tile(const struct attention_job *job, int32_t kv_head,
                                  struct attention_state *state)
{
    const struct attention_kv *kv = job->kv;
    const struct query_tile *tile = &state->tile;
    const struct attention_row *last = &job->table[tile->row + tile->rows - 1];
    int64_t head_dim = kv->head_dim, width = whole_vectors(head_dim), count = tile_count(tile);
    int64_t block_bytes = head_dim * ATTENTION_BLOCK_TOKENS * (kv->dtype == DTYPE_BF16 ? 2 : 4);
    struct vec scale = vec_set1(1.0f / sqrtf((float)head_dim));
    load_queries(kv->dtype, tile, job->q, job->ldq, head_dim, state->q);
    memset(state->out, 0, (size_t)(count * width) * sizeof(float));
    for (int64_t i = 0; i < TILE_QUERIES; i++) {
        state->max[i] = -INFINITY;
        state->new_max[i] = state->sum[i] = 0.0f;
    }
    for (int32_t key = 0; key < last->key_count; key += ATTENTION_BLOCK_TOKENS) {
        int64_t from = first_query(tile, key);
        const int32_t *blocks = last->blocks + key / ATTENTION_BLOCK_TOKENS;
        if (key + ATTENTION_BLOCK_TOKENS < last->key_count) {
            struct block_place next = block_place(kv, blocks[1], kv_head);
            block_prefetch(&next, 0, block_bytes);
        }
        struct attention_block block =
            view_block(kv, kv->dtype, blocks[0], kv_head, count - from, &state->stage);
        tile_scores(&block, state->q, head_dim, from, count, state->scores);
        tile_softmax(state, from, key, scale);
        tile_values(state, &block, from, key, width);
    }
    tile_finish(job, state);
}

/* Rows [first, end) for one KV head: runs of rows that share a block table and see ever more keys,
 * a slice of the group's heads at a time. */
static inline void attention_rows(const struct attention_job *job, int64_t first, int64_t end,
                                  int32_t kv_head, struct attention_state *state)
{
    int32_t group = job->heads / job->kv->kv_heads;
    int32_t slice = group < TILE_QUERIES ? group : TILE_QUERIES;
    while (first < end) {
        int64_t rows = 1, most = TILE_QUERIES / slice;
        while (rows < most && first + rows < end &&
               job->table[first + rows].blocks == job->table[first].blocks &&
               job->table[first + rows].key_count >= job->table[first + rows - 1].key_count)
            rows++;
        for (int32_t head = 0; head < group; head += slice) {
            tile_set(&state->tile, job->table, first, rows, kv_head * group + head,
                     slice < group - head ? slice : group - head);
            if (tile_count(&state->tile) == 1 && job->kv->dtype == DTYPE_BF16)
                attention_row_head(job, DTYPE_BF16, first, state->tile.head);
            else if (tile_count(&state->tile) == 1)
                attention_row_head(job, DTYPE_F32, first, state->tile.head);
            else
                attention_tile(job, kv_head, state);
        }
        first += rows;
    }
}

/* Items are (tile of rows, KV head) pairs, tiles taken from both ends in turn: later rows of a
 * sequence see more keys, and this way every thread's range costs about the same. */
static inline void attention_items(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct attention_job *job = context;
    struct attention_state state;
    for (int64_t item = begin; item < end; item++) {
        int64_t turn = item / job->kv->kv_heads;
        int64_t tile = turn % 2 == 0 ? turn / 2 : job->tiles - 1 - turn / 2;
        int64_t first = tile * job->tile_rows, last = first + job->tile_rows;
        attention_rows(job, first, last < job->rows ? last : job->rows,
                       (int32_t)(item % job->kv->kv_heads), &state);
    }
}

/* Rows of a tile: as many as share a block well, fewer when threads would have nothing to do or
 * when most rows are of sequences of their own: one row's KV heads then follow each other, as they
 * lie in memory. */
static inline int64_t choose_tile_rows(const struct attention_job *job, int threads)
{
    int32_t kv_heads = job->kv->kv_heads, group = job->heads / kv_heads;
    int64_t runs = 1;
    for (int64_t row = 1; row < job->rows; row++)
        runs += job->table[row].blocks != job->table[row - 1].blocks;
    int64_t most = TILE_QUERIES / (group < TILE_QUERIES ? group : TILE_QUERIES);
    int64_t alike = (job->rows + runs - 1) / runs;
    int64_t shared = threads > 1 ? job->rows * kv_heads / (4 * (int64_t)threads) : most;
    most = alike < most ? alike : most;
    most = shared < most ? shared : most;
    return most > 1 ? most : 1;
}

static inline void attention(struct parallel *pool, const struct attention_kv *kv, int64_t rows,
                             int32_t heads, const float *q, int64_t ldq,
                             const struct attention_row *table, void *out, float *lse)
{
    HONE_ASSERT(kv->dtype == DTYPE_BF16 || kv->dtype == DTYPE_F32);
    HONE_ASSERT(kv->head_dim <= HEAD_DIM_MAX && heads % kv->kv_heads == 0);
    struct attention_job job = {kv, rows, heads, q, ldq, table, out, lse, 0, 0};
    int32_t group = heads / kv->kv_heads;
    job.tile_rows = choose_tile_rows(&job, parallel_threads(pool));
    job.tiles = (rows + job.tile_rows - 1) / job.tile_rows;
    int64_t keys = rows > 0 ? table[rows - 1].key_count : 1;
    int64_t grain = ATTENTION_GRAIN_KEYS / (keys * group * job.tile_rows);
    parallel_for(pool, job.tiles * kv->kv_heads, grain > 1 ? grain : 1, attention_items, &job);
}

#endif

/* Attention in bf16 mode: blocks of 32 keys ascending, online softmax. A row's bits depend on its
 * query, its keys and key_count alone (N2).
 *
 * Per block: 32 scores, each a canonical dot product (N3) of q and a key, times
 * log2(e) / sqrt(head_dim); keys at or past key_count become -inf (whatever the memory holds);
 * m' = max(m, scores); p = 2^(score - m'); c = 2^(m - m'); l = l c + sum(p), one multiply-add, the
 * sum being p[0..15] + p[16..31] and then the tree of N5; o = o c + the canonical dot product of p,
 * rounded to bf16, and the values, one multiply-add. The values of keys past key_count count as +0.
 * In the end o / l, where a zero is +0, and lse = m ln 2 + ln(l). */
#ifndef HONE_COMPUTE_CPU_ATTENTION_FORWARD_BF16_H
#define HONE_COMPUTE_CPU_ATTENTION_FORWARD_BF16_H

#include <math.h>

#include "infra/compute/cpu/attention/block_product.h"
#include "infra/compute/cpu/attention/query_tile.h"
#include "infra/compute/vec/vec_math.h"

#define PREFETCH_QUERIES 8
#define LOG2_E           0x1.715476p+0f
#define LN_2             0x1.62e430p-1f
#define KEY_PAIRS        (ATTENTION_BLOCK_TOKENS / 2)
#define PAIRS_VALUES     (2 * PANEL_COLUMNS)        /* of a line of a packed block */
#define VALUES_PANEL     (KEY_PAIRS * PAIRS_VALUES) /* of a panel of values */
#define BLOCK_SCORES     (TILE_QUERIES * ATTENTION_BLOCK_TOKENS)

/* What a tile carries from block to block; rows of q have `width` elements, of out `columns`. */
struct forward_state {
    const struct query_tile *tile;
    int64_t width, columns;
    float max[TILE_QUERIES], sum[TILE_QUERIES];
    float correction[2][TILE_QUERIES];          /* by blocks in turn, and */
    _Alignas(64) float scores[2][BLOCK_SCORES]; /* those of a block and of the next */
    bf16 p[BLOCK_SCORES];
    _Alignas(64) bf16 q[TILE_QUERIES * HEAD_DIM_MAX];
    float out[TILE_QUERIES * HEAD_DIM_MAX], products[TILE_QUERIES * HEAD_DIM_MAX];
    bf16 values[ATTENTION_BLOCK_TOKENS * HEAD_DIM_MAX];
};

/* Scores of keys 0-15 and 16-31. */
struct score_lanes {
    struct vec low, high;
};

/* -inf at and past `valid`. */
static inline struct score_lanes seen_scores(struct score_lanes s, int64_t valid)
{
    struct vec excluded = vec_set1(-INFINITY);
    return (struct score_lanes){
        vec_keep(s.low, valid, excluded),
        vec_keep(s.high, valid > VEC_LANES ? valid - VEC_LANES : 0, excluded)};
}

static inline struct score_lanes load_scores(const float *scores, int64_t valid)
{
    struct score_lanes s = {vec_load(scores), vec_load(scores + VEC_LANES)};
    return valid < ATTENTION_BLOCK_TOKENS ? seen_scores(s, valid) : s;
}

/* What the reductions of up to 16 queries read: [query][16], and what they give. */
struct reduction {
    _Alignas(64) float rows[VEC_LANES * VEC_LANES];
};

static inline struct vec reduce_rows(const struct reduction *r, int64_t queries, bool sum)
{
    if (queries == VEC_LANES)
        return sum ? vec_sum_rows(r->rows) : vec_max_rows(r->rows);
    float result[VEC_LANES] = {0};
    for (int64_t i = 0; i < queries; i++) {
        struct vec row = vec_load(r->rows + i * VEC_LANES);
        result[i] = sum ? vec_sum(row) : vec_max_lanes(row);
    }
    return vec_load(result);
}

/* Scores of up to 16 queries from `from` on become probabilities; max, sum and correction move on.
 * The largest score times `unit` is the largest of the products: rounding keeps order. */
static inline __attribute__((always_inline)) void softmax_queries(struct forward_state *state,
                                                                  int64_t from, int64_t queries,
                                                                  int32_t first_key,
                                                                  struct vec unit, const bool whole)
{
    struct reduction r;
    const struct query_tile *tile = state->tile;
    int32_t turn = first_key / ATTENTION_BLOCK_TOKENS % 2;
    const float *scores = state->scores[turn] + from * ATTENTION_BLOCK_TOKENS;
    for (int64_t i = 0; i < queries; i++) {
        int64_t valid = whole ? ATTENTION_BLOCK_TOKENS : keys_seen(tile, from + i, first_key);
        struct score_lanes s = load_scores(scores + i * ATTENTION_BLOCK_TOKENS, valid);
        vec_store(r.rows + i * VEC_LANES, vec_max(s.low, s.high));
    }
    struct vec max = vec_load_up_to(state->max + from, queries);
    struct vec new_max = vec_max(max, vec_mul(reduce_rows(&r, queries, false), unit));
    struct vec correction = vec_exp2(vec_sub(max, new_max));
    vec_store_up_to(state->max + from, new_max, queries);
    vec_store_up_to(state->correction[turn] + from, correction, queries);
    for (int64_t i = 0; i < queries; i++) {
        int64_t valid = whole ? ATTENTION_BLOCK_TOKENS : keys_seen(tile, from + i, first_key);
        struct score_lanes s = load_scores(scores + i * ATTENTION_BLOCK_TOKENS, valid);
        struct vec shift = vec_set1(state->max[from + i]);
        s.low = vec_exp2(vec_sub(vec_mul(s.low, unit), shift));
        s.high = vec_exp2(vec_sub(vec_mul(s.high, unit), shift));
        vec_store_results_bf16(state->p + (from + i) * ATTENTION_BLOCK_TOKENS, s.low, s.high);
        vec_store(r.rows + i * VEC_LANES, vec_add(s.low, s.high));
    }
    struct vec sum = vec_load_up_to(state->sum + from, queries);
    sum = vec_fma(sum, correction, reduce_rows(&r, queries, true));
    vec_store_up_to(state->sum + from, sum, queries);
}

static inline void forward_softmax(struct forward_state *state, int64_t from, int32_t first_key,
                                   struct vec unit)
{
    int64_t count = tile_count(state->tile);
    bool whole = keys_seen(state->tile, from, first_key) == ATTENTION_BLOCK_TOKENS;
    for (int64_t i = from; i < count; i += VEC_LANES) {
        int64_t queries = at_most(count - i, VEC_LANES);
        if (whole && queries == VEC_LANES)
            softmax_queries(state, i, VEC_LANES, first_key, unit, true);
        else
            softmax_queries(state, i, queries, first_key, unit, false);
    }
}

/* A block's values with those past the first `seen` keys +0. */
static inline const bf16 *values_of_seen(struct forward_state *state, const bf16 *values,
                                         int64_t seen)
{
    int64_t whole = seen / 2;
    for (int64_t at = 0; at < state->width * ATTENTION_BLOCK_TOKENS; at += VALUES_PANEL) {
        bf16 *to = state->values + at;
        memcpy(to, values + at, (size_t)(whole * PAIRS_VALUES) * sizeof *to);
        memset(to + whole * PAIRS_VALUES, 0,
               (size_t)((KEY_PAIRS - whole) * PAIRS_VALUES) * sizeof *to);
        for (int64_t i = 0; i < PAIRS_VALUES && seen % 2 != 0; i += 2)
            to[whole * PAIRS_VALUES + i] = values[at + whole * PAIRS_VALUES + i];
    }
    return state->values;
}

/* Whether the values of keys from `key` on are finite: then they add nothing where p is 0. */
static inline bool values_finite(const struct forward_state *state, const bf16 *values, int64_t key)
{
    struct vec sum = vec_zero();
    for (int64_t at = 0; at < state->width * ATTENTION_BLOCK_TOKENS; at += VALUES_PANEL)
        for (int64_t pair = key / 2; pair < KEY_PAIRS; pair++) {
            struct vec_pair v = vec_load_pair(values + at + pair * PAIRS_VALUES);
            sum = vec_fma(v.even, vec_zero(), vec_fma(v.odd, vec_zero(), sum));
        }
    return vec_sum(sum) == 0.0f;
}

/* products = p x values for the queries that see the block. */
static inline void forward_products(struct forward_state *state, const bf16 *values,
                                    const bf16 *next, int32_t first_key)
{
    int64_t from = first_query(state->tile, first_key);
    int64_t count = tile_count(state->tile), common = keys_seen(state->tile, from, first_key);
    int64_t most = keys_seen(state->tile, count - 1, first_key), first = product_first(from);
    struct block_product p = {.a = state->p + first * ATTENTION_BLOCK_TOKENS,
                              .lda = ATTENTION_BLOCK_TOKENS,
                              .b = values,
                              .b_panel = VALUES_PANEL,
                              .k = ATTENTION_BLOCK_TOKENS,
                              .c = state->products + first * state->columns,
                              .ldc = state->columns,
                              .from_zero = true,
                              .next = next};
    if (most < ATTENTION_BLOCK_TOKENS)
        p.b = values_of_seen(state, values, most);
    if (common == most || values_finite(state, p.b, common)) {
        product_run(&p, count - first, state->columns / PANEL_COLUMNS);
        return;
    }
    p.next = NULL;
    product_end();
    product_begin(1);
    for (int64_t i = from; i < count; i++) {
        p.a = state->p + i * ATTENTION_BLOCK_TOKENS;
        p.b = values_of_seen(state, values, keys_seen(state->tile, i, first_key));
        p.c = state->products + i * state->columns;
        product_run(&p, 1, state->columns / PANEL_COLUMNS);
    }
    product_end();
    product_begin(count);
}

/* out = out * correction + products, of the block before first_key. */
static inline void forward_accumulate(struct forward_state *state, int32_t first_key)
{
    int32_t key = first_key - ATTENTION_BLOCK_TOKENS, turn = key / ATTENTION_BLOCK_TOKENS % 2;
    if (key < 0)
        return;
    for (int64_t i = first_query(state->tile, key); i < tile_count(state->tile); i++) {
        struct vec correction = vec_set1(state->correction[turn][i]);
        float *out = state->out + i * state->columns;
        const float *products = state->products + i * state->columns;
        for (int64_t d = 0; d < state->columns; d += VEC_LANES)
            vec_store(out + d, vec_fma(vec_load(out + d), correction, vec_load(products + d)));
    }
}

/* A row of q or d_out rounded to bf16 and padded with zeros. What becomes of a denormal does not
 * matter: products take it for zero. */
static inline void round_row(const float *from, int64_t head_dim, int64_t width, bf16 *to)
{
    for (int64_t d = 0; d < width; d += 2 * VEC_LANES) {
        int64_t left = head_dim - d, rest = left - VEC_LANES;
        vec_store_results_bf16(to + d, vec_load_up_to(from + d, left),
                               rest > 0 ? vec_load_up_to(from + d + VEC_LANES, rest) : vec_zero());
    }
}

static inline void forward_begin(const struct attention_job *job, const struct query_tile *tile,
                                 struct forward_state *state)
{
    int64_t head_dim = job->kv->head_dim;
    state->tile = tile;
    state->width = attention_width(DTYPE_BF16, job->kv->head_dim);
    state->columns = round_up(head_dim, PANEL_COLUMNS);
    for (int64_t i = 0; i < TILE_QUERIES; i++) {
        state->max[i] = -INFINITY;
        state->sum[i] = 0.0f;
    }
    for (int64_t i = 0; i < tile_count(tile); i++) {
        const float *q = job->q + (tile->row + i / tile->group) * job->ldq +
                         (tile->head + i % tile->group) * head_dim;
        round_row(q, head_dim, state->width, state->q + i * state->width);
    }
    memset(state->out, 0, (size_t)(tile_count(tile) * state->columns) * sizeof *state->out);
}

/* 16 results of a row and head; a zero is +0. */
static inline void store_mean(const struct attention_job *job, int64_t index, int64_t d,
                              struct vec out, struct vec sum)
{
    int64_t head_dim = job->kv->head_dim;
    act_store(DTYPE_BF16, job->out, index * head_dim + d, vec_add(vec_div(out, sum), vec_zero()),
              head_dim - d);
}

static inline void forward_finish(const struct attention_job *job,
                                  const struct forward_state *state)
{
    int64_t head_dim = job->kv->head_dim;
    for (int64_t i = 0; i < tile_count(state->tile); i++) {
        int64_t index = query_index(state->tile, job->heads, i);
        struct vec divisor = vec_set1(state->sum[i]);
        for (int64_t d = 0; d < head_dim; d += VEC_LANES)
            store_mean(job, index, d, vec_load(state->out + i * state->columns + d), divisor);
        if (job->lse != NULL)
            job->lse[index] = fmaf(state->max[i], LN_2, log_one(state->sum[i]));
    }
}

/* Scores of the queries that see the block. */
static inline void forward_scores(struct forward_state *state, const bf16 *keys, const bf16 *next,
                                  int32_t first_key)
{
    int64_t first = product_first(first_query(state->tile, first_key));
    int32_t turn = first_key / ATTENTION_BLOCK_TOKENS % 2;
    const struct block_product product = {.a = state->q + first * state->width,
                                          .lda = state->width,
                                          .b = keys,
                                          .b_panel = state->width * PANEL_COLUMNS,
                                          .k = state->width,
                                          .c = state->scores[turn] + first * ATTENTION_BLOCK_TOKENS,
                                          .ldc = ATTENTION_BLOCK_TOKENS,
                                          .from_zero = true,
                                          .next = next};
    product_run(&product, tile_count(state->tile) - first, ATTENTION_BLOCK_TOKENS / PANEL_COLUMNS);
}

/* Keys and values of a block; NULL: there is none. */
struct bf16_block {
    const bf16 *keys, *values;
};

/* What a product of few queries, which memory bounds, fetches. */
static inline const bf16 *fetched(const bf16 *next, int64_t queries)
{
    return queries > PREFETCH_QUERIES ? NULL : next;
}

static inline struct bf16_block bf16_block(const struct attention_job *job,
                                           const struct attention_row *last, int32_t kv_head,
                                           int32_t b)
{
    if (b * ATTENTION_BLOCK_TOKENS >= last->key_count)
        return (struct bf16_block){NULL, NULL};
    struct block_place place = block_place(job->kv, last->blocks[b], kv_head);
    return (struct bf16_block){(const bf16 *)(const void *)place.keys,
                               (const bf16 *)(const void *)place.values};
}

/* ---- one query by itself ---- */

/* Scores of a block's 32 keys, in units of log2. The next block's lines are asked for in step with
 * this one's, keys and values side by side: memory is then read at its speed, and not in bursts. */
static inline struct score_lanes row_scores(const bf16 *keys, const struct bf16_block *next,
                                            int64_t width, const float *q, struct vec unit)
{
    struct score_lanes s = {vec_zero(), vec_zero()};
    int64_t panel = width * PANEL_COLUMNS;
    for (int64_t k = 0; k < width; k += ATTENTION_BLOCK_TOKENS) {
        struct vec even[2] = {vec_zero(), vec_zero()}, odd[2] = {vec_zero(), vec_zero()};
        for (int64_t d = k; d < k + ATTENTION_BLOCK_TOKENS; d += 2) {
            struct vec first = vec_set1(q[d]), second = vec_set1(q[d + 1]);
            for (int64_t half = 0; half < 2; half++) {
                int64_t at = half * panel + d * PANEL_COLUMNS;
                struct vec_pair pair = vec_load_pair(keys + at);
                even[half] = vec_fma(first, pair.even, even[half]);
                odd[half] = vec_fma(second, pair.odd, odd[half]);
                __builtin_prefetch(next->keys + (d + half) * PAIRS_VALUES);
                __builtin_prefetch(next->values + (d + half) * PAIRS_VALUES);
            }
        }
        s.low = vec_add(s.low, vec_add(even[0], odd[0]));
        s.high = vec_add(s.high, vec_add(even[1], odd[1]));
    }
    return (struct score_lanes){vec_mul(s.low, unit), vec_mul(s.high, unit)};
}

/* `panels` panels of out = out * correction + p x values, over the first `seen` keys alone. */
static inline __attribute__((always_inline)) void row_panels(const int panels, const bf16 *values,
                                                             const float *p, int64_t seen,
                                                             struct vec correction, float *out)
{
    struct vec even[4], odd[4];
    for (int i = 0; i < panels; i++)
        even[i] = odd[i] = vec_zero();
    for (int64_t key = 0; key + 1 < seen; key += 2) {
        struct vec first = vec_set1(p[key]), second = vec_set1(p[key + 1]);
        for (int i = 0; i < panels; i++) {
            struct vec_pair pair = vec_load_pair(values + i * VALUES_PANEL + key * PANEL_COLUMNS);
            even[i] = vec_fma(first, pair.even, even[i]);
            odd[i] = vec_fma(second, pair.odd, odd[i]);
        }
    }
    for (int i = 0; i < panels && seen % 2 != 0; i++)
        even[i] =
            vec_fma(vec_set1(p[seen - 1]),
                    vec_load_even(values + i * VALUES_PANEL + (seen - 1) * PANEL_COLUMNS), even[i]);
    for (int i = 0; i < panels; i++)
        vec_store(out + i * VEC_LANES,
                  vec_fma(vec_load(out + i * VEC_LANES), correction, vec_add(even[i], odd[i])));
}

static inline void row_values(const bf16 *values, int64_t columns, const float *p, int64_t seen,
                              struct vec correction, float *out)
{
    int64_t d = 0;
    for (; d + 4 * VEC_LANES <= columns; d += 4 * VEC_LANES)
        row_panels(4, values + d * ATTENTION_BLOCK_TOKENS, p, seen, correction, out + d);
    for (; d < columns; d += VEC_LANES)
        row_panels(1, values + d * ATTENTION_BLOCK_TOKENS, p, seen, correction, out + d);
}

static inline float exp2_of(float x)
{
    float lanes[VEC_LANES];
    vec_store(lanes, vec_exp2(vec_set1(x)));
    return lanes[0];
}

static inline void attention_row_bf16(const struct attention_job *job,
                                      const struct query_tile *tile, int32_t kv_head)
{
    const struct attention_row *row = &job->table[tile->row];
    int64_t head_dim = job->kv->head_dim, width = attention_width(DTYPE_BF16, job->kv->head_dim);
    int64_t columns = round_up(head_dim, PANEL_COLUMNS), at = query_index(tile, job->heads, 0);
    float q[HEAD_DIM_MAX] = {0}, out[HEAD_DIM_MAX] = {0}, p[ATTENTION_BLOCK_TOKENS];
    float max = -INFINITY, sum = 0.0f;
    struct vec unit = vec_set1(1.0f / sqrtf((float)head_dim) * LOG2_E);
    const float *from = job->q + tile->row * job->ldq + tile->head * head_dim;
    for (int64_t d = 0; d < head_dim; d += VEC_LANES)
        vec_store_up_to(q + d, vec_round_bf16(vec_load_up_to(from + d, head_dim - d)),
                        head_dim - d);
    struct bf16_block block = bf16_block(job, row, kv_head, 0);
    for (int32_t b = 0; block.keys != NULL; b++) {
        struct bf16_block next = bf16_block(job, row, kv_head, b + 1);
        int64_t seen = at_most(row->key_count - b * ATTENTION_BLOCK_TOKENS, ATTENTION_BLOCK_TOKENS);
        struct score_lanes s =
            row_scores(block.keys, next.keys != NULL ? &next : &block, width, q, unit);
        if (seen < ATTENTION_BLOCK_TOKENS)
            s = seen_scores(s, seen);
        float most = vec_max_lanes(vec_max(s.low, s.high)), new_max = max > most ? max : most;
        struct vec shift = vec_set1(new_max);
        struct vec low = vec_exp2(vec_sub(s.low, shift)), high = vec_exp2(vec_sub(s.high, shift));
        float factor = exp2_of(max - new_max);
        struct vec correction = vec_set1(factor);
        sum = fmaf(sum, factor, vec_sum(vec_add(low, high)));
        max = new_max;
        vec_store(p, vec_round_bf16(low));
        vec_store(p + VEC_LANES, vec_round_bf16(high));
        row_values(block.values, columns, p, seen, correction, out);
        block = next;
    }
    for (int64_t d = 0; d < head_dim; d += VEC_LANES)
        store_mean(job, at, d, vec_load(out + d), vec_set1(sum));
    if (job->lse != NULL)
        job->lse[at] = fmaf(max, LN_2, log_one(sum));
}

/* ---- a tile of queries ---- */

/* The next block's scores come before a block's softmax, and its sums after it: tiles and vectors
 * work side by side. Many queries keep a block for so long that the processor fetches the next. */
static inline void attention_tile_bf16(const struct attention_job *job,
                                       const struct query_tile *tile, int32_t kv_head)
{
    const struct attention_row *last = &job->table[tile->row + tile->rows - 1];
    struct vec unit = vec_set1(1.0f / sqrtf((float)job->kv->head_dim) * LOG2_E);
    int64_t count = tile_count(tile);
    struct forward_state state;
    struct bf16_block block = bf16_block(job, last, kv_head, 0);
    struct bf16_block next = bf16_block(job, last, kv_head, 1);
    if (count == 1) {
        attention_row_bf16(job, tile, kv_head);
        return;
    }
    forward_begin(job, tile, &state);
    product_begin(count);
    forward_scores(&state, block.keys, fetched(next.keys, count), 0);
    int32_t key = 0;
    for (int32_t b = 0; block.keys != NULL; b++, key += ATTENTION_BLOCK_TOKENS) {
        struct bf16_block after = {NULL, NULL};
        if (next.keys != NULL) {
            after = bf16_block(job, last, kv_head, b + 2);
            forward_scores(&state, next.keys, fetched(after.keys, count),
                           key + ATTENTION_BLOCK_TOKENS);
        }
        forward_softmax(&state, first_query(tile, key), key, unit);
        forward_accumulate(&state, key);
        forward_products(&state, block.values, fetched(next.values, count), key);
        block = next;
        next = after;
    }
    forward_accumulate(&state, key);
    product_end();
    forward_finish(job, &state);
}

#endif

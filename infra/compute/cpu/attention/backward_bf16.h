/* The attention backward pass for the rows of one sequence, in bf16 mode.
 *
 * With p = 2^(score - lse log2(e)), scores as in the forward, D = sum over d of d_out * out and
 * dp[j] = d_out . v[j]:
 *   ds[j] = p[j] (dp[j] - D) / sqrt(head_dim);   dq = sum of ds[j] k[j];   dk[j] += sum of ds[j] q;
 *   dv[j] += sum of p[j] d_out.
 * All five products are canonical dot products (N3): d_out, p and ds are rounded to bf16 (ds is
 * made from p before that). dq adds up over blocks of 32 keys ascending; dk and dv over blocks of
 * 32 positions ascending, and in each over the heads of the group ascending, from +0, and that is
 * added to what is there. Both kinds of block count from the start of the sequence; positions
 * without a row, and keys past a row's own position, have p = ds = +0. A zero result is +0.
 *
 * A head walks spans of keys ascending and in each all queries, a batch of units at a time: 32
 * positions of one head. dk and dv of a span are transposed, [d][key], so that neither p nor ds has
 * to be. */
#ifndef HONE_COMPUTE_CPU_ATTENTION_BACKWARD_BF16_H
#define HONE_COMPUTE_CPU_ATTENTION_BACKWARD_BF16_H

#include "infra/compute/cpu/attention/backward_job.h"
#include "infra/compute/cpu/attention/forward_bf16.h"

#define KEYS_BLOCKS   16 /* of a span */
#define KEYS_SPAN     (KEYS_BLOCKS * ATTENTION_BLOCK_TOKENS)
#define BATCH_UNITS   4
#define BATCH_QUERIES (BATCH_UNITS * ATTENTION_BLOCK_TOKENS)
#define SPAN_PANEL    (KEYS_SPAN * PANEL_COLUMNS)     /* values of a panel of keys_by_token */
#define WEIGHTS_PANEL (BATCH_QUERIES * PANEL_COLUMNS) /* and of p or ds */
#define WEIGHTS_BLOCK (2 * WEIGHTS_PANEL)
#define DIM           HEAD_DIM_BACKWARD_MAX
/* Row strides: rows a power of two apart share cache sets. */
#define QUERY_STRIDE (BATCH_QUERIES + 32)
#define KEY_STRIDE   (KEYS_SPAN + 32)

/* 32 positions of one head. */
struct backward_unit {
    int32_t block, head;
};

struct span_state {
    int32_t kv_head, first_key, blocks;
    int64_t width, columns;        /* head_dim in whole blocks of 32 and panels of 16 */
    const bf16 *keys[KEYS_BLOCKS]; /* in the cache */
    int32_t units;
    struct backward_unit unit[BATCH_UNITS];
    float lse[BATCH_QUERIES], mean[BATCH_QUERIES]; /* in units of log2; D */
    _Alignas(64) float scores[2][BLOCK_SCORES];    /* of a block and of the next */
    float slopes[2][BLOCK_SCORES];                 /* dp */
    bf16 rows[ATTENTION_BLOCK_TOKENS * DIM];
    bf16 q[BATCH_QUERIES * DIM], d_out[BATCH_QUERIES * DIM];                   /* [query][width] */
    bf16 q_by_column[QUERY_STRIDE * DIM], d_out_by_column[QUERY_STRIDE * DIM]; /* [d][query] */
    float dq[BATCH_QUERIES * DIM];       /* [query][columns] */
    bf16 p[KEYS_BLOCKS * WEIGHTS_BLOCK]; /* [block][2][query / 2][16][2] */
    bf16 ds[KEYS_BLOCKS * WEIGHTS_BLOCK];
    bf16 ds_by_query[BATCH_QUERIES * KEY_STRIDE];     /* [query][key] */
    bf16 values[KEYS_SPAN * DIM];                     /* [block][2][width / 2][16][2] */
    bf16 keys_by_token[KEYS_SPAN * DIM];              /* [d / 16][key / 2][16][2] */
    float dk[KEY_STRIDE * DIM], dv[KEY_STRIDE * DIM]; /* [d][key] */
};

/* ---- a span ---- */

/* Values of a block, packed over pairs of keys, become packed over pairs of d. */
static inline void turn_values(const bf16 *values, int64_t width, bf16 *rows, bf16 *out)
{
    for (int64_t d = 0; d < width; d += PANEL_COLUMNS)
        for (int64_t pair = 0; pair < KEY_PAIRS; pair++) {
            const bf16 *from = values + d * ATTENTION_BLOCK_TOKENS + pair * PAIRS_VALUES;
            struct vec_pair v = vec_load_pair(from);
            vec_store_bf16(rows + 2 * pair * width + d, v.even);
            vec_store_bf16(rows + (2 * pair + 1) * width + d, v.odd);
        }
    for (int64_t key = 0; key < ATTENTION_BLOCK_TOKENS; key += PANEL_COLUMNS)
        transpose_panel(rows + key * width, width * 2, width / 2, out + key * width);
}

/* Keys of a block, packed over pairs of d, become packed over pairs of keys; +0 past `valid`. */
static inline void turn_keys(const bf16 *keys, int64_t width, int64_t valid, bf16 *rows, bf16 *out)
{
    for (int64_t key = 0; key < ATTENTION_BLOCK_TOKENS; key += 4)
        for (int64_t pair = 0; pair < width / 2; pair += 4)
            transpose_4x4(keys + key / 16 * width * 16 + pair * PAIRS_VALUES + key % 16 * 2,
                          PAIRS_VALUES * 2, rows + key * width + 2 * pair, width * 2);
    memset(rows + valid * width, 0,
           (size_t)((ATTENTION_BLOCK_TOKENS - valid) * width) * sizeof *rows);
    for (int64_t d = 0; d < width; d += PANEL_COLUMNS)
        for (int64_t pair = 0; pair < KEY_PAIRS; pair++)
            pack_pair(rows + 2 * pair * width + d, rows + (2 * pair + 1) * width + d, PANEL_COLUMNS,
                      out + d * KEYS_SPAN + pair * PAIRS_VALUES);
}

static inline void span_load(const struct attention_backward_job *job, struct span_state *s)
{
    const struct attention_row *last = &job->table[job->rows - 1];
    int64_t left = last->key_count - s->first_key;
    s->blocks =
        (int32_t)((at_most(left, KEYS_SPAN) + ATTENTION_BLOCK_TOKENS - 1) / ATTENTION_BLOCK_TOKENS);
    for (int32_t b = 0; b < s->blocks; b++, left -= ATTENTION_BLOCK_TOKENS) {
        int32_t block = last->blocks[s->first_key / ATTENTION_BLOCK_TOKENS + b];
        struct block_place place = block_place(job->kv, block, s->kv_head);
        s->keys[b] = (const bf16 *)(const void *)place.keys;
        turn_values((const bf16 *)(const void *)place.values, s->width, s->rows,
                    s->values + b * ATTENTION_BLOCK_TOKENS * s->width);
        turn_keys(s->keys[b], s->width, at_most(left, ATTENTION_BLOCK_TOKENS), s->rows,
                  s->keys_by_token + b * KEY_PAIRS * PAIRS_VALUES);
    }
    memset(s->dk, 0, (size_t)(KEY_STRIDE * s->columns) * sizeof *s->dk);
    memset(s->dv, 0, (size_t)(KEY_STRIDE * s->columns) * sizeof *s->dv);
}

/* to [key][head_dim] += by_column [d][key], a few keys at a time. */
static inline void add_turned(const struct attention_backward_job *job, const struct span_state *s,
                              const float *by_column, float *to)
{
    const struct attention_row *last = &job->table[job->rows - 1];
    int64_t keys = at_most(last->key_count - s->first_key, KEYS_SPAN), dim = job->kv->head_dim;
    float rows[4 * DIM];
    for (int64_t key = 0; key < keys; key += 4) {
        for (int64_t k = key + 8; k < at_most(key + 12, keys); k++)
            prefetch_bytes((const char *)(to + (s->first_key + k) * job->lddk + s->kv_head * dim),
                           dim * 4);
        for (int64_t d = 0; d < s->columns; d += 4)
            transpose_4x4(by_column + d * KEY_STRIDE + key, KEY_STRIDE * 4, rows + d, DIM * 4);
        for (int64_t k = key; k < at_most(key + 4, keys); k++) {
            float *row = to + (s->first_key + k) * job->lddk + s->kv_head * dim;
            for (int64_t d = 0; d < dim; d += VEC_LANES) {
                struct vec sum =
                    vec_add(vec_load_up_to(row + d, dim - d), vec_load(rows + (k - key) * DIM + d));
                vec_store_up_to(row + d, vec_add(sum, vec_zero()), dim - d);
            }
        }
    }
}

/* ---- a batch of units ---- */

/* The row at slot `slot` of a unit; negative: there is none. */
static inline int64_t unit_row(const struct attention_backward_job *job,
                               const struct backward_unit *unit, int64_t slot)
{
    int64_t row = unit->block * (int64_t)ATTENTION_BLOCK_TOKENS + slot + 1 - job->table->key_count;
    return row < job->rows ? row : -1;
}

static inline void unit_load_row(const struct attention_backward_job *job, struct span_state *s,
                                 int64_t query, int64_t row, int32_t head)
{
    int64_t dim = job->kv->head_dim, index = row * job->heads + head;
    const float *q = job->q + row * job->ldq + head * dim, *d_out = job->d_out + index * dim;
    const float *dq = job->dq + row * job->lddq + head * dim;
    round_row(q, dim, s->width, s->q + query * s->width);
    round_row(d_out, dim, s->width, s->d_out + query * s->width);
    for (int64_t d = 0; d < dim; d += VEC_LANES)
        vec_store(s->dq + query * s->columns + d,
                  s->first_key == 0 ? vec_zero() : vec_load_up_to(dq + d, dim - d));
    s->lse[query] = job->lse[index] * LOG2_E;
    s->mean[query] = head_dot(DTYPE_BF16, d_out, job->out, index * dim, dim);
}

static inline void unit_load(const struct attention_backward_job *job, struct span_state *s,
                             int64_t u)
{
    int64_t first = u * ATTENTION_BLOCK_TOKENS;
    for (int64_t slot = 0; slot < ATTENTION_BLOCK_TOKENS; slot++) {
        int64_t row = unit_row(job, &s->unit[u], slot), query = first + slot;
        if (row >= 0) {
            unit_load_row(job, s, query, row, s->unit[u].head);
            continue;
        }
        memset(s->q + query * s->width, 0, (size_t)s->width * sizeof *s->q);
        memset(s->d_out + query * s->width, 0, (size_t)s->width * sizeof *s->d_out);
        memset(s->dq + query * s->columns, 0, (size_t)s->columns * sizeof *s->dq);
        s->lse[query] = INFINITY;
        s->mean[query] = 0.0f;
    }
    for (int64_t d = 0; d < s->columns; d += 8)
        for (int64_t query = first; query < first + ATTENTION_BLOCK_TOKENS; query += 8) {
            transpose_8x8(s->q + query * s->width + d, s->width * 2,
                          s->q_by_column + d * QUERY_STRIDE + query, QUERY_STRIDE * 2);
            transpose_8x8(s->d_out + query * s->width + d, s->width * 2,
                          s->d_out_by_column + d * QUERY_STRIDE + query, QUERY_STRIDE * 2);
        }
}

/* Asks for what the unit after `unit` reads. */
static inline void unit_prefetch(const struct attention_backward_job *job,
                                 const struct backward_unit *unit)
{
    int64_t dim = job->kv->head_dim, group = job->heads / job->kv->kv_heads;
    struct backward_unit next = {unit->block, unit->head + 1};
    if (next.head % group == 0)
        next = (struct backward_unit){unit->block + 1, next.head - (int32_t)group};
    for (int64_t slot = 0; slot < ATTENTION_BLOCK_TOKENS; slot++) {
        int64_t row = unit_row(job, &next, slot);
        if (row < 0)
            continue;
        int64_t at = (row * job->heads + next.head) * dim;
        prefetch_far((const char *)(job->q + row * job->ldq + next.head * dim), dim * 4);
        prefetch_far((const char *)(job->dq + row * job->lddq + next.head * dim), dim * 4);
        prefetch_far((const char *)(job->d_out + at), dim * 4);
        prefetch_far((const char *)job->out + at * 2, dim * 2);
    }
}

static inline void unit_store(const struct attention_backward_job *job, const struct span_state *s,
                              int64_t u)
{
    int64_t dim = job->kv->head_dim;
    for (int64_t slot = 0; slot < ATTENTION_BLOCK_TOKENS; slot++) {
        int64_t row = unit_row(job, &s->unit[u], slot);
        if (row < 0)
            continue;
        float *dq = job->dq + row * job->lddq + s->unit[u].head * dim;
        const float *from = s->dq + (u * ATTENTION_BLOCK_TOKENS + slot) * s->columns;
        for (int64_t d = 0; d < dim; d += VEC_LANES)
            vec_store_up_to(dq + d, vec_add(vec_load(from + d), vec_zero()), dim - d);
    }
}

/* p and ds of one query and 16 keys, which it sees up to `valid`. */
struct weights {
    struct vec p, ds;
};

static inline __attribute__((always_inline)) struct weights
query_weights(const struct span_state *s, int64_t b, int64_t query, int64_t at, struct vec unit,
              struct vec scale, int64_t valid)
{
    struct weights w;
    struct vec score = vec_mul(vec_load(s->scores[b % 2] + at), unit);
    valid = valid > 0 ? valid : 0;
    if (valid < VEC_LANES)
        score = vec_keep(score, valid, vec_set1(-INFINITY));
    w.p = vec_exp2(vec_sub(score, vec_set1(s->lse[query])));
    w.ds = vec_mul(w.p, vec_sub(vec_load(s->slopes[b % 2] + at), vec_set1(s->mean[query])));
    w.ds = vec_mul(w.ds, scale);
    if (valid < VEC_LANES)
        w.ds = vec_keep(w.ds, valid, vec_zero());
    return w;
}

/* p and ds of a unit against one block, from its scores and slopes. */
static inline __attribute__((always_inline)) void
unit_weights(struct span_state *s, int64_t u, int64_t b, float scale, const bool diagonal)
{
    struct vec factor = vec_set1(scale), unit = vec_set1(scale * LOG2_E);
    for (int64_t slot = 0; slot < ATTENTION_BLOCK_TOKENS; slot += 2) {
        int64_t query = u * ATTENTION_BLOCK_TOKENS + slot;
        bf16 *by_query = s->ds_by_query + query * KEY_STRIDE + b * ATTENTION_BLOCK_TOKENS;
        struct weights w[2][2];
        for (int64_t odd = 0; odd < 2; odd++) {
            for (int64_t half = 0; half < 2; half++) {
                int64_t seen = diagonal ? slot + odd + 1 - half * VEC_LANES : VEC_LANES;
                w[odd][half] = query_weights(
                    s, b, query + odd, (slot + odd) * ATTENTION_BLOCK_TOKENS + half * VEC_LANES,
                    unit, factor, seen);
            }
            vec_store_results_bf16(by_query + odd * KEY_STRIDE, w[odd][0].ds, w[odd][1].ds);
        }
        for (int64_t half = 0; half < 2; half++) {
            int64_t to = b * WEIGHTS_BLOCK + half * WEIGHTS_PANEL + query * PANEL_COLUMNS;
            vec_store_pairs_bf16(s->p + to, w[0][half].p, w[1][half].p);
            vec_store_pairs_bf16(s->ds + to, w[0][half].ds, w[1][half].ds);
        }
    }
}

/* How many of the span's blocks a unit sees. */
static inline int64_t unit_blocks(const struct span_state *s, int64_t u)
{
    return at_most(s->unit[u].block + 1 - s->first_key / ATTENTION_BLOCK_TOKENS, s->blocks);
}

/* Scores and slopes of a unit against one block. */
static inline void unit_products(struct span_state *s, int64_t u, int64_t b)
{
    int64_t first = u * ATTENTION_BLOCK_TOKENS * s->width;
    struct block_product product = {.a = s->q + first,
                                    .lda = s->width,
                                    .b = s->keys[b],
                                    .b_panel = s->width * PANEL_COLUMNS,
                                    .k = s->width,
                                    .c = s->scores[b % 2],
                                    .ldc = ATTENTION_BLOCK_TOKENS,
                                    .from_zero = true};
    product_run(&product, ATTENTION_BLOCK_TOKENS, 2);
    product.a = s->d_out + first;
    product.b = s->values + b * ATTENTION_BLOCK_TOKENS * s->width;
    product.c = s->slopes[b % 2];
    product_run(&product, ATTENTION_BLOCK_TOKENS, 2);
}

/* A block's products come before the weights of the one before it: tiles and vectors work side by
 * side. */
static inline void unit_queries(const struct attention_backward_job *job, struct span_state *s,
                                int64_t u)
{
    int64_t first = u * ATTENTION_BLOCK_TOKENS, blocks = unit_blocks(s, u);
    float scale = 1.0f / sqrtf((float)job->kv->head_dim);
    unit_products(s, u, 0);
    for (int64_t b = 0; b < blocks; b++) {
        if (b + 1 < blocks)
            unit_products(s, u, b + 1);
        if (s->unit[u].block == s->first_key / ATTENTION_BLOCK_TOKENS + b)
            unit_weights(s, u, b, scale, true);
        else
            unit_weights(s, u, b, scale, false);
    }
    const struct block_product gradient = {.a = s->ds_by_query + first * KEY_STRIDE,
                                           .lda = KEY_STRIDE,
                                           .b = s->keys_by_token,
                                           .b_panel = SPAN_PANEL,
                                           .k = blocks * ATTENTION_BLOCK_TOKENS,
                                           .c = s->dq + first * s->columns,
                                           .ldc = s->columns,
                                           .from_zero = false};
    product_run(&gradient, ATTENTION_BLOCK_TOKENS, s->columns / PANEL_COLUMNS);
}

/* dk and dv of one block from the units that see it. */
static inline void block_gradients(struct span_state *s, int64_t b)
{
    int64_t u = 0;
    while (u < s->units && unit_blocks(s, u) <= b)
        u++;
    if (u == s->units)
        return;
    int64_t first = u * ATTENTION_BLOCK_TOKENS, at = b * WEIGHTS_BLOCK + first * PANEL_COLUMNS;
    struct block_product product = {.a = s->q_by_column + first,
                                    .lda = QUERY_STRIDE,
                                    .b = s->ds + at,
                                    .b_panel = WEIGHTS_PANEL,
                                    .k = (s->units - u) * ATTENTION_BLOCK_TOKENS,
                                    .c = s->dk + b * ATTENTION_BLOCK_TOKENS,
                                    .ldc = KEY_STRIDE,
                                    .from_zero = false};
    product_run(&product, s->columns, 2);
    product.a = s->d_out_by_column + first;
    product.b = s->p + at;
    product.c = s->dv + b * ATTENTION_BLOCK_TOKENS;
    product_run(&product, s->columns, 2);
}

static inline void batch_run(const struct attention_backward_job *job, struct span_state *s)
{
    for (int64_t u = 0; u < s->units; u++) {
        unit_load(job, s, u);
        unit_prefetch(job, &s->unit[u]);
        unit_queries(job, s, u);
        unit_store(job, s, u);
    }
    for (int64_t b = 0; b < s->blocks; b++)
        block_gradients(s, b);
    s->units = 0;
}

/* All queries against the keys from s->first_key on. */
static inline void span_run(const struct attention_backward_job *job, struct span_state *s)
{
    int32_t group = job->heads / job->kv->kv_heads;
    int32_t first = job->table[0].key_count - 1, last = job->table[job->rows - 1].key_count - 1;
    int32_t block = (first > s->first_key ? first : s->first_key) / ATTENTION_BLOCK_TOKENS;
    span_load(job, s);
    s->units = 0;
    for (; block <= last / ATTENTION_BLOCK_TOKENS; block++)
        for (int32_t head = 0; head < group; head++) {
            s->unit[s->units++] = (struct backward_unit){block, s->kv_head * group + head};
            if (s->units == BATCH_UNITS)
                batch_run(job, s);
        }
    batch_run(job, s);
    add_turned(job, s, s->dk, job->dk);
    add_turned(job, s, s->dv, job->dv);
}

static inline void backward_head_bf16(const struct attention_backward_job *job, int32_t kv_head)
{
    const struct attention_row *last = &job->table[job->rows - 1];
    struct span_state state;
    state.kv_head = kv_head;
    state.width = attention_width(DTYPE_BF16, job->kv->head_dim);
    state.columns = round_up(job->kv->head_dim, PANEL_COLUMNS);
    HONE_ASSERT(last->key_count - job->table[0].key_count == job->rows - 1);
    product_begin(ATTENTION_BLOCK_TOKENS);
    for (int32_t key = 0; key < last->key_count; key += KEYS_SPAN) {
        state.first_key = key;
        span_run(job, &state);
    }
    product_end();
}

#endif

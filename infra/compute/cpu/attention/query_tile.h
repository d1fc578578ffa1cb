/* How attention's rows are shared out: tiles of consecutive rows of one sequence and the heads that
 * share a KV head walk the blocks together, so that a block is read once for all of them. No bit
 * depends on it. */
#ifndef HONE_COMPUTE_CPU_ATTENTION_QUERY_TILE_H
#define HONE_COMPUTE_CPU_ATTENTION_QUERY_TILE_H

#include "infra/compute/cpu/attention/kv_block.h"
#include "infra/compute/parallel.h"

#define ATTENTION_GRAIN_KEYS 256 /* keys x heads that are worth waking a thread for */
#define TILE_QUERIES         32

struct attention_job;
struct query_tile;

typedef void (*attention_tile_function)(const struct attention_job *job,
                                        const struct query_tile *tile, int32_t kv_head);

struct attention_job {
    attention_tile_function run;
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

/* Rows [first, end) for one KV head: runs of rows that share a block table and see ever more keys,
 * a slice of the group's heads at a time. */
static inline void attention_rows(const struct attention_job *job, int64_t first, int64_t end,
                                  int32_t kv_head)
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
            struct query_tile tile;
            tile_set(&tile, job->table, first, rows, kv_head * group + head,
                     slice < group - head ? slice : group - head);
            job->run(job, &tile, kv_head);
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
    for (int64_t item = begin; item < end; item++) {
        int64_t turn = item / job->kv->kv_heads;
        int64_t tile = turn % 2 == 0 ? turn / 2 : job->tiles - 1 - turn / 2;
        int64_t first = tile * job->tile_rows, last = first + job->tile_rows;
        attention_rows(job, first, last < job->rows ? last : job->rows,
                       (int32_t)(item % job->kv->kv_heads));
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

/* Every row of `job`, of which tile_rows and tiles are set here. */
static inline void attention_run(struct parallel *pool, struct attention_job *job)
{
    const struct attention_kv *kv = job->kv;
    HONE_ASSERT(kv->head_dim <= HEAD_DIM_MAX && job->heads % kv->kv_heads == 0);
    int32_t group = job->heads / kv->kv_heads;
    job->tile_rows = choose_tile_rows(job, parallel_threads(pool));
    job->tiles = (job->rows + job->tile_rows - 1) / job->tile_rows;
    int64_t keys = job->rows > 0 ? job->table[job->rows - 1].key_count : 1;
    int64_t grain = ATTENTION_GRAIN_KEYS / (keys * group * job->tile_rows);
    parallel_for(pool, job->tiles * kv->kv_heads, grain > 1 ? grain : 1, attention_items, job);
}

#endif

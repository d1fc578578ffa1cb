#include "infra/train/sharding.h"

#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"
#include "infra/train/packing.h"

#define FOLD_GRAIN 65536
#define FIGURES    3 /* doubles of struct shard_figures */

_Static_assert(sizeof(struct shard_figures) == FIGURES * sizeof(double), "three doubles");

static int32_t ranks(const struct sharding *s)
{
    return rank_group_count(s->group);
}

int sharding_check(int32_t shards, const struct rank_group *group)
{
    int32_t count = rank_group_count(group);
    if (shards < 1 || shards > PACKING_SHARDS_MAX)
        return error_set(HONE_EINVAL, "%d gradient shards; 1 to %d are possible", shards,
                         PACKING_SHARDS_MAX);
    if (shards % count != 0)
        return error_set(HONE_EINVAL, "%d ranks do not divide %d gradient shards", count, shards);
    return 0;
}

static size_t vector_bytes(int64_t length)
{
    return (size_t)length * sizeof(float);
}

int sharding_init_streams(struct sharding *sharding, struct rank_group *group,
                          int32_t stream_tokens)
{
    void *streams = NULL;
    *sharding = (struct sharding){.group = group, .shards = 1, .stream_tokens = stream_tokens};
    int rc = 0;
    if (group)
        rc = group->ops->shared(
            group, (size_t)group->count * SHARDING_STREAMS * (size_t)stream_tokens * sizeof(float),
            &streams);
    sharding->streams = streams;
    return rc;
}

int sharding_init(struct sharding *sharding, struct rank_group *group, int32_t shards,
                  int64_t parameters, int64_t beside, int32_t stream_tokens)
{
    void *own = NULL, *sum = NULL;
    int rc = sharding_check(shards, group);
    if (rc == 0)
        rc = sharding_init_streams(sharding, group, stream_tokens);
    if (rc < 0)
        return rc;
    sharding->shards = shards;
    sharding->parameters = parameters;
    sharding->length = parameters + beside;
    size_t bytes = vector_bytes(sharding->length);
    if (group)
        rc = group->ops->own(group, bytes, &own);
    else
        own = memory_map(bytes);
    sharding->own = own;
    if (rc == 0 && shards > 1)
        rc = sharding_vector(sharding, bytes, &sum);
    sharding->sum = shards > 1 ? sum : own;
    return rc;
}

void sharding_release(struct sharding *sharding)
{
    size_t bytes = vector_bytes(sharding->length);
    if (!sharding->group && sharding->sum != sharding->own)
        memory_unmap(sharding->sum, bytes);
    if (!sharding->group)
        memory_unmap(sharding->own, bytes);
    memory_free(sharding->numbers);
    memset(sharding, 0, sizeof *sharding);
}

size_t sharding_bytes(const struct rank_group *group, int32_t shards, int64_t parameters)
{
    return shards > 1 && rank_group_rank(group) == 0 ? vector_bytes(parameters) : 0;
}

int sharding_vector(struct sharding *sharding, size_t bytes, void **vector)
{
    if (sharding->group)
        return sharding->group->ops->shared(sharding->group, bytes, vector);
    *vector = memory_map(bytes);
    return 0;
}

void sharding_vector_free(struct sharding *sharding, void *vector, size_t bytes)
{
    if (!sharding->group)
        memory_unmap(vector, bytes);
}

int sharding_join(struct sharding *sharding, void *vector)
{
    return sharding->group ? sharding->group->ops->join(sharding->group, vector) : 0;
}

int32_t sharding_rounds(const struct sharding *sharding)
{
    return sharding->shards / ranks(sharding);
}

int32_t sharding_shard(const struct sharding *sharding, int32_t round)
{
    return round * ranks(sharding) + rank_group_rank(sharding->group);
}

/* The parameter where piece p begins. */
static int64_t piece(const struct sharding *s, int32_t p)
{
    int64_t blocks = (s->parameters + SHARD_ALIGN - 1) / SHARD_ALIGN;
    int64_t begin = blocks * p / s->shards * SHARD_ALIGN;
    return begin < s->parameters ? begin : s->parameters;
}

static void own_pieces(const struct sharding *s, int32_t *first, int32_t *end)
{
    int32_t each = sharding_rounds(s);
    *first = rank_group_rank(s->group) * each;
    *end = *first + each;
}

void sharding_span(const struct sharding *sharding, int64_t *begin, int64_t *end)
{
    int32_t first, last;
    own_pieces(sharding, &first, &last);
    *begin = piece(sharding, first);
    *end = piece(sharding, last);
}

struct fold_job {
    const float *from;
    float *sum;
};

static void fold_range(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct fold_job *job = context;
    for (int64_t i = begin; i < end; i++)
        job->sum[i] += job->from[i];
}

int sharding_add(struct sharding *sharding, struct parallel *pool, int32_t round)
{
    struct sharding *s = sharding;
    if (s->shards == 1)
        return 0;
    if (s->group) {
        int64_t begin, end;
        sharding_span(s, &begin, &end);
        if (s->group->rank == s->group->count - 1)
            end = s->length; /* what is beside the model belongs to the last rank */
        return s->group->ops->add(s->group, pool, s->own, begin, end, round == 0, s->sum);
    }
    struct fold_job job = {s->own, s->sum};
    if (round == 0)
        parallel_copy(pool, s->sum, s->own, vector_bytes(s->length));
    else
        parallel_for(pool, s->length, FOLD_GRAIN, fold_range, &job);
    return 0;
}

static int32_t width_of(const struct loss_sums *sums)
{
    return FIGURES + (sums ? sums->sums + sums->maxima : 0);
}

/* What rank r kept of a round. */
static double *numbers_of(const struct sharding *s, int32_t rank, int32_t round, int32_t width)
{
    return s->numbers + ((size_t)rank * (size_t)sharding_rounds(s) + (size_t)round) * (size_t)width;
}

void sharding_keep(struct sharding *sharding, int32_t round, struct shard_figures *figures,
                   const struct loss_sums *sums)
{
    struct sharding *s = sharding;
    int32_t width = width_of(sums), each = sharding_rounds(s) * width;
    if (s->shards == 1)
        return;
    if (each > s->number_capacity) {
        HONE_ASSERT(round == 0);
        memory_free(s->numbers);
        s->numbers = MEMORY_ARRAY(double, (size_t)ranks(s) * (size_t)each);
        s->number_capacity = each;
    }
    double *kept = numbers_of(s, rank_group_rank(s->group), round, width);
    memcpy(kept, figures, sizeof *figures);
    memset(figures, 0, sizeof *figures);
    if (!sums)
        return;
    size_t bytes = (size_t)(width - FIGURES) * sizeof *kept;
    memcpy(kept + FIGURES, sums->values, bytes);
    memset(sums->values, 0, bytes);
}

static void add_kept(const double *kept, struct shard_figures *figures,
                     const struct loss_sums *sums)
{
    figures->loss += kept[0];
    figures->tokens += kept[1];
    figures->trained_tokens += kept[2];
    int32_t count = sums ? sums->sums + sums->maxima : 0;
    for (int32_t i = 0; i < count; i++) {
        double value = kept[FIGURES + i];
        if (i < sums->sums)
            sums->values[i] += value;
        else if (!(value <= sums->values[i]))
            sums->values[i] = value;
    }
}

int sharding_collect(struct sharding *sharding, struct shard_figures *figures,
                     const struct loss_sums *sums)
{
    struct sharding *s = sharding;
    int32_t width = width_of(sums);
    int rc = 0;
    if (s->shards == 1)
        return 0;
    if (s->group)
        rc = s->group->ops->exchange(s->group, sharding_rounds(s) * width, s->numbers);
    for (int32_t shard = 0; rc == 0 && shard < s->shards; shard++)
        add_kept(numbers_of(s, shard % ranks(s), shard / ranks(s), width), figures, sums);
    return rc;
}

int sharding_sum_squares(struct sharding *sharding, const struct compute *compute, double *squares)
{
    struct sharding *s = sharding;
    double pieces[PACKING_SHARDS_MAX];
    int32_t first, end;
    own_pieces(s, &first, &end);
    for (int32_t p = first; p < end; p++)
        pieces[p] = compute->ops->sum_squares(compute->pool, piece(s, p + 1) - piece(s, p),
                                              s->sum + piece(s, p));
    int rc = s->group ? s->group->ops->exchange(s->group, end - first, pieces) : 0;
    *squares = 0.0;
    for (int32_t p = 0; p < s->shards; p++)
        *squares += pieces[p];
    return rc;
}

/* How the work of a step is divided over the ranks of a group, so that the result does not depend
 * on how many there are.
 *
 * A batch is packed into `shards` shards (packing.h), a number of the recipe. Shard s belongs to
 * rank s % ranks and is its work of round s / ranks. A shard's gradient adds up from zero over its
 * micro-batches in order; shards are then added up ascending:
 *
 *   gradient = ((g0 + g1) + g2) + ...        loss and the loss's sums alike
 *
 * which one rank does alone with a second vector, and ranks together round by round. Parameters are
 * cut into `shards` pieces at multiples of SHARD_ALIGN; each rank owns the pieces
 * [rank, rank + 1) * shards / ranks: it adds up the gradient there and moves the weights there. The
 * squared norm is the pieces' own, added up ascending.
 *
 * With one shard none of this happens, and a step is what it was before there were shards.
 * Owned by one trainer; the group is borrowed. */
#ifndef HONE_TRAIN_SHARDING_H
#define HONE_TRAIN_SHARDING_H

#include "infra/compute/compute.h"
#include "infra/train/rank_group.h"

#define SHARD_ALIGN 4096 /* parameters: what sum_squares takes at once */

/* What a loss adds up beside its gradient: `sums` doubles, then `maxima` of which the largest
 * counts, in one array of the loss's own. */
struct loss_sums {
    double *values;
    int32_t sums, maxima;
};

struct sharding {
    struct rank_group *group; /* NULL: one rank */
    int32_t shards;
    int64_t parameters, length; /* of a gradient: parameters, then those beside the model */
    float *own;                 /* [length] of the shard in hand */
    float *sum;                 /* [length] of all; `own` itself when there is one shard */
    double *numbers;            /* [ranks][rounds][width] */
    int32_t number_capacity;    /* of one rank */
    float *streams;             /* [ranks][STREAMS][stream_tokens]; NULL: one rank */
    int32_t stream_tokens;
};

#define SHARDING_STREAMS 3 /* logprob, entropy, value */

/* HONE_EINVAL when the ranks do not divide the shards. */
int sharding_check(int32_t shards, const struct rank_group *group);
/* For a trainer that learns: gradients. Every rank calls it, as all below that take part. */
int sharding_init(struct sharding *sharding, struct rank_group *group, int32_t shards,
                  int64_t parameters, int64_t beside, int32_t stream_tokens);
/* For one that only looks: streams alone. */
int sharding_init_streams(struct sharding *sharding, struct rank_group *group,
                          int32_t stream_tokens);
void sharding_release(struct sharding *sharding);
/* Bytes of gradients beyond the one of the shard in hand, that this rank allocates. */
size_t sharding_bytes(const struct rank_group *group, int32_t shards, int64_t parameters);

/* A vector that all ranks read and of which each writes its own span; with one rank, its memory. */
int sharding_vector(struct sharding *sharding, size_t bytes, void **vector);
void sharding_vector_free(struct sharding *sharding, void *vector, size_t bytes);
/* All parts are written: all have all of it. */
int sharding_join(struct sharding *sharding, void *vector);

int32_t sharding_rounds(const struct sharding *sharding);
int32_t sharding_shard(const struct sharding *sharding, int32_t round); /* this rank's */
/* The parameters that this rank moves. */
void sharding_span(const struct sharding *sharding, int64_t *begin, int64_t *end);

/* After round `round`: its shards' gradients join the sum. */
int sharding_add(struct sharding *sharding, struct parallel *pool, int32_t round);
/* What a step counts beside the loss's own sums. */
struct shard_figures {
    double loss, tokens, trained_tokens;
};
/* After it too: this rank's figures of the round and what its loss added up; both start anew. */
void sharding_keep(struct sharding *sharding, int32_t round, struct shard_figures *figures,
                   const struct loss_sums *sums);
/* After the last round: all shards' together. */
int sharding_collect(struct sharding *sharding, struct shard_figures *figures,
                     const struct loss_sums *sums);
/* Of the summed gradient of the parameters. */
int sharding_sum_squares(struct sharding *sharding, const struct compute *compute, double *squares);

#endif

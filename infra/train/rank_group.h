/* Processes that train one model together: the ranks of a data-parallel learner. Every rank makes
 * the same calls in the same order; a call returns when the ranks that it needs have made it.
 *
 *  K1  Additions run over ranks ascending, so a sum is the same bits every time.
 *  K2  A rank that is dead, or that has not come within the timeout, is named: HONE_EPEER or
 *      HONE_ETIMEOUT. The group is of no use after an error; whoever is told ends its process, and
 *      a new group is made from the last durable checkpoint.
 *
 * One backend so far, for ranks of one host: memory that they share (rank_group_local.c). The table
 * is what another one, of collectives between devices, has to give.
 *
 * Owned by one thread. A group of NULL is one rank alone: `rank_group_rank` is 0 of 1. */
#ifndef HONE_TRAIN_RANK_GROUP_H
#define HONE_TRAIN_RANK_GROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "infra/compute/parallel.h"

#define RANKS_MAX        64
#define RANK_NUMBERS_MAX 8192   /* doubles of one rank in one exchange */
#define RANK_TIMEOUT_MS  300000 /* for a rank that computes */
#define RANK_JOIN_MS     60000  /* for one that starts */

struct rank_group {
    const struct rank_group_ops *ops;
    int32_t rank, count;
};

struct rank_group_ops {
    /* Memory that collectives work on, zeros at first, kept until the group is closed. own: one for
     * each rank. shared: one vector of which each rank writes a part of its own. */
    int (*own)(struct rank_group *group, size_t bytes, void **vector);
    int (*shared)(struct rank_group *group, size_t bytes, void **vector);
    /* sum[i] of i in [begin, end): the ranks' own vectors added up, after what sum[i] was unless
     * `first`. sum is a shared vector, and [begin, end) this rank's part. */
    int (*add)(struct rank_group *group, struct parallel *pool, const float *own, int64_t begin,
               int64_t end, bool first, float *sum);
    /* Every rank has written its part of the shared vector: all have all of it now. */
    int (*join)(struct rank_group *group, void *vector);
    /* values [count][each] of doubles: rank r has filled [r]; all have all of it now. */
    int (*exchange)(struct rank_group *group, int32_t each, double *values);
    /* Rank 0's bytes to every other one, which waits for as long as rank 0 lives. *bytes is
     * memory_free'd by who gets it. */
    int (*send)(struct rank_group *group, const void *bytes, size_t length);
    int (*receive)(struct rank_group *group, void **bytes, size_t *length);
    void (*close)(struct rank_group *group);
};

struct rank_group_options {
    const char *directory; /* where the ranks meet; it exists, and is this user's alone */
    const char *name;      /* of the pool, for messages: "learner" */
    int32_t rank, count;
    int64_t timeout_ms, join_ms;
};

/* Rank 0 opens the group and waits for the others; they wait for a group whose rank 0 lives. */
int rank_group_open_local(struct rank_group **group, const struct rank_group_options *options);
void rank_group_close(struct rank_group *group); /* NULL is fine */

static inline int32_t rank_group_rank(const struct rank_group *group)
{
    return group ? group->rank : 0;
}

static inline int32_t rank_group_count(const struct rank_group *group)
{
    return group ? group->count : 1;
}

#endif
